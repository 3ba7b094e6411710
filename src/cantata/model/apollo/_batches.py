"""Registered covariates, taken out of where latents start and of what encoders say."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from cantata._numeric.batches import sample_cells
from cantata._numeric.neighbors import nearest_neighbors
from cantata.model._plan import adam
from cantata.model.apollo._module import ABSENT, SHARED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cantata.model.apollo._module import APOLLOModule
    from cantata.nn import Covariates

logger = logging.getLogger(__name__)

N_MUTUAL, N_SMOOTHED = 20, 15
"""Neighbours in another batch that may be mutual, and cells that a shift is averaged over."""
MAX_CELLS = 10_000
"""Cells that are compared with each other; more move as the nearest of a sample do."""
MAX_DISTANCE = 1.5
"""Largest distance of partners, in units of the median."""
N_NEIGHBORS, MAX_SEPARATION = 15, 0.02
"""Neighbours that batches are judged by, and how far apart they may be."""
N_ROUNDS, STEP = 20, 0.5
"""Shifts that mix batches, one after another, at most, and how far cells follow each."""
N_ENCODER_ROUNDS, N_ENCODER_STEPS, LR, MINIBATCH = 6, 300, 1e-3, 256
"""Rounds of training encoders on mixed encodings; steps of each, their rate, and their cells."""


def without_covariates(x: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Rows less what a joint linear regression on covariates explains; means stay.

    `x` is (n, d) and `design` (n, c): codes of all categories, and continuous covariates.
    """
    centred = design - design.mean(axis=0)
    coefficients = np.linalg.lstsq(centred, x.astype(np.float64), rcond=None)[0]
    return (x - centred @ coefficients).astype(x.dtype)


def separation(z: np.ndarray, batch: np.ndarray) -> float:
    """How far batches are apart: 0 where the neighbours of cells are of all, 1 where of their own.

    The share of a batch among the 15 nearest of its own cells, less its share of all cells, as a
    part of what there is to 1; the mean over batches.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.repeat([[0.0], [9.0]], 40, axis=0) + np.linspace(0, 1, 80)[:, None]
    >>> separation(z, np.repeat([0, 1], 40)), separation(z, np.arange(80) % 2) < 0.1
    (1.0, True)
    """
    near, _ = nearest_neighbors(z, z, min(N_NEIGHBORS + 1, len(z)))
    is_other = near != np.arange(len(z))[:, None]
    own = ((batch[near] == batch[:, None]) & is_other).sum(axis=1) / is_other.sum(axis=1)
    codes, sizes = np.unique(batch, return_counts=True)
    expected = (sizes - 1) / (len(z) - 1)
    excess = [(own[batch == b].mean() - p) / (1 - p) for b, p in zip(codes, expected, strict=True)]
    return float(np.mean(excess))


def mixed(z: np.ndarray, batch: np.ndarray, by: np.ndarray | None = None) -> np.ndarray:
    """Latents of cells less what their batch changes, where batches are apart.

    Cells of two batches that are among each other's nearest are taken for the same state. Each
    cell moves by what separates the 15 of its own batch nearest to it from such partners
    (Haghverdi et al. 2018), to where batches meet, by their sizes. What only one batch has moves
    along with its neighbourhood and is not drawn onto other cells.

    Parameters
    ----------
    z
        (n, d) latents.
    batch
        (n,) codes of batches.
    by
        Latents that tell which cells are near each other; by default `z` itself, as it moves.
    """
    z = best = z.astype(np.float64)
    if not z.shape[1] or len(np.unique(batch)) < 2:
        return z
    if len(z) > MAX_CELLS:
        return _mixed_as_sampled(z, batch, by)
    least = np.inf
    pairs = None if by is None else _pairs_between(by, batch)
    for _ in range(N_ROUNDS):
        # batches are judged by cells with partners: what only one has stays apart for good
        found = _pairs_between(z, batch) if pairs is None else pairs
        paired = np.concatenate([part.paired for part in found])
        if not len(paired):
            break
        apart = separation(z[paired], batch[paired])
        if apart >= least:
            break
        least, best = apart, z
        if apart <= MAX_SEPARATION:
            break
        z = z + STEP * _shift_between(z, found)
    return best


def _mixed_as_sampled(z: np.ndarray, batch: np.ndarray, by: np.ndarray | None) -> np.ndarray:
    """Latents moved as the nearest cells of their batch in a sample are, which is mixed."""
    place = z if by is None else by
    sample = np.sort(sample_cells(len(z), MAX_CELLS))
    codes = batch[sample]
    moved = mixed(z[sample], codes, None if by is None else by[sample]) - z[sample]
    result = z.copy()
    for code in np.unique(codes):
        cells, own = np.flatnonzero(batch == code), np.flatnonzero(codes == code)
        k = min(N_SMOOTHED, len(own))
        near, _ = nearest_neighbors(place[sample[own]], place[cells], k)
        result[cells] += moved[own[near]].mean(axis=1)
    return result


@dataclass(frozen=True)
class _Pairs:
    """Cells of a batch, and their partners in others."""

    own: np.ndarray
    """(n_own,) cells of the batch."""
    paired: np.ndarray
    """(n_paired,) those with a partner."""
    partners: sparse.csr_matrix
    """(n_paired, n) weights of the partners, rows that sum to 1."""
    near: np.ndarray
    """(n_own, k) numbers of the paired cells that are nearest to each cell of the batch."""


