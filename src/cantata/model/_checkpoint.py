"""What trainer checkpoints say of the training that they are from, and how it is continued."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning.pytorch import Trainer
    from torch import Tensor, nn

RECORD = "cantata"
"""Key of the record in a checkpoint."""
PREFIX = "module."
"""Of the names of the network's weights in a checkpoint."""


def digest(cells: Sequence[str]) -> str:
    """Short stand-in for the names of cells and their order."""
    return hashlib.sha256("\n".join(cells).encode()).hexdigest()


class TrainingRecord(Callback):
    """Write into checkpoints which model and training cells (their digest) they are of."""

    def __init__(self, model: str, cells: str) -> None:
        self.model, self.cells = model, cells

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Training that had stopped by itself does not go on."""
        if any(c.wait_count >= max(1, c.patience) for c in trainer.early_stopping_callbacks):
            trainer.should_stop = True

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Add the record."""
        checkpoint[RECORD] = self.content()

    def content(self) -> dict[str, Any]:
        """What is written."""
        return {"model": self.model, "cells": self.cells}


@dataclass(frozen=True)
class TrainingCheckpoint:
    """Where training is continued."""

    path: Path
    model: str
    n_epochs: int
    """Epochs that were done."""
    record: Mapping[str, Any]
    """What the :class:`TrainingRecord` wrote."""
    weights: Mapping[str, Tensor]
    """State of the network."""

    @classmethod
    def read(cls, path: str | Path, model: str) -> Self:
        """Read a checkpoint of the training of a model (its name) from the end of an epoch.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is anything else.
        """
        path = Path(path)
        content = _content(path, model)
        record = content.get(RECORD, {}) if isinstance(content, dict) else {}
        if record.get("model") != model:
            of = f"one of {record['model']}'s, and " if record else ""
            raise ValueError(
                f"{_argument(path)} is {of}no checkpoint of {model}'s training. {_remedy(model)}"
            )
        progress = content["loops"]["fit_loop"]["epoch_progress"]["current"]
        n_epochs = progress["processed"]
        if progress["ready"] != n_epochs:
            raise ValueError(
                f"{_argument(path)} was saved within epoch {n_epochs}, and training is continued "
                "from the end of an epoch. Save with "
                "ModelCheckpoint(every_n_epochs=1, save_on_train_epoch_end=True)."
            )
        weights = {k.removeprefix(PREFIX): value for k, value in content["state_dict"].items()}
        return cls(path, model, n_epochs, record, weights)

    @property
    def argument(self) -> str:
        """How a user named it."""
        return _argument(self.path)

    def check_epochs(self, n_epochs: int, argument: str) -> None:
        """A ``ValueError`` if it is beyond the epochs that `argument` plans."""
        if self.n_epochs > n_epochs:
            raise ValueError(
                f"{self.argument} is from the end of epoch {self.n_epochs} of {n_epochs}. "
                f"Give the {argument} that it was trained with."
            )

    def check_cells(self, cells: Sequence[str], what: str = "") -> None:
        """A ``ValueError`` if it is of other training cells; `what` is said of them."""
        if self.record["cells"] != digest(cells):
            raise ValueError(
                f"{self.argument} is of other training cells: {what}names and order "
                "count too. Give the same data, train_size, validation_size and "
                "scvi.settings.seed."
            )

    def check_weights(self, module: nn.Module, of_cells: Sequence[str] = ()) -> None:
        """A ``ValueError`` if names or shapes of weights differ.

        Those of the parts of the network `of_cells` may differ in their rows.
        """
        of_model = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        saved = {key: tuple(value.shape) for key, value in self.weights.items()}
        a, b = (
            {k: shape[k.split(".")[0] in of_cells :] for k, shape in shapes.items()}
            for shapes in (saved, of_model)
        )
        differing = [key for key in a | b if a.get(key) != b.get(key)]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{self.argument} is of another model: {len(differing)} of its weights "
                f"have another shape or are missing, e.g. {key!r}, {saved.get(key, 'missing')} "
                f"there and {of_model.get(key, 'missing')} here. Set up the same data and give "
                f"{self.model} the same arguments."
            )

    def options(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the trainer that continue training, from those of the whole of it."""
        every = run.get("check_val_every_n_epoch") or 1
        warmup = run.get("early_stopping_warmup_epochs", 0) - self.n_epochs // every
        return {"ckpt_path": str(self.path), "early_stopping_warmup_epochs": max(0, warmup)}


def _argument(path: Path) -> str:
    return f"ckpt_path={str(path)!r}"


def _remedy(model: str) -> str:
    return (
        "Give a file that lightning's ModelCheckpoint, without save_weights_only, wrote in "
        f"{model}.train(callbacks=[...], enable_checkpointing=True)."
    )


def _content(path: Path, model: str) -> Any:
    """Content of a file that torch wrote; tensors are read when they are used."""
    if path.is_dir():
        raise ValueError(
            f"{_argument(path)} is a folder, as model.save and scvi-tools' SaveCheckpoint make. "
            f"Such models are loaded by {model}.load, but do not hold what optimisers know. "
            f"{_remedy(model)}"
        )
    if not path.exists():
        raise FileNotFoundError(f"{_argument(path)}: there is no such file. {_remedy(model)}")
    try:
        return torch.load(path, map_location="cpu", mmap=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{_argument(path)} cannot be read as a checkpoint. {_remedy(model)}"
        ) from error
