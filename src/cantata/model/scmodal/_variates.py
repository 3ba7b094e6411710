"""What two modalities agree in: canonical variates of the cells that their embeddings match."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cantata._numeric.canonical import canonical_variates
from cantata._numeric.neighbors import nearest_neighbors, neighbor_sums

logger = logging.getLogger(__name__)

N_NEIGHBORS = 20
"""Nearest cells of the other modality whose mean stands for what a cell lacks."""

N_VARIATES = 40
"""Canonical variates, at most."""

N_COLUMNS = 100
"""Columns of a modality that enter, at most; of wider ones principal components."""

CELLS_PER_COLUMN = 10
"""Cells that every column needs."""


@dataclass(frozen=True)
class Variates:
    """Map from what the encoder of a modality reads to what another modality has too.

    Parameters
    ----------
    weights
        (columns, variates).
    offset
        (variates,).
    least
        Linked features stay beside the variates unless they are fewer than this.
    """

    weights: Tensor
    offset: Tensor
    least: int

    def __call__(self, x: Tensor, linked: Tensor) -> Tensor:
        """(n, s) linked features of a minibatch, from inputs and the linked features so far."""
        variates = x.float() @ self.weights.to(x.device) + self.offset.to(x.device)
        if linked.shape[1] < self.least:
            return variates
        return torch.cat([normalize(variates, dim=1), normalize(linked, dim=1)], dim=1)


def matched_variates(
    a: np.ndarray, z_a: np.ndarray, b: np.ndarray, z_b: np.ndarray
) -> list[tuple[Tensor, Tensor]]:
    """Weights and offsets of the canonical variates of two modalities, matched by embeddings.

    Parameters
    ----------
    a, b
        (n, p) and (m, r) values.
    z_a, z_b
        (n, q) and (m, q) embeddings.

    Returns
    -------
    For each modality (p, k) weights and a (k,) offset: variates of variance 1 times their
    correlation.
    """
    n_columns = max(min(N_COLUMNS, (len(a) + len(b)) // CELLS_PER_COLUMN), 2)
    rotations = [_rotation(x, n_columns) for x in (a, b)]
    x, y = (values @ rotation for values, rotation in zip((a, b), rotations, strict=True))
    found = canonical_variates(
        [
            np.concatenate([x, _mean_of_nearest(z_b, z_a, x)]),
            np.concatenate([_mean_of_nearest(z_a, z_b, y), y]),
        ],
        N_VARIATES,
    )
    logger.info("%r", found)
    maps = []
    for rotation, weights, mean in zip(rotations, found.weights, found.means, strict=True):
        scaled = weights * found.correlations
        maps.append((_single(rotation @ scaled), _single(-mean @ scaled)))
    return maps


def _rotation(x: np.ndarray, n: int) -> np.ndarray:
    """(p, n) axes of the leading principal components; the identity for few columns."""
    from sklearn.decomposition import PCA

    if x.shape[1] <= n:
        return np.eye(x.shape[1])
    n = min(n, len(x))
    return np.asarray(PCA(n, svd_solver="auto", random_state=0).fit(x).components_.T)


def _mean_of_nearest(z: np.ndarray, reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n, p) mean of the values of the nearest reference cells."""
    k = min(N_NEIGHBORS, len(reference))
    return neighbor_sums(values, nearest_neighbors(reference, z, k)[0]) / k


def _single(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
