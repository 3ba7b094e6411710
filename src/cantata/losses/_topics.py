"""Likelihood of counts whose proportions are mixtures of topics, at a cost that follows counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cantata.losses._count_likelihoods import MIN_SHARE
from cantata.losses._sparse_values import block_entries

if TYPE_CHECKING:
    from cantata.losses._sparse_values import SparseValues

MIN_PROPORTION = 1e-12


class _Mixed(torch.autograd.Function):
    """Mixtures of topics where there are counts, and their sums over features.

    From (n, k) mixtures, (p, k) logs of topics and (m, p) factors to (nnz,) entries of
    ``mixture @ topics.T`` at the counts and (m, k) ``factor @ topics``. Arrays of the size of the
    topics are what a step costs: it makes one forward and one backward.
    """

    @staticmethod
    def forward(
        ctx: Any, mixture: Tensor, log_topics: Tensor, factor: Tensor, counts: SparseValues
    ) -> tuple[Tensor, Tensor]:
        topics = log_topics.exp()
        ctx.counts = counts
        ctx.save_for_backward(mixture, topics, factor)
        n = max(1, block_entries(mixture.device) // mixture.shape[1])
        at_counts = [
            torch.linalg.vecdot(mixture.index_select(0, row), topics.index_select(0, column))
            for row, column in zip(counts.row.split(n), counts.column.split(n), strict=True)
        ]
        return torch.cat(at_counts), factor @ topics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight, of_sums), (mixture, topics, factor) = gradients, ctx.saved_tensors
        row, column, _, (n, p) = ctx.counts
        of_mixture = of_topics = of_factor = None
        if ctx.needs_input_grad[0]:
            by_row = torch.argsort(row, stable=True)
            of_mixture = _sums(topics, column[by_row], row[by_row], n, weight[by_row])
        if ctx.needs_input_grad[1]:
            of_topics = _sums(mixture, row, column, p, weight)
            of_topics.addmm_(factor.T, of_sums).mul_(topics)
        if ctx.needs_input_grad[2]:
            of_factor = of_sums @ topics.T
        return of_mixture, of_topics, of_factor, None


def _sums(table: Tensor, place: Tensor, of: Tensor, n: int, weight: Tensor) -> Tensor:
    """(n, k) weighted sums of the rows of a table at each `place`, by the ascending `of`."""
    counts = torch.bincount(of, minlength=n)
    return functional.embedding_bag(
        place, table, counts.cumsum(0) - counts, mode="sum", per_sample_weights=weight
    )


def topic_log_prob(
    mixture: Tensor,
    log_topics: Tensor,
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
    log_topics
        (p, k) logs of the weights of features.
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
    >>> mixture, topics, factor = torch.ones(1, 3), torch.zeros(2, 3), torch.zeros(1, 2)
    >>> topic_log_prob(mixture, topics, factor, torch.tensor([0]), torch.ones(1), counts)
    tensor([-1.6931])
    """
    with torch.autocast(mixture.device.type, enabled=False):
        # 1. means before they are scaled to the library size: at counts, and their sums
        factor = log_factor.exp()
        factors = factor if counted is None else torch.cat([factor, factor * counted])
        proportion, sums = _Mixed.apply(mixture, log_topics, factors, counts)
        total, *of_few = (torch.linalg.vecdot(mixture, x[batch]) for x in sums.split(len(factor)))
        of_counted = torch.maximum(of_few[0], total * MIN_SHARE) if of_few else total
        scale = library / of_counted
        # 2. means where there are counts
        proportion = proportion.clamp(min=MIN_PROPORTION)
        place = batch.index_select(0, counts.row) * log_factor.shape[1] + counts.column
        log_mean = proportion.log() + log_factor.flatten().index_select(0, place)
        log_mean = log_mean + scale.log().index_select(0, counts.row)
        # 3. x log mu at counts, less the sum of all means
        return counts.sum_rows(counts.value * log_mean) - scale * total
