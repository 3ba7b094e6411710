"""estimate_dimensions: known answers for two and three modalities, and bad input."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse

from cantata.datasets import simulate_disentangled, simulate_mosaic
from cantata.pp import preprocess
from cantata.tl import estimate_dimensions

pytestmark = pytest.mark.filterwarnings("ignore:There may be more than")


def toy(shares, *, n_cells=600, width=25, noise=0.5, seed=0, names=("a", "b", "c")):
    """Modalities that read the factors named in `shares`, such as ``{"a": "AB12"}``."""
    rng = np.random.default_rng(seed)
    factors = {letter: rng.normal(size=n_cells) for letter in "ABCDEFGHIJ123456"}
    parts = {}
    for name in names:
        read = np.stack([factors[letter] for letter in shares[name]], axis=1)
        values = read @ rng.normal(size=(read.shape[1], width))
        values += noise * rng.normal(size=values.shape) * values.std(axis=0)
        parts[name] = AnnData(values.astype(np.float32))
        parts[name].obs_names = [f"cell{i}" for i in range(n_cells)]
        parts[name].var_names = [f"{name}{j}" for j in range(width)]
    return parts


@pytest.mark.parametrize("setting", range(1, 6))
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_dimensions_of_the_simulations(setting, noise):
    mdata = simulate_disentangled(setting, n_cells=1000, noise=noise, seed=1)
    found = estimate_dimensions(mdata)
    assert found.n_shared == 2
    assert found.n_specific == {"x": 2, "y": 1}


def test_tables_and_text():
    mdata = simulate_disentangled(1, n_cells=500, noise=0.1)
    found = estimate_dimensions(mdata, max_specific=7)
    table = found.correlations
    assert table.columns.tolist() == ["variate", "correlation", "null", "shared"]
    assert table["variate"].tolist() == list(range(1, len(table) + 1))
    assert table["shared"].tolist() == [True, True] + [False] * (len(table) - 2)
    assert table["correlation"].iloc[0] > 0.99
    assert table["correlation"].iloc[2:].max() < 0.2
    assert 0.03 < table["null"].iloc[0] < 0.15
    table = found.variances
    assert table.columns.tolist() == ["modality", "component", "variance", "null", "specific"]
    assert table["modality"].tolist() == ["x"] * 7 + ["y"] * 7
    assert table.groupby("modality")["specific"].sum().to_dict() == {"x": 2, "y": 1}
    assert (table["variance"] > table["null"]).equals(table["specific"])
    # half of the 40 features read Z3 or Z4, nearly all of whose variance is one component
    assert table["variance"].iloc[0] == pytest.approx(0.5, abs=0.05)
    assert (found.n_paired, found.alpha, found.min_correlation) == (500, 0.05, 0.1)
    lines = repr(found).splitlines()
    assert lines[0].startswith("shared    2: held-out correlations 1.00, 0.9")
    assert lines[0].endswith("of 500 cells")
    assert lines[1:] == [
        "specific  x 2, y 1",
        "APOLLO(mdata, n_shared=2, n_specific={'x': 2, 'y': 1})",
    ]


def test_three_modalities():
    mdata = mosaic(toy({"a": "AB12", "b": "AB3", "c": "AB456"}))
    found = estimate_dimensions(mdata)
    assert found.n_shared == 2
    assert found.n_specific == {"a": 2, "b": 1, "c": 3}
    assert found.correlations[["a", "b", "c"]].iloc[:2].to_numpy().min() > 0.8
    two = estimate_dimensions(mdata, modalities=["c", "a"])
    assert two.n_specific == {"c": 3, "a": 2}


def test_what_two_of_three_share_is_shared_and_stays_out_of_the_third():
    mdata = mosaic(toy({"a": "AB12", "b": "AB3", "c": "A45"}, n_cells=1500))
    found = estimate_dimensions(mdata)
    assert found.n_shared == 2
    assert found.n_specific == {"a": 2, "b": 1, "c": 2}
    second = found.correlations.iloc[1]
    assert second["c"] < 0.1 < 0.6 < second["a"]


def test_nothing_in_common():
    found = estimate_dimensions(mosaic(toy({"a": "12", "b": "345"}, names=("a", "b"))))
    assert found.n_shared == 0
    assert found.n_specific == {"a": 2, "b": 3}
    assert repr(found).splitlines()[0].startswith("shared    0; the next")
    assert "n_shared=1" in repr(found)


def test_nothing_of_its_own():
    found = estimate_dimensions(mosaic(toy({"a": "AB", "b": "AB1"}, names=("a", "b"))))
    assert found.n_shared == 2
    assert found.n_specific == {"a": 0, "b": 1}


def test_order_of_cells_and_cells_without_a_partner():
    parts = toy({"a": "AB12", "b": "AB3"}, names=("a", "b"), seed=1)
    whole = estimate_dimensions(mosaic({name: part.copy() for name, part in parts.items()}))
    rng = np.random.default_rng(0)
    shuffled = {name: part[rng.permutation(600)].copy() for name, part in parts.items()}
    found = estimate_dimensions(mosaic(shuffled))
    assert (
        (found.n_shared, found.n_specific)
        == (whole.n_shared, whole.n_specific)
        == (
            2,
            {"a": 2, "b": 1},
        )
    )
    partial = {"a": parts["a"][:400].copy(), "b": parts["b"][rng.permutation(400) + 200].copy()}
    found = estimate_dimensions(mosaic(partial))
    assert found.n_paired == 200
    assert (found.n_shared, found.n_specific) == (2, {"a": 2, "b": 1})


def test_rows_are_matched_by_name():
    parts = toy({"a": "AB12", "b": "AB3"}, names=("a", "b"))
    parts["b"].obs_names = np.random.default_rng(0).permutation(parts["b"].obs_names)
    assert estimate_dimensions(mosaic(parts)).n_shared == 0


def counts_mdata(n=400, seed=0):
    """Independent counts; cells differ in depth, which is all that their features share."""
    rng = np.random.default_rng(seed)
    parts = {}
    for name, width in (("rna", 700), ("adt", 30)):
        rate = rng.gamma(0.5, 1, width) + 0.05
        depth = rng.lognormal(np.log(2 * width), 0.5, n)
        counts = rng.poisson(np.outer(depth, rate / rate.sum()))
        counts[:, 0] += 1
        parts[name] = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
        parts[name].obs_names = [f"cell{i}" for i in range(n)]
        parts[name].var_names = [f"{name}{j}" for j in range(width)]
    return mosaic(parts)


def test_independent_counts_of_uneven_depth_have_next_to_no_dimensions():
    found = estimate_dimensions(counts_mdata(seed=1), max_specific=20)
    assert found.n_shared == 0
    assert found.n_specific["rna"] <= 3  # permutations of the features find more than ten
    assert found.n_specific["adt"] <= 2


@pytest.fixture(scope="module")
def simulated():
    return simulate_mosaic(
        500, n_features={"rna": 200, "adt": 40}, pairing="full", batch_effect=0.0, seed=2
    )


def test_counts_of_simulated_cells(simulated):
    found = estimate_dimensions(simulated)
    assert 5 <= found.n_shared <= 9  # 8
    assert 3 <= found.n_specific["adt"] <= 6  # 4
    assert 3 <= found.n_specific["rna"] <= 7  # 4 and depth


def test_counts_are_normalised_as_preprocess_does_and_its_components_are_used(simulated):
    mdata = simulated.copy()
    preprocess(mdata)
    normalised = {name: mdata[name].copy() for name in mdata.mod}
    for part in normalised.values():
        part.obsm.clear()
    few = {"n_permutations": 2, "max_specific": 5, "max_shared": 10}
    raw, again = (
        estimate_dimensions(simulated, **few),
        estimate_dimensions(mosaic(normalised), **few),
    )
    pd.testing.assert_frame_equal(raw.variances, again.variances, rtol=1e-3)
    ready = estimate_dimensions(mdata, **few)
    layered = estimate_dimensions(mdata, layers={"rna": "counts", "adt": "counts"}, **few)
    pd.testing.assert_frame_equal(layered.variances, ready.variances, rtol=1e-3)
    named = estimate_dimensions(
        mdata, use_reps={"rna": "X_cantata_pca", "adt": "X_cantata_pca"}, **few
    )
    pd.testing.assert_frame_equal(named.correlations, ready.correlations)
    for name in mdata.mod:
        mdata[name].obsm["X_two"] = mdata[name].obsm["X_cantata_pca"][:, :2]
    two = estimate_dimensions(mdata, use_reps={"rna": "X_two", "adt": "X_two"}, **few)
    assert len(two.correlations) == 2


@pytest.mark.parametrize("kind", ["csr", "csc", "frame", "float64"])
def test_formats_agree(simulated, kind):
    parts = {}
    for name in simulated.mod:
        part, counts = simulated[name].copy(), simulated[name].X
        part.X = {
            "csr": lambda c: c,
            "csc": sparse.csc_matrix,
            "frame": lambda c: c.toarray(),
            "float64": lambda c: c.toarray().astype(np.float64),
        }[kind](counts)
        parts[name] = part
    few = {"n_permutations": 2, "max_specific": 2, "max_cells": 300}
    found, expected = (estimate_dimensions(data, **few) for data in (mosaic(parts), simulated))
    assert found.n_paired == 300
    np.testing.assert_allclose(
        found.correlations["correlation"], expected.correlations["correlation"], atol=1e-3
    )


def test_wide_sparse_modalities_equal_narrow_ones(simulated, monkeypatch):
    few = {"max_cells": 200, "max_specific": 5, "max_shared": 20}
    narrow = estimate_dimensions(simulated, **few)
    for module in ("_input", "_parallel_analysis"):
        monkeypatch.setattr(f"cantata.tl._dimensions.{module}.MAX_GRAM_WIDTH", 100)
    wide = estimate_dimensions(simulated, **few)
    assert wide.n_shared == narrow.n_shared
    np.testing.assert_allclose(wide.variances["variance"], narrow.variances["variance"], rtol=1e-3)


def test_no_wide_matrix_becomes_dense(monkeypatch):
    mdata = counts_mdata(n=150)

    def refuse(*args, **kwargs):
        raise AssertionError("a sparse matrix was made dense")

    monkeypatch.setattr(sparse.csr_matrix, "toarray", refuse)
    monkeypatch.setattr(sparse.csr_matrix, "todense", refuse)
    mdata["rna"].var["highly_variable"] = True
    monkeypatch.setattr("cantata.tl._dimensions._parallel_analysis.MAX_GRAM_WIDTH", 5)
    estimate_dimensions(mdata, max_shared=5, max_specific=5, n_permutations=2)


def test_most_variable_features_and_flagged_genes():
    parts = toy({"a": "AB12", "b": "AB3"}, names=("a", "b"), width=25)
    loud = parts["a"].X[:, :10].std(axis=0).min()
    noise = np.random.default_rng(0).normal(size=(600, 30)).astype(np.float32) * loud / 100
    joined = AnnData(np.hstack([noise, parts["a"].X]))
    joined.obs_names, joined.var_names = parts["a"].obs_names, [f"f{j}" for j in range(55)]
    mdata = mosaic({"a": joined, "b": parts["b"]})
    few = estimate_dimensions(mdata, max_features=25)
    alone = estimate_dimensions(mosaic(parts))
    pd.testing.assert_frame_equal(few.variances, alone.variances)
    mdata["a"].var["highly_variable"] = np.arange(55) >= 30
    flagged = estimate_dimensions(mdata)
    pd.testing.assert_frame_equal(flagged.variances, alone.variances)


def test_seed_and_input(simulated):
    before = {name: simulated[name].copy() for name in simulated.mod}
    few = {"max_cells": 200, "max_specific": 3, "n_permutations": 2}
    first, again = (estimate_dimensions(simulated, seed=4, **few) for _ in range(2))
    pd.testing.assert_frame_equal(first.correlations, again.correlations)
    pd.testing.assert_frame_equal(first.variances, again.variances)
    other = estimate_dimensions(simulated, seed=5, **few)
    assert not first.correlations.equals(other.correlations)
    for name, part in before.items():
        assert (part.X != simulated[name].X).nnz == 0
        assert list(part.obsm) == list(simulated[name].obsm)
        assert list(part.layers) == list(simulated[name].layers)


def test_limits_that_are_reached_are_told():
    mdata = mosaic(toy({"a": "AB123", "b": "AB4"}, names=("a", "b")))
    with pytest.warns(UserWarning, match="more than 2 dimensions of a: max_specific allows"):
        found = estimate_dimensions(mdata, max_specific=2)
    assert found.n_specific == {"a": 2, "b": 1}
    with pytest.warns(UserWarning, match="more than 1 shared dimensions: max_shared allows"):
        assert estimate_dimensions(mdata, max_shared=1).n_shared == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert estimate_dimensions(mdata, min_correlation=0.995).n_shared == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"modalities": ["a"]}, ValueError, r"modalities=\['a'\]: give at least two"),
        ({"modalities": ["a", "a"]}, ValueError, "give at least two, each once"),
        ({"modalities": "ab"}, TypeError, "modalities='ab': give a list"),
        ({"modalities": ["a", "z"]}, KeyError, "'z'"),
        ({"modalities": {"a": "dna", "b": "rna"}}, ValueError, "'dna'.*the kinds are"),
        ({"layers": {"z": None}}, KeyError, "layers names modalities that are not used"),
        ({"layers": {"a": "z"}}, KeyError, "modality 'a' has the layers"),
        ({"use_reps": {"z": "X"}}, KeyError, "use_reps names modalities"),
        ({"use_reps": {"a": "X_z"}}, KeyError, r"mdata\['a'\].obsm\['X_z'\] does not exist"),
        ({"n_permutations": 1}, ValueError, "n_permutations=1: give at least 2"),
        ({"max_shared": 0}, ValueError, "max_shared=0"),
        ({"max_specific": 1.0}, TypeError, "max_specific must be an integer"),
        ({"max_cells": 10}, ValueError, "max_cells=10: give at least 50"),
        ({"max_features": 1}, ValueError, "max_features=1"),
        ({"alpha": 1}, ValueError, "alpha=1"),
        ({"min_correlation": 1.0}, ValueError, "min_correlation=1.0"),
        ({"seed": -1}, ValueError, "seed=-1"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    mdata = mosaic(toy({"a": "A1", "b": "A2"}, names=("a", "b"), n_cells=60))
    with pytest.raises(error, match=message):
        estimate_dimensions(mdata, **options)


def test_bad_data_are_named():
    parts = toy({"a": "A1", "b": "A2"}, names=("a", "b"), n_cells=100)
    few = {"a": parts["a"][:60].copy(), "b": parts["b"][55:].copy()}
    with pytest.raises(ValueError, match=r"Only 5 cells have all of \['a', 'b'\]"):
        estimate_dimensions(mosaic(few))
    broken = {name: part.copy() for name, part in parts.items()}
    broken["a"].X[3, 4] = np.nan
    with pytest.raises(ValueError, match="Modality 'a' has 1 NaN or infinite values"):
        estimate_dimensions(mosaic(broken))
    constant = {name: part.copy() for name, part in parts.items()}
    constant["b"].X[:, 1:] = 0.5
    with pytest.raises(ValueError, match="Modality 'b': 1 of 25 features vary over 100 cells"):
        estimate_dimensions(mosaic(constant))
    with pytest.raises(TypeError, match="Expected a MuData"):
        estimate_dimensions(ad.AnnData(np.ones((3, 3))))
    counts = {name: part.copy() for name, part in parts.items()}
    counts["a"] = AnnData(np.ones((100, 400), dtype=np.float32), obs=parts["a"].obs)
    with pytest.raises(ValueError, match="Modality 'a' holds counts, but nothing tells of what"):
        estimate_dimensions(mosaic(counts))
    counts["a"].X[7] = 0
    with pytest.raises(ValueError, match=r"Modality 'a' has 1 cells without counts.*drop_empty"):
        estimate_dimensions(mosaic(counts), modalities={"a": "rna", "b": "protein"})
