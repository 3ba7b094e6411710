from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from cantata.metrics import mixing_metric


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


def cells(n_datasets=2, n_cells=90, shift=0.8, seed=0):
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
def test_equals_a_loop(k, n_neighbor, cloud, n_datasets, include_self):
    embedding, dataset = cells(n_datasets)
    embedding = CLOUDS[cloud](embedding)
    options = {"k": k, "n_neighbor": n_neighbor, "include_self": include_self}
    expected = naive_mixing(embedding, dataset, **options)
    result = mixing_metric(embedding, dataset, return_per_cell=True, **options)
    np.testing.assert_array_equal(result, expected)
    assert mixing_metric(embedding, dataset, **options) == pytest.approx(expected.mean())


def test_several_blocks_give_what_one_block_gives(monkeypatch):
    embedding, dataset = cells()
    whole = mixing_metric(embedding, dataset, return_per_cell=True)
    monkeypatch.setattr("cantata.metrics._mixing._BLOCK_ROWS", 7)
    np.testing.assert_array_equal(mixing_metric(embedding, dataset, return_per_cell=True), whole)


def test_order_and_names_of_the_cells_do_not_matter():
    embedding, dataset = cells(3)
    order = np.random.default_rng(1).permutation(len(embedding))
    names = np.array(["rna", "adt", "atac"])
    expected = mixing_metric(embedding, dataset, k=40, return_per_cell=True)
    result = mixing_metric(embedding[order], names[dataset[order]], k=40, return_per_cell=True)
    np.testing.assert_array_equal(result, expected[order])


def test_arrays_of_datasets_equal_one_array():
    embedding, dataset = cells()
    parts = [embedding[dataset == code] for code in (0, 1)]
    expected = mixing_metric(np.concatenate(parts), np.sort(dataset), k=30)
    assert mixing_metric(parts, k=30) == expected
    assert mixing_metric({"rna": parts[0], "adt": parts[1]}, k=30) == expected


@pytest.mark.parametrize("include_self", [True, False])
def test_perfect_mixing_and_full_separation(include_self):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 1000, 4))
    options = {"include_self": include_self}
    # with the cell itself: its fourth other at rank 1 + 8, the fifth of the other at 1 + 10
    assert mixing_metric([x, y], k=60, **options) == pytest.approx(10, abs=0.2)
    x, y = x[:320], y[:320]
    assert mixing_metric([x, y + 30], **options) == (5 + 300) / 2
    assert mixing_metric([x, y + 30, y - 30], **options) == 300


def test_a_small_neighborhood_is_all_cells():
    embedding, dataset = cells(n_cells=8)
    assert mixing_metric(embedding, dataset) == mixing_metric(embedding, dataset, k=8)
    assert mixing_metric([[[0.0]], [[1.0]]]) == 2  # no fifth cell of either
    assert mixing_metric([[[0.0]], [[1.0]]], include_self=False) == 1


def test_drawn_cells_have_the_value_they_have_among_all(monkeypatch):
    embedding, dataset = cells()
    every = mixing_metric(embedding, dataset, k=40, return_per_cell=True)
    monkeypatch.setattr("cantata.metrics._datasets.MAX_EXACT", 10)  # a draw is searched exactly
    drawn = mixing_metric(embedding, dataset, k=40, n_samples=30, return_per_cell=True)
    chosen = np.sort(np.random.default_rng(0).choice(len(embedding), 30, replace=False))
    np.testing.assert_array_equal(drawn, every[chosen])
    again = mixing_metric(embedding, dataset, k=40, n_samples=30, random_state=1)
    assert again != drawn.mean()


def test_memory_does_not_grow_with_the_square():
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
def test_bad_input_is_named(change, error, message):
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
def test_bad_parts_are_named(parts, error, message):
    with pytest.raises(error, match=message):
        mixing_metric(parts)
