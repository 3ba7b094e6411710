"""Whether cells find their other half better than by chance."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

N_PERMUTATIONS = 999


def pairing_test(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """FOSCTTM of two embeddings of the same cells, and its p-value under shuffled pairs.

    Parameters
    ----------
    x, y
        (n, d) embeddings; n of some thousands at most, since all n x n distances are kept.

    Returns
    -------
    The score (Tu et al. 2022, eq. 18), and the share of 999 permutations of the cells and the
    pairs as they are that score as low.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> pairing_test(x, x)
    (0.0, 0.001)
    """
    closer = closer_shares(x, y)
    n = len(x)
    rows, rng = np.arange(n), np.random.default_rng(0)
    score = closer[rows, rows].mean()
    shuffled = np.array([closer[rows, rng.permutation(n)].mean() for _ in range(N_PERMUTATIONS)])
    return float(score), float((1 + (shuffled <= score).sum()) / (1 + N_PERMUTATIONS))


def closer_shares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, n) share of cells that are closer than each is, the mean from both sides."""
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    ranks = [rankdata(d, method="ordinal", axis=1) - 1 for d in (squares, squares.T)]
    return (ranks[0] + ranks[1].T) / (2 * len(x))
