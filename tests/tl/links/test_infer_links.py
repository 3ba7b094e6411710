from __future__ import annotations

import logging

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse, stats

from cantata.tl import feature_network, infer_links

GENES = ["CD4", "Sox2", "Reln", "Actb"]
PEAKS = ["chr1:900-1100", "CD4", "chr1:5000-5500", "chr2:10-90", "chr1:9000-9100"]


# mudata on the feature name that both modalities have
pytestmark = pytest.mark.filterwarnings("ignore:.*var_names are (not unique|intersecting)")


@pytest.fixture
def mdata() -> mudata.MuData:
    """RNA and ATAC with other cells in other orders; a feature name that both have."""
    rng = np.random.default_rng(0)
    cells = pd.Index([f"cell{i}" for i in range(90)])
    kind = rng.integers(0, 3, 90)
    state = rng.normal(size=90) + kind
    rows = {"rna": rng.permutation(90)[:60], "atac": rng.permutation(90)[:70]}
    rna = rng.poisson(np.exp(0.3 * state[rows["rna"], None] * [1, 1, -1, 0])).astype(np.float32)
    atac = rng.poisson(np.exp(0.4 * state[rows["atac"], None] * [1, 0, 1, -1, 1] - 1.5))
    mods = {"rna": AnnData(sparse.csr_matrix(rna)), "atac": AnnData(sparse.csr_matrix(atac * 1.0))}
    for (name, adata), features in zip(mods.items(), (GENES, PEAKS), strict=True):
        adata.obs_names, adata.var_names = cells[rows[name]], features
        adata.obs["cell_type"] = np.array(["B", "NK", "T"])[kind[rows[name]]]
    result = mosaic(mods)
    result.obsm["scmodal_imputed_rna"] = (
        rng.normal(size=(result.n_obs, 3)) + state[cells.get_indexer(result.obs_names), None]
    ).astype(np.float32)
    result.obsm["scmodal_imputed_atac"] = rng.normal(size=(result.n_obs, 5)).astype(np.float32)
    names = {"rna": np.array(["Reln", "CD4", "Sox2"]), "atac": np.array(PEAKS)}
    result.uns["cantata"] = {"scmodal": {"version": "0", "imputed_features": names}}
    return result


def imputed_of(mdata, name: str, cells: str, seed: int = 1) -> AnnData:
    """What ``model.impute(name, source=cells)`` returns, in another order of the cells."""
    order = np.random.default_rng(seed).permutation(mdata[cells].n_obs)
    names = list(mdata.uns["cantata"]["scmodal"]["imputed_features"][name])
    rows = mdata.obs_names.get_indexer(mdata[cells].obs_names[order])
    adata = AnnData(mdata.obsm[f"scmodal_imputed_{name}"][rows])
    adata.obs_names, adata.var_names = mdata[cells].obs_names[order], names
    return adata


def naive(imputed, measured, function) -> dict[tuple[str, str], float]:
    """Correlation of every pair, cell by cell and feature by feature, by their names."""
    dense = measured.X.toarray() if sparse.issparse(measured.X) else measured.X
    values = {}
    for i, source in enumerate(imputed.var_names):
        for j, target in enumerate(measured.var_names):
            pairs = [
                (imputed.X[list(imputed.obs_names).index(cell), i], dense[c, j])
                for c, cell in enumerate(measured.obs_names)
            ]
            values[source, target] = function(*zip(*pairs, strict=True)).statistic
    return values


def as_dict(table: pd.DataFrame, column: str = "correlation") -> dict[tuple[str, str], float]:
    ends = zip(table["source"], table["target"], strict=True)
    return dict(zip(ends, table[column], strict=True))


@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
@pytest.mark.parametrize("given", [False, True])
def test_correlations_equal_a_double_loop(mdata, statistic, given):
    imputed = imputed_of(mdata, "rna", "atac")
    table = infer_links(
        mdata, "rna", "atac", imputed=imputed if given else None, statistic=statistic
    )
    function = stats.pearsonr if statistic == "pearson" else stats.spearmanr
    expected = naive(imputed, mdata["atac"], function)
    assert as_dict(table) == pytest.approx(expected, abs=1e-6)
    # by features of the source, then of the target, in their order in the modalities
    assert list(as_dict(table)) == [(g, p) for g in GENES[:3] for p in PEAKS]
    assert list(table) == ["source", "target", "correlation", "distance"]
    assert table["distance"].isna().all()


