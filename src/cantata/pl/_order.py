"""Order of the rows and columns of a matrix in which its structure can be seen."""

from __future__ import annotations

import numpy as np


def cluster_order(values: np.ndarray, towards: np.ndarray | None = None) -> np.ndarray:
    """Order of the rows by average-linkage clustering.

    Parameters
    ----------
    values
        Finite values (rows x columns).
    towards
        One number per row. Branches of the tree are turned so that it rises from first to last.
        None: turned so that neighbours are alike (optimal leaf ordering).

    Returns
    -------
    Permutation of the rows.
    """
    from scipy.cluster import hierarchy

    n = len(values)
    if n < 3:
        return np.arange(n) if towards is None else np.argsort(towards, kind="stable")
    tree = hierarchy.linkage(values, method="average", optimal_ordering=towards is None)
    if towards is None:
        return np.asarray(hierarchy.leaves_list(tree))
    leaves: list[list[int]] = [[i] for i in range(n)]
    for left, right in tree[:, :2].astype(int):
        pair = sorted((leaves[left], leaves[right]), key=lambda part: towards[part].mean())
        leaves.append(pair[0] + pair[1])
    return np.array(leaves[-1])


def block_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of rows and columns by clustering, so that blocks lie along the diagonal.

    Rows are clustered; so are columns, and their tree is turned so that columns come in the order
    of the rows in which they are large.
    """
    rows = cluster_order(values)
    weight = np.abs(values[rows])
    total = weight.sum(axis=0)
    place = np.arange(len(rows)) @ weight / np.where(total > 0, total, 1)
    return rows, cluster_order(values.T, np.where(total > 0, place, len(rows)))


def matched_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of rows and columns that puts the best one-to-one match on the diagonal.

    The assignment of rows to columns with the largest sum is found exactly
    (:func:`scipy.optimize.linear_sum_assignment`). The shorter side is ordered by clustering; what
    is left over on the longer side follows the partner that it resembles most.
    """
    from scipy.optimize import linear_sum_assignment

    if values.shape[0] > values.shape[1]:
        columns, rows = matched_order(values.T)
        return rows, columns
    rows = cluster_order(values)
    ordered = values[rows]
    place = ordered.argmax(axis=0).astype(np.float64) + 0.5
    matched, partners = linear_sum_assignment(ordered, maximize=True)
    place[partners] = matched
    return rows, np.argsort(place, kind="stable")
