from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cantata import pp


def _empty(mdata, name, rows):
    x = mdata[name].X
    x = x.toarray() if sparse.issparse(x) else np.array(x)
    x[rows] = 0
    mdata[name].X = x if not sparse.issparse(mdata[name].X) else type(mdata[name].X)(x)


@pytest.mark.parametrize("fmt", ["csr", "csc", "csr_array", "dense"])
def test_empty_cells_leave_that_modality_only(make, fmt, caplog):
    mdata = make("full", fmt=fmt)
    gone = [3, 50, 119]
    names = mdata["adt"].obs_names[gone]
    _empty(mdata, "adt", gone)
    shapes = {m: mdata[m].shape for m in mdata.mod}
    with caplog.at_level(logging.INFO, logger="cantata"):
        new = pp.drop_empty(mdata)
    assert {m: mdata[m].shape for m in mdata.mod} == shapes
    assert list(new.obs_names) == list(mdata.obs_names)
    assert set(mdata["adt"].obs_names) - set(new["adt"].obs_names) == set(names)
    assert new["rna"].n_obs == new["atac"].n_obs == 120
    assert np.all(np.asarray(new["adt"].X.sum(axis=1)).ravel() > 0)
    assert "3 of 120 cells have no counts in modality 'adt'" in caplog.text


def test_rows_line_up_afterwards(make):
    from cantata._mudata.pairing import row_table

    mdata = make("partial")
    _empty(mdata, "rna", np.arange(0, 40))
    with pytest.warns(UserWarning, match="counts in no modality"):
        new = pp.drop_empty(mdata)
    for name, rows in row_table(new).items():
        present = rows >= 0
        assert list(new[name].obs_names[rows[present]]) == list(new.obs_names[present])


def test_cells_measured_nowhere_vanish_with_a_warning(make):
    mdata = make("none")
    cell = mdata["rna"].obs_names[0]
    _empty(mdata, "rna", [0])
    with pytest.warns(UserWarning, match=f"1 of 120 cells .*{cell}"):
        new = pp.drop_empty(mdata)
    assert list(new.obs_names) == [c for c in mdata.obs_names if c != cell]


def test_annotations_are_taken_along_and_no_column_appears(make):
    mdata = make("none")
    _empty(mdata, "rna", [0])
    mdata.obs = pd.DataFrame({"number": np.arange(120)}, index=mdata.obs_names)
    mdata.obsm["X_joint"] = np.arange(240, dtype=float).reshape(120, 2)
    mdata.obsp["graph"] = sparse.csr_matrix(np.diag(np.arange(120.0)))
    mdata.varm["w"] = np.ones((mdata.n_vars, 1))
    mdata.uns["note"] = {"a": [1]}
    with pytest.warns(UserWarning, match="counts in no modality"):
        new = pp.drop_empty(mdata)
    assert list(new.obs.columns) == ["number"]
    kept = mdata.obs.loc[new.obs_names, "number"].to_numpy()
    np.testing.assert_array_equal(new.obs["number"], kept)
    np.testing.assert_array_equal(new.obsm["X_joint"], mdata.obsm["X_joint"][kept])
    np.testing.assert_array_equal(new.obsp["graph"].diagonal(), kept)
    assert new.varm["w"].shape == (mdata.n_vars, 1)
    new.uns["note"]["a"].append(2)
    assert mdata.uns["note"] == {"a": [1]}


def test_layers_and_modalities_choose_what_is_read(make):
    mdata = make("full")
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    _empty(mdata, "rna", [0, 1])
    _empty(mdata, "adt", [2])
    new = pp.drop_empty(mdata, modalities=["rna"], layers={"rna": "counts"})
    assert (new["rna"].n_obs, new["adt"].n_obs) == (120, 120)
    assert pp.drop_empty(mdata, modalities=["rna"])["rna"].n_obs == 118


def test_errors(make):
    mdata = make("full")
    with pytest.raises(KeyError, match="nothing"):
        pp.drop_empty(mdata, layers={"rna": "nothing"})
    with pytest.raises(KeyError, match="cytof"):
        pp.drop_empty(mdata, modalities=["cytof"])
    _empty(mdata, "adt", np.arange(120))
    with pytest.raises(ValueError, match="'adt': none of its 120 cells"):
        pp.drop_empty(mdata)
