"""Linked features refined, while a model trains, by the cells that its embeddings match."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.decomposition import PCA

from cantata._mudata.checks import check_integer
from cantata._numeric.batches import sample_cells
from cantata._numeric.canonical import canonical_variates
from cantata._numeric.neighbors import nearest_neighbors, neighbor_sums
from cantata.model.scmodal._module import Variates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cantata._mudata.values import RowReader
    from cantata.model.scmodal._links import Pair
    from cantata.model.scmodal._module import SCMODALModule

logger = logging.getLogger(__name__)

MAX_CELLS = 10_000
"""Cells of each modality, at most, whose nearest cells are sought."""
BLOCK_CELLS = 2_000
"""Cells that are embedded at a time."""
N_NEIGHBORS = 20
"""Nearest cells of the other modality whose mean stands for what a cell lacks."""
MAX_VARIATES = 40
"""Canonical variates, at most."""
MAX_COLUMNS = 100
"""Columns of a modality that enter, at most; of wider ones principal components."""
CELLS_PER_COLUMN = 10
"""Cells that every column needs."""


def refinement_steps(n_steps: int, n_refinements: int, *, continued: bool) -> frozenset[int]:
    """Steps before which linked features are refined: evenly over the last third.

    Training that is `continued` refines them at once too, since a model does not keep them.

    Examples
    --------
    >>> sorted(refinement_steps(600, 4, continued=False))
    [400, 450, 500, 550]
    """
    n_refinements = check_integer("n_refinements", n_refinements, 0)
    third = n_steps / 3
    steps = {int(2 * third + i * third / n_refinements) for i in range(n_refinements)}
    return frozenset(steps | ({0} if continued and n_refinements else set()))


def refined_variates(
    module: SCMODALModule, readers: Mapping[str, Mapping[str, RowReader]], n_obs: Mapping[str, int]
) -> dict[Pair, Variates]:
    """Canonical variates of matched cells, for both ways of every pair that has cells.

    The 20 nearest cells of the other modality, by the embeddings so far, stand for what a cell
    lacks. Canonical correlation analysis of what the encoders read with the mean of these, over
    the cells of both modalities, finds the directions in which all features of the two agree,
    linked or not; each is scaled by its correlation. They join the linked features, and replace
    them where these are fewer than latents. Beyond the paper; MaxFuse (Chen et al. 2024) refines
    its matches in a like manner.

    `readers` are, for every modality, functions from row numbers to the tensors of a minibatch.
    There are no variates where embeddings are not finite; the end of the epoch gives advice then.
    """
    inputs, z = {}, {}
    for name in readers:
        inputs[name], z[name] = _embedded_sample(module, name, readers[name], n_obs[name])
    if not all(np.isfinite(embedding).all() for embedding in z.values()):
        return {}
    device = next(module.parameters()).device
    variates = {}
    for pair in module.present_pairs(z):
        a, b = pair
        maps = matched_variates(inputs[a], z[a], inputs[b], z[b])
        for way, (weights, offset) in zip((pair, pair[::-1]), maps, strict=True):
            variates[way] = Variates(weights.to(device), offset.to(device), module.n_latent)
    return variates


@torch.no_grad()
def _embedded_sample(
    module: SCMODALModule, name: str, readers: Mapping[str, RowReader], n_obs: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder reads of the sampled cells of a modality, and their embeddings."""
    device = next(module.parameters()).device
    sampled = sample_cells(n_obs, MAX_CELLS)
    values, z = [], []
    for start in range(0, len(sampled), BLOCK_CELLS):
        rows = sampled[start : start + BLOCK_CELLS]
        batch = {key: torch.from_numpy(read(rows)).to(device) for key, read in readers.items()}
        values.append(batch[name].float().cpu().numpy())
        z.append(module.inference(batch)[name].float().cpu().numpy())
    return np.concatenate(values).astype(np.float64), np.concatenate(z).astype(np.float64)


def matched_variates(
    a: np.ndarray, z_a: np.ndarray, b: np.ndarray, z_b: np.ndarray
) -> list[tuple[Tensor, Tensor]]:
    """Weights and offsets of the canonical variates of two modalities, matched by embeddings.

    From (n, p) and (m, r) values and (n, q) and (m, q) embeddings to, for each modality, (p, k)
    weights and a (k,) offset: variates of variance 1 times their correlation.
    """
    # 1. leading components of either modality, few enough for the number of cells
    n_columns = max(min(MAX_COLUMNS, (len(a) + len(b)) // CELLS_PER_COLUMN), 2)
    rotations = [_rotation(x, n_columns) for x in (a, b)]
    x, y = (values @ rotation for values, rotation in zip((a, b), rotations, strict=True))
    # 2. cells of both, each with the mean of its nearest cells in place of what it lacks
    of_first = np.concatenate([x, _mean_of_nearest(z_b, z_a, x)])
    of_second = np.concatenate([_mean_of_nearest(z_a, z_b, y), y])
    canonical = canonical_variates([of_first, of_second], MAX_VARIATES)
    logger.info("%r", canonical)
    # 3. back from components to columns; a variate counts as much as its two sides correlate
    maps = []
    for rotation, weights, mean in zip(rotations, canonical.weights, canonical.means, strict=True):
        scaled = weights * canonical.correlations
        maps.append((_single(rotation @ scaled), _single(-mean @ scaled)))
    return maps


def _rotation(x: np.ndarray, n: int) -> np.ndarray:
    """(p, n) axes of the leading principal components; the identity for few columns."""
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
