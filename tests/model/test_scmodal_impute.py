"""Imputation: one encoder, another decoder; hops, units, batches, measured neighbours, files."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scvi
import torch
from linked_mosaics import QUIET, SMALL, THREE, chain, linked_mosaic

from cantata import SCMODAL
from cantata.nn import Covariates


@pytest.fixture(scope="module")
def scmodal() -> SCMODAL:
    """Proteins by centred log ratio, RNA as log counts, chromatin as rotated log counts."""
    scvi.settings.seed = 0
    mdata = chain()
    SCMODAL.setup_mudata(mdata, batch_key="batch")
    model = SCMODAL(mdata, transforms={"atac": "log1p"}, n_components=8, **SMALL)
    model.train(max_steps=20, plan_kwargs={"lr": 5e-3}, **QUIET)
    model.module.eval()
    return model


def tensors(model: SCMODAL, modality: str) -> tuple[np.ndarray, torch.Tensor, Covariates]:
    """Names, values and batches of a modality's cells, in the order of the whole data."""
    data = model.adata
    names = data.obs_names[data.obs_names.isin(data[modality].obs_names)]
    part = data[modality][names]
    codes = torch.tensor([[model.batch_categories.index(b)] for b in part.obs["batch"]])
    return names.to_numpy(), torch.from_numpy(part.X.toarray()), Covariates(codes, None)


def decoded(model: SCMODAL, target: str, z: torch.Tensor, covariates: Covariates) -> np.ndarray:
    net = model.module
    values = net.decoders[target](z, covariates)
    return net.inputs[target].inverse(values, batch=covariates.batch).numpy()


@torch.inference_mode()
def by_hand(model: SCMODAL, source: str, target: str, via: tuple[str, ...] = ()):
    net = model.module
    names, x, covariates = tensors(model, source)
    z = net.encoders[source](net.inputs[source](x, covariates.batch), covariates)
    for hop in via:
        z = net.encoders[hop](net.decoders[hop](z, covariates), covariates)
    return names, decoded(model, target, z, covariates)