@pytest.mark.parametrize("given", [False, True])
def test_the_other_direction(mdata, given):
    imputed = imputed_of(mdata, "atac", "rna")
    table = infer_links(mdata, "rna", "atac", cells="source", imputed=imputed if given else None)
    expected = naive(imputed, mdata["rna"], stats.pearsonr)
    found = {(target, source): r for (source, target), r in as_dict(table).items()}
    assert found == pytest.approx(expected, abs=1e-6)
    assert len(found) == len(GENES) * len(PEAKS)


def test_dense_sparse_layer_and_type_of_imputed_do_not_matter(mdata):
    imputed = imputed_of(mdata, "rna", "atac")
    expected = infer_links(mdata, "rna", "atac", imputed=imputed)
    imputed.X = sparse.csr_matrix(imputed.X)
    mdata["atac"].layers["counts"] = mdata["atac"].X.toarray()
    mdata["atac"].X = sparse.csr_matrix(mdata["atac"].shape)
    table = infer_links(mdata, "rna", "atac", imputed=imputed, layer="counts")
    pd.testing.assert_frame_equal(table, expected)


def test_weights_stand_at_the_features_of_the_modalities(mdata):
    table = infer_links(mdata, "rna", "atac")
    weights = mdata.varp["scmodal_links"]
    assert sparse.issparse(weights)
    assert weights.shape == (mdata.n_vars, mdata.n_vars)
    expected = np.zeros(weights.shape)
    place = {"rna": 0, "atac": len(GENES)}
    for (source, target), r in as_dict(table).items():
        row, column = place["rna"] + GENES.index(source), place["atac"] + PEAKS.index(target)
        assert (mdata.var_names[row], mdata.var_names[column]) == (source, target)
        expected[row, column] = r
    np.testing.assert_allclose(weights.toarray(), expected, rtol=1e-6)


def test_what_is_written_survives_a_file(mdata, tmp_path):
    before = {key: value.copy() for key, value in mdata.obsm.items()}
    table = infer_links(mdata, "rna", "atac", within="cell_type", candidates=some_pairs())
    record = mdata.uns["cantata"]["scmodal"]["inferred_links"]
    assert record["n_cells"] == 70
    assert record["within"] == "cell_type"
    assert set(mdata.uns["cantata"]["scmodal"]) == {
        "version",
        "imputed_features",
        "inferred_links",
    }
    mdata.write(tmp_path / "links.h5mu")
    read = mudata.read(tmp_path / "links.h5mu")
    pd.testing.assert_frame_equal(
        read.uns["scmodal_links"].reset_index(drop=True), table, check_dtype=False
    )
    np.testing.assert_array_equal(
        read.varp["scmodal_links"].toarray(), mdata.varp["scmodal_links"].toarray()
    )
    assert read.uns["cantata"]["scmodal"]["inferred_links"]["source"] == "rna"
    assert set(mdata.obsm) == set(before)
    infer_links(mdata, "rna", "atac", candidates=some_pairs()[:1])
    assert len(mdata.uns["scmodal_links"]) == 1
    assert mdata.varp["scmodal_links"].nnz == 1


def test_written_under_the_name_of_the_method(mdata):
    imputed = imputed_of(mdata, "rna", "atac")
    table = infer_links(mdata, "rna", "atac", imputed=imputed, method="mine")
    pd.testing.assert_frame_equal(mdata.uns["mine_links"], table)
    assert list(mdata.varp) == ["mine_links"]
    assert set(mdata.uns["cantata"]) == {"scmodal", "mine"}
    table.loc[0, "correlation"] = 7  # the caller's table is the caller's
    assert mdata.uns["mine_links"].loc[0, "correlation"] != 7


def some_pairs() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": ["Sox2", "CD4", "Reln", "CD4", "Actb"],
            "target": [PEAKS[0], "CD4", PEAKS[3], PEAKS[4], "CD4"],
            "distance": [5.0, np.nan, 7.0, 9.0, 1.0],
        }
    )


