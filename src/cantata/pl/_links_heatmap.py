"""Correlations of linked features as a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cantata.pl._heatmap import draw_matrix, new_axes
from cantata.pl._order import block_order

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from cantata.pl._links_table import LinkTable

CELL = 0.23
"""Width and height of a cell of a new figure, in inches."""


def strongest(table: pd.DataFrame, n_top: int) -> pd.DataFrame:
    """Matrix of at most `n_top` sources and `n_top` targets, with the strongest links.

    Targets bring their strongest link, the strongest targets first, then their second strongest,
    and so on as long as there is room: one group of features that go together does not fill the
    matrix, and each row and each column holds a link. Missing where there is no link.
    """
    strength = table["correlation"].abs()
    rank = strength.groupby(table["target"]).rank(method="first", ascending=False)
    order = np.lexsort([-strength, rank])
    rows: dict[str, None] = {}
    columns: dict[str, None] = {}
    for row, column in table[["source", "target"]].iloc[order].itertuples(index=False):
        if (row in rows or len(rows) < n_top) and (column in columns or len(columns) < n_top):
            rows[row] = columns[column] = None
    chosen = table[table["source"].isin(rows) & table["target"].isin(columns)]
    matrix = chosen.pivot(index="source", columns="target", values="correlation")
    return matrix.loc[list(rows), list(columns)]


def links_heatmap(
    table: LinkTable,
    n_top: int,
    *,
    names: tuple[str, str],
    cmap: str,
    ax: Axes | None,
) -> Axes:
    """Draw the strongest links as a matrix in which blocks can be seen.

    Parameters
    ----------
    table
        Links; those that do not count are left out.
    n_top
        Most rows, and most columns.
    names
        Modalities of rows and columns.
    cmap
        Diverging colour map.
    ax
        Where to draw; None: a new figure.

    Raises
    ------
    ValueError
        If no link counts, or `n_top` is not positive.
    """
    if n_top < 1:
        raise ValueError(f"n_top={n_top!r} must be at least 1.")
    counting = table.links[table.links["counts"]]
    if counting.empty:
        raise ValueError(f"None of the {len(table.links)} links has {table.rule}.")
    matrix = strongest(counting, n_top)
    rows, columns = block_order(np.nan_to_num(matrix.to_numpy()))
    matrix = matrix.iloc[rows, columns]
    total = counting["source"].nunique(), counting["target"].nunique()
    labels = [
        f"{name} ({shown} of {n:,})" if shown < n else name
        for name, shown, n in zip(names, matrix.shape, total, strict=True)
    ]
    if ax is None:
        ax = new_axes(matrix, CELL)
    limit = float(np.nanmax(np.abs(matrix.to_numpy()))) or 1.0
    bar_label = f"{table.what} ({table.rule})" if table.rule else table.what
    draw_matrix(ax, matrix, cmap=cmap, limits=(-limit, limit), bar_label=bar_label)
    ax.set(xlabel=labels[1], ylabel=labels[0])
    return ax
