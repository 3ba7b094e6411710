"""Fit one method to CITE-seq and cluster its blocks: ``python run_clusters.py CONFIG.json``.

Of the configuration: as for ``run_cite.py``.
"""

from __future__ import annotations

from typing import Any

import fits
import make_cells
import numpy as np
import pandas as pd
import run_cite
import scanpy
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

TRIES = 16
"""Of resolutions, halving the interval each time."""


def leiden(z: np.ndarray, n_clusters: int, seed: int) -> pd.Series:
    """Leiden clusters of 15-nearest-neighbour graph, as many as asked where that can be."""
    adata = AnnData(np.asarray(z, np.float32))
    scanpy.pp.neighbors(adata, use_rep="X", random_state=seed)
    low, high = 0.0, 4.0
    best: pd.Series | None = None
    for _ in range(TRIES):
        resolution = (low + high) / 2
        options: dict[str, Any] = {"flavor": "igraph", "n_iterations": 2, "directed": False}
        scanpy.tl.leiden(adata, resolution, random_state=seed, **options)
        found = adata.obs["leiden"].astype(int)
        if best is None or abs(found.nunique() - n_clusters) < abs(best.nunique() - n_clusters):
            best = found
        if found.nunique() == n_clusters:
            break
        low, high = (resolution, high) if found.nunique() < n_clusters else (low, resolution)
    assert best is not None
    return best


def make_up(clusters: pd.Series, types: np.ndarray, batch: np.ndarray) -> dict[str, Any]:
    """Cells, commonest type and batch of every cluster, and means over cells."""
    lines = []
    for cluster, rows in clusters.groupby(clusters).groups.items():
        own = np.asarray(rows, dtype=int)
        of_type = pd.Series(types[own]).value_counts(normalize=True)
        of_batch = pd.Series(batch[own]).value_counts(normalize=True)
        line = {"cluster": int(cluster), "cells": len(own), "type": str(of_type.index[0])}
        line |= {"type share": float(of_type.iloc[0]), "batch share": float(of_batch.iloc[0])}
        lines.append(line)
    weights = [line["cells"] for line in lines]
    shares = {
        name: float(np.average([line[name] for line in lines], weights=weights))
        for name in ("type share", "batch share")
    }
    rand = {
        "type Rand": float(adjusted_rand_score(types, clusters)),
        "batch Rand": float(adjusted_rand_score(batch, clusters)),
    }
    return {"clusters": lines, **shares, **rand}


def main() -> None:
    """Run the configuration."""
    config, recorder, clock = fits.begin()
    mdata = make_cells.citeseq(config["effect"], config["seed"])
    mdata = make_cells.some(mdata, config.get("cells"))
    recorder.watch.start()
    _, cells, _ = run_cite.fit(mdata, config, clock)
    with recorder.watch.paused():
        types, batch = (
            mdata.obs[name].to_numpy(dtype=str) for name in (make_cells.TYPE, make_cells.BATCH)
        )
        n_clusters = len(np.unique(types))
        blocks = {
            name: make_up(leiden(z, n_clusters, config["seed"]), types, batch)
            for name, z in cells.items()
            if not name.startswith("shared from")
        }
    recorder.finish(None, blocks=blocks, n_clusters=n_clusters, **clock.record())


if __name__ == "__main__":
    main()
