from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from cantata.tl import counterparts, knn_labels, transfer_labels


@pytest.fixture
def mosaic() -> MuData:
    """Two modalities with other cells in other orders, embedded in one space."""
    rng = np.random.default_rng(0)
    cells = pd.Index([f"cell{i}" for i in range(60)])
    types = np.array(["B", "T"])[np.arange(60) % 2]
    position = rng.normal(size=(60, 4)) + 4 * (types == "T")[:, None]
    mods = {}
    for name, size in [("rna", 40), ("adt", 35)]:
        rows = rng.permutation(60)[:size]
        mods[name] = AnnData(
            rng.poisson(1.0, size=(size, 3)).astype(np.float32),
            obs=pd.DataFrame({"cell_type": types[rows]}, index=cells[rows]),
            var=pd.DataFrame(index=[f"{name}{i}" for i in range(3)]),
            obsm={"X_clue": (position[rows] + 0.1).astype(np.float32)},
        )
    mdata = MuData(mods)
    mdata.obsm["X_clue"] = position[cells.get_indexer(mdata.obs_names)].astype(np.float32)
    return mdata


def true_types(names: pd.Index) -> list[str]:
    return ["B" if int(name.removeprefix("cell")) % 2 == 0 else "T" for name in names]


def state(mdata: MuData) -> tuple:
    return (
        list(mdata.obs.columns),
        list(mdata.uns),
        *((list(a.obs.columns), list(a.obsm), list(a.uns)) for a in mdata.mod.values()),
    )


@pytest.mark.parametrize(("source", "target"), [("rna", "adt"), ("adt", "rna")])
def test_one_modality_labels_another(mosaic, source, target):
    before = state(mosaic)
    table = transfer_labels(
        mosaic, "cell_type", use_rep="X_clue", source=source, target=target, k=3
    )
    assert state(mosaic) == before
    assert table.index.tolist() == mosaic[target].obs_names.tolist()
    assert table["label"].tolist() == true_types(table.index)
    expected = knn_labels(
        mosaic[source].obsm["X_clue"],
        mosaic[source].obs["cell_type"],
        mosaic[target].obsm["X_clue"],
        k=3,
        query_names=mosaic[target].obs_names,
    )
    assert (table["counterpart"] == 1).all()  # too few cells to tell
    pd.testing.assert_frame_equal(table.drop(columns="counterpart"), expected)


@pytest.fixture
def orphans() -> MuData:
    """Three populations of RNA, of which proteins have two."""
    rng = np.random.default_rng(3)
    mods = {}
    for name, types in (("rna", "BTX"), ("adt", "BT")):
        kinds = np.repeat(list(types), 120)
        mods[name] = AnnData(np.ones((len(kinds), 1)), obs=pd.DataFrame({"kind": kinds}))
        mods[name].obs_names = [f"{name}{i}" for i in range(len(kinds))]
        centers = {"B": [0.0, 5, 0], "T": [5.0, 0, 0], "X": [4.0, 4, 4]}
        mods[name].obsm["X_clue"] = np.array([centers[k] for k in kinds])
        mods[name].obsm["X_clue"] += rng.normal(size=(len(kinds), 3)) * 0.5
    return MuData(mods)


def test_cells_without_counterpart_are_not_believed(orphans):
    options = {"use_rep": "X_clue", "source": "adt", "target": "rna"}
    table = transfer_labels(orphans, "kind", **options)
    lacks = (orphans["rna"].obs["kind"] == "X").to_numpy()
    assert (table["confidence"][lacks] < 0.5).mean() > 0.95
    assert (table["confidence"][~lacks] > 0.5).mean() > 0.95
    votes = knn_labels(
        orphans["adt"].obsm["X_clue"], orphans["adt"].obs["kind"], orphans["rna"].obsm["X_clue"]
    )
    np.testing.assert_array_equal(table["label"], votes["label"])
    np.testing.assert_allclose(
        table["confidence"], votes["confidence"].to_numpy() * table["counterpart"]
    )


def test_they_can_be_a_class_of_their_own(orphans):
    options = {"use_rep": "X_clue", "source": "adt", "target": "rna"}
    table = transfer_labels(orphans, "kind", **options, unknown="none of these")
    counterparts(orphans, use_rep="X_clue")
    column = orphans["rna"].obs["clue_counterpart"].to_numpy()
    np.testing.assert_array_equal(table["counterpart"], column)
    assert table["label"].cat.categories.tolist() == ["B", "T", "none of these"]
    np.testing.assert_array_equal(table["label"] == "none of these", column < 0.5)
    # a column of other modalities, or of other days, is not believed
    orphans["rna"].obs["clue_counterpart"] = 0.25
    again = transfer_labels(orphans, "kind", **options)
    np.testing.assert_array_equal(again["counterpart"], table["counterpart"])
    with pytest.raises(ValueError, match="unknown='B' is one of the labels"):
        transfer_labels(orphans, "kind", **options, unknown="B")
    with pytest.raises(ValueError, match="source and target are both 'rna'"):
        transfer_labels(orphans, "kind", use_rep="X_clue", source="rna", target="rna")


