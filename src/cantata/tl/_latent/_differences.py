"""Features that differ between groups of cells along a component, also in splits of the cells."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any, Literal

import numpy as np
from rich.progress import track
from scipy import sparse
from scipy.special import ndtri
from scipy.stats import ttest_ind_from_stats

from cantata._numeric.feature_statistics import BLOCK_ENTRIES, MIN_VARIATION, q_values
from cantata.tl._latent._components import (
    BETWEEN,
    GROUPS,
    N_CODES,
    PrincipalAxes,
    bin_cells,
    match_axes,
    principal_axes,
)

logger = logging.getLogger(__name__)

Scale = Literal["auto", "log1p", "log", "linear"]
Reference = Literal["others", "rest"]
TTest = Literal["both", "welch"]

PROGRESS_WORK = 2**26
"""Additions from which on a progress bar is shown."""

ADDITIONS_PER_TEST = 10
"""Additions that the test of one feature is worth."""


@dataclass(frozen=True)
class GroupSums:
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
            variation[variation <= MIN_VARIATION * squares] = 0
            return size, mean, variation / (size - 1)


@dataclass(frozen=True)
class Difference:
    """Group against reference, for every feature.

    ``t``, the statistic of Welch's test, is 0 where there is no test.
    """

    log2_fold_change: np.ndarray
    t: np.ndarray
    significant: np.ndarray


class GroupTest:
    """Tests of all features between groups of cells, from sums over the groups.

    Parameters
    ----------
    matrix
        Values (cells x features), dense or CSR. A dense matrix is centred, so that variances lose
        no digits to large means.
    scale, pseudocount, alpha, reference, test
        As in :func:`cantata.tl.interpret_latent`.
    """

    def __init__(
        self,
        matrix: Any,
        *,
        scale: Scale,
        pseudocount: float,
        alpha: float,
        test: TTest,
        reference: Reference = "others",
    ) -> None:
        self._offset = np.zeros(matrix.shape[1])
        if not sparse.issparse(matrix):
            self._offset = matrix.mean(axis=0, dtype=np.float64)
            matrix = matrix - self._offset
        self._values = matrix
        self._scale, self._pseudocount, self._alpha = scale, pseudocount, alpha
        self._test, self._reference = test, reference

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self._values.shape[1]

    @property
    def n_stored(self) -> int:
        """Number of values, zeros of a sparse matrix not counted."""
        return int(self._values.nnz if sparse.issparse(self._values) else self._values.size)

    def sums(self, codes: np.ndarray, n_groups: int) -> GroupSums:
        """Sums over groups; cells with the code -1 are in none."""
        cells = np.flatnonzero(codes >= 0)
        codes = codes[cells].astype(np.int64)
        sizes = np.bincount(codes, minlength=n_groups)
        shape = n_groups, self.n_features
        sums, squares = np.zeros(shape), np.zeros(shape)
        step = max(1, BLOCK_ENTRIES * self._values.shape[0] // max(self.n_stored, 1))
        for start in range(0, len(cells), step):
            part = slice(start, start + step)
            for total, more in zip(
                (sums, squares), self._block(cells[part], codes[part], shape), strict=True
            ):
                total += more
        return GroupSums(sizes, sums, squares)

    def _block(
        self, cells: np.ndarray, codes: np.ndarray, shape: tuple[int, int]
    ) -> list[np.ndarray]:
        """Sums of values and of their squares over the groups of a few cells."""
        values = self._values[cells]
        if not sparse.issparse(values):
            member = np.zeros((shape[0], len(cells)))
            member[codes, np.arange(len(cells))] = 1
            return [member @ values, member @ np.square(values)]
        position = np.repeat(codes * shape[1], np.diff(values.indptr)) + values.indices
        numbers = values.data.astype(np.float64)
        return [
            np.bincount(position, weights, minlength=shape[0] * shape[1]).reshape(shape)
            for weights in (numbers, np.square(numbers))
        ]

    def along_component(self, sums: GroupSums, group: int, start: int = 0) -> Difference:
        """Difference between a group and its reference; `start` is the code of the first group."""
        others = [other for other in range(len(GROUPS)) if other != group]
        if self._reference == "rest":
            others.append(BETWEEN)
        return self.difference(sums, start + group, [start + other for other in others])

    def difference(self, sums: GroupSums, group: int, others: list[int]) -> Difference:
        """Compare the cells of a group with those of other groups, joined.

        Significant are features whose p value, adjusted by Benjamini and Hochberg over all
        features that vary in either of both, is less than `alpha`. P values are two-sided.
        """
        first, second = sums.moments([group]), sums.moments(others)
        change = self._log2_fold_change(first[1], second[1])
        t, significant = np.zeros(len(change)), np.zeros(len(change), dtype=bool)
        if min(first[0], second[0]) < 2:
            return Difference(change, t, significant)
        # 1. Welch's statistic.
        error = np.sqrt(first[2] / first[0] + second[2] / second[0])
        varies = error > 0
        np.divide(first[1] - second[1], error, out=t, where=varies)
        # 2. The normal distribution has lighter tails than Student's, and a p value above alpha is
        #    neither significant after adjustment nor changes what is: where the normal p value is
        #    above alpha none is computed.
        near = np.flatnonzero(varies & (np.abs(t) > -ndtri(self._alpha / 2)))
        if near.size:
            moments = [
                (mean[near], np.sqrt(variance[near]), size)
                for size, mean, variance in (first, second)
            ]
            p = np.max(
                [
                    ttest_ind_from_stats(*moments[0], *moments[1], equal_var=pooled).pvalue
                    for pooled in ((False, True) if self._test == "both" else (False,))
                ],
                axis=0,
            )
            # 3. Features without a p value were tests too.
            significant[near] = q_values(p, int(varies.sum())) < self._alpha
        return Difference(change, t, significant)

    def _log2_fold_change(self, mean: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Binary logarithm of the quotient of two means, by what scale they are on."""
        means = [values + self._offset for values in (mean, reference)]
        if self._scale == "log":
            return (means[0] - means[1]) / np.log(2)
        amounts = [np.maximum(values, 0) for values in means]
        if self._scale == "log1p":
            amounts = [np.expm1(values) for values in amounts]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log2((amounts[0] + self._pseudocount) / (amounts[1] + self._pseudocount))


