"""How many principal components of a modality stand out of independent features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from cantata._numeric.normalise import row_sums
from cantata.tl._dimension_chance import (
    deviations,
    largest_by_chance,
    leading,
    products,
    threshold,
)
from cantata.tl._dimension_features import NARROW

if TYPE_CHECKING:
    from cantata.tl._dimension_features import Features

NOTHING = 1e-9
"""A share of the variance that is rounding."""

SMALLEST = 1e-3
"""A smaller share of the axis of a feature counts as this."""


@dataclass(frozen=True)
class Residual:
    """What orthonormal, centred columns (cells x any number, also none) do not explain."""

    features: Features
    basis: np.ndarray

    @property
    def explained(self) -> np.ndarray:
        """What the basis explains: features x columns of the basis."""
        return self.features.transposed_times(self.basis)

    def components(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Leading principal components.

        Parameters
        ----------
        n
            Wanted number; fewer where there are fewer cells or features.

        Returns
        -------
        Variances, descending, and axes (features x components).
        """
        features, explained = self.features, self.explained
        n_cells, n_features = features.shape
        n = min(n, n_features, n_cells - 1)
        if n_features <= NARROW or n >= n_features - 1:
            matrix = (_gram(features) - explained @ explained.T) / n_cells
            values, axes = np.linalg.eigh(matrix)
        else:

            def times(vector: np.ndarray) -> np.ndarray:
                vector = vector.ravel()
                image = features.transposed_times(features.times(vector))
                return np.asarray(image - explained @ (explained.T @ vector)) / n_cells

            values, axes = leading(times, n_features, n)
        order = np.argsort(-values)[:n]
        return np.maximum(values[order], 0), axes[:, order]

    def sums_of_squares(self, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of squares of every cell and of every feature without the components `axes`."""
        features, explained = self.features, self.explained
        scores = features.times(axes) - self.basis @ (explained.T @ axes)
        along = features.times(explained)
        rows = _row_squares(features) - (self.basis * along).sum(axis=1) * 2
        rows += ((self.basis @ (explained.T @ explained)) * self.basis).sum(axis=1)
        rows -= (scores**2).sum(axis=1)
        columns = features.variance * features.shape[0] - (explained**2).sum(axis=1)
        columns -= (axes**2) @ (scores**2).sum(axis=0)
        return np.maximum(rows, 0), np.maximum(columns, 0)

    def taken(self) -> np.ndarray:
        """Share of the axis of every feature that lies in directions which the basis takes out.

        They are those that predict the basis from the features. Of many features they take little,
        and the same share of each is good enough.
        """
        n_basis, (n_cells, n_features) = self.basis.shape[1], self.features.shape
        if n_basis == 0 or n_features > NARROW:
            return np.full(n_features, n_basis / n_features)
        sd = np.sqrt(self.features.variance)
        correlations = _gram(self.features) / np.multiply.outer(sd, sd) / n_cells
        weights = np.linalg.pinv(correlations, rcond=NOTHING, hermitian=True) @ (
            self.explained / sd[:, None]
        )
        directions, sizes, _ = np.linalg.svd(weights / sd[:, None], full_matrices=False)
        return (directions[:, sizes > NOTHING * sizes[0]] ** 2).sum(axis=1)


def count_components(
    residual: Residual, most: int, *, n_repetitions: int, alpha: float, seed: int
) -> tuple[int, np.ndarray, np.ndarray]:
    r"""Count the components that exceed chance, one after the other.

    Component `j` is compared with independent features that have the variance which the components
    before it leave: a strong component would otherwise hide a weak one, since its variance,
    scattered over all features, adds to the noise (Dobriban and Owen 2019). What is left of noise
    after :math:`r` directions were taken out has its variance in fewer directions. The variance of
    feature `j` is therefore divided by :math:`(1 - h_j)(1 - r/n)`, where :math:`h_j` is the share
    of its axis that the directions span, and :math:`n` the number of cells. All components that
    exceed one comparison are taken out at once; the next comparison is lower.

    Parameters
    ----------
    residual
        What shared variates leave of a modality.
    most
        Largest number to find.
    n_repetitions, alpha, seed
        See :func:`cantata.tl._dimension_chance.largest_by_chance` and ``threshold``.

    Returns
    -------
    The number, the variances of the components, and for each what it was compared with; beyond
    the first that fails, what that one was compared with.
    """
    features, n_basis = residual.features, residual.basis.shape[1]
    n_cells = features.shape[0]
    values, axes = residual.components(min(most, min(features.shape) - n_basis - 1))
    deviating, taken = deviations(features), residual.taken()
    null = np.zeros_like(values)
    found, least = 0, NOTHING * float(features.variance.sum())
    while found < len(values):
        rows, columns = residual.sums_of_squares(axes[:, :found])
        kept = np.maximum(1 - taken - (axes[:, :found] ** 2).sum(axis=1), SMALLEST)
        columns = np.minimum(columns / kept, features.variance * n_cells)
        columns /= 1 - (n_basis + found) / n_cells
        rows *= columns.sum() / max(rows.sum(), np.finfo(float).tiny)
        by_chance = largest_by_chance(deviating, rows, columns, n_repetitions, seed)
        null[found:] = threshold(by_chance / n_cells, alpha)
        above = values[found:] > np.maximum(null[found:], least)
        step = len(above) if above.all() else int(above.argmin())
        if not step:
            break
        found += step
    return found, values, null


def _gram(features: Features) -> np.ndarray:
    """Sums of products of centred features."""
    outer = features.shape[0] * np.multiply.outer(features.mean, features.mean)
    return products(features.values) - outer


def _row_squares(features: Features) -> np.ndarray:
    """Sum of squared deviations of every cell."""
    values, mean = features.values, features.mean
    squares = values.multiply(values) if sparse.issparse(values) else values**2
    return row_sums(squares) - 2 * np.asarray(values @ mean).ravel() + mean @ mean
