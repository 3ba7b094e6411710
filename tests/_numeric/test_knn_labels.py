from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cantata.tl import knn_labels


def naive_vote(reference, labels, cell, k, weights):
    """Positions are integers on a line, so that distances and shares are exact fractions."""
    known = [(abs(cell - r), i, c) for i, (r, c) in enumerate(zip(reference, labels, strict=True))]
    near = sorted(entry for entry in known if entry[2] is not None)[:k]
    votes: dict[str, Fraction] = {}
    closeness: dict[str, Fraction] = {}
    touching = near[0][0] == 0
    for distance, _, label in near:
        close = Fraction(distance == 0) if touching else Fraction(1, distance)
        closeness[label] = closeness.get(label, Fraction(0)) + close
        votes[label] = votes.get(label, Fraction(0)) + (1 if weights == "uniform" else close)
    winner = min(votes, key=lambda label: (-votes[label], -closeness[label], label))
    return winner, float(votes[winner] / sum(votes.values()))


@settings(max_examples=150, deadline=None)
@given(
    reference=st.lists(
        st.tuples(st.integers(-4, 4), st.sampled_from(["A", "B", "C", None])),
        min_size=1,
        max_size=12,
    ).filter(lambda cells: any(label for _, label in cells)),
    query=st.lists(st.integers(-4, 4), min_size=1, max_size=5),
    k=st.integers(1, 12),
    weights=st.sampled_from(["uniform", "distance"]),
)
def test_votes_and_ties_equal_a_loop(reference, query, k, weights):
    positions, labels = zip(*reference, strict=True)
    k = min(k, sum(label is not None for label in labels))
    table = knn_labels(
        np.array(positions, dtype=float)[:, None],
        list(labels),
        np.array(query, dtype=float)[:, None],
        k=k,
        weights=weights,
    )
    for row, cell in enumerate(query):
        label, confidence = naive_vote(positions, labels, cell, k, weights)
        assert table["confidence"][row] == pytest.approx(confidence)
        assert table["label"][row] == label


def test_one_neighbour_copies_the_nearest_label():
    table = knn_labels([[0.0], [1.0], [9.0]], ["B", "T", "NK"], [[0.9], [7.0]], k=1)
    assert table["label"].tolist() == ["T", "NK"]
    assert table["confidence"].tolist() == [1.0, 1.0]


def test_a_tie_goes_to_the_closer_class_then_to_the_first():
    reference = [[0.0], [3.0]]
    assert knn_labels(reference, ["A", "B"], [[2.0]], k=2)["label"][0] == "B"
    assert knn_labels(reference, ["B", "A"], [[1.5]], k=2)["label"][0] == "A"
    assert knn_labels(reference, ["B", "A"], [[1.5]], k=2)["confidence"][0] == 0.5


def test_distance_weights_let_a_near_minority_win():
    reference, labels = [[0.0], [4.0], [5.0]], ["near", "far", "far"]
    uniform = knn_labels(reference, labels, [[1.0]], k=3)
    weighted = knn_labels(reference, labels, [[1.0]], k=3, weights="distance")
    assert uniform["label"][0] == "far"
    assert uniform["confidence"][0] == pytest.approx(2 / 3)
    assert weighted["label"][0] == "near"
    assert weighted["confidence"][0] == pytest.approx(1 / (1 + 1 / 3 + 1 / 4))


def test_cosine_compares_directions():
    reference, labels = [[10.0, 0.0], [1.0, 1.0]], ["along", "across"]
    query = [[1.0, 0.2]]
    assert knn_labels(reference, labels, query, k=1)["label"][0] == "across"
    assert knn_labels(reference, labels, query, k=1, metric="cosine")["label"][0] == "along"
    weighted = knn_labels(reference, labels, query, k=2, metric="cosine", weights="distance")
    cosines = np.array([1.0, 1.2 / np.sqrt(2)]) / np.sqrt(1.04)
    votes = 1 / (1 - cosines)
    assert weighted["confidence"][0] == pytest.approx(votes.max() / votes.sum())


@pytest.mark.parametrize(
    ("labels", "categories"),
    [
        (["T", "B"], ["B", "T"]),
        ([3, 1], [1, 3]),
        (pd.Categorical(["T", "B"], categories=["T", "NK", "B"]), ["T", "NK", "B"]),
        (np.array(["T", 1], dtype=object), [1, "T"]),
        (pd.Series(["T", "B"], index=["x", "y"]), ["B", "T"]),
    ],
)
def test_labels_keep_their_kind(labels, categories):
    table = knn_labels([[0.0], [1.0]], labels, [[0.0], [1.0]], k=1, query_names=["c", "d"])
    assert table.index.tolist() == ["c", "d"]
    assert table["label"].cat.categories.tolist() == categories
    assert table["label"].tolist() == pd.Series(labels).tolist()


def test_many_queries_are_voted_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    reference, query = rng.normal(size=(60, 2)), rng.normal(size=(50, 2))
    labels = rng.choice(list("ABC"), size=60)
    whole = knn_labels(reference, labels, query, k=5)
    monkeypatch.setattr("cantata._numeric.knn_labels._VOTE_ENTRIES", 21)
    pd.testing.assert_frame_equal(whole, knn_labels(reference, labels, query, k=5))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 4}, ValueError, "k=4 .* labelled part of the reference, which has 2 cells"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"metric": "manhattan"}, ValueError, "metric='manhattan' is unknown"),
        ({"weights": "gauss"}, ValueError, "weights='gauss' is unknown"),
        ({"query": [[0.0]]}, ValueError, "reference has 2 dimensions where 1"),
        ({"query": np.empty((0, 2))}, ValueError, "query is empty"),
        ({"query": [[np.nan, 0.0]]}, ValueError, "query holds NaN"),
        ({"reference_labels": ["B"]}, ValueError, "reference has 3 rows but 1 reference_labels"),
        ({"reference_labels": [None] * 3}, ValueError, "None of the 3 reference cells"),
        ({"query_names": ["a"]}, ValueError, "query has 2 rows but 1 query_names"),
        (
            {"metric": "cosine", "query": np.zeros((2, 2))},
            ValueError,
            "query has 2 rows of length",
        ),
    ],
)
def test_bad_input_is_named(change, error, message):
    options = {
        "reference": np.eye(3, 2) + 1,
        "reference_labels": ["B", "T", None],
        "query": np.eye(2),
        "k": 1,
        **change,
    }
    arrays = [options.pop(name) for name in ("reference", "reference_labels", "query")]
    with pytest.raises(error, match=message):
        knn_labels(*arrays, **options)
