from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from cantata.metrics import pair_distance


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


def noisy_pair(n_cells=90, n_dims=5, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_cells, n_dims))
    return x, x + noise * rng.normal(size=x.shape)


HARD = {
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


@pytest.mark.parametrize("block_size", [None, 1, 7])
@pytest.mark.parametrize("kind", HARD)
def test_equals_a_double_loop(kind, block_size):
    x, y = (HARD[kind](side) for side in noisy_pair())
    scale = 1e200 if kind == "huge" else 1.0
    expected = naive_pair_distance(x / scale, y / scale)
    result = pair_distance(x, y, block_size=block_size, return_per_cell=True)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-12)
    assert pair_distance(x, y, block_size=block_size) == pytest.approx(result.mean())


def test_sides_are_told_apart():
    x, y = noisy_pair()
    forward = pair_distance(x, y, return_per_cell=True)
    backward = pair_distance(y, x, return_per_cell=True)
    np.testing.assert_allclose(forward, backward[:, ::-1])
    assert (np.abs(forward[:, 0] - forward[:, 1]) > 0.01).any()


def test_order_and_scale_do_not_matter():
    x, y = noisy_pair()
    order = np.random.default_rng(1).permutation(len(x))
    score = pair_distance(x, y)
    assert pair_distance(x[order], y[order]) == pytest.approx(score)
    assert pair_distance(7 * x - 2, 7 * y - 2) == pytest.approx(score)


def test_extremes():
    x, _ = noisy_pair(1500)
    assert pair_distance(x, x) == 0
    shuffled = np.random.default_rng(1).permutation(x)
    assert pair_distance(x, shuffled) == pytest.approx(1, abs=0.03)
    assert pair_distance(x, x + 1e6) == pytest.approx(1, abs=1e-5)  # far apart is no match


def test_memory_does_not_grow_with_the_square():
    x, y = noisy_pair(8000)
    tracemalloc.start()
    score = pair_distance(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < score < 1
    assert peak < 120e6  # all distances would take 512 MB


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
        pair_distance(x, y, **options)
