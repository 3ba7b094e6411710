"""A network of features and its modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cantata.tl._feature_columns import FeatureColumns

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
        ``q``.
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


def build_network(
    columns: Mapping[str, FeatureColumns],
    edges: pd.DataFrame,
    ends: np.ndarray,
    modules: Modules,
    resolution: float,
    random_state: int,
) -> FeatureNetwork:
    """Network of the features that have an edge.

    Parameters
    ----------
    columns
        Features by modality.
    edges
        Table of edges, with ``correlation``.
    ends
        Positions of both ends among the features of all modalities, (edges, 2).
    modules, resolution, random_state
        As in :func:`cantata.tl.feature_network`.
    """
    features = np.concatenate([of.names for of in columns.values()])
    modality = np.repeat(list(columns), [of.shape[1] for of in columns.values()])
    used, places = np.unique(ends, return_inverse=True)
    places = places.reshape(ends.shape)
    positive = edges["correlation"].to_numpy() > 0
    weights = edges["correlation"].to_numpy()[positive]
    nodes = pd.DataFrame(
        {
            "feature": features[used],
            "modality": modality[used],
            "degree": np.bincount(places.ravel(), minlength=len(used)),
            "module": _modules(
                len(used), places[positive], weights, modules, resolution, random_state
            ),
        }
    )
    return FeatureNetwork(nodes, edges, places)


def _modules(
    n_nodes: int,
    ends: np.ndarray,
    weights: np.ndarray,
    modules: Modules,
    resolution: float,
    random_state: int,
) -> pd.Categorical:
    """Module of every node, numbered by size and then by first node."""
    if modules == "components":
        graph = sparse.csr_matrix((weights, tuple(ends.T)), shape=(n_nodes, n_nodes))
        codes = sparse.csgraph.connected_components(graph, directed=False)[1]
    else:
        import igraph
        import leidenalg

        partition = leidenalg.find_partition(
            igraph.Graph(n=n_nodes, edges=ends.tolist()),
            leidenalg.RBConfigurationVertexPartition,
            weights=weights.tolist(),
            resolution_parameter=resolution,
            n_iterations=-1,
            seed=random_state,
        )
        codes = np.asarray(partition.membership, dtype=np.int64)
    codes = pd.factorize(codes)[0]  # by first node
    sizes = np.bincount(codes)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return pd.Categorical.from_codes(rank[codes], [str(k) for k in range(len(sizes))])
