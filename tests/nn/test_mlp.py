"""The multilayer perceptron beside torch's layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cantata.nn import MLP, BatchNorm1d, Covariates, initialize_weights


def test_batch_norm_of_one_row_uses_and_keeps_running_statistics() -> None:
    norm = BatchNorm1d(2)
    norm(torch.randn(50, 2) * 3 + 1)
    before = norm.running_mean.clone(), norm.running_var.clone()
    x = torch.randn(1, 2)
    out = norm(x)
    norm.eval()
    assert torch.equal(out, norm(x))
    assert torch.equal(before[0], norm.running_mean)
    assert torch.equal(before[1], norm.running_var)
    norm.train()
    many = torch.randn(9, 2)
    reference = nn.BatchNorm1d(2)
    assert torch.allclose(norm(many), reference(many), atol=1e-6)


@pytest.mark.parametrize("n", [6, 64, 128, 500])
def test_running_statistics_of_few_rows_weigh_less(n: int) -> None:
    """A last minibatch of 6 cells moves them by 6 of 128 parts of what 128 cells do."""
    torch.manual_seed(0)
    norm, reference = BatchNorm1d(3), nn.BatchNorm1d(3)
    full = torch.randn(128, 3) * 2 + 5
    for layer in (norm, reference):
        layer(full)
        assert torch.allclose(layer.running_mean, 0.1 * full.mean(dim=0))
    few = torch.randn(n, 3) * 9 - 4
    assert torch.allclose(norm(few), reference(few), atol=1e-6)
    m = 0.1 * min(1.0, n / 128)
    mean = (1 - m) * 0.1 * full.mean(dim=0) + m * few.mean(dim=0)
    variance = (1 - m) * (0.9 + 0.1 * full.var(dim=0)) + m * few.var(dim=0)
    assert torch.allclose(norm.running_mean, mean, atol=1e-5)
    assert torch.allclose(norm.running_var, variance, rtol=1e-5)
    norm.eval()
    expected = (few - mean) / (variance + 1e-5).sqrt()
    assert torch.allclose(norm(few), expected, atol=1e-5)


@pytest.mark.parametrize("use_batch_norm", [False, True])
def test_covariates_of_every_layer_then_activation_and_norm(use_batch_norm: bool) -> None:
    torch.manual_seed(0)
    net = MLP(4, 8, 2, n_categories=[3], use_batch_norm=use_batch_norm)
    x, codes = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 1])
    expected = x
    for k, layer in enumerate(net.hidden):
        effect = net.covariates[k].categorical[0][codes]
        expected = nn.functional.leaky_relu(layer(expected) + effect, 0.2)
        if use_batch_norm:
            expected = (expected - expected.mean(0)) / (
                expected.var(0, correction=0) + 1e-5
            ).sqrt()
    assert net.output is None
    assert net.n_out == 8
    torch.testing.assert_close(net(x, Covariates(codes[:, None], None)), expected)


def test_dropout_is_for_training() -> None:
    net = MLP(4, 50, 1, dropout_rate=0.5, activation=nn.ReLU())
    x = torch.ones(1, 4)
    dropped, kept = net(x), net.eval()(x)
    assert torch.equal(dropped, torch.where(dropped == 0, 0, 2 * kept))
    assert (dropped[kept > 0] == 0).any()


def test_perceptron_is_linear_layers_and_relu() -> None:
    torch.manual_seed(0)
    net = MLP(
        4,
        8,
        2,
        3,
        n_categories=[2, 3],
        n_continuous=1,
        inject_covariates=False,
        activation=nn.ReLU(),
    )
    x, values = torch.randn(5, 4), torch.randn(5, 1)
    codes = torch.tensor([[0, 2], [1, 0], [1, 1], [0, 0], [-1, 7]])
    for i in range(5):
        added = values[i] @ net.covariates[0].continuous
        for j, table in enumerate(net.covariates[0].categorical):
            code = int(codes[i, j])
            added = added + (table[code] if 0 <= code < len(table) else table.mean(dim=0))
        h = torch.relu(net.hidden[0].weight @ x[i] + net.hidden[0].bias + added)
        h = torch.relu(net.hidden[1].weight @ h + net.hidden[1].bias)
        expected = net.output.weight @ h + net.output.bias
        torch.testing.assert_close(net(x, Covariates(codes, values))[i], expected)
    assert len(net.covariates) == 1
    assert len(MLP(4, 8, 2, 3).covariates) == 0


def test_initial_weights() -> None:
    torch.manual_seed(0)
    plain, normal = (MLP(200, 300, 1, 20) for _ in range(2))
    before = [p.clone() for p in plain.parameters()]
    initialize_weights(plain, "torch")
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), before, strict=True))
    initialize_weights(normal, "normal")
    for parameter in (normal.hidden[0].weight, normal.output.weight, normal.hidden[0].bias):
        assert float(parameter.detach().std()) == pytest.approx(0.1, rel=0.15)
        assert abs(float(parameter.detach().mean())) < 0.02
