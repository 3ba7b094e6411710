"""APOLLO's two stages of optimisation: latents with decoders, then encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from cantata._keys import CELL
from cantata.model._plan import MosaicTrainingPlan, cosine_share, loss_weights
from cantata.model.apollo._linear import fit_linear_encoders
from cantata.model.apollo._module import APOLLOModule, LossWeights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch.optim import Optimizer


class _StagePlan(MosaicTrainingPlan):
    """What both stages share: cosine decay, and held-out cells judged by decoding them."""

    module: APOLLOModule
    prefix = ""
    """Of the names of validation terms in the history."""

    def __init__(
        self,
        module: APOLLOModule,
        places: Mapping[str, Tensor],
        lr_schedule: str,
    ) -> None:
        super().__init__(module)
        if lr_schedule not in ("cosine", "constant"):
            raise ValueError(f"lr_schedule={lr_schedule!r} is neither 'cosine' nor 'constant'.")
        self.lr_schedule = lr_schedule
        self._place_names = list(places)
        for name, rows in places.items():
            self.register_buffer(f"places_{name}", rows, persistent=False)

    @property
    def places(self) -> dict[str, Tensor]:
        """For each table the row of every cell of the data; -1 where it has none."""
        return {name: getattr(self, f"places_{name}") for name in self._place_names}

    def _decay(self, batch_idx: int, rates: Iterable[float]) -> None:
        """Set learning rates by the progress of the stage."""
        share = 1.0
        if self.lr_schedule == "cosine":
            progress = self.current_epoch + batch_idx / max(1, self.trainer.num_training_batches)
            share = cosine_share(progress / (self.trainer.max_epochs or 1))
        for optimizer, rate in zip(self._optimizers(), rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Decode what encoders infer of held-out cells."""
        self._validation_terms.add(self.module.decoded_loss(batch), len(batch[CELL]))

    def on_validation_epoch_end(self) -> None:
        """Log the means of all terms over the validation cells."""
        means = self._finite(self._validation_terms.pop("validation"))
        if means:
            loss = means["decoded_validation"]
            self.log("validation_loss", loss, prog_bar=True, logger=False, batch_size=1)
            named = {f"{self.prefix}{key}": value for key, value in means.items()}
            self.log_dict(named, on_epoch=True, batch_size=1)

    @property
    def monitor(self) -> str:
        """Loss of held-out cells, by its name in the history."""
        return f"{self.prefix}decoded_validation"

    def _log_train(self, objective: str, further: dict[str, Tensor]) -> None:
        means = self._finite(self._train_terms.pop("train"))
        self.log_dict(means | further, on_epoch=True, batch_size=1)
        loss = means[f"{objective}_train"]
        self.log("train_loss", loss, prog_bar=True, logger=False, batch_size=1)


