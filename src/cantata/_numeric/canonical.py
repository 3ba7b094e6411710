"""Canonical variates: what two or more blocks of measurements of the same cells have in common."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.stats import combine_pvalues
from sklearn.preprocessing import normalize

from cantata._numeric.neighbors import check_rows
from cantata._numeric.pairing_test import closer_shares, pairing_test

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_VARIANCE = 1e-10
"""Directions of a block whose variance is below this share of its largest are rounding errors."""

MIN_DEVIATION = 1e-12
"""A block that deviates from its means by no more than this share of them is constant."""

RIDGES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Ridges that left-out cells choose from."""
N_FOLDS = 5
MIN_PAIRS = 20
"""Cells in two blocks below which they tell nothing."""
MAX_LEFT_OUT = 1000
"""Cells of a fold that are compared with each other, at most."""
MAX_TESTED = 300
"""Cells of a fold whose pairs are tested, at most."""


@dataclass(frozen=True, repr=False)
class CanonicalVariates:
    """Linear maps from each of several blocks to what the blocks have in common.

    Parameters
    ----------
    weights
        For each block, columns x variates: what its centred columns are multiplied by.
    means
        For each block, the means of its columns.
    pairs
        Blocks x blocks x variates: the correlation of a variate between two blocks over the cells
        of the fit that are in both; NaN where there is none.
    shares
        Blocks x variates, columns that sum to 1: how much the blocks weigh in the joint variate.
        Equal for two blocks; with more, a block that hardly takes part weighs less.
    """

    weights: list[np.ndarray]
    means: list[np.ndarray]
    pairs: np.ndarray
    shares: np.ndarray

    @property
    def n(self) -> int:
        """Number of variates."""
        return self.shares.shape[1]

    @property
    def correlations(self) -> np.ndarray:
        """For each variate, its correlation between the blocks: the mean over all pairs."""
        return np.nanmean(self._of_pairs, axis=0)

    @property
    def least_correlations(self) -> np.ndarray:
        """For each variate, the least correlation of a pair of blocks: what all have in common."""
        return np.nanmin(self._of_pairs, axis=0)

    @property
    def _of_pairs(self) -> np.ndarray:
        return _upper(self.pairs)

    def spread(self, blocks: Sequence[int]) -> np.ndarray:
        """Standard deviation of the weighted mean of each variate over some of the blocks.

        It is what a population like that of the fit has; correlations that are not known are 0.
        """
        shares = self.shares[blocks]
        pairs = np.nan_to_num(self.pairs[np.ix_(blocks, blocks)])
        variance = np.einsum("jv,kv,jkv->v", shares, shares, pairs)
        total = shares.sum(axis=0)
        spread = np.sqrt(np.clip(variance, 0, None)) / np.where(total > 0, total, 1)
        return np.where(spread > 0, spread, 1)

    def transform(self, k: int, x: Any) -> np.ndarray:
        """Variates of cells (cells x variates) from block `k` alone, variance 1 in the fit.

        Raises
        ------
        TypeError, ValueError
            If `x` is not numeric, holds NaN, or has another width than block `k` in the fit.
        """
        rows = check_rows(x, f"block {k}", width=len(self.means[k]))
        return (rows - self.means[k]) @ self.weights[k]

    def joint(self, blocks: Sequence[Any]) -> np.ndarray:
        """Variates of cells (cells x variates) from all blocks, variance 1 in the fit.

        For two blocks the mean of their variates, for more the weighted mean.

        Raises
        ------
        TypeError, ValueError
            As for :meth:`transform`, or for another number of blocks than in the fit, or
            blocks of different lengths.
        """
        if len(blocks) != len(self.weights):
            raise ValueError(
                f"{len(blocks)} blocks were given, but {len(self.weights)} were fitted."
            )
        variates = [self.transform(k, x) for k, x in enumerate(blocks)]
        _check_lengths([len(x) for x in variates])
        total = sum(share * x for share, x in zip(self.shares, variates, strict=True))
        return np.asarray(total) / self.spread(range(len(blocks)))

    def __repr__(self) -> str:
        widths = " + ".join(str(len(mean)) for mean in self.means)
        shown = ", ".join(f"{value:.2f}" for value in self.correlations[:8])
        more = ", ..." if self.n > 8 else ""
        return f"{self.n} canonical variates of {widths} columns: correlations {shown}{more}"


