"""Matrices in the memory of a GPU, where minibatches are taken from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from cantata._mudata.values import MatrixReader
from cantata.data._dataset import csr_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from cantata._mudata.values import RowReader

MAX_SHARE = 1 / 3
"""Share of a GPU's free memory that matrices may take."""


class PreloadedMatrix:
    """A matrix in memory, once more on a device; its rows are tensors there.

    Parameters
    ----------
    matrix
        (n, p) dense array or CSR matrix.
    device
        Where its values go.
    keep_sparse
        Leave rows of a CSR matrix sparse.

    Examples
    --------
    >>> import torch
    >>> from scipy import sparse
    >>> rows = PreloadedMatrix(sparse.eye(3, format="csr"), torch.device("cpu"))
    >>> rows(np.array([2, 0])).to_dense()
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """

    def __init__(self, matrix: Any, device: torch.device, keep_sparse: bool = True) -> None:
        self._device, self._keep_sparse = device, keep_sparse
        self._starts: np.ndarray | None = None
        if not sparse.issparse(matrix):
            self._values = torch.from_numpy(np.asarray(matrix, dtype=np.float32)).to(device)
            return
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        self._starts, self._n_columns = matrix.indptr.astype(np.int64), matrix.shape[1]
        self._columns = torch.from_numpy(matrix.indices.astype(np.int32)).to(device)
        self._values = torch.from_numpy(matrix.data.astype(np.float32)).to(device)

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Rows by their numbers (any order, repeats allowed), dense or CSR, on the device."""
        if self._starts is None:
            return self._values.index_select(0, self._moved(rows))
        first, n_values = self._starts[rows], np.diff(self._starts)[rows]
        starts = np.concatenate([[0], np.cumsum(n_values)])
        # the k-th value of a row lies where the row starts in the matrix, and k further
        place = torch.repeat_interleave(
            self._moved(first - starts[:-1]), self._moved(n_values), output_size=int(starts[-1])
        )
        place += torch.arange(len(place), device=self._device)
        taken = csr_tensor(
            self._moved(starts.astype(np.int32)),
            self._columns.index_select(0, place),
            self._values.index_select(0, place),
            (len(rows), self._n_columns),
        )
        return taken if self._keep_sparse else taken.to_dense()

    def _moved(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


class Preloader:
    """Moves matrices to a device as long as there is room, each once."""

    def __init__(self, device: torch.device, n_bytes: int) -> None:
        self._device, self._n_free = device, n_bytes
        self._found: dict[tuple[int, bool], tuple[Any, RowReader]] = {}
        """With the matrices, so that no other can be taken for one of them."""

    @classmethod
    def on(cls, device: torch.device) -> Preloader:
        """On a GPU, within a third of its free memory; nothing is moved to other devices."""
        is_gpu = device.type == "cuda" and torch.cuda.is_available()
        free = torch.cuda.mem_get_info(device)[0] if is_gpu else 0
        return cls(device, int(MAX_SHARE * free))

    def reader(self, read: RowReader) -> RowReader:
        """The same rows, from the device where the whole matrix is in memory and fits."""
        if not isinstance(read, MatrixReader) or (matrix := read.in_memory) is None:
            return read
        key = (id(matrix), read.keep_sparse)
        if key not in self._found:
            n_bytes = 8 * matrix.nnz if sparse.issparse(matrix) else 4 * matrix.size
            found: RowReader = read
            if 0 < n_bytes <= self._n_free:  # nothing is gained by what holds nothing
                self._n_free -= n_bytes
                found = PreloadedMatrix(matrix, self._device, read.keep_sparse)
            self._found[key] = matrix, found
        return self._found[key][1]

    def release(self) -> None:
        """Give the memory back; what is read afterwards comes from the host."""
        self._found.clear()
        self._n_free = 0
