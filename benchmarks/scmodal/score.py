"""Score embeddings and imputations: ``python benchmarks/scmodal/score.py RESULT_FOLDER...``.

One implementation for all methods, outside their processes, in the environment of `cantata`. Adds
``scores`` to the points of each ``result.json``, and ``imputed`` where something was imputed.
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import anndata
import benchpath  # noqa: F401
import numpy as np
import pandas as pd
from anndata import AnnData
from imputed import score_genes, score_proteins
from unpaired import CELL, CLEAN, COARSE, LABEL, SCORED, Unpaired

from cantata.metrics import (
    foscttm,
    kbet,
    label_transfer_accuracy,
    mixing_metric,
    pair_distance,
    silhouette,
)

VOTERS = 20
"""Neighbours whose majority is the steadier measure of label transfer."""


def score_pair(
    x: np.ndarray, y: np.ndarray, first: AnnData, second: AnnData, *, mixing: bool
) -> dict[str, float]:
    """Scores of two modalities in one space.

    Parameters
    ----------
    x, y
        Embeddings (cells, d) of the two modalities.
    first, second
        Labels and names of these cells.
    mixing
        Whether how well the modalities mix is scored, which needs no labels.
    """
    scores = {}
    for level in (LABEL, COARSE):
        a, b = (adata.obs[level].astype(str).to_numpy() for adata in (first, second))
        for k in (1, VOTERS):
            scores[f"{level} {k}-NN, a to b"] = label_transfer_accuracy(x, a, y, b, k=k)
            scores[f"{level} {k}-NN, b to a"] = label_transfer_accuracy(y, b, x, a, k=k)
        scores[f"{level} ASW"] = silhouette(np.vstack([x, y]), np.concatenate([a, b]))
    if mixing:
        scores |= {"mixing": mixing_metric([x, y]), "kBET": kbet([x, y])}
        i, j = common(first, second)
        if len(i):
            scores["FOSCTTM"] = foscttm(x[i], y[j])
            scores["pair distance"] = pair_distance(x[i], y[j])
    return scores


def common(first: AnnData, second: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the cells that both modalities have, in one order."""
    cells = pd.Index(first.obs[CELL]).intersection(pd.Index(second.obs[CELL]), sort=False)
    return tuple(pd.Index(adata.obs[CELL]).get_indexer(cells) for adata in (first, second))


def score_embeddings(arrays: dict[str, np.ndarray], inputs: Unpaired) -> dict[str, Any]:
    """Scores of every pair of modalities, of all scored cells and of those with a clean label."""
    found: dict[str, Any] = {}
    for a, b in combinations([m for m in inputs.modalities if m in arrays], 2):
        kept = {m: inputs.modalities[m].obs[SCORED].to_numpy(dtype=bool) for m in (a, b)}
        clean = {m: kept[m] & inputs.modalities[m].obs[CLEAN].to_numpy(bool) for m in (a, b)}
        for name, rows in (("", kept), (", clean", clean)):
            if name and all((clean[m] == kept[m]).all() for m in (a, b)):
                continue
            parts = [inputs.modalities[m][rows[m]] for m in (a, b)]
            x, y = (np.asarray(arrays[m], np.float32)[rows[m]] for m in (a, b))
            found[f"{a}|{b}{name}"] = score_pair(x, y, *parts, mixing=not name)
    return found


def score(folder: Path) -> None:
    """Add scores to a result."""
    path = folder / "result.json"
    result = json.loads(path.read_text())
    source = Path(result["config"]["inputs"])
    inputs = Unpaired.read(source)
    for point in result["points"]:
        if "scores" in point:
            continue
        with np.load(folder / point["file"]) as arrays:
            point["scores"] = score_embeddings(dict(arrays), inputs)
    if result["points"]:
        with np.load(folder / result["points"][-1]["file"]) as arrays:
            embedding = dict(arrays)
        hidden = source / "hidden.h5ad"
        if hidden.exists():
            truth = anndata.read_h5ad(hidden)
            result["proteins"] = score_proteins(folder, inputs, truth, embedding)
        if result["config"].get("genes"):
            target = result["config"]["genes"]
            result["genes"] = score_genes(folder, inputs, embedding, target)
    path.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        score(Path(name))
