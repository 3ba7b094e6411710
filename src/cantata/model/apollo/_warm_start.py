"""Where latents start: canonical variates, and principal components of what they leave."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from cantata._numeric.canonical import canonical_variates
from cantata.model.apollo._specific_start import specific_start

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
    explain. Specific latents are components of what the shared ones leave, see
    :func:`~cantata.model.apollo._specific_start.specific_start`.

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
        found = specific_start(shared[cells], own, n_specific[name], rng)
        specific[name] = _filled(START_SD * found, n_specific[name], rng)
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


def _filled(latents: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """Latents with columns of little spread added, where there are fewer than wanted."""
    missing = width - latents.shape[1]
    filling = FILL_SD * rng.standard_normal((len(latents), missing))
    return np.hstack([latents, filling]).astype(np.float32)
