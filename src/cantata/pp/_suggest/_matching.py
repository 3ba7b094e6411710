"""Match the metacells of two modalities that share neither cells nor features.

A matching is a coupling: a matrix (groups of a, groups of b) of shares of cells that sums to 1.
Arrays of couplings have one more dimension in front, one entry per start.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import FastICA

if TYPE_CHECKING:
    from cantata.pp._suggest._metacells import Metacells

N_INDEPENDENT = (3, 4, 5, 6, 8, 10, 12)
"""Numbers of independent components, one start each."""

START_ENTROPY = 0.1
"""Entropy of the first coupling, relative to the mean squared distance."""

QUANTILES = np.linspace(0.01, 0.99, 50)
"""Probabilities at which distributions are compared."""

MAX_FIT_CELLS = 3000
"""Independent components are fitted on so many cells at most."""

STAGES = ((5, 15, 0.3), (10, 8, 0.1), (20, 8, 0.1))
"""Number of components, of iterations, and the first entropy of each stage of the refinement."""

LAST_ENTROPY = 0.03
"""Entropy at the end of each stage, relative to the mean squared distance."""

LINK_ENTROPY = 0.05
"""Entropy of a coupling by linked features."""

ITERATIONS = 20
"""Rounds of Sinkhorn's algorithm."""

TINY = 1e-200
"""Keeps divisions finite where a kernel underflows."""


@dataclass(frozen=True)
class ColumnPairs:
    """Pairs of linked features, as columns of the profiles of a and of b."""

    a: np.ndarray
    b: np.ndarray


def squared_distances(x: np.ndarray, y: np.ndarray, a: Metacells, b: Metacells) -> np.ndarray:
    """Squared distances (..., groups of a, groups of b), their mean over all pairs of cells 1."""
    square = (x**2).sum(axis=-1)[..., :, None] + (y**2).sum(axis=-1)[..., None, :]
    distance = np.maximum(square - 2 * x @ np.swapaxes(y, -1, -2), 0)
    mean = a.weights @ distance @ b.weights
    return distance / np.where(mean > 0, mean, 1)[..., None, None]


def couple(cost: np.ndarray, a: Metacells, b: Metacells, entropy: float) -> np.ndarray:
    """Entropic optimal transport (Cuturi 2013) between the groups, by Sinkhorn's algorithm."""
    # 1. kernel; a constant per row cancels against u and keeps exponents from underflowing
    kernel = np.exp(-(cost - cost.min(axis=-1, keepdims=True)) / entropy)
    back = np.swapaxes(kernel, -1, -2)
    # 2. scale rows and columns by turns until their sums are the groups' weights
    v = np.ones((*cost.shape[:-2], cost.shape[-1], 1))
    for _ in range(ITERATIONS):
        u = a.weights[:, None] / (kernel @ v + TINY)
        v = b.weights[:, None] / (back @ u + TINY)
    coupling = u * kernel * np.swapaxes(v, -1, -2)
    # 3. a few rounds leave row sums inexact, but the whole is one
    return coupling / coupling.sum(axis=(-1, -2), keepdims=True)


def cross_covariance(x: np.ndarray, y: np.ndarray, coupling: np.ndarray) -> np.ndarray:
    """Covariances (..., columns of x, columns of y) over coupled groups."""
    mean_x, mean_y = coupling.sum(axis=-1) @ x, coupling.sum(axis=-2) @ y
    return x.T @ coupling @ y - mean_x[..., :, None] * mean_y[..., None, :]


def link_distances(a: Metacells, b: Metacells, links: ColumnPairs) -> np.ndarray:
    """Squared distances between groups by linked features."""
    return squared_distances(a.profiles[:, links.a], b.profiles[:, links.b], a, b)


def refine(
    a: Metacells, b: Metacells, couplings: np.ndarray, known: ColumnPairs | None
) -> np.ndarray:
    """Improve couplings by turns: canonical variates of the coupled groups, then a new coupling.

    The variates are singular vectors of the cross-covariance of the whitened components, weighted
    by the roots of their correlations. Few components come first, all of them last. Distances by
    known links are added.
    """
    added = 0.0 if known is None else link_distances(a, b, known)
    for n_components, n_rounds, first in STAGES:
        x, y = a.whitened[:, :n_components], b.whitened[:, :n_components]
        for entropy in np.geomspace(first, LAST_ENTROPY, n_rounds):
            # 1. canonical variates of the coupled groups (columns are whitened)
            left, values, right = np.linalg.svd(
                cross_covariance(x, y, couplings), full_matrices=False
            )
            # 2. the root of a correlation on both sides weighs products by the correlation
            root = np.sqrt(values)[:, None]
            variates = x @ (left * root), y @ (np.swapaxes(right, -1, -2) * root)
            # 3. couple groups that are near in the variates and by known links
            cost = squared_distances(*variates, a, b) + added
            couplings = couple(cost, a, b, entropy)
    return couplings


