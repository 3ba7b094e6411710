"""Matrices of a modality and the layer that holds them."""

from __future__ import annotations

import numpy as np
import pytest
from mosaics import counts_mosaic

from cantata._mudata.values import choose_layer, matrix_of


def test_a_named_layer_then_the_recorded_one_then_x() -> None:
    mdata = counts_mosaic()
    rna = mdata["rna"]
    rna.layers["raw"], rna.layers["mine"] = rna.X * 2, rna.X * 3
    assert choose_layer(mdata, "rna", {"adt": "raw"}) is None
    rna.uns["cantata"] = {"preprocess": {"counts_layer": "raw"}}
    assert choose_layer(mdata, "rna", {}) == "raw"
    assert choose_layer(mdata, "rna", {"rna": "mine"}) == "mine"
    assert choose_layer(mdata, "rna", {"rna": None}) is None
    del rna.layers["raw"]
    assert choose_layer(mdata, "rna", {}) is None


def test_matrices_and_what_is_not_there() -> None:
    mdata = counts_mosaic()
    mdata["rna"].layers["raw"] = mdata["rna"].X * 2
    assert matrix_of(mdata, "rna") is mdata["rna"].X
    np.testing.assert_array_equal(matrix_of(mdata, "rna", "raw").max(), mdata["rna"].X.max() * 2)
    with pytest.raises(KeyError, match=r"layers=\{'rna': 'nil'\}.*'raw'.*Use None for .X"):
        matrix_of(mdata, "rna", "nil")
    with pytest.raises(KeyError, match=r"layer='nil': modality 'rna' has the layers \['raw'\]"):
        matrix_of(mdata, "rna", "nil", argument="layer='nil'")
    mdata["rna"].X = None
    with pytest.raises(KeyError, match=r"'rna' has no .X; name a layer: \['raw'\]"):
        matrix_of(mdata, "rna")
