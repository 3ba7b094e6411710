"""Which cells stand for all where all would take too long."""

from __future__ import annotations

import numpy as np


def sample_cells(n_cells: int, most: int) -> np.ndarray:
    """Sorted row numbers of at most `most` cells, always the same.

    Examples
    --------
    >>> from cantata._numeric.sampling import sample_cells
    >>> sample_cells(3, most=5)
    array([0, 1, 2])
    >>> len(sample_cells(100, most=5))
    5
    """
    if n_cells <= most:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(0).choice(n_cells, most, replace=False))
