"""Sum the accessibility of the peaks that are linked with a gene."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pandas as pd
from scipy import sparse

from cantata import _keys
from cantata._mudata.rows import iter_blocks
from cantata.pp._counts import chosen_matrix
from cantata.pp._genomic._modality import add_modality, check_features
from cantata.pp._genomic._peak_gene_links import Decay, peak_gene_links
from cantata.pp._genomic._table import check_names

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

logger = logging.getLogger(__name__)

SHOWN = 100_000
"""From so many cells on a progress bar is shown."""

BLOCK = 4096
"""Cells that are read at a time."""

RECORD = "gene_activity"
"""Entry of ``uns["cantata"]`` of a modality that was made here."""


@overload
def gene_activity(
    mdata: MuData,
    peaks: str = ...,
    genes: str | None = ...,
    *,
    annotation: pd.DataFrame | str | Path | None = ...,
    links: pd.DataFrame | str | None = ...,
    layer: str | None = ...,
    upstream: int = ...,
    gene_body: bool = ...,
    max_distance: int = ...,
    decay: Decay = ...,
    min_weight: float = ...,
    key_added: str = ...,
    copy: Literal[False] = ...,
) -> None: ...
@overload
def gene_activity(
    mdata: MuData,
    peaks: str = ...,
    genes: str | None = ...,
    *,
    annotation: pd.DataFrame | str | Path | None = ...,
    links: pd.DataFrame | str | None = ...,
    layer: str | None = ...,
    upstream: int = ...,
    gene_body: bool = ...,
    max_distance: int = ...,
    decay: Decay = ...,
    min_weight: float = ...,
    key_added: str = ...,
    copy: Literal[True],
) -> AnnData: ...
def gene_activity(
    mdata: MuData,
    peaks: str = "atac",
    genes: str | None = "rna",
    *,
    annotation: pd.DataFrame | str | Path | None = None,
    links: pd.DataFrame | str | None = None,
    layer: str | None = None,
    upstream: int = 2000,
    gene_body: bool = True,
    max_distance: int = 0,
    decay: Decay = None,
    min_weight: float = 0.0,
    key_added: str = "activity",
    copy: bool = False,
) -> AnnData | None:
    """Gene activity: for each gene the sum of the counts of its peaks.

    The peaks of a gene are those of :func:`cantata.pp.peak_gene_links`; by default they overlap
    its body or the 2,000 bases upstream of it (Stuart et al. 2021, Signac, which counts fragments
    there). With weights the sum is weighted. A peak of several genes counts for each of them.

    Parameters
    ----------
    mdata
        Any MuData. Modalities may be on disk with `copy`.
    peaks, genes, annotation, links, upstream, gene_body, max_distance, decay, min_weight
        As for :func:`cantata.pp.peak_gene_links`.
    layer
        Layer of ``mdata[peaks]`` that holds counts; None: what :func:`cantata.pp.preprocess`
        recorded, else ``.X``.
    key_added
        Name of the new modality; an activity of that name is replaced.
    copy
        Return the activity and write nothing.

    Returns
    -------
    With `copy` an AnnData, the cells of ``mdata[peaks]`` x the genes that have a peak, else None
    and it becomes ``mdata[key_added]``:

    - ``.X``: CSR float32; integers if no link has a weight but 1 and the peaks are counts,
    - ``.obs`` and ``.obsm["spatial"]``: those of ``mdata[peaks]``,
    - ``.var["n_peaks"]``: number of peaks of each gene,
    - ``.uns["cantata"]["gene_activity"]``: the modality and the number of links.

    Genes keep the names and the order of ``mdata[genes]``, so that equal names are linked by
    ``cantata.pp.link_features(mdata, "rna", "activity")``. A gene without a peak is left out: a
    column of zeros would say that it is closed, and not that it was not looked at. Entries of
    ``mdata.obsm``, ``obsp``, ``varm`` and ``varp`` are kept and those over features are extended:
    new features have no links, and missing values in ``varm``.

    Raises
    ------
    TypeError, KeyError, ValueError
        As for :func:`cantata.pp.peak_gene_links`; for a layer that does not exist; without `copy`
        if the MuData is on disk or `key_added` is any other modality.

    Examples
    --------
    >>> import cantata, mudata, numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> rna, atac = AnnData(np.ones((2, 2))), AnnData(np.array([[1.0, 2.0, 4.0], [0.0, 3.0, 0.0]]))
    >>> rna.var_names, atac.var_names = ["Sox2", "Reln"], ["p0", "p1", "p2"]
    >>> mdata = mudata.MuData({"rna": rna, "atac": atac})
    >>> links = pd.DataFrame({"gene": ["Sox2", "Reln", "Reln"], "peak": ["p0", "p1", "p2"]})
    >>> cantata.pp.gene_activity(mdata, links=links)
    >>> mdata["activity"].to_df()
       Sox2  Reln
    0   1.0   6.0
    1   0.0   3.0
    """
    check_names(mdata, peaks, genes)
    if not copy:
        _check_place(mdata, key_added)
    layers = {} if layer is None else {peaks: layer}
    matrix, _ = chosen_matrix(peaks, mdata[peaks], layers, f"layer={layer!r}")
    table = peak_gene_links(
        mdata,
        peaks,
        genes,
        annotation=annotation,
        links=links,
        upstream=upstream,
        gene_body=gene_body,
        max_distance=max_distance,
        decay=decay,
        min_weight=min_weight,
    )
    activity = _activity(peaks, mdata[peaks], matrix, table)
    _say(mdata, peaks, genes, table)
    if copy:
        return activity
    add_modality(mdata, key_added, activity)
    return None


def sum_linked(matrix: Any, links: sparse.csr_matrix) -> sparse.csr_matrix:
    """Product of a matrix of any kind and a sparse matrix, read in blocks of rows.

    Parameters
    ----------
    matrix
        Cells x peaks: sparse, dense, dask, or on disk.
    links
        Peaks x genes.

    Returns
    -------
    CSR float32 matrix, cells x genes, without explicit zeros.
    """
    from rich.progress import track

    if sparse.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    n_rows = matrix.shape[0]
    blocks = track(
        iter_blocks(matrix, n_rows, BLOCK),
        description="Gene activity",
        total=-(-n_rows // BLOCK),
        disable=n_rows < SHOWN,
    )
    weights = sparse.csr_matrix(links, dtype=np.float32)
    found = []
    for _, block in blocks:
        values = sparse.csr_matrix(block, dtype=np.float32) @ weights
        values.eliminate_zeros()
        found.append(values)
    return sparse.vstack(found, format="csr", dtype=np.float32)


def _check_place(mdata: MuData, name: str) -> None:
    """Refuse a MuData that cannot take the modality, and a name that would overwrite data."""
    if mdata.isbacked or any(adata.isbacked for adata in mdata.mod.values()):
        raise ValueError(
            "The MuData is backed, and a modality cannot be added on disk. Use copy=True, and "
            "build a MuData from the result and the other modalities."
        )
    check_features(mdata)
    if name not in mdata.mod:
        return
    if RECORD not in mdata[name].uns.get(_keys.UNS, {}):
        raise ValueError(
            f"key_added={name!r} is a modality that gene_activity did not make; name another one."
        )
    others = [adata.obs_names for other, adata in mdata.mod.items() if other != name]
    alone = mdata[name].obs_names.difference(others[0].append(others[1:]))
    if alone.size:
        raise ValueError(
            f"{alone.size} cells, e.g. {alone[0]!r}, are only in the modality {name!r} that would "
            f"be replaced. Remove it first: del mdata.mod[{name!r}]; mdata.update()."
        )


def _activity(peaks: str, adata: AnnData, matrix: Any, links: pd.DataFrame) -> AnnData:
    from anndata import AnnData

    column, names = pd.factorize(links["source"])
    row = adata.var_names.get_indexer(links["target"])
    weights = sparse.csr_matrix(
        (links["weight"].to_numpy(dtype=np.float32), (row, column)),
        shape=(adata.n_vars, len(names)),
    )
    var = pd.DataFrame({"n_peaks": np.bincount(column)}, index=pd.Index(names, dtype=object))
    activity = AnnData(sum_linked(matrix, weights), obs=adata.obs.copy(), var=var)
    if "spatial" in adata.obsm:
        activity.obsm["spatial"] = adata.obsm["spatial"].copy()
    activity.uns[_keys.UNS] = {RECORD: {"peaks": peaks, "n_links": len(links)}}
    return activity


def _say(mdata: MuData, peaks: str, genes: str | None, links: pd.DataFrame) -> None:
    n_genes, n_peaks = links["source"].nunique(), links["target"].nunique()
    without = ""
    if genes is not None:
        without = f" {mdata[genes].n_vars - n_genes} features of {genes!r} have no peak."
    logger.info(
        "Activity of %d genes from %d of %d peaks; %d peaks have no gene.%s",
        n_genes,
        n_peaks,
        mdata[peaks].n_vars,
        mdata[peaks].n_vars - n_peaks,
        without,
    )
