"""Scatter panels of an embedding of all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata.pl._axes import panels_for
from cantata.pl._colors import MISSING_COLOR, PAIRING, cell_values, level_colors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from mudata import MuData

PANEL = 3.4
"""Width and height of a panel in inches, without its legend."""

LEGEND_ROWS = 14


def _coordinates(mdata: MuData, basis: str) -> tuple[np.ndarray, str]:
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
        a colour bar.
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
    without a value lie below. Cells without coordinates are left out. Colour bars span the 1st to
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
    keys = [color] if isinstance(color, str) else list(color)
    xy, label = _coordinates(mdata, basis)
    values = [cell_values(mdata, key) for key in keys]
    panels = panels_for(len(keys), ncols, axes, width=PANEL + 1.4, height=PANEL)
    shown = np.flatnonzero(np.isfinite(xy).all(axis=1))
    order = np.random.default_rng(0).permutation(shown)
    area = float(np.clip(15_000 / max(order.size, 1), 1, 15)) if size is None else size
    for ax, key, column in zip(panels, keys, values, strict=True):
        missing = column.isna().to_numpy()
        below = order[missing[order]]
        ax.scatter(
            xy[below, 0], xy[below, 1], s=area, c=MISSING_COLOR, linewidths=0, rasterized=True
        )
        above = order[~missing[order]]
        if isinstance(column.dtype, pd.CategoricalDtype):
            _draw_levels(ax, xy, column, above, area, mdata, n_missing=below.size)
        else:
            _draw_numbers(ax, xy, column.to_numpy(), above, area)
        ax.set(title=key, xlabel=f"{label}1", ylabel=f"{label}2", xticks=[], yticks=[])
        ax.set_box_aspect(1)
        ax.spines[["top", "right"]].set_visible(False)
    return panels


def _draw_numbers(
    ax: Axes, xy: np.ndarray, values: np.ndarray, order: np.ndarray, area: float
) -> None:
    """Points and a colour bar from the 1st to the 99th percentile: outliers do not rule it."""
    low, high = np.quantile(values[order], [0.01, 0.99]) if order.size else (0.0, 1.0)
    points = ax.scatter(
        xy[order, 0], xy[order, 1], s=area, c=values[order], linewidths=0, rasterized=True
    )
    if low < high:
        points.set_clim(low, high)
    bar = ax.inset_axes((1.03, 0.15, 0.05, 0.7))
    ax.figure.colorbar(points, cax=bar, extend="both" if low < high else "neither")
    bar.tick_params(labelsize="small")


def _draw_levels(
    ax: Axes,
    xy: np.ndarray,
    column: pd.Series,
    order: np.ndarray,
    area: float,
    mdata: MuData,
    *,
    n_missing: int,
) -> None:
    levels = [str(level) for level in column.cat.categories]
    colors = np.array(level_colors(mdata, str(column.name), levels))
    codes = column.cat.codes.to_numpy()
    ax.scatter(
        xy[order, 0], xy[order, 1], s=area, c=colors[codes[order]], linewidths=0, rasterized=True
    )
    entries = list(zip(levels, colors, strict=True))
    if n_missing:
        entries.append(("(missing)", MISSING_COLOR))
    for level, entry_color in entries:
        ax.scatter([], [], s=40, c=[entry_color], linewidths=0, label=level)
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize="small",
        handletextpad=0.2,
        columnspacing=0.8,
        ncols=1 + (len(entries) - 1) // LEGEND_ROWS,
    )
