"""Matching of cells by shared nearest neighbours (Tu et al. 2022, equations 16 and 17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from cantata._numeric.neighbors import (
    check_column,
    check_k,
    check_rows,
    nearest_neighbors,
    unit_rows,
)
from cantata.metrics._inputs import group_column, read_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mudata import MuData
    from numpy.typing import ArrayLike

Direction = Literal["both", "x_to_y", "y_to_x"]


def matching_matrix(
    x: ArrayLike,
    y: ArrayLike,
    *,
    groups_x: Sequence[Any] | np.ndarray | pd.Series | None = None,
    groups_y: Sequence[Any] | np.ndarray | pd.Series | None = None,
    k: int = 1,
    normalize: bool = True,
    seed: int = 0,
) -> sparse.csr_matrix:
    r"""Matching probabilities between the cells of two modalities, from shared neighbours.

    Every cell has `k` nearest neighbours in each of the two modalities, itself first in its own.
    The weight of cell :math:`i` of `x` and cell :math:`j` of `y` is the Jaccard index of
    their neighbours (Tu et al. 2022, equation 16), and every row is divided by its sum. With
    ``k=1`` that is 1 for a pair that are each other's nearest cell and 1/3 where only one is
    nearest to the other, before division.

    Parameters
    ----------
    x, y
        Embeddings in one space, (n_x, dimensions) and (n_y, dimensions). The rows need not be the
        same cells. For a MuData there is :func:`cantata.tl.match_cells`.
    groups_x, groups_y
        Group of each row, e.g. its batch; cells are matched within their group only. Give both or
        none.
    k
        Number of neighbours in each modality. 1 is what the published scores used.
    normalize
        Divide every row of `x` and `y` by its length first, as the competition entry did and
        as fits what CLUE compares. With ``False`` neighbours are Euclidean as given.
    seed
        Seed of the approximate search that is used where a group has more than 100,000 cells.

    Returns
    -------
    Sparse matrix (n_x, n_y), ``float64``, rows summing to 1. A row is zero only where the group
    of the cell does not occur in `y`, or, for ``k > 1``, where it shares no neighbour.

    Raises
    ------
    TypeError
        If an embedding is not numeric or `k` is not an integer.
    ValueError
        If an embedding is empty or holds NaN, widths or lengths disagree, a group has a missing
        value or fewer than `k` cells, no group occurs on both sides, or a row has length zero
        under `normalize`.

    Examples
    --------
    >>> import numpy as np
    >>> from cantata.metrics import matching_matrix
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> y = np.array([[1.0, 0.1], [0.1, 1.0], [0.4, 1.0]])
    >>> matching_matrix(x, y).toarray()
    array([[1.  , 0.  , 0.  ],
           [0.  , 0.75, 0.25]])
    """
    return _divide_rows(_jaccard(x, y, groups_x, groups_y, k, normalize, seed))


def matching_score(
    x: ArrayLike | MuData,
    y: ArrayLike | None = None,
    *,
    use_rep: str | None = None,
    source: str | None = None,
    target: str | None = None,
    groups: str | Sequence[Any] | np.ndarray | pd.Series | None = None,
    k: int = 1,
    normalize: bool = True,
    direction: Direction = "both",
    seed: int = 0,
) -> float:
    """Mean matching probability of the true pairs; higher is better, chance is 1/N.

    The score of the multimodal single-cell data integration challenge and of Tu et al. 2022,
    equation 17: row-normalised :func:`matching_matrix`, mean over the cells of the entry that
    belongs to the true partner.

    Parameters
    ----------
    x, y, use_rep, source, target
        As in :func:`cantata.metrics.foscttm`: two embeddings, or a MuData.
    groups
        Group of each cell, e.g. its batch; of a MuData the name of a column. Cells are matched
        within their group only. With groups, chance is the number of groups divided by N.
    k, normalize, seed
        As in :func:`matching_matrix`.
    direction
        ``"x_to_y"``: for every row of `x`, the probability of its partner in `y`;
        ``"y_to_x"``: the reverse; ``"both"``: the mean of the two.

    Returns
    -------
    A number in [0, 1].

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`matching_matrix` and :func:`foscttm`, and if `direction` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from cantata.metrics import matching_score
    >>> x = np.eye(4)
    >>> matching_score(x, x)
    1.0
    >>> matching_score(x, x[[1, 0, 2, 3]])
    0.5
    """
    if direction not in get_args(Direction):
        raise ValueError(f"direction={direction!r} is unknown; choose from {get_args(Direction)}.")
    left, right, cells = read_pairs(x, y, use_rep, source, target)
    groups = group_column(x, groups, cells)
    jaccard = _jaccard(left, right, groups, groups, k, normalize, seed)
    forward = float(_divide_rows(jaccard).diagonal().mean())
    backward = float(_divide_rows(jaccard.T.tocsr()).diagonal().mean())
    return {"x_to_y": forward, "y_to_x": backward, "both": (forward + backward) / 2}[direction]


def _divide_rows(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The matrix with every row that has entries summing to 1."""
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    result = matrix.copy()
    result.data /= np.repeat(sums, np.diff(matrix.indptr))
    return result


