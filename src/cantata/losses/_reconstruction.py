"""Squared errors of decoded values."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def reconstruction_loss(x: Tensor, decoded: Tensor, n_features: Tensor | float) -> Tensor:
    """Mean over cells of the squared reconstruction error per feature.

    ``mean |x - G(E(x))|^2 / p``, first part of Wang et al. 2025, eq. 2.

    Parameters
    ----------
    x, decoded
        (n, d) input of an encoder and output of the decoder.
    n_features
        Number p of features of the modality, larger than d where features were rotated to their
        leading principal components.

    Examples
    --------
    >>> import torch
    >>> reconstruction_loss(torch.ones(2, 3), torch.zeros(2, 3), 6)
    tensor(0.5000)
    """
    return (x - decoded).square().sum() / (len(x) * n_features)
