"""What brings embeddings together: of one cell, of anchor pairs, of cells with the same links.

Mappings have one entry for each modality: (n_m, d) values, and (n_m,) rows, the cells of the
minibatch that these values are of.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from cantata.losses._distributions import squared_distances

if TYPE_CHECKING:
    from collections.abc import Mapping

RIDGE = 0.1
"""Penalty of the map in :func:`linked_loss`, as a variance of embeddings."""

# Fusion -----------------------------------------------------------------------------------------


def mean_over_modalities(
    values: Mapping[str, Tensor], rows: Mapping[str, Tensor], n: int
) -> Tensor:
    """Mean of each of `n` cells over the modalities that it has.

    Source: Tu et al. 2022, eq. 11.

    Returns
    -------
    (n, d) means; zeros for a cell without any modality.

    Examples
    --------
    >>> import torch
    >>> values = {"rna": torch.tensor([[1.0], [2.0]]), "adt": torch.tensor([[4.0]])}
    >>> rows = {"rna": torch.tensor([0, 1]), "adt": torch.tensor([1])}
    >>> mean_over_modalities(values, rows, 2)
    tensor([[1.],
            [3.]])
    """
    first = next(iter(values.values()))
    total = first.new_zeros(n, first.shape[1])
    for name, value in values.items():
        total = total.index_add(0, rows[name], value)
    return total / modality_count(rows, n).clamp(min=1).unsqueeze(1).to(total.dtype)


def modality_count(rows: Mapping[str, Tensor], n: int) -> Tensor:
    """(n,) number of modalities that each cell of the minibatch has."""
    first = next(iter(rows.values()))
    return torch.bincount(torch.cat(list(rows.values())), minlength=n) if n else first.new_zeros(0)


def fuse_mean(
    samples: Mapping[str, Tensor], rows: Mapping[str, Tensor], n: int, *, unit: bool
) -> Tensor:
    """Mean of each cell's samples, on the unit sphere where `unit` is set.

    Source: Tu et al. 2022, eq. 11; renormalised as in the runs behind the published scores.

    Examples
    --------
    >>> import torch
    >>> samples = {"rna": torch.tensor([[1.0, 0.0]]), "adt": torch.tensor([[0.0, 1.0]])}
    >>> rows = {"rna": torch.tensor([0]), "adt": torch.tensor([0])}
    >>> fuse_mean(samples, rows, 1, unit=True)
    tensor([[0.7071, 0.7071]])
    """
    mean = mean_over_modalities(samples, rows, n)
    return normalize(mean, dim=1) if unit else mean


def product_of_experts(
    loc: Mapping[str, Tensor], scale: Mapping[str, Tensor], rows: Mapping[str, Tensor], n: int
) -> tuple[Tensor, Tensor]:
    """Product of the Gaussian posteriors that the modalities of a cell give.

    Source: Tu et al. 2022, eq. 6.

    Parameters
    ----------
    loc, scale
        Means and standard deviations.
    rows
        The cells that these are of.
    n
        Number of cells; each must have a modality.

    Returns
    -------
    (n, d) means and standard deviations.

    Examples
    --------
    >>> import torch
    >>> loc = {"rna": torch.tensor([[0.0]]), "adt": torch.tensor([[2.0]])}
    >>> scale = {"rna": torch.ones(1, 1), "adt": torch.ones(1, 1)}
    >>> rows = {"rna": torch.tensor([0]), "adt": torch.tensor([0])}
    >>> product_of_experts(loc, scale, rows, 1)
    (tensor([[1.]]), tensor([[0.7071]]))
    """
    first = next(iter(loc.values()))
    precision = first.new_zeros(n, first.shape[1])
    weighted = torch.zeros_like(precision)
    # 1. Precisions of Gaussians add; a modality that a cell lacks adds nothing.
    for name in loc:
        of_modality = scale[name].pow(-2)
        precision = precision.index_add(0, rows[name], of_modality)
        weighted = weighted.index_add(0, rows[name], of_modality * loc[name])
    # 2. The mean is that of the experts, weighted by their precision.
    return weighted / precision, precision.rsqrt()


# Closeness of a cell's embeddings ---------------------------------------------------------------


def cosine_to_fused(
    samples: Mapping[str, Tensor], rows: Mapping[str, Tensor], fused: Tensor
) -> Tensor:
    """Sum over modalities of the mean of ``1 - cos(s_k, m)`` over the cells that have modality k.

    For unit vectors this is half the squared distance of Tu et al. 2022, eq. 9.

    Parameters
    ----------
    samples
        Posterior samples.
    rows
        The cells that these are of.
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

    Source: Tu et al. 2022, eq. 9. Arguments as of :func:`cosine_to_fused`.

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
        As in :func:`cosine_to_fused`; the rows are ascending.
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
    losses = []
    for first, second in combinations(samples, 2):
        a, b = paired_rows(rows[first], rows[second])
        if len(a) < 2:
            continue
        left = normalize(samples[first][a].float(), dim=1)
        right = normalize(samples[second][b].float(), dim=1)
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


