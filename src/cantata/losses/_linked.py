"""Linked features read off the embeddings of two modalities by one map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

RIDGE = 0.1
"""Penalty of the map, as a variance: embeddings that spread less than this cannot carry it."""


def linked_loss(z_a: Tensor, z_b: Tensor, a: Tensor, b: Tensor, ridge: float = RIDGE) -> Tensor:
    r"""What a linear map common to two modalities leaves of the direction of linked features.

    With rows :math:`\mathbf{u}` of `a` and `b` scaled to length :math:`\sqrt{s}`,

    .. math:: \operatorname{mean} \lVert \mathbf{u} - \mathbf{W} [\mathbf{z}; 1] \rVert^2 / s

    over the rows of both, where :math:`\mathbf{W}` is their ridge regression. It is solved anew
    for every minibatch and needs no parameters; no gradient flows through it, nor has it to:
    the solution is a minimum. Beyond the paper. Since one map serves both modalities, cells with
    the same linked features are led to the same place.

    Parameters
    ----------
    z_a, z_b
        (n, q) and (m, q) embeddings.
    a, b
        (n, s) and (m, s) linked features; column j of both is link j.
    ridge
        Penalty of the map for each row.

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
    z = torch.cat([z_a, z_b])
    design = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
    target = normalize(torch.cat([a, b]), dim=1) * a.shape[1] ** 0.5
    with torch.no_grad():
        penalty = ridge * len(z) * torch.eye(design.shape[1], dtype=z.dtype, device=z.device)
        weights = torch.linalg.solve(design.T @ design + penalty, design.T @ target)
    return (design @ weights - target).square().mean()
