"""Annotations at MuData and at modality level."""

from __future__ import annotations

import numpy as np
import pytest
from mosaics import counts_mosaic

from cantata._mudata.obs import coalesce_obs
from cantata.data import MosaicCategoricalField, MosaicNumericalField


def expected(mdata):
    return np.array([f"b{int(name[1:]) % 2}" for name in mdata.obs_names])


def test_column_of_the_modalities_is_coalesced() -> None:
    mdata = counts_mosaic()
    assert (coalesce_obs(mdata, "batch").to_numpy() == expected(mdata)).all()


def test_column_of_the_mudata_comes_first_and_is_completed() -> None:
    mdata = counts_mosaic()
    mdata.obs["batch"] = expected(mdata)
    mdata.obs.loc[mdata.obs_names[::2], "batch"] = np.nan
    assert (coalesce_obs(mdata, "batch").to_numpy() == expected(mdata)).all()


def test_prefixed_column_is_found() -> None:
    mdata = counts_mosaic()
    for name in mdata.mod:
        del mdata[name].obs["batch"]
    mdata.obs["rna:batch"] = expected(mdata)
    assert (coalesce_obs(mdata, "batch").to_numpy() == expected(mdata)).all()


def test_contradiction_names_a_cell_and_both_places() -> None:
    mdata = counts_mosaic()
    both = mdata["rna"].obs_names.intersection(mdata["adt"].obs_names)
    mdata["adt"].obs.loc[both[0], "batch"] = "other"
    with pytest.raises(ValueError, match=r"contradicts itself for 1 cells.*other.*adt"):
        coalesce_obs(mdata, "batch")


def test_unknown_column_is_named() -> None:
    with pytest.raises(KeyError, match="batch_key='site'"):
        coalesce_obs(counts_mosaic(), "site")


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
    other.obs["age"] = "old"
    with pytest.raises(TypeError, match="not numeric"):
        field.transfer_field(state, other)
