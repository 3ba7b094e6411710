"""Labeled matrices in colors: correlations of clusters, and what other matrices are drawn with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.font_manager import FontProperties
from scipy.cluster import hierarchy
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ANNOTATED = 12
"""Matrices with at most so many rows and columns have their values written into the cells."""

ANNOTATED_CELL_INCHES, CELL_INCHES = 0.52, 0.26
"""Width and height of a cell of a new figure with and without values."""

EMPTY_COLOR = "#e4e4e4"
"""Color of cells without a value."""

MIN_FONT_SIZE = 5.0
"""Labels that would need a smaller font, in points, are left out."""

MAX_GRID = 60
"""Cells of matrices with more rows or columns are not set apart by white lines."""


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
        Color map. None: ``"RdBu_r"`` around 0 if any correlation is negative, else
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
    Missing values are grey and count as 0 for the order.

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
        annotate = max(values.shape) <= MAX_ANNOTATED
    if ax is None:
        ax = new_axes(values, ANNOTATED_CELL_INCHES if annotate else CELL_INCHES)
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


def _font_size() -> float:
    return float(FontProperties(size="medium").get_size_in_points())


def new_axes(matrix: pd.DataFrame, cell: float) -> Axes:
    """Axes of a new figure, large enough for square cells of `cell` inches and their labels."""
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
    """Draw a matrix with its labels and a color bar from limit to limit; missing cells are grey.

    With `annotate` the values are written into the cells.
    """
    n_rows, n_columns = matrix.shape
    colors = colormaps[cmap].with_extremes(bad=EMPTY_COLOR)
    values = np.ma.masked_invalid(matrix.to_numpy(dtype=np.float64))
    image = ax.imshow(
        values, cmap=colors, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest"
    )
    figure = ax.get_figure(root=True)
    assert figure is not None  # imshow has drawn in it
    width, height = ax.get_position().size * figure.get_size_inches()
    # labels shrink until they fit, and are left out where nobody could read them
    medium = _font_size()
    sizes = [min(medium, 62 * room / n) for room, n in ((height, n_rows), (width, n_columns))]
    if sizes[0] >= MIN_FONT_SIZE:
        ax.set_yticks(range(n_rows), matrix.index.astype(str), fontsize=sizes[0])
    else:
        ax.set_yticks([])
    if sizes[1] >= MIN_FONT_SIZE:
        ax.set_xticks(range(n_columns), matrix.columns.astype(str), fontsize=sizes[1], rotation=90)
    else:
        ax.set_xticks([])
    if max(n_rows, n_columns) <= MAX_GRID:
        ax.set_xticks(np.arange(1, n_columns) - 0.5, minor=True)
        ax.set_yticks(np.arange(1, n_rows) - 0.5, minor=True)
        ax.grid(which="minor", color="white", lw=0.6)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    if annotate:
        for (i, j), value in np.ndenumerate(values.filled(np.nan)):
            if np.isfinite(value):
                red, green, blue, _ = image.to_rgba(value)
                # brightness as the eye sees it (ITU-R BT.601)
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


def cluster_order(values: np.ndarray, towards: np.ndarray | None = None) -> np.ndarray:
    """Order of the rows of finite values by average-linkage clustering.

    Branches of the tree are turned so that `towards`, one number per row, rises; without it so
    that neighbours are alike (optimal leaf ordering).
    """
    n = len(values)
    if n < 3:
        return np.arange(n) if towards is None else np.argsort(towards, kind="stable")
    tree = hierarchy.linkage(values, method="average", optimal_ordering=towards is None)
    if towards is None:
        return np.asarray(hierarchy.leaves_list(tree))
    # from the leaves to the root, the branch with the smaller mean comes first
    leaves: list[list[int]] = [[i] for i in range(n)]
    for left, right in tree[:, :2].astype(int):
        pair = sorted((leaves[left], leaves[right]), key=lambda part: towards[part].mean())
        leaves.append(pair[0] + pair[1])
    return np.array(leaves[-1])


def block_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of rows and columns by clustering, so that blocks lie along the diagonal.

    Rows are clustered; so are columns, and their tree is turned so that columns come in the order
    of the rows in which they are large.
    """
    rows = cluster_order(values)
    # center of gravity of every column along the ordered rows; columns of zeros come last
    weight = np.abs(values[rows])
    total = weight.sum(axis=0)
    center = np.arange(len(rows)) @ weight / np.where(total > 0, total, 1)
    return rows, cluster_order(values.T, np.where(total > 0, center, len(rows)))


def matched_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of rows and columns that puts the best one-to-one match on the diagonal.

    The assignment of rows to columns with the largest sum is found exactly
    (:func:`scipy.optimize.linear_sum_assignment`). The shorter side is ordered by clustering; what
    is left over on the longer side follows the partner that it resembles most.
    """
    if values.shape[0] > values.shape[1]:
        columns, rows = matched_order(values.T)
        return rows, columns
    rows = cluster_order(values)
    ordered = values[rows]
    # a column without a partner comes half a place behind the row that it resembles most
    position = ordered.argmax(axis=0).astype(np.float64) + 0.5
    matched, partners = linear_sum_assignment(ordered, maximize=True)
    position[partners] = matched
    return rows, np.argsort(position, kind="stable")
