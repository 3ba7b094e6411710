"""Covariates of cells, and what they add to a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cantata._keys import BATCH, CATEGORICAL, CELL, CONTINUOUS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, eq=False)
class Covariates:
    """Covariates of n cells.

    Examples
    --------
    >>> import torch
    >>> covariates = Covariates(torch.tensor([[0, 2], [1, 0]]), None)
    >>> covariates.with_batch(1).rows(slice(1)).codes
    tensor([[1, 2]])
    """

    codes: Tensor | None
    """(n, c) codes of categorical covariates, the batch first; None: there are none."""
    values: Tensor | None
    """(n, d) continuous covariates; None: there are none."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *, default_batch: bool = True) -> Self:
        """Covariates of the cells of a minibatch.

        Parameters
        ----------
        tensors
            The minibatch.
        default_batch
            Without registered batches all cells are of batch 0; otherwise there is no column for
            the batch then.

        Examples
        --------
        >>> Covariates.of({"cell": torch.tensor([4, 7])}).codes
        tensor([[0],
                [0]])
        """
        columns = []
        if BATCH in tensors:
            columns.append(tensors[BATCH].unsqueeze(1))
        elif default_batch:
            columns.append(torch.zeros_like(tensors[CELL]).unsqueeze(1))
        if CATEGORICAL in tensors:
            columns.append(tensors[CATEGORICAL])
        return cls(torch.cat(columns, dim=1) if columns else None, tensors.get(CONTINUOUS))

    def rows(self, rows: Tensor | slice) -> Covariates:
        """Covariates of some of the cells."""
        return Covariates(
            None if self.codes is None else self.codes[rows],
            None if self.values is None else self.values[rows],
        )

    def to(self, device: torch.device) -> Covariates:
        """The same covariates on a device."""
        return Covariates(
            None if self.codes is None else self.codes.to(device),
            None if self.values is None else self.values.to(device),
        )

    @property
    def batch(self) -> Tensor:
        """(n,) codes of the batch."""
        if self.codes is None:
            raise ValueError("These covariates have no column for the batch.")
        return self.codes[:, 0]

    def with_batch(self, batch: int | Tensor) -> Covariates:
        """The same covariates in another batch, one for all cells or (n,) codes."""
        other = Covariates(None if self.codes is None else self.codes.clone(), self.values)
        other.batch[:] = batch
        return other

    def without_batch(self) -> Covariates:
        """The covariates but for the first column of codes."""
        return Covariates(None if self.codes is None else self.codes[:, 1:], self.values)

    def zeros(self) -> Covariates:
        """As many cells, all of the first categories and with values of 0."""
        return Covariates(
            None if self.codes is None else torch.zeros_like(self.codes),
            None if self.values is None else torch.zeros_like(self.values),
        )


class CovariateEffects(nn.Module):
    """What covariates add to a layer: the product of their one-hot codes with a weight.

    Concatenating one-hot codes to the input of a linear layer is the same as adding one learned
    vector per category to its output, which is how it is computed. A code of -1, or beyond the
    known categories, counts as the mean of the known ones.

    Parameters
    ----------
    n_categories
        Number of categories of each categorical covariate.
    n_continuous
        Number of continuous covariates.
    n_out
        Width of the layer.
    fan_in
        Number of inputs of the layer, which sets the scale of the initial weights.

    Examples
    --------
    >>> import torch
    >>> layer = CovariateEffects([2], 0, 4, fan_in=3)
    >>> known = layer(Covariates(torch.tensor([[0], [1]]), None))
    >>> unknown = layer(Covariates(torch.tensor([[-1]]), None))
    >>> torch.allclose(unknown, known.mean(dim=0))
    True
    """

    def __init__(
        self, n_categories: Sequence[int], n_continuous: int, n_out: int, fan_in: int
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in + sum(n_categories) + n_continuous)
        self.categorical = nn.ParameterList(
            nn.Parameter(torch.empty(n, n_out).uniform_(-bound, bound)) for n in n_categories
        )
        self.continuous = (
            nn.Parameter(torch.empty(n_continuous, n_out).uniform_(-bound, bound))
            if n_continuous
            else None
        )

    def design(self, covariates: Covariates) -> tuple[Tensor, Tensor]:
        """(n, q) indicators and values of covariates, and (q, n_out) weights; q is at least 1."""
        columns, tables = [], list(self.categorical)
        for column, table in enumerate(self.categorical):
            assert covariates.codes is not None
            code, n = covariates.codes[:, column], len(table)
            known = (code >= 0) & (code < n)
            indicators = functional.one_hot(torch.where(known, code, 0), n).to(table)
            columns.append(torch.where(known.unsqueeze(1), indicators, 1 / n))
        if self.continuous is not None:
            assert covariates.values is not None
            columns.append(covariates.values.to(self.continuous))
            tables.append(self.continuous)
        return torch.cat(columns, dim=1), torch.cat(tables)

    def forward(self, covariates: Covariates) -> Tensor | float:
        """(n, n_out) sums of effects; 0 without covariates."""
        total: Tensor | float = 0.0
        for column, table in enumerate(self.categorical):
            assert covariates.codes is not None
            code = covariates.codes[:, column]
            known = (code >= 0) & (code < len(table))
            # the mean of the known categories is one more row
            extended = torch.cat([table, table.mean(dim=0, keepdim=True)])
            total = total + functional.embedding(torch.where(known, code, len(table)), extended)
        if self.continuous is not None:
            assert covariates.values is not None
            total = total + covariates.values @ self.continuous
        return total


def with_new_categories(
    old: Tensor, new: Tensor, learned: Sequence[bool] | np.ndarray | None = None
) -> Tensor:
    """Weights `old` in the shape of `new`, which may know more categories.

    Rows are categories: those added are the mean of the old ones, or of those that have `learned`
    something, if any; rows x columns say so for each column. Columns that are added, such as those
    of a discriminator that is told the batch, are the new ones.

    Examples
    --------
    >>> import torch
    >>> with_new_categories(torch.tensor([[1.0], [3.0]]), torch.zeros(3, 1)).tolist()
    [[1.0], [3.0], [2.0]]
    >>> old, learned = torch.tensor([[1.0], [3.0]]), [True, False]
    >>> with_new_categories(old, torch.zeros(3, 1), learned).tolist()
    [[1.0], [3.0], [1.0]]
    """
    if old.shape == new.shape:
        return old
    if old.dim() == 2 and old.shape[0] < new.shape[0] and old.shape[1] == new.shape[1]:
        weight = torch.ones_like(old)
        if learned is not None:
            told = torch.as_tensor(np.asarray(learned), device=old.device)
            weight = (told.unsqueeze(1) if told.dim() == 1 else told).to(old).expand_as(old)
            weight = torch.where(weight.any(dim=0), weight, 1.0)
        mean = (old * weight).sum(dim=0) / weight.sum(dim=0)
        return torch.cat([old, mean.expand(new.shape[0] - len(old), -1)])
    if old.dim() == 2 and old.shape[0] == new.shape[0] and old.shape[1] < new.shape[1]:
        return torch.cat([old, new[:, old.shape[1] :].to(old.device)], dim=1)
    raise ValueError(f"Cannot adapt weights of shape {tuple(old.shape)} to {tuple(new.shape)}.")
