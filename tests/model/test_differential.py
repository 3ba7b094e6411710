"""Differential expression, scvi-tools' computation on what a model expects, and abundance."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from linked_mosaics import link
from model_cases import CASES, QUIET
from mosaics import counts_mosaic

from cantata import CLUE
from cantata.model._differential import abundance_contrasts, compared_groups, differences

FEW = {"n_samples": 200, "silent": True}


def test_probabilities_are_those_of_all_pairs_of_cells():
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=(60, 4)) + [0, 0.5, 1, 3] * (np.arange(60) < 25)[:, None])
    obs = pd.DataFrame(index=[f"c{i}" for i in range(60)])
    one = np.arange(60) < 25
    table = differences(
        obs,
        {"a": (one, ~one)},
        lambda cells, _: values[cells],
        np.array(list("wxyz")),
        None,
        n_samples=20_000,
        fdr_target=0.2,
        silent=True,
        mode="change",
        delta=0.25,
        pseudocounts=1e-5,
    ).loc[list("wxyz")]
    for j in range(4):
        changes = [
            np.log2(values[a, j] + 1e-5) - np.log2(values[b, j] + 1e-5)
            for a in range(25)
            for b in range(25, 60)
        ]
        up, down = np.mean(np.array(changes) >= 0.25), np.mean(np.array(changes) < -0.25)
        assert table["proba_de"].iloc[j] == pytest.approx(max(up, down), abs=0.02)
        assert table["lfc_mean"].iloc[j] == pytest.approx(np.mean(changes), abs=0.05)
    # the expected share of false ones among those that are called
    p = np.sort(table["proba_de"])[::-1]
    n_called = sum(np.mean(1 - p[: k + 1]) <= 0.2 for k in range(4))
    assert table["is_de_fdr_0.2"].sum() == n_called > 0


def test_batches_are_compared_each_with_itself():
    obs = pd.DataFrame(index=[f"c{i}" for i in range(40)])
    one = np.arange(40) < 20
    asked = []

    def sample(cells, batch):
        asked.append(batch)
        # a shift of the batch that is larger than what differs
        return (1.0 + one[cells])[:, None] * {"b0": 1.0, "b1": 1000.0}[batch]

    table = differences(
        obs,
        {"a": (one, ~one)},
        sample,
        np.array(["x"]),
        ["b0", "b1"],
        n_samples=100,
        fdr_target=0.05,
        silent=True,
        mode="change",
        delta=0.25,
        pseudocounts=1e-5,
    )
    assert set(asked) == {"b0", "b1"}
    assert table["proba_de"].iloc[0] == 1
    assert table["lfc_mean"].iloc[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_tables_are_those_of_scvi_tools(name):
    case = CASES[name]
    mdata = case.data()
    model = case.fit(mdata)
    group = np.where(np.arange(mdata.n_obs) % 3 == 0, "a", "b").astype(object)
    group[:3] = None
    mdata.obs["kind"] = group
    table = model.differential_expression("adt", "kind", **FEW)
    p = mdata["adt"].n_vars
    assert table["group1"].tolist() == ["a"] * p + ["b"] * p
    assert (table["group2"] == "Rest").all()
    assert sorted(table.index[:p]) == sorted(mdata["adt"].var_names)
    assert (table["proba_de"].iloc[:p].diff().dropna() <= 0).all()
    columns = {"proba_de", "bayes_factor", "lfc_mean", "scale1", "scale2", "is_de_fdr_0.05"}
    assert columns < set(table.columns)
    assert np.isfinite(table["lfc_mean"]).all()
    has = mdata.obs_names.isin(mdata["adt"].obs_names)
    for k, one in enumerate(("a", "b")):
        part = table[table["group1"] == one]
        assert part["measured1"].iloc[0] == pytest.approx(has[group == one].mean())
        other = "ba"[k]
        assert part["measured2"].iloc[0] == pytest.approx(has[group == other].mean())
    # what is compared are the model's values, at one total
    share = 1.0 if model._has_totals("adt") else None
    cells = np.flatnonzero(group == "a")
    values = model.impute("adt", indices=cells, library_size=share).X
    found = table[table["group1"] == "a"].loc[mdata["adt"].var_names, "scale1"]
    np.testing.assert_allclose(found, values.mean(axis=0), rtol=0.5, atol=0.02)
    repeated = model.differential_expression("adt", "kind", **FEW)
    pd.testing.assert_frame_equal(repeated, table)
    again = model.differential_expression("adt", "kind", "b", "a", mode="vanilla", **FEW)
    assert (again["group2"] == "a").all()
    assert (again["bayes_factor"].diff().dropna() <= 0).all()


@pytest.mark.parametrize("name", ["CLUE", "APOLLO", "own"])
def test_a_known_change_is_found_and_no_other(name):
    rng = np.random.default_rng(5)
    mdata = counts_mosaic({"rna": 30, "adt": 8}, n_cells=300, n_batches=1, seed=5)
    kind = np.where(rng.random(mdata.n_obs) < 0.5, "up", "as before")
    for m, columns in (("rna", slice(0, 5)), ("adt", slice(2, 3))):
        x = mdata[m].X.toarray()
        rows = kind[mdata.obs_names.get_indexer(mdata[m].obs_names)] == "up"
        x[np.ix_(rows, np.arange(x.shape[1])[columns])] = rng.poisson(
            40, size=(rows.sum(), len(range(*columns.indices(x.shape[1]))))
        )
        mdata[m].X = type(mdata[m].X)(x)
    mdata.obs["kind"] = kind
    case = CASES[name]
    epochs = {"max_epochs": 25} | ({"encoder_epochs": 25} if name == "APOLLO" else {})
    model = case.fit(mdata, setup={}, **epochs)
    table = model.differential_expression("adt", "kind", "up", **FEW | {"n_samples": 2000})
    assert table.loc["adt_2", "proba_de"] > 0.8
    assert table["lfc_mean"].idxmax() == "adt_2"
    assert table.loc["adt_2", "lfc_mean"] > 1
    # all others are shares of a total that has grown
    assert (table["lfc_mean"].drop("adt_2") < 0.5).all()


def test_values_that_nobody_measured_are_said_to_be_the_models():
    mdata = counts_mosaic(n_cells=100)
    mdata.obs["kind"] = np.where(mdata.obs_names.isin(mdata["adt"].obs_names), "has", "lacks")
    model = CASES["CLUE"].fit(mdata)
    with pytest.warns(UserWarning, match="measured in no cell of a group .* 'has' or"):
        table = model.differential_expression("adt", "kind", "has", **FEW)
    assert (table["measured2"] == 0).all()
    mdata.obs["kind"] = np.where(np.arange(mdata.n_obs) % 2, "a", "b")
    with pytest.warns(UserWarning, match="the model's alone"):
        model.differential_expression("adt", "kind", source="rna", **FEW)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*the model's alone")
        model.differential_expression("adt", "kind", **FEW)


def test_normal_values_below_zero_are_no_missing_fold_changes():
    mdata = counts_mosaic(n_cells=120)
    mdata["adt"].X = np.log1p(mdata["adt"].X.toarray())
    case = CASES["CLUE"]
    CLUE.setup_mudata(mdata, batch_key="batch")
    model = CLUE(mdata, likelihoods={"adt": "normal"}, **case.model)
    model.train(max_epochs=1, **QUIET)
    table = model.differential_expression("adt", "batch", **FEW)
    assert np.isfinite(table["lfc_mean"]).all()
    shifted = mdata["adt"].X - 1
    mdata["adt"].X = shifted
    CLUE.setup_mudata(mdata, batch_key="batch")
    model = CLUE(mdata, likelihoods={"adt": "normal"}, **case.model)
    model.train(max_epochs=1, **QUIET)
    table = model.differential_expression("adt", "batch", "b0", **FEW)
    assert np.isfinite(table["lfc_mean"]).all()
    difference = table["scale1"] - table["scale2"]
    np.testing.assert_allclose(table["lfc_mean"], difference, atol=0.3)


def test_groups_are_checked():
    column = pd.Series(["a"] * 5 + ["b"] * 4 + ["c"] * 2 + [None])
    found = compared_groups(column, ["a", "b"], None, "kind")
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["b"][0], column == "b")
    np.testing.assert_array_equal(found["b"][1], column.isin(["a", "c"]))
    assert list(compared_groups(column[:9], None, "b", "kind")) == ["a"]
    cases: tuple[tuple[tuple[str | None, str | None], type[Exception], str], ...] = (
        (("x", None), KeyError, "no group 'x'"),
        (("a", "x"), KeyError, "no group 'x'"),
        (("a", "a"), ValueError, "both 'a'"),
        (("c", None), ValueError, "'c' has 2 cells; 3 are needed"),
        (("a", "c"), ValueError, "'c' has 2 cells"),
        (([], None), ValueError, "two are needed"),
    )
    for (first, second), error, message in cases:
        with pytest.raises(error, match=message):
            compared_groups(column, first, second, "kind")
    with pytest.raises(ValueError, match="two are needed"):
        compared_groups(pd.Series(["a"] * 5), None, None, "kind")
    with pytest.warns(UserWarning, match=r"fewer than 3 cells are not compared: \['c'\]"):
        assert list(compared_groups(column, None, None, "kind")) == ["a", "b"]
    numbers = pd.Series(["0"] * 5 + ["1"] * 5)
    assert list(compared_groups(numbers, 1, 0, "leiden")) == ["1"]
    assert list(compared_groups(numbers, [0, 1], None, "leiden")) == ["0", "1"]


def test_bad_input_is_named():
    mdata = counts_mosaic(n_cells=60)
    mdata.obs["age"] = np.random.default_rng(0).normal(size=mdata.n_obs)
    model = CASES["CLUE"].fit(mdata)
    for arguments, error, message in (
        (("protein", "batch"), KeyError, "modality='protein'"),
        (("adt", "kind"), KeyError, "groupby='kind'"),
        (("adt", "age"), ValueError, "groups no cells"),
    ):
        with pytest.raises(error, match=message):
            model.differential_expression(*arguments, **FEW)
    with pytest.raises(KeyError, match="source='protein'"):
        model.differential_expression("adt", "batch", source="protein", **FEW)
    for options, message in (
        ({"mode": "x"}, "mode='x' is not"),
        ({"delta": -1}, r"delta=-1 is not a number in \[0, inf\)"),
        ({"delta": "a"}, "delta='a'"),
        ({"pseudocounts": -1e-5}, "pseudocounts=-1e-05"),
        ({"fdr_target": 2}, r"fdr_target=2 is not a number in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.differential_expression("adt", "batch", **FEW, **options)
    with pytest.warns(UserWarning, match="all inferred from source='rna'"):
        table = model.differential_expression("adt", "batch", source="rna", **FEW)
    assert not table[["measured1", "measured2"]].any(axis=None)


def sampled_mosaic():
    """Three types of cells in two samples of each condition; b has few of the first."""
    mdata = counts_mosaic({"rna": 30, "adt": 12}, n_cells=600, n_batches=1)
    group = pd.concat([mdata[m].obs["group"] for m in mdata.mod]).groupby(level=0).first()
    group = group.reindex(mdata.obs_names).to_numpy()
    rng = np.random.default_rng(0)
    for adata in mdata.mod.values():  # four linked features that tell the types
        x = adata.X.toarray()
        x[:, :3] = rng.poisson(1 + 19 * np.eye(3)[adata.obs["group"].astype(int)])
        adata.X = type(adata.X)(x)
    link(mdata, "rna", "adt")
    condition = np.where(rng.random(600) < np.where(group == "0", 0.15, 0.5), "b", "a")
    mdata.obs["condition"] = condition
    mdata.obs["sample"] = [
        f"{c}{i}" for c, i in zip(condition, rng.integers(2, size=600), strict=True)
    ]
    return mdata, group


def true_difference(group, condition):
    """Log ratio of the share of each cell's type in b to that in a."""
    shares = pd.crosstab(group, condition, normalize="columns")
    return np.log(shares["b"] / shares["a"])


