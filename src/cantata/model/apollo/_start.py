"""Where latents start: canonical variates, and components of what these leave."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeCV

from cantata._numeric.canonical import canonical_variates
from cantata._numeric.neighbors import nearest_neighbors, neighbor_sums

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

START_SD = 3.0
"""Standard deviation at the start: noise of size 1 then leaves most of a latent readable."""
NOISE = 1 / 3
"""That noise, in units of latents of variance 1."""
FILL_SD = 0.1
"""Standard deviation of latents for which the data have no direction."""
MIN_PAIRED = 10
"""Cells with all modalities below which there is nothing to correlate."""
MAX_CELLS = 20_000
"""Cells that variates and smooth regressions are fitted on; more are sampled."""
N_NEIGHBORS = 30
"""Cells near in shared latents whose mean is taken out of specific ones."""
RIDGE = 1e-6
"""Of linear regressions, in units of the mean variance."""
MIN_VARIANCE_SHARE = 1e-4
"""Of the variance of the leading component: smaller ones are what variates have missed."""
KERNEL_WIDTHS, N_FOURIER_FEATURES = (1.0, 2.0, 4.0), 100
"""Widths of the kernels of a smooth regression, in units of the typical distance, and random
Fourier features of each."""
PENALTIES = tuple(10.0 ** np.arange(-4, 3))
"""Of a smooth regression; the one with the least error of left-out cells is taken."""
MIN_GAIN = 0.01
"""Share of what is left that a smooth regression has to explain to be made again."""


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
    :func:`specific_start`.

    Parameters
    ----------
    inputs
        For each modality (n_m, d_m) values, of a few hundred columns at most.
    rows
        For each modality the (n,) row of every cell in its values; -1 where it lacks it.
    n_shared, n_specific
        Numbers of latents.
    seed
        Of latents without a direction, and of the sample that variates are fitted on.

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
        values = x[rows[name][cells]].astype(np.float64)
        components = specific_start(shared[cells], values, n_specific[name], rng)
        specific[name] = _filled(START_SD * components, n_specific[name], rng)
    return _filled(shared, n_shared, rng).astype(np.float32), specific


def random_start(
    rows: Mapping[str, np.ndarray], n_shared: int, n_specific: Mapping[str, int], *, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Latents from N(0, 1), as in the paper; arguments and result as of `canonical_start`."""
    rng = np.random.default_rng(seed)
    n = len(next(iter(rows.values())))
    specific = {}
    for name, of_modality in rows.items():
        shape = int((of_modality >= 0).sum()), n_specific[name]
        specific[name] = rng.standard_normal(shape, dtype=np.float32)
    return rng.standard_normal((n, n_shared), dtype=np.float32), specific


