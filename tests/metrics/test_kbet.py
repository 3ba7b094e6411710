from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from cantata.metrics import kbet


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


def cells(n_datasets=2, n_cells=90, shift=0.8, seed=0):
    rng = np.random.default_rng(seed)
    dataset = rng.choice(
        n_datasets, n_cells, p=np.arange(1, n_datasets + 1) / sum(range(n_datasets + 1))
    )
    return rng.normal(size=(n_cells, 3)) + shift * dataset[:, None], dataset


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("n_datasets", [2, 3])
@pytest.mark.parametrize(("k", "alpha"), [(10, 0.05), (25, 0.05), (25, 0.4)])
def test_all_cells_equal_a_loop(k, alpha, n_datasets, include_self):
    embedding, dataset = cells(n_datasets)
    options = {"k": k, "alpha": alpha, "include_self": include_self}
    expected = naive_accepted(embedding, dataset, **options).mean()
    assert kbet(embedding, dataset, **options) == pytest.approx(expected)
    assert 0 < expected < 1


def test_the_score_is_the_median_of_the_draws():
    embedding, dataset = cells()
    accepted = naive_accepted(embedding, dataset, 10, 0.05, include_self=True)
    scores = {
        seed: kbet(embedding, dataset, k=10, n_repeats=7, n_samples=20, random_state=seed)
        for seed in range(5)
    }
    for seed, score in scores.items():
        rng = np.random.default_rng(seed)
        draws = [rng.choice(len(embedding), 20, replace=False) for _ in range(7)]
        assert score == pytest.approx(np.median([accepted[draw].mean() for draw in draws]))
    assert len(set(scores.values())) > 1


def test_order_and_names_of_the_cells_do_not_matter():
    embedding, dataset = cells(3)
    order = np.random.default_rng(1).permutation(len(embedding))
    names = np.array(["rna", "adt", "atac"])
    expected = kbet(embedding, dataset, k=20)
    assert kbet(embedding[order], names[dataset[order]], k=20) == pytest.approx(expected)


def test_arrays_of_datasets_equal_one_array():
    embedding, dataset = cells()
    parts = [embedding[dataset == code] for code in (0, 1)]
    expected = kbet(np.concatenate(parts), np.sort(dataset), k=20)
    assert kbet(parts, k=20) == expected
    assert kbet({"rna": parts[0], "adt": parts[1]}, k=20) == expected


@pytest.mark.parametrize("sizes", [(1000, 1000), (1500, 500), (800, 700, 500)])
def test_perfect_mixing_is_accepted_at_the_level_of_the_test(sizes):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(size, 3)) for size in sizes]
    # neighbourhoods overlap, so the spread is that of far fewer than 2,000 tests
    assert kbet(parts, alpha=0.05) == pytest.approx(0.95, abs=0.03)
    assert kbet(parts, alpha=0.5) == pytest.approx(0.5, abs=0.1)


def test_full_separation_is_rejected():
    x = np.random.default_rng(0).normal(size=(500, 3))
    assert kbet([x, x + 1000]) == 0


@pytest.mark.parametrize(
    ("sizes", "k"), [((20, 30), 10), ((100, 100), 25), ((2000, 100), 70), ((6, 2), 7)]
)
def test_size_of_the_neighborhood_by_default(sizes, k):
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
def test_bad_input_is_named(change, error, message):
    options = {"embedding": np.eye(4), "dataset": [0, 1, 0, 1], **change}
    with pytest.raises(error, match=message):
        kbet(**options)
