"""Real data of these benchmarks, from the folder named by ``CANTATA_TEST_DATA``."""

from __future__ import annotations

import os
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

STRENGTH = 0.5
"""Standard deviation of the log factors of a synthetic batch."""
TYPE, BATCH = "cell_type", "batch_of_cell"


def folder() -> Path:
    """Folder of the real data."""
    found = os.environ.get("CANTATA_TEST_DATA")
    if not found:
        raise SystemExit("Set CANTATA_TEST_DATA to the folder of the real data.")
    return Path(found)


def joined(modalities: dict[str, AnnData], columns: dict[str, np.ndarray]) -> MuData:
    """MuData with these columns, by the cells of all modalities, which are in one order."""
    mdata = MuData({name: AnnData(a.X, a.obs[[]], a.var[[]]) for name, a in modalities.items()})
    for name, values in columns.items():
        mdata.obs[name] = np.asarray(values).astype(str)
    return mdata


def some(mdata: MuData, n_cells: int | None, seed: int = 0) -> MuData:
    """A random part of the cells, to try things out."""
    if n_cells is None or n_cells >= mdata.n_obs:
        return mdata
    chosen = np.sort(np.random.default_rng(seed).choice(mdata.n_obs, n_cells, replace=False))
    return mdata[chosen].copy()


def counts(adata: AnnData) -> sparse.csr_matrix:
    """Counts, sparse and float64."""
    return sparse.csr_matrix(adata.X).astype(np.float64).copy()


def citeseq(effect: str, seed: int) -> MuData:
    """pbmc5k with a synthetic batch in one modality, or with pbmc10k.

    Parameters
    ----------
    effect
        ``"rna"`` or ``"adt"``: counts of a random half of the cells are multiplied by a factor
        per feature, exp(N(0, .5)), and rounded at random. ``"experiments"``: pbmc5k and pbmc10k
        with their common proteins; the labels of the second were transferred from both of its
        modalities.
    seed
        Of factors, cells and rounding.
    """
    mdata = mudata.read_h5mu(folder() / "pbmc5k_citeseq.h5mu")
    types = mdata["rna"].obs["cell_type"].astype(str).to_numpy()
    modalities = {name: mdata[name].copy() for name in ("rna", "adt")}
    if effect == "experiments":
        return with_second(modalities, types)
    rng = np.random.default_rng(seed)
    batch = rng.integers(0, 2, mdata.n_obs)
    adata = modalities[effect]
    x = counts(adata)
    factors = np.exp(rng.normal(0, STRENGTH, adata.n_vars))
    chosen = batch[np.repeat(np.arange(adata.n_obs), np.diff(x.indptr))] == 1
    raised = x.data[chosen] * factors[x.indices[chosen]]
    x.data[chosen] = np.floor(raised + rng.random(len(raised)))
    x.eliminate_zeros()
    adata.X = x.astype(np.float32)
    return joined(modalities, {TYPE: types, BATCH: batch})


def with_second(first: dict[str, AnnData], types: np.ndarray) -> MuData:
    """pbmc5k and pbmc10k side by side."""
    other = mudata.read_h5mu(folder() / "pbmc10k_citeseq.h5mu")
    both = {}
    for name, a in first.items():
        b = other[name]
        common = a.var_names.intersection(b.var_names, sort=False)
        parts = [part[:, common] for part in (a, b)]
        both[name] = AnnData(
            sparse.vstack([counts(part) for part in parts], format="csr").astype(np.float32),
            pd.DataFrame(index=[*("5k:" + a.obs_names), *("10k:" + b.obs_names)]),
            pd.DataFrame(index=common),
        )
    later = other["rna"].obs["cell_type_transferred"].astype(str).to_numpy()
    batch = np.repeat(["pbmc5k", "pbmc10k"], [len(types), len(later)])
    return joined(both, {TYPE: np.concatenate([types, later]), BATCH: batch})


def snare(least: float = 0.01) -> MuData:
    """SNARE-seq of the mouse cortex, peaks in at least a share of the cells."""
    mdata = mudata.read_h5mu(folder() / "snareseq_mouse_cortex_open.h5mu")
    atac = mdata["atac"]
    shares = np.asarray((atac.X > 0).mean(axis=0)).ravel()
    modalities = {"rna": mdata["rna"], "atac": atac[:, shares >= least].copy()}
    rna = modalities["rna"]
    modalities["rna"] = rna[:, np.asarray(rna.X.sum(axis=0)).ravel() > 0].copy()
    filled = [np.asarray(a.X.sum(axis=1)).ravel() > 0 for a in modalities.values()]
    kept = np.all(filled, axis=0)
    modalities = {name: a[kept].copy() for name, a in modalities.items()}
    return joined(modalities, {TYPE: mdata["rna"].obs["cell_type"].to_numpy()[kept]})
