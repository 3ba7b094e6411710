from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

from cantata.metrics import kbet, mixing_metric, silhouette, silhouette_batch


def naive_mixing(embedding, dataset, k, n_neighbor, include_self) -> np.ndarray:
    names = sorted(set(dataset))
    values = []
    for i, cell in enumerate(embedding):
        others = [
            (float(((cell - other) ** 2).sum()), j) for j, other in enumerate(embedding) if j != i
        ]
        order = [j for _, j in sorted(others)]
        if include_self:
            order = [i, *order]
        order = order[:k]
        ranks = []
        for name in names:
            places = [rank for rank, j in enumerate(order, start=1) if dataset[j] == name]
            ranks.append(places[n_neighbor - 1] if len(places) >= n_neighbor else len(order))
        values.append(np.median(ranks))
    return np.array(values)


def shifted_cells(n_datasets=2, n_cells=90, shift=0.8, seed=0):
    rng = np.random.default_rng(seed)
    dataset = rng.permutation(np.arange(n_cells) % n_datasets)
    return rng.normal(size=(n_cells, 3)) + shift * dataset[:, None], dataset


CLOUDS = {
    "plain": lambda a: a,
    "grid with ties": np.round,
    "copies": lambda a: np.repeat(a[::30], 30, axis=0),
    "all equal": np.ones_like,
}


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("n_datasets", [2, 3])
@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(("k", "n_neighbor"), [(300, 5), (20, 5), (6, 2), (1, 1)])
def test_mixing_metric_equals_a_loop(k, n_neighbor, cloud, n_datasets, include_self):
    embedding, dataset = shifted_cells(n_datasets)
    embedding = CLOUDS[cloud](embedding)
    options = {"k": k, "n_neighbor": n_neighbor, "include_self": include_self}
    expected = naive_mixing(embedding, dataset, **options)
    result = mixing_metric(embedding, dataset, return_per_cell=True, **options)
    np.testing.assert_array_equal(result, expected)
    assert mixing_metric(embedding, dataset, **options) == pytest.approx(expected.mean())


def test_mixing_metric_several_blocks_give_what_one_block_gives(monkeypatch):
    embedding, dataset = shifted_cells()
    whole = mixing_metric(embedding, dataset, return_per_cell=True)
    monkeypatch.setattr("cantata.metrics._mixing.BLOCK_ROWS", 7)
    np.testing.assert_array_equal(mixing_metric(embedding, dataset, return_per_cell=True), whole)


def test_mixing_metric_order_and_names_of_the_cells_do_not_matter():
    embedding, dataset = shifted_cells(3)
    order = np.random.default_rng(1).permutation(len(embedding))
    names = np.array(["rna", "adt", "atac"])
    expected = mixing_metric(embedding, dataset, k=40, return_per_cell=True)
    result = mixing_metric(embedding[order], names[dataset[order]], k=40, return_per_cell=True)
    np.testing.assert_array_equal(result, expected[order])


def test_mixing_metric_arrays_of_datasets_equal_one_array():
    embedding, dataset = shifted_cells()
    parts = [embedding[dataset == code] for code in (0, 1)]
    expected = mixing_metric(np.concatenate(parts), np.sort(dataset), k=30)
    assert mixing_metric(parts, k=30) == expected
    assert mixing_metric({"rna": parts[0], "adt": parts[1]}, k=30) == expected


@pytest.mark.parametrize("include_self", [True, False])
def test_mixing_metric_of_perfect_mixing_and_full_separation(include_self):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 1000, 4))
    options = {"include_self": include_self}
    # with the cell itself: its fourth other at rank 1 + 8, the fifth of the other at 1 + 10
    assert mixing_metric([x, y], k=60, **options) == pytest.approx(10, abs=0.2)
    x, y = x[:320], y[:320]
    assert mixing_metric([x, y + 30], **options) == (5 + 300) / 2
    assert mixing_metric([x, y + 30, y - 30], **options) == 300


