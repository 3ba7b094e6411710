"""Bars and dots of the pairing patterns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot as plt

from cantata._mudata.checks import check_mudata
from cantata._mudata.patterns import pattern_counts
from cantata.pl._axes import MISSING_COLOR, level_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from mudata import MuData

DARK = "#333333"

ROW_INCHES, BARS_INCHES = 0.3, 2.5
"""Height of a row of dots, and of the bars, in a new figure."""


def pairing(mdata: MuData, *, batch_key: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how many cells have which modalities.

    One bar per pairing pattern; the dots below tell which modalities it has, as in an UpSet plot
    (Lex et al. 2014).

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    batch_key
        Column at MuData or modality level that colors the bars.
    ax
        Its place is shared by the bars, for which it is used, and the dots below. None: a new
        figure.

    Returns
    -------
    Axes of the bars.

    Raises
    ------
    KeyError
        If `batch_key` is nowhere.
    ValueError
        If two columns named `batch_key` disagree about a cell.

    Examples
    --------
    >>> import cantata
    >>> ax = cantata.pl.pairing(cantata.datasets.simulate_mosaic())
    >>> ax.get_ylabel()
    'cells'
    """
    check_mudata(mdata)
    counts, members = pattern_counts(mdata, batch_key)
    names = list(mdata.mod)
    n_patterns, batches = len(counts), list(counts.columns)
    if ax is None:
        width = 1.8 + max(0.7 * n_patterns, 2) + 1.2 * (batch_key is not None)
        height = BARS_INCHES + 0.3 + ROW_INCHES * len(names)
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    x = np.arange(n_patterns)
    colors = [DARK] if batch_key is None else level_colors(mdata, batch_key, batches)
    bottom = np.zeros(n_patterns)
    for batch, color in zip(batches, colors, strict=True):
        heights = counts[batch].to_numpy()
        ax.bar(x, heights, bottom=bottom, width=0.65, color=color, label=str(batch))
        bottom += heights
    for i, total in enumerate(bottom):
        ax.annotate(
            f"{int(total):,}",
            (i, total),
            (0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
        )
    ax.set(ylabel="cells", xlim=(-0.6, n_patterns - 0.4), ylim=(0, 1.12 * bottom.max()))
    ax.spines[["top", "right"]].set_visible(False)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    dots = _axes_below(ax, ROW_INCHES * len(names) / BARS_INCHES)
    _draw_dots(dots, [set(members[str(p)]) for p in counts.index], mdata)
    ax.tick_params(axis="x", bottom=False, labelbottom=False)
    if batch_key is not None:
        ax.legend(
            title=batch_key,
            loc="upper left",
            bbox_to_anchor=(1.02, 1.02),
            frameon=False,
            ncols=1 + (len(batches) - 1) // 12,
        )
    return ax


def _axes_below(ax: Axes, share: float) -> Axes:
    """Axes below `ax`, `share` times as high; they share its place in the grid if it has one."""
    place = ax.get_subplotspec()
    if place is None:
        return ax.inset_axes((0, -share - 0.03, 1, share), sharex=ax)
    grid = place.subgridspec(2, 1, height_ratios=[1, share], hspace=0.02)
    ax.set_subplotspec(grid[0])
    return ax.figure.add_subplot(grid[1], sharex=ax)


def _draw_dots(ax: Axes, members: list[set[str]], mdata: MuData) -> None:
    """Filled where a pattern has the modality, joined by a line; the first modality on top."""
    names = list(mdata.mod)
    for row in range(0, len(names), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)
    for i, present in enumerate(members):
        rows = [row for row, name in enumerate(names) if name in present]
        if len(rows) > 1:
            ax.plot([i, i], [min(rows), max(rows)], color=DARK, lw=2, zorder=1)
        for row in range(len(names)):
            ax.scatter(i, row, s=55, color=DARK if row in rows else MISSING_COLOR, zorder=2)
    ax.set_yticks(range(len(names)), [f"{name} ({mdata[name].n_obs:,} cells)" for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(length=0, labelbottom=False)
    ax.spines[:].set_visible(False)
