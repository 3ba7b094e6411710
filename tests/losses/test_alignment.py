"""What brings embeddings together, beside its equation written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loops import DTYPES, rows, squared, tolerance
from torch import Tensor

from cantata import losses

N = 7


@pytest.fixture
def mosaic() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    rows = {
        "a": torch.tensor([0, 1, 3, 4]),
        "b": torch.tensor([1, 2, 4, 5, 6]),
        "c": torch.tensor([4, 6]),
        "empty": torch.tensor([], dtype=torch.long),
    }
    return {name: torch.randn(len(r), 3) for name, r in rows.items()}, rows


def of_cell(values: dict[str, Tensor], rows: dict[str, Tensor], cell: int) -> list[Tensor]:
    """Rows of one cell, one per modality that it has."""
    return [values[m][i] for m in rows for i, c in enumerate(rows[m].tolist()) if c == cell]


@pytest.mark.parametrize("unit", [False, True])
def test_mean_fusion_eq_11(mosaic, unit: bool) -> None:
    values, rows = mosaic
    fused = losses.fuse_mean(values, rows, N, unit=unit)
    for cell in range(N):
        own = of_cell(values, rows, cell)
        mean = sum(own) / len(own)
        if unit:
            mean = mean / math.sqrt(sum(float(v) ** 2 for v in mean))
        assert torch.allclose(fused[cell], mean, atol=1e-5)


def test_product_of_experts_eq_6(mosaic) -> None:
    loc, rows = mosaic
    scale = {m: v.abs() + 0.3 for m, v in loc.items()}
    mean, std = losses.product_of_experts(loc, scale, rows, N)
    for cell in range(N):
        means, stds = of_cell(loc, rows, cell), of_cell(scale, rows, cell)
        for d in range(3):
            precision = sum(1 / float(s[d]) ** 2 for s in stds)
            weighted = sum(
                float(m[d]) / float(s[d]) ** 2 for m, s in zip(means, stds, strict=True)
            )
            assert abs(float(mean[cell, d]) - weighted / precision) < 1e-5
            assert abs(float(std[cell, d]) - precision**-0.5) < 1e-5


def test_closeness_eq_9(mosaic) -> None:
    values, rows = mosaic
    fused = losses.fuse_mean(values, rows, N, unit=False)
    total = 0.0
    for cell in range(N):
        own = of_cell(values, rows, cell)
        mean = sum(own) / len(own)
        total += sum(float(((v - mean) ** 2).sum()) for v in own) / len(own)
    assert abs(float(losses.squared_to_fused(values, rows, fused)) - total / N) < 1e-5


def test_cosine_closeness(mosaic) -> None:
    values, rows = mosaic
    fused = losses.fuse_mean(values, rows, N, unit=True)
    total = 0.0
    for m, value in values.items():
        terms = []
        for i, cell in enumerate(rows[m].tolist()):
            dot = sum(float(a) * float(b) for a, b in zip(value[i], fused[cell], strict=True))
            terms.append(1 - dot / (float(value[i].norm()) * float(fused[cell].norm())))
        total += sum(terms) / len(terms) if terms else 0.0
    assert abs(float(losses.cosine_to_fused(values, rows, fused)) - total) < 1e-5


def test_unit_vectors_make_cosine_half_the_squared_distance(mosaic) -> None:
    values, rows = mosaic
    unit = {m: torch.nn.functional.normalize(v, dim=1) for m, v in values.items()}
    fused = losses.fuse_mean(unit, rows, N, unit=True)
    for m in ("a", "b"):
        one = {m: unit[m]}
        cosine = losses.cosine_to_fused(one, {m: rows[m]}, fused)
        squared = (unit[m] - fused[rows[m]]).pow(2).sum(1).mean()
        assert torch.allclose(cosine, squared / 2, atol=1e-5)


def test_contrastive(mosaic) -> None:
    values, rows = mosaic
    temperature = 0.4
    expected = []
    names = list(values)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            cells = [c for c in rows[a].tolist() if c in rows[b].tolist()]
            if len(cells) < 2:
                continue
            left = [values[a][rows[a].tolist().index(c)] for c in cells]
            right = [values[b][rows[b].tolist().index(c)] for c in cells]
            loss = 0.0
            for here, there in ((left, right), (right, left)):
                for j, u in enumerate(here):
                    s = [float(u @ v / u.norm() / v.norm()) / temperature for v in there]
                    loss -= s[j] - math.log(sum(math.exp(x) for x in s))
            expected.append(loss / len(cells) / 2)
    assert len(expected) >= 2
    value = losses.contrastive(values, rows, temperature)
    assert abs(float(value) - sum(expected) / len(expected)) < 1e-5


def test_contrastive_without_pairs_is_zero() -> None:
    rows = {"a": torch.tensor([0]), "b": torch.tensor([0])}
    assert float(losses.contrastive({"a": torch.ones(1, 2), "b": torch.ones(1, 2)}, rows, 1)) == 0


def test_losses_of_a_minibatch_without_rows_have_a_gradient() -> None:
    rows = {"a": torch.arange(2), "b": torch.tensor([], dtype=torch.long)}
    values = {"a": torch.randn(2, 3, requires_grad=True), "b": torch.zeros(0, 3)}
    fused = losses.fuse_mean(values, rows, 2, unit=True)
    for align in (losses.cosine_to_fused, losses.squared_to_fused):
        loss = align(values, rows, fused)
        assert torch.isfinite(loss)
        loss.backward(retain_graph=True)


@DTYPES
def test_measured_pairs(dtype: torch.dtype) -> None:
    a, b = rows(4, 3, 0, dtype), rows(4, 3, 1, dtype)
    expected = sum(squared(u, v) / 3 for u, v in zip(a, b, strict=True)) / 4
    assert abs(float(losses.paired_loss(a, b)) - expected) < tolerance(dtype)
    assert float(losses.paired_loss(a[:0], b[:0])) == 0


@DTYPES
def test_cycle_eq_2_second_part(dtype: torch.dtype) -> None:
    z, cycled = rows(6, 4, 0, dtype), rows(6, 4, 1, dtype)
    expected = sum(squared(u, v) / 4 for u, v in zip(z, cycled, strict=True)) / 6
    assert abs(float(losses.cycle_loss(z, cycled)) - expected) < tolerance(dtype)


# Anchors and links -------------------------------------------------------------------------------


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


def test_one_anchor_counts_once() -> None:
    z_a, z_b = rows(3, 4), rows(2, 4, 1)
    pairs = torch.zeros(3, 2, dtype=torch.bool)
    pairs[2, 1] = True
    expected = squared(z_a[2], z_b[1]) / 4
    assert float(losses.anchor_loss(z_a, z_b, pairs)) == pytest.approx(expected, rel=1e-5)


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
@pytest.mark.parametrize("ridge", [None, 2.0])
def test_linked_features_read_off_by_one_map(dtype: torch.dtype, ridge: float | None) -> None:
    """Beside a regression of each column on the rows of both, whose penalty is extra rows.

    It is 0.1 by default.
    """
    z_a, z_b = rows(9, 2, 0, dtype), rows(6, 2, 1, dtype)
    a, b = rows(9, 3, 2, dtype), rows(6, 3, 3, dtype)
    design = [[*u, 1.0] for u in z_a.tolist() + z_b.tolist()]
    targets = [
        [v * math.sqrt(3) / math.hypot(*row) for v in row] for row in a.tolist() + b.tolist()
    ]
    penalty = (math.sqrt((ridge or 0.1) * 15) * np.eye(3)).tolist()
    expected = 0.0
    for j in range(3):
        column = [row[j] for row in targets]
        weights = np.linalg.lstsq(design + penalty, column + [0.0] * 3, rcond=None)[0]
        for x, y in zip(design, column, strict=True):
            expected += (y - sum(u * w for u, w in zip(x, weights, strict=True))) ** 2 / 3 / 15
    loss = losses.linked_loss(z_a, z_b, a, b, *([ridge] if ridge else []))
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
