"""Imputed values: made unbiased, or of measured cells that are near in place of a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cantata._numeric.neighbors import nearest_neighbors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from cantata._mudata.values import RowReader
    from cantata.nn import EncoderInput


MAX_CALIBRATION_CELLS = 5000
"""Cells of a modality that its imputed values are made unbiased on."""
MAX_FACTOR = 10.0
"""Largest factor by which values are multiplied to that end."""


def make_unbiased(
    layer: EncoderInput, values: Callable[[], Iterator[tuple[Tensor, Tensor]]]
) -> None:
    """Set the factors by which the mean of each decoded feature is that of the measured one.

    A decoder is trained on logarithms; the exponential of a mean logarithm is less than the mean
    (Jensen). Modalities with negative values are left alone.

    Parameters
    ----------
    layer
        What the modality's encoder reads, and the way back.
    values
        Gives blocks of decoded values, with the factors so far, and of measured ones of the same
        cells, both (n, p).
    """
    layer.factor.fill_(1)
    if layer.lowest.min() < 0:
        return
    # rows are brought to their sum after the factors, which a second round takes into account
    for _ in range(2):
        decoded, measured = torch.zeros_like(layer.factor), torch.zeros_like(layer.factor)
        for block, counts in values():
            decoded += block.sum(dim=0)
            measured += scaled_to_library(layer, counts).sum(dim=0)
        ratio = torch.where(decoded * measured > 0, measured / decoded.clamp(min=1e-30), 1.0)
        layer.factor *= ratio
        layer.factor.clamp_(1 / MAX_FACTOR, MAX_FACTOR)


def scaled_to_library(layer: EncoderInput, values: Tensor) -> Tensor:
    """(n, p) measured values as :meth:`EncoderInput.inverse` gives them by default."""
    if not layer.scales_cells:
        return values
    sums = values.sum(dim=1, keepdim=True)
    return values * (layer.library / torch.where(sums > 0, sums, 1.0))


class NearestCells:
    """The `k` measured cells of a modality that are nearest to given embeddings.

    `reference` are (m, q) embeddings of its cells, `read` their values by row number, and `layer`
    knows whether values are scaled to a total.
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
        measured = scaled_to_library(self._layer, measured)
        near = measured[torch.from_numpy(inverse.reshape(rows.shape)).to(z.device)]
        # 3. and to the library sizes that are asked for
        if library is not None and self._layer.scales_cells:
            near = near * (library / self._layer.library)[:, None, None]
        return near.mean(dim=1), near.std(dim=1, correction=0)
