"""Correlations of pairs of features, and how likely they are when cells are shuffled in groups.

Throughout, `first` and `second` are features of one side and of the other in the same cells, and a
pair is a position in each. The statistic of a pair is the sum over cells of the centred value
of one times the value of the other; its null distribution is that under all permutations of cells
within groups, of which mean, variance and third moment are known exactly.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from rich.progress import track
from scipy import sparse
from scipy.stats import pearson3

from cantata._mudata.checks import check_integer
from cantata._numeric.feature_statistics import (
    BLOCK_ENTRIES,
    FeatureMatrix,
    GroupMoments,
    Statistic,
    group_moments,
    q_values,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

PROGRESS_WORK = 2**31
"""Multiplications from which on a progress bar is shown."""

MIN_BLOCK_WIDTH = 256
"""Blocks of the second side are at least as wide where they are sparse."""

TIE = 1e-9
"""Products that differ by this share are equal: rounding must not decide a tie."""


@dataclass(frozen=True)
class Candidates:
    """Pairs to test: positions on both sides, and distances in base pairs (NaN: unknown)."""

    source: np.ndarray
    target: np.ndarray
    distance: np.ndarray

    def among(self, source: np.ndarray, target: np.ndarray) -> Candidates:
        """Candidates whose ends are among the given features, as positions among those."""
        i, j = (
            pd.Index(known).get_indexer(end)
            for known, end in ((source, self.source), (target, self.target))
        )
        kept = (i >= 0) & (j >= 0)
        return Candidates(i[kept], j[kept], self.distance[kept])


@dataclass(frozen=True)
class Correlations:
    """Pairs of features (positions ``i`` and ``j``), their table, and how many were tested."""

    i: np.ndarray
    j: np.ndarray
    table: pd.DataFrame
    n_tests: int


@dataclass(frozen=True)
class Pairs:
    """Pairs of features: positions in `first` and in `second`, and the sum of their products."""

    i: np.ndarray
    j: np.ndarray
    products: np.ndarray


@dataclass(frozen=True)
class PairStatistics:
    """Statistics of pairs, each (pairs,).

    ``correlation`` over all cells and ``within`` groups (pooled), both NaN without variation;
    ``deviation`` of the products from their mean under permutation, ``sd`` and ``skewness`` of
    that null distribution.
    """

    correlation: np.ndarray
    within: np.ndarray
    deviation: np.ndarray
    sd: np.ndarray
    skewness: np.ndarray


def check_options(
    statistic: str, min_correlation: float, n_permutations: int, **max_pairs: int
) -> None:
    """Refuse options out of range; `max_pairs` goes by the name that the user knows."""
    if statistic not in get_args(Statistic):
        raise ValueError(f"statistic={statistic!r} is unknown; choose from {get_args(Statistic)}.")
    if not 0 <= min_correlation <= 1:
        raise ValueError(f"min_correlation={min_correlation!r} must be within [0, 1].")
    for name, value in max_pairs.items():
        check_integer(name, value)
    check_integer("n_permutations", n_permutations, 0)


def correlate(
    first: FeatureMatrix,
    second: FeatureMatrix,
    candidates: Candidates | None,
    codes: np.ndarray,
    *,
    min_correlation: float,
    max_pairs: int,
    p_values: bool,
    n_permutations: int,
    seed: int,
    upper: bool = False,
) -> Correlations:
    """Correlate pairs of features, and maybe test them against permutations within groups.

    Without candidates all pairs are correlated, and the `max_pairs` strongest are kept. Options
    are as in :func:`cantata.tl.infer_links`; without `p_values` p and q are NaN; `upper`: both
    sides are the same features, each pair counts once and none with itself. Pairs come in the
    order of `first`, then `second`.
    """
    moments = group_moments(first, codes), group_moments(second, codes)
    varies = moments[0].varies, moments[1].varies
    if candidates is None:
        pairs = strong_pairs(
            first,
            second,
            *moments,
            min_correlation=min_correlation,
            max_pairs=max_pairs,
            upper=upper,
        )
        n_first, n_second = (int(np.count_nonzero(side)) for side in varies)
        n_tests = n_first * (n_first - 1) // 2 if upper else n_first * n_second
        distance = np.full(len(pairs.i), np.nan)
        if len(pairs.i) == max_pairs < n_tests:
            logger.info("The %d strongest of %d pairs are kept.", len(pairs.i), n_tests)
    else:
        pairs = pair_products(first, second, moments[0], candidates.source, candidates.target)
        n_tests = int(np.count_nonzero(varies[0][pairs.i] & varies[1][pairs.j]))
        distance = candidates.distance
    statistics = pair_statistics(pairs, *moments)
    if not p_values:
        p, n_tests = np.full(len(pairs.i), np.nan), 0
    elif n_permutations:
        p = permutation_p(
            first, second, pairs, statistics, codes, n_permutations=n_permutations, seed=seed
        )
    else:
        p = approximate_p(statistics)
    table = pd.DataFrame(
        {
            "source": first.names[pairs.i],
            "target": second.names[pairs.j],
            "correlation": statistics.correlation,
            "within_correlation": statistics.within,
            "p": p,
            "q": q_values(p, n_tests),
            "distance": distance,
        }
    )
    kept = np.ones(len(table), dtype=bool)
    if min_correlation > 0:  # without a limit pairs of constant features stay too
        kept = np.abs(statistics.correlation) >= min_correlation
    return Correlations(pairs.i[kept], pairs.j[kept], table[kept].reset_index(drop=True), n_tests)


def pair_products(
    first: FeatureMatrix,
    second: FeatureMatrix,
    of_first: GroupMoments,
    i: np.ndarray,
    j: np.ndarray,
) -> Pairs:
    """Sums of products of given pairs, which are returned in the order of `first`.

    Only the features that a block of `first` is paired with are read, and no other pair is
    computed.
    """
    order = np.lexsort((j, i))
    i, j = i[order], j[order]
    products = np.empty(len(i))
    mean = of_first.mean
    blocks = list(first.blocks())
    for block in with_progress(blocks, "Correlations", int(len(i) * second.n_stored)):
        bounds = np.searchsorted(i, np.arange(block.start, block.stop + 1))
        if bounds[0] == bounds[-1]:
            continue
        values = first.dense(block) - mean[block]
        for column, (low, high) in enumerate(pairwise(bounds)):
            for part in _slices(low, high, first.shape[0]):
                products[part] = second.block(j[part]).T @ values[:, column]
    return Pairs(i, j, products)


def strong_pairs(
    first: FeatureMatrix,
    second: FeatureMatrix,
    of_first: GroupMoments,
    of_second: GroupMoments,
    *,
    min_correlation: float,
    max_pairs: int,
    upper: bool = False,
) -> Pairs:
    """Of all pairs those with the largest absolute correlation, in the order of `first`.

    Pairs with a constant feature are not among them. `upper` is as in :func:`correlate`.
    """
    chosen: list[np.ndarray] = []  # each: i, j, product, absolute correlation
    n_chosen, least = 0, min_correlation
    for i, j, products, scale in pair_blocks(first, second, of_first, of_second, upper=upper):
        strength = np.divide(np.abs(products), scale, out=-np.ones_like(scale), where=scale > 0)
        keep = np.nonzero(strength >= least)
        chosen.append(np.stack((i[keep[0]], j[keep[1]], products[keep], strength[keep])))
        n_chosen += len(keep[0])
        if n_chosen > 2 * max_pairs:  # what is weaker than all that fit needs no place
            chosen = [_strongest(chosen, max_pairs)]
            n_chosen, least = max_pairs, chosen[0][3, -1]
    kept = _strongest(chosen, max_pairs)
    kept = kept[:, np.lexsort((kept[1], kept[0]))]
    return Pairs(kept[0].astype(np.int64), kept[1].astype(np.int64), kept[2])


def pair_blocks(
    first: FeatureMatrix,
    second: FeatureMatrix,
    of_first: GroupMoments,
    of_second: GroupMoments,
    *,
    upper: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Positions on both sides, sums of products, and what these would be at a correlation of 1.

    The latter is 0 for pairs that are not tested: of a constant feature, or by `upper`.
    """
    root = [np.sqrt(moments.variation) for moments in (of_first, of_second)]
    blocks = list(first.blocks())
    work = int(second.n_stored) * second.shape[1] * first.shape[1]
    for block in with_progress(blocks, "Correlations", work):
        # Centring one side is enough: the sum of products is then that of both centred.
        values = first.dense(block) - of_first.mean[block]
        i = np.arange(block.start, block.stop)
        for others in second.blocks(_block_width(second, len(i))):
            if upper and others.stop <= block.start:
                continue
            j = np.arange(others.start, others.stop)
            products = np.asarray((second.block(others).T @ values).T)
            scale = np.outer(root[0][block], root[1][others])
            if upper:
                scale[i[:, None] >= j] = 0
            yield i, j, products, scale


