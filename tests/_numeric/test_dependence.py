from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from cantata._numeric.dependence import dependence_p, profile


def test_independent_columns_have_uniform_p():
    rng = np.random.default_rng(0)
    found = [dependence_p(rng.normal(size=(60, 3)), rng.normal(size=(60, 4))) for _ in range(200)]
    assert 0.01 < np.mean(np.array(found) <= 0.05) < 0.1
    assert 0.4 < np.mean(found) < 0.6


def test_dependence_within_groups():
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1, 2], 40)[rng.permutation(120)]
    center, found = 5.0 * groups[:, None], []
    for _ in range(40):
        x, y = center + rng.normal(size=(120, 2)), center + rng.normal(size=(120, 2))
        assert dependence_p(x, y) == 0.01
        found.append(dependence_p(x, y, groups))
    assert np.mean(np.array(found) <= 0.05) < 0.2
    assert 0.3 < np.mean(found) < 0.7
    assert dependence_p(x, y + x, groups) == 0.01


@pytest.mark.parametrize("kind", ["rna", "protein", "atac", None])
def test_profiles_are_orthonormal_and_independent_of_storage(kind):
    counts = np.random.default_rng(2).poisson(3.0, (80, 30)).astype(np.float32)
    dense, stored = profile("m", kind, counts), profile("m", kind, sparse.csr_matrix(counts))
    assert dense.shape == (80, 11)
    np.testing.assert_allclose(dense[:, :10].T @ dense[:, :10], np.eye(10), atol=1e-6)
    np.testing.assert_allclose(np.abs(dense), np.abs(stored), atol=1e-3)
    depth = np.log1p(counts.sum(axis=1))
    assert np.corrcoef(dense[:, 10], depth)[0, 1] == pytest.approx(1)
    assert profile("m", kind, counts - 3).shape == (80, 10)
    with pytest.raises(ValueError, match="'m' has NaN"):
        profile("m", kind, np.where(counts > 5, np.nan, counts))
