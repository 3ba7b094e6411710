"""Networks of images beside plain versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cantata.nn import (
    N_VIEWS,
    BatchNorm2d,
    ConvDecoder,
    ConvEncoder,
    Covariates,
    Featurizer,
    ImageComponents,
    turned,
)


def view_of(image: np.ndarray, view: int) -> np.ndarray:
    """One image (side, side) in one of its views, by numpy."""
    flipped = image[:, ::-1] if view >= 4 else image
    return np.rot90(flipped, view % 4)


def test_views_are_all_flips_and_turns_of_all_channels() -> None:
    images = torch.arange(2 * 3 * 16.0).reshape(2, 3, 4, 4)
    seen = set()
    for view in range(N_VIEWS):
        found = turned(images, view)
        for i in range(2):
            for c in range(3):
                expected = view_of(images[i, c].numpy(), view)
                np.testing.assert_array_equal(found[i, c], expected)
        seen.add(tuple(found[0, 0].flatten().tolist()))
    assert len(seen) == N_VIEWS
    assert torch.equal(turned(images, 0), images)


def test_each_cell_has_a_view_of_its_own() -> None:
    images, views = torch.rand(20, 2, 8, 8), torch.randint(N_VIEWS, (20,))
    found = turned(images, views)
    for i, view in enumerate(views.tolist()):
        assert torch.equal(found[i], turned(images[i : i + 1], view)[0])
    assert turned(images[:0], views[:0]).shape == (0, 2, 8, 8)


def test_components_are_those_of_all_views() -> None:
    images = torch.rand(30, 2, 16, 16)
    layer = ImageComponents(2, 16, 6)
    layer.fit(images)
    stacked = np.concatenate([turned(images, v).flatten(1).numpy() for v in range(N_VIEWS)])
    # axes of equal variance may be any in their plane: what is compared is the variances
    variances = np.linalg.svd(stacked - stacked.mean(axis=0), compute_uv=False)[:6] ** 2
    found = torch.cat([layer(turned(images, v)) for v in range(N_VIEWS)]).numpy()
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(found.var(axis=0), variances / variances[0], rtol=1e-3)
    np.testing.assert_allclose(np.corrcoef(found.T), np.eye(6), atol=1e-3)
    assert abs(found[:, 0].std() - 1) < 1e-3


@pytest.mark.parametrize(("side", "pooled"), [(16, 16), (48, 24), (80, 20), (128, 32), (112, 28)])
def test_large_images_are_averaged_before(side: int, pooled: int) -> None:
    images = torch.rand(2, 1, side, side)
    layer, f = ImageComponents(1, side, 3), side // pooled
    expected = images.reshape(2, pooled, f, pooled, f).mean(dim=(2, 4)).flatten(1)
    assert torch.allclose(layer.pooled(images), expected, atol=1e-6)


@pytest.mark.parametrize("side", [16, 32, 48])
def test_decoders_undo_the_shape_of_encoders(side: int) -> None:
    images = torch.rand(3, 2, side, side)
    encoder = ConvEncoder(2, side, (4, 8, 8, 6))
    (features,) = encoder(images)
    assert features.shape == (3, encoder.n_out) == (3, 6 * (side // 16) ** 2)
    assert ConvDecoder(5, 2, side, (4, 8, 8, 6))(torch.rand(3, 5)).shape == images.shape


def test_sides_that_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match=r"48 pixels.*halved 5 times; give at most 4"):
        ConvEncoder(1, 48, (4, 4, 4, 4, 4))


def test_covariates_enter_both() -> None:
    codes = Covariates(torch.tensor([[0], [1]]), None)
    images, z = torch.ones(2, 1, 16, 16), torch.ones(2, 3)
    encoder = ConvEncoder(1, 16, (4, 4), n_categories=[2]).eval()
    decoder = ConvDecoder(3, 1, 16, (4, 4), n_categories=[2]).eval()
    for out in (*encoder(images, codes), decoder(z, codes)):
        assert not torch.allclose(out[0], out[1])


def test_branches_share_the_first_half_alone() -> None:
    encoder = ConvEncoder(1, 16, (2, 3, 4), n_branches=2).eval()
    images = torch.rand(3, 1, 16, 16)
    features = encoder(images)
    for branch, found in zip(encoder.branches, features, strict=True):
        x = images
        for layer in (*encoder.common, *branch):
            x = layer(x)
        assert torch.allclose(found, x, atol=1e-6)
    assert not torch.allclose(*features)
    # what one branch learns moves layers in common and its own, not those of the other
    features[0].square().sum().backward()
    assert [isinstance(p, nn.Conv2d) for p in encoder.common].count(True) == 1
    assert all(p.grad is not None for p in encoder.common.parameters())
    moved = [[p.grad is not None for p in branch.parameters()] for branch in encoder.branches]
    assert all(moved[0])
    assert not any(moved[1])
    # all in common: features are the same
    first, second = ConvEncoder(1, 16, (2, 3), n_branches=2, n_common=2)(images)
    assert torch.equal(first, second)


def test_a_network_of_ones_own() -> None:
    net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5))
    trunk = Featurizer(net, (1, 16, 16))
    images = torch.rand(4, 1, 16, 16)
    assert torch.allclose(trunk.eval()(images), net(images).mean(dim=(2, 3)))
    assert trunk.n_out == 5
    assert trunk.train().network.training
    net.requires_grad_(False)
    assert not trunk.train().network.training
    with pytest.raises(ValueError, match="returns a tensor"):
        Featurizer(nn.Conv1d(4, 3, 1), (4, 9))


@pytest.mark.parametrize("n", [3, 64])
def test_running_statistics_of_few_images_weigh_less(n: int) -> None:
    """A last minibatch of 3 images moves them by 3 of 64 parts of what 64 do."""
    torch.manual_seed(0)
    norms = [m for m in ConvEncoder(1, 16, (2, 4)).modules() if isinstance(m, BatchNorm2d)]
    (norm,) = norms
    x = torch.randn(n, 4, 5, 5) * 3 + 2
    norm(x)
    share = 0.1 * n / 64
    assert torch.allclose(norm.running_mean, share * x.mean(dim=(0, 2, 3)), atol=1e-5)
    variance = 1 - share + share * x.var(dim=(0, 2, 3))
    assert torch.allclose(norm.running_var, variance, atol=1e-4)
