"""How large the largest component of a matrix is whose features have nothing in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import norm

from cantata.tl._dimension_features import NARROW

if TYPE_CHECKING:
    from collections.abc import Callable

    from cantata.tl._dimension_features import Features

ROUNDS = 5
"""Rows and columns are scaled in turn so many times."""


def deviations(features: Features) -> Any:
    """Values minus the means of their columns; of sparse ones, those that are stored."""
    values = features.values
    if not sparse.issparse(values):
        return values - features.mean.astype(values.dtype)
    result = values.copy()
    result.data -= features.mean.astype(result.dtype)[result.indices]
    return result


def largest_by_chance(
    deviating: Any, rows: np.ndarray, columns: np.ndarray, n_repetitions: int, seed: int
) -> np.ndarray:
    """Largest squared singular value of a matrix of independent entries.

    Every deviation gets a random sign (Hong, Sheng and Dobriban 2020). Like a permutation of each
    feature this destroys all that features have in common. But noise keeps its place: where cells
    differ in depth, their noise differs in size, and what permutations spread evenly over the
    cells is exceeded by noise itself. Rows and columns are scaled to the given sums of squares:
    those of what is left of the data after the components before.

    Parameters
    ----------
    deviating
        See :func:`deviations`; sparse or dense.
    rows, columns
        Sums of squares of every cell and every feature, with one total.
    n_repetitions
        Number of repetitions.
    seed
        The same seed gives the same signs.

    Returns
    -------
    One number per repetition.
    """
    left, right = balance(deviating, rows, columns)
    scaled = deviating.copy()
    if sparse.issparse(scaled):
        scaled.data *= np.repeat(left, np.diff(scaled.indptr)).astype(scaled.dtype)
    else:
        scaled *= left[:, None].astype(scaled.dtype)
    result = np.empty(n_repetitions)
    for repetition in range(n_repetitions):
        rng = np.random.default_rng([seed, repetition])
        result[repetition] = _largest(_random_signs(scaled, rng), right)
    return result


def balance(
    deviating: Any, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of rows and of columns that give a matrix the wanted sums of squares.

    Scaled in turn (Sinkhorn and Knopp 1967), columns last.
    """
    left, right = np.ones(len(rows)), np.ones(len(columns))
    squares = deviating.multiply(deviating).tocsr() if sparse.issparse(deviating) else deviating**2
    for _ in range(ROUNDS):
        left = _ratio(rows, squares @ right)
        right = _ratio(columns, squares.T @ left)
    return np.sqrt(left), np.sqrt(right)


def threshold(by_chance: np.ndarray, alpha: float) -> float:
    """Quantile 1 - `alpha` of the normal distribution with the moments of the repetitions."""
    return float(by_chance.mean() + norm.isf(alpha) * by_chance.std(ddof=1))


def products(values: Any) -> np.ndarray:
    """Sums of products of columns, float64."""
    values = values.astype(np.float64)
    result = values.T @ values
    return np.asarray(result.toarray() if sparse.issparse(result) else result)


def leading(
    times: Callable[[np.ndarray], np.ndarray], size: int, n: int, *, tol: float = 1e-4
) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues of a symmetric matrix that is only multiplied with, ascending."""
    operator = LinearOperator((size, size), matvec=times, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    return eigsh(operator, k=n, which="LA", v0=start, tol=tol)


def _ratio(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    return np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0)


def _random_signs(values: Any, rng: np.random.Generator) -> Any:
    """Values with random signs; a new matrix that shares the places of sparse ones."""
    stored = values.data if sparse.issparse(values) else values
    signs = 2 * rng.integers(0, 2, stored.shape, dtype=np.int8) - 1
    if not sparse.issparse(values):
        return values * signs
    return sparse.csr_matrix((stored * signs, values.indices, values.indptr), values.shape)


def _largest(values: Any, factors: np.ndarray) -> float:
    """Largest squared singular value of `values` with columns multiplied by factors."""
    size = len(factors)
    if size <= NARROW:
        scaled = products(values) * np.multiply.outer(factors, factors)
        return float(np.linalg.eigvalsh(scaled)[-1])

    def times(vector: np.ndarray) -> np.ndarray:
        return np.asarray(factors * (values.T @ (values @ (factors * vector.ravel()))))

    return float(leading(times, size, 1, tol=1e-3)[0][0])
