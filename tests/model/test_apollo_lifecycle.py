"""From setup to results, saved models and queries."""

from __future__ import annotations

import ast
import re

import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from apollo_models import QUIET, SMALL, counts_mosaic, explained, trained
from lightning.pytorch.callbacks import Callback
from mosaics import mosaic
from scipy import sparse

from cantata import APOLLO
from cantata.nn import Covariates


@pytest.fixture
def mdata() -> mudata.MuData:
    return counts_mosaic()


@pytest.fixture(scope="module")
def apollo() -> APOLLO:
    """A trained model that no test may change."""
    scvi.settings.seed = 0
    return trained(counts_mosaic())


# Latents ----------------------------------------------------------------------------------------


def test_decoded_latents_are_what_cells_are_imputed_by(apollo) -> None:
    for name in apollo.modalities:
        z, batch = apollo.get_latent_representation(), apollo.batch_categories[:1]
        for calibrate in (True, False) if apollo.module.losses[name] == "bce" else (True,):
            options = {"transform_batch": batch, "calibrate": calibrate}
            decoded = apollo.decode_latents(name, z, **options)
            imputed = apollo.impute(name, **options)
            np.testing.assert_allclose(decoded.X, imputed.X, rtol=1e-4, atol=1e-5)
            assert decoded.uns["cantata"]["units"] == imputed.uns["cantata"]["units"]
            assert list(decoded.var_names) == list(imputed.var_names)


def test_embeddings_follow_the_order_of_the_data(apollo) -> None:
    data = apollo.adata
    joint = apollo.get_latent_representation()
    assert joint.shape == (60, 4)
    assert joint.dtype == np.float32
    total, n = np.zeros((60, 4)), np.zeros((60, 1))
    for name in data.mod:
        own = apollo.get_latent_representation(modality=name)
        rows = data.obs_names.get_indexer(data[name].obs_names)
        total[rows] += own
        n[rows] += 1
    np.testing.assert_allclose(joint, total / n, atol=1e-5)


def test_spaces(apollo) -> None:
    shared = apollo.get_latent_representation(modality="adt")
    specific = apollo.get_latent_representation(modality="adt", space="specific")
    full = apollo.get_latent_representation(modality="adt", space="full")
    assert specific.shape == (apollo.adata["adt"].n_obs, 3)
    np.testing.assert_allclose(full, np.hstack([shared, specific]))


def test_table_is_addressed_by_cell_name(apollo) -> None:
    table = apollo.get_latent_table("rna")
    cells = apollo.adata["rna"].obs_names
    assert table.index.isin(cells).all()
    assert len(table) < len(cells)  # validation cells have no latents
    found = apollo.get_latent_representation(modality="rna", space="table")
    names = cells[cells.isin(table.index)]
    np.testing.assert_array_equal(found, table.loc[names].to_numpy())
    row = table.loc[[names[3]]].to_numpy()
    subset = apollo.adata[::-1].copy()
    reverse = apollo.get_latent_representation(subset, modality="rna", space="table")
    own = subset["rna"].obs_names
    own = own[own.isin(table.index)]
    np.testing.assert_array_equal(reverse[own.get_loc(names[3])], row[0])


def test_specific_latents_of_cells_with_all_modalities_stand_side_by_side(apollo) -> None:
    data = apollo.adata
    both = data.obs_names.isin(data["rna"].obs_names) & data.obs_names.isin(data["adt"].obs_names)
    with pytest.raises(ValueError, match="30 of 60 cells lack a modality"):
        apollo.get_latent_representation(space="specific")
    found = apollo.get_latent_representation(space="specific", indices=np.flatnonzero(both))
    assert found.shape == (30, 6)


def test_without_specific_latents() -> None:
    model = trained(counts_mosaic(), n_specific={"rna": 2, "adt": 0})
    assert model.get_latent_representation(modality="adt", space="specific").shape[1] == 0
    model.write_results()
    assert "X_apollo_specific" in model.adata["rna"].obsm
    assert "X_apollo_specific" not in model.adata["adt"].obsm


