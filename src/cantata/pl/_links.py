"""Links between features: arcs on the genome, or a matrix."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cantata import _keys
from cantata._mudata.checks import check_integer, check_mudata, name_list
from cantata.pl._axes import MISSING_COLOR
from cantata.pl._genome import Gene, find_gene, same_chromosome, target_regions
from cantata.pl._heatmap import block_order, draw_matrix, new_axes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from mudata import MuData

Kind = Literal["auto", "locus", "heatmap"]

CELL_INCHES = 0.23
"""Width and height of a cell of a matrix in a new figure."""

DARK = "#333333"

FAINT = "#b0b0b0"
"""Color of arcs that do not count, and of peaks without a link."""

BOX_INCHES, GAP_INCHES = 0.14, 0.06
"""Height of the boxes of genes and peaks, and space between rows."""

ARC_POINTS = 61


def links(
    mdata: MuData,
    gene: str | Sequence[str] | None = None,
    *,
    links: pd.DataFrame | None = None,
    method: str = "scmodal",
    source: str = "rna",
    target: str = "atac",
    kind: Kind = "auto",
    annotation: pd.DataFrame | str | Path | None = None,
    window: int | None = None,
    column: str = "correlation",
    min_correlation: float = 0.0,
    max_q: float = 0.05,
    other: pd.DataFrame | None = None,
    names: tuple[str, str] | None = None,
    n_top: int = 25,
    cmap: str = "RdBu_r",
    ax: Axes | None = None,
) -> Axes:
    """Draw links between the features of two modalities.

    ``kind="locus"`` shows one gene on the genome: its body, the peaks, and arcs from its
    transcription start site to the linked peaks. Height, color and width of an arc tell the
    correlation; a second table of links is drawn downwards for comparison. ``kind="heatmap"``
    shows the strongest links of many features as a matrix in which blocks can be seen.

    Parameters
    ----------
    mdata
        Holds the links and the modality `target`; it is not modified.
    gene
        One feature of `source` for a locus; one, several or None (all) for a matrix.
    links
        Table with columns ``source``, ``target``, ``correlation`` and maybe ``q``, as from
        :func:`cantata.tl.infer_links`. None: ``mdata.uns["<method>_links"]``.
    method
        Method that inferred the links.
    source, target
        Modalities of the linked features.
    kind
        ``"auto"``: a locus for one gene if features of `target` have regions, else a matrix.
    annotation
        Genes with columns ``gene``, ``chrom``, ``start``, ``end``, ``strand``, as from
        :func:`cantata.pp.read_annotation`, or the path of a GTF file. None: such columns of
        ``mdata[source].var``.
    window
        Half width of the locus in base pairs. None: the gene and all its linked peaks.
    column
        Column with the correlations, e.g. ``"within_correlation"`` for those within cell types.
    min_correlation, max_q
        Links with a smaller absolute correlation or a larger q value are grey in a locus and left
        out of a matrix. Without a column ``q`` the latter has no effect.
    other
        Links to compare with, e.g. those in truly paired cells: drawn downwards. _Locus only.
    names
        Names of the links and of `other`. None: `method` and ``"other"``.
    n_top
        Most rows and most columns of a matrix: each feature of `target` brings its strongest
        link, strongest first, then its second strongest, and so on while there is room.
    cmap
        Diverging color map. Arcs do not use its pale middle.
    ax
        Axes to draw in. None: a new figure.

    Returns
    -------
    The axes. Positions are in base pairs, 0-based; the arcs of `other` lie below 0.

    Raises
    ------
    KeyError
        If the table, a column, a modality, the gene or linked features are unknown.
    TypeError
        If the table is no DataFrame.
    ValueError
        If the gene has no links, features have no regions, there is nothing to draw in the window
        or under the thresholds, or an argument has no meaning for this kind of plot.

    Notes
    -----
    Peaks are taken from the columns ``chrom``, ``chromStart``, ``chromEnd`` (or ``chrom``,
    ``start``, ``end``) of ``mdata[target].var``, else from names such as ``chr1:100-200``. Arcs
    end in the middle of a peak. All peaks of the modality in the view are drawn, linked ones dark.
    If the position of the gene is not known, it is drawn in the middle of the peaks that it is
    linked to, says so, and its arcs are dashed: their widths are then no distances.

    Rows and columns of a matrix are ordered by average-linkage clustering of the correlations,
    with 0 where there is no link.

    Examples
    --------
    >>> import cantata, mudata, numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> rna, atac = AnnData(np.ones((2, 1))), AnnData(np.ones((2, 3)))
    >>> rna.var_names = ["Fam107a"]
    >>> atac.var_names = [
    ...     "chr14:8286000-8287000",
    ...     "chr14:8290000-8290500",
    ...     "chr14:8321000-8322000",
    ... ]
    >>> mdata = mudata.MuData({"rna": rna, "atac": atac})
    >>> table = pd.DataFrame(
    ...     {"source": "Fam107a", "target": atac.var_names[:2], "correlation": [0.4, -0.1]}
    ... )
    >>> ax = cantata.pl.links(mdata, "Fam107a", links=table)
    >>> ax.get_xlabel()
    'chr14 (Mb)'
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: the kinds are {', '.join(get_args(Kind))}.")
    find = partial(_find_links, mdata, column=column, min_correlation=min_correlation, max_q=max_q)
    check_mudata(mdata)
    genes = None
    if gene is not None:
        genes = name_list("gene", gene)
    table = find(links, method)
    if genes is not None:
        table = _links_of(table, genes, mdata, source)
    if kind == "auto":
        single = genes is not None and len(genes) == 1
        kind = "locus" if single and _has_regions(mdata, target) else "heatmap"
    if kind == "heatmap":
        if other is not None:
            raise ValueError("other= needs kind='locus': a matrix shows one set of links.")
        return _draw_heatmap(table, n_top, names=(source, target), cmap=cmap, ax=ax)
    if genes is None or len(genes) != 1:
        raise ValueError("kind='locus' shows one gene; name it: gene=.")
    titles = names or (method, "other")
    tables = {titles[0]: table}
    if other is not None:
        compared = find(other, method, argument="other")
        tables[titles[1]] = _links_of(compared, genes, mdata, source)
    locus = _find_locus(
        genes[0],
        tables,
        mdata,
        source=source,
        target=target,
        annotation=annotation,
        window=window,
    )
    return _draw_locus(locus, cmap, ax)


