"""Read rows of a matrix, however it is stored, as float32."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

logger = logging.getLogger(__name__)

RowReader = Callable[[np.ndarray], Any]


def row_reader(matrix: Any, name: str = "matrix", *, keep_sparse: bool = False) -> RowReader:
    """Function that reads rows of `matrix`.

    Parameters
    ----------
    matrix
        CSR, CSC, dense, DataFrame, dask array, or a dataset that stays on disk (HDF5, zarr, and
        anndata's backed sparse matrices). CSC in memory is converted to CSR once.
    name
        Name used in log lines.
    keep_sparse
        Leave rows of sparse matrices sparse.

    Returns
    -------
    Function from an ``int64`` array of row numbers (any order, repeats allowed) to a C-contiguous
    float32 array of shape ``(len(rows), n_features)``, or to a CSR matrix without duplicates where
    rows stay sparse. Only these rows are ever dense.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> read = row_reader(sp.csr_matrix(np.eye(3)))
    >>> read(np.array([2, 0]))
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    finish = _finished if keep_sparse else _densify
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    if isinstance(matrix, np.ndarray):
        dense = np.asarray(matrix)
        return lambda rows: np.ascontiguousarray(dense[rows], dtype=np.float32)
    if sparse.issparse(matrix):
        if matrix.format != "csr":
            logger.info("%s is stored as %s; converting it to CSR once.", name, matrix.format)
            matrix = matrix.tocsr()
        return lambda rows: finish(matrix[rows])
    if hasattr(matrix, "compute"):
        return lambda rows: finish(matrix[rows].compute())
    return lambda rows: _read_ordered(matrix, rows, finish)


def _densify(block: Any) -> np.ndarray:
    if sparse.issparse(block):
        block = block.toarray()
    return np.ascontiguousarray(block, dtype=np.float32)


def _finished(block: Any) -> Any:
    """Dense float32, or CSR float32 where the block is sparse."""
    if not sparse.issparse(block):
        return _densify(block)
    block = sparse.csr_matrix(block, dtype=np.float32)
    block.sum_duplicates()
    return block


def _read_ordered(matrix: Any, rows: np.ndarray, finish: Callable[[Any], Any]) -> Any:
    """On-disk datasets want sorted row numbers without repeats."""
    if rows.size == 0:
        return np.zeros((0, matrix.shape[1]), dtype=np.float32)
    unique, inverse = np.unique(rows, return_inverse=True)
    return finish(matrix[unique])[inverse]


def iter_blocks(matrix: Any, n_rows: int, block_rows: int = 4096) -> Any:
    """Yield ``(first row, block)`` over a matrix, in order; sparse blocks stay sparse."""
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    for start in range(0, n_rows, block_rows):
        block = matrix[start : min(start + block_rows, n_rows)]
        if hasattr(block, "compute"):
            block = block.compute()
        yield start, block
