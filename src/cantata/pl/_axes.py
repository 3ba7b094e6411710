"""Where panels are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes


def panels_for(
    n: int, ncols: int, axes: Axes | Sequence[Axes] | None, *, width: float, height: float
) -> list[Axes]:
    """Axes for `n` panels.

    Parameters
    ----------
    n
        Number of panels.
    ncols
        Most panels in a row.
    axes
        Axes that the caller was given, or None for a new figure.
    width, height
        Size of a panel of a new figure, in inches.

    Returns
    -------
    `n` axes.

    Raises
    ------
    ValueError
        If another number of axes was given.
    """
    from matplotlib import pyplot as plt
    from matplotlib.axes import Axes as MatplotlibAxes

    if axes is not None:
        given = [axes] if isinstance(axes, MatplotlibAxes) else list(np.ravel(np.asarray(axes)))
        if len(given) != n:
            raise ValueError(f"{len(given)} axes were given for {n} panels.")
        return given
    wide = max(1, min(ncols, n))
    tall = -(-n // wide)
    _, grid = plt.subplots(
        tall, wide, figsize=(width * wide, height * tall), squeeze=False, layout="constrained"
    )
    for unused in grid.ravel()[n:]:
        unused.remove()
    return list(grid.ravel()[:n])
