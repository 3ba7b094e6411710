"""How many canonical correlations hold on cells that they were not fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cantata._numeric.canonical import CanonicalVariates, canonical_variates, mean_correlations
from cantata.tl._dimension_chance import threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

N_FOLDS = 2
"""Variates of one half of the cells are correlated on the other. With more folds, which share most
of the cells that they are fitted on, chance correlations agree and add up."""


@dataclass(frozen=True)
class SharedVariates:
    """Cross-validated canonical correlations.

    ``correlations`` and ``by_block`` (blocks x variates) are means over the held-out folds: of all
    pairs of blocks, and of each block with the mean of the others. ``null`` and ``null_by_block``
    are what permuted cells rarely exceed. ``n`` is the number of variates before the first that
    does not exceed both ``null`` and ``least``.
    """

    fitted: CanonicalVariates
    correlations: np.ndarray
    null: float
    by_block: np.ndarray
    null_by_block: float
    least: float
    n: int

    def basis(self, k: int, rows: np.ndarray) -> np.ndarray:
        """Orthonormal centred columns that span what cells' own variates of block `k` hold.

        Only shared variates count, and only those in which the block takes part: of three
        modalities, one may have nothing of what the other two share.
        """
        least = max(self.null_by_block, self.least)
        takes_part = np.flatnonzero(self.by_block[k, : self.n] > least)
        variates = self.fitted.transform(k, rows)[:, takes_part]
        return np.linalg.qr(variates - variates.mean(axis=0))[0]


def shared_variates(
    blocks: Sequence[np.ndarray],
    most: int,
    *,
    least: float,
    n_permutations: int,
    alpha: float,
    seed: int,
) -> SharedVariates:
    """Canonical variates, and how many of them are more than chance.

    Variates are fitted on one half of the cells and correlated on the other, both ways. By chance:
    the same after the cells of every modality but the first were permuted. All variates have one
    threshold, since the correlation of independent held-out columns depends on the number of cells
    alone.

    Parameters
    ----------
    blocks
        For each modality, components of the same cells (cells x components).
    most
        Largest number of variates.
    least
        Correlation from which on a variate counts.
    n_permutations
        Number of permutations.
    alpha
        Share of permutations that may exceed the threshold.
    seed
        Seed of the folds and the permutations.
    """
    n_cells = len(blocks[0])
    order = np.random.default_rng([seed, 0]).permutation(n_cells)
    folds = [np.sort(fold) for fold in np.array_split(order, N_FOLDS)]
    observed = _cross_validated(blocks, folds, most)
    rng = np.random.default_rng([seed, 1])
    by_chance = []
    for _ in range(n_permutations):
        shuffled = [blocks[0], *(rng.permutation(x) for x in blocks[1:])]
        by_chance.append(_cross_validated(shuffled, folds, most))
    null = threshold(np.concatenate([x[0] for x in by_chance]), alpha)
    null_by_block = threshold(np.concatenate([x[1:].ravel() for x in by_chance]), alpha)
    above = observed[0] > max(null, least)
    return SharedVariates(
        fitted=canonical_variates(blocks, len(above)),
        correlations=observed[0],
        null=null,
        by_block=observed[1:],
        null_by_block=null_by_block,
        least=least,
        n=len(above) if above.all() else int(above.argmin()),
    )


def _cross_validated(
    blocks: Sequence[np.ndarray], folds: Sequence[np.ndarray], most: int
) -> np.ndarray:
    """Means of :func:`_statistics` over the folds, (1 + blocks) x variates."""
    held_out = [_statistics(_held_out(blocks, fold, most)) for fold in folds]
    n = min(x.shape[1] for x in held_out)  # a fold may have a smaller rank
    return np.asarray(np.mean([x[:, :n] for x in held_out], axis=0))


def _held_out(blocks: Sequence[np.ndarray], test: np.ndarray, n: int) -> np.ndarray:
    """Variates of the held-out cells, blocks x cells x variates."""
    train = np.ones(len(blocks[0]), dtype=bool)
    train[test] = False
    fitted = canonical_variates([x[train] for x in blocks], n)
    return np.stack([fitted.transform(k, x[test]) for k, x in enumerate(blocks)])


def _statistics(variates: np.ndarray) -> np.ndarray:
    """Mean correlation of all pairs; below, correlation of each block with the mean of others."""
    total = variates.sum(axis=0)
    others = [mean_correlations(np.stack([x, total - x])) for x in variates]
    return np.stack([mean_correlations(variates), *others])
