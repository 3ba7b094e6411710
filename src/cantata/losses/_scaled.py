"""Cells scaled to [0, 1], as APOLLO decodes them, and what its latents cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

PSEUDOCOUNT = 0.5


class ScaledValues(NamedTuple):
    """Values in [0, 1] of a minibatch, of which only those above 0 are kept."""

    row: Tensor
    """(nnz,) row of each value above 0."""
    column: Tensor
    """(nnz,) column of each value above 0."""
    value: Tensor
    """(nnz,) values."""
    shape: tuple[int, int]
    """Cells and features."""

    def dense(self) -> Tensor:
        """(n, p) values."""
        full = self.value.new_zeros(self.shape)
        full[self.row, self.column] = self.value
        return full


def min_max_scaled(values: Tensor, *, log: bool = True) -> ScaledValues:
    """Log counts of every cell, scaled to [0, 1] (Zhang et al. 2026, methods).

    ``y = (t - min t) / (max t - min t)`` over the features of a cell, with ``t = log(x + 0.5)``.
    A cell whose values are all equal becomes 0.

    Parameters
    ----------
    values
        (n, p) counts.
    log
        Without it ``t = x``, for values that may be negative.

    Examples
    --------
    >>> import torch
    >>> min_max_scaled(torch.tensor([[0.0, 1.5, 3.5]])).dense()
    tensor([[0.0000, 0.6667, 1.0000]])
    """
    n, p = values.shape
    if not log:
        low = values.amin(dim=1, keepdim=True)
        shifted = values - low
        size = shifted.amax(dim=1, keepdim=True)
        scaled = shifted / torch.where(size > 0, size, 1.0)
        row, column = scaled.nonzero(as_tuple=True)
        return ScaledValues(row, column, scaled[row, column], (n, p))
    row, column = values.nonzero(as_tuple=True)
    t = torch.log(values[row, column] + PSEUDOCOUNT)
    has_zero = torch.bincount(row, minlength=n) < p
    floor = torch.full((n,), torch.inf, device=values.device)
    floor = floor.scatter_reduce(0, row, t, "amin")
    floor = torch.where(has_zero, torch.log(values.new_tensor(PSEUDOCOUNT)), floor)
    top = floor.scatter_reduce(0, row, t, "amax")
    size = (top - floor)[row]
    y = (t - floor[row]) / torch.where(size > 0, size, 1.0)
    return ScaledValues(row, column, y, (n, p))


class _ScaledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: ScaledValues, pos_weight: float) -> Tensor:
        row, column, y, _ = target
        own = logits[row, column]
        positive = functional.softplus(own)
        terms = y * ((pos_weight - 1) * positive - pos_weight * own)
        total = functional.softplus(logits).sum(dim=1).index_add_(0, row, terms)
        ctx.save_for_backward(logits, row, column, y)
        ctx.pos_weight = pos_weight
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, row, column, y = ctx.saved_tensors
        gradient = torch.sigmoid(logits)
        own = gradient[row, column]
        change = y * ((ctx.pos_weight - 1) * own - ctx.pos_weight)
        gradient.index_put_((row, column), change, accumulate=True)
        return gradient.mul_(gradients[0].unsqueeze(1)), None, None


def scaled_cross_entropy(logits: Tensor, target: ScaledValues, pos_weight: float = 1.0) -> Tensor:
    r"""Cross-entropy of values in [0, 1], summed over features (Zhang et al. 2026, eq. 1).

    :math:`-\sum_j w\,y_j \log\sigma(l_j) + (1 - y_j)\log(1 - \sigma(l_j))`. Beside one pass over
    the logits, only values above 0 are visited, forward and backward.

    Parameters
    ----------
    logits
        (n, p) output of the decoder.
    target
        Values of the same cells.
    pos_weight
        Weight w of the positive part.

    Returns
    -------
    (n,) sums.

    Examples
    --------
    >>> import torch
    >>> target = min_max_scaled(torch.tensor([[0.0, 3.0]]))
    >>> scaled_cross_entropy(torch.zeros(1, 2), target)
    tensor([1.3863])
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _ScaledCrossEntropy.apply(logits.float(), target, float(pos_weight))


def norm_penalty(z: Tensor) -> Tensor:
    """Mean length of the latents of a minibatch, divided by their width.

    Zhang et al. 2026, eq. 1, one of its last terms, with the norm (not its square) as printed,
    and the division by the width as in the reference implementation.

    Parameters
    ----------
    z
        (n, d) latents without noise.

    Examples
    --------
    >>> import torch
    >>> norm_penalty(torch.tensor([[3.0, 4.0]]))
    tensor(2.5000)
    """
    # the length of a vector of zeros has no derivative
    return (z.square().sum(dim=1) + 1e-12).sqrt().mean() / z.shape[1]
