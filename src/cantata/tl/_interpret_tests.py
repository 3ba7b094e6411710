"""Which features differ between groups of cells: t-tests from the moments of groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse
from scipy.special import ndtri
from scipy.stats import ttest_ind_from_stats

from cantata.tl._feature_columns import BLOCK_ENTRIES, LEAST_VARIATION
from cantata.tl._link_statistics import q_values

if TYPE_CHECKING:
    from cantata.tl._expression import Scale

Reference = Literal["others", "rest"]
Test = Literal["both", "welch"]


class Features:
    """Values of features (cells x features) from which sums over groups of cells are taken.

    A dense matrix is centred, so that variances lose no digits to large means.
    """

    def __init__(self, matrix: Any) -> None:
        self.offset = np.zeros(matrix.shape[1])
        if not sparse.issparse(matrix):
            self.offset = matrix.mean(axis=0, dtype=np.float64)
            matrix = matrix - self.offset
        self._values = matrix

    def sums(self, codes: np.ndarray, n_groups: int) -> Sums:
        """Sums over groups; cells with the code -1 are in none."""
        cells = np.flatnonzero(codes >= 0)
        codes = codes[cells].astype(np.int64)
        sizes = np.bincount(codes, minlength=n_groups)
        shape = n_groups, self._values.shape[1]
        sums, squares = np.zeros(shape), np.zeros(shape)
        stored = self._values.nnz if sparse.issparse(self._values) else self._values.size
        step = max(1, BLOCK_ENTRIES * self._values.shape[0] // max(stored, 1))
        for start in range(0, len(cells), step):
            part = slice(start, start + step)
            for total, more in zip(
                (sums, squares), self._block(cells[part], codes[part], shape), strict=True
            ):
                total += more
        return Sums(sizes, sums, squares)

    def _block(
        self, cells: np.ndarray, codes: np.ndarray, shape: tuple[int, int]
    ) -> list[np.ndarray]:
        """Sums of values and of their squares over the groups of a few cells."""
        values = self._values[cells]
        if not sparse.issparse(values):
            member = np.zeros((shape[0], len(cells)))
            member[codes, np.arange(len(cells))] = 1
            return [member @ values, member @ np.square(values)]
        place = np.repeat(codes * shape[1], np.diff(values.indptr)) + values.indices
        numbers = values.data.astype(np.float64)
        return [
            np.bincount(place, weights, minlength=shape[0] * shape[1]).reshape(shape)
            for weights in (numbers, np.square(numbers))
        ]


@dataclass(frozen=True)
class Sums:
    """Sizes of groups (groups,), and sums and sums of squares of features (groups, features)."""

    sizes: np.ndarray
    values: np.ndarray
    squares: np.ndarray

    def moments(self, groups: list[int]) -> tuple[int, np.ndarray, np.ndarray]:
        """Number of cells of joined groups, and mean and sample variance of every feature.

        Without two cells there is no variance, NaN. One that is not above rounding is 0.
        """
        size = int(self.sizes[groups].sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.values[groups].sum(axis=0) / size
            squares = self.squares[groups].sum(axis=0)
            variation = squares - size * mean**2
            variation[variation <= LEAST_VARIATION * squares] = 0
            return size, mean, variation / (size - 1)


@dataclass(frozen=True)
class Difference:
    """Group against reference, for every feature.

    ``t``, the statistic of Welch's test, is 0 where there is no test.
    """

    log2_fold_change: np.ndarray
    t: np.ndarray
    significant: np.ndarray


def group_difference(
    sums: Sums,
    group: int,
    reference: list[int],
    *,
    offset: np.ndarray,
    scale: Scale,
    pseudocount: float,
    alpha: float,
    test: Test,
) -> Difference:
    """Compare the cells of a group with those of other groups, for all features.

    Parameters
    ----------
    sums
        Sums over groups.
    group, reference
        Positions of the group and of those that it is compared with, joined.
    offset
        What was subtracted from every feature before the sums.
    scale, pseudocount
        As in :func:`cantata.tl.interpret_latent`.
    alpha
        Significant are features whose p value, adjusted by Benjamini and Hochberg over all
        features that vary in either of both, is less.
    test
        As in :func:`cantata.tl.interpret_latent`.

    Notes
    -----
    P values are two-sided. The normal distribution has lighter tails than Student's, and a p value
    above `alpha` is neither significant after adjustment nor changes what is: those whose normal
    p value is above it need not be computed.
    """
    first, second = sums.moments([group]), sums.moments(reference)
    change = log2_fold_change(first[1] + offset, second[1] + offset, scale, pseudocount)
    t, significant = np.zeros(len(change)), np.zeros(len(change), dtype=bool)
    if min(first[0], second[0]) < 2:
        return Difference(change, t, significant)
    error = np.sqrt(first[2] / first[0] + second[2] / second[0])
    varies = error > 0
    np.divide(first[1] - second[1], error, out=t, where=varies)
    near = np.flatnonzero(varies & (np.abs(t) > -ndtri(alpha / 2)))
    if near.size:
        moments = [
            (mean[near], np.sqrt(variance[near]), size) for size, mean, variance in (first, second)
        ]
        p = np.max(
            [
                ttest_ind_from_stats(*moments[0], *moments[1], equal_var=pooled).pvalue
                for pooled in ((False, True) if test == "both" else (False,))
            ],
            axis=0,
        )
        significant[near] = q_values(p, int(varies.sum())) < alpha
    return Difference(change, t, significant)


def log2_fold_change(
    mean: np.ndarray, reference: np.ndarray, scale: Scale, pseudocount: float
) -> np.ndarray:
    """Binary logarithm of the quotient of two means, by what scale they are on."""
    if scale == "log":
        return (mean - reference) / np.log(2)
    amounts = [np.maximum(values, 0) for values in (mean, reference)]
    if scale == "log1p":
        amounts = [np.expm1(values) for values in amounts]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2((amounts[0] + pseudocount) / (amounts[1] + pseudocount))
