"""Scores of the demo, each beside a simple method and beside chance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import normalized_mutual_info_score

from cantata._numeric.neighbors import nearest_neighbors
from cantata.metrics import foscttm, label_transfer_accuracy, matching_score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mudata import MuData

    from cantata.model import CLUE

N_NEIGHBORS = 15
"""Neighbours that vote for a label, and whose mean is an imputation."""

MIN_CELLS = 15
"""Fewer cells than this on one side are not scored."""

MAX_PAIRS = 3
"""Pairs of modalities that are scored, those with the most common cells."""

MAX_FEATURES = 300
"""Of wider modalities, this many of the most abundant features are predicted."""

HELD_OUT, SEEN, TRUTH = SECTIONS = ("held-out cells", "training cells", "simulated truth")

CORRELATION, NEIGHBORS = "CCA", "k-NN"
"""Names of the simple methods."""


@dataclass(frozen=True)
class Score:
    """One figure of merit of the model, of a simple method, and by chance."""

    section: str
    """Which cells are scored, one of :data:`SECTIONS`."""
    name: str
    cells: str
    """How many cells, or how many to how many."""
    model: float
    simple: float
    method: str
    """Name of the simple method."""
    chance: float
    higher_is_better: bool = True

    @property
    def beats_chance(self) -> bool:
        """Whether the model is on the better side of chance."""
        return (self.model > self.chance) == self.higher_is_better


@dataclass(frozen=True)
class Embedding:
    """One method's embedding of all cells."""

    joint: np.ndarray
    """(cells, dimensions)"""
    by_modality: Mapping[str, np.ndarray]
    """What each modality says of its cells, (cells of the modality, dimensions)."""


