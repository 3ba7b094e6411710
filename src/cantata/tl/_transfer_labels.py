"""Label cells of a MuData by their labelled nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from cantata._mudata.embeddings import joint_rep, modality_rep
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import modality_cells
from cantata._numeric.counterparts import MIN_CELLS
from cantata._numeric.knn_labels import Metric, Weights, knn_labels
from cantata.tl._counterparts import counterparts_of

if TYPE_CHECKING:
    from mudata import MuData

MIN_PAIRS = 50
"""Labelled cells of both modalities from which on votes are calibrated."""
N_FOLDS = 5


def transfer_labels(
    mdata: MuData,
    labels_key: str,
    *,
    use_rep: str,
    source: str | None = None,
    target: str | None = None,
    k: int = 15,
    metric: Metric = "euclidean",
    weights: Weights = "uniform",
    unknown: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Label cells by a vote of their nearest labelled neighbours in an embedding.

    With `source` and `target`, cells of one modality label all cells of another, by
    ``mdata[source].obsm[use_rep]`` and ``mdata[target].obsm[use_rep]``, and are believed as far
    as a cell has a counterpart in `source`. Without, labelled cells label the cells without a
    label, by the joint ``mdata.obsm[use_rep]``. Nothing is written; for plain arrays use
    :func:`cantata.tl.knn_labels`.

    Parameters
    ----------
    mdata
        Any MuData with embeddings in one space, e.g. after ``model.write_results(mdata)``.
    labels_key
        Column with the labels: of ``mdata.obs``, of ``mdata.obs`` with the modality in front
        (``"rna:cell_type"``), or of a modality's ``.obs``. With `source`, of that modality or of
        ``mdata.obs``.
    use_rep
        Key of the embedding, e.g. ``"X_clue"``.
    source
        Modality whose labelled cells vote.
    target
        Modality whose cells are labelled, each one, also those that `source` holds as well.
    k, metric, weights, seed
        As in :func:`cantata.tl.knn_labels`.
    unknown
        Label of cells that probably have no counterpart in `source`; by default they keep the
        label of the most votes, with little confidence.

    Returns
    -------
    A table with columns ``label`` (categorical) and ``confidence`` (the winner's share of the
    votes), one row per cell: all cells of `target` in their order, or the cells of `mdata`
    without a label in theirs. Its index are the cell names, so that
    ``mdata["adt"].obs["predicted"] = table["label"]`` lines up.

    With `source` and `target` there is also ``counterpart``, the probability that `source` has
    cells like this one, as :func:`cantata.tl.counterparts` computes it for these two (1 with fewer
    than 40 cells); ``confidence`` is multiplied by it. Where 50 labelled cells or more are in both
    modalities, shares of votes are first turned into the chance that a label is right, as these
    cells tell by the votes of others: a logistic regression (Platt 1999).

    Raises
    ------
    KeyError
        If a modality, the embedding or the labels are not found.
    TypeError, ValueError
        If only one of `source` and `target` is given, or `unknown` without them, sources of the
        labels contradict each other, there is no labelled or no unlabelled cell, and as
        :func:`cantata.tl.knn_labels`.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> rna, adt = AnnData(np.ones((2, 3))), AnnData(np.ones((2, 4)))
    >>> rna.obs_names, adt.obs_names = ["a", "b"], ["c", "d"]
    >>> rna.obs["cell_type"] = ["B", "T"]
    >>> rna.obsm["X_clue"] = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> adt.obsm["X_clue"] = np.array([[0.1, 0.9], [0.9, 0.1]])
    >>> mdata = mudata.MuData({"rna": rna, "adt": adt})
    >>> cantata.tl.transfer_labels(
    ...     mdata, "cell_type", use_rep="X_clue", source="rna", target="adt", k=1
    ... )
      label  confidence  counterpart
    c     T         1.0          1.0
    d     B         1.0          1.0
    """
    if source is not None and source == target:
        raise ValueError(f"source and target are both {source!r}; give two modalities.")
    if (source is None) != (target is None):
        raise ValueError(
            "Give both source and target (one modality labels another), or none of them "
            "(labelled cells label the others by the joint embedding)."
        )
    if source is not None and target is not None:
        reference = modality_rep(mdata, source, use_rep)
        labels = _labels(mdata, labels_key, source)
        query, names = modality_rep(mdata, target, use_rep), mdata[target].obs_names
    elif unknown is not None:
        raise ValueError("unknown= is for cells without a counterpart: give source and target.")
    else:
        embedding, every_label = joint_rep(mdata, use_rep), _labels(mdata, labels_key, None)
        known = ~pd.isna(every_label)
        if known.all():
            raise ValueError(
                f"All {mdata.n_obs} cells have a label in {labels_key!r}: none is left to label."
            )
        reference, labels = embedding[known], every_label[known]
        query, names = embedding[~known], mdata.obs_names[~known]
    if pd.isna(labels).all():
        raise ValueError(
            f"No cell{'' if source is None else f' of {source!r}'} has a label in {labels_key!r}."
        )
    options: dict[str, Any] = {"metric": metric, "weights": weights, "seed": seed}
    table = knn_labels(reference, labels, query, k=k, query_names=names, **options)
    if source is None or target is None:
        return table
    partners = mdata[source].obs_names.get_indexer(names)
    paired = np.flatnonzero((partners >= 0) & ~pd.isna(labels[partners]))
    if len(paired) >= MIN_PAIRS:
        known = _known_cases(reference, labels, query[paired], partners[paired], k, options)
        table["confidence"] = _chance_of_right(*known, table["confidence"].to_numpy(), k)
    has = _counterpart(mdata, source, target, reference, query, seed)
    table["confidence"] *= has
    table["counterpart"] = has
    if unknown is not None:
        if unknown in table["label"].cat.categories:
            raise ValueError(f"unknown={unknown!r} is one of the labels; name another class.")
        table["label"] = table["label"].cat.add_categories([unknown])
        table.loc[has < 0.5, "label"] = unknown
    return table


