"""CLUE's optimisation: alternating discriminator and generator steps on one encoder pass."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cantata._keys import CELL
from cantata.metrics import foscttm
from cantata.model._plan import MosaicTrainingPlan, Schedule, adam, loss_weights, rmsprop
from cantata.model.clue._module import CLUEModule, LossWeights

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from cantata.model.clue._module import Inference

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": partial(adam, cls=torch.optim.AdamW),
}
MAX_VALIDATION_PAIRS = 2000
MIN_VALIDATION_PAIRS = 20
"""Paired held-out cells below which nothing is chosen by them."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of encoders' networks beside canonical variates that held-out pairs choose from."""
DEFAULT_SHARE = 0.25
"""That share unless held-out cells show another to be better."""
DISPERSION_RATE, OTHERS_WEIGHT = 10.0, 4.0
"""What multiplies the learning rate of dispersions, and the weight of decoding from another
modality alone, once decoders are trained alone."""
MIN_SAVED = 2**21
"""Values of a modality in a minibatch from which on it pays to decode cells once."""
BLOCK = 256
"""Cells that are compared with all others at once."""


class CLUETrainingPlan(MosaicTrainingPlan):
    """Minimax training of CLUE (Tu et al. 2022, equation 15).

    Each minibatch is encoded once. The discriminator steps on the detached posterior means; the
    encoders and decoders step against the discriminator so updated. Gaussian noise on what the
    discriminator sees falls linearly to 0 over the first `noise_epochs`.

    Beyond the paper, where encoders start from canonical variates: what their networks add counts
    by a share that is drawn for each cell, 1 for half of them and else uniform on (0, 1). After
    each epoch held-out pairs choose the share of the least contrastive loss, which the model then
    uses. In the last `decoder_epochs` decoders alone are trained, with that share and
    as they are used: at posterior means, no unit is dropped, and normalisation stays. Decoding
    from another modality alone weighs four times as much, and dispersions, which have far to go,
    learn ten times faster.

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
    decoder_epochs
        Fraction of the planned epochs, the last ones, in which encoders stay as they are.
    temperature
        Of the contrastive term.
    weight_decay
        Passed to the optimisers.
    gradient_clip
        Largest norm of the generator's gradient; None for no limit.
    decode_once
        In training decode each cell of a modality from one embedding, its own, the fused one or
        another modality's, which is drawn in proportion to the weights of these terms: the
        objective on average, at a third of the decoding with two modalities. False: decode from
        each. None: draw where that saves two million values of a minibatch, as with 10,000 peaks
        of 128 paired cells.
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
        decoder_epochs: float = 0.25,
        temperature: float = 0.1,
        weight_decay: float = 0.0,
        gradient_clip: float | None = None,
        decode_once: bool | None = None,
        **lambdas: float,
    ) -> None:
        super().__init__(module, lr_schedule)
        self.weights = loss_weights(LossWeights, lambdas)
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer={optimizer!r} is not one of {list(OPTIMIZERS)}.")
        if not 0 <= decoder_epochs < 1:
            raise ValueError(f"decoder_epochs={decoder_epochs} is not in [0, 1).")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} is not positive.")
        self.lr, self.optimizer_name, self.weight_decay = lr, optimizer, weight_decay
        self.noise_epochs, self.decoder_epochs = noise_epochs, decoder_epochs
        self.temperature, self.decode_once = temperature, decode_once
        self.gradient_clip = gradient_clip
        # in a frozen model the discriminator neither learns nor steps
        self._adversary_learns = any(p.requires_grad for p in module.discriminator.parameters())
        encoders_learn = any(p.requires_grad for p in module.encoders.parameters())
        self._draws_share = module.has_variates and encoders_learn
        if not module.has_variates:
            self.weights = replace(self.weights, lambda_residual=0.0)
        self._held_out: dict[str, list[tuple[np.ndarray, ...]]] = {}

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimiser for encoders and decoders, one for the discriminator."""
        adversary = list(self.module.discriminator.parameters())
        named = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        dispersions = [p for name, p in named if name.endswith("log_theta")]
        apart = {id(p) for p in adversary + dispersions}
        others = [p for _, p in named if id(p) not in apart]
        groups = [{"params": part} for part in (others, dispersions)]
        make = OPTIMIZERS[self.optimizer_name]
        return [make(p, lr=self.lr, weight_decay=self.weight_decay) for p in (groups, adversary)]

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
        self, batch: dict[str, Tensor], inferred: Inference, drawn_by: LossWeights | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Likelihoods of a minibatch, as far as they have a weight."""
        return self.module.generative(
            batch,
            inferred,
            cross=self.weights.lambda_cross > 0,
            real_cross=self.weights.lambda_real_cross > 0,
            once=drawn_by,
            min_saved=0 if self.decode_once else MIN_SAVED,
        )

    @property
    def _encoders_move(self) -> bool:
        """Whether encoders are trained in this epoch."""
        return self.current_epoch < self._n_joint_epochs

    @property
    def _n_joint_epochs(self) -> int:
        """Epochs in which encoders are trained."""
        return max(1, self._max_epochs - round(self.decoder_epochs * self._max_epochs))

    def on_train_start(self) -> None:
        """Start from the default share."""
        super().on_train_start()
        if self._draws_share and self.current_epoch == 0:
            self.module.share.fill_(DEFAULT_SHARE)

    def _drawn_share(self, batch: dict[str, Tensor]) -> Tensor | None:
        """(n, 1) share of each cell, 1 for half of them; None: that of the module."""
        if not self._draws_share:
            return None
        share, whole = torch.rand(2, len(batch[CELL]), 1, device=batch[CELL].device)
        return torch.where(whole < 0.5, torch.ones_like(share), share)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One step of the discriminator, then one of the encoders and decoders."""
        if not self._encoders_move:
            return self._decoder_step(batch, batch_idx)
        n_epochs = self._n_joint_epochs
        self._set_learning_rates([self.lr, self.lr], self._progress(batch_idx, 0, n_epochs))
        _, adversary = self._optimizers()
        inferred, noise = self.module.inference(batch, share=self._drawn_share(batch)), self.noise
        if self._plays_adversary:
            self._step(
                adversary, self.module.discriminator_loss(batch, inferred, noise, detach=True)
            )
        return self._generator_step(batch, inferred, self.weights, noise)

    def _generator_step(
        self, batch: dict[str, Tensor], inferred: Inference, weights: LossWeights, noise: float
    ) -> dict[str, Tensor]:
        """One step of all but the discriminator, as far as `inferred` has gradients."""
        # a cell without any other modality has its own embedding alone to be decoded from
        draws = self.decode_once is not False and weights.lambda_self > 0
        nll = self._decoded(batch, inferred, weights if draws else None)
        self.module.discriminator.requires_grad_(False)
        output = self.module.loss(batch, inferred, nll, weights, noise, self.temperature)
        self._step(self._optimizers()[0], output.loss, self.gradient_clip)
        self.module.discriminator.requires_grad_(self._adversary_learns)
        metrics = output.extra_metrics
        added = weights.lambda_real_cross - self.weights.lambda_real_cross
        if added and "real_cross" in metrics:  # one objective in the history, whatever the phase
            metrics["objective"] = metrics["objective"] - added * metrics["real_cross"]
        self._train_terms.add(metrics, output.n_obs_minibatch)
        return {"loss": output.loss.detach()}

    def _decoder_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One step of the decoders as they are used, from embeddings that stay."""
        first, last = self._n_joint_epochs, self._max_epochs
        self._set_learning_rates([self.lr, self.lr], self._progress(batch_idx, first, last))
        self._optimizers()[0].param_groups[1]["lr"] *= DISPERSION_RATE
        # posteriors may be wider than their means are long, where pairs are few; what is decoded
        # from such samples, or with units dropped, is no mean of counts
        self.module.eval()
        with torch.no_grad():
            inferred = self.module.inference(batch, sample=False)
        of_others = OTHERS_WEIGHT * self.weights.lambda_real_cross
        weights = replace(self.weights, lambda_real_cross=of_others)
        return self._generator_step(batch, inferred, weights, noise=0.0)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """All terms at the posterior means, without noise."""
        inferred = self.module.inference(batch, sample=False)
        nll = self._decoded(batch, inferred)
        output = self.module.loss(batch, inferred, nll, self.weights, 0.0, self.temperature)
        self._validation_terms.add(output.extra_metrics, len(batch[CELL]))
        for name, rows in inferred.rows.items():
            straight = inferred.loc[name] - self.module.share * inferred.added[name]
            parts = batch[CELL][rows], straight, inferred.added[name]
            self._held_out.setdefault(name, []).append(tuple(x.cpu().numpy() for x in parts))

    def on_validation_epoch_end(self) -> None:
        """Log the means of the terms, and the FOSCTTM of paired cells over pairs of modalities.

        While encoders are trained, held-out pairs choose the share of their networks.
        """
        super().on_validation_epoch_end()
        held_out, self._held_out = self._held_out, {}
        cells, straight, added = (
            {name: np.concatenate([part[k] for part in parts]) for name, parts in held_out.items()}
            for k in range(3)
        )
        pairs = []
        for names in combinations(cells, 2):
            first, second = (cells[name] for name in names)
            _, *rows = np.intersect1d(first, second, return_indices=True)
            if len(rows[0]) > 1:
                pairs.append((names, [r[:MAX_VALIDATION_PAIRS] for r in rows]))

        def unit(name: str, share: float) -> Tensor:
            return normalize(torch.from_numpy(straight[name] + share * added[name]), dim=1)

        n_pairs = sum(len(rows[0]) for _, rows in pairs)
        if self._draws_share and self._encoders_move and n_pairs >= MIN_VALIDATION_PAIRS:
            self.module.share.fill_(_best_share(pairs, unit, self.temperature))
        share = float(self.module.share)
        scores = [
            foscttm(*(unit(m, share)[r].numpy() for m, r in zip(names, rows, strict=True)))
            for names, rows in pairs
        ]
        if scores:
            self.log("foscttm_validation", float(np.mean(scores)), prog_bar=True, batch_size=1)
        if self.module.has_variates:
            self.log("share", share, batch_size=1)


def _best_share(
    pairs: list[tuple[tuple[str, str], list[np.ndarray]]],
    unit: Callable[[str, float], Tensor],
    temperature: float,
) -> float:
    """Share with which held-out cells are matched best: of the least contrastive loss.

    It is the default, unless another one is better by more than the standard error of the
    difference. `pairs` are names of two modalities with the rows of cells that have both, and
    `unit` makes the embeddings of all cells of a modality at a share. With some 70 pairs their
    FOSCTTM often chooses wrongly: it is decided by few pairs that are far apart.
    """
    losses = {}
    for share in SHARES:
        parts = []
        for names, rows in pairs:
            x, y = (unit(name, share) for name in names)
            parts += [_matching_loss(x[rows[0]], y, rows[1], temperature)]
            parts += [_matching_loss(y[rows[1]], x, rows[0], temperature)]
        losses[share] = torch.cat(parts)
    best = min(SHARES, key=lambda share: float(losses[share].mean()))
    gain = losses[DEFAULT_SHARE] - losses[best]
    is_better = gain.mean() > gain.std(correction=0) / len(gain) ** 0.5
    return best if is_better else DEFAULT_SHARE


def _matching_loss(x: Tensor, y: Tensor, partner: np.ndarray, temperature: float) -> Tensor:
    """(n,) contrastive loss of the rows of `x`, each with its partner among those of `y`."""
    of_blocks = zip(x.split(BLOCK), torch.from_numpy(partner).split(BLOCK), strict=True)
    return torch.cat(
        [cross_entropy(part @ y.T / temperature, own, reduction="none") for part, own in of_blocks]
    )