def paired_loss(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Mean squared difference between the two (n, q) embeddings of cells with both modalities.

    0 where there is no cell. Beyond Wang et al. 2025.

    Examples
    --------
    >>> import torch
    >>> paired_loss(torch.zeros(1, 2), torch.ones(1, 2))
    tensor(1.)
    """
    return (z_a - z_b).square().mean() if len(z_a) else z_a.new_zeros(())


def cycle_loss(z: Tensor, cycled: Tensor) -> Tensor:
    """Mean squared difference between embeddings and their way through another modality.

    ``mean |z - E_t(G_t(z))|^2 / q``, second part of Wang et al. 2025, eq. 2.

    Parameters
    ----------
    z
        (n, q) embeddings.
    cycled
        (n, q) the same, decoded to another modality and encoded again.

    Examples
    --------
    >>> import torch
    >>> cycle_loss(torch.ones(2, 3), torch.zeros(2, 3))
    tensor(1.)
    """
    return (z - cycled).square().mean()


# Anchors and links ------------------------------------------------------------------------------


def mutual_neighbors(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Which cells of two minibatches are among each other's `k` nearest by angle.

    Parameters
    ----------
    a, b
        (n, s) and (m, s) linked features; column j of both is link j. A row of zeros has no
        direction and takes part in no pair.
    k
        Number of neighbours; all where a minibatch has fewer cells.

    Returns
    -------
    (n, m) booleans.

    Examples
    --------
    >>> import torch
    >>> mutual_neighbors(torch.eye(2), torch.tensor([[0.0, 2.0], [1.0, 0.1]]), k=1)
    tensor([[False,  True],
            [ True, False]])
    """
    # 1. Cosines of all pairs, from one product.
    similarity = normalize(a, dim=1) @ normalize(b, dim=1).T
    # 2. Neighbours in both directions: those of the columns are those of the transposed rows.
    mutual = _largest(similarity, k) & _largest(similarity.T, k).T
    # 3. A cosine with zeros is 0, which may be among the largest; it is no neighbour.
    return mutual & a.any(dim=1)[:, None] & b.any(dim=1)


def _largest(similarity: Tensor, k: int) -> Tensor:
    """(n, m) booleans: the `k` largest of every row."""
    top = similarity.topk(min(k, similarity.shape[1]), dim=1, sorted=False).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, top, True)


def anchor_loss(z_a: Tensor, z_b: Tensor, pairs: Tensor) -> Tensor:
    """Mean squared difference between the embeddings of anchor pairs.

    Wang et al. 2025, eq. 3, divided by the number of pairs, as in the reference implementation.

    Parameters
    ----------
    z_a, z_b
        (n, q) and (m, q) embeddings.
    pairs
        (n, m) weights of pairs, such as the result of :func:`mutual_neighbors`.

    Returns
    -------
    Scalar; 0 where there is no pair.

    Examples
    --------
    >>> import torch
    >>> anchor_loss(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[True]]))
    tensor(1.)
    >>> anchor_loss(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[False]]))
    tensor(0.)
    """
    weights = pairs.to(z_a.dtype)
    total = (weights * squared_distances(z_a, z_b)).sum()
    return total / (z_a.shape[1] * weights.sum().clamp(min=1))


def linked_loss(z_a: Tensor, z_b: Tensor, a: Tensor, b: Tensor, ridge: float = RIDGE) -> Tensor:
    r"""What a linear map common to two modalities leaves of the direction of linked features.

    With rows :math:`\mathbf{u}` of `a` and `b` scaled to length :math:`\sqrt{s}`,

    .. math:: \operatorname{mean} \lVert \mathbf{u} - \mathbf{W} [\mathbf{z}; 1] \rVert^2 / s

    over the rows of both, where :math:`\mathbf{W}` is their ridge regression, solved anew for
    every minibatch. Beyond the paper. Since one map serves both modalities, cells with the same
    linked features are led to the same place.

    Parameters
    ----------
    z_a, z_b
        (n, q) and (m, q) embeddings.
    a, b
        (n, s) and (m, s) linked features; column j of both is link j.
    ridge
        Penalty of the map for each row; embeddings that spread less cannot carry it.

    Returns
    -------
    Scalar.

    Examples
    --------
    >>> import torch
    >>> z, links = torch.randn(50, 3), torch.randn(50, 2)
    >>> bool(linked_loss(z, z, links, links) > 0.5)  # embeddings do not tell links
    True
    >>> bool(linked_loss(10 * links, 10 * links, links, links) < 0.5)
    True
    """
    # 1. The regression of directions on embeddings, over the cells of both modalities.
    z = torch.cat([z_a, z_b])
    design = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
    target = normalize(torch.cat([a, b]), dim=1) * a.shape[1] ** 0.5
    # 2. Its solution is a minimum, so that no gradient of the loss goes through it.
    with torch.no_grad():
        penalty = ridge * len(z) * torch.eye(design.shape[1], dtype=z.dtype, device=z.device)
        weights = torch.linalg.solve(design.T @ design + penalty, design.T @ target)
    # 3. What it leaves is what the embeddings are moved by.
    return (design @ weights - target).square().mean()
