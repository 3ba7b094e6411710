from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse, stats
from sklearn.decomposition import PCA

from cantata.tl import LatentInterpretation, interpret_latent
from cantata.tl._latent._components import bin_cells, group_codes, match_axes, principal_axes
from cantata.tl._latent._differences import Findings, GroupTest, split_cells, split_groups
from cantata.tl._latent._interpretation import feature_tables

GROUPS = ("low", "center", "high")
USE = {"use_rep": "X_apollo_shared"}


def simulated(n_cells=1200, n_features=40, *, effect=0.35, seed=0):
    """Counts of RNA; PC1 of the latent space drives genes 0 to 9 up, PC2 genes 10 to 14 down.

    The last gene has nearly all counts, so that totals hardly depend on the others.
    """
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n_cells, 4)) * [3, 2, 1.5, 1]
    log_rate = np.full((n_cells, n_features), 1.0)
    log_rate[:, :10] += effect * latent[:, [0]]
    log_rate[:, 10:15] -= effect * latent[:, [1]]
    log_rate[:, -1] = 8.0
    counts = rng.poisson(np.exp(log_rate)).astype(np.float32)
    rna = AnnData(sparse.csr_matrix(counts), obsm={"X_apollo_shared": latent})
    rna.obs_names = [f"cell{i}" for i in range(n_cells)]
    rna.var_names = [f"gene{j}" for j in range(n_features)]
    return mosaic({"rna": rna})


@pytest.fixture(scope="module")
def mdata():
    return simulated()


@pytest.fixture(scope="module")
def found(mdata):
    sets = {"up": [f"gene{j}" for j in range(10)], "down": ["gene10", "gene11", "other"]}
    return interpret_latent(
        mdata, "rna", n_splits=6, train_size=0.5, gene_sets={**sets, "none": ["x"]}, **USE
    )


def test_features_that_a_component_drives_are_recovered(found):
    assert isinstance(found, LatentInterpretation)
    up = {f"gene{j}" for j in range(10)}
    for group, sign in (("high", 1), ("low", -1)):
        # the sign of the component is that of its largest loading, which is on dimension 1
        top = found.top("PC1", 10, group)
        assert set(top["feature"]) == up
        assert (np.sign(top["log2_fold_change"]) == sign).all()
        assert (top["n_significant"] == 6).all()
        assert top["area"].min() > 0.15
        down = found.top("PC2", 5, group)
        assert set(down["feature"]) == {f"gene{j}" for j in range(10, 15)}
        assert (np.sign(down["log2_fold_change"]) == -sign).all()
    rest = found.features[~found.features["feature"].isin([f"gene{j}" for j in range(15)])]
    assert rest["n_significant"].sum() <= 3


def test_noise_drives_nothing():
    mdata = simulated(effect=0.0, n_features=200, seed=3)
    found = interpret_latent(mdata, "rna", n_splits=10, train_size=0.5, **USE)
    # one of 4 components x 3 groups x 200 features in one of 10 splits, now and then
    assert found.features["n_significant"].sum() <= 3
    assert "." in repr(found).splitlines()[-1]


def test_small_groups_without_variance_are_no_evidence():
    """Three cells, in which many of the features that are not rare happen to be zero."""
    counts = np.random.default_rng(0).poisson(0.8, (200, 500)).astype(np.float32)
    codes = np.where(np.arange(200) < 3, 0, 1)
    found = {}
    for kind in ("welch", "both"):
        tests = GroupTest(
            sparse.csr_matrix(counts), scale="linear", pseudocount=1e-9, alpha=0.05, test=kind
        )
        found[kind] = tests.difference(tests.sums(codes, 2), 0, [1]).significant.sum()
    assert found["welch"] > 20
    assert found["both"] <= 1


