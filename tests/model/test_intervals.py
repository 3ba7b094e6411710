"""Intervals of imputed values, of every model."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scvi
from linked_mosaics import linked_mosaic
from model_cases import CASES, QUIET
from mosaics import counts_mosaic, mosaic

from cantata import APOLLO, CLUE, SCMODAL
from cantata._numeric.conformal import ConformalIntervals

LARGE = {"n_cells": 400, "seed": 2}
HALF = {"train_size": 0.5}


def fitted(name, **data):
    case = CASES[name]
    mdata = case.data(**LARGE | data)
    return case.fit(mdata, **({} if name == "SCMODAL" else HALF)), mdata


@pytest.mark.parametrize("name", [name for name in CASES if name != "SCMODAL"])
def test_new_cells_lie_within_as_often_as_asked(name):
    case = CASES[name]
    every = case.data(n_cells=1600, seed=2)
    new = np.arange(every.n_obs) % 2 == 1
    model = case.fit(every[~new].copy(), **HALF)
    test = every[new].copy()
    imputed = model.impute("adt", test, source="rna", interval=0.8)
    both = imputed.obs_names.intersection(test["adt"].obs_names)
    found = imputed[both]
    measured = test["adt"][both].X.toarray().astype(float)
    totals = model._typical_library("adt")
    if totals is not None:
        measured *= totals / np.maximum(measured.sum(axis=1, keepdims=True), 1e-12)
    inside = (measured >= found.layers["lower"]) & (measured <= found.layers["upper"])
    about = imputed.uns["cantata"]["interval"]
    assert about["calibrated_on"] == "held-out cells"
    assert 100 < about["n_cells"] <= len(model.validation_indices)
    # few features and cells: the standard deviation over draws of calibration cells is about .02
    assert 0.74 < inside.mean() < 0.88


@pytest.mark.parametrize("name", ["CLUE", "APOLLO"])
def test_they_rest_on_the_errors_for_held_out_cells(name):
    model, mdata = fitted(name)
    names = mdata["adt"].var_names[[4, 1]].tolist()
    imputed = model.impute("adt", source="rna", features=names, interval=0.9)
    with_both = mdata["rna"].obs_names.intersection(mdata["adt"].obs_names)
    held_out = mdata.obs_names[model.validation_indices].intersection(with_both)
    plain = model.impute("adt", source="rna", features=names)
    predicted = plain[held_out].X.astype(float)
    measured = mdata["adt"][held_out, names].X.toarray().astype(float)
    totals = model._typical_library("adt")
    if totals is not None:
        measured *= totals / np.maximum(mdata["adt"][held_out].X.sum(axis=1), 1e-12)
    expected = ConformalIntervals(predicted, np.asarray(measured), 0.9).bounds(
        plain.X.astype(float)
    )
    np.testing.assert_array_equal(imputed.X, plain.X)
    for key, bound in zip(("lower", "upper"), expected, strict=True):
        np.testing.assert_allclose(imputed.layers[key], bound, rtol=1e-4, atol=1e-4)


def test_scmodal_compares_with_the_nearest_cells():
    model, mdata = fitted("SCMODAL")
    imputed = model.impute("adt", source="rna", interval=0.9)
    z = [model.get_latent_representation(modality=m).astype(float) for m in ("rna", "adt")]
    nearest = np.linalg.norm(z[0][:, None] - z[1][None], axis=2).argmin(axis=1)
    predicted = model.impute("adt", source="rna")[mdata["rna"].obs_names].X.astype(float)
    measured = mdata["adt"].X.toarray()[nearest].astype(float)
    layer = model.module.input("adt")
    measured *= float(layer.library) / np.maximum(measured.sum(axis=1, keepdims=True), 1e-12)
    expected = ConformalIntervals(predicted, measured, 0.9).bounds(predicted)
    found = imputed[mdata["rna"].obs_names]
    for key, bound in zip(("lower", "upper"), expected, strict=True):
        np.testing.assert_allclose(found.layers[key], bound, rtol=1e-4, atol=1e-4)


def test_features_that_a_batch_did_not_measure_are_judged_by_the_others():
    mdata = counts_mosaic(n_cells=400, seed=2)
    x = mdata["adt"].X.tolil()
    unmeasured = (mdata["adt"].obs["batch"] == "b1").to_numpy()
    x[unmeasured, 3] = 0
    mdata["adt"].X = x.tocsr()
    model = CASES["CLUE"].fit(mdata, **HALF)
    assert not model.panels_["adt"]["measured"][:, 3].all()
    imputed = model.impute("adt", source="rna", interval=0.9)
    # zeros that nobody measured would have pulled all lower bounds to 0
    held_out = mdata.obs_names[model.validation_indices].intersection(mdata["adt"].obs_names)
    held_out = held_out.intersection(mdata["rna"].obs_names)
    batch = mdata["adt"].obs.loc[held_out, "batch"]
    known = held_out[(batch == "b0").to_numpy()]
    predicted = model.impute("adt", source="rna")
    column = mdata["adt"].var_names[3]
    expected = ConformalIntervals(
        predicted[known, column].X.astype(float),
        mdata["adt"][known, column].X.toarray().astype(float),
        0.9,
    ).bounds(predicted[:, column].X.astype(float))
    np.testing.assert_allclose(
        imputed[:, column].layers["lower"], expected[0], rtol=1e-4, atol=1e-4
    )


def test_features_that_no_held_out_cell_measured_are_named():
    member = np.ones((400, 2), dtype=bool)
    member[0::4, 0] = member[2::4, 1] = False  # all pairs are of batch b1
    mdata = counts_mosaic(member=member, n_cells=400)
    x = mdata["adt"].X.tolil()
    x[(mdata["adt"].obs["batch"] == "b1").to_numpy(), 3] = 0
    mdata["adt"].X = x.tocsr()
    model = CASES["CLUE"].fit(mdata, max_epochs=1, **HALF)
    column = mdata["adt"].var_names[3]
    with pytest.warns(UserWarning, match=f"1 of 6 features of 'adt', e.g. '{column}', were"):
        imputed = model.impute("adt", source="rna", interval=0.9)
    for key in ("lower", "upper"):
        assert np.isnan(imputed.layers[key]).all(axis=0).tolist() == [k == 3 for k in range(6)]


def test_the_remedy_is_one_that_helps(tmp_path):
    member = np.ones((300, 3), dtype=bool)
    member[:150, 2] = member[150:, 0] = False
    chain = counts_mosaic({"rna": 12, "adt": 6, "atac": 6}, member, n_cells=300)
    model = CASES["CLUE"].fit(chain, max_epochs=1, **HALF)
    with pytest.raises(ValueError, match=r"there are 0\. No cell at all has both"):
        model.impute("atac", source="rna", interval=0.8)
    model.save(tmp_path / "model")
    empty = CLUE.load(tmp_path / "model", adata=False)
    with pytest.raises(ValueError, match=r"there are 0\. Load the model with its data"):
        empty.impute("adt", chain, source="rna", interval=0.8)
    unpaired = CASES["SCMODAL"].fit(linked_mosaic(n_cells=60))
    with pytest.raises(ValueError, match=r"nearest cells.* Ask for a smaller share\.$"):
        unpaired.impute("adt", source="rna", interval=0.999)


def test_they_are_written_to_zarr_and_survive_a_saved_model(tmp_path):
    model, mdata = fitted("CLUE")
    options = {"source": "rna", "interval": 0.9}
    here = model.impute("adt", **options)
    model.impute("adt", **options, out=tmp_path / "adt.zarr")
    model.save(tmp_path / "model")
    loaded = CLUE.load(tmp_path / "model", mdata)
    for other in (anndata.read_zarr(tmp_path / "adt.zarr"), loaded.impute("adt", **options)):
        for key in ("lower", "upper"):
            np.testing.assert_allclose(np.asarray(other.layers[key]), here.layers[key], rtol=1e-5)
        assert dict(other.uns["cantata"]["interval"]) == here.uns["cantata"]["interval"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 1.2}, "interval=1.2 is the share"),
        ({"interval": True}, "interval=True is the share"),
        ({"interval": "0.9"}, "interval='0.9' is the share"),
        ({"interval": 0.9, "source": None}, "inferred from one other modality.*source=None"),
        ({"interval": 0.9, "source": "adt"}, "source='adt'"),
        ({"interval": 0.9, "library_size": 100.0}, "leave one out"),
        (
            {"interval": 0.999},
            "interval=0.999 needs 1999 held-out cells with 'rna' and 'adt' among",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_named(options, message):
    scvi.settings.seed = 0
    mdata = counts_mosaic(n_cells=100)
    CLUE.setup_mudata(mdata)
    model = CLUE(mdata, **CASES["CLUE"].model)
    model.train(max_epochs=1, **QUIET)
    with pytest.raises(ValueError, match=message):
        model.impute("adt", **{"source": "rna"} | options)


def test_held_out_cells_are_those_that_no_training_has_seen():
    mdata = counts_mosaic(n_cells=200)
    model = CASES["CLUE"].fit(mdata, max_epochs=1, **HALF)
    first = set(mdata.obs_names[model.validation_indices])
    scvi.settings.seed = 1
    model.train(max_epochs=1, **QUIET, **HALF)
    second = set(mdata.obs_names[model.validation_indices])
    assert first != second
    assert set(model.held_out_cells_) == first & second
    query = counts_mosaic(n_cells=60, seed=3)
    for name in query.mod:
        query[name].obs_names = "new_" + query[name].obs_names
    query.update()
    query = type(query)(query.mod)
    together = model.finetune(query, max_epochs=1, **QUIET)
    mine = set(together.held_out_cells_) & set(mdata.obs_names)
    assert mine <= first & second
    assert set(together.held_out_cells_) - mine <= set(query.obs_names)


def test_a_loaded_model_knows_them_by_name(tmp_path):
    mdata = counts_mosaic(n_cells=300)
    model = CASES["CLUE"].fit(mdata, max_epochs=1, **HALF)
    model.save(tmp_path / "model")
    other = mosaic({m: a[::-1].copy() for m, a in mdata.mod.items()})
    loaded = CLUE.load(tmp_path / "model", other)
    assert set(other.obs_names[loaded.validation_indices]) == set(model.held_out_cells_)
    few = mosaic({m: a[:40].copy() for m, a in mdata.mod.items()})
    of_few = CLUE.load(tmp_path / "model", few).validation_indices
    assert set(few.obs_names[of_few]) == set(model.held_out_cells_) & set(few.obs_names)
    same = CLUE.load(tmp_path / "model", mdata)
    np.testing.assert_array_equal(same.train_indices, model.train_indices)
    np.testing.assert_array_equal(same.validation_indices, model.validation_indices)
    found = loaded.impute("adt", source="rna", interval=0.8)[mdata["rna"].obs_names]
    expected = model.impute("adt", source="rna", interval=0.8)[mdata["rna"].obs_names]
    np.testing.assert_allclose(found.layers["upper"], expected.layers["upper"], rtol=1e-4)


@pytest.mark.parametrize("name", ["CLUE", "SCMODAL", "APOLLO"])
def test_a_query_alone_has_none_and_the_reference_helps(name):
    case = CASES[name]
    mdata = case.data(n_cells=400)
    # by default CLUE trains on all pairs where they are so few
    model = case.fit(mdata, **({"train_size": 0.9} if name == "CLUE" else {}))
    query = mosaic({"rna": case.data(n_cells=50, seed=7)["rna"]})
    if name != "SCMODAL":  # whose new data need their links
        adapted = case.cls.load_query_data(query, model)
        with pytest.raises(ValueError, match=r"interval=0\.8 needs 9 .* impute\(mdata=query\)"):
            adapted.impute("adt", source="rna", interval=0.8, transform_batch="b0")
    bounds = model.impute("adt", query, source="rna", interval=0.8)
    assert (bounds.layers["lower"] <= bounds.layers["upper"]).all()


def test_probabilities_and_averages_of_near_cells_have_none():
    scvi.settings.seed = 0
    mdata = counts_mosaic(n_cells=100)
    CLUE.setup_mudata(mdata)
    model = CLUE(mdata, likelihoods={"adt": "bernoulli"}, **CASES["CLUE"].model)
    model.train(max_epochs=1, **QUIET)
    with pytest.raises(ValueError, match="imputed 'adt' are probabilities"):
        model.impute("adt", source="rna", interval=0.9)
    model = CASES["SCMODAL"].fit(linked_mosaic(n_cells=60))
    with pytest.raises(ValueError, match="n_anchors averages; give one"):
        model.impute("adt", source="rna", interval=0.9, n_anchors=3)


def test_values_within_each_cell_have_none():
    scvi.settings.seed = 0
    mdata = counts_mosaic(n_cells=100)
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata, **CASES["APOLLO"].model)
    model.train(max_epochs=1, encoder_epochs=1, **QUIET)
    with pytest.raises(ValueError, match="leave out calibrate"):
        model.impute("adt", source="rna", interval=0.9, calibrate=False)


def test_scmodal_has_no_library_size_beside_them():
    scvi.settings.seed = 0
    mdata = linked_mosaic(n_cells=60)
    SCMODAL.setup_mudata(mdata)
    model = SCMODAL(mdata, **CASES["SCMODAL"].model)
    model.train(max_steps=1, **QUIET)
    with pytest.raises(ValueError, match="leave one out"):
        model.impute("adt", source="rna", interval=0.9, library_size=10.0)
