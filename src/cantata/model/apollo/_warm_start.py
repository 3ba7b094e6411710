"""Where latents start: canonical variates, and principal components of what they leave."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from cantata._canonical import canonical_variates
from cantata._neighbors import nearest_neighbors, neighbor_sums

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

START_SD = 3.0
"""Standard deviation at the start: noise of size 1 then leaves most of a latent readable."""
FILL_SD = 0.1
"""Standard deviation of latents for which the data have no direction."""
MIN_PAIRED = 10
"""Cells with all modalities below which there is nothing to correlate."""
MAX_CELLS = 20_000
"""Cells that the variates are fitted on; more are sampled."""
N_NEAR = 30
"""Cells near in shared latents whose mean is taken out of specific ones."""
RIDGE = 1e-6
"""Of regressions, in units of the mean variance."""
LEAST_SHARE = 1e-4
"""Of the variance of the leading component: smaller ones are what variates have missed."""


def canonical_start(
    inputs: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
    n_shared: int,
    n_specific: Mapping[str, int],
    *,
    seed: int = 0,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Shared and specific latents of cells, in closed form.

    Shared latents are the leading canonical variates of the modalities, averaged over the
    modalities that a cell has, each as wide as the share of its variance that chance does not
    explain. Specific latents are the leading principal components of what the shared ones leave:
    after a linear regression, and after the mean over the cells that are near in shared latents,
    which takes what is not linear.

    Parameters
    ----------
    inputs
        For each modality (n_m, d_m) values, of a few hundred columns at most.
    rows
        For each modality the (n,) row of every cell in its values; -1 where it lacks it.
    n_shared, n_specific
        Numbers of latents.
    seed
        Of the latents for which there is no direction, and of the sample that variates are
        fitted on.

    Returns
    -------
    (n, n_shared) shared latents, and for each modality (cells that have it, width) specific ones,
    in the order of the cells.

    Raises
    ------
    ValueError
        If fewer than 10 cells have all modalities.
    """
    rng = np.random.default_rng(seed)
    shared = _shared(inputs, rows, n_shared, rng)
    specific = {}
    for name, x in inputs.items():
        cells = np.flatnonzero(rows[name] >= 0)
        own = x[rows[name][cells]].astype(np.float64)
        known = shared[cells]
        left = _left_by_neighbors(known, own - own.mean(axis=0) - _fitted(known, own))
        components = _components(left, n_specific[name], x)
        specific[name] = _filled(components, n_specific[name], rng)
    return _filled(shared, n_shared, rng).astype(np.float32), specific


def random_start(
    rows: Mapping[str, np.ndarray], n_shared: int, n_specific: Mapping[str, int], *, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Latents from N(0, 1), as in the paper; arguments and result as of `canonical_start`."""
    rng = np.random.default_rng(seed)
    n = len(next(iter(rows.values())))
    specific = {
        name: rng.standard_normal((int((own >= 0).sum()), n_specific[name]), dtype=np.float32)
        for name, own in rows.items()
    }
    return rng.standard_normal((n, n_shared), dtype=np.float32), specific


def _shared(
    inputs: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
    n_shared: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """(n, k) canonical variates of cells, k at most `n_shared`, scaled."""
    table = np.stack([rows[name] for name in inputs], axis=1)
    whole = np.all(table >= 0, axis=1)
    paired = np.flatnonzero(whole)
    if len(paired) < MIN_PAIRED:
        raise ValueError(
            f"{len(paired)} of {len(table)} training cells have all of {list(inputs)}; canonical "
            f"variates need {MIN_PAIRED}. Pass start='normal', or use SCMODAL where no cell is "
            "paired."
        )
    fitted_on = paired
    if len(paired) > MAX_CELLS:
        fitted_on = np.sort(rng.choice(paired, MAX_CELLS, replace=False))
    blocks = [x[rows[name][fitted_on]].astype(np.float64) for name, x in inputs.items()]
    found = canonical_variates(blocks, n_shared)
    width = START_SD * _beyond_chance(found.correlations, blocks, rng)
    shared = np.zeros((len(table), found.n))
    weight = np.zeros((len(table), found.n))
    for k, (name, x) in enumerate(inputs.items()):
        cells = np.flatnonzero(rows[name] >= 0)
        shared[cells] += found.shares[k] * found.transform(k, x[rows[name][cells]])
        weight[cells] += found.shares[k]
    # cells with all modalities vary less than those with one, by as much as these disagree
    mean = shared / np.where(weight > 0, weight, 1)
    logger.info("Canonical correlations: %s.", np.round(found.correlations[:10], 2))
    filling = FILL_SD * rng.standard_normal(mean.shape)
    return np.where(whole[:, None], mean / found.spread, mean) * width + filling * (width == 0)


def _beyond_chance(
    correlations: np.ndarray, blocks: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Share of the variance of each variate that chance does not explain.

    ``(r^2 - c^2) / (1 - c^2)``, at least 0, where c is the largest correlation of the same blocks
    after their cells were permuted. Variates beyond these hold what one modality has for itself.
    """
    permuted = [blocks[0], *(x[rng.permutation(len(x))] for x in blocks[1:])]
    chance = float(np.clip(canonical_variates(permuted, 1).correlations[0], 0, 0.999))
    squares = np.clip(correlations, 0, 1) ** 2
    return np.clip((squares - chance**2) / (1 - chance**2), 0, 1)


def _fitted(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What a least-squares regression on `known` says of centred values."""
    centred = known - known.mean(axis=0)
    return centred @ _ridge_weights(centred, values - values.mean(axis=0))


def _left_by_neighbors(known: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Principal components of `left` less what the cells near in `known` say of them.

    A component stays as it is where the mean over other cells near by explains none of it, which
    is the case where a relation was linear and has been taken out already.
    """
    if len(left) <= N_NEAR:
        return left
    _, axes = np.linalg.eigh(left.T @ left)
    scores = left @ axes
    near = nearest_neighbors(known, known, N_NEAR + 1)[0]
    mean = (neighbor_sums(scores, near) - scores) / N_NEAR  # a cell is its own neighbour too
    explains = np.square(scores - mean).sum(axis=0) < np.square(scores).sum(axis=0)
    return (scores - mean * explains) @ axes.T


def _ridge_weights(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(d, k) weights of a ridge regression of centred values on centred columns."""
    gram = x.T @ x
    size = np.trace(gram) / max(len(gram), 1)
    penalty = RIDGE * size if size > 0 else 1.0
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ y)


def _components(left: np.ndarray, k: int, x: np.ndarray) -> np.ndarray:
    """(n, up to k) leading principal components, of the start's standard deviation."""
    values, axes = np.linalg.eigh(left.T @ left / len(left))
    values, axes = values[::-1], axes[:, ::-1]
    total = float(np.mean(np.var(x, axis=0)))
    least = max(RIDGE * total, LEAST_SHARE * values[0])
    kept = min(k, int((values > least).sum()))
    return (left @ axes[:, :kept]) / np.sqrt(values[:kept]) * START_SD


def _filled(latents: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """Latents with columns of little spread added, where there are fewer than wanted."""
    missing = width - latents.shape[1]
    filling = FILL_SD * rng.standard_normal((len(latents), missing))
    return np.hstack([latents, filling]).astype(np.float32)