def test_learned_noise_is_an_uncertainty_per_latent() -> None:
    model = trained(counts_mosaic(), learn_noise=True)
    scale = model.get_latent_table("rna", scale=True)
    assert scale.shape == model.get_latent_table("rna").shape
    assert (scale > 0).all(axis=None)
    assert scale.to_numpy().std() > 0


def test_noise_that_was_not_learned(apollo) -> None:
    with pytest.raises(ValueError, match="learn_noise=True"):
        apollo.get_latent_table("rna", scale=True)


# History ----------------------------------------------------------------------------------------


class Interrupt(Callback):
    """Stop the second stage as a user or a full disk would."""

    stages = 0

    def on_train_start(self, *_) -> None:
        self.stages += 1
        if self.stages == 2:
            raise RuntimeError("stopped")


def test_history_survives_a_stage_that_fails(mdata) -> None:
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata, **SMALL)
    with pytest.raises(RuntimeError, match="stopped"):
        model.train(callbacks=[Interrupt()], **QUIET)
    assert len(model.history["objective_train"]) == 2


def test_history_of_both_stages(apollo) -> None:
    history = apollo.history
    for name in ("norm_shared", "norm_rna", "full_adt_train", "dependence_rna_train"):
        assert len(history[name]) == 2, name
    for name in ("encoded_shared_rna_train", "encoder_objective_train", "decoded_validation"):
        assert len(history[name]) == 2, name
    assert len(history["linear_decoded_validation"]) == 2


def test_training_goes_on_where_it_ended() -> None:
    model = trained(counts_mosaic())
    before = model.get_latent_table()
    model.train(**QUIET)
    assert list(model.history["objective_train"].index) == [0, 1, 2, 3]
    after = model.get_latent_table()
    assert after.index.equals(before.index)
    assert np.corrcoef(before.to_numpy().ravel(), after.to_numpy().ravel())[0, 1] > 0.9


# Save and load ----------------------------------------------------------------------------------


def test_save_and_load(apollo, tmp_path) -> None:
    apollo.save(str(tmp_path / "model"))
    loaded = APOLLO.load(str(tmp_path / "model"), apollo.adata)
    pd.testing.assert_frame_equal(loaded.get_latent_table("adt"), apollo.get_latent_table("adt"))
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), apollo.get_latent_representation()
    )
    np.testing.assert_array_equal(loaded.impute("adt").X, apollo.impute("adt").X)


def test_load_with_fewer_cells_in_another_order(apollo, tmp_path) -> None:
    apollo.save(str(tmp_path / "model"))
    other = apollo.adata[::-2].copy()
    for key in ("_scvi_uuid", "_scvi_manager_uuid"):
        other.uns.pop(key, None)
    loaded = APOLLO.load(str(tmp_path / "model"), other)
    pd.testing.assert_frame_equal(loaded.get_latent_table("adt"), apollo.get_latent_table("adt"))
    own = apollo.adata.obs_names.get_indexer(other.obs_names)
    np.testing.assert_allclose(
        loaded.get_latent_representation(), apollo.get_latent_representation()[own], atol=1e-5
    )


# Results ----------------------------------------------------------------------------------------


def test_write_results(mdata) -> None:
    model = trained(mdata)
    model.write_results(denoised=True, imputed=["adt"])
    assert mdata.obsm["X_apollo"].shape == (60, 4)
    for name in mdata.mod:
        assert mdata[name].obsm["X_apollo_shared"].shape == (mdata[name].n_obs, 4)
        assert mdata[name].obsm["X_apollo_specific"].shape == (mdata[name].n_obs, 3)
        assert mdata[name].layers["apollo_denoised"].shape == mdata[name].shape
        assert name not in {k for k in mdata[name].obsm if k == "X_apollo"}
    assert mdata.obsm["apollo_imputed_adt"].shape == (60, 6)
    assert np.isfinite(mdata.obsm["X_apollo"]).all()


