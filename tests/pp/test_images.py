from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from mudata import MuData

from cantata import APOLLO, pp
from cantata._keys import IMAGES
from cantata._mudata.images import image_layout
from cantata._mudata.values import MatrixReader

CHANNELS = ["seg_nucleus", "DAPI", "488", "mCherry"]
KINDS = ["mask", "image_channel", "image_channel", "image_channel"]


def images(n: int = 12, side: int = 16, dtype: str = "float16") -> AnnData:
    """Cell i has a value of its own in every channel; masks are the middle."""
    rng = np.random.default_rng(3)
    array = rng.random((n, 4, side, side)).astype("float32")
    array[:, 0] = 0
    array[:, 0, 4:-4, 4:-4] = 1
    if dtype != "float16":
        array *= 200
    obs = pd.DataFrame({"region": [f"r{i % 3}" for i in range(n)]}, [f"c{i}" for i in range(n)])
    var = pd.DataFrame({"channels": CHANNELS, "channel_mapping": KINDS}, index=CHANNELS)
    adata = AnnData(array.mean(axis=(2, 3)), obs=obs, var=var)
    adata.obsm[IMAGES] = array.astype(dtype)
    adata.obsm["spatial"] = np.arange(2.0 * n).reshape(n, 2)
    return adata


def write_h5sc(path, adata: AnnData) -> None:
    """A file as scPortrait documents it: rows of var are numbered, uns tells of channels."""
    stored = AnnData(obs=adata.obs.assign(scportrait_cell_id=range(adata.n_obs)), var=adata.var)
    stored.var_names = [str(i) for i in range(stored.n_vars)]
    stored.uns[IMAGES] = {
        "channel_names": np.array(CHANNELS),
        "channel_mapping": np.array(KINDS),
        "n_cells": adata.n_obs,
        "n_masks": 1,
    }
    stored.obsm["spatial"] = adata.obsm["spatial"]
    stored.write_h5ad(path)
    array = adata.obsm[IMAGES]
    with h5py.File(path, "r+") as file:
        node = file["obsm"].create_dataset(IMAGES, data=array, chunks=(1, 1, *array.shape[2:]))
        node.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


@pytest.fixture
def h5sc(tmp_path):
    write_h5sc(tmp_path / "cells.h5sc", images())
    return tmp_path / "cells.h5sc"


# Reading ----------------------------------------------------------------------------------------


def test_a_file_of_scportrait_opens_with_its_images_on_disk(h5sc):
    adata, truth = pp.read_h5sc(h5sc), images()
    array = adata.obsm[IMAGES]
    assert isinstance(array, h5py.Dataset)
    assert array.file.mode == "r"
    assert list(adata.var_names) == CHANNELS
    assert list(adata.obs_names) == list(truth.obs_names)
    assert list(adata.obs["region"]) == list(truth.obs["region"])
    np.testing.assert_array_equal(adata.obsm["spatial"], truth.obsm["spatial"])
    np.testing.assert_array_equal(array[3], truth.obsm[IMAGES][3])
    layout = image_layout("img", adata, IMAGES)
    assert (layout.stains, layout.masks) == (("DAPI", "488", "mCherry"), (0,))
    reader = pickle.loads(pickle.dumps(MatrixReader(array)))
    np.testing.assert_array_equal(reader(np.array([5, 2])), truth.obsm[IMAGES][[5, 2]])


def test_in_memory_closes_the_file(h5sc):
    adata = pp.read_h5sc(str(h5sc), in_memory=True)
    assert isinstance(adata.obsm[IMAGES], np.ndarray)
    np.testing.assert_array_equal(adata.obsm[IMAGES], images().obsm[IMAGES])
    h5py.File(h5sc, "r+").close()  # which is refused while it is open for reading


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_other_stores_of_that_layout(tmp_path, suffix):
    path = tmp_path / f"cells{suffix}"
    truth = images()
    truth.write_h5ad(path) if suffix == ".h5ad" else truth.write_zarr(path)
    adata = pp.read_h5sc(path)
    assert isinstance(adata.obsm[IMAGES], h5py.Dataset if suffix == ".h5ad" else zarr.Array)
    np.testing.assert_allclose(adata.X, truth.X)
    np.testing.assert_array_equal(adata.obsm[IMAGES][:], truth.obsm[IMAGES])


