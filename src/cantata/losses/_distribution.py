"""Difference between the distributions of two sets of latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cantata.losses._geometry import squared_distances

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Squared kernel widths, in units of the mean squared distance between all cells."""


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
    within_a, within_b = squared_distances(a, a), squared_distances(b, b)
    between = squared_distances(a, b)
    scale = torch.cat([within_a.flatten(), within_b.flatten(), between.flatten()]).mean().detach()
    total = between.new_zeros(())
    for width in WIDTHS:
        kernels = [
            torch.exp(-x / (2 * width * scale + 1e-8)) for x in (within_a, within_b, between)
        ]
        total = total + _off_diagonal_mean(kernels[0]) + _off_diagonal_mean(kernels[1])
        total = total - 2 * kernels[2].mean()
    return total / len(WIDTHS)


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))
