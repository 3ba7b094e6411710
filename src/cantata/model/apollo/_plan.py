"""APOLLO's two stages of optimisation: latents with decoders, then encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from cantata._keys import CELL
from cantata.model._plan import MosaicTrainingPlan, Schedule, adam, check_weight, loss_weights
from cantata.model.apollo._batches import mixed
from cantata.model.apollo._module import ABSENT, SHARED, APOLLOModule, LossWeights
from cantata.nn import N_VIEWS, in_double

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import numpy as np
    from torch.optim import Optimizer

    from cantata.model.apollo._module import ModalityDecoder

LR, ENCODER_LR, IMAGE_LR = 5e-3, 1e-3, 2e-3
"""Learning rates of decoders, of encoders, and of both where there are images."""
N_MIXINGS = 8
"""Times in the first stage that shared latents are mixed over batches."""
LAMBDA_DECODED = 100.0
"""Weight of decoding what encoders infer of images, whose loss is a mean over pixels."""
IMAGE_INDEPENDENCE = 5.0
"""Weight of the independence of what encoders infer of images, beside that of decoding."""
RIDGE = 1e-3
"""Penalty of linear encoders, in units of the mean variance of their inputs."""


class _StagePlan(MosaicTrainingPlan):
    """What both stages share: rows of the tables, and held-out cells judged by decoding them."""

    module: APOLLOModule
    prefix = ""
    """Of the names of validation terms in the history."""

    def __init__(
        self, module: APOLLOModule, table_rows: Mapping[str, Tensor], lr_schedule: Schedule
    ) -> None:
        super().__init__(module, lr_schedule)
        self._table_names = list(table_rows)
        for name, rows in table_rows.items():
            self.register_buffer(f"table_rows_{name}", rows, persistent=False)

    @property
    def table_rows(self) -> dict[str, Tensor]:
        """For each table the row of every cell of the data."""
        return {name: getattr(self, f"table_rows_{name}") for name in self._table_names}

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
    table_rows
        For each table the row of every cell of the data; -1 where it is not trained on, -2 where
        it lacks the modality.
    inputs
        For each modality the encoder's input of all its cells; None: no validation.
    lr
        Learning rate of decoders (Adam); 5e-3 by default, 2e-3 where there are images.
    lr_latents
        Learning rate of latents.
    lr_covariates
        Learning rate of what covariates add to decoders (Adam). It is larger than that of the
        latents, which would take on the effect of a covariate before decoders have it.
    lr_schedule
        ``"cosine"`` decay to 0 over the planned epochs, or ``"constant"``.
    row_updates
        ``"lazy"``: a step moves the latents of its own cells alone, and keeps moments of these
        rows only. ``"dense"``: Adam over the whole table, whose momentum goes on moving the
        latents of cells outside the minibatch, as in the reference implementation.
    batch
        (n,) batches of the training cells, over which shared latents are mixed from time to time;
        None: one.
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
    remedy = (
        "Lower the learning rates, e.g. train(plan_kwargs={'lr': 5e-4, 'lr_latents': 3e-3, "
        "'lr_covariates': 1e-2})."
    )

    def __init__(
        self,
        module: APOLLOModule,
        table_rows: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor] | None = None,
        *,
        lr: float | None = None,
        lr_latents: float = 3e-2,
        lr_covariates: float = 1e-1,
        lr_schedule: Schedule = "cosine",
        row_updates: Literal["lazy", "dense"] = "lazy",
        batch: np.ndarray | None = None,
        **lambdas: float,
    ) -> None:
        super().__init__(module, table_rows, lr_schedule)
        self._inputs, self._batch = inputs, batch
        if row_updates not in ("lazy", "dense"):
            raise ValueError(f"row_updates={row_updates!r} is neither 'lazy' nor 'dense'.")
        self.weights = loss_weights(LossWeights, lambdas)
        if lr is None:
            lr = IMAGE_LR if module.image_sides else LR
        self.lr, self.lr_latents, self.lr_covariates = lr, lr_latents, lr_covariates
        self.row_updates = row_updates
        for name in module.tables:
            module.table(name).sparse = row_updates == "lazy"

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimiser each for decoders, for covariates in these, and for the latents."""
        parts = self.module.full, self.module.shared_only
        every = [cast("ModalityDecoder", d) for part in parts for d in part.values()]
        of_covariates = {id(p) for decoder in every for p in decoder.covariate_parameters()}
        decoders = [p for part in parts for p in part.parameters() if p.requires_grad]
        latents = [p for p in self.module.tables.parameters() if p.shape[1]]
        lazy = self.row_updates == "lazy"
        make: Any = torch.optim.SparseAdam if lazy else adam
        self._rates, optimizers = [], []
        for is_told, rate in ((False, self.lr), (True, self.lr_covariates)):
            chosen = [p for p in decoders if (id(p) in of_covariates) == is_told]
            if chosen:
                optimizers.append(adam(chosen, lr=rate))
                self._rates.append(rate)
        self._rates.append(self.lr_latents)
        return [*optimizers, make(latents, lr=self.lr_latents)]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One step of decoders and latents together."""
        optimizers = self._optimizers()
        self._set_learning_rates(self._rates, self._progress(batch_idx))
        for optimizer in optimizers:
            optimizer.zero_grad()  # before the loss, which makes the decoders' gradients
        latents, noise_sd = self.module.inference(batch, self.table_rows)
        decoded = self.module.generative(batch, latents, noise_sd, self.weights)
        output = self.module.loss(batch, latents, noise_sd, decoded, self.weights)
        self.manual_backward(output.loss)
        for optimizer in optimizers:
            optimizer.step()
        self._train_terms.add(output.extra_metrics, output.n_obs_minibatch)
        return {"loss": output.loss.detach()}

    def on_train_epoch_start(self) -> None:
        """Take out of shared latents what the batch has come to change in them."""
        every = max(1, self._max_epochs // N_MIXINGS)
        if self.current_epoch and self.current_epoch % every == 0:
            self.mix()

    def mix(self) -> None:
        """Mix shared latents over batches, where several are registered."""
        if self._batch is None:
            return
        weight = self.module.table(SHARED).weight.data
        weight.copy_(torch.from_numpy(mixed(weight.cpu().numpy(), self._batch)))

    def on_train_epoch_end(self) -> None:
        """Log the means of all terms, and the norm of every latent space."""
        norms = {f"norm_{name}": self.module.table(name).norm() for name in self.module.tables}
        self._log_train("objective", norms)

    def on_validation_epoch_start(self) -> None:
        """Fit linear encoders to the latents as they are now."""
        if self._inputs is not None:
            fit_linear_encoders(self.module, self._inputs, self.table_rows)


class EncoderPlan(_StagePlan):
    """Second stage: encoders regressed on the latents, which are fixed.

    Parameters
    ----------
    module, table_rows
        As for :class:`LatentPlan`, whose stage is done.
    cached
        Modalities of which minibatches hold the encoder's input in place of values.
    lr
        Learning rate (Adam); 1e-3 by default, 2e-3 where there are images.
    lr_schedule
        ``"cosine"`` decay to 0 over the planned epochs, or ``"constant"``.
    weight_decay
        L2 penalty in the gradient.
    lambda_decoded
        Weight of the loss of decoding what encoders infer, of a modality by its own encoder and by
        those of the others, which alone moves shared latents; decoders are trained along. Not in
        the paper. None: 100 where there are images, else 0.
    lambda_independence
        Weight of the dependence of specific encodings on shared ones, of the same modality and of
        the others, which decoding would bring. Not in the paper. None: 5 where there are images,
        else 0.
    views
        Flip and turn the images of cells at random, all stains of a cell alike.
    augment
        Change images further, as encoders alone see them: a function of a tensor (cells, stains,
        side, side).

    Examples
    --------
    >>> from cantata.model.apollo import APOLLOModule, EncoderPlan
    >>> transforms, losses = {"a": "identity"}, {"a": "mse"}
    >>> module = APOLLOModule({"a": 5}, transforms, losses, 2, {"a": 1})
    >>> EncoderPlan(module, {}, lr=1e-4).lr
    0.0001
    """

    remedy = "Lower the learning rate, e.g. train(encoder_plan_kwargs={'lr': 1e-4})."

    def __init__(
        self,
        module: APOLLOModule,
        table_rows: Mapping[str, Tensor],
        *,
        cached: Collection[str] = (),
        lr: float | None = None,
        lr_schedule: Schedule = "cosine",
        weight_decay: float = 0.0,
        lambda_decoded: float | None = None,
        lambda_independence: float | None = None,
        views: bool = True,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(module, table_rows, lr_schedule)
        if lr is None:
            lr = IMAGE_LR if module.image_sides else ENCODER_LR
        self.cached, self.lr, self.weight_decay = cached, lr, weight_decay
        if lambda_decoded is None:
            lambda_decoded = LAMBDA_DECODED if module.image_sides else 0.0
        self.lambda_decoded = lambda_decoded
        if lambda_independence is None:
            lambda_independence = IMAGE_INDEPENDENCE if module.image_sides else 0.0
        self.lambda_independence = lambda_independence
        for name in ("lambda_decoded", "lambda_independence"):
            check_weight(name, getattr(self, name))
        if augment is not None and not callable(augment):
            raise TypeError(f"augment={augment!r} is not a function of images.")
        self.views, self._augment = views and bool(module.image_sides), augment

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimiser for the encoders, and for decoders that learn to read them."""
        trained = [self.module.encoders]
        if self.lambda_decoded:
            trained += [self.module.shared_only, self.module.full]
        parameters = [p for part in trained for p in part.parameters() if p.requires_grad]
        return [adam(parameters, lr=self.lr, weight_decay=self.weight_decay)]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One step of the encoders."""
        (optimizer,) = self._optimizers()
        self._set_learning_rates([self.lr], self._progress(batch_idx))
        view = None
        if self.views:
            view = torch.randint(N_VIEWS, batch[CELL].shape, device=batch[CELL].device)
            batch = self.module.turned(batch, view)
        inputs = {
            name: batch[name] if name in self.cached else self.module.read(name, batch[name])
            for name in self.module.modalities
        }
        if self._augment is not None:
            images = {m: self._augment(inputs[m]) for m in self.module.image_sides}
            inputs |= images
        output = self.module.encoder_loss(
            inputs,
            batch,
            self.table_rows,
            lambda_decoded=self.lambda_decoded,
            lambda_independence=self.lambda_independence,
            view=view,
        )
        if output.loss.requires_grad:  # there may be images alone, all of them turned
            self._step(optimizer, output.loss)
        self._train_terms.add(output.extra_metrics, output.n_obs_minibatch)
        return {"loss": output.loss.detach()}

    def on_train_epoch_start(self) -> None:
        """Decoders that are not trained keep their statistics."""
        if not self.lambda_decoded:
            self.module.full.eval()
            self.module.shared_only.eval()

    def on_train_epoch_end(self) -> None:
        """Log the means of all terms."""
        self._log_train("encoder_objective", {})


@torch.no_grad()
def fit_linear_encoders(
    module: APOLLOModule, inputs: Mapping[str, Tensor], table_rows: Mapping[str, Tensor]
) -> None:
    """Set the linear part of all encoders to a ridge regression of latents on inputs.

    `inputs` are, for each modality, the (n_m, d_m) inputs of the encoder for all its cells, in
    the order of the cells of the data; `table_rows` as for :class:`LatentPlan`. All may be on
    other devices than the tables, where the regression is computed.
    """
    device = module.table(SHARED).weight.device
    for name, x in inputs.items():
        # 1. training cells that have the modality, in the order of `inputs`
        own, shared_rows = (table_rows[key].to(device) for key in (name, SHARED))
        has = own > ABSENT
        trained = (own[has] >= 0).nonzero().squeeze(1)
        rows = own[has][trained]
        # 2. their inputs and latents, centred
        x = in_double(x.to(device)[trained])
        shared = module.table(SHARED).weight[shared_rows[has][trained]]
        latents = in_double(torch.cat([shared, module.table(name).weight[rows]], dim=1))
        x_mean, latent_mean = x.mean(dim=0), latents.mean(dim=0)
        centred = x - x_mean
        # 3. ridge regression; the intercept is not penalised
        gram = centred.T @ centred
        penalty = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(gram + penalty * eye, centred.T @ (latents - latent_mean))
        module.encoder(name).set_linear(weights, latent_mean - x_mean @ weights)
