"""Encoders: from one modality to the subspaces of all, or to a shared and a specific part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from cantata.nn._mlp import BatchNorm1d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cantata.nn._covariates import Covariates

MIN_SCALE = 1e-7
LINEAR_SCALE = 0.1
"""Posterior standard deviation that an encoder with a linear map starts from."""


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


class CrossEncoder(nn.Module):
    """The K encoders of one source modality, evaluated as one grouped perceptron.

    Encoder j maps the source to the Gaussian posterior of subspace j. The encoders share no
    parameter unless `shared_first_layer` is set. Each layer is Linear, LeakyReLU(0.2), batch
    normalisation, dropout.

    Source: Tu et al. 2022, section 4.3; the shared first layer is their remedy for many modalities
    (section 6).

    Parameters
    ----------
    n_in
        Width of the source's input.
    n_groups
        Number K of subspaces.
    n_latent
        Width of each subspace.
    n_hidden, n_layers
        Width and number of hidden layers of each encoder.
    dropout_rate
        Dropout rate.
    shared_first_layer
        Let the encoders share their first layer.
    linear
        Have a linear map beside the network, which is 0 until it is set, and not trained; not in
        the paper.

    Examples
    --------
    >>> import torch
    >>> loc, scale = CrossEncoder(10, n_groups=2, n_latent=3)(torch.zeros(5, 10))
    >>> loc.shape
    torch.Size([5, 6])
    """

    slope: Tensor
    offset: Tensor

    def __init__(
        self,
        n_in: int,
        n_groups: int,
        n_latent: int,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.2,
        shared_first_layer: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.n_groups, self.n_latent, self.n_hidden = n_groups, n_latent, n_hidden
        self.shared_first_layer = shared_first_layer
        first_width = n_hidden if shared_first_layer else n_groups * n_hidden
        self.first = nn.Linear(n_in, first_width)
        self.first_norm = BatchNorm1d(first_width)
        self.hidden = nn.ModuleList(
            GroupedLinear(n_groups, n_hidden, n_hidden) for _ in range(n_layers - 1)
        )
        self.norms = nn.ModuleList(BatchNorm1d(n_groups * n_hidden) for _ in range(n_layers - 1))
        self.head = GroupedLinear(n_groups, n_hidden, 2 * n_latent)
        self.dropout_rate = dropout_rate
        self.has_linear = linear
        if linear:
            self.register_buffer("slope", torch.zeros(n_in, n_groups * n_latent))
            self.register_buffer("offset", torch.zeros(n_groups * n_latent))

    def set_linear(self, slope: Tensor, offset: Tensor) -> None:
        """Set the linear map; the network then starts at means of 0 beside it."""
        self.slope.copy_(slope)
        self.offset.copy_(offset)
        with torch.no_grad():
            for parameter in (self.head.weight, self.head.bias):
                parameter[..., : self.n_latent] = 0
            self.head.bias[..., self.n_latent :] = math.log(math.expm1(LINEAR_SCALE))

    def _activate(self, x: Tensor, norm: nn.Module) -> Tensor:
        x = norm(functional.leaky_relu(x, 0.2))
        return functional.dropout(x, self.dropout_rate, self.training)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation, (n, K * n_latent) each, subspaces in order."""
        straight, added, scale = self.parts(x)
        return straight + added, scale

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the linear map and the network say of the mean, and the standard deviation."""
        n = len(x)
        hidden = self._activate(self.first(x), self.first_norm)
        if self.shared_first_layer:
            hidden = hidden.unsqueeze(1).expand(n, self.n_groups, self.n_hidden)
        else:
            hidden = hidden.view(n, self.n_groups, self.n_hidden)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            flat = layer(hidden).reshape(n, self.n_groups * self.n_hidden)
            hidden = self._activate(flat, norm).view(n, self.n_groups, self.n_hidden)
        loc, raw = self.head(hidden).float().split(self.n_latent, dim=2)
        scale = functional.softplus(raw) + MIN_SCALE
        width = self.n_groups * self.n_latent
        loc, scale = loc.reshape(n, width), scale.reshape(n, width)
        straight = x.float() @ self.slope + self.offset if self.has_linear else loc.new_zeros(())
        return straight, loc, scale


class SplitEncoder(nn.Module):
    """A network with two heads, and a linear map beside it.

    The linear map is set, not trained: it holds the least-squares solution, and the network, whose
    heads start at 0, adds what is not linear and what covariates change. Without it the map stays
    0.

    Parameters
    ----------
    trunk
        Network from (n, ...) inputs and covariates to (n, ``n_out``) features, such as
        :class:`MLP`, or to a list of such, one for each head, as :class:`ConvEncoder`.
    n_linear
        Width of what the linear map reads.
    n_shared, n_specific
        Widths of the two parts; the specific part may be 0.
    hidden_heads
        Give each head a hidden layer as wide as its output.

    Examples
    --------
    >>> import torch
    >>> from cantata.nn import MLP
    >>> shared, specific = SplitEncoder(MLP(6, 8, 2), 6, 3, 2)(torch.zeros(4, 6))
    >>> shared.shape, specific.shape
    (torch.Size([4, 3]), torch.Size([4, 2]))
    """

    slope: Tensor
    offset: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        n_linear: int,
        n_shared: int,
        n_specific: int,
        *,
        hidden_heads: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = [n_shared, n_specific]
        self.trunk = trunk
        n_features: int = trunk.n_out  # type: ignore[assignment]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(n_features, size), nn.LeakyReLU(0.2), nn.Linear(size, size))
            if hidden_heads
            else nn.Linear(n_features, size)
            for size in self.sizes
            if size
        )
        self.register_buffer("slope", torch.zeros(n_linear, n_shared + n_specific))
        self.register_buffer("offset", torch.zeros(n_shared + n_specific))

    def set_linear(self, weights: Tensor, offset: Tensor) -> None:
        """Set the linear map, and let the heads start at 0."""
        self.slope.copy_(weights)
        self.offset.copy_(offset)
        with torch.no_grad():
            for head in self.heads:
                last = head[-1] if isinstance(head, nn.Sequential) else head
                for parameter in last.parameters():
                    parameter.zero_()

    def clear_linear(self) -> None:
        """Take out the linear map; the heads start at 0."""
        self.set_linear(torch.zeros_like(self.slope), torch.zeros_like(self.offset))

    def forward(
        self, x: Tensor, covariates: Covariates | None = None, linear: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(n, n_shared) and (n, n_specific) from the network's input.

        The linear map reads (n, n_linear) `linear`, by default `x` itself.
        """
        hidden = self.trunk(x, covariates)
        if isinstance(hidden, Tensor):
            hidden = [hidden] * len(self.heads)
        parts = [head(features) for head, features in zip(self.heads, hidden, strict=True)]
        out = torch.cat(parts, dim=1)
        straight = (x if linear is None else linear) @ self.slope + self.offset
        shared, specific = (out + straight).split(self.sizes, dim=1)
        return shared, specific


