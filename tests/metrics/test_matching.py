from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from cantata.metrics import matching_matrix, matching_score


def naive_lists(reference, query, k, *, same):
    lists = []
    for i, cell in enumerate(query):
        order = sorted(
            range(len(reference)),
            key=lambda j: (((cell - reference[j]) ** 2).sum(), not (same and i == j), j),
        )
        lists.append(order[:k])
    return lists


def naive_jaccard(x, y, k, groups_x, groups_y):
    """Equation 16 with sets of profiles, each profile being (modality, row)."""
    jaccard = np.zeros((len(x), len(y)))
    for group in set(groups_x) & set(groups_y):
        i, j = (np.flatnonzero(np.asarray(g) == group) for g in (groups_x, groups_y))
        sides = {"x": x[i], "y": y[j]}
        near = {
            (a, b): [{(b, n) for n in found} for found in lists]
            for a in sides
            for b in sides
            for lists in [naive_lists(sides[b], sides[a], k, same=a == b)]
        }
        for p, row in enumerate(i):
            for q, column in enumerate(j):
                to_y, in_y = near["x", "y"][p], near["y", "y"][q]
                to_x, in_x = near["y", "x"][q], near["x", "x"][p]
                both = (to_y & in_y) | (to_x & in_x)
                jaccard[row, column] = len(both) / len((to_y | in_y) | (to_x | in_x))
    return jaccard


def divide(jaccard):
    sums = jaccard.sum(axis=1, keepdims=True)
    return np.divide(jaccard, sums, out=np.zeros_like(jaccard), where=sums > 0)


def embeddings(kind, n_x=31, n_y=24):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(n_x, 3)), rng.normal(size=(n_y, 3))
    if kind == "grid":
        return np.round(x) + 5, np.round(y) + 5
    if kind == "copies":
        return np.repeat(x[::4], 4, axis=0)[:n_x], np.repeat(x[:6], 4, axis=0)
    return x, y


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("kind", ["plain", "grid", "copies"])
def test_matrix_equals_sets_of_profiles(kind, k, grouped):
    x, y = embeddings(kind)
    groups_x, groups_y = np.arange(len(x)) % 3, np.arange(len(y)) % 3
    if not grouped:
        groups_x, groups_y = groups_x * 0, groups_y * 0
    groups = {"groups_x": groups_x, "groups_y": groups_y} if grouped else {}
    result = matching_matrix(x, y, k=k, normalize=False, **groups)
    assert sparse.issparse(result)
    assert result.format == "csr"
    expected = divide(naive_jaccard(x, y, k, groups_x, groups_y))
    np.testing.assert_allclose(result.toarray(), expected, rtol=1e-12)


def test_one_neighbour_gives_weights_of_one_and_one_third():
    x, y = embeddings("plain")
    jaccard = naive_jaccard(x, y, 1, [0] * len(x), [0] * len(y))
    assert set(np.unique(jaccard)) == {0.0, 1 / 3, 1.0}
    result = matching_matrix(x, y, normalize=False)
    assert (result.getnnz(axis=1) > 0).all()
    np.testing.assert_allclose(result.sum(axis=1), 1.0, atol=1e-12)
    assert result.nnz <= len(x) + len(y)


def test_groups_are_blocks_and_a_group_of_one_side_stays_empty():
    x, y = embeddings("plain", 9, 8)
    groups_x, groups_y = list("aaabbbccc"), list("aaabbbdd")
    result = matching_matrix(x, y, groups_x=groups_x, groups_y=groups_y).toarray()
    same = np.asarray(groups_x)[:, None] == np.asarray(groups_y)
    assert (result[~same] == 0).all()
    np.testing.assert_allclose(result.sum(axis=1), [1] * 6 + [0] * 3)
    alone = matching_matrix(x[3:6], y[3:6]).toarray()
    np.testing.assert_allclose(result[3:6, 3:6], alone)


def test_normalize_compares_directions():
    x, y = embeddings("plain")
    lengths = np.random.default_rng(0).uniform(0.1, 9, size=(len(y), 1))
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]
    expected = matching_matrix(*unit, normalize=False).toarray()
    np.testing.assert_allclose(matching_matrix(x, y * lengths).toarray(), expected)
    assert (matching_matrix(x, y * lengths, normalize=False).toarray() != expected).any()


