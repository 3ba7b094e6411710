"""Distances and nearest neighbours between two sets of cells, never as one n x n matrix.

Squared distances come from single precision matrix products, block by block, together with a bound
on their rounding error. Whatever that bound leaves open is decided in double precision, so results
are those of a double loop over the cells, ties included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EXACT = 100_000
"""Reference cells up to which neighbours are exact; above, pynndescent searches."""

_BLOCK_ENTRIES = 2**22
_MIN_BLOCK_ROWS = 64
_PAIR_ENTRIES = 2**22


def check_rows(values: Any, name: str, *, width: int | None = None) -> np.ndarray:
    """Cells x dimensions as C-ordered ``float64``, or an error that names `name`.

    Raises
    ------
    TypeError
        If `values` is not numeric.
    ValueError
        If it is not two-dimensional, has no row or no column, holds NaN or infinity, or has
        not `width` columns.
    """
    if hasattr(values, "obsm"):  # reading it as a sequence would take minutes
        raise TypeError(
            f"{name} is a {type(values).__name__}; give an array (cells, dimensions), such as its "
            ".obsm['X_clue']. Metrics also take a MuData and use_rep='X_clue'."
        )
    try:
        array = np.asarray(values, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be a dense numeric array of shape (cells, dimensions), "
            f"got {type(values).__name__}."
        ) from error
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (cells, dimensions), got {array.shape}.")
    if 0 in array.shape:
        raise ValueError(f"{name} is empty: shape {array.shape}.")
    if width is not None and array.shape[1] != width:
        raise ValueError(
            f"{name} has {array.shape[1]} dimensions where {width} are expected: "
            "both sides must be in one space."
        )
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{name} holds NaN or infinity in {bad.size} of {len(array)} rows, first in row "
            f"{bad[0]}. Leave these cells out."
        )
    return array


def check_column(values: Any, name: str) -> np.ndarray:
    """One value per cell as an ``object`` array; what is no list of values is a ``TypeError``."""
    if isinstance(values, str | bytes) or hasattr(values, "obsm") or np.ndim(values) != 1:
        given = repr(values) if isinstance(values, str | bytes) else f"a {type(values).__name__}"
        raise TypeError(
            f"{name} is {given}; give one value per cell. The name of a column goes with a MuData."
        )
    return pd.Series(values).to_numpy(dtype=object)


def check_pairs(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """`x` and `y` by :func:`check_rows`, and a ``ValueError`` unless they have one shape."""
    left = check_rows(x, "x")
    right = check_rows(y, "y", width=left.shape[1])
    if len(left) != len(right):
        raise ValueError(
            f"x has {len(left)} rows and y has {len(right)}: both must hold the same cells in the "
            "same order."
        )
    return left, right


def check_k(k: int, available: int, name: str) -> int:
    """`k` as a positive number of neighbours that `available` cells of `name` can give."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"k must be an integer, got {k!r}.")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if k > available:
        raise ValueError(f"k={k} neighbours were asked of {name}, which has {available} cells.")
    return int(k)


def unit_rows(values: np.ndarray, name: str) -> np.ndarray:
    """Rows divided by their length; a row of length zero is a ``ValueError``."""
    scaled = values / np.maximum(np.abs(values).max(axis=1, keepdims=True), np.finfo(float).tiny)
    lengths = np.sqrt((scaled * scaled).sum(axis=1, keepdims=True))
    zero = np.flatnonzero(lengths == 0)
    if zero.size:
        raise ValueError(
            f"{name} has {zero.size} rows of length zero, first row {zero[0]}: they have no "
            "direction. Leave these cells out or compare by Euclidean distance."
        )
    return scaled / lengths


def row_codes(values: np.ndarray) -> np.ndarray:
    """One integer per row, equal exactly where the rows are equal."""
    joined = np.ascontiguousarray(values + 0.0)  # -0.0 and 0.0 are one value
    as_bytes = joined.view(np.dtype((np.void, joined.shape[1] * joined.itemsize)))
    return np.unique(as_bytes.ravel(), return_inverse=True)[1]