def _jaccard(
    x: ArrayLike, y: ArrayLike, groups_x: Any, groups_y: Any, k: int, normalize: bool, seed: int
) -> sparse.csr_matrix:
    """Jaccard index of the neighbours of every pair that shares one, (n_x, n_y)."""
    left = check_rows(x, "x")
    right = check_rows(y, "y", width=left.shape[1])
    if normalize:
        left, right = unit_rows(left, "x"), unit_rows(right, "y")
    rows, columns, weights = [], [], []
    for where, i, j in _members(groups_x, groups_y, len(left), len(right)):
        for side, cells in [("x", i), ("y", j)]:
            check_k(k, len(cells), f"{side}{where}")
        block = _jaccard_block(left[i], right[j], k, seed).tocoo()
        rows.append(i[block.row])
        columns.append(j[block.col])
        weights.append(block.data)
    pairs = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_matrix((np.concatenate(weights), pairs), shape=(len(left), len(right)))


def _members(
    groups_x: Any, groups_y: Any, n_x: int, n_y: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """For every group on both sides: text for messages, rows of x and rows of y."""
    if (groups_x is None) != (groups_y is None):
        raise ValueError("Give both groups_x and groups_y, or none of them.")
    if groups_x is None:
        yield "", np.arange(n_x), np.arange(n_y)
        return
    sides = {"x": (groups_x, n_x), "y": (groups_y, n_y)}
    columns = {}
    for side, (values, n_cells) in sides.items():
        column = check_column(values, f"groups_{side}")
        if len(column) != n_cells:
            raise ValueError(f"{side} has {n_cells} rows but {len(column)} groups.")
        missing = np.flatnonzero(pd.isna(column))
        if missing.size:
            raise ValueError(
                f"{missing.size} of {n_cells} rows of {side} have no group, first row "
                f"{missing[0]}. Fill in the groups or leave these cells out."
            )
        columns[side] = column
    codes, names = pd.factorize(np.concatenate(list(columns.values())))
    of_x, of_y = codes[:n_x], codes[n_x:]
    common = np.intersect1d(of_x, of_y)
    if not common.size:
        raise ValueError(
            f"No group of x (the first is {columns['x'][0]!r}) occurs in y (the first is "
            f"{columns['y'][0]!r}): nothing can be matched."
        )
    for code in common:
        rows_x, rows_y = np.flatnonzero(of_x == code), np.flatnonzero(of_y == code)
        yield f" in group {names[code]!r}", rows_x, rows_y


def _jaccard_block(x: np.ndarray, y: np.ndarray, k: int, seed: int) -> sparse.csr_matrix:
    """Jaccard index of the neighbours, every cell of x against every cell of y.

    A cell of x and one of y are never the same neighbour and no list names a cell twice: of a
    pair's 4 k neighbours, those that are shared are counted twice.
    """
    in_y = _count_shared(_neighbors(y, x, k, seed), _neighbors_among(y, k, seed), len(y))
    in_x = _count_shared(_neighbors_among(x, k, seed), _neighbors(x, y, k, seed), len(x))
    shared = in_y + in_x
    shared.data /= 4 * k - shared.data
    return shared


def _neighbors(reference: np.ndarray, query: np.ndarray, k: int, seed: int) -> np.ndarray:
    return nearest_neighbors(reference, query, k, seed=seed)[0]


def _neighbors_among(cells: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Neighbours of cells among themselves, each cell first in its own list."""
    itself = np.arange(len(cells))[:, None]
    if k == 1:
        return itself
    nearest = _neighbors(cells, cells, k, seed)
    # the cell itself may stand behind its copies, or behind so many that it is not listed
    position = np.where(nearest == itself, -1, np.arange(k))
    moved = np.take_along_axis(nearest, np.argsort(position, axis=1, kind="stable"), axis=1)
    listed = (nearest == itself).any(axis=1, keepdims=True)
    return np.where(listed, moved, np.concatenate([itself, nearest[:, :-1]], axis=1))


def _count_shared(first: np.ndarray, second: np.ndarray, n_cells: int) -> sparse.csr_matrix:
    """Number of cells that list i of `first` and list j of `second` have in common, sparse."""
    graphs = [
        sparse.csr_matrix(
            (np.ones(lists.size), lists.ravel(), np.arange(0, lists.size + 1, lists.shape[1])),
            shape=(len(lists), n_cells),
        )
        for lists in (first, second)
    ]
    return graphs[0] @ graphs[1].T
