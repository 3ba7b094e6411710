"""Directions of linked features that two modalities have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from cantata._numeric.batches import sample_cells
from cantata.pp._links._values import MAX_FIT_CELLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cantata.pp._links._values import ZScores

N_COMPONENTS = 30
"""Number of joint components, and of shared directions, unless another one is asked for."""

MAX_COVARIANCE_LINKS = 3000
"""Up to so many links covariance matrices are made; beyond, they are only multiplied with."""

MAX_ENTRIES = 2**26
"""Largest number of z-scores (cells x links) of a modality that are held at once."""

MIN_EIGENVALUE = 1e-3
"""Shared directions with an eigenvalue below this fraction of the largest are left out."""

MIN_DIRECTIONS = 3
"""So many shared directions are kept in any case."""


@dataclass(frozen=True)
class Basis:
    """What z-scores are multiplied by (None: nothing), and what of them remains.

    ``n_components`` is the number of joint components, 0 where the columns remain single links,
    and ``n_directions`` the number of directions that are kept.
    """

    matrix: np.ndarray | None
    n_components: int
    n_directions: int


def joint_basis(a: ZScores, b: ZScores, n_components: int, *, shared: bool) -> Basis:
    """What to multiply z-scores with: `n_components` joint ones, or single links (0).

    With `shared` only shared directions are kept, see :func:`joint_axes`.
    """
    n_links = a.order.size
    if not (n_components or shared):
        return Basis(None, 0, n_links)
    axes = joint_axes(a, b, n_components or min(N_COMPONENTS, n_links), shared=shared)
    n_directions = axes.shape[1]
    if n_components:
        return Basis(axes, n_directions, n_directions)
    return Basis(axes @ axes.T, 0, n_directions)


def joint_axes(a: ZScores, b: ZScores, n_components: int, *, shared: bool) -> np.ndarray:
    r"""Leading joint directions of two modalities' linked features.

    Both modalities have z-scores of the same links in the same columns, with covariance matrices
    :math:`A` and :math:`B`. Eigenvectors of :math:`(A + B) / 2` are the principal components of
    the stacked cells, where both modalities have equally many (Wang et al. 2025, scMODAL); here
    both count the same whatever their sizes. Eigenvectors of :math:`(AB + BA) / 2` are directions
    in which both vary: what only one of them shows, its noise for example, is small there.

    Parameters
    ----------
    a, b
        Z-scores of the linked features.
    n_components
        Largest number of directions, at most that of the links.
    shared
        Take :math:`(AB + BA) / 2`, and only eigenvalues above a thousandth of the largest (three
        at least).

    Returns
    -------
    Orthonormal float32 array (links, directions); the largest entry of each column is positive.
    """
    n_links = a.order.size
    # 1. leading eigenvectors: of the matrix, or by products with z-scores where it is too large
    if n_links <= MAX_COVARIANCE_LINKS:
        left, right = _covariance(a), _covariance(b)
        joint = left @ right if shared else (left + right) / 2
        values, axes = _leading((joint + joint.T) / 2, n_components)
    else:
        n_cells = max(MAX_ENTRIES // n_links, n_components + 1)
        values, axes = _leading_by_products(
            _stacked(a, n_cells), _stacked(b, n_cells), n_components, shared=shared
        )
    # 2. the largest eigenvalue first; a product of covariances has small ones that are noise
    order = np.argsort(-values)
    values, axes = values[order], axes[:, order]
    if shared:
        n_large = int((values > MIN_EIGENVALUE * values[0]).sum())
        axes = axes[:, : max(n_large, min(MIN_DIRECTIONS, n_components))]
    # 3. one sign
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return (axes * signs).astype(np.float32)


def _sampled(scores: ZScores, max_cells: int) -> Iterator[np.ndarray]:
    chosen = np.zeros(scores.linked.n_cells, dtype=bool)
    chosen[sample_cells(scores.linked.n_cells, min(max_cells, MAX_FIT_CELLS))] = True
    for rows, block in scores.blocks():
        yield block[chosen[rows]]


def _covariance(scores: ZScores) -> np.ndarray:
    total, n_cells = np.zeros((scores.order.size, scores.order.size)), 0
    for block in _sampled(scores, MAX_FIT_CELLS):
        total += block.T @ block
        n_cells += len(block)
    return total / n_cells


def _stacked(scores: ZScores, max_cells: int) -> np.ndarray:
    """Rows whose inner products of columns are the covariances."""
    rows = np.vstack(list(_sampled(scores, max_cells)))
    return rows / np.float32(np.sqrt(len(rows)))


def _leading(matrix: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues of a symmetric matrix, and their eigenvectors."""
    size = len(matrix)
    if n_components > size // 4:
        return linalg.eigh(matrix, subset_by_index=[size - n_components, size - 1])
    start = np.random.default_rng(0).standard_normal(size)
    return eigsh(matrix, k=n_components, which="LA", v0=start)


def _leading_by_products(
    a: np.ndarray, b: np.ndarray, n_components: int, *, shared: bool
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`_leading`, of the joint matrix of two covariances that are never made."""

    def times(rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
        return rows.T @ (rows @ vector)

    def joint(vector: np.ndarray) -> np.ndarray:
        vector = vector.astype(np.float32).ravel()
        left, right = times(a, vector), times(b, vector)
        if shared:
            left, right = times(b, left), times(a, right)
        return (left + right) / 2

    n_links = a.shape[1]
    operator = LinearOperator((n_links, n_links), matvec=joint, dtype=np.float32)
    start = np.random.default_rng(0).standard_normal((n_links,), dtype=np.float32)
    return eigsh(operator, k=n_components, which="LA", v0=start, tol=1e-4)
