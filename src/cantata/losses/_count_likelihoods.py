"""Log-likelihoods of counts under the output of a linear layer, a block of features at a time.

Dense values of a block stay in the cache, and one array of cells x features is all that is kept
for the backward pass. What vanishes at a count of 0 is computed at the other counts alone, which
is exact and pays because most counts are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cantata.losses._sparse_values import Block, SparseValues

Terms = Callable[..., tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]]
"""A likelihood of a block: from (n, w) means, the logs of those at counts other than 0, the
:class:`Block`, (n,) weights and further parameters, (w,) or (n, w) each, to (n,) log-probabilities
without what depends on no mean, their derivatives by logs of means, of terms that every entry has
and of those at counts, and those of their weighted sum by the parameters. Without weights the last
are left out, with them the first.
Where there is no library size, locations take the place of means and of their logs."""

ABSENT = -1e4
"""Location of a feature that a batch did not measure: its share of the counts is 0."""
MIN_SHARE = 1e-6
"""Share of the features that library sizes count, below which sizes are not scaled further."""


def poisson_terms(
    mean: Tensor, log_mean: Tensor, block: Block, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """``x log mu - mu``."""
    value = (-mean.sum(dim=1)).index_add_(0, block.row, block.value * log_mean)
    return value, -mean, block.value, ()


def negative_binomial_terms(
    mean: Tensor, log_mean: Tensor, block: Block, weight: Tensor | None, log_theta: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """``-(x + theta) log(1 + mu / theta) + x log mu``."""
    theta, ratio = log_theta.exp(), mean * (-log_theta).exp()
    log_ratio_at = log_mean - _at(log_theta, block)
    tail, value = torch.log1p(ratio), mean.new_zeros(())
    if weight is None:
        value = -(tail @ theta) if theta.dim() == 1 else -torch.linalg.vecdot(tail, theta)
        at_counts = block.value * (log_mean - functional.softplus(log_ratio_at))
        value.index_add_(0, block.row, at_counts)
    everywhere = torch.rsub(ratio, -1).reciprocal_().mul_(mean)
    at_counts = block.value * torch.sigmoid(-log_ratio_at)
    if weight is None:
        return value, everywhere, at_counts, ()
    of_counts = weight.index_select(0, block.row) * (block.value - at_counts)
    if theta.dim() == 1:
        of_theta = -(weight @ tail) * theta - weight @ everywhere
        of_theta.index_add_(0, block.column, of_counts)
    else:
        of_theta = (tail * theta).add_(everywhere).mul_(-weight.unsqueeze(1))
        of_theta.view(-1).index_add_(0, block.place, of_counts)
    return value, everywhere, at_counts, (of_theta,)


def zero_inflated_terms(
    mean: Tensor,
    log_mean: Tensor,
    block: Block,
    weight: Tensor | None,
    log_theta: Tensor,
    zero_logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """The same of counts of which a share, by its logit, was lost."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (mean, log_mean, log_theta, zero_logits)]
        mean, log_mean, log_theta, zero_logits = leaves
        # log(pi + (1 - pi) q) = softplus(log q - logit) - softplus(-logit) with q the chance of
        # a 0, and log((1 - pi) f) = log f - logit - softplus(-logit) of a count with chance f
        tail = torch.log1p(mean * (-log_theta).exp())
        log_zero = -log_theta.exp() * tail - zero_logits
        dense = functional.softplus(log_zero) - functional.softplus(-zero_logits)
        theta_at = _at(log_theta, block)
        tail_at = functional.softplus(log_mean - theta_at)
        log_zero_at = -theta_at.exp() * tail_at - _at(zero_logits, block)
        at_counts = block.value * (log_mean - tail_at) + functional.logsigmoid(log_zero_at)
        value = dense.sum(dim=1).index_add(0, block.row, at_counts)
    of_mean, of_log_mean = torch.autograd.grad(
        value, leaves[:2], torch.ones_like(value), retain_graph=weight is not None
    )
    of_rest = () if weight is None else torch.autograd.grad(value, leaves[2:], weight)
    return value.detach(), of_mean * leaves[0].detach(), of_log_mean, of_rest


