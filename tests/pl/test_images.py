from __future__ import annotations

import h5py
import numpy as np
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from cantata import pl
from cantata.datasets import simulate_images
from cantata.pl._axes import MISSING_COLOR

KEY = "single_cell_images"


@pytest.fixture(scope="module")
def mdata():
    return simulate_images(12, side=16, stains=["dna", "a", "b"], masks=True, seed=1)


def other(adata, factor=0.5):
    """The same cells in another order, darker, and without masks, as a model returns them."""
    made = adata[::-1, -1:].copy()
    made.obsm[KEY] = factor * made.obsm[KEY][:, 1:].astype(np.float32)
    del made.uns[KEY]
    return made


def shown(ax, j):
    return np.asarray(ax.images[j].get_array())


def label(ax):
    return ax.get_ylabel().replace("\n", " ")


def test_cells_are_columns_and_sources_rows(mdata):
    real, made = mdata["dna"], other(mdata["dna"])
    axes = pl.images({"real": real, "from all": made}, n_cells=4, difference=("from all", "real"))
    assert [label(ax) for ax in axes] == ["real", "from all", "from all \N{MINUS SIGN} real"]
    names = [text.get_text() for text in axes[0].get_xticklabels()]
    rows = real.obs_names.get_indexer(names)
    assert rows.tolist() == [0, 4, 7, 11]
    for j, row in enumerate(rows):
        image = real.obsm[KEY][row, 1].astype(np.float32)
        np.testing.assert_array_equal(shown(axes[0], j), image)
        np.testing.assert_allclose(shown(axes[1], j), image / 2)
        np.testing.assert_allclose(shown(axes[2], j), -image / 2)
    # one scale for both rows, over what is drawn, and one about zero for the difference
    limits = {image.get_clim() for ax in axes[:2] for image in ax.images}
    assert len(limits) == 1
    pixels = np.concatenate([shown(ax, j) for ax in axes[:2] for j in range(4)])
    low, high = np.percentile(pixels, (0.5, 99.8))
    assert limits.pop() == pytest.approx((low, high))
    low, high = axes[2].images[0].get_clim()
    assert low == -high < 0
    # columns stand one below the other
    lefts = {ax.images[2].get_extent()[0] for ax in axes}
    assert len(lefts) == 1
    bars = [ax.child_axes[0].get_ylabel() if ax.child_axes else None for ax in axes]
    assert bars == ["dna", None, "difference"]


def test_stains_of_a_mudata_have_their_own_scales_and_absent_images_are_grey(mdata):
    axes = pl.images(mdata, cells=mdata.obs_names[:5].tolist())
    assert [label(ax) for ax in axes] == ["", "", ""]
    assert [ax.child_axes[0].get_ylabel() for ax in axes] == ["dna", "a", "b"]
    assert len({ax.images[0].cmap.name for ax in axes}) == 3
    for ax, stain in zip(axes, mdata.mod, strict=True):
        for j, name in enumerate(mdata.obs_names[:5]):
            color = ax.images[j].to_rgba(ax.images[j].get_array())[0, 0]
            has = name in mdata[stain].obs_names
            assert (shown(ax, j).shape == (16, 16)) == has
            if not has:
                np.testing.assert_allclose(color, to_rgba(MISSING_COLOR))


def test_sources_of_several_stains(mdata):
    made = {stain: other(mdata[stain]) for stain in ("dna", "a")}
    given = {"real": mdata, "made": list(made.values())}
    cells = mdata["a"].obs_names[:2].tolist()
    axes = pl.images(given, cells, difference=("made", "real"), stains=["a", "dna"])
    assert [(label(ax)[:4], len(ax.images)) for ax in axes] == [
        (name, 2) for name in ("real", "made", "made")
    ] * 2
    bars = [ax.child_axes[0].get_ylabel() for ax in axes if ax.child_axes]
    assert bars == ["a", "difference", "dna", "difference"]
    only_real = pl.images(given, cells, difference=("made", "real"), stains="b")
    assert [label(ax) for ax in only_real] == ["real"]
    with pytest.raises(ValueError, match=r"pictures\['made'\] has several images of 'a'"):
        pl.images({"made": [made["a"], made["a"]]})


def test_titles_colors_and_axes(mdata):
    adata = mdata["dna"].copy()
    adata.obs["p"] = np.linspace(0, 1, 12)
    _, grid = plt.subplots(1, 1)
    (ax,) = pl.images(adata, n_cells=2, title="p", cmap={"dna": "hot"}, axes=grid)
    assert ax is grid
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1"]
    assert ax.images[0].cmap.name == "hot"
    adata.obs_names = [f"a-long-name-{i}" for i in range(12)]
    (ax,) = pl.images(adata, cells=adata.obs_names[3], cmap="hot")
    assert ax.get_xticklabels()[0].get_text() == "\N{HORIZONTAL ELLIPSIS}g-name-3"
    with pytest.raises(ValueError, match="2 axes were given for 1 panels"):
        pl.images(adata, axes=plt.subplots(1, 2)[1])


def test_integers_on_disk_are_scaled(mdata, tmp_path):
    adata = mdata["dna"].copy()
    raw = (1000 + 3000 * adata.obsm[KEY].astype(np.float64)).astype(np.uint16)
    adata.obsm[KEY] = raw
    (expected,) = pl.images(adata, n_cells=3)
    with h5py.File(tmp_path / "images.h5", "w") as file:
        adata.obsm[KEY] = file.create_dataset("x", data=raw)
        (ax,) = pl.images(adata, n_cells=3)
    for j in range(3):
        np.testing.assert_array_equal(shown(ax, j), shown(expected, j))
        assert 0 <= shown(ax, j).min() < shown(ax, j).max() <= 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pictures": {}}, ValueError, "pictures is empty"),
        ({"pictures": {"x": AnnData(np.ones((2, 1)))}}, ValueError, r"pictures\['x'\] has no im"),
        ({"pictures": {"x": [np.ones(3)]}}, TypeError, r"pictures\['x'\] holds a ndarray"),
        ({"cells": ["nobody"]}, KeyError, "'nobody' is in none of the pictures"),
        ({"stains": "actin"}, KeyError, r"'actin' is none of \['a', 'b'\]"),
        ({"title": "nope"}, KeyError, "title='nope'"),
        ({"difference": ("x", "z")}, KeyError, r"give two of the labels \['x', 'y'\]"),
        ({"n_cells": 0}, ValueError, "n_cells"),
        ({}, ValueError, "no cell in common"),
    ],
)
def test_errors(mdata, change, error, message):
    given = {"pictures": {"x": mdata["a"], "y": mdata["b"]}} | change
    if "cells" not in change and error is KeyError:
        given["cells"] = mdata.obs_names[:2].tolist()
    with pytest.raises(error, match=message):
        pl.images(**given)