@pytest.mark.parametrize("name", CASES)
def test_a_known_change_of_abundance_is_found_and_no_other(name):
    case = CASES[name]
    mdata, group = sampled_mosaic()
    few = {"max_steps": 100} if name == "SCMODAL" else {"max_epochs": 5}
    model = case.fit(mdata, setup={}, **few | ({"encoder_epochs": 5} if name == "APOLLO" else {}))
    table = model.differential_abundance(sample_key="sample", groupby="condition", n_neighbors=30)
    assert list(table.columns) == ["DA_a", "DA_b"]
    assert table.index.equals(mdata.obs_names)
    np.testing.assert_allclose(table["DA_a"], -table["DA_b"], atol=1e-10)
    truth = true_difference(group, mdata.obs["condition"])
    assert truth["0"] < -1
    assert truth.drop("0").min() > 0.2
    np.testing.assert_allclose(table["DA_b"].groupby(group).median(), truth, atol=0.35)
    # where samples are drawn alike, nothing is found
    mdata.obs["sample"] = np.random.default_rng(1).permutation(mdata.obs["sample"])
    mdata.obs["condition"] = mdata.obs["sample"].str[0]
    none = model.differential_abundance(sample_key="sample", groupby="condition", n_neighbors=30)
    truth = true_difference(group, mdata.obs["condition"])
    np.testing.assert_allclose(none["DA_b"].groupby(group).median(), truth, atol=0.35)
    assert none["DA_b"].groupby(group).median().abs().max() < 0.45


