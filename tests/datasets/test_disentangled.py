"""simulate_disentangled: distributions, layouts and reproducibility of the five simulations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cantata.datasets import simulate_disentangled

SETTINGS = range(1, 6)

WIDTHS = {1: (40, 30), 2: (80, 40), 3: (40, 30), 4: (80, 40), 5: (80, 40)}


def values(mdata, name):
    return np.asarray(mdata[name].X, dtype=np.float64)


@pytest.mark.parametrize("setting", SETTINGS)
def test_shapes_and_keys(setting):
    mdata = simulate_disentangled(setting, n_cells=120)
    assert list(mdata.mod) == ["x", "y"]
    assert tuple(mdata[name].n_vars for name in "xy") == WIDTHS[setting]
    assert mdata.n_obs == mdata["x"].n_obs == mdata["y"].n_obs == 120
    assert mdata["x"].X.dtype == mdata["y"].X.dtype == np.float32
    assert mdata.var_names.is_unique
    assert mdata.obs_names.tolist() == mdata["x"].obs_names.tolist()
    factors = ["Z1", "Z2", "Z3", "Z4", "Z5", "r4", "r5"]
    for holder in (mdata, mdata["x"], mdata["y"]):
        assert holder.obs.columns.tolist() == factors
    assert mdata.uns["factors"] == {
        "Z1": "shared",
        "Z2": "shared",
        "Z3": "x",
        "r4": "x",
        "r5": "y",
    }
    assert mdata.uns["truth"] == {
        "setting": setting,
        "nonlinear": False,
        "noise": 0.0,
        "batch_effect": 0.0,
        "seed": 0,
    }


@pytest.mark.parametrize("setting", SETTINGS)
def test_factors_follow_the_causal_graph(setting):
    obs = simulate_disentangled(setting, n_cells=40_000, seed=3).obs
    dependent = setting > 2
    for name in ("Z1", "Z3"):
        assert set(obs[name]) == {0.0, 1.0}
        assert obs[name].mean() == pytest.approx(0.5, abs=0.01)
    inherited = 2 * obs["Z2"] if dependent else 0
    gammas = {  # what is left of a child after its parents: shape, scale, factor
        "Z2": (obs["Z2"] - obs["Z1"], 5, 1, 0.0045),
        "Z4": (obs["Z4"] - obs["Z3"] - inherited, 2, 2, 0.00125),
    }
    if dependent:
        gammas["Z5"] = (obs["Z5"] - obs["Z2"], 3, 2, 0.0075)
    for rest, shape, scale, factor in gammas.values():
        assert rest.min() > -1e-6
        assert rest.mean() == pytest.approx(shape * scale * np.sqrt(factor), rel=0.02)
        assert rest.var() == pytest.approx(shape * scale**2 * factor, rel=0.05)
    if not dependent:
        assert obs["Z5"].var() == pytest.approx(0.25 + 12 * 0.0075, rel=0.05)
    innovations = {"r4": obs["Z4"] - inherited, "r5": obs["Z5"] - (obs["Z2"] if dependent else 0)}
    for name, expected in innovations.items():
        np.testing.assert_allclose(obs[name], expected, atol=1e-5)
    blocks = {"shared": ["Z1", "Z2"], "x": ["Z3", "r4"], "y": ["r5"]}
    between = np.abs(obs[[f for names in blocks.values() for f in names]].corr())
    for block, names in blocks.items():
        others = [f for other, rest in blocks.items() if other != block for f in rest]
        assert between.loc[names, others].to_numpy().max() < 0.02
    if dependent:
        assert np.corrcoef(obs["Z2"], obs["Z4"])[0, 1] ** 2 == pytest.approx(0.81, abs=0.01)


@pytest.mark.parametrize("setting", SETTINGS)
def test_features_are_weighted_sums_of_their_parents(setting):
    mdata = simulate_disentangled(setting, n_cells=300)
    factors = mdata.obs[["Z1", "Z2", "Z3", "Z4", "Z5"]].to_numpy()
    layout = {
        "x": ["Z4", "Z3", "Z2"]
        + (
            ["Z1"]
            if setting in (1, 3)
            else ["Z2 + Z3", "Z2 + Z4", "Z3 + Z4", "Z2 + Z3 + Z4", "Z1 + Z2 + Z3 + Z4"]
        ),
        "y": ["Z5", "Z2"] + (["Z1"] if setting in (1, 3) else ["Z2 + Z5", "Z1 + Z2 + Z5"]),
    }
    for name, parents in layout.items():
        loadings = mdata[name].varm["loadings"]
        assert isinstance(loadings, pd.DataFrame)
        assert loadings.columns.tolist() == ["Z1", "Z2", "Z3", "Z4", "Z5"]
        told = mdata[name].var["parents"]
        assert told.tolist() == np.repeat(parents, 10).tolist()
        for row, names in zip(loadings.to_numpy(), told, strict=True):
            used = {f for f, weight in zip(loadings.columns, row, strict=True) if weight != 0}
            assert used == set(names.split(" + "))
        np.testing.assert_allclose(
            values(mdata, name), factors @ loadings.to_numpy().T, rtol=1e-4, atol=1e-4
        )


def test_weights_are_normal_and_larger_in_setting_five():
    single, several = [], []
    for seed in range(12):
        mdata = simulate_disentangled(5, n_cells=2, seed=seed)
        for name, width in (("x", 80), ("y", 40)):
            table = mdata[name].varm["loadings"].to_numpy()
            n_parents = (table != 0).sum(axis=1)
            single.append(table[n_parents == 1])
            several.append(table[n_parents > 1])
            assert n_parents.size == width
    one, more = (np.concatenate([t[t != 0] for t in part]) for part in (single, several))
    assert one.std() == pytest.approx(4, rel=0.1)
    assert more.std() == pytest.approx(1, rel=0.1)
    assert abs(one.mean()) < 0.6
    assert abs(more.mean()) < 0.1


def test_settings_share_what_they_have_in_common():
    made = {s: simulate_disentangled(s, n_cells=50, seed=7) for s in SETTINGS}
    np.testing.assert_array_equal(made[1].obs, made[2].obs)
    np.testing.assert_array_equal(made[3].obs, made[5].obs)
    assert not np.allclose(made[1].obs["Z4"], made[3].obs["Z4"])
    np.testing.assert_array_equal(made[1].obs[["Z1", "Z3"]], made[3].obs[["Z1", "Z3"]])
    loadings = {s: made[s]["x"].varm["loadings"].to_numpy() for s in SETTINGS}
    np.testing.assert_array_equal(loadings[1], loadings[3])
    np.testing.assert_array_equal(loadings[2], loadings[4])
    single = (loadings[4] != 0).sum(axis=1) == 1
    np.testing.assert_allclose(loadings[5][single], 4 * loadings[4][single], rtol=1e-6)
    np.testing.assert_array_equal(loadings[5][~single], loadings[4][~single])


@pytest.mark.parametrize("nonlinear", [False, True])
def test_a_seed_gives_the_same_bits(nonlinear):
    first, again, other = (
        simulate_disentangled(4, n_cells=50, nonlinear=nonlinear, noise=0.2, seed=seed)
        for seed in (5, 5, 6)
    )
    for name in "xy":
        np.testing.assert_array_equal(first[name].X, again[name].X)
        assert not np.allclose(first[name].X, other[name].X)
    pd.testing.assert_frame_equal(first.obs, again.obs)
    assert not np.allclose(first.obs["Z2"], other.obs["Z2"])


@pytest.mark.parametrize("nonlinear", [False, True])
def test_noise_is_a_share_of_each_feature(nonlinear):
    clean, noisy = (
        simulate_disentangled(2, n_cells=4000, nonlinear=nonlinear, noise=noise)
        for noise in (0.0, 0.3)
    )
    for name in "xy":
        error = values(noisy, name) - values(clean, name)
        share = error.std(axis=0) / values(clean, name).std(axis=0)
        np.testing.assert_allclose(share, 0.3, atol=0.02)
    assert simulate_disentangled(1, n_cells=2, nonlinear=True).uns["truth"]["noise"] == 0.1


def test_nonlinear_features_are_two_layers_of_all_factors():
    mdata = simulate_disentangled(3, n_cells=500, nonlinear=True, noise=0.0)
    linear = simulate_disentangled(3, n_cells=500)
    pd.testing.assert_frame_equal(mdata.obs, linear.obs)
    for name, n_factors in (("x", 4), ("y", 3)):
        made = values(mdata, name)
        assert made.shape == linear[name].shape
        assert np.abs(made).max() < 1
        assert "loadings" not in mdata[name].varm
        assert mdata[name].var["parents"].nunique() == 1
        assert mdata[name].var["parents"].iloc[0].count("Z") == n_factors
        spectra = [
            np.linalg.svd(v - v.mean(axis=0), compute_uv=False)
            for v in (values(linear, name), made)
        ]
        # float32 rounding apart, linear features have the rank of the factors; these have more
        assert spectra[0][n_factors] < 1e-5 * spectra[0][0]
        assert spectra[1][2 * n_factors] > 1e-2 * spectra[1][0]


def test_strong_features_saturate_in_setting_five():
    first, second = (
        values(simulate_disentangled(s, n_cells=200, nonlinear=True, noise=0.0), "x")
        for s in (4, 5)
    )
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"setting": 0}, r"setting=0: the simulations are numbered \[1, 2, 3, 4, 5\]"),
        ({"setting": True}, "setting=True"),
        ({"n_cells": 1}, "n_cells=1: give an integer of at least 2"),
        ({"n_cells": 10.0}, "n_cells=10.0"),
        ({"seed": -1}, "seed=-1"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"noise": np.nan}, "noise=nan"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_disentangled(**arguments)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_batches_shift_every_feature_of_both_modalities(nonlinear):
    arguments = {"setting": 3, "n_cells": 500, "nonlinear": nonlinear, "seed": 4}
    plain, shifted = (simulate_disentangled(**arguments, batch_effect=b) for b in (0.0, 2.0))
    second = (shifted.obs["batch"] == "b1").to_numpy()
    assert second.sum() == 250
    assert "batch" not in plain.obs
    for name in "xy":
        assert shifted[name].obs["batch"].equals(shifted.obs["batch"])
        difference = values(shifted, name) - values(plain, name)
        np.testing.assert_allclose(difference[~second], 0, atol=1e-6)
        np.testing.assert_allclose(
            difference[second], difference[second][:1].repeat(250, 0), atol=1e-4
        )
        in_sd = difference[second][0] / values(plain, name).std(axis=0)
        assert np.sqrt(np.mean(in_sd**2)) == pytest.approx(2, rel=0.4)
    with pytest.raises(ValueError, match=r"batch_effect=-1"):
        simulate_disentangled(batch_effect=-1)