def _has_regions(mdata: MuData, modality: str) -> bool:
    try:
        target_regions(mdata, modality)
    except (KeyError, ValueError):
        return False
    return True


# Tables of links -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LinkTable:
    """Links that were checked."""

    links: pd.DataFrame
    """Columns ``source``, ``target``, ``correlation`` and ``counts``."""
    rule: str
    """When a link counts, in words; empty if all do."""
    quantity: str
    """What the correlations are, in words."""
    name: str
    """What errors call the table."""


def _find_links(
    mdata: MuData,
    links: pd.DataFrame | None,
    method: str,
    *,
    column: str,
    min_correlation: float,
    max_q: float,
    argument: str = "links",
) -> _LinkTable:
    """The links to draw, checked, from the argument of that name or else from ``mdata.uns``.

    Links without a correlation are left out; those without a q value count.
    """
    for threshold, value in (("min_correlation", min_correlation), ("max_q", max_q)):
        if not 0 <= value <= 1:
            raise ValueError(f"{threshold}={value!r} must lie between 0 and 1.")
    name = argument
    if links is None:
        key = _keys.inferred_links(method)
        name = f"mdata.uns[{key!r}]"
        if key not in mdata.uns:
            raise KeyError(
                f"{name} does not exist. Infer links with cantata.tl.infer_links, or give a "
                f"table: {argument}=."
            )
        links = mdata.uns[key]
    if not isinstance(links, pd.DataFrame):
        raise TypeError(f"{name} is a {type(links).__name__}; a DataFrame is needed.")
    absent = [needed for needed in ("source", "target", column) if needed not in links]
    if absent:
        raise KeyError(f"{name} has no column {absent[0]!r}; its columns are {list(links)}.")
    table = pd.DataFrame(
        {
            "source": links["source"].astype(str).to_numpy(),
            "target": links["target"].astype(str).to_numpy(),
            "correlation": pd.to_numeric(links[column]).to_numpy(dtype=np.float64),
        }
    )
    counts = table["correlation"].abs().to_numpy() >= min_correlation
    rules = [f"|r| ≥ {min_correlation:g}"] if min_correlation > 0 else []
    if "q" in links and max_q < 1:
        q = pd.to_numeric(links["q"]).to_numpy(dtype=np.float64)
        counts &= np.isnan(q) | (q <= max_q)
        rules.append(f"q ≤ {max_q:g}")
    table["counts"] = counts
    table = table[table["correlation"].notna()].reset_index(drop=True)
    _check_links(table, name)
    return _LinkTable(table, " and ".join(rules), column.replace("_", " "), name)


