from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse
from scipy.optimize import linprog

import cantata
from cantata.pp import suggest_links
from cantata.pp._suggest import _matching
from cantata.pp._suggest._matching import (
    ColumnPairs,
    best_correlation,
    couple,
    cross_covariance,
    first_couplings,
    link_distances,
    refine,
    squared_distances,
    suggested,
)
from cantata.pp._suggest._metacells import Metacells, group_cells, read_modality

if TYPE_CHECKING:
    import mudata

FAST = {"n_repeats": 1}
NONE = np.empty(0, dtype=np.int64)


def simulated(n_cells: int, n_genes: int, n_proteins: int) -> mudata.MuData:
    """RNA and protein of the same cells, in the same order."""
    return cantata.datasets.simulate_mosaic(
        n_cells,
        n_features={"rna": n_genes, "adt": n_proteins},
        pairing={("rna", "adt"): 1.0},
        n_batches=1,
        batch_effect=0.0,
        shuffle=False,
        seed=3,
    )


@pytest.fixture(scope="module")
def data() -> tuple[mudata.MuData, pd.DataFrame]:
    """RNA and protein of different cells, and the correlations in the same cells."""
    full = simulated(1000, 120, 24)
    rna, adt = full["rna"], full["adt"]
    logs = [np.log1p(m.X.toarray() / m.X.sum(axis=1) * 1e4) for m in (rna, adt)]
    both = np.corrcoef(np.hstack(logs).T)[: rna.n_vars, rna.n_vars :]
    mdata = mosaic({"rna": rna[::2].copy(), "adt": adt[1::2].copy()})
    mdata.uns["truth"] = full.uns["truth"]
    return mdata, pd.DataFrame(both, rna.var_names, adt.var_names)


@pytest.fixture(scope="module")
def small() -> mudata.MuData:
    """So few features that a suggestion takes no time, and is worth little."""
    full = simulated(240, 30, 8)
    mdata = mosaic({"rna": full["rna"][::2].copy(), "adt": full["adt"][1::2].copy()})
    mdata.uns["truth"] = full.uns["truth"]
    return mdata


@pytest.fixture(scope="module")
def links(small) -> pd.DataFrame:
    return suggest_links(small, "rna", "adt", known=known_links(small), **FAST)


def known_links(mdata: mudata.MuData, n: int = 3) -> pd.DataFrame:
    return mdata.uns["truth"]["links"][["source", "target"]].head(n)


def true_correlation(truth: pd.DataFrame, links: pd.DataFrame) -> np.ndarray:
    return truth.to_numpy()[
        truth.index.get_indexer(links["source"]), truth.columns.get_indexer(links["target"])
    ]


def rebuilt(mdata: mudata.MuData, **parts: AnnData) -> mudata.MuData:
    return mosaic({name: parts.get(name, mdata[name]).copy() for name in mdata.mod})


def assert_same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """The same pairs with the same scores, in any order among equals."""
    merged = left.merge(right, on=["source", "target"], how="outer", suffixes=("", "_right"))
    missing = merged[["score", "score_right"]].isna().any(axis=1)
    assert not missing.any(), merged[missing]
    np.testing.assert_allclose(merged["score"], merged["score_right"], rtol=1e-6)
    np.testing.assert_array_equal(merged["known"], merged["known_right"])


def test_table_and_known_links(small, links) -> None:
    assert list(links.columns) == ["source", "target", "score", "rank", "known"]
    assert links["source"].isin(small["rna"].var_names).all()
    assert links["target"].is_unique  # a known protein gets no other gene
    np.testing.assert_array_equal(links["rank"], np.arange(1, len(links) + 1))
    assert links["known"].tolist() == [True] * 3 + [False] * (len(links) - 3)
    pairs = set(map(tuple, known_links(small).to_numpy()))
    assert set(map(tuple, links.loc[links["known"], ["source", "target"]].to_numpy())) == pairs
    for _, part in links.groupby("known"):
        assert part["score"].is_monotonic_decreasing
    assert (links.loc[~links["known"], "score"] > 0).all()


def test_a_few_known_links_find_pairs_that_go_together(data) -> None:
    mdata, truth = data
    found = suggest_links(mdata, "rna", "adt", known=known_links(mdata, 6), n_repeats=3)
    new = found[~found["known"]]
    values = true_correlation(truth, new)
    ceiling = truth[new["target"]].max().mean()
    assert ceiling > 0.25
    assert abs(truth.to_numpy().mean()) < 0.02  # a random pair
    assert values.mean() > 0.6 * ceiling
    assert (values > 0.1).mean() > 0.7
    assert (truth.to_numpy() > 0.1).mean() < 0.3
    half = len(new) // 2
    assert values[:half].mean() > values[half:].mean() + 0.1  # the score tells


