"""From setup to results, saved models and queries."""

from __future__ import annotations

import warnings

import mudata
import numpy as np
import pytest
import scvi
import torch
from mosaics import counts_mosaic, mosaic
from scvi.train import SaveCheckpoint

import cantata
from cantata import CLUE, _compat

SMALL = {"n_latent": 4, "n_hidden_encoder": 16, "n_hidden_decoder": 8, "n_hidden_discriminator": 8}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def trained(mdata: mudata.MuData, epochs: int = 2, setup: dict | None = None, **model) -> CLUE:
    CLUE.setup_mudata(mdata, **({"batch_key": "batch"} if setup is None else setup))
    clue = CLUE(mdata, **(SMALL | model))
    clue.train(epochs, batch_size=16, **QUIET)
    return clue


@pytest.fixture
def mdata() -> mudata.MuData:
    return counts_mosaic()


def test_embeddings_follow_the_order_of_the_data(mdata) -> None:
    clue = trained(mdata)
    joint = clue.get_latent_representation()
    assert joint.shape == (60, 8)
    assert joint.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1, atol=1e-5)
    for name in mdata.mod:
        own = clue.get_latent_representation(modality=name)
        assert own.shape == (mdata[name].n_obs, 8)
        other = mdata["adt" if name == "rna" else "rna"].obs_names
        alone = ~mdata[name].obs_names.isin(other)
        rows = mdata.obs_names.get_indexer(mdata[name].obs_names[alone])
        np.testing.assert_allclose(own[alone], joint[rows], atol=1e-5)


def test_indices_and_batch_size_change_nothing(mdata) -> None:
    clue = trained(mdata)
    joint = clue.get_latent_representation()
    some = np.array([7, 2, 55])
    np.testing.assert_allclose(
        clue.get_latent_representation(indices=some), joint[some], atol=1e-6
    )
    np.testing.assert_allclose(clue.get_latent_representation(batch_size=7), joint, atol=1e-6)
    rna = clue.get_latent_representation(modality="rna")
    part = clue.get_latent_representation(modality="rna", indices=[3, 1])
    np.testing.assert_allclose(part, rna[[3, 1]], atol=1e-6)


@pytest.mark.parametrize("fusion", ["mean", "poe"])
def test_posterior_mean_and_variance(mdata, fusion: str) -> None:
    clue = trained(mdata, fusion=fusion)
    mean, variance = clue.get_latent_representation(return_dist=True)
    assert mean.shape == variance.shape == (60, 8)
    assert (variance > 0).all()
    raw, spread = clue.get_latent_representation(modality="rna", return_dist=True)
    unit = clue.get_latent_representation(modality="rna")
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), unit, atol=1e-5)
    alone = ~mdata["rna"].obs_names.isin(mdata["adt"].obs_names)
    rows = mdata.obs_names.get_indexer(mdata["rna"].obs_names[alone])
    np.testing.assert_allclose(raw[alone], mean[rows], atol=1e-5)
    np.testing.assert_allclose(spread[alone], variance[rows], rtol=1e-4)


def test_save_load_encode_is_exact(mdata, tmp_path) -> None:
    clue = trained(mdata)
    clue.save(str(tmp_path / "clue"))
    again = CLUE.load(str(tmp_path / "clue"), mdata)
    for modality in (None, "rna", "adt"):
        one, two = (m.get_latent_representation(modality=modality) for m in (clue, again))
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(clue.impute("adt").X, again.impute("adt").X)
    assert again.history.keys() == clue.history.keys()


def test_save_with_data_and_load_without(mdata, tmp_path) -> None:
    clue = trained(mdata)
    clue.save(str(tmp_path / "clue"), save_anndata=True)
    again = CLUE.load(str(tmp_path / "clue"))
    position = mdata.obs_names.get_indexer(again.adata.obs_names)
    np.testing.assert_array_equal(
        clue.get_latent_representation()[position], again.get_latent_representation()
    )


def permuted(mdata: mudata.MuData, seed: int = 0) -> mudata.MuData:
    rng = np.random.default_rng(seed)
    names = list(mdata.mod)[::-1]
    return mosaic(
        {
            m: mdata[m][rng.permutation(mdata[m].n_obs), rng.permutation(mdata[m].n_vars)].copy()
            for m in names
        }
    )


