"""Linked features of real data, before any model."""

from __future__ import annotations

import warnings

import anndata as ad
import mudata
import numpy as np
import pytest
from mosaics import mosaic

from cantata import metrics, pp


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.read_h5mu(path)


def transfer(mdata, reference, query):
    x, y = mdata[reference].obsm[f"X_linked_{query}"], mdata[query].obsm[f"X_linked_{reference}"]
    known, true = (mdata[name].obs["cell_type"].astype(str) for name in (reference, query))
    return metrics.label_transfer_accuracy(unit(x), known, unit(y), true, k=1)


@pytest.mark.slow
def test_proteins_and_genes_of_blood(real_data):
    mdata = read(real_data("pbmc5k_citeseq.h5mu"))
    published = pp.link_features(mdata, "rna", "adt", smooth=False, center=False, shared=False)
    assert published.n_links == 24
    assert published.unlinked["adt"] == ("CD3", "CD34", "CD45RA", "CD45RO", "CD274")
    assert published.agreement == pytest.approx(0.452, abs=0.01)
    assert abs(published.chance) < 0.02
    assert transfer(mdata, "adt", "rna") == pytest.approx(0.771, abs=0.01)
    report = pp.link_features(mdata, "rna", "adt")
    assert report.smoothed == {"rna": True, "adt": False}
    assert report.links["smoothed"].median() > 0.7
    assert transfer(mdata, "adt", "rna") > 0.91
    assert transfer(mdata, "rna", "adt") > 0.90
    x, y = mdata["rna"].obsm["X_linked_adt"], mdata["adt"].obsm["X_linked_rna"]
    assert metrics.foscttm(unit(x), unit(y)) < 0.085


def test_names_alone_link_what_the_column_links(real_data):
    mdata = read(real_data("pbmc5k_citeseq.h5mu"))
    by_column = pp.link_features(mdata, "rna", "adt", smooth=False).links
    del mdata["adt"].var["gene"]
    by_name = pp.link_features(mdata, "rna", "adt", smooth=False).links
    pairs = [set(zip(t["source"], t["target"], strict=True)) for t in (by_column, by_name)]
    # beyond the column, CD3 has its other two chains and CD8a, HLA-DR their partners if present
    assert pairs[0] <= pairs[1]
    assert len(pairs[1] - pairs[0]) <= 4


def test_lower_case_proteins_without_a_column(real_data):
    mdata = read(real_data("pbmc_mosaic_midas.h5mu"))
    report = pp.link_features(mdata, "rna", "adt", smooth=False)
    assert report.n_links >= 70
    assert report.agreement > 0.1 > 5 * abs(report.chance)
    assert report.n_paired == 800


def test_two_panels(real_data):
    adt = read(real_data("pbmc5k_citeseq.h5mu"))["adt"]
    cytof = ad.read_h5ad(real_data("pbmc_cytof.h5ad"))
    mdata = mosaic({"adt": adt, "cytof": cytof})
    report = pp.link_features(mdata, "adt", "cytof", transforms={"cytof": "arcsinh"})
    linked = set(zip(report.links["source"], report.links["target"], strict=True))
    assert ("CD274", "PD-L1") in linked
    assert ("CD45RA", "CD45RA") in linked
    assert ("CD45RA", "CD45RO") not in linked
    assert report.agreement is None


def test_mouse_panel(real_data):
    rna = ad.read_h5ad(real_data("spleen_lymph_rna_d2.h5ad"))
    adt = ad.read_h5ad(real_data("spleen_lymph_adt_d1.h5ad"))
    mdata = mosaic({"rna": rna, "adt": adt})
    report = pp.link_features(mdata, "rna", "adt", smooth=False)
    assert report.n_links == 101
    assert set(report.repeated["rna"]) == {"Ptprc", "Thy1"}
    del adt.var["gene"]
    by_name = pp.link_features(mdata, "rna", "adt", smooth=False)
    assert by_name.n_links >= 95
