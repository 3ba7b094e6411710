"""Simple regressions and classifiers that tell what held-out cells' embeddings reveal."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cantata._numeric.neighbors import nearest_neighbors

RANK = 1e-10
"""Directions with less than this share of the largest variance do not enter a regression."""


class Score(NamedTuple):
    """What the linear probe and the neighbours reach on held-out cells."""

    linear: float
    knn: float

    @property
    def best(self) -> float:
        """The larger of the two."""
        return max(self.linear, self.knn)


@dataclass(frozen=True)
class ProbeData:
    """One block of latents, split into the cells that probes learn from and held-out ones.

    ``train`` and ``test`` are standardised columns; ``neighbors`` the nearest training cells of
    every held-out cell, nearest first.
    """

    train: np.ndarray
    test: np.ndarray
    neighbors: np.ndarray

    @classmethod
    def split(
        cls, latents: np.ndarray, train: np.ndarray, test: np.ndarray, k: int, *, seed: int
    ) -> ProbeData:
        """Rows `train` and `test` of the latents, and `k` neighbours.

        Columns are standardised by the training cells; those that do not vary there become 0.
        """
        mean, sd = latents[train].mean(axis=0), latents[train].std(axis=0)
        sd[sd <= 1e-12 * np.abs(mean)] = np.inf
        left, right = ((latents[rows] - mean) / sd for rows in (train, test))
        found, _ = nearest_neighbors(left, right, k, random_state=seed)
        return cls(left, right, found)


def regress(data: ProbeData, train: np.ndarray, test: np.ndarray) -> Score:
    r"""R2 on held-out cells, :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`.

    Parameters
    ----------
    data
        Latents.
    train, test
        Values of the factor in the training cells and in the held-out cells.

    Returns
    -------
    Scores of least squares with an intercept, and of the mean over the nearest training cells.
    At most 1; negative where the mean of the held-out cells predicts better.
    """
    centred = data.train - data.train.mean(axis=0)
    slope = np.linalg.lstsq(centred, train - train.mean(), rcond=np.sqrt(RANK))[0]
    linear = train.mean() + (data.test - data.train.mean(axis=0)) @ slope
    return Score(_r2(test, linear), _r2(test, train[data.neighbors].mean(axis=1)))


def classify(data: ProbeData, train: np.ndarray, test: np.ndarray) -> Score:
    """Accuracy on held-out cells.

    Parameters
    ----------
    data
        Latents.
    train, test
        Codes of the classes in the training cells (at least two) and in the held-out cells.

    Returns
    -------
    Scores of logistic regression, and of a vote of the nearest training cells, in which a tie
    goes to the class whose cells are nearer.
    """
    return Score(_accuracy(test, _logistic(data, train)), _accuracy(test, _vote(data, train)))


def _r2(true: np.ndarray, predicted: np.ndarray) -> float:
    return float(1 - ((true - predicted) ** 2).sum() / ((true - true.mean()) ** 2).sum())


def _accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(true == predicted))


def _logistic(data: ProbeData, train: np.ndarray) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe need not be exact
        model = LogisticRegression(max_iter=200).fit(data.train, train)
    return np.asarray(model.predict(data.test))


def _vote(data: ProbeData, train: np.ndarray) -> np.ndarray:
    n_test, k = data.neighbors.shape
    classes = train[data.neighbors]
    votes = np.zeros((n_test, int(train.max()) + 1))
    for place in range(k):  # nearer cells weigh a trace more, which decides ties only
        votes[np.arange(n_test), classes[:, place]] += 1 + 0.5 * (k - place) / k**3
    return np.asarray(votes.argmax(axis=1))
