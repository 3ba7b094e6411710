"""Means along a component; what goes wrong is tested with the plot of them, tests/pl."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic

from cantata.tl import interpret_latent, latent_bins, latent_traversal
from cantata.tl._latent._latent_traversal import bin_means, trend_order


def test_means_and_numbers_of_cells_are_those_of_the_bins():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(600, 3)) * [3, 2, 1]
    rna = AnnData(rng.normal(size=(600, 4)), obsm={"X_z": latent})
    rna.X[:, 1] += latent[:, 0]
    rna.var_names = list("abcd")
    mdata = mosaic({"rna": rna})
    found = interpret_latent(mdata, "rna", use_rep="X_z", n_bins=7, n_splits=2, train_size=0.5)
    means, n_cells = latent_traversal(mdata, "rna", found, features=["d", "b"], scale=None)
    assert means.index.tolist() == ["d", "b"]
    assert means.columns.tolist() == n_cells.index.tolist() == list(range(-3, 4))
    for k in range(7):
        cells = (found.central["PC1"] & (found.bins["PC1"] == k)).to_numpy()
        assert n_cells[k - 3] == cells.sum()
        np.testing.assert_allclose(means[k - 3], rna.X[cells][:, [3, 1]].mean(axis=0))
    bins = latent_bins(mdata, "rna", found, component=1)
    assert bins.cat.categories.tolist() == list(range(-3, 4))
    assert bins.cat.ordered
    expected = found.bins["PC1"][found.central["PC1"]] - 3
    assert bins.astype(int).to_dict() == expected.to_dict()
    best, _ = latent_traversal(mdata, "rna", found, n_features=1)
    assert best.index.tolist() == ["b"]


@pytest.mark.parametrize("scale", ["cells", "bins"])
def test_scales(scale):
    rng = np.random.default_rng(0)
    bins = rng.integers(0, 4, 60)  # bin 4 has no cell
    table = pd.DataFrame({"a": bins + rng.normal(size=60), "b": rng.normal(size=60), "c": 2.0})
    matrix, counts = bin_means(table.to_numpy(), bins, 5, scale)
    assert counts.tolist() == np.bincount(bins, minlength=5).tolist()
    assert np.isnan(matrix[:, 4]).all()
    means = table.groupby(bins).mean()
    over = table if scale == "cells" else means
    expected = (means - over.mean()) / over.std(ddof=0).where(lambda sd: sd > 0, 1)
    np.testing.assert_allclose(matrix[:, :4].T, expected, atol=1e-12)
    assert (matrix[2, :4] == 0).all()


def test_trend_order():
    rows = np.array([[1, 2, 3], [3, 2, 1], [1, 1, 1], [0, 5, np.nan], [0, 0.1, 0.0]])
    assert trend_order(rows).tolist() == [1, 2, 4, 3, 0]
