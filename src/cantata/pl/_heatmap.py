"""A labelled matrix in colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

EMPTY_COLOR = "#e4e4e4"
"""Colour of cells without a value."""

SMALLEST = 5.0
"""Labels that would need a smaller font, in points, are left out."""


def _font_size() -> float:
    from matplotlib.font_manager import FontProperties

    return float(FontProperties(size="medium").get_size_in_points())


def new_axes(matrix: pd.DataFrame, cell: float) -> Axes:
    """Axes of a new figure, large enough for square cells of `cell` inches and their labels."""
    from matplotlib import pyplot as plt

    letter = 0.62 * _font_size() / 72
    left = letter * max(len(str(name)) for name in matrix.index)
    below = letter * max(len(str(name)) for name in matrix.columns)
    width = max(cell * matrix.shape[1], 1.5) + left + 1.6
    height = max(cell * matrix.shape[0], 1.5) + below + 0.5
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def draw_matrix(
    ax: Axes,
    matrix: pd.DataFrame,
    *,
    cmap: str,
    limits: tuple[float, float],
    bar_label: str,
    annotate: bool = False,
) -> None:
    """Draw a matrix with its labels and a colour bar.

    Parameters
    ----------
    ax
        Where to draw.
    matrix
        Values (rows x columns); missing ones are grey.
    cmap
        Name of the colour map.
    limits
        Values of its ends.
    bar_label
        Label of the colour bar.
    annotate
        Write the values into the cells, with two decimals.
    """
    from matplotlib import colormaps

    n_rows, n_columns = matrix.shape
    colors = colormaps[cmap].with_extremes(bad=EMPTY_COLOR)
    values = np.ma.masked_invalid(matrix.to_numpy(dtype=np.float64))
    image = ax.imshow(
        values, cmap=colors, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest"
    )
    figure = ax.get_figure(root=True)
    assert figure is not None  # imshow has drawn in it
    width, height = ax.get_position().size * figure.get_size_inches()
    medium = _font_size()
    sizes = [min(medium, 62 * room / n) for room, n in ((height, n_rows), (width, n_columns))]
    if sizes[0] >= SMALLEST:
        ax.set_yticks(range(n_rows), matrix.index.astype(str), fontsize=sizes[0])
    else:
        ax.set_yticks([])
    if sizes[1] >= SMALLEST:
        ax.set_xticks(range(n_columns), matrix.columns.astype(str), fontsize=sizes[1], rotation=90)
    else:
        ax.set_xticks([])
    if max(n_rows, n_columns) <= 60:
        ax.set_xticks(np.arange(1, n_columns) - 0.5, minor=True)
        ax.set_yticks(np.arange(1, n_rows) - 0.5, minor=True)
        ax.grid(which="minor", color="white", lw=0.6)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    if annotate:
        for (i, j), value in np.ndenumerate(values.filled(np.nan)):
            if np.isfinite(value):
                red, green, blue, _ = image.to_rgba(value)
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                ax.text(
                    j,
                    i,
                    f"{value:.2f}".replace("-", "\N{MINUS SIGN}"),
                    ha="center",
                    va="center",
                    fontsize=0.85 * min(sizes),
                    color="white" if dark else "black",
                )
    share = min(1.0, 2.5 / height)
    bar = ax.inset_axes((1.0 + 0.15 / width, 1 - share, 0.16 / width, share))
    figure.colorbar(image, cax=bar, label=bar_label)
