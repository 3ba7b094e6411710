"""Bad input gets one clear error before the first epoch, and the MuData stays as it was."""

from __future__ import annotations

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import counts_mosaic, mosaic
from scipy import sparse

from cantata import CLUE

IDENTIFIERS = {"_scvi_uuid", "_scvi_manager_uuid"}


def snapshot(mdata: mudata.MuData) -> dict:
    return {
        "obs": mdata.obs.copy(),
        "uns": set(mdata.uns) - IDENTIFIERS,
        "obsm": set(mdata.obsm),
        "parts": {
            m: (a.X.copy(), a.obs.copy(), a.var.copy(), set(a.layers), set(a.obsm), set(a.uns))
            for m, a in mdata.mod.items()
        },
    }


def assert_unchanged(mdata: mudata.MuData, before: dict) -> None:
    pd.testing.assert_frame_equal(mdata.obs, before["obs"])
    assert set(mdata.uns) - IDENTIFIERS == before["uns"]
    assert set(mdata.obsm) == before["obsm"]
    for m, (x, obs, var, layers, obsm, uns) in before["parts"].items():
        a = mdata[m]
        assert np.array_equal(a.X.toarray(), x.toarray(), equal_nan=True)
        pd.testing.assert_frame_equal(a.obs, obs)
        pd.testing.assert_frame_equal(a.var, var)
        assert (set(a.layers), set(a.obsm), set(a.uns)) == (layers, obsm, uns)


def changed(name: str, change) -> mudata.MuData:
    mdata = counts_mosaic()
    x = mdata[name].X.toarray()
    change(x)
    mdata[name].X = sparse.csr_matrix(x)
    return mdata


def set_value(value: float):
    def change(x: np.ndarray) -> None:
        x[3, 2] = value

    return change


def empty_row(x: np.ndarray) -> None:
    x[5] = 0