def naive_groups(latent, train, n_bins, central, n_central):
    """Codes of groups of the components of the training cells, and the PCA, by loops."""
    pca = PCA().fit(latent[train])
    scores = (latent - pca.mean_) @ pca.components_.T
    codes = np.full(scores.shape, -1)
    for k in range(scores.shape[1]):
        others = [j for j in range(scores.shape[1])[:n_central] if j != k]
        distance = np.array([sum(row[j] ** 2 for j in others) for row in scores])
        radius = np.quantile(distance[train], central)
        edges = np.quantile(scores[train, k], np.linspace(0, 1, n_bins + 1))
        for i in range(len(latent)):
            if distance[i] > radius:
                continue
            bin_ = sum(scores[i, k] > edge for edge in edges[1:-1])
            codes[i, k] = (
                0 if bin_ < 2 else 1 if bin_ == n_bins // 2 else 2 if bin_ >= n_bins - 2 else 3
            )
    return codes, pca


@pytest.mark.parametrize(("n_bins", "n_central"), [(11, None), (5, 2), (7, 1)])
def test_groups_equal_a_loop(n_bins, n_central):
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(310, 4)) * [4, 3, 2, 1] + 5
    train = split_cells(310, 0.7, seed=2)
    assert train.sum() == 217  # no border is a cell, which the sign would put in another bin
    axes = principal_axes(latent[train])
    codes = bin_cells(
        latent,
        axes,
        np.arange(4),
        n_bins=n_bins,
        central=0.3,
        n_central=n_central,
        train=train,
    ).codes
    naive, pca = naive_groups(latent, train, n_bins, 0.3, n_central)
    for k, sign in enumerate(np.sign(np.sum(axes.loadings * pca.components_.T, axis=0))):
        turned = codes[:, k] if sign > 0 else np.array([2, 1, 0, 3, -1])[codes[:, k]]
        np.testing.assert_array_equal(turned, naive[:, k])
    assert (codes[:, 0] >= 0).sum() > 60


def test_few_codes_by_hand():
    bins = np.array([[0], [1], [2], [5], [8], [9], [10], [5]])
    central = np.array([True] * 7 + [False])[:, None]
    assert group_codes(bins, central, 11).ravel().tolist() == [0, 0, 3, 1, 3, 2, 2, -1]


def test_components_are_matched_whatever_their_order_and_sign():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(200, 6)) * np.arange(6, 0, -1)
    axes = principal_axes(latent)
    order, signs = rng.permutation(6), rng.choice([-1, 1], 6)
    other = (axes.loadings * signs)[:, order]
    partner, correlation = match_axes(axes.loadings[:, :4], other, np.cov(latent.T))
    np.testing.assert_array_equal(order[partner], np.arange(4))
    np.testing.assert_allclose(correlation, signs[:4])
    partner, correlation = match_axes(
        axes.loadings[:, :3], axes.loadings[:, [1]], np.cov(latent.T)
    )
    assert partner.tolist() == [-1, 0, -1]
    np.testing.assert_allclose(correlation, [0, 1, 0], atol=1e-12)
    for column in axes.loadings.T:
        assert column[np.abs(column).argmax()] > 0


@pytest.mark.parametrize("kind", ["both", "welch"])
@pytest.mark.parametrize("scale", ["log1p", "log", "linear"])
@pytest.mark.parametrize("matrix", ["sparse", "dense", "large mean"])
def test_differences_equal_scipy(scale, matrix, kind):
    rng = np.random.default_rng(4)
    values = rng.poisson(1.0, (60, 30)).astype(np.float64) * rng.uniform(0.5, 2, 30)
    values[:20, :5] += 2
    values[:, 29] = 0
    if matrix == "large mean":
        values += 1e6 if scale != "log1p" else 20
    codes = np.repeat([0, 1, 2, -1], [20, 15, 20, 5])
    data = sparse.csr_matrix(values) if matrix == "sparse" else values.copy()
    tests = GroupTest(data, scale=scale, pseudocount=1e-3, alpha=0.05, test=kind)
    for group, reference in ((0, [1, 2]), (2, [1])):
        result = tests.difference(tests.sums(codes, 3), group, reference)
        x, y = values[codes == group], values[np.isin(codes, reference)]
        test = stats.ttest_ind(x[:, :29], y[:, :29], equal_var=False)
        p = test.pvalue
        if kind == "both":
            p = np.maximum(p, stats.ttest_ind(x[:, :29], y[:, :29]).pvalue)
        q = stats.false_discovery_control(p)
        np.testing.assert_array_equal(result.significant, [*(q < 0.05), False])
        np.testing.assert_allclose(result.t[:29], test.statistic, rtol=1e-6)
        mean = np.array([x.mean(axis=0), y.mean(axis=0)])
        if scale == "log":
            expected = (mean[0] - mean[1]) / np.log(2)
        else:
            amount = np.expm1(mean) if scale == "log1p" else mean
            expected = np.log2((amount[0] + 1e-3) / (amount[1] + 1e-3))
        np.testing.assert_allclose(result.log2_fold_change, expected, atol=1e-8)
        if group == 0:
            assert result.significant[:5].all()
    one_cell = tests.sums(np.where(np.arange(60) < 1, 0, 1), 3)
    assert not tests.difference(one_cell, 0, [1]).significant.any()


