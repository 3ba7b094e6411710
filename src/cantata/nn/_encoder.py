"""Cross-encoders: from one modality to the subspaces of all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cantata.nn._blocks import BatchNorm1d, GroupedLinear

MIN_SCALE = 1e-7


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
    dropout
        Dropout rate.
    shared_first_layer
        Let the encoders share their first layer.

    Examples
    --------
    >>> import torch
    >>> loc, scale = CrossEncoder(10, n_groups=2, n_latent=3)(torch.zeros(5, 10))
    >>> loc.shape
    torch.Size([5, 6])
    """

    def __init__(
        self,
        n_in: int,
        n_groups: int,
        n_latent: int,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout: float = 0.2,
        shared_first_layer: bool = False,
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
        self.dropout = dropout

    def _activate(self, x: Tensor, norm: nn.Module) -> Tensor:
        x = norm(functional.leaky_relu(x, 0.2))
        return functional.dropout(x, self.dropout, self.training)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation, (n, K * n_latent) each, subspaces in order."""
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
        return loc.reshape(n, width), scale.reshape(n, width)


def normalised_log_counts(counts: Tensor, target_sum: float = 1e4) -> Tensor:
    """``log(1 + x * target_sum / sum(x))`` per row; a row of zeros stays zero.

    Examples
    --------
    >>> import torch
    >>> normalised_log_counts(torch.tensor([[1.0, 0.0]]), 1.0)
    tensor([[0.6931, 0.0000]])
    """
    total = counts.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return torch.log1p(counts * (target_sum / total))
