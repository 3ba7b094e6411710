"""Calibration of values in [0, 1] to registered units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cantata.nn import in_double

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

MAX_CALIBRATION_CELLS = 5000
"""Training cells that the map back is fitted on."""


@dataclass
class Calibration:
    """Monotone map of every feature from [0, 1] to registered units, fitted to training cells.

    ``x = c_j (exp(a + y b) - 0.5)``, clipped at 0, with the median floor ``a`` and range ``b`` of
    the log counts of a cell, and c_j such that means agree. Values that are no counts are shifted
    in place of scaled.
    """

    takes_log: bool
    """Whether values are counts."""
    floor: float
    range: float
    factor: np.ndarray
    """(p,) c_j of counts; 1 for other values."""
    shift: np.ndarray
    """(p,) shift of values that are no counts."""

    @classmethod
    def fit(
        cls, measured: Iterable[np.ndarray], scaled: Iterable[Tensor], takes_log: bool
    ) -> Calibration:
        """Fit it to the (n, p) values of cells and to what the decoder gives for them.

        Both come in blocks: `measured` registered values, and `scaled` values in [0, 1]; NaN
        where a feature was not measured.
        """
        # 1. the floor and range of a typical cell, which unmeasured cells are given
        lowest, highest = [], []
        total: Any = 0.0
        n: Any = 0
        for block in measured:
            values = np.log(block + 0.5) if takes_log else block
            lowest.append(np.nanmin(values, axis=1))
            highest.append(np.nanmax(values, axis=1))
            total = total + np.nansum(block, axis=0, dtype=np.float64)
            n = n + (~np.isnan(block)).sum(axis=0)
        floor = float(np.median(np.concatenate(lowest)))
        span = float(np.median(np.concatenate(highest))) - floor
        # 2. what is left of each feature's mean: a factor of counts, a shift of other values
        one, none = np.ones(total.shape, np.float32), np.zeros(total.shape, np.float32)
        plain = cls(takes_log, floor, span, one, none)
        mapped: Any = sum(in_double(plain.values(block)).nansum(dim=0).cpu() for block in scaled)
        n = np.maximum(n, 1)
        mean, of_decoder = total / n, np.asarray(mapped) / n
        if takes_log:
            has = of_decoder > 0
            plain.factor = np.divide(mean, of_decoder, out=np.zeros_like(mean), where=has)
        else:
            plain.shift = mean - of_decoder
        return plain

    def values(self, scaled: Tensor) -> Tensor:
        """(n, p) values in registered units."""
        t = self.floor + scaled * self.range
        if self.takes_log:
            t = (torch.exp(t) - 0.5).clamp(min=0)
        factor, shift = (
            torch.as_tensor(x, dtype=t.dtype, device=t.device) for x in (self.factor, self.shift)
        )
        return t * factor + shift

    def state(self) -> dict[str, Any]:
        """What is saved with the model."""
        return dict(vars(self))
