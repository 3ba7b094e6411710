"""What needs no training: regularised CCA, and proteins from the nearest cells in RNA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from inputs import unit
from scipy import linalg

if TYPE_CHECKING:
    from collections.abc import Callable

REGULARISATIONS = (0.01, 0.03, 0.1, 0.3, 1.0)


def fit_cca(
    x: np.ndarray, y: np.ndarray, regularisation: float, n_components: int
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Regularised canonical correlation analysis in closed form.

    Parameters
    ----------
    x, y
        Representations (n, p) and (n, q) of the same cells in the same order.
    regularisation
        Added to the diagonal of both covariances, as a multiple of their mean variance.
    n_components
        Number of canonical variates, at most the smaller of p and q.

    Returns
    -------
    Two functions that project rows like those of `x` and of `y` to canonical variates, each
    weighted by its correlation.
    """
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    a, b = x - mean_x, y - mean_y
    white_x, white_y = _whitening(a, regularisation), _whitening(b, regularisation)
    u, s, vt = linalg.svd(white_x @ (a.T @ b / len(a)) @ white_y, full_matrices=False)
    k = min(n_components, len(s))
    to_x, to_y = white_x @ u[:, :k] * s[:k], white_y @ vt[:k].T * s[:k]
    return lambda rows: (rows - mean_x) @ to_x, lambda rows: (rows - mean_y) @ to_y


def _whitening(centred: np.ndarray, regularisation: float) -> np.ndarray:
    """Inverse square root of the regularised covariance."""
    covariance = centred.T @ centred / len(centred)
    shift = regularisation * np.trace(covariance) / len(covariance)
    values, vectors = linalg.eigh(covariance)
    return (vectors / np.sqrt(values + shift)) @ vectors.T


def choose_cca(
    x: np.ndarray,
    y: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], float],
    n_components: int,
    seed: int,
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray], float]:
    """CCA whose regularisation gives the lowest `score` on a tenth of the cells that it left out.

    Parameters
    ----------
    x, y, n_components
        As in :func:`fit_cca`; the fit that is returned uses all cells.
    score
        Function of two sets of unit vectors; lower is better.
    seed
        Of the choice of the tenth.

    Returns
    -------
    The two projections and the regularisation.
    """
    order = np.random.default_rng(seed).permutation(len(x))
    held, rest = np.split(order, [len(x) // 10])
    scores = []
    for regularisation in REGULARISATIONS:
        left, right = fit_cca(x[rest], y[rest], regularisation, n_components)
        scores.append(score(unit(left(x[held])), unit(right(y[held]))))
    best = REGULARISATIONS[int(np.argmin(scores))]
    return (*fit_cca(x, y, best, n_components), best)


def knn_impute(reference: np.ndarray, values: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """Mean of the values of the `k` nearest reference cells.

    Parameters
    ----------
    reference
        (n, d) representation of cells with known values.
    values
        (n, p) their values.
    query
        (m, d) representation of the other cells.
    k
        Number of neighbours.
    """
    from sklearn.neighbors import KNeighborsRegressor

    return KNeighborsRegressor(k).fit(reference, values).predict(query)
