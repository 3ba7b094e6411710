"""Cells scaled to [0, 1] and their cross-entropy (Zhang et al. 2026, eq. 1)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cantata.losses import (
    _sparse_values,
    linear_scaled_cross_entropy,
    min_max_scaled,
    scaled_cross_entropy,
)


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

    def test_sparse_is_as_dense(self):
        values = counts(20, 30)
        dense, csr = min_max_scaled(values), min_max_scaled(values.to_sparse_csr())
        assert torch.equal(dense.dense(), csr.dense())
        for a, b in zip(dense[:3], csr[:3], strict=True):
            assert torch.equal(a, b)

    def test_sparse_negative_values_without_log(self):
        values = counts() - 1
        sparse = min_max_scaled(values.to_sparse_csr(), log=False)
        assert torch.equal(sparse.dense(), min_max_scaled(values, log=False).dense())

    def test_columns_ascend(self):
        column = min_max_scaled(counts(20, 30)).column
        assert (column.diff() >= 0).all()

    def test_negative_counts_are_zero(self):
        values = torch.tensor([[-2.0, 0.0, 3.0]])
        assert torch.equal(
            min_max_scaled(values).dense(), min_max_scaled(values.clamp(min=0)).dense()
        )

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


class Layer:
    """A hidden layer, an output layer and the counts they are compared with."""

    def __init__(self, n: int = 7, p: int = 90) -> None:
        torch.manual_seed(0)
        self.values = counts(n, p)
        self.target = min_max_scaled(self.values)
        self.inputs = torch.randn(n, 4), torch.randn(p, 4), torch.randn(p)

    def leaves(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden, weight, bias = (x.clone().requires_grad_() for x in self.inputs)
        return hidden, weight, bias

    def naive(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, w: float
    ) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(
            hidden @ weight.T + bias, self.target.dense(), pos_weight=torch.tensor(w)
        )


class TestLinearScaledCrossEntropy:
    @pytest.fixture(autouse=True, params=[2**19, 7 * 16])
    def blocks(self, request, monkeypatch):
        """One block, and several of which the last is narrower."""
        monkeypatch.setitem(_sparse_values.BLOCK_ENTRIES, "cpu", request.param)

    @pytest.mark.parametrize("weight", [1.0, 0.3, 12.0])
    def test_equals_loops(self, weight):
        layer = Layer()
        hidden, output, bias = layer.inputs
        found = linear_scaled_cross_entropy(hidden, output, bias, layer.target, weight)
        rows = naive_cross_entropy(hidden @ output.T + bias, naive_scaled(layer.values), weight)
        assert float(found) == pytest.approx(np.mean(rows) / 90, rel=1e-5)

    def test_logits_are_taken_in_blocks_too(self):
        layer = Layer()
        hidden, output, bias = layer.inputs
        rows = scaled_cross_entropy(hidden @ output.T + bias, layer.target, 3.0)
        expected = linear_scaled_cross_entropy(hidden, output, bias, layer.target, 3.0)
        assert float(rows.mean()) / 90 == pytest.approx(float(expected), rel=1e-5)

    @pytest.mark.parametrize("factor", [1.0, -0.7, 2.0])
    def test_gradient_is_that_of_torch(self, factor):
        layer = Layer()
        ours, theirs = layer.leaves(), layer.leaves()
        (linear_scaled_cross_entropy(*ours, layer.target, 5.0) * factor).backward()
        (layer.naive(*theirs, 5.0) * factor).backward()
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a.grad, b.grad, atol=1e-7)

    def test_gradient_of_some_inputs_alone(self):
        layer = Layer()
        ours, theirs = layer.leaves(), layer.leaves()
        ours[1].requires_grad_(False)
        linear_scaled_cross_entropy(*ours, layer.target).backward()
        layer.naive(*theirs, 1.0).backward()
        assert ours[1].grad is None
        assert torch.allclose(ours[0].grad, theirs[0].grad, atol=1e-7)

    def test_same_bits_every_time(self):
        layer = Layer()
        runs = []
        for _ in range(2):
            own = layer.leaves()
            linear_scaled_cross_entropy(*own, layer.target).backward()
            runs.append([x.grad for x in own])
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))

    def test_without_gradient(self):
        layer = Layer()
        with torch.no_grad():
            found = linear_scaled_cross_entropy(*layer.leaves(), layer.target)
        assert not found.requires_grad
        assert float(found) == pytest.approx(float(layer.naive(*layer.inputs, 1.0)), rel=1e-5)

    def test_second_derivation_is_refused(self):
        layer = Layer()
        loss = linear_scaled_cross_entropy(*layer.leaves(), layer.target)
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="differentiated once"):
            loss.backward()

    def test_half_precision(self):
        layer = Layer()
        ours, theirs = layer.leaves(), layer.leaves()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = linear_scaled_cross_entropy(*ours, layer.target)
        loss.backward()
        expected = layer.naive(*theirs, 1.0)
        expected.backward()
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(expected), rel=1e-2)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a.grad, b.grad, atol=0.02 * float(b.grad.abs().max()))
