"""Cross-entropy of values in [0, 1] (Zhang et al. 2026, eq. 1), a few columns at a time.

A block of logits that stays in the cache is overwritten by its own derivative. Gradients are
therefore made in the forward pass, and where the logits come from a linear layer, none are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from cantata.losses._scaled import ScaledValues

BLOCK_ENTRIES = {"cpu": 2**19}
"""Logits of a block, by device: two megabytes on a processor."""
OTHER_BLOCK_ENTRIES = 2**25
"""Logits of a block on other devices, which want few and large operations."""


def _blocks(target: ScaledValues) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Blocks of columns: which, and the places in the block, rows and values of its target."""
    n, p = target.shape
    entries = BLOCK_ENTRIES.get(target.value.device.type, OTHER_BLOCK_ENTRIES)
    width = min(p, max(16, entries // max(n, 1)))
    starts = range(0, p, width)
    cuts = [0, len(target.column)]
    if len(starts) > 1:
        inner = torch.tensor(list(starts)[1:], device=target.column.device)
        cuts[1:1] = torch.searchsorted(target.column, inner).tolist()
    for k, start in enumerate(starts):
        columns, own = slice(start, min(start + width, p)), slice(cuts[k], cuts[k + 1])
        row = target.row[own]
        places = row * (columns.stop - start) + (target.column[own] - start)
        yield columns, places, row, target.value[own]


def _block_loss(
    logits: Tensor, places: Tensor, row: Tensor, y: Tensor, pos_weight: float, with_slope: bool
) -> Tensor:
    """(n,) losses of a block; with `with_slope` its contiguous logits become their derivative."""
    flat = logits.view(-1)
    own = flat.index_select(0, places)
    terms = y * ((pos_weight - 1) * functional.softplus(own) - pos_weight * own)
    losses = functional.softplus(logits).sum(dim=1).index_add_(0, row, terms)
    if with_slope:
        own.sigmoid_()
        own += y * ((pos_weight - 1) * own - pos_weight)
        logits.sigmoid_()
        flat.scatter_(0, places, own)
    return losses


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: ScaledValues, pos_weight: float, with_slope: bool
    ) -> Tensor:
        losses = logits.new_zeros(len(logits))
        slope = torch.empty_like(logits) if with_slope else None
        for columns, places, row, y in _blocks(target):
            block = logits[:, columns].clone(memory_format=torch.contiguous_format)
            losses += _block_loss(block, places, row, y, pos_weight, with_slope)
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
        target: ScaledValues,
        pos_weight: float,
        scale: float,
        with_slope: bool,
    ) -> Tensor:
        losses = torch.zeros(len(hidden), device=hidden.device)
        of_hidden, of_weight, of_bias = (
            torch.zeros_like(x, dtype=torch.float32) if with_slope and needed else None
            for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        )
        for columns, places, row, y in _blocks(target):
            logits = torch.addmm(bias[columns], hidden, weight[columns].T).float()
            losses += _block_loss(logits, places, row, y, pos_weight, with_slope)
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
            # comparing would make the processor wait for other devices
            if slope is not None and (factor.device.type != "cpu" or factor != 1):
                slope *= factor
        # cast last: divided by cells and features, slopes are too small for half precision
        cast = (x if x is None else x.to(t) for x, t in zip(slopes, ctx.dtypes, strict=True))
        return *cast, None, None, None, None


def scaled_cross_entropy(logits: Tensor, target: ScaledValues, pos_weight: float = 1.0) -> Tensor:
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
    hidden: Tensor, weight: Tensor, bias: Tensor, target: ScaledValues, pos_weight: float = 1.0
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
