from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cantata.metrics import label_transfer_accuracy


def clusters(n_cells=200, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    labels = rng.integers(3, size=n_cells)
    cells = centers[labels] + spread * rng.normal(size=(n_cells, 2))
    return cells, np.array(["B", "NK", "T"])[labels]


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("k", [1, 5, 15])
def test_equals_scikit_learn(k, weights):
    reference, reference_labels = clusters(seed=0)
    query, query_labels = clusters(150, seed=1)
    peer = KNeighborsClassifier(k, weights=weights).fit(reference, reference_labels)
    # 5 and 15 votes among three classes can tie, which scikit-learn breaks otherwise
    votes = np.sort(peer.predict_proba(query), axis=1)
    clear = votes[:, -1] > votes[:, -2] + 1e-9
    assert clear.mean() > 0.9
    score = label_transfer_accuracy(
        reference, reference_labels, query[clear], query_labels[clear], k=k, weights=weights
    )
    assert score == peer.score(query[clear], query_labels[clear])
    assert 0.6 < score < 1


def test_separate_clusters_are_all_right_and_shuffled_labels_are_not():
    reference, labels = clusters(spread=0.1)
    query, truth = clusters(100, spread=0.1, seed=1)
    assert label_transfer_accuracy(reference, labels, query, truth) == 1.0
    shuffled = np.random.default_rng(0).permutation(labels)
    assert label_transfer_accuracy(reference, shuffled, query, truth) < 0.6


def test_direction_matters():
    left = np.array([[0.0], [1.0]]), ["B", "T"]
    right = np.array([[0.1], [0.2], [0.9]]), ["B", "T", "T"]
    assert label_transfer_accuracy(*left, *right, k=1) == pytest.approx(2 / 3)
    assert label_transfer_accuracy(*right, *left, k=1) == 1.0


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
def test_missing_labels_are_not_scored(missing):
    reference, labels = [[0.0], [1.0], [1.1]], pd.Series(["B", "T", missing])
    query = [[0.1], [0.2], [1.1]]
    truth = pd.Series(["B", missing, "T"], dtype=object)
    assert label_transfer_accuracy(reference, labels, query, truth, k=1) == 1.0


def test_a_label_unknown_to_the_reference_is_wrong():
    assert label_transfer_accuracy([[0.0]], ["B"], [[0.0], [0.0]], ["B", "NK"], k=1) == 0.5


def test_categorical_labels_compare_by_value():
    reference = pd.Categorical(["B", "T"], categories=["T", "B"])
    query = pd.Categorical(["B", "T"], categories=["B", "T", "NK"])
    cells = [[0.0], [1.0]]
    assert label_transfer_accuracy(cells, reference, cells, query, k=1) == 1.0


def test_bad_labels_are_named():
    with pytest.raises(ValueError, match="query has 1 rows but 2 query_labels"):
        label_transfer_accuracy([[0.0]], ["B"], [[0.0]], ["B", "T"], k=1)
    with pytest.raises(ValueError, match="None of the 1 query cells has a label"):
        label_transfer_accuracy([[0.0]], ["B"], [[0.0]], [None], k=1)
