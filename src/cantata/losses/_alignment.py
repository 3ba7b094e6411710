"""Losses that bring the embeddings of one cell from its modalities together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

if TYPE_CHECKING:
    from collections.abc import Mapping


def cosine_to_fused(
    samples: Mapping[str, Tensor], rows: Mapping[str, Tensor], fused: Tensor
) -> Tensor:
    """Sum over modalities of the mean of ``1 - cos(s_k, m)`` over the cells that have modality k.

    For unit vectors this is half the squared distance of Tu et al. 2022, eq. 9.

    Parameters
    ----------
    samples
        For each modality (n_m, d) posterior samples.
    rows
        For each modality (n_m,) the cells of these rows.
    fused
        (n, d) fused samples of the cells.

    Returns
    -------
    Scalar; a modality without rows adds nothing.

    Examples
    --------
    >>> import torch
    >>> rows = {"rna": torch.tensor([0])}
    >>> cosine_to_fused({"rna": torch.tensor([[0.0, 1.0]])}, rows, torch.tensor([[1.0, 0.0]]))
    tensor(1.)
    """
    loss = fused.new_zeros(())
    for name, sample in samples.items():
        if len(sample):
            loss = loss + (1 - cosine_similarity(sample, fused[rows[name]], dim=1)).mean()
    return loss


def squared_to_fused(
    samples: Mapping[str, Tensor], rows: Mapping[str, Tensor], fused: Tensor
) -> Tensor:
    """Mean over cells of the mean over their modalities of the squared distance to the mean.

    Source: Tu et al. 2022, eq. 9.

    Parameters
    ----------
    samples, rows, fused
        As in :func:`cosine_to_fused`.

    Examples
    --------
    >>> import torch
    >>> rows = {"rna": torch.tensor([0])}
    >>> squared_to_fused({"rna": torch.tensor([[0.0, 1.0]])}, rows, torch.tensor([[1.0, 0.0]]))
    tensor(2.)
    """
    n = fused.shape[0]
    total, count = fused.new_zeros(n), fused.new_zeros(n)
    for name, sample in samples.items():
        distance = (sample - fused[rows[name]]).pow(2).sum(dim=1)
        total = total.index_add(0, rows[name], distance)
        count = count.index_add(0, rows[name], torch.ones_like(distance))
    measured = count > 0
    return (total / count.clamp(min=1)).sum() / measured.sum().clamp(min=1)


def contrastive(
    samples: Mapping[str, Tensor], rows: Mapping[str, Tensor], temperature: float
) -> Tensor:
    """Cross-entropy of finding a cell among the minibatch's cells from another modality.

    InfoNCE in both directions on the cells that have both modalities of a pair, averaged over
    pairs. Beyond Tu et al. 2022.

    Parameters
    ----------
    samples, rows
        As in :func:`cosine_to_fused`.
    temperature
        Divisor of the cosine similarities.

    Returns
    -------
    Scalar; 0 where no pair of modalities shares two cells.

    Examples
    --------
    >>> import torch
    >>> rows = {"rna": torch.tensor([0, 1]), "adt": torch.tensor([0, 1])}
    >>> contrastive({"rna": torch.eye(2), "adt": torch.eye(2)}, rows, 1.0)
    tensor(0.3133)
    """
    names = list(samples)
    losses = []
    for first in range(len(names)):
        for second in range(first + 1, len(names)):
            a, b = paired_rows(rows[names[first]], rows[names[second]])
            if len(a) < 2:
                continue
            left = normalize(samples[names[first]][a].float(), dim=1)
            right = normalize(samples[names[second]][b].float(), dim=1)
            similarity = left @ right.T / temperature
            target = torch.arange(len(a), device=similarity.device)
            both = cross_entropy(similarity, target) + cross_entropy(similarity.T, target)
            losses.append(both / 2)
    if not losses:
        return next(iter(samples.values())).new_zeros(())
    return torch.stack(losses).mean()


def paired_rows(rows_a: Tensor, rows_b: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in two ascending lists of cells of the cells that are in both.

    Examples
    --------
    >>> import torch
    >>> paired_rows(torch.tensor([0, 2, 5]), torch.tensor([2, 3, 5]))
    (tensor([1, 2]), tensor([0, 2]))
    """
    in_b = torch.isin(rows_a, rows_b)
    in_a = torch.isin(rows_b, rows_a)
    return in_b.nonzero().squeeze(1), in_a.nonzero().squeeze(1)
