"""Rows of random numbers, and distances by loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def rows(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tolerance(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 1e-12


def squared(a: Tensor, b: Tensor) -> float:
    return sum((u - v) ** 2 for u, v in zip(a.tolist(), b.tolist(), strict=True))
