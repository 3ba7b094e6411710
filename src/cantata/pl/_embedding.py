"""Scatter panels of an embedding of all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cantata._mudata.checks import check_mudata, name_list
from cantata.pl._axes import MISSING_COLOR, PAIRING, cell_values, level_colors, panels_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from mudata import MuData

PANEL_INCHES = 3.4
"""Width and height of a panel, without its legend."""

LEGEND_INCHES = 1.4
"""Width of a legend or color bar."""

MAX_LEGEND_ROWS = 14


def embedding(
    mdata: MuData,
    basis: str = "X_umap",
    color: str | Sequence[str] = PAIRING,
    *,
    size: float | None = None,
    ncols: int = 3,
    axes: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw an embedding of all cells, one panel per annotation.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    basis
        Key in ``mdata.obsm``, with or without ``"X_"``; its first two columns are drawn.
    color
        Columns at MuData or modality level, ``"<modality>:<column>"`` for one modality, or
        ``"pairing"`` for the modalities that a cell has. Text and categories get a legend, numbers
        a color bar.
    size
        Area of a point in square points; by default it falls with the number of cells.
    ncols
        Panels in a row.
    axes
        As many axes as panels. None: a new figure.

    Returns
    -------
    Axes of the panels.

    Raises
    ------
    KeyError
        If the embedding or a column does not exist.
    ValueError
        If the embedding has fewer than two columns, the number of axes is not the number of
        panels, or columns of the same name disagree about a cell.

    Notes
    -----
    Points are drawn in a random order (the same each time), so that no group hides another; cells
    without a value lie below. Cells without coordinates are left out. Color bars span the 1st to
    the 99th percentile.

    Examples
    --------
    >>> import cantata
    >>> import numpy as np
    >>> mdata = cantata.datasets.simulate_mosaic()
    >>> mdata.obsm["X_demo"] = np.random.default_rng(0).normal(size=(mdata.n_obs, 2))
    >>> len(cantata.pl.embedding(mdata, "demo", color=["pairing"]))
    1
    """
    check_mudata(mdata)
    keys = name_list("color", color)
    xy, axis_label = coordinates(mdata, basis)
    columns = [cell_values(mdata, key) for key in keys]
    width = PANEL_INCHES + LEGEND_INCHES
    panels = panels_for(len(keys), ncols, axes, width=width, height=PANEL_INCHES)
    for ax, key, values in zip(panels, keys, columns, strict=True):
        colors = None
        if isinstance(values.dtype, pd.CategoricalDtype):
            levels = [str(level) for level in values.cat.categories]
            colors = dict(zip(levels, level_colors(mdata, key, levels), strict=True))
        draw_cells(ax, xy, axis_label, values, size, colors)
        ax.set_title(key)
    return panels


def coordinates(mdata: MuData, basis: str) -> tuple[np.ndarray, str]:
    """First two columns of an embedding (cells, 2), and what its axes are called."""
    key = basis if basis in mdata.obsm else f"X_{basis}"
    if key not in mdata.obsm:
        have = [k for k in mdata.obsm if k not in mdata.mod]
        raise KeyError(
            f"basis={basis!r}: mdata.obsm holds {have}. Make a UMAP of a joint embedding with "
            "sc.pp.neighbors(mdata, use_rep=...) and sc.tl.umap(mdata)."
        )
    values = np.asarray(mdata.obsm[key], dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"basis={basis!r} has the shape {values.shape}; two columns are needed.")
    return values[:, :2], key.removeprefix("X_").upper()


def draw_cells(
    ax: Axes,
    xy: np.ndarray,
    axis_label: str,
    values: pd.Series,
    size: float | None,
    colors: dict[str, str] | None = None,
) -> None:
    """Draw one point per cell at `xy` (cells, 2), with a color bar or a legend.

    `values` are numbers, or a categorical with the color of every level in `colors`; cells without
    a value lie below, in grey. The `size` of a point falls with the number of cells if it is None.
    """
    # a random order, the same each time: no group hides another
    shown = np.flatnonzero(np.isfinite(xy).all(axis=1))
    order = np.random.default_rng(0).permutation(shown)
    area = float(np.clip(15_000 / max(order.size, 1), 1, 15)) if size is None else size
    missing = values.isna().to_numpy()[order]
    below, above = order[missing], order[~missing]

    def scatter(cells: np.ndarray, c: Any) -> PathCollection:
        x, y = xy[cells].T
        return ax.scatter(x, y, s=area, c=c, linewidths=0, rasterized=True)

    scatter(below, MISSING_COLOR)
    if colors is None:
        numbers = values.to_numpy()[above]
        points = scatter(above, numbers)
        # from the 1st to the 99th percentile: outliers do not rule the colors
        low, high = np.quantile(numbers, [0.01, 0.99]) if above.size else (0.0, 1.0)
        if low < high:
            points.set_clim(low, high)
        bar = ax.inset_axes((1.03, 0.15, 0.05, 0.7))
        ax.figure.colorbar(points, cax=bar, extend="both" if low < high else "neither")
        bar.tick_params(labelsize="small")
    else:
        codes = values.cat.codes.to_numpy()[above]
        scatter(above, np.array(list(colors.values()))[codes])
        entries = list(colors.items()) + [("(missing)", MISSING_COLOR)] * (below.size > 0)
        _draw_legend(ax, entries)
    ax.set(xlabel=f"{axis_label}1", ylabel=f"{axis_label}2", xticks=[], yticks=[])
    ax.set_box_aspect(1)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_legend(ax: Axes, entries: list[tuple[str, str]]) -> None:
    for level, color in entries:
        ax.scatter([], [], s=40, c=[color], linewidths=0, label=level)
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize="small",
        handletextpad=0.2,
        columnspacing=0.8,
        ncols=1 + (len(entries) - 1) // MAX_LEGEND_ROWS,
    )