@pytest.mark.parametrize("source", THREE)
@pytest.mark.parametrize("target", THREE)
def test_one_encoder_and_another_decoder(scmodal, source: str, target: str) -> None:
    names, expected = by_hand(scmodal, source, target)
    imputed = scmodal.impute(target, source=source, batch_size=13)
    assert list(imputed.obs_names) == list(names)
    assert list(imputed.var_names) == list(scmodal.adata[target].var_names)
    assert imputed.X.dtype == np.float32
    np.testing.assert_allclose(imputed.X, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(imputed.X, axis=0).max() > 0.1


@pytest.mark.parametrize("via", [("rna",), ("rna", "atac")])
def test_over_other_modalities(scmodal, via: tuple[str, ...]) -> None:
    _, expected = by_hand(scmodal, "adt", "atac", via)
    imputed = scmodal.impute("atac", source="adt", via=via).X
    np.testing.assert_allclose(imputed, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(imputed - scmodal.impute("atac", source="adt").X).max() > 1e-3


@torch.inference_mode()
def test_without_a_source_from_all_that_a_cell_has(scmodal) -> None:
    imputed = scmodal.impute("rna")
    data = scmodal.adata
    assert list(imputed.obs_names) == list(data.obs_names)
    z = torch.from_numpy(scmodal.get_latent_representation())
    batches = {c: b for m in data.mod for c, b in data[m].obs["batch"].items()}
    codes = torch.tensor([[scmodal.batch_categories.index(batches[c])] for c in data.obs_names])
    expected = decoded(scmodal, "rna", z, Covariates(codes, None))
    np.testing.assert_allclose(imputed.X, expected, rtol=1e-4, atol=1e-4)


def test_source_uses_that_modality_alone(scmodal) -> None:
    mdata = scmodal.adata.copy()
    before = scmodal.impute("adt", mdata, source="rna").to_df()
    mdata["adt"].X = mdata["adt"].X * 7
    np.testing.assert_array_equal(scmodal.impute("adt", mdata, source="rna").to_df(), before)
    lacking = np.flatnonzero(~mdata.obs_names.isin(mdata["rna"].obs_names))[:2]
    with pytest.raises(ValueError, match=r"2 of the chosen cells have no 'rna', e.g. 'c\d+'"):
        scmodal.impute("adt", source="rna", indices=lacking)


def test_features_and_indices(scmodal) -> None:
    whole = scmodal.impute("rna").to_df()
    part = scmodal.impute("rna", features=["rna_5", "rna_2"], indices=[9, 4], batch_size=1)
    np.testing.assert_allclose(
        part.to_df(), whole.iloc[[9, 4]][["rna_5", "rna_2"]], rtol=1e-4, atol=1e-5
    )
    assert list(part.var_names) == ["rna_5", "rna_2"]
    near = scmodal.impute("rna", features=["rna_5", "rna_2"], n_anchors=3)
    all_near = scmodal.impute("rna", n_anchors=3)[:, ["rna_5", "rna_2"]]
    np.testing.assert_array_equal(near.X, all_near.X)
    np.testing.assert_array_equal(near.layers["std"], all_near.layers["std"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modality": "protein"}, "modality='protein' is not one of"),
        ({"modality": "adt", "source": "protein"}, "source='protein' is not one of"),
        ({"modality": "adt", "via": ["rna", "protein"]}, "via=.*'protein' is not one of"),
        (
            {"modality": "rna", "features": ["CD4", "rna_1"]},
            "1 features are not in modality 'rna', e.g. 'CD4'",
        ),
        ({"modality": "rna", "transform_batch": "b9"}, "transform_batch"),
    ],
)
def test_unknown_names(scmodal, tmp_path, arguments: dict, message: str) -> None:
    path = tmp_path / "x.zarr"
    with pytest.raises(KeyError, match=message):
        scmodal.impute(**arguments, out=str(path))
    assert not path.exists()


# Units ------------------------------------------------------------------------------------------


def at_median_total(model: SCMODAL, name: str) -> np.ndarray:
    x = model.adata[name].X.toarray().astype(np.float64)
    return x / x.sum(axis=1, keepdims=True) * np.median(x.sum(axis=1))


@pytest.mark.parametrize("transform", ["log1p", "clr", "tfidf", "arcsinh", None])
@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_means_are_those_that_were_measured(transform: str | None, batch_key: str | None) -> None:
    """Also of features that few cells have, and of those that a mean logarithm gets most wrong."""
    mdata = linked_mosaic({"rna": 60, "adt": 8}, n_cells=200)
    x = np.random.default_rng(0).poisson(np.exp(np.linspace(-2, 2, 60)), (mdata["rna"].n_obs, 60))
    x = x * np.random.default_rng(1).lognormal(0, 1, x.shape)
    mdata["rna"].X = np.round(x + (np.arange(60) == 59)).astype(np.float32)
    SCMODAL.setup_mudata(mdata, batch_key=batch_key)
    model = SCMODAL(mdata, transforms={"rna": transform}, n_components=10, **SMALL)
    model.train(max_steps=100, plan_kwargs={"lr": 5e-3}, **QUIET)
    measured = mdata["rna"].X
    if model.module.input("rna").scales_cells:
        measured = measured / measured.sum(axis=1, keepdims=True)
        measured = measured * np.median(mdata["rna"].X.sum(axis=1))
    often = (measured > 0).mean(axis=0) > 0.2
    ratio = (model.impute("rna", source="rna").X.mean(axis=0) / measured.mean(axis=0))[often]
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    assert np.abs(ratio - 1).max() < 0.15
    across = model.impute("rna", source="adt").X.mean(axis=0) / measured.mean(axis=0)
    assert np.median(across[often]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("target", THREE)
@pytest.mark.parametrize("n_anchors", [0, 3])
def test_library_size(scmodal, target: str, n_anchors: int) -> None:
    """Rows sum to what is said of them, by default the median of the modality's cells."""
    plain = scmodal.impute(target, n_anchors=n_anchors)
    median = np.median(np.asarray(scmodal.adata[target].X.sum(axis=1)))
    np.testing.assert_allclose(plain.obs["library_size"], median)
    np.testing.assert_allclose(plain.X.sum(axis=1), median, rtol=1e-4)
    assert "library_size" in plain.uns["cantata"]["units"]
    sizes = np.linspace(10, 20, scmodal.adata.n_obs)
    for size in (50.0, sizes):
        scaled = scmodal.impute(target, library_size=size, n_anchors=n_anchors, batch_size=17)
        factor = np.broadcast_to(size, sizes.shape)[:, None] / median
        np.testing.assert_allclose(scaled.X, plain.X * factor, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scaled.obs["library_size"], factor[:, 0] * median, rtol=1e-5)
        if n_anchors:
            expected = plain.layers["std"] * factor
            np.testing.assert_allclose(scaled.layers["std"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [0.0, -3, np.nan, np.ones(3), "observed", "median"])
def test_wrong_library_sizes(scmodal, wrong) -> None:
    with pytest.raises(ValueError, match="library_size"):
        scmodal.impute("rna", library_size=wrong)


def test_library_sizes_of_values_that_are_not_scaled() -> None:
    mdata = linked_mosaic()
    SCMODAL.setup_mudata(mdata)
    model = SCMODAL(mdata, transforms={"adt": "arcsinh"}, **SMALL)
    model.train(max_steps=1, **QUIET)
    with pytest.raises(ValueError, match=r"'adt' has transform 'arcsinh'.*leave out library_size"):
        model.impute("adt", library_size=100.0)
    imputed = model.impute("adt")
    assert "library_size" not in imputed.obs
    assert imputed.uns["cantata"]["units"] == "expected registered values"


# Batches ----------------------------------------------------------------------------------------


def test_transform_batch(scmodal) -> None:
    zero, one = (scmodal.impute("rna", transform_batch=b).X for b in ("b0", "b1"))
    assert np.abs(zero - one).max() > 1e-3
    own = scmodal.impute("rna")
    is_zero = np.array([int(name[1:]) % 2 == 0 for name in own.obs_names])
    np.testing.assert_allclose(own.X, np.where(is_zero[:, None], zero, one), rtol=1e-4, atol=1e-5)
    both = scmodal.impute("rna", transform_batch=["b0", "b1"]).X
    np.testing.assert_allclose(both, (zero + one) / 2, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="n_anchors averages measured cells"):
        scmodal.impute("rna", transform_batch="b0", n_anchors=3)


def test_batch_in_which_the_modality_was_not_measured_takes_the_mean_of_others() -> None:
    member = np.ones((90, 2), dtype=bool)
    member[np.arange(90) % 3 == 2, 1] = False
    mdata = linked_mosaic(member=member, n_cells=90, n_batches=3)
    SCMODAL.setup_mudata(mdata, batch_key="batch")
    model = SCMODAL(mdata, **SMALL)
    model.train(max_steps=1, **QUIET)
    default = model.impute("adt").to_df()
    mean = model.impute("adt", transform_batch=["b0", "b1"]).to_df()
    unmeasured = [c for c in default.index if int(c[1:]) % 3 == 2]
    np.testing.assert_allclose(default.loc[unmeasured], mean.loc[unmeasured], rtol=1e-4)


# Measured neighbours ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", THREE)
@pytest.mark.parametrize("k", [1, 4])
def test_mean_and_spread_of_the_nearest_measured_cells(scmodal, target: str, k: int) -> None:
    data = scmodal.adata
    imputed = scmodal.impute(target, source="rna", n_anchors=k, batch_size=11)
    own = scmodal.get_latent_representation(modality="rna")
    rows = data["rna"].obs_names.get_indexer(imputed.obs_names)
    query, reference = own[rows], scmodal.get_latent_representation(modality=target)
    x = at_median_total(scmodal, target)
    for i, z in enumerate(query):
        near = np.argsort(((reference - z) ** 2).sum(axis=1), kind="stable")[:k]
        np.testing.assert_allclose(imputed.X[i], x[near].mean(axis=0), rtol=1e-4, atol=1e-5)
        spread = x[near].std(axis=0)
        np.testing.assert_allclose(imputed.layers["std"][i], spread, rtol=1e-3, atol=1e-4)


def test_more_neighbours_than_cells(scmodal) -> None:
    with pytest.raises(ValueError, match="'adt'"):
        scmodal.impute("adt", n_anchors=1000)


# Results ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_anchors", [0, 2])
def test_written_in_blocks(scmodal, tmp_path, n_anchors: int) -> None:
    path = str(tmp_path / "rna.zarr")
    options = {"source": "adt", "library_size": 30.0, "n_anchors": n_anchors}
    imputed = scmodal.impute("rna", out=path, batch_size=17, **options)
    assert not isinstance(imputed.X, np.ndarray)
    again, expected = anndata.read_zarr(path), scmodal.impute("rna", **options)
    assert list(again.obs_names) == list(expected.obs_names)
    np.testing.assert_allclose(again.X, expected.X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again.obs["library_size"], 30)
    assert again.uns["cantata"]["units"] == expected.uns["cantata"]["units"]
    assert ("std" in again.layers) == bool(n_anchors)
    with pytest.raises(ValueError, match="zarr"):
        scmodal.impute("rna", out=str(tmp_path / "rna.h5ad"))


def test_spatial_coordinates_are_kept(scmodal) -> None:
    mdata = scmodal.adata.copy()
    mdata.obsm["spatial"] = np.arange(2 * mdata.n_obs).reshape(-1, 2)
    picked = scmodal.impute("adt", mdata, indices=[3, 1])
    np.testing.assert_array_equal(picked.obsm["spatial"], mdata.obsm["spatial"][[3, 1]])


@pytest.mark.parametrize("transform", ["log1p", "clr", "tfidf", "arcsinh", None])
@pytest.mark.parametrize("covariates", [{}, {"categorical_covariate_keys": ["group"]}])
def test_units_of_every_transform(transform: str | None, covariates: dict) -> None:
    mdata = chain()
    SCMODAL.setup_mudata(mdata, **covariates)
    model = SCMODAL(mdata, transforms={"atac": transform}, n_components=5, **SMALL)
    model.train(max_steps=1, **QUIET)
    values = model.impute("atac", source="adt").X
    assert np.isfinite(values).all()
    if transform in ("log1p", "clr", "tfidf"):
        assert values.min() >= 0
