"""Values of a modality: which matrix holds them, and its rows, however they are stored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import sparse_dataset
from scipy import sparse

from cantata import _keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

logger = logging.getLogger(__name__)

RowReader = Callable[[np.ndarray], Any]
"""From row numbers to the values of these rows."""


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers; anndata 0.13 lists ``.X`` among them, under the name None."""
    return [name for name in adata.layers if name is not None]


def matrix_of(
    mdata: Mapping[str, AnnData] | MuData,
    modality: str,
    layer: str | None = None,
    *,
    argument: str | None = None,
) -> Any:
    """Values of a modality as they are stored: a layer, or ``.X`` (None).

    `argument` is how the user named the layer, for the ``KeyError`` if it does not exist; by
    default an entry of ``layers``, of which None is ``.X``.
    """
    adata = mdata[modality]
    if layer is not None and layer not in adata.layers:
        known = f"modality {modality!r} has the layers {layer_names(adata)}."
        if argument is not None:
            raise KeyError(f"{argument}: {known}")
        raise KeyError(f"layers={{{modality!r}: {layer!r}}}: {known} Use None for .X.")
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        if _keys.IMAGES in adata.obsm:
            raise KeyError(
                f"Modality {modality!r} has images and no table of values. APOLLO reads images; "
                "cantata.pp.image_features makes a table of them."
            )
        raise KeyError(f"Modality {modality!r} has no .X; name a layer: {layer_names(adata)}.")
    dtype = getattr(matrix, "dtype", None)
    if dtype is not None and dtype.kind not in "biuf":
        where = ".X" if layer is None else f".layers[{layer!r}]"
        raise TypeError(
            f"Modality {modality!r}: {where} holds values of dtype {dtype}. Make them numbers: "
            f"mdata[{modality!r}]{where} = mdata[{modality!r}]{where}.astype('float32')."
        )
    return matrix


def saved_record(adata: AnnData) -> dict[str, Any] | None:
    """What :func:`cantata.pp.preprocess` recorded in a modality, or None."""
    record = adata.uns.get(_keys.UNS, {}).get(_keys.PREPROCESS)
    return None if record is None else dict(record)


def recipe_of(adata: AnnData, rep: str) -> int | None:
    """Digest of what :func:`cantata.pp.preprocess` made a representation by; None: unknown."""
    record = saved_record(adata)
    if record is None or record.get("rep") != rep or "recipe" not in record:
        return None
    return int(record["recipe"])


def choose_layer(
    mdata: Mapping[str, AnnData] | MuData, modality: str, layers: Mapping[str, str | None]
) -> str | None:
    """Layer that holds a modality's values, None for ``.X``; :func:`matrix_of` reads it.

    A layer that the user names in `layers` comes first (None: ``.X``), then the one in which
    :func:`cantata.pp.preprocess` recorded the counts if it is still there, then ``.X``.
    """
    if modality in layers:
        return layers[modality]
    layer = (saved_record(mdata[modality]) or {}).get("counts_layer")
    return layer if layer in mdata[modality].layers else None


def with_counts(matrix: Any, n_rows: int) -> np.ndarray:
    """Which rows of a matrix, in memory or on disk, have a value that is not 0."""
    rows = np.empty(n_rows, dtype=bool)
    for start, block in iter_blocks(matrix, n_rows):
        block = block.tocsr() if sparse.issparse(block) else np.asarray(block)
        rows[start : start + block.shape[0]] = np.asarray((block != 0).sum(axis=1)).ravel() > 0
    return rows


def check_in_memory(mdata: MuData) -> None:
    """Refuse a MuData that is backed, or has a modality that is."""
    backed = [name for name, adata in mdata.mod.items() if adata.isbacked]
    if mdata.isbacked or backed:
        raise ValueError(
            f"The MuData is backed ({', '.join(backed) or 'h5mu'}), and this function needs it in "
            "memory: read it without backed=True, or bring each modality in with "
            "mdata = mudata.MuData({m: mdata[m].to_memory() for m in mdata.mod})."
        )


