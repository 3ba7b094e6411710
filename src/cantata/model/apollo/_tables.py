"""Latents that are parameters: one row per training cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    import numpy as np


class LatentTable(nn.Module):
    """Latents of training cells, without rows until they are set.

    A saved table is loaded with the rows that it has, whatever rows there were before.

    Parameters
    ----------
    width
        Number of latents per cell.
    learn_noise
        Keep a standard deviation for every latent of every cell beside it.

    Examples
    --------
    >>> import numpy as np, torch
    >>> table = LatentTable(2)
    >>> table.set(np.ones((3, 2)))
    >>> table(torch.tensor([2])).shape
    torch.Size([1, 2])
    """

    def __init__(self, width: int, *, learn_noise: bool = False) -> None:
        super().__init__()
        self.width = width
        self.sparse = True
        self.weight = nn.Parameter(torch.zeros(0, width))
        self.log_scale = nn.Parameter(torch.zeros(0, width)) if learn_noise else None

    def set(self, values: np.ndarray) -> None:
        """Set the rows to (n, width) values, and learned noise to its start."""
        like = self.weight
        self.weight = nn.Parameter(torch.as_tensor(values, dtype=like.dtype, device=like.device))
        if self.log_scale is not None:
            self.log_scale = nn.Parameter(torch.zeros_like(self.weight))

    def forward(self, rows: Tensor) -> Tensor:
        """(n, width) latents of some rows; only these rows have a gradient."""
        return functional.embedding(rows, self.weight, sparse=self.sparse)

    def scale(self, rows: Tensor) -> Tensor | None:
        """(n, width) standard deviations of some rows; None where noise is not learned."""
        if self.log_scale is None:
            return None
        return functional.embedding(rows, self.log_scale, sparse=self.sparse).exp()

    def norm(self) -> Tensor:
        """Mean length of the latents over cells, divided by the root of their number."""
        lengths = self.weight.detach().square().sum(dim=1).sqrt()
        return lengths.mean() / max(self.width, 1) ** 0.5

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        stored = state_dict.get(f"{prefix}weight")
        if stored is not None and stored.shape != self.weight.shape:
            self.set(torch.zeros(stored.shape).numpy())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
