"""From setup to results, saved models and queries."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scvi
import torch
from mosaics import counts_mosaic, mosaic
from scvi.train import SaveCheckpoint

from cantata import CLUE
from cantata._mudata.obs import coalesce_obs
from cantata.model._plan import BestWeights
from cantata.model.clue._plan import DEFAULT_SHARE

if TYPE_CHECKING:
    import mudata

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
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    clue.train(2, train_size=0.9, **QUIET)
    history = clue.history
    terms = {"nll_rna", "nll_adt", "kl_rna", "kl_adt", "cross", "alignment", "discriminator"}
    for part in ("train", "validation"):
        assert {f"{term}_{part}" for term in terms} <= set(history)
        for term in terms:
            assert np.isfinite(history[f"{term}_{part}"].to_numpy(dtype=float)).all()
            assert len(history[f"{term}_{part}"]) == 2
    assert "foscttm_validation" in history


def test_early_stopping_restores_the_best_epoch(mdata) -> None:
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


# Queries: library sizes, early stopping ---------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> CLUE:
    """Cells whose protein totals follow their RNA, in two batches."""
    scvi.settings.seed = 0
    data = counts_mosaic({"rna": 40, "adt": 12}, np.ones((300, 2), dtype=bool), n_cells=300)
    return trained(data, 6)


def query_of(mods: list[str], n_cells: int = 120) -> mudata.MuData:
    member = np.ones((n_cells, 2), dtype=bool)
    data = counts_mosaic({"rna": 40, "adt": 12}, member, n_cells=n_cells, seed=0)
    for name in data.mod:
        data[name].obs["batch"] = "new"
    return mosaic({name: data[name].copy() for name in mods})


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("mods", [["rna"], ["rna", "adt"], ["adt"]])
def test_training_a_query_keeps_what_predicts_library_sizes(reference, mods, freeze) -> None:
    query, rna = query_of(mods), query_of(["rna"])
    mapped = CLUE.load_query_data(query, reference, freeze=freeze)
    known = {n: b.clone() for n, b in mapped.module.named_buffers() if n.startswith("library_")}
    before = mapped.impute("adt", rna, transform_batch="b0").obs["library_size"]
    mapped.train(3, early_stopping=False, batch_size=16, **QUIET)
    after = mapped.impute("adt", rna, transform_batch="b0").obs["library_size"]
    assert before.std() > 1
    if mods == ["rna", "adt"] and not freeze:  # its own pairs tell more
        counts = query["adt"].to_df().sum(axis=1).reindex(after.index)
        assert ((np.log(after) - np.log(counts)) ** 2).mean() < (
            (np.log(before) - np.log(counts)) ** 2
        ).mean()
    else:
        assert np.abs(np.log(after / before)).max() < 0.5
    if freeze:
        for name, value in known.items():
            assert torch.equal(dict(mapped.module.named_buffers())[name], value)
    elif mods == ["rna"]:
        assert np.corrcoef(np.log(before), np.log(after))[0, 1] > 0.9


def test_early_stopping_does_not_undo_what_a_frozen_query_learns(reference) -> None:
    """Its FOSCTTM cannot change, so that every epoch would be as good as the first."""
    mapped = CLUE.load_query_data(query_of(["rna", "adt"], 300), reference)
    options = {"early_stopping": True, "plan_kwargs": {"lr_schedule": "constant"}}
    mapped.train(8, batch_size=16, **options, **QUIET)
    objective = mapped.history["objective_validation"].to_numpy(dtype=float).ravel()[-8:]
    assert objective.argmin() > 2
    (best,) = (c for c in mapped.trainer.callbacks if isinstance(c, BestWeights))
    assert best.best_epoch == objective.argmin()


# Labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_modality", [False, True])
def test_finetune_learns_from_the_labels_of_a_query(mdata, at_modality: bool) -> None:
    clue = trained(mdata, setup={"batch_key": "batch", "labels_key": "group"})
    parts = {}
    for name, adata in counts_mosaic(seed=4, n_cells=40).mod.items():
        parts[name] = adata.copy()
        parts[name].obs_names = "q_" + adata.obs_names
    query = mosaic(parts)
    expected = coalesce_obs(query, "group")
    if not at_modality:
        query.obs["group"] = expected
        for adata in query.mod.values():
            del adata.obs["group"]
    tuned = clue.finetune(query, max_epochs=1, batch_size=16, **QUIET)
    found = coalesce_obs(tuned.adata, "group")[query.obs_names]
    assert list(found) == list(expected)
    # those that were hidden at the top stay so
    query.obs["group"] = expected.where(np.arange(query.n_obs) % 2 == 0)
    with pytest.warns(UserWarning, match="are taken as unknown") if at_modality else nullcontext():
        tuned = clue.finetune(query, max_epochs=1, batch_size=16, **QUIET)
    found = tuned.adata.obs["group"][query.obs_names]
    assert found.isna().tolist() == query.obs["group"].isna().tolist()


def test_finetune_on_a_query_without_labels(mdata) -> None:
    clue = trained(mdata, setup={"batch_key": "batch", "labels_key": "group"})
    parts = {}
    for name, adata in counts_mosaic(seed=4, n_cells=40).mod.items():
        parts[name] = adata.copy()
        parts[name].obs_names = "q_" + adata.obs_names
        del parts[name].obs["group"]
    query = mosaic(parts)
    tuned = clue.finetune(query, max_epochs=1, batch_size=16, **QUIET)
    labels = coalesce_obs(tuned.adata, "group")
    assert labels[query.obs_names].isna().all()
    assert labels[mdata.obs_names].notna().all()


def test_predicted_labels(tmp_path) -> None:
    data = counts_mosaic(n_cells=200)
    held = np.arange(200) < 60
    labels = coalesce_obs(data, "group")
    for adata in data.mod.values():
        del adata.obs["group"]
    data.obs["label"] = labels.where(~held)
    clue = trained(data, 15, {"labels_key": "label"})
    predicted = clue.predict()
    assert set(predicted) <= {"0", "1", "2"}
    assert np.mean(predicted[held] == labels[held]) > 0.7
    soft = clue.predict(soft=True)
    assert list(soft.index) == list(data.obs_names)
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-5)
    assert list(soft.idxmax(axis=1)) == list(predicted)
    of_rna = clue.predict(modality="rna", indices=[5, 3], soft=True)
    assert list(of_rna.index) == list(data["rna"].obs_names[[5, 3]])
    cell = data.obs_names[7]
    query = counts_mosaic(n_cells=200)
    assert clue.predict(query, indices=[query.obs_names.get_loc(cell)]) == [predicted[7]]
    with pytest.raises(ValueError, match="labels_key"):
        trained(data, 1, {}).predict()


# Pairs ------------------------------------------------------------------------------------------


def test_wrong_pairs_are_a_warning_and_right_ones_are_not() -> None:
    data = counts_mosaic({"rna": 40, "adt": 12}, np.ones((300, 2), dtype=bool), n_cells=300)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*better than chance.*")
        trained(data, 10, {})
    order = np.random.default_rng(1).permutation(300)
    wrong = data["adt"][order].copy()
    wrong.obs_names = data["adt"].obs_names
    shuffled = mosaic({"rna": data["rna"].copy(), "adt": wrong})
    for start in ("canonical", "random"):
        with pytest.warns(UserWarning, match=r"270 left-out cells .* and 'adt' do not find"):
            trained(shuffled, 1, {}, start=start)


@pytest.mark.parametrize("n_pairs", [19, 20, 49])
def test_very_few_pairs_are_no_evidence(n_pairs) -> None:
    """Of right pairs that are so few, left-out ones often do no better than chance."""
    member = np.ones((300, 2), dtype=bool)
    member[n_pairs:150, 0] = member[150:, 1] = False
    data = counts_mosaic({"rna": 60, "adt": 20}, member, n_cells=300)
    shuffled = data["adt"].obs_names.to_numpy().copy()
    paired = np.flatnonzero(np.isin(shuffled, data["rna"].obs_names))
    shuffled[paired] = shuffled[np.random.default_rng(0).permutation(paired)]
    wrong = data["adt"].copy()
    wrong.obs_names = shuffled
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        clue = trained(mosaic({"rna": data["rna"].copy(), "adt": wrong}), 1, {})
    texts = [str(w.message) for w in said]
    assert not any("better than chance" in text for text in texts)
    is_few = n_pairs < 20
    assert clue.module.has_variates != is_few
    assert any("Only 19 training cells have several" in text for text in texts) == is_few


def test_few_pairs_are_trained_on_and_tested_by_folds() -> None:
    member = np.ones((500, 2), dtype=bool)
    member[120:300, 0] = member[300:, 1] = False
    data = counts_mosaic({"rna": 40, "adt": 12}, member, n_cells=500)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*better than chance.*")
        clue = trained(data, 2, {})
    both = data.obs_names.isin(data["rna"].obs_names) & data.obs_names.isin(data["adt"].obs_names)
    held_out = np.asarray(clue.validation_indices)
    assert len(held_out) == 38  # a tenth of 180 and of 200
    assert not both[held_out].any()
    assert "foscttm_validation" not in clue.history
    assert float(clue.module.share) == DEFAULT_SHARE  # nothing to choose it by
    clue.train(1, train_size=0.9, **QUIET)
    assert both[np.asarray(clue.validation_indices)].any()
    names = data["adt"].obs_names.to_numpy().copy()
    paired = np.flatnonzero(np.isin(names, data["rna"].obs_names))
    names[paired] = names[np.random.default_rng(0).permutation(paired)]
    wrong = data["adt"].copy()
    wrong.obs_names = names
    with pytest.warns(UserWarning, match="120 left-out cells with 'rna' and 'adt' do not find"):
        trained(mosaic({"rna": data["rna"].copy(), "adt": wrong}), 1, {})


def test_a_new_batch_starts_from_those_that_measured_a_feature() -> None:
    mdata = counts_mosaic({"rna": 12, "adt": 6}, np.ones((200, 2), dtype=bool), n_cells=200)
    counts = np.asarray(mdata["adt"].to_df()) + 3
    counts[(mdata["adt"].obs["batch"] == "b0").to_numpy(), :2] = 0
    mdata["adt"].X = counts.astype(np.float32)
    CLUE.setup_mudata(mdata, batch_key="batch")
    with pytest.warns(UserWarning, match="2 of 6 features were not measured in batch 'b0'"):
        model = CLUE(mdata, n_latent=2)
    model.train(2, enable_progress_bar=False, accelerator="cpu")
    query = counts_mosaic({"rna": 12, "adt": 6}, np.ones((60, 2), dtype=bool), n_cells=60, seed=1)
    for adata in query.mod.values():
        adata.obs["batch"] = "new"
    query.update()
    head = CLUE.load_query_data(query, model).module.head("adt")
    for name in ("bias", "scale", "log_theta"):
        b0, b1, new = getattr(head, name).detach()
        torch.testing.assert_close(new[:2], b1[:2])
        torch.testing.assert_close(new[2:], (b0 + b1)[2:] / 2)
