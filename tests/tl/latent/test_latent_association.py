from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import stats
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from cantata.tl import latent_association

SHARED, SPECIFIC = "X_apollo_shared", "X_apollo_specific"


@pytest.fixture(scope="module")
def mdata():
    """RNA of cells 0 to 199 and proteins of 80 to 299, shuffled, with annotations in parts."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(300, 4)) * [4, 3, 2, 1]
    kind = np.where(latent[:, 0] > 2, "T", np.where(latent[:, 0] < -2, "B", "NK")).astype(object)
    kind[::17] = None
    parts = {}
    for name, cells in (("rna", np.arange(200)), ("adt", np.arange(80, 300))):
        rows = rng.permutation(cells)
        obs = pd.DataFrame(
            {
                "kind": kind[rows],
                "total": latent[rows, 1] ** 3 + (name == "adt"),
                "batch": rows % 3,
                "empty": np.nan,
                "noise": rng.normal(size=len(rows)) if name == "rna" else np.nan,
            },
            index=[f"cell{i}" for i in rows],
        )
        obsm = {SHARED: latent[rows], SPECIFIC: rng.normal(size=(len(rows), 3))}
        parts[name] = AnnData(np.ones((len(rows), 2)), obs=obs, obsm=obsm)
        parts[name].var_names = [f"{name}{j}" for j in range(2)]
        parts[name].obs["flag"] = pd.Categorical(rows % 2)
    mdata = mosaic(parts)
    order = [int(name[4:]) for name in mdata.obs_names]
    mdata.obsm["X_apollo"] = latent[order] + 1
    mdata.obs["score"] = np.where(np.arange(300) % 11 == 0, np.inf, latent[order, 2])
    return mdata


def rows_of(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table.set_index("axis")


def test_axes_equal_scipy(mdata):
    table = latent_association(
        mdata,
        ["kind", "rna:total"],
        use_rep=SHARED,
        modality="rna",
        axes="dimensions",
        categorical=["kind"],
    )
    obs, latent = mdata["rna"].obs, mdata["rna"].obsm[SHARED]
    assert set(table["space"]) == {f"rna:{SHARED}"}
    numbers, levels = (rows_of(table, column=c) for c in ("rna:total", "kind"))
    known = obs["kind"].notna().to_numpy()
    for k in range(4):
        expected = stats.spearmanr(latent[:, k], obs["total"])
        row = numbers.loc[str(k + 1)]
        assert row["effect"] == pytest.approx(expected.statistic)
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-6)
        groups = [latent[known & (obs["kind"] == level), k] for level in ("B", "NK", "T")]
        expected, row = stats.kruskal(*groups), levels.loc[str(k + 1)]
        assert row["statistic"] == pytest.approx(expected.statistic)
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-6)
        ranks = stats.rankdata(latent[known, k])
        kinds = obs["kind"][known].to_numpy()
        between = pd.Series(ranks).groupby(kinds).transform("mean").var(ddof=0)
        assert row["effect"] == pytest.approx(between / ranks.var())
    assert set(levels["n"]) == {int(known.sum())}
    assert set(numbers["n"]) == {200}


def test_whole_spaces_equal_other_libraries(mdata):
    table = latent_association(
        mdata, ["score", "kind"], use_rep=["X_apollo"], axes="dimensions"
    ).set_index(["column", "axis"])
    latent = mdata.obsm["X_apollo"]
    known = np.isfinite(mdata.obs["score"]).to_numpy()
    x, y = latent[known], mdata.obs["score"][known] + 0.0
    r2 = LinearRegression().fit(x, y).score(x, y)
    n, row = len(y), table.loc[("score", "all")]
    assert row["n"] == n < 300
    assert row["effect"] == pytest.approx(1 - (1 - r2) * (n - 1) / (n - 5))
    kind = pd.Series(index=mdata.obs_names, dtype=object)
    for name in ("rna", "adt"):
        kind[mdata[name].obs_names] = mdata[name].obs["kind"].to_numpy()
    has = kind.notna().to_numpy()
    design = pd.get_dummies(kind[has]).to_numpy(dtype=float)[:, 1:]
    x = latent[has]
    scores = CCA(2, max_iter=5000, tol=1e-12).fit(x, design).transform(x, design)
    trace = sum(
        np.corrcoef(a, b)[0, 1] ** 2 for a, b in zip(scores[0].T, scores[1].T, strict=True)
    )
    row, n = table.loc[("kind", "all")], has.sum()
    assert row["test"] == "manova"
    assert row["effect"] == pytest.approx(1 - (1 - trace / 2) * (n - 1) / (n - 5), rel=1e-4)
    f = (2 * (n - 3 - 4 - 1) / 2 + 3) / (2 * (4 - 2 - 1) / 2 + 3) * trace / (2 - trace)
    assert row["statistic"] == pytest.approx(f, rel=1e-3)
    assert row["p"] == pytest.approx(stats.f.sf(f, 8, 2 * (n - 3 - 4 - 1) + 6), rel=0.05)


def test_one_number_is_a_regression(mdata):
    """With one dimension the test of the whole space is that of one axis."""
    part = mosaic({"rna": mdata["rna"].copy()})
    part["rna"].obsm["X"] = part["rna"].obsm[SPECIFIC][:, :1]
    table = latent_association(part, ["flag", "total"], use_rep="X").set_index(["column", "axis"])
    x, obs = part["rna"].obsm["X"].ravel(), part["rna"].obs
    expected = stats.f_oneway(*(x[obs["flag"] == level] for level in (0, 1)))
    assert table.loc[("flag", "all"), "statistic"] == pytest.approx(expected.statistic)
    assert table.loc[("flag", "all"), "p"] == pytest.approx(expected.pvalue)
    expected = stats.linregress(x, obs["total"])
    assert table.loc[("total", "all"), "p"] == pytest.approx(expected.pvalue)


def test_spaces_of_all_modalities(mdata):
    table = latent_association(
        mdata, ["kind", "score"], use_rep=["X_apollo", SHARED, f"adt:{SPECIFIC}"], n_components=3
    )
    spaces = ["X_apollo", f"rna:{SHARED}", f"adt:{SHARED}", f"adt:{SPECIFIC}"]
    assert list(dict.fromkeys(table["space"])) == spaces
    for space in spaces:
        assert list(rows_of(table, space=space, column="kind").index) == [
            "PC1",
            "PC2",
            "PC3",
            "all",
        ]
    n = table[table["column"] == "score"].groupby("space")["n"].first()
    assert n["X_apollo"] > n[f"adt:{SHARED}"] > n[f"rna:{SHARED}"]
    for space in spaces[:3]:
        assert rows_of(table, space=space, column="kind").loc["PC1", "effect"] > 0.7
        assert abs(rows_of(table, space=space, column="score").loc["PC3", "effect"]) > 0.95
    assert rows_of(table, space=spaces[3], column="kind")["effect"].max() < 0.05
    known = table["p"].notna()
    np.testing.assert_allclose(table["q"][known], stats.false_discovery_control(table["p"][known]))
    latent = mdata["adt"].obsm[SHARED]
    scores = PCA().fit_transform(latent)[:, 2]
    score = mdata.obs["score"][mdata["adt"].obs_names].to_numpy()
    finite = np.isfinite(score)
    r = stats.spearmanr(scores[finite], score[finite]).statistic
    found = rows_of(table, space=f"adt:{SHARED}", column="score").loc["PC3", "effect"]
    assert abs(found) == pytest.approx(abs(r))


@pytest.mark.parametrize(
    "method",
    ["kmeans", pytest.param("leiden", marks=pytest.mark.slow)],  # umap compiles for long
)
def test_clusters(mdata, method):
    part = mosaic({"rna": mdata["rna"].copy()})
    obs = part["rna"].obs
    latent = np.random.default_rng(0).normal(size=(200, 3))
    latent[:100] += 12
    part["rna"].obsm["X"] = latent
    obs["half"] = np.repeat(["a", "b"], 100)
    obs["height"] = np.repeat([1.0, 2.0], 100) + obs["noise"] / 10
    obs["half_or_none"] = np.where(np.arange(200) % 5 == 0, None, obs["half"])
    table = latent_association(
        part,
        ["half", "height", "kind"],
        use_rep="X",
        clusters=method,
        resolution=0.01,
        cluster_keys="half_or_none",
    )
    found = table[table["axis"] == "clusters"].set_index(["space", "column"])
    own, given = found.loc["rna:X"], found.loc["half_or_none"]
    assert own.loc["half", "effect"] == pytest.approx(1)
    assert own["n"].tolist() == [200, 200, obs["kind"].notna().sum()]
    known = obs["half_or_none"].notna()
    assert given["n"].tolist()[:2] == [160, 160]
    for values, row in ((obs, own.loc["height"]), (obs[known], given.loc["height"])):
        expected = stats.kruskal(
            *(values["height"][values["half"] == level] for level in ("a", "b"))
        )
        assert row["test"] == "kruskal"
        assert row["statistic"] == pytest.approx(expected.statistic)
        assert row["p"] == pytest.approx(expected.pvalue)
    both = known & obs["kind"].notna()
    counts = pd.crosstab(obs["half"][both], obs["kind"][both])
    expected = stats.chi2_contingency(counts, correction=False)
    assert given.loc["kind", "p"] == pytest.approx(expected.pvalue)
    v = stats.contingency.association(counts.to_numpy(), method="cramer")
    assert given.loc["kind", "effect"] == pytest.approx(v)


def donors_of(seed: int, n_donors: int = 10, n_cells: int = 60):
    """Donors that differ in every dimension, of two diagnoses that differ in nothing."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(n_donors), n_cells)
    latent = rng.normal(size=(len(donor), 3)) + rng.normal(size=(n_donors, 3))[donor]
    obs = pd.DataFrame({"donor": [f"d{k}" for k in donor]})
    obs["diagnosis"] = np.where(rng.permutation(n_donors) < n_donors // 2, "ill", "well")[donor]
    obs["age"] = rng.uniform(20, 80, n_donors)[donor]
    obs["half"] = np.where(latent[:, 0] > 0, "a", "b")
    obs["height"] = rng.normal(size=len(donor)) + rng.normal(size=n_donors)[donor]
    obs.index = [f"c{k}" for k in range(len(donor))]
    return mosaic({"rna": AnnData(np.ones((len(donor), 1)), obs=obs, obsm={"X": latent})})


def test_donors_that_differ_are_no_association():
    shares = {None: [], "donor": []}
    for seed in range(25):
        data = donors_of(seed)
        for groups, found in shares.items():
            table = latent_association(
                data,
                ["diagnosis", "age", "height"],
                use_rep="X",
                groups=groups,
                cluster_keys="half",
            )
            found.append((table["p"] < 0.05).to_numpy())
    assert np.mean(shares[None]) > 0.5
    assert np.mean(shares["donor"]) < 0.08


def test_tests_of_donors_equal_scipy_on_their_means():
    data = donors_of(0)
    obs, latent = data["rna"].obs, data["rna"].obsm["X"]
    obs.loc[obs.index[:7], "diagnosis"] = None
    keys = ["diagnosis", "age", "height", "half"]
    options = {"use_rep": "X", "axes": "dimensions", "cluster_keys": "half"}
    table = latent_association(data, keys, groups="donor", **options)
    frame = obs.assign(x=latent[:, 1])
    # 1. levels: one value per donor and level
    of_donors = frame.groupby(["donor", "half"], observed=True)["x"].mean()
    expected = stats.kruskal(*(part for _, part in of_donors.groupby("half")))
    row = rows_of(table, space="rna:X", column="half").loc["2"]
    assert row["n"] == len(of_donors) == 17
    assert row["p"] == pytest.approx(expected.pvalue)
    known = frame[frame["diagnosis"].notna()]
    of_donors = known.groupby(["donor", "diagnosis"])["x"].mean()
    expected = stats.kruskal(*(part for _, part in of_donors.groupby("diagnosis")))
    row = rows_of(table, space="rna:X", column="diagnosis").loc["2"]
    assert (row["n"], row["p"]) == (10, pytest.approx(expected.pvalue))
    # 2. numbers: one value per donor
    means = frame.groupby("donor")[["x", "height"]].mean()
    row = rows_of(table, space="rna:X", column="height").loc["2"]
    assert row["p"] == pytest.approx(stats.spearmanr(means["x"], means["height"]).pvalue)
    # 3. clusters
    of_donors = frame.groupby(["donor", "half"], observed=True)["height"].mean()
    expected = stats.kruskal(*(part for _, part in of_donors.groupby("half")))
    row = rows_of(table, space="half", column="height").loc["clusters"]
    assert row["p"] == pytest.approx(expected.pvalue)
    share = known.groupby(["donor", "diagnosis"])["half"].agg(lambda half: (half == "a").mean())
    expected = stats.f_oneway(*(part for _, part in share.groupby("diagnosis")))
    row = rows_of(table, space="half", column="diagnosis").loc["clusters"]
    assert row["test"] == "manova"
    assert row["p"] == pytest.approx(expected.pvalue)


def test_the_test_of_the_paper(mdata):
    part = mosaic({"rna": mdata["rna"].copy()})
    obs, rng = part["rna"].obs, np.random.default_rng(0)
    part["rna"].obsm["X"] = rng.normal(size=(200, 3))
    part["rna"].obsm["X"][:100] += 12
    obs["share"] = np.repeat([0.3, 0.32], 100) + 0.02 * rng.normal(size=200)
    obs["other"] = rng.normal(size=200)
    options = {"use_rep": "X", "clusters": "kmeans"}
    table = latent_association(
        part, ["share", "other"], cluster_test="t-test", correction="bonferroni", **options
    )
    row = table[(table["axis"] == "clusters") & (table["column"] == "share")].iloc[0]
    expected = stats.ttest_ind(obs["share"][:100], obs["share"][100:])
    assert row["test"] == "t-test"
    assert row["statistic"] == pytest.approx(abs(expected.statistic))
    assert row["p"] == pytest.approx(expected.pvalue)
    means = obs["share"][:100].mean(), obs["share"][100:].mean()
    assert row["difference"] == pytest.approx(abs(means[0] - means[1]))
    labels = np.repeat([0.0, 1.0], 100)
    assert row["effect"] == pytest.approx(np.corrcoef(labels, obs["share"])[0, 1] ** 2)
    assert row["q"] == pytest.approx(row["p"] * len(table))
    np.testing.assert_allclose(table["q"], np.minimum(table["p"] * len(table), 1))
    assert table["difference"].notna().sum() == 2
    assert "difference" not in latent_association(part, "share", **options)


@pytest.mark.parametrize("cluster_test", ["kruskal", "t-test"])
def test_what_depends_on_the_seed_is_no_finding(cluster_test):
    """On a ring two clusters may lie anywhere: the least of all seeds counts."""
    angle = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    ring = AnnData(np.ones((300, 1)), obsm={"X": np.stack([np.cos(angle), np.sin(angle)], axis=1)})
    ring.obs["height"] = np.cos(angle)
    data = mosaic({"rna": ring})
    options = {"use_rep": "X", "clusters": "kmeans", "cluster_test": cluster_test}

    def of(**more):
        table = latent_association(data, "height", **options, **more)
        return table[table["axis"] == "clusters"].iloc[0]

    single = [of(n_seeds=1, seed=seed) for seed in range(4, 9)]
    p = [row["p"] for row in single]
    assert min(p) < 1e-10 < max(p)
    every = of(seed=4)
    assert every["p"] == max(p)
    assert every["effect"] == single[int(np.argmax(p))]["effect"]
    if cluster_test == "t-test":
        assert every["difference"] == min(row["difference"] for row in single)


def test_numbers_that_mean_levels(mdata):
    options = {"use_rep": SPECIFIC, "modality": "rna"}
    assert set(latent_association(mdata, "batch", **options)["test"]) == {"spearman", "regression"}
    for key, more in (("batch", {"categorical": ["batch"]}), ("flag", {})):
        table = latent_association(mdata, key, **options, **more)
        assert set(table["test"]) == {"kruskal", "manova"}


def test_chance_is_zero_for_whole_spaces(mdata):
    rng = np.random.default_rng(0)
    part = mosaic({"rna": mdata["rna"].copy()})
    part["rna"].obsm["X"] = rng.normal(size=(200, 60))
    keys = [f"n{k}" for k in range(20)]
    for key in keys:
        part["rna"].obs[key] = rng.normal(size=200)
    table = latent_association(part, keys, use_rep="X")
    whole = table[table["axis"] == "all"]
    assert abs(whole["effect"].mean()) < 0.05
    assert (table["q"] > 0.05).all()
    assert 0.3 < whole["p"].mean() < 0.7


def test_effects_are_adjusted_for_levels_where_these_are_more(mdata):
    part = mosaic({"rna": mdata["rna"].copy()})
    rng = np.random.default_rng(0)
    x, level = rng.normal(size=200), rng.integers(0, 8, 200)
    part["rna"].obsm["X"], part["rna"].obs["level"] = x[:, None], level.astype(str)
    table = latent_association(part, "level", use_rep="X").set_index("axis")
    design = np.column_stack([np.ones(200), pd.get_dummies(level).to_numpy(float)[:, 1:]])
    left = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    expected = 1 - (left @ left / 192) / (x.var(ddof=1))  # adjusted R squared
    assert table.loc["all", "effect"] == pytest.approx(expected)


def test_columns_that_say_nothing(mdata):
    table = latent_association(mdata, ["empty", "noise"], use_rep=SHARED, clusters="kmeans")
    assert table[table["column"] == "empty"][["effect", "p", "q"]].isna().all().all()
    assert (table[table["column"] == "empty"]["n"] == 0).all()
    adt = rows_of(table, space=f"adt:{SHARED}", column="noise")
    assert (adt["n"] == 120).all()  # cells that RNA has a value for
    assert adt["p"].notna().all()


@pytest.mark.parametrize("value", [2.5, "one"])
def test_a_column_of_one_value_is_not_tested(mdata, value):
    data = mdata.copy()
    data.obs["same"] = np.where(np.arange(300) % 4 == 0, None, value)
    data.obs["same"] = data.obs["same"].astype(type(value) if value == 2.5 else object)
    table = latent_association(data, "same", use_rep="X_apollo")
    assert (table["n"] == 225).all()
    assert table[["statistic", "effect", "p"]].isna().all().all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"keys": "type"}, KeyError, "keys='type' is neither a column"),
        ({"keys": "rna:type"}, KeyError, "keys='rna:type': modality 'rna' has the columns"),
        ({"keys": []}, ValueError, "keys is empty"),
        ({"keys": "total"}, ValueError, "keys='total' contradicts itself"),
        ({"keys": "name"}, ValueError, "another value in each of 300 cells"),
        ({"use_rep": "X_clue"}, KeyError, "use_rep='X_clue' does not exist"),
        ({"use_rep": "X_apollo", "modality": "rna"}, KeyError, "use_rep='X_apollo'"),
        ({"use_rep": []}, ValueError, "use_rep is empty"),
        ({"modality": "atac"}, KeyError, "modality='atac' is no modality"),
        ({"axes": "pcs"}, ValueError, "axes='pcs' is unknown"),
        ({"clusters": "kind"}, ValueError, "clusters='kind' is unknown.*cluster_keys="),
        ({"cluster_keys": ["type"]}, KeyError, "cluster_keys='type'"),
        ({"n_components": 0}, ValueError, "n_components must be at least 1, got 0"),
        ({"n_clusters": 1}, ValueError, "n_clusters must be at least 2, got 1"),
        ({"resolution": 0}, ValueError, "resolution=0"),
        ({"categorical": 1}, TypeError, "categorical=1: give a list of names"),
        ({"categorical": ["batch"]}, KeyError, "'batch' is none of keys"),
        ({"n_seeds": 0}, ValueError, "n_seeds must be at least 1, got 0"),
        ({"cluster_test": "wilcoxon"}, ValueError, "cluster_test='wilcoxon' is unknown"),
        ({"correction": "fdr"}, ValueError, "correction='fdr' is unknown"),
        ({"groups": "donor"}, KeyError, "groups='donor' is neither a column"),
        ({"groups": "kind"}, ValueError, r"\d+ of 200 cells have no value in groups='kind'"),
        (
            {"keys": "noise", "cluster_test": "t-test", "cluster_keys": "batch"},
            ValueError,
            "cluster_test='t-test' compares two clusters, but 'noise' is known in 3",
        ),
    ],
)
def test_bad_input_is_named(mdata, change, error, message):
    mdata.obs["name"] = mdata.obs_names
    with pytest.raises(error, match=message):
        latent_association(mdata, **{"keys": "kind", "use_rep": SHARED, **change})


def test_spaces_that_do_not_vary(mdata):
    part = mosaic({"rna": mdata["rna"].copy()})
    part["rna"].obsm["X"] = np.ones((200, 3))
    with pytest.raises(ValueError, match="is the same in all cells: it has no axes"):
        latent_association(part, "kind", use_rep="X")
