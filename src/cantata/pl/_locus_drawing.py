"""A gene, the peaks around it, and arcs for the links between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cantata.pl._colors import MISSING_COLOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize

    from cantata.pl._locus import Locus, Track
    from cantata.pl._locus_coordinates import Gene

DARK = "#333333"

FAINT = "#b0b0b0"
"""Colour of arcs that do not count, and of peaks without a link."""

BOX, GAP = 0.14, 0.06
"""Height of the boxes of genes and peaks, and space between rows, in inches."""

ARC_POINTS = 61


@dataclass(frozen=True)
class _Rows:
    """Heights of the rows, in the units of the vertical axis; arcs reach from 0 to `top`."""

    top: float
    head: float
    box: float
    gap: float
    text: float
    mirrored: bool

    @property
    def band(self) -> float:
        """Height of peaks, gene and name below the arcs, with the peaks repeated if mirrored."""
        return self.box * (3 if self.mirrored else 2) + self.gap * 4 + self.text

    @property
    def limits(self) -> tuple[float, float]:
        below = self.top + self.head if self.mirrored else 0.0
        return -self.band - below, self.top + self.head

    @classmethod
    def of(cls, ax: Axes, top: float, *, mirrored: bool) -> _Rows:
        """Rows for axes of a given size: boxes and text keep theirs, arcs take the rest."""
        from matplotlib.font_manager import FontProperties

        figure = ax.get_figure(root=True)
        inches = ax.get_position().height * figure.get_figheight() if figure else 3.0
        line = 1.4 * FontProperties(size="medium").get_size_in_points() / 72
        plain = cls(0, line + GAP, BOX, GAP, line, mirrored)
        low, high = plain.limits
        halves = 2 if mirrored else 1
        scale = top / max((inches - (high - low)) / halves, 0.3 * inches / halves)
        return cls(top, plain.head * scale, BOX * scale, GAP * scale, plain.text * scale, mirrored)


def draw_locus(locus: Locus, cmap: Colormap, ax: Axes | None = None) -> Axes:
    """Draw a locus view; a second track is drawn downwards.

    Parameters
    ----------
    locus
        What to draw.
    cmap
        Colours of correlations.
    ax
        Where to draw; None: a new figure.
    """
    from matplotlib import pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    mirrored = len(locus.tracks) > 1
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 5.4 if mirrored else 3.6), layout="constrained")
    top = np.nanmax([track.links["correlation"].abs().max() for track in locus.tracks]) or 1.0
    rows = _Rows.of(ax, float(top), mirrored=mirrored)
    norm = Normalize(-rows.top, rows.top)
    for i, track in enumerate(locus.tracks):
        base, sign = (-rows.band, -1) if i else (0.0, 1)
        _draw_arcs(ax, locus.gene, track, base, sign, cmap, norm)
        ax.axhline(base, color=FAINT, lw=0.8, zorder=0)
        side, y = ("bottom", 0.01) if i else ("top", 0.99)
        ax.text(0.01, y, track.caption, transform=ax.transAxes, va=side)
        _draw_peaks(ax, locus.peaks, base - sign * (rows.gap + rows.box), sign * rows.box)
    _draw_gene(ax, locus, rows)
    _style(ax, locus, rows)
    low, high = rows.limits
    bottom = rows.head if mirrored else -low
    bar = ax.inset_axes(
        (1.02, bottom / (high - low), 0.02, 1 - (bottom + rows.head) / (high - low))
    )
    plt.colorbar(ScalarMappable(norm, cmap), cax=bar, label=locus.what)
    return ax


def _draw_arcs(
    ax: Axes, gene: Gene, track: Track, base: float, sign: int, cmap: Colormap, norm: Normalize
) -> None:
    """Half ellipses from the gene to the peaks, as high as the correlation; the weakest first."""
    from matplotlib.collections import LineCollection

    angle = np.linspace(np.pi, 0, ARC_POINTS)
    style = "solid" if gene.known else (0, (5, 1.5))
    links = track.links.sort_values("correlation", key=np.abs)
    for counts, part in links.groupby("counts"):
        middle = part["middle"].to_numpy()[:, None]
        r = part["correlation"].to_numpy()
        x = (gene.tss + middle) / 2 + (middle - gene.tss) / 2 * np.cos(angle)
        y = base + sign * np.abs(r)[:, None] * np.sin(angle)
        # free of rounding, so that an end is where it is said to be
        x[:, [0, -1]] = np.column_stack([np.full(len(part), gene.tss), middle])
        y[:, [0, -1]] = base
        arcs = LineCollection(list(np.stack([x, y], axis=2)), linestyles=[style], zorder=2)
        if counts:
            arcs.set(array=r, cmap=cmap, norm=norm, linewidths=1 + 2 * np.abs(r) / norm.vmax)
            arcs.set_zorder(3)
        else:
            arcs.set(color=FAINT, linewidths=0.9)
        arcs.set_label(track.name)
        ax.add_collection(arcs, autolim=False)


def _draw_peaks(ax: Axes, peaks: pd.DataFrame, bottom: float, height: float) -> None:
    """True to width; the edge keeps narrow peaks visible. Linked peaks are dark."""
    from matplotlib.collections import PolyCollection

    low, high = min(bottom, bottom + height), max(bottom, bottom + height)
    for linked, part in peaks.groupby("linked"):
        boxes = [
            [(start, low), (end, low), (end, high), (start, high)]
            for start, end in zip(part["start"], part["end"], strict=True)
        ]
        color = DARK if linked else MISSING_COLOR
        ax.add_collection(
            PolyCollection(
                boxes, facecolors=color, edgecolors=color, lw=1, zorder=2 + bool(linked)
            ),
            autolim=False,
        )


def _body(
    gene: Gene, view: tuple[float, float], y: float, height: float
) -> list[tuple[float, float]]:
    """Outline of the gene within the view; its end is a point if it lies there."""
    start, end = max(gene.start, view[0]), min(gene.end, view[1])
    low, high = y - height / 2, y + height / 2
    head = min(0.02 * (view[1] - view[0]), end - start)
    if gene.strand == "+" and end == gene.end:
        return [(start, low), (end - head, low), (end, y), (end - head, high), (start, high)]
    if gene.strand == "-" and start == gene.start:
        return [(end, low), (start + head, low), (start, y), (start + head, high), (end, high)]
    return [(start, low), (end, low), (end, high), (start, high)]


def _draw_gene(ax: Axes, locus: Locus, rows: _Rows) -> None:
    gene, (first, last) = locus.gene, locus.view
    y = -2 * rows.gap - 1.5 * rows.box
    for base in [0.0] + [-rows.band] * rows.mirrored:
        ax.plot([gene.tss, gene.tss], [y, base], color=DARK, lw=0.8, ls=":", zorder=1)
    if gene.known:
        if gene.end > first and gene.start < last:
            outline = _body(gene, locus.view, y, rows.box)
            ax.fill(*zip(*outline, strict=True), fc="#7a7a7a", ec=DARK, lw=0.8, zorder=4)
    else:
        ax.plot(gene.tss, y, "D", mfc="white", mec=DARK, ms=7, zorder=4)
    middle = (max(gene.start, first) + min(gene.end, last)) / 2
    share = min(max((middle - first) / (last - first), 0.0), 1.0)
    side = "left" if share < 0.25 else "right" if share > 0.75 else "center"
    style = "italic" if gene.known else "normal"
    text = y - (rows.box + rows.gap) / 2
    ax.text(first + share * (last - first), text, gene.label, ha=side, va="top", style=style)


def _style(ax: Axes, locus: Locus, rows: _Rows) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = rows.limits
    ax.set(xlim=locus.view, ylim=rows.limits)
    locator = MaxNLocator(3 if rows.mirrored else 4, steps=[1, 2, 5, 10])
    found = np.array(locator.tick_values(0, rows.top), dtype=np.float64)
    ticks = found[(found >= 0) & (found <= rows.top * 1.001)]
    labels = [f"{tick:g}" for tick in ticks]
    if rows.mirrored:
        ax.set_yticks([*ticks, *(-rows.band - ticks)], [*labels, *labels])
        ax.set_ylabel(f"|{locus.what}|")
        ax.spines["left"].set_bounds(-rows.band - rows.top, rows.top)
    else:
        ax.set_yticks(ticks, labels)
        ax.set_ylabel(f"|{locus.what}|", y=(rows.top / 2 - low) / (high - low))
        ax.spines["left"].set_bounds(0, rows.top)
    ax.spines[["top", "right"]].set_visible(False)
    _genomic_axis(ax, locus.gene.chrom, locus.view)


def _genomic_axis(ax: Axes, chrom: str, view: tuple[float, float]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    unit, name = (1e6, "Mb") if view[1] >= 1e6 else (1e3, "kb")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    step = np.diff(ax.xaxis.get_major_locator()())[0] / unit
    decimals = max(0, int(np.ceil(-np.log10(step) - 1e-9)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / unit:,.{decimals}f}"))
    prefix = "" if chrom.startswith("chr") else "chromosome "
    ax.set_xlabel(f"{prefix}{chrom} ({name})")


def arc_colors(cmap: str) -> Colormap:
    """A diverging colour map without its pale middle: lines near it cannot be seen on white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    ends: Sequence[np.ndarray] = [np.linspace(0, 0.36, 128), np.linspace(0.64, 1, 128)]
    return ListedColormap(colormaps[cmap](np.concatenate(ends)), name=f"{cmap}_ends")
