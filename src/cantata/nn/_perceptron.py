"""Perceptrons with one nonlinearity and nothing else, as scMODAL has them."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import relu

from cantata.nn._blocks import OpenCovariates

Start = Literal["torch", "normal"]


class Perceptron(nn.Module):
    """Linear layers with ReLU between them; covariates enter the first.

    No normalisation, no dropout (Wang et al. 2025).

    Parameters
    ----------
    n_in
        Width of the input.
    n_hidden
        Width of the hidden layers.
    n_layers
        Number of hidden layers.
    n_out
        Width of the output.
    n_categories
        Number of categories of each categorical covariate.
    n_continuous
        Number of continuous covariates.

    Examples
    --------
    >>> import torch
    >>> Perceptron(4, 8, 1, 2)(torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        n_layers: int,
        n_out: int,
        n_categories: list[int] | None = None,
        n_continuous: int = 0,
    ) -> None:
        super().__init__()
        widths = [n_in] + [n_hidden] * n_layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1], n_out)
        self.covariates = (
            OpenCovariates(n_categories or [], n_continuous, n_hidden, fan_in=n_in)
            if n_categories or n_continuous
            else None
        )

    def forward(
        self, x: Tensor, codes: Tensor | None = None, values: Tensor | None = None
    ) -> Tensor:
        """(n, n_out) from (n, n_in) and, where registered, covariates of the rows."""
        for number, layer in enumerate(self.hidden):
            x = layer(x)
            if number == 0 and self.covariates is not None and codes is not None:
                x = x + self.covariates(codes, values)
            x = relu(x)
        return self.out(x)


def initialise(module: nn.Module, start: Start) -> None:
    """Draw all weights and biases from N(0, 0.1), or leave them as torch made them.

    The first is how the scMODAL reference starts.
    """
    if start == "normal":
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
