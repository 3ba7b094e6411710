"""Directions of linked features that two modalities have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from cantata._numeric.sampling import sample_cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cantata.pp._links._matrices import Scaled

N_COMPS = 30
"""Number of joint components, and of shared directions, unless another one is asked for."""

SAMPLE = 20_000
"""Components are fitted on at most so many cells of a modality."""

LARGEST = 3000
"""Up to so many links covariance matrices are made; beyond, they are only multiplied with."""

ENTRIES = 2**26
"""Largest number of z-scores (cells x links) of a modality that are held at once."""

SMALLEST = 1e-3
"""Shared directions with an eigenvalue below this fraction of the largest are left out."""

LEAST = 3
"""So many shared directions are kept in any case."""


@dataclass(frozen=True)
class Basis:
    """What z-scores are multiplied by (None: nothing), and what of them remains.

    ``n_comps`` is the number of joint components, 0 where the columns remain single links, and
    ``n_directions`` the number of directions that are kept.
    """

    matrix: np.ndarray | None
    n_comps: int
    n_directions: int


def joint_basis(a: Scaled, b: Scaled, n_comps: int, *, shared: bool) -> Basis:
    """What to multiply z-scores with.

    Parameters
    ----------
    a, b
        Z-scores of the linked features.
    n_comps
        Number of joint components, 0 for single links.
    shared
        Whether only shared directions are kept, see :func:`joint_axes`.
    """
    n_links = a.order.size
    if not (n_comps or shared):
        return Basis(None, 0, n_links)
    axes = joint_axes(a, b, n_comps or min(N_COMPS, n_links), shared=shared)
    n_directions = axes.shape[1]
    if n_comps:
        return Basis(axes, n_directions, n_directions)
    return Basis(axes @ axes.T, 0, n_directions)


def joint_axes(a: Scaled, b: Scaled, n_comps: int, *, shared: bool) -> np.ndarray:
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
    n_comps
        Largest number of directions, at most that of the links.
    shared
        Take :math:`(AB + BA) / 2`, and only eigenvalues above a thousandth of the largest (three
        at least).

    Returns
    -------
    Orthonormal float32 array (links, directions); the largest entry of each column is positive.
    """
    n_links = a.order.size
    if n_links <= LARGEST:
        left, right = _covariance(a), _covariance(b)
        joint = left @ right if shared else (left + right) / 2
        values, axes = _leading((joint + joint.T) / 2, n_comps)
    else:
        most = max(ENTRIES // n_links, n_comps + 1)
        values, axes = _decompose(_stacked(a, most), _stacked(b, most), n_comps, shared=shared)
    order = np.argsort(-values)
    values, axes = values[order], axes[:, order]
    if shared:
        kept = max(int((values > SMALLEST * values[0]).sum()), min(LEAST, n_comps))
        axes = axes[:, :kept]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return (axes * signs).astype(np.float32)


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
    """Rows whose inner products of columns are the covariances."""
    scores = np.vstack(list(_sampled(side, most)))
    return scores / np.float32(np.sqrt(len(scores)))


def _leading(matrix: np.ndarray, n_comps: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues of a symmetric matrix, and their eigenvectors."""
    size = len(matrix)
    if n_comps > size // 4:
        return linalg.eigh(matrix, subset_by_index=[size - n_comps, size - 1])
    start = np.random.default_rng(0).standard_normal(size)
    return eigsh(matrix, k=n_comps, which="LA", v0=start)


def _decompose(
    a: np.ndarray, b: np.ndarray, n_comps: int, *, shared: bool
) -> tuple[np.ndarray, np.ndarray]:
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
    return eigsh(operator, k=n_comps, which="LA", v0=start, tol=1e-4)
