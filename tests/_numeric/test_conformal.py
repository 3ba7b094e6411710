"""Conformal intervals against a version with loops, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from cantata._numeric.conformal import ConformalIntervals, n_needed


def counts(rng, n, p=3):
    """Overdispersed counts and their expectations."""
    expected = rng.gamma(2, 50, size=(n, p))
    return expected, rng.poisson(expected * rng.gamma(3, 1 / 3, size=(n, p))).astype(float)


def plain_bounds(predicted, measured, new, coverage):
    """Bounds of one feature's new predictions, one by one."""
    order = np.sort(predicted)
    n_bins = min(max(len(order) // 100, 1), 10)
    edges = [order[int(np.floor((len(order) - 1) * b / n_bins))] for b in range(1, n_bins)]
    found = []
    for value in new:
        here = sum(value >= edge for edge in edges)
        errors = sorted(
            np.log1p(m) - np.log1p(p)
            for p, m in zip(predicted, measured, strict=True)
            if sum(p >= edge for edge in edges) == here
        )
        rank = int((len(errors) + 1) * (1 - coverage) / 2)
        low, high = errors[rank - 1], errors[len(errors) - rank]
        found.append([max(np.exp(np.log1p(value) + e) - 1, 0) for e in (low, high)])
    return np.array(found).T


def test_bounds_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    predicted, measured = counts(rng, 350)
    new = counts(rng, 40)[0]
    lower, upper = ConformalIntervals(predicted, measured, 0.9).bounds(new)
    for j in range(3):
        expected = plain_bounds(predicted[:, j], measured[:, j], new[:, j], 0.9)
        np.testing.assert_allclose(lower[:, j], expected[0], rtol=1e-5)
        np.testing.assert_allclose(upper[:, j], expected[1], rtol=1e-5)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("n", [60, 500])
def test_new_values_lie_within_as_often_as_asked(coverage, n):
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(40):
        predicted, measured = counts(rng, n + 500)
        intervals = ConformalIntervals(predicted[:n], measured[:n], coverage)
        lower, upper = intervals.bounds(predicted[n:])
        shares.append(((measured[n:] >= lower) & (measured[n:] <= upper)).mean())
    # ranks are whole numbers, so that up to 2 / (n + 1) more values lie within
    error = 3 * np.std(shares) / np.sqrt(len(shares))
    assert coverage - error < np.mean(shares) < coverage + 2 / (min(n, 100) + 1) + error


def test_bounds_do_not_need_the_model_to_be_right():
    rng = np.random.default_rng(2)
    predicted, measured = counts(rng, 2000)
    lower, upper = ConformalIntervals(predicted[:1000] / 7, measured[:1000], 0.9).bounds(
        predicted[1000:] / 7
    )
    within = (measured[1000:] >= lower) & (measured[1000:] <= upper)
    assert 0.87 < within.mean() < 0.93


def test_features_that_were_not_measured_are_left_out():
    rng = np.random.default_rng(3)
    predicted, measured = counts(rng, 300, p=2)
    known = ConformalIntervals(predicted[:150], measured[:150], 0.8).bounds(predicted)
    measured[150:, 1] = np.nan
    found = ConformalIntervals(predicted, measured, 0.8).bounds(predicted)
    for a, b in zip(found, known, strict=True):
        np.testing.assert_array_equal(a[:, 1], b[:, 1])
        assert (a[:, 0] != b[:, 0]).any()


@pytest.mark.parametrize("n_known", [0, 8])
def test_features_that_too_few_cells_measured_have_no_bounds(n_known):
    rng = np.random.default_rng(5)
    predicted, measured = counts(rng, 50, p=3)
    measured[n_known:, 0] = np.nan
    measured[9:, 1] = np.nan  # of ten places beside 9 errors, one on either side is left out
    intervals = ConformalIntervals(predicted, measured, 0.8)
    assert intervals.is_unknown.tolist() == [True, False, False]
    for bound in intervals.bounds(predicted):
        assert np.isnan(bound[:, 0]).all()
        assert np.isfinite(bound[:, 1:]).all()


def test_few_cells_of_a_bin_are_judged_by_all():
    predicted = np.r_[np.zeros(250), np.arange(1.0, 51)][:, None]  # no bin below 0
    measured = predicted + np.random.default_rng(4).uniform(0, 1, size=predicted.shape)
    lower, upper = ConformalIntervals(predicted, measured, 0.9).bounds(np.array([[-1.0], [0.0]]))
    assert np.isfinite(upper).all()
    assert np.isfinite(lower).all()


def test_too_few_cells_have_no_bounds():
    for coverage in (0.5, 0.8, 0.9, 0.95, 0.99):
        n = n_needed(coverage)
        for cells, is_finite in ((n, True), (n - 1, False)):
            predicted = -np.ones((cells, 1))
            measured = np.arange(cells, dtype=float)[:, None]
            bounds = ConformalIntervals(predicted, measured, coverage).bounds(predicted[:1])
            assert all(np.isfinite(bound).all() == is_finite for bound in bounds), coverage
