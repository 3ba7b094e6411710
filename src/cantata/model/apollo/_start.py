"""Where latents start: canonical variates, and components of what these leave."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.csgraph import connected_components
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeCV

from cantata._numeric.canonical import canonical_variates
from cantata._numeric.neighbors import nearest_neighbors, neighbor_sums
from cantata.model.apollo._batches import mixed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cantata._numeric.canonical import CanonicalVariates

logger = logging.getLogger(__name__)

START_SD = 3.0
"""Standard deviation at the start: noise of size 1 then leaves most of a latent readable."""
NOISE = 1 / 3
"""That noise, in units of latents of variance 1."""
FILL_SD = 0.1
"""Standard deviation of latents for which the data have no direction."""
MIN_PAIRED = 10
"""Cells with two modalities below which there is nothing to correlate."""
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
    batch: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Shared and specific latents of cells, in closed form.

    Shared latents are the leading canonical variates of the modalities, averaged over the
    modalities that a cell has, each as wide as the share of its variance that chance does not
    explain in any pair of modalities: what only some of several share is in the specific latents
    of each of these. Specific latents are components of what the shared ones leave, see
    :func:`specific_start`.

    Parameters
    ----------
    inputs
        For each modality (n_m, d_m) values, of a few hundred columns at most.
    rows
        For each modality the (n,) row of every cell in its values; -1 where it lacks it.
    n_shared, n_specific
        Numbers of latents.
    batch
        (n,) batches that shared latents are mixed over; None: one.
    seed
        Of latents without a direction, and of the sample that variates are fitted on.

    Returns
    -------
    (n, n_shared) shared latents, and for each modality (cells that have it, width) specific ones,
    in the order of the cells.

    Raises
    ------
    ValueError
        If fewer than 10 cells connect some of the modalities, directly or by a chain.
    """
    rng = np.random.default_rng(seed)
    shared = _shared(inputs, rows, n_shared, rng)
    known = shared
    if batch is not None:
        # what mixing took out of the shared latents is no news of the modalities either
        shared = mixed(shared, batch)
        known = np.hstack([shared, known - shared]) if np.any(known != shared) else shared
    specific = {}
    for name, x in inputs.items():
        cells = np.flatnonzero(rows[name] >= 0)
        values = x[rows[name][cells]].astype(np.float64)
        components = specific_start(known[cells], values, n_specific[name], rng)
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
    # 1. variates of the cells that have several modalities
    names = list(inputs)
    table = np.stack([rows[name] for name in names])
    check_paired(table, names)
    fitted_on = np.flatnonzero((table >= 0).sum(axis=0) > 1)
    if len(fitted_on) > MAX_CELLS:
        fitted_on = np.sort(rng.choice(fitted_on, MAX_CELLS, replace=False))
    blocks = [inputs[name].astype(np.float64) for name in names]
    fit_rows = list(table[:, fitted_on])
    variates = canonical_variates(blocks, n_shared, rows=fit_rows)
    logger.info("Canonical correlations: %s.", np.round(variates.correlations[:10], 2))
    sd = START_SD * _beyond_chance(variates, blocks, fit_rows, rng)
    # 2. for every cell their mean over its modalities; it varies less than the variates of one,
    #    by as much as these disagree
    shared = np.zeros((table.shape[1], variates.n))
    patterns, pattern = np.unique(table >= 0, axis=1, return_inverse=True)
    for number, has in enumerate(patterns.T):
        cells, its = np.flatnonzero(pattern == number), np.flatnonzero(has).tolist()
        weights = variates.shares[its]
        total = sum(
            w * variates.transform(k, blocks[k][table[k, cells]])
            for w, k in zip(weights, its, strict=True)
        )
        size = weights.sum(axis=0) * variates.spread(its)
        shared[cells] = total / np.where(size > 0, size, 1)
    # 3. variates that are mere chance are replaced by noise
    return shared * sd + FILL_SD * rng.standard_normal(shared.shape) * (sd == 0)


def check_paired(table: np.ndarray, names: list[str]) -> None:
    """Refuse modalities that fewer than 10 cells connect, directly or by a chain.

    `table` is modalities x cells, -1 where a cell lacks the modality.
    """
    has = (table >= 0).astype(np.int64)
    together = has @ has.T
    n_groups, group = connected_components(together >= MIN_PAIRED, directed=False)
    if n_groups == 1:
        return
    between = together[group[:, None] != group].max()
    what = f"have all of {names}"
    if len(names) > 2:
        parts = ([n for n, g in zip(names, group, strict=True) if (g == 0) == k] for k in (1, 0))
        what = "connect {} with {}".format(*parts)
    raise ValueError(
        f"{between} of {table.shape[1]} training cells {what}; canonical variates need "
        f"{MIN_PAIRED}. Pass start='normal', or use SCMODAL where no cell is paired."
    )


def _beyond_chance(
    variates: CanonicalVariates,
    blocks: list[np.ndarray],
    rows: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Share of the variance of each variate that chance does not explain.

    ``(r^2 - c^2) / (1 - c^2)``, at least 0, where r is the least correlation of a pair of blocks
    and c the largest correlation of the same blocks after their cells were permuted. Variates
    beyond these hold what one modality has for itself, or what only some of several share.
    """
    permuted = [rows[0].copy()]
    for of_block in rows[1:]:
        has = np.flatnonzero(of_block >= 0)
        other = of_block.copy()
        other[has] = of_block[has[rng.permutation(len(has))]]
        permuted.append(other)
    by_chance = canonical_variates(blocks, 1, rows=permuted).correlations[0]
    chance = float(np.clip(by_chance, 0, 0.999))
    squares = np.clip(variates.least_correlations, 0, 1) ** 2
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
        predicted = [self._ridge.predict(self._features(block)) for block in blocks]
        # scikit-learn drops the axis of a single column
        return np.vstack([y.reshape(len(y), -1) for y in predicted])
