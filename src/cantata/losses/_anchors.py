"""Anchors between two minibatches: cells that are mutual nearest neighbours in linked features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cantata.losses._geometry import squared_distances


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
    similarity = normalize(a, dim=1) @ normalize(b, dim=1).T
    mutual = _nearest(similarity, k) & _nearest(similarity.T, k).T
    return mutual & a.any(dim=1)[:, None] & b.any(dim=1)


def _nearest(similarity: Tensor, k: int) -> Tensor:
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


def paired_loss(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Mean squared difference between the two embeddings of cells measured in both modalities.

    Parameters
    ----------
    z_a, z_b
        (n, q) embeddings of the same cells.

    Returns
    -------
    Scalar; 0 where there is no cell.

    Examples
    --------
    >>> import torch
    >>> paired_loss(torch.zeros(1, 2), torch.ones(1, 2))
    tensor(1.)
    """
    if len(z_a) == 0:
        return z_a.new_zeros(())
    return (z_a - z_b).square().mean()
