from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from cantata import pp
from cantata._keys import IMAGES

SIDE = 64


def ellipse(a: float, b: float, angle: float = 0.0, centre: tuple[float, float] = (32, 32)):
    """Pixels of an ellipse with the semi-axes a and b."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    y, x = y - centre[0], x - centre[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def cells(images: np.ndarray, names: list[str], masks: int = 0) -> AnnData:
    adata = AnnData(np.ones((len(images), len(names)), dtype=np.float32))
    adata.var_names = names
    kinds = np.array(["image_channel"] * len(names), dtype=object)
    kinds[:masks] = "mask"
    adata.var["channel_mapping"] = kinds
    adata.obsm[IMAGES] = images
    adata.obs["region"] = "a"
    adata.obsm["spatial"] = np.zeros((len(images), 2))
    return adata


@pytest.mark.parametrize("masked", [False, True])
def test_shapes_of_ellipses_are_those_of_geometry(masked):
    axes = [(20, 20), (24, 12), (24, 12), (9, 6)]
    shapes = np.array([ellipse(a, b, 0.4 * i) for i, (a, b) in enumerate(axes)])
    images = 0.5 * shapes[:, None].astype(np.float32) + 0.01
    if masked:
        images = np.concatenate([shapes[:, None], np.full_like(images, 0.3)], axis=1)
    adata = cells(images, ["nucleus", "DAPI"][1 - masked :], masks=masked)
    table = pp.image_features(adata)
    name = "nucleus" if masked else "DAPI"
    found = table.to_df()
    a, b = np.array(axes).T
    np.testing.assert_allclose(found[f"{name}_area"], np.pi * a * b, rtol=0.02)
    eccentricity = np.sqrt(1 - (b / a) ** 2)
    np.testing.assert_allclose(found[f"{name}_eccentricity"][1:], eccentricity[1:], atol=0.01)
    assert found[f"{name}_eccentricity"].iloc[0] < 0.05
    np.testing.assert_allclose(found[f"{name}_axis_major_length"], 2 * a, rtol=0.03)
    np.testing.assert_allclose(found[f"{name}_axis_minor_length"], 2 * b, rtol=0.03)
    around = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))  # Ramanujan
    np.testing.assert_allclose(found[f"{name}_perimeter"], around, rtol=0.05)
    assert (found[f"{name}_solidity"] > 0.95).all()
    assert ("DAPI_area" in found) != masked
    assert list(table.obs["region"]) == ["a"] * 4
    assert set(table.obsm) == {"spatial"}
    assert set(table.var.columns) == {"channel", "feature"}
    assert np.isfinite(table.X).all()


def test_intensities_are_of_the_object_alone():
    rng = np.random.default_rng(0)
    mask = ellipse(20, 12)
    image = rng.random((SIDE, SIDE)).astype(np.float32)
    table = pp.image_features(cells(np.stack([mask, image])[None], ["m", "s"], masks=1)).to_df()
    pixels = image[mask]
    expected = [pixels.mean(), pixels.std(), pixels.max(), *np.quantile(pixels, [0.1, 0.5, 0.9])]
    names = [f"s_{f}" for f in ("mean", "sd", "max", "q10", "q50", "q90")]
    np.testing.assert_allclose(table[names].to_numpy()[0], expected, rtol=1e-5)
    other = image.copy()
    other[~mask] = 0.9
    again = pp.image_features(cells(np.stack([mask, other])[None], ["m", "s"], masks=1)).to_df()
    np.testing.assert_array_equal(table, again)


def test_texture_is_that_of_pairs_in_the_object():
    mask = ellipse(14, 9, 0.3)
    image = np.random.default_rng(1).random((SIDE, SIDE)).astype(np.float32)
    levels = np.minimum(image * 16, 15).astype(int)
    pairs = []
    for y, x in np.argwhere(mask):
        for dy, dx in ((0, 1), (-1, 1), (-1, 0), (-1, -1)):
            if mask[y + dy, x + dx]:
                pairs += [(levels[y, x], levels[y + dy, x + dx])]
    i, j = np.array(pairs + [p[::-1] for p in pairs]).T
    table = pp.image_features(cells(np.stack([mask, image])[None], ["m", "s"], masks=1)).to_df()
    assert table["s_contrast"].iloc[0] == pytest.approx(((i - j) ** 2).mean(), rel=1e-5)
    assert table["s_homogeneity"].iloc[0] == pytest.approx(
        (1 / (1 + (i - j) ** 2)).mean(), rel=1e-5
    )
    assert table["s_correlation"].iloc[0] == pytest.approx(np.corrcoef(i, j)[0, 1], abs=1e-5)


def test_rings_tell_a_shell_from_a_core():
    mask = ellipse(20, 20)
    depth = 1 - np.hypot(*(np.mgrid[:SIDE, :SIDE] - 32)) / 20
    shell, core = mask * (depth < 0.2) * 0.8 + 0.1, mask * (depth > 0.8) * 0.8 + 0.1
    images = np.stack([np.stack([mask, image]) for image in (shell, core, mask * 0.5)])
    table = pp.image_features(cells(images.astype(np.float32), ["m", "s"], masks=1)).to_df()
    rings = table[[f"s_ring{i}" for i in range(1, 5)]].to_numpy()
    assert rings[0].argmax() == 0
    assert rings[1].argmax() == 3
    np.testing.assert_allclose(rings[2], 1, rtol=1e-5)


def test_otsu_takes_the_object_in_the_middle():
    neighbour, cell = ellipse(14, 14, centre=(6, 6)), ellipse(7, 5, centre=(36, 36))
    image = (0.6 * neighbour + 0.5 * cell).astype(np.float32)[None, None]
    table = pp.image_features(cells(image, ["s"])).to_df()
    assert table["s_area"].iloc[0] == cell.sum()
    assert table["s_max"].iloc[0] == 0.5


def test_stains_are_chosen_and_integers_are_scaled():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60_000, (6, 3, SIDE, SIDE)).astype(np.uint16)
    images[:, 0] = ellipse(20, 12)
    adata = cells(images, ["m", "s", "t"], masks=1)
    every, one = pp.image_features(adata), pp.image_features(adata, stains=["t"])
    assert set(every.var["channel"]) == {"m", "s", "t"}
    assert set(one.var["channel"]) == {"m", "t"}
    np.testing.assert_array_equal(every[:, one.var_names].X, one.X)
    assert every[:, "s_max"].X.max() <= 1
    np.testing.assert_allclose(every[:, "s_mean"].X, 0.5, atol=0.05)
    with pytest.raises(KeyError, match=r"\['m'\] not among \['s', 't'\]"):
        pp.image_features(adata, stains="m")


def test_more_cells_than_a_block_stay_in_order_also_on_disk(tmp_path):
    sizes = np.random.default_rng(0).integers(3, 7, 300)
    images = np.zeros((300, 2, 16, 16), dtype=np.float16)
    for image, size in zip(images, sizes, strict=True):
        image[:, 8 - size : 8 + size, 8 - size : 8 + size] = 1
    adata = cells(images, ["m", "s"], masks=1)
    adata.write_h5ad(tmp_path / "a.h5ad")
    for source in (adata, pp.read_h5sc(tmp_path / "a.h5ad")):
        table = pp.image_features(source)
        np.testing.assert_array_equal(table[:, "m_area"].X[:, 0], 4 * sizes**2)


def test_images_without_an_object_are_counted():
    images = np.zeros((3, 1, SIDE, SIDE), dtype=np.float32)
    images[1, 0] = ellipse(9, 9)
    images[2, 0, 30:32, 30:32] = 1
    with pytest.warns(UserWarning, match="2 of 3 cells have an image without an object.*'0'"):
        table = pp.image_features(cells(images, ["s"]))
    assert not table.X[[0, 2]].any()
    assert (table[1, "s_area"].X > 200).all()
