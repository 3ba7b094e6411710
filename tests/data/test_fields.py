"""Annotations of cells as registered fields."""

from __future__ import annotations

import numpy as np
import pytest
from mosaics import counts_mosaic

from cantata.data import MosaicCategoricalField, MosaicNumericalField


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
