"""Checkpoints of models that train in one stage: what they are of is checked before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from model_cases import CASES, QUIET, Case

from cantata.data import StepSampler

if TYPE_CHECKING:
    from pathlib import Path

    import mudata

NAMES = ("CLUE", "SCMODAL", "own")


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(autouse=True)
def _short_epochs(monkeypatch, tmp_path) -> None:
    """Epochs of two steps in place of a hundred, and logs in the folder of the test."""
    for module in ("_model", "_plan"):
        monkeypatch.setattr(f"cantata.model.scmodal.{module}.STEPS_PER_EPOCH", 2)
    monkeypatch.setattr(StepSampler.__init__, "__defaults__", (2,))
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path / "log")


def fresh(case: Case, data: mudata.MuData | None = None, **model: Any) -> Any:
    scvi.settings.seed = 3
    data = case.data() if data is None else data
    case.cls.setup_mudata(data, batch_key="batch")
    return case.cls(data, **case.model | model)


def planned(case: Case, n_epochs: int) -> dict[str, Any]:
    key = next(iter(case.train))
    return {key: n_epochs * (2 if key == "max_steps" else 1)} | QUIET


def saved(folder: Path, model: Any, **options: Any) -> list[Path]:
    """Files from the ends of the epochs of a model that is trained."""
    keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    callbacks = [keep, *options.pop("callbacks", [])]
    model.train(callbacks=callbacks, enable_checkpointing=True, **options)
    return sorted(folder.glob("epoch=*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))


def assert_refused(
    model: Any, path: Any, message: str, error: Any = ValueError, **options
) -> None:
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    with pytest.raises(error, match=message):
        model.train(ckpt_path=path, **options)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert not model.has_inputs_
    assert not model.is_trained


class MidEpoch(Callback):
    """Save between two minibatches of the first epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
        if batch_idx == 0 and not self.path.exists():
            trainer.save_checkpoint(self.path)


def test_what_is_no_checkpoint_of_a_whole_epoch(case, tmp_path) -> None:
    name = case.cls.__name__
    text, other, within = (tmp_path / n for n in ("text", "other.ckpt", "within.ckpt"))
    text.write_text("epoch 3")
    torch.save({"state_dict": {}, "epoch": 3}, other)
    fresh(case).train(callbacks=[MidEpoch(within)], **planned(case, 1))
    model = fresh(case)
    for path, error, message in [
        (tmp_path / "none.ckpt", FileNotFoundError, "no such file.*ModelCheckpoint"),
        (tmp_path, ValueError, rf"is a folder.*{name}\.load.*ModelCheckpoint"),
        (text, ValueError, "cannot be read as a checkpoint.*ModelCheckpoint"),
        (other, ValueError, f"no checkpoint of {name}'s training.*{name}.train"),
        (within, ValueError, "saved within epoch 0.*every_n_epochs=1"),
    ]:
        assert_refused(model, path, message, error, **planned(case, 2))


def test_checkpoints_of_another_training(case, tmp_path) -> None:
    path = saved(tmp_path, fresh(case), **planned(case, 2))[-1]
    renamed = case.data()
    for name in renamed.mod:
        renamed[name].obs_names = "x" + renamed[name].obs_names
    renamed.update()
    cells = "is of other training cells: names and order count too"
    for model, options, message in [
        (fresh(case, n_latent=5), {}, "is of another model: .*shape or are missing, e.g."),
        (fresh(case, renamed), {}, cells),
        (fresh(case, case.data(n_cells=50)), {}, cells),
        (fresh(case), planned(case, 1), f"end of epoch 2 of 1. Give the {next(iter(case.train))}"),
    ]:
        assert_refused(model, path, message, **(planned(case, 2) | options))
    other = CASES[
        NAMES[NAMES.index(case.cls.__name__) - 1] if case.cls.__name__ in NAMES else "CLUE"
    ]
    name = case.cls.__name__
    assert_refused(fresh(other), path, f"one of {name}'s, and no", **planned(other, 2))


def test_training_that_had_stopped_by_itself_does_not_go_on(case, tmp_path) -> None:
    monitor = "train_loss" if case.cls.__name__ == "SCMODAL" else "validation_loss"

    def stop() -> dict[str, Any]:
        if monitor == "train_loss":  # which has no cells to validate on, but takes callbacks
            return {"callbacks": [EarlyStopping(monitor, 1e3, 1, check_on_train_epoch_end=True)]}
        return {
            "early_stopping": True,
            "early_stopping_patience": 1,
            "early_stopping_min_delta": 1e3,
        }

    whole = fresh(case)
    paths = saved(tmp_path, whole, **stop(), **planned(case, 6))
    assert 1 < len(paths) < 6
    # scvi-tools' plan, which the docs' model has, does not carry the random state
    for path in paths[-1:] if case.cls.__name__ not in NAMES[:2] else (paths[0], paths[-1]):
        resumed = fresh(case)
        torch.manual_seed(99)
        resumed.train(ckpt_path=path, **stop(), **planned(case, 6))
        states = whole.module.state_dict(), resumed.module.state_dict()
        assert not [k for k in states[0] if not torch.equal(states[0][k], states[1][k])]
        assert resumed.trainer.current_epoch == whole.trainer.current_epoch