def canonical_variates(
    blocks: Sequence[np.ndarray],
    n: int,
    *,
    ridge: float = 1e-3,
    rows: Sequence[np.ndarray] | None = None,
    covariates: np.ndarray | None = None,
) -> CanonicalVariates:
    r"""Directions of two or more blocks along which the same cells agree most.

    Two blocks: canonical correlation analysis (Hotelling 1936). More: generalised canonical
    correlation analysis by the MAXVAR criterion (Kettenring 1971), of which the former is a
    special case. Every block is centred and whitened, :math:`Z_k = X_k \Sigma_k^{-1/2}`; the
    leading eigenvectors of the matrix of all correlations between :math:`Z_1, \dots, Z_K`, cut
    into blocks, are the weights. Each correlation is over the cells that are in both blocks, and
    0 where there is none, so that blocks may be joined by a chain of such cells.

    Parameters
    ----------
    blocks
        For each block an array (cells, columns): a handful of components rather than thousands of
        features.
    n
        Wanted number of variates; fewer where a block has a smaller rank.
    ridge
        Added to the variances before whitening, in units of the mean variance of the block's
        directions. It keeps directions with next to no variance from leading.
    rows
        For each block the (m,) row of each of m cells, -1 where it lacks the cell. By default all
        blocks hold the same cells in the same order.
    covariates
        (m, q) what cells may differ by that is not to be found in common, such as an indicator
        of each batch: taken out of the correlations between blocks, while variances keep it, so
        that directions which tell of it have little weight.

    Returns
    -------
    The maps, in double precision, by descending correlation (up to the effect of the ridge). The
    sign is such that the largest weight in the first block is positive.

    Raises
    ------
    TypeError
        If a block is not numeric or `n` is not an integer.
    ValueError
        If there are fewer than two blocks or three cells, lengths differ, values are not finite, a
        block is constant, or `n` or `ridge` is out of range.

    Notes
    -----
    Time grows with cells times the square of columns; nothing larger than the blocks is formed.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> common = rng.normal(size=(500, 1))
    >>> x = np.hstack([common, rng.normal(size=(500, 2))])
    >>> y = np.hstack([rng.normal(size=(500, 1)), common])
    >>> variates = canonical_variates([x, y], 2)
    >>> [round(float(value), 1) for value in variates.correlations]
    [1.0, 0.1]
    >>> variates.joint([x, y]).shape
    (500, 2)
    """
    # 1. whiten each block
    checked = _checked(blocks, n, ridge, same_cells=rows is None)
    cells = [np.arange(len(x)) for x in checked] if rows is None else list(rows)
    means = [x[r[r >= 0]].mean(axis=0) for x, r in zip(checked, cells, strict=True)]
    centered = [x - mean for x, mean in zip(checked, means, strict=True)]
    used = [x[r[r >= 0]] for x, r in zip(centered, cells, strict=True)]
    whitening = [_whitening(k, x, means[k], ridge) for k, x in enumerate(used)]
    white = [x @ w for x, w in zip(centered, whitening, strict=True)]
    n = min(int(n), *(z.shape[1] for z in white))
    # 2. leading directions of the correlations between blocks, in each block's own columns
    axes_of = _axes_of_two if len(white) == 2 else _axes_of_several
    axes = axes_of(white, cells, n, covariates)
    weights = [w @ a for w, a in zip(whitening, axes, strict=True)]
    # 3. variance 1, and one sign; a block of several may take no part in a variate (size 0),
    #    while in two blocks every variate has a size of about 1
    size = np.stack([np.std(x @ w, axis=0) for x, w in zip(used, weights, strict=True)])
    takes_part = size > 1e-6
    sign = np.sign(weights[0][np.abs(weights[0]).argmax(axis=0), np.arange(n)])
    factor = np.divide(np.where(sign < 0, -1, 1), size, out=np.zeros_like(size), where=takes_part)
    weights = [w * f for w, f in zip(weights, factor, strict=True)]
    # 4. how much each block weighs in the joint variate: in MAXVAR by its size there
    shares = np.where(takes_part, size, 0)
    shares = np.full_like(size, 0.5) if len(white) == 2 else shares / shares.sum(axis=0)
    variates = [x @ w for x, w in zip(centered, weights, strict=True)]
    pairs = pair_correlations(variates, cells, covariates)
    return CanonicalVariates(weights, means, pairs, shares)


