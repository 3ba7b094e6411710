"""Networks of features that vary together, within and between modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from cantata import _keys
from cantata._mudata.checks import check_mapping, name_list
from cantata._numeric.feature_statistics import q_values
from cantata.tl._feature_values import (
    cells_with_values,
    check_modality,
    choose_features,
    feature_positions,
    group_codes,
    imputed_values,
    measured_values,
)
from cantata.tl._links._correlation import check_options, correlate
from cantata.tl._links._group_features import codes_by_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

    from cantata._numeric.feature_statistics import FeatureMatrix, Statistic

Modules = Literal["leiden", "components"]


@dataclass(frozen=True)
class FeatureNetwork:
    """Features as nodes, correlations as edges.

    Attributes
    ----------
    nodes
        One row per feature that has an edge: ``feature``, ``modality``, ``degree``, ``module``
        (``"0"`` is the largest).
    edges
        One row per pair, strongest first: ``source``, ``source_modality``, ``target``,
        ``target_modality``, ``correlation``, ``within_correlation`` (only with groups), ``p``,
        ``q``; the last two are missing where an end was imputed.
    ends
        Positions in ``nodes`` of both ends of every edge, (edges, 2).
    """

    nodes: pd.DataFrame
    edges: pd.DataFrame
    ends: np.ndarray

    def to_sparse(self) -> sparse.csr_matrix:
        """Correlations as a symmetric matrix over ``nodes``, zero where there is no edge."""
        weights = self.edges["correlation"].to_numpy()
        size = len(self.nodes)
        half = sparse.csr_matrix((weights, tuple(self.ends.T)), shape=(size, size))
        return sparse.csr_matrix(half + half.T)

    def to_igraph(self) -> Any:
        """An undirected :class:`igraph.Graph` with the columns of both tables as attributes."""
        import igraph

        graph = igraph.Graph(n=len(self.nodes), edges=self.ends.tolist())
        for column in self.nodes:
            graph.vs[column] = self.nodes[column].tolist()
        for column in self.edges.columns.drop(["source", "target"]):
            graph.es[column] = self.edges[column].tolist()
        return graph


def feature_network(
    mdata: MuData,
    cells: str,
    modalities: Sequence[str] | None = None,
    *,
    method: str = "scmodal",
    imputed: Mapping[str, AnnData] | None = None,
    features: Mapping[str, Sequence[str]] | None = None,
    layer: str | None = None,
    statistic: Statistic = "pearson",
    min_correlation: float = 0.3,
    max_q: float = 0.05,
    max_edges: int = 100_000,
    within: str | None = None,
    n_permutations: int = 0,
    modules: Modules = "leiden",
    resolution: float = 1.0,
    seed: int = 0,
) -> FeatureNetwork:
    """Network of features that correlate across cells, within and between modalities.

    All pairs of features are correlated in the cells of one modality: its own features as
    measured, those of other modalities as imputed; e.g. genes with imputed proteins (Wang et al.
    2025, scMODAL). Nothing is written.

    Parameters
    ----------
    mdata
        Any MuData.
    cells
        Modality whose cells are used, and whose measured values.
    modalities
        Modalities whose features are nodes. None: `cells` and all that were imputed.
    method
        Whose imputation is read.
    imputed
        Imputed values by modality, as in :func:`cantata.tl.infer_links`; None: what
        ``model.write_results`` wrote for `method`.
    features
        Names of the features to use, by modality; a modality that is not named has all.
    layer, statistic, within, n_permutations
        As in :func:`cantata.tl.infer_links`.
    min_correlation, max_q
        An edge has at least this absolute correlation. If both ends were measured it also has at
        most this q value (Benjamini-Hochberg over all such pairs); see Notes.
    max_edges
        At most so many edges, the strongest; within and between modalities so many are tried.
    modules
        How modules are found among the positive edges: ``"leiden"`` maximises modularity with the
        correlations as weights, ``"components"`` takes what is connected.
    resolution
        Of the former; more modules the larger.
    seed
        Seed of permutations and modules.

    Returns
    -------
    A :class:`FeatureNetwork` with ``nodes``, ``edges``, ``to_sparse()`` and ``to_igraph()``. It
    may have no edge.

    Raises
    ------
    KeyError
        If a modality, feature, layer, column or imputation does not exist.
    TypeError, ValueError
        As :func:`cantata.tl.infer_links`.

    Notes
    -----
    Only measured features are tested against each other. An imputed value is a function of the
    measured profile of its cell: it correlates with what it was computed from, and two imputed
    features, functions of one embedding, correlate by construction. No permutation of cells says
    how strong a correlation of such pairs comes by chance; `min_correlation` alone decides.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> state = np.repeat([0.0, 1.0], 10)[:, None] + np.linspace(0, 0.1, 20)[:, None]
    >>> rna = AnnData(state * [1, -2, 0] + [0, 3, 1])
    >>> rna.var_names = ["Cd4", "Cd8a", "Actb"]
    >>> adt = AnnData(np.ones((2, 1)))
    >>> adt.obs_names, adt.var_names = ["x", "y"], ["CD4"]
    >>> mdata = mudata.MuData({"rna": rna, "adt": adt})
    >>> imputed = {"adt": AnnData(state**2, obs=rna.obs, var=adt.var)}
    >>> network = cantata.tl.feature_network(mdata, "rna", imputed=imputed)
    >>> network.edges[["source", "target", "correlation"]].round(2)
      source target  correlation
    0    Cd4   Cd8a         -1.0
    1    Cd4    CD4          1.0
    2   Cd8a    CD4         -1.0
    >>> network.nodes[["feature", "modality", "module"]]
      feature modality module
    0     Cd4      rna      0
    1    Cd8a      rna      1
    2     CD4      adt      0
    """
    check_options(statistic, min_correlation, n_permutations, max_edges=max_edges)
    if modules not in get_args(Modules):
        raise ValueError(f"modules={modules!r} is unknown; choose from {get_args(Modules)}.")
    if not 0 <= max_q <= 1:
        raise ValueError(f"max_q={max_q!r} must be within [0, 1].")
    if resolution <= 0:
        raise ValueError(f"resolution={resolution!r} must be positive.")
    for argument, given in (("imputed", imputed), ("features", features)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(
                f"{argument} is a {type(given).__name__}; give a dict from modalities: "
                f"{argument}={{'adt': ...}}."
            )
    names = _modalities(mdata, cells, modalities, imputed, method)
    if features is not None:
        check_mapping("features", features, names)
    values = {
        name: measured_values(mdata, name, layer)
        if name == cells
        else imputed_values(mdata, name, (imputed or {}).get(name), method, cells)
        for name in names
    }
    wanted = {
        name: feature_positions(mdata, name, given, f"features[{name!r}]")
        for name, given in (features or {}).items()
    }
    rows = np.arange(mdata[cells].n_obs)
    for of_modality in values.values():
        rows = np.intersect1d(rows, cells_with_values(of_modality, cells))
    if not len(rows):
        raise ValueError(f"No cell of {cells!r} has values of all of {names}.")
    codes = group_codes(mdata, within, cells, rows)
    matrices = {
        name: choose_features(mdata, name, values[name], rows, wanted.get(name), statistic)[0]
        for name in names
    }
    edges, ends = _edges(
        matrices,
        codes,
        measured=cells,
        min_correlation=min_correlation,
        max_q=max_q,
        max_edges=max_edges,
        n_permutations=n_permutations,
        seed=seed,
    )
    if within is None:
        del edges["within_correlation"]
    used, ends = np.unique(ends, return_inverse=True)
    ends = ends.reshape(len(edges), 2)
    weights = edges["correlation"].to_numpy()
    positive = weights > 0
    nodes = pd.DataFrame(
        {
            "feature": np.concatenate([matrix.names for matrix in matrices.values()])[used],
            "modality": np.repeat(names, [matrix.shape[1] for matrix in matrices.values()])[used],
            "degree": np.bincount(ends.ravel(), minlength=len(used)),
            "module": _find_modules(
                len(used), ends[positive], weights[positive], modules, resolution, seed
            ),
        }
    )
    return FeatureNetwork(nodes, edges, ends)


def _modalities(
    mdata: MuData,
    cells: str,
    modalities: Sequence[str] | None,
    imputed: Mapping[str, AnnData] | None,
    method: str,
) -> list[str]:
    check_modality(mdata, cells, "cells")
    if modalities is None:
        record = mdata.uns.get(_keys.UNS, {}).get(method, {}).get("imputed_features", {})
        others = record if imputed is None else imputed
        modalities = [cells, *(name for name in others if name != cells)]
    names = name_list("modalities", modalities)
    for name in names:
        check_modality(mdata, name, "modalities")
    return names


def _edges(
    matrices: Mapping[str, FeatureMatrix],
    codes: np.ndarray,
    *,
    measured: str,
    min_correlation: float,
    max_q: float,
    max_edges: int,
    n_permutations: int,
    seed: int,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Edges, strongest first, and their ends as positions among the features of all modalities.

    Pairs of features of the modality `measured` are tested; others are not, and have no q.
    """
    widths = [matrix.shape[1] for matrix in matrices.values()]
    starts = dict(zip(matrices, np.cumsum([0, *widths[:-1]]), strict=True))
    tables, ends, n_tests = [], [], 0
    for a, b in combinations_with_replacement(matrices, 2):
        result = correlate(
            matrices[a],
            matrices[b],
            None,
            codes,
            min_correlation=min_correlation,
            max_pairs=max_edges,
            p_values=a == b == measured,
            n_permutations=n_permutations,
            seed=seed,
            upper=a == b,
        )
        n_tests += result.n_tests
        ends.append(np.column_stack([result.i + starts[a], result.j + starts[b]]))
        table = result.table.drop(columns="distance")
        table.insert(1, "source_modality", a)
        table.insert(3, "target_modality", b)
        tables.append(table)
    edges, positions = pd.concat(tables, ignore_index=True), np.concatenate(ends)
    edges["q"] = q_values(edges["p"].to_numpy(), n_tests)
    order = np.argsort(-edges["correlation"].abs().to_numpy(), kind="stable")
    order = order[~(edges["q"].to_numpy() > max_q)[order]][:max_edges]
    return edges.iloc[order].reset_index(drop=True), positions[order]


def _find_modules(
    n_nodes: int,
    ends: np.ndarray,
    weights: np.ndarray,
    modules: Modules,
    resolution: float,
    seed: int,
) -> pd.Categorical:
    """Module of every node, numbered by size and then by first node."""
    if modules == "components":
        graph = sparse.csr_matrix((weights, tuple(ends.T)), shape=(n_nodes, n_nodes))
        labels = connected_components(graph, directed=False)[1]
    else:
        import igraph
        import leidenalg

        partition = leidenalg.find_partition(
            igraph.Graph(n=n_nodes, edges=ends.tolist()),
            leidenalg.RBConfigurationVertexPartition,
            weights=weights.tolist(),
            resolution_parameter=resolution,
            n_iterations=-1,
            seed=seed,
        )
        labels = np.asarray(partition.membership, dtype=np.int64)
    codes = codes_by_size(labels)
    return pd.Categorical.from_codes(codes, [str(k) for k in range(codes.max(initial=-1) + 1)])
