"""Imputation by measured cells that are near, in place of a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cantata._numeric.neighbors import nearest_neighbors

if TYPE_CHECKING:
    from torch import Tensor

    from cantata._mudata.values import RowReader
    from cantata.nn import EncoderInput


class NearestCells:
    """The `k` measured cells of a modality that are nearest to given embeddings.

    `reference` are (m, q) embeddings of its cells, `read` their values by row number, and `layer`
    knows the total that values are scaled to.
    """

    def __init__(
        self, reference: np.ndarray, k: int, read: RowReader, layer: EncoderInput
    ) -> None:
        self._reference, self._k = reference.astype(np.float64), k
        self._read, self._layer = read, layer

    def values(self, z: Tensor, library: Tensor | None) -> tuple[Tensor, Tensor]:
        """(n, p) mean and standard deviation over the nearest cells, scaled to library sizes."""
        # 1. their values, each cell read once
        query = z.cpu().numpy().astype(np.float64)
        rows = nearest_neighbors(self._reference, query, self._k)[0]
        unique, inverse = np.unique(rows, return_inverse=True)
        measured = torch.from_numpy(self._read(unique)).to(z.device)
        # 2. scaled to one total, so that a cell with many counts does not outvote the others
        if self._layer.scales_cells:
            sums = measured.sum(dim=1, keepdim=True)
            measured = measured * (self._layer.total / torch.where(sums > 0, sums, 1.0))
        near = measured[torch.from_numpy(inverse.reshape(rows.shape)).to(z.device)]
        # 3. and to the library sizes that are asked for
        if library is not None and self._layer.scales_cells:
            near = near * (library / self._layer.total)[:, None, None]
        return near.mean(dim=1), near.std(dim=1, correction=0)