def _pairs_between(z: np.ndarray, batch: np.ndarray) -> list[_Pairs]:
    """Cells of each batch and of the others that are near each other both ways."""
    pairs = []
    for code in np.unique(batch):
        own, others = np.flatnonzero(batch == code), np.flatnonzero(batch != code)
        forth, distance = nearest_neighbors(z[others], z[own], min(N_MUTUAL, len(others)))
        back, _ = nearest_neighbors(z[own], z[others], min(N_MUTUAL, len(own)))
        back_and_forth = (back[forth] == np.arange(len(own))[:, None, None]).any(axis=2)
        # cells of a state that others lack are far from their border, though it may be nearest
        if back_and_forth.any():
            back_and_forth &= distance <= MAX_DISTANCE * np.median(distance[back_and_forth])
        n_partners = back_and_forth.sum(axis=1)
        has = np.flatnonzero(n_partners)
        if not len(has):
            continue
        columns = others[forth[has]][back_and_forth[has]]
        weights = np.repeat(1 / n_partners[has], n_partners[has])
        starts = np.concatenate([[0], np.cumsum(n_partners[has])])
        partners = sparse.csr_matrix((weights, columns, starts), (len(has), len(z)))
        near, _ = nearest_neighbors(z[own[has]], z[own], min(N_SMOOTHED, len(has)))
        pairs.append(_Pairs(own, own[has], partners, near))
    return pairs


def _shift_between(z: np.ndarray, pairs: list[_Pairs]) -> np.ndarray:
    """(n, d) steps from every cell to where its batch meets the others."""
    shift = np.zeros_like(z)
    for part in pairs:
        # to the mean of partners, of near cells, as far as the other batches make up the cells
        step = part.partners @ z - z[part.paired]
        shift[part.own] = step[part.near].mean(axis=1) * (1 - len(part.own) / len(z))
    return shift


def mix_encoders(
    module: APOLLOModule,
    inputs: Mapping[str, Tensor],
    covariates: Covariates,
    table_rows: Mapping[str, Tensor],
    seed: int = 0,
) -> None:
    """Train encoders until what they say of training cells no longer depends on the batch.

    Regressed on latents without the batch, encodings still differ between batches, by what the
    input of one tells better than that of another. What encoders say is mixed, for each modality
    and for the mean over modalities, and they are trained on the result. Which cells are in the
    same state is told by the tables, where states are further apart than in encodings.

    Not where there are images: these cannot be held in memory, and their encoders would lose what
    decoding has taught them in the second stage. Tables are mixed there as everywhere.

    Parameters
    ----------
    module
        Network with encoders.
    inputs, table_rows
        As for :func:`~cantata.model.apollo._plan.fit_linear_encoders`.
    covariates
        Those of all cells of the data.
    seed
        Of minibatches.
    """
    rng = np.random.default_rng(seed)
    device = module.device
    batch = covariates.batch.numpy()
    is_train = table_rows[SHARED].cpu() >= 0
    tables = {name: module.table(name).weight.detach().cpu().numpy() for name in module.tables}
    of_all = np.zeros((len(batch), module.n_shared))
    of_all[is_train] = tables[SHARED]
    cells, data = {}, {}
    for name, x in inputs.items():
        has = table_rows[name].cpu() > ABSENT
        cells[name] = (has & is_train).nonzero().squeeze(1)
        data[name] = x[is_train[has]].to(device), covariates.rows(cells[name]).to(device)
    for _ in range(N_ENCODER_ROUNDS):
        # 1. what encoders say, of each modality and of all
        targets, n = {}, np.zeros((len(batch), 1))
        total: Any = 0.0
        moved = False
        for name, (x, told) in data.items():
            with torch.inference_mode():
                shared, specific = (z.cpu().numpy() for z in module.encode(name, x, told))
            own = mixed(shared, batch[cells[name]], of_all[cells[name]])
            moved |= not np.array_equal(own, shared)
            targets[name] = own, mixed(specific, batch[cells[name]], tables[name])
            rows = np.zeros((len(batch), own.shape[1]))
            rows[cells[name]] = own
            total = total + rows
            n[cells[name]] += 1
        joint = (total / np.maximum(n, 1))[is_train]
        shift = np.zeros((len(batch), joint.shape[1]))
        shift[is_train] = mixed(joint, batch[is_train], of_all[is_train]) - joint
        if not (moved or shift.any()):
            return
        logger.info("Encodings differ between batches; encoders are trained to mix them.")
        # 2. encoders learn to say it without the batch
        for name, (x, told) in data.items():
            own, specific = targets[name]
            target = np.hstack([own + shift[cells[name]], specific]).astype(np.float32)
            _regress(module, name, x, told, torch.from_numpy(target).to(device), rng)


def _regress(
    module: APOLLOModule,
    modality: str,
    x: Tensor,
    told: Covariates,
    target: Tensor,
    rng: np.random.Generator,
) -> None:
    """Train the encoder of a modality on (n, d_shared + d_specific) targets."""
    encoder = module.encoder(modality).train()
    optimizer = adam(encoder.parameters(), lr=LR)
    order = np.empty(0, dtype=np.int64)
    for step in range(N_ENCODER_STEPS):
        if len(order) < min(MINIBATCH, len(x)):
            order = rng.permutation(len(x))
        rows, order = torch.from_numpy(order[:MINIBATCH]).to(x.device), order[MINIBATCH:]
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * LR * (1 + math.cos(math.pi * step / N_ENCODER_STEPS))
        encoded = torch.cat(module.encode(modality, x[rows], told.rows(rows)), dim=1)
        loss = (encoded - target[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    encoder.eval()
