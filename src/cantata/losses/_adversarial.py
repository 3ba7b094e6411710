"""A discriminator between two modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import softplus

if TYPE_CHECKING:
    from torch import Tensor


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
