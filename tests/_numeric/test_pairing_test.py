"""Whether pairs agree better than by chance."""

from __future__ import annotations

import numpy as np
import pytest

from cantata._numeric.pairing_test import pairing_test
from cantata.metrics import foscttm


def test_score_and_p_value() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    y = x + 0.5 * rng.normal(size=x.shape)
    score, p_value = pairing_test(x, y)
    assert score == pytest.approx(foscttm(x, y))
    assert p_value == 0.001
    score, p_value = pairing_test(x, y[::-1])
    assert score == pytest.approx(foscttm(x, y[::-1]))
    assert p_value > 0.05


def test_p_values_of_wrong_pairs_are_uniform() -> None:
    rng = np.random.default_rng(1)
    values = [pairing_test(*rng.normal(size=(2, 25, 3)))[1] for _ in range(200)]
    assert 0.02 < np.mean(np.array(values) <= 0.1) < 0.2
    assert 0.4 < np.mean(values) < 0.6