def test_scores_are_low_where_nothing_can_be_told(data) -> None:
    """Shuffling the values of each gene among cells takes all co-variation away."""
    mdata, _ = data
    rna = mdata["rna"].copy()
    rna.X = np.random.default_rng(0).permuted(rna.X.toarray(), axis=0)
    found = suggest_links(rebuilt(mdata, rna=rna), "rna", "adt", n_repeats=2)
    assert found["score"].max() < 0.3


def test_pairing_is_never_used() -> None:
    """Cells of both modalities, cells of other names, in another order: the same to the bit."""
    paired = simulated(120, 30, 8)
    adt = paired["adt"].copy()
    adt.obs_names = [f"other{i}" for i in range(adt.n_obs)]
    found = suggest_links(paired, "rna", "adt", **FAST)
    apart = suggest_links(rebuilt(paired, adt=adt), "rna", "adt", **FAST)
    pd.testing.assert_frame_equal(found, apart, check_exact=True)
    order = np.random.default_rng(0).permutation(adt.n_obs)
    shuffled = suggest_links(rebuilt(paired, adt=paired["adt"][order]), "rna", "adt", **FAST)
    pd.testing.assert_frame_equal(found, shuffled, check_exact=True)


@pytest.mark.parametrize("axis", ["cells", "features", "modalities"])
def test_order_does_not_matter(small, links, axis: str) -> None:
    rng = np.random.default_rng(5)
    rna, adt = small["rna"], small["adt"]
    if axis == "cells":
        moved = rebuilt(small, rna=rna[rng.permutation(rna.n_obs)])
    elif axis == "features":
        moved = rebuilt(small, rna=rna[:, rng.permutation(rna.n_vars)])
    else:
        moved = mosaic({"adt": adt.copy(), "rna": rna.copy()})
    known = known_links(small).iloc[::-1]
    assert_same(links, suggest_links(moved, "rna", "adt", known=known, **FAST))


def test_the_direction_only_swaps_the_columns(small, links) -> None:
    swap = {"source": "target", "target": "source"}
    known = known_links(small).rename(columns=swap)
    back = suggest_links(small, "adt", "rna", known=known, **FAST).rename(columns=swap)
    pd.testing.assert_frame_equal(back[links.columns], links)


def test_storage_does_not_matter_and_nothing_is_written(small, links) -> None:
    rna = small["rna"].copy()
    rna.layers["counts"] = sparse.csc_matrix(rna.X)
    rna.X = np.full(rna.shape, -1.0)
    other = rebuilt(small, rna=rna)
    keys = set(other.uns), set(other["rna"].obsm), set(other.varp)
    known = known_links(small)
    again = suggest_links(other, "rna", "adt", known=known, layers={"rna": "counts"}, **FAST)
    assert_same(links, again)
    assert (set(other.uns), set(other["rna"].obsm), set(other.varp)) == keys


def test_the_seed_and_the_number_of_links(small, links) -> None:
    known = known_links(small)
    few = suggest_links(small, "rna", "adt", known=known, n_links=5, **FAST)
    pd.testing.assert_frame_equal(few, links.head(5), check_exact=True)
    other = suggest_links(small, "rna", "adt", known=known, seed=1, **FAST)
    assert not np.allclose(links["score"].head(3), other["score"].head(3), atol=1e-6)


def test_links_can_be_used(small, links) -> None:
    mdata = small.copy()
    report = cantata.pp.link_features(mdata, "rna", "adt", links)
    assert len(report.links) == len(links)
    assert mdata["rna"].obsm["X_linked_adt"].shape[1] == len(links)


def test_a_known_feature_counts_although_it_hardly_varies(small) -> None:
    known = known_links(small)
    found = suggest_links(small, "rna", "adt", known=known, n_top_features=4, **FAST)
    assert set(known["source"]) <= set(found["source"])
    assert found["source"].nunique() <= 7


def test_transforms(small) -> None:
    adt = small["adt"].copy()
    adt.X = adt.X.toarray() - 0.5  # intensities, some negative
    other = rebuilt(small, adt=adt)
    assert len(suggest_links(other, "rna", "adt", transforms={"adt": "arcsinh"}, **FAST))
    with pytest.raises(ValueError, match=r"'adt' has negative values .*arcsinh"):
        suggest_links(other, "rna", "adt", transforms={"adt": "log1p"}, **FAST)