def suggested(correlation: np.ndarray, known: ColumnPairs | None) -> ColumnPairs:
    """Known links, and for each other feature of b the feature of a with which it goes best."""
    best, every = correlation.argmax(axis=0), np.arange(correlation.shape[1])
    if known is None:
        return ColumnPairs(best, every)
    free = np.setdiff1d(every, known.b)
    return ColumnPairs(np.concatenate([known.a, best[free]]), np.concatenate([known.b, free]))


def best_correlation(
    a: Metacells, b: Metacells, couplings: np.ndarray, known: ColumnPairs | None
) -> np.ndarray:
    """Correlations of the coupling whose own suggestions bring the two populations closest.

    A coupling implies correlations (features of a, features of b) and these imply links. The cost
    is that of the transport by these links: the mean squared distance of coupled groups, relative
    to that of all pairs.
    """
    best, lowest = None, np.inf
    for coupling in couplings:
        correlation = cross_covariance(a.profiles, b.profiles, coupling)
        distance = link_distances(a, b, suggested(correlation, known))
        cost = float((couple(distance, a, b, LINK_ENTROPY) * distance).sum())
        if best is None or cost < lowest:
            best, lowest = correlation, cost
    assert best is not None
    return best


def first_couplings(
    a: Metacells, b: Metacells, known: ColumnPairs | None, seed: int
) -> np.ndarray:
    """Couplings to start from (starts, groups of a, groups of b).

    One by matching independent components for each of several numbers of them, one by the total
    of each cell (large cells have more of everything), and one by known links if there are any.
    """
    width = min(a.whitened.shape[1], b.whitened.shape[1])
    starts = [_by_independent_components(a, b, n, seed) for n in N_INDEPENDENT if n <= width]
    by_depth = squared_distances(a.depth[:, None], b.depth[:, None], a, b)
    starts.append(couple(by_depth, a, b, START_ENTROPY))
    if known is not None:
        starts.append(couple(link_distances(a, b, known), a, b, LINK_ENTROPY))
    return np.stack(starts)


def _by_independent_components(a: Metacells, b: Metacells, n: int, seed: int) -> np.ndarray:
    """Match independent components, and their signs, by the distributions over cells.

    Independent components are unique but for order and sign, so that two views of one population
    have the same ones as far as they see the same variation. The distance of two distributions is
    that of their quantile functions (2-Wasserstein).
    """
    # 1. independent components of both modalities and their quantile functions
    x, y = (_independent_components(cells, n, seed) for cells in (a, b))
    of_x, of_y, of_minus_y = (np.quantile(z, QUANTILES, axis=0) for z in (x, y, -y))
    # 2. distances between components, as they are and with the sign turned
    straight = ((of_x[:, :, None] - of_y[:, None]) ** 2).mean(axis=0)
    turned = ((of_x[:, :, None] - of_minus_y[:, None]) ** 2).mean(axis=0)
    # 3. match them one to one, then couple groups by their means of matched components
    i, j = linear_sum_assignment(np.minimum(straight, turned))
    sign = np.where(straight[i, j] <= turned[i, j], 1.0, -1.0)
    distance = squared_distances(a.mean(x)[:, i], b.mean(y)[:, j] * sign, a, b)
    return couple(distance, a, b, START_ENTROPY)


def _independent_components(metacells: Metacells, n: int, seed: int) -> np.ndarray:
    """FastICA (Hyvärinen 1999) of the leading whitened components of the cells."""
    cells = metacells.cells[:, : min(n, metacells.cells.shape[1])]
    step = -(-len(cells) // MAX_FIT_CELLS)
    model = FastICA(whiten="unit-variance", random_state=seed, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a start need not have converged
        return model.fit(cells[::step]).transform(cells)
