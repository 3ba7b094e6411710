"""SCMODAL on real data, with its defaults.

Every score is transductive: all cells are trained on, labels and pairs never. The last step is
scored.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import anndata
import mudata
import numpy as np
import pytest
import scvi
from anndata import AnnData
from mosaics import mosaic
from sklearn.preprocessing import normalize

import cantata
from cantata import SCMODAL
from cantata._mudata.checks import matrix_stats
from cantata._numeric.neighbors import nearest_neighbors
from cantata.metrics import foscttm, label_transfer_accuracy, mixing_metric
from cantata.model._inputs import fit_input, resolve_transforms
from cantata.nn import EncoderInput

if TYPE_CHECKING:
    import pandas as pd

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
VOTERS = 20


def unpaired(parts: dict[str, AnnData]) -> mudata.MuData:
    """Modalities whose rows are shuffled and renamed: nothing tells which cells are the same."""
    shuffled = {}
    for k, (name, adata) in enumerate(parts.items()):
        order = np.random.default_rng(k).permutation(adata.n_obs)
        shuffled[name] = adata[order].copy()
        shuffled[name].obs["cell"] = shuffled[name].obs_names
        shuffled[name].obs_names = [f"{name}_{i}" for i in range(adata.n_obs)]
    return mosaic(shuffled)


def scores(
    mdata: mudata.MuData, transforms: dict | None = None, links: pd.DataFrame | None = None
) -> dict[str, float]:
    """Scores of a model with default settings, seed 0, and of its linked features, untrained."""
    scvi.settings.seed = 0
    a, b = mdata.mod
    report = cantata.pp.link_features(mdata, a, b, links, transforms=transforms or "auto")
    SCMODAL.setup_mudata(mdata)
    model = SCMODAL(mdata, transforms=transforms or "auto")
    model.train(**QUIET)
    x, y = (model.get_latent_representation(modality=m) for m in (a, b))
    # unit vectors: linked features are compared by angle
    u, v = (normalize(mdata[m].obsm[f"X_linked_{n}"]) for m, n in ((a, b), (b, a)))
    own, other = (mdata[m].obs["cell_type"].to_numpy().astype(str) for m in (a, b))
    found = {
        "links": len(report.links),
        "consistency": float(model.history[f"consistency_{a}_{b}_train"].iloc[-1, 0]),
        "1-NN": label_transfer_accuracy(x, own, y, other, k=1),
        "20-NN": label_transfer_accuracy(x, own, y, other, k=VOTERS),
        "untrained 20-NN": label_transfer_accuracy(u, own, v, other, k=VOTERS),
        "1-NN back": label_transfer_accuracy(y, other, x, own, k=1),
        "mixing": mixing_metric([x, y]),
    }
    rows = mdata[b].obs.reset_index().set_index("cell")["index"]
    if mdata[a].obs["cell"].isin(rows.index).all():
        where = mdata[b].obs_names.get_indexer(rows.loc[mdata[a].obs["cell"]])
        found["FOSCTTM"] = foscttm(x, y[where])
        found["untrained FOSCTTM"] = foscttm(u, v[where])
    return found


def own_share(z: np.ndarray, batch: np.ndarray, k: int = 15) -> float:
    """Share of near cells that are of a cell's own batch, the mean over batches."""
    near = nearest_neighbors(z.astype(np.float64), z.astype(np.float64), k + 1)[0][:, 1:]
    same = (batch[near] == batch[:, None]).mean(axis=1)
    return float(np.mean([same[batch == b].mean() for b in np.unique(batch)]))


def changed_half(real_data, change) -> tuple[mudata.MuData, np.ndarray]:
    """PBMC of which half of the cells have other proteins, and which half."""
    source = mudata.read_h5mu(real_data("pbmc5k_citeseq.h5mu"))
    rna, adt = source["rna"].copy(), source["adt"].copy()
    rng = np.random.default_rng(0)
    half = rng.random(adt.n_obs) < 0.5
    x = adt.X.toarray()
    x[half] = change(rng, x[half])
    adt.X = x.astype(np.float32)
    for part in (rna, adt):
        part.obs["batch"] = np.where(half, "changed", "as it was")
    mdata = unpaired({"rna": rna, "adt": adt})
    return mdata, (mdata["adt"].obs["batch"] == "changed").to_numpy()