def test_a_constant_known_feature_is_left_out_with_a_warning(small) -> None:
    rna = small["rna"].copy()
    rna.X = rna.X.toarray()
    known = known_links(small)
    rna.X[:, rna.var_names.get_loc(known["source"].iloc[0])] = 0
    other = rebuilt(small, rna=rna)
    with pytest.warns(UserWarning, match="known: 1 of 3 links have an end that does not vary"):
        found = suggest_links(other, "rna", "adt", known=known, **FAST)
    assert found["known"].sum() == 2
    with pytest.raises(ValueError, match="None is left"):
        suggest_links(other, "rna", "adt", known=known.head(1), **FAST)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"b": "rna"}, ValueError, "both 'rna'"),
        ({"b": "atac"}, KeyError, "b='atac' is no modality"),
        ({"known": [("a", "b")]}, TypeError, "DataFrame"),
        ({"known": pd.DataFrame({"gene": ["x"]})}, ValueError, "source"),
        ({"known": pd.DataFrame({"source": ["x"], "target": ["y"]})}, ValueError, "not exist"),
        ({"layers": {"rna": "nothing"}}, KeyError, "nothing"),
        ({"transforms": {"rna": "sqrt"}}, ValueError, "sqrt"),
        ({"n_links": 0}, ValueError, "n_links=0"),
        ({"n_repeats": 0}, ValueError, "n_repeats=0"),
        ({"n_top_features": -1}, ValueError, "n_top_features=-1"),
    ],
)
def test_bad_arguments(small, arguments, error, match) -> None:
    with pytest.raises(error, match=match):
        suggest_links(small, **{"a": "rna", "b": "adt", **arguments})


def test_fewer_links_than_known(small) -> None:
    with pytest.raises(ValueError, match="n_links=2: give at least 3"):
        suggest_links(small, "rna", "adt", known=known_links(small), n_links=2)


def test_bad_data(small) -> None:
    few = rebuilt(small, adt=small["adt"][:30])
    with pytest.raises(ValueError, match="'adt' has 30 cells and 8 features"):
        suggest_links(few, "rna", "adt")
    narrow = rebuilt(small, adt=small["adt"][:, :3])
    with pytest.raises(ValueError, match="'adt' has 120 cells and 3 features"):
        suggest_links(narrow, "rna", "adt")
    rna = small["rna"].copy()
    rna.X = rna.X.toarray()
    rna.X[3, 4] = np.nan
    with pytest.raises(ValueError, match="'rna' has 1 NaN or infinite values"):
        suggest_links(rebuilt(small, rna=rna), "rna", "adt")


# the parts


def metacells(n: int, p: int, k: int, seed: int) -> Metacells:
    rng = np.random.default_rng(seed)
    return Metacells(
        weights=rng.dirichlet(np.full(n, 5.0)),
        profiles=rng.normal(size=(n, p)),
        whitened=rng.normal(size=(n, k)),
        depth=rng.normal(size=n),
        cells=rng.normal(size=(200, k)),
        labels=np.arange(200) % n,
    )


def test_distances_and_covariances_equal_loops() -> None:
    a, b = metacells(6, 9, 3, 0), metacells(5, 7, 3, 1)
    links = ColumnPairs(np.array([2, 0, 2]), np.array([1, 4, 6]))
    distance = np.array(
        [
            [
                sum((x[i] - y[j]) ** 2 for i, j in zip(links.a, links.b, strict=True))
                for y in b.profiles
            ]
            for x in a.profiles
        ]
    )
    mean = sum(
        wa * wb * distance[i, j]
        for i, wa in enumerate(a.weights)
        for j, wb in enumerate(b.weights)
    )
    np.testing.assert_allclose(link_distances(a, b, links), distance / mean)
    coupling = couple(distance / mean, a, b, 0.5)
    expected = np.zeros((9, 7))
    mean_a, mean_b = coupling.sum(axis=1) @ a.profiles, coupling.sum(axis=0) @ b.profiles
    for i in range(6):
        for j in range(5):
            expected += coupling[i, j] * np.outer(a.profiles[i] - mean_a, b.profiles[j] - mean_b)
    np.testing.assert_allclose(cross_covariance(a.profiles, b.profiles, coupling), expected)


def test_couplings_are_optimal_transport(monkeypatch) -> None:
    a, b = metacells(6, 4, 4, 2), metacells(5, 4, 4, 3)
    cost = squared_distances(a.whitened, b.whitened, a, b)
    quick = couple(cost, a, b, 0.1)
    np.testing.assert_allclose(quick.sum(axis=0), b.weights, atol=1e-12)
    np.testing.assert_allclose(quick.sum(axis=1), a.weights, atol=0.05)
    np.testing.assert_allclose(couple(np.stack([1 - cost, cost]), a, b, 0.1)[1], quick)
    rows = np.vstack([np.kron(np.eye(6), np.ones(5)), np.kron(np.ones(6), np.eye(5))])
    exact = linprog(cost.ravel(), A_eq=rows, b_eq=np.r_[a.weights, b.weights]).fun
    monkeypatch.setattr(_matching, "ITERATIONS", 5000)
    coupling = couple(cost, a, b, 0.02)
    np.testing.assert_allclose(coupling.sum(axis=1), a.weights, atol=1e-6)
    assert (coupling * cost).sum() == pytest.approx(exact, abs=0.03)


