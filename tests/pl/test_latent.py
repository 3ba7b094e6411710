from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from mosaics import mosaic
from scipy import sparse

from cantata import pl
from cantata.tl import interpret_latent, latent_bins

pytestmark = pytest.mark.filterwarnings("ignore:.*var_names are not unique")

GENES = [f"gene{j}" for j in range(30)]
USE = {"use_rep": "X_apollo_shared"}


@pytest.fixture(scope="module")
def latent():
    return np.random.default_rng(0).normal(size=(1000, 3)) * [3, 2, 1]


@pytest.fixture(scope="module")
def mdata(latent):
    """Genes 0 to 3 rise and 4 to 5 fall along PC1; proteins of other cells in another order."""
    rng = np.random.default_rng(1)
    rate = np.full((1000, 30), 1.0)
    rate[:, :4] += 0.3 * latent[:, [0]]
    rate[:, 4:6] -= 0.3 * latent[:, [0]]
    rate[:, -1] = 8
    rna = AnnData(
        sparse.csr_matrix(rng.poisson(np.exp(rate)).astype(np.float32)),
        obsm={"X_apollo_shared": latent},
    )
    rna.obs_names, rna.var_names = [f"cell{i}" for i in range(1000)], GENES
    rows = rng.permutation(1000)[:700]
    adt = AnnData(np.stack([latent[rows, 0], rng.normal(size=700)], axis=1))
    adt.obs_names, adt.var_names = rna.obs_names[rows], ["CD4", "gene0"]
    return mosaic({"adt": adt, "rna": rna})


@pytest.fixture(scope="module")
def found(mdata):
    return interpret_latent(mdata, "rna", n_splits=5, train_size=0.5, **USE)


def labels(ticks):
    return [tick.get_text() for tick in ticks]


def drawn(ax):
    """The matrix, by its labels."""
    values = np.ma.filled(ax.images[0].get_array(), np.nan)
    return pd.DataFrame(values, labels(ax.get_yticklabels()), labels(ax.get_xticklabels()))


def test_bars_are_the_best_features_of_both_ends(found):
    (ax,) = pl.latent_features(found, "PC1", n_features=4)
    low, high = (found.top("PC1", 4, group) for group in ("low", "high"))
    assert labels(ax.get_yticklabels()) == [*low["feature"], *high["feature"]]
    np.testing.assert_allclose(
        [bar.get_width() for bar in ax.patches], [*low["area"], *high["area"]]
    )
    y = ax.get_yticks()
    assert (np.diff(y) >= 1).all()
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    for bar, change in zip(ax.patches, pd.concat([low, high])["log2_fold_change"], strict=True):
        red, _, blue, _ = bar.get_facecolor()
        assert (red > blue) == (change > 0)
    assert ax.get_title().startswith("PC1 (")
    assert ax.child_axes[0].get_ylabel() == "log2 fold change"
    assert [text.get_text() for text in ax.texts] == ["low end", "high end"]


def test_panels_share_their_scale(found):
    axes = pl.latent_features(found, ["PC1", 2, "PC3"], groups=["low", "center", "high"], ncols=2)
    assert [ax.get_title()[:3] for ax in axes] == ["PC1", "PC2", "PC3"]
    assert len({ax.get_xlim() for ax in axes}) == 1
    assert sum(len(ax.child_axes) for ax in axes) == 1
    texts = [text.get_text() for text in axes[2].texts]
    assert texts.count("no feature") == 3 - found.top("PC3", 99)["group"].nunique()
    assert "center" in texts


def test_axes_that_are_given(found):
    _, grid = plt.subplots(1, 2)
    assert pl.latent_features(found, ["PC1", "PC2"], axes=grid) == list(grid)
    with pytest.raises(ValueError, match="2 axes were given for 1 panels"):
        pl.latent_features(found, axes=grid)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"component": "PC9"}, KeyError, "component='PC9': there are PC1 to PC3"),
        ({"component": []}, ValueError, "Nothing to draw"),
        ({"n_features": 0}, ValueError, "Nothing to draw"),
        ({"groups": ["middle"]}, ValueError, "choose from low, center, high"),
        ({"interpretation": "PC1"}, TypeError, "interpretation is a str"),
    ],
)
def test_bad_input_of_bars(found, arguments, error, message):
    with pytest.raises(error, match=message):
        pl.latent_features(**{"interpretation": found, **arguments})


