"""Likelihood heads: from a decoder's hidden layer to the distribution of a modality."""

from __future__ import annotations

from typing import Any

import torch
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal, Poisson
from torch.nn import functional

from cantata.losses import SparseCounts, negative_binomial_log_prob, poisson_log_prob
from cantata.nn._blocks import Covariates

MIN_LIBRARY = 1e-4
MIN_SCALE = 1e-7


class LikelihoodHead(nn.Module):
    """Output layer of a decoder and the likelihood of its modality.

    The location of feature j in batch b is ``softplus(scale[b, j]) * (w_j h) + bias[b, j]``.
    Covariates other than the batch add a learned vector.

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

    is_count = False
    """Whether the data must be counts."""
    of_counts = True
    """Whether the data are counts, even if other values could be modelled."""
    has_library = False
    """Whether the mean is a library size times proportions."""

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
        self.scale = nn.Parameter(torch.zeros(n_batch, n_features))
        self.bias = nn.Parameter(torch.zeros(n_batch, n_features))
        self.covariates = (
            Covariates(n_categories or [], n_continuous, n_features, fan_in=n_hidden)
            if n_categories or n_continuous
            else None
        )

    def _per_batch(self, table: Tensor, codes: Tensor) -> Tensor:
        """Row of `table` for each cell; a single row is broadcast instead of copied."""
        return table[0] if self.n_batch == 1 else functional.embedding(codes[:, 0], table)

    def location(self, hidden: Tensor, codes: Tensor, values: Tensor | None) -> Tensor:
        """(n, p) locations of cells with batch ``codes[:, 0]``."""
        location = self.output(hidden).float()
        if self.covariates is not None:
            location = location + self.covariates(codes[:, 1:], values)
        scale = functional.softplus(self.scale)
        return torch.addcmul(
            self._per_batch(self.bias, codes), self._per_batch(scale, codes), location
        )

    def log_prob(
        self,
        location: Tensor,
        library: Tensor | None,
        codes: Tensor,
        target: SparseCounts,
    ) -> Tensor:
        """(n,) log-likelihoods, summed over features."""
        return self.distribution(location, library, codes).log_prob(target.dense).sum(dim=1)

    def mean_loss(
        self,
        hidden: Tensor,
        codes: Tensor,
        values: Tensor | None,
        library: Tensor | None,
        target: Any,
    ) -> Tensor:
        """Mean over cells and features of the negative log-likelihood."""
        location = self.location(hidden, codes, values)
        return -self.log_prob(location, library, codes, target).mean() / self.n_features

    def distribution(
        self, location: Tensor, library: Tensor | None, codes: Tensor
    ) -> Distribution:
        """Distribution of the (n, p) values."""
        raise NotImplementedError

    def expected(self, location: Tensor, library: Tensor | None, codes: Tensor) -> Tensor:
        """(n, p) expected values."""
        return self.distribution(location, library, codes).mean


class PoissonHead(LikelihoodHead):
    """Poisson counts whose mean is the library size times a softmax over features."""

    is_count = True
    has_library = True

    @staticmethod
    def mean(location: Tensor, library: Tensor | None) -> Tensor:
        """(n, p) expected counts."""
        assert library is not None
        return functional.softmax(location, dim=1) * library.unsqueeze(1)

    def distribution(
        self, location: Tensor, library: Tensor | None, codes: Tensor
    ) -> Distribution:
        return Poisson(self.mean(location, library), validate_args=False)

    def log_prob(
        self, location: Tensor, library: Tensor | None, codes: Tensor, target: SparseCounts
    ) -> Tensor:
        assert library is not None
        return poisson_log_prob(location, library, target)


class NegativeBinomialHead(PoissonHead):
    """Negative binomial counts with a dispersion per batch and feature."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.log_theta = nn.Parameter(torch.zeros(self.n_batch, self.n_features))

    def distribution(
        self, location: Tensor, library: Tensor | None, codes: Tensor
    ) -> Distribution:
        theta = self._per_batch(self.log_theta, codes).exp()
        return NegativeBinomial(mu=self.mean(location, library), theta=theta, validate_args=False)

    def log_prob(
        self, location: Tensor, library: Tensor | None, codes: Tensor, target: SparseCounts
    ) -> Tensor:
        assert library is not None
        log_theta = self._per_batch(self.log_theta, codes)
        return negative_binomial_log_prob(location, library, log_theta, target)


class ZeroInflatedNegativeBinomialHead(NegativeBinomialHead):
    """Negative binomial counts of which some were lost, with a logit per batch and feature."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.zero_logits = nn.Parameter(torch.full((self.n_batch, self.n_features), -2.0))

    def distribution(
        self, location: Tensor, library: Tensor | None, codes: Tensor
    ) -> Distribution:
        mean = self.mean(location, library)
        return ZeroInflatedNegativeBinomial(
            mu=mean,
            theta=self._per_batch(self.log_theta, codes).exp().expand_as(mean),
            zi_logits=self._per_batch(self.zero_logits, codes).expand_as(mean),
            validate_args=False,
        )

    def log_prob(
        self, location: Tensor, library: Tensor | None, codes: Tensor, target: SparseCounts
    ) -> Tensor:
        return self.distribution(location, library, codes).log_prob(target.dense).sum(dim=1)


class BernoulliHead(LikelihoodHead):
    """Whether a feature has a count at all; values above 0 are taken as 1."""

    def distribution(
        self, location: Tensor, library: Tensor | None, codes: Tensor
    ) -> Distribution:
        return Bernoulli(logits=location, validate_args=False)

    def log_prob(
        self, location: Tensor, library: Tensor | None, codes: Tensor, target: SparseCounts
    ) -> Tensor:
        seen = (target.dense > 0).float()
        return -functional.binary_cross_entropy_with_logits(location, seen, reduction="none").sum(
            dim=1
        )


class NormalHead(LikelihoodHead):
    """Continuous values with a standard deviation per batch and feature."""

    of_counts = False

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.raw_std = nn.Parameter(torch.zeros(self.n_batch, self.n_features))

    def distribution(
        self, location: Tensor, library: Tensor | None, codes: Tensor
    ) -> Distribution:
        std = functional.softplus(self._per_batch(self.raw_std, codes)) + MIN_SCALE
        return Normal(location, std, validate_args=False)


LIKELIHOODS: dict[str, type[LikelihoodHead]] = {
    "nb": NegativeBinomialHead,
    "zinb": ZeroInflatedNegativeBinomialHead,
    "poisson": PoissonHead,
    "bernoulli": BernoulliHead,
    "normal": NormalHead,
}
"""Likelihood heads by name; adding one here makes it available to every model."""