@dataclass(frozen=True)
class Findings:
    """Features found in both parts of a split, each (findings,).

    ``component``, ``group`` and ``feature`` are positions; ``strength`` is that of the two log2
    fold changes, of one sign, that is smaller in size.
    """

    component: np.ndarray
    group: np.ndarray
    feature: np.ndarray
    strength: np.ndarray


@dataclass(frozen=True)
class SplitResults:
    """What all splits say.

    ``correlations`` (splits, components): absolute correlation of each component with its partner
    in the split, 0 without one. ``sizes`` (splits, components): cells of the smallest group of
    the test part.
    """

    findings: Findings
    correlations: np.ndarray
    sizes: np.ndarray


def split_cells(n_cells: int, train_size: float, seed: int) -> np.ndarray:
    """Which cells are in the training part, drawn at random."""
    order = np.random.default_rng(seed).permutation(n_cells)
    train = np.zeros(n_cells, dtype=bool)
    train[order[: round(train_size * n_cells)]] = True
    return train


def split_groups(codes: np.ndarray, train_size: float, n_splits: int, seed: int) -> np.ndarray:
    """Which cells are in the training part of each split (splits x cells), by whole groups.

    `codes` are the groups of cells, 0, 1, ..., two or more. No two splits are alike: few groups
    have fewer than `n_splits`, and then all of them are returned. Both parts have a group.
    """
    n_groups = int(codes.max()) + 1
    n_train = min(max(round(train_size * n_groups), 1), n_groups - 1)
    chosen: dict[tuple[int, ...], None] = {}
    if comb(n_groups, n_train) <= n_splits:
        chosen = dict.fromkeys(combinations(range(n_groups), n_train))
        if len(chosen) < n_splits:
            logger.info("%d groups of cells have %d splits.", n_groups, len(chosen))
    rng = np.random.default_rng(seed)
    while len(chosen) < min(n_splits, comb(n_groups, n_train)):
        chosen[tuple(np.sort(rng.permutation(n_groups)[:n_train]).tolist())] = None
    return np.stack([np.isin(codes, groups) for groups in chosen])