def test_differences_equal_scanpy(mdata):
    import scanpy as sc

    rng = np.random.default_rng(0)
    rna = mdata["rna"].copy()
    sc.pp.normalize_total(rna, target_sum=1e4)
    sc.pp.log1p(rna)
    codes = rng.integers(0, 3, rna.n_obs)
    first = rna.X[:, 0].toarray().ravel()
    codes[first > np.quantile(first, 0.8)] = 0
    rna.obs["group"] = pd.Categorical(codes.astype(str))
    sc.tl.rank_genes_groups(rna, "group", groups=["0"], method="t-test")
    table = sc.get.rank_genes_groups_df(rna, "0").set_index("names").loc[rna.var_names]
    tests = GroupTest(
        sparse.csr_matrix(rna.X), scale="log1p", pseudocount=1e-9, alpha=0.05, test="welch"
    )
    result = tests.difference(tests.sums(codes, 3), 0, [1, 2])
    np.testing.assert_allclose(result.t, table["scores"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.log2_fold_change, table["logfoldchanges"], atol=1e-4)
    np.testing.assert_array_equal(result.significant, table["pvals_adj"] < 0.05)
    assert 0 < result.significant.sum() < 40


def naive_counts(mdata, *, n_splits, train_size, reference, test, thresholds, n_components):
    """Number of splits by component, group, feature and threshold, by loops."""
    values = np.asarray(mdata["rna"].X.todense(), dtype=np.float64)
    values = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)
    latent = mdata["rna"].obsm["X_apollo_shared"]
    whole = principal_axes(latent)
    all_codes, pca = naive_groups(latent, np.ones(len(latent), dtype=bool), 11, 0.15, None)
    turned = np.sign(np.diag(whole.loadings.T @ pca.components_.T))
    counts = {}
    for seed in range(n_splits):
        train = split_cells(len(latent), train_size, seed)
        codes, pca = naive_groups(latent, train, 11, 0.15, None)
        r = np.corrcoef(whole.scores(latent).T, (latent @ pca.components_.T).T)[:4, 4:]
        for k in range(n_components):
            own = np.abs(r[k]).argmax()
            of = codes[:, own] if r[k, own] > 0 else np.array([2, 1, 0, 3, -1])[codes[:, own]]
            for g, group in enumerate(GROUPS):
                rest = [h for h in range(4 if reference == "rest" else 3) if h != g]
                everywhere = all_codes[:, k]
                if turned[k] < 0:
                    everywhere = np.array([2, 1, 0, 3, -1])[everywhere]
                mean = [
                    np.expm1(values[of_all].mean(axis=0))
                    for of_all in (everywhere == g, np.isin(everywhere, rest))
                ]
                sign = np.sign(mean[0] - mean[1])
                parts = []
                for part in (train, ~train):
                    x, y = values[part & (of == g)], values[part & np.isin(of, rest)]
                    p = stats.ttest_ind(x, y, equal_var=False).pvalue
                    if test == "both":
                        p = np.maximum(p, stats.ttest_ind(x, y).pvalue)
                    mean = np.expm1(x.mean(axis=0)), np.expm1(y.mean(axis=0))
                    change = np.log2((mean[0] + 1e-9) / (mean[1] + 1e-9))
                    hits = np.zeros(len(p), dtype=bool)
                    tested = ~np.isnan(p)
                    hits[tested] = stats.false_discovery_control(p[tested]) < 0.05
                    parts.append((change, hits))
                for j, feature in enumerate(mdata["rna"].var_names):
                    (a, first), (b, second) = ((change[j], hit[j]) for change, hit in parts)
                    for fold in thresholds:
                        least = np.log2(fold)
                        both = first and second and abs(a) > least and abs(b) > least
                        if both and np.sign(a) == np.sign(b) == sign[j]:
                            key = (f"PC{k + 1}", group, feature, fold)
                            counts[key] = counts.get(key, 0) + 1
    return counts


