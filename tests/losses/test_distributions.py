"""Divergences, discriminators and kernels of a minibatch, beside loops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from loops import DTYPES, rows, squared, tolerance
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cantata import losses
from cantata.losses import dependence, maximum_mean_discrepancy, norm_penalty

if TYPE_CHECKING:
    from collections.abc import Callable

# Posteriors and discriminators -------------------------------------------------------------------


def test_divergence_eq_3() -> None:
    torch.manual_seed(0)
    loc, scale = torch.randn(4, 3), torch.rand(4, 3) + 0.1
    value = losses.kl_to_standard_normal(loc, scale)
    for i in range(4):
        total = 0.0
        for m, s in zip(loc[i].tolist(), scale[i].tolist(), strict=True):
            total += math.log(1 / s) + (s**2 + m**2) / 2 - 0.5
        assert abs(float(value[i]) - total) < 1e-5


def test_discriminator_eq_12() -> None:
    torch.manual_seed(0)
    logits = {"a": torch.randn(3, 3), "b": torch.randn(5, 3), "c": torch.zeros(0, 3)}
    terms = []
    for k, value in enumerate(logits.values()):
        per_cell = [math.log(sum(math.exp(v) for v in row)) - row[k] for row in value.tolist()]
        if per_cell:
            terms.append(sum(per_cell) / len(per_cell))
    expected = sum(terms) / len(terms)
    assert abs(float(losses.modality_cross_entropy(logits)) - expected) < 1e-5


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


@DTYPES
def test_discriminator_eq_1(dtype: torch.dtype) -> None:
    a, b = 3 * rows(5, 1, 0, dtype)[:, 0], 3 * rows(7, 1, 1, dtype)[:, 0]
    of_a = [math.log(1 / (1 + math.exp(-v))) for v in a.tolist()]
    of_b = [math.log(1 - 1 / (1 + math.exp(-v))) for v in b.tolist()]
    expected = -(sum(of_a) / 5 + sum(of_b) / 7)
    assert abs(float(losses.pair_discriminator_loss(a, b)) - expected) < tolerance(dtype)


def test_discriminator_that_is_sure_gives_finite_values() -> None:
    logits = torch.tensor([-1e30, -1000.0, 0.0, 1000.0, 1e30], requires_grad=True)
    loss = losses.pair_discriminator_loss(logits, logits)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


# Geometry ----------------------------------------------------------------------------------------


def loop_kernel(x: Tensor, p: float) -> list[list[float]]:
    return [[math.exp(-squared(a, b) / (2 * p)) for b in x] for a in x]


def loop_geometry(one: list[list[float]], two: list[list[float]], threshold: float) -> float:
    terms = []
    for k, k_hat in zip(one, two, strict=True):
        dot = sum(u * v for u, v in zip(k, k_hat, strict=True))
        lengths = (math.sqrt(sum(u * u for u in row)) for row in (k, k_hat))
        terms.append(min(dot / math.prod(lengths), threshold))
    return -sum(terms) / len(terms)


@DTYPES
def test_squared_distances(dtype: torch.dtype) -> None:
    a, b = rows(5, 3, 0, dtype), rows(4, 3, 1, dtype)
    values = losses.squared_distances(a, b)
    assert values.dtype == dtype
    for i in range(5):
        for j in range(4):
            assert abs(float(values[i, j]) - squared(a[i], b[j])) < tolerance(dtype)


@DTYPES
@pytest.mark.parametrize("p", [3, 11])
def test_gaussian_kernel_eq_4_and_5(dtype: torch.dtype, p: int) -> None:
    x = rows(6, 3, 0, dtype)
    kernel = losses.gaussian_kernel(x, p)
    assert kernel.dtype == dtype
    expected = torch.tensor(loop_kernel(x, p), dtype=torch.float64)
    assert (kernel.double() - expected).abs().max() < tolerance(dtype)
    assert (kernel.diagonal() == 1).all()
    assert torch.equal(losses.gaussian_kernel(x, torch.tensor(float(p), dtype=dtype)), kernel)


@DTYPES
@pytest.mark.parametrize("threshold", [0.975, 0.9, 2.0])
def test_geometry_eq_6(dtype: torch.dtype, threshold: float) -> None:
    x, z = rows(8, 5, 0, dtype), rows(8, 2, 1, dtype)
    z[:3] *= 0.1
    one, two = loop_kernel(x, 5), loop_kernel(z, 2)
    loss = losses.geometry_loss(
        losses.gaussian_kernel(x, 5), losses.gaussian_kernel(z, 2), threshold
    )
    assert abs(float(loss) - loop_geometry(one, two, threshold)) < tolerance(dtype)
    if threshold == 0.9:  # both sides of the threshold are met
        assert loop_geometry(one, two, 2.0) < loop_geometry(one, two, threshold) < -0.5


def test_published_threshold_is_the_default_and_ends_the_gradient() -> None:
    z = rows(6, 2).requires_grad_()
    kernel = losses.gaussian_kernel(z.detach(), 2)
    loss = losses.geometry_loss(kernel, losses.gaussian_kernel(z, 2))
    assert float(loss.detach()) == pytest.approx(-0.975, abs=1e-6)
    loss.backward()
    assert (z.grad == 0).all()
    z = z.detach().requires_grad_()
    losses.geometry_loss(
        losses.gaussian_kernel(rows(6, 9, 1), 1), losses.gaussian_kernel(z, 2)
    ).backward()
    assert (z.grad != 0).any()


@pytest.mark.parametrize("n", [1, 4])
def test_geometry_of_one_row_and_of_equal_rows(n: int) -> None:
    z = torch.ones(n, 3, requires_grad=True)
    loss = losses.geometry_loss(
        losses.gaussian_kernel(rows(n, 5), 5), losses.gaussian_kernel(z, 3)
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    if n == 1:
        assert float(loss.detach()) == pytest.approx(-0.975)


def largest_allocation(run: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    return max(event.nbytes() for event in events if event.name() == "[memory]")


def test_no_tensor_of_cells_times_cells_times_features() -> None:
    n, p, q = 64, 600, 20
    x, z = rows(n, p), rows(n, q, 1).requires_grad_()

    def ours() -> None:
        kernels = losses.gaussian_kernel(x, p), losses.gaussian_kernel(z, q)
        losses.geometry_loss(*kernels).backward()

    def naive() -> None:
        kernels = [(-(v[:, None] - v[None]).square().mean(dim=2) / 2).exp() for v in (x, z)]
        losses.geometry_loss(*kernels).backward()

    def anchors() -> None:
        pairs = losses.mutual_neighbors(x[:, :30], x[:, 30:60], 10)
        losses.anchor_loss(z, z.flip(0), pairs).backward()

    assert largest_allocation(naive) >= 4 * n * n * p
    assert largest_allocation(ours) <= 4 * max(2 * n * n, n * p)
    assert largest_allocation(anchors) <= 4 * max(2 * n * n, n * p)


# Dependence and discrepancy ----------------------------------------------------------------------


def naive_dependence(a: torch.Tensor, b: torch.Tensor) -> float:
    n = len(a)
    kernels = []
    for cells in (a, b):
        d = [[squared(x, y) for y in cells] for x in cells]
        mean = sum(map(sum, d)) / n**2
        kernels.append(np.array([[math.exp(-x / mean) for x in row] for row in d]))
    h = np.eye(n) - np.ones((n, n)) / n
    k, other = (h @ kernel @ h for kernel in kernels)
    return float(np.trace(k @ other) / math.sqrt(np.trace(k @ k) * np.trace(other @ other)))


def naive_discrepancy(a: torch.Tensor, b: torch.Tensor) -> float:
    rows_a, rows_b = list(a), list(b)
    within = [squared(x, y) for x in rows_a for y in rows_a]
    within += [squared(x, y) for x in rows_b for y in rows_b]
    between = [squared(x, y) for x in rows_a for y in rows_b]
    scale = sum(within + between) / len(within + between)
    total = 0.0
    for width in (0.25, 0.5, 1, 2, 4):

        def kernel(x, y, width=width):
            return math.exp(-squared(x, y) / (2 * width * scale))

        for cells in (rows_a, rows_b):
            pairs = [
                kernel(x, y) for i, x in enumerate(cells) for j, y in enumerate(cells) if i != j
            ]
            total += sum(pairs) / len(pairs)
        pairs = [kernel(x, y) for x in rows_a for y in rows_b]
        total -= 2 * sum(pairs) / len(pairs)
    return total / 5


class TestDependence:
    def test_equals_loops(self):
        a, b = rows(12, 3, 0), rows(12, 2, 1)
        assert float(dependence(a, b)) == pytest.approx(naive_dependence(a, b), rel=1e-4)

    def test_independent_latents_have_almost_none(self):
        a, b = rows(500, 2, 0), rows(500, 2, 1)
        assert float(dependence(a, b)) < 0.02
        assert float(dependence(a, a.square())) > 0.2  # no correlation, but dependence

    def test_does_not_reward_shrinking(self):
        a, b = rows(40, 2, 0), rows(40, 2, 1)
        assert float(dependence(0.01 * a, b)) == pytest.approx(float(dependence(a, b)), rel=1e-3)

    def test_constant_latents(self):
        a = torch.zeros(10, 2, requires_grad=True)
        loss = dependence(a, rows(10, 2, 0))
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert torch.isfinite(a.grad).all()


class TestDiscrepancy:
    def test_equals_loops(self):
        a, b = rows(9, 3, 0), rows(7, 3, 1) + 0.5
        expected = naive_discrepancy(a, b)
        assert float(maximum_mean_discrepancy(a, b)) == pytest.approx(expected, rel=1e-4)

    def test_falls_as_distributions_approach(self):
        a, b = rows(200, 2, 0), rows(200, 2, 1)
        found = [float(maximum_mean_discrepancy(a, b + shift)) for shift in (3.0, 1.0, 0.0)]
        assert found[0] > found[1] > found[2]
        assert abs(found[2]) < 0.02
