"""How often labels that are carried over by nearest neighbours are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cantata._numeric.knn_labels import Metric, Weights, knn_labels
from cantata.metrics._inputs import read_transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData
    from numpy.typing import ArrayLike


def label_transfer_accuracy(
    reference: ArrayLike | MuData,
    reference_labels: str | Sequence[Any] | np.ndarray | pd.Series,
    query: ArrayLike | None = None,
    query_labels: Sequence[Any] | np.ndarray | pd.Series | None = None,
    *,
    use_rep: str | None = None,
    source: str | None = None,
    target: str | None = None,
    k: int = 15,
    weights: Weights = "uniform",
    metric: Metric = "euclidean",
    seed: int = 0,
) -> float:
    """Fraction of query cells whose label is predicted by their nearest reference cells.

    Higher is better. The direction matters: labels go from the reference to the query. With
    ``k=1`` this is the label transfer accuracy of Wang et al. 2025 (scMODAL).

    Parameters
    ----------
    reference
        Embedding of the labelled cells (n_reference, dimensions), e.g. of one modality; or a
        MuData.
    reference_labels
        One label per reference cell; of a MuData the name of the column of both labels. Cells
        whose label is missing take no part.
    query
        Embedding of the cells to predict (n_query, dimensions), e.g. of another modality.
    query_labels
        True label of every query cell. Cells whose label is missing are not scored; a label that
        the reference does not have counts as wrong.
    use_rep, source, target
        Of a MuData: key in ``.obsm`` of two modalities, and their names. All cells of `source` are
        the reference, all of `target` the query, as in :func:`cantata.tl.transfer_labels`.
    k, weights, metric, seed
        As in :func:`cantata.tl.knn_labels`.

    Returns
    -------
    A fraction in [0, 1].

    Raises
    ------
    KeyError
        If a modality, its embedding or the column does not exist.
    TypeError, ValueError
        As :func:`cantata.tl.knn_labels`, and if `query_labels` has another length than `query` or
        no label at all.

    Examples
    --------
    >>> from cantata.metrics import label_transfer_accuracy
    >>> label_transfer_accuracy([[0.0], [1.0]], ["B", "T"], [[0.1], [0.2]], ["B", "T"], k=1)
    0.5
    """
    reference, reference_labels, query, truth = read_transfer(
        reference, reference_labels, query, query_labels, use_rep, source, target
    )
    predicted = knn_labels(
        reference,
        reference_labels,
        query,
        k=k,
        weights=weights,
        metric=metric,
        seed=seed,
    )["label"].to_numpy(dtype=object)
    if len(truth) != len(predicted):
        raise ValueError(f"query has {len(predicted)} rows but {len(truth)} query_labels.")
    scored = ~pd.isna(truth)
    if not scored.any():
        raise ValueError(f"None of the {len(truth)} query cells has a label.")
    return float(np.mean(predicted[scored] == truth[scored]))
