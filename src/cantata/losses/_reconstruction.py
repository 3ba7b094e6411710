"""What decoded values are compared with: squared errors, and log-likelihoods of counts.

The likelihoods take logits ``y``, a library size ``l`` and counts ``x`` of one minibatch, with
mean ``mu = l * softmax(y)``, and return one log-likelihood per cell, with backward passes of their
own. Terms that vanish at ``x = 0`` are computed at the non-zero counts only, which is exact and
pays because most counts are zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Callable


class SparseCounts(NamedTuple):
    """Counts of a minibatch beside the positions and values of the non-zero ones."""

    dense: Tensor
    """(n, p) counts."""
    row: Tensor
    """(nnz,) row of each non-zero count."""
    column: Tensor
    """(nnz,) column of each non-zero count."""
    value: Tensor
    """(nnz,) non-zero counts."""
    log_factorial: Tensor
    """(n,) sums over features of the log factorials."""

    @classmethod
    def from_dense(cls, counts: Tensor) -> SparseCounts:
        """Find the non-zero counts of a dense minibatch."""
        row, column = counts.nonzero(as_tuple=True)
        value = counts[row, column]
        log_factorial = value.new_zeros(len(counts)).index_add_(0, row, torch.lgamma(value + 1))
        return cls(counts, row, column, value, log_factorial)


def _softmax_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax (n, p) and log-normaliser (n, 1) of `logits` with a single exponential pass."""
    top = logits.amax(dim=1, keepdim=True)
    share = torch.sub(logits, top).exp_()
    total = share.sum(dim=1, keepdim=True)
    return share.div_(total), total.log_().add_(top)


class _NegativeBinomial(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, library: Tensor, log_theta: Tensor, counts: SparseCounts
    ) -> Tensor:
        # log p = lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)
        #         - theta log(1 + mu / theta) + x log(mu / theta) - x log(1 + mu / theta)
        x, row, column, value, log_factorial = counts
        per_cell_theta = log_theta.dim() == 2
        theta = log_theta.exp()
        # 1. What every entry has, zero or not: theta log(1 + mu / theta). With one theta per
        #    feature the sum over features is a product with a vector.
        share, log_total = _softmax_terms(logits)
        ratio = share * library.unsqueeze(1)
        mean = ratio.clone()
        ratio.div_(theta)
        tail = torch.log1p(ratio)
        dense = (tail * theta).sum(dim=1) if per_cell_theta else tail @ theta
        # 2. What is 0 at x = 0, at the other counts alone. Logs of small means come from logits,
        #    since the softmax may be rounded to 0.
        log_theta_nz = log_theta[row, column] if per_cell_theta else log_theta[column]
        theta_nz = log_theta_nz.exp()
        log_mean_nz = logits[row, column] - log_total[row, 0] + library.log()[row]

        def of_theta(function: Callable[[Tensor], Tensor]) -> Tensor:
            """Values of a function of theta at the non-zero counts."""
            return function(theta_nz) if per_cell_theta else function(theta)[column]

        at_counts = torch.lgamma(value + theta_nz) - of_theta(torch.lgamma)
        at_counts += value * (log_mean_nz - log_theta_nz - tail[row, column])
        log_prob = (-dense - log_factorial).index_add_(0, row, at_counts)
        # 3. For the backward pass: d log p / d log mu = (x - mu) / (1 + mu / theta), written over
        #    the means, and the part of d log p / d log theta that is 0 at x = 0.
        slope = torch.sub(x, mean, out=mean).div_(ratio.add_(1))
        digamma_nz = theta_nz * (torch.digamma(value + theta_nz) - of_theta(torch.digamma))
        ctx.save_for_backward(share, slope, tail, theta, digamma_nz, row, column, library)
        ctx.per_cell_theta = per_cell_theta
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        share, slope, tail, theta, digamma_nz, row, column, library = ctx.saved_tensors
        # 1. The library size scales all means of a cell.
        total = slope.sum(dim=1, keepdim=True)
        grad_library = weight * total.squeeze(1) / library if ctx.needs_input_grad[1] else None
        # 2. d log p / d log theta = -theta log(1 + mu / theta) - (x - mu) / (1 + mu / theta)
        #                            + theta (digamma(x + theta) - digamma(theta))
        grad_theta = None
        if ctx.needs_input_grad[2] and ctx.per_cell_theta:
            grad_theta = (tail * theta + slope).mul_(-weight.unsqueeze(1))
            grad_theta.index_put_((row, column), weight[row] * digamma_nz, accumulate=True)
        elif ctx.needs_input_grad[2]:
            grad_theta = -(theta * (weight @ tail) + weight @ slope)
            grad_theta.index_add_(0, column, weight[row] * digamma_nz)
        # 3. Through the softmax: what all shares of a cell gain together moves none of them.
        grad_logits = torch.addcmul(slope, share, total, value=-1).mul_(weight.unsqueeze(1))
        return grad_logits, grad_library, grad_theta, None


