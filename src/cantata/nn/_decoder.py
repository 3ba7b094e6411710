"""Decoders: from one subspace and the covariates to the hidden layer of a likelihood head."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional

from cantata.nn._blocks import BatchNorm1d, Covariates


class Decoder(nn.Module):
    """Perceptron that is told the covariates at every layer.

    Each layer is Linear, LeakyReLU(0.2), batch normalisation, dropout. The output layer belongs to
    the likelihood head, which holds a bias per batch and feature.

    Parameters
    ----------
    n_latent
        Width of the subspace.
    n_categories, n_continuous
        Covariates, see :class:`Covariates`.
    n_hidden, n_layers
        Width and number of hidden layers.
    dropout
        Dropout rate.

    Examples
    --------
    >>> import torch
    >>> decoder = Decoder(4, n_categories=[2], n_continuous=0, n_hidden=16)
    >>> decoder(torch.zeros(3, 4), torch.zeros(3, 1, dtype=torch.long), None).shape
    torch.Size([3, 16])
    """

    def __init__(
        self,
        n_latent: int,
        n_categories: list[int],
        n_continuous: int,
        n_hidden: int = 128,
        n_layers: int = 1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        widths = [n_latent] + [n_hidden] * n_layers
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.covariates = nn.ModuleList(
            Covariates(n_categories, n_continuous, b, fan_in=a)
            for a, b in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(BatchNorm1d(b) for b in widths[1:])
        self.dropout = dropout
        self.n_out = widths[-1]

    def forward(self, z: Tensor, codes: Tensor, values: Tensor | None) -> Tensor:
        """(n, n_hidden) hidden layer of cells with latent `z`, covariate `codes` and `values`."""
        for linear, covariates, norm in zip(
            self.linears, self.covariates, self.norms, strict=True
        ):
            z = functional.leaky_relu(linear(z) + covariates(codes, values), 0.2)
            z = functional.dropout(norm(z), self.dropout, self.training)
        return z