def test_mixing_metric_a_small_neighborhood_is_all_cells():
    embedding, dataset = shifted_cells(n_cells=8)
    assert mixing_metric(embedding, dataset) == mixing_metric(embedding, dataset, k=8)
    assert mixing_metric([[[0.0]], [[1.0]]]) == 2  # no fifth cell of either
    assert mixing_metric([[[0.0]], [[1.0]]], include_self=False) == 1


def test_mixing_metric_drawn_cells_have_the_value_they_have_among_all(monkeypatch):
    embedding, dataset = shifted_cells()
    every = mixing_metric(embedding, dataset, k=40, return_per_cell=True)
    monkeypatch.setattr("cantata.metrics._mixing.MAX_EXACT", 10)  # a draw is searched exactly
    drawn = mixing_metric(embedding, dataset, k=40, n_samples=30, return_per_cell=True)
    chosen = np.sort(np.random.default_rng(0).choice(len(embedding), 30, replace=False))
    np.testing.assert_array_equal(drawn, every[chosen])
    again = mixing_metric(embedding, dataset, k=40, n_samples=30, seed=1)
    assert again != drawn.mean()


def test_mixing_metric_memory_does_not_grow_with_the_square():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6000, 3))
    tracemalloc.start()
    mixing_metric([x, y], k=20, n_samples=3000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6  # all distances in single precision would take 576 MB


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"embedding": [[np.nan]] * 4}, ValueError, "embedding holds NaN"),
        ({"embedding": [["a"]] * 4}, TypeError, "embedding must be a dense numeric array"),
        ({"dataset": [0, 1]}, ValueError, "embedding has 4 rows but dataset has 2 values"),
        ({"dataset": [0, 1, None, 1]}, ValueError, "1 of 4 cells have no value in dataset"),
        ({"dataset": ["a"] * 4}, ValueError, "All 4 cells are of one dataset, 'a'"),
        ({"dataset": None}, TypeError, "Without dataset, embedding must be a sequence"),
        ({"k": 4}, ValueError, "n_neighbor=5 cannot be found among k=4"),
        ({"k": 2.5}, TypeError, "k must be an integer"),
        ({"n_neighbor": 0}, ValueError, "n_neighbor must be at least 1"),
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1"),
    ],
)
def test_mixing_metric_bad_input_is_named(change, error, message):
    options = {"embedding": np.eye(4), "dataset": [0, 1, 0, 1], **change}
    with pytest.raises(error, match=message):
        mixing_metric(**options)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([np.eye(3), np.eye(4)], ValueError, r"embedding\[1\] has 4 dimensions where 3"),
        ({"a": np.eye(3), "b": np.ones((0, 3))}, ValueError, r"embedding\['b'\] is empty"),
        ([], ValueError, "no dataset"),
        ([np.eye(3)], ValueError, "one dataset"),
        ([np.ones(3), np.ones(3)], TypeError, "Without dataset"),
    ],
)
def test_mixing_metric_bad_parts_are_named(parts, error, message):
    with pytest.raises(error, match=message):
        mixing_metric(parts)


def naive_accepted(embedding, dataset, k, alpha, include_self) -> np.ndarray:
    names, sizes = np.unique(dataset, return_counts=True)
    accepted = []
    for i, cell in enumerate(embedding):
        others = [
            (float(((cell - other) ** 2).sum()), j) for j, other in enumerate(embedding) if j != i
        ]
        order = [j for _, j in sorted(others)]
        near = ([i, *order] if include_self else order)[:k]
        observed = [sum(dataset[j] == name for j in near) for name in names]
        p = chisquare(observed, [k * size / len(dataset) for size in sizes]).pvalue
        accepted.append(p >= alpha)
    return np.array(accepted)


def uneven_cells(n_datasets=2, n_cells=90, shift=0.8, seed=0):
    rng = np.random.default_rng(seed)
    dataset = rng.choice(
        n_datasets, n_cells, p=np.arange(1, n_datasets + 1) / sum(range(n_datasets + 1))
    )
    return rng.normal(size=(n_cells, 3)) + shift * dataset[:, None], dataset


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("n_datasets", [2, 3])
@pytest.mark.parametrize(("k", "alpha"), [(10, 0.05), (25, 0.05), (25, 0.4)])
def test_kbet_all_cells_equal_a_loop(k, alpha, n_datasets, include_self):
    embedding, dataset = uneven_cells(n_datasets)
    options = {"k": k, "alpha": alpha, "include_self": include_self}
    expected = naive_accepted(embedding, dataset, **options).mean()
    assert kbet(embedding, dataset, **options) == pytest.approx(expected)
    assert 0 < expected < 1


