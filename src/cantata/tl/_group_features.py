"""Features that go together, and one that stands for each group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from cantata.tl._expression import expression
from cantata.tl._feature_columns import BLOCK_ENTRIES, FeatureColumns, group_moments
from cantata.tl._link_statistics import shown
from cantata.tl._link_values import LEAST_CELLS, check_modality

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
    places = _places(mdata, modality, features)
    if mdata[modality].n_obs < LEAST_CELLS:
        raise ValueError(
            f"Modality {modality!r} has {mdata[modality].n_obs} cells; correlations need at least "
            f"{LEAST_CELLS}."
        )
    values = expression(mdata, modality, layer)
    rows = np.arange(mdata[modality].n_obs)
    names = values.names[places]
    columns = FeatureColumns(values.matrix, rows, places, names=names, where=values.where)
    degree, labels = correlated_groups(columns, threshold)
    groups, first = _numbered(labels), np.argsort(-degree, kind="stable")
    _, best = np.unique(groups[first], return_index=True)
    return pd.DataFrame(
        {
            "feature": names,
            "group": pd.Categorical.from_codes(groups, [str(k) for k in range(len(best))]),
            "representative": names[first[best]][groups],
            "degree": degree,
        }
    )


def _places(mdata: MuData, modality: str, features: Sequence[str] | None) -> np.ndarray:
    """Positions of the features that were named."""
    known = mdata[modality].var_names
    if features is None:
        return np.arange(len(known))
    if isinstance(features, str):
        raise TypeError(f"features={features!r} must be a list of names.")
    names = pd.Index(list(features), dtype=object)
    if not len(names) or not names.is_unique:
        example = "" if not len(names) else f" {names[names.duplicated()][0]!r} occurs twice."
        raise ValueError(f"features must name at least one feature, each once.{example}")
    places = known.get_indexer(names)
    unknown = names[places < 0]
    if len(unknown):
        raise KeyError(
            f"features: {len(unknown)} of {len(names)} are no features of {modality!r}, e.g. "
            f"{unknown[0]!r}."
        )
    return places


def correlated_groups(
    columns: FeatureColumns, threshold: float, block_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Edges of every feature, and the connected component that it is in.

    Parameters
    ----------
    columns
        Values of features.
    threshold
        An edge has a larger correlation.
    block_size
        Features in a block; by default as many as bound its memory.
    """
    moments = group_moments(columns, np.zeros(columns.shape[0], dtype=np.int64))
    mean, sd = moments.mean, np.sqrt(moments.variation)
    n_features = columns.shape[1]
    degree, labels = np.zeros(n_features, dtype=np.int64), np.arange(n_features)
    blocks = list(columns.blocks(block_size))
    work = int(columns.n_stored * n_features**2 / 2)
    for features in shown(blocks, "Correlations", work):
        values = columns.dense(features) - mean[features]
        width = max(1, BLOCK_ENTRIES // max(values.shape))
        for others in columns.blocks(block_size or width):
            if others.stop <= features.start:
                continue
            products = np.asarray(columns.block(others).T @ values).T
            linked = products > threshold * np.outer(sd[features], sd[others])
            linked &= np.outer(sd[features] > 0, sd[others] > 0)
            here, there = np.ogrid[features, others]
            linked &= here < there  # each pair once, none with itself
            degree[features] += linked.sum(axis=1)
            degree[others] += linked.sum(axis=0)
            i, j = np.nonzero(linked)
            labels = _joined(labels, labels[i + features.start], labels[j + others.start])
    return degree, labels


def _joined(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Labels after those of `first` and `second` have become one, pair by pair."""
    if not (first != second).any():
        return labels
    size = int(labels.max()) + 1
    graph = sparse.coo_matrix((np.ones(len(first), dtype=bool), (first, second)), (size, size))
    merged = sparse.csgraph.connected_components(graph, directed=False)[1]
    return merged[labels]


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Labels by size of the group, the largest 0, those of one size by first occurrence."""
    codes = pd.factorize(labels)[0]
    sizes = np.bincount(codes)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[codes]
