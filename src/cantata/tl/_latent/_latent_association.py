"""Association of latent spaces with annotations of cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats
from sklearn.cluster import KMeans

from cantata._mudata.checks import as_list, check_integer, check_mudata, name_list
from cantata._mudata.embeddings import LatentSpace, find_spaces
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import modality_cells
from cantata._numeric.feature_statistics import q_values
from cantata.tl._feature_values import MIN_CELLS, cell_groups
from cantata.tl._latent._components import MIN_VARIANCE, component_names, principal_axes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mudata import MuData

AxesOf = Literal["components", "dimensions"]
Clusters = Literal["leiden", "kmeans"]
ClusterTest = Literal["kruskal", "t-test"]
Correction = Literal["benjamini-hochberg", "bonferroni"]

WHOLE, CLUSTERS = "all", "clusters"
"""Values of ``axis`` for all dimensions together, and for clusters."""


@dataclass(frozen=True)
class Annotation:
    """One value per cell: numbers, NaN where missing, or codes of levels, -1 where missing."""

    name: str
    values: np.ndarray
    categorical: bool

    def take(self, cells: np.ndarray) -> Annotation:
        """The values of some cells."""
        return Annotation(self.name, self.values[cells], self.categorical)

    @property
    def known(self) -> np.ndarray:
        """Which cells have a value."""
        return self.values >= 0 if self.categorical else np.isfinite(self.values)


@dataclass(frozen=True)
class Association:
    """Result of one test, or of one per axis: NaN where there is nothing to test."""

    test: str
    n: int
    statistic: np.ndarray
    effect: np.ndarray
    p: np.ndarray
    difference: float = np.nan


def latent_association(
    mdata: MuData,
    keys: str | Sequence[str],
    *,
    use_rep: str | Sequence[str],
    modality: str | Sequence[str] | None = None,
    axes: AxesOf = "components",
    n_components: int = 20,
    clusters: Clusters | None = None,
    n_clusters: int = 2,
    resolution: float = 1.0,
    n_seeds: int = 5,
    cluster_keys: str | Sequence[str] = (),
    cluster_test: ClusterTest = "kruskal",
    groups: str | None = None,
    correction: Correction = "benjamini-hochberg",
    categorical: Sequence[str] = (),
    seed: int = 0,
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
    n_components
        At most so many components; not for ``"dimensions"``.
    clusters
        Also cluster the cells of every space and test the clusters: ``"leiden"`` on its 15
        nearest neighbours, or ``"kmeans"``.
    n_clusters
        Of k-means.
    resolution
        Of Leiden; more clusters the larger.
    n_seeds
        Cells are clustered with so many seeds, and of these the result with the largest p value
        is given: what depends on the seed is no finding. The paper takes five.
    cluster_keys
        Columns with clusters to test as well, in the cells that have one.
    cluster_test
        Test of numbers between clusters: ``"kruskal"``, or ``"t-test"`` for the paper's (Student)
        between two clusters, see Notes.
    groups
        Column of cells with the donors or samples. Cells of a donor are not independent: with
        thousands of them any difference between donors is significant. Tests then take the means
        of donors (of levels and clusters: of each level or cluster within donors) in place of
        cells. None: cells, whose p values rank associations in these donors only.
    correction
        Of p values over the table: ``"benjamini-hochberg"``, or ``"bonferroni"`` (the paper).
    categorical
        Those of `keys` that are numbers but mean levels, such as a batch 0, 1, ....
    seed
        Seed of the first clustering; the others follow.

    Returns
    -------
    One row per test: ``space``, ``axis``, ``column``, ``test``, ``n`` (cells with a value, or
    their means by `groups`), ``statistic``, ``effect``, ``p``, ``q`` (adjusted); with
    ``cluster_test="t-test"`` also ``difference``, between the means of the two clusters, without
    sign, the smallest of all seeds.

    =============  ===============  ==================  ==============================
    axis           column           test (statistic)    effect
    =============  ===============  ==================  ==============================
    one            numbers          ``spearman`` (t)    Spearman's correlation
    one            levels           ``kruskal`` (H)     eta squared of ranks, 0 to 1
    ``all``        numbers          ``regression`` (F)  adjusted R squared
    ``all``        levels           ``manova`` (F)      adjusted share of Pillai's trace
    ``clusters``   numbers          ``kruskal`` (H) or  eta squared of ranks or values,
                                    ``t-test`` (t)      0 to 1
    ``clusters``   levels           ``chi2``            Cramer's V, 0 to 1
    =============  ===============  ==================  ==============================

    Of `cluster_keys` the ``space`` is the column. With `groups`, clusters and levels are compared
    by ``manova`` of the shares of the clusters. Statistic, effect and p are missing where the
    column does not vary in the cells of the space, or these are too few.

    Raises
    ------
    KeyError
        If a column, modality or key of ``.obsm`` does not exist.
    TypeError, ValueError
        If a space holds no finite numbers or does not vary, columns of one name contradict each
        other, a column has another level in every cell, a cell has no group, there are not two
        clusters for a t-test, or an option is out of its range.

    Notes
    -----
    The paper's test of a measurement between clusters (HPA images) is ``clusters="kmeans",
    cluster_test="t-test", correction="bonferroni"``; of the ``found`` table it calls significant
    ``(found["q"] < 0.05) & (found["difference"] > 0.01)``, where 0.01 suits a proportion. It
    corrects for all tests of a study: where that is several calls, compare ``p`` with 0.05 divided
    by their number (225 there).

    Without `groups` p values of thousands of cells say little: read effects. Cells with a missing
    (or infinite) value take no part in tests of that column. Adjusted effects of whole spaces are
    about 0 by chance whatever their dimension.

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
    ...     mdata, ["score", "batch"], use_rep="X_apollo_shared", n_components=2
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
    check_mudata(mdata)
    if axes not in get_args(AxesOf):
        raise ValueError(f"axes={axes!r} is unknown; choose from {get_args(AxesOf)}.")
    if clusters is not None and clusters not in get_args(Clusters):
        raise ValueError(
            f"clusters={clusters!r} is unknown; choose from {get_args(Clusters)}, or name a "
            "column: cluster_keys=."
        )
    for name, count, smallest in (
        ("n_components", n_components, 1),
        ("n_clusters", n_clusters, 2),
        ("n_seeds", n_seeds, 1),
    ):
        check_integer(name, count, smallest)
    if not resolution > 0:
        raise ValueError(f"resolution={resolution!r} must be positive.")
    for name, given_option, choices in (
        ("cluster_test", cluster_test, ClusterTest),
        ("correction", correction, Correction),
    ):
        if given_option not in get_args(choices):
            raise ValueError(
                f"{name}={given_option!r} is unknown; choose from {get_args(choices)}."
            )
    names = name_list("keys", keys)
    columns = _annotations(mdata, names, categorical, "keys")
    given = []
    if isinstance(cluster_keys, str) or len(cluster_keys):
        listed = [cluster_keys] if isinstance(cluster_keys, str) else cluster_keys
        names = name_list("cluster_keys", listed)
        given = _annotations(mdata, names, names, "cluster_keys")
    spaces = find_spaces(mdata, use_rep, modality)
    for space in spaces:
        if not np.ptp(space.values, axis=0).any():
            raise ValueError(f"{space.where} is the same in all cells: it has no axes.")
    rows: list[tuple] = []
    for space in spaces:
        names, coordinates = _coordinates(space, axes, n_components)
        donors = (
            None if groups is None else cell_groups(mdata, groups, space.cells, argument="groups")
        )
        clusterings = []
        if clusters is not None:
            seeds = range(seed, seed + n_seeds)
            clusterings = _cluster_cells(space.values, clusters, n_clusters, resolution, seeds)
        for column in columns:
            here = column.take(space.cells)
            result = associate_axes(*_means(coordinates, here, donors))
            rows += _rows(space.name, names, column.name, result)
            result = associate_space(*_means(space.values, here, donors))
            rows += _rows(space.name, [WHOLE], column.name, result)
            if clusterings:
                result = _least(
                    [
                        associate_clusters(labels, here, donors, cluster_test)
                        for labels in clusterings
                    ]
                )
                rows += _rows(space.name, [CLUSTERS], column.name, result)
    for clustering in given:
        cells = np.flatnonzero(clustering.known)
        donors = None if groups is None else cell_groups(mdata, groups, cells, argument="groups")
        for column in columns:
            labels = clustering.values[cells]
            result = associate_clusters(labels, column.take(cells), donors, cluster_test)
            rows += _rows(clustering.name, [CLUSTERS], column.name, result)
    fields = ["space", "axis", "column", "test", "n", "statistic", "effect", "difference", "p"]
    table = pd.DataFrame(rows, columns=fields)
    p = table["p"].to_numpy(dtype=np.float64)
    n_tests = int((~np.isnan(p)).sum())
    table["q"] = np.minimum(p * n_tests, 1) if correction == "bonferroni" else q_values(p)
    return table if cluster_test == "t-test" else table.drop(columns="difference")


def _annotations(
    mdata: MuData, keys: list[str], categorical: Sequence[str], argument: str
) -> list[Annotation]:
    """Columns of cells, one value per cell of the MuData."""
    chosen = as_list("categorical", categorical)
    unknown = [key for key in chosen if key not in keys]
    if unknown:
        raise KeyError(f"categorical: {unknown[0]!r} is none of {argument}={keys!r}.")
    return [_annotation(mdata, key, key in chosen, argument) for key in keys]


def _annotation(mdata: MuData, key: str, categorical: bool, argument: str) -> Annotation:
    prefix, _, rest = key.partition(":")
    prefixed = prefix in mdata.mod and key not in mdata.obs
    name, modalities = (rest, [prefix]) if prefixed else (key, list(mdata.mod))
    if prefixed:
        if rest not in mdata[prefix].obs:
            raise KeyError(
                f"{argument}={key!r}: modality {prefix!r} has the columns "
                f"{list(mdata[prefix].obs.columns)}."
            )
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


def _coordinates(space: LatentSpace, axes: str, n_components: int) -> tuple[list[str], np.ndarray]:
    """Names of the axes, and coordinates of cells along them."""
    if axes == "dimensions":
        return [str(k + 1) for k in range(space.values.shape[1])], space.values
    scores = principal_axes(space.values).scores(space.values)[:, :n_components]
    return component_names(scores.shape[1]), scores


def _cluster_cells(
    values: np.ndarray, method: str, n_clusters: int, resolution: float, seeds: range
) -> list[np.ndarray]:
    """Cluster of each row, 0, 1, ..., for every seed."""
    if method == "kmeans":
        fitted = [KMeans(n_clusters, n_init=10, random_state=own).fit(values) for own in seeds]
        return [np.asarray(kmeans.labels_, dtype=np.int64) for kmeans in fitted]
    import scanpy as sc

    cells = AnnData(obs=pd.DataFrame(index=[str(k) for k in range(len(values))]))
    cells.obsm["X_latent"] = values
    sc.pp.neighbors(cells, use_rep="X_latent", random_state=seeds.start)
    clusterings = []
    for own in seeds:
        sc.tl.leiden(
            cells,
            resolution=resolution,
            random_state=own,
            flavor="igraph",
            n_iterations=2,
            directed=False,
        )
        clusterings.append(cells.obs["leiden"].cat.codes.to_numpy(dtype=np.int64))
    return clusterings


def _means(
    values: np.ndarray, annotation: Annotation, donors: np.ndarray | None
) -> tuple[np.ndarray, Annotation]:
    """Values (rows x columns) and the annotation of cells, or their means.

    With `donors` (codes of cells) a row is the mean over the cells of a donor; if the annotation
    has levels, over the cells of one level of a donor. Cells without a value take no part.
    """
    if donors is None:
        return values, annotation
    known = annotation.known
    given = annotation.values[known]
    levels = given.astype(np.int64) if annotation.categorical else np.zeros(len(given), np.int64)
    n_levels = int(levels.max(initial=0)) + 1
    kinds, codes = np.unique(donors[known] * n_levels + levels, return_inverse=True)
    sizes, sums = _group_sums(np.column_stack([values[known], given]), codes)
    means = sums / sizes[:, None]
    of_means = kinds % n_levels if annotation.categorical else means[:, -1]
    return means[:, :-1], replace(annotation, values=of_means)


def _least(results: list[Association]) -> Association:
    """Of several results the one with the largest p value, and the smallest difference."""
    p = [float(np.nan_to_num(result.p[0], nan=np.inf)) for result in results]
    differences = [result.difference for result in results]
    return replace(results[int(np.argmax(p))], difference=float(np.min(differences)))


def _rows(space: str, axes: list[str], column: str, result: Association) -> Iterator[tuple]:
    """Rows of the table."""
    numbers = zip(axes, result.statistic, result.effect, result.p, strict=True)
    for axis, statistic, effect, p in numbers:
        fixed = space, axis, column, result.test, result.n
        yield *fixed, statistic, effect, result.difference, p


def _no_test(test: str, n: int, size: int) -> Association:
    missing = np.full(size, np.nan)
    return Association(test, n, missing, missing, missing)


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    missing = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=missing, where=np.asarray(denominator) > 0)


def _group_sums(values: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the groups that occur, and sums of columns over them (groups x columns)."""
    codes = np.unique(codes, return_inverse=True)[1]
    sums = [np.bincount(codes, column) for column in values.T]
    return np.bincount(codes), np.stack(sums, axis=1)