def test_kbet_the_score_is_the_median_of_the_draws():
    embedding, dataset = uneven_cells()
    accepted = naive_accepted(embedding, dataset, 10, 0.05, include_self=True)
    scores = {
        seed: kbet(embedding, dataset, k=10, n_repeats=7, n_samples=20, seed=seed)
        for seed in range(5)
    }
    for seed, score in scores.items():
        rng = np.random.default_rng(seed)
        draws = [rng.choice(len(embedding), 20, replace=False) for _ in range(7)]
        assert score == pytest.approx(np.median([accepted[draw].mean() for draw in draws]))
    assert len(set(scores.values())) > 1


def test_kbet_order_and_names_of_the_cells_do_not_matter():
    embedding, dataset = uneven_cells(3)
    order = np.random.default_rng(1).permutation(len(embedding))
    names = np.array(["rna", "adt", "atac"])
    expected = kbet(embedding, dataset, k=20)
    assert kbet(embedding[order], names[dataset[order]], k=20) == pytest.approx(expected)


def test_kbet_arrays_of_datasets_equal_one_array():
    embedding, dataset = uneven_cells()
    parts = [embedding[dataset == code] for code in (0, 1)]
    expected = kbet(np.concatenate(parts), np.sort(dataset), k=20)
    assert kbet(parts, k=20) == expected
    assert kbet({"rna": parts[0], "adt": parts[1]}, k=20) == expected


@pytest.mark.parametrize("sizes", [(1000, 1000), (1500, 500), (800, 700, 500)])
def test_kbet_perfect_mixing_is_accepted_at_the_level_of_the_test(sizes):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(size, 3)) for size in sizes]
    # neighbourhoods overlap, so the spread is that of far fewer than 2,000 tests
    assert kbet(parts, alpha=0.05) == pytest.approx(0.95, abs=0.03)
    assert kbet(parts, alpha=0.5) == pytest.approx(0.5, abs=0.1)


def test_kbet_full_separation_is_rejected():
    x = np.random.default_rng(0).normal(size=(500, 3))
    assert kbet([x, x + 1000]) == 0


@pytest.mark.parametrize(
    ("sizes", "k"), [((20, 30), 10), ((100, 100), 25), ((2000, 100), 70), ((6, 2), 7)]
)
def test_kbet_size_of_the_neighborhood_by_default(sizes, k):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(size, 2)) + shift for shift, size in zip((0, 1), sizes, strict=True)]
    assert kbet(parts, alpha=0.7) == kbet(parts, k=k, alpha=0.7)
    assert any(
        kbet(parts, alpha=0.7) != kbet(parts, k=other, alpha=0.7) for other in (k - 2, k - 1)
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 5}, ValueError, "k=5 neighbours were asked of 4 cells, of which a cell has 4"),
        (
            {"k": 4, "include_self": False},
            ValueError,
            "k=4 neighbours were asked of 4 cells, of which a cell has 3",
        ),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"alpha": 1}, ValueError, "alpha must be between 0 and 1, got 1"),
        ({"n_repeats": 1.5}, TypeError, "n_repeats must be an integer"),
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1"),
        ({"dataset": ["a"] * 4}, ValueError, "one dataset"),
        ({"dataset": None}, TypeError, "Without dataset"),
    ],
)
def test_kbet_bad_input_is_named(change, error, message):
    options = {"embedding": np.eye(4), "dataset": [0, 1, 0, 1], **change}
    with pytest.raises(error, match=message):
        kbet(**options)


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


