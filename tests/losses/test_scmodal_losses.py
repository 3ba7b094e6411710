"""scMODAL's losses beside equations 1 to 6 of Wang et al. 2025, written as loops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cantata import losses

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def rows(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tolerance(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 1e-12


def squared(a: Tensor, b: Tensor) -> float:
    return sum((u - v) ** 2 for u, v in zip(a.tolist(), b.tolist(), strict=True))


def loop_kernel(x: Tensor, p: float) -> list[list[float]]:
    return [[math.exp(-squared(a, b) / (2 * p)) for b in x] for a in x]


def loop_geometry(one: list[list[float]], two: list[list[float]], threshold: float) -> float:
    terms = []
    for k, k_hat in zip(one, two, strict=True):
        dot = sum(u * v for u, v in zip(k, k_hat, strict=True))
        lengths = (math.sqrt(sum(u * u for u in row)) for row in (k, k_hat))
        terms.append(min(dot / math.prod(lengths), threshold))
    return -sum(terms) / len(terms)


def loop_mutual(a: Tensor, b: Tensor, k: int) -> list[tuple[int, int]]:
    """Pairs that are among each other's k nearest by angle."""

    def angle(u: list[float], v: list[float]) -> float:
        dot = sum(x * y for x, y in zip(u, v, strict=True))
        return math.acos(max(-1.0, min(1.0, dot / math.hypot(*u) / math.hypot(*v))))

    angles = [[angle(u, v) for v in b.tolist()] for u in a.tolist()]
    near_a = [sorted(range(len(b)), key=lambda j, i=i: angles[i][j])[:k] for i in range(len(a))]
    near_b = [sorted(range(len(a)), key=lambda i, j=j: angles[i][j])[:k] for j in range(len(b))]
    return [
        (i, j) for i in range(len(a)) for j in range(len(b)) if j in near_a[i] and i in near_b[j]
    ]


# Geometry ---------------------------------------------------------------------------------------


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
    z.grad = None
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


# Anchors ----------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("k", [1, 3, 30])
def test_mutual_neighbors_by_angle(dtype: torch.dtype, k: int) -> None:
    a, b = rows(7, 4, 0, dtype), rows(9, 4, 1, dtype)
    found = losses.mutual_neighbors(a, b, k)
    assert found.dtype == torch.bool
    assert [tuple(pair) for pair in found.nonzero().tolist()] == loop_mutual(a, b, k)
    assert found.all() == (k == 30)
    lengths = torch.linspace(0.1, 50, 7, dtype=dtype)[:, None]
    assert torch.equal(losses.mutual_neighbors(a * lengths, b, k), found)


@pytest.mark.parametrize("k", [1, 30])
def test_rows_of_zeros_are_no_anchors(k: int) -> None:
    a, b = rows(5, 3), rows(4, 3, 1)
    a[2], b[[0, 3]] = 0, 0
    found = losses.mutual_neighbors(a, b, k)
    assert not found[2].any()
    assert not found[:, [0, 3]].any()
    assert found.any()
    kept = losses.mutual_neighbors(a[[0, 1, 3, 4]], b[1:3], 30)
    if k == 30:
        assert torch.equal(found[[0, 1, 3, 4]][:, 1:3], kept)
    assert not losses.mutual_neighbors(torch.zeros(3, 2), torch.zeros(4, 2), k).any()


@DTYPES
def test_anchors_eq_3_per_pair(dtype: torch.dtype) -> None:
    a, b = rows(7, 4, 0, dtype), rows(9, 4, 1, dtype)
    z_a, z_b = rows(7, 5, 2, dtype), rows(9, 5, 3, dtype)
    pairs = loop_mutual(a, b, 3)
    assert 2 < len(pairs) < 21
    expected = sum(squared(z_a[i], z_b[j]) for i, j in pairs) / 5 / len(pairs)
    loss = losses.anchor_loss(z_a, z_b, losses.mutual_neighbors(a, b, 3))
    assert loss.dtype == dtype
    assert abs(float(loss) - expected) < tolerance(dtype)


def test_without_anchors_the_loss_is_zero_with_a_gradient() -> None:
    z_a, z_b = rows(3, 4).requires_grad_(), rows(2, 4, 1).requires_grad_()
    loss = losses.anchor_loss(z_a, z_b, torch.zeros(3, 2, dtype=torch.bool))
    assert float(loss.detach()) == 0
    loss.backward()
    assert (z_a.grad == 0).all()
    assert (z_b.grad == 0).all()


