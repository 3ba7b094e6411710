"""Rows and blocks of matrices, however they are stored."""

from __future__ import annotations

import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from cantata._mudata.values import MatrixReader, iter_blocks

VALUES = np.random.default_rng(0).poisson(1.0, (9, 4))
IN_MEMORY = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "dense": np.asarray,
    "table": pd.DataFrame,
    "view": lambda x: AnnData(np.pad(x, ((0, 1), (0, 0))))[: len(x)].X,
}


@pytest.mark.parametrize("fmt", IN_MEMORY)
@pytest.mark.parametrize("keep_sparse", [False, True])
def test_rows_in_any_order_also_from_a_pickled_reader(fmt: str, keep_sparse: bool) -> None:
    read = MatrixReader(IN_MEMORY[fmt](VALUES), keep_sparse=keep_sparse)
    for reader in (read, pickle.loads(pickle.dumps(read))):
        for rows in ([3, 0, 3, 8], []):
            got = reader(np.array(rows, dtype=np.int64))
            assert got.dtype == np.float32
            assert sparse.issparse(got) == (keep_sparse and fmt.startswith("cs"))
            dense = got.toarray() if sparse.issparse(got) else got
            assert sparse.issparse(got) or got.flags.c_contiguous
            np.testing.assert_array_equal(dense, VALUES[rows])


@pytest.mark.parametrize("fmt", ["csr", "csc", "dense"])
def test_rows_on_disk(tmp_path, fmt: str) -> None:
    AnnData(IN_MEMORY[fmt](VALUES.astype(np.float32))).write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    read = MatrixReader(backed.X)
    np.testing.assert_array_equal(read(np.array([5, 1, 5])), VALUES[[5, 1, 5]])
    assert read(np.array([], dtype=np.int64)).shape == (0, 4)
    # a worker that is started anew opens the file again
    again = pickle.loads(pickle.dumps(read))
    np.testing.assert_array_equal(again(np.array([5, 1, 5])), VALUES[[5, 1, 5]])
    np.testing.assert_array_equal(read(np.array([2])), VALUES[[2]])
    backed.file.close()


def test_sparse_rows_have_no_duplicates() -> None:
    doubled = sparse.csr_matrix(
        (np.array([1, 2, 4]), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 3)
    )
    rows = MatrixReader(doubled, keep_sparse=True)(np.array([1, 0]))
    assert rows.nnz == 2
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows.toarray(), [[4, 0, 0], [0, 3, 0]])


@pytest.mark.parametrize("fmt", ["csr", "dense", "table"])
def test_blocks_in_order(fmt: str) -> None:
    blocks = list(iter_blocks(IN_MEMORY[fmt](VALUES), 9, 4))
    assert [start for start, _ in blocks] == [0, 4, 8]
    dense = [block.toarray() if sparse.issparse(block) else block for _, block in blocks]
    np.testing.assert_array_equal(np.vstack(dense), VALUES)
