"""Joint latents of CITE-seq by other methods: arrays, or graphs of nearest cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fits import StageClock
    from mudata import MuData

N_COMPONENTS = 50
K = 15


def joint_components(inputs: dict[str, np.ndarray], train: np.ndarray) -> np.ndarray:
    """Principal components of all modalities side by side, each of total variance 1."""
    from sklearn.decomposition import PCA

    parts = []
    for x in inputs.values():
        centred = x - x[train].mean(axis=0)
        parts.append(centred / np.sqrt(centred[train].var(axis=0).sum()))
    both = np.hstack(parts)
    fitted = PCA(min(N_COMPONENTS, both.shape[1] - 1), random_state=0).fit(both[train])
    return fitted.transform(both)


def weighted_neighbours(mdata: MuData, seed: int) -> Any:
    """Sparse distances to the nearest cells by muon's weighted nearest neighbours."""
    import muon
    import scanpy as sc

    own = mdata.copy()
    sc.pp.normalize_total(own["rna"], target_sum=1e4)
    sc.pp.log1p(own["rna"])
    muon.prot.pp.clr(own["adt"])
    for adata in own.mod.values():
        sc.pp.scale(adata, max_value=10)
        sc.pp.pca(adata, n_comps=min(N_COMPONENTS, adata.n_vars - 1), random_state=seed)
        sc.pp.neighbors(adata, random_state=seed)
    muon.pp.neighbors(own, n_neighbors=K, random_state=seed)
    return own.obsp["distances"].tocsr()


def totalvi(mdata: MuData, parts: list[np.ndarray], clock: StageClock, epochs: int | None) -> Any:
    """Latents of TOTALVI without a batch key; the clock stops it."""
    import scvi

    own = mdata.copy()
    own["adt"].X = own["adt"].X.toarray() if hasattr(own["adt"].X, "toarray") else own["adt"].X
    for name, adata in own.mod.items():
        adata.var_names = [f"{name}:{feature}" for feature in adata.var_names]
    own.update()
    scvi.model.TOTALVI.setup_mudata(
        own,
        rna_layer=None,
        protein_layer=None,
        modalities={"rna_layer": "rna", "protein_layer": "adt"},
    )
    model = scvi.model.TOTALVI(own)
    model.train(
        epochs or 400,
        accelerator="cpu",
        external_indexing=[np.sort(parts[0]), np.sort(parts[1])],
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    return model.get_latent_representation()


def mofa(mdata: MuData, seed: int) -> np.ndarray:
    """Factors of MOFA+ on log-normalised genes and centred log ratios of proteins."""
    import mofapy2  # noqa: F401
    import muon
    import scanpy as sc

    own = mdata.copy()
    sc.pp.normalize_total(own["rna"], target_sum=1e4)
    sc.pp.log1p(own["rna"])
    muon.prot.pp.clr(own["adt"])
    muon.tl.mofa(own, n_factors=20, seed=seed, save_data=False, quiet=True)
    return own.obsm["X_mofa"]
