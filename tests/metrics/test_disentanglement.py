from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from cantata.datasets import simulate_disentangled
from cantata.metrics import disentanglement, disentanglement_summary, silhouette

N = 300


def standardised(train, test):
    mean, sd = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / sd, (test - mean) / sd


def nearest(train, test, k):
    result = []
    for cell in test:
        squared = ((train - cell) ** 2).sum(axis=1)
        result.append(np.argsort(squared, kind="stable")[:k])
    return result


def naive_r2(latents, y, test, k):
    """R2 of the normal equations and of the mean over neighbours, cell by cell."""
    left, right = standardised(latents[~test], latents[test])
    design = np.column_stack([np.ones(len(left)), left])
    beta = np.linalg.solve(design.T @ design, design.T @ y[~test])
    linear = np.column_stack([np.ones(len(right)), right]) @ beta
    knn = np.array([y[~test][near].mean() for near in nearest(left, right, k)])
    spread = ((y[test] - y[test].mean()) ** 2).sum()
    return [1 - ((y[test] - p) ** 2).sum() / spread for p in (linear, knn)]


def naive_accuracy(latents, labels, test, k):
    left, right = standardised(latents[~test], latents[test])
    known, right_answers = labels[~test], 0
    for near, true in zip(nearest(left, right, k), labels[test], strict=True):
        votes: dict = {}
        for place, cell in enumerate(near):
            count, places = votes.get(known[cell], (0, 0))
            votes[known[cell]] = (count + 1, places + k - place)
        right_answers += max(votes, key=votes.get) == true
    return right_answers / test.sum()


