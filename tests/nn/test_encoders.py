"""Encoders beside their naive versions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cantata.nn import MLP, CrossEncoder, GroupedLinear, SplitEncoder


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
    encoder = CrossEncoder(7, n_groups=3, n_latent=4, n_hidden=8, n_layers=2, dropout_rate=0.0)
    x = torch.randn(10, 7)
    loc, scale = encoder(x)
    for g, perceptron in enumerate(separate_encoders(encoder)):
        mean, raw = perceptron(x).split(4, dim=1)
        part = slice(4 * g, 4 * g + 4)
        assert torch.allclose(loc[:, part], mean, atol=1e-5)
        assert torch.allclose(scale[:, part], nn.functional.softplus(raw) + 1e-7, atol=1e-5)


def test_cross_encoder_starts_at_its_linear_map() -> None:
    encoder = CrossEncoder(7, n_groups=2, n_latent=3, n_hidden=8, linear=True).eval()
    x, slope, offset = torch.randn(5, 7), torch.randn(7, 6), torch.randn(6)
    straight, added, _ = encoder.parts(x)
    assert not straight.any()
    assert added.all()
    encoder.set_linear(slope, offset)
    straight, added, scale = encoder.parts(x)
    assert torch.allclose(straight, x @ slope + offset, atol=1e-6)
    assert not added.any()
    assert float(scale.detach().mean()) == pytest.approx(0.1, rel=0.5)
    assert torch.equal(encoder(x)[0], straight)
    assert not {"slope", "offset"} & {name for name, _ in encoder.named_parameters()}


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


def test_encoder_starts_at_its_linear_map():
    encoder = SplitEncoder(MLP(4, 8, 2), 4, 2, 1).eval()
    weights, offset = torch.randn(4, 3), torch.randn(3)
    encoder.set_linear(weights, offset)
    x = torch.randn(5, 4)
    shared, specific = encoder(x)
    assert torch.allclose(torch.cat([shared, specific], dim=1), x @ weights + offset, atol=1e-6)


def test_encoder_without_specific_part():
    shared, specific = SplitEncoder(MLP(4, 8, 2), 4, 2, 0)(torch.zeros(3, 4))
    assert shared.shape == (3, 2)
    assert specific.shape == (3, 0)
