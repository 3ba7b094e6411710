"""What the training plans share: history of every term, and exact resumption."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch.core.optimizer import LightningOptimizer

Weights = TypeVar("Weights")


def loss_weights(cls: type[Weights], lambdas: Mapping[str, float]) -> Weights:
    """Weights of the loss terms that a user gave; unknown names are refused.

    Raises
    ------
    TypeError
        If a name is unknown.
    """
    known = asdict(cls())  # type: ignore[call-overload]
    unknown = set(lambdas) - set(known)
    if unknown:
        raise TypeError(
            f"plan_kwargs holds unknown names: {sorted(unknown)}. Weights of the loss are "
            f"{sorted(known)}."
        )
    return cls(**lambdas)


def cosine_share(progress: float) -> float:
    """Share of a learning rate that decays from 1 to 0 as `progress` goes from 0 to 1.

    Examples
    --------
    >>> cosine_share(0.5)
    0.5
    """
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class TermMeans:
    """Weighted means of named scalars, kept on the device until they are read.

    Examples
    --------
    >>> import torch
    >>> means = TermMeans()
    >>> means.add({"loss": torch.tensor(1.0)}, weight=1)
    >>> means.add({"loss": torch.tensor(4.0)}, weight=2)
    >>> means.pop("train")
    {'loss_train': tensor(3.)}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor], weight: int) -> None:
        """Add the terms of a minibatch of `weight` cells."""
        for name, value in terms.items():
            scaled = value.detach() * weight
            self._sums[name] = self._sums[name] + scaled if name in self._sums else scaled
            self._weights[name] = self._weights.get(name, 0) + weight

    def pop(self, part: str) -> dict[str, Tensor]:
        """Means since the last call, named ``<term>_<part>``."""
        means = {f"{k}_{part}": v / self._weights[k] for k, v in self._sums.items()}
        self._sums, self._weights = {}, {}
        return means


class MosaicTrainingPlan(LightningModule):
    """Base of the plans: manual optimisation, history of every term, resumption to the bit.

    Checkpoints of the trainer carry the random state, so that training resumed from the end of an
    epoch equals training that was never interrupted.

    Parameters
    ----------
    module
        Network to train.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        self.automatic_optimization = False
        self.n_obs_training = 0
        self.n_obs_validation = 0
        self._train_terms = TermMeans()
        self._validation_terms = TermMeans()
        self._random_state: dict[str, Any] | None = None

    def _optimizers(self) -> list[LightningOptimizer]:
        """Optimisers, also where there is one."""
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def _finite(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        """Stop with advice once a term is NaN or infinite."""
        broken = [name for name, value in means.items() if not torch.isfinite(value)]
        if broken:
            raise RuntimeError(
                f"{', '.join(broken)} became NaN or infinite in epoch {self.current_epoch}. Lower "
                f"the "
                "learning rate, e.g. train(plan_kwargs={'lr': 5e-4}), or limit the gradient with "
                "plan_kwargs={'gradient_clip': 5.0}."
            )
        return means

    def on_train_epoch_end(self) -> None:
        """Log the means of all terms over the epoch."""
        means = self._finite(self._train_terms.pop("train"))
        self.log_dict(means, on_epoch=True, batch_size=1)
        if "objective_train" in means:
            self.log("train_loss", means["objective_train"], prog_bar=True, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        """Log the means of all terms over the validation cells."""
        means = self._finite(self._validation_terms.pop("validation"))
        self.log_dict(means, on_epoch=True, batch_size=1)
        if "objective_validation" in means:
            self.log("validation_loss", means["objective_validation"], batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the random state."""
        state: dict[str, Any] = {"torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        checkpoint["random_state"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state for the start of training."""
        self._random_state = checkpoint.get("random_state")

    def on_train_start(self) -> None:
        """Continue the random sequence of the checkpoint, if there is one."""
        self._continue_random_sequence()

    def on_fit_end(self) -> None:
        """The same where the checkpoint had left nothing to train."""
        self._continue_random_sequence()

    def _continue_random_sequence(self) -> None:
        if self._random_state is None:
            return
        torch.set_rng_state(self._random_state["torch"].cpu())
        if "cuda" in self._random_state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([s.cpu() for s in self._random_state["cuda"]])
        self._random_state = None
