"""Link genes with the peaks around them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import bioframe
import numpy as np
import pandas as pd

from cantata._mudata.checks import check_pair, warn_user
from cantata._mudata.link_tables import find_table
from cantata._mudata.regions import check_chromosomes, gene_regions, peak_regions
from cantata.pp._links._tables import FeatureNames

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData

logger = logging.getLogger(__name__)

Decay = Literal["power", "exponential"] | Callable[[np.ndarray], np.ndarray] | None

MIN_COVERAGE = 0.1
"""Of the genes that peaks could be linked with, a smaller share that is linked is warned of."""

DECAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "power": lambda distance: ((distance + 1000) / 1000) ** -0.75,
    "exponential": lambda distance: 2.0 ** (-distance / 10_000),
}
"""Weight as a function of the distance in base pairs."""


def peak_gene_links(
    mdata: MuData,
    peaks: str = "atac",
    genes: str | None = "rna",
    *,
    annotation: pd.DataFrame | str | Path | None = None,
    links: pd.DataFrame | str | None = None,
    upstream: int = 2000,
    gene_body: bool = True,
    max_distance: int = 0,
    decay: Decay = None,
    min_weight: float = 0.0,
) -> pd.DataFrame:
    r"""Link genes with the peaks on or near them.

    A gene's region is its body, or only its transcription start site with ``gene_body=False``,
    and the `upstream` bases before it on its strand (after it on the reference where the strand
    is ``"-"``; a strand of ``"."`` counts as ``"+"``). A peak is linked if it overlaps the region
    or lies at most `max_distance` away.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    peaks
        Chromatin modality. Coordinates are read from ``.var`` (``chrom``, ``chromStart``,
        ``chromEnd``; ``chrom`` or ``seqnames``, ``start``, ``end``; or ``interval``), else from
        names such as ``chr1:100-200``, ``chr1-100-200``, ``chr1_100_200``, and taken as 0-based
        and half-open.
    genes
        Modality whose genes are linked; None: all genes of the annotation. They are looked up by
        ``.var["gene_ids"]`` if it exists, by name, by name taken as an identifier, then by the
        column ``"gene"`` and known names of proteins, as in :func:`cantata.pp.link_features`;
        versions of Ensembl identifiers are ignored. A gene that is annotated in several places is
        linked with the peaks of all, and so is a protein of several genes.
    annotation
        Path of a GTF, or a table as from :func:`cantata.pp.read_annotation`. None: columns of
        ``mdata[genes].var`` as for peaks, with ``strand``.
    links
        Links that are known, in place of an annotation: a table with the columns ``source`` and
        ``target``, or ``gene`` and ``peak``, optionally ``weight`` and ``distance``; or its key in
        ``mdata.uns``. The arguments below do not apply. Links of absent features are left out with
        a warning; of repeated ones the largest weight counts.
    upstream
        Base pairs before the transcription start site that count as promoter.
    gene_body
        Whether the gene body is part of the region.
    max_distance
        Largest distance between peak and region, in base pairs; 0: they overlap.
    decay
        Weight of a link as a function of its distance :math:`d`. None: 1. ``"power"``:
        :math:`((d + 1000) / 1000)^{-0.75}`, as in GLUE (Cao and Gao 2022). ``"exponential"``:
        :math:`2^{-d / 10000}`, as in MAESTRO (Wang et al. 2020). Or a function of an array.
    min_weight
        Links of a smaller weight are left out.

    Returns
    -------
    One row per link, by gene and then by peak in their order in `mdata`: ``source`` (gene),
    ``target`` (peak), ``weight``, ``distance`` (base pairs from the region to the nearest base of
    the peak, 0 where they overlap; missing where a table of links has none).

    Raises
    ------
    TypeError
        If `mdata`, `annotation` or `links` is of a wrong type.
    KeyError
        For a modality, or a key of links, that does not exist.
    ValueError
        If coordinates are missing or wrong, chromosomes are named differently, arguments are out
        of range, or there is no link.

    Warns
    -----
    UserWarning
        If most features are not annotated, most genes and peaks lie on chromosomes of their own,
        or fewer than a tenth of the genes that could be linked are; if rows of `links` are left
        out.

    Notes
    -----
    GLUE's recommended graph is ``max_distance=0`` with gene body and promoter; its graph for
    regulatory inference is ``max_distance=150_000, decay="power"``. MAESTRO's regulatory
    potential is close to ``upstream=0, gene_body=False, max_distance=150_000,
    decay="exponential"``, with distances from the centre of the peak instead of its edge.

    Examples
    --------
    >>> import cantata, mudata, numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> rna, atac = AnnData(np.ones((2, 2))), AnnData(np.ones((2, 3)))
    >>> rna.var_names = ["Sox2", "Reln"]
    >>> atac.var_names = ["chr1:900-1100", "chr1:5000-5500", "chr2:10-90"]
    >>> genes = pd.DataFrame(
    ...     {
    ...         "gene": ["Sox2", "Reln"],
    ...         "chrom": ["chr1", "chr1"],
    ...         "start": [2000, 3000],
    ...         "end": [2500, 4900],
    ...         "strand": ["+", "-"],
    ...     }
    ... )
    >>> mdata = mudata.MuData({"rna": rna, "atac": atac})
    >>> cantata.pp.peak_gene_links(mdata, annotation=genes)
      source          target  weight  distance
    0   Sox2   chr1:900-1100     1.0         0
    1   Reln  chr1:5000-5500     1.0         0
    """
    check_peaks_and_genes(mdata, peaks, genes)
    if links is not None:
        if annotation is not None:
            raise ValueError("links and annotation are both given; give one of them.")
        return _links_from_table(mdata, links, peaks, genes)
    _check_numbers(upstream, max_distance, min_weight, decay)
    adata = None if genes is None else mdata[genes]
    aliases = () if genes is None else FeatureNames(genes, mdata[genes]).aliases()
    regions = gene_regions(genes, adata, annotation, aliases)
    if upstream or not gene_body:
        _check_strands(regions)
    near = _near(
        peak_regions(peaks, mdata[peaks]),
        _extend(regions, upstream, gene_body),
        max_distance,
        peaks,
    )
    near["weight"] = _weigh(near["distance"].to_numpy(), decay)
    near = near[near["weight"] >= min_weight].reset_index(drop=True)
    n_genes, n_peaks = regions["gene"].nunique(), mdata[peaks].n_vars
    if near.empty:
        raise ValueError(
            f"No peak of modality {peaks!r} is linked with any of {n_genes} genes. Check that "
            "both are of one assembly, or allow more: "
            f"max_distance={max_distance}, upstream={upstream}, min_weight={min_weight}."
        )
    n_linked = near["gene"].nunique()
    text = (
        f"{len(near)} links: {n_linked} of {n_genes} genes, {near['peak'].nunique()} of {n_peaks} "
        f"peaks of modality {peaks!r}."
    )
    if n_linked < MIN_COVERAGE * min(n_genes, n_peaks):
        warn_user(f"Only {text} Check that both are of one assembly, or allow more.")
    else:
        logger.info("%s", text)
    return pd.DataFrame(
        {
            "source": near["gene"],
            "target": mdata[peaks].var_names.to_numpy()[near["peak"]],
            "weight": near["weight"],
            "distance": near["distance"],
        }
    )


def check_peaks_and_genes(mdata: MuData, peaks: str, genes: str | None) -> None:
    """Refuse modalities that do not exist or cannot be used; see :func:`check_pair`."""
    hint = " With genes=None all genes of the annotation or table are taken."
    check_pair(mdata, {"genes": hint}, peaks=peaks, genes=genes)


def _check_numbers(upstream: int, max_distance: int, min_weight: float, decay: Decay) -> None:
    if min(upstream, max_distance) < 0 or min_weight < 0:
        raise ValueError(
            f"upstream={upstream}, max_distance={max_distance}, min_weight={min_weight}: none "
            "may be negative."
        )
    if not (decay is None or callable(decay) or decay in DECAYS):
        raise ValueError(
            f"decay={decay!r}: use None, {', '.join(map(repr, DECAYS))}, or a function."
        )


def _check_strands(regions: pd.DataFrame) -> None:
    """Refuse strands that would silently put promoters on the wrong side."""
    known = regions["strand"].isin(["+", "-"])
    bad = ~known if not known.any() else ~known & (regions["strand"] != ".")
    if bad.any():
        example = regions[bad].iloc[0]
        raise ValueError(
            f"{bad.sum()} of {len(regions)} genes have no strand '+' or '-', e.g. that of "
            f"{example['gene']!r} is {example['strand']!r}. Give an annotation with strands, or "
            "gene_body=True, upstream=0."
        )


def _extend(regions: pd.DataFrame, upstream: int, gene_body: bool) -> pd.DataFrame:
    """Regions of genes: body or transcription start site, and the bases upstream of it."""
    reverse = (regions["strand"] == "-").to_numpy()
    start, end = regions["start"].to_numpy(), regions["end"].to_numpy()
    if not gene_body:
        start = np.where(reverse, end - 1, start)
        end = start + 1
    return regions.assign(
        start=np.where(reverse, start, np.maximum(start - upstream, 0)),
        end=np.where(reverse, end + upstream, end),
    )


def _near(
    peaks: pd.DataFrame, regions: pd.DataFrame, max_distance: int, name: str
) -> pd.DataFrame:
    """Gene, position of the peak and their distance, for all within `max_distance`."""
    check_chromosomes(peaks, regions, name)
    regions = regions.reset_index(drop=True)
    window = regions.assign(
        start=np.maximum(regions["start"] - max_distance, 0), end=regions["end"] + max_distance
    )
    pairs = bioframe.overlap(
        window[["chrom", "start", "end"]],
        peaks,
        how="inner",
        return_input=False,
        return_index=True,
    )
    row, peak = (pairs[c].to_numpy(dtype=np.int64) for c in ("index", "index_"))
    after = peaks["start"].to_numpy()[peak] - regions["end"].to_numpy()[row]
    before = regions["start"].to_numpy()[row] - peaks["end"].to_numpy()[peak]
    near = pd.DataFrame(
        {
            "gene": regions["gene"].to_numpy()[row],
            "peak": peak,
            "distance": np.maximum(np.maximum(after, before) + 1, 0),
            "rank": pd.factorize(regions["gene"])[0][row],
        }
    )
    # a gene that is annotated in several places is as far as the nearest of them
    near = near.sort_values(["rank", "peak", "distance"], kind="stable")
    near = near.drop_duplicates(["rank", "peak"])
    return near[["gene", "peak", "distance"]].reset_index(drop=True)


def _weigh(distance: np.ndarray, decay: Decay) -> np.ndarray:
    """Weight of each link."""
    if decay is None:
        return np.ones(distance.size)
    function = DECAYS[decay] if isinstance(decay, str) else decay
    weight = np.asarray(function(distance.astype(np.float64)), dtype=np.float64)
    if weight.shape != distance.shape or not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError(
            "decay must return one finite weight of at least 0 for every distance it is given."
        )
    return weight


def _links_from_table(
    mdata: MuData, links: pd.DataFrame | str, peaks: str, genes: str | None
) -> pd.DataFrame:
    """A user's table of links in the form of :func:`peak_gene_links`, checked.

    Genes are in the order of the table where `genes` is None.
    """
    table = _oriented(*find_table(mdata, links, "links"), mdata[peaks].var_names)
    known_peaks = mdata[peaks].var_names
    known_genes = pd.Index(pd.unique(table["source"])) if genes is None else mdata[genes].var_names
    gene, peak = known_genes.get_indexer(table["source"]), known_peaks.get_indexer(table["target"])
    absent = (gene < 0) | (peak < 0)
    if absent.any():
        row = table[absent].iloc[0]
        text = (
            f"{absent.sum()} of {len(table)} links name a gene or a peak that the MuData does not "
            f"have, e.g. {row['source']!r} with {row['target']!r}"
        )
        if absent.all():
            raise ValueError(
                f"{text}. Modality {peaks!r} names its peaks e.g. {known_peaks[0]!r}, genes are "
                f"named e.g. {known_genes[0]!r}."
            )
        warn_user(f"{text}; they are left out.")
    table = table.assign(gene=gene, peak=peak)[~absent]
    table = table.sort_values(["gene", "peak", "weight"], ascending=[True, True, False])
    table = table.drop_duplicates(["gene", "peak"])
    return table[["source", "target", "weight", "distance"]].reset_index(drop=True)


def _oriented(links: pd.DataFrame, columns: tuple[str, str], peaks: pd.Index) -> pd.DataFrame:
    """Table with columns source (gene), target (peak), weight and distance.

    Peaks may be the first or the second of `columns`.
    """
    first, second = (links[column].astype(str).to_numpy(dtype=object) for column in columns)
    if (peaks.get_indexer(second) < 0).all() and (peaks.get_indexer(first) >= 0).any():
        first, second = second, first
    weight = links["weight"].to_numpy() if "weight" in links else np.ones(len(links))
    weight = pd.to_numeric(pd.Series(weight), errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"links: {bad.sum()} of {len(links)} weights are no finite numbers of at least 0, "
            f"e.g. that of {first[row]!r} with {second[row]!r}."
        )
    table = pd.DataFrame({"source": first, "target": second, "weight": weight})
    table["distance"] = links["distance"].to_numpy() if "distance" in links else np.nan
    return table
