"""Errors and likelihoods of decoded values beside loops."""

from __future__ import annotations

import math

import pytest
import torch
from loops import DTYPES, rows, squared, tolerance
from scvi.distributions import NegativeBinomial

from cantata import losses


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


@DTYPES
@pytest.mark.parametrize("p", [4, 9])
def test_reconstruction_eq_2_first_part(dtype: torch.dtype, p: int) -> None:
    x, decoded = rows(6, 4, 0, dtype), rows(6, 4, 1, dtype)
    expected = sum(squared(u, v) / p for u, v in zip(x, decoded, strict=True)) / 6
    value = losses.reconstruction_loss(x, decoded, p)
    assert abs(float(value) - expected) < tolerance(dtype)
    assert torch.equal(losses.reconstruction_loss(x, decoded, torch.tensor(float(p))), value)
