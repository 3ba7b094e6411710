from __future__ import annotations

import numpy as np
import pytest

from cantata._numeric.abundance import log_densities


def naive(x, samples, k):
    n_samples = max(samples) + 1
    rows = []
    k = min(k, sum(samples >= 0) - 1)
    for i, cell in enumerate(x):
        others = [j for j in range(len(x)) if j != i and samples[j] >= 0]
        near = sorted(others, key=lambda j: (((cell - x[j]) ** 2).sum(), j))[:k]
        row = []
        for s in range(n_samples):
            share = sum(samples[j] == s for j in others) / len(others)
            count = sum(samples[j] == s for j in near)
            row.append(np.log((count + share) / ((len(near) + 1) * share)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("copies", [False, True])
def test_densities_equal_a_loop(k, copies):
    rng = np.random.default_rng(0)
    x, samples = rng.normal(size=(60, 3)), rng.integers(-1, 3, 60)
    if copies:  # of one sample: which of them are listed does not matter
        x[samples == 1] = x[0]
    found = log_densities(x, samples, k)
    np.testing.assert_allclose(found, naive(x, samples, k), atol=1e-12)


def test_samples_that_are_alike_have_no_bias_against_their_own_cells():
    rng = np.random.default_rng(0)
    x, samples = rng.normal(size=(4000, 10)), rng.integers(0, 2, 4000)
    gap = np.diff(np.exp(log_densities(x, samples, 30)), axis=1).ravel()
    assert np.mean(gap[samples == 1]) - np.mean(gap[samples == 0]) == pytest.approx(0, abs=0.03)
    assert np.mean(gap) == pytest.approx(0, abs=0.03)
