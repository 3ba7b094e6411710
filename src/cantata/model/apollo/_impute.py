"""Calibration of values in [0, 1] to registered units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

MAX_CALIBRATION_CELLS = 5000
"""Cells that the map back is fitted on."""


class Calibration:
    """Monotone map of every feature from [0, 1] to registered units, fitted to measured cells.

    ``x = c_j (exp(a + y b) - 0.5)``, clipped at 0, with the median floor ``a`` and range ``b`` of
    the log counts of a cell, and c_j such that means agree. Values that are no counts are shifted
    in place of scaled.

    Parameters
    ----------
    scaled
        (n, p) values in [0, 1] that the decoder gives for cells.
    measured
        (n, p) registered values of the same cells.
    takes_log
        Whether these are counts.
    device
        Where values to map will be.
    """

    def __init__(
        self, scaled: np.ndarray, measured: np.ndarray, takes_log: bool, device: torch.device
    ) -> None:
        # 1. the floor and range of a typical cell, which unmeasured cells are given
        self.takes_log = takes_log
        values = np.log(measured + 0.5) if takes_log else measured
        self.floor = float(np.median(values.min(axis=1)))
        self.range = float(np.median(values.max(axis=1))) - self.floor
        # 2. what is left of each feature's mean: a factor of counts, a shift of other values
        mapped = self._mapped(torch.from_numpy(scaled)).numpy().mean(axis=0)
        factor, shift = np.float32(1.0), np.float32(0.0)
        if takes_log:
            factor = np.divide(
                measured.mean(axis=0), mapped, out=np.zeros_like(mapped), where=mapped > 0
            )
        else:
            shift = measured.mean(axis=0) - mapped
        self.factor, self.shift = (torch.as_tensor(x, device=device) for x in (factor, shift))

    def _mapped(self, scaled: Tensor) -> Tensor:
        t = self.floor + scaled * self.range
        return (torch.exp(t) - 0.5).clamp(min=0) if self.takes_log else t

    def values(self, scaled: Tensor) -> Tensor:
        """(n, p) values in registered units."""
        return self._mapped(scaled) * self.factor + self.shift
