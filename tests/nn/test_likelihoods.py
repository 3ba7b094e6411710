"""Output layers beside their distributions and naive losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from torch import nn

from cantata.losses import SparseValues, min_max_scaled
from cantata.nn import LIKELIHOODS, LOSSES, Covariates, ScaledHead, SquaredHead

ONE_BATCH = Covariates(torch.zeros(6, 1, dtype=torch.long), None)


def test_losses_are_likelihoods_and_two_more():
    assert set(LOSSES) - set(LIKELIHOODS) == {"bce", "mse"}


def test_scaled_head_finds_the_mean_whatever_the_weight():
    torch.manual_seed(0)
    values = torch.tensor([[0.0, 1.0, 3.0], [0.0, 3.0, 3.0]]).repeat(3, 1)
    target = min_max_scaled(values)
    for weight in (1.0, 5.0):
        head = ScaledHead(1, 3, 1)
        head.pos_weight.fill_(weight)
        hidden = torch.ones(6, 1)
        optimizer = torch.optim.Adam(head.output.parameters(), lr=0.1)
        for _ in range(400):
            optimizer.zero_grad()
            loss = -head.log_prob(head.location(hidden, ONE_BATCH), None, ONE_BATCH, target).sum()
            loss.backward()
            optimizer.step()
        found = head.expected(head.location(hidden, ONE_BATCH), None, ONE_BATCH)[0]
        assert torch.allclose(found, target.dense().mean(dim=0), atol=0.02)


@pytest.mark.parametrize("covariates", [{"n_batch": 1}, {"n_batch": 2}, {"n_categories": [3]}])
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_mean_loss_is_the_mean_of_log_probs(loss, covariates):
    torch.manual_seed(0)
    head = LOSSES[loss](2, 5, **{"n_batch": 1} | covariates)
    values = torch.rand(6, 5).mul(4).round()
    target = min_max_scaled(values) if loss == "bce" else values
    codes, hidden = torch.tensor([[0, 1]] * 3 + [[head.n_batch - 1, 2]] * 3), torch.randn(6, 2)
    own = Covariates(codes, None)
    found = head.mean_loss(hidden, own, None, target)
    expected = -head.log_prob(head.location(hidden, own), None, own, target) / 5
    assert torch.allclose(found, expected.mean())


def test_squared_head():
    head = SquaredHead(2, 3, 1)
    location = head.location(torch.ones(6, 2), ONE_BATCH)
    assert torch.allclose(
        head.log_prob(location, None, ONE_BATCH, location + 2), torch.tensor(-12.0)
    )
    assert torch.equal(head.expected(location, None, ONE_BATCH), location)


def test_batches_have_their_own_bias():
    head = SquaredHead(2, 3, n_batch=2)
    with torch.no_grad():
        head.bias[1] += 1
    batches = Covariates(torch.tensor([[0], [1]]), None)
    first, second = head.location(torch.ones(2, 2), batches)
    assert torch.allclose(second - first, torch.ones(3))


@pytest.mark.parametrize("n_batch", [1, 3])
@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_head_agrees_with_its_distribution(name: str, n_batch: int) -> None:
    torch.manual_seed(0)
    head = LIKELIHOODS[name](8, 5, n_batch, [2], 1)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    hidden = torch.randn(4, 8)
    codes = torch.stack([torch.arange(4) % n_batch, torch.arange(4) % 2], dim=1)
    covariates = Covariates(codes, torch.randn(4, 1))
    x = torch.poisson(torch.rand(4, 5) * 3)
    x[:, 0] += 1
    library = x.sum(1) if head.has_library else None
    location = head.location(hidden, covariates)
    log_prob = head.log_prob(location, library, covariates, SparseValues.of(x))
    taken = torch.tensor([3, 0, 0, 2, 1, 3])  # rows may repeat
    of_hidden = head.log_prob_of_hidden(
        hidden[taken],
        covariates,
        None if library is None else library[taken],
        SparseValues.of(x),
        taken,
    )
    torch.testing.assert_close(of_hidden, log_prob[taken])
    distribution = head.distribution(location, library, covariates)
    seen = (x > 0).float() if name == "bernoulli" else x
    assert torch.allclose(log_prob, distribution.log_prob(seen).sum(1), atol=1e-3)
    assert distribution.mean.shape == (4, 5)
    if head.has_library and name != "zinb":
        assert torch.allclose(distribution.mean.sum(1), library, rtol=1e-4)
    assert all(
        torch.allclose(*gradients, atol=1e-4)
        for gradients in zip(
            *(
                torch.autograd.grad(value.mean(), list(head.parameters()))
                for value in (log_prob[taken], of_hidden)
            ),
            strict=True,
        )
    )


@pytest.mark.parametrize("n_batch", [1, 2])
def test_mixture_of_background_and_foreground_beside_a_loop(n_batch: int) -> None:
    torch.manual_seed(0)
    n, p = 4, 3
    head = LIKELIHOODS["nb_mixture"](5, p, n_batch)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.7)
    hidden = torch.randn(n, 5)
    covariates = Covariates(torch.arange(n).unsqueeze(1) % n_batch, None)
    counts = torch.poisson(torch.rand(n, p) * 10)
    library = counts.sum(dim=1) + 1
    location = head.location(hidden, covariates)
    found = head.log_prob(location, library, covariates, SparseValues.of(counts))
    mean = head.expected(location, library, covariates)
    foreground = head.foreground(location, library, covariates)
    shares = location[:, :p].softmax(dim=1)
    location, shares, found, mean, foreground = (
        x.detach() for x in (location, shares, found, mean, foreground)
    )
    for i in range(n):
        total = 0.0
        for j in range(p):
            rho, pi = (float(location[i, k * p + j].sigmoid()) for k in (1, 2))
            theta = float(head.log_theta[i % n_batch, j].detach().exp())
            f = float(library[i] * shares[i, j]) / (1 - pi + pi * rho)
            of_both = [
                weight * nbinom.pmf(float(counts[i, j]), theta, theta / (theta + mu))
                for weight, mu in ((pi, rho * f), (1 - pi, f))
            ]
            total += math.log(sum(of_both))
            assert float(mean[i, j]) == pytest.approx(pi * rho * f + (1 - pi) * f, rel=1e-4)
            assert float(foreground[i, j]) == pytest.approx((1 - pi) * f, rel=1e-4)
        assert float(found[i]) == pytest.approx(total, rel=1e-4)
    torch.testing.assert_close(mean.sum(dim=1), library)


@pytest.mark.parametrize("panel", [False, True])
@pytest.mark.parametrize("name", ["nb", "poisson", "topics", "nb_mixture"])
def test_fitted_library_is_the_likeliest(name: str, panel: bool) -> None:
    """Of each cell, beside a search over a fine grid."""
    torch.manual_seed(0)
    head = LIKELIHOODS[name](4, 6, 2)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    covariates = Covariates(torch.arange(5).unsqueeze(1) % 2, None)
    counts = torch.poisson(torch.rand(5, 6) * 20) + 1
    if panel:
        measured = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
        head.set_measured(measured, measured.all(dim=0))
        counts[1::2, 4:] = 0
    location = head.location(torch.randn(5, 4), covariates)
    found = head.fitted_library(location, covariates, counts)
    if head.totals_are_likeliest:
        torch.testing.assert_close(found, counts.sum(dim=1))
    assert head.totals_are_likeliest == (name in ("poisson", "topics") and not panel)
    grid = torch.linspace(-2, 16, 1801)
    seen = SparseValues.of(counts)
    with torch.no_grad():
        log_probs = torch.stack(
            [head.log_prob(location, size.exp().expand(5), covariates, seen) for size in grid]
        )
    torch.testing.assert_close(found.log(), grid[log_probs.argmax(dim=0)], atol=2e-2, rtol=0)


# Panels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(LOSSES))
def test_features_that_a_batch_did_not_measure_have_no_part(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the output layer had no such feature there: value and gradient."""
    monkeypatch.setattr("cantata.nn._likelihoods.N_TOPICS", 2)
    torch.manual_seed(0)
    head = LOSSES[name](4, 5, 2)
    narrow = LOSSES[name](4, 3, 2)
    kept = torch.tensor([0, 2, 3])
    measured = torch.tensor([[True] * 5, [True, False, True, True, False]])
    with torch.no_grad():
        for (key, value), whole in zip(narrow.named_parameters(), head.parameters(), strict=True):
            whole.normal_()
            if name == "topics" and key.startswith("output"):
                value.copy_(whole)
                continue
            if key.startswith("components"):
                picked = whole[torch.cat([kept, kept + 5])]
            else:
                picked = whole[kept] if key.startswith(("output", "topics")) else whole[:, kept]
            value.copy_(picked)
    head.set_measured(measured, measured.all(dim=0))
    hidden = torch.randn(6, 4)
    covariates = Covariates(torch.ones(6, 1, dtype=torch.long), None)
    values = torch.poisson(torch.full((6, 5), 3.0)) + 1
    values[:, [1, 4]] = 0
    losses = []
    for layer, x in ((head, values), (narrow, values[:, kept])):
        if name == "bce":
            target = min_max_scaled(x, log=True)
        else:
            target = x if name == "mse" else SparseValues.of(x)
        library = layer.observed_library(x) if layer.has_library else None
        location = layer.location(hidden, covariates)
        if name == "topics" or layer.terms is not None:
            losses.append(layer.log_prob_of_hidden(hidden, covariates, library, target))
        else:
            losses.append(layer.log_prob(location, library, covariates, target))
        losses[-1].sum().backward()
    if name != "bce":  # which is scaled by the least value of a cell
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(head.bias.grad[:, kept], narrow.bias.grad)
        of_weight = head.output.weight.grad
        expected = of_weight if name == "topics" else of_weight[kept]
        torch.testing.assert_close(expected, narrow.output.weight.grad)
    assert torch.equal(head.bias.grad[:, [1, 4]], torch.zeros(2, 2))
    if name != "topics":
        assert torch.equal(head.output.weight.grad[[1, 4]], torch.zeros(2, 4))


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "topics", "nb_mixture"])
def test_library_sizes_count_what_all_batches_measured(name: str) -> None:
    torch.manual_seed(0)
    head = LOSSES[name](4, 5, 2)
    measured = torch.tensor([[True] * 5, [True, False, True, True, False]])
    head.set_measured(measured, measured.all(dim=0))
    torch.nn.init.normal_(head.bias)
    hidden, library = torch.randn(6, 4), torch.linspace(10, 60, 6)
    for batch in (0, 1):
        covariates = Covariates(torch.full((6, 1), batch), None)
        expected = head.expected(head.location(hidden, covariates), library, covariates)
        if name != "zinb":
            torch.testing.assert_close(expected[:, [0, 2, 3]].sum(dim=1), library)
        assert bool((expected[:, [1, 4]] > 0).all()) == (batch == 0)


