"""Between a modality's registered values and what its encoder reads and its decoder writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cantata._numeric.batches import N_CLUSTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

Transform = Literal["log1p", "clr", "tfidf", "arcsinh", "identity"]
ARCSINH_COFACTOR = 5.0
"""What cytometry intensities are divided by before arcsinh."""
MAX_DENSITY = 0.25
"""Share of values that are not 0 above which a dense product is the faster one."""


def sparse_product(values: Tensor, table: Tensor, weights: Tensor | None = None) -> Tensor:
    """(n, k) product of a (n, p) CSR matrix with a (p, k) table.

    Its cost follows the entries of the matrix; `weights` are (nnz,) values in place of its own.

    Examples
    --------
    >>> sparse_product(torch.eye(2).to_sparse_csr(), torch.tensor([[1.0], [2.0]]))
    tensor([[1.],
            [2.]])
    """
    weights = values.values() if weights is None else weights
    return functional.embedding_bag(
        values.col_indices(),
        table,
        values.crow_indices()[:-1],
        mode="sum",
        per_sample_weights=weights,
    )


class EncoderInput(nn.Module):
    """Transform and standardise values, rotate wide modalities to components, and the way back.

    Values are transformed, standardised by feature and clipped. With `n_components` they are then
    rotated to leading principal components. All that is needed is part of the state, the transform
    too: a saved model carries its own preprocessing and new cells need none. Nothing here is
    trained: models set the state once, by fitting it to at most 20,000 cells.

    Parameters
    ----------
    n_features
        Number p of features.
    transform
        ``"log1p"``: scaled to a total per cell, ``log(1 + x)``. ``"clr"``: centred log ratio over
        cells, ``log(1 + x w)`` with a weight per feature, of cells scaled to one depth, a sum with
        other weights, unless `total` is 0. ``"tfidf"``: weighted by feature, scaled to a total
        per cell, ``log(1 + x)``, and rows of components brought to unit root mean square.
        ``"arcsinh"``: ``arcsinh(x / 5)``. ``"identity"``: as they are.
    n_components
        Number k of components; None for the p standardised features themselves.
    total
        Total that cells are scaled to unless another one is fitted.
    invertible
        Keep the way back.
    n_batch
        Number of batches that are told apart; None: they are not. Where the batch of cells is
        given, a factor and a shift for each input take out what is peculiar to it.

    Examples
    --------
    >>> import torch
    >>> EncoderInput(10, "log1p", 3)(torch.ones(2, 10)).shape
    torch.Size([2, 3])
    """

    total: Tensor
    weight: Tensor
    depth_weight: Tensor
    mean: Tensor
    inverse_sd: Tensor
    ceiling: Tensor
    batch_ratio: Tensor
    batch_shift: Tensor
    cluster_share: Tensor
    cluster_mean: Tensor
    cluster_variance: Tensor
    lowest: Tensor
    highest: Tensor
    factor: Tensor
    library: Tensor
    n_used: Tensor
    loadings: Tensor
    offset: Tensor
    coefficients: Tensor
    intercept: Tensor

    def __init__(
        self,
        n_features: int,
        transform: Transform,
        n_components: int | None = None,
        *,
        total: float = 1.0,
        invertible: bool = True,
        n_batch: int | None = None,
    ) -> None:
        super().__init__()
        self.transform: Transform = transform
        self.n_out = n_features if n_components is None else n_components
        self.is_rotated, self.is_invertible = n_components is not None, invertible
        self.register_buffer("total", torch.tensor(total))
        self.register_buffer("weight", torch.ones(n_features))
        self.register_buffer("depth_weight", torch.ones(n_features))
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("inverse_sd", torch.ones(n_features))
        self.register_buffer("ceiling", torch.full((n_features,), torch.inf))
        if n_batch is not None:
            self.register_buffer("batch_ratio", torch.ones(n_batch, self.n_out))
            self.register_buffer("batch_shift", torch.zeros(n_batch, self.n_out))
            self.register_buffer("cluster_share", torch.zeros(N_CLUSTERS))
            self.register_buffer("cluster_mean", torch.zeros(N_CLUSTERS, self.n_out))
            self.register_buffer("cluster_variance", torch.zeros(N_CLUSTERS, self.n_out))
        self.register_buffer("n_used", torch.tensor(float(n_features)))
        if n_components is not None:
            self.register_buffer("loadings", torch.zeros(n_features, n_components))
            self.register_buffer("offset", torch.zeros(n_components))
        if not invertible:
            return
        # the range of transformed values (of scaled counts for chromatin), what makes the way
        # back agree with measured means, and the total that it gives
        self.register_buffer("lowest", torch.full((n_features,), -torch.inf))
        self.register_buffer("highest", torch.full((n_features,), torch.inf))
        self.register_buffer("factor", torch.ones(n_features))
        self.register_buffer("library", torch.tensor(total))
        if n_components is not None:
            self.register_buffer("coefficients", torch.zeros(n_components, n_features))
            self.register_buffer("intercept", torch.zeros(n_features))

    def get_extra_state(self) -> Tensor:
        """The transform, as a number."""
        return torch.tensor(get_args(Transform).index(self.transform))

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the transform of a saved state."""
        self.transform = get_args(Transform)[int(state)]

    def set(self, values: Mapping[str, np.ndarray | float]) -> None:
        """Set buffers by name; fewer components than were planned leave the last ones zero."""
        for name, value in values.items():
            buffer = getattr(self, name)
            given = torch.as_tensor(np.asarray(value), dtype=buffer.dtype)
            buffer.zero_()
            buffer[tuple(slice(0, size) for size in given.shape)] = given

    @property
    def scales_cells(self) -> bool:
        """Whether values are scaled to a total per cell, so that a way back needs a total."""
        if self.transform == "clr":
            return bool(self.total > 0)
        return self.transform in ("log1p", "tfidf")

    def forward(self, values: Tensor, batch: Tensor | None = None) -> Tensor:
        """(n, n_out) input of the encoder from (n, p) registered values, dense or CSR.

        With the (n,) codes of a `batch`, what is peculiar to it is taken out; a code of -1, or
        beyond the known batches, counts as their mean.
        """
        is_sparse = values.layout == torch.sparse_csr
        is_sparse = is_sparse and len(values.values()) < MAX_DENSITY * values.numel()
        if is_sparse and self.is_rotated and self.scales_cells:
            x = self._rotated_sparse(values) - self.offset
        else:
            x = self.standardized(values.to_dense())
            if self.is_rotated:
                x = x @ self.loadings - self.offset
        if self.transform == "tfidf":
            size = (x.square().sum(dim=1, keepdim=True) / self.n_used).sqrt()
            x = x / torch.where(size > 0, size, 1.0)
        if batch is None:
            return x
        ratio, shift = self._of_batch(batch)
        return x * ratio + shift

    def _of_batch(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """(n, n_out) factors and shifts by the batch of cells."""
        known = (batch >= 0) & (batch < len(self.batch_ratio))
        row = torch.where(known, batch, len(self.batch_ratio)).long()
        ratio, shift = (
            torch.cat([x, x.mean(dim=0, keepdim=True)])[row]
            for x in (self.batch_ratio, self.batch_shift)
        )
        return ratio, shift

    def standardized(self, values: Tensor) -> Tensor:
        """(n, p) transformed and standardised values, before any rotation."""
        return torch.minimum(
            (self._transformed(values) - self.mean) * self.inverse_sd, self.ceiling
        )

    def _transformed(self, values: Tensor) -> Tensor:
        if self.transform == "identity":
            return values
        if self.transform == "arcsinh":
            return torch.arcsinh(values / ARCSINH_COFACTOR)
        if self.scales_cells:
            sums = (values * self.depth_weight).sum(dim=1, keepdim=True)
            values = values * (self.total / torch.where(sums > 0, sums, 1.0))
        return torch.log1p((values * self.weight).clamp(min=0))

    def _rotated_sparse(self, values: Tensor) -> Tensor:
        """(n, k) standardised counts times the loadings, from the counts that are not 0 alone."""
        # 1. Counts weighted by feature and scaled to the total of their cell.
        starts, columns = values.crow_indices(), values.col_indices()
        cells = torch.arange(len(values), device=values.device)
        rows = torch.repeat_interleave(cells, starts.diff().long(), output_size=len(columns))
        weighted = values.values() * self.weight.index_select(0, columns)
        depths = values.values() * self.depth_weight.index_select(0, columns)
        sums = weighted.new_zeros(len(values)).index_add_(0, rows, depths)
        scale = self.total / torch.where(sums > 0, sums, 1.0)
        x = torch.log1p((weighted * scale.index_select(0, rows)).clamp(min=0))
        # 2. Divided by standard deviations and clipped without subtracting means, so that a count
        #    of 0 stays 0; it is never above the ceiling, since means of counts are not negative.
        lowest = self.mean * self.inverse_sd
        x = x * self.inverse_sd.index_select(0, columns)
        x = torch.minimum(x, (self.ceiling + lowest).index_select(0, columns))
        # 3. Rotated, and less what the means come to once rotated.
        rotated = sparse_product(values, self.loadings, x)
        return rotated - lowest @ self.loadings

    def inverse(
        self, x: Tensor, library: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        """(n, p) values in registered units from (n, n_out) output of the decoder.

        Parameters
        ----------
        x
            Output of the decoder.
        library
            (n,) totals of the cells' values; the median total of the cells that the transform was
            fitted to by default. Only transforms that scale cells use it.
        batch
            (n,) codes of the batch, as for :meth:`forward`.

        Returns
        -------
        Values, not outside the range of those that the transform was fitted to. Rows of
        transforms that scale cells sum to the totals; `factor` makes their means unbiased.
        """
        if batch is not None:
            ratio, shift = self._of_batch(batch)
            x = (x - shift) / ratio
        if self.is_rotated:
            x = x @ self.coefficients + self.intercept
        if self.transform == "tfidf":  # regressed on scaled counts, not on their logarithms
            return self._sized(self._within(x * self.factor, self.lowest, self.highest), library)
        return self.from_standardized(x, library)

    def from_standardized(self, x: Tensor, library: Tensor | None = None) -> Tensor:
        """(n, p) values in registered units from what :meth:`standardized` makes of them.

        `library` as for :meth:`inverse`.
        """
        varies = self.inverse_sd > 0
        x = x / torch.where(varies, self.inverse_sd, 1.0) * varies + self.mean
        values = self._untransformed(x) * self.factor
        ends = self._untransformed(self.lowest), self._untransformed(self.highest)
        return self._sized(self._within(values, *ends), library)

    def _untransformed(self, x: Tensor) -> Tensor:
        if self.transform == "identity":
            return x
        if self.transform == "arcsinh":
            return ARCSINH_COFACTOR * torch.sinh(x)
        return torch.expm1(x.clamp(min=0)) / torch.where(self.weight > 0, self.weight, 1.0)

    def _within(self, values: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """Values in the range that was measured."""
        return torch.minimum(torch.maximum(values, lowest), highest)

    def _sized(self, values: Tensor, library: Tensor | None) -> Tensor:
        """Values whose rows sum to library sizes, if they are those of cells that are scaled."""
        if not self.scales_cells:
            return values
        sums = values.sum(dim=1, keepdim=True)
        sizes = self.library if library is None else library.unsqueeze(1)
        return values * (sizes / torch.where(sums > 0, sums, 1.0))
