"""Cross-entropy of values in [0, 1] (Zhang et al. 2026, eq. 1), a few columns at a time.

A block of logits that stays in the cache is overwritten by its own derivative. Gradients are
therefore made in the forward pass, and where the logits come from a linear layer, none are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cantata.losses._sparse_values import SparseValues, entries

if TYPE_CHECKING:
    from torch import Tensor

PSEUDOCOUNT = 0.5
"""Added to counts before the logarithm."""


def min_max_scaled(values: Tensor, *, log: bool = True) -> SparseValues:
    """Log counts of every cell, scaled to [0, 1] (Zhang et al. 2026, methods).

    ``y = (t - min t) / (max t - min t)`` over the features of a cell, with ``t = log(x + 0.5)``.
    A cell whose values are all equal becomes 0.

    Parameters
    ----------
    values
        (n, p) counts, dense or CSR without duplicates; negative ones are taken as 0.
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
        return _min_max_of_all(values.to_dense())
    # 1. Logs of what is stored; all else has the log of the pseudocount.
    row, column, value = entries(values)
    t = torch.log(value.clamp(min=0) + PSEUDOCOUNT)
    # 2. The least of a cell is that of a 0 unless it has none, the greatest that of a count.
    has_zero = torch.bincount(row, minlength=n) < p
    floor = torch.full((n,), torch.inf, device=values.device)
    floor = floor.scatter_reduce(0, row, t, "amin")
    floor = torch.where(has_zero, torch.log(t.new_tensor(PSEUDOCOUNT)), floor)
    top = floor.scatter_reduce(0, row, t, "amax")
    # 3. A 0 becomes 0, so that what is stored is all there is.
    inverse = 1 / torch.where(top > floor, top - floor, 1.0)
    y = (t - floor.index_select(0, row)) * inverse.index_select(0, row)
    return SparseValues.from_entries(row, column, y, (n, p))


def _min_max_of_all(values: Tensor) -> SparseValues:
    """Values themselves, less the least of their cell, over its range."""
    shifted = values - values.amin(dim=1, keepdim=True)
    size = shifted.amax(dim=1, keepdim=True)
    scaled = shifted / torch.where(size > 0, size, 1.0)
    return SparseValues.of(scaled)


def _block_loss(
    logits: Tensor, index: Tensor, row: Tensor, y: Tensor, pos_weight: float, with_slope: bool
) -> Tensor:
    """(n,) losses of a block; with `with_slope` its contiguous logits become their derivative."""
    # 1. -w y log s(l) - (1 - y) log(1 - s(l)) = softplus(l) + y ((w - 1) softplus(l) - w l), whose
    #    second part is 0 where y is.
    flat = logits.view(-1)
    at_values = flat.index_select(0, index)
    terms = y * ((pos_weight - 1) * functional.softplus(at_values) - pos_weight * at_values)
    losses = functional.softplus(logits).sum(dim=1).index_add_(0, row, terms)
    # 2. Its derivative s(l) + y ((w - 1) s(l) - w) takes the place of the logits, none of which
    #    are needed any more.
    if with_slope:
        at_values.sigmoid_()
        at_values += y * ((pos_weight - 1) * at_values - pos_weight)
        logits.sigmoid_()
        flat.scatter_(0, index, at_values)
    return losses


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: SparseValues, pos_weight: float, with_slope: bool
    ) -> Tensor:
        losses = logits.new_zeros(len(logits))
        slope = torch.empty_like(logits) if with_slope else None
        for columns, index, row, _, y in target.blocks():
            block = logits[:, columns].clone(memory_format=torch.contiguous_format)
            losses += _block_loss(block, index, row, y, pos_weight, with_slope)
            if slope is not None:
                slope[:, columns] = block
        if slope is not None:
            ctx.save_for_backward(slope)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * gradients[0].unsqueeze(1), None, None, None


class _OfLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        target: SparseValues,
        pos_weight: float,
        scale: float,
        with_slope: bool,
    ) -> Tensor:
        # 1. Room for gradients, in single precision whatever that of the network.
        losses = torch.zeros(len(hidden), device=hidden.device)
        of_hidden, of_weight, of_bias = (
            torch.zeros_like(x, dtype=torch.float32) if with_slope and needed else None
            for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        )
        for columns, index, row, _, y in target.blocks():
            # 2. The logits of a block, and their derivative in the same memory.
            logits = torch.addmm(bias[columns], hidden, weight[columns].T).float()
            losses += _block_loss(logits, index, row, y, pos_weight, with_slope)
            # 3. From there to the linear layer: each block has its rows of the weights, and adds
            #    to what moves the hidden layer.
            if of_bias is not None:
                torch.mul(logits.sum(dim=0), scale, out=of_bias[columns])
            if of_weight is not None:
                torch.mul(torch.mm(logits.T, hidden), scale, out=of_weight[columns])
            if of_hidden is not None:
                of_hidden += torch.mm(logits, weight[columns])
        if of_hidden is not None:
            of_hidden *= scale
        ctx.slopes = of_hidden, of_weight, of_bias
        ctx.dtypes = hidden.dtype, weight.dtype, bias.dtype
        return losses.sum() * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.slopes is None:
            raise RuntimeError("This loss can be differentiated once; its slopes are overwritten.")
        slopes, ctx.slopes = ctx.slopes, None
        (factor,) = gradients
        for slope in slopes:
            # Comparing would make the processor wait for other devices.
            if slope is not None and (factor.device.type != "cpu" or factor != 1):
                slope *= factor
        # Cast last: divided by cells and features, slopes are too small for half precision.
        cast = (x if x is None else x.to(t) for x, t in zip(slopes, ctx.dtypes, strict=True))
        return *cast, None, None, None, None


def scaled_cross_entropy(logits: Tensor, target: SparseValues, pos_weight: float = 1.0) -> Tensor:
    r"""Cross-entropy of values in [0, 1], summed over features (Zhang et al. 2026, eq. 1).

    :math:`-\sum_j w\,y_j \log\sigma(l_j) + (1 - y_j)\log(1 - \sigma(l_j))`.

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
    >>> from cantata.losses import min_max_scaled
    >>> target = min_max_scaled(torch.tensor([[0.0, 3.0]]))
    >>> scaled_cross_entropy(torch.zeros(1, 2), target)
    tensor([1.3863])
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _OfLogits.apply(logits.float(), target, float(pos_weight), torch.is_grad_enabled())


def linear_scaled_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, target: SparseValues, pos_weight: float = 1.0
) -> Tensor:
    """Mean of :func:`scaled_cross_entropy` over cells and features, of a linear layer's output.

    Logits are ``hidden @ weight.T + bias``; those of all features never exist together. The result
    can be differentiated once.

    Parameters
    ----------
    hidden
        (n, d) last hidden layer of the decoder, at least one row.
    weight, bias
        (p, d) and (p,) of the output layer.
    target, pos_weight
        As for :func:`scaled_cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from cantata.losses import min_max_scaled
    >>> target = min_max_scaled(torch.tensor([[0.0, 3.0]]))
    >>> linear_scaled_cross_entropy(torch.zeros(1, 3), torch.zeros(2, 3), torch.zeros(2), target)
    tensor(0.6931)
    """
    scale, with_slope = 1 / (len(hidden) * len(bias)), torch.is_grad_enabled()
    return _OfLinear.apply(hidden, weight, bias, target, float(pos_weight), scale, with_slope)