def typed_cells(n_cells=80, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(["B", "NK", "T"], n_cells).astype("U9")
    labels[0] = "alone"
    dataset = rng.choice(["rna", "adt"], n_cells)
    center = {"B": 0, "NK": 1, "T": 3, "alone": 5}
    shift = np.array([center[label] for label in labels]) + 0.5 * (dataset == "rna")
    return rng.normal(size=(n_cells, 4)) + shift[:, None], dataset, labels


def test_silhouette_equals_a_loop():
    embedding, _, labels = typed_cells()
    expected = naive_widths(embedding, labels).mean()
    assert silhouette(embedding, labels) == pytest.approx(expected)
    assert silhouette(embedding, labels, rescale=True) == pytest.approx((expected + 1) / 2)
    assert 0 < expected < 1


def test_silhouette_batch_equals_a_loop():
    embedding, dataset, labels = typed_cells()
    scores = silhouette_batch(embedding, dataset, labels, return_per_label=True)
    assert list(scores.index) == ["B", "NK", "T", "alone"]
    assert np.isnan(scores["alone"])
    for label in ("B", "NK", "T"):
        of_type = labels == label
        widths = naive_widths(embedding[of_type], dataset[of_type])
        assert scores[label] == pytest.approx(np.mean(1 - np.abs(widths)))
    expected = scores.dropna().mean()
    assert silhouette_batch(embedding, dataset, labels) == pytest.approx(expected)


def test_silhouette_order_and_names_do_not_matter():
    embedding, dataset, labels = typed_cells()
    order = np.random.default_rng(1).permutation(len(embedding))
    renamed = pd.Categorical(pd.Series(labels[order]).map({"B": 9, "NK": 2, "T": 5, "alone": 0}))
    assert silhouette(embedding[order], renamed) == pytest.approx(silhouette(embedding, labels))
    assert silhouette_batch(embedding[order], dataset[order], renamed) == pytest.approx(
        silhouette_batch(embedding, dataset, labels)
    )


def test_silhouette_extremes():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(600, 5))
    group = np.arange(600) % 2
    apart = noise + 1000 * group[:, None]
    assert silhouette(apart, group) == pytest.approx(1, abs=0.01)
    assert silhouette(noise, group) == pytest.approx(0, abs=0.01)
    same = np.zeros(600)
    assert silhouette_batch(apart, group, same) == pytest.approx(0, abs=0.01)
    assert silhouette_batch(noise, group, same) == pytest.approx(1, abs=0.02)


def test_silhouette_cells_without_a_label_take_no_part():
    embedding, dataset, labels = typed_cells()
    partial = labels.astype(object)
    partial[10:20] = None
    partial[20] = np.nan
    kept = ~pd.isna(partial)
    assert silhouette(embedding, partial) == silhouette(embedding[kept], labels[kept])
    assert silhouette_batch(embedding, dataset, partial) == silhouette_batch(
        embedding[kept], dataset[kept], labels[kept]
    )


def test_silhouette_draws_are_scored_among_themselves():
    embedding, dataset, labels = typed_cells()
    chosen = np.sort(np.random.default_rng(3).choice(80, 40, replace=False))
    assert silhouette(embedding, labels, n_samples=40, seed=3) == pytest.approx(
        naive_widths(embedding[chosen], labels[chosen]).mean()
    )
    assert silhouette(embedding, labels, n_samples=80) == silhouette(embedding, labels)
    drawn = silhouette_batch(
        embedding, dataset, labels, n_samples=10, seed=3, return_per_label=True
    )
    of_type = np.flatnonzero(labels == "T")
    of_type = of_type[np.sort(np.random.default_rng(3).choice(len(of_type), 10, replace=False))]
    widths = naive_widths(embedding[of_type], dataset[of_type])
    assert drawn["T"] == pytest.approx(np.mean(1 - np.abs(widths)))


def test_silhouette_memory_does_not_grow_with_the_square():
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
def test_silhouette_bad_input_is_named(change, error, message):
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
def test_silhouette_bad_input_of_batch_is_named(change, error, message):
    options = {"embedding": np.eye(4), "dataset": [0, 0, 0, 1], "labels": list("BBTT"), **change}
    with pytest.raises(error, match=message):
        silhouette_batch(**options)
