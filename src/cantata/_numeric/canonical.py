"""Canonical variates: what two or more blocks of measurements of the same cells have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cantata._numeric.neighbors import check_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_VARIANCE = 1e-10
"""Directions of a block whose variance is below this share of its largest are rounding errors."""

MIN_DEVIATION = 1e-12
"""A block that deviates from its means by no more than this share of them is constant."""


@dataclass(frozen=True, repr=False)
class CanonicalVariates:
    """Linear maps from each of several blocks to what the blocks have in common.

    Parameters
    ----------
    weights
        For each block, columns x variates: what its centred columns are multiplied by.
    means
        For each block, the means of its columns.
    correlations
        For each variate, the correlation between the blocks over the cells of the fit: the mean
        over all pairs of blocks.
    shares
        Blocks x variates, columns that sum to 1: how much the blocks weigh in the joint variate.
        Equal for two blocks; with more, a block that hardly takes part weighs less.
    spread
        For each variate, the standard deviation of the weighted mean over the blocks.
    """

    weights: list[np.ndarray]
    means: list[np.ndarray]
    correlations: np.ndarray
    shares: np.ndarray
    spread: np.ndarray

    @property
    def n(self) -> int:
        """Number of variates."""
        return len(self.correlations)

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
        return np.asarray(total) / self.spread

    def __repr__(self) -> str:
        widths = " + ".join(str(len(mean)) for mean in self.means)
        shown = ", ".join(f"{value:.2f}" for value in self.correlations[:8])
        more = ", ..." if self.n > 8 else ""
        return f"{self.n} canonical variates of {widths} columns: correlations {shown}{more}"


def canonical_variates(
    blocks: Sequence[np.ndarray], n: int, *, ridge: float = 1e-3
) -> CanonicalVariates:
    r"""Directions of two or more blocks along which the same cells agree most.

    Two blocks: canonical correlation analysis (Hotelling 1936). More: generalised canonical
    correlation analysis by the MAXVAR criterion (Kettenring 1971), of which the former is a
    special case. Every block is centred and whitened, :math:`Z_k = X_k \Sigma_k^{-1/2}`; the
    leading eigenvectors of the matrix of all correlations between :math:`Z_1, \dots, Z_K`, cut
    into blocks, are the weights.

    Parameters
    ----------
    blocks
        For each block an array (cells, columns), the same cells in the same order: a handful of
        components rather than thousands of features.
    n
        Wanted number of variates; fewer where a block has a smaller rank.
    ridge
        Added to the variances before whitening, in units of the mean variance of the block's
        directions. It keeps directions with next to no variance from leading.

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
    rows = _checked(blocks, n, ridge)
    means = [x.mean(axis=0) for x in rows]
    centered = [x - mean for x, mean in zip(rows, means, strict=True)]
    whitening = [_whitening(k, x, means[k], ridge) for k, x in enumerate(centered)]
    white = [x @ w for x, w in zip(centered, whitening, strict=True)]
    n = min(int(n), *(z.shape[1] for z in white))
    # 2. leading directions of the correlations between blocks, in each block's own columns
    axes = _axes_of_two(white, n) if len(white) == 2 else _axes_of_several(white, n)
    weights = [w @ a for w, a in zip(whitening, axes, strict=True)]
    # 3. variance 1, and one sign; a block of several may take no part in a variate (size 0),
    #    while in two blocks every variate has a size of about 1
    size = np.stack([np.std(x @ w, axis=0) for x, w in zip(centered, weights, strict=True)])
    takes_part = size > 1e-6
    sign = np.sign(weights[0][np.abs(weights[0]).argmax(axis=0), np.arange(n)])
    factor = np.divide(np.where(sign < 0, -1, 1), size, out=np.zeros_like(size), where=takes_part)
    weights = [w * f for w, f in zip(weights, factor, strict=True)]
    # 4. how much each block weighs in the joint variate: in MAXVAR by its size there
    variates = np.stack([x @ w for x, w in zip(centered, weights, strict=True)])
    shares = np.where(takes_part, size, 0)
    shares = np.full_like(size, 0.5) if len(white) == 2 else shares / shares.sum(axis=0)
    spread = np.std((shares[:, None] * variates).sum(axis=0), axis=0)
    return CanonicalVariates(
        weights=weights,
        means=means,
        correlations=mean_correlations(variates),
        shares=shares,
        spread=np.where(spread > 0, spread, 1),
    )


def mean_correlations(variates: np.ndarray) -> np.ndarray:
    """Correlation of each variate between blocks, the mean over all pairs of blocks.

    Parameters
    ----------
    variates
        Blocks x cells x variates.

    Returns
    -------
    One number per variate; a pair counts as 0 where one side does not vary.
    """
    centered = variates - variates.mean(axis=1, keepdims=True)
    size = np.sqrt((centered**2).sum(axis=1, keepdims=True))
    unit = np.divide(centered, size, out=np.zeros_like(centered), where=size > 0)
    # |sum of u_k|^2 is the sum of all u_k.u_l; without the u_k.u_k, pairs of blocks are left
    n_varying = (unit**2).sum(axis=(0, 1))
    n_blocks = len(variates)
    return ((unit.sum(axis=0) ** 2).sum(axis=0) - n_varying) / (n_blocks * (n_blocks - 1))


def _checked(blocks: Sequence[Any], n: int, ridge: float) -> list[np.ndarray]:
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"n must be an integer, got {n!r}.")
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one variate.")
    if not 0 <= ridge < np.inf:
        raise ValueError(f"ridge={ridge!r}: give a number of at least 0.")
    rows = [check_rows(x, f"block {k}") for k, x in enumerate(blocks)]
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} block was given; variates need at least two.")
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


def _axes_of_two(white: list[np.ndarray], n: int) -> list[np.ndarray]:
    """Singular vectors of the correlations between the blocks (Hotelling)."""
    left, _, right = np.linalg.svd(white[0].T @ white[1], full_matrices=False)
    return [left[:, :n], right[:n].T]


def _axes_of_several(white: list[np.ndarray], n: int) -> list[np.ndarray]:
    """Eigenvectors of all correlations between blocks (MAXVAR), cut into blocks."""
    ends = np.cumsum([z.shape[1] for z in white])[:-1]
    joined = np.hstack(white)
    correlations = joined.T @ joined / len(joined)
    for block in np.split(np.arange(joined.shape[1]), ends):
        correlations[np.ix_(block, block)] = 0  # identity up to the ridge
    _, vectors = np.linalg.eigh(correlations)
    return np.split(vectors[:, ::-1][:, :n], ends)