def _known_cases(
    reference: np.ndarray,
    labels: np.ndarray,
    query: np.ndarray,
    partners: np.ndarray,
    k: int,
    options: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Of labelled cells in both modalities, the share of votes of others and whether it is right.

    `query` are these cells and `partners` their rows of `reference`. A fifth at a time is asked,
    and does not vote.
    """
    votes, is_right = np.empty(len(query)), np.empty(len(query), dtype=bool)
    folds = np.random.default_rng(options["seed"]).permutation(len(query)) % N_FOLDS
    for fold in range(N_FOLDS):
        asked = folds == fold
        voters = np.delete(np.arange(len(labels)), partners[asked])
        n_known = int((~pd.isna(labels[voters])).sum())
        told = knn_labels(
            reference[voters], labels[voters], query[asked], k=min(k, n_known), **options
        )
        votes[asked] = told["confidence"]
        is_right[asked] = told["label"].to_numpy() == labels[partners[asked]]
    return votes, is_right


def _chance_of_right(
    votes: np.ndarray, is_right: np.ndarray, asked: np.ndarray, k: int
) -> np.ndarray:
    """Chance that a label is right by its share of the votes, from known cases: Platt 1999."""

    def log_odds(share: np.ndarray) -> np.ndarray:
        return np.log((share * k + 0.5) / (k - share * k + 0.5))[:, None]

    # targets short of 0 and 1, so that a chance is never certain
    right, wrong = is_right.sum(), (~is_right).sum()
    target = np.where(is_right, (right + 1) / (right + 2), 1 / (wrong + 2))
    x, y = np.tile(log_odds(votes), (2, 1)), np.repeat([1, 0], len(votes))
    fit = LogisticRegression().fit(x, y, sample_weight=np.concatenate([target, 1 - target]))
    if fit.coef_[0, 0] < 0:  # votes tell nothing
        return np.full(len(asked), target.mean())
    return fit.predict_proba(log_odds(asked))[:, 1]


def _counterpart(
    mdata: MuData,
    source: str,
    target: str,
    reference: np.ndarray,
    query: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Probability that each cell of `target` has a counterpart in `source`."""
    if min(len(reference), len(query)) < MIN_CELLS:
        return np.ones(len(query))
    return counterparts_of(mdata, target, {source: reference, target: query}, seed)


def _labels(mdata: MuData, key: str, modality: str | None) -> np.ndarray:
    """Labels of the cells of a modality in its order, or of every cell of the MuData."""
    names = None if modality is None else [modality]
    column = coalesce_obs(mdata, key, names, argument="labels_key", top_alone=True)
    labels = column.to_numpy(dtype=object)
    if modality is None:
        return labels
    return labels[modality_cells(mdata, modality)]
