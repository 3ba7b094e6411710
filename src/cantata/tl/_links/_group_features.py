"""Features that go together, and one that stands for each group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from cantata._mudata.checks import as_list, name_list
from cantata._numeric.feature_statistics import FeatureMatrix, group_moments
from cantata.tl._feature_values import (
    MIN_CELLS,
    check_modality,
    feature_positions,
    normalized_values,
)
from cantata.tl._links._correlation import pair_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData


def group_features(
    mdata: MuData,
    modality: str,
    features: Sequence[str] | None = None,
    *,
    threshold: float = 0.7,
    layer: str | None = None,
) -> pd.DataFrame:
    """Group features that correlate, and choose one feature of each group to represent it.

    Features are the nodes of a graph, with an edge where the Pearson correlation over all cells
    is above a threshold. The connected components are the groups; the feature with the most
    edges represents its group (Zhang et al. 2026, APOLLO, methods, "interpretation of the latent
    spaces of paired chromatin and protein imaging").

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    modality
        Whose features, in its own cells.
    features
        Names of the features to group, e.g. those of ``interpretation.top("PC1")``. None: all.
    threshold
        Features correlate if their correlation is larger.
    layer
        Layer with the values; None: ``.X``. Counts are scaled to 10,000 per cell and log(1 + x)
        is taken; anything else is used as it is.

    Returns
    -------
    One row per feature, in the order given: ``feature``; ``group``, categorical, ``"0"`` the
    largest (groups of one size in the order of their first features); ``representative``, the
    feature of the group with the most edges (the first of those with as many); ``degree``,
    its own number of edges. A feature that is constant is alone.

    Raises
    ------
    KeyError
        If the modality, a feature or the layer does not exist.
    ValueError
        If `threshold` is not within -1 to 1, names repeat, no feature is named, there are fewer
        than three cells, or a value is not finite.

    Notes
    -----
    Correlations are computed in blocks; nothing of the size features x features is held.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> x = np.linspace(-1, 1, 20)
    >>> image = AnnData(np.stack([x, x + x**3, x**3, x**2], axis=1))
    >>> image.var_names = ["area", "volume", "depth", "contrast"]
    >>> mdata = mudata.MuData({"image": image})
    >>> cantata.tl.group_features(mdata, "image", threshold=0.95)
        feature group representative  degree
    0      area     0         volume       1
    1    volume     0         volume       2
    2     depth     0         volume       1
    3  contrast     1       contrast       0
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r} must be within [-1, 1].")
    check_modality(mdata, modality, "modality")
    positions = np.arange(mdata[modality].n_vars)
    if features is not None:
        wanted = name_list("features", features)
        if len(wanted) < len(given := as_list("features", features)):
            twice = next(name for name in wanted if given.count(name) > 1)
            raise ValueError(f"features must name each feature once; {twice!r} occurs twice.")
        positions = feature_positions(mdata, modality, wanted)
    n_cells = mdata[modality].n_obs
    if n_cells < MIN_CELLS:
        raise ValueError(
            f"Modality {modality!r} has {n_cells} cells; correlations need at least {MIN_CELLS}."
        )
    values = normalized_values(mdata, modality, layer)
    names = values.names[positions]
    matrix = FeatureMatrix(
        values.matrix, np.arange(n_cells), positions, names=names, where=values.where
    )
    degree, labels = correlated_groups(matrix, threshold)
    groups = codes_by_size(labels)
    by_degree = np.argsort(-degree, kind="stable")
    _, best = np.unique(groups[by_degree], return_index=True)  # of each group
    return pd.DataFrame(
        {
            "feature": names,
            "group": pd.Categorical.from_codes(groups, [str(k) for k in range(len(best))]),
            "representative": names[by_degree[best]][groups],
            "degree": degree,
        }
    )


def correlated_groups(features: FeatureMatrix, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Number of edges of every feature, and the connected component that it is in."""
    moments = group_moments(features, np.zeros(features.shape[0], dtype=np.int64))
    n_features = features.shape[1]
    degree, labels = np.zeros(n_features, dtype=np.int64), np.arange(n_features)
    for i, j, products, scale in pair_blocks(features, features, moments, moments, upper=True):
        linked = (products > threshold * scale) & (scale > 0)
        degree[i] += linked.sum(axis=1)
        degree[j] += linked.sum(axis=0)
        row, column = np.nonzero(linked)
        labels = _join(labels, labels[i[row]], labels[j[column]])
    return degree, labels


def _join(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Labels after those of `first` and `second` have become one, pair by pair."""
    if not (first != second).any():
        return labels
    size = int(labels.max()) + 1
    graph = sparse.coo_matrix((np.ones(len(first), dtype=bool), (first, second)), (size, size))
    return connected_components(graph, directed=False)[1][labels]


def codes_by_size(labels: np.ndarray) -> np.ndarray:
    """Labels numbered by size of the group, the largest 0, ties by first occurrence."""
    codes = pd.factorize(labels)[0]
    sizes = np.bincount(codes)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[codes]
