"""Training that is continued from a trainer checkpoint of either stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from apollo_models import QUIET, SMALL, counts_mosaic, trained
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from scvi.train import SaveCheckpoint

from cantata import APOLLO
from cantata.model.apollo import _training
from cantata.model.apollo._checkpoint import StageCheckpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _log_folder(tmp_path, monkeypatch) -> None:
    """scvi-tools adds checkpoints of its own in its log folder."""
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path / "log")


def fresh(mdata=None, batch_key="batch", **model) -> APOLLO:
    scvi.settings.seed = 3
    mdata = counts_mosaic() if mdata is None else mdata
    APOLLO.setup_mudata(mdata, batch_key=batch_key)
    return APOLLO(mdata, **(SMALL | model))


def saved(folder: Path, model: APOLLO, **options) -> dict[str, list[Path]]:
    """Files from the ends of the epochs of each stage of a model that is trained."""
    keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    model.train(callbacks=[keep], enable_checkpointing=True, **(QUIET | options))
    found = [StageCheckpoint.read(path, "APOLLO") for path in folder.glob("*.ckpt")]
    found.sort(key=lambda checkpoint: checkpoint.n_epochs)
    return {
        stage: [checkpoint.path for checkpoint in found if checkpoint.stage == stage]
        for stage in ("latent", "encoder")
    }


def assert_same(one: APOLLO, two: APOLLO) -> None:
    states = one.module.state_dict(), two.module.state_dict()
    assert list(states[0]) == list(states[1])
    differing = [key for key in states[0] if not torch.equal(states[0][key], states[1][key])]
    assert not differing
    for name in (None, "rna", "adt"):
        assert one.get_latent_table(name).equals(two.get_latent_table(name))
    np.testing.assert_array_equal(one.get_latent_representation(), two.get_latent_representation())


STOPPING = {
    "max_epochs": 6,
    "encoder_epochs": 6,
    "early_stopping_patience": 1,
    "early_stopping_min_delta": 1e3,
    "plan_kwargs": {"lr": 1.0, "lr_latents": 0.3, "lr_covariates": 1.0},
    "encoder_plan_kwargs": {"lr": 0.1},
}


@pytest.mark.parametrize(
    ("options", "min_gain"),
    [({"early_stopping": False}, 0.01), (STOPPING, 0.01), (STOPPING, -1.0)],
    ids=["planned epochs", "early stopping, linear encoders", "early stopping, whole encoders"],
)
def test_resumed_training_equals_uninterrupted(tmp_path, monkeypatch, options, min_gain) -> None:
    monkeypatch.setattr(_training, "MIN_ENCODER_GAIN", min_gain)
    options = QUIET | {"encoder_epochs": 3} | options
    # encoders that mix batches are not linear
    batch_key = None if min_gain > 0 and "early_stopping" not in options else "batch"
    whole = fresh(batch_key=batch_key)
    files = saved(tmp_path, whole, **options)
    terms = {"latent": "objective_train", "encoder": "encoder_objective_train"}
    for stage, paths in files.items():
        assert len(paths) == len(whole.history[terms[stage]])
    if "early_stopping" not in options:
        assert all(len(paths) < 6 for paths in files.values())
        heads = whole.module.encoder("rna").heads.parameters()
        assert any(weight.any() for weight in heads) == (min_gain < 0)
    for stage, paths in files.items():
        for path in (paths[0], paths[-1]):
            resumed = fresh(batch_key=batch_key)
            torch.manual_seed(99)
            resumed.train(ckpt_path=path, **options)
            assert_same(whole, resumed)
            done = {"latent": len(files["latent"]) * (stage == "encoder"), "encoder": 0}
            done[stage] = paths.index(path) + 1
            for name, term in terms.items():
                left = whole.history[term].to_numpy().ravel()[done[name] :]
                found = resumed.history.get(term, pd.DataFrame()).to_numpy().ravel()
                np.testing.assert_array_equal(found, left)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ({"learn_noise": True}, STOPPING | {"early_stopping_warmup_epochs": 2}),
        ({"n_components": None, "start": "normal"}, {"plan_kwargs": {"row_updates": "dense"}}),
    ],
)
def test_options_resume_too(tmp_path, model, options) -> None:
    options = QUIET | {"max_epochs": 4} | options
    whole = fresh(**model)
    for paths in saved(tmp_path, whole, **options).values():
        resumed = fresh(**model)
        torch.manual_seed(99)
        resumed.train(ckpt_path=str(paths[1]), **options)
        assert_same(whole, resumed)


class MidEpoch(Callback):
    """Save once, between two minibatches."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
        if batch_idx == 1 and not self.path.exists():
            trainer.save_checkpoint(self.path)