@pytest.mark.parametrize("how", ["table", "key", "gene and peak", "reversed", "repeated"])
def test_candidates(mdata, how):
    options = {"imputed": imputed_of(mdata, "rna", "atac"), "p_values": True}
    every = infer_links(mdata, "rna", "atac", **options).set_index(["source", "target"])
    table = some_pairs()
    options |= {"source": "rna", "target": "atac"}
    expected = [("CD4", "CD4"), ("CD4", PEAKS[4]), ("Sox2", PEAKS[0]), ("Reln", PEAKS[3])]
    if how == "repeated":
        table = pd.concat([table, table.assign(distance=1000)])
    if how in ("gene and peak", "reversed"):
        table = table.rename(columns={"source": "gene", "target": "peak"})
    if how == "reversed":
        options |= {"source": "atac", "target": "rna", "cells": "source"}
    mdata.uns["known"] = table
    found = infer_links(mdata, candidates="known" if how == "key" else table, **options)
    if how == "reversed":
        found = found.rename(columns={"source": "target", "target": "source"})
    distance = as_dict(found, "distance")
    assert set(distance) == set(expected)  # Actb was not imputed
    assert (list(distance) == expected) or how == "reversed"
    assert distance["Sox2", PEAKS[0]] == 5
    assert np.isnan(distance["CD4", "CD4"]) or how == "repeated"
    for pair, r in as_dict(found).items():
        assert r == pytest.approx(every.loc[pair, "correlation"])
    p = as_dict(found, "p")
    q = stats.false_discovery_control(list(p.values()))
    np.testing.assert_allclose(list(as_dict(found, "q").values()), q)


def test_unknown_candidates_are_left_out_with_a_warning(mdata):
    table = some_pairs()
    table.loc[1, "target"] = "chrX:1-2"
    with pytest.warns(UserWarning, match=r"1 of 5 candidates .*'CD4' with 'chrX:1-2'"):
        found = infer_links(mdata, "rna", "atac", candidates=table)
    assert len(found) == 3


@pytest.mark.parametrize("annotated", ["table", "var"])
@pytest.mark.parametrize("reverse", [False, True])
def test_candidates_by_distance(mdata, annotated, reverse):
    mdata.mod["atac"].var_names = [*PEAKS[:1], "chr1:1400-1450", *PEAKS[2:]]
    mdata.uns["cantata"]["scmodal"]["imputed_features"]["atac"] = mdata[
        "atac"
    ].var_names.to_numpy()
    genes = pd.DataFrame(
        {
            "gene": ["Sox2", "Reln", "Actb"],
            "chrom": ["chr1", "chr1", "chr2"],
            "start": [1200, 7000, 50],
            "end": [1300, 8000, 60],
            "strand": ["+", "-", "+"],
        }
    )
    if annotated == "var":
        known = genes.set_index("gene").reindex(GENES)
        for column in known:
            mdata["rna"].var[column] = known[column].to_numpy()
        genes = None
    options = {"max_distance": 1200, "annotation": genes}
    if reverse:
        table = infer_links(mdata, "atac", "rna", cells="source", **options)
        table = table.rename(columns={"source": "target", "target": "source"})
    else:
        table = infer_links(mdata, "rna", "atac", **options)
    distance = {pair: d for pair, d in as_dict(table, "distance").items() if pair[0] != "Actb"}
    assert distance == {
        ("Sox2", "chr1:900-1100"): 101,
        ("Sox2", "chr1:1400-1450"): 101,
        ("Reln", "chr1:9000-9100"): 1001,
    }


def test_min_correlation_and_max_links(mdata):
    options = {"imputed": imputed_of(mdata, "rna", "atac"), "p_values": True}
    every = infer_links(mdata, "rna", "atac", **options)
    strength = every["correlation"].abs()
    limit = float(strength.median())
    for candidates in (None, every[["source", "target"]]):
        strong = infer_links(
            mdata, "rna", "atac", candidates=candidates, min_correlation=limit, **options
        )
        expected = every[strength >= limit].reset_index(drop=True)
        assert 0 < len(expected) < len(every)
        ours = strong[["source", "target", "correlation", "p"]]
        pd.testing.assert_frame_equal(ours, expected[list(ours)])
        assert (strong["q"] >= expected["q"] - 1e-12).all()  # the others were tests too
    few = infer_links(mdata, "rna", "atac", max_links=3, **options)
    best = every.loc[np.sort(strength.nlargest(3).index)].reset_index(drop=True)
    pd.testing.assert_frame_equal(few.drop(columns="q"), best.drop(columns="q"))


