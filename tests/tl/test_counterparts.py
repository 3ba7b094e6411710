from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse

from cantata._numeric.counterparts import counterpart_probability
from cantata.pp import preprocess
from cantata.tl import counterparts


@pytest.fixture
def mdata():
    """Three modalities; cells of type 0 are in RNA alone, in an order of each modality's own."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 5)) * 2
    types = np.arange(600) % 4
    names = np.array([f"c{i}" for i in range(600)])
    parts = {}
    for name, start, stop, has in (
        ("rna", 0, 400, range(4)),
        ("adt", 300, 600, (1, 2, 3)),
        ("atac", 350, 600, (1, 2, 3)),
    ):
        rows = rng.permutation(np.arange(start, stop)[np.isin(types[start:stop], has)])
        parts[name] = AnnData(
            np.ones((len(rows), 1)),
            obs=pd.DataFrame(
                {"type": types[rows].astype(str), "batch": np.where(rows < 350, "a", "b")},
                index=names[rows],
            ),
            obsm={"X_clue": centers[types[rows]] + 0.4 * rng.normal(size=(len(rows), 5))},
        )
    made = mosaic(parts)
    of_cell = made.obs_names.str.removeprefix("c").astype(int)
    made.obsm["X_clue"] = centers[types[of_cell]] + 0.4 * rng.normal(size=(len(of_cell), 5))
    return made


def test_each_modality_is_held_against_all_others(mdata):
    counterparts(mdata, use_rep="X_clue")
    for name in mdata.mod:
        others = [m for m in mdata.mod if m != name]
        paired = mdata[name].obs_names.isin(np.concatenate([mdata[m].obs_names for m in others]))
        expected = counterpart_probability(
            mdata[name].obsm["X_clue"],
            np.concatenate([mdata[m].obsm["X_clue"] for m in others]),
            np.asarray(paired),
        )
        found = mdata[name].obs["clue_counterpart"].to_numpy()
        np.testing.assert_array_equal(found, expected)
        assert (found[paired] == 1).all()
    lacks = (mdata["rna"].obs["type"] == "0").to_numpy()
    assert (mdata["rna"].obs["clue_counterpart"][lacks] < 0.1).all()
    assert (mdata["rna"].obs["clue_counterpart"][~lacks] > 0.5).mean() > 0.95


@pytest.mark.parametrize("values", ["counts", "intensities", "preprocessed", "few", "zarr"])
def test_neighbours_are_of_the_own_components(mdata, values, tmp_path):
    rng = np.random.default_rng(1)
    types = mdata["rna"].obs["type"].astype(int).to_numpy()
    rates = rng.gamma(1, 2, size=(4, 30))[types]
    x = rng.poisson(rates).astype(np.float32) + (values == "intensities") * -1.5
    rna = AnnData(sparse.csr_matrix(x) if values == "counts" else x, obs=mdata["rna"].obs)
    rna.obsm["X_clue"] = mdata["rna"].obsm["X_clue"]
    rna.var_names = [f"gene{j}" for j in range(30)]
    own = None
    if values == "preprocessed":
        own = rna.obsm["X_cantata_pca"] = rng.normal(size=(rna.n_obs, 3))
    elif values == "few":
        rna = rna[:, :2].copy()
    elif values == "zarr":
        rna.X = zarr.open(tmp_path / "x.zarr", mode="w", shape=x.shape, dtype="f4")
    made = mosaic({"rna": rna, "adt": mdata["adt"]})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        counterparts(made, use_rep="X_clue")
    assert any("is on disk" in str(w.message) for w in caught) == (values == "zarr")
    if values in ("counts", "intensities"):
        again = made.copy()
        if values == "counts":
            preprocess(again, modalities={"rna": "rna"})
            own = again["rna"].obsm["X_cantata_pca"].astype(float)
        else:
            scaled = np.minimum((x - x.mean(axis=0)) / x.std(axis=0), 10)
            scaled -= scaled.mean(axis=0)
            own = scaled @ np.linalg.svd(scaled, full_matrices=False)[2][:29].T
    if own is not None:
        own = own / np.linalg.norm(own, axis=1, keepdims=True)
    expected = counterpart_probability(
        made["rna"].obsm["X_clue"],
        made["adt"].obsm["X_clue"],
        np.asarray(made["rna"].obs_names.isin(made["adt"].obs_names)),
        own,
    )
    np.testing.assert_allclose(made["rna"].obs["clue_counterpart"], expected, atol=0.02)


def test_modalities_that_are_not_mixed_are_said_to_be_apart(mdata):
    parts = {m: a.copy() for m, a in mdata.mod.items() if m != "atac"}
    for name, adata in parts.items():
        adata.obs_names = [f"{name}_{cell}" for cell in adata.obs_names]
    parts["rna"].obsm["X_clue"] = parts["rna"].obsm["X_clue"] + 50
    with pytest.warns(UserWarning, match="apart from all others in this embedding"):
        counterparts(mosaic(parts), use_rep="X_clue")


def test_cells_that_are_all_paired_have_counterparts(mdata):
    rna = mdata["rna"].copy()
    made = mosaic({"rna": rna, "adt": rna.copy()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counterparts(made, use_rep="X_clue")
    assert (made["rna"].obs["clue_counterpart"] == 1).all()


def test_modalities_and_the_name_of_the_column_can_be_given(mdata):
    counterparts(mdata, use_rep="X_clue", modalities=["rna", "adt"], key_added="has_protein")
    assert "has_protein" in mdata["rna"].obs
    assert "has_protein" not in mdata["atac"].obs


def test_batches_are_compared_by_the_joint_embedding(mdata):
    counterparts(mdata, use_rep="X_clue", batch_key="batch")
    batch = np.where(mdata.obs_names.str.removeprefix("c").astype(int) < 350, "a", "b")
    joint, found = mdata.obsm["X_clue"], mdata.obs["clue_counterpart"].to_numpy()
    for name in "ab":
        own = batch == name
        expected = counterpart_probability(
            joint[own], joint[~own], np.zeros(own.sum(), dtype=bool)
        )
        np.testing.assert_array_equal(found[own], expected)
    assert not any("clue_counterpart" in mdata[m].obs for m in mdata.mod)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (None, {"use_rep": "X_pca"}, KeyError, "'X_pca'.*X_clue"),
        (None, {"modalities": ["rna"]}, ValueError, r"only these modalities .*\['rna'\]"),
        (None, {"modalities": ["rna", "x"]}, KeyError, "no modality 'x'"),
        (None, {"batch_key": "donor"}, KeyError, "batch_key='donor'"),
        (None, {"batch_key": "batch", "modalities": ["rna"]}, ValueError, "not both"),
        (None, {"modalities": "rna"}, ValueError, "only these modalities"),
        ("narrow", {}, ValueError, "must be one space; its dimensions are"),
        ("few", {}, ValueError, r"fewer than 40 cells tell nothing: \{'adt': 39\}"),
        ("nan", {}, ValueError, "X_clue"),
        ("batch", {"batch_key": "batch"}, ValueError, "have no batch in batch_key='batch'"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(mdata, change, options, error, message):
    if change == "narrow":
        mdata["adt"].obsm["X_clue"] = mdata["adt"].obsm["X_clue"][:, :2]
    elif change == "few":
        mdata = mosaic({name: a[:39] if name == "adt" else a for name, a in mdata.mod.items()})
    elif change == "nan":
        mdata["rna"].obsm["X_clue"][3, 2] = np.nan
    elif change == "batch":
        for name in mdata.mod:
            mdata[name].obs.loc[mdata[name].obs_names == "c360", "batch"] = None
    with pytest.raises(error, match=message):
        counterparts(mdata, **{"use_rep": "X_clue"} | options)
    assert not any("clue_counterpart" in mdata[m].obs for m in mdata.mod)
    assert "clue_counterpart" not in mdata.obs