@pytest.mark.filterwarnings("ignore:Precision loss", "ignore:The smallest group")
@pytest.mark.parametrize(("reference", "test"), [("others", "both"), ("rest", "welch")])
def test_counts_equal_a_loop(reference, test):
    mdata = simulated(n_cells=880, n_features=16, seed=5)
    thresholds = [1.2, 1.5, 2.0, 3.0]
    options = {"n_splits": 3, "train_size": 0.6, "reference": reference, "test": test}
    found = interpret_latent(
        mdata, "rna", fold_changes=thresholds, n_components=3, **options, **USE
    )
    expected = naive_counts(mdata, thresholds=thresholds, n_components=3, **options)
    index = ["component", "group", "feature", "fold_change"]
    assert len(expected) > 50
    counts = found.counts.astype({"component": str, "group": str}).set_index(index)
    assert counts["n_significant"].to_dict() == expected
    for row in found.features.head(8).itertuples():
        curve = [
            expected.get((row.component, row.group, row.feature, fold), 0) for fold in thresholds
        ]
        assert row.n_significant == curve[0]
        assert row.area == pytest.approx(np.trapezoid(curve, thresholds) / (1.8 * 3))


def test_dense_and_sparse_values_are_alike(mdata, found):
    dense = mosaic({"rna": mdata["rna"].copy()})
    dense["rna"].X = dense["rna"].X.toarray()
    before = dense["rna"].X.copy()
    again = interpret_latent(dense, "rna", n_splits=6, train_size=0.5, **USE)
    pd.testing.assert_frame_equal(again.features, found.features, rtol=1e-4)
    np.testing.assert_array_equal(dense["rna"].X, before)
    logs = mdata["rna"].X.copy()
    logs = sparse.csc_matrix(logs.multiply(1e4 / logs.sum(axis=1)).log1p())
    dense["rna"].layers["log1p"] = logs
    again = interpret_latent(dense, "rna", layer="log1p", n_splits=6, train_size=0.5, **USE)
    pd.testing.assert_frame_equal(again.features, found.features, rtol=1e-4)
    assert again.parameters["scale"] == "log1p"


def test_tables(mdata, found):
    features = found.features
    assert features["area"].between(0, 1).all()
    assert (features.groupby(["component", "group"], observed=True)["rank"].min() == 1).all()
    for _, part in features.groupby(["component", "group"], observed=True):
        assert part["rank"].tolist() == list(range(1, len(part) + 1))
        assert (np.diff(part["area"]) <= 0).all()
    smallest = found.counts[found.counts["fold_change"] == 1.2]
    assert smallest["n_significant"].tolist() == features["n_significant"].tolist()
    latent = mdata["rna"].obsm["X_apollo_shared"]
    shares = PCA().fit(latent).explained_variance_ratio_
    np.testing.assert_allclose(found.components["variance_ratio"], shares)
    assert (found.components["stability"] > 0.97).all()
    assert (found.components["least_stability"] <= found.components["stability"]).all()
    assert list(found.cells.index) == list(mdata["rna"].obs_names)
    for group in GROUPS:
        sizes = (found.cells == group).sum()
        assert found.components[f"n_{group}"].tolist() == sizes.tolist()
    assert found.bins["PC1"].value_counts().between(108, 110).all()
    assert found.central.mean().round(3).tolist() == [0.15] * 4
    low = found.cells["PC3"] == "low"
    assert found.central.loc[low, "PC3"].all()
    assert found.bins.loc[low, "PC3"].max() == 1
    assert found.parameters["fold_changes"][[0, 1, -1]].tolist() == [1.2, 1.4, 8.0]
    row = features.iloc[0]
    values = np.log1p(mdata["rna"].X.multiply(1e4 / mdata["rna"].X.sum(axis=1)).toarray())
    values = values[:, list(mdata["rna"].var_names).index(row["feature"])]
    groups = found.cells["PC1"]
    here, other = groups == row["group"], groups.notna() & (groups != row["group"])
    ratio = np.expm1(values[here].mean()) / np.expm1(values[other].mean())
    assert row["log2_fold_change"] == pytest.approx(np.log2(ratio), rel=1e-4)


