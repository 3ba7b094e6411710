"""Terms on posteriors and on what a discriminator makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Mapping


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