def test_impute_is_the_shared_decoder_of_the_shared_encoding(apollo) -> None:
    found = apollo.impute("adt", source="rna", calibrate=False)
    assert found.uns["cantata"]["units"] == "[0, 1] within each cell"
    assert found.n_obs == apollo.adata["rna"].n_obs
    shared = apollo.get_latent_representation(modality="rna")
    rows = apollo.adata["rna"].obs_names.get_indexer(found.obs_names)
    z = torch.from_numpy(shared[rows])
    # RNA-only cells take the mean of the batches in which proteins were measured: both
    batch = found.obs_names.map(
        dict(zip(apollo.adata["rna"].obs_names, apollo.adata["rna"].obs["batch"], strict=True))
    )
    codes = torch.from_numpy((batch == "b1").astype(np.int64))[:, None]
    decoder = apollo.module.decoder("adt", shared_only=True).eval()
    with torch.inference_mode():
        expected = decoder.expected(z, Covariates(codes, None), None)
    np.testing.assert_allclose(found.X, expected.numpy(), atol=1e-5)
    assert found.X.min() >= 0
    assert found.X.max() <= 1


def training_cells(model: APOLLO, name: str) -> np.ndarray:
    """Positions of the training cells that have a modality."""
    return model.adata.obs_names.get_indexer(model.get_latent_table(name).index)


def test_imputed_values_are_registered_ones_monotone_and_right_on_the_mean(apollo) -> None:
    cells = training_cells(apollo, "adt")
    scaled = apollo.get_reconstruction("adt", space="shared", indices=cells, calibrate=False)
    back = apollo.get_reconstruction("adt", space="shared", indices=cells)
    assert back.uns["cantata"]["units"] == "registered values"
    for j in range(scaled.n_vars):
        order = np.argsort(scaled.X[:, j])
        assert (np.diff(back.X[order, j]) >= -1e-5).all()
    names = apollo.get_latent_table("adt").index
    measured = np.asarray(apollo.adata["adt"][names].X.mean(axis=0)).ravel()
    np.testing.assert_allclose(back.X.mean(axis=0), measured, rtol=1e-3)


def test_calibration_is_that_of_the_training_cells(apollo, tmp_path) -> None:
    """Whatever cells are attached, or none of the modality: the same values of the same cell."""
    cells = np.arange(20)
    expected = apollo.impute("adt", indices=cells, transform_batch="b0").X
    apollo.save(str(tmp_path / "model"))
    subset = apollo.adata[cells].copy()
    loaded = APOLLO.load(str(tmp_path / "model"), subset)
    np.testing.assert_allclose(loaded.impute("adt", transform_batch="b0").X, expected, rtol=1e-4)
    only_rna = mudata.MuData({"rna": apollo.adata["rna"].copy()})
    model = APOLLO.load_query_data(only_rna, apollo)
    found = model.impute("adt", source="rna", transform_batch="b0")
    of_reference = apollo.impute("adt", only_rna, source="rna", transform_batch="b0")
    assert np.isfinite(found.X).all()
    np.testing.assert_allclose(found.X, of_reference.X, rtol=1e-4)


def test_untrained_models_know_no_units(mdata) -> None:
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata, **SMALL)
    with pytest.raises(
        ValueError, match=r"before training: call train\(\), or pass calibrate=False"
    ):
        model.impute("adt")


@pytest.mark.parametrize("loss", ["mse", "nb", "zinb", "poisson", "bernoulli", "normal"])
def test_every_loss_trains_and_imputes_in_its_units(loss) -> None:
    model = trained(counts_mosaic(), losses=loss)
    found = model.impute("adt", source="rna").X
    assert np.isfinite(found).all()
    if loss in ("nb", "poisson"):
        total = np.median(np.asarray(model.adata["adt"].X.sum(axis=1)))
        np.testing.assert_allclose(found.sum(axis=1), total, rtol=1e-3)
        ten = model.impute("adt", source="rna", library_size=10.0).X
        np.testing.assert_allclose(ten.sum(axis=1), 10, rtol=1e-3)


