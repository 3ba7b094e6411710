"""Annotations at MuData and at modality level."""

from __future__ import annotations

import numpy as np
import pytest
from mosaics import counts_mosaic

from cantata._mudata.obs import coalesce_obs


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