def _shared(
    inputs: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
    n_shared: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """(n, k) canonical variates of cells, k at most `n_shared`, scaled."""
    # 1. variates of the cells that have all modalities
    table = np.stack([rows[name] for name in inputs], axis=1)
    is_complete = np.all(table >= 0, axis=1)
    paired = np.flatnonzero(is_complete)
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
    variates = canonical_variates(blocks, n_shared)
    logger.info("Canonical correlations: %s.", np.round(variates.correlations[:10], 2))
    sd = START_SD * _beyond_chance(variates.correlations, blocks, rng)
    # 2. for every cell their mean over its modalities
    total, weight = np.zeros((2, len(table), variates.n))
    for k, (name, x) in enumerate(inputs.items()):
        cells = np.flatnonzero(rows[name] >= 0)
        total[cells] += variates.shares[k] * variates.transform(k, x[rows[name][cells]])
        weight[cells] += variates.shares[k]
    mean = total / np.where(weight > 0, weight, 1)
    # 3. means over all modalities vary less than variates of one, by as much as these disagree
    unit = np.where(is_complete[:, None], mean / variates.spread, mean)
    # 4. variates that are mere chance are replaced by noise
    return unit * sd + FILL_SD * rng.standard_normal(mean.shape) * (sd == 0)


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


def specific_start(
    known: np.ndarray, values: np.ndarray, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Leading directions of the (n, d) values of a modality beyond its (n, k) shared latents.

    Taken out of the values is first what a linear regression on the shared latents explains, then
    the mean over the cells that are near in these. Then comes one principal component after the
    other. A factor whose direction changes with a shared one takes several of these, which
    together tell of the shared factor again. So where the next component and those so far tell
    more of the shared latents than the latter alone, what a smooth regression on shared latents
    *and* the components so far explains of the rest is taken out first. All this is judged on
    left-out cells.

    Returns
    -------
    (n, up to `width`) latents of standard deviation 1; fewer where there are fewer directions.
    """
    # 1. linear and local means of the shared latents are taken out
    residual = _neighbor_residual(known, linear_residual(known, values))
    total = float(np.mean(np.var(values, axis=0)))
    components = np.zeros((len(residual), 0))
    largest, explained = 0.0, 0.0
    is_smooth = len(residual) > N_NEIGHBORS  # whether a smooth regression may still explain more
    while components.shape[1] < width:
        # 2. the next component; where it tells of the shared latents, it and those before it turn
        #    with these, and what they explain smoothly is taken out first
        component, axis, variance = _leading(residual)
        if is_smooth and components.shape[1]:
            straight, gain = _fourier_residual(np.hstack([known, components]), residual, rng)
            is_smooth = gain > MIN_GAIN
            with_next = np.hstack([components, component])
            if is_smooth and _explained_share(known, with_next, rng) > explained + MIN_GAIN:
                residual = straight
                component, axis, variance = _leading(residual)
        # 3. stop at what is numerically or relatively nothing
        largest = max(largest, variance)
        if variance <= max(RIDGE * total, MIN_VARIANCE_SHARE * largest):
            break
        residual = residual - np.outer(residual @ axis, axis)
        components = np.hstack([components, component])
        explained = _explained_share(known, components, rng) if is_smooth else 0.0
    return components


def _leading(residual: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Leading principal component as a column of variance 1, its axis, and its variance."""
    variances, axes = np.linalg.eigh(residual.T @ residual / len(residual))
    component = residual @ axes[:, -1:] / np.sqrt(max(variances[-1], 1e-300))
    return component, axes[:, -1], float(variances[-1])


def linear_residual(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Centred values less their least-squares regression on `known`."""
    x, y = known - known.mean(axis=0), values - values.mean(axis=0)
    gram = x.T @ x
    size = np.trace(gram) / max(len(gram), 1)
    penalty = RIDGE * size if size > 0 else 1.0
    return y - x @ np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ y)


def _neighbor_residual(known: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Principal components of `residual` less what the cells near in `known` say of them.

    A component stays as it is where the mean over other cells near by explains none of it, which
    is the case where a relation was linear and has been taken out already.
    """
    if len(residual) <= N_NEIGHBORS:
        return residual
    _, axes = np.linalg.eigh(residual.T @ residual)
    scores = residual @ axes
    near = nearest_neighbors(known, known, N_NEIGHBORS + 1)[0]
    mean = (neighbor_sums(scores, near) - scores) / N_NEIGHBORS  # a cell is its own neighbour too
    explains = np.square(scores - mean).sum(axis=0) < np.square(scores).sum(axis=0)
    return (scores - mean * explains) @ axes.T


def _fourier_residual(
    known: np.ndarray, residual: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Principal components of `residual` less a smooth regression on `known`, and its gain.

    A component stays as it is where left-out cells gain nothing. The gain is the share of the
    variance that is explained, of left-out cells.
    """
    _, axes = np.linalg.eigh(residual.T @ residual)
    scores = residual @ axes
    fit = _FourierRidge(known, scores, rng)
    return (scores - fit.predict(known) * (fit.gain > 0)) @ axes.T, fit.share


def _explained_share(known: np.ndarray, by: np.ndarray, rng: np.random.Generator) -> float:
    """Share of the variance of `known` that a smooth regression on noisy `by` explains."""
    return _FourierRidge(by + NOISE * rng.standard_normal(by.shape), known, rng).share


class _FourierRidge:
    """Kernel ridge regression by random Fourier features of several widths.

    Each of the (n, k) values has a penalty of its own, by the error of left-out cells. `gain` is
    the (k,) variance explained of left-out cells, at least 0, and `share` that of all values.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
        # 1. random features of kernels, whose widths are in units of standard deviations
        sd = x.std(axis=0)
        self._mean, self._sd = x.mean(axis=0), np.where(sd > 0, sd, 1)
        seed = int(rng.integers(2**31 - len(KERNEL_WIDTHS)))
        self._samplers = []
        for k, width in enumerate(KERNEL_WIDTHS):
            gamma = 0.5 / (x.shape[1] * width**2)
            sampler = RBFSampler(
                gamma=gamma, n_components=N_FOURIER_FEATURES, random_state=seed + k
            )
            self._samplers.append(sampler.fit(x[:1]))
        # 2. a ridge regression on them; its score is minus the squared error of left-out cells
        if len(x) > MAX_CELLS:
            rows = np.sort(rng.choice(len(x), MAX_CELLS, replace=False))
            x, y = x[rows], y[rows]
        self._ridge = RidgeCV(PENALTIES, alpha_per_target=True).fit(self._features(x), y)
        variance = y.var(axis=0)
        self.gain = np.clip(variance + self._ridge.best_score_, 0, None)
        self.share = float(self.gain.sum() / max(variance.sum(), 1e-300))

    def _features(self, x: np.ndarray) -> np.ndarray:
        scaled = (x - self._mean) / self._sd
        return np.hstack([sampler.transform(scaled) for sampler in self._samplers])

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n, k) values, in blocks of cells."""
        blocks = np.array_split(x, -(-len(x) // MAX_CELLS))
        return np.vstack([self._ridge.predict(self._features(block)) for block in blocks])
