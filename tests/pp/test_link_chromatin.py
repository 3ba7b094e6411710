from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse

from cantata import pp

N_GENES, N_PEAKS = 8, 20


def build(n_cells=60):
    rng = np.random.default_rng(4)
    parts = {}
    for name, n in (("rna", N_GENES), ("atac", N_PEAKS)):
        x = rng.poisson(rng.gamma(1.0, 1.0, (n_cells, n))).astype(np.float32)
        parts[name] = AnnData(sparse.csr_matrix(x))
        parts[name].obs_names = [f"{name}{i}" for i in range(n_cells)]
    parts["rna"].var_names = [f"Gene{j}" for j in range(N_GENES)]
    parts["atac"].var_names = [f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(N_PEAKS)]
    return mosaic(parts)


def table(mdata):
    rng = np.random.default_rng(1)
    pairs = [(g, p) for g in range(N_GENES - 1) for p in range(N_PEAKS) if rng.random() < 0.3]
    return pd.DataFrame(
        {
            "gene": [mdata["rna"].var_names[g] for g, _ in pairs],
            "peak": [mdata["atac"].var_names[p] for _, p in pairs],
            "weight": rng.random(len(pairs)) + 0.5,
        }
    )


@pytest.mark.parametrize("turned", [False, True])
def test_a_gene_is_compared_with_the_sum_of_its_peaks(turned):
    mdata = build()
    links = table(mdata)
    options = {"smooth": False, "shared": False, "transforms": None}
    pair = ("atac", "rna") if turned else ("rna", "atac")
    report = pp.link_features(mdata, *pair, links, **options)
    genes = sorted(set(links["gene"]))
    assert report.n_links == len(genes)
    assert set(report.unlinked["rna"]) == set(mdata["rna"].var_names) - set(genes)
    peaks = mdata["atac"].to_df()
    sums = np.column_stack(
        [
            sum(row.weight * peaks[row.peak] for row in links[links["gene"] == gene].itertuples())
            for gene in genes
        ]
    )
    for got, x in (
        (mdata["atac"].obsm["X_linked_rna"], sums),
        (mdata["rna"].obsm["X_linked_atac"], mdata["rna"].to_df()[genes].to_numpy()),
    ):
        np.testing.assert_allclose(got, (x - x.mean(axis=0)) / x.std(axis=0), atol=1e-4)
    # what is kept are the links of genes with peaks
    assert mdata.varp["links"].nnz == 2 * len(links)
    kept = pp.link_table(mdata, "rna", "atac")
    expected = links.rename(columns={"gene": "source", "peak": "target"})
    columns = ["source", "target", "weight"]
    pd.testing.assert_frame_equal(
        kept[columns].sort_values(columns, ignore_index=True),
        expected.sort_values(columns, ignore_index=True),
        check_dtype=False,
    )


def test_links_by_the_name_of_a_table():
    mdata = build()
    mdata.uns["peaks"] = table(mdata)
    assert pp.link_features(mdata, "rna", "atac", "peaks").n_links == N_GENES - 1
    with pytest.raises(KeyError, match="links='nil'"):
        pp.link_features(mdata, "rna", "atac", "nil")


def test_chromatin_is_smoothed_by_all_its_peaks():
    mdata = build(200)
    report = pp.link_features(mdata, "rna", "atac", table(mdata), smooth={"atac": True})
    assert report.smoothed == {"rna": False, "atac": True}
    assert np.isfinite(mdata["atac"].obsm["X_linked_rna"]).all()
