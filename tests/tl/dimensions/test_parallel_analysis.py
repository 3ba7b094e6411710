"""Components of residuals, and what chance makes of them: against dense loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from cantata._numeric.canonical import canonical_variates
from cantata.tl._dimensions import _parallel_analysis
from cantata.tl._dimensions._input import ScaledFeatures
from cantata.tl._dimensions._parallel_analysis import (
    Residual,
    balance,
    count_components,
    deviations,
    largest_null_eigenvalues,
    null_quantile,
)
from cantata.tl._dimensions._shared_variates import shared_variates


def features_of(values):
    dense = values.toarray() if sparse.issparse(values) else values
    return ScaledFeatures(values, dense.mean(axis=0), dense.var(axis=0))


def counts(n=80, p=12, density=0.4, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.gamma(2, 1, (n, p)) * (rng.uniform(size=(n, p)) < density)
    values[:, 0] += rng.normal(size=n) * values[:, 1]
    return values


@pytest.fixture(params=["dense", "sparse"])
def features(request):
    values = counts()
    return features_of(sparse.csr_matrix(values) if request.param == "sparse" else values)


@pytest.fixture(params=["narrow", "wide"])
def _width(request, monkeypatch):
    if request.param == "wide":
        monkeypatch.setattr(_parallel_analysis, "MAX_GRAM_WIDTH", 2)


@pytest.fixture(params=[0, 2])
def residual(request, features):
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(80, request.param))
    return Residual(features, np.linalg.qr(columns - columns.mean(axis=0))[0])


def naive(residual):
    """What the basis leaves, as a dense matrix."""
    values = residual.features.values
    dense = values.toarray() if sparse.issparse(values) else values
    centred = dense - dense.mean(axis=0)
    return centred - residual.basis @ (residual.basis.T @ centred)


@pytest.mark.usefixtures("_width")
@pytest.mark.parametrize("n", [5, 11, 12])
def test_components_equal_a_decomposition(residual, n):
    left = naive(residual)
    values, axes = residual.components(n)
    sizes, turned = np.linalg.svd(left, full_matrices=False)[1:]
    np.testing.assert_allclose(values, sizes[:n] ** 2 / 80, rtol=1e-6)
    np.testing.assert_allclose(np.abs(turned[:n] @ axes), np.eye(n), atol=1e-4)


def test_sums_of_squares_equal_those_of_the_rest(residual):
    left = naive(residual)
    _, axes = residual.components(12)
    for n in (0, 1, 3, 12):
        rest = left - left @ axes[:, :n] @ axes[:, :n].T
        rows, columns = residual.sums_of_squares(axes[:, :n])
        np.testing.assert_allclose(rows, (rest**2).sum(axis=1), atol=1e-8)
        np.testing.assert_allclose(columns, (rest**2).sum(axis=0), atol=1e-8)


def test_directions_that_a_basis_takes():
    values = counts()
    features = features_of(values)
    weights = np.zeros((12, 2))
    weights[3, 0] = 1
    weights[[5, 6], 1] = 2
    variates = (values - values.mean(axis=0)) @ weights
    residual = Residual(features, np.linalg.qr(variates)[0])
    expected = np.zeros(12)
    expected[[3, 5, 6]] = 1, 0.5, 0.5
    np.testing.assert_allclose(residual.leverages(), expected, atol=1e-8)
    assert np.all(Residual(features, np.zeros((80, 0))).leverages() == 0)


def test_balance_reaches_the_sums(features):
    rng = np.random.default_rng(0)
    deviating = deviations(features)
    rows, columns = rng.uniform(1, 2, 80), rng.uniform(1, 2, 12)
    rows *= columns.sum() / rows.sum()
    left, right = balance(deviating, rows, columns)
    dense = deviating.toarray() if sparse.issparse(deviating) else deviating
    squares = (left[:, None] * dense * right) ** 2
    np.testing.assert_allclose(squares.sum(axis=0), columns)
    np.testing.assert_allclose(squares.sum(axis=1), rows, rtol=0.05)
    none = balance(deviating, 0 * rows, 0 * columns)
    assert all(np.all(factors == 0) for factors in none)


@pytest.mark.usefixtures("_width")
def test_largest_null_eigenvalues_equal_a_loop(features):
    deviating = deviations(features)
    dense = deviating.toarray() if sparse.issparse(deviating) else deviating
    rows, columns = (dense**2).sum(axis=1), (dense**2).sum(axis=0)
    found = largest_null_eigenvalues(deviating, rows, columns, 3, seed=4)
    for repetition, value in enumerate(found):
        rng = np.random.default_rng([4, repetition])
        stored = deviating.data if sparse.issparse(deviating) else deviating
        signs = 2.0 * rng.integers(0, 2, stored.shape, dtype=np.int8) - 1
        signed = deviating.copy()
        if sparse.issparse(deviating):
            signed.data *= signs.astype(signed.data.dtype)
            signed = signed.toarray()
        else:
            signed *= signs
        expected = np.linalg.svd(signed, compute_uv=False)[0] ** 2
        assert value == pytest.approx(expected, rel=1e-3)


def test_sparse_deviations_are_those_that_are_stored():
    values = counts()
    stored = deviations(features_of(sparse.csr_matrix(values))).toarray()
    expected = np.where(values != 0, values - values.mean(axis=0), 0)
    np.testing.assert_allclose(stored, expected, atol=1e-6)


def test_threshold_is_a_normal_quantile():
    x = np.random.default_rng(0).normal(3, 2, 100_000)
    assert null_quantile(x, 0.05) == pytest.approx(np.quantile(x, 0.95), abs=0.05)


def signal_and_noise(strengths, n=400, p=30, seed=0):
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(p, len(strengths))))[0]
    return rng.normal(size=(n, len(strengths))) * strengths @ axes.T + rng.normal(size=(n, p))


def sequential(residual, most, n_repetitions, alpha, seed):
    """Component by component, each compared with what those before it leave."""
    values, axes = residual.components(most)
    n, leverages = residual.features.shape[0], residual.leverages()
    for found in range(len(values)):
        rows, columns = residual.sums_of_squares(axes[:, :found])
        columns = columns / (1 - leverages - (axes[:, :found] ** 2).sum(axis=1))
        columns = np.minimum(columns, n * residual.features.variance) / (
            1 - (residual.basis.shape[1] + found) / n
        )
        rows *= columns.sum() / rows.sum()
        chance = (
            largest_null_eigenvalues(deviations(residual.features), rows, columns, 10, seed) / n
        )
        if values[found] <= null_quantile(chance, alpha):
            return found
    return len(values)


@pytest.mark.parametrize("strengths", [[], [3.0], [30.0, 2.0], [8.0, 4.0, 3.0, 1.2]])
def test_count_equals_a_sequential_loop(strengths):
    residual = Residual(features_of(signal_and_noise(strengths)), np.zeros((400, 0)))
    found, values, null = count_components(residual, 20, n_repetitions=10, alpha=0.05, seed=0)
    assert found == len(strengths) == sequential(residual, 20, 10, 0.05, 0)
    assert np.all(values[:found] > null[:found])
    assert values[found] <= null[found]
    assert np.all(null[found:] == null[found])


def test_strong_components_do_not_hide_weak_ones():
    residual = Residual(features_of(signal_and_noise([100.0, 2.0])), np.zeros((400, 0)))
    plain = largest_null_eigenvalues(
        deviations(residual.features), *residual.sums_of_squares(np.zeros((30, 0))), 10, 0
    )
    found, values, _ = count_components(residual, 20, n_repetitions=10, alpha=0.05, seed=0)
    assert values[1] < plain.mean() / 400
    assert found == 2


def test_no_more_than_asked_for_or_than_there_are():
    residual = Residual(features_of(signal_and_noise([9.0, 8.0, 7.0])), np.zeros((400, 0)))
    found, values, _ = count_components(residual, 2, n_repetitions=5, alpha=0.05, seed=0)
    assert (found, len(values)) == (2, 2)
    exact = np.random.default_rng(0).normal(size=(100, 2)) @ np.ones((2, 5))
    exact[:, 1:] *= [2, 3, 4, 5]
    residual = Residual(features_of(exact), np.zeros((100, 0)))
    assert count_components(residual, 50, n_repetitions=5, alpha=0.05, seed=0)[0] == 1


def test_held_out_correlations_equal_a_loop():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(400, 2))
    x, y = (
        np.hstack([common + s * rng.normal(size=(400, 2)), rng.normal(size=(400, 2))])
        for s in (0.3, 0.6)
    )
    options = {"min_correlation": 0.1, "n_permutations": 10, "alpha": 0.05, "seed": 3}
    found = shared_variates([x, y], 4, **options)
    assert found.n == 2
    order = np.random.default_rng([3, 0]).permutation(400)
    expected = []
    for test in np.array_split(order, 2):
        train = np.setdiff1d(order, test)
        a, b = x[train] - x[train].mean(axis=0), y[train] - y[train].mean(axis=0)
        qa, ra = np.linalg.qr(a)
        qb, rb = np.linalg.qr(b)
        u, _, vt = np.linalg.svd(qa.T @ qb)
        left, right = x[test] @ np.linalg.solve(ra, u), y[test] @ np.linalg.solve(rb, vt.T)
        expected.append([np.corrcoef(left[:, j], right[:, j])[0, 1] for j in range(4)])
    # the two that are real hardly feel the ridge
    np.testing.assert_allclose(found.correlations[:2], np.mean(expected, axis=0)[:2], atol=0.01)
    assert found.null == pytest.approx(1.645 / np.sqrt(400), rel=0.3)
    basis = found.basis(0, x)
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-10)
    np.testing.assert_allclose(basis.mean(axis=0), 0, atol=1e-10)


def test_correlations_of_three_blocks_are_means_over_their_pairs():
    """Of which one has nothing in common with the others; over halves of the cells."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(300, 1))
    blocks = [np.hstack([common + rng.normal(size=(300, 1)), rng.normal(size=(300, 2))])]
    blocks += [np.hstack([common, rng.normal(size=(300, 1))]), rng.normal(size=(300, 3))]
    options = {"min_correlation": 0.1, "n_permutations": 3, "alpha": 0.05, "seed": 1}
    found = shared_variates(blocks, 2, **options)
    pairs, with_others = [], []
    for test in np.array_split(np.random.default_rng([1, 0]).permutation(300), 2):
        train = np.setdiff1d(np.arange(300), test)
        fitted = canonical_variates([x[train] for x in blocks], 2)
        parts = [fitted.transform(k, x[test]) for k, x in enumerate(blocks)]
        for j in range(2):
            own = [part[:, j] for part in parts]
            three = [np.corrcoef(own[a], own[b])[0, 1] for a, b in ((0, 1), (0, 2), (1, 2))]
            pairs.append(np.mean(three))
            with_others += [np.corrcoef(x, sum(own) - x)[0, 1] for x in own]
    np.testing.assert_allclose(found.correlations, np.reshape(pairs, (2, 2)).mean(axis=0))
    by_block = np.reshape(with_others, (2, 2, 3)).mean(axis=0).T
    np.testing.assert_allclose(found.by_block, by_block)
    assert np.abs(by_block - found.correlations).min() > 0.01


def test_weak_correlations_do_not_count():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(4000, 1))
    x, y = (np.hstack([common + 2 * rng.normal(size=(4000, 1))] * 2) for _ in range(2))
    x[:, 1], y[:, 1] = rng.normal(size=(2, 4000))
    for least, n in ((0.0, 1), (0.5, 0)):
        found = shared_variates(
            [x, y], 2, min_correlation=least, n_permutations=5, alpha=0.05, seed=0
        )
        assert found.n == n
        assert found.basis(0, x).shape == (4000, n)
