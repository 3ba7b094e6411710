"""Plots of interpreted latent spaces: features at the ends of components, and along them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cantata._mudata.checks import name_list
from cantata.pl._axes import panels_for
from cantata.pl._heatmap import draw_matrix, new_axes
from cantata.pl._images import draw_bins
from cantata.tl import LatentInterpretation, latent_bins
from cantata.tl import latent_traversal as mean_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from mudata import MuData

BAR_HEIGHT, PANEL_WIDTH = 0.22, 3.4
"""Height of a bar and width of a panel of a new figure, in inches."""

GROUP_GAP = 1.0
"""Room between two groups, in bars."""

GROUP_TITLES = {"low": "low end", "center": "center", "high": "high end"}

CELL_SIZE = 0.3
"""Width and height of a cell of a new figure, in inches."""

MIN_BIN_CELLS = 5
"""Bins with fewer cells do not set the ends of the colour map."""

STRIP_HEIGHT = 0.55
"""Height of the bars with the numbers of cells, in inches."""


def latent_features(
    interpretation: LatentInterpretation,
    component: str | int | Sequence[str | int] = "PC1",
    *,
    n_features: int = 10,
    groups: Sequence[str] = ("low", "high"),
    cmap: str = "RdBu_r",
    ncols: int = 3,
    axes: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw the features that set the ends of components apart, one panel per component.

    The length of a bar is the area under the curve of counts over fold changes: how often, and up
    to which fold change, the feature was found in splits of the cells. Its colour is the fold
    change (Zhang et al. 2026, APOLLO, figure 2c).

    Parameters
    ----------
    interpretation
        From :func:`cantata.tl.interpret_latent`.
    component
        Name or number from 1, or several.
    n_features
        Features of each group, the best ones.
    groups
        Groups of cells to show, of ``"low"``, ``"center"`` and ``"high"``.
    cmap
        Diverging colour map, white at no change. Its ends are the largest fold change drawn, but
        not beyond the square of the largest threshold of the interpretation.
    ncols
        Panels in a row.
    axes
        As many axes as components. None: a new figure.

    Returns
    -------
    Axes of the panels. Bars of the first group are on top, the best feature first.

    Raises
    ------
    KeyError
        If there is no such component.
    TypeError
        If `interpretation` is none.
    ValueError
        If a group is unknown, nothing is to be drawn, or the number of axes is wrong.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> latent = rng.normal(size=(1000, 3)) * [3, 2, 1]
    >>> rna = AnnData(rng.normal(size=(1000, 8)), obsm={"X_apollo_shared": latent})
    >>> rna.X[:, 4] += latent[:, 0]
    >>> rna.var_names = [f"gene{k}" for k in range(8)]
    >>> mdata = mudata.MuData({"rna": rna})
    >>> found = cantata.tl.interpret_latent(
    ...     mdata, "rna", use_rep="X_apollo_shared", n_splits=3, train_size=0.5
    ... )
    >>> (ax,) = cantata.pl.latent_features(found, "PC1")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['gene4', 'gene4']
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if not isinstance(interpretation, LatentInterpretation):
        raise TypeError(
            f"interpretation is a {type(interpretation).__name__}; give the result of "
            "cantata.tl.interpret_latent."
        )
    given = [component] if isinstance(component, str | int | np.integer) else list(component)
    groups = name_list("groups", groups)
    names = [interpretation.component_name(name) for name in given]
    if not set(groups) <= set(GROUP_TITLES):
        raise ValueError(f"groups={groups!r}: choose from {', '.join(GROUP_TITLES)}.")
    if n_features < 1 or not names:
        raise ValueError("Nothing to draw: name a component, and n_features of at least 1.")
    parts = [[interpretation.top(name, n_features, group) for group in groups] for name in names]
    most = max(sum(map(_n_bars, part)) for part in parts)
    height = BAR_HEIGHT * (most + GROUP_GAP * (len(groups) - 1)) + 1.0
    panels = panels_for(len(names), ncols, axes, width=PANEL_WIDTH, height=height)
    changes = np.abs(
        np.concatenate([table["log2_fold_change"] for part in parts for table in part])
    )
    threshold = interpretation.parameters["fold_changes"][-1]
    limit = min(changes.max(initial=0), 2 * np.log2(threshold)) or 1.0
    colors = ScalarMappable(Normalize(-limit, limit), colormaps[cmap])
    largest = max(
        (table["area"].max() for part in parts for table in part if len(table)), default=1
    )
    shares = interpretation.components.set_index("component")["variance_ratio"]
    for ax, name, part in zip(panels, names, parts, strict=True):
        _draw_bars(ax, part, groups, colors)
        ax.set_xlim(0, 1.05 * largest)
        ax.set_title(f"{name} ({100 * shares[name]:.2g} % of variance)")
    _draw_color_bar(panels[-1], colors, extend=changes.max(initial=0) > limit)
    return panels


def _n_bars(table: pd.DataFrame) -> int:
    """Bars that a group takes; one for its message if it has no feature."""
    return max(1, len(table))


def _draw_bars(
    ax: Axes, part: list[pd.DataFrame], groups: Sequence[str], colors: ScalarMappable
) -> None:
    """Bars of one component, from top to bottom."""
    from matplotlib.transforms import blended_transform_factory

    start, ticks, labels = 0.0, [], []
    beside = blended_transform_factory(ax.transAxes, ax.transData)
    for group, table in zip(groups, part, strict=True):
        positions = start + np.arange(len(table))
        ax.barh(
            positions,
            table["area"],
            height=0.8,
            color=colors.to_rgba(table["log2_fold_change"].to_numpy()),
            edgecolor="0.5",
            linewidth=0.5,
        )
        ticks += positions.tolist()
        labels += table["feature"].tolist()
        if table.empty:
            ax.text(0.03, start, "no feature", transform=beside, va="center", color="0.4")
        middle = start + (_n_bars(table) - 1) / 2
        title = GROUP_TITLES[group]
        ax.text(1.02, middle, title, transform=beside, rotation=270, va="center", ha="left")
        start += _n_bars(table) + GROUP_GAP
    ax.set_yticks(ticks, labels)
    ax.set(ylim=(start - GROUP_GAP - 0.4, -0.6), xlabel="area under the curve")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_color_bar(ax: Axes, colors: ScalarMappable, *, extend: bool) -> None:
    figure = ax.get_figure(root=True)
    assert figure is not None  # the panel was drawn in it
    width, height = ax.get_position().size * figure.get_size_inches()
    share = min(1.0, 2.0 / height)
    bar = ax.inset_axes((1 + 0.45 / width, 1 - share, 0.14 / width, share))
    ends = "both" if extend else "neither"
    figure.colorbar(colors, cax=bar, label="log2 fold change", extend=ends)


def latent_traversal(
    mdata: MuData,
    modality: str,
    interpretation: LatentInterpretation | None = None,
    *,
    component: str | int = "PC1",
    use_rep: str | None = None,
    scale: Literal["cells", "bins"] | None = "cells",
    images: bool | AnnData = False,
    cmap: str | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw the mean values of features, or images, in the bins along a component of latents.

    Only cells that are central in the other components are taken, so that what changes from bin
    to bin is the component (Zhang et al. 2026, APOLLO, figures 2b and 4a). Bars on top tell how
    many there are.

    Parameters
    ----------
    mdata, modality, interpretation, component, use_rep, scale
        As in :func:`cantata.tl.latent_traversal`, which computes what is drawn.
    images
        Draw, in place of features, the mean image of each bin and below it some of its cells. Or
        other images of the modality's cells, such as ``model.get_reconstruction`` returns; or one
        of each bin, named by its number: ``model.decode_latents`` at the mean latents of the bins.
    cmap
        Colour map. None: ``"RdBu_r"``, or ``"viridis"`` without `scale`, ``"gray"`` of images.
        Bins with fewer than 5 cells do not set its ends.
    ax
        Axes to draw in. None: a new figure.
    **kwargs
        `features`, `n_features`, `layer` and `values` of :func:`cantata.tl.latent_traversal`. Of
        images `features` names the stain, if there are several.

    Returns
    -------
    The axes of the matrix (features x bins); those of the bars are its first child. Of images the
    axes in which all are.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`cantata.tl.latent_traversal`.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> latent = rng.normal(size=(1000, 3)) * [3, 2, 1]
    >>> rna = AnnData(rng.normal(size=(1000, 4)), obsm={"X_apollo_shared": latent})
    >>> rna.X[:, 2] += latent[:, 0]
    >>> rna.var_names = ["Actb", "Cd4", "Sox2", "Pax6"]
    >>> mdata = mudata.MuData({"rna": rna})
    >>> ax = cantata.pl.latent_traversal(
    ...     mdata, "rna", use_rep="X_apollo_shared", features=["Sox2", "Actb"]
    ... )
    >>> bool(ax.images[0].get_array()[0, -1] > 1)
    True
    """
    space: dict[str, Any] = {"component": component, "use_rep": use_rep}
    if images is not False:
        bins = latent_bins(mdata, modality, interpretation, **space)
        shown = mdata[modality] if images is True else images
        labels = _bin_labels(bins.cat.categories)
        ax = draw_bins(shown, modality, bins, labels, cmap=cmap, ax=ax, **kwargs)
    else:
        means, n_cells = mean_values(
            mdata, modality, interpretation, scale=scale, **space, **kwargs
        )
        means.columns = _bin_labels(means)
    if interpretation is not None:
        component = interpretation.component_name(component)
        use_rep = interpretation.parameters["use_rep"]
    elif not isinstance(component, str):
        component = f"PC{component}"
    pad = None
    if images is False:
        if ax is None:
            ax = new_axes(means, CELL_SIZE)
            figure = ax.get_figure(root=True)
            assert figure is not None  # it was made for this
            figure.set_figheight(figure.get_figheight() + STRIP_HEIGHT + 0.3)
            figure.canvas.draw()
        _draw_means(ax, means, n_cells.to_numpy(), scale, cmap)
        pad = 72 * (STRIP_HEIGHT + 0.16)
    assert ax is not None  # it was drawn in
    ax.set_xlabel(f"bin along {component}")
    ax.set_title(f"{modality} along {component} of {use_rep}", pad=pad)
    return ax


