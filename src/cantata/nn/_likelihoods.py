"""Output layers of decoders: the distribution of a modality, or a loss of its values."""

from __future__ import annotations

from typing import Any

import torch
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal, Poisson
from torch.nn import functional

from cantata.losses import (
    linear_scaled_cross_entropy,
    negative_binomial_log_prob,
    poisson_log_prob,
    scaled_cross_entropy,
)
from cantata.nn._covariates import CovariateEffects, Covariates

MIN_LIBRARY = 1e-4
MIN_SCALE = 1e-7
N_SCORINGS = 5
"""Steps of the search for the library size of greatest likelihood."""
MIN_SHARE = 1e-6
"""Share of the features that library sizes count, below which sizes are not scaled further."""
ABSENT = -1e4
"""Location of a feature that a batch did not measure: its share of the counts is 0."""


class LikelihoodHead(nn.Module):
    """Output layer of a decoder and the likelihood of its modality.

    The location of feature j in batch b is ``softplus(scale[b, j]) * (w_j h) + bias[b, j]``.
    Covariates other than the batch add a learned vector.

    Features that a batch did not measure (:meth:`set_measured`) have no part in its likelihood.
    Library sizes are then totals over the features that all batches have in common, so that
    they mean the same in every batch.

    Parameters
    ----------
    n_hidden
        Width of the decoder's hidden layer.
    n_features
        Number p of features.
    n_batch
        Number of batches.
    n_categories, n_continuous
        Covariates other than the batch.
    """

    requires_counts = False
    """Whether the data must be counts."""
    models_counts = True
    """Whether the data are taken as counts, even if other values could be modelled."""
    has_library = False
    """Whether the mean is a library size times proportions."""
    scales_one_batch = True
    """Whether locations are scaled and shifted where there is a single batch, too."""
    absent_location: float | None = ABSENT
    """Location of a feature that a batch did not measure; None: its loss is left out instead."""

    measured: Tensor | None
    """(n_batch, p) whether each batch measured each feature; None: all did."""
    counted: Tensor | None
    """(p,) features that library sizes are totals of; None: all."""

    def __init__(
        self,
        n_hidden: int,
        n_features: int,
        n_batch: int,
        n_categories: list[int] | None = None,
        n_continuous: int = 0,
    ) -> None:
        super().__init__()
        self.n_features, self.n_batch = n_features, n_batch
        self.output = nn.Linear(n_hidden, n_features)
        self.register_buffer("measured", None, persistent=False)
        self.register_buffer("counted", None, persistent=False)
        self.scale = nn.Parameter(torch.zeros(n_batch, n_features))
        self.bias = nn.Parameter(torch.zeros(n_batch, n_features))
        self.covariates = (
            CovariateEffects(n_categories or [], n_continuous, n_features, fan_in=n_hidden)
            if n_categories or n_continuous
            else None
        )

    def _per_batch(self, table: Tensor, covariates: Covariates) -> Tensor:
        """Row of `table` for each cell; a single row is broadcast instead of copied."""
        return table[0] if self.n_batch == 1 else functional.embedding(covariates.batch, table)

    def set_measured(self, measured: Tensor | None, counted: Tensor | None) -> None:
        """Set which features each batch measured, and which ones library sizes count."""
        device = self.scale.device
        self.measured = None if measured is None else measured.to(device)
        self.counted = None if counted is None or counted.all() else counted.to(device)

    def observed_library(self, values: Tensor) -> Tensor:
        """(n,) totals of (n, p) counts, bounded away from 0."""
        counts = values if self.counted is None else values[:, self.counted]
        return counts.sum(dim=1).clamp(min=MIN_LIBRARY)

    def _only_measured(self, values: Tensor, covariates: Covariates, absent: float) -> Tensor:
        """(n, p) values, `absent` where the batch of a cell did not measure the feature."""
        if self.measured is None:
            return values
        return values.masked_fill(~self.measured[covariates.batch], absent)

    def location(self, hidden: Tensor, covariates: Covariates) -> Tensor:
        """(n, p) locations of cells."""
        location = self.output(hidden).float()
        if self.covariates is not None:
            location = location + self.covariates(covariates.without_batch())
        if self.n_batch == 1 and not self.scales_one_batch:
            return location
        scale = functional.softplus(self.scale)
        location = torch.addcmul(
            self._per_batch(self.bias, covariates), self._per_batch(scale, covariates), location
        )
        if self.absent_location is None:
            return location
        return self._only_measured(location, covariates, self.absent_location)

    def log_prob(
        self, location: Tensor, library: Tensor | None, covariates: Covariates, target: Any
    ) -> Tensor:
        """(n,) log-likelihoods, summed over features.

        `target` is what the values are to the loss: :class:`~cantata.losses.SparseCounts` for
        likelihoods, :class:`~cantata.losses.ScaledValues` for ``"bce"``, (n, p) values for
        ``"mse"``.
        """
        log_prob = self.distribution(location, library, covariates).log_prob(target.dense)
        return self._only_measured(log_prob, covariates, 0.0).sum(dim=1)

    def mean_loss(
        self, hidden: Tensor, covariates: Covariates, library: Tensor | None, target: Any
    ) -> Tensor:
        """Mean over cells and features of the negative log-likelihood."""
        location = self.location(hidden, covariates)
        return -self.log_prob(location, library, covariates, target).mean() / self.n_features

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Distribution:
        """Distribution of the (n, p) values."""
        raise NotImplementedError(f"{type(self).__name__} is a loss, not a distribution.")

    def expected(self, location: Tensor, library: Tensor | None, covariates: Covariates) -> Tensor:
        """(n, p) expected values."""
        return self.distribution(location, library, covariates).mean


