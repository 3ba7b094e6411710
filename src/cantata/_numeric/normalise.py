"""Counts to normalised values, of a reference and of its queries, and variable genes."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

if TYPE_CHECKING:
    from cantata._mudata.kinds import Kind

logger = logging.getLogger(__name__)

RNA_TOTAL = 1e4
"""Total to which every RNA profile is scaled."""

MIN_PER_BATCH = 20
"""Cells, and genes that vary, that a batch needs for a say in which genes are variable."""

ATAC_DEPTH = 10.0
"""TF-IDF profiles are scaled to this multiple of the median count per cell before the log."""


def _float(matrix: Any) -> Any:
    """A float32 copy that may be written to; CSR if sparse."""
    if sparse.issparse(matrix):
        return sparse.csr_matrix(matrix, dtype=np.float32, copy=True)
    return np.array(matrix, dtype=np.float32)


def row_sums(matrix: Any) -> np.ndarray:
    """Sum of each row in double precision."""
    return np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()


def column_sums(matrix: Any) -> np.ndarray:
    """Sum of each column in double precision."""
    return np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel()


def column_range(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of each column."""
    ends = matrix.min(axis=0), matrix.max(axis=0)
    lowest, highest = (x.toarray() if sparse.issparse(x) else np.asarray(x) for x in ends)
    return lowest.ravel(), highest.ravel()


def scale_rows(matrix: Any, factors: np.ndarray) -> Any:
    """Multiply each row; sparse stays sparse."""
    if sparse.issparse(matrix):
        return sparse.csr_matrix(sparse.diags(factors.astype(matrix.dtype)) @ matrix)
    return matrix * factors[:, None].astype(matrix.dtype)


def scale_columns(matrix: Any, factors: np.ndarray) -> Any:
    """Multiply each column; sparse stays sparse."""
    if sparse.issparse(matrix):
        return sparse.csr_matrix(matrix @ sparse.diags(factors.astype(matrix.dtype)))
    return matrix * factors.astype(matrix.dtype)


def log1p(matrix: Any) -> Any:
    """Natural logarithm of 1 + x, element by element; sparse stays sparse."""
    return matrix.log1p() if sparse.issparse(matrix) else np.log1p(matrix)


def feature_statistics(kind: Kind, counts: Any) -> np.ndarray:
    """The statistic of each feature that normalisation needs, float64 of length ``n_features``.

    Protein: the mean over cells of log(1 + x). ATAC: the inverse document frequency, number of
    cells divided by the feature's total count, and 0 for a feature without counts. RNA: 0, none is
    needed.
    """
    if kind == "protein":
        logs = log1p(_float(counts))
        return column_sums(logs) / logs.shape[0]
    if kind == "atac":
        totals = column_sums(counts)
        return np.divide(counts.shape[0], totals, out=np.zeros_like(totals), where=totals > 0)
    return np.zeros(counts.shape[1])


def target_total(kind: Kind, counts: Any) -> float:
    """Total to which profiles are scaled; 0 for proteins, which are not scaled by cell."""
    if kind == "protein":
        return 0.0
    return RNA_TOTAL if kind == "rna" else float(ATAC_DEPTH * np.median(row_sums(counts)))


def normalise(
    kind: Kind,
    counts: Any,
    total: float,
    statistics: np.ndarray | None = None,
    known: np.ndarray | None = None,
) -> Any:
    """Normalise a reference by its own statistics, or a query by those of a reference.

    Equal to ``scanpy.pp.normalize_total`` with ``log1p``, ``muon.prot.pp.clr`` over cells and
    ``muon.atac.pp.tfidf`` without logarithms, which know no query; muon also takes many seconds
    to import.

    Parameters
    ----------
    kind
        What the modality measures.
    counts
        Counts, cells x features; they are not modified.
    total
        Total to which profiles are scaled, see :func:`target_total`; those of proteins are not.
    statistics
        One per feature, see :func:`feature_statistics`; of these counts by default.
    known
        Which features the reference has, by default all: only these count towards a cell's total.

    Returns
    -------
    float32 matrix, CSR if the counts are sparse (always for ATAC). RNA: log(1 + counts scaled to
    `total`). Protein: centred log ratio over cells, log(1 + x / exp(mean of log(1 + x))). ATAC:
    TF-IDF without logarithms, scaled to `total` per cell, log(1 + x).
    """
    if statistics is None:
        statistics = feature_statistics(kind, counts)
    values = _float(sparse.csr_matrix(counts) if kind == "atac" else counts)
    if kind != "rna":
        values = scale_columns(values, statistics if kind == "atac" else np.exp(-statistics))
    if kind == "protein":
        return log1p(values)
    sums = row_sums(values if known is None else values[:, np.flatnonzero(known)])
    factors = np.divide(total, sums, out=np.zeros_like(sums), where=sums > 0)
    return log1p(scale_rows(values, factors))


