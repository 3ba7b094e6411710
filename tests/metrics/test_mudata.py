"""Metrics of a MuData: cells are found by name, whatever the order of the modalities."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic

from cantata import metrics

if TYPE_CHECKING:
    import mudata

ENDS = {"use_rep": "X_demo", "source": "rna", "target": "adt"}


@pytest.fixture
def cells() -> tuple[mudata.MuData, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """A mosaic whose modalities hold other cells in other orders, and its tables by name."""
    rng = np.random.default_rng(0)
    names = pd.Index([f"cell{i:03d}" for i in range(160)])
    state = rng.normal(size=(160, 4)) * [3, 2, 1, 1]
    obs = pd.DataFrame(
        {
            "type": np.where(state[:, 0] > 0, "B", "T"),
            "batch": np.array(["b1", "b2"])[rng.integers(0, 2, 160)],
            "score": state[:, 1],
        },
        index=names,
    )
    parts, tables = {}, []
    for name, chosen in (("rna", slice(0, 130)), ("adt", slice(30, 160))):
        rows = rng.permutation(np.arange(160)[chosen])
        table = pd.DataFrame(state[rows] + 0.3 * rng.normal(size=(130, 4)), index=names[rows])
        parts[name] = AnnData(np.ones((130, 1)), obs=obs.iloc[rows], obsm={"X_demo": table.values})
        parts[name].var_names = [f"{name}0"]
        tables.append(table)
    mdata = mosaic(parts)
    joint = pd.DataFrame(state, index=names).loc[mdata.obs_names]
    mdata.obsm["X_demo"] = joint.to_numpy()
    return mdata, *tables, obs


def pairs_of(cells) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rows of the cells that both modalities have, and what is known of them."""
    mdata, rna, adt, obs = cells
    both = [name for name in mdata.obs_names if name in rna.index and name in adt.index]
    assert len(both) == 100
    return rna.loc[both], adt.loc[both], obs.loc[both]


@pytest.mark.parametrize("score", [metrics.foscttm, metrics.pair_distance])
def test_scores_of_pairs(cells, score):
    x, y, _ = pairs_of(cells)
    found = score(cells[0], **ENDS, return_per_cell=True)
    np.testing.assert_allclose(found, score(x, y, return_per_cell=True))
    assert score(cells[0], **ENDS) == pytest.approx(score(x.to_numpy(), y.to_numpy()))
    # what was compared before: rows as they stand in the modalities
    assert score(cells[1].to_numpy(), cells[2].to_numpy()) > 3 * score(cells[0], **ENDS)


def test_matching_score(cells):
    x, y, obs = pairs_of(cells)
    assert metrics.matching_score(cells[0], **ENDS) == metrics.matching_score(x, y)
    grouped = metrics.matching_score(cells[0], **ENDS, groups="batch")
    assert grouped == metrics.matching_score(x, y, groups=obs["batch"])
    assert grouped != metrics.matching_score(x, y)


def test_label_transfer_accuracy(cells):
    mdata, rna, adt, obs = cells
    expected = metrics.label_transfer_accuracy(
        rna, obs["type"].loc[rna.index], adt, obs["type"].loc[adt.index]
    )
    assert metrics.label_transfer_accuracy(mdata, "type", **ENDS) == expected > 0.8


def test_scores_of_one_embedding(cells):
    mdata, rna, _, obs = cells
    joint, by_cell = mdata.obsm["X_demo"], obs.loc[mdata.obs_names]
    rna_cells = [name for name in mdata.obs_names if name in rna.index]
    for key, rows, known in (
        ("X_demo", joint, by_cell),
        ("rna:X_demo", rna.loc[rna_cells], obs.loc[rna_cells]),
    ):
        options = {"use_rep": key}
        expected = metrics.silhouette(rows, known["type"])
        assert metrics.silhouette(mdata, "type", **options) == pytest.approx(expected)
        expected = metrics.silhouette_batch(rows, known["batch"], known["type"])
        found = metrics.silhouette_batch(mdata, "batch", "type", **options)
        assert found == pytest.approx(expected)
        for score in (metrics.mixing_metric, metrics.kbet):
            found = score(mdata, "type", **options, k=20)
            assert found == pytest.approx(score(rows, known["type"], k=20))