def test_suggestions_by_hand() -> None:
    correlation = np.array([[0.1, 0.9, -0.2], [0.5, 0.2, -0.1]])
    free = suggested(correlation, None)
    np.testing.assert_array_equal(free.a, [1, 0, 1])
    held = suggested(correlation, ColumnPairs(np.array([1, 0]), np.array([1, 1])))
    np.testing.assert_array_equal(held.a, [1, 0, 1, 1])
    np.testing.assert_array_equal(held.b, [1, 1, 0, 2])


def test_two_views_of_the_same_independent_sources_are_matched() -> None:
    """Mixed in unknown ways, and in other cells: found by their distributions alone."""
    rng = np.random.default_rng(1)

    def draw(n: int) -> np.ndarray:
        sources = rng.exponential(size=n), 2 * rng.gamma(0.3, size=n), 3 * (rng.random(n) < 0.1)
        return np.column_stack([*sources, rng.normal(size=n)])

    weights = [np.abs(rng.normal(size=(4, p))) for p in (12, 9)]
    views = []
    for w, n in zip(weights, (1500, 1300), strict=True):
        x = draw(n) @ w + 0.3 * rng.normal(size=(n, w.shape[1]))
        views.append(group_cells(read_modality("x", AnnData(x), x, None, 100, NONE), 40, rng))
    a, b = views
    couplings = refine(a, b, first_couplings(a, b, None, 0), None)
    found = best_correlation(a, b, couplings, None)
    both = draw(50_000)
    truth = np.corrcoef((both @ np.hstack(weights)).T)[:12, 12:]
    names = [np.argsort([f"{j}" for j in range(p)]) for p in (12, 9)]
    assert np.corrcoef(found.ravel(), truth[np.ix_(*names)].ravel())[0, 1] > 0.9


def test_metacells_are_means_of_their_cells() -> None:
    rng = np.random.default_rng(0)
    values = rng.poisson(2.0, size=(300, 30)).astype(float)
    sample = read_modality(
        "x", AnnData(values), sparse.csr_matrix(values), None, 25, np.array([3])
    )
    assert sample.features.size in (25, 26)
    assert 3 in sample.features
    group = group_cells(sample, 20, rng)
    assert group.cells.shape[0] == 240
    assert group.weights.sum() == pytest.approx(1)
    assert group.weights.size == 20
    for code in (0, 7):
        np.testing.assert_allclose(
            group.whitened[code], group.cells[group.labels == code].mean(axis=0)
        )
    np.testing.assert_allclose(np.abs(group.weights @ group.profiles).max(), 0, atol=0.2)


@pytest.mark.parametrize("fmt", [sparse.csr_matrix, np.array])
def test_transforms_are_those_that_are_asked_for(fmt):
    counts = np.random.default_rng(0).poisson(20.0, (60, 8)).astype(np.float64)
    adata = AnnData(counts)
    by_transform = {}
    for transform in ("clr", "log1p", "arcsinh", None):
        sample = read_modality("adt", adata, fmt(counts), transform, 100, NONE)
        values = sample.values
        values = values.toarray() if sparse.issparse(values) else values
        by_transform[transform] = np.sort(values, axis=0)
    expected = np.log1p(counts / np.exp(np.log1p(counts).mean(axis=0)))
    np.testing.assert_allclose(by_transform["clr"], np.sort(expected, axis=0), rtol=1e-5)
    assert not np.allclose(by_transform["log1p"], by_transform["clr"])
    with pytest.raises(ValueError, match=r"'adt' has negative values .*'clr' cannot"):
        read_modality("adt", adata, counts - 30, "clr", 100, NONE)


def test_corrected_counts_count_as_counts(data):
    mdata, _ = data
    corrected = mosaic({name: mdata[name].copy() for name in ("rna", "adt")})
    corrected["adt"].X = corrected["adt"].X * 0.99
    with pytest.warns(UserWarning, match=r"'adt' are no counts .*corrected counts") as caught:
        found = suggest_links(corrected, "rna", "adt", **FAST)
    assert __file__ in {w.filename for w in caught}
    expected = suggest_links(mdata, "rna", "adt", **FAST)
    pd.testing.assert_frame_equal(found[["source", "target"]], expected[["source", "target"]])
