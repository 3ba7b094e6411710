"""Linked features refined by the cells that the embeddings match: canonical variates."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cantata._canonical import canonical_variates
from cantata._neighbors import nearest_neighbors
from cantata._sampling import sample_cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cantata.data._rows import RowReader
    from cantata.model.scmodal._module import SCMODALModule

logger = logging.getLogger(__name__)

N_CELLS = 10_000
"""Cells of each modality, at most, whose nearest cells are sought."""

N_NEIGHBORS = 20
"""Nearest cells of the other modality whose mean stands for what a cell lacks."""

N_VARIATES = 40
"""Canonical variates, at most."""

N_COLUMNS = 100
"""Columns of a modality that enter, at most; of wider ones principal components."""

CELLS_PER_COLUMN = 10
"""Cells that every column needs."""

BLOCK = 2_000
"""Cells that are embedded at a time."""


def refinement_steps(n_steps: int, n_refinements: int, *, continued: bool) -> frozenset[int]:
    """Steps before which linked features are refined: evenly over the last third.

    Training that is `continued` refines them at once too, since a model does not keep them.

    Raises
    ------
    ValueError
        If `n_refinements` is negative.

    Examples
    --------
    >>> sorted(refinement_steps(600, 4, continued=False))
    [400, 450, 500, 550]
    """
    if n_refinements < 0:
        raise ValueError(f"n_refinements={n_refinements}: give 0 or more.")
    third = n_steps / 3
    steps = {int(2 * third + i * third / n_refinements) for i in range(n_refinements)}
    return frozenset(steps | ({0} if continued and n_refinements else set()))


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


class Refiner:
    """Replace linked features by canonical variates of matched cells, as the model trains.

    The 20 nearest cells of the other modality, by the embeddings so far, stand for what a cell
    lacks. Canonical correlation analysis of what the encoders read with the mean of these, over
    the cells of both modalities, finds the directions in which all features of the two agree,
    linked or not; each is scaled by its correlation. They join the linked features, and replace
    them where these are fewer than latents. Beyond the paper; MaxFuse (Chen et al. 2024) refines
    its matches in a like manner.

    Parameters
    ----------
    module
        Network that is trained.
    readers
        Functions from row numbers to the tensors of a minibatch, for every modality.
    n_obs
        Cells of every modality.
    """

    def __init__(
        self,
        module: SCMODALModule,
        readers: Mapping[str, Mapping[str, RowReader]],
        n_obs: Mapping[str, int],
    ) -> None:
        self.module = module
        self.readers = {name: dict(own) for name, own in readers.items()}
        self.rows = {name: sample_cells(n_obs[name], N_CELLS) for name in readers}

    def __call__(self) -> None:
        """Refine the linked features of every pair that has cells."""
        embedded = {name: self._embed(name) for name in self.readers}
        if not all(np.isfinite(z).all() for _, z in embedded.values()):
            return  # the end of the epoch says so, with advice
        for pair in self.module.present_pairs(embedded):
            first, second = (embedded[name] for name in pair)
            maps = matched_variates(*first, *second)
            for way, (weights, offset) in zip((pair, pair[::-1]), maps, strict=True):
                self.module.variates[way] = Variates(weights, offset, self.module.n_latent)

    @torch.no_grad()
    def _embed(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """What the encoder reads of the sampled cells of a modality, and their embeddings."""
        device = next(self.module.parameters()).device
        values, z = [], []
        for start in range(0, len(self.rows[name]), BLOCK):
            rows = self.rows[name][start : start + BLOCK]
            batch = {
                key: torch.from_numpy(read(rows)).to(device)
                for key, read in self.readers[name].items()
            }
            values.append(batch[name].float().cpu().numpy())
            z.append(self.module.embed(batch)[name].float().cpu().numpy())
        return np.concatenate(values).astype(np.float64), np.concatenate(z).astype(np.float64)


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
    nearest, _ = nearest_neighbors(reference, z, min(N_NEIGHBORS, len(reference)))
    return np.stack([values[of_cell].mean(axis=0) for of_cell in nearest])


def _single(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