@pytest.mark.parametrize("k", [1, 3])
def test_score_equals_a_loop(k):
    x, _ = embeddings("plain")
    y = x + 0.4 * np.random.default_rng(0).normal(size=x.shape)
    groups = np.arange(len(x)) % 2
    jaccard = naive_jaccard(x, y, k, groups, groups)
    forward = np.mean([jaccard[i, i] / jaccard[i].sum() for i in range(len(x))])
    backward = np.mean([jaccard[i, i] / jaccard[:, i].sum() for i in range(len(x))])
    options = {"groups": groups, "k": k, "normalize": False}
    assert matching_score(x, y, direction="x_to_y", **options) == pytest.approx(forward)
    assert matching_score(x, y, direction="y_to_x", **options) == pytest.approx(backward)
    assert matching_score(x, y, **options) == pytest.approx((forward + backward) / 2)
    assert 0.05 < forward < 0.95
    assert forward != backward


@pytest.mark.parametrize("cells", ["distinct", "copies"])
def test_identical_embeddings(cells):
    x = np.random.default_rng(0).normal(size=(40, 4))
    if cells == "distinct":
        assert matching_score(x, x) == 1.0
    else:  # a cell cannot be told from its copy: the first of the two takes both
        assert matching_score(np.repeat(x, 2, axis=0), np.repeat(x, 2, axis=0)) < 1.0


def test_swapped_pairs_lose_their_share():
    x = np.eye(10)
    assert matching_score(x, x[[1, 0, *range(2, 10)]]) == pytest.approx(0.8)


def test_unrelated_embeddings_score_at_chance():
    rng = np.random.default_rng(0)
    scores = [
        matching_score(rng.normal(size=(50, 5)), rng.normal(size=(50, 5))) for _ in range(60)
    ]
    assert np.mean(scores) == pytest.approx(1 / 50, abs=0.01)


def test_groups_raise_the_chance():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 2)
    scores = [
        matching_score(rng.normal(size=(50, 5)), rng.normal(size=(50, 5)), groups=groups)
        for _ in range(20)
    ]
    assert np.mean(scores) == pytest.approx(1 / 2, abs=0.05)


@pytest.mark.parametrize("k", [1, 5])
def test_memory_does_not_grow_with_the_square(k):
    x = np.random.default_rng(0).normal(size=(12_000, 5))
    tracemalloc.start()
    matching_score(x, x[::-1], k=k)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # a matrix of single precision would take 576 MB


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": np.ones((4, 3))}, ValueError, "y has 3 dimensions where 2"),
        ({"x": np.array([[np.nan, 1]])}, ValueError, "x holds NaN"),
        ({"y": np.zeros((4, 2))}, ValueError, "y has 4 rows of length zero"),
        ({"k": 5}, ValueError, "k=5 neighbours were asked of y, which has 4 cells"),
        ({"groups_x": [0] * 5}, ValueError, "both groups_x and groups_y"),
        ({"groups_x": [0] * 4, "groups_y": [0] * 4}, ValueError, "x has 5 rows but 4 groups"),
        (
            {"groups_x": ["a"] * 4 + [None], "groups_y": ["a"] * 4},
            ValueError,
            "1 of 5 rows of x have no group, first row 4",
        ),
        ({"groups_x": ["a"] * 5, "groups_y": ["b"] * 4}, ValueError, "No group of x .*'a'"),
        (
            {"groups_x": list("aaaab"), "groups_y": list("aaab"), "k": 2},
            ValueError,
            "k=2 neighbours were asked of x in group 'b', which has 1 cells",
        ),
    ],
)
def test_bad_input_is_named(change, error, message):
    rng = np.random.default_rng(0)
    options = {"x": rng.normal(size=(5, 2)), "y": rng.normal(size=(4, 2)), **change}
    with pytest.raises(error, match=message):
        matching_matrix(options.pop("x"), options.pop("y"), **options)


def test_score_needs_the_same_cells():
    with pytest.raises(ValueError, match="x has 3 rows and y has 2"):
        matching_score(np.eye(3), np.eye(3)[:2])
    with pytest.raises(ValueError, match="direction='forward' is unknown"):
        matching_score(np.eye(3), np.eye(3), direction="forward")
