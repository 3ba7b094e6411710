"""How many canonical correlations hold on cells that they were not fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cantata._numeric.canonical import CanonicalVariates, canonical_variates, mean_correlations
from cantata.tl._dimensions._parallel_analysis import null_quantile

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
    does not exceed both ``null`` and ``min_correlation``.
    """

    fitted: CanonicalVariates
    correlations: np.ndarray
    null: float
    by_block: np.ndarray
    null_by_block: float
    min_correlation: float
    n: int

    def basis(self, k: int, rows: np.ndarray) -> np.ndarray:
        """Orthonormal centred columns that span what cells' own variates of block `k` hold.

        Only shared variates count, and only those in which the block takes part: of three
        modalities, one may have nothing of what the other two share.
        """
        least = max(self.null_by_block, self.min_correlation)
        takes_part = np.flatnonzero(self.by_block[k, : self.n] > least)
        variates = self.fitted.transform(k, rows)[:, takes_part]
        return np.linalg.qr(variates - variates.mean(axis=0))[0]


def shared_variates(
    blocks: Sequence[np.ndarray],
    max_variates: int,
    *,
    min_correlation: float,
    n_permutations: int,
    alpha: float,
    seed: int,
) -> SharedVariates:
    """Canonical variates, and how many of them are more than chance.

    Variates are fitted on one half of the cells and correlated on the other, both ways. By chance:
    the same after the cells of every modality but the first were permuted. All variates have one
    threshold, since the correlation of independent held-out columns depends on the number of cells
    alone. `blocks` are components of the same cells, one array (cells x components) per modality.
    """
    # 1. Correlations of held-out cells.
    order = np.random.default_rng([seed, 0]).permutation(len(blocks[0]))
    folds = [np.sort(fold) for fold in np.array_split(order, N_FOLDS)]
    observed = _cross_validated(blocks, folds, max_variates)
    # 2. The same without any correspondence of cells: all variates serve one null distribution.
    rng = np.random.default_rng([seed, 1])
    by_chance = []
    for _ in range(n_permutations):
        shuffled = [blocks[0], *(rng.permutation(x) for x in blocks[1:])]
        by_chance.append(_cross_validated(shuffled, folds, max_variates))
    null = null_quantile(np.concatenate([x[0] for x in by_chance]), alpha)
    null_by_block = null_quantile(np.concatenate([x[1:].ravel() for x in by_chance]), alpha)
    # 3. Variates count up to the first that fails; the maps are fitted on all cells.
    above = observed[0] > max(null, min_correlation)
    return SharedVariates(
        fitted=canonical_variates(blocks, len(above)),
        correlations=observed[0],
        null=null,
        by_block=observed[1:],
        null_by_block=null_by_block,
        min_correlation=min_correlation,
        n=len(above) if above.all() else int(above.argmin()),
    )


def _cross_validated(
    blocks: Sequence[np.ndarray], folds: Sequence[np.ndarray], max_variates: int
) -> np.ndarray:
    """Correlations of held-out cells, means over the folds, (1 + blocks) x variates.

    First the mean over all pairs of blocks, then each block with the sum of the others.
    """
    results = []
    for fold in folds:
        train = np.ones(len(blocks[0]), dtype=bool)
        train[fold] = False
        fitted = canonical_variates([x[train] for x in blocks], max_variates)
        variates = np.stack([fitted.transform(k, x[fold]) for k, x in enumerate(blocks)])
        total = variates.sum(axis=0)
        with_others = [mean_correlations(np.stack([x, total - x])) for x in variates]
        results.append(np.stack([mean_correlations(variates), *with_others]))
    n = min(x.shape[1] for x in results)  # a fold may have a smaller rank
    return np.asarray(np.mean([x[:, :n] for x in results], axis=0))
