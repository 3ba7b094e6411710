"""Values and annotations of cells as registered fields."""

from __future__ import annotations

import numpy as np
import pytest
from mosaics import counts_mosaic
from scipy import sparse

from cantata.data import (
    MosaicCategoricalField,
    MosaicManager,
    MosaicNumericalField,
    MosaicRepField,
    MosaicValuesField,
    registered_fields,
)


def test_incomplete_column_is_refused_unless_labels() -> None:
    mdata = counts_mosaic()
    values = mdata["rna"].obs["group"].copy()
    for name in mdata.mod:
        del mdata[name].obs["group"]
    mdata["rna"].obs["group"] = values
    names = list(mdata.mod)
    with pytest.raises(ValueError, match="has no value for 15 of 60 cells"):
        MosaicCategoricalField("batch", "group", names, "batch_key").register_field(mdata)
    field = MosaicCategoricalField("labels", "group", names, "labels_key", allow_missing=True)
    codes = field.read(mdata, field.register_field(mdata))
    assert (codes < 0).sum() == 15


def test_numbers_are_standardised_with_the_moments_of_the_source() -> None:
    mdata = counts_mosaic()
    mdata.obs["age"] = np.arange(mdata.n_obs, dtype=float)
    field = MosaicNumericalField("age", "age", list(mdata.mod), "continuous_covariate_keys")
    state = field.register_field(mdata)
    values = field.read(mdata, state)
    assert abs(values.mean()) < 1e-6
    assert abs(values.std() - 1) < 1e-5
    other = counts_mosaic(seed=1)
    other.obs["age"] = 1000.0
    shifted = field.read(other, field.transfer_field(state, other))
    assert shifted.min() > 10
    other.obs.loc["c7", "age"] = np.nan
    with pytest.raises(ValueError, match=r"has no value for 1 of 60 cells, .*'c7'"):
        field.transfer_field(state, other)
    other.obs["age"] = "old"
    with pytest.raises(TypeError, match="not numeric"):
        field.transfer_field(state, other)


def test_labels_that_new_data_lack_are_unknown() -> None:
    mdata, other = counts_mosaic(), counts_mosaic(seed=1)
    names = list(mdata.mod)
    field = MosaicCategoricalField("labels", "group", names, "labels_key", allow_missing=True)
    state = field.register_field(mdata)
    known = field.read(other, field.transfer_field(state, other))
    assert set(known) == {0, 1, 2}
    for name in names:
        del other[name].obs["group"]
    other.obs = other.obs.drop(columns=[c for c in other.obs if c.endswith("group")])
    assert not field.is_present(other)
    assert (field.read(other, field.transfer_field(state, other)) == -1).all()


def test_the_batch_alone_may_be_absent_of_new_data_and_only_where_that_is_allowed() -> None:
    mdata, other = counts_mosaic(), counts_mosaic(seed=1)
    for name in other.mod:
        del other[name].obs["group"]
    other.obs = other.obs.drop(columns=[c for c in other.obs if c.endswith("group")])
    for key, allow_absent in (("batch", False), ("categorical_group", True)):
        field = MosaicCategoricalField(key, "group", list(mdata.mod), "argument")
        with pytest.raises(KeyError, match="group"):
            field.transfer_field(field.register_field(mdata), other, allow_absent=allow_absent)
    field = MosaicCategoricalField("batch", "group", list(mdata.mod), "batch_key")
    state = field.transfer_field(field.register_field(mdata), other, allow_absent=True)
    assert (field.read(other, state) == -1).all()


def test_values_stay_as_they_are_stored() -> None:
    mdata = counts_mosaic()
    mdata["rna"].X = mdata["rna"].X.tocsc()
    mdata["adt"].X = np.asfortranarray(mdata["adt"].X.toarray())
    mdata["adt"].obsm["X_pca"] = np.asfortranarray(mdata["adt"].X[:, :2])
    fields = [MosaicValuesField(name, None) for name in mdata.mod]
    manager = MosaicManager([*fields, MosaicRepField("adt", "X_pca")])
    manager.register_fields(mdata)
    assert sparse.issparse(mdata["rna"].X)
    assert mdata["rna"].X.format == "csc"
    for values in (mdata["adt"].X, mdata["adt"].obsm["X_pca"]):
        assert not values.flags.c_contiguous


def test_new_values_must_match_those_of_the_set_up() -> None:
    mdata, other = counts_mosaic(), counts_mosaic(seed=1)
    field = MosaicValuesField("rna", None)
    state = field.register_field(mdata)
    moved = field.transfer_field(state, other)
    assert moved["source_stats"] == state["stats"] != moved["stats"]
    with pytest.raises(ValueError, match="'rna' has other features than the model"):
        field.transfer_field(state, counts_mosaic({"rna": 13, "adt": 6}))
    other["rna"].X.data[0] = -1
    with pytest.raises(ValueError, match="'rna' has 1 negative values"):
        field.transfer_field(state, other)


def test_nan_of_a_whole_batch_is_read_as_0() -> None:
    mdata = counts_mosaic()
    x, in_batch = mdata["rna"].X.toarray(), (mdata["rna"].obs["batch"] == "b1").to_numpy()
    x[in_batch, 3] = np.nan
    mdata["rna"].X = x
    with pytest.raises(ValueError, match=f"'rna' has {in_batch.sum()} NaN"):
        MosaicValuesField("rna", None).register_field(mdata)
    manager = MosaicManager([MosaicValuesField("rna", None, "batch", ["rna"])])
    manager.register_fields(mdata)
    np.testing.assert_array_equal(manager.get_from_registry("rna"), np.nan_to_num(x))
    x[np.flatnonzero(in_batch)[0], 3] = 1.0
    with pytest.raises(ValueError, match=f"'rna' has {in_batch.sum() - 1} NaN"):
        MosaicValuesField("rna", None, "batch", ["rna"]).register_field(mdata)


def test_every_argument_of_set_up_has_its_field() -> None:
    fields = registered_fields(
        {
            "modalities": ["rna", "adt"],
            "layers": {"rna": "counts", "adt": None},
            "reps": {"rna": "X_pca"},
            "batch_key": "batch",
            "labels_key": "group",
            "categorical_covariate_keys": ["site"],
            "continuous_covariate_keys": ["age"],
        }
    )
    assert [(type(f), f.registry_key, f.attr_key) for f in fields] == [
        (MosaicValuesField, "rna", "counts"),
        (MosaicValuesField, "adt", None),
        (MosaicRepField, "rna_rep", "X_pca"),
        (MosaicCategoricalField, "batch", "batch"),
        (MosaicCategoricalField, "labels", "group"),
        (MosaicCategoricalField, "categorical_site", "site"),
        (MosaicNumericalField, "continuous_age", "age"),
    ]
    assert [f.allow_missing for f in fields[3:6]] == [False, True, False]
