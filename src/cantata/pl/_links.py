"""Links between features: a locus with arcs, or a matrix."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from cantata.pl._links_heatmap import links_heatmap
from cantata.pl._links_table import find_links, links_of
from cantata.pl._locus import make_locus
from cantata.pl._locus_coordinates import target_regions
from cantata.pl._locus_drawing import arc_colors, draw_locus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from mudata import MuData

Kind = Literal["auto", "locus", "heatmap"]


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
    transcription start site to the linked peaks. Height, colour and width of an arc tell the
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
        Links to compare with, e.g. those in truly paired cells: drawn downwards. Locus only.
    names
        Names of the links and of `other`. None: `method` and ``"other"``.
    n_top
        Most rows and most columns of a matrix: each feature of `target` brings its strongest
        link, strongest first, then its second strongest, and so on while there is room.
    cmap
        Diverging colour map. Arcs do not use its pale middle.
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
    find = partial(find_links, mdata, column=column, min_correlation=min_correlation, max_q=max_q)
    genes = [gene] if isinstance(gene, str) else None if gene is None else list(gene)
    table = find(links, method)
    if genes is not None:
        table = links_of(table, genes, mdata, source)
    if kind == "auto":
        one = genes is not None and len(genes) == 1
        kind = "locus" if one and _has_regions(mdata, target) else "heatmap"
    if kind == "heatmap":
        if other is not None:
            raise ValueError("other= needs kind='locus': a matrix shows one set of links.")
        return links_heatmap(table, n_top, names=(source, target), cmap=cmap, ax=ax)
    if genes is None or len(genes) != 1:
        raise ValueError("kind='locus' shows one gene; name it: gene=.")
    titles = names or (method, "other")
    tables = {titles[0]: table}
    if other is not None:
        compared = find(other, method, argument="other")
        tables[titles[1]] = links_of(compared, genes, mdata, source)
    locus = make_locus(
        genes[0],
        tables,
        mdata,
        source=source,
        target=target,
        annotation=annotation,
        window=window,
    )
    return draw_locus(locus, arc_colors(cmap), ax)


def _has_regions(mdata: MuData, modality: str) -> bool:
    try:
        target_regions(mdata, modality)
    except (KeyError, ValueError):
        return False
    return True