class PoissonHead(LikelihoodHead):
    """Poisson counts whose mean is the library size times a softmax over features."""

    requires_counts = True
    has_library = True

    def mean(self, location: Tensor, library: Tensor | None) -> Tensor:
        """(n, p) expected counts."""
        return functional.softmax(location, dim=1) * self._total(location, library).unsqueeze(1)

    def _total(self, location: Tensor, library: Tensor | None) -> Tensor:
        """(n,) totals over all features from library sizes, which may count some of them only."""
        assert library is not None
        if self.counted is None:
            return library
        share = location[:, self.counted].logsumexp(dim=1) - location.logsumexp(dim=1)
        return library / share.exp().clamp(min=MIN_SHARE)

    def fitted_library(self, location: Tensor, covariates: Covariates, counts: Tensor) -> Tensor:
        """(n,) library sizes with which (n, p) counts are likeliest at their locations.

        By Fisher's scoring from the totals on; zero inflation is left aside.
        """
        library = self.observed_library(counts)
        for _ in range(N_SCORINGS):
            mean = self.mean(location, library)
            weight = self._precision(mean, covariates)
            ratio = (weight * counts).sum(dim=1) / (weight * mean).sum(dim=1).clamp(min=MIN_SCALE)
            library = (library * ratio).clamp(min=MIN_LIBRARY)
        return library

    def _precision(self, mean: Tensor, covariates: Covariates) -> Tensor:
        """(n, p) means of counts over their variances."""
        return torch.ones_like(mean)

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Distribution:
        return Poisson(self.mean(location, library), validate_args=False)

    def log_prob(
        self, location: Tensor, library: Tensor | None, covariates: Covariates, target: Any
    ) -> Tensor:
        return poisson_log_prob(location, self._total(location, library), target)