def duplicate(axis: str) -> mudata.MuData:
    mdata = counts_mosaic()
    parts = {m: mdata[m].copy() for m in mdata.mod}
    names = list(getattr(parts["adt"], f"{axis}_names"))
    names[1] = names[0]
    setattr(parts["adt"], f"{axis}_names", names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mosaic(parts)


def without_cells() -> mudata.MuData:
    mdata = counts_mosaic()
    return mosaic({"rna": mdata["rna"].copy(), "adt": mdata["adt"][:0].copy()})


def unpaired() -> mudata.MuData:
    member = np.ones((60, 2), dtype=bool)
    member[:30, 0] = False
    member[30:, 1] = False
    return counts_mosaic(member=member)


def contradiction() -> mudata.MuData:
    mdata = counts_mosaic()
    mdata["adt"].obs["batch"] = "x"
    return mdata


CASES = {
    "non-integer": (
        lambda: changed("rna", set_value(0.5)),
        {},
        ValueError,
        r"'rna' has 1 values that are no integers.*layers=.*'normal'",
    ),
    "negative": (
        lambda: changed("adt", set_value(-2.0)),
        {},
        ValueError,
        r"'adt' has 1 negative values.*'normal'",
    ),
    "nan": (
        lambda: changed("adt", set_value(np.nan)),
        {},
        ValueError,
        r"'adt' has 1 NaN or infinite values.*e\.g\. in cell 'c\d+'",
    ),
    "infinite": (
        lambda: changed("rna", set_value(np.inf)),
        {},
        ValueError,
        r"'rna' has 1 NaN or infinite values",
    ),
    "no cells": (without_cells, {}, ValueError, r"'adt' has 0 cells.*modalities=\[\.\.\.\]"),
    "duplicate cells": (
        lambda: duplicate("obs"),
        {},
        ValueError,
        r"'adt' has 1 duplicate cell names, e\.g\. 'c\d+'.*obs_names_make_unique",
    ),
    "duplicate features": (
        lambda: duplicate("var"),
        {},
        ValueError,
        r"'adt' has 1 duplicate feature names, e\.g\. 'adt_0'.*var_names_make_unique",
    ),
    "empty cell": (
        lambda: changed("rna", empty_row),
        {},
        ValueError,
        r"'rna' has 1 cells without counts, e\.g\. 'c\d+'.*drop_empty",
    ),
    "unknown layer": (counts_mosaic, {"layers": {"rna": "raw"}}, KeyError, r"'rna': 'raw'"),
    "layer of an unknown modality": (
        counts_mosaic,
        {"layers": {"atac": "counts"}},
        KeyError,
        r"layers names modalities that are not used: \['atac'\]",
    ),
    "unknown batch key": (counts_mosaic, {"batch_key": "site"}, KeyError, "batch_key='site'"),
    "unknown label key": (counts_mosaic, {"labels_key": "type"}, KeyError, "labels_key='type'"),
    "unknown covariate": (
        counts_mosaic,
        {"categorical_covariate_keys": ["sex"]},
        KeyError,
        "categorical_covariate_keys='sex'",
    ),
    "covariate that is no number": (
        counts_mosaic,
        {"continuous_covariate_keys": ["batch"]},
        TypeError,
        "continuous_covariate_keys='batch' is not numeric",
    ),
    "unknown representation": (
        counts_mosaic,
        {"reps": {"rna": "X_pca"}},
        KeyError,
        r"'rna': 'X_pca'.*preprocess",
    ),
    "contradicting batches": (
        contradiction,
        {"batch_key": "batch"},
        ValueError,
        r"batch_key='batch' contradicts itself for 30 cells: cell 'c\d+' is 'b\d'",
    ),
    "no paired cell": (
        unpaired,
        {},
        ValueError,
        r"\[\['rna'\], \['adt'\]\]: 0 of 60 cells.*SCMODAL",
    ),
    "unknown modality": (counts_mosaic, {"modalities": ["rna", "x"]}, KeyError, r"\['x'\]"),
    "links": (counts_mosaic, {"pairs": [("rna", "adt")]}, ValueError, "does not use links"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error_and_nothing_changed(case: str) -> None:
    make, arguments, error, message = CASES[case]
    mdata = make()
    before = snapshot(mdata)

    def use() -> None:
        CLUE.setup_mudata(mdata, **arguments)
        CLUE(mdata)

    with pytest.raises(error, match=f"(?s){message}"):
        use()
    assert_unchanged(mdata, before)


def test_other_likelihoods_take_other_values() -> None:
    mdata = changed("adt", set_value(-2.5))
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, likelihoods={"adt": "normal"}, n_latent=3)
    clue.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    assert np.isfinite(clue.get_latent_representation()).all()


def test_not_a_mudata_and_a_view() -> None:
    mdata = counts_mosaic()
    with pytest.raises(TypeError, match="Expected a MuData, got AnnData"):
        CLUE.setup_mudata(mdata["rna"])
    with pytest.raises(ValueError, match=r"is a view.*copy"):
        CLUE.setup_mudata(mdata[:20])


def test_stale_obsmap() -> None:
    mdata = counts_mosaic()
    mdata.mod["rna"] = mdata["rna"][::-1].copy()
    with pytest.raises(ValueError, match=r"'rna' changed after.*mdata.update\(\)"):
        CLUE.setup_mudata(mdata)


def test_features_without_counts_and_one_batch_are_only_a_warning() -> None:
    def blank(x: np.ndarray) -> None:
        x[:, 3] = 0

    mdata = changed("rna", blank)
    for name in mdata.mod:
        mdata[name].obs["batch"] = "only"
    CLUE.setup_mudata(mdata, batch_key="batch")
    with pytest.warns(UserWarning, match="'rna': 1 of 12 features have no count"):
        clue = CLUE(mdata, n_latent=3)
    clue.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    assert np.isfinite(clue.get_latent_representation()).all()


def test_reserved_names() -> None:
    mdata = counts_mosaic({"rna": 5, "batch": 5})
    with pytest.raises(ValueError, match="'batch' has a name that cantata needs"):
        CLUE.setup_mudata(mdata)


def test_unknown_likelihood_and_plan_argument() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    with pytest.raises(ValueError, match="Unknown likelihoods"):
        CLUE(mdata, likelihoods="gamma")
    for argument in ("fusion", "alignment", "library"):
        with pytest.raises(ValueError, match=f"{argument}='x' is not one of"):
            CLUE(mdata, **{argument: "x"})
    with pytest.raises(KeyError, match="likelihoods names modalities"):
        CLUE(mdata, likelihoods={"atac": "nb"})
    with pytest.raises(TypeError, match="lambda_gan"):
        CLUE(mdata).train(1, plan_kwargs={"lambda_gan": 1.0}, enable_progress_bar=False)
    with pytest.raises(ValueError, match="lr_schedule='step' is neither 'constant' nor 'cosine'"):
        CLUE(mdata).train(1, plan_kwargs={"lr_schedule": "step"}, enable_progress_bar=False)


def test_backed_and_integer_and_dense_input_train(tmp_path) -> None:
    mdata = counts_mosaic()
    mdata["adt"].X = mdata["adt"].X.astype(np.int64)
    mdata["rna"].X = mdata["rna"].X.toarray()
    mdata.write_h5mu(tmp_path / "x.h5mu")
    backed = mudata.read_h5mu(tmp_path / "x.h5mu", backed="r")
    embeddings = []
    for data in (mdata, backed):
        CLUE.setup_mudata(data)
        clue = CLUE(data, n_latent=3)
        clue.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
        embeddings.append(clue.get_latent_representation())
        assert np.isfinite(embeddings[-1]).all()
    assert embeddings[0].shape == embeddings[1].shape
    assert isinstance(mdata["rna"], AnnData)
    backed.file.close()


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli", "nb"])
def test_cells_without_any_value_are_refused_by_every_likelihood(likelihood: str) -> None:
    mdata = changed("adt", empty_row)
    CLUE.setup_mudata(mdata)
    with pytest.raises(ValueError, match=r"'adt' has 1 cells without counts.*drop_empty"):
        CLUE(mdata, likelihoods={"adt": likelihood})


def test_negative_values_are_no_counts() -> None:
    mdata = changed("adt", set_value(-2.0))
    CLUE.setup_mudata(mdata)
    with pytest.raises(ValueError, match=r"'adt' has 1 negative values.*'bernoulli'.*'normal'"):
        CLUE(mdata, likelihoods={"adt": "bernoulli"})


def test_encoders_without_a_hidden_layer_are_refused() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    with pytest.raises(ValueError, match="n_layers_encoder=0 must be at least 1"):
        CLUE(mdata, n_layers_encoder=0)
    with pytest.raises(ValueError, match="discriminator_input='x' is not one of"):
        CLUE(mdata, discriminator_input="x")