def test_abundance_of_samples_and_of_new_cells():
    mdata, _ = sampled_mosaic()
    model = CASES["CLUE"].fit(mdata, setup={})
    table = model.differential_abundance(sample_key="sample")
    assert list(table.columns) == ["a0", "a1", "b0", "b1"]
    # densities of the samples average to that of all cells
    sizes = mdata.obs["sample"].value_counts().reindex(table.columns) / mdata.n_obs
    np.testing.assert_allclose(np.exp(table) @ sizes, 1, atol=0.1)
    part = mdata[:300].copy()
    part.obs.loc[part.obs_names[:5], "sample"] = None
    found = model.differential_abundance(part, sample_key="sample", n_neighbors=10)
    assert found.index.equals(part.obs_names)
    assert np.isfinite(found.to_numpy()).all()


def test_contrasts_of_abundance_equal_a_loop():
    rng = np.random.default_rng(0)
    densities = pd.DataFrame(rng.normal(size=(5, 6)), columns=list("uvwxyz"))
    conditions = pd.Series(["a", "b", "b", None, "c", "a"], index=list("uvwxyz"))
    found = abundance_contrasts(densities, conditions)
    assert list(found.columns) == ["DA_a", "DA_b", "DA_c"]
    for name in "abc":
        for i in range(5):
            of = {True: [], False: []}
            for sample, condition in conditions.items():
                if pd.notna(condition):
                    of[condition == name].append(np.exp(densities.loc[i, sample]))
            expected = np.log(np.mean(of[True])) - np.log(np.mean(of[False]))
            assert found.loc[i, f"DA_{name}"] == pytest.approx(expected)


def test_samples_and_conditions_are_checked():
    mdata = counts_mosaic(n_cells=60)
    model = CASES["CLUE"].fit(mdata)
    mdata.obs["sample"] = ["s", "t"] * 30
    mdata.obs["one"] = "s"
    mdata.obs["small"] = ["u"] * 2 + ["v"] * 58
    mdata.obs["mixed"] = ["a"] * 30 + ["b"] * 30
    for arguments, error, message in (
        ({"sample_key": "x"}, KeyError, "sample_key='x'"),
        ({"sample_key": "one"}, ValueError, r"has the samples \['s'\]: name two"),
        ({"sample_key": "small"}, ValueError, "Sample 'u' has 2 cells; 3 are needed"),
        ({"sample_key": "sample", "groupby": "x"}, KeyError, "groupby='x'"),
        ({"sample_key": "sample", "groupby": "mixed"}, ValueError, "2 samples .* e.g. 's'"),
        ({"sample_key": "sample", "groupby": "one"}, ValueError, r"conditions \['s'\]: name two"),
        ({"sample_key": "sample", "n_neighbors": 0}, ValueError, "n_neighbors"),
    ):
        with pytest.raises(error, match=message):
            model.differential_abundance(**arguments)