class Featurizer(nn.Module):
    """A user's own network as the trunk of an encoder; it need not know covariates.

    Parameters
    ----------
    network
        From (n, ...) inputs to (n, features), or to feature maps, which are averaged over places.
        What of it requires no gradient stays as it is.
    shape
        Shape of one input, with which the number of features is found.

    Examples
    --------
    >>> Featurizer(nn.Conv2d(1, 7, 3), (1, 16, 16)).n_out
    7
    """

    def __init__(self, network: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        mode = network.training
        with torch.no_grad():
            features = network.eval()(torch.zeros(2, *shape))
        network.train(mode)
        if not isinstance(features, Tensor) or features.dim() not in (2, 4):
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features)
            raise ValueError(
                f"{type(network).__name__} makes {found} of inputs {(2, *shape)}; an encoder's "
                "network returns a tensor (cells, features)."
            )
        self.n_out = features.shape[1]

    def train(self, mode: bool = True) -> Featurizer:
        """A network without anything to train stays in evaluation mode."""
        is_frozen = not any(p.requires_grad for p in self.network.parameters())
        super().train(mode and not is_frozen)
        return self

    def forward(self, x: Tensor, covariates: Covariates | None = None) -> Tensor:
        """(n, n_out) features."""
        features = self.network(x)
        return features.mean(dim=(2, 3)) if features.dim() == 4 else features