def replicate(
    latent: np.ndarray,
    axes: PrincipalAxes,
    n_components: int,
    tests: GroupTest,
    *,
    n_bins: int,
    central: float,
    n_central: int | None,
    training: np.ndarray,
) -> SplitResults:
    """Search every split for features that differ along its components.

    The components of a split are matched to the first components of all cells, whose axes are
    given. `training` (splits x cells) tells which cells are in the training part. Other options
    are as in :func:`cantata.tl.interpret_latent`.
    """
    n_splits = len(training)
    additions = central * tests.n_stored + ADDITIONS_PER_TEST * len(GROUPS) * tests.n_features
    quick = n_splits * n_components * additions < PROGRESS_WORK
    covariance = np.cov(latent, rowvar=False).reshape(latent.shape[1], -1)
    findings: list[list[np.ndarray]] = []
    correlations = np.zeros((n_splits, n_components))
    sizes = np.zeros((n_splits, n_components), dtype=np.int64)
    for split, train in enumerate(track(training, "Splits", disable=quick)):
        # 1. Components of the training cells, each turned to point the way of its partner.
        of_split = principal_axes(latent[train])
        partner, correlation = match_axes(
            axes.loadings[:, :n_components], of_split.loadings, covariance
        )
        correlations[split] = np.abs(correlation)
        matched = np.flatnonzero(partner >= 0)
        of_split.loadings[:, partner[matched]] *= np.where(correlation[matched] < 0, -1.0, 1.0)
        # 2. Bins by borders of the training cells; the test cells are cut by them too.
        binned = bin_cells(
            latent,
            of_split,
            partner[matched],
            n_bins=n_bins,
            central=central,
            n_central=n_central,
            train=train,
        )
        # 3. Features that differ in both parts.
        for column, component in enumerate(matched):
            codes = binned.codes[:, column]
            test_sizes = np.bincount(codes[~train & (codes >= 0)], minlength=len(GROUPS))
            sizes[split, component] = test_sizes[: len(GROUPS)].min()
            for group, feature, strength in _in_both_parts(codes, train, tests):
                position = np.broadcast_to([[component], [group]], (2, len(feature)))
                findings.append([*position, feature, strength])
    return SplitResults(_joined(findings), correlations, sizes)


def _joined(findings: list[list[np.ndarray]]) -> Findings:
    if not findings:
        none = np.empty(0, dtype=np.int64)
        return Findings(none, none, none, np.empty(0))
    component, group, feature, strength = map(np.concatenate, zip(*findings, strict=True))
    return Findings(component, group, feature, strength)


def _in_both_parts(
    codes: np.ndarray, train: np.ndarray, tests: GroupTest
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Group, features and strengths of what is significant in both parts with one sign."""
    by_part = np.where(codes >= 0, codes + N_CODES * ~train, -1)
    sums = tests.sums(by_part, 2 * N_CODES)
    found = []
    for group in range(len(GROUPS)):
        training = tests.along_component(sums, group)
        if not training.significant.any():
            continue
        test = tests.along_component(sums, group, N_CODES)
        first, second = training.log2_fold_change, test.log2_fold_change
        both = training.significant & test.significant & (first * second > 0)
        feature = np.flatnonzero(both)
        first, second = first[feature], second[feature]
        found.append((group, feature, np.where(np.abs(first) < np.abs(second), first, second)))
    return found