def bernoulli_terms(
    location: Tensor, at_counts: Tensor, block: Block, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """``y l - log(1 + exp(l))``, where y is whether there is a count."""
    value = location.new_zeros(())
    if weight is None:
        value = (-functional.softplus(location).sum(dim=1)).index_add_(0, block.row, at_counts)
    return value, torch.sigmoid(location).neg_(), torch.ones_like(at_counts), ()


def _at(table: Tensor, block: Block) -> Tensor:
    """Entries of (w,) or (n, w) values at the counts of a block."""
    if table.dim() == 1:
        return table.index_select(0, block.column)
    return table.flatten().index_select(0, block.place)


@dataclass(frozen=True, eq=False)
class OutputLayer:
    """A linear layer with a factor and a shift per batch and feature.

    ``scale[b] * (weight @ h + bias) + shift[b]``.
    """

    weight: Tensor
    """(p, d)."""
    bias: Tensor
    """(p,)."""
    scale: Tensor
    """(n_batch, p)."""
    shift: Tensor
    """(n_batch, p)."""
    measured: Tensor | None = None
    """(n_batch, p) whether each batch measured each feature; None: all did."""
    counted: Tensor | None = None
    """(p,) features whose means sum to the library size; None: all."""


@dataclass(frozen=True, eq=False)
class _Blockwise:
    """What a pass over blocks of features needs beside tensors with gradients."""

    terms: Terms
    counts: SparseValues
    batch: Tensor
    measured: Tensor | None
    counted: Tensor | None
    dtype: torch.dtype
    """Precision of matrix products."""

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """Matrix product, in single precision at least."""
        found = a.to(self.dtype) @ b.to(self.dtype)
        return found.to(torch.promote_types(torch.float32, found.dtype))

    def per_cell(self, table: Tensor) -> Tensor:
        """Rows of a (n_batch, w) table for cells; a single one is broadcast."""
        return table[0] if len(table) == 1 else table.index_select(0, self.batch)

    def location(
        self, columns: slice, hidden: Tensor, weight: Tensor, bias: Tensor, *tables: Tensor
    ) -> Tensor:
        """(n, w) locations."""
        w, c = weight[columns], bias[columns]
        scale, shift = (table[:, columns] for table in tables)
        if len(scale) == 1:  # scale what is narrower
            w, c = w * scale.T, c * scale[0] + shift[0]
        location = self.product(hidden, w.T).add_(c)
        if len(scale) > 1:
            location = location.mul_(self.per_cell(scale)).add_(self.per_cell(shift))
        absent = self.absent(columns)
        return location if absent is None else location.masked_fill_(absent, ABSENT)

    def absent(self, columns: slice) -> Tensor | None:
        """What of a block was not measured, (w,) or (n, w)."""
        return None if self.measured is None else ~self.per_cell(self.measured[:, columns])

    def location_backward(
        self,
        slope: Tensor,
        weight_of: Tensor,
        columns: slice,
        tensors: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
    ) -> None:
        """Add a block's part to the gradients of :meth:`location`'s tensors.

        That is of its (n, w) slopes times the weights of cells; the hidden layer's gradient is
        before the weights.
        """
        hidden, weight, bias, scale, _ = tensors
        of_hidden, of_weight, of_bias, of_scale, of_shift = gradients
        w, c, factor = weight[columns], bias[columns], scale[:, columns]
        weighted = hidden * weight_of.unsqueeze(1)
        if len(scale) == 1:
            # with one batch, factors are taken out of the products
            of_w, of_c = self.product(slope.T, weighted), weight_of @ slope
            if of_scale is not None:
                of_scale[0, columns] = (of_w * w).sum(dim=1) + of_c * c
            if of_shift is not None:
                of_shift[0, columns] = of_c
            of_w, of_c, w = of_w * factor.T, of_c * factor[0], w * factor.T
        else:
            of_batch = self.of_batch(len(scale), weight_of)
            if of_shift is not None:
                of_shift[:, columns] = of_batch @ slope
            if of_scale is not None:
                of_scale[:, columns] = of_batch @ (self.product(hidden, w.T).add_(c) * slope)
            slope = slope * self.per_cell(factor)
            of_w, of_c = self.product(slope.T, weighted), weight_of @ slope
        if of_weight is not None:
            of_weight[columns] = of_w
        if of_bias is not None:
            of_bias[columns] = of_c
        if of_hidden is not None:
            of_hidden += self.product(slope, w)

    def of_batch(self, n_batch: int, weight: Tensor) -> Tensor:
        """(n_batch, n) weights of the cells of each batch."""
        table = weight.new_zeros(n_batch, len(weight))
        return table.scatter_(0, self.batch.unsqueeze(0), weight.unsqueeze(0))


class _LinearLogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, job: _Blockwise, with_slope: bool, library: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        layer, tables = tensors[:5], tensors[5:]
        blocks = list(job.counts.blocks())
        kept, at_counts, tops = [], [], []
        # 1. Locations, and sums of their exponentials relative to the largest so far.
        n = job.counts.shape[0]
        top = layer[3].new_full((n, 1), -torch.inf)
        sums = top.new_zeros(n, 1 if job.counted is None else 2)
        for block in blocks:
            x = job.location(block.columns, *layer)
            at_counts.append(x.view(-1).index_select(0, block.place))
            if library is not None:
                before, top = top, torch.maximum(top, x.amax(dim=1, keepdim=True))
                x.sub_(top).exp_()
                sums *= (before - top).exp()
                sums[:, 0] += x.sum(dim=1)
                if job.counted is not None:
                    sums[:, 1] += x[:, job.counted[block.columns]].sum(dim=1)
                tops.append(top)
            kept.append(x)
        # 2. The normaliser: means of the features that library sizes count sum to these.
        of_few = None
        if library is not None:
            total = sums[:, :1]
            if job.counted is not None:
                floor = total * MIN_SHARE
                of_few = sums[:, 1:] <= floor
                total = torch.where(of_few, floor, sums[:, 1:])
            offset = library.log().unsqueeze(1) - total.log() - top
        # 3. Log-probabilities, and how they move with the normaliser.
        log_prob, pull = top.new_zeros(n), top.new_zeros(n)
        for k, block in enumerate(blocks):
            x, at = kept[k], at_counts[k]
            if library is not None:
                x.mul_((tops[k] + offset).exp())
                at += offset[:, 0].index_select(0, block.row)
            params = (job.per_cell(table[:, block.columns]) for table in tables)
            value, of_x, of_at, _ = job.terms(x, at, block, None, *params)
            log_prob += value
            if library is not None and with_slope:
                pull += of_x.sum(dim=1).index_add_(0, block.row, of_at)
        if with_slope:
            ctx.job, ctx.n_tables, ctx.n_blocks = job, len(tables), len(blocks)
            ctx.save_for_backward(library, of_few, pull, *tensors, *kept, *at_counts)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), job = weights, ctx.job
        library, of_few, pull, *saved = ctx.saved_tensors
        n_tensors = 5 + ctx.n_tables
        tensors, layer, tables = saved[:n_tensors], saved[:5], saved[5:n_tensors]
        kept, at_counts = saved[n_tensors:][: ctx.n_blocks], saved[n_tensors + ctx.n_blocks :]
        gradients = [
            torch.zeros_like(t, dtype=weight.dtype) if needed else None
            for t, needed in zip(tensors, ctx.needs_input_grad[3:], strict=True)
        ]
        for block, x, at in zip(job.counts.blocks(), kept, at_counts, strict=True):
            columns = block.columns
            # 1. Through the likelihood.
            params = (job.per_cell(table[:, columns]) for table in tables)
            _, slope, of_at, of_params = job.terms(x, at, block, weight, *params)
            for gradient, found in zip(gradients[5:], of_params, strict=True):
                if gradient is not None:
                    one = torch.ones_like(weight)
                    found = found if found.dim() == 1 else job.of_batch(len(gradient), one) @ found
                    gradient[:, columns] = found
            # 2. Through the normaliser: what all means of a cell gain together moves none of them.
            if library is not None:
                common = (pull / library).unsqueeze(1)
                if job.counted is not None:
                    common = common * torch.where(of_few, MIN_SHARE, job.counted[columns].to(x))
                slope.addcmul_(x, common, value=-1)
            slope.view(-1).index_add_(0, block.place, of_at)
            absent = job.absent(columns)
            if absent is not None:
                slope.masked_fill_(absent, 0.0)
            # 3. Through the layer.
            job.location_backward(slope, weight, columns, layer, gradients[:5])
        if gradients[0] is not None:
            gradients[0] *= weight.unsqueeze(1)
        cast = (None if g is None else g.to(t) for g, t in zip(gradients, tensors, strict=True))
        of_library = weight * pull / library if ctx.needs_input_grad[2] else None
        return None, None, of_library, *cast