def _block_width(second: FeatureMatrix, n_first: int) -> int:
    """Features of a block whose products stay bounded; of a dense one, also its values."""
    width = max(MIN_BLOCK_WIDTH, BLOCK_ENTRIES // n_first)
    return width if second.is_sparse else min(width, max(1, BLOCK_ENTRIES // second.shape[0]))


def _strongest(chosen: list[np.ndarray], most: int) -> np.ndarray:
    joined = np.concatenate(chosen, axis=1) if chosen else np.empty((4, 0))
    if joined.shape[1] <= most:
        return joined
    return joined[:, np.argsort(-joined[3], kind="stable")[:most]]


def pair_statistics(
    pairs: Pairs, of_first: GroupMoments, of_second: GroupMoments
) -> PairStatistics:
    r"""Correlations of pairs and the exact moments of their products under permutation.

    Of :math:`n` values of one group, of which :math:`S_k` is the sum of the k-th powers about the
    mean, the products :math:`T = \sum_c x_c y_c` have, over all permutations, the mean
    :math:`n \bar x \bar y`, the variance :math:`S_2(x) S_2(y) / (n - 1)` and the third central
    moment :math:`S_3(x) S_3(y)\, n / ((n - 1)(n - 2))`. Groups are shuffled independently: each
    adds up over them.
    """
    sizes = of_first.sizes.astype(np.float64)
    names = ("correlation", "within", "deviation", "sd", "skewness")
    result = {name: np.empty(len(pairs.i)) for name in names}
    variation = of_first.variation, of_second.variation
    # 1. Factors of the groups. One value has no variance, two have no skewness.
    of_variance = np.divide(1, sizes - 1, out=np.zeros_like(sizes), where=sizes > 1)
    of_third = np.divide(
        sizes, (sizes - 1) * (sizes - 2), out=np.zeros_like(sizes), where=sizes > 2
    )
    between = of_first.means - of_first.mean  # `first` is centred over all cells
    for part in _slices(0, len(pairs.i), len(sizes)):
        i, j = pairs.i[part], pairs.j[part]
        # 2. Moments of the null distribution.
        squares = of_first.squares[:, i], of_second.squares[:, j]
        mean = sizes @ (between[:, i] * of_second.means[:, j])
        variance = of_variance @ (squares[0] * squares[1])
        third = of_third @ (of_first.cubes[:, i] * of_second.cubes[:, j])
        # 3. What the groups do not explain. Without variation within groups it is rounding.
        deviation = pairs.products[part] - mean
        total = np.sqrt(variation[0][i] * variation[1][j])
        inner = np.sqrt(squares[0].sum(axis=0) * squares[1].sum(axis=0))
        deviation[inner == 0] = 0
        sd = np.sqrt(variance)
        # 4. Correlations over all cells, and within groups pooled.
        result["correlation"][part] = _ratio(pairs.products[part], total)
        result["within"][part] = _ratio(deviation, inner)
        result["deviation"][part], result["sd"][part] = deviation, sd
        result["skewness"][part] = np.divide(third, sd**3, out=np.zeros_like(sd), where=sd > 0)
    return PairStatistics(**result)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Correlations: quotients within [-1, 1], NaN where the denominator is 0."""
    missing = np.full_like(numerator, np.nan)
    quotient = np.divide(numerator, denominator, out=missing, where=denominator > 0)
    return np.clip(quotient, -1, 1)


def approximate_p(statistics: PairStatistics) -> np.ndarray:
    """Two-sided p values from a Pearson type III distribution of the exact moments.

    The probability that the products deviate from their mean at least as far, on either side. It
    is 1 where no permutation changes anything, NaN without a correlation.
    """
    # 1. Deviations in standard deviations of the null distribution.
    z = np.zeros_like(statistics.deviation)
    moves = statistics.sd > 0
    z[moves] = np.abs(statistics.deviation[moves]) / statistics.sd[moves]
    # 2. A skewed distribution has two tails of different weight: both beyond the same distance.
    p = np.ones_like(z)
    skewness = statistics.skewness[moves]
    p[moves] = pearson3.sf(z[moves], skewness) + pearson3.cdf(-z[moves], skewness)
    # 3. No p value is 0, however far the deviation.
    p = np.clip(p, np.finfo(np.float64).tiny, 1)
    return np.where(np.isnan(statistics.correlation), np.nan, p)


def permutation_p(
    first: FeatureMatrix,
    second: FeatureMatrix,
    pairs: Pairs,
    statistics: PairStatistics,
    codes: np.ndarray,
    *,
    n_permutations: int,
    seed: int,
) -> np.ndarray:
    """Two-sided p values from random permutations of the cells within groups.

    One plus the number of permutations whose products deviate from their mean at least as far as
    the observed ones, divided by one plus the number of permutations; NaN without a correlation.
    The same permutations serve all pairs.
    """
    # 1. Shuffle the side with fewer features; pairs are sorted by it.
    i, j, moved, fixed = pairs.i, pairs.j, first, second
    if len(np.unique(j)) < len(np.unique(i)):
        i, j, moved, fixed = j, i, second, first
    order = np.lexsort((j, i))
    i, j = i[order], j[order]
    features, starts = np.unique(i, return_index=True)
    ends = np.append(starts[1:], len(i))
    # 2. What a permutation has to reach. Rounding is on the side of the null hypothesis.
    limit = (np.abs(statistics.deviation) * (1 - TIE) - TIE * statistics.sd)[order]
    n_exceeding = np.zeros(len(i), dtype=np.int64)
    n_cells = moved.shape[0]
    member = sparse.csr_matrix((np.ones(n_cells), (codes, np.arange(n_cells))))
    group_mean = sparse.diags(1 / np.bincount(codes)) @ member
    # 3. Permutations are drawn a few at a time, and each batch is used for all features.
    rng = np.random.default_rng(seed)
    step = max(1, min(n_permutations, BLOCK_ENTRIES // n_cells))
    n_batches = -(-n_permutations // step)
    jobs = [(batch, k) for batch in range(n_batches) for k in range(len(features))]
    work = n_permutations * int(len(i) * fixed.n_stored + len(features) * n_cells)
    for batch, k in with_progress(jobs, "Permutations", work):
        if k == 0:
            shuffled = _permutations(codes, min(step, n_permutations - batch * step), rng)
        # 4. Centred within groups the products have the mean 0 under permutation.
        values = moved.dense(features[k : k + 1])[:, 0]
        values = values - member.T @ (group_mean @ values)
        for part in _slices(starts[k], ends[k], n_cells):
            products = _shuffled_products(values, fixed.block(j[part]), shuffled)
            n_exceeding[part] += (np.abs(products) >= limit[part, None]).sum(axis=1)
    # 5. Back to the order of the pairs. The observed order counts as one of the permutations.
    p = np.empty(len(i))
    p[order] = (1 + n_exceeding) / (1 + n_permutations)
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
    # Only cells with a stored value take part: fewer shuffled values are gathered.
    rows, positions = np.unique(block.indices, return_inverse=True)
    shape = (block.shape[1], len(rows))
    narrow = sparse.csr_matrix((block.data, positions, block.indptr), shape=shape)
    return narrow @ values[shuffled[rows]]


def _slices(start: int, stop: int, width: int) -> Iterator[slice]:
    """Slices between two bounds such that a dense block of that width is of bounded size."""
    step = max(1, BLOCK_ENTRIES // width)
    for low in range(start, stop, step):
        yield slice(low, min(low + step, stop))


def with_progress(items: list, description: str, work: int) -> Iterator:
    """Iterate with a progress bar if there is much to do: `work` multiplications."""
    return iter(track(items, description=description, disable=work < PROGRESS_WORK))