def recorded_reps(mdata: MuData, names: Sequence[str]) -> dict[str, str]:
    """Representations that :func:`cantata.pp.preprocess` recorded in a MuData."""
    record = mdata.uns.get(_keys.UNS, {}).get(_keys.PREPROCESS, {})
    reps = {
        name: str(record[name]["rep"])
        for name in names
        if name in record and record[name]["rep"] in mdata[name].obsm
    }
    if reps:
        logger.info("Encoders read the representations that preprocess made: %s.", reps)
    return reps


class MatrixReader:
    """Reads rows of a matrix as float32; can be pickled if the matrix can, or is in a HDF5 file.

    Parameters
    ----------
    matrix
        CSR, CSC, dense, DataFrame, dask array, or a dataset that stays on disk (HDF5, zarr, and
        anndata's backed sparse matrices). CSC in memory is converted to CSR once.
    name
        Name used in log lines.
    keep_sparse
        Leave rows of sparse matrices sparse.
    columns
        Columns (channels of images) to read; all by default.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> read = MatrixReader(sp.csr_matrix(np.eye(3)))
    >>> read(np.array([2, 0]))
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """

    def __init__(
        self,
        matrix: Any,
        name: str = "matrix",
        *,
        keep_sparse: bool = False,
        columns: slice | None = None,
    ) -> None:
        if isinstance(matrix, pd.DataFrame):
            matrix = matrix.to_numpy()
        if isinstance(matrix, np.ndarray):
            matrix = np.asarray(matrix)  # no view of anndata, which copies itself on indexing
        elif sparse.issparse(matrix) and matrix.format != "csr":
            logger.info("%s is stored as %s; converting it to CSR once.", name, matrix.format)
            matrix = matrix.tocsr()
        self._matrix = matrix
        self.keep_sparse, self._columns = keep_sparse, columns

    @property
    def in_memory(self) -> Any:
        """The matrix, if all of it is read and lies in memory, dense or CSR; else None."""
        is_here = isinstance(self._matrix, np.ndarray) or sparse.issparse(self._matrix)
        return self._matrix if is_here and self._columns is None else None

    def __getstate__(self) -> dict[str, Any]:
        """Matrices in HDF5 files by their place, since open files cannot be sent to a worker."""
        node = getattr(self._matrix, "group", self._matrix)
        if isinstance(node, h5py.Dataset | h5py.Group):
            return self.__dict__ | {"_matrix": None, "_place": (node.file.filename, node.name)}
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_place" in state:
            path, name = self.__dict__.pop("_place")
            node = h5py.File(path, "r")[name]
            self._matrix = sparse_dataset(node) if isinstance(node, h5py.Group) else node

    def __call__(self, rows: np.ndarray) -> Any:
        """Rows by their numbers (int64, any order, repeats allowed).

        Returns
        -------
        C-contiguous float32 array of shape ``(len(rows), n_features)``, or a CSR matrix without
        duplicates where rows stay sparse. Only these rows are ever dense.
        """
        if isinstance(self._matrix, np.ndarray) or sparse.issparse(self._matrix):
            return self._float32(self._taken(rows))
        if hasattr(self._matrix, "compute"):
            return self._float32(self._taken(rows).compute())
        if rows.size == 0:
            width = len(range(self._matrix.shape[1])[self._columns or slice(None)])
            return np.zeros((0, width, *self._matrix.shape[2:]), dtype=np.float32)
        # datasets on disk want sorted row numbers without repeats
        unique, inverse = np.unique(rows, return_inverse=True)
        return self._float32(self._taken(unique))[inverse]

    def _taken(self, rows: np.ndarray) -> Any:
        return self._matrix[rows] if self._columns is None else self._matrix[rows, self._columns]

    def _float32(self, block: Any) -> Any:
        if not sparse.issparse(block):
            return np.ascontiguousarray(block, dtype=np.float32)
        if not self.keep_sparse:
            return np.ascontiguousarray(block.toarray(), dtype=np.float32)
        block = sparse.csr_matrix(block, dtype=np.float32)
        block.sum_duplicates()
        return block


def iter_blocks(matrix: Any, n_rows: int, block_rows: int = 4096) -> Any:
    """Yield ``(first row, block)`` over a matrix, in order; sparse blocks stay sparse."""
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    for start in range(0, n_rows, block_rows):
        block = matrix[start : min(start + block_rows, n_rows)]
        if hasattr(block, "compute"):
            block = block.compute()
        yield start, block
