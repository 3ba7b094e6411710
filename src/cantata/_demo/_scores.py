"""Scores of the demo, each beside a simple method and beside chance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata.metrics import foscttm, label_transfer_accuracy, matching_score

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

K = 15
"""Neighbours that vote."""

FEWEST_CELLS = 15
"""Fewer cells than this on one side are not scored."""

MOST_PAIRS = 3
"""Pairs of modalities that are scored, those with the most common cells."""

HELD_OUT, SEEN, TRUTH = SECTIONS = ("held-out cells", "training cells", "simulated truth")


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
    own: Mapping[str, np.ndarray]
    """What each modality says of its cells, (cells of the modality, dimensions)."""


@dataclass(frozen=True)
class Cells:
    """What is known of the cells."""

    rows: Mapping[str, np.ndarray]
    """Row of every cell in each modality, -1 where absent."""
    held: np.ndarray
    """Mask of the cells that training did not see."""
    labels: np.ndarray | None
    """Label of every cell, NaN where unknown."""

    def having(self, *names: str) -> np.ndarray:
        """Mask of the cells that have all of these modalities."""
        return np.all([self.rows[name] >= 0 for name in names], axis=0)

    @property
    def labelled(self) -> np.ndarray:
        """Mask of the cells whose label is known."""
        return np.zeros_like(self.held) if self.labels is None else ~pd.isna(self.labels)

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of modalities to score."""
        pairs = [pair for pair in combinations(self.rows, 2) if self.having(*pair).any()]
        order = sorted(pairs, key=lambda pair: -self.having(*pair).sum())[:MOST_PAIRS]
        return [pair for pair in pairs if pair in order]


def embedding_scores(
    cells: Cells, model: Embedding, simple: Embedding, method: str
) -> Iterator[Score]:
    """Scores of alignment and of label transfer for every pair of modalities."""
    for a, b in cells.pairs():
        both = cells.held & cells.having(a, b)
        n = int(both.sum())
        if n >= FEWEST_CELLS:
            left, right = (
                (found.own[a][cells.rows[a][both]], found.own[b][cells.rows[b][both]])
                for found in (model, simple)
            )
            yield Score(
                HELD_OUT,
                f"FOSCTTM, {a} and {b}",
                f"{n:,}",
                foscttm(*left),
                foscttm(*right),
                method,
                (n - 1) / (2 * n),
                higher_is_better=False,
            )
            yield Score(
                HELD_OUT,
                f"matching score, {a} and {b}",
                f"{n:,}",
                matching_score(*left),
                matching_score(*right),
                method,
                1 / n,
            )
    if cells.labels is not None:
        for pair in cells.pairs():
            for source, target in permutations(pair):
                yield from _transfer(cells, model, simple, method, source, target)


def _transfer(
    cells: Cells, model: Embedding, simple: Embedding, method: str, source: str, target: str
) -> Iterator[Score]:
    """Label transfer between cells that share no modality, or else to held-out cells."""
    assert cells.labels is not None
    known = cells.labelled
    has_source, has_target = cells.having(source), cells.having(target)
    reference = known & ~cells.held & has_source & ~has_target
    query = known & ~cells.held & has_target & ~has_source
    section, what = SEEN, f"labels, {source}-only to {target}-only"
    disjoint = min(reference.sum(), query.sum()) >= FEWEST_CELLS
    if not disjoint:
        reference, query = known & ~cells.held & has_source, known & cells.held & has_target
        section, what = HELD_OUT, f"labels, {source} to {target}"
        if min(reference.sum(), query.sum()) < FEWEST_CELLS:
            return
    labels = pd.Series(cells.labels[reference]).astype(str)
    truth = pd.Series(cells.labels[query]).astype(str)

    def accuracy(found: Embedding) -> float:
        if disjoint:
            x, y = found.joint[reference], found.joint[query]
        else:
            x = found.own[source][cells.rows[source][reference]]
            y = found.own[target][cells.rows[target][query]]
        return label_transfer_accuracy(x, labels, y, truth, k=K)

    commonest = labels.value_counts().index[0]
    yield Score(
        section,
        what,
        f"{reference.sum():,} to {query.sum():,}",
        accuracy(model),
        accuracy(simple),
        method,
        float((truth == commonest).mean()),
    )


def cluster_score(
    cells: Cells, model: np.ndarray, simple: np.ndarray, method: str, *, seed: int
) -> Score:
    """Normalised mutual information of clusters and labels; chance: shuffled clusters.

    Parameters
    ----------
    cells
        Cells with labels.
    model, simple
        Cluster of every cell.
    method
        Name of the simple method.
    seed
        Seed of the shuffling.
    """
    from sklearn.metrics import normalized_mutual_info_score

    assert cells.labels is not None
    known = cells.labelled & ~cells.held
    labels, clusters = cells.labels[known].astype(str), model[known]
    rng = np.random.default_rng(seed)
    shuffled = [normalized_mutual_info_score(labels, rng.permutation(clusters)) for _ in range(10)]
    return Score(
        SEEN,
        "NMI, Leiden and labels",
        f"{known.sum():,}",
        float(normalized_mutual_info_score(labels, clusters)),
        float(normalized_mutual_info_score(labels, simple[known])),
        method,
        float(np.mean(shuffled)),
    )


def correlations(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column, for the columns whose truth varies; 0 for a constant.

    Parameters
    ----------
    predicted, truth
        (cells, features)
    """
    varies = truth.std(axis=0) > 0
    x, y = predicted[:, varies].astype(np.float64), truth[:, varies].astype(np.float64)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0))
    return (x * y).sum(axis=0) / np.where(scale > 0, scale, np.inf)


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
