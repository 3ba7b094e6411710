"""What compares or shapes distributions: discriminators, divergences, kernels of minibatches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy, softplus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KERNEL_THRESHOLD = 0.975
"""Similarity of kernel rows above which nothing more is gained; k_th of Wang et al. 2025."""

EPS = 1e-8
"""Keeps kernels of latents that are all equal finite."""

KERNEL_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Squared kernel widths, in units of the mean squared distance between all cells."""

# Posteriors and latents -------------------------------------------------------------------------


def kl_to_standard_normal(loc: Tensor, scale: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a diagonal Gaussian from N(0, 1), summed over dimensions.

    Source: Tu et al. 2022, eq. 3.

    Parameters
    ----------
    loc, scale
        (n, d) means and standard deviations.

    Returns
    -------
    (n,) divergences in nats.

    Examples
    --------
    >>> import torch
    >>> kl_to_standard_normal(torch.ones(1, 2), torch.ones(1, 2))
    tensor([1.])
    """
    return 0.5 * (loc.pow(2) + scale.pow(2) - 1 - 2 * scale.log()).sum(dim=1)


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
    # The length of a vector of zeros has no derivative.
    return (z.square().sum(dim=1) + 1e-12).sqrt().mean() / z.shape[1]


# Discriminators -------------------------------------------------------------------------------


def modality_cross_entropy(logits: Mapping[str, Tensor]) -> Tensor:
    """Mean over modalities of the mean cross-entropy of telling where an embedding came from.

    Source: Tu et al. 2022, eq. 12, with its sign reversed. Every modality weighs the same, however
    many cells it has.

    Parameters
    ----------
    logits
        For each modality, in the order of the discriminator's outputs, (n_m, K) logits.

    Returns
    -------
    Scalar; a modality without rows adds nothing.

    Examples
    --------
    >>> import torch
    >>> modality_cross_entropy({"rna": torch.zeros(3, 2), "adt": torch.zeros(0, 2)})
    tensor(0.6931)
    """
    terms = [
        cross_entropy(value, value.new_full((len(value),), k, dtype=torch.long))
        for k, value in enumerate(logits.values())
        if len(value)
    ]
    return torch.stack(terms).mean()


def pair_discriminator_loss(logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """Cross-entropy of telling the cells of modality a from those of b.

    ``mean softplus(-D(z_a)) + mean softplus(D(z_b))``, Wang et al. 2025, eq. 1. The
    discriminator minimises it, the encoders maximise it.

    Parameters
    ----------
    logits_a, logits_b
        (n,) and (m,) logits that a cell is of modality a.

    Returns
    -------
    Scalar; ``2 log 2`` where the discriminator cannot tell.

    Examples
    --------
    >>> import torch
    >>> pair_discriminator_loss(torch.zeros(3), torch.zeros(2))
    tensor(1.3863)
    """
    return softplus(-logits_a).mean() + softplus(logits_b).mean()


# Kernels of a minibatch -----------------------------------------------------------------------


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
    # Rounding leaves the distance of a row to itself above zero.
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
    similarity = torch.cosine_similarity(kernel, latent_kernel, dim=1, eps=1e-6)
    return -similarity.clamp(max=threshold).mean()


def dependence(a: Tensor, b: Tensor) -> Tensor:
    r"""Normalised Hilbert-Schmidt independence criterion of two latents.

    :math:`\mathrm{tr}(KHLH) / \sqrt{\mathrm{tr}(KHKH)\,\mathrm{tr}(LHLH)}` with Gaussian kernels
    K and L whose squared width is half the mean squared distance between cells, and the centring
    matrix H (Gretton et al. 2005; normalised as by Cortes et al. 2012). The scale of the latents
    does not matter, so that nothing is gained by shrinking them.

    Parameters
    ----------
    a, b
        (n, d) and (n, e) latents of the same cells, n of at least 2.

    Returns
    -------
    Scalar in [0, 1]; 0 where one latent tells nothing of the other (and n is large).

    Examples
    --------
    >>> import torch
    >>> z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    >>> round(float(dependence(z, 2 * z)), 4)
    1.0
    """
    # 1. tr(KHLH) is the inner product of HKH and HLH, since H is its own square.
    first, second = _centred_kernel(a), _centred_kernel(b)
    # 2. Divided by their lengths it is a cosine. Latents that are all equal have kernels of 0.
    size = (first.square().sum() * second.square().sum() + EPS**2).sqrt()
    return (first * second).sum() / size


def _centred_kernel(x: Tensor) -> Tensor:
    """HKH of the Gaussian kernel K whose squared width is half the mean squared distance."""
    distances = squared_distances(x, x)
    kernel = torch.exp(-distances / (distances.mean() + EPS))
    return (
        kernel
        - kernel.mean(dim=0, keepdim=True)
        - kernel.mean(dim=1, keepdim=True)
        + kernel.mean()
    )


def maximum_mean_discrepancy(a: Tensor, b: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy of two samples, with a mixture of Gaussian kernels.

    :math:`\overline{k(a, a')} + \overline{k(b, b')} - 2\,\overline{k(a, b)}`, means over pairs of
    different cells (Gretton et al. 2012, the unbiased estimate), over five widths. Named by the
    APOLLO paper as the way to take in cells that are not paired.

    Parameters
    ----------
    a, b
        (n, d) and (m, d) latents of different cells, n and m of at least 2.

    Returns
    -------
    Scalar, around 0 where the distributions are equal.

    Examples
    --------
    >>> import torch
    >>> z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> bool(maximum_mean_discrepancy(z[:100], z[100:]) < 0.02)
    True
    >>> bool(maximum_mean_discrepancy(z[:100], z[100:] + 3) > 0.5)
    True
    """
    # 1. The unit of the widths is no reason to move latents, hence detached.
    within_a, within_b = squared_distances(a, a), squared_distances(b, b)
    between = squared_distances(a, b)
    scale = torch.cat([within_a.flatten(), within_b.flatten(), between.flatten()]).mean().detach()
    # 2. Several widths, since the scale on which two samples differ is unknown.
    total = between.new_zeros(())
    for width in KERNEL_WIDTHS:
        kernels = [
            torch.exp(-x / (2 * width * scale + 1e-8)) for x in (within_a, within_b, between)
        ]
        # 3. A cell with itself has similarity 1, which would make the estimate biased.
        total = total + _off_diagonal_mean(kernels[0]) + _off_diagonal_mean(kernels[1])
        total = total - 2 * kernels[2].mean()
    return total / len(KERNEL_WIDTHS)


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    """Mean over pairs of different cells."""
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))
