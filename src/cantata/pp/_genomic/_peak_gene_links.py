"""Link genes with the peaks around them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from cantata._mudata.regions import check_chromosomes, gene_regions, peak_regions
from cantata.pp._genomic._table import check_names, links_from_table

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData

logger = logging.getLogger(__name__)

Decay = Literal["power", "exponential"] | Callable[[np.ndarray], np.ndarray] | None

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
        ``.var["gene_ids"]`` if it exists, by name, then by name taken as an identifier; versions
        of Ensembl identifiers are ignored. A gene that is annotated in several places is linked
        with the peaks of all.
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
    check_names(mdata, peaks, genes)
    if links is not None:
        if annotation is not None:
            raise ValueError("links and annotation are both given; give one of them.")
        return links_from_table(mdata, links, peaks, genes)
    _check_numbers(upstream, max_distance, min_weight, decay)
    places = gene_regions(genes, None if genes is None else mdata[genes], annotation)
    if upstream or not gene_body:
        _check_strands(places)
    found = _near(
        peak_regions(peaks, mdata[peaks]),
        _extend(places, upstream, gene_body),
        max_distance,
        peaks,
    )
    found["weight"] = _weigh(found["distance"].to_numpy(), decay)
    found = found[found["weight"] >= min_weight].reset_index(drop=True)
    if found.empty:
        raise ValueError(
            f"No peak of modality {peaks!r} is linked with any of "
            f"{places['gene'].nunique()} genes. Check that both are of one assembly, or allow "
            f"more: max_distance={max_distance}, upstream={upstream}, min_weight={min_weight}."
        )
    _say(found, mdata[peaks].n_vars, places["gene"].nunique(), peaks)
    targets = mdata[peaks].var_names.to_numpy()[found["peak"]]
    return pd.DataFrame(
        {
            "source": found["gene"],
            "target": targets,
            "weight": found["weight"],
            "distance": found["distance"],
        }
    )


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


def _check_strands(places: pd.DataFrame) -> None:
    """Refuse strands that would silently put promoters on the wrong side."""
    known = places["strand"].isin(["+", "-"])
    bad = ~known if not known.any() else ~known & (places["strand"] != ".")
    if bad.any():
        example = places[bad].iloc[0]
        raise ValueError(
            f"{bad.sum()} of {len(places)} genes have no strand '+' or '-', e.g. that of "
            f"{example['gene']!r} is {example['strand']!r}. Give an annotation with strands, or "
            "gene_body=True, upstream=0."
        )


def _extend(places: pd.DataFrame, upstream: int, gene_body: bool) -> pd.DataFrame:
    """Regions of genes: body or transcription start site, and the bases upstream of it."""
    reverse = (places["strand"] == "-").to_numpy()
    start, end = places["start"].to_numpy(), places["end"].to_numpy()
    if not gene_body:
        start = np.where(reverse, end - 1, start)
        end = start + 1
    return places.assign(
        start=np.where(reverse, start, np.maximum(start - upstream, 0)),
        end=np.where(reverse, end + upstream, end),
    )


def _near(
    peaks: pd.DataFrame, regions: pd.DataFrame, max_distance: int, name: str
) -> pd.DataFrame:
    """Gene, position of the peak and their distance, for all within `max_distance`."""
    import bioframe

    check_chromosomes(peaks, regions, name)
    order = {gene: i for i, gene in enumerate(pd.unique(regions["gene"]))}
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
    found = pd.DataFrame(
        {
            "gene": regions["gene"].to_numpy()[row],
            "peak": peak,
            "distance": np.maximum(np.maximum(after, before) + 1, 0),
            "rank": regions["gene"].map(order).to_numpy()[row],
        }
    )
    found = found.sort_values(["rank", "peak", "distance"], kind="stable")
    found = found.drop_duplicates(["rank", "peak"])
    return found[["gene", "peak", "distance"]].reset_index(drop=True)


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


def _say(found: pd.DataFrame, n_peaks: int, n_genes: int, peaks: str) -> None:
    logger.info(
        "%d links: %d of %d genes, %d of %d peaks of modality %r.",
        len(found),
        found["gene"].nunique(),
        n_genes,
        found["peak"].nunique(),
        n_peaks,
        peaks,
    )
