"""Networks beside their naive versions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cantata.losses import SparseCounts
from cantata.nn import LIKELIHOODS, BatchNorm1d, Covariates, CrossEncoder, Decoder, GroupedLinear


def test_grouped_linear_is_independent_layers() -> None:
    layer = GroupedLinear(3, 4, 5)
    x = torch.randn(6, 3, 4)
    for g in range(3):
        expected = x[:, g] @ layer.weight[g] + layer.bias[g]
        assert torch.allclose(layer(x)[:, g], expected, atol=1e-6)


def separate_encoders(encoder: CrossEncoder) -> list[nn.Sequential]:
    """The K perceptrons that a grouped encoder stands for, as plain torch layers."""
    h, out = encoder.n_hidden, []
    for g in range(encoder.n_groups):
        first = nn.Linear(encoder.first.in_features, h)
        part = slice(g * h, (g + 1) * h)
        first.weight.data, first.bias.data = encoder.first.weight[part], encoder.first.bias[part]
        layers: list[nn.Module] = [first, nn.LeakyReLU(0.2), nn.BatchNorm1d(h)]
        for grouped in encoder.hidden:
            linear = nn.Linear(h, h)
            linear.weight.data, linear.bias.data = grouped.weight[g].T, grouped.bias[g, 0]
            layers += [linear, nn.LeakyReLU(0.2), nn.BatchNorm1d(h)]
        head = nn.Linear(h, 2 * encoder.n_latent)
        head.weight.data, head.bias.data = encoder.head.weight[g].T, encoder.head.bias[g, 0]
        out.append(nn.Sequential(*layers, head))
    return out


def test_cross_encoder_is_independent_perceptrons() -> None:
    torch.manual_seed(0)
    encoder = CrossEncoder(7, n_groups=3, n_latent=4, n_hidden=8, n_layers=2, dropout=0.0)
    x = torch.randn(10, 7)
    loc, scale = encoder(x)
    for g, perceptron in enumerate(separate_encoders(encoder)):
        mean, raw = perceptron(x).split(4, dim=1)
        part = slice(4 * g, 4 * g + 4)
        assert torch.allclose(loc[:, part], mean, atol=1e-5)
        assert torch.allclose(scale[:, part], nn.functional.softplus(raw) + 1e-7, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_encoder_takes_any_number_of_rows(n: int, shared: bool) -> None:
    encoder = CrossEncoder(7, 2, 3, 8, shared_first_layer=shared)
    loc, scale = encoder(torch.randn(n, 7))
    assert loc.shape == scale.shape == (n, 6)
    assert torch.isfinite(loc).all()


def test_shared_first_layer_has_fewer_parameters() -> None:
    def size(shared: bool) -> int:
        encoder = CrossEncoder(1000, 4, 3, 8, shared_first_layer=shared)
        return sum(p.numel() for p in encoder.parameters())

    assert size(True) < size(False) / 3


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


def test_covariates_are_a_one_hot_product() -> None:
    layer = Covariates([3, 2], 1, 4, fan_in=5)
    codes, values = torch.tensor([[0, 1], [2, 0]]), torch.randn(2, 1)
    one_hot = torch.cat(
        [nn.functional.one_hot(codes[:, 0], 3), nn.functional.one_hot(codes[:, 1], 2)], dim=1
    ).float()
    weight = torch.cat(list(layer.categorical))
    expected = one_hot @ weight + values @ layer.continuous
    assert torch.allclose(layer(codes, values), expected, atol=1e-6)


def test_decoder_depends_on_the_batch() -> None:
    decoder = Decoder(4, [2], 0, n_hidden=8, n_layers=2).eval()
    z = torch.randn(3, 4)
    zero, one = (decoder(z, torch.full((3, 1), b), None) for b in (0, 1))
    assert not torch.allclose(zero, one)


@pytest.mark.parametrize("n_batch", [1, 3])
@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_head_agrees_with_its_distribution(name: str, n_batch: int) -> None:
    torch.manual_seed(0)
    head = LIKELIHOODS[name](8, 5, n_batch, [2], 1)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    hidden = torch.randn(4, 8)
    codes = torch.stack([torch.arange(4) % n_batch, torch.arange(4) % 2], dim=1)
    values = torch.randn(4, 1)
    x = torch.poisson(torch.rand(4, 5) * 3)
    x[:, 0] += 1
    library = x.sum(1) if head.has_library else None
    location = head.location(hidden, codes, values)
    log_prob = head.log_prob(location, library, codes, SparseCounts.from_dense(x))
    distribution = head.distribution(location, library, codes)
    seen = (x > 0).float() if name == "bernoulli" else x
    assert torch.allclose(log_prob, distribution.log_prob(seen).sum(1), atol=1e-3)
    assert distribution.mean.shape == (4, 5)
    if head.has_library and name != "zinb":
        assert torch.allclose(distribution.mean.sum(1), library, rtol=1e-4)
    loss = -log_prob.mean()
    loss.backward()
    assert all(p.grad is not None for p in head.parameters())
