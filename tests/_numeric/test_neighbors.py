from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cantata._numeric.neighbors import (
    SquaredDistances,
    check_k,
    check_rows,
    nearest_neighbors,
    row_codes,
    unit_rows,
)


def naive_neighbors(reference: np.ndarray, query: np.ndarray, k: int) -> tuple[list, list]:
    indices, distances = [], []
    for cell in query:
        row = [(float(((cell - other) ** 2).sum()), j) for j, other in enumerate(reference)]
        nearest = sorted(row)[:k]
        indices.append([j for _, j in nearest])
        distances.append([d**0.5 for d, _ in nearest])
    return indices, distances


def clouds(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference, query = rng.normal(size=(150, 6)), rng.normal(size=(40, 6))
    changes = {
        "plain": lambda a: a,
        "single precision": lambda a: a.astype(np.float32).astype(np.float64),
        "grid": lambda a: np.round(a),
        "copies": lambda a: np.repeat(a[::10], 10, axis=0),
        "all equal": lambda a: np.ones_like(a),
        "far from the origin": lambda a: 1e6 + 1e-3 * a,
        "outlier": lambda a: a * np.where(np.arange(len(a)) == 3, 1e6, 1.0)[:, None],
        "huge": lambda a: a * 1e200,
        "tiny": lambda a: a * 1e-200,
        "all zero": np.zeros_like,
    }
    return changes[name](reference), changes[name](query)


CLOUDS = [
    "plain",
    "single precision",
    "grid",
    "copies",
    "all equal",
    "far from the origin",
    "outlier",
    "all zero",
]


@pytest.mark.parametrize("k", [1, 2, 7, 150])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_neighbors_equal_a_double_loop(cloud, k):
    reference, query = clouds(cloud)
    indices, distances = nearest_neighbors(reference, query, k)
    expected = naive_neighbors(reference, query, k)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_allclose(distances, expected[1], rtol=1e-12)


@pytest.mark.parametrize("scale", ["huge", "tiny"])
def test_scale_does_not_matter(scale):
    plain, scaled = clouds("plain"), clouds(scale)
    factor = {"huge": 1e200, "tiny": 1e-200}[scale]
    indices, distances = nearest_neighbors(*plain, 5)
    scaled_indices, scaled_distances = nearest_neighbors(*scaled, 5)
    np.testing.assert_array_equal(indices, scaled_indices)
    np.testing.assert_allclose(distances * factor, scaled_distances, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda width: st.tuples(
            *(
                st.integers(1, 12).flatmap(
                    lambda rows: arrays(np.float64, (rows, width), elements=st.integers(-2, 2))
                )
                for _ in range(2)
            )
        )
    ),
    st.integers(1, 12),
)
def test_ties_come_in_the_order_of_their_index(both, k):
    reference, query = both
    k = min(k, len(reference))
    indices, _ = nearest_neighbors(reference, query, k)
    np.testing.assert_array_equal(indices, naive_neighbors(reference, query, k)[0])


@pytest.mark.parametrize("cloud", [*CLOUDS, "huge", "tiny"])
@pytest.mark.parametrize("double", [False, True])
def test_rounding_stays_within_the_bound(cloud, double):
    reference, query = clouds(cloud)
    distances = SquaredDistances(query, reference)
    values, bound = distances.block(slice(0, len(query)), double=double)
    assert values.dtype == (np.float64 if double else np.float32)
    i, j = np.indices(values.shape).reshape(2, -1)
    error = np.abs(values - distances.exact(i, j).reshape(values.shape))
    assert (error <= bound[:, None]).all()