def are_connected(rows: Sequence[np.ndarray], least: int = MIN_PAIRS) -> bool:
    """Whether at least 20 cells in both connect any two blocks, directly or by a chain.

    Examples
    --------
    >>> import numpy as np
    >>> rows = [np.arange(40), np.where(np.arange(40) < 25, np.arange(40), -1)]
    >>> are_connected(rows), are_connected(rows, least=30)
    (True, False)
    """
    has = (np.stack(rows) >= 0).astype(np.int64)
    return connected_components(has @ has.T >= least, directed=False)[0] == 1


def chosen_variates(
    blocks: Sequence[np.ndarray],
    n: int,
    rows: Sequence[np.ndarray],
    *,
    covariates: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[CanonicalVariates, np.ndarray]:
    """Canonical variates whose ridge and weights left-out cells choose.

    Cells in one block alone do not count: with few pairs, variances of the same cells as the
    correlations do better than those of all. Cells in several blocks are left out by fifths, and
    the ridge is the one with which these are nearest to their other half, each variate times its
    correlation over them.

    Parameters
    ----------
    blocks, n, rows, covariates
        As for :func:`canonical_variates`.
    seed
        Of the folds.

    Returns
    -------
    The variates of all cells, and the (n,) correlations of those of left-out cells, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> common = rng.normal(size=(500, 1))
    >>> x, y = (np.hstack([common, rng.normal(size=(500, 2))]) for _ in range(2))
    >>> _, weights = chosen_variates([x, y], 3, [np.arange(500)] * 2)
    >>> weights.round()
    array([1., 0., 0.])
    """
    table = np.stack([np.asarray(r) for r in rows])
    several = (table >= 0).sum(axis=0) > 1
    table = table[:, several]
    covariates = None if covariates is None else covariates[several]
    folds = np.array_split(np.random.default_rng(seed).permutation(table.shape[1]), N_FOLDS)
    inside = [[np.where(row >= 0, np.arange(len(f)), -1) for row in table[:, f]] for f in folds]
    best, weights, ridge = np.inf, np.zeros(0), RIDGES[-1]
    for candidate in RIDGES:
        # 1. variates of the cells of each fold, by the others
        left_out = []
        for fold in folds:
            fit = _fit_without(fold, blocks, n, candidate, table, covariates)
            left_out.append([fit.transform(k, x[table[k, fold]]) for k, x in enumerate(blocks)])
        # 2. what they correlate, and how near cells are to their other half once weighted by it
        parts = list(zip(left_out, inside, strict=True))
        of_folds = [np.nanmean(_upper(pair_correlations(*part)), axis=0) for part in parts]
        width = min(len(c) for c in of_folds)
        found = np.clip(np.mean([c[:width] for c in of_folds], axis=0), 0, None)
        scores = [_foscttm([v[:, :width] * found for v in x], r) for x, r in parts]
        if np.mean(scores) < best:
            best, weights, ridge = float(np.mean(scores)), found, candidate
    fitted = canonical_variates(blocks, n, ridge=ridge, rows=list(table), covariates=covariates)
    return fitted, np.pad(weights, (0, max(0, fitted.n - len(weights))))[: fitted.n]


def pairing_by_folds(
    blocks: Sequence[np.ndarray],
    n: int,
    rows: Sequence[np.ndarray],
    *,
    covariates: np.ndarray | None = None,
    seed: int = 0,
) -> dict[tuple[int, int], tuple[int, float]]:
    """Whether cells find their other half by variates that were fitted without them.

    Nothing is chosen by these cells, not even a ridge.

    Parameters
    ----------
    blocks, n, rows, covariates, seed
        As for :func:`chosen_variates`.

    Returns
    -------
    For blocks j < k, how many cells are in both, and the chance of as near a pairing by shuffled
    pairs: permutation tests of each fold (:func:`pairing_test`), combined by Fisher's method.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 3))
    >>> y = x + rng.normal(size=(200, 3))
    >>> pairing_by_folds([x, y], 3, [np.arange(200), np.arange(200)])[0, 1][1] < 0.01
    True
    >>> pairing_by_folds([x, y], 3, [np.arange(200), rng.permutation(200)])[0, 1][1] > 0.05
    True
    """
    table = np.stack([np.asarray(r) for r in rows])
    parts: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {
        pair: [] for pair in combinations(range(len(blocks)), 2)
    }
    order = np.random.default_rng(seed).permutation(table.shape[1])
    for fold in np.array_split(order, N_FOLDS):
        fit = _fit_without(fold, blocks, n, RIDGES[-1], table, covariates)
        weights = np.clip(fit.correlations, 0, None)
        unit = [normalize(fit.transform(k, x) * weights) for k, x in enumerate(blocks)]
        for j, k in parts:
            parts[j, k].append(_in_both(unit[j], unit[k], table[j, fold], table[k, fold]))
    found = {}
    for pair, of_folds in parts.items():
        tested = [
            pairing_test(x[:MAX_TESTED], y[:MAX_TESTED])[1] for x, y in of_folds if len(x) > 1
        ]
        p_value = float(combine_pvalues(tested).pvalue) if tested else 1.0
        found[pair] = sum(len(x) for x, _ in of_folds), p_value
    return found


def _fit_without(
    fold: np.ndarray,
    blocks: Sequence[np.ndarray],
    n: int,
    ridge: float,
    table: np.ndarray,
    covariates: np.ndarray | None,
) -> CanonicalVariates:
    """Variates of all cells but those of a fold; `table` holds the rows of each block."""
    kept = np.setdiff1d(np.arange(table.shape[1]), fold)
    known = None if covariates is None else covariates[kept]
    return canonical_variates(blocks, n, ridge=ridge, rows=list(table[:, kept]), covariates=known)


def _foscttm(variates: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> float:
    """FOSCTTM of cells by cosine, the mean over pairs of blocks."""
    unit = [normalize(x) for x in variates]
    scores = []
    for j, k in combinations(range(len(unit)), 2):
        x, y = _in_both(unit[j], unit[k], rows[j], rows[k])
        if len(x) > 1:
            shares = closer_shares(x[:MAX_LEFT_OUT], y[:MAX_LEFT_OUT])
            scores.append(shares.diagonal().mean())
    return float(np.mean(scores)) if scores else 0.5


def _upper(pairs: np.ndarray) -> np.ndarray:
    """Pairs of different blocks, each once."""
    return pairs[np.triu_indices(len(pairs), 1)]


def pair_correlations(
    variates: Sequence[np.ndarray],
    rows: Sequence[np.ndarray],
    covariates: np.ndarray | None = None,
) -> np.ndarray:
    """Correlation of each variate between two blocks, over the cells that are in both.

    Parameters
    ----------
    variates
        For each block (cells, variates).
    rows, covariates
        As for :func:`canonical_variates`.

    Returns
    -------
    Blocks x blocks x variates; 1 on the diagonal, 0 where one side does not vary, NaN where no
    cell is in both.
    """
    n_blocks, n = len(variates), variates[0].shape[1]
    pairs = np.ones((n_blocks, n_blocks, n))
    for j, k in combinations(range(n_blocks), 2):
        a, b = _in_both(variates[j], variates[k], rows[j], rows[k], covariates)
        if not len(a):
            pairs[j, k] = pairs[k, j] = np.nan
            continue
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
        found = np.divide((a * b).sum(axis=0), size, out=np.zeros(n), where=size > 0)
        pairs[j, k] = pairs[k, j] = found
    return pairs


def mean_correlations(variates: np.ndarray) -> np.ndarray:
    """Correlation of each variate between blocks of the same cells, the mean over all pairs.

    `variates` are blocks x cells x variates; a pair counts as 0 where one side does not vary.
    """
    n_blocks, n_cells, _ = variates.shape
    pairs = pair_correlations(list(variates), [np.arange(n_cells)] * n_blocks)
    return pairs[np.triu_indices(n_blocks, 1)].mean(axis=0)


def _in_both(
    a: np.ndarray,
    b: np.ndarray,
    rows_a: np.ndarray,
    rows_b: np.ndarray,
    covariates: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two blocks that are of the same cells, less what covariates explain linearly."""
    both = (rows_a >= 0) & (rows_b >= 0)
    a, b = a[rows_a[both]], b[rows_b[both]]
    if covariates is None or not both.any():
        return a, b
    x = np.hstack([covariates[both], np.ones((both.sum(), 1))])
    explained = np.linalg.lstsq(x, np.hstack([a, b]), rcond=None)[0]
    return a - x @ explained[:, : a.shape[1]], b - x @ explained[:, a.shape[1] :]


def _checked(blocks: Sequence[Any], n: int, ridge: float, *, same_cells: bool) -> list[np.ndarray]:
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"n must be an integer, got {n!r}.")
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one variate.")
    if not 0 <= ridge < np.inf:
        raise ValueError(f"ridge={ridge!r}: give a number of at least 0.")
    rows = [check_rows(x, f"block {k}") for k, x in enumerate(blocks)]
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} block was given; variates need at least two.")
    if same_cells:
        _check_lengths([len(x) for x in rows])
    if len(rows[0]) < 3:
        raise ValueError(f"{len(rows[0])} cells are too few for a correlation; give at least 3.")
    return rows


def _check_lengths(lengths: list[int]) -> None:
    if len(set(lengths)) > 1:
        raise ValueError(
            f"The blocks have {lengths} rows: all must hold the same cells in the same order."
        )


def _whitening(k: int, centered: np.ndarray, mean: np.ndarray, ridge: float) -> np.ndarray:
    """Columns x rank: what takes centred rows to uncorrelated columns of variance 1 or less."""
    largest = np.abs(centered).max()
    if largest <= MIN_DEVIATION * np.abs(mean).max():
        raise ValueError(f"Block {k} is constant over its {len(centered)} cells; leave it out.")
    scaled = centered / largest  # squares of huge or tiny numbers would overflow or vanish
    values, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    kept = values > MIN_VARIANCE * values[-1]
    values, vectors = values[kept][::-1], vectors[:, kept][:, ::-1]
    return vectors / np.sqrt(values + ridge * values.mean()) / largest


def _axes_of_two(
    white: list[np.ndarray], rows: list[np.ndarray], n: int, covariates: np.ndarray | None
) -> list[np.ndarray]:
    """Singular vectors of the correlations between the blocks (Hotelling)."""
    x, y = _in_both(white[0], white[1], rows[0], rows[1], covariates)
    left, _, right = np.linalg.svd(x.T @ y, full_matrices=False)
    return [left[:, :n], right[:n].T]


def _axes_of_several(
    white: list[np.ndarray], rows: list[np.ndarray], n: int, covariates: np.ndarray | None
) -> list[np.ndarray]:
    """Eigenvectors of all correlations between blocks (MAXVAR), cut into blocks."""
    ends = np.cumsum([0, *(z.shape[1] for z in white)])
    correlations = np.zeros((ends[-1], ends[-1]))  # identity within blocks up to the ridge
    for j, k in combinations(range(len(white)), 2):
        x, y = _in_both(white[j], white[k], rows[j], rows[k], covariates)
        if len(x):
            of_pair = x.T @ y / len(x)
            correlations[ends[j] : ends[j + 1], ends[k] : ends[k + 1]] = of_pair
            correlations[ends[k] : ends[k + 1], ends[j] : ends[j + 1]] = of_pair.T
    _, vectors = np.linalg.eigh(correlations)
    return np.split(vectors[:, ::-1][:, :n], ends[1:-1])
