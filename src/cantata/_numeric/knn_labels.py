"""Labels of unlabelled cells by a vote of their labelled nearest neighbours, from arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from cantata._numeric.neighbors import (
    check_column,
    check_k,
    check_rows,
    nearest_neighbors,
    unit_rows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

Metric = Literal["euclidean", "cosine"]
Weights = Literal["uniform", "distance"]

_VOTE_ENTRIES = 2**24


def knn_labels(
    reference: ArrayLike,
    reference_labels: Sequence[Any] | np.ndarray | pd.Series,
    query: ArrayLike,
    *,
    k: int = 15,
    metric: Metric = "euclidean",
    weights: Weights = "uniform",
    query_names: Sequence[str] | pd.Index | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Label query cells by a vote of their nearest labelled reference cells.

    Parameters
    ----------
    reference
        Embedding of the labelled cells (n_reference, dimensions).
    reference_labels
        One label per reference cell. Cells whose label is missing take no part.
    query
        Embedding of the cells to label (n_query, dimensions), in the same space.
    k
        Number of neighbours; 1 copies the label of the nearest cell.
    metric
        ``"euclidean"``, or ``"cosine"`` for one minus the cosine of the angle.
    weights
        ``"uniform"``: every neighbour has one vote. ``"distance"``: votes are inversely
        proportional to the distance; where neighbours are at distance 0, only they vote.
    query_names
        Index of the result; by default the positions 0, 1, ....
    seed
        Seed of the approximate search that is used above 100,000 labelled reference cells. Below,
        neighbours are exact.

    Returns
    -------
    A table with one row per query cell: ``label``, categorical (the categories of
    `reference_labels` if they are categorical, else the sorted labels), and ``confidence``, the
    winner's share of the votes, in (0, 1]. A tie goes to the class whose neighbours are closer
    (the larger sum of inverse distances), then to the first class in sorted order.

    Raises
    ------
    TypeError
        If an embedding is not numeric or `k` is not an integer.
    ValueError
        If an embedding is empty or holds NaN, widths or lengths disagree, no reference cell has
        a label, fewer than `k` have one, or an option is unknown; under ``"cosine"`` also if a row
        has length zero.

    Examples
    --------
    >>> import cantata
    >>> reference = [[0.0], [0.1], [5.0]]
    >>> query = [[0.2], [4.0]]
    >>> cantata.tl.knn_labels(reference, ["B", "B", "T"], query, k=1)
      label  confidence
    0     B         1.0
    1     T         1.0
    """
    for name, value, known in [("metric", metric, Metric), ("weights", weights, Weights)]:
        if value not in get_args(known):
            raise ValueError(f"{name}={value!r} is unknown; choose from {get_args(known)}.")
    target = check_rows(query, "query")
    source = check_rows(reference, "reference", width=target.shape[1])
    if query_names is not None and len(query_names) != len(target):
        raise ValueError(f"query has {len(target)} rows but {len(query_names)} query_names.")
    codes, classes = _encode(reference_labels, len(source))
    labelled = codes >= 0
    k = check_k(k, int(labelled.sum()), "the labelled part of the reference")
    source = source[labelled]
    if metric == "cosine":
        source, target = unit_rows(source, "reference"), unit_rows(target, "query")
    indices, distances = nearest_neighbors(source, target, k, seed=seed)
    if metric == "cosine":
        distances = distances * distances / 2  # of unit vectors
    winners, confidence = _vote(
        codes[labelled][indices], distances, len(classes.categories), weights
    )
    label = pd.Categorical.from_codes(winners, dtype=classes)
    index = pd.RangeIndex(len(target)) if query_names is None else pd.Index(query_names)
    return pd.DataFrame({"label": label, "confidence": confidence}, index=index)


def _encode(labels: Any, n_cells: int) -> tuple[np.ndarray, pd.CategoricalDtype]:
    """Codes of the labels in sorted order, -1 where missing, and their categorical dtype."""
    check_column(labels, "reference_labels")
    series = pd.Series(labels).reset_index(drop=True)
    if len(series) != n_cells:
        raise ValueError(f"reference has {n_cells} rows but {len(series)} reference_labels.")
    if series.isna().all():
        raise ValueError(f"None of the {n_cells} reference cells has a label.")
    if not isinstance(series.dtype, pd.CategoricalDtype):
        values = series.dropna().unique().tolist()
        try:
            ordered = sorted(values)
        except TypeError:  # labels of several types have no order of their own
            ordered = sorted(values, key=lambda value: (type(value).__name__, str(value)))
        series = series.astype(object).astype(pd.CategoricalDtype(ordered))
    return series.cat.codes.to_numpy(dtype=np.int64), series.dtype


def _closeness(distances: np.ndarray) -> np.ndarray:
    """Inverse distances relative to the nearest neighbour, so that they stay within [0, 1]."""
    nearest = distances[:, :1]
    with np.errstate(invalid="ignore"):
        relative = nearest / distances
    return np.where(nearest > 0, relative, distances == 0)


def _vote(
    codes: np.ndarray, distances: np.ndarray, n_classes: int, weights: Weights
) -> tuple[np.ndarray, np.ndarray]:
    """Winning class and its share of the votes, from neighbours' classes (n_query, k)."""
    winners = np.empty(len(codes), dtype=np.int64)
    confidence = np.empty(len(codes))
    step = max(1, _VOTE_ENTRIES // n_classes)
    for start in range(0, len(codes), step):
        rows = slice(start, start + step)
        n_rows = len(codes[rows])
        # 1. number and closeness of each cell's neighbours by class, as one count over
        #    entries of a cells x classes table; rounded, so that the order of summation
        #    decides no tie
        entries = (np.arange(n_rows)[:, None] * n_classes + codes[rows]).ravel()
        closeness = _closeness(distances[rows]).ravel()
        near = np.bincount(entries, weights=closeness, minlength=n_rows * n_classes).round(12)
        count = np.bincount(entries, minlength=n_rows * n_classes)
        near, count = near.reshape(n_rows, n_classes), count.reshape(n_rows, n_classes)
        # 2. the class with most votes wins; among equals the closest, then the first
        votes = count if weights == "uniform" else near
        best = votes.max(axis=1, keepdims=True)
        winners[rows] = np.where(votes == best, near, -1).argmax(axis=1)
        # 3. its share of the votes
        confidence[rows] = best[:, 0] / votes.sum(axis=1)
    return winners, confidence