def variable_genes(
    name: str, counts: Any, normalised: Any, batches: np.ndarray | None, n_top: int
) -> np.ndarray:
    """Flag highly variable genes by variance-stabilised counts (``seurat_v3``), by batch.

    Parameters
    ----------
    name
        Name of the modality, for warnings.
    counts, normalised
        Counts and log-normalised values, cells x genes.
    batches
        Batch of each cell, or None. Batches with fewer than 20 cells, or 20 genes that vary,
        have no say.
    n_top
        Number of genes to flag. With no more genes than that, or fewer than 20 that vary, all
        that vary are flagged.

    Returns
    -------
    Boolean array of length ``n_genes``.

    Notes
    -----
    The variance trend of ``seurat_v3`` is a local regression that can be singular for few cells or
    few counts. It is then repeated with wider windows, and at last replaced by the ``seurat``
    flavour, with a warning.
    """
    import scanpy as sc

    varies = _varies(counts)
    if counts.shape[1] <= n_top or varies.sum() < MIN_PER_BATCH:
        return varies
    rows, groups = _usable_batches(name, counts, batches)
    obs = pd.DataFrame({"batch": pd.Categorical(groups)}, index=rows.astype(str))
    chosen = counts[rows]
    adata = AnnData(sparse.csr_matrix(chosen) if sparse.issparse(chosen) else chosen, obs=obs)
    options = {
        "n_top_genes": n_top,
        "batch_key": "batch" if len(np.unique(groups)) > 1 else None,
        "inplace": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for span in (0.3, 0.6, 1.0):
            try:
                table = sc.pp.highly_variable_genes(
                    adata, flavor="seurat_v3", span=span, **options
                )
            except ValueError:
                continue
            return table["highly_variable"].to_numpy(dtype=bool)
        adata = AnnData(normalised[rows], obs=obs)
        table = sc.pp.highly_variable_genes(adata, flavor="seurat", **options)
    warnings.warn(
        f"Modality {name!r}: the variance trend of seurat_v3 cannot be fitted (too few cells or "
        "counts in a batch); highly variable genes were chosen by the flavour 'seurat' instead.",
        UserWarning,
        stacklevel=4,
    )
    return table["highly_variable"].to_numpy(dtype=bool)


def _usable_batches(
    name: str, counts: Any, batches: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the cells of batches that are large enough, and their batches; all if none is.

    The local regression of ``seurat_v3`` does not raise but crash where it is given next to
    nothing.
    """
    one_batch = np.arange(counts.shape[0]), np.full(counts.shape[0], "all", dtype=object)
    if batches is None:
        return one_batch
    groups = {str(batch): np.flatnonzero(batches == batch) for batch in np.unique(batches)}
    small = [
        batch
        for batch, rows in groups.items()
        if rows.size < MIN_PER_BATCH or _varies(counts[rows]).sum() < MIN_PER_BATCH
    ]
    if small:
        logger.info(
            "Modality %r: %d of %d batches have fewer than %d cells or genes that vary (e.g. %r) "
            "and no say in which genes are highly variable.",
            name,
            len(small),
            len(groups),
            MIN_PER_BATCH,
            small[0],
        )
    rows = np.flatnonzero(~np.isin(batches, small))
    return (rows, batches[rows]) if rows.size else one_batch


def _varies(counts: Any) -> np.ndarray:
    """Which genes are not the same in all cells."""
    lowest, highest = column_range(counts)
    return highest != lowest
