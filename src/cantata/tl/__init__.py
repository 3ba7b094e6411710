"""What to do with an integration: carry labels over, find corresponding cells, link features."""

from cantata._knn_labels import knn_labels
from cantata.tl._cluster_correlation import cluster_correlation
from cantata.tl._feature_network import feature_network
from cantata.tl._infer_links import infer_links
from cantata.tl._match_cells import match_cells
from cantata.tl._network import FeatureNetwork
from cantata.tl._transfer_labels import transfer_labels

__all__ = [
    "FeatureNetwork",
    "cluster_correlation",
    "feature_network",
    "infer_links",
    "knn_labels",
    "match_cells",
    "transfer_labels",
]