def test_means_of_bins_equal_a_loop(mdata, found, latent):
    ax = pl.latent_traversal(mdata, "rna", found, features=["gene5", "gene0"], scale=None)
    matrix = drawn(ax)
    values = mdata["rna"].X.toarray().astype(float)
    values = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)
    for k, column in enumerate(matrix.columns):
        cells = (found.central["PC1"] & (found.bins["PC1"] == k)).to_numpy()
        np.testing.assert_allclose(
            matrix[column], values[cells][:, [5, 0]].mean(axis=0), rtol=1e-5
        )
    assert list(matrix.index) == ["gene5", "gene0"]
    signed = [f"{k:+d}".replace("-", "\N{MINUS SIGN}") for k in range(-5, 6)]
    assert list(matrix.columns) == [*signed[:5], "0", *signed[6:]]
    strip = ax.child_axes[1]
    heights = [bar.get_height() for bar in strip.patches]
    assert sum(heights) == found.central["PC1"].sum() == 150
    assert ax.get_title() == "rna along PC1 of rna:X_apollo_shared"


def test_features_of_both_ends_in_order_of_their_trend(mdata, found):
    matrix = drawn(pl.latent_traversal(mdata, "rna", found, n_features=6))
    assert set(matrix.index[:2]) == {"gene4", "gene5"}
    assert set(matrix.index[2:]) == {f"gene{j}" for j in range(4)}
    assert (matrix.iloc[:2, 0] > 0.5).all()
    assert (matrix.iloc[2:, 0] < -0.5).all()


def test_values_of_another_modality_and_imputed_ones(mdata, found, latent):
    matrix = drawn(pl.latent_traversal(mdata, "adt", found, features=["CD4"], scale=None))
    central = found.central["PC1"].to_numpy()
    held = np.isin(mdata["rna"].obs_names, mdata["adt"].obs_names) & central
    for k in (0, 5, 10):
        cells = held & (found.bins["PC1"] == k).to_numpy()
        assert matrix.iloc[0, k] == pytest.approx(latent[cells, 0].mean())
    rows = np.random.default_rng(3).permutation(1000)[:800]
    values = AnnData(sparse.csr_matrix(latent[rows][:, [1, 0]]))
    values.obs_names, values.var_names = mdata["rna"].obs_names[rows], ["gene7", "gene8"]
    matrix = drawn(
        pl.latent_traversal(
            mdata, "rna", found, features=["gene8", "gene7"], values=values, scale=None
        )
    )
    has = np.isin(np.arange(1000), rows) & central
    for k in (0, 5, 10):
        cells = has & (found.bins["PC1"] == k).to_numpy()
        np.testing.assert_allclose(matrix.iloc[:, k], latent[cells][:, [0, 1]].mean(axis=0))


def test_without_an_interpretation(mdata, found):
    features = ["gene1", "gene20"]
    expected = drawn(pl.latent_traversal(mdata, "rna", found, component=2, features=features))
    again = drawn(pl.latent_traversal(mdata, "rna", component=2, features=features, **USE))
    pd.testing.assert_frame_equal(again, expected)


def test_small_bins_do_not_set_the_colours(mdata, found):
    bins = found.bins["PC1"]
    values = AnnData(np.zeros((1000, 1)), obs=mdata["rna"].obs)
    values.var_names = ["gene1"]
    values.X[:, 0] = bins
    values.X[(bins == 10).to_numpy()] = 100.0
    few = np.flatnonzero((bins == 10) & found.central["PC1"])[2:]
    values = values[np.setdiff1d(np.arange(1000), few)].copy()
    ax = pl.latent_traversal(mdata, "rna", found, features=["gene1"], values=values, scale=None)
    assert drawn(ax).iloc[0, 10] == 100
    assert ax.images[0].get_clim() == (0, 9)


def test_everything_fits_into_the_figure(mdata, found):
    with plt.rc_context({"font.size": 12}):
        for ax in (
            pl.latent_traversal(mdata, "rna", found, features=GENES),
            *pl.latent_features(found, "PC1"),
        ):
            ax.figure.canvas.draw()
            box = ax.figure.get_tightbbox()
            assert min(box.x0, box.y0) >= -0.02
            assert (np.array([box.x1, box.y1]) <= ax.figure.get_size_inches() + 0.02).all()
            y = sorted(label.get_window_extent().y0 for label in ax.get_yticklabels())
            assert min(np.diff(y)) >= ax.get_yticklabels()[0].get_window_extent().height * 0.8


def test_axes_and_colours_that_are_given(mdata, found):
    _, ax = plt.subplots()
    got = pl.latent_traversal(mdata, "rna", found, features=GENES[:3], cmap="PiYG", ax=ax)
    assert got is ax
    assert ax.images[0].get_cmap().name == "PiYG"
    low, high = ax.images[0].get_clim()
    assert low == -high


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"modality": "atac"}, KeyError, "modality='atac' is no modality"),
        ({"modality": "adt"}, ValueError, "one of the features of 'rna'; name those of 'adt'"),
        ({"component": "PC7"}, KeyError, "component='PC7'"),
        (
            {"features": ["gene1", "CD19"]},
            KeyError,
            "1 of 2 are no features of 'rna', e.g. 'CD19'",
        ),
        ({"features": []}, ValueError, "features is empty"),
        ({"features": 1}, TypeError, "features=1: give a list of names"),
        ({"scale": "sd"}, ValueError, "scale='sd' is unknown"),
        ({"use_rep": "X_apollo_shared"}, ValueError, "either interpretation or use_rep"),
        ({"interpretation": None}, ValueError, "either interpretation or use_rep"),
        ({"interpretation": None, **USE}, ValueError, "Without an interpretation, name"),
        (
            {"interpretation": None, "features": ["gene1"], "component": 8, **USE},
            KeyError,
            "component='PC8': there are PC1 to PC3",
        ),
        ({"interpretation": "PC1"}, TypeError, "interpretation is a str"),
        ({"layer": "log"}, KeyError, "layer='log'"),
        ({"values": "adt"}, TypeError, "values is a str"),
    ],
)
def test_bad_input_of_traversals(mdata, found, arguments, error, message):
    with pytest.raises(error, match=message):
        pl.latent_traversal(
            **{"mdata": mdata, "modality": "rna", "interpretation": found, **arguments}
        )
    assert not plt.get_fignums()