@pytest.mark.parametrize("name", list(LOSSES))
def test_frozen_heads_learn_batches_and_covariates_alone(name: str) -> None:
    head = LOSSES[name](4, 5, 3, [2])
    head.freeze()
    for key, parameter in head.named_parameters():
        of_batches = parameter.shape == (3, 5) or key.startswith("covariates")
        assert parameter.requires_grad == of_batches, key


@pytest.mark.parametrize("name", ["topics", "nb_mixture"])
def test_rare_features_are_found_within_a_short_training(name: str) -> None:
    """They start at their shares, in the batches that measured them."""
    rng = np.random.default_rng(0)
    p, n = 80, 512
    rate = np.exp(rng.normal(-1, 1.5, (1, p)) + rng.normal(0, 0.3, (2, p)))
    codes = np.arange(n) % 2
    x = torch.from_numpy(rng.poisson(rate[codes])).float()
    measured = torch.ones(2, p, dtype=torch.bool)
    measured[1, :10] = False
    x[1::2, :10] = 0
    torch.manual_seed(0)
    head = LIKELIHOODS[name](16, p, 2)
    head.set_measured(measured, measured.all(dim=0))
    head.set_shares(torch.stack([x[0::2].sum(dim=0), x[1::2].sum(dim=0)]))
    hidden, library = torch.randn(n, 16).relu(), head.observed_library(x)
    covariates = Covariates(torch.from_numpy(codes).unsqueeze(1), None)
    optimizer = torch.optim.RMSprop(head.parameters(), lr=2e-3)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / 200)
        rows = torch.randint(n, (64,))
        loss = -head.log_prob_of_hidden(
            hidden[rows], covariates.rows(rows), library[rows], SparseValues.of(x[rows])
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        expected = head.expected(head.location(hidden, covariates), library, covariates)
    seen = measured[codes] & torch.from_numpy(rate[codes] > 0.02)
    ratio = (expected * seen).sum(dim=0) / (x * seen).sum(dim=0)
    assert float(ratio.nanquantile(0.02)) > 0.6
    assert float(ratio.nanquantile(0.98)) < 1.6
