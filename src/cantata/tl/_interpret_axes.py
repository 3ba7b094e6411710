"""Principal axes of a latent space, and the cells at their ends and in their middle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GROUPS = ("low", "centre", "high")
"""Groups of cells along a component."""

BETWEEN = len(GROUPS)
"""Code of cells in no group that are central in the other components; -1: they are not."""

AT_END = 2
"""Bins that make up an end."""

LEAST_VARIANCE = 1e-10
"""Components with less than this share of the variance of the first are rounding."""


@dataclass(frozen=True)
class Axes:
    """Principal axes, those with the largest variance first.

    ``center`` (dimensions,); ``loadings`` (dimensions, components), of unit length; ``variances``
    (components,).
    """

    center: np.ndarray
    loadings: np.ndarray
    variances: np.ndarray

    def scores(self, latent: np.ndarray) -> np.ndarray:
        """Coordinates of cells along the axes (cells x components)."""
        return (latent - self.center) @ self.loadings


@dataclass(frozen=True)
class Cuts:
    """Where the groups of every component begin and end, as found in some cells.

    ``edges`` (bins - 1, components): inner borders of the percentile bins. ``radii``
    (components,): largest squared distance from the origin in the other components.
    """

    edges: np.ndarray
    radii: np.ndarray


def principal_axes(latent: np.ndarray) -> Axes:
    """All principal axes of cells (cells x dimensions) along which they vary.

    The sign of an axis is arbitrary; the loading that is largest in size is made positive.
    """
    from sklearn.decomposition import PCA

    found = PCA(svd_solver="full").fit(latent)
    variances = found.explained_variance_
    kept = variances > LEAST_VARIANCE * variances[0]
    loadings = found.components_[kept].T
    largest = np.abs(loadings).argmax(axis=0)
    signs = np.sign(loadings[largest, np.arange(loadings.shape[1])])
    return Axes(found.mean_, loadings * signs, variances[kept])


def match_axes(
    reference: np.ndarray, loadings: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match axes one to one to reference axes, by the correlation of scores.

    Parameters
    ----------
    reference
        Loadings of reference axes (dimensions, components).
    loadings
        Those of other axes; order and signs mean nothing.
    covariance
        Of the cells whose scores are correlated (dimensions, dimensions).

    Returns
    -------
    For each reference axis the position of its partner, -1 without one (there are fewer axes), and
    the correlation of both, 0 without one. Partners maximise the sum of absolute correlations.
    """
    from scipy.optimize import linear_sum_assignment

    covariances = reference.T @ covariance @ loadings
    sd = [
        np.sqrt(np.einsum("dk,de,ek->k", axes, covariance, axes)) for axes in (reference, loadings)
    ]
    correlations = covariances / np.outer(*sd)
    rows, columns = linear_sum_assignment(np.abs(correlations), maximize=True)
    partner, correlation = np.full(reference.shape[1], -1), np.zeros(reference.shape[1])
    partner[rows], correlation[rows] = columns, correlations[rows, columns]
    return partner, correlation


def other_distances(
    scores: np.ndarray, components: np.ndarray, n_central: int | None
) -> np.ndarray:
    """Squared distance of cells from the origin in all components but one.

    Parameters
    ----------
    scores
        Cells x all components.
    components
        Positions of the components that are left out, one at a time.
    n_central
        Only the first so many components count; None: all.

    Returns
    -------
    Cells x `components`.
    """
    counted = np.square(scores[:, :n_central])
    total = counted.sum(axis=1)
    distances = np.repeat(total[:, None], len(components), axis=1)
    for column, component in enumerate(components):
        if component < counted.shape[1]:
            distances[:, column] -= counted[:, component]
    return np.maximum(distances, 0)


def find_cuts(scores: np.ndarray, distances: np.ndarray, n_bins: int, central: float) -> Cuts:
    """Borders of equally filled bins, and the radius within which the share `central` lies."""
    levels = np.arange(1, n_bins) / n_bins
    return Cuts(np.quantile(scores, levels, axis=0), np.quantile(distances, central, axis=0))


def percentile_bins(scores: np.ndarray, cuts: Cuts) -> np.ndarray:
    """Bin of cells along components, 0, 1, ... (cells x components).

    A border belongs to the bin below it; what lies outside the cells that the borders come from
    belongs to the first or last bin.
    """
    bins = np.empty(scores.shape, dtype=np.int8)
    for column, edges in enumerate(cuts.edges.T):
        bins[:, column] = np.searchsorted(edges, scores[:, column], side="left")
    return bins


def group_codes(bins: np.ndarray, is_central: np.ndarray, n_bins: int) -> np.ndarray:
    """Position in :data:`GROUPS`, :data:`BETWEEN`, or -1 (cells x components).

    Low are the first two bins, centre is the one in the middle, high are the last two; of all
    these only the cells that are central in the other components.
    """
    codes = np.full(bins.shape, BETWEEN, dtype=np.int8)
    codes[bins < AT_END] = GROUPS.index("low")
    codes[bins == n_bins // 2] = GROUPS.index("centre")
    codes[bins >= n_bins - AT_END] = GROUPS.index("high")
    codes[~is_central] = -1
    return codes
