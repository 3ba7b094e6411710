"""Pictures of cells: measured, reconstructed and predicted, and along a component."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from mudata import MuData

from cantata._keys import CHANNEL_MAPPING, CHANNEL_NAMES, CHANNELS, IMAGES, MASK
from cantata._mudata.checks import check_integer, name_list
from cantata._mudata.images import ImageLayout, StainImages, channels_of, stain_limits
from cantata.pl._axes import MISSING_COLOR, panels_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Source: TypeAlias = AnnData | MuData | Sequence[AnnData]

TILE, GAP, MARGINS = 0.6, 0.06, 2.2
"""Side of a picture of a new figure, room between pictures in their sides, and room for labels and
bars; inches."""
STAIN_MAPS = ("gray", "magma", "viridis", "cividis")
"""Colour maps of the stains, in turn."""
DIFFERENCE_MAP = "RdBu_r"
PERCENTILES = (0.5, 99.8)
"""Of the pixels drawn of a stain: the ends of its colours."""
N_EXAMPLES = 3
"""Cells of a bin that are drawn."""
LABEL_WIDTH, MAX_TITLE = 16, 9
"""Letters in a line of the label of a row, and in the title of a column."""


@dataclass(frozen=True)
class _Row:
    """Pictures of one stain by one source."""

    label: str
    stain: str
    pictures: dict[str, np.ndarray]
    """Cell to (side, side) picture, of the drawn cells that there are."""


def images(
    pictures: Mapping[str, Source] | Source,
    cells: Sequence[str] | None = None,
    *,
    n_cells: int = 6,
    stains: str | Sequence[str] | None = None,
    difference: tuple[str, str] | None = None,
    title: str | None = None,
    cmap: str | Mapping[str, str] | None = None,
    axes: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw images of the same cells one below the other: one column per cell, one row per source.

    All rows of a stain share one scale, so that brightness compares; a colour bar says which.

    Parameters
    ----------
    pictures
        Label of a row to an AnnData with ``obsm["single_cell_images"]``, such as measured cells
        and what ``model.get_reconstruction`` and ``model.impute`` return, to several of different
        stains, or to a MuData. Rows of a stain come together, masks are left out, and cells are
        found by name.
    cells
        Names of cells. Where a source lacks one of them its place is grey. None: cells that all
        sources have, evenly spread over the first.
    n_cells
        How many, if `cells` are not named.
    stains
        Stains to draw, in this order; all by default.
    difference
        Labels of two rows: the first less the second becomes the last row of their stain.
    title
        Column of ``obs`` above the pictures; None: names of the cells, of long ones the end.
    cmap
        Colour map of all stains, or of each.
    axes
        As many axes as rows. None: a new figure.

    Returns
    -------
    Axes of the rows, from top to bottom.

    Raises
    ------
    KeyError
        If a stain, cell, column or label does not exist.
    TypeError
        If a source is something else.
    ValueError
        If there are no images, or several of a label and stain, sources have no cell in common,
        channels have no names, or the number of axes is wrong.

    Notes
    -----
    Images stored as integers are scaled as models scale them. Colours span the .5th to the 99.8th
    percentile of the pixels that are drawn of a stain.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_images(20)
    >>> clean = cantata.datasets.simulate_images(20, noise=0)
    >>> axes = cantata.pl.images(
    ...     {"measured": mdata["protein"], "without noise": clean["protein"]},
    ...     difference=("measured", "without noise"),
    ... )
    >>> len(axes), len(axes[0].images)
    (3, 6)
    """
    sources = _checked_sources(pictures)
    tables = [adata for parts in sources.values() for adata in parts]
    names = _chosen_cells(tables, cells, n_cells)
    headings = _headings(tables, names, title)
    found = [
        row
        for label, parts in sources.items()
        for adata in parts
        for row in _rows_of(label, adata, names)
    ]
    keys = [(row.label, row.stain) for row in found]
    for label, stain in (key for key in keys if keys.count(key) > 1):
        raise ValueError(f"pictures[{label!r}] has several images of {stain!r}; give them labels.")
    order = list(dict.fromkeys(row.stain for row in found))
    if stains is not None:
        wanted = name_list("stains", stains)
        absent = [stain for stain in wanted if stain not in order]
        if absent:
            raise KeyError(f"stains={stains!r}: {absent[0]!r} is none of {order}.")
        order = wanted
    given = cmap if isinstance(cmap, Mapping) else dict.fromkeys(order, cmap)
    drawn: list[tuple[_Row, ScalarMappable, bool]] = []
    for number, stain in enumerate(order):
        rows = [row for row in found if row.stain == stain]
        shown = [x.ravel() for row in rows for x in row.pictures.values()] or [np.zeros(1)]
        map_name = given.get(stain) or STAIN_MAPS[number % len(STAIN_MAPS)]
        colors = _colors(map_name, *np.percentile(np.concatenate(shown), PERCENTILES))
        drawn += [(row, colors, k == 0) for k, row in enumerate(rows)]
        if difference is not None:
            row = _difference(rows, difference, list(sources))
            if row is not None:
                largest = np.percentile(np.abs(list(row.pictures.values())), PERCENTILES[1])
                drawn.append((row, _colors(DIFFERENCE_MAP, -largest, largest), True))
    panels = panels_for(len(drawn), 1, axes, width=TILE * len(names) + MARGINS, height=TILE)
    if axes is None:
        figure = panels[0].get_figure(root=True)
        assert figure is not None  # it was made for this
        figure.set_figheight(TILE * (1 + GAP) * len(drawn) + 0.4)
        figure.set_layout_engine("compressed")
    for k, (ax, (row, colors, is_first)) in enumerate(zip(panels, drawn, strict=True)):
        draw_tiles(ax, [[row.pictures.get(name) for name in names]], colors)
        label = textwrap.fill(row.label, LABEL_WIDTH)
        ax.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=4)
        if k == 0:
            ax.tick_params(labeltop=True, labelbottom=False, length=0, pad=1)
            ax.set_xticks(np.arange(len(names)) * (1 + GAP) + 0.5, headings, fontsize="small")
        if is_first:
            _color_bar(ax, colors, row.stain)
    return panels


