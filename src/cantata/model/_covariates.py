"""Covariates of the cells of a minibatch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cantata._keys import BATCH, CATEGORICAL, CELL, CONTINUOUS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def batch_first(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """(n, 1 + c) codes with the batch first, and (n, d) continuous covariates.

    Without registered batches all cells are of batch 0.

    Examples
    --------
    >>> batch_first({"cell": torch.tensor([4, 7])})
    (tensor([[0],
            [0]]), None)
    """
    batch = tensors.get(BATCH)
    if batch is None:
        batch = torch.zeros_like(tensors[CELL])
    codes = batch.unsqueeze(1)
    if CATEGORICAL in tensors:
        codes = torch.cat([codes, tensors[CATEGORICAL]], dim=1)
    return codes, tensors.get(CONTINUOUS)
