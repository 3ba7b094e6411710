"""The stand-in for a second device, beside what torch says of a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from second_device import DEVICE, MPS, second_device


def test_the_stand_in_refuses_what_a_gpu_refuses(monkeypatch) -> None:
    with second_device(monkeypatch):
        x, weight = torch.randn(4, 3), torch.nn.Parameter(torch.randn(3, 2))
        there = x.to(DEVICE)
        assert there.device == DEVICE
        assert x.device.type == "cpu"
        for mix in (lambda: there @ weight, lambda: torch.cat([there, x]), lambda: there + x):
            with pytest.raises(RuntimeError, match="same device"):
                mix()
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()
        layer = torch.nn.Linear(3, 2).to(DEVICE)
        loss = (layer(there) * torch.tensor(2.0)).square().mean()  # a number may be anywhere
        loss.backward()
        assert layer.weight.grad.device == DEVICE
        assert there[torch.tensor([0, 2])].device == DEVICE  # positions may be on the processor
        assert torch.zeros(2, device=there.device).device == DEVICE
        assert torch.zeros_like(there).device == DEVICE
        np.testing.assert_array_equal(there.cpu().numpy(), x.numpy())
        csr = torch.eye(3).to_sparse_csr().to(DEVICE)
        with pytest.raises(RuntimeError, match="same device"):
            csr @ x.T
        with pytest.raises(RuntimeError, match="same device"):
            torch.nn.functional.embedding(torch.tensor([0]), layer.weight)


def test_the_stand_in_for_mps_has_no_double_precision(monkeypatch) -> None:
    with second_device(monkeypatch, MPS):
        there = torch.randn(3).to(MPS)
        assert there.device == MPS
        assert there.cpu().double().dtype == torch.float64
        with pytest.raises(TypeError, match="float64"):
            there.double()
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(2, dtype=torch.float64).to(MPS)