def test_opening_and_splitting_read_no_image(tmp_path):
    write_h5sc(tmp_path / "cells.h5sc", images(200, 64))
    whole = 200 * 4 * 64 * 64 * 2
    tracemalloc.start()
    mdata = pp.split_stains(pp.read_h5sc(tmp_path / "cells.h5sc"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < whole / 4
    assert all(isinstance(mdata[m].obsm[IMAGES], h5py.Dataset) for m in mdata.mod)


def test_what_is_no_file_of_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pp.read_h5sc(tmp_path / "nowhere.h5sc")
    (tmp_path / "text.h5sc").write_text("no")
    with pytest.raises(ValueError, match="no HDF5 file"):
        pp.read_h5sc(tmp_path / "text.h5sc")
    table = images()
    del table.obsm[IMAGES]
    table.write_h5ad(tmp_path / "table.h5ad")
    with pytest.raises(KeyError, match=r"no obsm\['single_cell_images'\].*'spatial'"):
        pp.read_h5sc(tmp_path / "table.h5ad")
    h5py.File(tmp_path / "table.h5ad", "r+").close()
    twice = images()
    twice.var["channels"] = "DAPI"
    twice.write_h5ad(tmp_path / "twice.h5ad")
    with pytest.raises(ValueError, match="twice"):
        pp.read_h5sc(tmp_path / "twice.h5ad")


def test_a_model_reads_a_file_and_learns(tmp_path):
    write_h5sc(tmp_path / "cells.h5sc", images(60))
    mdata = pp.split_stains(
        pp.read_h5sc(tmp_path / "cells.h5sc"), {"dna": "DAPI", "protein": ["488", "mCherry"]}
    )
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata, n_shared=3, n_specific=2)
    assert list(model.feature_names("protein")) == ["488", "mCherry"]
    model.train(1, encoder_epochs=1, accelerator="cpu")
    predicted = model.impute("protein", source="dna")
    assert predicted.obsm[IMAGES].shape == (60, 2, 16, 16)


# Splitting --------------------------------------------------------------------------------------


def test_each_stain_becomes_a_modality_that_shares_the_images():
    adata = images()
    mdata = pp.split_stains(adata)
    assert list(mdata.mod) == ["DAPI", "488", "mCherry"]
    for name in mdata.mod:
        part = mdata[name]
        assert np.shares_memory(part.obsm[IMAGES], adata.obsm[IMAGES])
        layout = image_layout(name, part, IMAGES)
        assert layout.stains == (name,)
        column = CHANNELS.index(name)
        truth = adata.obsm[IMAGES]
        np.testing.assert_array_equal(part.obsm[IMAGES][:, layout.positions[0]], truth[:, column])
        np.testing.assert_array_equal(part.obsm[IMAGES][:, layout.masks[0]], truth[:, 0])
        np.testing.assert_array_equal(part.X[:, 0], adata.X[:, column])
        np.testing.assert_array_equal(part.obsm["spatial"], adata.obsm["spatial"])
        assert list(part.obs["region"]) == list(adata.obs["region"])
    assert list(mdata.obs["region"]) == list(adata.obs["region"])
    assert set(adata.obsm) == {IMAGES, "spatial"}
    assert IMAGES not in adata.uns


def test_stains_of_one_modality_share_the_images_in_their_order():
    adata = images()
    part = pp.split_stains(adata, {"a": ["mCherry", "488"]})["a"]
    assert np.shares_memory(part.obsm[IMAGES], adata.obsm[IMAGES])
    layout = image_layout("a", part, IMAGES)
    assert layout.stains == tuple(part.var_names) == ("mCherry", "488")
    truth = adata.obsm[IMAGES][:, [3, 2]]
    np.testing.assert_array_equal(part.obsm[IMAGES][:, list(layout.positions)], truth)


@pytest.mark.parametrize("form", ["array", "frame", "key", "key of a frame"])
@pytest.mark.parametrize("stains", [None, {"x": "mCherry", "y": ["mCherry", "DAPI"]}])
def test_cells_without_a_stain_have_no_row(form, stains):
    adata = images()
    has = np.ones((12, 3), dtype=bool)
    has[:4, 1] = has[2:9, 2] = False
    has[2:4, 0] = False
    frame = pd.DataFrame(has, adata.obs_names, CHANNELS[1:])
    measured = {"array": has, "frame": frame.iloc[::-1, ::-1]}.get(form, "measured")
    adata.obsm["measured"] = has if form == "key" else frame
    with pytest.warns(UserWarning, match="cells have") as caught:
        mdata = pp.split_stains(adata, stains, measured=measured)
    groups = stains or {s: s for s in CHANNELS[1:]}
    rows = {m: frame[np.atleast_1d(s)].all(axis=1).to_numpy() for m, s in groups.items()}
    for name, kept in rows.items():
        part = mdata[name]
        assert list(part.obs_names) == list(adata.obs_names[kept])
        layout = image_layout(name, part, IMAGES)
        assert list(layout.stains) == list(np.atleast_1d(groups[name]))
        columns = [CHANNELS.index(s) for s in layout.stains]
        expected = adata.obsm[IMAGES][kept][:, columns]
        np.testing.assert_array_equal(part.obsm[IMAGES][:, list(layout.positions)], expected)
        assert part.obsm[IMAGES].shape[1] == 1 + len(columns)
    anywhere = np.any(list(rows.values()), axis=0)
    assert list(mdata.obs_names) == list(adata.obs_names[anywhere])
    said = " ".join(str(w.message) for w in caught)
    assert f"{(~anywhere).sum()} cells have no modality" in said
    assert said.count("some of the stains ['mCherry', 'DAPI']") == (stains is not None)


def test_empty_images_are_left_out(h5sc):
    adata = images()
    adata.obsm[IMAGES][3, 2] = 0
    adata.obsm[IMAGES][4, 2, 5:] = 0
    assert {m: a.n_obs for m, a in pp.split_stains(adata).mod.items()} == dict.fromkeys(
        CHANNELS[1:], 12
    )
    mdata = pp.split_stains(adata, drop_empty=True)
    assert "c3" not in mdata["488"].obs_names
    assert {m: a.n_obs for m, a in mdata.mod.items()} == {"DAPI": 12, "488": 11, "mCherry": 12}
    APOLLO.setup_mudata(mdata)


@pytest.mark.parametrize("lazy", ["hdf5", "zarr", "memmap"])
def test_some_cells_of_images_on_disk_stay_there(tmp_path, lazy):
    dask_array = pytest.importorskip("dask.array")
    adata = on_disk(tmp_path, lazy)
    has = np.ones((12, 3), dtype=bool)
    has[::2, 1] = False
    mdata = pp.split_stains(adata, measured=has)
    array = mdata["488"].obsm[IMAGES]
    assert isinstance(array, dask_array.Array)
    np.testing.assert_array_equal(array.compute(), images().obsm[IMAGES][1::2][:, [0, 2]])
    assert not isinstance(mdata["DAPI"].obsm[IMAGES], dask_array.Array)
    APOLLO.setup_mudata(mdata)


@pytest.mark.parametrize("lazy", ["hdf5", "zarr", "memmap"])
def test_without_dask_they_are_refused(tmp_path, monkeypatch, lazy):
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    adata = on_disk(tmp_path, lazy)
    assert pp.split_stains(adata)["488"].n_obs == 12
    with pytest.raises(ImportError, match=r"6 of 12 cells.*in_memory=True"):
        pp.split_stains(adata, {"a": "488"}, measured=np.arange(12)[:, None] % 2 == [0, 0, 0])


def on_disk(path, lazy: str) -> AnnData:
    adata = images()
    if lazy == "memmap":
        array = np.memmap(path / "a", adata.obsm[IMAGES].dtype, "w+", shape=(12, 4, 16, 16))
        array[:] = adata.obsm[IMAGES]
        adata.obsm[IMAGES] = array
        return adata
    adata.write_h5ad(path / "a.h5ad") if lazy == "hdf5" else adata.write_zarr(path / "a.zarr")
    return pp.read_h5sc(path / ("a.h5ad" if lazy == "hdf5" else "a.zarr"))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"stains": {"a": "DAPi"}}, KeyError, r"\['DAPI', '488', 'mCherry'\]"),
        ({"stains": {"a": []}}, KeyError, "stains are"),
        ({"stains": {"a": "seg_nucleus"}}, ValueError, "is a mask"),
        ({"key": "images"}, KeyError, r"key='images'"),
        ({"measured": "which"}, KeyError, "'which'"),
        ({"measured": np.ones((12, 4), dtype=bool)}, ValueError, r"\(12, 4\); \(12, 3\)"),
        ({"measured": np.ones((12, 3))}, TypeError, "float64"),
        ({"measured": np.zeros((12, 3), dtype=bool)}, ValueError, r"none of 12 cells has \['DAPI"),
        ({"measured": pd.DataFrame({"DAPI": [True]})}, KeyError, "no '488'"),
    ],
)
def test_what_cannot_be_split(arguments, error, text):
    with pytest.raises(error, match=text):
        pp.split_stains(images(), **arguments)


