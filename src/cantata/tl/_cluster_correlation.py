"""How much clusters of one modality resemble clusters of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from cantata import _keys
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import modality_cells
from cantata._numeric.feature_statistics import FeatureMatrix, Statistic, group_moments
from cantata.tl._feature_values import check_modality, measured_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

MIN_RELATIVE_SD = 1e-9
"""A standard deviation of this share of the mean is rounding."""

LINKED = "linked"
"""Value of `use` for the linked features of the two modalities."""


def cluster_correlation(
    mdata: MuData,
    key: str,
    a: str,
    b: str,
    *,
    use: str = LINKED,
    standardize: bool = True,
    statistic: Statistic = "pearson",
) -> pd.DataFrame:
    """Correlate the mean profiles of clusters between two modalities.

    After a good integration a cluster's cells of one modality resemble its cells of the other
    most: the diagonal stands out (Wang et al. 2025, scMODAL, figure 4c, where features are gene
    expression and gene activity).

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    key
        Column of cells with the clusters: of ``mdata.obs``, or of the two modalities. Cells
        without a cluster take no part.
    a, b
        Modalities of the rows and of the columns.
    use
        What the profiles consist of. ``"linked"``: ``mdata[a].obsm["X_linked_<b>"]`` and
        ``mdata[b].obsm["X_linked_<a>"]``, as written by ``pp.link_features``. Another key of
        ``.obsm`` in both, of one width, such as ``"X_scmodal"``. Or ``"X"`` or a layer of both:
        the features of equal names.
    standardize
        Subtract its mean from every feature and divide by its standard deviation, both over the
        cells of the clusters that both modalities have: profiles then tell what sets clusters
        apart, not what features are high everywhere. Every cluster counts the same, so that the
        proportions of cells may differ between modalities.
    statistic
        ``"pearson"`` or ``"spearman"``.

    Returns
    -------
    Correlations (clusters x clusters), the same clusters in the same order on both sides; missing
    where a cluster has no cell in a modality, or a profile is constant. The index is named `a`,
    the columns are named `b`; :func:`cantata.pl.cluster_correlation` draws it.

    Raises
    ------
    KeyError
        If a modality, the column or `use` does not exist.
    ValueError
        If `a` is `b`, no cell has a cluster, widths differ, values are not finite, fewer than
        three features vary in both modalities, or, with `standardize`, the modalities share
        fewer than two clusters.

    Examples
    --------
    >>> import cantata, mudata, numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> rna, adt = AnnData(np.ones((4, 1))), AnnData(np.ones((3, 1)))
    >>> rna.obs_names, adt.obs_names = list("abcd"), list("xyz")
    >>> rna.obs["leiden"], adt.obs["leiden"] = ["0", "0", "1", "1"], ["1", "0", "1"]
    >>> rna.obsm["X_scmodal"] = np.array([[0, 1, 3], [0, 2, 3], [3, 0, 0], [2, 0, 1]])
    >>> adt.obsm["X_scmodal"] = np.array([[3, 1, 0], [1, 2, 3], [3, 0, 1]])
    >>> mdata = mudata.MuData({"rna": rna, "adt": adt})
    >>> table = cantata.tl.cluster_correlation(mdata, "leiden", "rna", "adt", use="X_scmodal")
    >>> bool(table.loc["0", "0"] > 0.9), bool(table.loc["0", "1"] < -0.9)
    (True, True)
    """
    if a == b:
        raise ValueError(f"a and b are both {a!r}; give two modalities.")
    if statistic not in get_args(Statistic):
        raise ValueError(f"statistic={statistic!r} is unknown; choose from {get_args(Statistic)}.")
    check_modality(mdata, a, "a")
    check_modality(mdata, b, "b")
    matrices = _matrices(mdata, a, b, use)
    clusters = _clusters(mdata, key, a, b)
    names = _sorted_clusters(pd.concat(clusters))
    means, variances = zip(
        *(
            _profiles(*matrix, column, names)
            for matrix, column in zip(matrices, clusters, strict=True)
        ),
        strict=True,
    )
    profiles = _standardized(means, variances, (a, b), key) if standardize else means
    varies = ~np.isnan(profiles).all(axis=1).any(axis=0)
    if varies.sum() < 3:
        raise ValueError(
            f"{varies.sum()} of {varies.size} features of use={use!r} vary in both {a!r} and "
            f"{b!r}; correlations need at least 3."
        )
    values = _correlate_rows(profiles[0][:, varies], profiles[1][:, varies], statistic)
    return pd.DataFrame(
        values, index=pd.Index(names, name=a), columns=pd.Index(names, name=b), dtype=np.float64
    )


def _matrices(mdata: MuData, a: str, b: str, use: str) -> list[tuple[Any, np.ndarray, str]]:
    """For both modalities a matrix, its matching columns and its name."""
    keys = {a: _keys.linked(b), b: _keys.linked(a)} if use == LINKED else {a: use, b: use}
    if all(key in mdata[name].obsm for name, key in keys.items()):
        matrices = []
        for name, key in keys.items():
            matrix = mdata[name].obsm[key]
            where = f"mdata[{name!r}].obsm[{key!r}]"
            matrices.append((matrix, np.arange(matrix.shape[1]), where))
        (_, first, first_name), (_, second, second_name) = matrices
        if len(first) != len(second):
            raise ValueError(
                f"{first_name} has {len(first)} columns and {second_name} {len(second)}: columns "
                "must correspond."
            )
        return matrices
    layers = [{layer for layer in mdata[name].layers if layer is not None} for name in (a, b)]
    if use != "X" and not all(use in names for names in layers):
        remedy = " Call cantata.pp.link_features first." if use == LINKED else ""
        raise KeyError(
            f"use={use!r} does not exist in both: {a!r} has {list(mdata[a].obsm)} in .obsm and "
            f"the layers {sorted(layers[0])}, {b!r} has {list(mdata[b].obsm)} and "
            f"{sorted(layers[1])}.{remedy}"
        )
    shared = mdata[a].var_names.intersection(mdata[b].var_names, sort=False)
    values = {name: measured_values(mdata, name, None if use == "X" else use) for name in (a, b)}
    return [
        (measured.matrix, mdata[name].var_names.get_indexer(shared), measured.where)
        for name, measured in values.items()
    ]


def _clusters(mdata: MuData, key: str, a: str, b: str) -> list[pd.Series]:
    """Cluster of every row of both modalities; NaN where there is none."""
    column = coalesce_obs(mdata, key, [a, b], argument="key")
    clusters = [column.iloc[modality_cells(mdata, name)] for name in (a, b)]
    for name, labels in zip((a, b), clusters, strict=True):
        if labels.isna().all():
            raise ValueError(f"No cell of {name!r} has a cluster in key={key!r}.")
    return clusters


def _sorted_clusters(labels: pd.Series) -> list[Any]:
    """Clusters that occur: by number if all are numbers, else by name."""
    names = labels.dropna().unique().tolist()
    try:
        return sorted(names, key=float)
    except (TypeError, ValueError):
        return sorted(names, key=str)


def _profiles(
    matrix: Any, columns: np.ndarray, where: str, clusters: pd.Series, names: list[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of features in every cluster; NaN without cells and if constant."""
    codes = pd.Index(names).get_indexer(pd.Index(clusters.to_numpy(dtype=object)))
    codes[clusters.isna().to_numpy()] = -1
    rows = np.flatnonzero(codes >= 0)
    present, codes = np.unique(codes[rows], return_inverse=True)
    values = FeatureMatrix(matrix, rows, columns, names=columns, where=where)
    moments = group_moments(values, codes)
    means, variances = np.full((2, len(names), len(columns)), np.nan)
    means[present] = np.where(moments.varies, moments.means, np.nan)
    variances[present] = moments.squares / moments.sizes[:, None]
    return means, variances


