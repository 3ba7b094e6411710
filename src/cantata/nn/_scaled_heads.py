"""Output layers for values that are no counts: scaled to [0, 1], or standardised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cantata.losses import linear_scaled_cross_entropy, scaled_cross_entropy
from cantata.nn._likelihoods import LIKELIHOODS, LikelihoodHead

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributions import Distribution

    from cantata.losses import ScaledValues


class _PlainHead(LikelihoodHead):
    """Without batches the location is the output of the linear layer and nothing else."""

    of_counts = False

    def location(self, hidden: Tensor, codes: Tensor, values: Tensor | None) -> Tensor:
        if self.n_batch > 1:
            return super().location(hidden, codes, values)
        location = self.output(hidden).float()
        if self.covariates is not None:
            location = location + self.covariates(codes[:, 1:], values)
        return location

    def distribution(
        self, location: Tensor, library: Tensor | None, codes: Tensor
    ) -> Distribution:
        raise NotImplementedError(f"{type(self).__name__} is a loss, not a distribution.")


class ScaledHead(_PlainHead):
    """Logits of values in [0, 1], with the cross-entropy of Zhang et al. 2026, eq. 1."""

    pos_weight: Tensor

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.register_buffer("pos_weight", torch.tensor(1.0))

    def log_prob(  # type: ignore[override]
        self, location: Tensor, library: Tensor | None, codes: Tensor, target: ScaledValues
    ) -> Tensor:
        return -scaled_cross_entropy(location, target, float(self.pos_weight))

    def mean_loss(
        self,
        hidden: Tensor,
        codes: Tensor,
        values: Tensor | None,
        library: Tensor | None,
        target: Any,
    ) -> Tensor:
        """Mean of the cross-entropy; without covariates no logits of all features are kept."""
        if self.n_batch > 1 or self.covariates is not None:
            return super().mean_loss(hidden, codes, values, library, target)
        output = self.output
        return linear_scaled_cross_entropy(
            hidden, output.weight, output.bias, target, float(self.pos_weight)
        )

    def expected(self, location: Tensor, library: Tensor | None, codes: Tensor) -> Tensor:
        # soft targets with a weight: the loss is least at w y / (1 + (w - 1) y)
        odds = torch.exp(location.clamp(max=60)) / self.pos_weight
        return odds / (1 + odds)


class SquaredHead(_PlainHead):
    """Values themselves, with the squared error."""

    def log_prob(  # type: ignore[override]
        self, location: Tensor, library: Tensor | None, codes: Tensor, target: Tensor
    ) -> Tensor:
        return -(location - target).square().sum(dim=1)

    def expected(self, location: Tensor, library: Tensor | None, codes: Tensor) -> Tensor:
        return location


LOSSES: dict[str, type[LikelihoodHead]] = {"bce": ScaledHead, "mse": SquaredHead, **LIKELIHOODS}
"""Output layers by name: losses of values that are not counts, and likelihoods."""
