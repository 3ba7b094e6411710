from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cantata.metrics import foscttm


def naive_foscttm(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n_cells = len(x)
    fractions = np.zeros((n_cells, 2))
    for i in range(n_cells):
        own = ((x[i] - y[i]) ** 2).sum()
        for j in range(n_cells):
            fractions[i, 0] += ((x[i] - y[j]) ** 2).sum() < own
            fractions[i, 1] += ((x[j] - y[i]) ** 2).sum() < own
    return fractions / n_cells


def noisy_pair(n_cells=120, n_dims=5, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_cells, n_dims))
    return x, x + noise * rng.normal(size=x.shape)


HARD = {
    "plain": lambda a: a,
    "single precision": lambda a: a.astype(np.float32),
    "half precision": lambda a: a.astype(np.float16),
    "grid with ties": np.round,
    "copies": lambda a: np.repeat(a[::6], 6, axis=0),
    "unit vectors": lambda a: a / np.linalg.norm(a, axis=1, keepdims=True),
    "far from the origin": lambda a: 1e6 + 1e-3 * a,
    "all but equal": lambda a: 1.0 + 1e-12 * a,
    "all equal": np.ones_like,
    "one dimension": lambda a: a[:, :1],
    "one cell": lambda a: a[:1],
    "outlier": lambda a: a * np.where(np.arange(len(a)) == 7, 1e6, 1.0)[:, None],
    "integers": lambda a: np.round(10 * a).astype(int),
}


@pytest.mark.parametrize("block_size", [None, 1, 7])
@pytest.mark.parametrize("kind", HARD)
def test_equals_a_double_loop(kind, block_size):
    x, y = (HARD[kind](side) for side in noisy_pair())
    result = foscttm(x, y, block_size=block_size, return_per_cell=True)
    np.testing.assert_array_equal(result, naive_foscttm(x, y))
    assert foscttm(x, y, block_size=block_size) == result.mean()


def test_modalities_far_apart_equal_a_double_loop():
    x, y = noisy_pair()
    np.testing.assert_array_equal(
        foscttm(x + 1e4, y - 1e4, return_per_cell=True), naive_foscttm(x + 1e4, y - 1e4)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 10), st.integers(1, 3)).flatmap(
        lambda shape: st.tuples(
            *(arrays(np.float64, shape, elements=st.sampled_from([0, 0.1, 0.3, 1])) for _ in "xy")
        )
    )
)
def test_ties_equal_a_double_loop(both):
    x, y = both
    np.testing.assert_array_equal(foscttm(x, y, return_per_cell=True), naive_foscttm(x, y))


@pytest.mark.parametrize("kind", HARD)
def test_a_perfect_embedding_scores_zero(kind):
    x = HARD[kind](noisy_pair()[0])
    assert foscttm(x, x) == 0.0


def test_shuffled_cells_score_about_one_half():
    x, _ = noisy_pair(2000)
    shuffled = np.random.default_rng(1).permutation(x)
    assert foscttm(x, shuffled) == pytest.approx(0.5, abs=0.02)


def test_a_swapped_pair_counts_by_hand():
    x = np.array([[0.0], [1.0], [3.0]])
    # 0 sees 0 closer than 1, 1 sees 1 closer than 0; both sides; 3 is at its place
    assert foscttm(x, x[[1, 0, 2]]) == pytest.approx(2 / 3 / 3)


def test_the_worst_case_is_one_cell_short_of_one():
    x = np.array([[0.0], [1.0]])
    assert foscttm(x, x[::-1]) == 0.5


def test_sides_are_told_apart():
    x, y = noisy_pair()
    forward = foscttm(x, y, return_per_cell=True)
    backward = foscttm(y, x, return_per_cell=True)
    np.testing.assert_array_equal(forward, backward[:, ::-1])
    assert (forward[:, 0] != forward[:, 1]).any()


def test_twenty_thousand_cells_need_no_square_matrix():
    x, y = noisy_pair(20_000, 20)
    tracemalloc.start()
    started = time.perf_counter()
    score = foscttm(x, y)
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < score < 0.1
    assert peak < 120e6  # a matrix of single precision would take 1,600 MB
    assert seconds < 30  # about half a second on two idle cores; the dense version takes 90


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), {}, ValueError, "x has 3 rows and y has 4"),
        (np.ones((3, 2)), np.ones((3, 1)), {}, ValueError, "y has 1 dimensions where 2"),
        (np.ones((0, 2)), np.ones((0, 2)), {}, ValueError, "x is empty"),
        (np.ones((1, 1)), [[np.nan]], {}, ValueError, "y holds NaN"),
        (np.ones((1, 1)), [["a"]], {}, TypeError, "y must be a dense numeric array"),
        (np.ones((2, 2)), np.ones((2, 2)), {"block_size": 0}, ValueError, "block_size"),
    ],
)
def test_bad_input_is_named(x, y, options, error, message):
    with pytest.raises(error, match=message):
        foscttm(x, y, **options)
