"""Values of a minibatch that are not 0, in the order of their columns, and blocks of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

BLOCK_ENTRIES = {"cpu": 2**18}
"""Entries of a dense block, by device: one megabyte on a processor."""
OTHER_BLOCK_ENTRIES = 2**25
"""Entries of a block on other devices, which want few and large operations."""


def block_entries(device: torch.device) -> int:
    """Entries of a dense block that stays in the cache of a processor, or fills a GPU.

    Examples
    --------
    >>> block_entries(torch.device("cpu"))
    262144
    """
    return BLOCK_ENTRIES.get(device.type, OTHER_BLOCK_ENTRIES)


class Block(NamedTuple):
    """Some columns, and the values in them."""

    columns: slice
    place: Tensor
    """(nnz,) position of each value in the flattened (n, width) block."""
    row: Tensor
    """(nnz,) row of each value."""
    column: Tensor
    """(nnz,) column of each value within the block."""
    value: Tensor
    """(nnz,) values."""


class SparseValues(NamedTuple):
    """Values of a minibatch that are not 0, column by column.

    Examples
    --------
    >>> import torch
    >>> SparseValues.of(torch.tensor([[0.0, 2.0], [3.0, 0.0]])).value
    tensor([3., 2.])
    """

    row: Tensor
    """(nnz,) row of each value."""
    column: Tensor
    """(nnz,) column of each value, ascending."""
    value: Tensor
    """(nnz,) values."""
    shape: tuple[int, int]
    """Cells and features."""

    @classmethod
    def of(cls, values: Tensor) -> SparseValues:
        """Values of a matrix, dense or CSR without duplicates."""
        return cls.from_entries(*entries(values), (len(values), values.shape[1]))

    @classmethod
    def from_entries(
        cls, row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]
    ) -> SparseValues:
        """Values whose columns are in any order."""
        column, order = torch.sort(column, stable=True)
        return cls(row.index_select(0, order), column.long(), value.index_select(0, order), shape)

    def dense(self) -> Tensor:
        """(n, p) values."""
        full = self.value.new_zeros(self.shape)
        full[self.row, self.column] = self.value
        return full

    def sum_rows(self, values: Tensor) -> Tensor:
        """(n,) sums over features of one number for each value."""
        return values.new_zeros(self.shape[0]).index_add(0, self.row, values)

    def taken(self, rows: Tensor) -> SparseValues:
        """Some of the rows, in any order, repeated or left out."""
        # 1. where in `rows` each row is first, if they were sorted, and how often
        copies = torch.bincount(rows, minlength=self.shape[0])
        first, order = copies.cumsum(0) - copies, torch.argsort(rows, stable=True)
        # 2. each value as often as its row, one copy after the other
        times = copies.index_select(0, self.row)
        entry = torch.repeat_interleave(times)
        copy = torch.arange(len(entry), device=entry.device)
        copy -= (times.cumsum(0) - times).index_select(0, entry)
        row = order.index_select(0, first.index_select(0, self.row.index_select(0, entry)) + copy)
        column, value = (x.index_select(0, entry) for x in (self.column, self.value))
        return SparseValues(row, column, value, (len(rows), self.shape[1]))

    def blocks(self) -> Iterator[Block]:
        """Blocks of columns that stay in the cache once they are dense."""
        n, p = self.shape
        width = min(p, max(16, block_entries(self.value.device) // max(n, 1)))
        starts = range(0, p, width)
        # values are sorted by column, so that those of a block are a slice
        cuts = [0, len(self.column)]
        if len(starts) > 1:
            inner = torch.tensor(list(starts)[1:], device=self.column.device)
            cuts[1:1] = torch.searchsorted(self.column, inner).tolist()
        for k, start in enumerate(starts):
            columns, part = slice(start, min(start + width, p)), slice(cuts[k], cuts[k + 1])
            row, column = self.row[part], self.column[part] - start
            place = row * (columns.stop - start) + column
            yield Block(columns, place, row, column, self.value[part])


def entries(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and value of what a CSR matrix stores, or of what is not 0 in a dense one."""
    if values.layout != torch.sparse_csr:
        row, column = values.nonzero(as_tuple=True)
        return row, column, values[row, column]
    counts = values.crow_indices().diff().long()
    cells = torch.arange(len(counts), device=values.device)
    column = values.col_indices()
    row = torch.repeat_interleave(cells, counts, output_size=len(column))
    return row, column, values.values()