class LatentPlan(_StagePlan):
    """First stage: latents and decoders, Zhang et al. 2026, eq. 1.

    Held-out cells have no latents. They are judged by linear encoders, fitted to the latents of
    training cells before every validation.

    Parameters
    ----------
    module
        Network to train; its tables are set.
    places
        For each table the row of every cell of the data; -1 where it has none.
    inputs
        For each modality the encoder's input of all its cells; None: no validation.
    lr
        Learning rate of decoders (Adam).
    lr_latents
        Learning rate of latents.
    lr_schedule
        ``"cosine"`` decay to 0 over the planned epochs, or ``"constant"``.
    row_updates
        ``"lazy"``: a step moves the latents of its own cells alone, and keeps moments of these
        rows only. ``"dense"``: Adam over the whole table, whose momentum goes on moving the
        latents of cells outside the minibatch, as in the reference implementation.
    **lambdas
        Fields of :class:`~cantata.model.apollo.LossWeights`.

    Examples
    --------
    >>> from cantata.model.apollo import APOLLOModule, LatentPlan
    >>> transforms, losses = {"a": "identity"}, {"a": "mse"}
    >>> module = APOLLOModule({"a": 5}, transforms, losses, 2, {"a": 1})
    >>> LatentPlan(module, {}, None, lambda_norm=0.0).weights.lambda_norm
    0.0
    """

    prefix = "linear_"

    def __init__(
        self,
        module: APOLLOModule,
        places: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor] | None = None,
        *,
        lr: float = 5e-3,
        lr_latents: float = 3e-2,
        lr_schedule: Literal["cosine", "constant"] = "cosine",
        row_updates: Literal["lazy", "dense"] = "lazy",
        **lambdas: float,
    ) -> None:
        super().__init__(module, places, lr_schedule)
        self._inputs = inputs
        if row_updates not in ("lazy", "dense"):
            raise ValueError(f"row_updates={row_updates!r} is neither 'lazy' nor 'dense'.")
        self.weights = loss_weights(LossWeights, lambdas)
        self.lr, self.lr_latents, self.row_updates = lr, lr_latents, row_updates
        for name in module.tables:
            module.table(name).sparse = row_updates == "lazy"

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimiser for the decoders, one for the latents."""
        decoders = [
            p
            for part in (self.module.full, self.module.shared_only)
            for p in part.parameters()
            if p.requires_grad
        ]
        latents = [p for p in self.module.tables.parameters() if p.shape[1]]
        lazy = self.row_updates == "lazy"
        make: Any = torch.optim.SparseAdam if lazy else torch.optim.Adam
        optimizers = [make(latents, lr=self.lr_latents)]
        if not decoders:
            return optimizers
        # millions of weights: one pass over memory in place of ten
        fused = all(p.device.type in ("cpu", "cuda") for p in decoders)
        return [torch.optim.Adam(decoders, lr=self.lr, fused=fused), *optimizers]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One step of decoders and latents together."""
        optimizers = self._optimizers()
        self._decay(batch_idx, [self.lr, self.lr_latents][-len(optimizers) :])
        for optimizer in optimizers:
            optimizer.zero_grad()  # before the loss, which makes the decoders' gradients
        output = self.module.latent_loss(batch, self.places, self.weights)
        self.manual_backward(output.loss)
        for optimizer in optimizers:
            optimizer.step()
        self._train_terms.add(output.extra_metrics, output.n_obs_minibatch)
        return {"loss": output.loss.detach()}

    def on_train_epoch_end(self) -> None:
        """Log the means of all terms, and the norm of every latent space."""
        norms = {f"norm_{name}": self.module.table(name).norm() for name in self.module.tables}
        self._log_train("objective", norms)

    def on_validation_epoch_start(self) -> None:
        """Fit linear encoders to the latents as they are now."""
        if self._inputs is not None:
            fit_linear_encoders(self.module, self._inputs, self.places)


class EncoderPlan(_StagePlan):
    """Second stage: encoders regressed on the latents, with everything else fixed.

    Parameters
    ----------
    module
        Network whose first stage is done.
    places
        For each table the row of every cell of the data; -1 where it has none.
    cached
        Whether minibatches hold the encoders' input in place of values.
    lr
        Learning rate (Adam).
    lr_schedule
        ``"cosine"`` decay to 0 over the planned epochs, or ``"constant"``.
    weight_decay
        L2 penalty in the gradient.

    Examples
    --------
    >>> from cantata.model.apollo import APOLLOModule, EncoderPlan
    >>> transforms, losses = {"a": "identity"}, {"a": "mse"}
    >>> module = APOLLOModule({"a": 5}, transforms, losses, 2, {"a": 1})
    >>> EncoderPlan(module, {}, cached=False, lr=1e-4).lr
    0.0001
    """

    def __init__(
        self,
        module: APOLLOModule,
        places: Mapping[str, Tensor],
        *,
        cached: bool,
        lr: float = 1e-3,
        lr_schedule: Literal["cosine", "constant"] = "cosine",
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(module, places, lr_schedule)
        self.cached, self.lr, self.weight_decay = cached, lr, weight_decay

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimiser for the encoders."""
        moved: list[nn.Parameter] = [
            p for p in self.module.encoders.parameters() if p.requires_grad
        ]
        return [torch.optim.Adam(moved, lr=self.lr, weight_decay=self.weight_decay)]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One step of the encoders."""
        (optimizer,) = self._optimizers()
        self._decay(batch_idx, [self.lr])
        inputs = {
            name: batch[name] if self.cached else self.module.read(name, batch[name])
            for name in self.module.modalities
        }
        output = self.module.encoder_loss(inputs, batch, self.places)
        optimizer.zero_grad()
        self.manual_backward(output.loss)
        optimizer.step()
        self._train_terms.add(output.extra_metrics, output.n_obs_minibatch)
        return {"loss": output.loss.detach()}

    def on_train_epoch_start(self) -> None:
        """Decoders keep their statistics."""
        self.module.full.eval()
        self.module.shared_only.eval()

    def on_train_epoch_end(self) -> None:
        """Log the means of all terms."""
        self._log_train("encoder_objective", {})