@dataclass(frozen=True)
class Cells:
    """What is known of the cells."""

    rows: Mapping[str, np.ndarray]
    """Row of every cell in each modality, -1 where absent."""
    held_out: np.ndarray
    """Mask of the cells that training did not see."""
    labels: np.ndarray | None
    """Label of every cell, NaN where unknown."""

    def having(self, *names: str) -> np.ndarray:
        """Mask of the cells that have all of these modalities."""
        return np.all([self.rows[name] >= 0 for name in names], axis=0)

    @property
    def labelled(self) -> np.ndarray:
        """Mask of the cells whose label is known."""
        return np.zeros_like(self.held_out) if self.labels is None else ~pd.isna(self.labels)

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of modalities to score."""
        pairs = [pair for pair in combinations(self.rows, 2) if self.having(*pair).any()]
        order = sorted(pairs, key=lambda pair: -self.having(*pair).sum())[:MAX_PAIRS]
        return [pair for pair in pairs if pair in order]


def as_table(scores: list[Score]) -> pd.DataFrame:
    """Scores as a table with one row each, as ``demo.h5mu`` keeps them."""
    return pd.DataFrame(
        {
            "cells": [score.section for score in scores],
            "score": [score.name for score in scores],
            "n_cells": [score.cells for score in scores],
            "model": [score.model for score in scores],
            "simple": [score.simple for score in scores],
            "simple_method": [score.method for score in scores],
            "chance": [score.chance for score in scores],
            "higher_is_better": [score.higher_is_better for score in scores],
        }
    )


# Scores of embeddings and clusters ---------------------------------------------------------------


def embedding_scores(cells: Cells, model: Embedding, simple: Embedding) -> Iterator[Score]:
    """Scores of alignment and of label transfer for every pair of modalities."""
    for a, b in cells.pairs():
        both = cells.held_out & cells.having(a, b)
        n = int(both.sum())
        if n >= MIN_CELLS:
            left, right = (
                [part.by_modality[name][cells.rows[name][both]] for name in (a, b)]
                for part in (model, simple)
            )
            yield Score(
                HELD_OUT,
                f"FOSCTTM, {a} and {b}",
                f"{n:,}",
                foscttm(*left),
                foscttm(*right),
                CORRELATION,
                (n - 1) / (2 * n),
                higher_is_better=False,
            )
            yield Score(
                HELD_OUT,
                f"matching score, {a} and {b}",
                f"{n:,}",
                matching_score(*left),
                matching_score(*right),
                CORRELATION,
                1 / n,
            )
    if cells.labels is not None:
        for pair in cells.pairs():
            for source, target in permutations(pair):
                yield from _transfer(cells, model, simple, source, target)


def _transfer(
    cells: Cells, model: Embedding, simple: Embedding, source: str, target: str
) -> Iterator[Score]:
    """Label transfer between cells that share no modality, or else to held-out cells."""
    assert cells.labels is not None
    training = cells.labelled & ~cells.held_out
    has_source, has_target = cells.having(source), cells.having(target)
    reference, query = training & has_source & ~has_target, training & has_target & ~has_source
    section, what = SEEN, f"labels, {source}-only to {target}-only"
    disjoint = min(reference.sum(), query.sum()) >= MIN_CELLS
    if not disjoint:
        reference = training & has_source
        query = cells.labelled & cells.held_out & has_target
        section, what = HELD_OUT, f"labels, {source} to {target}"
        if min(reference.sum(), query.sum()) < MIN_CELLS:
            return
    labels = pd.Series(cells.labels[reference]).astype(str)
    truth = pd.Series(cells.labels[query]).astype(str)

    def accuracy(embedding: Embedding) -> float:
        if disjoint:
            x, y = embedding.joint[reference], embedding.joint[query]
        else:
            x = embedding.by_modality[source][cells.rows[source][reference]]
            y = embedding.by_modality[target][cells.rows[target][query]]
        return label_transfer_accuracy(x, labels, y, truth, k=N_NEIGHBORS)

    commonest = labels.value_counts().index[0]
    yield Score(
        section,
        what,
        f"{reference.sum():,} to {query.sum():,}",
        accuracy(model),
        accuracy(simple),
        CORRELATION,
        float((truth == commonest).mean()),
    )


def cluster_score(cells: Cells, model: np.ndarray, simple: np.ndarray, *, seed: int) -> Score:
    """Normalised mutual information of labels and clusters; chance: shuffled clusters.

    `model` and `simple` hold the cluster of every cell.
    """
    assert cells.labels is not None
    training = cells.labelled & ~cells.held_out
    labels, clusters = cells.labels[training].astype(str), model[training]
    rng = np.random.default_rng(seed)
    shuffled = [normalized_mutual_info_score(labels, rng.permutation(clusters)) for _ in range(10)]
    return Score(
        SEEN,
        "NMI, Leiden and labels",
        f"{training.sum():,}",
        float(normalized_mutual_info_score(labels, clusters)),
        float(normalized_mutual_info_score(labels, simple[training])),
        CORRELATION,
        float(np.mean(shuffled)),
    )


# Imputation --------------------------------------------------------------------------------------


def target_modality(mdata: MuData, kinds: Mapping[str, str]) -> str:
    """Modality to predict: the first panel of proteins, or else the one with fewest features."""
    proteins = [name for name, kind in kinds.items() if kind == "protein"]
    return proteins[0] if proteins else min(kinds, key=lambda name: mdata[name].n_vars)


def imputation_scores(
    model: CLUE,
    mdata: MuData,
    cells: Cells,
    target: str,
    records: Mapping[str, Mapping[str, Any]],
    truth: MuData | None,
) -> Iterator[Score]:
    """Mean Pearson correlation per feature, of log1p values of `target`, from other modalities.

    `records` are what preprocessing recorded of the modalities of `mdata`; `truth` holds the same
    cells with expected counts, where they are simulated.
    """
    counts: Any = mdata[target].layers[str(records[target]["counts_layer"])]
    abundance = np.asarray(counts.sum(axis=0)).ravel()
    columns = np.sort(np.argsort(-abundance, kind="stable")[:MAX_FEATURES])
    features = list(mdata[target].var_names[columns])

    def observed(chosen: np.ndarray) -> np.ndarray:
        block = counts[cells.rows[target][chosen]][:, columns]
        return np.log1p(block.toarray() if hasattr(block, "toarray") else np.asarray(block))

    def score(
        section: str, what: str, source: str, chosen: np.ndarray, expected: np.ndarray
    ) -> Score:
        imputed = model.impute(
            target,
            mdata,
            source=source,
            features=features,
            indices=np.flatnonzero(chosen).tolist(),
        )
        rep, rows = mdata[source].obsm[str(records[source]["rep"])], cells.rows[source]
        paired = ~cells.held_out & cells.having(source, target)
        means = neighbor_means(rep[rows[paired]], observed(paired), rep[rows[chosen]])
        return Score(
            section,
            what,
            f"{chosen.sum():,}",
            float(correlations(np.log1p(np.asarray(imputed.X)), expected).mean()),
            float(correlations(means, expected).mean()),
            NEIGHBORS,
            0.0,
        )

    for source in cells.rows:
        both = cells.having(source, target)
        if source == target or not (both & ~cells.held_out).any():
            continue
        held_out = both & cells.held_out
        if held_out.sum() >= MIN_CELLS:
            what = f"{target} from {source}, Pearson r"
            yield score(HELD_OUT, what, source, held_out, observed(held_out))
        without = cells.having(source) & ~cells.having(target)
        if truth is not None and without.sum() >= MIN_CELLS:
            rows = truth[target].obs_names.get_indexer(mdata.obs_names[without])
            expected = truth[target].layers["truth_expected"][rows][:, columns]
            what = f"{target} of {source}-only cells, Pearson r"
            yield score(TRUTH, what, source, without, np.log1p(expected))


def neighbor_means(
    reference: np.ndarray, values: np.ndarray, query: np.ndarray, *, k: int = N_NEIGHBORS
) -> np.ndarray:
    """Mean of the values of the k nearest reference cells, (query cells, features)."""
    left, right = (np.asarray(x, dtype=np.float64) for x in (reference, query))
    indices, _ = nearest_neighbors(left, right, min(k, len(left)))
    return values[indices].mean(axis=1)


def correlations(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column, for the columns whose truth varies; 0 for a constant.

    `predicted` and `truth` are (cells, features).
    """
    varies = truth.std(axis=0) > 0
    x, y = predicted[:, varies].astype(np.float64), truth[:, varies].astype(np.float64)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0))
    return (x * y).sum(axis=0) / np.where(scale > 0, scale, np.inf)