# Padding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["memory", "hdf5"])
def test_images_are_padded_in_their_centre(tmp_path, stored):
    adata = images()
    adata.obsm[IMAGES] = before = adata.obsm[IMAGES][..., :15, :13].copy()
    if stored == "hdf5":
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = pp.read_h5sc(tmp_path / "a.h5ad")
    pp.pad_images(adata, 32)
    after = adata.obsm[IMAGES]
    assert after.dtype == np.float16
    masks = list(image_layout("img", adata, IMAGES).masks)
    assert masks
    for cell, channel in np.ndindex(before.shape[:2]):
        image = before[cell, channel]
        edge = 0 if channel in masks else image.min()
        expected = np.pad(image, ((8, 9), (9, 10)), constant_values=edge)
        np.testing.assert_array_equal(after[cell, channel], expected)
    image_layout("img", adata, IMAGES)


def test_images_that_are_larger_are_refused():
    with pytest.raises(ValueError, match="larger than side=8"):
        pp.pad_images(images(), 8)


def test_padding_is_what_set_up_advises():
    adata = images(20, 20)
    with pytest.raises(ValueError, match=r"cantata\.pp\.pad_images\(adata, 32\)"):
        APOLLO.setup_mudata(pp.split_stains(adata))
    pp.pad_images(adata, 32)
    APOLLO.setup_mudata(pp.split_stains(adata))