@pytest.mark.parametrize("score", [metrics.mixing_metric, metrics.kbet])
def test_modalities_are_datasets(cells, score):
    found = score(cells[0], use_rep="X_demo", k=20)
    assert found == score({"rna": cells[1].to_numpy(), "adt": cells[2].to_numpy()}, k=20)


def test_disentanglement(cells):
    mdata = cells[0]
    x, y, obs = pairs_of(cells)
    blocks = {"shared": "X_demo", "rna": "rna:X_demo", "adt": "adt:X_demo"}
    joint = pd.DataFrame(mdata.obsm["X_demo"], index=mdata.obs_names).loc[x.index]
    expected = metrics.disentanglement({"shared": joint, "rna": x, "adt": y}, obs[["score"]])
    assert expected["score"].min() > 0.8
    for factors in ("score", ["score"], cells[3][["score"]]):
        found = metrics.disentanglement(mdata, factors, use_rep=blocks)
        pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("score", [metrics.foscttm, metrics.pair_distance, metrics.matching_score])
def test_tables_of_the_same_cells_in_another_order_are_refused(cells, score):
    x, y, _ = pairs_of(cells)
    with pytest.raises(ValueError, match=r"another order: row 0 .* y\.loc\[x\.index\]"):
        score(x, y[::-1])
    renamed = y[::-1].set_axis([f"adt_{name}" for name in y.index])
    assert score(x, renamed) >= 0  # other names tell nothing


def test_factors_and_labels_in_another_order_are_refused(cells):
    x, _, obs = pairs_of(cells)
    with pytest.raises(ValueError, match="a and factors are tables of the same cells in another"):
        metrics.disentanglement({"a": x}, obs[["score"]][::-1])
    with pytest.raises(ValueError, match="embedding and labels are tables of the same cells"):
        metrics.silhouette(x, obs["type"][::-1])


ARGUMENTS = {
    "foscttm": [],
    "pair_distance": [],
    "matching_score": [],
    "label_transfer_accuracy": ["type"],
    "silhouette": ["type"],
    "silhouette_batch": ["batch", "type"],
    "mixing_metric": [],
    "kbet": ["batch"],
    "disentanglement": ["score"],
}
"""Arguments of the metrics after the data."""


ENDS_BY_DEFAULT = {"use_rep": None, "source": None, "target": None}
DEFAULTS = {
    "foscttm": ENDS_BY_DEFAULT | {"y": None, "return_per_cell": False},
    "pair_distance": ENDS_BY_DEFAULT | {"y": None, "return_per_cell": False},
    "matching_matrix": {"groups_x": None, "groups_y": None, "k": 1, "normalize": True, "seed": 0},
    "matching_score": ENDS_BY_DEFAULT
    | {"y": None, "groups": None, "k": 1, "normalize": True, "direction": "both", "seed": 0},
    "label_transfer_accuracy": ENDS_BY_DEFAULT
    | {"query": None, "query_labels": None, "k": 15, "weights": "uniform"}
    | {"metric": "euclidean", "seed": 0},
    "silhouette": {"use_rep": None, "rescale": False, "n_samples": None, "seed": 0},
    "silhouette_batch": {"use_rep": None, "n_samples": None, "seed": 0, "return_per_label": False},
    # Seurat's and kBET's own
    "mixing_metric": {"dataset": None, "use_rep": None, "k": 300, "n_neighbor": 5}
    | {"include_self": True, "n_samples": None, "seed": 0, "return_per_cell": False},
    "kbet": {"dataset": None, "use_rep": None, "k": None, "alpha": 0.05, "n_repeats": 100}
    | {"n_samples": 1000, "include_self": True, "seed": 0},
    "disentanglement": {"own": None, "use_rep": None, "test": None, "noisy": False}
    | {"n_neighbors": 15, "n_silhouette": 5000, "seed": 0},
    "disentanglement_summary": {},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name):
    parameters = inspect.signature(getattr(metrics, name)).parameters.values()
    found = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert found == DEFAULTS[name]


