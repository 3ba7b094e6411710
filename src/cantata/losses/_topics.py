"""Likelihood of counts whose proportions are mixtures of topics, at a cost that follows counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cantata.losses._count_likelihoods import MIN_SHARE

if TYPE_CHECKING:
    from cantata.losses._sparse_values import SparseValues

CHUNK_ENTRIES = 2**18
"""Entries of the rows that are multiplied at a time: one megabyte."""
MIN_PROPORTION = 1e-12


class _ProductAtCounts(torch.autograd.Function):
    """Entries of ``left @ right.T`` where there are counts."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, counts: SparseValues) -> Tensor:
        ctx.counts = counts
        ctx.save_for_backward(left, right)
        n = max(1, CHUNK_ENTRIES // left.shape[1])
        return torch.cat(
            [
                torch.linalg.vecdot(left.index_select(0, row), right.index_select(0, column))
                for row, column in zip(counts.row.split(n), counts.column.split(n), strict=True)
            ]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), (left, right) = weights, ctx.saved_tensors
        row, column, _, (n, p) = ctx.counts
        of_left = of_right = None
        if ctx.needs_input_grad[0]:
            by_row = torch.argsort(row, stable=True)
            of_left = _sums(right, column[by_row], row[by_row], n, weight[by_row])
        if ctx.needs_input_grad[1]:
            of_right = _sums(left, row, column, p, weight)
        return of_left, of_right, None


def _sums(table: Tensor, place: Tensor, of: Tensor, n: int, weight: Tensor) -> Tensor:
    """(n, k) weighted sums of the rows of a table at each `place`, by the ascending `of`."""
    counts = torch.bincount(of, minlength=n)
    return functional.embedding_bag(
        place, table, counts.cumsum(0) - counts, mode="sum", per_sample_weights=weight
    )


def topic_log_prob(
    mixture: Tensor,
    topics: Tensor,
    log_factor: Tensor,
    batch: Tensor,
    library: Tensor,
    counts: SparseValues,
    counted: Tensor | None = None,
) -> Tensor:
    r"""Log-likelihoods of Poisson counts whose proportions are mixtures of topics.

    With mixtures :math:`\theta`, topics :math:`\varphi` and factors r of batch b the mean of cell
    i is :math:`\mu_{ij} = l_i r_{bj} \sum_k \theta_{ik} \varphi_{kj} / N_i`, where
    :math:`N_i = \sum_k \theta_{ik} \sum_j r_{bj} \varphi_{kj}` over the features that library
    sizes count. So the sum of all means needs one product per topic, and only entries with counts
    need their own mean.

    Parameters
    ----------
    mixture
        (n, k) positive weights of topics.
    topics
        (p, k) positive weights of features.
    log_factor
        (n_batch, p) logs of factors; very negative where a batch did not measure a feature.
    batch
        (n,) batch of each cell.
    library
        (n,) positive library sizes.
    counts
        Counts of the cells.
    counted
        (p,) features that library sizes count; None: all.

    Returns
    -------
    (n,) sums over features of the log-probabilities, without what depends on no mean. They can be
    differentiated once.

    Examples
    --------
    >>> import torch
    >>> from cantata.losses import SparseValues
    >>> counts = SparseValues.of(torch.tensor([[1.0, 0.0]]))
    >>> mixture, topics, factor = torch.ones(1, 3), torch.ones(2, 3), torch.zeros(1, 2)
    >>> topic_log_prob(mixture, topics, factor, torch.tensor([0]), torch.ones(1), counts)
    tensor([-1.6931])
    """
    with torch.autocast(mixture.device.type, enabled=False):
        # 1. sums of means before they are scaled to the library size
        factor = log_factor.exp()
        total = of_counted = torch.linalg.vecdot(mixture, (factor @ topics)[batch])
        if counted is not None:
            of_counted = torch.linalg.vecdot(mixture, ((factor * counted) @ topics)[batch])
            of_counted = torch.maximum(of_counted, total * MIN_SHARE)
        scale = library / of_counted
        # 2. means where there are counts
        proportion = _ProductAtCounts.apply(mixture, topics, counts).clamp(min=MIN_PROPORTION)
        place = batch.index_select(0, counts.row) * len(topics) + counts.column
        log_mean = proportion.log() + log_factor.flatten().index_select(0, place)
        log_mean = log_mean + scale.log().index_select(0, counts.row)
        # 3. x log mu at counts, less the sum of all means
        return counts.sum_rows(counts.value * log_mean) - scale * total
