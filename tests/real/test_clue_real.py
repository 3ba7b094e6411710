"""CLUE on real data; each test says what training saw of the cells that are scored."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import scanpy as sc
import scvi
from anndata import AnnData
from mosaics import mosaic
from sklearn.metrics import normalized_mutual_info_score

import cantata
from cantata import CLUE
from cantata.metrics import foscttm, label_transfer_accuracy, matching_score

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def transfer(z: np.ndarray, labels: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    return label_transfer_accuracy(z[source], labels[source], z[target], labels[target], k=15)


def test_mosaic_file_trains_with_its_own_order_and_one_modality_batches(real_data) -> None:
    mdata = mudata.read_h5mu(real_data("pbmc_mosaic_midas.h5mu"))
    orders = [list(mdata[m].obs_names) for m in mdata.mod]
    CLUE.setup_mudata(mdata, batch_key="batch")
    clue = CLUE(mdata)
    clue.train(1, **QUIET)
    joint = clue.get_latent_representation()
    assert joint.shape == (1600, 40)
    assert np.isfinite(joint).all()
    assert [list(mdata[m].obs_names) for m in mdata.mod] == orders
    proteins = clue.impute("adt", source="rna")
    assert proteins.shape == (1200, 224)
    assert np.isfinite(proteins.X).all()


def test_report_of_the_mosaic(real_data) -> None:
    mdata = mudata.read_h5mu(real_data("pbmc_mosaic_midas.h5mu"))
    report = cantata.pp.pairing_report(mdata, batch_key="batch")
    assert report.model == "CLUE"
    assert report.counts.to_numpy().sum() == 1600


def test_peaks_without_counts_are_a_warning(real_data) -> None:
    mdata = mudata.read_h5mu(real_data("snareseq_mouse_cortex_open.h5mu"))
    mdata = cantata.pp.drop_empty(mdata)
    CLUE.setup_mudata(mdata)
    with pytest.warns(UserWarning, match="'atac': 1623 of 25734 features have no count"):
        CLUE(mdata)


def test_negative_intensities_are_refused_by_count_models(real_data) -> None:
    cytof = sc.read_h5ad(real_data("cytof_bcrxl_small.h5ad"))
    mdata = mosaic({"cytof": cytof})
    CLUE.setup_mudata(mdata)
    with pytest.raises(ValueError, match=r"'cytof' has \d+ negative values"):
        CLUE(mdata)
    cytof.X = np.arcsinh(np.asarray(cytof.X) / 5)
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, likelihoods="normal", n_latent=5)
    clue.train(1, **QUIET)
    assert np.isfinite(clue.get_latent_representation()).all()


@pytest.mark.slow
def test_mosaic_scores_mean_of_five_seeds(real_data) -> None:
    """Transductive: all cells are trained on; labels are not. Peer MIDAS: .897, .858, .678."""
    mdata = mudata.read_h5mu(real_data("pbmc_mosaic_midas.h5mu"))
    labels = mdata.obs["celltype"].astype(str).to_numpy()
    batch = mdata.obs["batch"].astype(str).to_numpy()
    rna, adt = batch == "p1_0", batch == "p2_0"
    scores = []
    for seed in range(5):
        scvi.settings.seed = seed
        CLUE.setup_mudata(mdata, batch_key="batch")
        clue = CLUE(mdata)
        clue.train(**QUIET)
        z = clue.get_latent_representation()
        shell = AnnData(obs=mdata.obs[["celltype"]], obsm={"z": z})
        sc.pp.neighbors(shell, use_rep="z")
        sc.tl.leiden(shell, flavor="igraph", n_iterations=2, random_state=0)
        nmi = normalized_mutual_info_score(labels, shell.obs["leiden"])
        scores.append([transfer(z, labels, rna, adt), transfer(z, labels, adt, rna), nmi])
    forth, back, nmi = np.mean(scores, axis=0)
    assert forth >= 0.90
    assert back >= 0.87
    assert nmi >= 0.72


def halves(mdata: mudata.MuData, seed: int) -> tuple[mudata.MuData, np.ndarray]:
    """A fifth of the cells become two unpaired cells each; rows keep their order."""
    held = np.zeros(mdata.n_obs, dtype=bool)
    held[np.random.default_rng(seed).permutation(mdata.n_obs)[: mdata.n_obs // 5]] = True
    parts = {}
    for name in mdata.mod:
        parts[name] = mdata[name].copy()
        names = parts[name].obs_names.to_numpy().astype(object)
        parts[name].obs_names = np.where(held, names + f"_{name}", names)
    return mosaic(parts), held


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "limits"),
    [
        ("pbmc5k_citeseq.h5mu", {"transductive": (0.047, 0.058), "inductive": (0.050, 0.050)}),
        ("snareseq_mouse_cortex_open.h5mu", {"transductive": (0.100, 0.015)}),
    ],
)
def test_unpaired_halves_find_each_other(real_data, file: str, limits: dict) -> None:
    mdata = mudata.read_h5mu(real_data(file))
    if "atac" in mdata.mod:
        mdata = mdata[mdata.obs["cell_type"].astype(str) != "Mis"].copy()
        totals = np.asarray(mdata["atac"].X.sum(axis=0)).ravel()
        peaks = np.sort(np.argsort(-totals)[:10_000])
        filled = np.asarray(mdata["atac"].X[:, peaks].sum(axis=1)).ravel() > 0
        parts = {"rna": mdata["rna"][filled].copy(), "atac": mdata["atac"][filled, peaks].copy()}
        mdata = mosaic(parts)
    split, held = halves(mdata, 0)
    kept = mosaic({m: mdata[m][~held].copy() for m in mdata.mod})
    for setting, (largest, least) in limits.items():
        CLUE.setup_mudata(split if setting == "transductive" else kept)
        clue = CLUE(split if setting == "transductive" else kept)
        clue.train(**QUIET)
        x, y = (clue.get_latent_representation(split, modality=m)[held] for m in mdata.mod)
        assert foscttm(x, y) <= largest
        assert matching_score(x, y) >= least
