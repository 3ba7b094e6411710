"""Predict one modality of cells from another with :class:`cantata.CLUE`."""

import anndata
import mudata
import scvi
from scipy.sparse import csc_matrix

import cantata

## VIASH START
par = {
    "input_train_mod1": "train_mod1.h5ad",
    "input_train_mod2": "train_mod2.h5ad",
    "input_test_mod1": "test_mod1.h5ad",
    "output": "prediction.h5ad",
    "n_latent": 20,
    "max_epochs": None,
    "seed": 0,
}
meta = {"name": "cantata_clue"}
## VIASH END

# 1. cells with both modalities, and cells with the first alone; one has counts, one its values
train1, train2, test1 = (
    anndata.read_h5ad(par[key])
    for key in ("input_train_mod1", "input_train_mod2", "input_test_mod1")
)
names = {"GEX": "rna", "ADT": "adt", "ATAC": "atac"}
source, target = (names[adata.uns["modality"]] for adata in (train1, train2))


def values(adata: anndata.AnnData, layer: str) -> anndata.AnnData:
    """Values of a layer and nothing else."""
    result = anndata.AnnData(adata.layers[layer].tocsr().astype("float32"))
    result.obs_names, result.var_names = adata.obs_names, adata.var_names
    return result


training = mudata.MuData({source: values(train1, "counts"), target: values(train2, "normalized")})
new = mudata.MuData({source: values(test1, "counts")})

# 2. the model
scvi.settings.seed = par["seed"]
cantata.CLUE.setup_mudata(training)
model = cantata.CLUE(training, n_latent=par["n_latent"], likelihoods={target: "normal"})
model.train(par["max_epochs"], enable_progress_bar=False)

# 3. what it expects of the second modality
expected = model.impute(target, new, source=source)[test1.obs_names, train2.var_names]
anndata.AnnData(
    layers={"normalized": csc_matrix(expected.X)},
    obs=test1.obs[[]],
    var=train2.var[[]],
    uns={"dataset_id": train1.uns["dataset_id"], "method_id": meta["name"]},
).write_h5ad(par["output"], compression="gzip")
