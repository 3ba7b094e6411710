"""What is peculiar to batches, told from their composition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import KMeans

if TYPE_CHECKING:
    from collections.abc import Mapping

N_CLUSTERS = 5
"""Clusters by which the compositions of batches are compared."""
N_ROUNDS = 10
"""Times that clusters and maps are found anew."""
MIN_CELLS = 20
"""Batches with fewer cells are left as they are."""
MAX_CELLS = 5000
"""Cells of a batch that it is judged by, at most."""
MIN_OVERLAP = 0.1
"""Least share of the cells of a batch that are like others."""
MAX_RATIO = 5.0
"""Largest factor by which a column of a batch is stretched or shrunk."""


@dataclass(frozen=True)
class Clusters:
    """Cells of all batches, once what is peculiar to each is taken out."""

    share: np.ndarray
    """(k,) shares of the cells."""
    mean: np.ndarray
    """(k, p) means."""
    variance: np.ndarray
    """(k, p) variances."""

    @classmethod
    def of(cls, x: np.ndarray, labels: np.ndarray, k: int) -> Clusters:
        """Clusters of (n, p) values with (n,) labels."""
        size = np.bincount(labels, minlength=k)
        parts = [x[labels == j] if size[j] else np.zeros((1, x.shape[1])) for j in range(k)]
        mean, variance = (np.stack([f(part, axis=0) for part in parts]) for f in (np.mean, np.var))
        return cls(size / len(x), mean, variance)

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """(n,) labels of (n, p) values."""
        product = x @ self.mean.T
        length = np.square(self.mean).sum(axis=1)
        return np.argmin(np.where(self.share > 0, length - 2 * product, np.inf), axis=1)

    def moments(self, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(p,) means and standard deviations in a composition of (k,) shares."""
        mean = share @ self.mean
        return mean, np.sqrt(np.maximum(share @ (self.variance + self.mean**2) - mean**2, 0))

    def map_from(self, x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(p,) factors and shifts that bring the (n, p) values of a batch to those of all.

        Means and standard deviations are compared in the composition that both have: of each
        cluster the smaller of the two shares. Where they have too little in common all cells are.
        """
        own = Clusters.of(x, labels, len(self.share))
        both = np.minimum(own.share, self.share)
        enough = both.sum() >= MIN_OVERLAP
        shares = [both / both.sum()] * 2 if enough else [own.share, self.share]
        (mean, sd), (target, spread) = own.moments(shares[0]), self.moments(shares[1])
        varies = (sd > 0) & (spread > 0)
        ratio = np.divide(spread, sd, out=np.ones_like(sd), where=varies)
        ratio = np.clip(ratio, 1 / MAX_RATIO, MAX_RATIO)
        return ratio, target - mean * ratio


Maps = dict[int, tuple[np.ndarray, np.ndarray]]
"""By batch, (p,) factors and shifts."""


def batch_maps(
    x: np.ndarray, codes: np.ndarray, labels: np.ndarray | None = None
) -> tuple[Maps, Clusters]:
    """Maps that bring batches to one location and scale, and the clusters of all their cells.

    Batches that differ in composition also differ in their means. So they are compared cluster by
    cluster, which are those of the corrected values: maps and clusters are found in turn.

    Parameters
    ----------
    x
        (n, p) values.
    codes
        (n,) batches; those with fewer than 20 cells get no map.
    labels
        (n,) clusters of the cells, by default found.
    """
    parts = {int(b): codes == b for b in np.unique(codes) if (codes == b).sum() >= MIN_CELLS}
    # 1. two starts: batches as they are, and with the same mean and standard deviation
    within = np.concatenate([x[cells] - x[cells].mean(axis=0) for cells in parts.values()] or [x])
    whole = Clusters(np.ones(1), x.mean(axis=0)[None], within.var(axis=0)[None])
    starts: tuple[Maps, Maps] = {}, {}
    for batch, cells in parts.items():
        starts[1][batch] = whole.map_from(x[cells], np.zeros(cells.sum(), dtype=int))
    # 2. the one is better for batches that differ in composition alone, the other for those that
    #    lie apart: the better one leaves clusters that are of all batches
    results = [_refined(x, codes, parts, maps, labels) for maps in starts]
    return max(results, key=lambda result: result[2])[:2]


def _refined(
    x: np.ndarray,
    codes: np.ndarray,
    parts: Mapping[int, np.ndarray],
    maps: Maps,
    labels: np.ndarray | None,
) -> tuple[Maps, Clusters, float]:
    """Maps by clusters of what the maps so far leave, in turn, and how well clusters are mixed."""
    k = min(N_CLUSTERS, max(1, len(x) // MIN_CELLS))
    found = labels if labels is not None else np.zeros(len(x), dtype=int)
    for _ in range(N_ROUNDS):
        corrected = apply_maps(x, codes, maps)
        if labels is None:
            found = KMeans(k, n_init=1, random_state=0).fit_predict(corrected)
        clusters = Clusters.of(corrected, found, N_CLUSTERS)
        maps = {b: clusters.map_from(x[cells], found[cells]) for b, cells in parts.items()}
    own = (np.bincount(found[c], minlength=N_CLUSTERS) / c.sum() for c in parts.values())
    overlap = [np.minimum(share, clusters.share).sum() for share in own]
    return maps, clusters, float(np.mean(overlap)) if overlap else 0.0


def sample_cells(n_cells: int, max_cells: int) -> np.ndarray:
    """Sorted row numbers of at most `max_cells` cells, always the same.

    Examples
    --------
    >>> from cantata._numeric.batches import sample_cells
    >>> sample_cells(3, max_cells=5)
    array([0, 1, 2])
    >>> len(sample_cells(100, max_cells=5))
    5
    """
    if n_cells <= max_cells:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(0).choice(n_cells, max_cells, replace=False))


def sampled_by_batch(codes: np.ndarray) -> np.ndarray:
    """Positions of at most 5,000 cells of each batch, drawn evenly."""
    cells = [np.flatnonzero(codes == batch) for batch in np.unique(codes)]
    return np.concatenate([part[sample_cells(len(part), MAX_CELLS)] for part in cells])


def new_batch_map(x: np.ndarray, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """(p,) factors and shifts that bring the (n, p) values of a new batch to known clusters."""
    mean, sd = clusters.moments(clusters.share)
    whole = Clusters(np.ones(1), mean[None], sd[None] ** 2)
    ratio, shift = whole.map_from(x, np.zeros(len(x), dtype=int))
    for _ in range(N_ROUNDS):
        ratio, shift = clusters.map_from(x, clusters.nearest(x * ratio + shift))
    return ratio, shift


def apply_maps(x: np.ndarray, codes: np.ndarray, maps: Mapping[int, tuple]) -> np.ndarray:
    """(n, p) values, those of each batch that has a map brought to those of all."""
    result = x.copy()
    for batch, (ratio, shift) in maps.items():
        cells = codes == batch
        result[cells] = x[cells] * ratio + shift
    return result
