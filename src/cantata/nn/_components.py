"""A fixed linear map from a modality's values to a few components, inside the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping


class ComponentInput(nn.Module):
    """Normalise values and project them on components that were fitted once.

    Values are weighted by feature, scaled to a total per cell, log-transformed, divided by
    feature, clipped, projected and centred; rows may be brought to unit root mean square. Which of
    these happen is part of the state, so that a saved model carries its own preprocessing and new
    cells need none. Nothing here is trained.

    Parameters
    ----------
    n_features
        Number p of features.
    n_components
        Number k of components.

    Examples
    --------
    >>> import torch
    >>> ComponentInput(10, 3)(torch.ones(2, 10)).shape
    torch.Size([2, 3])
    """

    weight: Tensor
    total: Tensor
    use_log: Tensor
    inverse_sd: Tensor
    ceiling: Tensor
    loadings: Tensor
    offset: Tensor
    unit_rows: Tensor

    def __init__(self, n_features: int, n_components: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(n_features))
        self.register_buffer("total", torch.tensor(0.0))
        self.register_buffer("use_log", torch.tensor(False))
        self.register_buffer("inverse_sd", torch.ones(n_features))
        self.register_buffer("ceiling", torch.full((n_features,), torch.inf))
        self.register_buffer("loadings", torch.zeros(n_features, n_components))
        self.register_buffer("offset", torch.zeros(n_components))
        self.register_buffer("unit_rows", torch.tensor(False))

    def set(self, values: Mapping[str, np.ndarray | float | bool]) -> None:
        """Set the map; fewer components than were planned leave the last ones zero."""
        for name, value in values.items():
            buffer = getattr(self, name)
            given = torch.as_tensor(np.asarray(value), dtype=buffer.dtype)
            if given.shape == buffer.shape:
                buffer.copy_(given)
            else:
                buffer.zero_()
                buffer[..., : given.shape[-1]] = given

    def forward(self, x: Tensor) -> Tensor:
        """(n, k) components of (n, p) values."""
        x = x * self.weight
        sums = x.sum(dim=1, keepdim=True)
        scaled = x * (self.total / torch.where(sums > 0, sums, torch.ones_like(sums)))
        x = torch.where(self.total > 0, scaled, x)
        x = torch.where(self.use_log, torch.log1p(x.clamp(min=0)), x)
        x = torch.minimum(x * self.inverse_sd, self.ceiling)
        components = x @ self.loadings - self.offset
        size = components.square().mean(dim=1, keepdim=True).sqrt()
        unit = components / torch.where(size > 0, size, torch.ones_like(size))
        return torch.where(self.unit_rows, unit, components)
