"""Joint principal components of the linked features of two modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import svds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cantata.pp._link_matrices import Scaled

SAMPLE = 20_000
"""Components are fitted on at most so many cells of a modality."""

LARGEST = 3000
"""Up to so many links a covariance matrix is made; more are decomposed cell by cell."""

ENTRIES = 2**26
"""Largest number of z-scores (cells x links) of a modality that are held at once."""


def joint_axes(a: Scaled, b: Scaled, n_comps: int) -> np.ndarray:
    """Leading eigenvectors of the mean of two modalities' covariance matrices.

    Both modalities have z-scores of the same links in the same columns. Principal components of
    their stacked cells (Wang et al. 2025, scMODAL) are the same where both have equally many
    cells; here both count the same whatever their sizes.

    Parameters
    ----------
    a, b
        Z-scores of the linked features.
    n_comps
        Number of components, less than that of the links.

    Returns
    -------
    float32 array (links, components); the largest entry of each column is positive.
    """
    n_links = a.order.size
    if n_links <= LARGEST:
        covariance = _covariance(a) + _covariance(b)
        _, axes = linalg.eigh(covariance, subset_by_index=[n_links - n_comps, n_links - 1])
        axes = axes[:, ::-1]
    else:
        most = max(ENTRIES // n_links, n_comps + 1)
        scores = np.vstack([_stacked(side, most) for side in (a, b)])
        start = np.random.default_rng(0).standard_normal(min(scores.shape))
        _, values, rows = svds(scores, k=n_comps, v0=start.astype(np.float32))
        axes = rows[np.argsort(-values)].T
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_comps)])
    return axes.astype(np.float32)


def sample_cells(n_cells: int, most: int) -> np.ndarray:
    """Sorted row numbers of at most `most` cells, always the same."""
    if n_cells <= most:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(0).choice(n_cells, most, replace=False))


def _sampled(side: Scaled, most: int) -> Iterator[np.ndarray]:
    chosen = np.zeros(side.linked.n_cells, dtype=bool)
    chosen[sample_cells(side.linked.n_cells, min(most, SAMPLE))] = True
    for rows, scores in side.blocks():
        yield scores[chosen[rows]]


def _covariance(side: Scaled) -> np.ndarray:
    total, n_cells = np.zeros((side.order.size, side.order.size)), 0
    for scores in _sampled(side, SAMPLE):
        total += scores.T @ scores
        n_cells += len(scores)
    return total / n_cells


def _stacked(side: Scaled, most: int) -> np.ndarray:
    scores = np.vstack(list(_sampled(side, most)))
    return scores / np.float32(np.sqrt(len(scores)))