def test_what_is_no_checkpoint_of_a_whole_epoch(tmp_path) -> None:
    text, other, within = (tmp_path / name for name in ("text", "other.ckpt", "within.ckpt"))
    text.write_text("epoch 3")
    torch.save({"state_dict": {}, "epoch": 3}, other)
    fresh().train(callbacks=[MidEpoch(within)], **QUIET)
    model = fresh()
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    for path, error, message in [
        (tmp_path / "none.ckpt", FileNotFoundError, r"none\.ckpt.*no such file.*ModelCheckpoint"),
        (tmp_path, ValueError, r"is a folder.*SaveCheckpoint.*APOLLO\.load.*ModelCheckpoint"),
        (text, ValueError, "cannot be read as a checkpoint.*ModelCheckpoint"),
        (other, ValueError, "no checkpoint of APOLLO's training.*ModelCheckpoint"),
        (within, ValueError, "saved within epoch 0.*every_n_epochs=1"),
    ]:
        with pytest.raises(error, match=message):
            model.train(ckpt_path=path, **QUIET)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert not model.has_inputs_


def test_checkpoints_of_another_training(tmp_path) -> None:
    reference = fresh()
    (first, last), (second, _) = saved(tmp_path, reference).values()
    member = np.ones((60, 2), dtype=bool)
    renamed = counts_mosaic()
    for name in renamed.mod:
        renamed[name].obs_names = "x" + renamed[name].obs_names
    renamed.update()
    query = APOLLO.load_query_data(counts_mosaic(), reference)
    for model, path, options, message in [
        (fresh(n_shared=5), first, {}, "is of another model: .*e.g. 'tables.shared.weight'"),
        (fresh(counts_mosaic(member=member)), first, {}, r"other training cells.*train_size"),
        (fresh(renamed), second, {}, "other training cells.*names and order count too"),
        (fresh(), first, {"train_size": 0.5}, "other training cells: .*'shared': 55.*: 29"),
        (fresh(), last, {"max_epochs": 1}, "end of epoch 2 of 1. Give the max_epochs"),
        (query, second, {}, "is of the encoders, and .* are frozen.*freeze=False"),
    ]:
        before = {key: value.clone() for key, value in model.module.state_dict().items()}
        cells = model.table_cells_
        with pytest.raises(ValueError, match=message):
            model.train(ckpt_path=path, **(QUIET | options))
        assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
        assert model.table_cells_ is cells


def test_models_that_scvi_saves_in_both_stages_are_loaded(tmp_path) -> None:
    mdata = counts_mosaic()
    keep = SaveCheckpoint(dirpath=str(tmp_path), monitor="validation_loss", save_top_k=-1)
    trained(mdata, train={"callbacks": [keep], "enable_checkpointing": True})
    folders = [path for path in tmp_path.iterdir() if (path / "model.pt").exists()]
    assert len(folders) >= 2
    for folder in folders:
        loaded = APOLLO.load(str(folder), mdata)
        assert np.isfinite(loaded.get_latent_representation()).all()
        with pytest.raises(ValueError, match="is a folder"):
            loaded.train(ckpt_path=folder, **QUIET)
