"""Fraction of samples closer than the true match (Tu et al. 2022, equation 18)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from cantata._numeric.neighbors import (
    SquaredDistances,
    check_pairs,
    row_blocks,
    row_codes,
    true_pairs,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@overload
def foscttm(
    x: ArrayLike,
    y: ArrayLike,
    *,
    block_size: int | None = ...,
    return_per_cell: Literal[False] = ...,
) -> float: ...
@overload
def foscttm(
    x: ArrayLike, y: ArrayLike, *, block_size: int | None = ..., return_per_cell: Literal[True]
) -> np.ndarray: ...
def foscttm(
    x: ArrayLike, y: ArrayLike, *, block_size: int | None = None, return_per_cell: bool = False
) -> float | np.ndarray:
    r"""Fraction of samples closer than the true match; lower is better, chance is about 0.5.

    For cell :math:`i` the fraction of cells :math:`j` with :math:`d(x_i, y_j) < d(x_i, y_i)`, and
    the same from the other side, :math:`d(x_j, y_i) < d(x_i, y_i)`; the score is the mean over
    cells and both sides (Tu et al. 2022, equation 18). Distances are Euclidean, the comparison is
    strict, and the sum is divided by :math:`N`, the cell itself included: the largest possible
    value is :math:`(N - 1) / N`. Sources that divide by :math:`N - 1` print
    :math:`N / (N - 1)` times this number.

    Parameters
    ----------
    x, y
        Two embeddings (cells, dimensions) of the same cells in the same order. CLUE compares
        unit vectors; the rows that its ``get_latent_representation`` returns have length 1.
    block_size
        Rows of `x` compared with all of `y` at a time. By default as many as make a block of
        about four million distances, at least 64. It changes memory, never the result.
    return_per_cell
        Return the fractions of every cell in place of their mean.

    Returns
    -------
    The score, or with `return_per_cell` an array (cells, 2) whose mean is the score: the first
    column looks from `x` into `y`, the second from `y` into `x`.

    Raises
    ------
    TypeError
        If an input is not numeric.
    ValueError
        If an input is empty, holds NaN or infinity, or if the shapes differ.

    Notes
    -----
    Exact: a comparison that single precision could get wrong is made again in double precision
    from plain differences. Two cells with the same embedding are equally far and do not count.
    Memory is proportional to cells times `block_size`.

    Examples
    --------
    >>> import numpy as np
    >>> from cantata.metrics import foscttm
    >>> x = np.array([[0.0], [1.0], [2.0]])
    >>> foscttm(x, x)
    0.0
    >>> foscttm(x, x[[1, 0, 2]], return_per_cell=True).round(2)
    array([[0.33, 0.33],
           [0.33, 0.33],
           [0.  , 0.  ]])
    """
    left, right = check_pairs(x, y)
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}.")
    fractions = np.column_stack(
        [_fraction_closer(left, right, block_size), _fraction_closer(right, left, block_size)]
    )
    return fractions if return_per_cell else float(fractions.mean())


def _fraction_closer(x: np.ndarray, y: np.ndarray, block_size: int | None) -> np.ndarray:
    """For every row of `x`, the fraction of rows of `y` strictly closer than its own partner."""
    n_cells = len(x)
    distances = SquaredDistances(x, y)
    cells = np.arange(n_cells)
    own = distances.exact(cells, cells)
    codes = row_codes(y)
    counts = np.empty(n_cells)
    for rows in row_blocks(n_cells, n_cells, block_size):
        closer, unsure = _compare(distances, rows, own[rows])
        counts[rows] = [np.count_nonzero(row) for row in closer]
        i, j = true_pairs(unsure)
        i += rows.start
        distinct = codes[i] != codes[j]  # the partner itself and its copies are exactly as far
        i, j = i[distinct], j[distinct]
        closer_pairs = i[distances.exact(i, j) < own[i]]
        counts[rows] += np.bincount(closer_pairs - rows.start, minlength=len(closer))
    return counts / n_cells


def _compare(
    distances: SquaredDistances, rows: slice, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boolean blocks: surely closer than `own`, and too close to `own` to tell."""
    for double in (False, True):
        values, margin = distances.block(rows, double=double)
        closer = values < (own - margin).astype(values.dtype)[:, None]
        unsure = values <= (own + margin).astype(values.dtype)[:, None]
        unsure ^= closer
        if np.count_nonzero(unsure) <= unsure.size // 64:
            break
    return closer, unsure
