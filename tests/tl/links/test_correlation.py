from __future__ import annotations

import tracemalloc
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from cantata._numeric.feature_statistics import FeatureMatrix, group_moments
from cantata.tl._links._correlation import (
    Pairs,
    PairStatistics,
    approximate_p,
    pair_products,
    pair_statistics,
    permutation_p,
    strong_pairs,
)


def columns(values, statistic="pearson", name="values") -> FeatureMatrix:
    n_cells, n_features = values.shape
    return FeatureMatrix(
        values,
        np.arange(n_cells),
        np.arange(n_features),
        names=[f"f{i}" for i in range(n_features)],
        where=name,
        statistic=statistic,
    )


def data(n_cells=60, seed=0):
    """Dense values of one side, counts with many zeros of the other, and groups."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(n_cells) % 3)
    x = rng.normal(size=(n_cells, 5)) + codes[:, None] * rng.normal(size=5)
    y = rng.poisson(0.3 + 0.4 * codes[:, None], size=(n_cells, 7)).astype(np.float64)
    x[:, 4] = np.round(x[:, 4])  # ties
    y[:, 5], y[:, 6] = 0, 2  # constant
    return x, y, codes


def all_pairs(first, second, codes):
    moments = group_moments(first, codes), group_moments(second, codes)
    i, j = (index.ravel() for index in np.indices((first.shape[1], second.shape[1])))
    pairs = pair_products(first, second, moments[0], i, j)
    return pairs, pair_statistics(pairs, *moments)


FORMATS = {
    "dense": lambda a: a,
    "table": pd.DataFrame,
    "single precision": lambda a: a.astype(np.float32),
    "integers": lambda a: a.astype(np.int64),
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "coo": sparse.coo_matrix,
    "array": sparse.csr_array,
}


@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
@pytest.mark.parametrize("kind", FORMATS)
def test_correlations_equal_a_double_loop(kind, statistic):
    x, y, codes = data()
    first, second = columns(x, statistic), columns(FORMATS[kind](y), statistic)
    pairs, found = all_pairs(first, second, codes)
    function = stats.pearsonr if statistic == "pearson" else stats.spearmanr
    for i, j, r in zip(pairs.i, pairs.j, found.correlation, strict=True):
        if j >= 5:
            assert np.isnan(r)
        else:
            assert r == pytest.approx(function(x[:, i], y[:, j]).statistic, abs=1e-12)


@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
def test_within_correlation_is_that_of_what_the_groups_leave(statistic):
    x, y, codes = data()
    _, found = all_pairs(columns(x, statistic), columns(y, statistic), codes)
    if statistic == "spearman":
        x, y = stats.rankdata(x, axis=0), stats.rankdata(y, axis=0)
    left = [values.astype(float).copy() for values in (x, y)]
    for values in left:
        for code in range(3):
            values[codes == code] -= values[codes == code].mean(axis=0)
    expected = np.corrcoef(left[0].T, left[1][:, :5].T)[:5, 5:]
    np.testing.assert_allclose(found.within.reshape(5, 7)[:, :5], expected, atol=1e-12)
    assert (np.abs(expected - found.correlation.reshape(5, 7)[:, :5]) > 0.05).any()


@pytest.mark.parametrize("codes", [[0] * 6, [0, 1, 0, 1, 0, 0], [0, 1, 2, 2, 1, 1]])
def test_null_distribution_equals_that_of_all_permutations(codes):
    rng = np.random.default_rng(0)
    codes = np.array(codes)
    x, y = rng.normal(size=(6, 1)), rng.exponential(size=(6, 1))
    pairs, found = all_pairs(columns(x), columns(y), codes)
    groups = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    sums = []
    for orders in product(*(permutations(cells) for cells in groups)):
        shuffled = np.empty(6, dtype=int)
        for cells, order in zip(groups, orders, strict=True):
            shuffled[cells] = order
        sums.append(float(((x[shuffled] - x.mean()) * y).sum()))
    null = np.array(sums)
    observed = float(((x - x.mean()) * y).sum())
    assert pairs.products[0] == pytest.approx(observed)
    assert found.deviation[0] == pytest.approx(observed - null.mean())
    assert found.sd[0] == pytest.approx(null.std())
    assert found.skewness[0] == pytest.approx(stats.skew(null), abs=1e-10)
    exact = np.mean(np.abs(null - null.mean()) >= abs(observed - null.mean()) * (1 - 1e-9))
    options = {"n_permutations": 20_000, "seed": 0}
    p = permutation_p(columns(x), columns(y), pairs, found, codes, **options)
    assert p[0] == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("skewness", [1.5, -1.5, 0.0])
@pytest.mark.parametrize("deviation", [2.5, -2.5, 0.6])
def test_both_tails_of_a_skewed_distribution_count(skewness, deviation):
    one = np.ones(1)
    found = PairStatistics(one / 2, one / 2, 3 * deviation * one, 3 * one, skewness * one)
    # the standardised gamma distribution of that skewness, by its two tails
    shape = 4 / skewness**2 if skewness else 1e10
    ends = shape + np.sqrt(shape) * np.array([-1, 1]) * abs(deviation)
    tails = stats.gamma.cdf(ends[0], shape) + stats.gamma.sf(ends[1], shape)
    assert approximate_p(found)[0] == pytest.approx(tails, rel=1e-4)
    if skewness and abs(deviation) > 2:  # one tail is much heavier
        assert stats.gamma.cdf(ends[0], shape) < 0.1 * stats.gamma.sf(ends[1], shape)


@pytest.mark.parametrize("kinds", [("dense", "csr"), ("csr", "dense"), ("dense", "dense")])
@pytest.mark.parametrize("swap", [False, True])
def test_permutation_p_equals_a_loop(kinds, swap, monkeypatch):
    x, y, codes = data()
    x, y = (y, x) if swap else (x, y)
    first, second = (columns(FORMATS[kind](v)) for kind, v in zip(kinds, (x, y), strict=True))
    pairs, found = all_pairs(first, second, codes)
    monkeypatch.setattr("cantata.tl._links._correlation.BLOCK_ENTRIES", 60 * 40)
    p = permutation_p(first, second, pairs, found, codes, n_permutations=99, seed=3)
    rng = np.random.default_rng(3)
    moved, fixed = (x, y) if x.shape[1] <= y.shape[1] else (y, x)
    orders = []
    for size in (40, 40, 19):
        block = np.empty((60, size), dtype=int)
        for code in range(3):
            cells = np.flatnonzero(codes == code)
            block[cells] = rng.permuted(np.repeat(cells[None], size, axis=0), axis=1).T
        orders.extend(block.T)
    left = moved.astype(float).copy()
    for code in range(3):
        left[codes == code] -= left[codes == code].mean(axis=0)
    observed = np.abs(left.T @ fixed)
    count = np.sum([np.abs(left[order].T @ fixed) >= observed - 1e-9 for order in orders], axis=0)
    expected = (1 + count) / 100
    if moved is not x:
        expected = expected.T
    constant = np.isnan(found.correlation)
    np.testing.assert_allclose(p[~constant], expected[pairs.i, pairs.j][~constant])
    assert np.isnan(p[constant]).all()
    assert constant.any()


@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
def test_approximation_agrees_with_permutations(statistic):
    x, y, codes = data(n_cells=200)
    y[:, 3] = np.random.default_rng(0).random(200) < 0.03  # seen in few cells
    first, second = columns(x, statistic), columns(sparse.csr_matrix(y), statistic)
    pairs, found = all_pairs(first, second, codes)
    options = {"n_permutations": 4000, "seed": 0}
    shuffled = permutation_p(first, second, pairs, found, codes, **options)
    approximate = approximate_p(found)
    known = ~np.isnan(shuffled)
    np.testing.assert_array_equal(np.isnan(approximate), ~known)
    np.testing.assert_allclose(approximate[known], shuffled[known], atol=0.03)


def null_p(seed, within, n_permutations) -> tuple[np.ndarray, np.ndarray]:
    """P values of pairs that vary with the groups and are independent within."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, 300)
    x = rng.normal(size=(300, 20)) + rng.normal(size=(4, 20))[codes]
    y = rng.poisson(np.exp(rng.normal(-0.5, 0.7, size=(4, 20)))[codes]).astype(float)
    first, second = columns(x), columns(sparse.csr_matrix(y))
    groups = codes if within else np.zeros(300, dtype=int)
    moments = group_moments(first, groups), group_moments(second, groups)
    i = np.arange(20)
    pairs = pair_products(first, second, moments[0], i, i)  # no feature twice: independent
    found = pair_statistics(pairs, *moments)
    if n_permutations:
        options = {"n_permutations": n_permutations, "seed": seed}
        return permutation_p(first, second, pairs, found, groups, **options), found.correlation
    return approximate_p(found), found.correlation