def test_scikit_image_is_not_imported_with_the_package():
    code = "import sys, cantata.pp; assert not {'skimage', 'tifffile'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


# Beside tables ----------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def with_rna(request, h5sc):
    """Stains and RNA; images have no .X, or are those of a file."""
    adata = images() if request.param == "memory" else pp.read_h5sc(h5sc)
    if request.param == "memory":
        adata.X[2] = 0  # no reason to take the cell for one without images
    mdata = pp.split_stains(adata, {"dna": "DAPI", "protein": ["488", "mCherry"]})
    counts = np.random.default_rng(0).poisson(2.0, (12, 30)).astype("float32")
    counts[4] = 0
    rna = AnnData(counts, obs=pd.DataFrame(index=adata.obs_names))
    return MuData({"rna": rna, **mdata.mod})


def test_the_report_counts_images_and_reads_none(with_rna, monkeypatch):
    def refuse(*_):
        raise AssertionError("images are read")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", refuse)
    report = pp.pairing_report(with_rna)
    assert report.counts["cells"].to_dict()["rna + dna + protein"] == 11
    assert report.n_empty == {"rna": 1, "dna": 0, "protein": 0}
    assert report.images["protein"] == "images, 16 x 16, stains 488, mCherry"
    assert report.model == "APOLLO"
    assert "dna, protein" in report.reason
    text = " ".join(repr(report).split())
    assert "dna 12 (images, 16 x 16, stains DAPI)" in text
    assert "rna + dna: 11; not checked (images are not)" in text


def test_images_that_pair_with_nothing_have_no_model(with_rna):
    rna = with_rna["rna"].copy()
    rna.obs_names = [f"other{i}" for i in range(12)]
    report = pp.pairing_report(MuData({"rna": rna, "dna": with_rna["dna"]}))
    assert report.model is None
    assert "image_features" in report.reason


def test_the_report_describes_images_that_no_model_would_take():
    adata = images()
    adata.obsm[IMAGES] = adata.obsm[IMAGES][..., :13]
    del adata.var["channel_mapping"]
    adata.var["channels"] = "DAPI"
    report = pp.pairing_report(MuData({"dna": adata}))
    assert report.images["dna"] == "images, 16 x 13, stains DAPI, DAPI, DAPI, DAPI"


def test_preprocess_leaves_images_as_they_are(with_rna):
    mdata = pp.drop_empty(with_rna)
    before = {m: mdata[m].obsm[IMAGES] for m in ("dna", "protein")}
    pp.preprocess(mdata, n_components=3)
    pp.preprocess(mdata, reference=mdata)
    for name, array in before.items():
        assert mdata[name].obsm[IMAGES] is array
        assert set(mdata[name].obsm) == {IMAGES, "spatial"}
        assert not set(mdata[name].layers) - {None}
    assert "X_cantata_pca" in mdata["rna"].obsm


def test_drop_empty_leaves_images_as_they_are(with_rna):
    new = pp.drop_empty(with_rna)
    assert "c4" not in new["rna"].obs_names
    for name in ("dna", "protein"):
        old = with_rna[name]
        assert list(new[name].obs_names) == list(old.obs_names)
        assert type(new[name].obsm[IMAGES]) is type(old.obsm[IMAGES])
        np.testing.assert_array_equal(new[name].obsm[IMAGES][:], old.obsm[IMAGES][:])
        assert list(new[name].obs["region"]) == list(old.obs["region"])
        assert new[name].obs is not old.obs
        assert list(new[name].uns[IMAGES]["channel_names"]) == list(
            old.uns[IMAGES]["channel_names"]
        )
