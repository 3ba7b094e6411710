"""CLUE's optimisation: alternating discriminator and generator steps on one encoder pass."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cantata._keys import CELL
from cantata.losses import paired_rows
from cantata.metrics import foscttm
from cantata.model._plan import MosaicTrainingPlan, Schedule, loss_weights
from cantata.model.clue._module import CLUEModule, LossWeights

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from cantata.model.clue._module import Inference

OPTIMIZERS = {"rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
MAX_VALIDATION_PAIRS = 2000


class CLUETrainingPlan(MosaicTrainingPlan):
    """Minimax training of CLUE (Tu et al. 2022, equation 15).

    Each minibatch is encoded once. The discriminator steps on the detached posterior means; the
    encoders and decoders step against the discriminator so updated. Gaussian noise on what the
    discriminator sees falls linearly to 0 over the first `noise_epochs`.

    Parameters
    ----------
    module
        Network to train.
    lr
        Learning rate of both optimisers.
    optimizer
        ``"rmsprop"``, ``"adam"`` or ``"adamw"``.
    lr_schedule
        ``"cosine"`` decay to 0 over the planned steps, or ``"constant"``.
    noise_epochs
        Fraction of the planned epochs with annealed noise.
    temperature
        Of the contrastive term.
    weight_decay
        Passed to the optimisers.
    gradient_clip
        Largest norm of the generator's gradient; None for no limit.
    **lambdas
        Fields of :class:`~cantata.model.clue.LossWeights`.

    Examples
    --------
    >>> from cantata.model.clue import CLUEModule, CLUETrainingPlan
    >>> module = CLUEModule({"rna": 5, "adt": 3}, {}, {"rna": "nb", "adt": "nb"})
    >>> CLUETrainingPlan(module, lambda_cross=1.0).weights.lambda_cross
    1.0
    """

    module: CLUEModule

    def __init__(
        self,
        module: CLUEModule,
        *,
        lr: float = 2e-3,
        optimizer: Literal["rmsprop", "adam", "adamw"] = "rmsprop",
        lr_schedule: Schedule = "cosine",
        noise_epochs: float = 0.3,
        temperature: float = 0.1,
        weight_decay: float = 0.0,
        gradient_clip: float | None = None,
        **lambdas: float,
    ) -> None:
        super().__init__(module, lr_schedule)
        self.weights = loss_weights(LossWeights, lambdas)
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer={optimizer!r} is not one of {list(OPTIMIZERS)}.")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} is not positive.")
        self.lr, self.optimizer_name, self.weight_decay = lr, optimizer, weight_decay
        self.noise_epochs, self.temperature = noise_epochs, temperature
        self.gradient_clip = gradient_clip
        # in a frozen model the discriminator neither learns nor steps
        self._adversary_learns = any(p.requires_grad for p in module.discriminator.parameters())
        self._validation_pairs: list[dict[str, tuple[Tensor, Tensor]]] = []

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimiser for encoders and decoders, one for the discriminator."""
        adversary = list(self.module.discriminator.parameters())
        ids = {id(p) for p in adversary}
        others = [p for p in self.module.parameters() if id(p) not in ids and p.requires_grad]
        make = OPTIMIZERS[self.optimizer_name]
        return [make(p, lr=self.lr, weight_decay=self.weight_decay) for p in (others, adversary)]

    @property
    def _plays_adversary(self) -> bool:
        several = len(self.module.modalities) > 1
        return several and self.weights.lambda_d > 0 and self._adversary_learns

    @property
    def noise(self) -> float:
        """Standard deviation of the noise on the discriminator's input in this epoch."""
        burn_in = self.noise_epochs * self._max_epochs
        return max(1 - self.current_epoch / burn_in, 0.0) if burn_in > 0 else 0.0

    def _decoded(
        self, batch: dict[str, Tensor], inferred: Inference
    ) -> dict[str, dict[str, Tensor]]:
        """Likelihoods of a minibatch, as far as they have a weight."""
        return self.module.generative(
            batch,
            inferred,
            cross=self.weights.lambda_cross > 0,
            real_cross=self.weights.lambda_real_cross > 0,
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One step of the discriminator, then one of the encoders and decoders."""
        self._set_learning_rates([self.lr, self.lr], self._progress(batch_idx))
        generator, adversary = self._optimizers()
        inferred, noise = self.module.inference(batch), self.noise
        if self._plays_adversary:
            self._step(
                adversary, self.module.discriminator_loss(batch, inferred, noise, detach=True)
            )
        nll = self._decoded(batch, inferred)
        self.module.discriminator.requires_grad_(False)
        output = self.module.loss(batch, inferred, nll, self.weights, noise, self.temperature)
        self._step(generator, output.loss, self.gradient_clip)
        self.module.discriminator.requires_grad_(self._adversary_learns)
        self._train_terms.add(output.extra_metrics, output.n_obs_minibatch)
        return {"loss": output.loss.detach()}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """All terms at the posterior means, without noise."""
        inferred = self.module.inference(batch, sample=False)
        nll = self._decoded(batch, inferred)
        output = self.module.loss(batch, inferred, nll, self.weights, 0.0, self.temperature)
        self._validation_terms.add(output.extra_metrics, len(batch[CELL]))
        pairs = {}
        for first, second in combinations(self.module.modalities, 2):
            a, b = paired_rows(inferred.rows[first], inferred.rows[second])
            pairs[f"{first} {second}"] = (inferred.loc[first][a], inferred.loc[second][b])
        self._validation_pairs.append(pairs)

    def on_validation_epoch_end(self) -> None:
        """Log the means of the terms, and the FOSCTTM of paired cells over pairs of modalities."""
        super().on_validation_epoch_end()
        minibatches, self._validation_pairs = self._validation_pairs, []
        scores = []
        for key in minibatches[0] if minibatches else {}:
            first, second = (
                torch.cat([pairs[key][side] for pairs in minibatches]) for side in (0, 1)
            )
            if len(first) > 1:
                x, y = (normalize(z, dim=1)[:MAX_VALIDATION_PAIRS] for z in (first, second))
                scores.append(foscttm(x.cpu().numpy(), y.cpu().numpy()))
        if scores:
            self.log("foscttm_validation", float(np.mean(scores)), prog_bar=True, batch_size=1)