def test_all_metrics_are_covered():
    of_embeddings = set(metrics.__all__) - {"image_agreement"}
    assert set(DEFAULTS) == of_embeddings
    others = {"matching_matrix", "disentanglement_summary"}  # tl.match_cells; a table
    assert set(ARGUMENTS) == of_embeddings - others


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_types_are_named_at_once(cells, name):
    """A MuData without a key, and an AnnData, which took minutes to be read as a sequence."""
    score, more = getattr(metrics, name), ARGUMENTS[name]
    with pytest.raises(TypeError, match=r"use_rep="):
        score(cells[0], *more)
    adata = cells[0]["rna"]
    arrays = [["a"] * 130 for _ in more]
    arrays += [adata] * (name in ("foscttm", "pair_distance", "matching_score"))
    arrays += [adata, arrays[0]] if name == "label_transfer_accuracy" else []
    with pytest.raises(TypeError, match=r"is an? AnnData|got AnnData"):
        score(adata, *arrays)


def test_matching_matrix_points_to_its_counterpart(cells):
    with pytest.raises(TypeError, match="x is a MuData; give an array"):
        metrics.matching_matrix(cells[0], cells[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: metrics.foscttm(m, "X_demo"), TypeError, "y= goes with arrays"),
        (lambda m: metrics.foscttm(m, use_rep="X_demo"), TypeError, "A MuData needs source="),
        (
            lambda m: metrics.foscttm(m, **{**ENDS, "target": "rna"}),
            ValueError,
            "source and target are both 'rna'",
        ),
        (
            lambda m: metrics.foscttm(m, **{**ENDS, "target": "atac"}),
            KeyError,
            "target='atac' is no modality",
        ),
        (
            lambda m: metrics.foscttm(m, **{**ENDS, "use_rep": "X_clue"}),
            KeyError,
            r"obsm\['X_clue'\] does not exist",
        ),
        (
            lambda m: metrics.foscttm(np.ones((2, 2)), np.ones((2, 2)), use_rep="X"),
            TypeError,
            "use_rep='X' goes with a MuData",
        ),
        (
            lambda m: metrics.silhouette(m.obsm["X_demo"], ["a", "b"] * 80, use_rep="X_a"),
            TypeError,
            "use_rep='X_a' goes with a MuData",
        ),
        (
            lambda m: metrics.mixing_metric(dict.fromkeys("ab", m.obsm["X_demo"]), use_rep="X_b"),
            TypeError,
            "use_rep='X_b' goes with a MuData",
        ),
        (
            lambda m: metrics.disentanglement({"a": m.obsm["X_demo"]}, m.obs, use_rep={"a": "X"}),
            TypeError,
            "use_rep=.* goes with a MuData",
        ),
        (
            lambda m: metrics.foscttm(
                mosaic({"rna": m["rna"][:9].copy(), "adt": m["adt"][:1].copy()}), **ENDS
            ),
            ValueError,
            "No cell is in both 'rna' and 'adt'",
        ),
        (
            lambda m: metrics.matching_score(m, **ENDS, groups=["a"] * 160),
            TypeError,
            "groups must be the name of a column",
        ),
        (
            lambda m: metrics.silhouette(m, "kind", use_rep="X_demo"),
            KeyError,
            "labels='kind' is neither",
        ),
        (lambda m: metrics.silhouette(m, "type", use_rep="X"), KeyError, "use_rep='X' does not"),
        (
            lambda m: metrics.silhouette(m.obsm["X_demo"], "type"),
            TypeError,
            "labels is 'type'; give one value per cell",
        ),
        (lambda m: metrics.mixing_metric(m, use_rep="X"), KeyError, "is in .obsm of no modality"),
        (
            lambda m: metrics.disentanglement(m, "score", use_rep="X_demo"),
            TypeError,
            "must be a dict from names of blocks",
        ),
        (
            lambda m: metrics.disentanglement(m, m.obs[["score"]][:9], use_rep={"a": "X_demo"}),
            KeyError,
            "factors lacks 151 of the cells",
        ),
        (
            lambda m: metrics.disentanglement(np.ones((3, 2)), m.obs),
            TypeError,
            "blocks is a ndarray; give a dict",
        ),
        (
            lambda m: metrics.label_transfer_accuracy(m, "type", None, ["B"], **ENDS),
            TypeError,
            "query_labels= goes with arrays",
        ),
    ],
)
def test_bad_input_of_a_mudata_is_named(cells, call, error, message):
    cells[0].obs["score"] = 1.0
    with pytest.raises(error, match=message):
        call(cells[0])