def test_reconstruction_without_shared_decoders() -> None:
    model = trained(counts_mosaic(), shared_decoders=False)
    assert not model.module.has_shared_decoders
    assert np.isfinite(model.impute("adt", source="rna").X).all()
    full = model.get_reconstruction("adt").X
    shared = model.get_reconstruction("adt", space="shared").X
    assert not np.allclose(full, shared)


def test_known_answer_of_cross_modal_prediction() -> None:
    """Proteins that follow a factor which genes follow too are predicted for held-out cells."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=600)
    parts = {}
    for name, p in (("rna", 40), ("adt", 12)):
        rate = np.exp(0.9 * np.outer(factor, rng.choice([-1, 1], p)) + 1.0)
        parts[name] = AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
        parts[name].obs_names = [f"c{i}" for i in range(600)]
    model = trained(mosaic(parts), {}, {"max_epochs": 25, "encoder_epochs": 10, "batch_size": 64})
    held_out = np.asarray(model.validation_indices)
    found = model.impute("adt", source="rna", indices=held_out).X
    measured = parts["adt"].X[held_out].toarray()
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(found.T, measured.T, strict=True)]
    assert np.mean(correlations) > 0.6


# Queries ----------------------------------------------------------------------------------------


def test_query_without_training(apollo) -> None:
    query = counts_mosaic(seed=3)
    del query.mod["adt"]
    query = mudata.MuData({"rna": query["rna"]})
    found = apollo.get_latent_representation(query)
    assert found.shape == (query.n_obs, 4)
    model = APOLLO.load_query_data(query, apollo, freeze=False)
    np.testing.assert_allclose(model.get_latent_representation(), found, atol=1e-5)
    with pytest.raises(ValueError, match="no latents yet"):
        model.get_latent_table()


# Storage ----------------------------------------------------------------------------------------


def test_a_minibatch_may_have_one_cell_or_none_of_a_modality() -> None:
    member = np.ones((60, 2), dtype=bool)
    member[15:, 1] = False
    model = trained(counts_mosaic(member=member), train={"batch_size": 8, "train_size": 0.9})
    assert np.isfinite(model.get_latent_representation()).all()
    assert model.init_params_["non_kwargs"]["n_shared"] == SMALL["n_shared"]


def test_values_of_which_some_are_negative_are_scaled_alike_in_every_minibatch() -> None:
    mdata = counts_mosaic()
    x = mdata["adt"].X.toarray()
    x[3, 2] = -1.5
    mdata["adt"].X = x
    model = trained(mdata)
    counts = torch.tensor([[0.0, 1.0, 3.0, 0.0, 0.0, 2.0]])
    scaled = model.module.data("adt", counts)[1].dense()
    torch.testing.assert_close(scaled, counts / 3)  # no logarithm, whatever the minibatch holds
    cells = training_cells(model, "adt")
    back = model.impute("adt", source="adt", indices=cells).X
    own = model.adata["adt"].obs_names.get_indexer(model.get_latent_table("adt").index)
    np.testing.assert_allclose(back.mean(axis=0), x[own].mean(axis=0), atol=1e-3)


# What is fitted to cells ------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["canonical", "normal"])
def test_held_out_cells_are_not_fitted_to(start) -> None:
    """Components, totals, weights, starts and calibration are those of the training cells."""
    still, models = {"early_stopping": False}, []
    for _ in range(2):
        data = counts_mosaic()
        for before in models:
            held_out = data.obs_names[np.asarray(before.validation_indices)]
            assert len(held_out)
            for adata in data.mod.values():
                x, is_out = adata.X.toarray(), adata.obs_names.isin(held_out)
                x[is_out] = 9 * x[is_out][:, ::-1] + 1
                adata.X = sparse.csr_matrix(x)
        models.append(trained(data, train=still, n_components=4, start=start))
    one, two = models
    for key, weights in one.module.state_dict().items():
        assert torch.equal(weights, two.module.state_dict()[key]), key
    assert set(one.calibrations_) == {"rna", "adt"}
    for name, found in one.calibrations_.items():
        for key, value in found.items():
            np.testing.assert_array_equal(value, two.calibrations_[name][key])
    assert one.typical_totals_ == two.typical_totals_


def test_zeros_that_are_stored_are_zeros() -> None:
    models = []
    for is_stored in (False, True):
        data = counts_mosaic()
        for adata in data.mod.values():
            x = adata.X.toarray()
            x[:, 1:] = np.clip(x[:, 1:] - 2, 0, None)
            adata.X = sparse.csr_matrix(x)
            if is_stored:
                rows, columns = (i.ravel() for i in np.indices(x.shape))
                adata.X = sparse.csr_matrix((x.ravel(), (rows, columns)), x.shape)
                assert adata.X.nnz == x.size
        models.append(trained(data))
    x = models[0].adata["rna"][models[0].get_latent_table("rna").index].X.toarray()
    for model in models:
        weight = float(model.module.head("rna").pos_weight)
        assert weight == pytest.approx((x == 0).sum() / (x > 0).sum(), rel=1e-5)
        assert model.module.decoder("rna", shared_only=True).head.pos_weight == weight
    np.testing.assert_allclose(
        models[0].get_latent_representation(), models[1].get_latent_representation(), atol=1e-4
    )


def test_encoders_are_judged_by_their_own_training() -> None:
    """Linear encoders of a second training are better than its whole ones, which stay behind."""
    model = trained(counts_mosaic(), {})
    for name in ("linear_decoded_validation", "decoded_validation"):
        column = model.history_[name].iloc[:, 0]
        # once upon a time whole encoders were far better
        model.history_[name].iloc[:, 0] = 0.1 if name[0] == "d" else 100.0 + 0 * column
    model.train(**QUIET, encoder_plan_kwargs={"lr": 1.0})
    heads = model.module.encoder("rna").heads.parameters()
    assert not any(weight.any() for weight in heads)


def test_remedies_can_be_given() -> None:
    """What an error advises is an argument that exists."""
    with pytest.raises(RuntimeError, match="Lower the learning rates") as error:
        trained(counts_mosaic(), train={"plan_kwargs": {"lr_latents": 1e30}})
    assert "gradient_clip" not in str(error.value)
    (advised,) = re.findall(r"plan_kwargs=(\{.*?\})", str(error.value))
    trained(counts_mosaic(), train={"plan_kwargs": ast.literal_eval(advised)})


def test_known_covariates_are_taken_out_of_the_start_together() -> None:
    """Two columns that are 85 % equal, and a number: none is left in the start."""
    rng = np.random.default_rng(0)
    n = 600
    first = rng.integers(0, 2, n)
    second = np.where(rng.random(n) < 0.85, first, 1 - first)
    number = rng.normal(size=n)
    told = np.stack([first, second, number], axis=1)
    factor = rng.normal(size=(n, 2))
    parts = {}
    for name in ("a", "b"):
        x = np.hstack([factor, 2 * told]) @ rng.normal(size=(5, 12)) + rng.normal(size=(n, 12))
        parts[name] = AnnData(x.astype(np.float32))
        parts[name].obs_names = [f"c{i}" for i in range(n)]
    data = mosaic(parts)
    data.obs["first"], data.obs["second"], data.obs["number"] = (
        pd.Categorical(first.astype(str)),
        pd.Categorical(second.astype(str)),
        number,
    )
    setup = {
        "categorical_covariate_keys": ["first", "second"],
        "continuous_covariate_keys": ["number"],
    }
    rates = {"lr": 1e-12, "lr_latents": 1e-12, "lr_covariates": 1e-12}
    model = trained(data, setup, {"plan_kwargs": rates}, losses="mse")
    start = model.get_latent_table()
    cells = data.obs_names.get_indexer(start.index)
    for k in range(3):
        assert explained(start.to_numpy(), told[cells, k : k + 1]) < 0.05, k
    assert explained(start.to_numpy(), factor[cells][:, :1]) > 0.8
