"""Sum the accessibility of the peaks that are linked with a gene."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.progress import track
from scipy import sparse

from cantata import _keys
from cantata._mudata.checks import check_varmap
from cantata._mudata.pairing import feature_rows
from cantata._mudata.parts import no_pull
from cantata._mudata.values import choose_layer, iter_blocks, matrix_of
from cantata.pp._peak_gene_links import Decay, check_peaks_and_genes, peak_gene_links

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData

logger = logging.getLogger(__name__)

PROGRESS_CELLS = 100_000
"""From so many cells on a progress bar is shown."""

BLOCK_CELLS = 4096
"""Cells that are read at a time."""

RECORD = "gene_activity"
"""Entry of ``uns["cantata"]`` of a modality that was made here."""


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
    key_added: str | None = "activity",
) -> AnnData:
    """Gene activity: for each gene the sum of the counts of its peaks.

    The peaks of a gene are those of :func:`cantata.pp.peak_gene_links`; by default they overlap
    its body or the 2,000 bases upstream of it (Stuart et al. 2021, Signac, which counts fragments
    there). With weights the sum is weighted. A peak of several genes counts for each of them.

    Parameters
    ----------
    mdata
        Any MuData. Modalities may be on disk with ``key_added=None``.
    peaks, genes, annotation, links, upstream, gene_body, max_distance, decay, min_weight
        As for :func:`cantata.pp.peak_gene_links`.
    layer
        Layer of ``mdata[peaks]`` that holds counts; None: what :func:`cantata.pp.preprocess`
        recorded, else ``.X``.
    key_added
        Name of the new modality; an activity of that name is replaced. None: nothing is written.

    Returns
    -------
    The activity, which also becomes ``mdata[key_added]``: the cells of ``mdata[peaks]`` x the
    genes that have a peak, with

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
        As for :func:`cantata.pp.peak_gene_links`; for a layer that does not exist; with
        `key_added` if the MuData is on disk or that is any other modality.

    Examples
    --------
    >>> import cantata, mudata, numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> rna, atac = AnnData(np.ones((2, 2))), AnnData(np.array([[1.0, 2.0, 4.0], [0.0, 3.0, 0.0]]))
    >>> rna.var_names, atac.var_names = ["Sox2", "Reln"], ["p0", "p1", "p2"]
    >>> mdata = mudata.MuData({"rna": rna, "atac": atac})
    >>> links = pd.DataFrame({"gene": ["Sox2", "Reln", "Reln"], "peak": ["p0", "p1", "p2"]})
    >>> activity = cantata.pp.gene_activity(mdata, links=links)
    >>> mdata["activity"].to_df()
       Sox2  Reln
    0   1.0   6.0
    1   0.0   3.0
    """
    check_peaks_and_genes(mdata, peaks, genes)
    if key_added is not None:
        _check_addable(mdata, key_added)
    chosen = choose_layer(mdata, peaks, {} if layer is None else {peaks: layer})
    matrix = matrix_of(mdata, peaks, chosen, argument=f"layer={layer!r}")
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
    _log(mdata, peaks, genes, table)
    if key_added is not None:
        _add_modality(mdata, key_added, activity)
    return activity


def sum_linked(matrix: Any, links: sparse.csr_matrix) -> sparse.csr_matrix:
    """Cells x peaks (sparse, dense, dask, or on disk) times peaks x genes, in blocks of rows.

    Returns
    -------
    CSR float32 matrix, cells x genes, without explicit zeros.
    """
    if sparse.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    n_rows = matrix.shape[0]
    blocks = track(
        iter_blocks(matrix, n_rows, BLOCK_CELLS),
        description="Gene activity",
        total=-(-n_rows // BLOCK_CELLS),
        disable=n_rows < PROGRESS_CELLS,
    )
    weights = sparse.csr_matrix(links, dtype=np.float32)
    sums = []
    for _, block in blocks:
        values = sparse.csr_matrix(block, dtype=np.float32) @ weights
        values.eliminate_zeros()
        sums.append(values)
    return sparse.vstack(sums, format="csr", dtype=np.float32)


def _check_addable(mdata: MuData, name: str) -> None:
    """Refuse a MuData that cannot take the modality, and a name that would overwrite data."""
    if mdata.isbacked or any(adata.isbacked for adata in mdata.mod.values()):
        raise ValueError(
            "The MuData is backed, and a modality cannot be added on disk. Use key_added=None, "
            "and build a MuData from the result and the other modalities."
        )
    check_varmap(mdata)
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


def _log(mdata: MuData, peaks: str, genes: str | None, links: pd.DataFrame) -> None:
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


def _add_modality(mdata: MuData, name: str, adata: AnnData) -> None:
    """Add a modality of known cells, or replace one.

    :meth:`mudata.MuData.update` fills ``varp`` with -1 or NaN for new features, and its indices
    are quadratic in the number of cells and features. Here entries of ``varp`` stay sparse and
    gain empty rows and columns, those of ``varm`` gain missing rows, and those of ``obsm`` and
    ``obsp`` stay as they are. Features of a modality that is replaced lose theirs.
    """
    features = _features(mdata)
    features = features[features["modality"] != name]
    kept = {attr: _take_out(mdata, attr) for attr in ("obsm", "obsp", "varm", "varp")}
    _put_last(mdata, name, adata)
    now = _features(mdata).merge(features, on=["modality", "row"], how="inner")
    new, old = now["joint_x"].to_numpy(), now["joint_y"].to_numpy()
    for attr in ("obsm", "obsp"):
        for key, value in kept[attr].items():
            getattr(mdata, attr)[key] = value
    for key, value in kept["varp"].items():
        mdata.varp[key] = _moved_pairs(value, old, new, mdata.n_vars)
    for key, value in kept["varm"].items():
        mdata.varm[key] = _moved_rows(value, old, new, mdata.var_names)


def _features(mdata: MuData) -> pd.DataFrame:
    """For every feature its modality, its row there, and its position on the joint axis."""
    tables = []
    for name in mdata.mod:
        rows = feature_rows(mdata, name)
        joint = np.flatnonzero(rows >= 0)
        tables.append(pd.DataFrame({"modality": name, "row": rows[joint], "joint": joint}))
    return pd.concat(tables, ignore_index=True)


def _take_out(mdata: MuData, attr: str) -> dict[str, Any]:
    """Remove and return the entries that are no masks of modalities."""
    store = getattr(mdata, attr)
    return {key: store.pop(key) for key in list(store) if key not in mdata.mod}


def _put_last(mdata: MuData, name: str, adata: AnnData) -> None:
    """Set a modality behind all others on both axes.

    mudata remembers the names of cells and features of a modality beyond its removal, and does
    not look at one that comes back with the same: an empty one in between makes it forget.
    """
    known = name in mdata.mod
    mdata.mod[name] = AnnData(np.zeros((0, 0), dtype=np.float32))
    _update(mdata)
    if known:
        del mdata.mod[name]
        _update(mdata)
    mdata.mod[name] = adata
    _update(mdata)


def _update(mdata: MuData) -> None:
    with warnings.catch_warnings(), no_pull():
        warnings.simplefilter("ignore", (UserWarning, FutureWarning))
        mdata.update()


def _moved_pairs(matrix: Any, old: np.ndarray, new: np.ndarray, size: int) -> Any:
    """Square matrix over the new axis; entries of new features are 0."""
    if sparse.issparse(matrix):
        to = np.full(matrix.shape[0], -1)
        to[old] = new
        entries = matrix.tocoo()
        row, col = to[entries.row], to[entries.col]
        kept = (row >= 0) & (col >= 0)
        moved = (entries.data[kept], (row[kept], col[kept]))
        return type(matrix)(sparse.csr_matrix(moved, shape=(size, size)))
    values = np.asarray(matrix)
    result = np.zeros((size, size), dtype=values.dtype)
    result[np.ix_(new, new)] = values[np.ix_(old, old)]
    return result


def _moved_rows(matrix: Any, old: np.ndarray, new: np.ndarray, names: pd.Index) -> Any:
    """Array or table over the new axis; rows of new features are missing (0 if sparse)."""
    take = np.full(len(names), -1)
    take[new] = old
    if sparse.issparse(matrix):
        entries = (np.ones(new.size), (new, old))
        chooser = sparse.csr_matrix(entries, shape=(len(names), matrix.shape[0]))
        return type(matrix)(chooser @ matrix)
    if isinstance(matrix, pd.DataFrame):
        table = matrix.reset_index(drop=True).reindex(take)
        return table.set_axis(names, axis=0)
    values = np.asarray(matrix)
    if np.all(take >= 0):
        return values[take]
    moved = values[take].astype(np.result_type(values.dtype, np.float32))
    moved[take < 0] = np.nan
    return moved
