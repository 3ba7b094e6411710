"""Values of a modality as they are compared between cells: counts normalised, the rest as is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from cantata._numeric.normalise import RNA_TOTAL, normalise
from cantata.tl._feature_columns import FeatureColumns
from cantata.tl._link_values import Values, check_modality, measured_values

if TYPE_CHECKING:
    from mudata import MuData

Scale = Literal["auto", "log1p", "log", "linear"]


@dataclass(frozen=True)
class Expression:
    """Values in a set of cells.

    ``matrix`` (cells x features): CSR or an array, possibly the MuData's own, not to be written
    to. ``names`` of the features; ``where`` names the matrix in messages. ``counts``
    tells whether it held counts and was normalised, ``negative`` whether a value is below 0.
    """

    matrix: Any
    names: np.ndarray
    where: str
    counts: bool
    negative: bool

    @property
    def n_stored(self) -> int:
        """Number of values, zeros of a sparse matrix not counted."""
        return int(self.matrix.nnz if sparse.issparse(self.matrix) else self.matrix.size)


def expression(
    mdata: MuData, modality: str, layer: str | None, rows: np.ndarray | None = None
) -> Expression:
    """Values of a modality in some of its cells.

    Counts (no value is negative or no integer) are scaled to 10,000 per cell and replaced by the
    natural logarithm of 1 + x; other values are taken as they are. Sparse stays sparse.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    modality, layer
        Whose values; None: ``.X``.
    rows
        Rows of the modality; None: all.

    Raises
    ------
    KeyError
        If the modality or layer does not exist.
    ValueError
        If feature names repeat, or a value is NaN or infinite.
    """
    check_modality(mdata, modality, "modality")
    found = measured_values(mdata, modality, layer)
    names = mdata[modality].var_names.to_numpy(dtype=object)
    matrix = _part(found, rows, names)
    stored = matrix.data if sparse.issparse(matrix) else matrix
    if not np.isfinite(stored).all():
        _refuse(matrix, names, found.where)
    negative = bool(stored.size) and bool(stored.min() < 0)
    counts = not negative and bool((stored == np.rint(stored)).all())
    if counts:
        matrix = normalise("rna", matrix, RNA_TOTAL)
    return Expression(matrix, names, found.where, counts, negative)


def _part(found: Values, rows: np.ndarray | None, names: np.ndarray) -> Any:
    """Rows of a matrix, in memory: CSR without duplicates, or an array."""
    matrix = found.matrix
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    if not (isinstance(matrix, np.ndarray) or sparse.issparse(matrix)):
        rows = found.rows if rows is None else rows
        columns = FeatureColumns(matrix, rows, found.features, names=names, where=found.where)
        matrix, rows = columns.block(slice(0, len(names))), None
    if sparse.issparse(matrix):
        matrix = sparse.csr_matrix(matrix)
    if rows is not None and not np.array_equal(rows, found.rows):
        matrix = matrix[rows]
    if sparse.issparse(matrix) and not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix


def _refuse(matrix: Any, names: np.ndarray, where: str) -> None:
    """Raise the error that names a feature without finite values."""
    if sparse.issparse(matrix):
        bad = np.unique(matrix.indices[~np.isfinite(matrix.data)])
    else:
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=0))
    raise ValueError(
        f"{where} holds NaN or infinity in {len(bad)} of {len(names)} features, e.g. "
        f"{names[bad[0]]!r}. Leave out these features or cells."
    )
