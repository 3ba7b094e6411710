"""Association of coordinates or clusters of cells with one annotation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST_CELLS = 3
"""Fewer cells are not tested."""

LEAST_VARIANCE = 1e-10
"""Directions with less than this share of the largest variance are rounding."""


@dataclass(frozen=True)
class Annotation:
    """One value per cell: numbers, NaN where missing, or codes of levels, -1 where missing."""

    name: str
    values: np.ndarray
    categorical: bool

    def take(self, cells: np.ndarray) -> Annotation:
        """The values of some cells."""
        return Annotation(self.name, self.values[cells], self.categorical)

    @property
    def known(self) -> np.ndarray:
        """Which cells have a value."""
        return self.values >= 0 if self.categorical else np.isfinite(self.values)


@dataclass(frozen=True)
class Association:
    """Result of one test, or of one per axis: NaN where there is nothing to test."""

    test: str
    n: int
    statistic: np.ndarray
    effect: np.ndarray
    p: np.ndarray


def _nothing(test: str, n: int, size: int) -> Association:
    missing = np.full(size, np.nan)
    return Association(test, n, missing, missing, missing)


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    missing = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=missing, where=np.asarray(denominator) > 0)


def _group_sums(values: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the groups that occur, and sums of columns over them (groups x columns)."""
    codes = np.unique(codes, return_inverse=True)[1]
    sums = [np.bincount(codes, column) for column in values.T]
    return np.bincount(codes), np.stack(sums, axis=1)


def associate_axes(coordinates: np.ndarray, annotation: Annotation) -> Association:
    """Rank test of every axis (cells x axes) against an annotation.

    Numbers: Spearman's correlation, which is the effect; its t statistic, with a two-sided p value
    from Student's distribution. Levels: Kruskal and Wallis' test; the effect is eta squared, the
    share of the variance of ranks that lies between the levels.
    """
    known = annotation.known
    n, size = int(known.sum()), coordinates.shape[1]
    values = annotation.values[known]
    name = "kruskal" if annotation.categorical else "spearman"
    if n < LEAST_CELLS or (values == values[0]).all():
        return _nothing(name, n, size)
    ranks = stats.rankdata(coordinates[known], axis=0) - (n + 1) / 2
    total = np.square(ranks).sum(axis=0)
    if not annotation.categorical:
        other = stats.rankdata(values) - (n + 1) / 2
        rho = np.clip(_quotient(other @ ranks, np.sqrt(total * (other @ other))), -1, 1)
        with np.errstate(divide="ignore"):
            t = rho * np.sqrt((n - 2) / (1 - rho**2))
        return Association(name, n, t, rho, 2 * stats.t.sf(np.abs(t), n - 2))
    sizes, sums = _group_sums(ranks, values)
    eta_squared = _quotient((sums**2 / sizes[:, None]).sum(axis=0), total)
    statistic = (n - 1) * eta_squared
    return Association(name, n, statistic, eta_squared, stats.chi2.sf(statistic, len(sizes) - 1))


def associate_space(latent: np.ndarray, annotation: Annotation) -> Association:
    """Linear test of all dimensions together (cells x dimensions) against an annotation.

    Pillai's trace with its F approximation: for numbers it is R squared and the F test of linear
    regression on the latent space; for levels, multivariate analysis of variance. The effect is
    its share of the largest possible, adjusted for the number of dimensions and levels (adjusted
    R squared for numbers): about 0 by chance, 1 if the space tells all.
    """
    known = annotation.known
    n, values = int(known.sum()), annotation.values[known]
    name = "manova" if annotation.categorical else "regression"
    if n < LEAST_CELLS or (values == values[0]).all():
        return _nothing(name, n, 1)
    centred = latent[known] - latent[known].mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    kept = variances > LEAST_VARIANCE * variances[-1]
    unit = directions[:, kept] / np.sqrt(variances[kept])  # makes the total scatter the identity
    if annotation.categorical:
        sizes, sums = _group_sums(centred, values)
        explained = sums @ unit / np.sqrt(sizes)[:, None]
        n_levels = len(sizes) - 1
    else:
        other = values - values.mean()
        explained = (other @ centred @ unit) / np.sqrt(other @ other)
        n_levels = 1
    return _pillai(name, float(np.square(explained).sum()), n, int(kept.sum()), n_levels)


def _pillai(test: str, trace: float, n: int, n_dims: int, n_levels: int) -> Association:
    rank = min(n_dims, n_levels)
    error = n - n_levels - 1
    df = rank * max(n_dims, n_levels), rank * (error - n_dims + rank)
    if min(df) <= 0:
        return _nothing(test, n, 1)
    share = min(trace / rank, 1.0)
    with np.errstate(divide="ignore"):
        statistic = np.divide(share / df[0], (1 - share) / df[1])
    adjusted = 1 - (1 - share) * (n - 1) / (n - 1 - max(n_dims, n_levels))
    p = stats.f.sf(statistic, *df)
    return Association(test, n, np.array([statistic]), np.array([adjusted]), np.array([p]))


def associate_clusters(clusters: np.ndarray, annotation: Annotation) -> Association:
    """Test of clusters (codes, -1 for none) against an annotation.

    Numbers: Kruskal and Wallis' test, eta squared. Levels: Pearson's chi-squared test of
    independence, Cramer's V.
    """
    annotation = Annotation(
        annotation.name,
        np.where(clusters >= 0, annotation.values, -1 if annotation.categorical else np.nan),
        annotation.categorical,
    )
    if not annotation.categorical:
        given = Annotation(annotation.name, np.where(annotation.known, clusters, -1), True)
        return associate_axes(np.nan_to_num(annotation.values)[:, None], given)
    known = annotation.known
    n = int(known.sum())
    if n < LEAST_CELLS:
        return _nothing("chi2", n, 1)
    table = stats.contingency.crosstab(clusters[known], annotation.values[known]).count
    if min(table.shape) < 2:
        return _nothing("chi2", n, 1)
    found = stats.chi2_contingency(table, correction=False)
    effect = np.sqrt(found.statistic / n / (min(table.shape) - 1))
    return Association(
        "chi2", n, *(np.array([x]) for x in (found.statistic, effect, found.pvalue))
    )
