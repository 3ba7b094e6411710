from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse, stats

from cantata.tl import feature_network

pytestmark = pytest.mark.filterwarnings("ignore:.*var_names are (not unique|intersecting)")


def simulated(n_cells: int = 300):
    """Two programmes of genes and proteins in RNA cells; the last features belong to none."""
    rng = np.random.default_rng(0)
    programme = rng.normal(size=(n_cells, 2))
    loading = {"rna": [0, 0, 0, 1, 1, 1, -1], "adt": [0, 1, 1, -1]}
    names = {"rna": ["CD4", "g1", "g2", "g3", "g4", "g5", "g6"], "adt": ["CD4", "a1", "a2", "a3"]}
    values = {}
    for name, of in loading.items():
        noise = rng.normal(size=(n_cells, len(of)))
        shared = np.where(np.array(of) >= 0, programme[:, of], 0)
        values[name] = noise + 2 * shared
    values["rna"][:, 2] *= -1  # against its programme
    order = rng.permutation(n_cells)
    rna = AnnData(values["rna"], var=pd.DataFrame(index=names["rna"]))
    rna.obs["batch"] = np.where(np.arange(n_cells) % 2, "b0", "b1")
    rna.obs_names = [f"c{i}" for i in range(n_cells)]
    imputed = AnnData(values["adt"][order], var=pd.DataFrame(index=names["adt"]))
    imputed.obs_names = rna.obs_names[order]
    adt = AnnData(np.ones((3, 4)), var=imputed.var)
    adt.obs_names = ["x", "y", "z"]
    return mosaic({"rna": rna, "adt": adt}), {"adt": imputed}, values


def naive_edges(values, names, least) -> dict:
    features = [(m, f, values[m][:, k]) for m in values for k, f in enumerate(names[m])]
    edges = {}
    for k, (m, f, x) in enumerate(features):
        for n, g, y in features[k + 1 :]:
            r = stats.pearsonr(x, y).statistic
            if abs(r) >= least:
                edges[(m, f), (n, g)] = r
    return edges


def as_dict(edges: pd.DataFrame) -> dict:
    source = zip(edges["source_modality"], edges["source"], strict=True)
    target = zip(edges["target_modality"], edges["target"], strict=True)
    return dict(zip(zip(source, target, strict=True), edges["correlation"], strict=True))


def test_edges_equal_a_double_loop():
    mdata, imputed, values = simulated()
    network = feature_network(mdata, "rna", imputed=imputed, min_correlation=0.3, max_q=1)
    names = {name: list(mdata[name].var_names) for name in values}
    expected = naive_edges(values, names, 0.3)
    assert as_dict(network.edges) == pytest.approx(expected)
    assert (np.diff(network.edges["correlation"].abs()) <= 0).all()
    sides = {(source[0], target[0]) for source, target in as_dict(network.edges)}
    assert sides == {("rna", "rna"), ("rna", "adt"), ("adt", "adt")}


def test_q_values_are_over_all_pairs_of_measured_features():
    mdata, imputed, _ = simulated()
    network = feature_network(mdata, "rna", imputed=imputed, min_correlation=0, max_q=1)
    edges = network.edges
    assert len(edges) == 11 * 10 / 2
    measured = (edges[["source_modality", "target_modality"]] == "rna").all(axis=1)
    assert measured.sum() == 7 * 6 / 2
    expected = stats.false_discovery_control(edges["p"][measured])
    np.testing.assert_allclose(edges["q"][measured], expected)
    # imputed values depend on the measured ones: their correlation has no p value
    assert edges[["p", "q"]][~measured].isna().all(axis=None)
    strict = feature_network(mdata, "rna", imputed=imputed, min_correlation=0, max_q=0.01)
    assert len(strict.edges) == (expected <= 0.01).sum() + (~measured).sum() < 55
    strong = feature_network(mdata, "rna", imputed=imputed, min_correlation=0.3, max_q=1)
    kept = network.edges[network.edges["correlation"].abs() >= 0.3]
    pd.testing.assert_frame_equal(strong.edges, kept.reset_index(drop=True))


@pytest.mark.parametrize("modules", ["leiden", "components"])
def test_modules_are_the_programmes(modules):
    mdata, imputed, _ = simulated()
    network = feature_network(mdata, "rna", imputed=imputed, modules=modules)
    nodes = network.nodes
    found = {
        module: set(zip(part["modality"], part["feature"], strict=True))
        for module, part in nodes.groupby("module", observed=False)
    }
    assert found == {
        "0": {("rna", "g3"), ("rna", "g4"), ("rna", "g5"), ("adt", "a1"), ("adt", "a2")},
        "1": {("rna", "CD4"), ("rna", "g1"), ("adt", "CD4")},
        "2": {("rna", "g2")},  # only negative edges
    }
    ends = pd.concat([network.edges["source"], network.edges["target"]])
    assert nodes["degree"].sum() == len(ends)
    assert nodes.set_index(["modality", "feature"]).loc[("rna", "g2"), "degree"] == 3
    again = feature_network(mdata, "rna", imputed=imputed, modules=modules)
    pd.testing.assert_frame_equal(again.nodes, nodes)