def test_anchors_of_one_row_and_of_equal_embeddings() -> None:
    z = torch.ones(1, 4, requires_grad=True)
    found = losses.mutual_neighbors(rows(1, 3), rows(1, 3, 1), 30)
    assert found.tolist() == [[True]]
    loss = losses.anchor_loss(z, torch.ones(1, 4), found)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(z.grad).all()


@DTYPES
@pytest.mark.parametrize("ridge", [0.1, 2.0])
def test_linked_features_read_off_by_one_map(dtype: torch.dtype, ridge: float) -> None:
    """Beside a regression of each column on the rows of both, whose penalty is extra rows."""
    z_a, z_b = rows(9, 2, 0, dtype), rows(6, 2, 1, dtype)
    a, b = rows(9, 3, 2, dtype), rows(6, 3, 3, dtype)
    design = [[*u, 1.0] for u in z_a.tolist() + z_b.tolist()]
    targets = [
        [v * math.sqrt(3) / math.hypot(*row) for v in row] for row in a.tolist() + b.tolist()
    ]
    penalty = (math.sqrt(ridge * 15) * np.eye(3)).tolist()
    expected = 0.0
    for j in range(3):
        column = [row[j] for row in targets]
        weights = np.linalg.lstsq(design + penalty, column + [0.0] * 3, rcond=None)[0]
        for x, y in zip(design, column, strict=True):
            expected += (y - sum(u * w for u, w in zip(x, weights, strict=True))) ** 2 / 3 / 15
    loss = losses.linked_loss(z_a, z_b, a, b, ridge)
    assert loss.dtype == dtype
    assert abs(float(loss) - expected) < tolerance(dtype)


def test_the_gradient_of_the_map_is_that_of_its_penalised_minimum() -> None:
    z = rows(12, 2, 0, torch.float64).requires_grad_()
    links = rows(12, 3, 1, torch.float64)

    def penalised(z: Tensor) -> Tensor:
        design = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
        target = links / links.norm(dim=1, keepdim=True) * 3**0.5
        ridge = 0.5 * 12 * torch.eye(3, dtype=z.dtype)
        weights = torch.linalg.solve(design.T @ design + ridge, design.T @ target)
        return ((design @ weights - target).square().sum() + (ridge @ weights.square()).sum()) / 36

    (expected,) = torch.autograd.grad(penalised(z), z)
    loss = losses.linked_loss(z[:7], z[7:], links[:7], links[7:], 0.5)
    (found,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(found, expected)


def test_lengths_of_linked_features_do_not_count_and_empty_rows_have_none() -> None:
    z, links = rows(8, 2), rows(8, 3, 1)
    lengths = torch.linspace(0.1, 50, 8)[:, None]
    one = losses.linked_loss(z, z, links, links)
    torch.testing.assert_close(losses.linked_loss(z, z, links * lengths, links), one)
    assert float(losses.linked_loss(z, z, torch.zeros(8, 3), torch.zeros(8, 3))) == 0


@DTYPES
def test_measured_pairs(dtype: torch.dtype) -> None:
    a, b = rows(4, 3, 0, dtype), rows(4, 3, 1, dtype)
    expected = sum(squared(u, v) / 3 for u, v in zip(a, b, strict=True)) / 4
    assert abs(float(losses.paired_loss(a, b)) - expected) < tolerance(dtype)
    assert float(losses.paired_loss(a[:0], b[:0])) == 0


# Adversary and autoencoders ---------------------------------------------------------------------


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


@DTYPES
@pytest.mark.parametrize("p", [4, 9])
def test_reconstruction_eq_2_first_part(dtype: torch.dtype, p: int) -> None:
    x, decoded = rows(6, 4, 0, dtype), rows(6, 4, 1, dtype)
    expected = sum(squared(u, v) / p for u, v in zip(x, decoded, strict=True)) / 6
    value = losses.reconstruction_loss(x, decoded, p)
    assert abs(float(value) - expected) < tolerance(dtype)
    assert torch.equal(losses.reconstruction_loss(x, decoded, torch.tensor(float(p))), value)


@DTYPES
def test_cycle_eq_2_second_part(dtype: torch.dtype) -> None:
    z, cycled = rows(6, 4, 0, dtype), rows(6, 4, 1, dtype)
    expected = sum(squared(u, v) / 4 for u, v in zip(z, cycled, strict=True)) / 6
    assert abs(float(losses.cycle_loss(z, cycled)) - expected) < tolerance(dtype)
