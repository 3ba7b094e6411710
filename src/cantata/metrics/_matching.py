"""Matching cells of two modalities by shared nearest neighbours (Tu et al. 2022, eq. 16-17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from cantata._numeric.neighbors import (
    check_k,
    check_pairs,
    check_rows,
    nearest_neighbors,
    unit_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike

Union = Literal["multiset", "set"]
Direction = Literal["both", "x_to_y", "y_to_x"]

_PAIR_ENTRIES = 2**22


def matching_matrix(
    x: ArrayLike,
    y: ArrayLike,
    *,
    groups_x: Sequence[Any] | np.ndarray | pd.Series | None = None,
    groups_y: Sequence[Any] | np.ndarray | pd.Series | None = None,
    k: int = 1,
    union: Union = "multiset",
    normalize: bool = True,
    random_state: int = 0,
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
        same cells.
    groups_x, groups_y
        Group of each row, e.g. its batch; cells are matched within their group only. Give both or
        none.
    k
        Number of neighbours in each modality. 1 is what the published scores used.
    union
        Denominator of the index: ``"multiset"`` is the closed form of the competition entry,
        :math:`2 k_x + 2 k_y` minus the number of shared neighbours; ``"set"`` counts the
        distinct neighbours of the pair, as equation 16 is written. A cell of `x` and one of `y`
        are never the same neighbour and no list names a cell twice, so **both give the same
        numbers**; the first is faster.
    normalize
        Divide every row of `x` and `y` by its length first, as the competition entry did and
        as fits what CLUE compares. With ``False`` neighbours are Euclidean as given.
    random_state
        Seed of the approximate search that is used where a group has more than 50,000 cells.

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
        value or fewer than `k` cells, no group occurs on both sides, `union` is unknown, or a
        row has length zero under `normalize`.

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
    shared = _jaccard(
        x, y, groups_x, groups_y, k=k, union=union, normalize=normalize, seed=random_state
    )
    return _divide_rows(shared)


def matching_score(
    x: ArrayLike,
    y: ArrayLike,
    *,
    groups: Sequence[Any] | np.ndarray | pd.Series | None = None,
    k: int = 1,
    union: Union = "multiset",
    normalize: bool = True,
    direction: Direction = "both",
    random_state: int = 0,
) -> float:
    """Mean matching probability of the true pairs; higher is better, chance is 1/N.

    The score of the multimodal single-cell data integration challenge and of Tu et al. 2022,
    equation 17: row-normalised :func:`matching_matrix`, mean over the cells of the entry that
    belongs to the true partner.

    Parameters
    ----------
    x, y
        Two embeddings (cells, dimensions) of the same cells in the same order.
    groups
        Group of each cell, e.g. its batch; cells are matched within their group only. With groups,
        chance is the number of groups divided by N.
    k, union, normalize, random_state
        As in :func:`matching_matrix`.
    direction
        ``"x_to_y"``: for every row of `x`, the probability of its partner in `y`;
        ``"y_to_x"``: the reverse; ``"both"``: the mean of the two.

    Returns
    -------
    A number in [0, 1].

    Raises
    ------
    TypeError, ValueError
        As :func:`matching_matrix`, and if `x` and `y` differ in their number of rows or
        `direction` is unknown.

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
    left, right = check_pairs(x, y)
    shared = _jaccard(
        left, right, groups, groups, k=k, union=union, normalize=normalize, seed=random_state
    )
    forward = float(_divide_rows(shared).diagonal().mean())
    backward = float(_divide_rows(shared.T.tocsr()).diagonal().mean())
    return {"x_to_y": forward, "y_to_x": backward, "both": (forward + backward) / 2}[direction]


def _divide_rows(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The matrix with every row that has entries summing to 1."""
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    result = matrix.copy()
    result.data /= np.repeat(sums, np.diff(matrix.indptr))
    return result


def _jaccard(
    x: ArrayLike,
    y: ArrayLike,
    groups_x: Any,
    groups_y: Any,
    *,
    k: int,
    union: Union,
    normalize: bool,
    seed: int,
) -> sparse.csr_matrix:
    """Jaccard index of the neighbours of every pair that shares one, (n_x, n_y)."""
    if union not in get_args(Union):
        raise ValueError(f"union={union!r} is unknown; choose from {get_args(Union)}.")
    left = check_rows(x, "x")
    right = check_rows(y, "y", width=left.shape[1])
    if normalize:
        left, right = unit_rows(left, "x"), unit_rows(right, "y")
    rows, columns, weights = [], [], []
    for name, i, j in _members(groups_x, groups_y, len(left), len(right)):
        for side, cells in [("x", i), ("y", j)]:
            check_k(k, len(cells), f"{side}{name}")
        block = _jaccard_block(left[i], right[j], k, union, seed).tocoo()
        rows.append(i[block.row])
        columns.append(j[block.col])
        weights.append(block.data)
    places = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_matrix((np.concatenate(weights), places), shape=(len(left), len(right)))


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
        column = pd.Series(values).to_numpy(dtype=object)
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


def _jaccard_block(
    x: np.ndarray, y: np.ndarray, k: int, union: Union, seed: int
) -> sparse.csr_matrix:
    """Jaccard index of the neighbours, every cell of x against every cell of y."""
    # neighbours of the cells of x, then of y; in each modality, so lists compare within one
    in_y = _neighbors(y, x, k, seed), _own_neighbors(y, k, seed)
    in_x = _own_neighbors(x, k, seed), _neighbors(x, y, k, seed)
    shared = _count_shared(*in_y, len(y)) + _count_shared(*in_x, len(x))
    if union == "multiset":
        shared.data /= 4 * k - shared.data
    else:
        pairs = shared.tocoo()
        shared.data /= _count_distinct(*in_y, pairs.row, pairs.col) + _count_distinct(
            *in_x, pairs.row, pairs.col
        )
    return shared


def _neighbors(reference: np.ndarray, query: np.ndarray, k: int, seed: int) -> np.ndarray:
    return nearest_neighbors(reference, query, k, random_state=seed)[0]


def _own_neighbors(cells: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Neighbours of cells among themselves, each cell first in its own list."""
    own = np.arange(len(cells))[:, None]
    if k == 1:
        return own
    found = _neighbors(cells, cells, k, seed)
    # the cell itself may stand behind its copies, or behind so many that it is not listed
    place = np.where(found == own, -1, np.arange(k))
    others = np.take_along_axis(found, np.argsort(place, axis=1, kind="stable"), axis=1)
    listed = (found == own).any(axis=1, keepdims=True)
    return np.where(listed, others, np.concatenate([own, found[:, :-1]], axis=1))


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


def _count_distinct(
    first: np.ndarray, second: np.ndarray, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """Number of distinct cells in list ``first[i]`` and list ``second[j]``, for every pair."""
    result = np.empty(len(i))
    step = max(1, _PAIR_ENTRIES // (2 * first.shape[1]))
    for start in range(0, len(i), step):
        pairs = slice(start, start + step)
        both = np.sort(np.concatenate([first[i[pairs]], second[j[pairs]]], axis=1), axis=1)
        result[pairs] = 1 + (np.diff(both, axis=1) != 0).sum(axis=1)
    return result