def associate_axes(coordinates: np.ndarray, annotation: Annotation) -> Association:
    """Rank test of every axis (cells x axes) against an annotation.

    Numbers: Spearman's correlation, which is the effect; its t statistic, with a two-sided p value
    from Student's distribution. Levels: Kruskal and Wallis' test; the effect is eta squared, the
    share of the variance of ranks that lies between the levels.
    """
    known = annotation.known
    n, size = int(known.sum()), coordinates.shape[1]
    values = annotation.values[known]
    name = "kruskal" if annotation.categorical else "spearman"
    if n < MIN_CELLS or (values == values[0]).all():
        return _no_test(name, n, size)
    ranks = stats.rankdata(coordinates[known], axis=0) - (n + 1) / 2
    total = np.square(ranks).sum(axis=0)
    # Both statistics are those of scipy.stats, for all axes at once; ties are corrected for, since
    # `total` is the variation that ranks really have.
    if not annotation.categorical:
        other = stats.rankdata(values) - (n + 1) / 2
        rho = np.clip(_quotient(other @ ranks, np.sqrt(total * (other @ other))), -1, 1)
        with np.errstate(divide="ignore"):
            t = rho * np.sqrt((n - 2) / (1 - rho**2))
        return Association(name, n, t, rho, 2 * stats.t.sf(np.abs(t), n - 2))
    sizes, sums = _group_sums(ranks, values)
    eta_squared = _quotient((sums**2 / sizes[:, None]).sum(axis=0), total)
    statistic = (n - 1) * eta_squared
    return Association(name, n, statistic, eta_squared, stats.chi2.sf(statistic, len(sizes) - 1))


