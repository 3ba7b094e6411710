"""Dependence between two sets of latents of the same cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cantata.losses._geometry import squared_distances

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-8


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
    first, second = _centred_kernel(a), _centred_kernel(b)
    size = (first.square().sum() * second.square().sum() + _EPS**2).sqrt()
    return (first * second).sum() / size


def _centred_kernel(x: Tensor) -> Tensor:
    distances = squared_distances(x, x)
    kernel = torch.exp(-distances / (distances.mean() + _EPS))
    return (
        kernel
        - kernel.mean(dim=0, keepdim=True)
        - kernel.mean(dim=1, keepdim=True)
        + kernel.mean()
    )
