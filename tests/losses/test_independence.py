"""Dependence between latents, and differences between distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cantata.losses import dependence, maximum_mean_discrepancy
from cantata.losses._distribution import WIDTHS


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def naive_dependence(a: torch.Tensor, b: torch.Tensor) -> float:
    n = len(a)
    kernels = []
    for rows in (a.tolist(), b.tolist()):
        d = [[distance(x, y) for y in rows] for x in rows]
        mean = sum(map(sum, d)) / n**2
        kernels.append(np.array([[math.exp(-x / mean) for x in row] for row in d]))
    h = np.eye(n) - np.ones((n, n)) / n
    k, other = (h @ kernel @ h for kernel in kernels)
    return float(np.trace(k @ other) / math.sqrt(np.trace(k @ k) * np.trace(other @ other)))


def naive_discrepancy(a: torch.Tensor, b: torch.Tensor) -> float:
    rows_a, rows_b = a.tolist(), b.tolist()
    within = [distance(x, y) for x in rows_a for y in rows_a]
    within += [distance(x, y) for x in rows_b for y in rows_b]
    between = [distance(x, y) for x in rows_a for y in rows_b]
    scale = sum(within + between) / len(within + between)
    total = 0.0
    for width in WIDTHS:

        def kernel(x, y, width=width):
            return math.exp(-distance(x, y) / (2 * width * scale))

        for rows in (rows_a, rows_b):
            pairs = [
                kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j
            ]
            total += sum(pairs) / len(pairs)
        pairs = [kernel(x, y) for x in rows_a for y in rows_b]
        total -= 2 * sum(pairs) / len(pairs)
    return total / len(WIDTHS)


class TestDependence:
    def test_equals_loops(self):
        a, b = normal(12, 3, 0), normal(12, 2, 1)
        assert float(dependence(a, b)) == pytest.approx(naive_dependence(a, b), rel=1e-4)

    def test_independent_latents_have_almost_none(self):
        a, b = normal(500, 2, 0), normal(500, 2, 1)
        assert float(dependence(a, b)) < 0.02
        assert float(dependence(a, a.square())) > 0.2  # no correlation, but dependence

    def test_does_not_reward_shrinking(self):
        a, b = normal(40, 2, 0), normal(40, 2, 1)
        assert float(dependence(0.01 * a, b)) == pytest.approx(float(dependence(a, b)), rel=1e-3)

    def test_constant_latents(self):
        a = torch.zeros(10, 2, requires_grad=True)
        loss = dependence(a, normal(10, 2, 0))
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert torch.isfinite(a.grad).all()


class TestDiscrepancy:
    def test_equals_loops(self):
        a, b = normal(9, 3, 0), normal(7, 3, 1) + 0.5
        expected = naive_discrepancy(a, b)
        assert float(maximum_mean_discrepancy(a, b)) == pytest.approx(expected, rel=1e-4)

    def test_falls_as_distributions_approach(self):
        a, b = normal(200, 2, 0), normal(200, 2, 1)
        found = [float(maximum_mean_discrepancy(a, b + shift)) for shift in (3.0, 1.0, 0.0)]
        assert found[0] > found[1] > found[2]
        assert abs(found[2]) < 0.02