@pytest.fixture
def cells():
    """Latents, factors and held-out cells; the first column of the block reads the factors."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=N)
    latents = np.column_stack([z + 0.3 * rng.normal(size=N), 5 * rng.normal(size=(N, 2)) + 2])
    factors = pd.DataFrame(
        {
            "z": z**2 + z,
            "sign": (z > 0).astype(int),
            "type": pd.Categorical(np.array(["B", "NK", "T"])[np.digitize(z, [-0.7, 0.5])]),
        },
        index=[f"cell{i}" for i in range(N)],
    )
    test = np.zeros(N, dtype=bool)
    test[rng.permutation(N)[:90]] = True
    return latents, factors, test


def row(table, block, factor):
    found = table[(table["block"] == block) & (table["factor"] == factor)]
    assert len(found) == 1
    return found.iloc[0]


def test_scores_equal_a_loop(cells):
    latents, factors, test = cells
    table = disentanglement({"a": latents}, factors, test=test, n_neighbors=7)
    for name, kind in (("z", "numeric"), ("sign", "binary")):
        found = row(table, "a", name)
        expected = naive_r2(latents, factors[name].to_numpy(dtype=float), test, 7)
        assert found["kind"] == kind
        assert [found["linear"], found["knn"]] == pytest.approx(expected)
        assert found["score"] == max(expected) or found["score"] == pytest.approx(max(expected))
        assert found["chance"] == 0
    found, labels = row(table, "a", "type"), factors["type"].to_numpy(dtype=object)
    assert found["kind"] == "categorical"
    assert found["knn"] == pytest.approx(naive_accuracy(latents, labels, test, 7))
    assert found["linear"] > 0.7  # classes are ordered along the first column
    assert found["score"] == max(found["linear"], found["knn"])
    common = pd.Series(labels[~test]).mode()[0]
    assert found["chance"] == pytest.approx(np.mean(labels[test] == common))
    assert found["permuted"] < 0.5 < found["score"]


def test_chance_names_the_class_that_is_common_in_training():
    rng = np.random.default_rng(0)
    test = np.arange(N) < 90
    labels = np.where(rng.random(N) < np.where(test, 0.7, 0.3), "a", "b")
    table = disentanglement(
        {"x": rng.normal(size=(N, 2))}, pd.DataFrame({"type": labels}), test=test
    )
    expected = np.mean(labels[test] == "b")  # the rare one among the held-out cells
    assert expected < 0.4
    assert row(table, "x", "type")["chance"] == pytest.approx(expected)


def test_noise_has_the_size_of_one():
    z = np.random.default_rng(0).normal(size=4000)
    for size in (1.0, 3.0):
        table = disentanglement({"a": size * z[:, None]}, pd.DataFrame({"z": z}), noisy=True)
        # signal over signal and noise of variance 1
        assert row(table, "a", "z")["linear"] == pytest.approx(size**2 / (size**2 + 1), abs=0.04)


def test_silhouettes_are_those_of_the_latents(cells):
    latents, factors, test = cells
    table = disentanglement({"a": latents}, factors, test=test, noisy=True)
    assert np.isnan(row(table, "a", "z")["silhouette"])
    for name in ("sign", "type"):
        expected = silhouette(latents, factors[name])
        assert row(table, "a", name)["silhouette"] == pytest.approx(expected)
    drawn = disentanglement({"a": latents}, factors, test=test, n_silhouette=100)
    assert row(drawn, "a", "sign")["silhouette"] == pytest.approx(
        silhouette(latents, factors["sign"], n_samples=100)
    )


def test_layout_of_the_table(cells):
    latents, factors, _ = cells
    blocks = {"shared": latents, "own": pd.DataFrame(latents[:, 1:]), "list": latents.tolist()}
    own = {"z": "shared", "type": ["shared", "own"]}
    table = disentanglement(blocks, factors, own)
    assert table.columns.tolist() == [
        "block",
        "factor",
        "kind",
        "score",
        "linear",
        "knn",
        "chance",
        "permuted",
        "silhouette",
        "is_own",
    ]
    assert table["block"].tolist() == [name for name in blocks for _ in range(3)]
    assert table["factor"].tolist() == ["z", "sign", "type"] * 3
    is_own = table.pivot(index="factor", columns="block", values="is_own")
    assert is_own.loc["z", ["shared", "own", "list"]].tolist() == [True, False, False]
    assert is_own.loc["type", ["shared", "own", "list"]].tolist() == [True, True, False]
    assert is_own.loc["sign"].isna().all()
    same = disentanglement({"list": latents}, factors)
    pd.testing.assert_frame_equal(
        table[table["block"] == "list"].drop(columns="is_own").reset_index(drop=True),
        same.drop(columns="is_own"),
    )


def test_noise_hides_what_has_no_size(cells):
    latents, factors, test = cells
    tiny = np.column_stack([3 * np.random.default_rng(1).normal(size=N), 1e-3 * latents[:, 0]])
    clean, noisy = (
        row(disentanglement({"a": tiny}, factors, test=test, noisy=noise), "a", "z")["score"]
        for noise in (False, True)
    )
    assert clean > 0.5
    assert noisy < 0.1
    large = disentanglement({"a": 100 * tiny[:, 1:] * 1e3}, factors, test=test, noisy=True)
    assert row(large, "a", "z")["score"] > 0.5


def test_simulated_factors_are_found_in_their_blocks_and_nowhere_else():
    mdata = simulate_disentangled(3, n_cells=1500)
    blocks = {"shared": ["Z1", "Z2"], "x": ["Z3", "r4"], "y": ["r5"]}
    latents = {name: mdata.obs[columns] for name, columns in blocks.items()}
    own = mdata.uns["factors"]
    table = disentanglement(latents, mdata.obs[list(own)], own)
    summary = disentanglement_summary(table)
    assert summary.loc["all", "own_min"] > 0.99
    assert summary.loc["all", "leakage_max"] < 0.03
    assert summary.loc["all", "silhouette_own"] > 0.5
    assert summary.loc["all", "silhouette_other"] < 0.02
    # Z2 is a parent of Z4: what the shared block knows of it is no leakage
    parent = disentanglement(latents, mdata.obs[["Z4"]])
    assert row(parent, "shared", "Z4")["score"] == pytest.approx(0.81, abs=0.05)


def test_summary_equals_a_loop():
    table = pd.DataFrame(
        {
            "block": ["s", "s", "s", "x", "x", "x"],
            "factor": ["a", "b", "c"] * 2,
            "score": [0.9, 0.7, 0.5, -0.2, 0.8, 0.3],
            "chance": [0.0, 0.5, 0.0] * 2,
            "silhouette": [0.6, np.nan, 0.4, 0.1, 0.2, np.nan],
            "is_own": pd.array([True, False, None, False, True, None], dtype="boolean"),
        }
    )
    summary = disentanglement_summary(table)
    assert summary.index.tolist() == ["s", "x", "all"]
    s, x, everything = (summary.loc[name] for name in ("s", "x", "all"))
    assert [s["own_min"], s["own_mean"], s["leakage_max"]] == pytest.approx([0.9, 0.9, 0.4])
    assert [x["own_min"], x["leakage_max"], x["leakage_mean"]] == pytest.approx([0.6, 0, 0])
    assert everything["own_min"] == pytest.approx(0.6)
    assert everything["own_mean"] == pytest.approx(0.75)
    assert everything["leakage_mean"] == pytest.approx(0.2)
    assert [s["leaks"], x["leaks"], everything["leaks"]] == ["b", "a", "b in s"]
    assert everything["silhouette_own"] == pytest.approx(0.2)
    assert everything["silhouette_other"] == pytest.approx(0.1)
    assert np.isnan(s["silhouette_other"])
    nowhere = table.assign(is_own=pd.array([False] * 6, dtype="boolean"))
    assert np.isnan(disentanglement_summary(nowhere).loc["all", "own_min"])


def test_cells_without_a_value_take_no_part(cells):
    latents, factors, test = cells
    partial = factors.astype({"z": float, "type": object})
    hidden = np.arange(N) % 5 == 0
    partial.loc[hidden, "z"] = np.nan
    partial.loc[hidden, "type"] = None
    table = disentanglement({"a": latents}, partial, test=test)
    kept = disentanglement({"a": latents[~hidden]}, factors[~hidden], test=test[~hidden])
    for name in ("z", "type"):
        for column in ("linear", "knn", "chance"):
            assert row(table, "a", name)[column] == pytest.approx(row(kept, "a", name)[column])
    full = disentanglement({"a": latents}, factors, test=test)
    assert row(table, "a", "sign")["score"] == row(full, "a", "sign")["score"]


def test_held_out_cells_by_mask_rows_or_seed(cells):
    latents, factors, test = cells
    by_mask = disentanglement({"a": latents}, factors, test=test)
    by_rows = disentanglement({"a": latents}, factors, test=np.flatnonzero(test))
    pd.testing.assert_frame_equal(by_mask, by_rows)
    first, again, other = (disentanglement({"a": latents}, factors, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not np.allclose(first["linear"], other["linear"])


def test_kinds_by_type(cells):
    latents, factors, _ = cells
    columns = pd.DataFrame(
        {
            "flag": factors["sign"] == 1,
            "maybe": pd.array([True, False, None] * (N // 3), dtype="boolean"),
            "whole": pd.array(np.arange(N) % 7, dtype="Int64"),
            "two": np.where(factors["sign"] == 1, 2.5, -1.0),
            "text": factors["type"].astype(str),
        }
    )
    table = disentanglement({"a": latents}, columns)
    kinds = dict(zip(table["factor"], table["kind"], strict=True))
    assert [kinds.pop("whole"), kinds.pop("two")] == ["numeric", "binary"]
    assert set(kinds.values()) == {"categorical"}


def test_constant_and_repeated_columns_of_latents(cells):
    latents, factors, test = cells
    plain = disentanglement({"a": latents}, factors[["z"]], test=test)
    odd = np.column_stack([latents, np.full(N, 0.1), latents[:, 0]])
    found = disentanglement({"a": odd}, factors[["z"]], test=test)
    assert found["linear"].iloc[0] == pytest.approx(plain["linear"].iloc[0])


def test_memory_does_not_grow_with_the_square():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12_000, 3))
    factors = pd.DataFrame({"z": x[:, 0], "batch": x[:, 1] > 0})
    tracemalloc.start()
    disentanglement({"a": x}, factors, n_silhouette=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # all distances would take 1.2 GB


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"blocks": {}}, ValueError, "blocks is empty"),
        ({"blocks": {"a": np.zeros((3, 1)), "b": np.zeros((4, 1))}}, ValueError, "rows are"),
        ({"blocks": {"a": [["x"]]}}, TypeError, r"blocks\['a'\] must be a dense numeric"),
        ({"blocks": {"a": np.full((N, 1), np.nan)}}, ValueError, r"blocks\['a'\] holds NaN"),
        ({"factors": {"z": [1]}}, TypeError, "factors is a dict"),
        ({"factors": pd.DataFrame({"z": [1, 2]})}, ValueError, r"shape \(2, 1\).*300 cells"),
        ({"own": {"q": "a"}}, KeyError, "own names 'q', but the factors are"),
        ({"own": {"z": ["a", "b"]}}, KeyError, r"own\['z'\] names 'b', but the blocks are"),
        ({"test": np.ones(4, dtype=bool)}, ValueError, r"mask of shape \(4,\) for 300"),
        ({"test": [0, 300]}, ValueError, "test must be a mask over the 300 cells"),
        ({"test": [0.5]}, ValueError, "test must be a mask"),
        ({"test": np.ones(N, dtype=bool)}, ValueError, "k=15 neighbours were asked of"),
        ({"test": [0]}, ValueError, "'z' does not vary in its 1 held-out cells"),
        ({"n_neighbors": 1000}, ValueError, "k=1000 neighbours"),
        ({"n_silhouette": 1.5}, TypeError, "n_silhouette must be an integer"),
    ],
)
def test_bad_input_is_named(cells, change, error, message):
    latents, factors, _ = cells
    options = {"blocks": {"a": latents}, "factors": factors, **change}
    with pytest.raises(error, match=message):
        disentanglement(**options)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.zeros(N), "'q' has 1 different values; it must vary"),
        (np.full(N, np.nan), "'q' has 0 different values"),
        (np.r_[np.inf, np.arange(N - 1)], "'q' is infinite in 1 cells"),
        ([f"cell{i}" for i in range(N)], "'q' has 300 different values in as many cells"),
    ],
)
def test_bad_factors_are_named(cells, column, message):
    with pytest.raises(ValueError, match=message):
        disentanglement({"a": cells[0]}, pd.DataFrame({"q": column}))


def test_summary_of_something_else_is_named(cells):
    latents, factors, _ = cells
    table = disentanglement({"a": latents}, factors)
    with pytest.raises(ValueError, match="None of the 3 factors has a known owner"):
        disentanglement_summary(table)
    with pytest.raises(KeyError, match=r"table lacks the columns \['score'"):
        disentanglement_summary(table.drop(columns="score"))
    named = disentanglement({"all": latents}, factors, {"z": "all"})
    with pytest.raises(ValueError, match="A block is called 'all'"):
        disentanglement_summary(named)
