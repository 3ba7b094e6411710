"""Features at the two ends of the components of a latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cantata.pl._axes import panels_for
from cantata.tl import LatentInterpretation
from cantata.tl._interpret_axes import GROUPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

BAR, PANEL = 0.22, 3.4
"""Height of a bar and width of a panel of a new figure, in inches."""

GAP = 1.0
"""Room between two groups, in bars."""

TITLES = {"low": "low end", "centre": "centre", "high": "high end"}


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
        Groups of cells to show, of ``"low"``, ``"centre"`` and ``"high"``.
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
    if not isinstance(interpretation, LatentInterpretation):
        raise TypeError(
            f"interpretation is a {type(interpretation).__name__}; give the result of "
            "cantata.tl.interpret_latent."
        )
    given = [component] if isinstance(component, str | int | np.integer) else list(component)
    names = [interpretation.component_name(name) for name in given]
    unknown = [group for group in groups if group not in GROUPS]
    if unknown or not len(groups):
        raise ValueError(f"groups={groups!r}: choose from {', '.join(GROUPS)}.")
    if n_features < 1 or not names:
        raise ValueError("Nothing to draw: name a component, and n_features of at least 1.")
    parts = [[interpretation.top(name, n_features, group) for group in groups] for name in names]
    most = max(sum(map(_length, part)) for part in parts)
    height = BAR * (most + GAP * (len(groups) - 1)) + 1.0
    panels = panels_for(len(names), ncols, axes, width=PANEL, height=height)
    colors = _colors(parts, cmap, interpretation.parameters["fold_changes"][-1])
    largest = max(
        (table["area"].max() for part in parts for table in part if len(table)), default=1
    )
    shares = interpretation.components.set_index("component")["variance_ratio"]
    for ax, name, part in zip(panels, names, parts, strict=True):
        _draw_panel(ax, part, groups, colors)
        ax.set_xlim(0, 1.05 * largest)
        ax.set_title(f"{name} ({100 * shares[name]:.2g} % of variance)")
    _draw_bar(panels[-1], parts, colors)
    return panels


def _length(table: pd.DataFrame) -> int:
    """Bars that a group takes; one for its message if it has no feature."""
    return max(1, len(table))


def _colors(parts: list[list[pd.DataFrame]], cmap: str, largest: float) -> ScalarMappable:
    """Colours of log2 fold changes."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable as Mappable
    from matplotlib.colors import Normalize

    changes = np.abs(_changes(parts))
    limit = min(changes.max(initial=0), 2 * np.log2(largest)) or 1.0
    return Mappable(Normalize(-limit, limit), colormaps[cmap])


def _changes(parts: list[list[pd.DataFrame]]) -> np.ndarray:
    tables = [table["log2_fold_change"].to_numpy() for part in parts for table in part]
    return np.concatenate(tables)


def _draw_panel(
    ax: Axes, part: list[pd.DataFrame], groups: Sequence[str], colors: ScalarMappable
) -> None:
    """Bars of one component, from top to bottom."""
    from matplotlib.transforms import blended_transform_factory

    start, ticks, labels = 0.0, [], []
    beside = blended_transform_factory(ax.transAxes, ax.transData)
    for group, table in zip(groups, part, strict=True):
        places = start + np.arange(len(table))
        ax.barh(
            places,
            table["area"],
            height=0.8,
            color=colors.to_rgba(table["log2_fold_change"].to_numpy()),
            edgecolor="0.5",
            linewidth=0.5,
        )
        ticks += places.tolist()
        labels += table["feature"].tolist()
        if table.empty:
            ax.text(0.03, start, "no feature", transform=beside, va="center", color="0.4")
        middle = start + (_length(table) - 1) / 2
        ax.text(
            1.02, middle, TITLES[group], transform=beside, rotation=270, va="center", ha="left"
        )
        start += _length(table) + GAP
    ax.set_yticks(ticks, labels)
    ax.set(ylim=(start - GAP - 0.4, -0.6), xlabel="area under the curve")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_bar(ax: Axes, parts: list[list[pd.DataFrame]], colors: ScalarMappable) -> None:
    figure = ax.get_figure(root=True)
    assert figure is not None  # the panel was drawn in it
    width, height = ax.get_position().size * figure.get_size_inches()
    share = min(1.0, 2.0 / height)
    bar = ax.inset_axes((1 + 0.45 / width, 1 - share, 0.14 / width, share))
    extend = "both" if np.abs(_changes(parts)).max(initial=0) > colors.norm.vmax else "neither"
    figure.colorbar(colors, cax=bar, label="log2 fold change", extend=extend)
