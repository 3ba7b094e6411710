"""Embedding, UMAP and clusters of the demo, by the model and by the simple method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cantata import _keys
from cantata._demo._baseline import canonical_embedding, joint_embedding
from cantata._demo._imputation import target_modality
from cantata._demo._scores import Embedding
from cantata._demo._terminal import few_threads, step
from cantata._mudata.pairing import row_table

if TYPE_CHECKING:
    from rich.console import Console

    from cantata._demo._data import Prepared

CLUSTERS = "leiden_clue"
"""Column with the clusters."""

HELD_OUT = "held_out"
"""Column that tells which cells training did not see."""


def embed(ready: Prepared, console: Console, *, seed: int) -> tuple[Embedding, Embedding]:
    """Write the model's results, its UMAP and clusters.

    Parameters
    ----------
    ready
        Data and trained model.
    console
        Where to say so.
    seed
        Seed of neighbours, UMAP and clusters.

    Returns
    -------
    Embeddings of the model and of the simple method.
    """
    import scanpy as sc

    mdata = ready.mosaic.mdata
    target = target_modality(mdata, ready.kinds)
    with step(console, "Embed") as current:
        imputed = [target] if mdata[target].n_vars <= 1000 else []
        with few_threads(mdata.n_vars):
            ready.model.write_results(mdata, imputed=imputed)
        mdata.obs[HELD_OUT] = ready.held
        sc.pp.neighbors(mdata, use_rep="X_clue", random_state=seed)
        sc.tl.umap(mdata, random_state=seed)
        _leiden(mdata, seed)
        n_clusters = mdata.obs[CLUSTERS].nunique()
        current.detail = f"X_clue of {mdata.n_obs:,} cells, UMAP, {n_clusters} Leiden clusters"
    rows = row_table(mdata, list(ready.records))
    reps = {m: np.asarray(mdata[m].obsm[str(r["rep"])]) for m, r in ready.records.items()}
    axes = canonical_embedding(reps, rows, ~ready.held)
    simple = Embedding(joint_embedding(axes, rows), axes)
    key = _keys.embedding(ready.model.method)
    own = {name: np.asarray(mdata[name].obsm[key]) for name in rows}
    return Embedding(np.asarray(mdata.obsm[key]), own), simple


def _leiden(data: Any, seed: int) -> None:
    import scanpy as sc

    sc.tl.leiden(
        data,
        key_added=CLUSTERS,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=seed,
    )


def clusters(embedding: np.ndarray, seed: int) -> np.ndarray:
    """Leiden clusters of any embedding, as those of the model are made.

    Parameters
    ----------
    embedding
        (cells, dimensions)
    seed
        Seed of neighbours and clusters.
    """
    import scanpy as sc
    from anndata import AnnData

    data = AnnData(obsm={"X": embedding.astype(np.float32)})
    sc.pp.neighbors(data, use_rep="X", random_state=seed)
    _leiden(data, seed)
    return data.obs[CLUSTERS].to_numpy()
