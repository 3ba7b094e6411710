"""What people would rather look at."""

from cantata.pl._cluster_correlation import cluster_correlation
from cantata.pl._dimensions import dimensions
from cantata.pl._embedding import embedding
from cantata.pl._history import history
from cantata.pl._imputed import imputed
from cantata.pl._latent_features import latent_features
from cantata.pl._latent_traversal import latent_traversal
from cantata.pl._links import links
from cantata.pl._pairing import pairing

__all__ = [
    "cluster_correlation",
    "dimensions",
    "embedding",
    "history",
    "imputed",
    "latent_features",
    "latent_traversal",
    "links",
    "pairing",
]
