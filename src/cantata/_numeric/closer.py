"""What is closer than the partner, counted for both sides in one pass over their distances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from cantata._numeric.neighbors import SquaredDistances, row_codes

if TYPE_CHECKING:
    from collections.abc import Iterator

TILE = 256, 2048
"""Rows and columns of a block of distances, which the cache holds."""


def closer_than_partner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, 2) numbers of rows of `y` closer to a row of `x` than its partner, and the reverse.

    Exact: what single precision could get wrong is decided in double, from plain differences.
    """
    n = len(x)
    distances = SquaredDistances(x, y)
    cells = np.arange(n)
    limits = distances.exact(cells, cells)
    codes_x, codes_y = row_codes(x), row_codes(y)
    counts = np.zeros((2, n), dtype=np.int64)
    for rows, columns in _tiles(n):
        # 1. count what is closer beyond doubt
        i, j, was = _count(distances, rows, columns, limits, counts)
        # 2. decide the rest; the partner itself and its copies are exactly as far
        distinct = (codes_x[i] != codes_x[j]) | (codes_y[i] != codes_y[j])
        i, j = i[distinct], j[distinct]
        squared = distances.exact(i, j)
        for count, known, own in zip(counts, was[:, distinct], (i, j), strict=True):
            np.add.at(count, own, (squared < limits[own]).astype(int) - known)
    return counts.T


def _tiles(n: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, n, TILE[0]):
        for column in range(0, n, TILE[1]):
            yield slice(row, min(row + TILE[0], n)), slice(column, min(column + TILE[1], n))


def _count(
    distances: SquaredDistances,
    rows: slice,
    columns: slice,
    limits: np.ndarray,
    counts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Add to `counts` what is closer; rows and columns of open pairs, and how they were counted.

    Where single precision leaves many pairs open, the tile is computed again in double.
    """
    of_tile: Any = ()
    for double in (False, True):
        values, margin = distances.block(rows, columns, double=double)
        kind, widest = values.dtype, margin.max()
        of_tile = _pass(
            values,
            (limits[rows] - margin).astype(kind),
            (limits[rows] + margin).astype(kind),
            (limits[columns] - widest).astype(kind),
            (limits[columns] + widest).astype(kind),
        )
        if len(of_tile[2]) <= values.size // 64:
            break
    of_rows, of_columns, found = of_tile
    counts[0, rows] += of_rows
    counts[1, columns] += of_columns
    return found[:, 0] + rows.start, found[:, 1] + columns.start, found[:, 2:].T


@njit
def _pass(
    values: np.ndarray,
    row_low: np.ndarray,
    row_high: np.ndarray,
    column_low: np.ndarray,
    column_high: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries below the lower limits, by row and by column, and those between limits.

    The latter are (k, 4): row, column, and whether they were counted for either.
    """
    n, m = values.shape
    of_rows = np.zeros(n, np.int32)
    of_columns = np.zeros(m, np.int32)
    open_pairs = np.zeros(n, np.int32)
    for i in range(n):
        low, high = row_low[i], row_high[i]
        below, between = np.int32(0), np.int32(0)
        for j in range(m):
            v = values[i, j]
            of_columns[j] += v < column_low[j]
            below += v < low
            between += ((v >= low) & (v <= high)) | ((v >= column_low[j]) & (v <= column_high[j]))
        of_rows[i], open_pairs[i] = below, between
    found = np.empty((open_pairs.sum(), 4), np.int64)
    k = 0
    for i in range(n):
        if open_pairs[i]:
            for j in range(m):
                v = values[i, j]
                in_row, in_column = v < row_low[i], v < column_low[j]
                if (not in_row and v <= row_high[i]) or (not in_column and v <= column_high[j]):
                    found[k, 0], found[k, 1], found[k, 2], found[k, 3] = i, j, in_row, in_column
                    k += 1
    return of_rows, of_columns, found
