"""What training plans share: history of every term, the best epoch, exact resumption."""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lightning.pytorch import Trainer
    from lightning.pytorch.core.optimizer import LightningOptimizer
    from torch.optim import Optimizer

logger = logging.getLogger(__name__)

Schedule = Literal["cosine", "constant"]
"""Learning rate over training: cosine decay to 0, or none."""
Weights = TypeVar("Weights")
MANY_STEPS = 1e6
"""Steps after which Adam no longer corrects its averages for their start at 0."""


def loss_weights(cls: type[Weights], lambdas: Mapping[str, float]) -> Weights:
    """Weights of the loss terms that a user gave.

    Unknown names are a ``TypeError``; weights that are negative or no numbers a ``ValueError``.
    """
    known = asdict(cls())  # type: ignore[call-overload]
    unknown = set(lambdas) - set(known)
    if unknown:
        raise TypeError(
            f"plan_kwargs holds unknown names: {sorted(unknown)}. Weights of the loss are "
            f"{sorted(known)}."
        )
    for name, weight in lambdas.items():
        check_weight(name, weight)
    return cls(**lambdas)


def check_weight(name: str, weight: float) -> None:
    """Refuse weights of the loss that are negative or no numbers (``ValueError``)."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"{name}={weight} must be at least 0 and finite.")


def adam(
    parameters: Iterable[Any], *, cls: type[Optimizer] = torch.optim.Adam, **options: Any
) -> Optimizer:
    """Adam or AdamW in one pass over memory, where the device has that, in place of ten.

    Of a wide output layer the update is otherwise a tenth of a step. `parameters` are tensors or
    groups of them.
    """
    groups = list(parameters)
    return cls(groups, fused=_has_fused(groups), **options)  # type: ignore[call-arg]


class RMSprop(torch.optim.Adam):
    """:class:`torch.optim.RMSprop` as Adam without momentum: one pass over memory in place of six.

    Parameters
    ----------
    params, lr, weight_decay
        As there; its `alpha` of .99 and `eps` are the default ones.

    Examples
    --------
    >>> import torch
    >>> weight = torch.ones(2, requires_grad=True)
    >>> weight.grad = torch.ones(2)
    >>> RMSprop([weight], lr=0.01).step()
    >>> weight.detach()
    tensor([0.9000, 0.9000])
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, betas=(0.0, 0.99), weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            for parameter in group["params"]:
                # RMSprop does not correct its average for its start at 0
                self.state[parameter] = {
                    "step": torch.tensor(MANY_STEPS, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def rmsprop(parameters: Iterable[Any], **options: Any) -> Optimizer:
    """RMSprop in one pass over memory where the device has that; see :func:`adam`."""
    groups = list(parameters)
    cls = RMSprop if _has_fused(groups) else torch.optim.RMSprop
    return cls(groups, **options)


def _has_fused(groups: list[Any]) -> bool:
    """Whether optimisers have a kernel of one pass for tensors or groups of them."""
    tensors = [p for g in groups for p in (g["params"] if isinstance(g, dict) else [g])]
    return all(p.device.type in ("cpu", "cuda") for p in tensors)


def random_state() -> dict[str, Any]:
    """Random state of torch, on the processor and on accelerators."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on from a random state, of which accelerators that are not here are left out."""
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Afterwards the random state is as before."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


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
    lr_schedule
        ``"cosine"`` decay of learning rates to 0, or ``"constant"``.
    """

    remedy = (
        "Lower the learning rate, e.g. train(plan_kwargs={'lr': 5e-4}), or limit the gradient "
        "with plan_kwargs={'gradient_clip': 5.0}."
    )
    """What to do when a term is no longer finite; arguments that the plan takes."""

    def __init__(self, module: torch.nn.Module, lr_schedule: Schedule) -> None:
        super().__init__()
        if lr_schedule not in get_args(Schedule):
            raise ValueError(f"lr_schedule={lr_schedule!r} is neither 'constant' nor 'cosine'.")
        self.module, self.lr_schedule = module, lr_schedule
        self.automatic_optimization = False
        self._train_terms = TermMeans()
        self._validation_terms = TermMeans()
        self._random_state: dict[str, Any] | None = None

    def _optimizers(self) -> list[LightningOptimizer]:
        """Optimisers, also where there is one."""
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    @property
    def _max_epochs(self) -> int:
        """Planned epochs; 1 for a trainer without a limit."""
        return self.trainer.max_epochs or 1

    def _progress(self, batch_idx: int, first: int = 0, last: int | None = None) -> float:
        """Share that is done of the epochs from `first` to before `last`, by default of all."""
        n_done = self.current_epoch + batch_idx / max(1, self.trainer.num_training_batches)
        return (n_done - first) / ((last or self._max_epochs) - first)

    def _set_learning_rates(self, rates: Iterable[float], progress: float) -> None:
        """Learning rates of the optimisers, by the progress of training.

        It is set at every step, without a scheduler, so that resumed training continues it.
        """
        share = 1.0
        if self.lr_schedule == "cosine":
            share = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        for optimizer, rate in zip(self._optimizers(), rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share

    def _step(
        self, optimizer: LightningOptimizer, loss: Tensor, max_norm: float | None = None
    ) -> None:
        """One step of an optimiser, its gradient limited to a norm."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        if max_norm is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()

    def _finite(self, means: dict[str, Tensor]) -> dict[str, Tensor]:
        """Stop with advice once a term is NaN or infinite."""
        broken = [name for name, value in means.items() if not torch.isfinite(value)]
        if broken:
            raise RuntimeError(
                f"{', '.join(broken)} became NaN or infinite in epoch {self.current_epoch}. "
                f"{self.remedy}"
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
        checkpoint["random_state"] = random_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state for the start of training."""
        self._random_state = checkpoint.get("random_state")

    def on_train_start(self) -> None:
        """Continue the random sequence of the checkpoint, if there is one."""
        if self._random_state is not None:
            set_random_state(self._random_state)
        self._random_state = None

    def on_fit_end(self) -> None:
        """The same where the checkpoint had left nothing to train."""
        self.on_train_start()


class BestWeights(Callback):
    """Keep the weights of the best epoch in memory and put them back at the end.

    Parameters
    ----------
    monitor
        Logged quantity; the smallest value wins.

    Examples
    --------
    >>> BestWeights("foscttm_validation").best_epoch
    -1
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.best_score = math.inf
        self.best_epoch = -1
        self._weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the weights if this epoch is the best so far."""
        score = trainer.callback_metrics.get(self.monitor)
        if score is not None and float(score) < self.best_score:
            self.best_score, self.best_epoch = float(score), trainer.current_epoch
            self._weights = {k: v.detach().clone() for k, v in pl_module.state_dict().items()}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back, and say whose they are."""
        if not self._weights:
            return
        pl_module.load_state_dict(self._weights)
        n_done, n_planned = trainer.current_epoch, trainer.max_epochs
        text = (
            f"Trained {n_done} of {n_planned} epochs, from 0 on; the weights of epoch "
            f"{self.best_epoch} are kept ({self.monitor} {self.best_score:.4g})."
        )
        logger.info(text)
        bar = trainer.progress_bar_callback
        if bar is not None and not getattr(bar, "is_disabled", False):
            print(text)
        for callback in trainer.early_stopping_callbacks:
            # scvi-tools' callback would print why training stopped, but not what was kept
            callback.early_stopping_reason = None  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Part of a trainer checkpoint."""
        score, epoch = self.best_score, self.best_epoch
        return {"best_score": score, "best_epoch": epoch, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore from a trainer checkpoint."""
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self._weights = state_dict["weights"]
