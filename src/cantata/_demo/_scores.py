"""Scores of the demo, each beside a simple method and beside chance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import normalized_mutual_info_score

from cantata._numeric.knn_labels import knn_labels
from cantata._numeric.neighbors import nearest_neighbors
from cantata.metrics import foscttm, matching_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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

N_DRAWS = 200
"""Draws of the cells for a standard error."""

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
    error: float
    """Standard error, over the cells, of the difference of these two."""
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
            "error_of_difference": [score.error for score in scores],
            "simple_method": [score.method for score in scores],
            "chance": [score.chance for score in scores],
            "higher_is_better": [score.higher_is_better for score in scores],
        }
    )


# Scores of embeddings and clusters ---------------------------------------------------------------


def standard_error(difference: Callable[[np.ndarray], float], n: int) -> float:
    """Of the difference of two scores of n cells, from its spread over cells drawn anew."""
    rng = np.random.default_rng(0)
    return float(np.std([difference(rng.integers(n, size=n)) for _ in range(N_DRAWS)]))


def _of_cells(
    section: str, name: str, n: str, values: list[np.ndarray], chance: float, **options: Any
) -> Score:
    """Mean of one value for each cell, of the model and of canonical correlation."""
    model, simple = values
    error = float(np.std(model - simple) / len(model) ** 0.5)
    figures = float(model.mean()), float(simple.mean()), error
    return Score(section, name, n, *figures, CORRELATION, chance, **options)


def embedding_scores(cells: Cells, model: Embedding, simple: Embedding) -> Iterator[Score]:
    """Scores of alignment and of label transfer for every pair of modalities."""
    for a, b in cells.pairs():
        both = cells.held_out & cells.having(a, b)
        n = int(both.sum())
        if n >= MIN_CELLS:
            sides = [
                [part.by_modality[name][cells.rows[name][both]] for name in (a, b)]
                for part in (model, simple)
            ]
            yield _of_cells(
                HELD_OUT,
                f"FOSCTTM, {a} and {b}",
                f"{n:,}",
                [foscttm(x, y, return_per_cell=True).mean(axis=1) for x, y in sides],
                (n - 1) / (2 * n),
                higher_is_better=False,
            )
            yield _of_cells(
                HELD_OUT,
                f"matching score, {a} and {b}",
                f"{n:,}",
                [
                    (matching_matrix(x, y).diagonal() + matching_matrix(y, x).diagonal()) / 2
                    for x, y in sides
                ],
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

    def is_right(embedding: Embedding) -> np.ndarray:
        if disjoint:
            x, y = embedding.joint[reference], embedding.joint[query]
        else:
            x = embedding.by_modality[source][cells.rows[source][reference]]
            y = embedding.by_modality[target][cells.rows[target][query]]
        predicted = knn_labels(x, labels, y, k=N_NEIGHBORS)["label"].astype(str)
        return (predicted.to_numpy() == truth.to_numpy()).astype(float)

    commonest = labels.value_counts().index[0]
    yield _of_cells(
        section,
        what,
        f"{reference.sum():,} to {query.sum():,}",
        [is_right(model), is_right(simple)],
        float((truth == commonest).mean()),
    )


def cluster_score(cells: Cells, model: np.ndarray, simple: np.ndarray, *, seed: int) -> Score:
    """Normalised mutual information of labels and clusters; chance: shuffled clusters.

    `model` and `simple` hold the cluster of every cell.
    """
    assert cells.labels is not None
    training = cells.labelled & ~cells.held_out
    labels, n = cells.labels[training].astype(str), int(training.sum())
    clusters, others = model[training], simple[training]

    def nmi(found: np.ndarray, rows: np.ndarray) -> float:
        return float(normalized_mutual_info_score(labels[rows], found[rows]))

    everyone, rng = np.arange(n), np.random.default_rng(seed)
    shuffled = [nmi(rng.permutation(clusters), everyone) for _ in range(10)]
    return Score(
        SEEN,
        "NMI, Leiden and labels",
        f"{n:,}",
        nmi(clusters, everyone),
        nmi(others, everyone),
        standard_error(lambda rows: nmi(clusters, rows) - nmi(others, rows), n),
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
        logs, n = np.log1p(np.asarray(imputed.X)), len(expected)

        def mean(found: np.ndarray, rows: np.ndarray) -> float:
            return float(correlations(found[rows], expected[rows]).mean())

        return Score(
            section,
            what,
            f"{n:,}",
            mean(logs, np.arange(n)),
            mean(means, np.arange(n)),
            standard_error(lambda rows: mean(logs, rows) - mean(means, rows), n),
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
