from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import xarray as xr

from cantata import APOLLO, pp
from cantata._keys import IMAGES
from cantata._mudata.images import image_layout

SIDE = 16
BOXES = {
    3: (10, 20, 6, 9),  # top, left, height, width
    7: (0, 40, 7, 7),  # touches the border
    9: (3, 3, 8, 5),  # complete, but its crop leaves the field
    12: (30, 25, 5, 5),
    4: (46, 48, 8, 8),  # its crop leaves the field on the other side
    15: (50, 10, 6, 5),  # touches the border there
}


def field() -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros((56, 60), dtype=np.int32)
    for number, (top, left, height, width) in BOXES.items():
        labels[top : top + height, left : left + width] = number
    rng = np.random.default_rng(0)
    return rng.integers(1, 4000, (2, *labels.shape), dtype=np.uint16), labels


def by_loop(image: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """Mask and channels of a cell, pixel by pixel."""
    where = np.argwhere(labels == number)
    top, left = (int(np.rint(c)) - SIDE // 2 for c in where.mean(axis=0))
    crop = np.zeros((1 + len(image), SIDE, SIDE), dtype=image.dtype)
    for i in range(SIDE):
        for j in range(SIDE):
            y, x = top + i, left + j
            if 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]:
                crop[0, i, j] = labels[y, x] == number
                crop[1:, i, j] = image[:, y, x]
    return crop


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ({}, [3, 4, 9, 12]),
        ({"drop_border": False}, [3, 4, 7, 9, 12, 15]),
        ({"pad": False}, [3, 12]),
        ({"pad": False, "drop_border": False}, [3, 12]),
    ],
)
def test_crops_are_those_of_a_loop(arguments, kept):
    image, labels = field()
    adata = pp.crop_cells(image, labels, SIDE, channels=["DAPI", "488"], **arguments)
    assert adata.obs["label"].tolist() == kept
    assert list(adata.obs_names) == [str(number) for number in kept]
    assert adata.obsm[IMAGES].dtype == np.uint16
    for crop, number in zip(adata.obsm[IMAGES], kept, strict=True):
        np.testing.assert_array_equal(crop, by_loop(image, labels, number))
    assert adata.obs["area"].tolist() == [BOXES[n][2] * BOXES[n][3] for n in kept]
    centres = [(b[1] + (b[3] - 1) / 2, b[0] + (b[2] - 1) / 2) for b in map(BOXES.get, kept)]
    np.testing.assert_allclose(adata.obsm["spatial"], centres)
    np.testing.assert_allclose(adata.X, adata.obsm[IMAGES].mean(axis=(2, 3)), rtol=1e-5)
    layout = image_layout("img", adata, IMAGES)
    assert (layout.stains, layout.masks) == (("DAPI", "488"), (0,))


def test_cells_left_out_are_counted(caplog):
    with caplog.at_level(logging.INFO, logger="cantata"):
        pp.crop_cells(*field(), SIDE)
    assert "2 of 6 cells are left out" in caplog.text


def test_a_model_takes_the_crops(tmp_path):
    adata = pp.crop_cells(*field(), SIDE)
    mdata = pp.split_stains(adata)
    APOLLO.setup_mudata(mdata, mask_background=True)
    adata.write_h5ad(tmp_path / "crops.h5ad")
    again = pp.read_h5sc(tmp_path / "crops.h5ad")
    np.testing.assert_array_equal(again.obsm[IMAGES][:], adata.obsm[IMAGES])


def test_one_channel_without_mask_of_other_dtypes():
    image, labels = field()
    for dtype in (bool, np.uint8, np.float32):
        adata = pp.crop_cells(image[0].astype(dtype), labels, SIDE, mask=False)
        assert list(adata.var_names) == ["channel0"]
        assert adata.obsm[IMAGES].dtype == (np.uint8 if dtype is bool else dtype)
        np.testing.assert_array_equal(
            adata.obsm[IMAGES][0, 0], by_loop(image[:1].astype(dtype), labels, 3)[1]
        )


def test_files_and_elements_are_read(tmp_path):
    image, labels = field()
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    expected = pp.crop_cells(image, labels, SIDE).obsm[IMAGES]
    found = pp.crop_cells(tmp_path / "image.tif", str(tmp_path / "labels.tif"), SIDE)
    np.testing.assert_array_equal(found.obsm[IMAGES], expected)

    array = xr.DataArray(image, dims=("c", "y", "x"), coords={"c": ["DAPI", "488"]})
    scales = {f"scale{i}": xr.Dataset({"image": array[:, :: i + 1]}) for i in range(2)}
    sdata = SimpleNamespace(
        images={"one": array, "tree": xr.DataTree.from_dict(scales)},
        labels={"cells": xr.DataArray(labels, dims=("y", "x"))},
    )
    for name in sdata.images:
        found = pp.crop_cells(name, "cells", SIDE, sdata=sdata)
        np.testing.assert_array_equal(found.obsm[IMAGES], expected)
        assert list(found.var_names) == ["mask", "DAPI", "488"]
    with pytest.raises(KeyError, match=r"sdata\.images has \['one', 'tree'\]"):
        pp.crop_cells("two", "cells", SIDE, sdata=sdata)


def test_cells_larger_than_their_crops_are_told():
    with pytest.warns(UserWarning, match="3 of 4 cells do not fit into crops of 6 pixels.*cell 3"):
        pp.crop_cells(*field(), 6)


@pytest.mark.parametrize(
    ("change", "arguments", "error", "text"),
    [
        (lambda i, m: (i[:, :-1], m), {}, ValueError, r"\(2, 55, 60\) and labels \(56, 60\)"),
        (lambda i, m: (i, m.astype(float)), {}, TypeError, "labels hold float64"),
        (lambda i, m: (i, m * 0), {}, ValueError, "None of 0 cells"),
        (lambda i, m: (i, m), {"channels": ["DAPI"]}, ValueError, "names 1 channels"),
        (lambda i, m: (i, m), {"channels": ["DAPI", "DAPI"]}, ValueError, "twice"),
        (lambda i, m: (i, m), {"channels": ["mask", "DAPI"]}, ValueError, "twice"),
        (lambda i, m: (i, m), {"side": 0}, ValueError, "side"),
    ],
)
def test_bad_fields(change, arguments, error, text):
    with pytest.raises(error, match=text):
        pp.crop_cells(*change(*field()), **({"side": SIDE} | arguments))


def test_absent_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"needs tifffile: pip install 'cantata\[images\]'"):
        pp.crop_cells("image.tif", field()[1], SIDE)
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(ImportError, match=r"needs skimage: pip install 'cantata\[images\]'"):
        pp.crop_cells(*field(), SIDE)
