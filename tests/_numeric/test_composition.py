"""Weights of cells by which populations have like shares in two sets."""

from __future__ import annotations

import numpy as np
import pytest

from cantata._numeric.composition import MAX_WEIGHT, MIN_SHARE, composition_weights


def sets_of(first: list[int], second: list[int], seed: int = 0) -> tuple[np.ndarray, ...]:
    """Populations in far directions, so many cells of each, and which each cell is of."""
    rng = np.random.default_rng(seed)
    axes = 10 * np.eye(len(first))
    parts = []
    for sizes in (first, second):
        of = np.repeat(np.arange(len(sizes)), sizes)
        parts += [
            axes[of] * rng.uniform(0.5, 2, (len(of), 1)) + rng.normal(size=(len(of), len(sizes))),
            of,
        ]
    return tuple(parts)


def test_populations_are_drawn_in_the_shares_between_both() -> None:
    """Of shares p and q either set is to have sqrt(p q), if clusters are the populations."""
    x, of_x, y, of_y = sets_of([700, 250, 50], [300, 300, 400])
    drawn = []
    for weights, of in zip(composition_weights(x, y), (of_x, of_y), strict=True):
        total = np.bincount(of, weights)
        drawn.append(total / total.sum())
    p, q = np.array([0.7, 0.25, 0.05]), np.array([0.3, 0.3, 0.4])
    expected = np.sqrt(p * q) / np.sqrt(p * q).sum()
    for found in drawn:
        np.testing.assert_allclose(found, expected, atol=0.04)


def test_what_one_set_lacks_is_drawn_less_and_no_weight_is_extreme() -> None:
    x, of_x, y, _ = sets_of([400, 400, 400], [600, 600, 0])
    first, second = composition_weights(x, y)
    lacking = first[of_x == 2]
    assert np.median(lacking) == pytest.approx(1 / MAX_WEIGHT)
    assert first[of_x < 2].min() > 2 * np.median(lacking)
    for weights in (first, second):
        assert weights.min() >= 1 / MAX_WEIGHT - 1e-9
        assert weights.max() <= MAX_WEIGHT + 1e-9


def test_like_sets_are_drawn_as_they_are() -> None:
    x, _, y, _ = sets_of([500, 300, 200], [1000, 600, 400])
    for weights in composition_weights(x, y):
        assert 0.5 < weights.min() <= weights.max() < 2
        assert weights.std() < 0.25


def test_too_few_cells_for_populations() -> None:
    x, _, y, _ = sets_of([20, 10, 5], [5, 10, 20])
    first, second = composition_weights(x, y)
    assert len(first) == len(second) == 35
    np.testing.assert_allclose(np.r_[first, second], 1)


def test_shares_that_are_chance_count_little() -> None:
    """One cell in 2,000 or none is no difference."""
    x, of_x, y, _ = sets_of([999, 1000, 1], [1000, 1000, 0])
    first, _ = composition_weights(x, y)
    assert 1 / first[of_x == 2] < np.sqrt((0.5 / 1000 + MIN_SHARE) / MIN_SHARE) * 1.5
