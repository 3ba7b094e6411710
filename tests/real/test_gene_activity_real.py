"""Gene activity of the SNARE-seq cortex through the table of links that comes with it."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd

from cantata import pp


def correlations(x, y) -> np.ndarray:
    """Pearson correlation of each column of two sparse matrices."""
    n, moments = x.shape[0], []
    for matrix in (x, y):
        mean = np.asarray(matrix.mean(axis=0)).ravel()
        square = np.asarray(matrix.multiply(matrix).mean(axis=0)).ravel()
        moments.append((mean, np.sqrt(square - mean**2)))
    cross = np.asarray(x.multiply(y).sum(axis=0)).ravel() / n
    with np.errstate(invalid="ignore", divide="ignore"):
        return (cross - moments[0][0] * moments[1][0]) / (moments[0][1] * moments[1][1])


def test_equals_a_group_sum(real_data) -> None:
    mdata = mudata.read_h5mu(real_data("snareseq_mouse_cortex_open.h5mu"))
    table = mdata.uns["gene_peak_links"]
    pp.gene_activity(mdata, links="gene_peak_links")
    activity = mdata["activity"]
    assert activity.shape == (6836, 1674)
    assert list(activity.obs_names) == list(mdata["atac"].obs_names)
    gene = pd.Series(table["gene"].to_numpy(), index=table["peak"].astype(str))
    sample = np.arange(0, 6836, 97)
    counts = pd.DataFrame(mdata["atac"].X[sample].toarray().T, index=mdata["atac"].var_names)
    expected = counts.groupby(gene.reindex(counts.index).to_numpy()).sum()
    found = activity.X[sample].toarray()
    np.testing.assert_array_equal(found, expected.loc[activity.var_names].to_numpy().T)


def test_activity_follows_expression_of_the_same_cells(real_data) -> None:
    mdata = mudata.read_h5mu(real_data("snareseq_mouse_cortex_open.h5mu"))
    activity = pp.gene_activity(mdata, links="gene_peak_links", key_added=None)
    rna = mdata["rna"][:, activity.var_names].X
    assert list(mdata["rna"].obs_names) == list(activity.obs_names)
    shuffled = np.random.default_rng(0).permutation(activity.n_obs)
    assert np.nanmedian(correlations(rna, activity.X)) > 0.012
    assert abs(np.nanmedian(correlations(rna, activity.X[shuffled]))) < 0.005


def test_names_of_peaks_agree_with_their_columns(real_data) -> None:
    mdata = mudata.read_h5mu(real_data("snareseq_mouse_cortex_open.h5mu"))
    table = mdata.uns["gene_peak_links"]
    gene = table["gene"].value_counts().index[0]
    peaks = mdata["atac"].var.loc[table["peak"][table["gene"] == gene]]
    span = pd.DataFrame(
        {
            "gene": [gene],
            "chrom": [str(peaks["chrom"].iloc[0])],
            "start": [int(peaks["chromStart"].min())],
            "end": [int(peaks["chromEnd"].max())],
            "strand": ["+"],
        }
    )
    links = pp.peak_gene_links(mdata, annotation=span, upstream=0)
    assert set(peaks.index) <= set(links["target"])
    assert set(links["source"]) == {gene}
