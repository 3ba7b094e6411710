from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from cantata.metrics import silhouette, silhouette_batch


def naive_widths(embedding, labels) -> np.ndarray:
    widths = []
    for i, cell in enumerate(embedding):
        distances: dict = {}
        for j, other in enumerate(embedding):
            if j != i:
                distances.setdefault(labels[j], []).append(((cell - other) ** 2).sum() ** 0.5)
        if labels[i] not in distances:
            widths.append(0.0)
            continue
        a = np.mean(distances.pop(labels[i]))
        b = min(np.mean(values) for values in distances.values())
        widths.append((b - a) / max(a, b))
    return np.array(widths)


def cells(n_cells=80, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(["B", "NK", "T"], n_cells).astype("U9")
    labels[0] = "alone"
    dataset = rng.choice(["rna", "adt"], n_cells)
    center = {"B": 0, "NK": 1, "T": 3, "alone": 5}
    shift = np.array([center[label] for label in labels]) + 0.5 * (dataset == "rna")
    return rng.normal(size=(n_cells, 4)) + shift[:, None], dataset, labels


def test_equals_a_loop():
    embedding, _, labels = cells()
    expected = naive_widths(embedding, labels).mean()
    assert silhouette(embedding, labels) == pytest.approx(expected)
    assert silhouette(embedding, labels, rescale=True) == pytest.approx((expected + 1) / 2)
    assert 0 < expected < 1


def test_batch_equals_a_loop():
    embedding, dataset, labels = cells()
    scores = silhouette_batch(embedding, dataset, labels, return_per_label=True)
    assert list(scores.index) == ["B", "NK", "T", "alone"]
    assert np.isnan(scores["alone"])
    for label in ("B", "NK", "T"):
        of_type = labels == label
        widths = naive_widths(embedding[of_type], dataset[of_type])
        assert scores[label] == pytest.approx(np.mean(1 - np.abs(widths)))
    expected = scores.dropna().mean()
    assert silhouette_batch(embedding, dataset, labels) == pytest.approx(expected)


def test_order_and_names_do_not_matter():
    embedding, dataset, labels = cells()
    order = np.random.default_rng(1).permutation(len(embedding))
    renamed = pd.Categorical(pd.Series(labels[order]).map({"B": 9, "NK": 2, "T": 5, "alone": 0}))
    assert silhouette(embedding[order], renamed) == pytest.approx(silhouette(embedding, labels))
    assert silhouette_batch(embedding[order], dataset[order], renamed) == pytest.approx(
        silhouette_batch(embedding, dataset, labels)
    )


def test_extremes():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(600, 5))
    group = np.arange(600) % 2
    apart = noise + 1000 * group[:, None]
    assert silhouette(apart, group) == pytest.approx(1, abs=0.01)
    assert silhouette(noise, group) == pytest.approx(0, abs=0.01)
    same = np.zeros(600)
    assert silhouette_batch(apart, group, same) == pytest.approx(0, abs=0.01)
    assert silhouette_batch(noise, group, same) == pytest.approx(1, abs=0.02)


def test_cells_without_a_label_take_no_part():
    embedding, dataset, labels = cells()
    partial = labels.astype(object)
    partial[10:20] = None
    partial[20] = np.nan
    kept = ~pd.isna(partial)
    assert silhouette(embedding, partial) == silhouette(embedding[kept], labels[kept])
    assert silhouette_batch(embedding, dataset, partial) == silhouette_batch(
        embedding[kept], dataset[kept], labels[kept]
    )


def test_draws_are_scored_among_themselves():
    embedding, dataset, labels = cells()
    chosen = np.sort(np.random.default_rng(3).choice(80, 40, replace=False))
    assert silhouette(embedding, labels, n_samples=40, random_state=3) == pytest.approx(
        naive_widths(embedding[chosen], labels[chosen]).mean()
    )
    assert silhouette(embedding, labels, n_samples=80) == silhouette(embedding, labels)
    drawn = silhouette_batch(
        embedding, dataset, labels, n_samples=10, random_state=3, return_per_label=True
    )
    of_type = np.flatnonzero(labels == "T")
    of_type = of_type[np.sort(np.random.default_rng(3).choice(len(of_type), 10, replace=False))]
    widths = naive_widths(embedding[of_type], dataset[of_type])
    assert drawn["T"] == pytest.approx(np.mean(1 - np.abs(widths)))


def test_memory_does_not_grow_with_the_square():
    x = np.random.default_rng(0).normal(size=(7000, 3))
    tracemalloc.start()
    silhouette(x, np.arange(7000) % 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250e6  # all distances would take 392 MB


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"embedding": [[np.nan]] * 4}, ValueError, "embedding holds NaN"),
        ({"labels": ["B", "T"]}, ValueError, "embedding has 4 rows but labels has 2 values"),
        ({"labels": [None] * 4}, ValueError, "None of the 4 cells has a label"),
        ({"labels": ["B"] * 4}, ValueError, "The 4 labelled cells have 1 different labels"),
        ({"labels": list("abcd")}, ValueError, "The 4 labelled cells have 4 different labels"),
        ({"n_samples": 2.0}, TypeError, "n_samples must be an integer"),
    ],
)
def test_bad_input_is_named(change, error, message):
    options = {"embedding": np.eye(4), "labels": list("BBTT"), **change}
    with pytest.raises(error, match=message):
        silhouette(**options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"embedding": [["a"]] * 4}, TypeError, "embedding must be a dense numeric array"),
        ({"dataset": [0, 1]}, ValueError, "embedding has 4 rows but dataset has 2 values"),
        ({"dataset": [0, None, 0, 1]}, ValueError, "1 of 4 cells have no value in dataset"),
        ({"labels": ["B"]}, ValueError, "embedding has 4 rows but labels has 1 values"),
        ({"dataset": [0, 0, 1, 1]}, ValueError, "None of the 2 cell types .* e.g. 'B'"),
        ({"dataset": [0, 1, 0, 1]}, ValueError, "None of the 2 cell types"),
    ],
)
def test_bad_input_of_batch_is_named(change, error, message):
    options = {"embedding": np.eye(4), "dataset": [0, 0, 0, 1], "labels": list("BBTT"), **change}
    with pytest.raises(error, match=message):
        silhouette_batch(**options)