def test_values_that_do_not_fit(mdata, found):
    values = AnnData(np.ones((2, 1)))
    values.obs_names, values.var_names = ["cell0", "x"], ["gene3"]
    with pytest.raises(KeyError, match=r"values lacks 1 of the features, e\.g\. 'gene4'"):
        pl.latent_traversal(mdata, "rna", found, features=["gene4"], values=values[:1].copy())
    many = AnnData(np.full((1000, 1), np.nan), obs=mdata["rna"].obs)
    many.var_names = ["gene3"]
    with pytest.raises(ValueError, match="values holds NaN"):
        pl.latent_traversal(mdata, "rna", found, features=["gene3"], values=many)
    with pytest.raises(ValueError, match="layer= is one of the measured"):
        pl.latent_traversal(mdata, "rna", found, features=["gene3"], values=many, layer="x")
    other = mosaic({"rna": mdata["rna"].copy()})
    other["rna"].obs_names = [f"new{i}" for i in range(1000)]
    other.update()
    with pytest.raises(ValueError, match=r"one of other cells, e\.g\. 'cell"):
        pl.latent_traversal(other, "rna", found)


def test_images_along_a_component(latent):
    images = np.zeros((1000, 2, 16, 16), dtype=np.float16)
    images[:, 0] = 0.5 + 0.04 * latent[:, 0, None, None]
    images[:, 1, 3, 4] = 1
    adata = AnnData(images.mean(axis=(2, 3)), obsm={"single_cell_images": images})
    adata.obsm["X_apollo_shared"], adata.var_names = latent, ["dna", "actin"]
    data = mosaic({"img": adata})
    bins = latent_bins(data, "img", **USE)
    ax = pl.latent_traversal(data, "img", images=True, features="dna", **USE)
    assert labels(ax.get_xticklabels())[5:7] == ["0", "+1"]
    assert labels(ax.get_yticklabels()) == ["mean", "cells"]
    assert ax.get_title() == "img along PC1 of X_apollo_shared"
    assert ax.get_xlabel() == "bin along PC1"
    shown = np.array([image.get_array() for image in ax.images]).reshape(4, 11, 16, 16)
    for k, number in enumerate(range(-5, 6)):
        members = images[adata.obs_names.get_indexer(bins.index[bins == number]), 0]
        np.testing.assert_allclose(shown[0, k], members.mean(axis=0), atol=1e-3)
        for tile in shown[1:, k]:
            assert (tile == members).all(axis=(1, 2)).any()
    # images that a model made of some cells, some bins among which have none
    low = bins.index[bins < 0]
    made = adata[low, ["actin"]].copy()
    made.obsm["single_cell_images"] = images[adata.obs_names.get_indexer(low), 1:]
    ax = pl.latent_traversal(data, "img", images=made, **USE)
    tiles = [np.ma.getmaskarray(image.get_array()).all() for image in ax.images]
    np.testing.assert_array_equal(tiles, np.tile(np.arange(11) > 4, 4))
    # one image of each bin, as a decoder makes it of its mean latents
    decoded = AnnData(np.zeros((11, 1)), obsm={"single_cell_images": images[:11, :1]})
    decoded.obs_names, decoded.var_names = [str(k) for k in range(-5, 6)], ["dna"]
    ax = pl.latent_traversal(data, "img", images=decoded, **USE)
    np.testing.assert_array_equal([image.get_array() for image in ax.images], images[:11, 0])
    assert labels(ax.get_yticklabels()) == ["decoded"]
    with pytest.raises(KeyError, match=r"name one of the stains \['dna', 'actin'\]"):
        pl.latent_traversal(data, "img", images=True, **USE)
    with pytest.raises(ValueError, match="images holds none of the cells in the center"):
        pl.latent_traversal(data, "img", images=made[:0], **USE)
    del data["img"].obsm["single_cell_images"]
    with pytest.raises(ValueError, match="modality 'img' has none"):
        pl.latent_traversal(data, "img", images=True, **USE)
