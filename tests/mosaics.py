"""Small mosaics that tests share."""

from __future__ import annotations

import mudata
import numpy as np
from anndata import AnnData
from scipy import sparse

from cantata._mudata.parts import no_pull


def mosaic(parts: dict[str, AnnData]) -> mudata.MuData:
    """MuData whose top-level columns are not pulled from the modalities, on any mudata."""
    with no_pull():
        return mudata.MuData(parts)


def counts_mosaic(
    sizes: dict[str, int] | None = None,
    member: np.ndarray | None = None,
    *,
    n_cells: int = 60,
    n_batches: int = 2,
    seed: int = 0,
) -> mudata.MuData:
    """Small mosaic of Poisson counts in which groups of cells differ, rows shuffled."""
    sizes = sizes or {"rna": 12, "adt": 6}
    rng = np.random.default_rng(seed)
    names = np.array([f"c{i}" for i in range(n_cells)])
    group = rng.integers(0, 3, n_cells)
    batch = np.array([f"b{i % n_batches}" for i in range(n_cells)])
    if member is None:
        member = np.ones((n_cells, len(sizes)), dtype=bool)
        member[: n_cells // 4, 0] = False
        member[n_cells // 4 : n_cells // 2, 1] = False
    parts = {}
    for k, (name, p) in enumerate(sizes.items()):
        rows = rng.permutation(np.flatnonzero(member[:, k]))
        rate = np.exp(rng.normal(0, 1, (3, p)))[group[rows]] + 0.2
        x = rng.poisson(rate).astype(np.float32)
        x[:, 0] += 1
        parts[name] = AnnData(sparse.csr_matrix(x))
        parts[name].obs_names = names[rows]
        parts[name].var_names = [f"{name}_{j}" for j in range(p)]
        parts[name].obs["batch"] = batch[rows]
        parts[name].obs["group"] = group[rows].astype(str)
    return mosaic(parts)