def _check_links(table: pd.DataFrame, where: str) -> None:
    if table.empty:
        raise ValueError(f"{where} holds no link with a correlation.")
    outside = table[table["correlation"].abs() > 1 + 1e-6]
    if len(outside):
        row = outside.iloc[0]
        raise ValueError(
            f"{where}: {len(outside)} correlations lie outside -1 to 1, e.g. "
            f"{row['correlation']:.3g} of {row['source']!r} and {row['target']!r}."
        )
    twice = table[table.duplicated(["source", "target"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"{where}: {len(twice)} links occur more than once, e.g. {row['source']!r} with "
            f"{row['target']!r}. Give the rows of one analysis."
        )


def _links_of(table: _LinkTable, genes: Sequence[str], mdata: MuData, source: str) -> _LinkTable:
    """The links of the given source features; an error for a gene that has none."""
    linked = table.links["source"].value_counts()
    features = mdata[source].var_names if source in mdata.mod else pd.Index([])
    for gene in genes:
        if gene in linked.index:
            continue
        if gene not in features:
            known = {str(name) for name in [*linked.index, *features]}
            near = difflib.get_close_matches(gene, sorted(known), n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
            raise KeyError(f"{gene!r} is no feature of {source!r} and not in {table.name}{hint}")
        raise ValueError(
            f"{gene!r} has no links in {table.name}; {len(linked)} features of {source!r} have, "
            f"most of them {', '.join(repr(name) for name in linked.index[:5])}."
        )
    chosen = table.links["source"].isin(list(genes))
    return replace(table, links=table.links[chosen].reset_index(drop=True))


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


def _draw_heatmap(
    table: _LinkTable, n_top: int, *, names: tuple[str, str], cmap: str, ax: Axes | None
) -> Axes:
    """Draw the strongest of the links that count as a matrix in which blocks can be seen."""
    check_integer("n_top", n_top)
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
        ax = new_axes(matrix, CELL_INCHES)
    limit = float(np.nanmax(np.abs(matrix.to_numpy()))) or 1.0
    bar_label = f"{table.quantity} ({table.rule})" if table.rule else table.quantity
    draw_matrix(ax, matrix, cmap=cmap, limits=(-limit, limit), bar_label=bar_label)
    ax.set(xlabel=labels[1], ylabel=labels[0])
    return ax


# One gene on the genome ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Track:
    """One set of links of the gene."""

    name: str
    links: pd.DataFrame
    """Columns ``middle`` (of the peak, in base pairs), ``correlation`` and ``counts``."""
    rule: str
    """When a link counts, in words."""
    n_outside: int
    """Number of links of the gene outside the view."""

    @property
    def caption(self) -> str:
        """What the track shows, in words."""
        text = f"{len(self.links)} link{'s' * (len(self.links) != 1)}"
        if self.rule:
            text = f"{self.links['counts'].sum()} of {text} with {self.rule}"
        outside = f" ({self.n_outside} more outside)" if self.n_outside else ""
        return f"{self.name}: {text}{outside}"


@dataclass(frozen=True)
class _Locus:
    """A gene, the peaks around it, and the links between them."""

    gene: Gene
    quantity: str
    """What the correlations are, in words."""
    tracks: list[_Track]
    peaks: pd.DataFrame
    view: tuple[float, float]
    """First and last base pair."""


def _place_gene(name: str, gene: Gene | None, linked: pd.DataFrame) -> Gene:
    """The gene; where its position is not known, amid the peaks that it is linked to."""
    if gene is None:
        chrom = linked["chrom"].value_counts().index[0]
        here = linked[linked["chrom"] == chrom]
        middle = (here["start"].min() + here["end"].max()) / 2
        return Gene(name, str(chrom), middle, middle, ".", known=False)
    here = same_chromosome(linked["chrom"], gene.chrom)
    if not here.any():
        raise ValueError(
            f"{name!r} lies on {gene.chrom} and its {len(linked)} linked peaks lie on "
            f"{', '.join(map(str, linked['chrom'].unique()))}; see kind='heatmap'."
        )
    return replace(gene, chrom=linked["chrom"][here].iloc[0])


def _view(gene: Gene, peaks: pd.DataFrame, window: int | None) -> tuple[float, float]:
    if window is not None:
        return max(gene.tss - window, 0), gene.tss + window
    first = min(gene.start, peaks["start"].min())
    last = max(gene.end, peaks["end"].max())
    margin = max(0.05 * (last - first), 500)
    return max(first - margin, 0), last + margin


def _find_locus(
    name: str,
    tables: dict[str, _LinkTable],
    mdata: MuData,
    *,
    source: str,
    target: str,
    annotation: pd.DataFrame | str | Path | None,
    window: int | None,
) -> _Locus:
    """Gather what the view of the gene `name` shows; arguments and errors as in :func:`links`."""
    if window is not None and window <= 0:
        raise ValueError(f"window={window!r} must be a positive number of base pairs.")
    regions = target_regions(mdata, target)
    linked = pd.Index(pd.unique(pd.concat([table.links["target"] for table in tables.values()])))
    unknown = linked.difference(regions.index)
    if len(unknown):
        raise KeyError(
            f"{len(unknown)} of the {len(linked)} features linked to {name!r} are not in "
            f"modality {target!r}, e.g. {unknown[0]!r}."
        )
    linked_peaks = regions.loc[linked]
    annotated = find_gene(name, annotation, mdata, source, linked_peaks["chrom"])
    gene = _place_gene(name, annotated, linked_peaks)
    peaks = regions[same_chromosome(regions["chrom"], gene.chrom)]
    peaks = peaks.assign(
        linked=peaks.index.isin(linked), middle=(peaks["start"] + peaks["end"]) / 2
    )
    view = _view(gene, peaks[peaks["linked"]], window)
    peaks = peaks[(peaks["end"] > view[0]) & (peaks["start"] < view[1])]
    tracks = []
    for track, table in tables.items():
        placed = table.links.assign(middle=table.links["target"].map(peaks["middle"]))
        shown = placed[placed["middle"].between(*view)]
        tracks.append(_Track(track, shown, table.rule, len(placed) - len(shown)))
    if all(track.links.empty for track in tracks):
        raise ValueError(
            f"No linked peak lies within {window:,} bp of {name!r}; widen the window."
        )
    return _Locus(gene, next(iter(tables.values())).quantity, tracks, peaks, view)


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
        figure = ax.get_figure(root=True)
        inches = ax.get_position().height * figure.get_figheight() if figure else 3.0
        line = 1.4 * FontProperties(size="medium").get_size_in_points() / 72
        plain = cls(0, line + GAP_INCHES, BOX_INCHES, GAP_INCHES, line, mirrored)
        low, high = plain.limits
        halves = 2 if mirrored else 1
        # units per inch of the arcs, which get at least three tenths of the height
        scale = top / max((inches - (high - low)) / halves, 0.3 * inches / halves)
        return replace(
            plain,
            top=top,
            head=plain.head * scale,
            box=plain.box * scale,
            gap=plain.gap * scale,
            text=plain.text * scale,
        )


def _draw_locus(locus: _Locus, cmap: str, ax: Axes | None = None) -> Axes:
    """Draw a locus; its second track downwards."""
    mirrored = len(locus.tracks) > 1
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 5.4 if mirrored else 3.6), layout="constrained")
    top = np.nanmax([track.links["correlation"].abs().max() for track in locus.tracks]) or 1.0
    rows = _Rows.of(ax, float(top), mirrored=mirrored)
    norm, colors = Normalize(-rows.top, rows.top), _arc_colors(cmap)
    for i, track in enumerate(locus.tracks):
        base, sign = (-rows.band, -1) if i else (0.0, 1)
        _draw_arcs(ax, locus.gene, track, base, sign, colors, norm)
        ax.axhline(base, color=FAINT, lw=0.8, zorder=0)
        side, y = ("bottom", 0.01) if i else ("top", 0.99)
        ax.text(0.01, y, track.caption, transform=ax.transAxes, va=side)
        _draw_peaks(ax, locus.peaks, base - sign * (rows.gap + rows.box), sign * rows.box)
    _draw_gene(ax, locus, rows)
    _draw_axes(ax, locus, rows)
    low, high = rows.limits
    bottom = rows.head if mirrored else -low
    bar = ax.inset_axes(
        (1.02, bottom / (high - low), 0.02, 1 - (bottom + rows.head) / (high - low))
    )
    plt.colorbar(ScalarMappable(norm, colors), cax=bar, label=locus.quantity)
    return ax


def _draw_arcs(
    ax: Axes, gene: Gene, track: _Track, base: float, sign: int, colors: Colormap, norm: Normalize
) -> None:
    """Half ellipses from the gene to the peaks, as high as the correlation; the weakest first."""
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
            arcs.set(array=r, cmap=colors, norm=norm, linewidths=1 + 2 * np.abs(r) / norm.vmax)
            arcs.set_zorder(3)
        else:
            arcs.set(color=FAINT, linewidths=0.9)
        arcs.set_label(track.name)
        ax.add_collection(arcs, autolim=False)


def _draw_peaks(ax: Axes, peaks: pd.DataFrame, bottom: float, height: float) -> None:
    """True to width; the edge keeps narrow peaks visible. Linked peaks are dark."""
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


def _draw_gene(ax: Axes, locus: _Locus, rows: _Rows) -> None:
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


def _draw_axes(ax: Axes, locus: _Locus, rows: _Rows) -> None:
    low, high = rows.limits
    ax.set(xlim=locus.view, ylim=rows.limits)
    locator = MaxNLocator(3 if rows.mirrored else 4, steps=[1, 2, 5, 10])
    ticks = np.array(locator.tick_values(0, rows.top), dtype=np.float64)
    ticks = ticks[(ticks >= 0) & (ticks <= rows.top * 1.001)]
    labels = [f"{tick:g}" for tick in ticks]
    if rows.mirrored:
        ax.set_yticks([*ticks, *(-rows.band - ticks)], [*labels, *labels])
        ax.set_ylabel(f"|{locus.quantity}|")
        ax.spines["left"].set_bounds(-rows.band - rows.top, rows.top)
    else:
        ax.set_yticks(ticks, labels)
        ax.set_ylabel(f"|{locus.quantity}|", y=(rows.top / 2 - low) / (high - low))
        ax.spines["left"].set_bounds(0, rows.top)
    ax.spines[["top", "right"]].set_visible(False)
    _genomic_axis(ax, locus.gene.chrom, locus.view)


def _genomic_axis(ax: Axes, chrom: str, view: tuple[float, float]) -> None:
    unit, name = (1e6, "Mb") if view[1] >= 1e6 else (1e3, "kb")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    step = np.diff(ax.xaxis.get_major_locator()())[0] / unit
    decimals = max(0, int(np.ceil(-np.log10(step) - 1e-9)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / unit:,.{decimals}f}"))
    prefix = "" if chrom.startswith("chr") else "chromosome "
    ax.set_xlabel(f"{prefix}{chrom} ({name})")


def _arc_colors(cmap: str) -> Colormap:
    """A diverging color map without its pale middle: lines near it cannot be seen on white."""
    ends = np.concatenate([np.linspace(0, 0.36, 128), np.linspace(0.64, 1, 128)])
    return ListedColormap(colormaps[cmap](ends), name=f"{cmap}_ends")
