"""Images of cells: which channels are stains, how they are scaled and read, what is refused."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from image_mosaics import KEY, blobs, of_images

from cantata._mudata.images import (
    StainImages,
    check_chunks,
    check_images,
    image_layout,
    image_stats,
    stain_limits,
)

NAMES = ["nucleus", "DAPI", "actin"]
KINDS = ["mask", "image_channel", "image_channel"]


@pytest.fixture
def images() -> np.ndarray:
    """Six cells: a mask and two stains of 16 pixels."""
    rng = np.random.default_rng(0)
    images = rng.random((6, 3, 16, 16), dtype=np.float32)
    images[:, 0] = images[:, 0] > 0.5
    return images


def whole(images: np.ndarray) -> Any:
    adata = of_images(images, NAMES)
    adata.var["channel_mapping"] = KINDS
    return adata


def test_masks_are_no_stains(images: np.ndarray) -> None:
    layout = image_layout("img", whole(images), KEY)
    assert (layout.stains, layout.positions, layout.masks, layout.side) == (
        ("DAPI", "actin"),
        (1, 2),
        (0,),
        16,
    )


def test_names_as_scportrait_writes_them(images: np.ndarray) -> None:
    adata = whole(images)
    adata.var["channels"], adata.var_names = NAMES, ["0", "1", "2"]
    assert image_layout("img", adata, KEY).stains == ("DAPI", "actin")


@pytest.mark.parametrize("nested", [True, False])
def test_some_of_the_channels(images: np.ndarray, nested: bool) -> None:
    adata = whole(images)[:, ["actin"]].copy()
    named = {"channel_names": NAMES, "channel_mapping": KINDS}
    adata.uns = {KEY: named} if nested else {f"{KEY}/{k}": v for k, v in named.items()}
    layout = image_layout("img", adata, KEY)
    assert (layout.stains, layout.positions, layout.masks) == (("actin",), (2,), (0,))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.obsm.pop(KEY), KeyError, "images={'img': 'single_cell_images'}"),
        (lambda a: a.obsm.update({KEY: a.obsm[KEY][:, 0]}), ValueError, r"images\[:, None\]"),
        (
            lambda a: a.obsm.update({KEY: a.obsm[KEY][..., :12, :12]}),
            ValueError,
            r"pad_images.*16",
        ),
        (lambda a: a.obsm.update({KEY: a.obsm[KEY][..., :12]}), ValueError, "16 x 12 pixels"),
        (lambda a: a.obsm.update({KEY: a.obsm[KEY][:, :2]}), ValueError, "2 channels.*3 rows"),
        (lambda a: a.var.__setitem__("channels", ["x", "x", "y"]), ValueError, "occurs twice"),
        (lambda a: a.var.__setitem__("channel_mapping", "mask"), ValueError, "has no stain"),
    ],
)
def test_what_is_no_image(images: np.ndarray, change: Any, error: Any, message: str) -> None:
    adata = whole(images)
    adata.var["channels"] = NAMES
    change(adata)
    with pytest.raises(error, match=message):
        image_layout("img", adata, KEY)


@pytest.mark.parametrize("storage", ["memory", "h5", "zarr", "float16"])
def test_images_are_read_alike_however_they_are_stored(
    images: np.ndarray, storage: str, tmp_path: Any
) -> None:
    array: Any = images
    if storage == "h5":
        array = h5py.File(tmp_path / "a.h5", "w").create_dataset("x", data=images)
        array.file.flush()
    elif storage == "zarr":
        array = zarr.create_array(str(tmp_path / "a.zarr"), data=images)
    elif storage == "float16":
        array = images = images.astype(np.float16)
    layout = image_layout("img", whole(images), KEY)
    read = StainImages(array, layout)
    rows = np.array([4, 0, 4, 2])
    assert read[rows].dtype == np.float32
    np.testing.assert_array_equal(read[rows], images[rows][:, 1:].astype(np.float32))
    np.testing.assert_array_equal(read[1:3], images[1:3, 1:].astype(np.float32))
    assert read[np.array([], dtype=np.int64)].shape == (0, 2, 16, 16)
    if storage != "zarr":
        again = pickle.loads(pickle.dumps(read))
        np.testing.assert_array_equal(again[rows], read[rows])


def test_masks_cut_the_background_off(images: np.ndarray) -> None:
    layout = image_layout("img", whole(images), KEY)
    read = StainImages(images, layout, mask_background=True)[:]
    np.testing.assert_array_equal(read, images[:, 1:] * images[:, :1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_scaled_by_the_range_of_each_stain(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    rng = np.random.default_rng(1)
    images = rng.integers(0, top // 2, (50, 3, 16, 16)).astype(dtype)
    images[:, 2] //= 10
    layout = image_layout("img", whole(images), KEY)
    limits = stain_limits(images, layout)
    assert limits is not None
    expected = np.percentile(images.swapaxes(0, 1)[1:].reshape(2, -1), [0.5, 99.9], axis=1).T
    np.testing.assert_allclose(limits, expected)
    scaled = StainImages(images, layout, limits)[:]
    assert scaled.min() == 0
    assert scaled.max() == 1
    assert abs(scaled[:, 0].mean() - scaled[:, 1].mean()) < 0.02
    assert stain_limits(images.astype(np.float32) / top, layout) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "1 NaN or infinite pixels, e.g. in cell 'c3'"),
        (1.5, r"1 pixels outside \[0, 1\], e.g. in cell 'c3'"),
        (-0.1, r"1 pixels outside \[0, 1\], e.g. in cell 'c3'"),
    ],
)
def test_pixels_that_are_no_intensities(images: np.ndarray, value: float, message: str) -> None:
    images[3, 1, 2, 5] = value
    layout = image_layout("img", whole(images), KEY)
    stats = image_stats(StainImages(images, layout), whole(images).obs_names)
    with pytest.raises(ValueError, match=message):
        check_images("img", stats)


def test_a_stain_that_is_black_throughout(images: np.ndarray) -> None:
    images[[1, 4], 2] = 0
    layout = image_layout("img", whole(images), KEY)
    stats = image_stats(StainImages(images, layout), whole(images).obs_names)
    with pytest.raises(ValueError, match=r"2 cells have a stain that is 0.*'c1'"):
        check_images("img", stats)


@pytest.mark.parametrize(("size", "warns"), [(40, True), (1, False)])
def test_chunks_of_many_cells_are_warned_of(tmp_path, size: int, warns: bool) -> None:
    group = zarr.open_group(tmp_path / "images.zarr", mode="w")
    shape = (1200, 1, 16, 16)
    array = group.create_array("a", shape=shape, chunks=(size, 1, 16, 16), dtype="u1")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        check_chunks("dna", array)
        check_chunks("dna", array[:])
    assert [
        str(w.message).startswith("Images of modality 'dna' are stored in chunks of 40")
        for w in found
    ] == [True] * warns


def test_blobs_are_images() -> None:
    first, second, _ = blobs(4)
    assert first.shape == second.shape == (4, 1, 32, 32)
