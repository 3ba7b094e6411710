"""APOLLO on real data, with its defaults; each test says what training saw of scored cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mudata
import numpy as np
import pytest
import scvi
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cantata
from cantata import APOLLO

if TYPE_CHECKING:
    from anndata import AnnData

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def with_batch_effect(adata: AnnData, batch: np.ndarray, rng: np.random.Generator) -> AnnData:
    """Counts in which the features of one half of the cells are scaled by factors of their own."""
    adata = adata.copy()
    x = sparse.csr_matrix(adata.X).astype(np.float64)
    factors = np.exp(rng.normal(0, 0.5, adata.n_vars))
    changed = np.repeat(batch == 1, np.diff(x.indptr))
    scaled = x.data[changed] * factors[x.indices[changed]]
    x.data[changed] = np.floor(scaled + rng.random(len(scaled)))
    x.eliminate_zeros()
    adata.X = x.astype(np.float32)
    return adata


def told(z: np.ndarray, labels: np.ndarray) -> float:
    """How many of 15 neighbours' votes are right, in three parts of the cells in turn."""
    return float(cross_val_score(KNeighborsClassifier(15), z, labels, cv=3).mean())


@pytest.mark.slow
@pytest.mark.parametrize("where", ["rna", "adt"])
def test_a_batch_effect_in_one_modality_goes_to_its_specific_space(real_data, where) -> None:
    """Optimised latents of training cells; chance is .32 for cell types and .5 for batches."""
    mdata = mudata.read_h5mu(real_data("pbmc5k_citeseq.h5mu"))
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, mdata.n_obs)
    parts = {name: mdata[name] for name in ("rna", "adt")}
    parts[where] = with_batch_effect(parts[where], batch, rng)
    mdata = mudata.MuData(parts)
    scvi.settings.seed = 0
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata)
    model.train(**QUIET)
    cells = mdata.obs_names.get_indexer(model.get_latent_table().index)
    types = mdata["rna"].obs["cell_type"].astype(str).to_numpy()[cells]
    found = {}
    for name in (None, "rna", "adt"):
        z = model.get_latent_table(name).to_numpy()
        space = "shared" if name is None else name
        found[f"{space} cell type"] = told(z, types)
        found[f"{space} batch"] = told(z, batch[cells])
    text = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(text)
    assert found["shared cell type"] >= 0.97, text
    if where == "rna":
        assert found["shared batch"] <= 0.60, text
        assert found["rna batch"] >= 0.85, text
        assert found["rna cell type"] <= 0.55, text
        assert found["adt batch"] <= 0.55, text
    else:
        assert found["adt batch"] > found["shared batch"], text
        assert found["rna batch"] <= 0.55, text


@pytest.mark.slow
def test_cell_types_of_held_out_nuclei(real_data) -> None:
    """Shared latents tell cell types; with permuted labels a classifier finds nothing."""
    mdata = mudata.read_h5mu(real_data("snareseq_mouse_cortex_open.h5mu"))
    mdata = cantata.pp.drop_empty(mdata)
    scvi.settings.seed = 0
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata, n_shared=20, n_specific=10)
    model.train(train_size=0.8, **QUIET)
    types = mdata["rna"].obs["cell_type"].reindex(mdata.obs_names).astype(str).to_numpy()
    z = model.get_latent_representation(modality="rna")
    rows = mdata["rna"].obs_names.get_indexer(mdata.obs_names)
    known = (types != "Mis") & (types != "nan") & (rows >= 0)
    parts = [np.asarray(i) for i in (model.train_indices, model.validation_indices)]
    train, test = (part[known[part]] for part in parts)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    right = classifier.fit(z[rows[train]], types[train]).score(z[rows[test]], types[test])
    permuted = np.random.default_rng(0).permutation(types[train])
    chance = classifier.fit(z[rows[train]], permuted).score(z[rows[test]], types[test])
    print(f"{right:.3f}, labels permuted {chance:.3f}")
    assert right >= 0.75
    assert right - chance > 0.3


@pytest.mark.slow
def test_predicted_proteins_of_held_out_cells(real_data) -> None:
    """Not far behind the mean of the 30 nearest training cells in the same shared latents."""
    mdata = mudata.read_h5mu(real_data("pbmc5k_citeseq.h5mu"))
    scvi.settings.seed = 0
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata)
    model.train(train_size=0.8, **QUIET)
    train, test = (np.asarray(i) for i in (model.train_indices, model.validation_indices))
    truth = np.log1p(mdata["adt"].X[test].toarray())
    found = np.log1p(model.impute("adt", source="rna", indices=test).X)
    z = model.get_latent_representation(modality="rna")
    near = NearestNeighbors(n_neighbors=30).fit(z[train]).kneighbors(z[test])[1]
    known = np.log1p(mdata["adt"].X[train].toarray())
    mean = known[near].mean(axis=1)
    scores = [
        np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(x.T, truth.T, strict=True)])
        for x in (found, mean)
    ]
    print("decoder {:.3f}, neighbours {:.3f}".format(*scores))
    assert scores[0] >= 0.6
