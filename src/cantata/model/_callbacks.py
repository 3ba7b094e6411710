"""Callbacks of the trainers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import LightningModule, Trainer


class BestWeights(Callback):
    """Keep the weights of the best epoch in memory and put them back at the end.

    Parameters
    ----------
    monitor
        Logged quantity; the smallest value wins.
    warmup_epochs
        Epochs at the start that cannot win.

    Examples
    --------
    >>> BestWeights("foscttm_validation", warmup_epochs=5).best_epoch
    -1
    """

    def __init__(self, monitor: str, warmup_epochs: int = 0) -> None:
        self.monitor = monitor
        self.warmup_epochs = warmup_epochs
        self.best_score = math.inf
        self.best_epoch = -1
        self._weights: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the weights if this epoch is the best so far."""
        score = trainer.callback_metrics.get(self.monitor)
        if score is None or trainer.current_epoch < self.warmup_epochs:
            return
        if float(score) < self.best_score:
            self.best_score, self.best_epoch = float(score), trainer.current_epoch
            self._weights = {k: v.detach().clone() for k, v in pl_module.state_dict().items()}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back."""
        if self._weights:
            pl_module.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Part of a trainer checkpoint."""
        return {
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "weights": self._weights,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore from a trainer checkpoint."""
        self.best_score = state_dict["best_score"]
        self.best_epoch = state_dict["best_epoch"]
        self._weights = state_dict["weights"]
