"""Convolutional networks for images of single cells, and their flips and quarter turns."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cantata.nn._covariates import CovariateEffects
from cantata.nn._mlp import BatchNorm2d
from cantata.nn._precision import in_double

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cantata.nn._covariates import Covariates

N_VIEWS = 8
"""Flips and quarter turns of an image, itself among them."""
POOLED_SIDE = 32
"""Largest side of images whose pixels are rotated to components; larger ones are averaged."""
SLOPE = 0.2
"""Of all LeakyReLU."""


def turned(images: Tensor, view: int | Tensor) -> Tensor:
    """Images (n, channels, side, side) flipped and turned.

    View v is turned by ``v % 4`` quarters, from 4 on after a flip; 0 is the image itself. One
    view for all, or (n,) views.

    Examples
    --------
    >>> import torch
    >>> turned(torch.tensor([[[[1, 2], [3, 4]]]]), 4).squeeze()
    tensor([[2, 1],
            [4, 3]])
    """
    if isinstance(view, int):
        flipped = images.flip(-1) if view >= N_VIEWS // 2 else images
        return torch.rot90(flipped, view % 4, (-2, -1))
    result = torch.empty_like(images)
    for v in view.unique().tolist():
        rows = (view == v).nonzero().squeeze(1)
        result[rows] = turned(images[rows], v)
    return result


def _check_side(side: int, widths: Sequence[int]) -> int:
    """Side of the innermost layer."""
    inner, rest = divmod(side, 2 ** len(widths))
    if rest or not inner:
        raise ValueError(
            f"Images of {side} pixels a side cannot be halved {len(widths)} times; give at most "
            f"{(side & -side).bit_length() - 1} image_widths, or pad images."
        )
    return inner


def _channels_last(module: nn.Module) -> None:
    """Order in memory by which convolutions are a fifth faster."""
    for p in module.parameters():
        if p.dim() == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)


class ConvEncoder(nn.Module):
    """From images to features: convolutions of kernel 4 that halve the side, one for each width.

    Every convolution is followed by batch normalisation, but for the first, and LeakyReLU(0.2)
    (Zhang et al. 2026, methods). Covariates add to the features.

    Parameters
    ----------
    n_stains, side
        Shape of the images.
    widths
        Channels of each layer.
    n_branches, n_common
        Sets of features, and the layers that all have in common before each has its own; None:
        half of them.
    n_categories, n_continuous
        Covariates, see :class:`CovariateEffects`.

    Examples
    --------
    >>> import torch
    >>> net = ConvEncoder(1, 32, (4, 8))
    >>> net(torch.zeros(3, 1, 32, 32))[0].shape, net.n_out
    (torch.Size([3, 512]), 512)
    """

    def __init__(
        self,
        n_stains: int,
        side: int,
        widths: Sequence[int],
        *,
        n_branches: int = 1,
        n_common: int | None = None,
        n_categories: Sequence[int] = (),
        n_continuous: int = 0,
    ) -> None:
        super().__init__()
        inner = _check_side(side, widths)
        shapes = list(pairwise([n_stains, *widths]))

        def layers(numbers: range) -> list[nn.Module]:
            made: list[nn.Module] = []
            for number in numbers:
                a, b = shapes[number]
                made.append(nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False))
                made += [BatchNorm2d(b)] if number else []
                made.append(nn.LeakyReLU(SLOPE))
            return made

        n_common = len(shapes) // 2 if n_common is None else n_common
        self.common = nn.Sequential(*layers(range(n_common)))
        self.branches = nn.ModuleList(
            nn.Sequential(*layers(range(n_common, len(shapes))), nn.Flatten())
            for _ in range(n_branches)
        )
        self.n_out = widths[-1] * inner**2
        self.covariates = CovariateEffects(
            n_categories, n_continuous, self.n_out, fan_in=self.n_out
        )
        _channels_last(self)

    def forward(self, x: Tensor, covariates: Covariates | None = None) -> list[Tensor]:
        """(n, n_out) features by each branch from (n, n_stains, side, side)."""
        effect, hidden = self.covariates(covariates), self.common(x)
        return [branch(hidden) + effect for branch in self.branches]


class ConvDecoder(nn.Module):
    """From latents to images, the reverse of :class:`ConvEncoder`; the last layer is linear.

    Parameters
    ----------
    n_latent
        Width of the latents.
    n_stains, side, widths, n_categories, n_continuous
        As for :class:`ConvEncoder`, whose layers are gone through backwards. Covariates add to
        the first layer.

    Examples
    --------
    >>> import torch
    >>> ConvDecoder(5, 1, 32, (4, 8))(torch.zeros(3, 5)).shape
    torch.Size([3, 1, 32, 32])
    """

    def __init__(
        self,
        n_latent: int,
        n_stains: int,
        side: int,
        widths: Sequence[int],
        *,
        n_categories: Sequence[int] = (),
        n_continuous: int = 0,
    ) -> None:
        super().__init__()
        inner = _check_side(side, widths)
        n_first = widths[-1] * inner**2
        self.first = nn.Linear(n_latent, n_first)
        self.covariates = CovariateEffects(n_categories, n_continuous, n_first, fan_in=n_latent)
        layers: list[nn.Module] = [nn.ReLU(), nn.Unflatten(1, (widths[-1], inner, inner))]
        for a, b in pairwise(reversed(widths)):
            layers.append(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=False))
            layers += [BatchNorm2d(b), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(
            *layers, nn.ConvTranspose2d(widths[0], n_stains, 4, stride=2, padding=1)
        )
        _channels_last(self)

    def forward(self, z: Tensor, covariates: Covariates | None = None) -> Tensor:
        """(n, n_stains, side, side) from (n, n_latent)."""
        return self.layers(self.first(z) + self.covariates(covariates))


class ImageComponents(nn.Module):
    """Leading principal components of the pixels of images, averaged to at most 32 a side.

    The state is set by :meth:`fit`; nothing is trained.

    Parameters
    ----------
    n_stains, side
        Shape of the images.
    n_components
        Components at most.

    Examples
    --------
    >>> import torch
    >>> ImageComponents(1, 32, 5)(torch.zeros(3, 1, 32, 32)).shape
    torch.Size([3, 5])
    """

    mean: Tensor
    loadings: Tensor

    def __init__(self, n_stains: int, side: int, n_components: int) -> None:
        super().__init__()
        factors = range(-(-side // POOLED_SIDE), side + 1)
        self.factor = next(f for f in factors if side % f == 0)
        n_pixels = n_stains * (side // self.factor) ** 2
        self.n_out = min(n_components, n_pixels)
        self.register_buffer("mean", torch.zeros(n_pixels))
        self.register_buffer("loadings", torch.zeros(n_pixels, self.n_out))

    def pooled(self, images: Tensor) -> Tensor:
        """(n, pixels) averages of neighbouring pixels."""
        return functional.avg_pool2d(images, self.factor).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """(n, n_out) components; the first has a standard deviation of 1."""
        return (self.pooled(images) - self.mean) @ self.loadings

    def fit(self, images: Tensor) -> None:
        """Set the components by the (n, n_stains, side, side) images in all their views."""
        with torch.no_grad():
            # 1. moments of the pixels over all views, one view at a time
            size = len(self.mean)
            total = in_double(self.mean.new_zeros(size))
            second = in_double(self.mean.new_zeros(size, size))
            for view in range(N_VIEWS):
                x = in_double(self.pooled(turned(images, view)))
                total, second = total + x.sum(dim=0), second + x.T @ x
            n = N_VIEWS * len(images)
            mean = total / n
            covariance = second / n - torch.outer(mean, mean)
            # 2. its leading axes
            variances, axes = np.linalg.eigh(covariance.cpu().numpy())
            chosen = axes[:, ::-1][:, : self.n_out] / np.sqrt(max(variances[-1], 1e-12))
            self.mean.copy_(mean)
            self.loadings.copy_(torch.from_numpy(np.ascontiguousarray(chosen)))
