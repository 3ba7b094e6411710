"""Layers shared by the networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class BatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation that also takes a minibatch of one row, or of none.

    A single row has no variance, so it is normalised with the running statistics and leaves them
    as they are.

    Examples
    --------
    >>> import torch
    >>> BatchNorm1d(3)(torch.ones(1, 3)).shape
    torch.Size([1, 3])
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            return functional.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                False,
                0.0,
                self.eps,
            )
        return super().forward(x)


class GroupedLinear(nn.Module):
    """Independent linear layers, one per group, as one batched product.

    Parameters
    ----------
    n_groups
        Number of layers.
    n_in, n_out
        Width of the input and the output of each.

    Examples
    --------
    >>> import torch
    >>> GroupedLinear(2, 3, 4)(torch.zeros(5, 2, 3)).shape
    torch.Size([5, 2, 4])
    """

    def __init__(self, n_groups: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n_groups, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_groups, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


def mlp(n_in: int, n_hidden: int, n_layers: int, n_out: int, dropout: float) -> nn.Sequential:
    """Perceptron without batch normalisation: Linear, LeakyReLU(0.2), dropout; then Linear.

    Examples
    --------
    >>> len(mlp(4, 8, 2, 3, 0.1))
    7
    """
    layers: list[nn.Module] = []
    width = n_in
    for _ in range(n_layers):
        layers += [nn.Linear(width, n_hidden), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
        width = n_hidden
    return nn.Sequential(*layers, nn.Linear(width, n_out))


class Covariates(nn.Module):
    """What cell covariates add to a layer: the product of their one-hot codes with a weight.

    Concatenating one-hot codes to the input of a linear layer is the same as adding one learned
    vector per category to its output, which is how it is computed.

    Parameters
    ----------
    n_categories
        Number of categories of each categorical covariate.
    n_continuous
        Number of continuous covariates.
    n_out
        Width of the layer.
    fan_in
        Number of inputs of the layer, which sets the scale of the start.

    Examples
    --------
    >>> import torch
    >>> layer = Covariates([3], 0, 8, fan_in=4)
    >>> layer(torch.tensor([[0], [2]]), None).shape
    torch.Size([2, 8])
    """

    def __init__(
        self, n_categories: list[int], n_continuous: int, n_out: int, fan_in: int
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in + sum(n_categories) + n_continuous)
        self.categorical = nn.ParameterList(
            nn.Parameter(torch.empty(n, n_out).uniform_(-bound, bound)) for n in n_categories
        )
        self.continuous = (
            nn.Parameter(torch.empty(n_continuous, n_out).uniform_(-bound, bound))
            if n_continuous
            else None
        )

    def forward(self, codes: Tensor, values: Tensor | None) -> Tensor | float:
        total: Tensor | float = 0.0
        for column, table in enumerate(self.categorical):
            total = total + functional.embedding(codes[:, column], table)
        if self.continuous is not None and values is not None:
            total = total + values @ self.continuous
        return total


class OpenCovariates(Covariates):
    """:class:`Covariates` that take categories which they do not know.

    A code of -1, or beyond the known categories, counts as the mean of the known ones.

    Examples
    --------
    >>> import torch
    >>> layer = OpenCovariates([2], 0, 4, fan_in=3)
    >>> known = layer(torch.tensor([[0], [1]]), None)
    >>> torch.allclose(layer(torch.tensor([[-1]]), None), known.mean(dim=0))
    True
    """

    def forward(self, codes: Tensor, values: Tensor | None) -> Tensor | float:
        total: Tensor | float = 0.0
        for column, table in enumerate(self.categorical):
            own = codes[:, column]
            known = (own >= 0) & (own < len(table))
            found = functional.embedding(torch.where(known, own, 0), table)
            total = total + torch.where(known.unsqueeze(1), found, table.mean(dim=0))
        if self.continuous is not None and values is not None:
            total = total + values @ self.continuous
        return total
