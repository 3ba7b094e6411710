"""Plots of embeddings, links and scores."""

from cantata.pl._dimensions import dimensions
from cantata.pl._embedding import embedding
from cantata.pl._heatmap import cluster_correlation
from cantata.pl._history import history
from cantata.pl._images import images
from cantata.pl._imputed import imputed
from cantata.pl._latent import latent_features, latent_traversal
from cantata.pl._links import links
from cantata.pl._pairing import pairing

__all__ = [
    "cluster_correlation",
    "dimensions",
    "embedding",
    "history",
    "images",
    "imputed",
    "latent_features",
    "latent_traversal",
    "links",
    "pairing",
]