def test_gene_sets(found):
    table = found.gene_sets
    assert set(table["gene_set"]) == {"up", "down"}
    best = table.iloc[0]
    assert (best["component"], best["gene_set"], best["n_significant"]) == ("PC1", "up", 10)
    assert (table["q"] >= table["p"]).all()
    one = table[(table["component"] == "PC2") & (table["group"] == "low")]
    one = one[one["gene_set"] == "down"].iloc[0]
    part = found.features.query("component == 'PC2' and group == 'low'")
    n_chosen = int((part["n_significant"] >= 3).sum())
    fisher = stats.fisher_exact([[2, n_chosen - 2], [0, 40 - n_chosen]], alternative="greater")
    assert one["p"] == pytest.approx(fisher.pvalue)
    assert one["share"] == pytest.approx(2 / n_chosen)
    areas = part.set_index("feature")["area"]
    assert one["mean_area"] == pytest.approx(areas[["gene10", "gene11"]].mean())


def test_background_of_gene_sets_are_features_that_vary(mdata):
    counts = mdata["rna"].X.toarray()
    counts[:, 20:35] = 0  # a third of the genes are never seen
    data = mosaic({"rna": mdata["rna"].copy()})
    data["rna"].X = sparse.csr_matrix(counts)
    sets = {"up": ["gene0", "gene1", "gene2", "gene17", "gene30", "gene31"]}
    found = interpret_latent(data, "rna", n_splits=4, train_size=0.5, gene_sets=sets, **USE)
    row = found.gene_sets.query("component == 'PC1' and group == 'high'").iloc[0]
    part = found.features.query("component == 'PC1' and group == 'high'")
    n_chosen = int((part["n_significant"] >= 2).sum())
    assert (row["n_genes"], row["n_significant"]) == (4, 3)
    fisher = stats.fisher_exact([[3, n_chosen - 3], [1, 24 - n_chosen]], alternative="greater")
    assert fisher.pvalue < 0.5
    assert row["p"] == pytest.approx(fisher.pvalue)


def test_best_features(found):
    best = found.top(1, 12)
    assert best["feature"].is_unique
    assert (np.diff(best["area"]) <= 0).all()
    assert found.top("PC1", 12).equals(best)
    text = repr(found)
    assert "rna:X_apollo_shared by 40 features of rna: 1,200 cells, 4 components" in text
    assert text.splitlines()[2].split()[3].startswith("-gene")
    for arguments in ((5,), ("PC0",), (1, 3, "middle")):
        with pytest.raises(KeyError):
            found.top(*arguments)


def test_spaces_of_other_cells_line_up():
    """Cells of both modalities overlap, in other orders; the latent space is that of proteins."""
    whole = simulated()["rna"]
    rng = np.random.default_rng(6)
    rows = {name: rng.permutation(1200)[:1000] for name in ("rna", "adt")}
    latent = whole.obsm["X_apollo_shared"]
    rna = AnnData(whole.X[rows["rna"]], obs=whole.obs.iloc[rows["rna"]], var=whole.var)
    adt = AnnData(np.ones((1000, 2)), obs=whole.obs.iloc[rows["adt"]])
    adt.obsm["X_apollo_specific"] = latent[rows["adt"]]
    mdata = mosaic({"adt": adt, "rna": rna})
    mdata.obsm["X_apollo"] = latent[whole.obs_names.get_indexer(mdata.obs_names)]
    place = whole.obs_names.get_indexer
    for key in ("adt:X_apollo_specific", "X_apollo"):
        found = interpret_latent(mdata, "rna", use_rep=key, n_splits=3, train_size=0.5)
        cells = found.cells.index
        assert set(found.top("PC1", 10, "high")["feature"]) == {f"gene{j}" for j in range(10)}
        both = [c for c in rna.obs_names if key == "X_apollo" or c in set(adt.obs_names)]
        assert list(cells) == both
        expected = PCA().fit_transform(latent[place(cells)])
        r = [np.corrcoef(found.scores.iloc[:, k], expected[:, k])[0, 1] for k in range(4)]
        np.testing.assert_allclose(np.abs(r), 1)