def _first_copies(values: np.ndarray, k: int) -> np.ndarray:
    """Indices, in order, of the first `k` copies of every distinct row."""
    codes = row_codes(values)
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    copy = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[copy < k])


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of rows such that rows x `n_columns` stays a block of bounded size."""
    step = max(_MIN_BLOCK_ROWS, _BLOCK_ENTRIES // n_columns)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def true_pairs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the true entries of a mask with few of them."""
    i, j = np.divmod(np.flatnonzero(mask), mask.shape[1])  # five times faster than np.nonzero
    return i, j


class SquaredDistances:
    """Squared Euclidean distances between the rows of `x` and of `y`, in blocks.

    Distances are in units of ``2 ** (2 * exponent)``: a power of two, so scaling loses nothing,
    and neither huge nor tiny coordinates leave the range of single precision.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        # 1. scale by a power of two, which is exact, and centre: |x|^2 + |y|^2 - 2 x.y loses
        #    digits where lengths are large beside distances
        largest = max(np.abs(x).max(), np.abs(y).max())
        self.exponent = int(np.frexp(largest)[1])
        self._x, self._y = np.ldexp(x, -self.exponent), np.ldexp(y, -self.exponent)
        center = self._y.mean(axis=0)
        x_centered, y_centered = self._x - center, self._y - center
        # 2. columns for the lengths, so that one product gives |x|^2 + |y|^2 - 2 x.y
        x_square = (x_centered * x_centered).sum(axis=1)
        y_square = (y_centered * y_centered).sum(axis=1)
        ones = np.ones_like
        self._left = np.column_stack([-2 * x_centered, x_square, ones(x_square)])
        self._right = np.vstack([y_centered.T, ones(y_square)[None], y_square[None]])
        self._left32, self._right32 = self._left.astype("f4"), self._right.astype("f4")
        # 3. bound the error: a product of length m has at most m roundings, each relative to the
        #    largest possible sum; the 8 covers the rounding of the inputs and of comparisons
        reach = (np.sqrt(x_square) + np.sqrt(y_square.max())) ** 2
        self._margin = (x.shape[1] + 8) * reach

    def block(
        self, rows: slice, columns: slice = slice(None), *, double: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Approximate squared distances (rows x columns) and, per row, a bound on their error."""
        left, right = (self._left, self._right) if double else (self._left32, self._right32)
        values = left[rows] @ right[:, columns]
        limits = np.finfo(values.dtype)
        return values, self._margin[rows] * float(limits.eps) + float(limits.tiny) * left.shape[1]

    def exact(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Squared distances of pairs of rows in double precision, from plain differences."""
        result = np.empty(len(i))
        step = max(1, _PAIR_ENTRIES // self._x.shape[1])
        for start in range(0, len(i), step):
            pairs = slice(start, start + step)
            difference = self._x[i[pairs]] - self._y[j[pairs]]
            result[pairs] = (difference * difference).sum(axis=1)
        return result


def _upper_bound(values: np.ndarray, k: int) -> np.ndarray:
    """Per row, a number that at least `k` of the values do not exceed, close to the k-th smallest.

    Every one of `k` groups holds a value not above the largest of the `k` smallest group minima.
    """
    n_rows, n_columns = values.shape
    n_groups = min(n_columns, max(64, 16 * k))
    depth = n_columns // n_groups
    grouped = values[:, : depth * n_groups].reshape(n_rows, depth, n_groups).min(axis=1)
    return np.partition(grouped, k - 1, axis=1)[:, k - 1]


def _candidates(distances: SquaredDistances, rows: slice, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (row within the block, row of y) among which are the `k` nearest of every row."""
    # where rounding leaves too many pairs open, the product is repeated in double precision
    for double in (False, True):
        values, margin = distances.block(rows, double=double)
        near = values <= (_upper_bound(values, k) + 2 * margin).astype(values.dtype)[:, None]
        if np.count_nonzero(near) <= 8 * k * len(values):
            break
    return true_pairs(near)


def _order(i: np.ndarray, j: np.ndarray, squared: np.ndarray, n_rows: int, k: int) -> np.ndarray:
    """Positions (n_rows, k) of the nearest pairs of every row, ties by the lower `j`."""
    ranked = np.lexsort((j, squared, i))
    first = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=n_rows))[:-1]])
    return ranked[first[:, None] + np.arange(k)]


