"""Correlations of pairs of features, and how likely they are when cells are shuffled in groups.

Throughout, `first` and `second` are features of one side and of the other in the same cells, and a
pair is a position in each. The statistic of a pair is the sum over cells of the centred value
of one times the value of the other; its null distribution is that under all permutations of cells
within groups, of which mean, variance and third moment are known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import false_discovery_control, pearson3

from cantata.tl._feature_columns import BLOCK_ENTRIES, FeatureColumns, Moments

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN = 2**31
"""Multiplications from which on a progress bar is shown."""


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


def pair_products(
    first: FeatureColumns, second: FeatureColumns, of_first: Moments, i: np.ndarray, j: np.ndarray
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
    for features in shown(blocks, "Correlations", int(len(i) * second.n_stored)):
        bounds = np.searchsorted(i, np.arange(features.start, features.stop + 1))
        if bounds[0] == bounds[-1]:
            continue
        values = first.dense(features) - mean[features]
        for column, (low, high) in enumerate(pairwise(bounds)):
            for part in slices(low, high, first.shape[0]):
                products[part] = second.block(j[part]).T @ values[:, column]
    return Pairs(i, j, products)


def strong_pairs(
    first: FeatureColumns,
    second: FeatureColumns,
    of_first: Moments,
    of_second: Moments,
    *,
    min_correlation: float,
    max_pairs: int,
    block_size: int | None = None,
    upper: bool = False,
) -> Pairs:
    """Of all pairs those that correlate most, found in blocks.

    Parameters
    ----------
    first, second, of_first, of_second
        Features and their moments.
    min_correlation
        Smallest absolute correlation.
    max_pairs
        At most so many pairs, those with the largest absolute correlation.
    block_size
        Features of each side in a block. By default as many as bound its memory.
    upper
        Both sides are the same features: each pair once, none with itself.

    Returns
    -------
    Pairs in the order of `first`. Pairs with a constant feature are not among them.
    """
    root = [np.sqrt(moments.variation) for moments in (of_first, of_second)]
    mean = of_first.mean
    found: list[np.ndarray] = []
    n_found, least = 0, min_correlation
    blocks = list(first.blocks(block_size))
    work = int(second.n_stored) * second.shape[1] * first.shape[1]
    for features in shown(blocks, "Correlations", work):
        values = first.dense(features) - mean[features]
        for others in second.blocks(block_size or _width(second, values.shape[1])):
            if upper and others.stop <= features.start:
                continue
            products = np.asarray((second.block(others).T @ values).T)
            scale = np.outer(root[0][features], root[1][others])
            strength = np.divide(
                np.abs(products), scale, out=-np.ones_like(scale), where=scale > 0
            )
            keep = strength >= least
            if upper:
                rows, columns = np.ogrid[features, others]
                keep &= rows < columns
            i, j = np.nonzero(keep)
            entries = (i + features.start, j + others.start, products[keep], strength[keep])
            found.append(np.stack(entries))
            n_found += len(i)
            if n_found > 2 * max_pairs:  # what is weaker than all of these needs no place
                found = [_strongest(found, max_pairs)]
                n_found, least = max_pairs, found[0][3, -1]
    kept = _strongest(found, max_pairs)
    kept = kept[:, np.lexsort((kept[1], kept[0]))]
    return Pairs(kept[0].astype(np.int64), kept[1].astype(np.int64), kept[2])


def _width(second: FeatureColumns, n_first: int) -> int | None:
    """Features of a block whose products stay bounded; of a dense one, also its values."""
    products = max(256, BLOCK_ENTRIES // n_first)
    return (
        products if second.is_sparse else min(products, max(1, BLOCK_ENTRIES // second.shape[0]))
    )


def _strongest(found: list[np.ndarray], most: int) -> np.ndarray:
    joined = np.concatenate(found, axis=1) if found else np.empty((4, 0))
    if joined.shape[1] <= most:
        return joined
    return joined[:, np.argsort(-joined[3], kind="stable")[:most]]


def pair_statistics(pairs: Pairs, of_first: Moments, of_second: Moments) -> PairStatistics:
    """Correlations of pairs and the exact moments of their products under permutation."""
    sizes = of_first.sizes.astype(np.float64)
    names = ("correlation", "within", "deviation", "sd", "skewness")
    result = {name: np.empty(len(pairs.i)) for name in names}
    variation = of_first.variation, of_second.variation
    # a permutation of n values has no variance for n = 1 and no skewness for n = 2
    free = np.divide(1, sizes - 1, out=np.zeros_like(sizes), where=sizes > 1)
    third = np.divide(sizes, (sizes - 1) * (sizes - 2), out=np.zeros_like(sizes), where=sizes > 2)
    between = of_first.means - of_first.mean
    for part in slices(0, len(pairs.i), len(sizes)):
        i, j = pairs.i[part], pairs.j[part]
        squares = of_first.squares[:, i], of_second.squares[:, j]
        mean = sizes @ (between[:, i] * of_second.means[:, j])
        variance = free @ (squares[0] * squares[1])
        cube = third @ (of_first.cubes[:, i] * of_second.cubes[:, j])
        deviation = pairs.products[part] - mean
        total = np.sqrt(variation[0][i] * variation[1][j])
        inner = np.sqrt(squares[0].sum(axis=0) * squares[1].sum(axis=0))
        deviation[inner == 0] = 0
        sd = np.sqrt(variance)
        result["correlation"][part] = _ratio(pairs.products[part], total)
        result["within"][part] = _ratio(deviation, inner)
        result["deviation"][part], result["sd"][part] = deviation, sd
        result["skewness"][part] = np.divide(cube, sd**3, out=np.zeros_like(sd), where=sd > 0)
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
    z = np.zeros_like(statistics.deviation)
    moving = statistics.sd > 0
    z[moving] = np.abs(statistics.deviation[moving]) / statistics.sd[moving]
    p = np.ones_like(z)
    skewness = statistics.skewness[moving]
    p[moving] = pearson3.sf(z[moving], skewness) + pearson3.cdf(-z[moving], skewness)
    p = np.clip(p, np.finfo(np.float64).tiny, 1)
    return np.where(np.isnan(statistics.correlation), np.nan, p)


def q_values(p: np.ndarray, n_tests: int | None = None) -> np.ndarray:
    """Benjamini-Hochberg adjusted p values; missing ones stay missing and are no tests.

    Parameters
    ----------
    p
        P values, some may be NaN.
    n_tests
        Number of tests that `p` are the smallest p values of; by default all were kept.
    """
    q = np.full_like(p, np.nan)
    known = ~np.isnan(p)
    if known.any():
        factor = 1 if n_tests is None else n_tests / known.sum()
        q[known] = np.minimum(false_discovery_control(p[known]) * factor, 1)
    return q


def slices(start: int, stop: int, width: int) -> Iterator[slice]:
    """Slices between two bounds such that a dense block of that width is of bounded size."""
    step = max(1, BLOCK_ENTRIES // width)
    for low in range(start, stop, step):
        yield slice(low, min(low + step, stop))


def shown(items: list, description: str, work: int) -> Iterator:
    """Iterate with a progress bar if there is much to do: `work` multiplications."""
    from rich.progress import track

    return iter(track(items, description=description, disable=work < SHOWN))
