"""Output layers of values that are no counts, and the encoder with two parts."""

from __future__ import annotations

import pytest
import torch

from cantata.losses import min_max_scaled
from cantata.nn import LIKELIHOODS, LOSSES, ScaledHead, SplitEncoder, SquaredHead

CODES = torch.zeros(6, 1, dtype=torch.long)


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
            loss = -head.log_prob(head.location(hidden, CODES, None), None, CODES, target).sum()
            loss.backward()
            optimizer.step()
        found = head.expected(head.location(hidden, CODES, None), None, CODES)[0]
        assert torch.allclose(found, target.dense().mean(dim=0), atol=0.02)


@pytest.mark.parametrize("covariates", [{"n_batch": 1}, {"n_batch": 2}, {"n_categories": [3]}])
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_mean_loss_is_the_mean_of_log_probs(loss, covariates):
    torch.manual_seed(0)
    head = LOSSES[loss](2, 5, **{"n_batch": 1} | covariates)
    values = torch.rand(6, 5).mul(4).round()
    target = min_max_scaled(values) if loss == "bce" else values
    codes, hidden = torch.tensor([[0, 1]] * 3 + [[head.n_batch - 1, 2]] * 3), torch.randn(6, 2)
    found = head.mean_loss(hidden, codes, None, None, target)
    expected = -head.log_prob(head.location(hidden, codes, None), None, codes, target) / 5
    assert torch.allclose(found, expected.mean())


def test_squared_head():
    head = SquaredHead(2, 3, 1)
    location = head.location(torch.ones(6, 2), CODES, None)
    assert torch.allclose(head.log_prob(location, None, CODES, location + 2), torch.tensor(-12.0))
    assert torch.equal(head.expected(location, None, CODES), location)


def test_batches_have_their_own_bias():
    head = SquaredHead(2, 3, n_batch=2)
    with torch.no_grad():
        head.bias[1] += 1
    codes = torch.tensor([[0], [1]])
    first, second = head.location(torch.ones(2, 2), codes, None)
    assert torch.allclose(second - first, torch.ones(3))


def test_encoder_starts_at_its_linear_map():
    encoder = SplitEncoder(4, 2, 1, n_hidden=8).eval()
    weights, offset = torch.randn(4, 3), torch.randn(3)
    encoder.set_linear(weights, offset)
    x = torch.randn(5, 4)
    shared, specific = encoder(x)
    assert torch.allclose(torch.cat([shared, specific], dim=1), x @ weights + offset, atol=1e-6)


def test_encoder_without_specific_part():
    shared, specific = SplitEncoder(4, 2, 0)(torch.zeros(3, 4))
    assert shared.shape == (3, 2)
    assert specific.shape == (3, 0)
