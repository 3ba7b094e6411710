"""How often shuffled cells correlate as much as they do: permutations within groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cantata.tl._feature_columns import BLOCK_ENTRIES
from cantata.tl._link_statistics import shown, slices

if TYPE_CHECKING:
    from cantata.tl._feature_columns import FeatureColumns
    from cantata.tl._link_statistics import Pairs, PairStatistics

TIE = 1e-9
"""Products that differ by this share are equal: rounding must not decide a tie."""


def permutation_p(
    first: FeatureColumns,
    second: FeatureColumns,
    pairs: Pairs,
    statistics: PairStatistics,
    codes: np.ndarray,
    *,
    n_permutations: int,
    random_state: int,
) -> np.ndarray:
    """Two-sided p values from random permutations of the cells within groups.

    One plus the number of permutations whose products deviate from their mean at least as far as
    the observed ones, divided by one plus the number of permutations; NaN without a correlation.
    The same permutations serve all pairs.
    """
    i, j, moved, fixed = pairs.i, pairs.j, first, second
    if len(np.unique(j)) < len(np.unique(i)):  # shuffle the side with fewer features
        i, j, moved, fixed = j, i, second, first
    order = np.lexsort((j, i))
    i, j = i[order], j[order]
    n_cells = moved.shape[0]
    member = sparse.csr_matrix((np.ones(n_cells), (codes, np.arange(n_cells))))
    scatter = sparse.diags(1 / np.bincount(codes)) @ member
    limit = (np.abs(statistics.deviation) * (1 - TIE) - TIE * statistics.sd)[order]
    exceeding = np.zeros(len(i), dtype=np.int64)
    features, starts = np.unique(i, return_index=True)
    ends = np.append(starts[1:], len(i))
    rng = np.random.default_rng(random_state)
    step = max(1, min(n_permutations, BLOCK_ENTRIES // n_cells))
    rounds = -(-n_permutations // step)
    jobs = [(n, k) for n in range(rounds) for k in range(len(features))]
    work = n_permutations * int(len(i) * fixed.n_stored + len(features) * n_cells)
    for n, k in shown(jobs, "Permutations", work):
        if k == 0:
            shuffled = _permutations(codes, min(step, n_permutations - n * step), rng)
        values = moved.dense(features[k : k + 1])[:, 0]
        values = values - member.T @ (scatter @ values)  # within groups: the mean product is 0
        for part in slices(starts[k], ends[k], n_cells):
            products = _shuffled_products(values, fixed.block(j[part]), shuffled)
            exceeding[part] += (np.abs(products) >= limit[part, None]).sum(axis=1)
    p = np.empty(len(i))
    p[order] = (1 + exceeding) / (1 + n_permutations)
    return np.where(np.isnan(statistics.correlation), np.nan, p)


def _permutations(codes: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Cells x n; every column is a permutation of the cells that keeps the groups."""
    result = np.empty((len(codes), n), dtype=np.int32)
    for code in range(codes.max() + 1):
        cells = np.flatnonzero(codes == code)
        copies = np.repeat(cells[None].astype(np.int32), n, axis=0)
        result[cells] = rng.permuted(copies, axis=1, out=copies).T
    return result


def _shuffled_products(values: np.ndarray, block: Any, shuffled: np.ndarray) -> np.ndarray:
    """Sums of products of shuffled values with every column of the block, (columns, n)."""
    if not sparse.issparse(block):
        return block.T @ values[shuffled]
    rows, places = np.unique(block.indices, return_inverse=True)
    shape = (block.shape[1], len(rows))
    narrow = sparse.csr_matrix((block.data, places, block.indptr), shape=shape)
    return narrow @ values[shuffled[rows]]