def _bin_labels(bins: Iterable[int]) -> list[str]:
    return [f"{k:+d}".replace("-", "\N{MINUS SIGN}") if k else "0" for k in bins]


def _draw_means(
    ax: Axes, means: pd.DataFrame, counts: np.ndarray, scale: str | None, cmap: str | None
) -> None:
    """The matrix of means, and above it the numbers of cells."""
    many = counts >= MIN_BIN_CELLS
    numbers = means.to_numpy()[:, many if many.any() else counts > 0]
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    if scale is not None or low == high:
        largest = max(abs(low), abs(high)) or 1.0
        low, high = -largest, largest
    labels = {"cells": "mean, in SD of the cells", "bins": "z score over bins", None: "mean"}
    draw_matrix(
        ax,
        means,
        cmap=cmap or ("viridis" if scale is None else "RdBu_r"),
        limits=(float(low), float(high)),
        bar_label=labels[scale],
    )
    ax.tick_params(axis="x", rotation=0)
    figure = ax.get_figure(root=True)
    assert figure is not None  # the matrix was drawn in it
    height = ax.get_position().height * figure.get_figheight()
    strip = ax.inset_axes((0, 1 + 0.08 / height, 1, STRIP_HEIGHT / height), sharex=ax)
    strip.bar(range(len(counts)), counts, width=0.8, color="0.6")
    strip.tick_params(axis="x", which="both", length=0, labelbottom=False)
    strip.set_ylabel("cells")
    strip.set_yticks([0, int(counts.max())])
    strip.spines[["top", "right"]].set_visible(False)