class NegativeBinomialHead(PoissonHead):
    """Negative binomial counts with a dispersion per batch and feature."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_theta = nn.Parameter(torch.zeros(self.n_batch, self.n_features))

    def _precision(self, mean: Tensor, covariates: Covariates) -> Tensor:
        theta = self._per_batch(self.log_theta, covariates).exp()
        return theta / (theta + mean)

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Distribution:
        theta = self._per_batch(self.log_theta, covariates).exp()
        return NegativeBinomial(mu=self.mean(location, library), theta=theta, validate_args=False)

    def log_prob(
        self, location: Tensor, library: Tensor | None, covariates: Covariates, target: Any
    ) -> Tensor:
        log_theta = self._per_batch(self.log_theta, covariates)
        total = self._total(location, library)
        return negative_binomial_log_prob(location, total, log_theta, target)


class ZeroInflatedNegativeBinomialHead(NegativeBinomialHead):
    """Negative binomial counts of which some were lost, with a logit per batch and feature."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.zero_logits = nn.Parameter(torch.full((self.n_batch, self.n_features), -2.0))

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Distribution:
        mean = self.mean(location, library)
        return ZeroInflatedNegativeBinomial(
            mu=mean,
            theta=self._per_batch(self.log_theta, covariates).exp().expand_as(mean),
            zi_logits=self._per_batch(self.zero_logits, covariates).expand_as(mean),
            validate_args=False,
        )

    def log_prob(
        self, location: Tensor, library: Tensor | None, covariates: Covariates, target: Any
    ) -> Tensor:
        log_prob = self.distribution(location, library, covariates).log_prob(target.dense)
        return self._only_measured(log_prob, covariates, 0.0).sum(dim=1)


class BernoulliHead(LikelihoodHead):
    """Whether a feature has a count at all; values above 0 are taken as 1."""

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Distribution:
        return Bernoulli(logits=location, validate_args=False)

    def log_prob(
        self, location: Tensor, library: Tensor | None, covariates: Covariates, target: Any
    ) -> Tensor:
        seen = (target.dense > 0).float()
        return -functional.binary_cross_entropy_with_logits(location, seen, reduction="none").sum(
            dim=1
        )


class NormalHead(LikelihoodHead):
    """Continuous values with a standard deviation per batch and feature."""

    models_counts = False
    absent_location = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.raw_std = nn.Parameter(torch.zeros(self.n_batch, self.n_features))

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Distribution:
        std = functional.softplus(self._per_batch(self.raw_std, covariates)) + MIN_SCALE
        return Normal(location, std, validate_args=False)


class ScaledHead(LikelihoodHead):
    """Logits of values in [0, 1], with the cross-entropy of Zhang et al. 2026, eq. 1."""

    models_counts = False
    scales_one_batch = False

    pos_weight: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("pos_weight", torch.tensor(1.0))

    def log_prob(
        self, location: Tensor, library: Tensor | None, covariates: Covariates, target: Any
    ) -> Tensor:
        return -scaled_cross_entropy(location, target, float(self.pos_weight))

    def mean_loss(
        self, hidden: Tensor, covariates: Covariates, library: Tensor | None, target: Any
    ) -> Tensor:
        """Mean of the cross-entropy; without covariates no logits of all features are kept."""
        if self.n_batch > 1 or self.covariates is not None:
            return super().mean_loss(hidden, covariates, library, target)
        output = self.output
        return linear_scaled_cross_entropy(
            hidden, output.weight, output.bias, target, float(self.pos_weight)
        )

    def expected(self, location: Tensor, library: Tensor | None, covariates: Covariates) -> Tensor:
        # soft targets with a weight: the loss is least at w y / (1 + (w - 1) y)
        odds = torch.exp(location.clamp(max=60)) / self.pos_weight
        return odds / (1 + odds)


class SquaredHead(LikelihoodHead):
    """Values themselves, with the squared error."""

    models_counts = False
    scales_one_batch = False
    absent_location = None

    def log_prob(
        self, location: Tensor, library: Tensor | None, covariates: Covariates, target: Any
    ) -> Tensor:
        errors = (location - target).square()
        return -self._only_measured(errors, covariates, 0.0).sum(dim=1)

    def expected(self, location: Tensor, library: Tensor | None, covariates: Covariates) -> Tensor:
        return location


LIKELIHOODS: dict[str, type[LikelihoodHead]] = {
    "nb": NegativeBinomialHead,
    "zinb": ZeroInflatedNegativeBinomialHead,
    "poisson": PoissonHead,
    "bernoulli": BernoulliHead,
    "normal": NormalHead,
}
"""Likelihood heads by name; adding one here makes it available to every model."""

LOSSES: dict[str, type[LikelihoodHead]] = {"bce": ScaledHead, "mse": SquaredHead, **LIKELIHOODS}
"""Output layers by name: losses of values that are not counts, and likelihoods."""
