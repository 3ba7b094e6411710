"""The two stages of APOLLO's training, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cantata import _compat
from cantata.model._callbacks import BestWeights
from cantata.model.apollo._checkpoint import StageCheckpoint, StageRecord, digest
from cantata.model.apollo._history import continued, is_better_than_linear, least_losses
from cantata.model.apollo._linear import fit_linear_encoders
from cantata.model.apollo._plan import EncoderPlan, LatentPlan
from cantata.model.apollo._training import (
    StageSplitter,
    by_cell,
    cached_inputs,
    places_of,
    set_start,
    split,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from mudata import MuData
    from torch import Tensor

    from cantata.model.apollo._checkpoint import Stage
    from cantata.model.apollo._module import APOLLOModule

N_STEPS, MIN_EPOCHS, MAX_EPOCHS = 400, 15, 60
"""Steps of the default schedule of each stage, and bounds on its epochs."""


class StagesMixin:
    """Training for :class:`cantata.APOLLO`."""

    module: APOLLOModule
    adata: MuData
    modalities: list[str]
    start_: str
    is_trained_: bool
    table_cells_: np.ndarray
    table_members_: dict[str, np.ndarray]
    history: Any
    adata_manager: Any
    _train_runner_cls: Any
    _fit_inputs: Any

    def train(
        self,
        max_epochs: int | None = None,
        *,
        encoder_epochs: int | None = None,
        batch_size: int = 256,
        train_size: float | None = None,
        validation_size: float | None = None,
        early_stopping: bool = True,
        shuffle: bool = True,
        linear_encoders: bool = True,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: Mapping[str, Any] | None = None,
        encoder_plan_kwargs: Mapping[str, Any] | None = None,
        ckpt_path: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        """Train both stages.

        Held-out cells judge both by the loss of decoding what encoders infer of them. In the
        first stage, which they have no latents in, these encoders are linear and fitted in closed
        form before each validation; in the second they are the encoders themselves.

        Parameters
        ----------
        max_epochs
            Epochs of the first stage: latents and decoders. By default 400 steps, but at least 15
            and at most 60 epochs.
        encoder_epochs
            Epochs of the second stage: encoders. By default as many.
        batch_size
            Cells per minibatch.
        train_size, validation_size
            Fractions of the cells of each pairing pattern; 0.9 and the rest by default.
        early_stopping
            Stop a stage when the loss of held-out cells no longer falls, and restore its best
            epoch. Without it the last epoch is kept.
        shuffle
            Draw new minibatches every epoch; otherwise they are the same in all, as in the
            reference implementation.
        linear_encoders
            Add to each encoder the least-squares map from its input to the latents, so that its
            layers learn the rest; where held-out cells gain less than 1 % by these, the map alone
            is kept.
        accelerator, devices
            Passed to the trainer.
        plan_kwargs, encoder_plan_kwargs
            Arguments of :class:`~cantata.model.apollo.LatentPlan` and of
            :class:`~cantata.model.apollo.EncoderPlan`: learning rates, weights of the loss terms.
        ckpt_path
            Checkpoint from the end of an epoch of either stage, by lightning's
            ``ModelCheckpoint``. That stage is continued, and a later one run as usual. A model of
            the same data, arguments and seed then ends where uninterrupted training would have
            ended. The history begins after the checkpoint.
        **kwargs
            Passed to :class:`~scvi.train.Trainer`, e.g. ``enable_progress_bar``, ``precision``;
            ``callbacks`` and ``enable_checkpointing`` hold for both stages.

        Raises
        ------
        ValueError
            If there is nothing to start latents from, or `ckpt_path` is no checkpoint of this
            model and these cells.
        FileNotFoundError
            If `ckpt_path` does not exist.
        TypeError
            If `plan_kwargs` holds an unknown name.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> weights = {"lambda_independence": 0.0}
        >>> model.train(max_epochs=2, plan_kwargs=weights, enable_progress_bar=False)
        >>> "norm_shared" in model.history
        True
        """
        parts = split(self, train_size, validation_size)
        epochs = max_epochs or self._planned_epochs(len(parts[0]), batch_size)
        stages: dict[Stage, int] = {"latent": epochs}
        if not self.module.frozen:
            stages["encoder"] = encoder_epochs or epochs
        places = places_of(self, parts[0])
        cells = self.adata.obs_names[parts[0]].to_numpy().astype(str)
        checkpoint = None
        if ckpt_path is not None:
            checkpoint = StageCheckpoint.read(ckpt_path)
            n_rows = {name: int((rows >= 0).sum()) for name, rows in places.items()}
            checkpoint.check(self.module, cells, n_rows, stages)
        inputs = self._start(parts[0], places, checkpoint, kwargs.get("enable_progress_bar", True))
        fits_linear = linear_encoders and inputs is not None and not self.module.frozen
        ordered = by_cell(self, inputs) if fits_linear and inputs is not None else None
        validates = early_stopping and len(parts[1]) > 0
        session = _Session(
            stages,
            {"batch_size": batch_size, "external_indexing": parts, "fixed_order": not shuffle},
            {"accelerator": accelerator, "devices": devices, **kwargs},
            digest(cells),
            least_losses(self.history or {}) if checkpoint is None else dict(checkpoint.best),
            checkpoint,
        )
        if checkpoint is None or checkpoint.stage == "latent":
            fitted = ordered if validates else None
            latents = LatentPlan(self.module, places, fitted, **(plan_kwargs or {}))
            self._run_stage("latent", latents, None, fitted is not None, session)
            if ordered is not None:
                fit_linear_encoders(self.module, ordered, places)
        if "encoder" in stages:
            options = {"cached": inputs is not None, **(encoder_plan_kwargs or {})}
            encoders = EncoderPlan(self.module, places, **options)
            self._run_stage("encoder", encoders, inputs, validates, session)
            if ordered is not None and validates and not is_better_than_linear(session.best):
                fit_linear_encoders(self.module, ordered, places)

    def _planned_epochs(self, n_train: int, batch_size: int) -> int:
        """Epochs of the default schedule."""
        return int(np.clip(round(N_STEPS * batch_size / n_train), MIN_EPOCHS, MAX_EPOCHS))

    def _start(
        self,
        train: np.ndarray,
        places: Mapping[str, Tensor],
        checkpoint: StageCheckpoint | None,
        progress: bool,
    ) -> dict[str, np.ndarray] | None:
        """Set latents to where they start or were, and return what encoders read, if narrow."""
        _compat.keep_thread_limit()
        self._fit_inputs()
        if checkpoint is not None:
            self.module.load_state_dict(dict(checkpoint.weights))
        inputs = cached_inputs(self, progress=progress)
        cells = self.adata.obs_names[train].to_numpy().astype(str)
        if checkpoint is None and not np.array_equal(cells, self.table_cells_):
            set_start(self, train, inputs, self.start_)
        self.table_cells_ = cells
        self.table_members_ = {name: places[name][train].numpy() >= 0 for name in self.modalities}
        return inputs

    def _run_stage(
        self,
        stage: Stage,
        plan: LatentPlan | EncoderPlan,
        cached: Mapping[str, np.ndarray] | None,
        validates: bool,
        session: _Session,
    ) -> None:
        """Train one stage, and keep its best epoch where held-out cells tell."""
        run, epochs = dict(session.run), session.epochs[stage]
        record = StageRecord(stage, session.cells, session.best)
        run["callbacks"] = [*run.get("callbacks", []), record]
        run.setdefault("log_every_n_steps", 1)
        if validates:
            run.setdefault("check_val_every_n_epoch", 1)
            run.setdefault("early_stopping_monitor", plan.monitor)
            run.setdefault("early_stopping_patience", max(5, epochs // 4))
            run["callbacks"].append(BestWeights(run["early_stopping_monitor"]))
        else:
            run.setdefault("checkpointing_monitor", "train_loss")
            run["limit_val_batches"] = 0
        checkpoint = session.checkpoint
        if checkpoint is not None and checkpoint.stage == stage:
            run |= checkpoint.options(run)
        runner = self._train_runner_cls(
            self,
            training_plan=plan,
            data_splitter=StageSplitter(self.adata_manager, cached, **session.splitter),
            max_epochs=epochs,
            early_stopping=validates,
            reload_dataloaders_every_n_epochs=1,
            **run,
        )
        self.module.train()
        # scvi-tools would only extend what an earlier stage has recorded
        before: dict[str, pd.DataFrame] = self.history or {}
        self.history_: dict[str, pd.DataFrame] | None = None
        self.is_trained_ = False
        try:
            runner()
        finally:
            self.history_ = continued(before, self.history_ or {})


@dataclass(frozen=True)
class _Session:
    """What the stages of one training share."""

    epochs: Mapping[Stage, int]
    """Planned, of the stages that are run."""
    splitter: Mapping[str, Any]
    run: Mapping[str, Any]
    """Arguments of the trainer."""
    cells: str
    """Digest of the names of the training cells."""
    best: dict[str, float]
    """Least losses of held-out cells so far."""
    checkpoint: StageCheckpoint | None
