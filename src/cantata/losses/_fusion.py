"""From what each modality says of a cell to what all of them say together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from collections.abc import Mapping


def mean_over_modalities(
    values: Mapping[str, Tensor], rows: Mapping[str, Tensor], n: int
) -> Tensor:
    """Mean of each cell's rows over the modalities that it has.

    Source: Tu et al. 2022, eq. 11.

    Parameters
    ----------
    values
        For each modality (n_m, d) values.
    rows
        For each modality (n_m,) the cells of these rows.
    n
        Number of cells.

    Returns
    -------
    (n, d) means; zeros for a cell without any modality.

    Examples
    --------
    >>> import torch
    >>> values = {"rna": torch.tensor([[1.0], [2.0]]), "adt": torch.tensor([[4.0]])}
    >>> rows = {"rna": torch.tensor([0, 1]), "adt": torch.tensor([1])}
    >>> mean_over_modalities(values, rows, 2)
    tensor([[1.],
            [3.]])
    """
    first = next(iter(values.values()))
    total = first.new_zeros(n, first.shape[1])
    for name, value in values.items():
        total = total.index_add(0, rows[name], value)
    return total / modality_count(rows, n).clamp(min=1).unsqueeze(1).to(total.dtype)


def modality_count(rows: Mapping[str, Tensor], n: int) -> Tensor:
    """(n,) number of modalities that each cell of the minibatch has."""
    first = next(iter(rows.values()))
    return torch.bincount(torch.cat(list(rows.values())), minlength=n) if n else first.new_zeros(0)


def fuse_mean(
    samples: Mapping[str, Tensor], rows: Mapping[str, Tensor], n: int, *, unit: bool
) -> Tensor:
    """Mean of the samples, on the unit sphere where `unit` is set.

    Source: Tu et al. 2022, eq. 11; renormalised as in the runs behind the published scores.

    Examples
    --------
    >>> import torch
    >>> samples = {"rna": torch.tensor([[1.0, 0.0]]), "adt": torch.tensor([[0.0, 1.0]])}
    >>> rows = {"rna": torch.tensor([0]), "adt": torch.tensor([0])}
    >>> fuse_mean(samples, rows, 1, unit=True)
    tensor([[0.7071, 0.7071]])
    """
    mean = mean_over_modalities(samples, rows, n)
    return normalize(mean, dim=1) if unit else mean


def product_of_experts(
    loc: Mapping[str, Tensor], scale: Mapping[str, Tensor], rows: Mapping[str, Tensor], n: int
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the product of the modalities' Gaussian posteriors.

    Source: Tu et al. 2022, eq. 6.

    Parameters
    ----------
    loc, scale
        For each modality (n_m, d) means and standard deviations.
    rows
        For each modality (n_m,) the cells of these rows.
    n
        Number of cells; each must have a modality.

    Returns
    -------
    Two (n, d) tensors.

    Examples
    --------
    >>> import torch
    >>> loc = {"rna": torch.tensor([[0.0]]), "adt": torch.tensor([[2.0]])}
    >>> scale = {"rna": torch.ones(1, 1), "adt": torch.ones(1, 1)}
    >>> rows = {"rna": torch.tensor([0]), "adt": torch.tensor([0])}
    >>> product_of_experts(loc, scale, rows, 1)
    (tensor([[1.]]), tensor([[0.7071]]))
    """
    first = next(iter(loc.values()))
    precision = first.new_zeros(n, first.shape[1])
    weighted = torch.zeros_like(precision)
    for name in loc:
        own = scale[name].pow(-2)
        precision = precision.index_add(0, rows[name], own)
        weighted = weighted.index_add(0, rows[name], own * loc[name])
    return weighted / precision, precision.rsqrt()
