"""What trainer checkpoints say of the stage that they are from, and how one is continued."""

from __future__ import annotations

import hashlib
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning.pytorch import Trainer
    from torch import Tensor, nn

    from cantata.model.apollo._plan import EncoderPlan, LatentPlan

Stage = Literal["latent", "encoder"]
RECORD = "apollo"
"""Key of the record in a checkpoint."""
PREFIX = "module."
"""Of the names of the network's weights in a checkpoint."""
TABLES = "tables."
"""Of the names of those that have a row for each training cell."""
REMEDY = (
    "Give a file that lightning's ModelCheckpoint, without save_weights_only, wrote in "
    "APOLLO.train(callbacks=[...], enable_checkpointing=True)."
)


def digest(cells: Sequence[str]) -> str:
    """Short stand-in for the names of cells and their order."""
    return hashlib.sha256("\n".join(cells).encode()).hexdigest()


class StageRecord(Callback):
    """Write into checkpoints which stage they are from, and what the next stage has to know.

    That are a digest of the training cells, and the least losses of held-out cells by their names
    in the history, `best`, which are kept up to date.
    """

    def __init__(self, stage: Stage, cells: str, best: dict[str, float]) -> None:
        self.stage, self.cells, self.best = stage, cells, best

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """A stage that had stopped by itself does not go on."""
        if any(c.wait_count >= max(1, c.patience) for c in trainer.early_stopping_callbacks):
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LatentPlan | EncoderPlan) -> None:  # type: ignore[override]
        """Keep the least loss."""
        loss = trainer.callback_metrics.get(pl_module.monitor)
        if loss is not None and not trainer.sanity_checking:
            least = self.best.get(pl_module.monitor, math.inf)
            self.best[pl_module.monitor] = min(least, float(loss))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Add the record."""
        record = {"stage": self.stage, "cells": self.cells, "best": dict(self.best)}
        checkpoint[RECORD] = record


@dataclass(frozen=True)
class StageCheckpoint:
    """Where training is continued."""

    path: Path
    stage: Stage
    """The stage that was under way."""
    n_epochs: int
    """Epochs of it that were done."""
    cells: str
    """Digest of the names of the training cells."""
    best: Mapping[str, float]
    """Least losses of held-out cells by their names in the history."""
    weights: Mapping[str, Tensor]
    """State of the network."""

    @classmethod
    def read(cls, path: str | Path) -> StageCheckpoint:
        """Read a checkpoint of APOLLO's training from the end of an epoch.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is anything else.
        """
        path = Path(path)
        content = _content(path)
        if not isinstance(content, dict) or RECORD not in content:
            raise ValueError(f"{_argument(path)} is no checkpoint of APOLLO's training. {REMEDY}")
        record = content[RECORD]
        progress = content["loops"]["fit_loop"]["epoch_progress"]["current"]
        n_epochs = progress["processed"]
        if progress["ready"] != n_epochs:
            raise ValueError(
                f"{_argument(path)} was saved within epoch {n_epochs}, and training is continued "
                "from the end of an epoch. Save with "
                "ModelCheckpoint(every_n_epochs=1, save_on_train_epoch_end=True)."
            )
        weights = {k.removeprefix(PREFIX): value for k, value in content["state_dict"].items()}
        return cls(path, record["stage"], n_epochs, record["cells"], record["best"], weights)

    def check(
        self,
        module: nn.Module,
        cells: Sequence[str],
        n_rows: Mapping[str, int],
        n_epochs: Mapping[Stage, int],
    ) -> None:
        """Refuse to continue what was another training.

        `cells` are the names of the training cells, `n_rows` the rows of each table and `n_epochs`
        the planned epochs of the stages to run. It is a ``ValueError`` if the checkpoint is of
        another model, of other cells, of a stage that is not run or beyond its epochs.
        """
        argument = _argument(self.path)
        self._check_shapes({key: tuple(value.shape) for key, value in module.state_dict().items()})
        saved_rows = {name: len(self.weights[f"{TABLES}{name}.weight"]) for name in n_rows}
        if saved_rows != dict(n_rows) or self.cells != digest(cells):
            raise ValueError(
                f"{argument} is of other training cells: rows of the tables are {saved_rows}, of "
                f"this data {dict(n_rows)}; names and order count too. Give the same data, "
                "train_size, validation_size and scvi.settings.seed."
            )
        if self.stage not in n_epochs:
            raise ValueError(
                f"{argument} is of the encoders, and those of this model are frozen. Load the "
                "query with freeze=False, or train without ckpt_path."
            )
        if self.n_epochs > n_epochs[self.stage]:
            epochs = "max_epochs" if self.stage == "latent" else "encoder_epochs"
            raise ValueError(
                f"{argument} is from the end of epoch {self.n_epochs} of {n_epochs[self.stage]}. "
                f"Give the {epochs} that it was trained with."
            )

    def _check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare names and shapes of all weights; tables may differ in their rows."""
        saved = {key: tuple(value.shape) for key, value in self.weights.items()}
        a, b = (
            {k: shape[1:] if k.startswith(TABLES) else shape for k, shape in of_model.items()}
            for of_model in (saved, shapes)
        )
        differing = [key for key in a | b if a.get(key) != b.get(key)]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{_argument(self.path)} is of another model: {len(differing)} of its weights "
                f"have another shape or are missing, e.g. {key!r}, {saved.get(key, 'missing')} "
                f"there and {shapes.get(key, 'missing')} here. Set up the same data and give "
                "APOLLO the same arguments."
            )

    def options(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the trainer that continue the stage, from those of the whole stage."""
        every = run.get("check_val_every_n_epoch") or 1
        warmup = run.get("early_stopping_warmup_epochs", 0) - self.n_epochs // every
        return {"ckpt_path": str(self.path), "early_stopping_warmup_epochs": max(0, warmup)}


def _argument(path: Path) -> str:
    return f"ckpt_path={str(path)!r}"


def _content(path: Path) -> Any:
    """Content of a file that torch wrote; tensors are read when they are used."""
    if path.is_dir():
        raise ValueError(
            f"{_argument(path)} is a folder, as model.save and scvi-tools' SaveCheckpoint make. "
            "Such models are loaded by APOLLO.load, but do not hold what optimisers know. "
            f"{REMEDY}"
        )
    if not path.exists():
        raise FileNotFoundError(f"{_argument(path)}: there is no such file. {REMEDY}")
    try:
        return torch.load(path, map_location="cpu", mmap=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{_argument(path)} cannot be read as a checkpoint. {REMEDY}") from error
