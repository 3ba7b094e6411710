"""Where specific latents start: components of what shared latents leave, one after another."""

from __future__ import annotations

import numpy as np
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeCV

from cantata._numeric.neighbors import nearest_neighbors, neighbor_sums

N_NEAR = 30
"""Cells near in shared latents whose mean is taken out of specific ones."""
RIDGE = 1e-6
"""Of linear regressions, in units of the mean variance."""
LEAST_SHARE = 1e-4
"""Of the variance of the leading component: smaller ones are what variates have missed."""
WIDTHS, N_WAVES = (1.0, 2.0, 4.0), 100
"""Widths of the kernels of a smooth regression, in units of the typical distance, and random
Fourier features of each."""
PENALTIES = tuple(10.0 ** np.arange(-4, 3))
"""Of a smooth regression; the one with the least error of left-out cells is taken."""
LEAST_GAIN = 0.01
"""Share of what is left that a smooth regression has to explain to be made again."""
NOISE = 1 / 3
"""Of components of variance 1: decoders see latents of standard deviation 3 with noise of 1."""
MAX_CELLS = 20_000
"""Cells that a smooth regression is fitted on."""


def specific_start(
    known: np.ndarray, values: np.ndarray, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Leading directions of the values of a modality beyond its shared latents.

    Taken out of the values is first what a linear regression on the shared latents explains, then
    the mean over the cells that are near in these. Then comes one principal component after the
    other. A factor whose direction changes with a shared one takes several of these, which
    together tell of the shared factor again. So where the next component and those so far tell
    more of the shared latents than the latter alone, what a smooth regression on shared latents
    *and* the components so far explains of the rest is taken out first. All this is judged on
    left-out cells.

    Parameters
    ----------
    known
        (n, k) shared latents of the cells.
    values
        (n, d) values of the same cells.
    width
        Largest number of directions.
    rng
        For random features and the sample of cells that regressions are fitted on.

    Returns
    -------
    (n, up to `width`) latents of standard deviation 1; fewer where there are fewer directions.
    """
    left = _left_by_neighbors(known, left_by_regression(known, values))
    total = float(np.mean(np.var(values, axis=0)))
    found = np.zeros((len(left), 0))
    largest, told, bends = 0.0, 0.0, len(left) > N_NEAR
    while found.shape[1] < width:
        component, axis, variance = _leading(left)
        if bends and found.shape[1]:
            straight, explained = _left_by_waves(np.hstack([known, found]), left, rng)
            bends = explained > LEAST_GAIN
            if bends and _told(known, np.hstack([found, component]), rng) > told + LEAST_GAIN:
                left = straight
                component, axis, variance = _leading(left)
        largest = max(largest, variance)
        if variance <= max(RIDGE * total, LEAST_SHARE * largest):
            break
        left = left - np.outer(left @ axis, axis)
        found = np.hstack([found, component])
        told = _told(known, found, rng) if bends else 0.0
    return found


def _leading(left: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Leading principal component as a column of variance 1, its axis, and its variance."""
    variances, axes = np.linalg.eigh(left.T @ left / len(left))
    component = left @ axes[:, -1:] / np.sqrt(max(variances[-1], 1e-300))
    return component, axes[:, -1], float(variances[-1])


def left_by_regression(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Centred values less their least-squares regression on `known`."""
    x, y = known - known.mean(axis=0), values - values.mean(axis=0)
    gram = x.T @ x
    size = np.trace(gram) / max(len(gram), 1)
    penalty = RIDGE * size if size > 0 else 1.0
    return y - x @ np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ y)


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


def _left_by_waves(
    known: np.ndarray, left: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Principal components of `left` less a smooth regression on `known`, and its gain.

    A component stays as it is where left-out cells gain nothing. The gain is the share of the
    variance that is explained, of left-out cells.
    """
    _, axes = np.linalg.eigh(left.T @ left)
    scores = left @ axes
    fit = _WaveRegression(known, scores, rng)
    return (scores - fit.predict(known) * (fit.gain > 0)) @ axes.T, fit.share


def _told(known: np.ndarray, by: np.ndarray, rng: np.random.Generator) -> float:
    """Share of the variance of `known` that a smooth regression on noisy `by` explains."""
    return _WaveRegression(by + NOISE * rng.standard_normal(by.shape), known, rng).share


class _WaveRegression:
    """Kernel ridge regression by random Fourier features of several widths.

    Each of the (n, k) values has a penalty of its own, by the error of left-out cells. `gain` is
    the (k,) variance explained of left-out cells, at least 0, and `share` that of all values.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
        spread = x.std(axis=0)
        self._mean, self._spread = x.mean(axis=0), np.where(spread > 0, spread, 1)
        seed = int(rng.integers(2**31 - len(WIDTHS)))
        gammas = [0.5 / (x.shape[1] * width**2) for width in WIDTHS]
        self._samplers = [
            RBFSampler(gamma=gamma, n_components=N_WAVES, random_state=seed + k).fit(x[:1])
            for k, gamma in enumerate(gammas)
        ]
        if len(x) > MAX_CELLS:
            rows = np.sort(rng.choice(len(x), MAX_CELLS, replace=False))
            x, y = x[rows], y[rows]
        self._ridge = RidgeCV(PENALTIES, alpha_per_target=True).fit(self._waves(x), y)
        variance = y.var(axis=0)
        self.gain = np.clip(variance + self._ridge.best_score_, 0, None)  # score: - squared error
        self.share = float(self.gain.sum() / max(variance.sum(), 1e-300))

    def _waves(self, x: np.ndarray) -> np.ndarray:
        scaled = (x - self._mean) / self._spread
        return np.hstack([sampler.transform(scaled) for sampler in self._samplers])

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n, k) values, in blocks of cells."""
        blocks = np.array_split(x, -(-len(x) // MAX_CELLS))
        return np.vstack([self._ridge.predict(self._waves(block)) for block in blocks])