def test_seed(mdata):
    options = {"n_permutations": 50, "within": "cell_type", "p_values": True}
    options["imputed"] = imputed_of(mdata, "rna", "atac")
    expected = infer_links(mdata, "rna", "atac", **options)
    other = infer_links(mdata, "rna", "atac", seed=1, **options)
    assert (other["p"] != expected["p"]).any()
    # multiples of 1 / 51
    np.testing.assert_allclose(expected["p"] * 51, np.round(expected["p"] * 51))


def test_only_cells_that_were_imputed_take_part(mdata, caplog):
    imputed = imputed_of(mdata, "rna", "atac")[:50].copy()
    with caplog.at_level(logging.INFO, logger="cantata"):
        table = infer_links(mdata, "rna", "atac", imputed=imputed)
    assert "holds 50 of the 70 cells of modality 'atac'" in caplog.text
    assert mdata.uns["cantata"]["scmodal"]["inferred_links"]["n_cells"] == 50
    part = mdata["atac"][imputed.obs_names].copy()
    assert as_dict(table) == pytest.approx(naive(imputed, part, stats.pearsonr), abs=1e-6)


def simulated(seed: int, n_cells: int = 400):
    """Genes and peaks that differ between cell types; gene k and peak k are linked for k < 5."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, n_cells)
    shared = rng.normal(size=(n_cells, 5))
    genes = rng.normal(size=(n_cells, 30)) + rng.normal(size=(4, 30))[kind]
    rate = rng.normal(size=(4, 30))[kind] - 0.5
    genes[:, :5] += shared
    rate[:, :5] += shared
    names = {"rna": [f"g{i}" for i in range(30)], "atac": [f"p{i}" for i in range(30)]}
    atac = AnnData(sparse.csr_matrix(rng.poisson(np.exp(rate)).astype(np.float32)))
    atac.var_names = names["atac"]
    atac.obs_names = [f"c{i}" for i in range(n_cells)]
    atac.obs["cell_type"] = kind.astype(str)
    imputed = AnnData(genes, obs=atac.obs[[]].copy(), var=pd.DataFrame(index=names["rna"]))
    rna = AnnData(np.ones((3, 30)), var=imputed.var)
    rna.obs_names = ["x", "y", "z"]
    return mosaic({"rna": rna, "atac": atac}), imputed


@pytest.mark.parametrize("n_permutations", [0, 499])
def test_planted_links_are_found_within_cell_types(n_permutations):
    mdata, imputed = simulated(0)
    options = {"imputed": imputed, "n_permutations": n_permutations, "p_values": True}
    table = infer_links(mdata, "rna", "atac", within="cell_type", **options)
    linked = (table["source"].str[1:] == table["target"].str[1:]) & (
        table["source"].str[1:].astype(int) < 5
    )
    assert linked.sum() == 5
    assert (table["p"][linked] <= 1 / 500).all()
    assert (table["within_correlation"][linked] > 0.2).all()
    others = table["p"][~linked]
    assert np.mean(others < 0.05) == pytest.approx(0.05, abs=0.03)
    if not n_permutations:
        assert (table["q"][linked] < 1e-3).all()
        assert (table["q"][~linked] < 0.05).sum() <= 2
    ignoring = infer_links(mdata, "rna", "atac", **options)
    assert "within_correlation" not in ignoring
    assert np.mean(ignoring["p"][~linked] < 0.05) > 0.5  # what cell types explain


def with_noise(seed: int, n_cells: int = 400):
    """Genes, proteins and peaks of one state; ten of the proteins are noise. No cell is shared.

    The genes are imputed as a model does it, by a function of all features of one modality: from
    the proteins, noise included, or from the peaks.
    """
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(n_cells, 3))
    adt = np.hstack([state @ rng.normal(size=(3, 15)), np.zeros((n_cells, 10))])
    adt += rng.normal(size=adt.shape)
    atac = state @ rng.normal(size=(3, 20)) + rng.normal(size=(n_cells, 20))
    names = pd.Index([f"c{i}" for i in range(n_cells)])
    proteins = [*(f"p{i}" for i in range(15)), *(f"noise{i}" for i in range(10))]
    genes = pd.DataFrame(index=[f"g{i}" for i in range(30)])
    parts = {"adt": AnnData(adt, pd.DataFrame(index=names), pd.DataFrame(index=proteins))}
    parts["rna"] = AnnData(np.ones((3, 30)), var=genes)
    parts["rna"].obs_names = ["x", "y", "z"]
    imputed = {}
    for name, values in (("adt", adt), ("atac", atac)):
        weights = rng.normal(size=(values.shape[1], 30)) / np.sqrt(values.shape[1])
        imputed[name] = AnnData(np.tanh(values @ weights), pd.DataFrame(index=names), genes)
    return mosaic(parts), imputed


def shares_of_noise(table: pd.DataFrame) -> list[float]:
    """Share of the pairs with a feature of noise whose p, and whose q, is below .05."""
    noise = table[table[["source", "target"]].map(lambda name: "noise" in name).any(axis=1)]
    return [float((noise[column] < 0.05).mean()) for column in ("p", "q")]


def test_noise_is_not_significant_where_there_is_a_p_value():
    first, second = [], []
    for seed in range(10):
        mdata, imputed = with_noise(seed)
        options = {"source": "rna", "target": "adt"}
        # what was imputed from the noise goes with it: no p values unless they are asked for
        table = infer_links(mdata, imputed=imputed["adt"], **options)
        assert list(table) == ["source", "target", "correlation", "distance"]
        noise = table["target"].str.startswith("noise")
        assert table["correlation"][noise].abs().mean() > 0.06  # by chance 0.04
        # what was imputed from another modality does not
        table = infer_links(mdata, imputed=imputed["atac"], p_values=True, **options)
        first.append(shares_of_noise(table))
        network = feature_network(
            mdata, "adt", imputed={"rna": imputed["adt"]}, min_correlation=0, max_q=1
        )
        assert set(network.edges["target_modality"]) == {"rna", "adt"}
        second.append(shares_of_noise(network.edges.dropna()))
    for shares in (np.mean(first, axis=0), np.mean(second, axis=0)):
        assert shares[0] < 0.06
        assert shares[1] < 0.03


def test_constant_features_have_no_correlation(mdata):
    mdata["atac"].X = mdata["atac"].X @ sparse.diags([1.0, 1, 0, 1, 1])
    options = {"imputed": imputed_of(mdata, "rna", "atac"), "p_values": True}
    options["within"] = "cell_type"
    table = infer_links(mdata, "rna", "atac", candidates=every_pair(), **options)
    constant = table["target"] == PEAKS[2]
    values = table[["correlation", "within_correlation", "p", "q"]]
    assert values[constant].isna().all(axis=None)
    assert values[~constant].notna().all(axis=None)
    q = stats.false_discovery_control(table["p"][~constant])
    np.testing.assert_allclose(table["q"][~constant], q)
    assert mdata.varp["scmodal_links"].nnz == (~constant).sum()
    assert np.isfinite(mdata.varp["scmodal_links"].data).all()
    everything = infer_links(mdata, "rna", "atac", **options)
    pd.testing.assert_frame_equal(everything, table[~constant].reset_index(drop=True))


def every_pair() -> pd.DataFrame:
    return pd.DataFrame([(g, p) for g in GENES[:3] for p in PEAKS], columns=["source", "target"])


def broken(mdata, what: str):
    """Options that cannot work."""
    imputed = imputed_of(mdata, "rna", "atac")
    if what == "cells":
        imputed.obs_names = [f"other{i}" for i in range(70)]
    elif what == "features":
        imputed.var_names = ["Reln", "CD4", "Pax6"]
    elif what == "repeated":
        imputed.obs_names = [*imputed.obs_names[:-1], imputed.obs_names[0]]
    elif what == "few":
        imputed = imputed[:2].copy()
    elif what == "nan":
        imputed.X[3, 1] = np.nan
    return imputed


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"source": "adt"}, KeyError, "source='adt' is no modality"),
        ({"target": "rna"}, ValueError, "source and target are both 'rna'"),
        ({"method": "clue"}, KeyError, r"model.impute\('rna', source='atac'\)"),
        ({"imputed": np.ones((70, 3))}, TypeError, "imputed is a ndarray"),
        ({"imputed": "cells"}, ValueError, "none of the 70 cells of 'atac' .*'other0'"),
        ({"imputed": "features"}, ValueError, "1 of 3 features are none of .*'Pax6'"),
        ({"imputed": "repeated"}, ValueError, "1 of its obs_names occur twice"),
        ({"imputed": "few"}, ValueError, "imputed holds 2 of the 70 cells .* at least 3"),
        ({"imputed": "nan"}, ValueError, "imputed holds NaN or infinity, .*'CD4'"),
        ({"layer": "tfidf"}, KeyError, "layer='tfidf': modality 'atac' has the layers"),
        ({"cells": "both"}, ValueError, "cells='both' is unknown"),
        ({"statistic": "kendall"}, ValueError, "statistic='kendall' is unknown"),
        ({"candidates": "known"}, KeyError, "candidates='known' is not in mdata.uns"),
        ({"candidates": [("CD4", "CD4")]}, TypeError, "candidates is a list"),
        ({"candidates": pd.DataFrame({"a": [1]})}, ValueError, r"the columns \['a'\]"),
        (
            {"candidates": pd.DataFrame({"source": ["Pax6"], "target": ["CD4"]})},
            ValueError,
            "1 of 1 candidates name a feature .* 'rna' has e.g. 'CD4'",
        ),
        (
            {"candidates": pd.DataFrame({"source": ["Actb"], "target": ["CD4"]})},
            ValueError,
            "none of the wanted features of modality 'rna'",
        ),
        ({"candidates": some_pairs(), "max_distance": 10}, ValueError, "both given"),
        ({"annotation": some_pairs()}, ValueError, "annotation is given without max_distance"),
        ({"max_distance": 10}, ValueError, "max_distance needs a modality of peaks.*'CD4'"),
        ({"min_correlation": 1.5}, ValueError, "min_correlation=1.5"),
        ({"max_links": 0}, ValueError, "max_links must be at least 1"),
        ({"n_permutations": -1}, ValueError, "n_permutations must be at least 0"),
        ({"n_permutations": 9.5}, TypeError, "n_permutations must be an integer"),
        ({"n_permutations": 9}, ValueError, "n_permutations=9 are for p values"),
        ({"p_values": True}, ValueError, "p_values=True: what write_results wrote was imputed"),
        ({"within": "donor"}, KeyError, "within='donor'"),
        ({"within": "holes"}, ValueError, "1 of 70 cells of 'atac' have no value in within"),
        ({"within": "own"}, ValueError, "each of the 70 cells is alone in its group"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(mdata, change, error, message):
    mdata["atac"].obs["holes"] = ["a"] * 69 + [None]
    mdata["atac"].obs["own"] = [f"g{i}" for i in range(70)]
    options = {"source": "rna", "target": "atac", **change}
    if isinstance(options.get("imputed"), str):
        options["imputed"] = broken(mdata, options["imputed"])
    with pytest.raises(error, match=message):
        infer_links(mdata, **options)
    assert not list(mdata.varp)
    assert "scmodal_links" not in mdata.uns
    assert "inferred_links" not in mdata.uns["cantata"]["scmodal"]


def test_repeated_names_of_features_are_named(mdata):
    mdata.mod["atac"].var_names = ["p", "p", "q", "r", "s"]
    with pytest.raises(ValueError, match=r"'atac': 1 feature names occur twice, e\.g\. 'p'"):
        infer_links(mdata, "rna", "atac")


def test_names_must_fit_the_written_imputation(mdata):
    mdata.uns["cantata"]["scmodal"]["imputed_features"]["rna"] = np.array(["CD4"])
    with pytest.raises(ValueError, match="has 3 columns but 1 names"):
        infer_links(mdata, "rna", "atac")
