"""Sample a modality's cells, reduce them to components, and group them into metacells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans

from cantata._numeric.batches import sample_cells
from cantata._numeric.components import fit_pca, moments, project
from cantata._numeric.normalise import (
    RNA_TOTAL,
    feature_statistics,
    log1p,
    row_sums,
    scale_columns,
    scale_rows,
)
from cantata.pp._links._values import COFACTOR, MAX_FIT_CELLS, choose_transform, row_blocks

if TYPE_CHECKING:
    from anndata import AnnData

N_COMPONENTS = 20
"""Largest number of principal components of a modality."""

N_VARIABLE = 1000
"""Number of most variable features that the components are made of."""

REPEAT_SHARE = 0.8
"""Share of the cells that a repeat uses."""

MIN_CELLS = 50
"""Distributions of fewer cells say next to nothing."""

MIN_FEATURES = 4
"""Components of fewer features can be matched in any way."""


@dataclass(frozen=True)
class ModalitySample:
    """Cells and features of one modality, in an order that does not depend on that of the data.

    ``values`` are normalised (cells x features), ``mean`` and ``sd`` those of each feature;
    ``features`` are the positions of the features in the modality. ``scores`` (cells, components)
    are principal components, ``spread`` their standard deviations. ``depth`` is the logarithm of
    the total of each cell, standardised.
    """

    name: str
    features: np.ndarray
    values: Any
    mean: np.ndarray
    sd: np.ndarray
    scores: np.ndarray
    spread: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True)
class Metacells:
    """Groups of similar cells of a modality.

    ``weights`` (groups,) are their shares of the cells, ``profiles`` (groups, features) mean
    z-scores, ``whitened`` (groups, components) mean components of unit variance, ``depth``
    (groups,) mean standardised log totals. ``cells`` (cells, components) are the components of
    unit variance of the cells that were grouped, ``labels`` their groups.
    """

    weights: np.ndarray
    profiles: np.ndarray
    whitened: np.ndarray
    depth: np.ndarray
    cells: np.ndarray
    labels: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean of some values (cells, anything) in each group."""
        return _membership(self.labels, self.weights.size) @ values


def read_modality(
    name: str, adata: AnnData, matrix: Any, transform: str | None, n_top: int, keep: np.ndarray
) -> ModalitySample:
    """Read a modality, normalise it and reduce it.

    Parameters
    ----------
    name, adata
        The modality.
    matrix
        Its values, in memory or on disk. Of more than 20,000 cells that many are drawn.
    transform
        ``"auto"`` (counts: ``"log1p"``, anything else: None), ``"log1p"`` (scaled to 10,000 per
        cell, logarithm of 1 + x), ``"clr"`` (centred log ratio of each feature over the cells),
        ``"arcsinh"`` (of x / 5) or None.
    n_top
        So many most variable features are used.
    keep
        Positions of features that are used whatever their variance.

    Raises
    ------
    ValueError
        If values are not finite, or negative where they are to be logged, or there are too few
        cells or features.
    """
    # 1. cells and features in an order of their own
    by_name = np.argsort(adata.var_names.astype(str).to_numpy(dtype=object), kind="stable")
    cells = _sample(matrix, by_name)
    _check_finite(name, cells)
    # 2. normalise, and choose the most variable features
    depth = np.log1p(np.maximum(row_sums(cells), 0))
    values = _transformed(name, cells, transform)
    mean, sd = moments(values)
    chosen = _variable(sd, n_top, np.argsort(by_name)[keep])
    if values.shape[0] < MIN_CELLS or chosen.size < MIN_FEATURES:
        raise ValueError(
            f"Modality {name!r} has {values.shape[0]} cells and {chosen.size} features that "
            f"vary; suggesting links takes at least {MIN_CELLS} cells and {MIN_FEATURES} "
            "features. Give links by hand."
        )
    # 3. principal components, of fewer features than are linked
    used = np.zeros(sd.size, dtype=bool)
    used[_variable(sd, N_VARIABLE, keep[:0])] = True
    scores = _scores(name, values, used)
    return ModalitySample(
        name=name,
        features=by_name[chosen],
        values=values[:, chosen],
        mean=mean[chosen],
        sd=sd[chosen],
        scores=scores,
        spread=scores.std(axis=0),
        depth=(depth - depth.mean()) / (depth.std() or 1),
    )


def _sample(matrix: Any, features: np.ndarray) -> Any:
    """Cells in an order of their own, float64, in memory; sparse stays sparse.

    They are sorted by a random projection, so that neither the draw nor anything that follows
    depends on their order in the data.
    """
    n_cells = matrix.shape[0]
    # 1. a random projection of every cell
    weights = np.random.default_rng(0).random(features.size)
    key = np.empty(n_cells)
    for span, block in row_blocks(matrix, n_cells):
        key[span] = row_sums(scale_columns(_take(block, features), weights))
    # 2. draw cells from their order along it
    order = np.argsort(key, kind="stable")[sample_cells(n_cells, MAX_FIT_CELLS)]
    # 3. read these in the order of the data, and put them into the other one
    rows = np.sort(order)
    parts = []
    for span, block in row_blocks(matrix, n_cells):
        low, high = np.searchsorted(rows, [span.start, span.stop])
        parts.append(_take(block[rows[low:high] - span.start], features))
    stacked = sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.vstack(parts)
    return stacked[np.searchsorted(rows, order)]


