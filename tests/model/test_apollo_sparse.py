"""Minibatches of sparse matrices stay sparse, and say what dense ones say."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from apollo_models import QUIET, SMALL, counts_mosaic
from scipy import sparse

from cantata import APOLLO
from cantata.model.apollo import APOLLOModule, LossWeights
from cantata.model.apollo._training import StageSplitter, split

FEATURES = {"rna": 7, "adt": 5}


def module(loss: str) -> APOLLOModule:
    torch.manual_seed(0)
    transforms, losses = dict.fromkeys(FEATURES, "identity"), dict.fromkeys(FEATURES, loss)
    built = APOLLOModule(FEATURES, transforms, losses, 3, {"rna": 2, "adt": 1}, n_hidden=6)
    for name, width in {"shared": 3, "rna": 2, "adt": 1}.items():
        built.table(name).set(np.random.default_rng(0).normal(size=(6, width)))
    return built.eval()


@pytest.mark.parametrize("loss", ["bce", "mse", "nb"])
def test_both_objectives(loss):
    rng = np.random.default_rng(1)
    dense = {"cell": torch.arange(6)}
    for name, p in FEATURES.items():
        dense[name] = torch.from_numpy(rng.poisson(0.8, (6, p)).astype(np.float32))
        dense[f"{name}_rows"] = torch.arange(6)
    csr = {k: x.to_sparse_csr() if k in FEATURES else x for k, x in dense.items()}
    table_rows = dict.fromkeys(["shared", *FEATURES], torch.arange(6))
    found = []
    for tensors in (dense, csr):
        built = module(loss)
        torch.manual_seed(0)
        latents, noise_sd = built.inference(tensors, table_rows)
        decoded = built.generative(tensors, latents, noise_sd, LossWeights())
        first = built.loss(tensors, latents, noise_sd, decoded, LossWeights()).loss
        first.backward()
        gradient = built.decoder("rna").head.output.weight.grad
        held_out = built.decoded_loss(tensors)["decoded"]
        found.append((first.detach(), held_out.detach(), gradient))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_both_stages():
    """The whole training, with components and a mosaic."""
    latents = []
    for kind in (np.asarray, sparse.csr_matrix):
        scvi.settings.seed = 0
        mdata = counts_mosaic()
        for adata in mdata.mod.values():
            x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
            adata.X = kind(x)
        APOLLO.setup_mudata(mdata)
        model = APOLLO(mdata, n_components=4, **SMALL)
        model.train(**QUIET)
        latents.append(model.get_latent_representation())
    assert np.allclose(*latents, atol=1e-4)


def test_loader_gives_what_is_stored():
    mdata = counts_mosaic()
    for adata in mdata.mod.values():
        adata.X = sparse.csr_matrix(adata.X)
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata, **SMALL)
    splitter = StageSplitter(
        model.adata_manager, batch_size=16, external_indexing=split(model, None, None, None)
    )
    splitter.setup()
    minibatch = next(iter(splitter.train_dataloader()))
    assert splitter.on_after_batch_transfer(minibatch, 0) is minibatch
    for name in model.modalities:
        assert minibatch[name].layout == torch.sparse_csr
