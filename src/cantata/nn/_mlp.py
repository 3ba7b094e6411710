"""Multilayer perceptron, its batch normalisation, and its initial weights."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn
from torch.nn import functional

from cantata.nn._covariates import CovariateEffects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cantata.nn._covariates import Covariates

WeightInit = Literal["torch", "normal"]


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    full_batch: int
    """Rows from which on a minibatch moves running statistics as much as torch would."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.momentum is not None
        return functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training and len(x) > 1,
            self.momentum * min(1.0, len(x) / self.full_batch),
            self.eps,
        )


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Batch normalisation that also takes a minibatch of few rows, of one, or of none.

    Fewer than 128 rows move the running statistics less, in proportion: the last minibatch of an
    epoch, and the rows that have a modality, may be a handful, and evaluation would rest on them.
    A single row has no variance, so it is normalised with the running statistics and leaves them
    as they are.

    Examples
    --------
    >>> import torch
    >>> BatchNorm1d(3)(torch.ones(1, 3)).shape
    torch.Size([1, 3])
    """

    full_batch = 128


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """The same for images (n, channels, height, width), of which 64 count as many.

    Examples
    --------
    >>> import torch
    >>> BatchNorm2d(3)(torch.ones(1, 3, 4, 4)).shape
    torch.Size([1, 3, 4, 4])
    """

    full_batch = 64


class MLP(nn.Module):
    """Multilayer perceptron, to whose hidden layers covariates may be added.

    Each hidden layer is linear, with the effects of covariates added, then activation, batch
    normalisation and dropout; the output layer is linear.

    Parameters
    ----------
    n_in
        Width of the input.
    n_hidden, n_layers
        Width and number of hidden layers.
    n_out
        Width of the output; None: no output layer.
    n_categories, n_continuous
        Covariates, see :class:`CovariateEffects`.
    inject_covariates
        Add them to every hidden layer; otherwise to the first one.
    activation
        Nonlinearity; None: LeakyReLU with a slope of 0.2.
    use_batch_norm
        Normalise hidden layers by minibatch.
    dropout_rate
        Dropout rate of hidden layers.

    Examples
    --------
    >>> import torch
    >>> MLP(4, 16, 2, 3, dropout_rate=0.1)(torch.ones(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        n_layers: int,
        n_out: int | None = None,
        *,
        n_categories: Sequence[int] = (),
        n_continuous: int = 0,
        inject_covariates: bool = True,
        activation: nn.Module | None = None,
        use_batch_norm: bool = False,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [n_in] + [n_hidden] * n_layers
        layers = list(pairwise(widths))
        self.n_out = widths[-1] if n_out is None else n_out
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in layers)
        self.output = None if n_out is None else nn.Linear(widths[-1], n_out)
        with_covariates = layers if inject_covariates else layers[:1]
        self.covariates = nn.ModuleList(
            CovariateEffects(n_categories, n_continuous, b, fan_in=a)
            for a, b in with_covariates
            if n_categories or n_continuous
        )
        self.norms = nn.ModuleList(BatchNorm1d(b) for _, b in layers if use_batch_norm)
        self.activation = nn.LeakyReLU(0.2) if activation is None else activation
        self.dropout_rate = dropout_rate

    def forward(self, x: Tensor, covariates: Covariates | None = None) -> Tensor:
        """(n, n_out) from (n, n_in) and, where the network has them, covariates."""
        for number, linear in enumerate(self.hidden):
            x = linear(x)
            if number < len(self.covariates):
                x = x + self.covariates[number](covariates)
            x = self.activation(x)
            if len(self.norms):
                x = self.norms[number](x)
            x = functional.dropout(x, self.dropout_rate, self.training)
        return x if self.output is None else self.output(x)


def initialize_weights(module: nn.Module, weight_init: WeightInit) -> None:
    """Draw all weights and biases from N(0, 0.1), or leave them as torch made them.

    The first is how the scMODAL reference starts.
    """
    if weight_init == "normal":
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