@pytest.mark.parametrize("n_permutations", [0, 199])
def test_p_values_are_uniform_within_groups_and_only_there(n_permutations):
    results = [null_p(seed, True, n_permutations) for seed in range(20)]
    p, r = (np.concatenate(part) for part in zip(*results, strict=True))
    assert stats.kstest(p, "uniform").pvalue > 0.05
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.abs(r).max() > 0.3  # what the groups explain
    ignoring = np.concatenate([null_p(seed, False, n_permutations)[0] for seed in range(20)])
    assert stats.kstest(ignoring, "uniform").pvalue < 1e-10


def test_small_p_values_are_resolved():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 1))
    y = 0.5 * x + rng.normal(size=(500, 1))
    _, found = all_pairs(columns(x), columns(y), np.zeros(500, dtype=int))
    p = approximate_p(found)[0]
    # the test of a correlation of normal values has another tail, of nearly the same weight
    assert np.log10(p) == pytest.approx(np.log10(stats.pearsonr(x[:, 0], y[:, 0]).pvalue), rel=0.2)
    assert p < 1e-15
    _, found = all_pairs(columns(x), columns(x), np.zeros(500, dtype=int))
    assert 0 < approximate_p(found)[0] < 1e-80


def test_groups_without_variation_say_nothing():
    rng = np.random.default_rng(0)
    codes = np.array([0] * 20 + [1] * 20)
    x = rng.normal(size=(40, 2))
    y = np.column_stack([codes, x[:, 0] + rng.normal(size=40)]).astype(float)
    first, second = columns(x), columns(y)
    pairs, found = all_pairs(first, second, codes)
    shuffled = permutation_p(first, second, pairs, found, codes, n_permutations=50, seed=0)
    for p in (approximate_p(found), shuffled):
        assert (p[pairs.j == 0] == 1).all()
        assert p[pairs.j == 1][0] < 0.05
    assert np.isnan(found.within[pairs.j == 0]).all()
    assert np.isfinite(found.correlation).all()


