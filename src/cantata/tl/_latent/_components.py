"""Principal components of a latent space, and the cells at their ends and in their middle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA

if TYPE_CHECKING:
    from cantata._mudata.embeddings import LatentSpace

GROUPS = ("low", "center", "high")
"""Groups of cells along a component."""

BETWEEN = len(GROUPS)
"""Code of cells in no group that are central in the other components; -1: they are not."""

N_CODES = len(GROUPS) + 1
"""Number of codes of cells that are central."""

END_BINS = 2
"""Bins that make up an end."""

MIN_VARIANCE = 1e-10
"""Components with less than this share of the variance of the first are rounding."""

CELLS_PER_BIN = 10
"""Fewer cells per bin are refused."""


@dataclass(frozen=True)
class PrincipalAxes:
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
class BinnedCells:
    """Cells along components, each (cells x components).

    ``scores``; percentile ``bins``; ``central``, whether they are near the origin in the other
    components; ``codes`` of groups: position in :data:`GROUPS`, :data:`BETWEEN`, or -1.
    """

    scores: np.ndarray
    bins: np.ndarray
    central: np.ndarray
    codes: np.ndarray


def principal_axes(latent: np.ndarray) -> PrincipalAxes:
    """All principal axes of cells (cells x dimensions) along which they vary.

    The sign of an axis is arbitrary; the loading that is largest in size is made positive.
    """
    pca = PCA(svd_solver="full").fit(latent)
    variances = pca.explained_variance_
    kept = variances > MIN_VARIANCE * variances[0]
    loadings = pca.components_[kept].T
    largest = np.abs(loadings).argmax(axis=0)
    signs = np.sign(loadings[largest, np.arange(loadings.shape[1])])
    return PrincipalAxes(pca.mean_, loadings * signs, variances[kept])


def check_cells(space: LatentSpace, n_bins: int) -> None:
    """Refuse a space with fewer than ten cells per bin, or one that does not vary."""
    if len(space.cells) < CELLS_PER_BIN * n_bins:
        raise ValueError(
            f"{space.where} has {len(space.cells)} cells for {n_bins} bins; at least "
            f"{CELLS_PER_BIN * n_bins} are needed. Take fewer bins: n_bins=."
        )
    if not np.ptp(space.values, axis=0).any():
        raise ValueError(f"{space.where} is the same in all cells: it has no components.")


def match_axes(
    reference: np.ndarray, loadings: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match axes one to one to reference axes, by the correlation of scores.

    `reference` and `loadings` are (dimensions, components), `covariance` is that of the cells
    (dimensions, dimensions). For each reference axis the position of its partner, -1 without one
    (there are fewer axes), and the correlation of both, 0 without one. Partners maximise the sum
    of absolute correlations.
    """
    covariances = reference.T @ covariance @ loadings
    sd = [
        np.sqrt(np.einsum("dk,de,ek->k", axes, covariance, axes)) for axes in (reference, loadings)
    ]
    correlations = covariances / np.outer(*sd)
    rows, columns = linear_sum_assignment(np.abs(correlations), maximize=True)
    partner, correlation = np.full(reference.shape[1], -1), np.zeros(reference.shape[1])
    partner[rows], correlation[rows] = columns, correlations[rows, columns]
    return partner, correlation


def bin_cells(
    latent: np.ndarray,
    axes: PrincipalAxes,
    components: np.ndarray,
    *,
    n_bins: int,
    central: float,
    n_central: int | None = None,
    train: np.ndarray | None = None,
) -> BinnedCells:
    """Bins and groups of cells (cells x dimensions) along the components at some positions.

    Options are as in :func:`cantata.tl.interpret_latent`. Borders come from the cells `train`
    (None: all); a border belongs to the bin below it, and what lies outside these cells belongs to
    the first or last bin.
    """
    all_scores = axes.scores(latent)
    scores = all_scores[:, components]
    of = slice(None) if train is None else train
    # 1. Squared distance from the origin in all components but the one that is walked along.
    squares = np.square(all_scores[:, :n_central])
    distances = np.repeat(squares.sum(axis=1)[:, None], len(components), axis=1)
    for column, component in enumerate(components):
        if component < squares.shape[1]:
            distances[:, column] -= squares[:, component]
    distances = np.maximum(distances, 0)  # the difference of equal sums is rounding
    # 2. Central are those within the radius that holds the share `central` of the cells.
    is_central = distances <= np.quantile(distances[of], central, axis=0)
    # 3. Bins of equally many cells.
    borders = np.quantile(scores[of], np.arange(1, n_bins) / n_bins, axis=0)
    bins = np.empty(scores.shape, dtype=np.int32)
    for column, edges in enumerate(borders.T):
        bins[:, column] = np.searchsorted(edges, scores[:, column], side="left")
    return BinnedCells(scores, bins, is_central, group_codes(bins, is_central, n_bins))


def group_codes(bins: np.ndarray, is_central: np.ndarray, n_bins: int) -> np.ndarray:
    """Position in :data:`GROUPS`, :data:`BETWEEN`, or -1 (cells x components).

    Low are the first two bins, center is the one in the middle, high are the last two; of all
    these only the cells that are central in the other components.
    """
    codes = np.full(bins.shape, BETWEEN, dtype=np.int8)
    codes[bins < END_BINS] = GROUPS.index("low")
    codes[bins == n_bins // 2] = GROUPS.index("center")
    codes[bins >= n_bins - END_BINS] = GROUPS.index("high")
    codes[~is_central] = -1
    return codes


def component_name(position: int) -> str:
    """Name of a component, ``"PC1"`` for position 0."""
    return f"PC{position + 1}"


def component_names(n_components: int) -> list[str]:
    """Names of the first components."""
    return [component_name(position) for position in range(n_components)]
