from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cantata._numeric import closer, neighbors
from cantata.metrics import foscttm, pair_distance


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


@pytest.fixture(params=[None, 1, 7])
def block_rows(request, monkeypatch):
    """All rows in one block, or so many rows in each."""
    if request.param is not None:
        monkeypatch.setattr(neighbors, "_MIN_BLOCK_ROWS", request.param)
        monkeypatch.setattr(neighbors, "_BLOCK_ENTRIES", 1)
        monkeypatch.setattr(closer, "TILE", (request.param, 4 * request.param))


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("kind", HARD)
def test_foscttm_equals_a_double_loop(kind):
    x, y = (HARD[kind](side) for side in noisy_pair())
    result = foscttm(x, y, return_per_cell=True)
    np.testing.assert_array_equal(result, naive_foscttm(x, y))
    assert foscttm(x, y) == result.mean()


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


def naive_pair_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    n_cells = len(x)
    terms = np.ones((n_cells, 2))
    for i in range(n_cells):
        own = np.linalg.norm(x[i] - y[i])
        forward = sum(np.linalg.norm(x[i] - y[j]) for j in range(n_cells)) / n_cells
        backward = sum(np.linalg.norm(x[j] - y[i]) for j in range(n_cells)) / n_cells
        for side, mean in enumerate((forward, backward)):
            if mean > 0:
                terms[i, side] = own / mean
    return terms


HARD_FOR_MEANS = {
    "plain": lambda a: a,
    "single precision": lambda a: a.astype(np.float32),
    "grid with ties": np.round,
    "copies": lambda a: np.repeat(a[::6], 6, axis=0),
    "far from the origin": lambda a: 1e6 + 1e-3 * a,
    "all equal": np.ones_like,
    "one cell": lambda a: a[:1],
    "huge": lambda a: 1e200 * a,
    "outlier": lambda a: a * np.where(np.arange(len(a)) == 7, 1e3, 1.0)[:, None],
}


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("kind", HARD_FOR_MEANS)
def test_pair_distance_equals_a_double_loop(kind):
    x, y = (HARD_FOR_MEANS[kind](side) for side in noisy_pair(90))
    scale = 1e200 if kind == "huge" else 1.0
    expected = naive_pair_distance(x / scale, y / scale)
    result = pair_distance(x, y, return_per_cell=True)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-12)
    assert pair_distance(x, y) == pytest.approx(result.mean())


def test_sides_of_pair_distance_are_told_apart():
    x, y = noisy_pair(90)
    forward = pair_distance(x, y, return_per_cell=True)
    backward = pair_distance(y, x, return_per_cell=True)
    np.testing.assert_allclose(forward, backward[:, ::-1])
    assert (np.abs(forward[:, 0] - forward[:, 1]) > 0.01).any()


def test_order_and_scale_do_not_matter_to_pair_distance():
    x, y = noisy_pair(90)
    order = np.random.default_rng(1).permutation(len(x))
    score = pair_distance(x, y)
    assert pair_distance(x[order], y[order]) == pytest.approx(score)
    assert pair_distance(7 * x - 2, 7 * y - 2) == pytest.approx(score)


def test_extremes_of_pair_distance():
    x, _ = noisy_pair(1500)
    assert pair_distance(x, x) == 0
    shuffled = np.random.default_rng(1).permutation(x)
    assert pair_distance(x, shuffled) == pytest.approx(1, abs=0.03)
    assert pair_distance(x, x + 1e6) == pytest.approx(1, abs=1e-5)  # far apart is no match


def test_memory_of_pair_distance_does_not_grow_with_the_square():
    x, y = noisy_pair(8000)
    tracemalloc.start()
    score = pair_distance(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < score < 1
    assert peak < 120e6  # all distances would take 512 MB


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), ValueError, "x has 3 rows and y has 4"),
        (np.ones((3, 2)), np.ones((3, 1)), ValueError, "y has 1 dimensions where 2"),
        (np.ones((0, 2)), np.ones((0, 2)), ValueError, "x is empty"),
        (np.ones((1, 1)), [[np.nan]], ValueError, "y holds NaN"),
        (np.ones((1, 1)), [["a"]], TypeError, "y must be a dense numeric array"),
    ],
)
@pytest.mark.parametrize("score", [foscttm, pair_distance])
def test_bad_input_is_named(score, x, y, error, message):
    with pytest.raises(error, match=message):
        score(x, y)