def linear_log_prob(
    terms: Terms,
    hidden: Tensor,
    layer: OutputLayer,
    batch: Tensor,
    library: Tensor | None,
    counts: SparseValues,
    *tables: Tensor,
) -> Tensor:
    r"""Log-likelihoods of counts, whose means or logits are the output of a linear layer.

    With a `library` the mean is :math:`\mu_{ij} = l_i \exp(y_{ij}) / \sum_k \exp(y_{ik})`, the sum
    over the features that library sizes count. The result can be differentiated once.

    Parameters
    ----------
    terms
        The likelihood: ``negative_binomial_terms`` and its neighbours.
    hidden
        (n, d) input of the layer.
    layer
        The layer, whose output is y.
    batch
        (n,) batch of each cell.
    library
        (n,) positive library sizes; None: y are logits.
    counts
        Counts of the cells.
    *tables
        (n_batch, p) further parameters of the likelihood.

    Returns
    -------
    (n,) sums over features of the log-probabilities, without what depends on no mean.

    Examples
    --------
    >>> import torch
    >>> from cantata.losses import SparseValues
    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> layer = OutputLayer(torch.zeros(2, 3), torch.zeros(2), one, zero)
    >>> counts, batch = SparseValues.of(torch.tensor([[1.0, 0.0]])), torch.tensor([0])
    >>> library = torch.ones(1)
    >>> linear_log_prob(poisson_terms, torch.ones(1, 3), layer, batch, library, counts)
    tensor([-1.6931])
    """
    device = hidden.device.type
    dtype = hidden.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    job = _Blockwise(terms, counts, batch, layer.measured, layer.counted, dtype)
    with torch.autocast(device, enabled=False):
        return _LinearLogProb.apply(
            job,
            torch.is_grad_enabled(),
            library,
            hidden,
            layer.weight,
            layer.bias,
            layer.scale,
            layer.shift,
            *tables,
        )
