"""scMODAL's optimisation: discriminators on detached embeddings, then encoders and decoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cantata.data import STEPS_PER_EPOCH
from cantata.model._plan import MosaicTrainingPlan, Schedule, adam, loss_weights
from cantata.model.scmodal._module import LossWeights, SCMODALModule, Variates

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from lightning.pytorch.core.optimizer import LightningOptimizer
    from torch.optim import Optimizer

    from cantata.model.scmodal._links import Pair


JUDGED_EVERY = 10
"""Steps from one look at how consistent links are to the next, which is a fifth of a step."""


class SCMODALTrainingPlan(MosaicTrainingPlan):
    """Minimax training of scMODAL (Wang et al. 2025, equation 7).

    Each minibatch is encoded once. The discriminators take their steps on the detached
    embeddings; the encoders and decoders step against the discriminators so updated.

    Parameters
    ----------
    module
        Network to train.
    lr
        Learning rate of both optimisers (Adam).
    lr_schedule
        ``"constant"``, or ``"cosine"`` decay to 0 over the planned steps.
    weight_decay
        L2 penalty in the gradient of both optimisers, but for the vectors of covariates, so that
        those of batches which the data lacks stay what they were.
    n_discriminator_steps
        Steps of the discriminators per step of the encoders and decoders.
    n_neighbors
        Neighbours among which anchors are mutual.
    gradient_clip
        Largest norm of the gradient of encoders and decoders; None for no limit.
    max_steps
        Planned steps, for the schedule.
    anchor_factors, min_linked
        Passed to :meth:`SCMODALModule.loss`.
    refine, refine_before
        What gives refined linked features, and the steps before which it is called.
    **lambdas
        Fields of :class:`~cantata.model.scmodal.LossWeights`.

    Examples
    --------
    >>> from cantata.model.scmodal import SCMODALModule, SCMODALTrainingPlan
    >>> transforms = {"rna": "log1p", "adt": "clr"}
    >>> module = SCMODALModule({"rna": 30, "adt": 5}, transforms, [("rna", "adt")])
    >>> SCMODALTrainingPlan(module, lambda_geo=1.0).weights.lambda_geo
    1.0
    """

    module: SCMODALModule

    def __init__(
        self,
        module: SCMODALModule,
        *,
        lr: float = 1e-3,
        lr_schedule: Schedule = "constant",
        weight_decay: float = 1e-3,
        n_discriminator_steps: int = 2,
        n_neighbors: int = 15,
        gradient_clip: float | None = 5.0,
        max_steps: int | None = None,
        anchor_factors: Mapping[Pair, float] | None = None,
        min_linked: int = 1,
        refine: Callable[[], dict[Pair, Variates]] | None = None,
        refine_before: Container[int] = (),
        **lambdas: float,
    ) -> None:
        super().__init__(module, lr_schedule)
        self.weights = loss_weights(LossWeights, lambdas)
        self.lr, self.weight_decay = lr, weight_decay
        self.n_discriminator_steps, self.n_neighbors = n_discriminator_steps, n_neighbors
        self.gradient_clip, self.max_steps = gradient_clip, max_steps
        self.anchor_factors, self.min_linked = anchor_factors, min_linked
        self.refine, self.refine_before = refine, refine_before
        self.variates: dict[Pair, Variates] = {}
        """For ordered pairs of modalities, what makes refined linked features of linked ones."""

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimiser for encoders and decoders, one for the discriminators."""
        adversaries = list(self.module.discriminators.parameters())
        ids = {id(p) for p in adversaries}
        networks: list[torch.nn.Parameter] = []
        covariates: list[torch.nn.Parameter] = []
        for name, parameter in self.module.named_parameters():
            if id(parameter) not in ids and parameter.requires_grad:
                (covariates if ".covariates." in name else networks).append(parameter)
        generator = [
            {"params": params, "weight_decay": decay}
            for params, decay in ((networks, self.weight_decay), (covariates, 0.0))
            if params
        ]
        return [
            adam(groups, lr=self.lr, weight_decay=self.weight_decay)
            for groups in (generator, adversaries)
            if groups
        ]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Steps of the discriminators, then one of the encoders and decoders."""
        step, optimizers = self.current_epoch * STEPS_PER_EPOCH + batch_idx, self._optimizers()
        progress = step / self.max_steps if self.max_steps else 0.0
        self._set_learning_rates([self.lr] * len(optimizers), progress)
        if self.refine is not None and step in self.refine_before:
            self.variates |= self.refine()
        z = self.module.inference(batch)
        if self.weights.lambda_gan and self.module.present_pairs(z):
            self._step_discriminators(batch, z, optimizers[-1])
        self.module.discriminators.requires_grad_(False)
        output = self.module.loss(
            batch,
            z,
            self.module.generative(batch, z),
            self.weights,
            n_neighbors=self.n_neighbors,
            anchor_factors=self.anchor_factors,
            min_linked=self.min_linked,
            variates=self.variates,
        )
        self._step(optimizers[0], output.loss, self.gradient_clip)
        self.module.discriminators.requires_grad_(True)
        self._train_terms.add(output.extra_metrics, 1)
        if batch_idx % JUDGED_EVERY == 0:
            self._train_terms.add(self.module.consistency(batch, z), 1)
        return {"loss": output.loss.detach()}

    def _step_discriminators(
        self, batch: dict[str, Tensor], z: dict[str, Tensor], optimizer: LightningOptimizer
    ) -> None:
        fixed = {name: value.detach() for name, value in z.items()}
        pairs = self.module.present_pairs(fixed)
        for _ in range(self.n_discriminator_steps):
            losses = [self.module.discriminator_loss(batch, fixed, pair) for pair in pairs]
            self._step(optimizer, torch.stack(losses).sum())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add refined linked features, which the module does not keep."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["variates"] = {way: vars(v) for way, v in self.variates.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue with the refined linked features of the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint.get("variates", {})
        self.variates = {way: Variates(**parameters) for way, parameters in saved.items()}
