"""Match the metacells of two modalities that share neither cells nor features.

A matching is a coupling: a matrix (groups of a, groups of b) of shares of cells that sums to 1.
Arrays of couplings have one more dimension in front, one entry per start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cantata.pp._suggest._sides import Metacells

STAGES = ((5, 15, 0.3), (10, 8, 0.1), (20, 8, 0.1))
"""Number of components, of iterations, and the first entropy of each stage of the refinement."""

LAST_ENTROPY = 0.03
"""Entropy at the end of each stage, relative to the mean squared distance."""

LINK_ENTROPY = 0.05
"""Entropy of a coupling by linked features."""

ITERATIONS = 20
"""Rounds of Sinkhorn's algorithm."""

TINY = 1e-200


@dataclass(frozen=True)
class Known:
    """Pairs of features that are known to be linked, as columns of the two profiles."""

    a: np.ndarray
    b: np.ndarray


@dataclass(frozen=True)
class Alignment:
    """A coupling, the correlations (features of a, features of b) that it implies, its cost."""

    coupling: np.ndarray
    correlation: np.ndarray
    cost: float


def squared_distances(x: np.ndarray, y: np.ndarray, a: Metacells, b: Metacells) -> np.ndarray:
    """Squared distances (..., groups of a, groups of b), their mean over all pairs of cells 1."""
    square = (x**2).sum(axis=-1)[..., :, None] + (y**2).sum(axis=-1)[..., None, :]
    distance = np.maximum(square - 2 * x @ np.swapaxes(y, -1, -2), 0)
    mean = a.weights @ distance @ b.weights
    return distance / np.where(mean > 0, mean, 1)[..., None, None]


def couple(cost: np.ndarray, a: Metacells, b: Metacells, entropy: float) -> np.ndarray:
    """Entropic optimal transport (Cuturi 2013) between the groups, by Sinkhorn's algorithm."""
    kernel = np.exp(-(cost - cost.min(axis=-1, keepdims=True)) / entropy)
    back = np.swapaxes(kernel, -1, -2)
    v = np.ones((*cost.shape[:-2], cost.shape[-1], 1))
    for _ in range(ITERATIONS):
        u = a.weights[:, None] / (kernel @ v + TINY)
        v = b.weights[:, None] / (back @ u + TINY)
    coupling = u * kernel * np.swapaxes(v, -1, -2)
    return coupling / coupling.sum(axis=(-1, -2), keepdims=True)


def cross_covariance(x: np.ndarray, y: np.ndarray, coupling: np.ndarray) -> np.ndarray:
    """Covariances (..., columns of x, columns of y) over coupled groups."""
    mean_x, mean_y = coupling.sum(axis=-1) @ x, coupling.sum(axis=-2) @ y
    return x.T @ coupling @ y - mean_x[..., :, None] * mean_y[..., None, :]


def link_distances(a: Metacells, b: Metacells, links: Known) -> np.ndarray:
    """Squared distances between groups by linked features."""
    return squared_distances(a.profiles[:, links.a], b.profiles[:, links.b], a, b)


def refine(a: Metacells, b: Metacells, couplings: np.ndarray, known: Known | None) -> np.ndarray:
    """Improve couplings by turns: canonical variates of the coupled groups, then a new coupling.

    The variates are singular vectors of the cross-covariance of the whitened components, weighted
    by the roots of their correlations. Few components come first, all of them last. Distances by
    known links are added.
    """
    added = 0.0 if known is None else link_distances(a, b, known)
    for n_comps, n_rounds, first in STAGES:
        x, y = a.whitened[:, :n_comps], b.whitened[:, :n_comps]
        for entropy in np.geomspace(first, LAST_ENTROPY, n_rounds):
            left, values, right = np.linalg.svd(
                cross_covariance(x, y, couplings), full_matrices=False
            )
            root = np.sqrt(values)[:, None]
            variates = x @ (left * root), y @ (np.swapaxes(right, -1, -2) * root)
            cost = squared_distances(*variates, a, b) + added
            couplings = couple(cost, a, b, entropy)
    return couplings


def suggested(correlation: np.ndarray, known: Known | None) -> Known:
    """Known links, and for each other feature of b the feature of a with which it goes best."""
    best, every = correlation.argmax(axis=0), np.arange(correlation.shape[1])
    if known is None:
        return Known(best, every)
    free = np.setdiff1d(every, known.b)
    return Known(np.concatenate([known.a, best[free]]), np.concatenate([known.b, free]))


def best_alignment(
    a: Metacells, b: Metacells, couplings: np.ndarray, known: Known | None
) -> Alignment:
    """The coupling whose own suggestions bring the two populations closest.

    A coupling implies correlations and these imply links. The cost is that of the transport
    by these links: the mean squared distance of coupled groups, relative to that of all pairs.
    """
    found: Alignment | None = None
    for coupling in couplings:
        correlation = cross_covariance(a.profiles, b.profiles, coupling)
        distance = link_distances(a, b, suggested(correlation, known))
        cost = float((couple(distance, a, b, LINK_ENTROPY) * distance).sum())
        if found is None or cost < found.cost:
            found = Alignment(coupling, correlation, cost)
    assert found is not None
    return found