def _exact(reference: np.ndarray, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances = SquaredDistances(query, reference)
    indices = np.empty((len(query), k), dtype=np.int64)
    lengths = np.empty((len(query), k))
    for rows in row_blocks(len(query), len(reference)):
        # 1. approximate distances leave few pairs that can be among the k nearest
        i, j = _candidates(distances, rows, k)
        # 2. these are compared in double precision, ties by position
        squared = distances.exact(i + rows.start, j)
        best = _order(i, j, squared, rows.stop - rows.start, k)
        # 3. back to the units of the input
        indices[rows] = j[best]
        lengths[rows] = np.ldexp(np.sqrt(squared[best]), distances.exponent)
    return indices, lengths


def _approximate(
    reference: np.ndarray, query: np.ndarray, k: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    from pynndescent import NNDescent  # imported where it is used: it compiles for ten seconds

    # 1. search in the scaled, centred coordinates, which suit single precision
    distances = SquaredDistances(query, reference)
    index = NNDescent(distances._right32[:-2].T.copy(), n_neighbors=max(30, k), random_state=seed)
    nearest = index.query(-0.5 * distances._left32[:, :-2], k=k, epsilon=0.2)[0].astype(np.int64)
    # 2. order what was found by distances in double precision
    rows = np.repeat(np.arange(len(query)), k)
    squared = distances.exact(rows, nearest.ravel())
    best = _order(rows, nearest.ravel(), squared, len(query), k)
    indices = nearest.ravel()[best]
    lengths = np.ldexp(np.sqrt(squared[best]), distances.exponent)
    # 3. a search that ended in a corner of the graph found fewer than k
    short = np.flatnonzero((nearest < 0).any(axis=1))
    if short.size:
        indices[short], lengths[short] = _exact(reference, query[short], k)
    return indices, lengths


def nearest_neighbors(
    reference: np.ndarray,
    query: np.ndarray,
    k: int,
    *,
    max_exact: int = MAX_EXACT,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest reference cells of every query cell, by Euclidean distance.

    Exact up to `max_exact` reference cells, found by pynndescent above. Equally near cells come in
    the order of their index.

    Parameters
    ----------
    reference, query
        ``float64`` arrays (cells, dimensions), checked by :func:`check_rows`.
    k
        Number of neighbours, checked by :func:`check_k`.
    max_exact
        Largest number of reference cells that are all compared.
    seed
        Seed of the search above `max_exact`.

    Returns
    -------
    Indices into the reference (n_query, k), nearest first, and Euclidean distances (n_query, k).
    """
    kept = _first_copies(reference, k)  # later copies cannot be among the neighbours
    pruned = reference[kept]
    if len(pruned) <= max_exact:
        indices, lengths = _exact(pruned, query, k)
    else:
        indices, lengths = _approximate(pruned, query, k, seed)
    return kept[indices], lengths


def neighbor_sums(values: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """(n, d) sums over the neighbours of each of n cells; no n x k x d array exists.

    Parameters
    ----------
    values
        (m, d) values of the cells that may be neighbours.
    neighbors
        (n, k) rows of `values`, from :func:`nearest_neighbors`.

    Examples
    --------
    >>> import numpy as np
    >>> neighbor_sums(np.array([[1.0], [2.0], [4.0]]), np.array([[0, 1], [1, 2]]))
    array([[3.],
           [6.]])
    """
    sums = np.zeros((len(neighbors), values.shape[1]))
    for column in neighbors.T:
        sums += values[column]
    return sums
