"""SCMODAL on real data, with its defaults.

Every score is transductive: all cells are trained on, labels and pairs never. The last step is
scored.
"""

from __future__ import annotations

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
from cantata.metrics import foscttm, label_transfer_accuracy, mixing_metric

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


def check(found: dict[str, float], least: dict[str, float], most: dict[str, float]) -> None:
    text = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(text)
    assert found["20-NN"] >= found["untrained 20-NN"], text
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
