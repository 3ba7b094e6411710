"""The geometry of a minibatch: similarities between its cells, before and after encoding."""

from __future__ import annotations

import torch
from torch import Tensor

KERNEL_THRESHOLD = 0.975
"""Similarity of kernel rows above which nothing more is gained; k_th of Wang et al. 2025."""

_EPS = 1e-6


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) squared Euclidean distances from one matrix product; no n x m x d tensor exists.

    Examples
    --------
    >>> import torch
    >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]])
    """
    squares = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp(min=0)


def gaussian_kernel(x: Tensor, n_features: Tensor | float) -> Tensor:
    """(n, n) Gaussian kernel between the rows of (n, d) values.

    ``exp(-|x_i - x_j|^2 / (2 p))``, Wang et al. 2025, eq. 4 and 5.

    Parameters
    ----------
    x
        (n, d) values; d may be smaller than `n_features` where features were rotated to their
        leading principal components.
    n_features
        Number p that squared distances are divided by.

    Examples
    --------
    >>> import torch
    >>> gaussian_kernel(torch.tensor([[0.0], [0.0]]), 1)
    tensor([[1., 1.],
            [1., 1.]])
    """
    kernel = torch.exp(squared_distances(x, x) * (-0.5 / n_features))
    # rounding leaves the distance of a row to itself above zero
    diagonal = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return kernel.masked_fill(diagonal, 1.0)


def geometry_loss(
    kernel: Tensor, latent_kernel: Tensor, threshold: float = KERNEL_THRESHOLD
) -> Tensor:
    """Minus the mean similarity of the kernel rows of cells before and after encoding.

    ``-mean_b min(cos(k_b, k^_b), threshold)``, one modality's share of Wang et al. 2025, eq. 6.

    Parameters
    ----------
    kernel
        (n, n) kernel between the input profiles of a minibatch.
    latent_kernel
        (n, n) kernel between their embeddings.
    threshold
        Similarities above it count as `threshold`.

    Returns
    -------
    Scalar between ``-threshold`` and 0.

    Examples
    --------
    >>> import torch
    >>> kernel = gaussian_kernel(torch.randn(5, 3), 3)
    >>> geometry_loss(kernel, kernel)
    tensor(-0.9750)
    """
    similarity = torch.cosine_similarity(kernel, latent_kernel, dim=1, eps=_EPS)
    return -similarity.clamp(max=threshold).mean()
