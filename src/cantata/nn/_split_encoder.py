"""Encoder of a modality into a shared and a specific part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cantata.nn._decoder import Decoder


class SplitEncoder(nn.Module):
    """A trunk with two heads, and a linear map beside them.

    The linear map is set, not trained: it holds the least-squares solution, and the trunk, whose
    heads start at 0, adds what is not linear. Without it the map stays 0.

    Parameters
    ----------
    n_in
        Width of the input.
    n_shared, n_specific
        Widths of the two parts; the specific part may be 0.
    n_hidden, n_layers, dropout
        Of the trunk.

    Examples
    --------
    >>> import torch
    >>> shared, specific = SplitEncoder(6, 3, 2, n_hidden=8)(torch.zeros(4, 6))
    >>> shared.shape, specific.shape
    (torch.Size([4, 3]), torch.Size([4, 2]))
    """

    slope: Tensor
    offset: Tensor

    def __init__(
        self,
        n_in: int,
        n_shared: int,
        n_specific: int,
        n_hidden: int = 128,
        n_layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.sizes = [n_shared, n_specific]
        self.trunk = Decoder(n_in, [], 0, n_hidden, n_layers, dropout)
        self.heads = nn.ModuleList(nn.Linear(n_hidden, size) for size in self.sizes if size)
        self.register_buffer("slope", torch.zeros(n_in, n_shared + n_specific))
        self.register_buffer("offset", torch.zeros(n_shared + n_specific))

    def set_linear(self, weights: Tensor, offset: Tensor) -> None:
        """Set the linear map, and let the heads start at 0."""
        self.slope.copy_(weights)
        self.offset.copy_(offset)
        with torch.no_grad():
            for parameter in self.heads.parameters():
                parameter.zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, n_shared) and (n, n_specific) from (n, n_in)."""
        codes = torch.zeros(len(x), 0, dtype=torch.long, device=x.device)
        hidden = self.trunk(x, codes, None)
        out = torch.cat([head(hidden) for head in self.heads], dim=1)
        shared, specific = (out + x @ self.slope + self.offset).split(self.sizes, dim=1)
        return shared, specific