def _take(block: Any, features: np.ndarray) -> Any:
    """Features of some cells, float64, laid out in one way."""
    if not sparse.issparse(block):
        return np.ascontiguousarray(block[:, features], dtype=np.float64)
    taken = sparse.csr_matrix(block[:, features], dtype=np.float64)
    taken.sort_indices()
    return taken


def _check_finite(name: str, matrix: Any) -> None:
    values = matrix.data if sparse.issparse(matrix) else matrix
    if not np.isfinite(values).all():
        raise ValueError(
            f"Modality {name!r} has {np.sum(~np.isfinite(values))} NaN or infinite values. Cells "
            "that were not measured are left out of the modality, not filled with NaN."
        )


def _transformed(name: str, matrix: Any, transform: str | None) -> Any:
    values = matrix.data if sparse.issparse(matrix) else matrix
    lowest = float(values.min(initial=0))
    if transform == "auto":
        integers = bool(np.all(values == np.rint(values)))
        highest = float(values.max(initial=0))
        transform = choose_transform(name, integers=integers, lowest=lowest, highest=highest)
    if transform == "arcsinh":
        return np.arcsinh(matrix / COFACTOR)
    if transform is None:
        return matrix
    if lowest < 0:
        raise ValueError(
            f"Modality {name!r} has negative values (down to {lowest:.3g}), which {transform!r} "
            f"cannot scale. Use transforms={{{name!r}: None}} or 'arcsinh', or name the layer of "
            "the counts."
        )
    if transform == "clr":
        return log1p(scale_columns(matrix, np.exp(-feature_statistics("protein", matrix))))
    totals = row_sums(matrix)
    factors = np.divide(RNA_TOTAL, totals, out=np.zeros_like(totals), where=totals > 0)
    return log1p(scale_rows(matrix, factors))


def _variable(sd: np.ndarray, n_top: int, keep: np.ndarray) -> np.ndarray:
    """Sorted positions of the most variable features, and of those to be kept; none constant."""
    leading = np.argsort(-sd, kind="stable")[:n_top]
    chosen = np.union1d(leading, keep).astype(np.int64)
    return chosen[sd[chosen] > 0]


def _scores(name: str, values: Any, used: np.ndarray) -> np.ndarray:
    """Principal components, each turned such that its longer tail is on the positive side."""
    components = fit_pca(name, values, used, N_COMPONENTS)
    scores = project(components, values).astype(np.float64)
    scores -= scores.mean(axis=0)
    return scores * np.where((scores**3).mean(axis=0) < 0, -1.0, 1.0)


def group_cells(sample: ModalitySample, n_groups: int, rng: np.random.Generator) -> Metacells:
    """Group a random share of the cells by k-means of their principal components.

    The centres to start from are found by splitting the group with the largest scatter along
    its principal axis until there are enough, so that they do not depend on the cells' order.
    """
    # 1. a share of the cells
    n_cells = sample.scores.shape[0]
    n_used = max(int(REPEAT_SHARE * n_cells), MIN_CELLS)
    rows = np.sort(rng.choice(n_cells, n_used, replace=False))
    scores = sample.scores[rows]
    # 2. groups of at least five cells on average; k-means may leave some empty
    start = _split(scores, min(n_groups, rows.size // 5))
    labels = KMeans(len(start), init=start, n_init=1, max_iter=50).fit(scores).labels_
    labels = np.unique(labels, return_inverse=True)[1]
    # 3. means of groups
    weights = np.bincount(labels) / rows.size
    member = _membership(labels, weights.size)
    values = member @ sample.values[rows]
    values = values.toarray() if sparse.issparse(values) else values
    whitened = scores / sample.spread
    return Metacells(
        weights=weights,
        profiles=(values - sample.mean) / sample.sd,
        whitened=member @ whitened,
        depth=member @ sample.depth[rows],
        cells=whitened,
        labels=labels,
    )


def _split(scores: np.ndarray, n_groups: int) -> np.ndarray:
    """Centres (groups, components) of a divisive clustering along principal directions."""
    groups = [np.arange(len(scores))]
    scatter = [_scatter(scores)]
    while len(groups) < n_groups:
        largest = int(np.argmax(scatter))
        rows = groups.pop(largest)
        scatter.pop(largest)
        centered = scores[rows] - scores[rows].mean(axis=0)
        axis = np.linalg.eigh(centered.T @ centered)[1][:, -1]
        above = centered @ axis > 0
        for part in (rows[above], rows[~above]):
            groups.append(part)
            scatter.append(_scatter(scores[part]))
    return np.stack([scores[rows].mean(axis=0) for rows in groups])


def _scatter(scores: np.ndarray) -> float:
    """Sum of squares about the mean."""
    return float(((scores - scores.mean(axis=0)) ** 2).sum())


def _membership(labels: np.ndarray, n_groups: int) -> sparse.csr_matrix:
    """Matrix (groups, cells) that takes means over groups."""
    shape = (n_groups, labels.size)
    ones = sparse.csr_matrix((np.ones(labels.size), (labels, np.arange(labels.size))), shape=shape)
    return sparse.diags(1 / np.bincount(labels, minlength=n_groups)) @ ones
