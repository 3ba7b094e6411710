"""Which features each batch measured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from cantata._mudata.panels import has_only_whole_nan, panel_of_batches, without_nan

CODES = np.repeat([0, 1, 2], [40, 30, 20])


def counts(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3.0, (90, 5)).astype(float)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_feature_that_a_batch_did_not_measure(form, value: float) -> None:
    x = counts()
    x[CODES == 1, 2] = value
    panel = panel_of_batches(form(x), CODES, 3)
    expected = np.ones((3, 5), dtype=bool)
    expected[1, 2] = False
    np.testing.assert_array_equal(panel["measured"], expected)
    np.testing.assert_array_equal(panel["counted"], expected.all(axis=0))


def test_zeros_by_chance_and_features_without_counts_are_measured() -> None:
    x = counts()
    x[:, 0] = 0  # in no batch
    x[:, 1] = 0
    x[:10, 1] = 1  # in a quarter of 40 cells: 20 others lack it by chance once in 300 times
    panel = panel_of_batches(x, CODES, 3)
    assert panel["measured"][:, 0].all()
    assert panel["measured"][2, 1]
    assert panel["rate"][1] == pytest.approx(10 / 41)
    tiny = np.array([0] * 40 + [1])
    x = np.ones((41, 1))
    x[40] = 0
    assert panel_of_batches(x, tiny, 2)["measured"].all()


def test_batches_without_cells_and_panels_without_a_common_feature() -> None:
    x = np.ones((60, 2))
    x[:30, 0] = x[30:, 1] = 0
    panel = panel_of_batches(x, np.repeat([0, 1], 30), 3)
    np.testing.assert_array_equal(panel["measured"], [[False, True], [True, False], [True, True]])
    assert panel["counted"].all()
    assert panel_of_batches(np.zeros((0, 2)), np.zeros(0, dtype=int), 2)["measured"].all()


def test_which_nan_are_whole() -> None:
    x = counts()
    assert has_only_whole_nan(x, CODES, 3)
    x[CODES == 1, 2] = np.nan
    assert has_only_whole_nan(x, CODES, 3)
    assert has_only_whole_nan(sparse.csr_matrix(x), CODES, 3)
    assert np.isfinite(without_nan(sparse.csr_matrix(x)).toarray()).all()
    np.testing.assert_array_equal(without_nan(x)[CODES == 1, 2], 0)
    for row, column, value in ((0, 0, np.nan), (0, 0, np.inf)):
        bad = x.copy()
        bad[row, column] = value
        assert not has_only_whole_nan(bad, CODES, 3)
    x[:, 2] = np.nan
    assert not has_only_whole_nan(x, CODES, 3)
