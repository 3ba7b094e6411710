"""What the functions of ``tl`` and ``pl`` have in common: data, lists of names, counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from mosaics import mosaic

from cantata import pl, tl


@pytest.fixture(scope="module")
def mdata():
    """Two modalities of the same cells, with embeddings, clusters and imputed proteins."""
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(200)]
    state = rng.normal(size=(200, 3)) * [3, 2, 1]
    obs = pd.DataFrame({"kind": np.where(state[:, 0] > 0, "B", "T")}, index=names)
    parts = {}
    for name, width in (("rna", 6), ("adt", 4)):
        values = state @ rng.normal(size=(3, width)) + rng.normal(size=(200, width))
        parts[name] = AnnData(values, obs=obs, obsm={"X_demo": state})
        parts[name].var_names = [f"{name}{j}" for j in range(width)]
    result = mosaic(parts)
    result.obsm["X_demo"] = result.obsm["X_umap"] = state
    return result


CALLS = {
    "transfer_labels": lambda m: tl.transfer_labels(m, "kind", use_rep="X_demo"),
    "transfer_labels, two": lambda m: tl.transfer_labels(
        m, "kind", use_rep="X_demo", source="rna", target="adt"
    ),
    "match_cells": lambda m: tl.match_cells(m, use_rep="X_demo", source="rna", target="adt"),
    "counterparts": lambda m: tl.counterparts(m, use_rep="X_demo"),
    "cluster_correlation": lambda m: tl.cluster_correlation(m, "kind", "rna", "adt"),
    "infer_links": lambda m: tl.infer_links(m, "rna", "adt"),
    "feature_network": lambda m: tl.feature_network(m, "rna"),
    "group_features": lambda m: tl.group_features(m, "rna"),
    "interpret_latent": lambda m: tl.interpret_latent(m, "rna", use_rep="X_demo"),
    "latent_association": lambda m: tl.latent_association(m, "kind", use_rep="X_demo"),
    "latent_traversal": lambda m: tl.latent_traversal(
        m, "rna", use_rep="X_demo", features=["rna0"]
    ),
    "estimate_dimensions": tl.estimate_dimensions,
    "pl.embedding": pl.embedding,
    "pl.pairing": pl.pairing,
    "pl.links": lambda m: pl.links(m, "rna0"),
    "pl.imputed": lambda m: pl.imputed(m, "rna0"),
    "pl.latent_traversal": lambda m: pl.latent_traversal(
        m, "rna", use_rep="X_demo", features=["rna0"]
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_mudata_is_named(mdata, name):
    for other in (mdata["rna"], mdata.obsm["X_demo"], None):
        with pytest.raises(TypeError, match=f"Expected a MuData, got {type(other).__name__}"):
            CALLS[name](other)


LISTS = {
    "modalities": lambda m, x: tl.feature_network(m, "rna", x),
    "features": lambda m, x: tl.group_features(m, "rna", x),
    r"features\['rna'\]": lambda m, x: tl.feature_network(m, "rna", ["rna"], features={"rna": x}),
    "features ": lambda m, x: tl.latent_traversal(m, "rna", use_rep="X_demo", features=x),
    "categorical": lambda m, x: tl.latent_association(m, "kind", use_rep="X_demo", categorical=x),
    "groups": lambda m, x: pl.latent_features(
        tl.interpret_latent(m, "rna", use_rep="X_demo", n_splits=2, train_size=0.5), groups=x
    ),
    "terms": lambda m, x: pl.history({"loss": pd.DataFrame({"loss": [2.0, 1.0]})}, x),
    "peaks": lambda m, x: pl.imputed(
        m,
        "rna0",
        target="adt",
        peaks=x,
        imputed=AnnData(m["rna"].X[:, :1], obs=m["rna"].obs[[]], var=m["rna"].var[:1]),
    ),
}


@pytest.mark.filterwarnings("ignore:The smallest group")
@pytest.mark.parametrize("name", LISTS)
def test_text_where_a_list_is_meant_is_one_name(mdata, name):
    def outcome(given):
        try:
            return type(LISTS[name](mdata, given)).__name__
        except (KeyError, ValueError) as error:
            return repr(error)

    assert outcome("rna0") == outcome(["rna0"])
    with pytest.raises(TypeError, match=rf"{name.strip()}=3: give a list of names"):
        LISTS[name](mdata, 3)
    if name == "categorical":
        return  # may be empty
    with pytest.raises(ValueError, match=rf"{name.strip()} is empty"):
        LISTS[name](mdata, [])
    if name not in ("peaks", "terms", "groups", "modalities"):
        with pytest.raises(TypeError, match="must be a list of names; 1 is none"):
            LISTS[name](mdata, ["rna0", 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: tl.latent_association(m, "kind", use_rep="X_demo", modality=[]),
            ValueError,
            "modality is empty",  # not: all of them
        ),
        (lambda m: tl.latent_association(m, [], use_rep="X_demo"), ValueError, "keys is empty"),
        (
            lambda m: tl.feature_network(m, "rna", ["rna"], features=["rna0"]),
            TypeError,
            "features is a list; give a dict from modalities",
        ),
        (
            lambda m: tl.feature_network(m, "rna", ["rna"], features={"adt": ["adt0"]}),
            KeyError,
            "features names modalities that are not used",
        ),
        (
            lambda m: tl.feature_network(m, "rna", imputed=m["adt"]),
            TypeError,
            "imputed is a AnnData; give a dict from modalities",
        ),
        (
            lambda m: tl.estimate_dimensions(m, layers="counts"),
            TypeError,
            "layers='counts' must be a dict",
        ),
        (
            lambda m: tl.estimate_dimensions(m, use_reps="X_pca"),
            TypeError,
            "use_reps='X_pca' must be a dict",
        ),
        (
            lambda m: tl.transfer_labels(m, ["kind"], use_rep="X_demo"),
            TypeError,
            r"labels_key=\['kind'\] must be the name of one column",
        ),
        (
            lambda m: tl.match_cells(
                m, use_rep="X_demo", source="rna", target="adt", batch_key=["kind"]
            ),
            TypeError,
            r"batch_key=\['kind'\] must be the name of one column",
        ),
        (lambda m: pl.embedding(m, color=[]), ValueError, "color is empty"),
        (lambda m: pl.embedding(m, ncols=0), ValueError, "ncols must be at least 1"),
        (lambda m: pl.links(m, []), ValueError, "gene is empty"),
        (
            lambda m: pl.imputed(m, "rna0", target="adt", layers="raw"),
            TypeError,
            "layers='raw' must be a dict",
        ),
        (
            lambda m: tl.interpret_latent(m, "rna", use_rep="X_demo", n_components=2.5),
            TypeError,
            "n_components must be an integer, got 2.5",
        ),
        (
            lambda m: tl.interpret_latent(m, "rna", use_rep="X_demo", seed=-1),
            ValueError,
            "seed must be at least 0",
        ),
        (
            lambda m: tl.latent_association(m, "kind", use_rep="X_demo", n_clusters=2.0),
            TypeError,
            "n_clusters must be an integer",
        ),
    ],
)
def test_other_wrong_arguments(mdata, call, error, message):
    with pytest.raises(error, match=message):
        call(mdata)


@pytest.mark.filterwarnings("ignore:The smallest group")
def test_integers_of_numpy_are_integers(mdata):
    one, two = np.int64(1), np.int32(2)
    options = {"use_rep": "X_demo", "n_splits": two, "train_size": 0.5}
    found = tl.interpret_latent(
        mdata, "rna", n_components=two, n_bins=np.int64(5), n_central=one, seed=one, **options
    )
    assert found.component_name(one) == "PC1"
    assert len(found.top(one, two, "high")) <= 2
    assert len(pl.latent_features(found, ["PC1", "PC2"], n_features=two, ncols=one)) == 2
    tl.latent_traversal(mdata, "rna", found, component=one, features=["rna0"])
    table = tl.latent_association(
        mdata,
        ["kind"],
        use_rep="X_demo",
        modality="rna",
        n_components=one,
        clusters="kmeans",
        n_clusters=two,
        n_seeds=one,
        seed=one,
    )
    assert set(table["axis"]) == {"PC1", "all", "clusters"}
    tl.feature_network(mdata, "rna", ["rna"], max_edges=two, n_permutations=two, seed=one)
    tl.match_cells(mdata, use_rep="X_demo", source="rna", target="adt", k=two, seed=one)
    tl.transfer_labels(mdata, "kind", use_rep="X_demo", source="rna", target="adt", k=two)
    plt.close("all")
