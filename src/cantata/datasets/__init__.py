"""Simulated mosaics with known answers, and loaders of public data."""

from __future__ import annotations

from cantata.datasets._disentangled import simulate_disentangled
from cantata.datasets._images import simulate_images
from cantata.datasets._mosaic import simulate_mosaic
from cantata.datasets._public import pbmc5k_citeseq, pbmc_mosaic, snareseq_cortex

__all__ = [
    "pbmc5k_citeseq",
    "pbmc_mosaic",
    "simulate_disentangled",
    "simulate_images",
    "simulate_mosaic",
    "snareseq_cortex",
]
