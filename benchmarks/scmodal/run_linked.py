"""Baselines without training: ``python run_linked.py CONFIG.json``.

The linked features themselves, which a trained model must beat; or, where the configuration says
``paired``, the principal components of the RNA of both halves of every cell, which no method for
unpaired data can know: the ceiling of imputation from neighbours. Of the configuration: ``pair``,
``smooth`` (whether the features are smoothed and reduced as SCMODAL's anchors are).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import benchpath  # noqa: F401
import pandas as pd
import scanpy as sc
from anndata import AnnData
from harness import Recorder, read_config
from mudata import MuData
from unpaired import CELL, Unpaired, unit

import cantata

if TYPE_CHECKING:
    import numpy as np
    from harness import Arrays

COMPONENTS = 30


def components(adata: AnnData, seed: int) -> np.ndarray:
    """Principal components of all features, (cells, `COMPONENTS`)."""
    whole = AnnData(adata.X.copy())
    sc.pp.normalize_total(whole)
    sc.pp.log1p(whole)
    sc.pp.pca(whole, n_comps=COMPONENTS, random_state=seed)
    return whole.obsm["X_pca"]


def linked_features(inputs: Unpaired, a: str, b: str, smooth: bool) -> Arrays:
    """Linked features as `cantata` normalises them; smoothed and reduced: SCMODAL's anchors."""
    mdata = MuData({m: inputs.modalities[m] for m in (a, b)})
    plain = {} if smooth else {"smooth": False, "n_components": None}
    cantata.pp.link_features(mdata, a, b, links=inputs.table(a, b), **plain)
    # compared by their angle, as the anchors are
    return {m: unit(mdata[m].obsm[f"X_linked_{other}"]) for m, other in ((a, b), (b, a))}


def known_pairs(inputs: Unpaired, a: str, b: str, seed: int) -> Arrays:
    """Principal components of modality `a`, for the cells of `b` those of the same cell."""
    rows = pd.Index(inputs.modalities[a].obs[CELL]).get_indexer(
        pd.Index(inputs.modalities[b].obs[CELL])
    )
    found = components(inputs.modalities[a], seed)
    return {a: found, b: found[rows]}


def main() -> None:
    """Run the configuration."""
    warnings.simplefilter("ignore")
    config = read_config()
    inputs = Unpaired.read(config["inputs"])
    a, b = config["pair"]
    recorder = Recorder(config)
    recorder.watch.start()
    if config.get("paired"):
        arrays = known_pairs(inputs, a, b, config["seed"])
    else:
        arrays = linked_features(inputs, a, b, bool(config.get("smooth")))
    recorder.finish(lambda: arrays)


if __name__ == "__main__":
    main()
