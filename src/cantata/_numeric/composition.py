"""Sets of cells that hold the same populations in other shares."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from cantata._numeric.batches import sample_cells

N_CLUSTERS = 20
MIN_PER_CLUSTER = 50
"""Cells of the smaller set for each cluster."""
MIN_SHARE = 0.002
"""Added to every share: what is this rare counts as chance."""
MAX_WEIGHT = 3.0
MAX_FITTED = 20_000
"""Cells of either set that clusters are fitted to."""


def composition_weights(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often to draw each cell of two sets so that populations have like shares in both.

    Populations are clusters of both sets, which are compared by angle. Where one has a share p of
    the first set and q of the second, its cells weigh sqrt(q / p) there and sqrt(p / q) here, at
    most 3 and at least 1/3.

    Parameters
    ----------
    x, y
        (n, q) and (m, q) values that can be compared.

    Returns
    -------
    (n,) and (m,) weights.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> centers = 9 * np.eye(3)[[0] * 900 + [1] * 100 + [0] * 500 + [1] * 500]
    >>> values = centers + rng.normal(size=centers.shape)
    >>> first, second = composition_weights(values[:1000], values[1000:])
    >>> for weights, n in ((first, 100), (second, 500)):  # .1 and .5 of the cells
    ...     print(round(float(weights[-n:].sum() / weights.sum()), 2))
    0.24
    0.26
    """
    x, y = (normalize(np.asarray(part, dtype=np.float64)) for part in (x, y))
    smaller = min(len(x), len(y))
    k = int(np.clip(smaller // MIN_PER_CLUSTER, 1, N_CLUSTERS))
    # 1. populations, by as many cells of either set
    fitted = [part[sample_cells(len(part), min(smaller, MAX_FITTED))] for part in (x, y)]
    clusters = KMeans(k, n_init=1, random_state=0).fit(np.concatenate(fitted))
    # 2. their shares
    of_x, of_y = clusters.predict(x), clusters.predict(y)
    share_x, share_y = (np.bincount(of, minlength=k) / len(of) + MIN_SHARE for of in (of_x, of_y))
    ratio = np.clip(np.sqrt(share_y / share_x), 1 / MAX_WEIGHT, MAX_WEIGHT)
    return ratio[of_x], (1 / ratio)[of_y]