def test_query_with_permuted_features_cells_and_modalities(mdata) -> None:
    clue = trained(mdata)
    query = permuted(mdata)
    rows = mdata.obs_names.get_indexer(query.obs_names)
    joint = clue.get_latent_representation(query)
    np.testing.assert_allclose(joint, clue.get_latent_representation()[rows], atol=1e-5)
    rna = clue.get_latent_representation(query, modality="rna")
    rows = mdata["rna"].obs_names.get_indexer(query["rna"].obs_names)
    own = clue.get_latent_representation(modality="rna")
    np.testing.assert_allclose(rna, own[rows], atol=1e-5)
    proteins = clue.impute("adt", query).to_df()
    expected = clue.impute("adt").to_df().loc[proteins.index]
    np.testing.assert_allclose(proteins, expected, rtol=1e-4)


def test_view_keeps_its_own_order(mdata) -> None:
    clue = trained(mdata)
    order = np.random.default_rng(1).permutation(60)[:40]
    view = mdata[order]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        joint = clue.get_latent_representation(view)
    rows = mdata.obs_names.get_indexer(view.obs_names)
    np.testing.assert_allclose(joint, clue.get_latent_representation()[rows], atol=1e-5)
    assert view.is_view


def test_query_is_not_modified(mdata) -> None:
    clue = trained(mdata)
    query = counts_mosaic(seed=3)
    query.update()
    before = list(query.obs.columns), dict(query.uns), query.obs_names.copy()
    clue.get_latent_representation(query)
    clue.impute("rna", query)
    assert (list(query.obs.columns), dict(query.uns)) == before[:2]
    assert query.obs_names.equals(before[2])
    assert not query.obsm.keys() - set(query.mod)


def test_query_with_one_modality_and_without_batch(mdata) -> None:
    clue = trained(mdata)
    alone = mosaic({"adt": counts_mosaic(seed=2)["adt"].copy()})
    del alone["adt"].obs["batch"]
    own = clue.get_latent_representation(alone)
    np.testing.assert_allclose(
        own, clue.get_latent_representation(alone, modality="adt"), atol=1e-6
    )
    with pytest.raises(ValueError, match="transform_batch"):
        clue.impute("rna", alone)
    assert clue.impute("rna", alone, transform_batch="b0").shape == (alone.n_obs, 12)
    with pytest.raises(KeyError, match="rna"):
        clue.get_latent_representation(alone, modality="rna")


def test_query_lacking_features(mdata) -> None:
    clue = trained(mdata)
    few = mosaic({"rna": mdata["rna"][:, :11].copy(), "adt": mdata["adt"].copy()})
    with pytest.warns(
        UserWarning, match=r"'rna' lacks 1 of the model's 12 features, e.g. 'rna_11'"
    ):
        assert np.isfinite(clue.get_latent_representation(few)).all()
    fewer = mosaic({"rna": mdata["rna"][:, :5].copy(), "adt": mdata["adt"].copy()})
    with pytest.raises(ValueError, match=r"'rna' lacks 7 of the model's 12 features"):
        clue.get_latent_representation(fewer)
    with pytest.raises(KeyError, match="atac"):
        clue.get_latent_representation(mosaic({"atac": mdata["rna"].copy()}))


def test_write_results_writes_the_documented_keys(mdata, tmp_path) -> None:
    clue = trained(mdata)
    values = {m: mdata[m].X.copy() for m in mdata.mod}
    clue.write_results(denoised=True, imputed=["adt"])
    assert mdata.obsm["X_clue"].shape == (60, 8)
    assert mdata.obsm["clue_imputed_adt"].shape == (60, 6)
    assert list(mdata.uns["cantata"]["clue"]["imputed_features"]["adt"]) == list(
        mdata["adt"].var_names
    )
    for name in mdata.mod:
        np.testing.assert_array_equal(
            mdata[name].obsm["X_clue"], clue.get_latent_representation(modality=name)
        )
        assert mdata[name].layers["clue_denoised"].shape == mdata[name].shape
        assert (values[name] != mdata[name].X).nnz == 0
    denoised = mdata["adt"].to_df("clue_denoised")
    imputed = clue.impute("adt").to_df().loc[denoised.index]
    np.testing.assert_allclose(denoised, imputed, rtol=1e-4)
    mdata.write_h5mu(tmp_path / "x.h5mu")
    again = mudata.read_h5mu(tmp_path / "x.h5mu")
    np.testing.assert_array_equal(again.obsm["X_clue"], mdata.obsm["X_clue"])
    assert again.uns["cantata"]["clue"]["parameters"]["n_latent"] == 4


