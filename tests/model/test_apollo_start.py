"""Where APOLLO's latents start: canonical variates, and what is left without telling of them."""

from __future__ import annotations

import numpy as np
import pytest
from apollo_models import explained
from sklearn.neighbors import KNeighborsRegressor

from cantata.model.apollo import _start
from cantata.model.apollo._start import (
    FILL_SD,
    START_SD,
    _FourierRidge,
    canonical_start,
    specific_start,
)

# Linear relations -------------------------------------------------------------------------------


def factors(n: int = 400, seed: int = 0) -> tuple[dict, np.ndarray, dict]:
    """Two blocks with two shared factors, and one factor of its own each."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 2))
    own = {name: rng.normal(size=(n, 1)) for name in ("a", "b")}
    blocks = {name: np.hstack([shared, z]) @ rng.normal(size=(3, 8)) for name, z in own.items()}
    return {k: x.astype(np.float32) for k, x in blocks.items()}, shared, own


def test_canonical_start_parts_shared_from_specific():
    blocks, shared, own = factors()
    rows = dict.fromkeys(blocks, np.arange(400))
    found, specific = canonical_start(blocks, rows, 2, {"a": 1, "b": 1})
    assert explained(found, shared) > 0.99
    for name, z in own.items():
        # less what the factor happens to share with the others in 400 cells
        assert explained(specific[name], z) > 0.97
        assert explained(found, z) < 0.05
        assert specific[name].std() == pytest.approx(START_SD, rel=0.05)
    assert np.allclose(found.std(axis=0), START_SD, rtol=0.05)


@pytest.mark.parametrize("trace", [0.001, 0.1])
def test_a_trace_is_no_direction_of_a_specific_space(trace: float):
    """Less than a hundredth of the spread of the leading component is what variates missed."""
    rng = np.random.default_rng(0)
    shared, own, faint = rng.normal(size=(3, 400, 1))
    blocks = {
        "a": np.hstack([shared, own, trace * faint]),
        "b": np.hstack([shared, rng.normal(size=(400, 1))]),
    }
    rows = dict.fromkeys(blocks, np.arange(400))
    _, specific = canonical_start(blocks, rows, 1, {"a": 2, "b": 1})
    assert specific["a"][:, 0].std() == pytest.approx(START_SD, rel=0.05)
    spread = START_SD if trace == 0.1 else FILL_SD
    assert specific["a"][:, 1].std() == pytest.approx(spread, rel=0.15)
    assert (explained(specific["a"][:, [1]], faint) > 0.5) == (trace == 0.1)


def test_canonical_start_of_cells_that_lack_a_modality():
    blocks, shared, own = factors()
    rows = {"a": np.arange(400), "b": np.arange(400)}
    rows["a"][:100] = -1
    rows["b"][300:] = -1
    found, specific = canonical_start(blocks, rows, 2, {"a": 1, "b": 1})
    assert found.shape == (400, 2)
    assert {k: len(v) for k, v in specific.items()} == {"a": 300, "b": 300}
    assert explained(found, shared) > 0.98
    assert explained(specific["b"], own["b"][:300]) > 0.98


def test_three_modalities():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 1))
    blocks = {
        name: (np.hstack([shared, rng.normal(size=(300, 1))]) @ rng.normal(size=(2, 6)))
        for name in ("a", "b", "c")
    }
    rows = dict.fromkeys(blocks, np.arange(300))
    found, _ = canonical_start(blocks, rows, 1, dict.fromkeys(blocks, 1))
    assert explained(found, shared) > 0.95


def three(n: int = 900, seed: int = 0) -> tuple[dict, np.ndarray, np.ndarray, dict]:
    """Blocks of one factor that all share, one that a and b share, and one of each."""
    rng = np.random.default_rng(seed)
    of_all, of_two = rng.normal(size=(2, n, 1))
    own = {name: rng.normal(size=(n, 1)) for name in "abc"}
    blocks = {}
    for name, z in own.items():
        factors = np.hstack([of_all, z] if name == "c" else [of_all, of_two, z])
        values = factors @ rng.normal(size=(factors.shape[1], 20))
        blocks[name] = values + 0.3 * rng.normal(size=(n, 20))
    return blocks, of_all, of_two, own


@pytest.mark.parametrize("is_chain", [False, True])
@pytest.mark.parametrize("n_shared", [1, 2])
def test_a_factor_of_two_of_three_is_in_the_specific_space_of_each(n_shared, is_chain):
    """Zhang et al. 2026: shared is what all modalities see. No cell of the chain has a and c."""
    blocks, of_all, of_two, own = three()
    n = len(of_all)
    rows = {name: np.arange(n) for name in blocks}
    if is_chain:
        rows["a"][n // 2 :] = rows["c"][: n // 2] = -1
    found, specific = canonical_start(blocks, rows, n_shared, dict.fromkeys(blocks, 2))
    assert explained(found, of_all) > 0.98
    assert explained(found, of_two) < 0.02
    assert n_shared == 1 or found[:, 1:].std() == pytest.approx(FILL_SD, rel=0.1)
    for name, z in specific.items():
        cells = rows[name] >= 0
        assert explained(z, own[name][cells]) > 0.95, name
        assert (explained(z, of_two[cells]) > 0.95) == (name != "c"), name


def test_cells_of_some_modalities_have_latents_of_the_same_size():
    """A mean over two of three modalities varies more than one over all, unless it is scaled."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(3000, 1))
    blocks = {name: factor + 0.8 * rng.normal(size=(3000, 1)) for name in "abc"}
    rows = {name: np.arange(3000) for name in blocks}
    rows["a"][:1500] = -1
    found, _ = canonical_start(blocks, rows, 1, dict.fromkeys(blocks, 0))
    assert found[:1500].std() == pytest.approx(found[1500:].std(), rel=0.04)


