"""Squared errors of decoded values beside loops."""

from __future__ import annotations

import pytest
import torch
from loops import DTYPES, rows, squared, tolerance

from cantata import losses


@DTYPES
@pytest.mark.parametrize("p", [4, 9])
def test_reconstruction_eq_2_first_part(dtype: torch.dtype, p: int) -> None:
    x, decoded = rows(6, 4, 0, dtype), rows(6, 4, 1, dtype)
    expected = sum(squared(u, v) / p for u, v in zip(x, decoded, strict=True)) / 6
    value = losses.reconstruction_loss(x, decoded, p)
    assert abs(float(value) - expected) < tolerance(dtype)
    assert torch.equal(losses.reconstruction_loss(x, decoded, torch.tensor(float(p))), value)