def test_results_are_written_to_a_query_only(mdata) -> None:
    clue = trained(mdata)
    query = counts_mosaic(seed=3)
    clue.write_results(query)
    assert query.obsm["X_clue"].shape == (60, 8)
    assert "X_clue" not in mdata.obsm


def test_same_seed_same_bits(mdata) -> None:
    results = []
    for _ in range(2):
        scvi.settings.seed = 5
        results.append(trained(mdata.copy()).get_latent_representation())
    scvi.settings.seed = 6
    other = trained(mdata.copy()).get_latent_representation()
    np.testing.assert_array_equal(*results)
    assert not np.array_equal(results[0], other)


def test_num_workers_change_nothing(mdata) -> None:
    results = []
    for workers in (0, 2):
        scvi.settings.seed = 5
        CLUE.setup_mudata(mdata)
        clue = CLUE(mdata, **SMALL)
        clue.train(2, batch_size=16, datasplitter_kwargs={"num_workers": workers}, **QUIET)
        results.append(clue.get_latent_representation())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_resumed_training_equals_uninterrupted(mdata, tmp_path, early_stopping: bool) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    def fresh() -> CLUE:
        scvi.settings.seed = 3
        CLUE.setup_mudata(mdata)
        return CLUE(mdata, **SMALL)

    options = {"batch_size": 16, "early_stopping": early_stopping, **QUIET}
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1)
    whole = fresh()
    whole.train(4, callbacks=[keep], enable_checkpointing=True, **options)
    resumed = fresh()
    torch.manual_seed(99)
    resumed.train(4, ckpt_path=str(tmp_path / "epoch=1.ckpt"), **options)
    for one, two in zip(
        whole.module.state_dict().values(), resumed.module.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)
    tail = whole.history["nll_rna_train"].to_numpy().ravel()[2:]
    np.testing.assert_array_equal(tail, resumed.history["nll_rna_train"].to_numpy().ravel())


def test_scvi_checkpoints_work_with_a_mudata(mdata, tmp_path) -> None:
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    callback = SaveCheckpoint(dirpath=str(tmp_path), monitor="objective_validation")
    clue.train(2, batch_size=16, callbacks=[callback], enable_checkpointing=True, **QUIET)
    assert any(tmp_path.iterdir())


def test_history_holds_every_term_of_both_parts(mdata) -> None:
    history = trained(mdata).history
    terms = {"nll_rna", "nll_adt", "kl_rna", "kl_adt", "cross", "alignment", "discriminator"}
    for part in ("train", "validation"):
        assert {f"{term}_{part}" for term in terms} <= set(history)
        for term in terms:
            assert np.isfinite(history[f"{term}_{part}"].to_numpy(dtype=float)).all()
            assert len(history[f"{term}_{part}"]) == 2
    assert "foscttm_validation" in history


def test_early_stopping_restores_the_best_epoch(mdata) -> None:
    from cantata.model._callbacks import BestWeights

    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    clue.train(6, batch_size=16, train_size=0.5, early_stopping=True, **QUIET)
    best = next(c for c in clue.trainer.callbacks if isinstance(c, BestWeights))
    history = clue.history[best.monitor].to_numpy(dtype=float).ravel()
    assert best.best_epoch == int(history.argmin())
    assert best.best_score == pytest.approx(history.min(), rel=1e-5)
    kept = {k: v for k, v in best.state_dict()["weights"].items() if "library_" not in k}
    for key, value in kept.items():
        assert torch.equal(value, clue.module.state_dict()[key.removeprefix("module.")])


