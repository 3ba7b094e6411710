"""Intervals around predictions, from their errors for cells that were not trained on."""

from __future__ import annotations

import numpy as np

MIN_PER_BIN = 100
"""Calibration cells of one bin of predictions, where there are enough for two bins."""
MAX_BINS = 10


class ConformalIntervals:
    """Split-conformal intervals per feature (Vovk et al. 2005; Lei et al. 2018).

    A feature's calibration cells are divided into bins by what was predicted for them, as errors
    of high values are larger. In each bin the errors beyond `coverage`, an equal share on both
    sides, are left out, such that a new cell's value falls between the bounds with probability
    `coverage` or a little more; where values repeat, as zeros of sparse counts do, with more.
    Errors are of ``log(1 + x)`` where no value is negative.

    Parameters
    ----------
    predicted, measured
        (n, p) values of the calibration cells; NaN in `measured` where a feature was not measured.
    coverage
        Share of values that are to lie within their bounds.

    Attributes
    ----------
    is_unknown
        (p,) whether a feature was measured in too few cells; its bounds are NaN.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> predicted = rng.normal(size=(400, 1))
    >>> intervals = ConformalIntervals(predicted, predicted + rng.normal(size=(400, 1)), 0.9)
    >>> lower, upper = intervals.bounds(np.zeros((1, 1)))
    >>> bool(-2.5 < lower[0, 0] < -1) and bool(1 < upper[0, 0] < 2.5)
    True
    """

    def __init__(self, predicted: np.ndarray, measured: np.ndarray, coverage: float) -> None:
        self._takes_log = not ((measured < 0).any() or (predicted < 0).any())
        known = ~np.isnan(measured)
        enough = n_needed(coverage)
        self.is_unknown = known.sum(axis=0) < enough
        errors = self._scaled(measured) - self._scaled(predicted)
        self._edges: list[np.ndarray] = []
        self._bounds: list[np.ndarray] = []
        for j in range(predicted.shape[1]):
            of_feature = predicted[known[:, j], j]
            if self.is_unknown[j]:
                self._edges.append(np.empty(0))
                self._bounds.append(np.full((1, 2), np.nan))
                continue
            # 1. bins with equal numbers of cells; where predictions repeat there are fewer
            n_bins = int(np.clip(len(of_feature) // MIN_PER_BIN, 1, MAX_BINS))
            edges = np.quantile(of_feature, np.arange(1, n_bins) / n_bins, method="lower")
            edges = np.unique(edges)
            bins = np.searchsorted(edges, of_feature, side="right")
            # 2. the errors between which new ones fall, of all cells where a bin has too few
            own = errors[known[:, j], j]
            in_bins = [own[bins == b] for b in range(len(edges) + 1)]
            self._edges.append(edges)
            self._bounds.append(
                np.array([_bounds(e if len(e) >= enough else own, coverage) for e in in_bins])
            )

    def bounds(self, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of (m, p) predictions, in ``float32``."""
        lower, upper = np.empty(predicted.shape, "f4"), np.empty(predicted.shape, "f4")
        for j, (edges, bounds) in enumerate(zip(self._edges, self._bounds, strict=True)):
            bins = np.searchsorted(edges, predicted[:, j], side="right")
            scaled = self._scaled(predicted[:, j])
            lower[:, j], upper[:, j] = (self._unscaled(scaled + bounds[bins, k]) for k in (0, 1))
        return lower, upper

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return np.log1p(np.maximum(x, 0)) if self._takes_log else x

    def _unscaled(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(np.expm1(x), 0) if self._takes_log else x


def n_needed(coverage: float) -> int:
    """Number of calibration cells below which there would be no bound."""
    return int(np.ceil(2 / (1 - coverage) - 1e-9)) - 1


def _bounds(errors: np.ndarray, coverage: float) -> tuple[float, float]:
    """Errors that leave out (1 - coverage) / 2 on either side, of at least :func:`n_needed`."""
    ordered = np.sort(errors)
    # a new error is equally likely to fall between any two of n ordered ones
    rank = int(np.floor((len(ordered) + 1) * (1 - coverage) / 2 + 1e-9))
    return float(ordered[rank - 1]), float(ordered[-rank])
