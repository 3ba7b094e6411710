"""Association of latent spaces with annotations of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import modality_cells
from cantata.tl._association_statistics import (
    Annotation,
    Association,
    associate_axes,
    associate_clusters,
    associate_space,
)
from cantata.tl._interpret_axes import principal_axes
from cantata.tl._interpret_tables import component_names
from cantata.tl._latent_spaces import LatentSpace, find_spaces
from cantata.tl._link_statistics import q_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mudata import MuData

AxesOf = Literal["components", "dimensions"]
Clusters = Literal["leiden", "kmeans"]

WHOLE, CLUSTERS = "all", "clusters"
"""Values of ``axis`` for all dimensions together, and for clusters."""


def latent_association(
    mdata: MuData,
    keys: str | Sequence[str],
    *,
    use_rep: str | Sequence[str],
    modality: str | Sequence[str] | None = None,
    axes: AxesOf = "components",
    n_comps: int = 20,
    clusters: Clusters | None = None,
    n_clusters: int = 2,
    resolution: float = 1.0,
    cluster_keys: str | Sequence[str] = (),
    categorical: Sequence[str] = (),
    random_state: int = 0,
) -> pd.DataFrame:
    """Test which annotations of cells go with the axes or clusters of latent spaces.

    For instance whether batch and cell cycle show in the shared space or in that of one modality,
    and along which component; or whether clusters of a space differ in a measurement (Zhang et
    al. 2026, APOLLO, figure 5a, with two clusters per space). Nothing is written.

    Parameters
    ----------
    mdata
        Any MuData.
    keys
        Columns of cells: of ``mdata.obs`` or of the modalities, or ``"<modality>:<column>"``.
        Numbers are tested as numbers, all else as levels.
    use_rep
        Latent spaces: keys in ``.obsm``, or ``"<modality>:<key>"``.
    modality
        Modalities whose ``.obsm`` is searched. None: ``mdata.obsm`` and that of every modality; a
        key may then stand for several spaces.
    axes
        ``"components"``: principal components of the space, as in
        :func:`cantata.tl.interpret_latent`. ``"dimensions"``: as they are stored; of many models
        these can be rotated at will.
    n_comps
        At most so many components; not for ``"dimensions"``.
    clusters
        Also cluster the cells of every space and test the clusters: ``"leiden"`` on its 15
        nearest neighbours, or ``"kmeans"``.
    n_clusters
        Of k-means.
    resolution
        Of Leiden; more clusters the larger.
    cluster_keys
        Columns with clusters to test as well, in the cells that have one.
    categorical
        Those of `keys` that are numbers but mean levels, such as a batch 0, 1, ....
    random_state
        Seed of the clustering.

    Returns
    -------
    One row per test: ``space``, ``axis``, ``column``, ``test``, ``n`` (cells with a value),
    ``statistic``, ``effect``, ``p``, ``q`` (Benjamini-Hochberg over the table).

    =============  ===============  ==================  ==============================
    axis           column           test (statistic)    effect
    =============  ===============  ==================  ==============================
    one            numbers          ``spearman`` (t)    Spearman's correlation
    one            levels           ``kruskal`` (H)     eta squared of ranks, 0 to 1
    ``all``        numbers          ``regression`` (F)  adjusted R squared
    ``all``        levels           ``manova`` (F)      adjusted share of Pillai's trace
    ``clusters``   numbers          ``kruskal`` (H)     eta squared of ranks, 0 to 1
    ``clusters``   levels           ``chi2``            Cramer's V, 0 to 1
    =============  ===============  ==================  ==============================

    Of `cluster_keys` the ``space`` is the column. Statistic, effect and p are missing where the
    column does not vary in the cells of the space, or these are too few.

    Raises
    ------
    KeyError
        If a column, modality or key of ``.obsm`` does not exist.
    TypeError, ValueError
        If a space holds no finite numbers or does not vary, columns of one name contradict each
        other, a column has another level in every cell, or an option is out of its range.

    Notes
    -----
    Cells with a missing (or infinite) value take no part in tests of that column. Adjusted
    effects of whole spaces are about 0 by chance whatever their dimension.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> latent = rng.normal(size=(200, 3)) * [3, 2, 1]
    >>> rna = AnnData(np.ones((200, 1)), obsm={"X_apollo_shared": latent})
    >>> rna.obs["score"] = -latent[:, 0]
    >>> rna.obs["batch"] = np.where(latent[:, 1] > 0, "a", "b")
    >>> mdata = mudata.MuData({"rna": rna})
    >>> table = cantata.tl.latent_association(
    ...     mdata, ["score", "batch"], use_rep="X_apollo_shared", n_comps=2
    ... )
    >>> table["effect"] = table["effect"].abs()
    >>> table[["space", "axis", "column", "test", "effect"]].round(1)
                     space axis column        test  effect
    0  rna:X_apollo_shared  PC1  score    spearman     1.0
    1  rna:X_apollo_shared  PC2  score    spearman     0.0
    2  rna:X_apollo_shared  all  score  regression     1.0
    3  rna:X_apollo_shared  PC1  batch     kruskal     0.0
    4  rna:X_apollo_shared  PC2  batch     kruskal     0.7
    5  rna:X_apollo_shared  all  batch      manova     0.6
    """
    _check_options(axes, clusters, n_comps, n_clusters, resolution)
    columns = _annotations(mdata, _names(keys, "keys"), categorical, "keys")
    given = _annotations(mdata, _names(cluster_keys), _names(cluster_keys), "cluster_keys")
    spaces = find_spaces(mdata, use_rep, modality)
    for space in spaces:
        if not np.ptp(space.values, axis=0).any():
            raise ValueError(f"{space.where} is the same in all cells: it has no axes.")
    rows: list[tuple] = []
    for space in spaces:
        names, coordinates = _coordinates(space, axes, n_comps)
        own = None
        if clusters is not None:
            own = cluster_cells(space.values, clusters, n_clusters, resolution, random_state)
        for column in columns:
            here = column.take(space.cells)
            rows += _rows(space.name, names, column.name, associate_axes(coordinates, here))
            rows += _rows(space.name, [WHOLE], column.name, associate_space(space.values, here))
            if own is not None:
                rows += _rows(space.name, [CLUSTERS], column.name, associate_clusters(own, here))
    for of in given:
        for column in columns:
            rows += _rows(of.name, [CLUSTERS], column.name, associate_clusters(of.values, column))
    fields = ["space", "axis", "column", "test", "n", "statistic", "effect", "p"]
    table = pd.DataFrame(rows, columns=fields)
    table["q"] = q_values(table["p"].to_numpy(dtype=np.float64))
    return table


def _check_options(
    axes: str, clusters: str | None, n_comps: int, n_clusters: int, resolution: float
) -> None:
    if axes not in get_args(AxesOf):
        raise ValueError(f"axes={axes!r} is unknown; choose from {get_args(AxesOf)}.")
    if clusters is not None and clusters not in get_args(Clusters):
        raise ValueError(
            f"clusters={clusters!r} is unknown; choose from {get_args(Clusters)}, or name a "
            "column: cluster_keys=."
        )
    if n_comps < 1:
        raise ValueError(f"n_comps={n_comps!r} must be at least 1.")
    if n_clusters < 2:
        raise ValueError(f"n_clusters={n_clusters!r} must be at least 2.")
    if not resolution > 0:
        raise ValueError(f"resolution={resolution!r} must be positive.")


def _names(keys: str | Sequence[str], needed: str | None = None) -> list[str]:
    names = [keys] if isinstance(keys, str) else list(dict.fromkeys(keys))
    if needed and not names:
        raise ValueError(f"{needed} is empty; name at least one column of cells.")
    return names


def _annotations(
    mdata: MuData, keys: list[str], categorical: Sequence[str], argument: str
) -> list[Annotation]:
    """Columns of cells, one value per cell of the MuData."""
    if isinstance(categorical, str):
        raise TypeError(f"categorical={categorical!r} must be a list of columns.")
    unknown = [key for key in categorical if key not in keys]
    if unknown:
        raise KeyError(f"categorical: {unknown[0]!r} is none of {argument}={keys!r}.")
    return [_annotation(mdata, key, key in categorical, argument) for key in keys]


def _annotation(mdata: MuData, key: str, categorical: bool, argument: str) -> Annotation:

    prefix, _, rest = key.partition(":")
    own = prefix in mdata.mod and key not in mdata.obs
    name, modalities = (rest, [prefix]) if own else (key, list(mdata.mod))
    if own and rest not in mdata[prefix].obs:
        raise KeyError(
            f"{argument}={key!r}: modality {prefix!r} has the columns "
            f"{list(mdata[prefix].obs.columns)}."
        )
    if own:
        spread = np.full(mdata.n_obs, np.nan, dtype=object)
        spread[modality_cells(mdata, prefix)] = mdata[prefix].obs[rest].to_numpy(dtype=object)
        column = pd.Series(spread)
    else:
        column = coalesce_obs(mdata, name, modalities, argument=argument)
    sources = [mdata.obs] + [mdata[m].obs for m in modalities]
    types = [frame[name].dtype for frame in sources if name in frame]
    plain = column.infer_objects()
    if not (
        categorical
        or any(isinstance(dtype, pd.CategoricalDtype) for dtype in types)
        or pd.api.types.is_bool_dtype(plain)
        or not pd.api.types.is_numeric_dtype(plain)
    ):
        return Annotation(key, plain.to_numpy(dtype=np.float64), False)
    codes, levels = pd.factorize(column.to_numpy(dtype=object))
    if len(levels) > 2 and len(levels) == (codes >= 0).sum():
        raise ValueError(
            f"{argument}={key!r} has another value in each of {len(levels)} cells: it names cells "
            "and cannot go with anything."
        )
    return Annotation(key, codes, True)


def _coordinates(space: LatentSpace, axes: str, n_comps: int) -> tuple[list[str], np.ndarray]:
    """Names of the axes, and coordinates of cells along them."""
    if axes == "dimensions":
        return [str(k + 1) for k in range(space.values.shape[1])], space.values
    scores = principal_axes(space.values).scores(space.values)[:, :n_comps]
    return component_names(scores.shape[1]), scores


def cluster_cells(
    values: np.ndarray, method: str, n_clusters: int, resolution: float, random_state: int
) -> np.ndarray:
    """Cluster of each row, 0, 1, ...."""
    if method == "kmeans":
        from sklearn.cluster import KMeans

        found = KMeans(n_clusters, n_init=10, random_state=random_state).fit(values)
        return np.asarray(found.labels_, dtype=np.int64)
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(obs=pd.DataFrame(index=[str(k) for k in range(len(values))]))
    cells.obsm["X_latent"] = values
    sc.pp.neighbors(cells, use_rep="X_latent", random_state=random_state)
    sc.tl.leiden(
        cells,
        resolution=resolution,
        random_state=random_state,
        flavor="igraph",
        n_iterations=2,
        directed=False,
    )
    return cells.obs["leiden"].cat.codes.to_numpy(dtype=np.int64)


def _rows(space: str, axes: list[str], column: str, found: Association) -> Iterator[tuple]:
    """Rows of the table."""
    numbers = zip(axes, found.statistic, found.effect, found.p, strict=True)
    for axis, statistic, effect, p in numbers:
        yield space, axis, column, found.test, found.n, statistic, effect, p
