"""A fixed draw of cells, for steps that need not see all."""

from __future__ import annotations

import numpy as np


def sample_cells(n_cells: int, max_cells: int) -> np.ndarray:
    """Sorted row numbers of at most `max_cells` cells, always the same.

    Examples
    --------
    >>> from cantata._numeric.sampling import sample_cells
    >>> sample_cells(3, max_cells=5)
    array([0, 1, 2])
    >>> len(sample_cells(100, max_cells=5))
    5
    """
    if n_cells <= max_cells:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(0).choice(n_cells, max_cells, replace=False))
