"""Distance of true pairs relative to the mean distance of all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from cantata._numeric.neighbors import SquaredDistances, check_pairs, row_blocks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@overload
def pair_distance(
    x: ArrayLike,
    y: ArrayLike,
    *,
    block_size: int | None = ...,
    return_per_cell: Literal[False] = ...,
) -> float: ...
@overload
def pair_distance(
    x: ArrayLike, y: ArrayLike, *, block_size: int | None = ..., return_per_cell: Literal[True]
) -> np.ndarray: ...
def pair_distance(
    x: ArrayLike, y: ArrayLike, *, block_size: int | None = None, return_per_cell: bool = False
) -> float | np.ndarray:
    r"""Distance of the true pairs, relative to all pairs; lower is better, chance is about 1.

    .. math::
        \frac{1}{2N} \sum_i \left(
            \frac{d(x_i, y_i)}{\frac{1}{N} \sum_j d(x_i, y_j)} +
            \frac{d(x_i, y_i)}{\frac{1}{N} \sum_j d(x_j, y_i)}
        \right)

    with Euclidean distances (Wang et al. 2025, scMODAL, "Evaluation metrics").

    Parameters
    ----------
    x, y
        Two embeddings (cells, dimensions) of the same cells in the same order.
    block_size
        Rows of `x` compared with all of `y` at a time. By default as many as make a block of
        about four million distances, at least 64. It changes memory, never the result beyond
        rounding.
    return_per_cell
        Return the terms of every cell in place of their mean.

    Returns
    -------
    The score, or with `return_per_cell` an array (cells, 2) whose mean is the score: the first
    column looks from `x` into `y`, the second from `y` into `x`. A cell at distance 0 from all
    others is as far as chance: 1.

    Raises
    ------
    TypeError
        If an input is not numeric.
    ValueError
        If an input is empty, holds NaN or infinity, if the shapes differ, or if `block_size` is
        less than 1.

    Notes
    -----
    The formula as printed in the paper names one and the same distance in numerator and
    denominator; this is the reading that fits its words. The score does not change with the
    scale of the embedding. Memory is proportional to cells times `block_size`.

    Examples
    --------
    >>> import numpy as np
    >>> from cantata.metrics import pair_distance
    >>> x = np.array([[0.0], [1.0], [2.0]])
    >>> pair_distance(x, x)
    0.0
    >>> pair_distance(x, x[[1, 0, 2]], return_per_cell=True).round(2)
    array([[1. , 1.5],
           [1.5, 1. ],
           [0. , 0. ]])
    """
    left, right = check_pairs(x, y)
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}.")
    n_cells = len(left)
    distances = SquaredDistances(left, right)
    sums = np.zeros((n_cells, 2))
    for rows in row_blocks(n_cells, n_cells, block_size):
        squared, _ = distances.block(rows, double=True)
        block = np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
        sums[rows, 0] = block.sum(axis=1)
        sums[:, 1] += block.sum(axis=0)
    cells = np.arange(n_cells)
    own = np.sqrt(distances.exact(cells, cells))[:, None]
    means = sums / n_cells
    terms = np.divide(own, means, out=np.ones_like(means), where=means > 0)
    return terms if return_per_cell else float(terms.mean())