def test_modalities_that_too_few_cells_connect():
    blocks, *_ = three(100)
    rows = {name: np.arange(100) for name in blocks}
    rows["c"][5:] = -1
    with pytest.raises(
        ValueError, match=r"5 of 100 training cells connect \['a', 'b'\] with \['c'\]"
    ):
        canonical_start(blocks, rows, 2, dict.fromkeys(blocks, 1))


def test_a_modality_of_one_column():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 1))
    blocks = {"a": shared + 0.5 * rng.normal(size=(300, 1)), "b": shared @ rng.normal(size=(1, 4))}
    blocks["b"] = blocks["b"] + 0.3 * rng.normal(size=(300, 4))
    rows = dict.fromkeys(blocks, np.arange(300))
    found, specific = canonical_start(blocks, rows, 2, {"a": 2, "b": 2})
    assert explained(found, shared) > 0.8
    assert specific["a"].shape == (300, 2)
    assert np.isfinite(specific["a"]).all()


def test_specific_latents_start_without_what_is_not_linear():
    """The square of a shared factor is uncorrelated with it, and yet no news."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(800, 1)), rng.normal(size=(800, 1))
    noise = rng.normal(size=(800, 1))
    blocks = {"a": np.hstack([shared, shared**2, own]), "b": np.hstack([shared, noise])}
    rows = dict.fromkeys(blocks, np.arange(800))
    _, specific = canonical_start(blocks, rows, 1, {"a": 1, "b": 1})
    assert explained(specific["a"], own) > 0.9
    assert explained(specific["a"], shared**2) < 0.1


def test_variates_no_better_than_chance_are_no_part_of_the_start():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 1))
    blocks = {n: np.hstack([shared, rng.normal(size=(300, 5))]) for n in ("a", "b")}
    rows = dict.fromkeys(blocks, np.arange(300))
    found, _ = canonical_start(blocks, rows, 4, dict.fromkeys(blocks, 1))
    assert found[:, 0].std() == pytest.approx(START_SD, rel=0.1)
    assert (found[:, 1:].std(axis=0) < 0.3).all()


def test_latents_without_a_direction_are_small():
    blocks, _, _ = factors()
    rows = dict.fromkeys(blocks, np.arange(400))
    found, specific = canonical_start(blocks, rows, 6, {"a": 4, "b": 0})
    assert found.shape == (400, 6)
    assert specific["b"].shape == (400, 0)
    assert (specific["a"].std(axis=0)[1:] < 0.5).all()


def test_too_few_paired_cells_for_a_canonical_start():
    blocks, _, _ = factors()
    rows = {"a": np.arange(400), "b": np.arange(400)}
    rows["a"][5:] = -1
    with pytest.raises(ValueError, match="5 of 400 training cells have all of"):
        canonical_start(blocks, rows, 2, {"a": 1, "b": 1})


# Relations that are not linear ------------------------------------------------------------------


def read(z: np.ndarray, factor: np.ndarray) -> float:
    """R2 of a factor by nearest neighbours in latents with noise, on the second half."""
    rng = np.random.default_rng(9)
    noisy = START_SD * z / z.std(axis=0) + rng.normal(size=z.shape)
    half = len(z) // 2
    found = KNeighborsRegressor(15).fit(noisy[:half], factor[:half]).predict(noisy[half:])
    return 1 - ((found - factor[half:]) ** 2).mean() / factor[half:].var()


def turning(n: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Own factor whose direction turns with a shared one, and the values of the modality."""
    rng = np.random.default_rng(0)
    shared = rng.choice([-0.7, 0.7], size=(n, 1)) + 0.05 * rng.normal(size=(n, 1))
    own = rng.choice([-1.0, 1.0], size=(n, 1)) * rng.uniform(1, 1.2, size=(n, 1))
    values = np.hstack([shared, own * np.cos(shared), own * np.sin(shared)])
    return shared, own, values + 0.02 * rng.normal(size=values.shape)