def of_proteins(mdata: mudata.MuData, batch_key: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of proteins, and which of their labels RNA tells by 20 neighbours."""
    scvi.settings.seed = 0
    cantata.pp.link_features(mdata, "rna", "adt")
    SCMODAL.setup_mudata(mdata, batch_key=batch_key)
    model = SCMODAL(mdata)
    model.train(**QUIET)
    x, y = (model.get_latent_representation(modality=m) for m in ("rna", "adt"))
    own, other = (mdata[m].obs["cell_type"].to_numpy().astype(str) for m in ("rna", "adt"))
    return y, cantata.tl.knn_labels(x, own, y, k=VOTERS)["label"].to_numpy() == other


def check(found: dict[str, float], least: dict[str, float], most: dict[str, float]) -> None:
    text = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(text)
    assert found["20-NN"] >= found["untrained 20-NN"], text
    assert found["consistency"] >= (0.88 if found["links"] > 20 else 0.8), text
    assert found.get("FOSCTTM", 0) <= found.get("untrained FOSCTTM", 0), text
    assert all(found[name] >= value for name, value in least.items()), text
    assert all(found[name] <= value for name, value in most.items()), text


@pytest.mark.slow
def test_pairs_of_cells_find_each_other(real_data) -> None:
    """RNA and proteins of the same PBMC; without training .88, .93, .117 and 79."""
    source = mudata.read_h5mu(real_data("pbmc5k_citeseq.h5mu"))
    found = scores(unpaired({m: source[m] for m in ("rna", "adt")}))
    assert found["links"] == 24
    check(found, {"1-NN": 0.95, "20-NN": 0.97}, {"FOSCTTM": 0.07, "mixing": 30})


@pytest.mark.slow
def test_eleven_links_do_as_well(real_data) -> None:
    """The links of a panel of 14 proteins; without training .73, without refinement .89."""
    source = mudata.read_h5mu(real_data("pbmc5k_citeseq.h5mu"))
    panel = mudata.read_h5mu(real_data("pbmc10k_citeseq.h5mu"))["adt"].var_names
    mdata = unpaired({m: source[m] for m in ("rna", "adt")})
    links = cantata.pp.link_features(mdata, "rna", "adt").links
    found = scores(mdata, links=links[links["target"].isin(panel)])
    assert found["links"] == 11
    check(found, {"1-NN": 0.93, "20-NN": 0.955}, {"FOSCTTM": 0.10, "mixing": 30})


@pytest.mark.slow
def test_rna_and_cytometry_of_different_people(real_data) -> None:
    """PBMC; without training .907 and .778 back, .916 by 20 neighbours, mixing 102."""
    source = mudata.read_h5mu(real_data("pbmc5k_citeseq.h5mu"))
    cytof = anndata.read_h5ad(real_data("pbmc_cytof.h5ad"))
    mdata = unpaired({"rna": source["rna"], "cytof": cytof})
    found = scores(mdata, {"cytof": "arcsinh"})
    assert "FOSCTTM" not in found
    check(found, {"1-NN": 0.90, "1-NN back": 0.88, "20-NN": 0.94}, {"mixing": 30})


@pytest.mark.slow
def test_rna_and_proteins_of_two_mice(real_data) -> None:
    """Spleen and lymph node, 35 labels, unequal composition; without training .573 and .681."""
    files = {"rna": "spleen_lymph_rna_d2.h5ad", "adt": "spleen_lymph_adt_d1.h5ad"}
    mdata = unpaired({m: anndata.read_h5ad(real_data(file)) for m, file in files.items()})
    check(scores(mdata), {"1-NN": 0.60, "20-NN": 0.69}, {})


@pytest.mark.slow
def test_expression_and_chromatin_of_shallow_nuclei(real_data) -> None:
    """Mouse cortex; the plain linked features have .629 by 20 neighbours and FOSCTTM .185."""
    source = mudata.read_h5mu(real_data("snareseq_mouse_cortex_open.h5mu"))
    known = (source["rna"].obs["cell_type"] != "Mis").to_numpy()
    links = source.uns["gene_peak_links"]
    mdata = unpaired({m: source[m][known].copy() for m in ("rna", "atac")})
    check(scores(mdata, links=links), {"1-NN": 0.69, "20-NN": 0.74}, {"FOSCTTM": 0.11})


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "most", "least"), [(0.25, 0.65, 0.96), (0.02, 0.85, 0.84)])
def test_depth_of_proteins_does_not_matter(real_data, depth, most, least) -> None:
    """Half of the cells thinned; unscaled .86 and 1.00 of near cells are of the own half."""
    mdata, half = changed_half(real_data, lambda rng, x: rng.binomial(x.astype(int), depth))
    z, is_right = of_proteins(mdata, None)
    assert own_share(z, half) < most
    assert is_right[half].mean() > least
    assert is_right[~half].mean() > 0.97


@pytest.mark.slow
def test_a_registered_batch_is_taken_out(real_data) -> None:
    """One factor per protein on half of the cells; without batch_key .90 are of the own half."""
    factors = np.exp(np.random.default_rng(0).normal(0, 1, 29))
    mdata, half = changed_half(real_data, lambda rng, x: rng.poisson(x * factors))
    z, is_right = of_proteins(mdata, "batch")
    assert own_share(z, half) < 0.6
    assert is_right.mean() > 0.97


@pytest.mark.slow
def test_wrong_links_are_noticed(real_data) -> None:
    """Half of the links shuffled: .75 of the labels are right."""
    source = mudata.read_h5mu(real_data("pbmc5k_citeseq.h5mu"))
    mdata = unpaired({m: source[m] for m in ("rna", "adt")})
    links = cantata.pp.link_features(mdata, "rna", "adt").links[["source", "target"]]
    chosen = np.random.default_rng(1).choice(24, 12, replace=False)
    target = links["target"].to_numpy(dtype=object)
    target[chosen] = target[np.roll(chosen, 1)]
    cantata.pp.link_features(mdata, "rna", "adt", links.assign(target=target))
    scvi.settings.seed = 0
    SCMODAL.setup_mudata(mdata)
    with pytest.warns(UserWarning, match="agree in their linked features only"):
        SCMODAL(mdata).train(**QUIET)


@pytest.mark.parametrize("as_integers", [False, True])
@pytest.mark.parametrize("transform", ["auto", None])
def test_imputed_intensities_stay_in_the_range_of_measured_ones(
    real_data, as_integers: bool, transform: str | None
) -> None:
    source = mudata.read_h5mu(real_data("pbmc5k_citeseq.h5mu"))
    cytof = anndata.read_h5ad(real_data("pbmc_cytof.h5ad"))
    if as_integers:
        cytof.X = np.round(cytof.X)
    mdata = unpaired({"rna": source["rna"], "cytof": cytof})
    cantata.pp.link_features(mdata, "rna", "cytof", transforms={"cytof": "arcsinh"})
    SCMODAL.setup_mudata(mdata)
    model = SCMODAL(mdata, transforms={"cytof": transform}, n_hidden=64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train(max_steps=50, **QUIET)
    told = [w for w in caught if "'cytof' is taken as it is" in str(w.message)]
    assert len(told) == (transform is None)
    measured = mdata["cytof"].X
    for source_name in ("rna", "cytof"):
        imputed = model.impute("cytof", source=source_name).X
        assert (imputed >= measured.min(axis=0) - 1e-3).all()
        assert (imputed <= measured.max(axis=0) * (1 + 1e-4)).all()


@pytest.mark.parametrize("name", ["cytof", "cells"])
def test_intensities_below_zero(real_data, name: str) -> None:
    """Taken by arcsinh under a name of cytometry, and as they are with a warning under others."""
    adata = anndata.read_h5ad(real_data("cytof_bcrxl_small.h5ad"))
    assert adata.X.min() < -50
    layer = EncoderInput(adata.n_vars, "arcsinh" if name == "cytof" else "identity")
    stats = {name: matrix_stats(adata.X, adata.obs_names, adata.n_vars)}
    assert resolve_transforms("auto", {name: adata}, stats, None) == {name: layer.transform}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_input(name, layer, adata.X, adata.n_obs)
    assert len(caught) == (name == "cells")
