"""Counts to normalised values: by scanpy and muon on a reference, by its statistics on a query."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cantata.pp._kinds import Kind

RNA_TOTAL = 1e4
"""Total to which every RNA profile is scaled."""

ATAC_DEPTH = 10.0
"""TF-IDF profiles are scaled to this multiple of the median count per cell before the logarithm."""


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

    Protein: the mean over cells of log(1 + x). ATAC: the inverse document frequency, number of cells
    divided by the feature's total count, and 0 for a feature without counts. RNA: 0, none is needed.
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


def normalise(kind: Kind, counts: Any, total: float) -> Any:
    """Normalise a reference with scanpy and muon.

    Parameters
    ----------
    kind
        What the modality measures.
    counts
        Counts, cells x features; they are not modified.
    total
        Total to which profiles are scaled, see :func:`target_total`.

    Returns
    -------
    float32 matrix, CSR if the counts are sparse (always for ATAC). RNA: log(1 + counts scaled to
    `total`). Protein: centred log ratio over cells, log(1 + x / exp(mean of log(1 + x))). ATAC: TF-IDF
    without logarithms, scaled to `total` per cell, log(1 + x).
    """
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "protein":
            import muon

            adata = AnnData(_float(counts))
            if sparse.issparse(adata.X):
                adata.X = adata.X.tocsc()
            muon.prot.pp.clr(adata, axis=0)
        else:
            adata = AnnData(_float(sparse.csr_matrix(counts) if kind == "atac" else counts))
            if kind == "atac":
                import muon

                with np.errstate(divide="ignore", invalid="ignore"):
                    muon.atac.pp.tfidf(adata, log_tf=False, log_idf=False, scale_factor=1)
            sc.pp.normalize_total(adata, target_sum=total)
            sc.pp.log1p(adata)
    if sparse.issparse(adata.X):
        return sparse.csr_matrix(adata.X, dtype=np.float32)
    return np.asarray(adata.X, dtype=np.float32)


def normalise_by(
    kind: Kind, counts: Any, statistics: np.ndarray, total: float, known: np.ndarray
) -> Any:
    """Normalise a query with the statistics of a reference.

    Parameters
    ----------
    kind, counts, total
        As for :func:`normalise`.
    statistics
        One per feature of the query, see :func:`feature_statistics`.
    known
        Which features the reference has: only these count towards a cell's total.

    Returns
    -------
    As for :func:`normalise`. With a reference's own counts and statistics the result is the same.
    """
    if kind == "protein":
        return log1p(scale_columns(_float(counts), np.exp(-statistics)))
    values = _float(sparse.csr_matrix(counts) if kind == "atac" else counts)
    if kind == "atac":
        values = scale_columns(values, statistics)
    sums = row_sums(values[:, np.flatnonzero(known)])
    factors = np.divide(total, sums, out=np.zeros_like(sums), where=sums > 0)
    return log1p(scale_rows(values, factors))


def variable_genes(
    name: str, counts: Any, normalised: Any, batches: np.ndarray | None, n_top: int
) -> np.ndarray:
    """Flag highly variable genes by the variance-stabilised counts (``seurat_v3``), within batches.

    Parameters
    ----------
    name
        Name of the modality, for the warning.
    counts, normalised
        Counts and log-normalised values, cells x genes.
    batches
        Batch of each cell, or None.
    n_top
        Number of genes to flag. With no more genes than that, all that have counts are flagged.

    Returns
    -------
    Boolean array of length ``n_genes``.

    Notes
    -----
    The variance trend of ``seurat_v3`` is a local regression that can be singular for small batches
    or few counts. It is then repeated with wider windows, and at last replaced by the ``seurat``
    flavour, with a warning.
    """
    import scanpy as sc

    if counts.shape[1] <= n_top:
        return column_sums(counts) > 0
    key = None if batches is None else "batch"
    obs = pd.DataFrame(index=[str(i) for i in range(counts.shape[0])])
    if batches is not None:
        obs["batch"] = pd.Categorical(batches)
    adata = AnnData(counts, obs=obs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for span in (0.3, 0.6, 1.0):
            try:
                table = sc.pp.highly_variable_genes(
                    adata,
                    flavor="seurat_v3",
                    n_top_genes=n_top,
                    span=span,
                    batch_key=key,
                    inplace=False,
                )
            except ValueError:
                continue
            return table["highly_variable"].to_numpy(dtype=bool)
        adata = AnnData(normalised, obs=obs)
        table = sc.pp.highly_variable_genes(
            adata, flavor="seurat", n_top_genes=n_top, batch_key=key, inplace=False
        )
    warnings.warn(
        f"Modality {name!r}: the variance trend of seurat_v3 cannot be fitted (too few cells in a batch, or "
        "too few counts); highly variable genes were chosen by the flavour 'seurat' instead.",
        UserWarning,
        stacklevel=4,
    )
    return table["highly_variable"].to_numpy(dtype=bool)
