"""What to do with an integration: carry labels over, find corresponding cells, link features."""

from cantata._numeric.knn_labels import knn_labels
from cantata.tl._canonical_variates import canonical_variates
from cantata.tl._cluster_correlation import cluster_correlation
from cantata.tl._counterparts import counterparts
from cantata.tl._dimensions._estimate_dimensions import Dimensions, estimate_dimensions
from cantata.tl._latent._compare_spaces import compare_spaces
from cantata.tl._latent._interpret_latent import interpret_latent
from cantata.tl._latent._interpretation import LatentInterpretation
from cantata.tl._latent._latent_association import latent_association
from cantata.tl._latent._latent_traversal import latent_bins, latent_traversal
from cantata.tl._links._feature_network import FeatureNetwork, feature_network
from cantata.tl._links._group_features import group_features
from cantata.tl._links._infer_links import infer_links
from cantata.tl._match_cells import match_cells
from cantata.tl._transfer_labels import transfer_labels

__all__ = [
    "Dimensions",
    "FeatureNetwork",
    "LatentInterpretation",
    "canonical_variates",
    "cluster_correlation",
    "compare_spaces",
    "counterparts",
    "estimate_dimensions",
    "feature_network",
    "group_features",
    "infer_links",
    "interpret_latent",
    "knn_labels",
    "latent_association",
    "latent_bins",
    "latent_traversal",
    "match_cells",
    "transfer_labels",
]