def test_a_factor_that_turns_does_not_tell_what_turns_it():
    """Two principal components give the angle away; the first and the rest of it do not."""
    shared, own, values = turning()
    left = values[:, 1:]
    _, axes = np.linalg.eigh(left.T @ left)
    assert read(left @ axes, shared) > 0.5
    found = specific_start(shared, values, 2, np.random.default_rng(0))
    assert read(found, shared) < 0.2
    assert read(found, own) > 0.6


def test_directions_that_tell_nothing_stay_as_they_are():
    """A bent relation between two own factors is no reason to take one out of the other."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(2000, 1)), rng.normal(size=(2000, 1))
    bent = own**2 - 1
    values = np.hstack([shared, 3 * own, bent]) + 0.01 * rng.normal(size=(2000, 3))
    found = specific_start(shared, values, 2, np.random.default_rng(0))
    assert abs(np.corrcoef(found[:, 1], bent[:, 0])[0, 1]) > 0.99


def test_components_of_linear_data_are_the_principal_ones():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(1000, 2)), rng.normal(size=(1000, 3)) * [3, 2, 1]
    values = np.hstack([shared, own])
    found = specific_start(shared, values, 3, np.random.default_rng(0))
    assert np.allclose(found.std(axis=0), 1, atol=1e-6)
    for k in range(3):
        assert abs(np.corrcoef(found[:, k], own[:, k])[0, 1]) > 0.99


def test_smooth_regression_beside_a_curve_and_beside_nothing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 2))
    curve = np.sin(2 * x[:, 0]) * x[:, 1]
    y = np.column_stack([curve + 0.3 * rng.normal(size=1500), rng.normal(size=1500)])
    fit = _FourierRidge(x[:1000], y[:1000], np.random.default_rng(1))
    told = 1 - ((fit.predict(x[1000:]) - y[1000:]) ** 2).mean(axis=0) / y[1000:].var(axis=0)
    share = curve.var() / (curve.var() + 0.09)
    assert told[0] > 0.9 * share
    assert fit.gain[0] / y[:1000, 0].var() == pytest.approx(told[0], abs=0.1)
    assert fit.gain[1] < 0.01
    assert abs(told[1]) < 0.05


def test_many_cells_are_regressed_by_a_sample(monkeypatch):
    shared, own, values = turning()
    monkeypatch.setattr(_start, "MAX_CELLS", 700)
    found = specific_start(shared, values, 2, np.random.default_rng(0))
    again = specific_start(shared, values, 2, np.random.default_rng(0))
    assert np.array_equal(found, again)
    assert read(found, shared) < 0.25
    assert read(found, own) > 0.6
