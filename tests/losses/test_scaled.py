"""Cells scaled to [0, 1], their cross-entropy and the length of latents (APOLLO, eq. 1)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cantata.losses import min_max_scaled, norm_penalty, scaled_cross_entropy


def counts(n: int = 7, p: int = 9, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.poisson(0.7, (n, p)).astype(np.float32))


def naive_scaled(values: torch.Tensor) -> list[list[float]]:
    rows = []
    for cell in values.tolist():
        t = [math.log(x + 0.5) for x in cell]
        low, high = min(t), max(t)
        rows.append([(x - low) / (high - low) if high > low else 0.0 for x in t])
    return rows


def naive_cross_entropy(logits: torch.Tensor, y: list[list[float]], w: float) -> list[float]:
    sums = []
    for row, own in zip(logits.tolist(), y, strict=True):
        total = 0.0
        for x, value in zip(row, own, strict=True):
            p = 1 / (1 + math.exp(-x))
            total -= w * value * math.log(p) + (1 - value) * math.log(1 - p)
        sums.append(total)
    return sums


class TestMinMaxScaled:
    def test_equals_loops(self):
        values = counts()
        assert np.allclose(min_max_scaled(values).dense(), naive_scaled(values), atol=1e-6)

    def test_cell_without_zero(self):
        values = torch.tensor([[1.0, 2.0, 5.0], [0.0, 2.0, 5.0]])
        assert np.allclose(min_max_scaled(values).dense(), naive_scaled(values), atol=1e-6)

    @pytest.mark.parametrize("level", [0.0, 3.0])
    def test_cell_of_equal_values_is_zero(self, level):
        scaled = min_max_scaled(torch.full((2, 4), level)).dense()
        assert torch.equal(scaled, torch.zeros(2, 4))

    def test_negative_values_without_log(self):
        scaled = min_max_scaled(torch.tensor([[-1.0, 0.0, 3.0]]), log=False).dense()
        assert torch.allclose(scaled, torch.tensor([[0.0, 0.25, 1.0]]))

    def test_keeps_nothing_of_zeros(self):
        values = counts(50, 200)
        assert len(min_max_scaled(values).value) <= int((values > 0).sum())

    def test_no_cells(self):
        assert min_max_scaled(torch.zeros(0, 3)).dense().shape == (0, 3)


class TestScaledCrossEntropy:
    @pytest.mark.parametrize("weight", [1.0, 0.3, 12.0])
    def test_equals_loops(self, weight):
        values = counts()
        logits = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
        found = scaled_cross_entropy(logits, min_max_scaled(values), weight)
        expected = naive_cross_entropy(logits, naive_scaled(values), weight)
        assert np.allclose(found, expected, rtol=1e-5)

    @pytest.mark.parametrize("weight", [1.0, 12.0])
    def test_gradient_is_that_of_torch(self, weight):
        values = counts()
        target = min_max_scaled(values)
        logits = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
        factors = torch.arange(1.0, len(values) + 1)
        gradients = []
        for loss in (
            lambda x: scaled_cross_entropy(x, target, weight),
            lambda x: torch.nn.functional.binary_cross_entropy_with_logits(
                x, target.dense(), pos_weight=torch.tensor(weight), reduction="none"
            ).sum(dim=1),
        ):
            own = logits.clone().requires_grad_()
            (loss(own) * factors).sum().backward()
            gradients.append(own.grad)
        assert torch.allclose(*gradients, atol=1e-5)

    def test_large_logits_stay_finite(self):
        target = min_max_scaled(torch.tensor([[0.0, 2.0]]))
        logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
        loss = scaled_cross_entropy(logits, target).sum()
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()


class TestNormPenalty:
    def test_equals_loops(self):
        z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        lengths = [math.sqrt(sum(x * x for x in row)) for row in z.tolist()]
        expected = sum(lengths) / len(lengths) / 4
        assert float(norm_penalty(z)) == pytest.approx(expected, rel=1e-5)

    def test_gradient_at_zero_is_finite(self):
        z = torch.zeros(3, 2, requires_grad=True)
        norm_penalty(z).backward()
        assert torch.isfinite(z.grad).all()
