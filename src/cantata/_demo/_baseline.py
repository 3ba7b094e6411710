"""Simple methods that CLUE has to beat: canonical correlation, and neighbours in components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cantata._numeric.neighbors import nearest_neighbors

if TYPE_CHECKING:
    from collections.abc import Mapping

RIDGE = 0.1
"""Ridge of the covariances, relative to their mean variance."""

N_AXES = 20


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; rows of zeros stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def canonical_embedding(
    reps: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], train: np.ndarray
) -> dict[str, np.ndarray]:
    """Regularised canonical correlation of any number of modalities with missing cells.

    Every modality is whitened; directions are the leading eigenvectors of the matrix of
    cross-covariances, each estimated from the training cells that have both modalities. For two
    modalities this is the classical method (Hotelling 1936), with axes scaled by their
    correlation.

    Parameters
    ----------
    reps
        Representation of each modality (cells of the modality, components).
    rows
        Row of every cell in each modality, -1 where absent.
    train
        Mask over all cells: those that may be used.

    Returns
    -------
    Unit rows for each modality (cells of the modality, axes).
    """
    white = {name: _whiten(x, rows[name][train & (rows[name] >= 0)]) for name, x in reps.items()}
    widths = np.cumsum([0, *(x.shape[1] for x in white.values())])
    place = {name: slice(*widths[i : i + 2]) for i, name in enumerate(white)}
    cross = np.zeros((widths[-1], widths[-1]))
    for a in white:
        for b in white:
            both = train & (rows[a] >= 0) & (rows[b] >= 0)
            if a != b and both.any():
                x, y = white[a][rows[a][both]], white[b][rows[b][both]]
                cross[place[a], place[b]] = x.T @ y / both.sum()
    values, vectors = np.linalg.eigh((cross + cross.T) / 2)
    n_axes = min(N_AXES, *(x.shape[1] for x in white.values()))
    axes = vectors[:, ::-1][:, :n_axes] * np.maximum(values[::-1][:n_axes], 0)
    return {name: unit_rows(x @ axes[place[name]]) for name, x in white.items()}


def _whiten(x: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Rows of `x`, whitened by the regularised covariance of the rows `fit`."""
    centred = x.astype(np.float64) - x[fit].mean(axis=0, dtype=np.float64)
    covariance = centred[fit].T @ centred[fit] / len(fit)
    values, vectors = np.linalg.eigh(covariance)
    ridge = RIDGE * np.trace(covariance) / len(covariance)
    return centred @ (vectors / np.sqrt(np.maximum(values, 0) + ridge)) @ vectors.T


def joint_embedding(
    embeddings: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Mean over the modalities that a cell has, unit rows (cells, axes)."""
    width = next(iter(embeddings.values())).shape[1]
    total = np.zeros((len(next(iter(rows.values()))), width))
    for name, x in embeddings.items():
        present = rows[name] >= 0
        total[present] += x[rows[name][present]]
    return unit_rows(total)


def neighbour_means(
    reference: np.ndarray, values: np.ndarray, query: np.ndarray, *, k: int = 15
) -> np.ndarray:
    """Mean of the values of the k nearest reference cells, (query cells, features)."""
    left, right = (np.asarray(x, dtype=np.float64) for x in (reference, query))
    indices, _ = nearest_neighbors(left, right, min(k, len(left)))
    return values[indices].mean(axis=1)