@pytest.fixture
def _blocks(request, monkeypatch):
    """Blocks of so many features of 60 cells on both sides."""
    width = request.param
    if width is not None:
        monkeypatch.setattr("cantata._numeric.feature_statistics.BLOCK_ENTRIES", 60 * width)
        monkeypatch.setattr("cantata.tl._links._correlation._block_width", lambda *_: width)


@pytest.mark.parametrize("_blocks", [None, 1, 3, 100], indirect=True)
@pytest.mark.parametrize("kind", ["dense", "csr"])
@pytest.mark.usefixtures("_blocks")
def test_all_pairs_in_blocks_equal_given_pairs(kind):
    x, y, codes = data()
    first, second = columns(x), columns(FORMATS[kind](y))
    pairs, found = all_pairs(first, second, codes)
    moments = group_moments(first, codes), group_moments(second, codes)
    options = {"max_pairs": 1000}
    everything = strong_pairs(first, second, *moments, min_correlation=0, **options)
    known = ~np.isnan(found.correlation)
    for name in ("i", "j", "products"):
        np.testing.assert_allclose(getattr(everything, name), getattr(pairs, name)[known])
    strong = strong_pairs(first, second, *moments, min_correlation=0.2, **options)
    kept = np.abs(np.nan_to_num(found.correlation)) >= 0.2
    np.testing.assert_array_equal(strong.i, pairs.i[kept])
    np.testing.assert_array_equal(strong.j, pairs.j[kept])
    assert 0 < kept.sum() < known.sum()
    options["max_pairs"] = 4
    strongest = strong_pairs(first, second, *moments, min_correlation=0, **options)
    best = np.sort(np.argsort(-np.abs(np.nan_to_num(found.correlation)))[:4])
    np.testing.assert_array_equal(strongest.i, pairs.i[best])
    np.testing.assert_array_equal(strongest.j, pairs.j[best])


@pytest.mark.parametrize("_blocks", [None, 1, 2], indirect=True)
@pytest.mark.usefixtures("_blocks")
def test_pairs_within_one_side_are_counted_once():
    x, _, codes = data()
    side = columns(x)
    moments = group_moments(side, codes)
    pairs = strong_pairs(
        side,
        side,
        moments,
        moments,
        min_correlation=0,
        max_pairs=100,
        upper=True,
    )
    i, j = np.triu_indices(5, 1)
    np.testing.assert_array_equal(pairs.i, i)
    np.testing.assert_array_equal(pairs.j, j)
    expected = np.corrcoef(x.T)[i, j]
    np.testing.assert_allclose(pair_statistics(pairs, moments, moments).correlation, expected)


def test_wide_sparse_matrices_stay_sparse():
    rng = np.random.default_rng(0)
    wide = sparse.random_array((2000, 40_000), density=0.002, rng=rng, format="csr")
    x = rng.normal(size=(2000, 30))
    i, j = rng.integers(0, 30, 5000), rng.integers(0, 40_000, 5000)
    codes = np.zeros(2000, dtype=int)
    tracemalloc.start()
    first, second = columns(x), columns(wide, "spearman")
    moments = group_moments(first, codes), group_moments(second, codes)
    pairs = pair_products(first, second, moments[0], i, j)
    pair_statistics(pairs, *moments)
    strong_pairs(first, second, *moments, min_correlation=0.05, max_pairs=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(pairs, Pairs)
    assert peak < 250e6  # dense in double precision: 640 MB