def test_graph_and_matrix_agree_with_the_table():
    mdata, imputed, _ = simulated()
    network = feature_network(mdata, "rna", imputed=imputed)
    matrix, graph = network.to_sparse(), network.to_igraph()
    assert sparse.issparse(matrix)
    assert (matrix != matrix.T).nnz == 0
    assert matrix.nnz == 2 * len(network.edges)
    nodes = list(zip(network.nodes["modality"], network.nodes["feature"], strict=True))
    edges = as_dict(network.edges)
    for (source, target), r in edges.items():
        assert matrix[nodes.index(source), nodes.index(target)] == r
    assert graph.vs["feature"] == network.nodes["feature"].tolist()
    found = {(nodes[edge.source], nodes[edge.target]): edge["correlation"] for edge in graph.es}
    assert found == edges
    np.testing.assert_array_equal(graph.es["q"], network.edges["q"])


def test_chosen_features_and_modalities():
    mdata, imputed, _ = simulated()
    every = as_dict(feature_network(mdata, "rna", imputed=imputed).edges)
    options = {"imputed": imputed, "features": {"rna": ["g4", "CD4"]}}
    chosen = as_dict(feature_network(mdata, "rna", **options).edges)
    kept = {("rna", "g4"), ("rna", "CD4"), *(("adt", f) for f in mdata["adt"].var_names)}
    assert chosen == pytest.approx({ends: r for ends, r in every.items() if set(ends) <= kept})
    within = feature_network(mdata, "rna", ["rna"])
    assert set(within.nodes["modality"]) == {"rna"}
    between = feature_network(mdata, "rna", ["adt"], imputed=imputed)
    assert set(between.nodes["modality"]) == {"adt"}


def test_written_imputation_is_read():
    mdata, imputed, _ = simulated()
    expected = feature_network(mdata, "rna", imputed=imputed)
    values = np.zeros((mdata.n_obs, 4))
    values[mdata.obs_names.get_indexer(imputed["adt"].obs_names)] = imputed["adt"].X
    mdata.obsm["scmodal_imputed_adt"] = values
    names = {"adt": mdata["adt"].var_names.to_numpy()}
    mdata.uns["cantata"] = {"scmodal": {"imputed_features": names}}
    network = feature_network(mdata, "rna")
    pd.testing.assert_frame_equal(network.edges, expected.edges)
    assert not list(mdata.varp)


def test_groups_and_permutations():
    mdata, imputed, _ = simulated()
    plain = feature_network(mdata, "rna", imputed=imputed)
    assert "within_correlation" not in plain.edges
    options = {"imputed": imputed, "within": "batch", "n_permutations": 99}
    network = feature_network(mdata, "rna", **options)
    np.testing.assert_allclose(
        network.edges["within_correlation"], network.edges["correlation"], atol=0.1
    )
    assert network.edges["p"].min() == 1 / 100


def test_no_edge_is_an_empty_network():
    mdata, imputed, _ = simulated()
    network = feature_network(mdata, "rna", imputed=imputed, min_correlation=0.99)
    assert len(network.edges) == len(network.nodes) == 0
    assert network.to_sparse().shape == (0, 0)
    assert network.to_igraph().vcount() == 0
    few = feature_network(mdata, "rna", imputed=imputed, max_edges=2)
    strongest = feature_network(mdata, "rna", imputed=imputed).edges[:2]
    pd.testing.assert_frame_equal(few.edges[["source", "target"]], strongest[["source", "target"]])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cells": "atac"}, KeyError, "cells='atac' is no modality"),
        ({"modalities": ["atac"]}, KeyError, "modalities='atac' is no modality"),
        ({"modalities": 1}, TypeError, "modalities=1: give a list of names"),
        ({"modalities": []}, ValueError, "modalities is empty"),
        ({"imputed": {}, "modalities": ["rna", "adt"]}, KeyError, "scmodal_imputed_adt"),
        ({"imputed": {"adt": 1}}, TypeError, "imputed is a int"),
        ({"features": {"rna": ["CD8"]}}, KeyError, r"features\['rna'\]: 1 of 1 .*'CD8'"),
        ({"modules": "louvain"}, ValueError, "modules='louvain' is unknown"),
        ({"statistic": "tau"}, ValueError, "statistic='tau' is unknown"),
        ({"max_q": 2}, ValueError, "max_q=2"),
        ({"min_correlation": -1}, ValueError, "min_correlation=-1"),
        ({"resolution": 0}, ValueError, "resolution=0 must be positive"),
        ({"max_edges": 0}, ValueError, "max_edges must be at least 1"),
        ({"within": "donor"}, KeyError, "within='donor'"),
    ],
)
def test_bad_input_is_named(change, error, message):
    mdata, imputed, _ = simulated(20)
    options = {"cells": "rna", "imputed": imputed, **change}
    with pytest.raises(error, match=message):
        feature_network(mdata, **options)


def test_cells_must_have_values_of_all_modalities():
    mdata, imputed, _ = simulated(20)
    half = {"adt": imputed["adt"][mdata["rna"].obs_names[:10]].copy()}
    network = feature_network(mdata, "rna", imputed=half, min_correlation=0, max_q=1)
    x, y = mdata["rna"].X[:10, 1], half["adt"].X[:, 2]
    expected = stats.pearsonr(x, y).statistic
    assert as_dict(network.edges)[("rna", "g1"), ("adt", "a2")] == pytest.approx(expected)
    other = half["adt"].copy()
    other.obs_names = mdata["rna"].obs_names[10:]
    mdata.mod["atac"] = mdata["adt"].copy()
    mdata.update()
    with pytest.raises(ValueError, match="No cell of 'rna' has values of all of"):
        feature_network(mdata, "rna", imputed={**half, "atac": other})
