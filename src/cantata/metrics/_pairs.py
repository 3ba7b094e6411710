"""Scores of the distances between true pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from cantata._numeric.neighbors import SquaredDistances, row_blocks
from cantata.metrics._inputs import read_pairs

if TYPE_CHECKING:
    from mudata import MuData
    from numpy.typing import ArrayLike


@overload
def foscttm(
    x: ArrayLike | MuData,
    y: ArrayLike | None = ...,
    *,
    use_rep: str | None = ...,
    source: str | None = ...,
    target: str | None = ...,
    return_per_cell: Literal[False] = ...,
) -> float: ...
@overload
def foscttm(
    x: ArrayLike | MuData,
    y: ArrayLike | None = ...,
    *,
    use_rep: str | None = ...,
    source: str | None = ...,
    target: str | None = ...,
    return_per_cell: Literal[True],
) -> np.ndarray: ...
def foscttm(
    x: ArrayLike | MuData,
    y: ArrayLike | None = None,
    *,
    use_rep: str | None = None,
    source: str | None = None,
    target: str | None = None,
    return_per_cell: bool = False,
) -> float | np.ndarray:
    r"""Fraction of samples closer than the true match; lower is better, chance is about 0.5.

    For cell :math:`i` the fraction of cells :math:`j` with :math:`d(x_i, y_j) < d(x_i, y_i)`, and
    the same from the other side, :math:`d(x_j, y_i) < d(x_i, y_i)`; the score is the mean over
    cells and both sides (Tu et al. 2022, equation 18). Distances are Euclidean, the comparison is
    strict, and the sum is divided by :math:`N`; sources that divide by :math:`N - 1` print
    :math:`N / (N - 1)` times this number.

    Parameters
    ----------
    x, y
        Two embeddings (cells, dimensions) of the same cells in the same order, or a MuData as `x`.
        CLUE compares unit vectors; the rows that its ``get_latent_representation`` returns have
        length 1.
    use_rep, source, target
        Of a MuData: key in ``.obsm`` of two modalities, and their names. Scored are the cells that
        both hold, in the order of ``mdata.obs_names``, each found by its name.
    return_per_cell
        Return the fractions of every cell in place of their mean.

    Returns
    -------
    The score, or with `return_per_cell` an array (cells, 2) whose mean is the score: the first
    column looks from `x` into `y`, the second from `y` into `x`.

    Raises
    ------
    KeyError
        If a modality or its embedding does not exist.
    TypeError, ValueError
        If an input is not numeric, is empty or not finite, if the shapes differ, or if both are
        tables of the same cells in different orders.

    Notes
    -----
    Exact: a comparison that single precision could get wrong is made again in double precision
    from plain differences. Memory is proportional to the number of cells.

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

    Of a MuData: ``foscttm(mdata, use_rep="X_clue", source="rna", target="adt")``.
    """
    from cantata._numeric.closer import closer_than_partner  # compiles for a second

    left, right, _ = read_pairs(x, y, use_rep, source, target)
    fractions = closer_than_partner(left, right) / len(left)
    return fractions if return_per_cell else float(fractions.mean())


@overload
def pair_distance(
    x: ArrayLike | MuData,
    y: ArrayLike | None = ...,
    *,
    use_rep: str | None = ...,
    source: str | None = ...,
    target: str | None = ...,
    return_per_cell: Literal[False] = ...,
) -> float: ...
@overload
def pair_distance(
    x: ArrayLike | MuData,
    y: ArrayLike | None = ...,
    *,
    use_rep: str | None = ...,
    source: str | None = ...,
    target: str | None = ...,
    return_per_cell: Literal[True],
) -> np.ndarray: ...
def pair_distance(
    x: ArrayLike | MuData,
    y: ArrayLike | None = None,
    *,
    use_rep: str | None = None,
    source: str | None = None,
    target: str | None = None,
    return_per_cell: bool = False,
) -> float | np.ndarray:
    r"""Distance of the true pairs, relative to all pairs; lower is better, chance is about 1.

    .. math::
        \frac{1}{2N} \sum_i \left(
            \frac{d(x_i, y_i)}{\frac{1}{N} \sum_j d(x_i, y_j)} +
            \frac{d(x_i, y_i)}{\frac{1}{N} \sum_j d(x_j, y_i)}
        \right)

    with Euclidean distances (Wang et al. 2025, scMODAL, "Evaluation metrics"). The formula as
    printed names one and the same distance in numerator and denominator; this is the reading that
    fits its words. The score does not change with the scale of the embedding.

    Parameters
    ----------
    x, y, use_rep, source, target
        As in :func:`foscttm`.
    return_per_cell
        Return the terms of every cell in place of their mean.

    Returns
    -------
    The score, or with `return_per_cell` an array (cells, 2) whose mean is the score: the first
    column looks from `x` into `y`, the second from `y` into `x`. A cell at distance 0 from all
    others is as far as chance: 1.

    Raises
    ------
    KeyError
        If a modality or its embedding does not exist.
    TypeError, ValueError
        If an input is not numeric, is empty or not finite, if the shapes differ, or if both are
        tables of the same cells in different orders.

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
    left, right, _ = read_pairs(x, y, use_rep, source, target)
    n_cells = len(left)
    distances = SquaredDistances(left, right)
    # 1. sums of distances over rows and columns, block by block, in double precision
    sums = np.zeros((n_cells, 2))
    for rows in row_blocks(n_cells, n_cells):
        squared, _ = distances.block(rows, double=True)
        block = np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
        sums[rows, 0] = block.sum(axis=1)
        sums[:, 1] += block.sum(axis=0)
    # 2. the distance of each pair as a multiple of its two means
    cells = np.arange(n_cells)
    to_partner = np.sqrt(distances.exact(cells, cells))[:, None]
    means = sums / n_cells
    terms = np.divide(to_partner, means, out=np.ones_like(means), where=means > 0)
    return terms if return_per_cell else float(terms.mean())
