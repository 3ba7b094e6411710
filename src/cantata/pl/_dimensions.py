"""Canonical correlations and component variances beside chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from cantata.pl._axes import palette, panels_for
from cantata.tl import Dimensions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

BAR_COLOR, CHANCE_COLOR = "#333333", "#999999"

FAINT_ALPHA = 0.3
"""Opacity of what does not count."""

SHOWN_PER_COUNTED = 1.6
"""Components shown, as a multiple of those that count."""

MIN_SHOWN = 12
"""Components and variates that are shown, if there are so many."""

MIN_WIDTH = 6
"""Places on the horizontal axis, so that few bars leave room for the legend."""


def dimensions(
    result: Dimensions,
    *,
    show: int | None = None,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw what the estimated numbers of dimensions rest on.

    Left the canonical correlations of the modalities on held-out cells, right the variances of the
    components that shared variates leave of every modality. What counts is solid, what does not is
    faint; dashed lines are what chance rarely exceeds.

    Parameters
    ----------
    result
        Result of :func:`cantata.tl.estimate_dimensions`.
    show
        Show at most so many variates and components. None: somewhat more than those that count.
    axes
        Two axes. None: a new figure.

    Returns
    -------
    The two axes.

    Raises
    ------
    TypeError
        If `result` is something else.
    ValueError
        If `show` is not positive or there are not two axes.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_disentangled(1, n_cells=500)
    >>> axes = cantata.pl.dimensions(cantata.tl.estimate_dimensions(mdata))
    >>> [ax.get_title() for ax in axes]
    ['2 shared dimensions', 'specific dimensions']
    """
    if not isinstance(result, Dimensions):
        raise TypeError(
            f"result is a {type(result).__name__}; give what cantata.tl.estimate_dimensions "
            "returned."
        )
    if show is not None and show < 1:
        raise ValueError(f"show={show}: give at least 1.")
    left, right = panels_for(2, 2, axes, width=4.0, height=3.0)
    _draw_correlations(left, result, show or _n_shown(result.n_shared))
    _draw_variances(right, result, show or _n_shown(max(result.n_specific.values())))
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return [left, right]


def _n_shown(n: int) -> int:
    return max(MIN_SHOWN, round(SHOWN_PER_COUNTED * n))


def _draw_correlations(ax: Axes, result: Dimensions, show: int) -> None:
    table = result.correlations.iloc[:show]
    colors = [to_rgba(BAR_COLOR, 1 if counts else FAINT_ALPHA) for counts in table["shared"]]
    ax.bar(table["variate"], table["correlation"], width=0.75, color=colors)
    _draw_chance(ax, table["variate"], table["null"], CHANCE_COLOR)
    least = result.min_correlation
    if least > table["null"].iloc[0]:
        ax.axhline(least, color=CHANCE_COLOR, lw=1, ls=":", label=f"least that counts ({least:g})")
    lowest = min(0.0, float(table["correlation"].min()))
    ax.set(
        title=f"{result.n_shared} shared dimension{'s' * (result.n_shared != 1)}",
        xlabel="canonical variate",
        ylabel="correlation, held-out cells",
        ylim=(1.1 * lowest, 1.02),
        xlim=(0.3, max(len(table), MIN_WIDTH) + 0.7),
    )
    ax.legend(frameon=False, fontsize="small", loc="upper right")


def _draw_variances(ax: Axes, result: Dimensions, show: int) -> None:
    names, most, lowest = list(result.n_specific), 1, np.inf
    for name, color in zip(names, palette(len(names)), strict=False):
        table = result.variances[result.variances["modality"] == name].iloc[:show]
        table = table[table["variance"] > 1e-9]  # the rest is rounding
        x, y = table["component"], 100 * table["variance"]
        faces = [color if counts else "white" for counts in table["specific"]]
        ax.plot(x, y, color=color, lw=1, alpha=0.5, zorder=1)
        ax.scatter(x, y, s=22, c=faces, edgecolors=color, zorder=2)
        label = f"{name}: {result.n_specific[name]}"
        ax.scatter([], [], s=22, color=color, label=label)
        if len(table):
            _draw_chance(ax, x, 100 * table["null"], color, label=False)
            most, lowest = max(most, len(table)), min(lowest, float(y.min()))
    ax.plot([], [], color=CHANCE_COLOR, lw=1, ls="--", label="chance")
    ax.set(
        title="specific dimensions",
        xlabel="component of what is not shared",
        ylabel="% of the modality's variance",
        xlim=(0.3, max(most, MIN_WIDTH) + 0.7),
    )
    if np.isfinite(lowest):
        ax.set_yscale("log")
        _plain_numbers(ax)
    ax.legend(frameon=False, fontsize="small", loc="upper right")


def _plain_numbers(ax: Axes) -> None:
    """0.1, 1, 10 along a logarithmic axis, with 2 and 5 between over a short range."""
    low, high = ax.get_ylim()
    ax.yaxis.set_major_formatter("{x:g}")
    if high < 100 * low:
        ax.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        ax.yaxis.set_minor_formatter("{x:g}")
    else:
        ax.yaxis.set_minor_formatter(NullFormatter())


def _draw_chance(
    ax: Axes, x: pd.Series, null: pd.Series, color: str, *, label: bool = True
) -> None:
    """Dashed steps, as wide as bars."""
    edges = np.append(x.to_numpy() - 0.5, x.iloc[-1] + 0.5)
    ax.stairs(
        null, edges, baseline=None, color=color, lw=1, ls="--", label="chance" if label else None
    )