def test_confidence_is_the_chance_to_be_right():
    """Votes of a modality whose cells lie in the wrong place are unanimous and often wrong."""
    rng = np.random.default_rng(0)
    n = 2000
    kinds = np.array(["B", "T"])[(np.arange(n) % 2)]
    center = np.where(kinds == "T", 4.0, 0.0)
    mods = {}
    for name, noise in (("rna", 0.3), ("adt", 2.5)):
        mods[name] = AnnData(np.ones((n, 1)), obs=pd.DataFrame({"kind": kinds}))
        paired = np.arange(n) % 10 < 3
        mods[name].obs_names = [f"c{i}" if paired[i] else f"{name}{i}" for i in range(n)]
        mods[name].obsm["X_clue"] = (center + noise * rng.normal(size=n))[:, None]
    mdata = MuData(mods)
    table = transfer_labels(mdata, "kind", use_rep="X_clue", source="rna", target="adt")
    votes = knn_labels(mods["rna"].obsm["X_clue"], kinds, mods["adt"].obsm["X_clue"])
    right = (table["label"].astype(str) == kinds).to_numpy()[~paired]
    np.testing.assert_array_equal(table["label"], votes["label"])
    assert votes["confidence"][~paired].mean() > right.mean() + 0.15
    chance = (table["confidence"] / table["counterpart"])[~paired]
    assert chance.mean() == pytest.approx(right.mean(), abs=0.03)
    # of cells in both modalities alone, and in the order of the votes
    order = votes["confidence"].to_numpy().argsort(kind="stable")
    assert np.all(np.diff((table["confidence"] / table["counterpart"]).to_numpy()[order]) > -1e-9)
    # without pairs, or with unlabelled ones, it stays the share of votes
    labels = mdata["rna"].obs["kind"].astype(object)
    mdata["rna"].obs["kind"] = labels.where(~paired)
    table = transfer_labels(mdata, "kind", use_rep="X_clue", source="rna", target="adt")
    share = table["confidence"] / table["counterpart"] * 15
    np.testing.assert_allclose(share, share.round())


def test_cells_need_no_values(orphans):
    expected = transfer_labels(orphans, "kind", use_rep="X_clue", source="adt", target="rna")
    parts = {}
    for name, adata in orphans.mod.items():
        parts[name] = AnnData(obs=adata.obs, obsm={"X_clue": adata.obsm["X_clue"]})
    bare = MuData(parts)
    found = transfer_labels(bare, "kind", use_rep="X_clue", source="adt", target="rna")
    pd.testing.assert_frame_equal(found, expected)


def test_labelled_cells_label_the_others(mosaic):
    del mosaic["adt"].obs["cell_type"]
    del mosaic["rna"].obs["cell_type"]
    mosaic.obs["kind"] = pd.Series(true_types(mosaic.obs_names), index=mosaic.obs_names)
    hidden = np.arange(mosaic.n_obs) % 3 == 0
    mosaic.obs["kind"] = mosaic.obs["kind"].where(~hidden).astype("category")
    table = transfer_labels(mosaic, "kind", use_rep="X_clue", k=5)
    assert table.index.tolist() == mosaic.obs_names[hidden].tolist()
    assert table["label"].tolist() == true_types(table.index)
    assert (table["confidence"] > 0.5).all()


def test_labels_of_one_modality_reach_the_cells_without_it(mosaic):
    for column in ("cell_type", "adt:cell_type"):
        if column in mosaic.obs:
            del mosaic.obs[column]
    del mosaic["adt"].obs["cell_type"]
    table = transfer_labels(mosaic, "cell_type", use_rep="X_clue", k=5)
    assert set(table.index) == set(mosaic["adt"].obs_names) - set(mosaic["rna"].obs_names)
    assert table["label"].tolist() == true_types(table.index)


def test_labels_line_up_with_permuted_cells(mosaic):
    mosaic["rna"].obs["cell_type"] = mosaic["rna"].obs_names.to_numpy()
    mosaic["rna"].obsm["X_clue"] = np.eye(40)
    mosaic["adt"].obsm["X_clue"] = np.eye(40)[:35]
    if "rna:cell_type" in mosaic.obs:
        del mosaic.obs["rna:cell_type"]
    table = transfer_labels(mosaic, "cell_type", use_rep="X_clue", source="rna", target="adt", k=1)
    assert table["label"].tolist() == mosaic["rna"].obs_names[:35].tolist()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels_key": "type"}, KeyError, "labels_key='type' is neither"),
        ({"use_rep": "X_pca"}, KeyError, r"mdata\['rna'\].obsm\['X_pca'\] does not exist"),
        ({"source": "atac"}, KeyError, "no modality 'atac'; there are"),
        ({"target": None}, ValueError, "both source and target"),
        ({"source": None, "target": None}, ValueError, "All .* cells have a label"),
        (
            {"source": None, "target": None, "use_rep": "rna"},
            KeyError,
            r"mdata.obsm\['rna'\] does not exist; keys there: \['X_clue'\]",
        ),
        ({"k": 41}, ValueError, "k=41 neighbours .* has 40 cells"),
        ({"labels_key": "empty"}, ValueError, "No cell of 'rna' has a label in 'empty'"),
    ],
)
def test_bad_input_is_named(mosaic, change, error, message):
    mosaic["rna"].obs["empty"] = None
    options = {
        "labels_key": "cell_type",
        "use_rep": "X_clue",
        "source": "rna",
        "target": "adt",
        **change,
    }
    with pytest.raises(error, match=message):
        transfer_labels(mosaic, options.pop("labels_key"), **options)