def associate_space(latent: np.ndarray, annotation: Annotation) -> Association:
    """Linear test of all dimensions together (cells x dimensions) against an annotation.

    Pillai's trace with its F approximation: for numbers it is R squared and the F test of linear
    regression on the latent space; for levels, multivariate analysis of variance. The effect is
    its share of the largest possible, adjusted for the number of dimensions and levels (adjusted
    R squared for numbers): about 0 by chance, 1 if the space tells all.
    """
    known = annotation.known
    n, values = int(known.sum()), annotation.values[known]
    name = "manova" if annotation.categorical else "regression"
    if n < MIN_CELLS or (values == values[0]).all():
        return _no_test(name, n, 1)
    centred = latent[known] - latent[known].mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    kept = variances > MIN_VARIANCE * variances[-1]
    unit = directions[:, kept] / np.sqrt(variances[kept])  # makes the total scatter the identity
    if annotation.categorical:
        sizes, sums = _group_sums(centred, values)
        explained = sums @ unit / np.sqrt(sizes)[:, None]
        n_levels = len(sizes) - 1
    else:
        other = values - values.mean()
        explained = (other @ centred @ unit) / np.sqrt(other @ other)
        n_levels = 1
    return _pillai(name, float(np.square(explained).sum()), n, int(kept.sum()), n_levels)