class _Poisson(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, library: Tensor, counts: SparseCounts) -> Tensor:
        x, row, column, value, log_factorial = counts
        # log p = x log mu - mu - lgamma(x + 1), and the means of a cell sum to its library size
        share, log_total = _softmax_terms(logits)
        log_mean_nz = logits[row, column] - log_total[row, 0] + library.log()[row]
        at_counts = value * log_mean_nz
        observed = value.new_zeros(x.shape[0]).index_add_(0, row, value)
        ctx.save_for_backward(share, observed, row, column, value, library)
        return (-library - log_factorial).index_add_(0, row, at_counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        share, observed, row, column, value, library = ctx.saved_tensors
        grad_library = weight * (observed / library - 1) if ctx.needs_input_grad[1] else None
        # d log p / d logits = x - softmax * sum(x)
        grad_logits = share * (-weight * observed).unsqueeze(1)
        grad_logits.index_put_((row, column), weight[row] * value, accumulate=True)
        return grad_logits, grad_library, None


def negative_binomial_log_prob(
    logits: Tensor, library: Tensor, log_theta: Tensor, counts: SparseCounts
) -> Tensor:
    """Log-likelihood of negative binomial counts with a softmax mean.

    Parameters
    ----------
    logits
        (n, p) unnormalised log-proportions.
    library
        (n,) positive library sizes.
    log_theta
        (p,) or (n, p) log inverse dispersions; the variance is ``mu + mu**2 / theta``.
    counts
        Counts of the minibatch.

    Returns
    -------
    (n,) sums over features of the log-probabilities.

    Examples
    --------
    >>> import torch
    >>> counts = SparseCounts.from_dense(torch.tensor([[1.0, 0.0]]))
    >>> negative_binomial_log_prob(torch.zeros(1, 2), torch.ones(1), torch.zeros(2), counts)
    tensor([-1.9095])
    """
    with torch.autocast(device_type=logits.device.type, enabled=False):
        return _NegativeBinomial.apply(logits.float(), library.float(), log_theta.float(), counts)


def poisson_log_prob(logits: Tensor, library: Tensor, counts: SparseCounts) -> Tensor:
    """Log-likelihood of Poisson counts with a softmax mean.

    Parameters
    ----------
    logits
        (n, p) unnormalised log-proportions.
    library
        (n,) positive library sizes.
    counts
        Counts of the minibatch.

    Returns
    -------
    (n,) sums over features of the log-probabilities.

    Examples
    --------
    >>> import torch
    >>> counts = SparseCounts.from_dense(torch.tensor([[1.0, 0.0]]))
    >>> poisson_log_prob(torch.zeros(1, 2), torch.ones(1), counts)
    tensor([-1.6931])
    """
    with torch.autocast(device_type=logits.device.type, enabled=False):
        return _Poisson.apply(logits.float(), library.float(), counts)


def reconstruction_loss(x: Tensor, decoded: Tensor, n_features: Tensor | float) -> Tensor:
    """Mean over cells of the squared reconstruction error per feature.

    ``mean |x - G(E(x))|^2 / p``, first part of Wang et al. 2025, eq. 2.

    Parameters
    ----------
    x, decoded
        (n, d) input of an encoder and output of the decoder.
    n_features
        Number p of features of the modality, larger than d where features were rotated to their
        leading principal components.

    Examples
    --------
    >>> import torch
    >>> reconstruction_loss(torch.ones(2, 3), torch.zeros(2, 3), 6)
    tensor(0.5000)
    """
    return (x - decoded).square().sum() / (len(x) * n_features)