def test_load_query_data_with_a_new_batch(mdata) -> None:
    clue = trained(mdata)
    query = counts_mosaic(seed=4, n_cells=40)
    for name in query.mod:
        query[name].obs["batch"] = "new"
    with pytest.raises(ValueError, match="batch that the model does not know"):
        clue.impute("rna", query)
    mapped = CLUE.load_query_data(query, clue)
    assert mapped.batch_categories == ["b0", "b1", "new"]
    position = mapped.adata.obs_names.get_indexer(query.obs_names)
    before = mapped.get_latent_representation()
    np.testing.assert_allclose(before[position], clue.get_latent_representation(query), atol=1e-5)
    reconstruction = mapped.impute("rna").X
    mapped.train(2, batch_size=16, **QUIET)
    np.testing.assert_allclose(mapped.get_latent_representation(), before, atol=1e-6)
    assert not np.allclose(mapped.impute("rna").X, reconstruction)
    assert "X_clue" not in query.obsm


def test_load_query_data_of_one_modality_from_a_folder(mdata, tmp_path) -> None:
    clue = trained(mdata)
    clue.save(str(tmp_path / "m"), save_anndata=True)
    query = mosaic({"adt": counts_mosaic(seed=2)["adt"].copy()})
    mapped = CLUE.load_query_data(query, str(tmp_path / "m"), freeze=False)
    mapped.train(1, batch_size=16, **QUIET)
    assert np.isfinite(mapped.get_latent_representation()).all()
    prepared = CLUE.prepare_query_mudata(query, clue)
    assert prepared["rna"].shape == (0, 12)


def test_finetune_on_a_query(mdata) -> None:
    clue = trained(mdata)
    before = clue.get_latent_representation()
    query = counts_mosaic(seed=4, n_cells=40)
    with pytest.raises(ValueError, match="cell names are in both"):
        clue.finetune(query, max_epochs=1, **QUIET)
    parts = {}
    for name in query.mod:
        parts[name] = query[name].copy()
        parts[name].obs_names = "q_" + parts[name].obs_names + f"_{name}"
        parts[name].obs["batch"] = "new"
    query = mosaic(parts)
    tuned = clue.finetune(query, max_epochs=1, batch_size=16, **QUIET)
    assert tuned.adata.n_obs == mdata.n_obs + query.n_obs
    assert set(mdata.obs_names) | set(query.obs_names) == set(tuned.adata.obs_names)
    assert tuned.batch_categories == ["b0", "b1", "new"]
    np.testing.assert_array_equal(clue.get_latent_representation(), before)


def test_setup_reads_what_preprocess_recorded(mdata) -> None:
    for name in mdata.mod:
        rng = np.random.default_rng(0)
        mdata[name].obsm["X_pca"] = rng.normal(size=(mdata[name].n_obs, 3)).astype(np.float32)
    mdata.uns["cantata"] = {"preprocess": {"rna": {"rep": "X_pca"}}}
    CLUE.setup_mudata(mdata)
    assert CLUE(mdata, **SMALL).setup_args["reps"] == {"rna": "X_pca"}
    CLUE.setup_mudata(mdata, reps={})
    assert CLUE(mdata, **SMALL).setup_args["reps"] == {}
    clue = trained(mdata, setup={"reps": {"rna": "X_pca", "adt": "X_pca"}})
    query = counts_mosaic(seed=1)
    with pytest.raises(KeyError, match=r"preprocess\(query, reference=mdata\)"):
        clue.get_latent_representation(query)


def test_subset_of_the_modalities() -> None:
    mdata = counts_mosaic({"rna": 8, "adt": 5, "atac": 9}, np.ones((60, 3), dtype=bool))
    clue = trained(mdata, setup={"modalities": ["rna", "atac"]})
    assert clue.get_latent_representation().shape == (60, 8)
    assert clue.modalities == ["rna", "atac"]


def test_compat_with_duplicate_feature_names() -> None:
    mdata = counts_mosaic({"rna": 6, "adt": 6})
    parts = {name: mdata[name].copy() for name in mdata.mod}
    for adata in parts.values():
        adata.var_names = [f"CD{j}" for j in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = mosaic(parts)
    plain = trained(mdata).get_latent_representation()
    scvi.settings.seed = 0
    same_names = trained(twin).get_latent_representation()
    assert same_names.shape == plain.shape
    assert _compat.SETUP_ARGS == "setup_args"


def test_summary_and_anndata() -> None:
    mdata = counts_mosaic()
    clue = trained(mdata)
    assert "rna 12, adt 6" in clue.summary()
    with pytest.raises(NotImplementedError, match="setup_mudata"):
        CLUE.setup_anndata(mdata["rna"])
    assert cantata.model.CLUE is CLUE