def _pillai(test: str, trace: float, n: int, n_dims: int, n_levels: int) -> Association:
    """F test of Pillai's trace, and its share of the largest possible, adjusted."""
    rank = min(n_dims, n_levels)
    error = n - n_levels - 1
    df = rank * max(n_dims, n_levels), rank * (error - n_dims + rank)
    if min(df) <= 0:
        return _no_test(test, n, 1)
    share = min(trace / rank, 1.0)
    with np.errstate(divide="ignore"):
        statistic = np.divide(share / df[0], (1 - share) / df[1])
    adjusted = 1 - (1 - share) * (n - 1) / (n - 1 - max(n_dims, n_levels))
    p = stats.f.sf(statistic, *df)
    return Association(test, n, np.array([statistic]), np.array([adjusted]), np.array([p]))


def associate_clusters(
    clusters: np.ndarray, annotation: Annotation, donors: np.ndarray | None, cluster_test: str
) -> Association:
    """Test of clusters (codes) against an annotation, of cells or of means of `donors`.

    Numbers: Kruskal and Wallis' test with eta squared of ranks, or Student's t-test. Levels:
    Pearson's chi-squared test of independence, Cramer's V; of donors multivariate analysis of
    variance of the shares of clusters.
    """
    known = annotation.known
    if not annotation.categorical:
        # the other way round: are the numbers the same in all clusters?
        levels = Annotation(annotation.name, np.where(known, clusters, -1), True)
        values, levels = _means(np.where(known, annotation.values, 0)[:, None], levels, donors)
        if cluster_test == "t-test":
            return t_test(values[:, 0], levels)
        return associate_axes(values, levels)
    if donors is not None:
        member = clusters[:, None] == np.unique(clusters)
        return associate_space(*_means(member.astype(np.float64), annotation, donors))
    n = int(known.sum())
    if n < MIN_CELLS:
        return _no_test("chi2", n, 1)
    table = stats.contingency.crosstab(clusters[known], annotation.values[known]).count
    if min(table.shape) < 2:
        return _no_test("chi2", n, 1)
    test = stats.chi2_contingency(table, correction=False)
    effect = np.sqrt(test.statistic / n / (min(table.shape) - 1))
    statistic, effect, p = (np.array([number]) for number in (test.statistic, effect, test.pvalue))
    return Association("chi2", n, statistic, effect, p)


def t_test(values: np.ndarray, levels: Annotation) -> Association:
    """Student's t-test of numbers between two levels; the effect is eta squared.

    Statistic and difference have no sign: clusters have no order.
    """
    known = levels.known
    parts = [values[levels.values == level] for level in np.unique(levels.values[known])]
    n = int(known.sum())
    if len(parts) > 2:
        raise ValueError(
            f"cluster_test='t-test' compares two clusters, but {levels.name!r} is known in "
            f"{len(parts)}. Take n_clusters=2, or cluster_test='kruskal'."
        )
    if n < MIN_CELLS or len(parts) < 2 or (values[known] == values[known][0]).all():
        return _no_test("t-test", n, 1)
    test = stats.ttest_ind(*parts)
    t = abs(float(test.statistic))
    difference = abs(float(parts[0].mean() - parts[1].mean()))
    effect, p = t**2 / (t**2 + n - 2), float(test.pvalue)
    return Association(
        "t-test", n, np.array([t]), np.array([effect]), np.array([p]), difference=difference
    )