def test_dimensions_that_do_not_vary_are_no_components(mdata):
    more = mosaic({"rna": mdata["rna"].copy()})
    latent = more["rna"].obsm["X_apollo_shared"]
    more["rna"].obsm["X"] = np.hstack([latent[:, :2], latent[:, :2] @ [[1], [2]], 0 * latent + 3])
    found = interpret_latent(more, "rna", use_rep="X", n_splits=2, train_size=0.5)
    assert list(found.scores) == ["PC1", "PC2"]
    one = interpret_latent(more, "rna", use_rep="X", n_splits=2, n_components=1, train_size=0.5)
    assert list(one.scores) == ["PC1"]
    pd.testing.assert_series_equal(one.cells["PC1"], found.cells["PC1"])
    more["rna"].obsm["X"] = latent[:, [0]]
    alone = interpret_latent(more, "rna", use_rep="X", n_splits=2)
    assert alone.central["PC1"].all()


def test_negative_values_are_compared_by_differences(mdata):
    scaled = mosaic({"rna": mdata["rna"].copy()})
    values = np.log1p(scaled["rna"].X.toarray())
    scaled["rna"].X = values - values.mean(axis=0)
    found = interpret_latent(scaled, "rna", n_splits=3, train_size=0.5, **USE)
    assert found.parameters["scale"] == "log"
    assert set(found.top("PC1", 10, "high")["feature"]) == {f"gene{j}" for j in range(10)}
    with pytest.raises(ValueError, match="negative values, which have no fold change"):
        interpret_latent(scaled, "rna", scale="linear", **USE)


def test_seed_and_input(mdata, found):
    again = interpret_latent(mdata, "rna", n_splits=6, train_size=0.5, **USE)
    pd.testing.assert_frame_equal(again.features, found.features)
    other = interpret_latent(mdata, "rna", n_splits=6, train_size=0.5, seed=9, **USE)
    assert not other.counts.equals(found.counts)
    assert set(mdata["rna"].obsm) == {"X_apollo_shared"}
    assert not len(mdata.uns)


def test_splits_count_that_agree_with_all_cells():
    """Feature a rises in three splits and falls in two; b and c rise in one each."""
    feature = np.array([0, 0, 0, 0, 0, 1, 2])
    strength = np.array([1.5, 0.9, 2.5, -2.5, -2.5, 1.5, 1.5])
    findings = Findings(np.zeros(7, dtype=int), np.full(7, 2), feature, strength)
    changes = np.full((1, 3, 3), np.nan)
    names = np.array(["a", "b", "c"], dtype=object)
    for of_a, expected in ((0.4, {2.0: 2, 4.0: 1}), (-0.4, {2.0: 2, 4.0: 2}), (0.0, {})):
        changes[0, 2] = [of_a, 1.0, np.nan]
        features, counts = feature_tables(
            findings, names, changes, np.zeros(changes.shape), np.array([2.0, 4.0]), 5
        )
        found = counts[counts["feature"] == "a"].set_index("fold_change")["n_significant"]
        assert found.to_dict() == expected
        assert set(features["feature"]) == {"b"} | ({"a"} if expected else set())
        assert features.loc[features["feature"] == "b", "log2_fold_change"].tolist() == [1.0]


