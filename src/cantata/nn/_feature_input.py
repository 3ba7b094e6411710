"""Between a modality's registered values and what its autoencoder reads and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

Transform = Literal["log1p", "clr", "tfidf", "arcsinh", "identity"]
COFACTOR = 5.0
"""Of the arcsinh transform of cytometry intensities."""


class FeatureInput(nn.Module):
    """Standardise values, rotate wide modalities to components, and the way back.

    Values are transformed, standardised by feature and clipped. With `n_components` they are then
    rotated to leading principal components, orthonormal in the space of the standardised values,
    so that distances and squared errors are those of the features, as far as the components hold
    them. All that is needed is part of the state: a saved model carries its own preprocessing and
    new cells need none. Nothing here is trained.

    Parameters
    ----------
    n_features
        Number p of features.
    transform
        ``"log1p"``: scaled to a total per cell, ``log(1 + x)``. ``"clr"``: centred log ratio over
        cells, ``log(1 + x w)`` with a weight per feature. ``"tfidf"``: weighted by feature, scaled
        to a total per cell, ``log(1 + x)``, and rows of components brought to unit root mean
        square. ``"arcsinh"``: ``arcsinh(x / 5)``. ``"identity"``: as they are.
    n_components
        Number k of components; None for the p standardised features themselves.

    Examples
    --------
    >>> import torch
    >>> FeatureInput(10, "log1p", 3)(torch.ones(2, 10)).shape
    torch.Size([2, 3])
    """

    total: Tensor
    weight: Tensor
    mean: Tensor
    sd: Tensor
    ceiling: Tensor
    n_used: Tensor
    loadings: Tensor
    offset: Tensor
    patterns: Tensor

    def __init__(
        self, n_features: int, transform: Transform, n_components: int | None = None
    ) -> None:
        super().__init__()
        self.transform: Transform = transform
        self.n_out = n_features if n_components is None else n_components
        self.is_rotated = n_components is not None
        self.register_buffer("total", torch.tensor(1.0))
        self.register_buffer("weight", torch.ones(n_features))
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("sd", torch.ones(n_features))
        self.register_buffer("ceiling", torch.tensor(torch.inf))
        self.register_buffer("n_used", torch.tensor(float(n_features)))
        if n_components is not None:
            self.register_buffer("loadings", torch.zeros(n_features, n_components))
            self.register_buffer("offset", torch.zeros(n_components))
            self.register_buffer("patterns", torch.zeros(n_components, n_features))

    def set(self, values: Mapping[str, np.ndarray | float]) -> None:
        """Set the map; fewer components than were planned leave the last ones zero."""
        for name, value in values.items():
            buffer = getattr(self, name)
            given = torch.as_tensor(np.asarray(value), dtype=buffer.dtype)
            buffer.zero_()
            buffer[tuple(slice(0, size) for size in given.shape)] = given

    def standardised(self, values: Tensor) -> Tensor:
        """(n, p) transformed and standardised values, before any rotation."""
        return self._standardised(self._transformed(values))

    def forward(self, values: Tensor) -> Tensor:
        """(n, n_out) input of the encoder from (n, p) registered values, dense or CSR."""
        if values.layout == torch.sparse_csr and self.is_rotated and self.scales_cells:
            x = self._rotated_sparse(values) - self.offset
        else:
            x = self.standardised(values.to_dense())
            if not self.is_rotated:
                return x
            x = x @ self.loadings - self.offset
        if self.transform != "tfidf":
            return x
        size = (x.square().sum(dim=1, keepdim=True) / self.n_used).sqrt()
        return x / torch.where(size > 0, size, torch.ones_like(size))

    def _rotated_sparse(self, values: Tensor) -> Tensor:
        """(n, k) standardised counts times the loadings, from the counts that are not 0 alone."""
        starts, columns = values.crow_indices(), values.col_indices()
        cells = torch.arange(len(values), device=values.device)
        rows = torch.repeat_interleave(cells, starts.diff().long(), output_size=len(columns))
        weighted = values.values() * self.weight.index_select(0, columns)
        sums = weighted.new_zeros(len(values)).index_add_(0, rows, weighted)
        scale = self.total / torch.where(sums > 0, sums, 1.0)
        x = torch.log1p((weighted * scale.index_select(0, rows)).clamp(min=0))
        shift: Tensor | float = 0.0
        if self.transform != "tfidf":
            varies = self.sd > 0
            inverse = torch.where(varies, 1 / torch.where(varies, self.sd, 1.0), 0.0)
            # means of counts are not negative, so a count of 0 is never above the ceiling
            lowest = self.mean * inverse
            x = x * inverse.index_select(0, columns)
            x = torch.minimum(x, (self.ceiling + lowest).index_select(0, columns))
            shift = lowest @ self.loadings
        return (
            functional.embedding_bag(
                columns, self.loadings, starts[:-1], mode="sum", per_sample_weights=x
            )
            - shift
        )

    def _transformed(self, values: Tensor) -> Tensor:
        if self.transform == "identity":
            return values
        if self.transform == "arcsinh":
            return torch.arcsinh(values / COFACTOR)
        weighted = values * self.weight
        if self.transform == "clr":
            return torch.log1p(weighted.clamp(min=0))
        sums = weighted.sum(dim=1, keepdim=True)
        scale = self.total / torch.where(sums > 0, sums, torch.ones_like(sums))
        return torch.log1p((weighted * scale).clamp(min=0))

    def _standardised(self, x: Tensor) -> Tensor:
        if self.transform == "tfidf":
            return x
        varies = self.sd > 0
        inverse = torch.where(varies, 1 / torch.where(varies, self.sd, 1.0), 0.0)
        return torch.minimum((x - self.mean) * inverse, self.ceiling)

    def inverse(self, x: Tensor, library: Tensor | None = None) -> Tensor:
        """(n, p) values in registered units from (n, n_out) output of the decoder.

        Parameters
        ----------
        x
            Output of the decoder.
        library
            (n,) totals of the cells' values; the total that cells are scaled to by default. Only
            transforms that scale cells use it.

        Returns
        -------
        Values; those of transforms that scale cells are not negative.
        """
        x = x @ self.patterns if self.is_rotated else x
        if self.transform == "tfidf":
            values = (x + self.mean).clamp(min=0)
            return self._sized(values, library)
        return self.from_standardised(x, library)

    def from_standardised(self, x: Tensor, library: Tensor | None = None) -> Tensor:
        """(n, p) values in registered units from what :meth:`standardised` makes of them.

        Parameters
        ----------
        x, library
            As for :meth:`inverse`.
        """
        if self.transform == "tfidf":
            values = torch.expm1(x.clamp(min=0)) / torch.where(self.weight > 0, self.weight, 1.0)
            return self._sized(values, library)
        values = x * self.sd + self.mean
        if self.transform == "identity":
            return values
        if self.transform == "arcsinh":
            return COFACTOR * torch.sinh(values)
        values = torch.expm1(values.clamp(min=0))
        if self.transform == "clr":
            return values / self.weight
        return self._sized(values, library)

    def _sized(self, values: Tensor, library: Tensor | None) -> Tensor:
        """Values of cells scaled from the common total to their own."""
        return values if library is None else values * (library / self.total).unsqueeze(1)

    @property
    def scales_cells(self) -> bool:
        """Whether values are scaled to a total per cell, so that a way back needs a total."""
        return self.transform in ("log1p", "tfidf")