def draw_bins(
    adata: AnnData,
    modality: str,
    bins: pd.Series,
    labels: Sequence[str],
    *,
    features: str | Sequence[str] | None = None,
    cmap: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean image of each bin of cells, and below it some cells of the bin.

    `bins` holds ordered categories by name of cell; `features` names the stain. Images of bins, by
    their numbers, are drawn alone.
    """
    if not isinstance(adata, AnnData) or IMAGES not in adata.obsm:
        raise ValueError(f"images: modality {modality!r} has none in .obsm[{IMAGES!r}].")
    stains = stain_images(modality, adata)
    wanted = list(stains) if features is None else name_list("features", features)
    if len(wanted) != 1 or wanted[0] not in stains:
        raise KeyError(f"features={features!r}: name one of the stains {list(stains)}.")
    numbers, n_examples = bins.cat.categories, N_EXAMPLES
    if adata.obs_names.equals(numbers.astype(str)):
        bins, n_examples = pd.Series(pd.Categorical(numbers), adata.obs_names), 0
    rows = pd.Series(adata.obs_names.get_indexer(bins.index), bins.index)
    tiles: list[list[np.ndarray | None]] = []
    for number in numbers:
        members = rows[(bins == number) & (rows >= 0)].to_numpy()
        found = stains[wanted[0]][members][:, 0]
        at = np.linspace(0, len(found) - 1, min(n_examples, len(found))).round().astype(int)
        mean = [found.mean(axis=0)] if len(found) else [None]
        tiles.append([*mean, *found[at], *[None] * (n_examples - len(at))])
    drawn = [tile.ravel() for column in tiles for tile in column if tile is not None]
    if not drawn:
        raise ValueError("images holds none of the cells in the center of the other components.")
    colors = _colors(cmap or STAIN_MAPS[0], *np.percentile(np.concatenate(drawn), PERCENTILES))
    if ax is None:
        size = (TILE * len(tiles) + MARGINS, TILE * (n_examples + 1) + 1)
        ax = plt.subplots(figsize=size, layout="compressed")[1]
    draw_tiles(ax, list(zip(*tiles, strict=True)), colors)
    middles = np.arange(max(len(tiles), n_examples + 1)) * (1 + GAP) + 0.5
    ax.set_xticks(middles[: len(tiles)], labels)
    if n_examples:
        ax.set_yticks(middles[[0, 1 + n_examples // 2]], ["mean", "cells"])
    else:
        ax.set_yticks(middles[:1], ["decoded"])
    ax.tick_params(length=0)
    _color_bar(ax, colors, wanted[0], height=1 / (n_examples + 1))
    return ax


def draw_tiles(
    ax: Axes, tiles: Sequence[Sequence[np.ndarray | None]], colors: ScalarMappable
) -> None:
    """Draw rows of square pictures with gaps; those that are None are grey."""
    low, high = colors.get_clim()
    for i, row in enumerate(tiles):
        for j, picture in enumerate(row):
            x, y = j * (1 + GAP), i * (1 + GAP)
            values = np.ma.masked_all((1, 1)) if picture is None else picture
            ax.imshow(
                values,
                cmap=colors.cmap,
                vmin=low,
                vmax=high,
                extent=(x, x + 1, y + 1, y),
                interpolation="nearest",
            )
    ax.set(
        xlim=(0, len(tiles[0]) * (1 + GAP) - GAP),
        ylim=(len(tiles) * (1 + GAP) - GAP, 0),
        xticks=[],
        yticks=[],
    )
    ax.spines[:].set_visible(False)


def _colors(name: str, low: float, high: float) -> ScalarMappable:
    high = high if high > low else low + 1
    return ScalarMappable(Normalize(low, high), colormaps[name].with_extremes(bad=MISSING_COLOR))


def _color_bar(ax: Axes, colors: ScalarMappable, label: str, height: float = 1.0) -> None:
    """A bar beside the first row, with the name of the stain."""
    width = ax.get_xlim()[1]
    bar = ax.inset_axes((1 + 0.12 / width, 1 - 0.96 * height, 0.12 / width, 0.92 * height))
    figure = ax.get_figure(root=True)
    assert figure is not None  # the row was drawn in it
    drawn = figure.colorbar(colors, cax=bar)
    drawn.ax.locator_params(nbins=3)
    drawn.ax.tick_params(labelsize="small", length=2, pad=2)
    drawn.outline.set_visible(False)
    drawn.set_label(label, fontsize="small")


def _checked_sources(pictures: Mapping[str, Source] | Source) -> dict[str, list[AnnData]]:
    sources = {}
    for label, given in (pictures if isinstance(pictures, Mapping) else {"": pictures}).items():
        if isinstance(given, MuData):
            parts = [adata for adata in given.mod.values() if IMAGES in adata.obsm]
        else:
            parts = [given] if isinstance(given, AnnData) else list(given)
        wrong = [part for part in parts if not isinstance(part, AnnData)]
        if wrong:
            raise TypeError(
                f"pictures[{label!r}] holds a {type(wrong[0]).__name__}; give an AnnData."
            )
        if not parts or any(IMAGES not in adata.obsm for adata in parts):
            raise ValueError(f"pictures[{label!r}] has no images in .obsm[{IMAGES!r}].")
        sources[label] = parts
    if not sources:
        raise ValueError("pictures is empty; give an AnnData for at least one row.")
    return sources


def _chosen_cells(
    tables: Sequence[AnnData], cells: Sequence[str] | None, n_cells: int
) -> list[str]:
    """Cells as named, or some that all sources have."""
    if cells is not None:
        names = name_list("cells", cells)
        unknown = [name for name in names if not any(name in adata.obs_names for adata in tables)]
        if unknown:
            raise KeyError(f"cells: {unknown[0]!r} is in none of the pictures.")
        return names
    check_integer("n_cells", n_cells)
    common = tables[0].obs_names
    for adata in tables[1:]:
        common = common[common.isin(adata.obs_names)]
    if not len(common):
        raise ValueError("The pictures have no cell in common; name some: cells=.")
    at = np.linspace(0, len(common) - 1, min(n_cells, len(common))).round().astype(int)
    return [str(name) for name in common[at]]


def _headings(tables: Sequence[AnnData], names: Sequence[str], column: str | None) -> list[str]:
    """What stands above each cell."""
    if column is None:
        return [
            name if len(name) <= MAX_TITLE else f"\N{HORIZONTAL ELLIPSIS}{name[1 - MAX_TITLE :]}"
            for name in names
        ]
    having = [adata.obs[column] for adata in tables if column in adata.obs]
    if not having:
        raise KeyError(f"title={column!r} is no column of .obs.")
    headings = []
    for name in names:
        values = [table[name] for table in having if name in table.index]
        value = values[0] if values else ""
        text = f"{value:.2g}" if isinstance(value, float | np.floating) else str(value)
        headings.append(textwrap.fill(text, MAX_TITLE))
    return headings


def _rows_of(label: str, adata: AnnData, names: Sequence[str]) -> list[_Row]:
    """One row for each stain that is in ``.var``."""
    rows = adata.obs_names.get_indexer(list(names))
    has = [name for name, row in zip(names, rows, strict=True) if row >= 0]
    return [
        _Row(label, stain, dict(zip(has, values[:, 0], strict=True)))
        for stain, images in stain_images(label, adata).items()
        for values in [images[rows[rows >= 0]]]
    ]


def stain_images(label: str, adata: AnnData) -> dict[str, StainImages]:
    """The images of each stain of ``.var``, scaled to [0, 1] where they are integers."""
    array = adata.obsm[IMAGES]
    channels = channels_of(label, adata, IMAGES)
    known, kinds = channels[CHANNEL_NAMES], channels[CHANNEL_MAPPING]
    result = {}
    for stain in adata.var.get(CHANNELS, adata.var_names).astype(str):
        if kinds[known.index(stain)] != MASK:
            layout = ImageLayout((stain,), (known.index(stain),), (), array.shape[-1])
            result[stain] = StainImages(array, layout, stain_limits(array, layout))
    return result


def _difference(rows: Sequence[_Row], pair: tuple[str, str], labels: Sequence[str]) -> _Row | None:
    """First less second of two rows of a stain; None where one of them does not show it."""
    unknown = [label for label in pair if label not in labels]
    if unknown or len(pair) != 2:
        raise KeyError(f"difference={pair!r}: give two of the labels {labels}.")
    by_label = {row.label: row.pictures for row in rows}
    if not set(pair) <= set(by_label):
        return None
    first, second = (by_label[label] for label in pair)
    both = {name: first[name] - second[name] for name in first if name in second}
    return _Row(f"{pair[0]} \N{MINUS SIGN} {pair[1]}", "difference", both) if both else None