def _standardized(
    means: Sequence[np.ndarray],
    variances: Sequence[np.ndarray],
    modalities: tuple[str, str],
    key: str,
) -> list[np.ndarray]:
    """Profiles in standard deviations from the mean of the clusters that both have."""
    common = ~np.isnan(means).all(axis=2).any(axis=0)
    if common.sum() < 2:
        raise ValueError(
            f"{modalities[0]!r} and {modalities[1]!r} share {common.sum()} of {common.size} "
            f"clusters of key={key!r}; standardize=True needs two."
        )
    profiles = []
    for mean, variance in zip(means, variances, strict=True):
        center = mean[common].mean(axis=0)
        # Every cluster counts the same: its variance, and how far its mean is from the center.
        sd = np.sqrt((variance[common] + (mean[common] - center) ** 2).mean(axis=0))
        missing = np.full_like(mean, np.nan)
        varies = sd > MIN_RELATIVE_SD * np.abs(center)
        profiles.append(np.divide(mean - center, sd, out=missing, where=varies))
    return profiles


def _correlate_rows(x: np.ndarray, y: np.ndarray, statistic: Statistic) -> np.ndarray:
    """Correlation of every row of `x` with every row of `y`; NaN where one is constant or NaN."""
    unit = []
    for values in (x, y):
        if statistic == "spearman":
            values = rankdata(values, axis=1, nan_policy="omit")
        centred = values - values.mean(axis=1, keepdims=True)
        length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
        missing = np.full_like(centred, np.nan)
        unit.append(np.divide(centred, length, out=missing, where=length > 0))
    return np.clip(unit[0] @ unit[1].T, -1, 1)
