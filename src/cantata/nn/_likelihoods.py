"""Output layers of decoders: the distribution of a modality, or a loss of its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scvi.distributions import (
    NegativeBinomial,
    NegativeBinomialMixture,
    ZeroInflatedNegativeBinomial,
)
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal, Poisson
from torch.nn import functional

from cantata.losses import (
    ABSENT,
    MIN_SHARE,
    OutputLayer,
    bernoulli_terms,
    block_entries,
    entries,
    linear_log_prob,
    linear_scaled_cross_entropy,
    negative_binomial_terms,
    poisson_terms,
    scaled_cross_entropy,
    topic_log_prob,
    zero_inflated_terms,
)
from cantata.nn._covariates import CovariateEffects, Covariates

if TYPE_CHECKING:
    from cantata.losses import SparseValues, Terms

MIN_LIBRARY = 1e-4
MIN_SCALE = 1e-7
N_TOPICS = 64
PSEUDOCOUNT, SMOOTHING = 0.5, 100.0
"""Added to the total of every feature, and counts with overall shares that each batch has more."""
N_SCORINGS, N_SCORINGS_OF_MIXTURE = 5, 30
"""Steps of the search for the library size of greatest likelihood."""
BACKGROUND_LOGIT = -2.0
"""Where the ratio of background to foreground starts: about an eighth."""


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
    has_background = False
    """Whether expected counts have a background, which can be left out."""
    starts_at_shares = False
    """Whether features start at their shares of all counts, by ``set_shares``."""
    scales_one_batch = True
    """Whether locations are scaled and shifted where there is a single batch, too."""
    absent_location: float | None = ABSENT
    """Location of a feature that a batch did not measure; None: its loss is left out instead."""
    terms: Terms | None = None
    """Log-likelihood of a block of features, see :func:`~cantata.losses.linear_log_prob`."""

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
        self.output = nn.Linear(n_hidden, self.n_output(n_features))
        self.register_buffer("measured", None, persistent=False)
        self.register_buffer("counted", None, persistent=False)
        self.scale = nn.Parameter(torch.zeros(n_batch, n_features))
        self.bias = nn.Parameter(torch.zeros(n_batch, n_features))
        self.covariates = (
            CovariateEffects(n_categories or [], n_continuous, n_features, fan_in=n_hidden)
            if n_categories or n_continuous
            else None
        )

    def n_output(self, n_features: int) -> int:
        """Width of the output layer."""
        return n_features

    @property
    def batch_parameters(self) -> list[nn.Parameter]:
        """What batches do to locations."""
        return [self.scale, self.bias]

    def freeze(self) -> None:
        """Let training change what belongs to batches and covariates alone."""
        self.requires_grad_(True)
        self.output.requires_grad_(False)

    def _per_batch(self, table: Tensor, covariates: Covariates) -> Tensor:
        """Row of `table` for each cell; a single row is broadcast instead of copied."""
        return table[0] if self.n_batch == 1 else functional.embedding(covariates.batch, table)

    def set_measured(self, measured: Tensor | None, counted: Tensor | None) -> None:
        """Set which features each batch measured, and which ones library sizes count."""
        device = self.bias.device
        self.measured = None if measured is None else measured.to(device)
        self.counted = None if counted is None or counted.all() else counted.to(device)

    def observed_library(self, values: Tensor) -> Tensor:
        """(n,) totals of (n, p) counts, dense or CSR, bounded away from 0."""
        if values.layout == torch.sparse_csr:
            row, column, value = entries(values)
            if self.counted is not None:
                value = value * self.counted.index_select(0, column)
            totals = value.new_zeros(len(values)).index_add_(0, row, value)
        else:
            totals = (values if self.counted is None else values[:, self.counted]).sum(dim=1)
        return totals.clamp(min=MIN_LIBRARY)

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

        `target` is what the values are to the loss: :class:`~cantata.losses.SparseValues` for
        likelihoods and ``"bce"``, (n, p) values for ``"mse"``.
        """
        log_prob = self.distribution(location, library, covariates).log_prob(target.dense())
        return self._only_measured(log_prob, covariates, 0.0).sum(dim=1)

    def log_prob_of_hidden(
        self,
        hidden: Tensor,
        covariates: Covariates,
        library: Tensor | None,
        target: Any,
        rows: Tensor | None = None,
    ) -> Tensor:
        """(n,) log-likelihoods of the output for the (n, n_hidden) hidden layer of a decoder.

        With `rows` that of each is for another row of `target`, whose `covariates` are given;
        rows may repeat. Likelihoods of counts never have locations of all features.
        """
        of_hidden = covariates if rows is None else covariates.rows(rows)
        if self.terms is None:
            location = self.location(hidden, of_hidden)
            compared = target if rows is None else target.taken(rows)
            return self.log_prob(location, library, of_hidden, compared)
        taken = target if rows is None else target.taken(rows)
        log_prob = self._log_prob_of_means(hidden, of_hidden, library, taken)
        constant = target.sum_rows(self.constant_terms(covariates, target))
        return log_prob + (constant if rows is None else constant[rows])

    def _log_prob_of_means(
        self, hidden: Tensor, covariates: Covariates, library: Tensor | None, target: SparseValues
    ) -> Tensor:
        """(n,) log-likelihoods without :meth:`constant_terms`."""
        assert self.terms is not None
        weight = self.output.weight
        if self.covariates is not None:
            design, effects = self.covariates.design(covariates.without_batch())
            hidden = torch.cat([hidden.to(design), design], dim=1)
            weight = torch.cat([weight, effects.T], dim=1)
        scale = functional.softplus(self.scale)
        layer = OutputLayer(
            weight, self.output.bias, scale, self.bias, self.measured, self.counted
        )
        return linear_log_prob(
            self.terms, hidden, layer, covariates.batch, library, target, *self.tables
        )

    def constant_terms(self, covariates: Covariates, target: SparseValues) -> Tensor:
        """For each count that is not 0, the part of its log-probability that has no mean."""
        return -torch.lgamma(target.value + 1)

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """(n_batch, p) parameters of the likelihood beside its mean."""
        return ()

    def mean_loss(
        self, hidden: Tensor, covariates: Covariates, library: Tensor | None, target: Any
    ) -> Tensor:
        """Mean over cells and features of the negative log-likelihood."""
        log_prob = self.log_prob_of_hidden(hidden, covariates, library, target)
        return -log_prob.mean() / self.n_features

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Distribution:
        """Distribution of the (n, p) values."""
        raise NotImplementedError(f"{type(self).__name__} is a loss, not a distribution.")

    def expected(self, location: Tensor, library: Tensor | None, covariates: Covariates) -> Tensor:
        """(n, p) expected values."""
        return self.distribution(location, library, covariates).mean

    def foreground(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Tensor:
        """(n, p) expected values without background, where the likelihood has one."""
        raise NotImplementedError(f"{type(self).__name__} has no background.")


class PoissonHead(LikelihoodHead):
    """Poisson counts whose mean is the library size times a softmax over features."""

    requires_counts = True
    has_library = True
    terms: Terms | None = staticmethod(poisson_terms)

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

    def set_shares(self, totals: Tensor) -> None:
        """Start from the shares of features in the (n_batch, p) counts of the batches.

        Without it the rarest features of a few hundred steps are imputed several times too high.
        """
        overall = totals.sum(dim=0) + PSEUDOCOUNT
        overall = overall / overall.sum()
        weight = totals.sum(dim=1, keepdim=True)
        shares = (totals + SMOOTHING * overall) / (weight + SMOOTHING)
        if self.measured is not None:
            shares = torch.where(self.measured.to(shares.device), shares, overall)
        logs = shares.log()
        with torch.no_grad():
            self.bias.copy_(logs - logs.mean(dim=1, keepdim=True))

    @property
    def totals_are_likeliest(self) -> bool:
        """Whether the library sizes of greatest likelihood are totals of counts, at any mean."""
        return self.counted is None

    def fitted_library(self, location: Tensor, covariates: Covariates, counts: Tensor) -> Tensor:
        """(n,) library sizes with which (n, p) counts are likeliest at their locations.

        It takes as many cells at a time as stay in the cache; zero inflation is left aside.
        """
        n = max(1, block_entries(counts.device) // counts.shape[1])
        cells = [slice(start, start + n) for start in range(0, len(counts), n)]
        found = [self._fitted(location[i], covariates.rows(i), counts[i]) for i in cells]
        return torch.cat(found).clamp(min=MIN_LIBRARY)

    def _fitted(self, location: Tensor, covariates: Covariates, counts: Tensor) -> Tensor:
        library = self.observed_library(counts)
        return library * counts.sum(dim=1) / self._total(location, library)

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Distribution:
        return Poisson(self.mean(location, library), validate_args=False)


def _scored(library: Tensor, weight: Tensor, mean: Tensor, counts: Tensor) -> Tensor:
    """(n,) library sizes after a step of scoring; (n, p) weights are means over variances."""
    of_mean = torch.linalg.vecdot(weight, mean).clamp(min=MIN_SCALE)
    return (library * torch.linalg.vecdot(weight, counts) / of_mean).clamp(min=MIN_LIBRARY)


class NegativeBinomialHead(PoissonHead):
    """Negative binomial counts with a dispersion per batch and feature."""

    terms: Terms | None = staticmethod(negative_binomial_terms)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_theta = nn.Parameter(torch.zeros(self.n_batch, self.n_features))

    @property
    def totals_are_likeliest(self) -> bool:
        return False

    @property
    def tables(self) -> tuple[Tensor, ...]:
        return (self.log_theta,)

    def constant_terms(self, covariates: Covariates, target: SparseValues) -> Tensor:
        place, x = target.column, target.value
        if self.n_batch > 1:
            place = covariates.batch.index_select(0, target.row) * self.n_features + place
        log_theta = self.log_theta.flatten().index_select(0, place)
        theta = log_theta.exp()
        of_theta = torch.lgamma(x + theta) - torch.lgamma(theta) - x * log_theta
        return of_theta - torch.lgamma(x + 1)

    def _fitted(self, location: Tensor, covariates: Covariates, counts: Tensor) -> Tensor:
        # Fisher's scoring
        library = self.observed_library(counts)
        share = self.mean(location, torch.ones_like(library))
        theta = self._per_batch(self.log_theta, covariates).exp()
        for _ in range(N_SCORINGS):
            mean = share * library.unsqueeze(1)
            library = _scored(library, theta / (theta + mean), mean, counts)
        return library

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Distribution:
        theta = self._per_batch(self.log_theta, covariates).exp()
        return NegativeBinomial(mu=self.mean(location, library), theta=theta, validate_args=False)


class ZeroInflatedNegativeBinomialHead(NegativeBinomialHead):
    """Negative binomial counts of which some were lost, with a logit per batch and feature."""

    terms = staticmethod(zero_inflated_terms)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.zero_logits = nn.Parameter(torch.full((self.n_batch, self.n_features), -2.0))

    @property
    def tables(self) -> tuple[Tensor, ...]:
        return self.log_theta, self.zero_logits

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


class NegativeBinomialMixtureHead(NegativeBinomialHead):
    """Counts of antibodies: background or foreground, as in totalVI (Gayoso et al. 2021).

    ``pi NB(rho f, theta) + (1 - pi) NB(f, theta)``, where the decoder gives a cell and feature its
    ratio rho of background to foreground and the chance pi of background, and f is such that the
    mean of both is that of the negative binomial: a library size times proportions.
    """

    terms = None
    starts_at_shares = has_background = True

    def __init__(self, n_hidden: int, n_features: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(n_hidden, n_features, *args, **kwargs)
        self.components = nn.Linear(n_hidden, 2 * n_features)
        nn.init.constant_(self.components.bias[:n_features], BACKGROUND_LOGIT)

    def freeze(self) -> None:
        super().freeze()
        self.components.requires_grad_(False)

    def location(self, hidden: Tensor, covariates: Covariates) -> Tensor:
        """(n, 3 p): locations, logits of rho and logits of pi."""
        own = super().location(hidden, covariates)
        return torch.cat([own, self.components(hidden).float()], dim=1)

    def mean(self, location: Tensor, library: Tensor | None) -> Tensor:
        return super().mean(location[:, : self.n_features], library)

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> NegativeBinomialMixture:
        _, ratio, mixture_logits = location.split(self.n_features, dim=1)
        ratio, background = ratio.sigmoid(), mixture_logits.sigmoid()
        # the share of foreground without cancellation, and never 0
        share = ((-mixture_logits).sigmoid() + background * ratio).clamp(min=MIN_SCALE)
        foreground = self.mean(location, library) / share
        theta = self._per_batch(self.log_theta, covariates).exp()
        return NegativeBinomialMixture(
            ratio * foreground, foreground, theta, mixture_logits, validate_args=False
        )

    def _fitted(self, location: Tensor, covariates: Covariates, counts: Tensor) -> Tensor:
        library = self.observed_library(counts)
        for _ in range(N_SCORINGS_OF_MIXTURE):
            mixture = self.distribution(location, library, covariates)
            # each component scores the counts that are likely its own
            means, theta = (mixture.mu1, mixture.mu2), mixture.theta1
            of_both = [
                NegativeBinomial(mu=mu, theta=theta, validate_args=False).log_prob(counts)
                for mu in means
            ]
            logits = mixture.mixture_logits + of_both[0] - of_both[1]
            weights = [
                own.sigmoid() * theta / (theta + mu)
                for own, mu in zip((logits, -logits), means, strict=True)
            ]
            weight = weights[0] + weights[1]
            mean = (weights[0] * means[0] + weights[1] * means[1]) / weight
            library = _scored(library, weight, mean, counts)
        return library

    def foreground(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Tensor:
        mixture = self.distribution(location, library, covariates)
        return (1 - mixture.mixture_probs) * mixture.mu2


class TopicHead(PoissonHead):
    """Poisson counts whose proportions are mixtures of topics, as in latent Dirichlet allocation.

    The decoder gives the mixture of a cell; a topic is a positive weight of each feature, to which
    a batch brings a factor. Proportions are scaled to sum to 1, so topics need not be: a softmax
    of 64 of them over 200,000 features takes a tenth of a second. Other covariates act on the
    mixture alone. The cost of a step follows the counts that are not 0.
    """

    starts_at_shares = True

    def __init__(
        self, n_hidden: int, n_features: int, n_batch: int, *_: Any, **further: Any
    ) -> None:
        super().__init__(n_hidden, n_features, n_batch)
        del self.scale
        self.topics = nn.Parameter(torch.randn(n_features, self.output.out_features) / 10)

    def n_output(self, n_features: int) -> int:
        return min(N_TOPICS, n_features)

    @property
    def batch_parameters(self) -> list[nn.Parameter]:
        return [self.bias]

    def freeze(self) -> None:
        super().freeze()
        self.topics.requires_grad_(False)

    def _log_factor(self) -> Tensor:
        """(n_batch, p) logs of the factors of batches."""
        if self.measured is None:
            return self.bias
        return self.bias.masked_fill(~self.measured, ABSENT)

    def mixture(self, hidden: Tensor) -> Tensor:
        """(n, k) shares of topics."""
        return self.output(hidden).float().softmax(dim=1)

    def location(self, hidden: Tensor, covariates: Covariates) -> Tensor:
        log_share = (self.mixture(hidden) @ self.topics.exp().T).log()
        return log_share + self._per_batch(self._log_factor(), covariates)

    def _log_prob_of_means(
        self, hidden: Tensor, covariates: Covariates, library: Tensor | None, target: SparseValues
    ) -> Tensor:
        assert library is not None
        return topic_log_prob(
            self.mixture(hidden),
            self.topics,
            self._log_factor(),
            covariates.batch,
            library,
            target,
            self.counted,
        )


class BernoulliHead(LikelihoodHead):
    """Whether a feature has a count at all; values above 0 are taken as 1."""

    terms = staticmethod(bernoulli_terms)

    def constant_terms(self, covariates: Covariates, target: SparseValues) -> Tensor:
        return torch.zeros_like(target.value)

    def distribution(
        self, location: Tensor, library: Tensor | None, covariates: Covariates
    ) -> Distribution:
        return Bernoulli(logits=location, validate_args=False)

    def log_prob(
        self, location: Tensor, library: Tensor | None, covariates: Covariates, target: Any
    ) -> Tensor:
        seen = (target.dense() > 0).float()
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
    "nb_mixture": NegativeBinomialMixtureHead,
    "topics": TopicHead,
    "bernoulli": BernoulliHead,
    "normal": NormalHead,
}
"""Likelihood heads by name; adding one here makes it available to every model."""

LOSSES: dict[str, type[LikelihoodHead]] = {"bce": ScaledHead, "mse": SquaredHead, **LIKELIHOODS}
"""Output layers by name: losses of values that are not counts, and likelihoods."""