def test_several_blocks_give_what_one_block_gives(monkeypatch):
    reference, query = clouds("plain")
    whole = nearest_neighbors(reference, query, 4)
    monkeypatch.setattr("cantata._numeric.neighbors._MIN_BLOCK_ROWS", 7)
    monkeypatch.setattr("cantata._numeric.neighbors._BLOCK_ENTRIES", 1)
    monkeypatch.setattr("cantata._numeric.neighbors._PAIR_ENTRIES", 1)
    for one, other in zip(whole, nearest_neighbors(reference, query, 4), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow  # pynndescent is compiled anew in every process
def test_search_above_the_limit_is_accurate_and_deterministic():
    rng = np.random.default_rng(0)
    reference, query = rng.normal(size=(3000, 8)), rng.normal(size=(400, 8))
    k = 10
    exact, exact_distances = nearest_neighbors(reference, query, k)
    found, distances = nearest_neighbors(reference, query, k, max_exact=2999, seed=1)
    again, _ = nearest_neighbors(reference, query, k, max_exact=2999, seed=1)
    np.testing.assert_array_equal(found, again)
    hits = [len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]
    assert np.mean(hits) / k > 0.98
    assert (np.diff(distances, axis=1) >= 0).all()
    true = np.linalg.norm(query[:, None] - reference[found], axis=2)
    np.testing.assert_allclose(distances, true, rtol=1e-12)
    assert (distances >= exact_distances - 1e-12).all()


def test_what_the_search_did_not_find_is_computed(monkeypatch):
    reference, query = clouds("plain")
    k = 4
    exact = nearest_neighbors(reference, query, k)

    class Search:
        def __init__(self, data, *, n_neighbors, random_state):
            assert data.dtype == np.float32
            assert data.shape == reference.shape
            assert n_neighbors >= k
            assert random_state == 7

        def query(self, data, *, k, epsilon):
            assert data.dtype == np.float32
            assert data.shape == query.shape
            found = exact[0][:, ::-1].astype(np.int32)  # the farthest first
            found[::3, 1:] = -1
            return found, None

    monkeypatch.setattr("pynndescent.NNDescent", Search)
    found = nearest_neighbors(reference, query, k, max_exact=10, seed=7)
    np.testing.assert_array_equal(found[0], exact[0])
    np.testing.assert_array_equal(found[1], exact[1])


def test_copies_do_not_count_towards_the_limit():
    reference = np.repeat(np.arange(5.0)[:, None], 100, axis=0)
    indices, _ = nearest_neighbors(reference, np.array([[2.2]]), 3, max_exact=15)
    np.testing.assert_array_equal(indices, [[200, 201, 202]])


def test_memory_does_not_grow_with_the_square():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(20_000, 10))
    tracemalloc.start()
    nearest_neighbors(cells, cells, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6  # a matrix of single precision would take 1,600 MB


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([["a"]], TypeError, "cells must be a dense numeric array"),
        ([1.0, 2.0], ValueError, r"cells must have shape \(cells, dimensions\), got \(2,\)"),
        (np.empty((0, 3)), ValueError, "cells is empty"),
        (np.empty((3, 0)), ValueError, "cells is empty"),
        (
            [[0.0], [np.nan], [np.inf]],
            ValueError,
            "NaN or infinity in 2 of 3 rows, first in row 1",
        ),
        ([[0.0, 1.0]], ValueError, "cells has 2 dimensions where 1 are expected"),
    ],
)
def test_bad_rows_are_named(values, error, message):
    with pytest.raises(error, match=message):
        check_rows(values, "cells", width=1)


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "at least 1"),
        (6, ValueError, "k=6 neighbours were asked of y, which has 5 cells"),
        (1.5, TypeError, "must be an integer"),
        (True, TypeError, "must be an integer"),
    ],
)
def test_bad_k_is_named(k, error, message):
    with pytest.raises(error, match=message):
        check_k(k, 5, "y")


def test_unit_rows_have_length_one_at_any_scale():
    rows = np.array([[3.0, 4.0], [3e-300, 4e-300], [3e300, 4e300]])
    np.testing.assert_allclose(unit_rows(rows, "x"), [[0.6, 0.8]] * 3, rtol=1e-14)
    with pytest.raises(ValueError, match="x has 1 rows of length zero, first row 1"):
        unit_rows(np.array([[1.0], [0.0]]), "x")


def test_row_codes_tell_rows_apart():
    codes = row_codes(np.array([[0.0, 1.0], [1.0, 0.0], [-0.0, 1.0], [0.0, 1.0 + 1e-16]]))
    np.testing.assert_array_equal(codes[:, None] == codes, codes[[0, 1, 0, 0]][:, None] == codes)
    assert codes[0] != codes[1]
