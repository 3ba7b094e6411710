"""How many principal components of a modality stand out of independent features.

Parallel analysis (Horn 1965), component by component (Dobriban and Owen 2019), with random signs
in place of permutations (Hong, Sheng and Dobriban 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import norm

from cantata._numeric.normalise import row_sums
from cantata.tl._dimensions._input import MAX_GRAM_WIDTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from cantata.tl._dimensions._input import ScaledFeatures

ROUNDING = 1e-9
"""A share of the variance that is rounding."""

MIN_REMAINING = 1e-3
"""A smaller share of the axis of a feature that is left counts as this."""

N_BALANCING_ROUNDS = 5
"""Rows and columns are scaled in turn so many times."""


@dataclass(frozen=True)
class Residual:
    """What orthonormal, centred columns (cells x any number, also none) do not explain."""

    features: ScaledFeatures
    basis: np.ndarray

    @property
    def explained(self) -> np.ndarray:
        """What the basis explains: features x columns of the basis."""
        return self.features.transposed_times(self.basis)

    def components(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Variances, descending, and axes (features x components) of leading components.

        Fewer than `n` where there are fewer cells or features.
        """
        features, explained = self.features, self.explained
        n_cells, n_features = features.shape
        n = min(n, n_features, n_cells - 1)
        if n_features <= MAX_GRAM_WIDTH or n >= n_features - 1:
            # covariance of the features less that of what the basis explains
            matrix = (_centred_gram(features) - explained @ explained.T) / n_cells
            values, axes = np.linalg.eigh(matrix)
        else:

            def times(vector: np.ndarray) -> np.ndarray:
                vector = vector.ravel()
                image = features.transposed_times(features.times(vector))
                return np.asarray(image - explained @ (explained.T @ vector)) / n_cells

            values, axes = _leading_eigenvectors(times, n_features, n)
        order = np.argsort(-values)[:n]
        return np.maximum(values[order], 0), axes[:, order]

    def sums_of_squares(self, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of squares of every cell and of every feature without the components `axes`."""
        features, explained = self.features, self.explained
        # With X the centred features, B the basis and E = X'B, the residual is R = X - B E', and
        # R A are the scores along the axes A. Neither X nor R is made dense:
        # 1. of a cell, |x|^2 - 2 b'(E'x) + b'E'E b - |r'A|^2;
        scores = features.times(axes) - self.basis @ (explained.T @ axes)
        along = features.times(explained)
        rows = _row_squares(features) - (self.basis * along).sum(axis=1) * 2
        rows += ((self.basis @ (explained.T @ explained)) * self.basis).sum(axis=1)
        rows -= (scores**2).sum(axis=1)
        # 2. of a feature, its variation less what the basis and the axes explain of it.
        columns = features.variance * features.shape[0] - (explained**2).sum(axis=1)
        columns -= (axes**2) @ (scores**2).sum(axis=0)
        return np.maximum(rows, 0), np.maximum(columns, 0)

    def leverages(self) -> np.ndarray:
        """Share of the axis of every feature that lies in directions which the basis takes out.

        They are those that predict the basis from the features. Of many features they take little,
        and the same share of each is good enough.
        """
        n_basis, (n_cells, n_features) = self.basis.shape[1], self.features.shape
        if n_basis == 0 or n_features > MAX_GRAM_WIDTH:
            return np.full(n_features, n_basis / n_features)
        # 1. Weights that predict the basis from the features, which are scaled for the inverse.
        sd = np.sqrt(self.features.variance)
        correlations = _centred_gram(self.features) / np.multiply.outer(sd, sd) / n_cells
        weights = np.linalg.pinv(correlations, rcond=ROUNDING, hermitian=True) @ (
            self.explained / sd[:, None]
        )
        # 2. An orthonormal basis of these directions: h_j is the squared length of row j.
        directions, sizes, _ = np.linalg.svd(weights / sd[:, None], full_matrices=False)
        return (directions[:, sizes > ROUNDING * sizes[0]] ** 2).sum(axis=1)


def count_components(
    residual: Residual, max_components: int, *, n_repetitions: int, alpha: float, seed: int
) -> tuple[int, np.ndarray, np.ndarray]:
    r"""Count the components that exceed chance, one after the other.

    Component `j` is compared with independent features that have the variance which the components
    before it leave: a strong component would otherwise hide a weak one, since its variance,
    scattered over all features, adds to the noise (Dobriban and Owen 2019). What is left of noise
    after :math:`r` directions were taken out has its variance in fewer directions. The variance of
    feature `j` is therefore divided by :math:`(1 - h_j)(1 - r/n)`, where :math:`h_j` is the share
    of its axis that the directions span, and :math:`n` the number of cells.

    Returns
    -------
    The number, at most `max_components`; the variances of the components; and for each what it was
    compared with, beyond the first that fails what that one was compared with.
    """
    features, n_basis = residual.features, residual.basis.shape[1]
    n_cells = features.shape[0]
    values, axes = residual.components(min(max_components, min(features.shape) - n_basis - 1))
    deviating, leverages = deviations(features), residual.leverages()
    null = np.zeros_like(values)
    n, least = 0, ROUNDING * float(features.variance.sum())
    while n < len(values):
        # 1. Sums of squares without the components so far, as much as noise would have left.
        rows, columns = residual.sums_of_squares(axes[:, :n])
        remaining = np.maximum(1 - leverages - (axes[:, :n] ** 2).sum(axis=1), MIN_REMAINING)
        columns = np.minimum(columns / remaining, features.variance * n_cells)
        columns /= 1 - (n_basis + n) / n_cells
        rows *= columns.sum() / max(rows.sum(), np.finfo(float).tiny)
        # 2. The largest variance of independent features with these sums of squares.
        largest = largest_null_eigenvalues(deviating, rows, columns, n_repetitions, seed)
        null[n:] = null_quantile(largest / n_cells, alpha)
        # 3. All components that exceed it are taken out at once: the next comparison is lower.
        above = values[n:] > np.maximum(null[n:], least)
        step = len(above) if above.all() else int(above.argmin())
        if not step:
            break
        n += step
    return n, values, null


def deviations(features: ScaledFeatures) -> Any:
    """Values minus the means of their columns; of sparse ones, those that are stored."""
    values = features.values
    if not sparse.issparse(values):
        return values - features.mean.astype(values.dtype)
    result = values.copy()
    result.data -= features.mean.astype(result.dtype)[result.indices]
    return result


def largest_null_eigenvalues(
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

    Returns
    -------
    One number per repetition; the same seed gives the same signs.
    """
    left, right = balance(deviating, rows, columns)
    scaled = deviating.copy()
    if sparse.issparse(scaled):
        scaled.data *= np.repeat(left, np.diff(scaled.indptr)).astype(scaled.dtype)
    else:
        scaled *= left[:, None].astype(scaled.dtype)
    largest = np.empty(n_repetitions)
    for repetition in range(n_repetitions):
        rng = np.random.default_rng([seed, repetition])
        largest[repetition] = _largest_eigenvalue(_random_signs(scaled, rng), right)
    return largest


def balance(
    deviating: Any, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of rows and of columns that give a matrix the wanted sums of squares.

    Scaled in turn (Sinkhorn and Knopp 1967), columns last.
    """
    left, right = np.ones(len(rows)), np.ones(len(columns))
    squares = deviating.multiply(deviating).tocsr() if sparse.issparse(deviating) else deviating**2
    for _ in range(N_BALANCING_ROUNDS):
        left = _ratio(rows, squares @ right)
        right = _ratio(columns, squares.T @ left)
    return np.sqrt(left), np.sqrt(right)


def null_quantile(by_chance: np.ndarray, alpha: float) -> float:
    """Quantile 1 - `alpha` of the normal distribution with the moments of the repetitions."""
    return float(by_chance.mean() + norm.isf(alpha) * by_chance.std(ddof=1))


def _leading_eigenvectors(
    times: Callable[[np.ndarray], np.ndarray], size: int, n: int, *, tol: float = 1e-4
) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues of a symmetric matrix that is only multiplied with, ascending."""
    operator = LinearOperator((size, size), matvec=times, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    return eigsh(operator, k=n, which="LA", v0=start, tol=tol)


def _ratio(wanted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    return np.divide(wanted, actual, out=np.zeros_like(wanted), where=actual > 0)


def _random_signs(values: Any, rng: np.random.Generator) -> Any:
    """Values with random signs; a new matrix that shares the structure of sparse ones."""
    stored = values.data if sparse.issparse(values) else values
    signs = 2 * rng.integers(0, 2, stored.shape, dtype=np.int8) - 1
    if not sparse.issparse(values):
        return values * signs
    return sparse.csr_matrix((stored * signs, values.indices, values.indptr), values.shape)


def _largest_eigenvalue(values: Any, factors: np.ndarray) -> float:
    """Largest squared singular value of `values` with columns multiplied by factors."""
    size = len(factors)
    if size <= MAX_GRAM_WIDTH:
        scaled = _gram(values) * np.multiply.outer(factors, factors)
        return float(np.linalg.eigvalsh(scaled)[-1])

    def times(vector: np.ndarray) -> np.ndarray:
        return np.asarray(factors * (values.T @ (values @ (factors * vector.ravel()))))

    return float(_leading_eigenvectors(times, size, 1, tol=1e-3)[0][0])


def _gram(values: Any) -> np.ndarray:
    """Sums of products of columns, float64."""
    values = values.astype(np.float64)
    result = values.T @ values
    return np.asarray(result.toarray() if sparse.issparse(result) else result)


def _centred_gram(features: ScaledFeatures) -> np.ndarray:
    """Sums of products of centred features."""
    outer = features.shape[0] * np.multiply.outer(features.mean, features.mean)
    return _gram(features.values) - outer


def _row_squares(features: ScaledFeatures) -> np.ndarray:
    """Sum of squared deviations of every cell."""
    values, mean = features.values, features.mean
    squares = values.multiply(values) if sparse.issparse(values) else values**2
    return row_sums(squares) - 2 * np.asarray(values @ mean).ravel() + mean @ mean
