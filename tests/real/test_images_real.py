"""APOLLO on microscopy crops: a stain of held-out regions is predicted from chromatin."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import scvi
from image_mosaics import KEY, of_images

from cantata import APOLLO
from cantata.metrics import image_agreement

FILE, SIDE = "scportrait_dapi_488_mcherry_crops.npz", 48
HELD_OUT = 3
"""Regions that are not trained on, of those seen once."""


@pytest.fixture(scope="module")
def crops(real_data) -> tuple[mudata.MuData, mudata.MuData]:
    """Training cells and cells of other regions: chromatin and a membrane stain."""
    file = np.load(real_data(FILE))
    images = file["images"][:, :2].astype(np.float32)
    n, factor = len(images), images.shape[-1] // SIDE
    images = images.reshape(n, 2, SIDE, factor, SIDE, factor).mean(axis=(3, 5))
    low, high = (f(images, axis=(2, 3), keepdims=True) for f in (np.min, np.max))
    images = (images - low) / (high - low)
    region, time = file["region"], file["timepoint"]
    once = [r for r in np.unique(region) if len(set(time[region == r])) == 1]
    test = np.isin(region, once[:HELD_OUT])
    parts = []
    for rows in (np.flatnonzero(~test), np.flatnonzero(test)):
        cells = [f"cell{i}" for i in rows]
        mod = {
            name: of_images(images[rows, k : k + 1], [name], cells)
            for k, name in enumerate(("dapi", "membrane"))
        }
        for adata in mod.values():
            adata.obs["region"] = region[rows].astype(str)
        parts.append(mudata.MuData(mod))
    return parts[0], parts[1]


@pytest.mark.slow
def test_predicted_stain_beats_a_linear_filter(crops) -> None:
    """Ridge regression of pixels over all flips and turns reaches .58 on such regions."""
    train, test = crops
    scvi.settings.seed = 0
    APOLLO.setup_mudata(train)
    model = APOLLO(train, n_shared=64, n_specific=16)
    model.train(enable_progress_bar=False)
    real = test["membrane"]
    predicted = image_agreement(model.impute("membrane", test, source="dapi"), real)
    own = image_agreement(model.get_reconstruction("membrane", test), real)
    mean = train["membrane"].obsm[KEY].mean(axis=0)
    of_mean = image_agreement(np.broadcast_to(mean, real.obsm[KEY].shape), real.obsm[KEY])
    assert predicted["pearson"].mean() > 0.61
    assert predicted["pearson"].mean() > of_mean["pearson"].mean() + 0.15
    assert own["pearson"].mean() > 0.79
