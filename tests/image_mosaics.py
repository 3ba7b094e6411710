"""Small MuData of images for tests."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData

KEY = "single_cell_images"


def blobs(n: int, side: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two stains of n cells, (n, 1, side, side) each, and the (n, 2) sizes that they share."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    sizes = rng.uniform(0.2, 0.7, (n, 2))
    contrast = rng.uniform(0.4, 1, n)[:, None, None]
    distance = (x / sizes[:, :1, None]) ** 2 + (y / sizes[:, 1:, None]) ** 2
    disc = contrast * (distance < 1)
    ring = np.exp(-4 * (np.sqrt(distance) - 1) ** 2)
    noise = 0.05 * rng.random((2, n, side, side))
    first, second = np.clip(0.9 * np.stack([disc, ring]) + noise, 0, 1).astype(np.float32)
    return first[:, None], second[:, None], sizes


def of_images(images: np.ndarray, names: list[str], cells: list[str] | None = None) -> AnnData:
    """Modality of (n, channels, side, side) images."""
    cells = [f"c{i}" for i in range(len(images))] if cells is None else cells
    means = np.asarray(images).mean(axis=(2, 3)).astype(np.float32)
    adata = AnnData(means, pd.DataFrame(index=cells), pd.DataFrame(index=names))
    adata.obsm[KEY] = images
    return adata


def image_mosaic(n: int = 60, side: int = 32, seed: int = 0) -> mudata.MuData:
    """Two stains; of the last tenths of the cells one each has only the first or the second."""
    first, second, _ = blobs(n, side, seed)
    cells = [f"c{i}" for i in range(n)]
    tenth = n // 10
    a, b = np.arange(n - tenth), np.r_[: n - 2 * tenth, n - tenth : n]
    return mudata.MuData(
        {
            "dna": of_images(first[a], ["DAPI"], [cells[i] for i in a]),
            "protein": of_images(second[b], ["actin"], [cells[i] for i in b]),
        }
    )
