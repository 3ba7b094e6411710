"""What checkpoints of APOLLO say of the stage that they are from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from cantata.model._checkpoint import TrainingCheckpoint, TrainingRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning.pytorch import Trainer
    from torch import nn

    from cantata.model.apollo._plan import EncoderPlan, LatentPlan

Stage = Literal["latent", "encoder"]
TABLES = "tables"
"""Part of the network with a row for each training cell."""


class StageRecord(TrainingRecord):
    """Also write the stage, and the least losses of held-out cells, which the next has to know.

    These are `best`, by their names in the history, and are kept up to date.
    """

    def __init__(self, stage: Stage, cells: str, best: dict[str, float]) -> None:
        super().__init__("APOLLO", cells)
        self.stage, self.best = stage, best

    def on_validation_end(self, trainer: Trainer, pl_module: LatentPlan | EncoderPlan) -> None:  # type: ignore[override]
        """Keep the least loss."""
        loss = trainer.callback_metrics.get(pl_module.monitor)
        if loss is not None and not trainer.sanity_checking:
            least = self.best.get(pl_module.monitor, math.inf)
            self.best[pl_module.monitor] = min(least, float(loss))

    def content(self) -> dict[str, Any]:
        """What is written."""
        return {**super().content(), "stage": self.stage, "best": dict(self.best)}


class StageCheckpoint(TrainingCheckpoint):
    """Where training of one of the two stages is continued."""

    @property
    def stage(self) -> Stage:
        """The stage that was under way."""
        return self.record["stage"]

    @property
    def best(self) -> Mapping[str, float]:
        """Least losses of held-out cells by their names in the history."""
        return self.record["best"]

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
        self.check_weights(module, (TABLES,))
        saved = {name: len(self.weights[f"{TABLES}.{name}.weight"]) for name in n_rows}
        self.check_cells(cells, f"rows of the tables are {saved}, of this data {dict(n_rows)}; ")
        if self.stage not in n_epochs:
            raise ValueError(
                f"{self.argument} is of the encoders, and those of this model are frozen. Load "
                "the query with freeze=False, or train without ckpt_path."
            )
        epochs = "max_epochs" if self.stage == "latent" else "encoder_epochs"
        self.check_epochs(n_epochs[self.stage], epochs)
