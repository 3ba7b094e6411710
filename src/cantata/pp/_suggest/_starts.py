"""First guesses of how the cells of two modalities correspond, without any pairs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from cantata.pp._suggest._alignment import (
    LINK_ENTROPY,
    Known,
    couple,
    link_distances,
    squared_distances,
)

if TYPE_CHECKING:
    from cantata.pp._suggest._sides import Metacells

N_INDEPENDENT = (3, 4, 5, 6, 8, 10, 12)
"""Numbers of independent components, one start each."""

ENTROPY = 0.1
"""Entropy of the first coupling, relative to the mean squared distance."""

QUANTILES = np.linspace(0.01, 0.99, 50)
"""Probabilities at which distributions are compared."""

N_CELLS = 3000
"""Independent components are fitted on so many cells at most."""


def first_couplings(a: Metacells, b: Metacells, known: Known | None, seed: int) -> np.ndarray:
    """Couplings to start from (starts, groups of a, groups of b).

    One by matching independent components for each of several numbers of them, one by the total
    of each cell (large cells have more of everything), and one by known links if there are any.
    """
    width = min(a.whitened.shape[1], b.whitened.shape[1])
    starts = [_by_independent_components(a, b, n, seed) for n in N_INDEPENDENT if n <= width]
    by_depth = squared_distances(a.depth[:, None], b.depth[:, None], a, b)
    starts.append(couple(by_depth, a, b, ENTROPY))
    if known is not None:
        starts.append(couple(link_distances(a, b, known), a, b, LINK_ENTROPY))
    return np.stack(starts)


def _by_independent_components(a: Metacells, b: Metacells, n: int, seed: int) -> np.ndarray:
    """Match independent components, and their signs, by the distributions over cells.

    Independent components are unique but for order and sign, so that two views of one population
    have the same ones as far as they see the same variation. The distance of two distributions is
    that of their quantile functions (2-Wasserstein).
    """
    x, y = (_independent_components(side, n, seed) for side in (a, b))
    own, other, turned = (np.quantile(z, QUANTILES, axis=0) for z in (x, y, -y))
    straight = ((own[:, :, None] - other[:, None]) ** 2).mean(axis=0)
    reverse = ((own[:, :, None] - turned[:, None]) ** 2).mean(axis=0)
    i, j = linear_sum_assignment(np.minimum(straight, reverse))
    sign = np.where(straight[i, j] <= reverse[i, j], 1.0, -1.0)
    distance = squared_distances(a.mean(x)[:, i], b.mean(y)[:, j] * sign, a, b)
    return couple(distance, a, b, ENTROPY)


def _independent_components(side: Metacells, n: int, seed: int) -> np.ndarray:
    """FastICA (Hyvärinen 1999) of the leading whitened components of the cells."""
    from sklearn.decomposition import FastICA

    cells = side.cells[:, : min(n, side.cells.shape[1])]
    step = -(-len(cells) // N_CELLS)
    model = FastICA(whiten="unit-variance", random_state=seed, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a start need not have converged
        return model.fit(cells[::step]).transform(cells)
