"""simulate_images: layout, reproducibility, and factors that can be read from the images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cantata._mudata.images import image_layout
from cantata.datasets import simulate_images

KEY = "single_cell_images"
SHARED = ["size", "elongation", "orientation_cos", "orientation_sin"]
OWN = {
    "dna": ["dna_contrast", "dna_granularity"],
    "protein": ["protein_ring", "protein_side_x", "protein_side_y"],
}


@pytest.fixture(scope="module")
def clean():
    return simulate_images(600, noise=0.0, masks=True, seed=3)


def pixels(mdata, stain):
    return mdata[stain].obsm[KEY][:, -1].astype(np.float64)


def moments(images):
    """Second moments of intensities around their center, in pixels, y upwards."""
    weight = images / images.sum(axis=(1, 2), keepdims=True)
    grid = np.arange(images.shape[-1])
    x, y = np.meshgrid(grid, -grid)
    at = [(weight * v).sum(axis=(1, 2), keepdims=True) for v in (x, y)]
    x, y = x - at[0], y - at[1]
    return tuple((weight * v).sum(axis=(1, 2)) for v in (x * x, y * y, x * y))


def test_layout(clean):
    assert list(clean.mod) == ["dna", "protein"]
    assert clean.uns["factors"] == dict.fromkeys(SHARED, "shared") | {
        name: stain for stain, names in OWN.items() for name in names
    }
    for stain in clean.mod:
        adata = clean[stain]
        images = adata.obsm[KEY]
        assert images.shape == (600, 2, 32, 32)
        assert images.dtype == np.float16
        assert images.min() >= 0
        assert images.max() <= 1
        assert set(np.unique(images[:, 0])) == {0, 1}
        assert adata.X.dtype == np.float32
        np.testing.assert_allclose(adata.X, images.mean(axis=(2, 3), dtype=float), atol=1e-5)
        assert adata.var["channels"].tolist() == [f"{stain}_mask", stain]
        assert adata.var["channel_mapping"].tolist() == ["mask", "image_channel"]
        layout = image_layout(stain, adata, KEY)
        assert (layout.stains, layout.positions, layout.masks) == ((stain,), (1,), (0,))
        told = adata.uns[KEY]
        assert (told["n_cells"], told["n_masks"], told["n_channels"]) == (600, 1, 2)
    for holder in (clean, *clean.mod.values()):
        assert list(holder.obs) == ["phenotype", *SHARED, *OWN["dna"], *OWN["protein"]]
    for holder in clean.mod.values():
        pd.testing.assert_frame_equal(holder.obs, clean.obs.loc[holder.obs_names])


def test_the_same_cells_with_noise_masks_and_another_pairing():
    given = {"stains": ["dna", "a", "b"], "side": 16, "seed": 5}
    full = simulate_images(41, pairing="full", **given)
    again = simulate_images(41, pairing="full", **given)
    half = simulate_images(41, masks=True, **given)
    assert sorted(half[s].n_obs for s in ("a", "b")) == [20, 21]
    assert half["dna"].n_obs == 41
    assert not set(half["a"].obs_names) & set(half["b"].obs_names)
    for stain in full.mod:
        rows = full[stain].obs_names.get_indexer(half[stain].obs_names)
        np.testing.assert_array_equal(half[stain].obsm[KEY][:, 1], full[stain].obsm[KEY][rows, 0])
        np.testing.assert_array_equal(full[stain].obsm[KEY], again[stain].obsm[KEY])
    pd.testing.assert_frame_equal(full.obs, half.obs.loc[full.obs_names])
    other = simulate_images(41, **given | {"seed": 6})
    assert not np.allclose(other["dna"].obsm[KEY], half["dna"].obsm[KEY][:, 1:])
    assert not np.allclose(pixels(full, "a"), pixels(full, "b"), atol=0.1)


def test_noise_is_that_of_a_camera(clean):
    noisy = simulate_images(600, noise=0.1, seed=3)
    value, error = pixels(clean, "dna"), pixels(noisy, "dna") - pixels(clean, "dna")
    for low in (0.1, 0.3, 0.5):  # far from where values are clipped
        part = (value > low) & (value < low + 0.1)
        assert error[part].std() == pytest.approx(0.1 * np.sqrt(low + 0.05), rel=0.05)
        assert abs(error[part].mean()) < 0.003


@pytest.mark.parametrize("stain", ["dna", "protein"])
def test_shape_is_shared(clean, stain):
    obs = clean.obs
    images = clean[stain].obsm[KEY].astype(np.float64)
    area = images[:, 0].sum(axis=(1, 2))
    small = area < 0.5 * 32**2  # larger cells reach the border
    assert np.corrcoef(np.log(area[small]), obs["size"][small])[0, 1] > 0.97
    xx, yy, xy = moments(images[:, 0])
    axis = np.stack([xx - yy, 2 * xy], axis=1) / np.hypot(xx - yy, 2 * xy)[:, None]
    told = obs[["orientation_cos", "orientation_sin"]].to_numpy()
    assert np.median((axis * told).sum(axis=1)) > 0.99
    spread, mean = np.hypot(xx - yy, 2 * xy) / 2, (xx + yy) / 2
    ratio = np.sqrt((mean + spread) / (mean - spread))
    assert np.corrcoef(ratio[small], obs["elongation"][small])[0, 1] > 0.97
    # the stain itself lies where its mask is
    signal = np.clip(images[:, 1] - 0.05, 0, None)
    assert ((signal * images[:, 0]).sum(axis=(1, 2)) / signal.sum(axis=(1, 2))).min() > 0.7
    xx, yy, xy = moments(signal)
    axis = np.stack([xx - yy, 2 * xy], axis=1) / np.hypot(xx - yy, 2 * xy)[:, None]
    assert np.median((axis * told).sum(axis=1)) > 0.95


def test_private_factors_show_in_their_own_image_alone(clean):
    obs = clean.obs
    dna, protein = pixels(clean, "dna"), pixels(clean, "protein")
    center = dna[:, 15:17, 15:17].mean(axis=(1, 2))
    assert np.corrcoef(center, obs["dna_contrast"])[0, 1] < -0.95
    assert np.corrcoef(dna.max(axis=(1, 2)), obs["dna_granularity"])[0, 1] > 0.9
    grid = np.arange(32) - 15.5
    weight = protein - 0.04
    total = weight.sum(axis=(1, 2))
    for name, at in (("x", grid), ("y", -grid[:, None])):
        center = (weight * at).sum(axis=(1, 2)) / total / np.exp(0.16 * obs["size"])
        assert np.corrcoef(center, obs[f"protein_side_{name}"])[0, 1] > 0.85
        assert np.abs((dna * at).sum(axis=(1, 2))).max() < 0.1  # chromatin has no pole
    # rings concentrate the protein on few pixels of the cell
    share = (weight**2).sum(axis=(1, 2)) * clean["protein"].obsm[KEY][:, 0].sum((1, 2)) / total**2
    assert np.corrcoef(share, obs["protein_ring"])[0, 1] > 0.8
    factors = obs[SHARED + OWN["dna"] + OWN["protein"]]
    off = factors.corr().to_numpy()[~np.eye(factors.shape[1], dtype=bool)]
    assert np.abs(off).max() < 0.15


def test_phenotype_shifts_one_shared_and_one_private_factor():
    obs = simulate_images(4000, side=8).obs
    assert obs["phenotype"].value_counts().nunique() == 1
    large, ring = (obs["phenotype"].str.contains(name) for name in ("large", "ring"))
    normal = {"size": large, "protein_ring": ring}
    for name, shifted in normal.items():
        values = obs[name] if name == "size" else obs[name].rank()
        own, other = (
            values[s].mean() - values[~s].mean()
            for s in (shifted, ring if shifted is large else large)
        )
        assert own > values.std()
        assert abs(other) < 0.1 * values.std()
    # two standard deviations of a phenotype's cells
    within = obs["size"].groupby(large).std().mean()
    assert np.diff(obs["size"].groupby(large).mean())[0] == pytest.approx(2 * within, rel=0.05)
    assert obs["size"].std() == pytest.approx(1, rel=0.05)
    flat = simulate_images(4000, side=8, phenotype_effect=0).obs
    assert abs(flat["size"].groupby(flat["phenotype"] == "large").mean().diff().iloc[1]) < 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_cells": 1}, "n_cells=1: give an integer of at least 2"),
        ({"side": 4}, "side=4"),
        ({"seed": -1}, "seed=-1"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"phenotype_effect": np.nan}, "phenotype_effect=nan"),
        ({"stains": ["dna"]}, "two or more distinct names"),
        ({"stains": ["dna", "dna"]}, "two or more distinct names"),
        ({"stains": "dna"}, "two or more distinct names"),
        ({"pairing": "nope"}, "pairing='nope'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_images(**{"n_cells": 10, **arguments})
