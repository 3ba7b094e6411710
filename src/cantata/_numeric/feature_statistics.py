"""Statistics of many features: values read in blocks, moments in groups, adjusted p values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control, rankdata

from cantata._mudata.values import iter_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Statistic = Literal["pearson", "spearman"]

BLOCK_ENTRIES = 2**22
"""Values that are dense at a time."""

MIN_VARIATION = 1e-13
"""A feature is constant if its variation is not more than this share of its sum of squares."""


class FeatureMatrix:
    """Features of a matrix in a fixed set of cells, read block by block in double precision.

    With ``statistic="spearman"`` values are replaced by their ranks among the cells, ties by their
    mean rank. In a sparse matrix all ranks are less by that of zero, so that zeros stay zeros;
    neither correlations nor central moments change.

    Parameters
    ----------
    matrix
        Cells x features: dense or sparse, in memory, dask or on disk (then the chosen part is
        loaded, sparse as sparse).
    rows
        Row of `matrix` for every cell.
    columns
        Features to use; positions in the matrix.
    names
        Name of every chosen feature, for messages.
    where
        What the matrix is, for messages.
    statistic
        Values or ranks.
    """

    def __init__(
        self,
        matrix: Any,
        rows: np.ndarray,
        columns: np.ndarray,
        *,
        names: Sequence[str] | np.ndarray | pd.Index,
        where: str,
        statistic: Statistic = "pearson",
    ) -> None:
        self.names, self.where = np.asarray(names, dtype=object), where
        if isinstance(matrix, pd.DataFrame):
            matrix = matrix.to_numpy()
        self._matrix, self._rows, self._columns = matrix, rows, columns
        if not isinstance(matrix, np.ndarray):
            self._replace(_load(matrix, rows, columns))
        if statistic == "spearman":
            self._rank()

    def _replace(self, part: Any) -> None:
        """Keep a matrix of the chosen rows and columns and no others."""
        self._matrix = part
        self._rows, self._columns = (np.arange(size) for size in part.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of features."""
        return len(self._rows), len(self._columns)

    @property
    def is_sparse(self) -> bool:
        """Whether blocks are sparse."""
        return sparse.issparse(self._matrix)

    @property
    def n_stored(self) -> float:
        """Number of values that a feature has on average, zeros of a sparse matrix not counted."""
        n_cells, n_features = self.shape
        return self._matrix.nnz / n_features if self.is_sparse else float(n_cells)

    def block(self, features: np.ndarray | slice) -> Any:
        """Values of some features (cells x features), CSC if the matrix is sparse."""
        if not self.is_sparse:
            chosen = np.ix_(self._rows, self._columns[features])
            return np.asarray(self._matrix[chosen], dtype=np.float64)
        if isinstance(features, slice):
            return self._shared_columns(features)
        return self._matrix[:, features]

    def _shared_columns(self, features: slice) -> sparse.csc_matrix:
        """Neighbouring columns of a sparse matrix that share its memory."""
        starts = self._matrix.indptr[features.start : features.stop + 1]
        stored = slice(starts[0], starts[-1])
        parts = self._matrix.data[stored], self._matrix.indices[stored], starts - starts[0]
        return sparse.csc_matrix(parts, shape=(self.shape[0], len(starts) - 1))

    def dense(self, features: np.ndarray | slice) -> np.ndarray:
        """Values of some features as an array (cells x features)."""
        values = self.block(features)
        return values.toarray() if sparse.issparse(values) else values

    def blocks(self, width: int | None = None) -> Iterator[slice]:
        """Slices of features; by default as many as make a dense block of bounded size."""
        n_cells, n_features = self.shape
        step = width or max(1, BLOCK_ENTRIES // n_cells)
        for start in range(0, n_features, step):
            yield slice(start, min(start + step, n_features))

    def _rank(self) -> None:
        if self.is_sparse:
            for features in self.blocks():
                values = self._shared_columns(features)
                values.data[:] = _sparse_ranks(values)
            return
        ranks = np.empty(self.shape, dtype=np.float32)  # exact up to eight million cells
        for features in self.blocks():
            ranks[:, features] = rankdata(self.block(features), axis=0)
        self._replace(ranks)


def _load(matrix: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    """The chosen part of a matrix that is sparse or not in memory."""
    if sparse.issparse(matrix):
        # the axis that is stored together comes first
        if matrix.format == "csc":
            part = matrix[:, columns].tocsr()[rows]
        else:
            part = matrix.tocsr()[rows][:, columns]
    else:
        part = _read(matrix, rows, columns)
        if isinstance(part, np.ndarray):
            return part
    part = sparse.csc_matrix(part, dtype=np.float64, copy=True)
    part.sum_duplicates()
    part.eliminate_zeros()
    return part


def _read(matrix: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    """Rows and columns of a matrix that is not in memory."""
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    parts = []
    for start, block in iter_blocks(matrix, matrix.shape[0]):
        low, high = np.searchsorted(wanted, [start, start + block.shape[0]])
        if high > low:
            parts.append(block[wanted[low:high] - start][:, columns])
    back = np.argsort(order)
    if sparse.issparse(parts[0]):
        return sparse.vstack(parts, format="csr")[back]
    return np.concatenate(parts)[back]


def _sparse_ranks(values: sparse.csc_matrix) -> np.ndarray:
    """Ranks of the stored values of every column, less the rank of its zeros."""
    n_cells, n_features = values.shape
    n_stored = np.diff(values.indptr)
    column = np.repeat(np.arange(n_features), n_stored)
    # 1. All stored values in one order, column by column; `first` and `last` bound runs of ties.
    order = np.lexsort((values.data, column))
    ordered, of_column = values.data[order], column[order]
    new = np.ones(order.size, dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]) | (of_column[1:] != of_column[:-1])
    first = np.flatnonzero(new)
    last = np.append(first[1:], order.size) - 1
    # 2. Mean rank of each run, counted from 1 within its column.
    rank = np.empty(order.size)
    rank[order] = np.repeat((first + last) / 2 + 1, last - first + 1)
    rank -= values.indptr[column]
    # 3. The zeros, which are not stored, stand between negative and positive values.
    n_negative = np.bincount(column[values.data < 0], minlength=n_features)
    n_zeros = n_cells - n_stored
    rank += np.where(values.data > 0, n_zeros[column], 0)
    return rank - (n_negative + (n_zeros + 1) / 2)[column]


@dataclass(frozen=True)
class GroupMoments:
    """Central moments of features within groups of cells.

    ``sizes`` (groups,); ``means``, ``squares`` and ``cubes`` (groups, features): mean, sum of
    squares and sum of cubes about the mean of the group.
    """

    sizes: np.ndarray
    means: np.ndarray
    squares: np.ndarray
    cubes: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean of every feature over all cells."""
        return self.sizes @ self.means / self.sizes.sum()

    @property
    def variation(self) -> np.ndarray:
        """Sum of squares about the mean over all cells; 0 for a constant feature."""
        between = self.sizes @ (self.means - self.mean) ** 2
        total = self.squares.sum(axis=0) + between
        about_zero = total + self.sizes.sum() * self.mean**2
        return np.where(total > MIN_VARIATION * about_zero, total, 0.0)

    @property
    def varies(self) -> np.ndarray:
        """Which features are not constant."""
        return self.variation > 0


def group_moments(features: FeatureMatrix, codes: np.ndarray) -> GroupMoments:
    """Moments of every feature within groups; `codes` are the groups of cells, 0, 1, ....

    Raises
    ------
    ValueError
        If a value is NaN or infinite.
    """
    n_cells, n_features = features.shape
    sizes = np.bincount(codes)
    member = sparse.csr_matrix(
        (np.ones(n_cells), (codes, np.arange(n_cells))), shape=(len(sizes), n_cells)
    )
    means, squares, cubes = (np.empty((len(sizes), n_features)) for _ in range(3))
    for block in features.blocks():
        values = features.block(block)
        mean = _sums(member, values) / sizes[:, None]
        _check_finite(mean, features, block)
        if sparse.issparse(values):
            # Centring would fill the zeros: sums about zero are moved to the mean instead,
            # sum (x - m)^2 = S2 - n m^2 and sum (x - m)^3 = S3 - 3 m S2 + 2 n m^3.
            square, cube = (_sums(member, values.power(power)) for power in (2, 3))
            cube += (2 * sizes[:, None] * mean**2 - 3 * square) * mean
            square -= sizes[:, None] * mean**2
        else:
            centred = values - mean[codes]
            square, cube = member @ centred**2, member @ centred**3
        # What is left of a constant feature is rounding.
        varies = square > MIN_VARIATION * (square + sizes[:, None] * mean**2)
        means[:, block] = mean
        squares[:, block] = np.where(varies, square, 0)
        cubes[:, block] = np.where(varies, cube, 0)
    return GroupMoments(sizes, means, squares, cubes)


def _sums(member: sparse.csr_matrix, values: Any) -> np.ndarray:
    sums = member @ values
    return sums.toarray() if sparse.issparse(sums) else np.asarray(sums)


def _check_finite(mean: np.ndarray, features: FeatureMatrix, block: slice) -> None:
    bad = np.flatnonzero(~np.isfinite(mean).all(axis=0))
    if bad.size:
        raise ValueError(
            f"{features.where} holds NaN or infinity, e.g. in feature "
            f"{features.names[block][bad[0]]!r}. Leave out these features or cells."
        )


def q_values(p: np.ndarray, n_tests: int | None = None) -> np.ndarray:
    """Benjamini-Hochberg adjusted p values; missing ones stay missing and are no tests.

    Parameters
    ----------
    p
        P values, some may be NaN.
    n_tests
        Number of tests that `p` are the smallest p values of; by default all were kept.

    Examples
    --------
    >>> import numpy as np
    >>> from cantata._numeric.feature_statistics import q_values
    >>> q_values(np.array([0.01, np.nan, 0.5]), n_tests=4)
    array([0.04,  nan, 1.  ])
    """
    q = np.full_like(p, np.nan)
    known = ~np.isnan(p)
    if known.any():
        factor = 1 if n_tests is None else n_tests / known.sum()
        q[known] = np.minimum(false_discovery_control(p[known]) * factor, 1)
    return q