@pytest.mark.filterwarnings("ignore:The smallest group")
def test_ends_without_cells_have_no_features():
    """A cross whose axes lie between its arms, but along them in some of the splits."""
    rng = np.random.default_rng(2)
    arm = rng.integers(0, 8, 1200)  # the other half is in the middle
    latent = rng.normal(size=(1200, 2)) * 0.3
    ends = np.array([[4, 4], [-4, -4], [4, -4], [-4, 4]]) / np.sqrt(2)
    latent[arm < 4] += ends[arm[arm < 4]]
    latent *= [1.02, 1]
    values = np.exp(0.3 * latent[:, [0]]) * rng.gamma(9, 1 / 9, (1200, 10))
    mdata = mosaic({"rna": AnnData(values, obsm={"X_apollo_shared": latent})})
    found = interpret_latent(mdata, "rna", n_splits=8, train_size=0.5, **USE)
    assert (found.components[["n_low", "n_high"]] == 0).all(axis=None)
    assert (found.components["n_test"] > 1).any()  # splits have ends, and find features
    assert found.features.empty
    assert found.counts.empty


def test_more_bins_than_a_byte_holds():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2010, 2))
    data = mosaic({"rna": AnnData(values, obsm={"X_apollo_shared": values * [2, 1]})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the ends are small
        found = interpret_latent(
            data, "rna", n_bins=201, n_splits=2, train_size=0.5, central=1.0, **USE
        )
    assert found.bins["PC1"].value_counts().sort_index().index.tolist() == list(range(201))
    assert (found.cells["PC1"] == "low").sum() == pytest.approx(20, abs=2)
    low, high = (found.scores["PC1"][found.cells["PC1"] == end] for end in ("low", "high"))
    assert low.max() < found.scores["PC1"].quantile(0.02)
    assert high.min() > found.scores["PC1"].quantile(0.98)


@pytest.mark.parametrize(("n_groups", "n_splits", "expected"), [(12, 6, 6), (4, 36, 4), (2, 9, 2)])
def test_splits_by_group_keep_groups_whole(n_groups, n_splits, expected):
    codes = np.random.default_rng(0).integers(0, n_groups, 300)
    training = split_groups(codes, 0.8, n_splits, seed=3)
    assert training.shape == (expected, 300)
    n_train = {12: 10, 4: 3, 2: 1}[n_groups]
    whole = [{g for g in range(n_groups) if part[codes == g].all()} for part in training]
    for part, groups in zip(training, whole, strict=True):
        assert len(groups) == n_train
        assert not part[~np.isin(codes, list(groups))].any()
    assert len({frozenset(groups) for groups in whole}) == expected
    np.testing.assert_array_equal(training, split_groups(codes, 0.8, n_splits, seed=3))


def test_features_of_one_donor_count_without_groups_only():
    data = simulated(n_cells=2400, effect=0.0, seed=2)
    rna = data["rna"]
    donor = np.array([0, 1, 0, 2, 0, 3, 0, 4, 0, 5] * 240)  # half of the cells are of one
    counts, latent = rna.X.toarray(), rna.obsm["X_apollo_shared"]
    rng = np.random.default_rng(0)
    counts[:, 3] = rng.poisson(np.exp(1 + 0.4 * latent[:, 0]))
    counts[:, 7] = rng.poisson(np.exp(1 + np.where(donor == 0, 0.4, 0) * latent[:, 0]))
    rna.X = sparse.csr_matrix(counts)
    rna.obs["donor"] = [f"d{k}" for k in donor]
    options = {"train_size": 0.5, "n_splits": 10, "fold_changes": [1.1, 1.2], **USE}
    one_by_one = interpret_latent(data, "rna", **options)
    assert set(one_by_one.top("PC1", 2)["feature"]) == {"gene3", "gene7"}
    whole = interpret_latent(data, "rna", groups="donor", **options)
    assert whole.parameters["groups"] == "donor"
    by_feature = whole.top("PC1", 40).set_index("feature")["n_significant"]
    assert by_feature["gene3"] == 10
    assert by_feature.get("gene7", 0) == 0
    few = interpret_latent(data, "rna", groups="donor", **{**options, "n_splits": 36})
    assert few.parameters["n_splits"] == 20  # 6 choose 3
    assert few.top("PC1", 1)["n_significant"].item() == 20
    assert few.features["area"].max() <= 1


def test_few_cells_warn(mdata):
    few = mosaic({"rna": mdata["rna"][:300].copy()})
    with pytest.warns(UserWarning, match=r"has \d cells \(median\).*Lower train_size=0.8"):
        found = interpret_latent(few, "rna", n_splits=3, **USE)
    assert (found.components["n_test"] < 5).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        interpret_latent(few, "rna", n_splits=3, train_size=0.5, central=0.6, **USE)


def test_default_thresholds(found):
    thresholds = found.parameters["fold_changes"]
    assert len(thresholds) == 35
    np.testing.assert_allclose(thresholds, np.arange(1.2, 8.01, 0.2))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"modality": "atac"}, KeyError, "modality='atac' is no modality"),
        ({"use_rep": "X_clue"}, KeyError, "use_rep='X_clue' does not exist.*X_apollo_shared"),
        ({"layer": "log"}, KeyError, "layer='log': modality 'rna' has the layers"),
        ({"n_bins": 10}, ValueError, "n_bins=10 must be odd and at least 5"),
        ({"n_bins": 121}, ValueError, "has 1200 cells for 121 bins; at least 1210"),
        ({"n_components": 0}, ValueError, "n_components must be at least 1, got 0"),
        ({"n_central": 0}, ValueError, "n_central must be at least 1, got 0"),
        ({"central": 0}, ValueError, "central=0 must be above 0"),
        ({"train_size": 1.0}, ValueError, "train_size=1.0 must be between"),
        ({"alpha": 2}, ValueError, "alpha=2 must be above 0"),
        ({"min_share": -1}, ValueError, "min_share=-1"),
        ({"pseudocount": 0}, ValueError, "pseudocount=0 must be positive"),
        ({"reference": "all"}, ValueError, "reference='all' is unknown"),
        ({"test": "wilcoxon"}, ValueError, "test='wilcoxon' is unknown"),
        ({"scale": "log2"}, ValueError, "scale='log2' is unknown"),
        ({"scale": "linear"}, ValueError, "holds counts, which are normalised"),
        ({"fold_changes": [2, 1.5]}, ValueError, "must rise from 1"),
        ({"fold_changes": []}, ValueError, "fold_changes is no list of numbers"),
        ({"gene_sets": {"a": ["x"]}}, ValueError, "None of the 1 gene_sets.*'x'.*'gene0'"),
        ({"gene_sets": {"a": "gene1"}}, TypeError, r"gene_sets\['a'\] is text"),
        ({"gene_sets": ["gene1"]}, TypeError, "give a dict"),
        ({"use_rep": "constant"}, ValueError, "is the same in all cells"),
        ({"use_rep": "holes"}, ValueError, "holds NaN or infinity in 1 of 1200 rows"),
        ({"layer": "holes"}, ValueError, "in 1 of 40 features, e.g. 'gene3'"),
        ({"groups": "donor"}, KeyError, "groups='donor' is neither a column"),
        ({"groups": "gaps"}, ValueError, "2 of 1200 cells have no value in groups='gaps'"),
        ({"groups": "one"}, ValueError, "groups='one': all 1200 cells are of one group"),
        ({"groups": "tiny"}, ValueError, "has 4 of 1200 cells for 11 bins.*small groups of"),
        ({"train_size": 1e-6}, ValueError, "has 0 of 1200 cells for 11 bins"),
    ],
)
def test_bad_input_is_named(mdata, change, error, message):
    bad = mosaic({"rna": mdata["rna"].copy()})
    rna = bad["rna"]
    rna.obsm["constant"] = np.ones((1200, 3))
    rna.obsm["holes"] = rna.obsm["X_apollo_shared"].copy()
    rna.obsm["holes"][5, 1] = np.nan
    rna.layers["holes"] = rna.X.toarray()
    rna.layers["holes"][5, 3] = np.inf
    rna.obs["one"], rna.obs["gaps"] = "a", [None, None, *"abab" * 299, "a", "b"]
    rna.obs["tiny"] = np.where(np.arange(1200) < 4, "a", "b")
    with pytest.raises(error, match=message):
        interpret_latent(bad, **{"modality": "rna", **USE, **change})
