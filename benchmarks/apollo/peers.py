"""Joint latents of CITE-seq by other methods: arrays, or graphs of nearest cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import muon
import numpy as np
import scanpy
from fits import QUIET
from sklearn.decomposition import PCA

if TYPE_CHECKING:
    from fits import StageClock
    from mudata import MuData

N_COMPONENTS = 50
K = 15


def joint_components(inputs: dict[str, np.ndarray], train: np.ndarray) -> np.ndarray:
    """Principal components of all modalities side by side, each of total variance 1."""
    parts = []
    for x in inputs.values():
        centred = x - x[train].mean(axis=0)
        parts.append(centred / np.sqrt(centred[train].var(axis=0).sum()))
    both = np.hstack(parts)
    fitted = PCA(min(N_COMPONENTS, both.shape[1] - 1), random_state=0).fit(both[train])
    return fitted.transform(both)


def normalised(mdata: MuData) -> MuData:
    """Copy with log-normalised genes and centred log ratios of proteins."""
    own = mdata.copy()
    scanpy.pp.normalize_total(own["rna"], target_sum=1e4)
    scanpy.pp.log1p(own["rna"])
    muon.prot.pp.clr(own["adt"])
    return own


def weighted_neighbours(mdata: MuData, seed: int) -> Any:
    """Sparse distances to the nearest cells by muon's weighted nearest neighbours."""
    own = normalised(mdata)
    for adata in own.mod.values():
        scanpy.pp.scale(adata, max_value=10)
        n_comps = min(N_COMPONENTS, adata.n_vars - 1)
        scanpy.pp.pca(adata, n_comps=n_comps, random_state=seed)
        scanpy.pp.neighbors(adata, random_state=seed)
    muon.pp.neighbors(own, n_neighbors=K, random_state=seed)
    return own.obsp["distances"].tocsr()


def totalvi(
    mdata: MuData,
    clock: StageClock,
    config: dict[str, Any],
    batch_key: str | None = None,
    **options: Any,
) -> tuple[Any, MuData]:
    """Trained TOTALVI and what it was trained on; the clock stops it."""
    import scvi

    own = mdata.copy()
    proteins = own["adt"].X
    own["adt"].X = proteins.toarray() if hasattr(proteins, "toarray") else proteins
    for name, adata in own.mod.items():
        # it joins features by name, and some proteins are called as their genes
        adata.var_names = [f"{name}:{feature}" for feature in adata.var_names]
    own.update()
    scvi.model.TOTALVI.setup_mudata(
        own,
        rna_layer=None,
        protein_layer=None,
        batch_key=batch_key,
        modalities={"rna_layer": "rna", "protein_layer": "adt"},
    )
    model = scvi.model.TOTALVI(own)
    model.train(config.get("max_epochs", 400), callbacks=[clock], **QUIET, **options)
    return model, own


def mofa(mdata: MuData, seed: int) -> np.ndarray:
    """Factors of MOFA+."""
    import mofapy2  # noqa: F401

    own = normalised(mdata)
    muon.tl.mofa(own, n_factors=20, seed=seed, save_data=False, quiet=True)
    return own.obsm["X_mofa"]
