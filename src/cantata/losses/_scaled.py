"""Cells scaled to [0, 1], as APOLLO decodes them, and the length of its latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

PSEUDOCOUNT = 0.5


class ScaledValues(NamedTuple):
    """Values in [0, 1] of a minibatch, of which only those above 0 matter; column by column."""

    row: Tensor
    """(nnz,) row of each value."""
    column: Tensor
    """(nnz,) column of each value, ascending."""
    value: Tensor
    """(nnz,) values."""
    shape: tuple[int, int]
    """Cells and features."""

    def dense(self) -> Tensor:
        """(n, p) values."""
        full = self.value.new_zeros(self.shape)
        full[self.row, self.column] = self.value
        return full


def min_max_scaled(values: Tensor, *, log: bool = True) -> ScaledValues:
    """Log counts of every cell, scaled to [0, 1] (Zhang et al. 2026, methods).

    ``y = (t - min t) / (max t - min t)`` over the features of a cell, with ``t = log(x + 0.5)``.
    A cell whose values are all equal becomes 0.

    Parameters
    ----------
    values
        (n, p) counts, dense or CSR without duplicates; negative ones are taken as 0.
    log
        Without it ``t = x``, for values that may be negative.

    Examples
    --------
    >>> import torch
    >>> min_max_scaled(torch.tensor([[0.0, 1.5, 3.5]])).dense()
    tensor([[0.0000, 0.6667, 1.0000]])
    """
    n, p = values.shape
    if not log:
        return _min_max_of_all(values.to_dense())
    row, column, value = _entries(values)
    t = torch.log(value.clamp(min=0) + PSEUDOCOUNT)
    has_zero = torch.bincount(row, minlength=n) < p
    floor = torch.full((n,), torch.inf, device=values.device)
    floor = floor.scatter_reduce(0, row, t, "amin")
    floor = torch.where(has_zero, torch.log(t.new_tensor(PSEUDOCOUNT)), floor)
    top = floor.scatter_reduce(0, row, t, "amax")
    inverse = 1 / torch.where(top > floor, top - floor, 1.0)
    y = (t - floor.index_select(0, row)) * inverse.index_select(0, row)
    return _by_column(row, column, y, (n, p))


def _min_max_of_all(values: Tensor) -> ScaledValues:
    """Values themselves, less the least of their cell, over its range."""
    shifted = values - values.amin(dim=1, keepdim=True)
    size = shifted.amax(dim=1, keepdim=True)
    scaled = shifted / torch.where(size > 0, size, 1.0)
    row, column = scaled.nonzero(as_tuple=True)
    return _by_column(row, column, scaled[row, column], (len(values), values.shape[1]))


def _entries(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and value of what a matrix stores, or of what is not 0 in a dense one."""
    if values.layout != torch.sparse_csr:
        row, column = values.nonzero(as_tuple=True)
        return row, column, values[row, column]
    counts = values.crow_indices().diff().long()
    cells = torch.arange(len(counts), device=values.device)
    column = values.col_indices()
    row = torch.repeat_interleave(cells, counts, output_size=len(column))
    return row, column, values.values()


def _by_column(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> ScaledValues:
    column, order = torch.sort(column, stable=True)
    return ScaledValues(
        row.index_select(0, order), column.long(), value.index_select(0, order), shape
    )


def norm_penalty(z: Tensor) -> Tensor:
    """Mean length of the latents of a minibatch, divided by their width.

    Zhang et al. 2026, eq. 1, one of its last terms, with the norm (not its square) as printed,
    and the division by the width as in the reference implementation.

    Parameters
    ----------
    z
        (n, d) latents without noise.

    Examples
    --------
    >>> import torch
    >>> norm_penalty(torch.tensor([[3.0, 4.0]]))
    tensor(2.5000)
    """
    # the length of a vector of zeros has no derivative
    return (z.square().sum(dim=1) + 1e-12).sqrt().mean() / z.shape[1]
