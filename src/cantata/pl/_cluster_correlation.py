"""Correlation of clusters between two modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata.pl._heatmap import draw_matrix, new_axes
from cantata.pl._order import matched_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANNOTATED = 12
"""Matrices with at most so many rows and columns have their values written into the cells."""

WIDE_CELL, CELL = 0.52, 0.26
"""Width and height of a cell of a new figure with and without values, in inches."""


def cluster_correlation(
    matrix: pd.DataFrame,
    *,
    order: bool = True,
    annotate: bool | None = None,
    cmap: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how clusters of one modality correlate with clusters of another.

    After a good integration each cluster resembles its counterpart most: the diagonal stands out
    (Wang et al. 2025, scMODAL, figure 4c).

    Parameters
    ----------
    matrix
        Correlations (clusters of one modality x clusters of the other), e.g. from
        :func:`cantata.tl.cluster_correlation`. The names of its index and columns label the axes.
    order
        Reorder rows and columns: the best one-to-one match, in sum of correlations, comes to lie
        on the diagonal, and similar clusters side by side. Clusters without a counterpart, where
        the numbers differ, follow the one that they resemble most.
    annotate
        Write the values into the cells. None: if there are at most 12 rows and columns.
    cmap
        Colour map. None: ``"RdBu_r"`` around 0 if any correlation is negative, else
        ``"viridis"`` from the smallest to the largest.
    ax
        Axes to draw in. None: a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    TypeError
        If `matrix` is no DataFrame of numbers.
    ValueError
        If it is empty, holds a value outside -1 to 1, or a name occurs twice.

    Notes
    -----
    Missing values (clusters without cells in a modality) are grey and count as 0 for the order.

    Examples
    --------
    >>> import cantata, pandas as pd
    >>> matrix = pd.DataFrame([[0.1, 0.9], [0.8, -0.2]], index=["B", "T"], columns=["T", "B"])
    >>> ax = cantata.pl.cluster_correlation(matrix)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['B', 'T']
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['B', 'T']
    """
    values = _checked(matrix)
    if order:
        rows, columns = matched_order(np.nan_to_num(values.to_numpy()))
        values = values.iloc[rows, columns]
    if annotate is None:
        annotate = max(values.shape) <= ANNOTATED
    if ax is None:
        ax = new_axes(values, WIDE_CELL if annotate else CELL)
    low, high = np.nanmin(values.to_numpy()), np.nanmax(values.to_numpy())
    largest = max(abs(low), abs(high)) or 1.0
    limits = (-largest, largest) if low < 0 or low == high else (low, high)
    draw_matrix(
        ax,
        values,
        cmap=cmap or ("RdBu_r" if low < 0 else "viridis"),
        limits=(float(limits[0]), float(limits[1])),
        bar_label="correlation",
        annotate=annotate,
    )
    ax.set(xlabel=values.columns.name or "", ylabel=values.index.name or "")
    return ax


def _checked(matrix: pd.DataFrame) -> pd.DataFrame:
    if not isinstance(matrix, pd.DataFrame):
        raise TypeError(
            f"matrix is a {type(matrix).__name__}; give a DataFrame of correlations, as from "
            "cantata.tl.cluster_correlation."
        )
    if matrix.empty:
        raise ValueError(f"matrix has the shape {matrix.shape}: there is nothing to draw.")
    for side, names in (("rows", matrix.index), ("columns", matrix.columns)):
        twice = names[names.duplicated()]
        if len(twice):
            raise ValueError(f"{len(twice)} names of {side} occur twice, e.g. {twice[0]!r}.")
    try:
        values = matrix.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"matrix does not hold numbers: {error}") from error
    numbers = values.to_numpy()
    if np.isnan(numbers).all():
        raise ValueError("matrix holds no correlation, only missing values.")
    outside = np.abs(numbers) > 1 + 1e-6
    if outside.any():
        raise ValueError(
            f"matrix holds {outside.sum()} values outside -1 to 1, e.g. {numbers[outside][0]:.3g}:"
            " these are no correlations."
        )
    return values
