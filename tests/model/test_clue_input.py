"""Components that the model fits are those of preprocess."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mosaics import counts_mosaic
from scipy import sparse

import cantata
from cantata import CLUE
from cantata.model.clue._input import fit_component_input
from cantata.nn import ComponentInput

SMALL = {"n_latent": 4, "n_hidden_encoder": 16, "n_hidden_decoder": 8}


@pytest.mark.parametrize(("kind", "name"), [("rna", "rna"), ("protein", "adt"), ("atac", "atac")])
def test_same_components_as_preprocess(kind: str, name: str) -> None:
    mdata = counts_mosaic({"rna": 20, "adt": 15, "atac": 30}, np.ones((60, 3), dtype=bool))
    counts = mdata[name].X.copy()
    cantata.pp.preprocess(mdata, n_comps=5)
    layer = ComponentInput(counts.shape[1], 5)
    layer.set(fit_component_input(name, counts, kind, 5))
    key = "X_lsi" if kind == "atac" else "X_pca"
    own = layer(torch.from_numpy(counts.toarray())).numpy()
    np.testing.assert_allclose(own, mdata[name].obsm[key], atol=1e-4)


def test_values_that_are_no_counts() -> None:
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    layer = ComponentInput(8, 3)
    layer.set(fit_component_input("cytof", x, None, 3))
    z = (x - x.mean(0)) / x.std(0)
    _, _, axes = np.linalg.svd(z, full_matrices=False)
    scores = z @ axes[:3].T
    own = layer(torch.from_numpy(x)).numpy()
    for j in range(3):
        assert abs(np.corrcoef(own[:, j], scores[:, j])[0, 1]) > 1 - 1e-4


def test_components_are_kept_by_queries_and_saved_models(tmp_path) -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    clue.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    loadings = clue.module.inputs["rna"].loadings.clone()
    assert loadings.abs().sum() > 0
    clue.save(str(tmp_path / "m"))
    again = CLUE.load(str(tmp_path / "m"), mdata)
    assert torch.equal(again.module.inputs["rna"].loadings, loadings)
    mapped = CLUE.load_query_data(counts_mosaic(seed=3, n_cells=30), clue, freeze=False)
    mapped.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    assert torch.equal(mapped.module.inputs["rna"].loadings, loadings)


def test_log_counts_on_request() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, n_components=None, **SMALL)
    assert not clue.module.inputs
    x = torch.from_numpy(mdata["rna"].X[:3].toarray())
    expected = torch.log1p(x / x.sum(1, keepdim=True) * 1e4)
    assert torch.allclose(clue.module.encoder_input({"rna": x}, "rna"), expected, atol=1e-5)


def test_sparse_and_dense_agree() -> None:
    x = np.random.default_rng(0).poisson(2, (40, 9)).astype(np.float32)
    states = [fit_component_input("rna", m, "rna", 4) for m in (x, sparse.csr_matrix(x))]
    for key in states[0]:
        np.testing.assert_allclose(np.abs(states[0][key]), np.abs(states[1][key]), atol=1e-3)
