"""How dense the cells of each sample lie around a cell."""

from __future__ import annotations

import numpy as np

from cantata._numeric.neighbors import nearest_neighbors


def log_densities(x: np.ndarray, samples: np.ndarray, k: int, *, seed: int = 0) -> np.ndarray:
    r"""Log density of each sample around every cell, relative to that of all cells.

    .. math::
        \log \frac{n_s + \pi_s}{(k + 1) \, \pi_s}

    with :math:`n_s` of the `k` nearest other cells from sample :math:`s`, which has a share
    :math:`\pi_s` of all other cells: 0 where neighbours are as all cells are, and finite where
    none is of the sample.

    Parameters
    ----------
    x
        ``float64`` (n, d) embedding.
    samples
        (n,) codes of the samples, from 0 on; cells with -1 are nobody's neighbours.
    k
        Number of neighbours, fewer where there are fewer cells.
    seed
        Seed of the search among more than 100,000 cells.

    Returns
    -------
    (n, samples) log densities.
    """
    known = np.flatnonzero(samples >= 0)
    k = min(k, len(known) - 1)
    near, _ = nearest_neighbors(x[known], x, k + 1, seed=seed)
    # a cell that its copies push out of its own list gives up the last place
    itself = known[near] == np.arange(len(x))[:, None]
    itself[~itself.any(axis=1), -1] = True
    near = samples[known][near[~itself].reshape(len(x), k)]
    is_own = samples[:, None] == np.arange(samples.max() + 1)
    share = (is_own.sum(axis=0) - is_own) / (len(known) - is_own.any(axis=1, keepdims=True))
    counts = np.stack([(near == s).sum(axis=1) for s in range(samples.max() + 1)], axis=1)
    return np.log((counts + share) / ((k + 1) * share))
