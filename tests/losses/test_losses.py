"""Every loss beside its equation, written as loops."""

from __future__ import annotations

import math

import pytest
import torch
from scvi.distributions import NegativeBinomial
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


@pytest.mark.parametrize("per_cell_theta", [False, True])
def test_negative_binomial_beside_loops_and_autograd(per_cell_theta: bool) -> None:
    torch.manual_seed(1)
    n, p = 5, 6
    logits = torch.randn(n, p, requires_grad=True)
    library = (torch.rand(n) * 40 + 2).requires_grad_()
    log_theta = torch.randn(*((n, p) if per_cell_theta else (p,)), requires_grad=True)
    x = torch.poisson(torch.rand(n, p) * 2)
    weight = torch.randn(n)
    value = losses.negative_binomial_log_prob(
        logits, library, log_theta, losses.SparseCounts.from_dense(x)
    )
    for i in range(n):
        share = torch.softmax(logits[i].double(), 0)
        total = 0.0
        for j in range(p):
            mu = float(share[j]) * float(library[i])
            theta = math.exp(float(log_theta[i, j] if per_cell_theta else log_theta[j]))
            k = float(x[i, j])
            total += math.lgamma(k + theta) - math.lgamma(theta) - math.lgamma(k + 1)
            total += theta * math.log(theta / (theta + mu)) + k * math.log(mu / (theta + mu))
        assert abs(float(value[i]) - total) < 1e-4
    grads = torch.autograd.grad((value * weight).sum(), (logits, library, log_theta))
    mu = torch.softmax(logits, 1) * library[:, None]
    reference = NegativeBinomial(mu=mu, theta=log_theta.exp(), validate_args=False).log_prob(x)
    expected = torch.autograd.grad((reference.sum(1) * weight).sum(), (logits, library, log_theta))
    for one, two in zip(grads, expected, strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_poisson_beside_loops_and_autograd() -> None:
    torch.manual_seed(1)
    n, p = 5, 6
    logits = torch.randn(n, p, requires_grad=True)
    library = (torch.rand(n) * 40 + 2).requires_grad_()
    x = torch.poisson(torch.rand(n, p) * 2)
    x[0] = 0
    weight = torch.randn(n)
    value = losses.poisson_log_prob(logits, library, losses.SparseCounts.from_dense(x))
    for i in range(n):
        share = torch.softmax(logits[i].double(), 0)
        total = 0.0
        for j in range(p):
            mu = float(share[j]) * float(library[i])
            total += float(x[i, j]) * math.log(mu) - mu - math.lgamma(float(x[i, j]) + 1)
        assert abs(float(value[i]) - total) < 1e-4
    grads = torch.autograd.grad((value * weight).sum(), (logits, library))
    mu = torch.softmax(logits, 1) * library[:, None]
    reference = torch.distributions.Poisson(mu).log_prob(x).sum(1)
    expected = torch.autograd.grad((reference * weight).sum(), (logits, library))
    for one, two in zip(grads, expected, strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_losses_of_a_minibatch_without_rows_have_a_gradient() -> None:
    rows = {"a": torch.arange(2), "b": torch.tensor([], dtype=torch.long)}
    values = {"a": torch.randn(2, 3, requires_grad=True), "b": torch.zeros(0, 3)}
    fused = losses.fuse_mean(values, rows, 2, unit=True)
    for align in (losses.cosine_to_fused, losses.squared_to_fused):
        loss = align(values, rows, fused)
        assert torch.isfinite(loss)
        loss.backward(retain_graph=True)
