"""Registered covariates, which end in none of the latents."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from apollo_models import counts_mosaic, explained, trained
from mosaics import mosaic
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

import cantata
from cantata import APOLLO
from cantata.model.apollo import _batches, _model, _plan
from cantata.model.apollo._batches import (
    MAX_SEPARATION,
    mix_encoders,
    mixed,
    separation,
    without_covariates,
)


def test_joint_regression_leaves_nothing_linear() -> None:
    """Not one covariate after the other: they depend on each other."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 500)
    b = np.where(rng.random(500) < 0.85, a, 1 - a)
    told = np.stack([a, b, rng.normal(size=500)], axis=1).astype(float)
    design = np.hstack([np.eye(2)[a], np.eye(2)[b], told[:, 2:]])
    noise = rng.normal(size=(500, 6))
    x = (noise + told @ rng.normal(0, 3, size=(3, 6)) + 7).astype(np.float32)
    left = without_covariates(x, design)
    assert left.dtype == np.float32
    np.testing.assert_allclose(left.mean(axis=0), x.mean(axis=0), rtol=1e-4)
    assert abs(np.corrcoef(left.T, told.T)[:6, 6:]).max() < 1e-3
    assert explained(left, noise[:, :1]) > 0.99


def clouds(shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three states of cells, the last of which only the second of two batches has."""
    rng = np.random.default_rng(seed)
    batch = np.repeat([0, 1], [300, 400])
    state = np.concatenate([np.arange(300) % 2, np.arange(400) % 4 % 3])
    centers = 8 * np.eye(3, 6)
    direction = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    z = centers[state] + rng.normal(size=(700, 6)) + shift * batch[:, None] * direction
    return z, batch, state


@pytest.mark.parametrize(
    ("shift", "n_compared", "bound"), [(1.0, 700, 0.04), (2.5, 700, 0.04), (2.5, 400, 0.12)]
)
def test_states_of_two_batches_meet_and_the_third_stays_apart(
    monkeypatch, shift, n_compared, bound
) -> None:
    monkeypatch.setattr(_batches, "MAX_CELLS", n_compared)
    z, batch, state = clouds(shift)
    both = state < 2
    assert separation(z[both], batch[both]) > 0.1
    found = z
    for _ in range(8):  # as often as training does
        found = mixed(found, batch)
    assert separation(found[both], batch[both]) < bound
    vote = KNeighborsClassifier(15).fit(found[batch == 0], state[batch == 0])
    of_second = (batch == 1) & both
    assert (vote.predict(found[of_second]) == state[of_second]).mean() > 0.97
    (own,) = (found[state == k].mean(axis=0) for k in [2])
    distances = [np.linalg.norm(own - found[state == k].mean(axis=0)) for k in (0, 1)]
    assert min(distances) > 10


def test_mixed_batches_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    z, batch = rng.normal(size=(600, 3)), rng.integers(0, 2, 600)
    assert separation(z, batch) < MAX_SEPARATION
    np.testing.assert_array_equal(mixed(z, batch), z)
    np.testing.assert_array_equal(mixed(z[:, :0], batch), z[:, :0])
    np.testing.assert_array_equal(mixed(z, np.zeros(600)), z)


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_a_registered_batch_that_both_modalities_show_ends_nowhere(loss) -> None:
    """Accuracy of a vote of 15 neighbours, which is .8 to 1 where the batch is not registered."""
    data = cantata.datasets.simulate_disentangled(1, n_cells=1600, noise=0.3, batch_effect=1)
    scvi.settings.seed = 0
    APOLLO.setup_mudata(data, batch_key="batch")
    model = APOLLO(data, n_shared=3, n_specific=3, losses=loss)
    model.train(train_size=0.5, enable_progress_bar=False, accelerator="cpu")
    table = model.get_latent_table()
    train = data.obs_names.get_indexer(table.index)
    held_out = np.setdiff1d(np.arange(data.n_obs), train)
    batch = data.obs["batch"].to_numpy()
    spaces = {name: model.get_latent_representation(modality=name) for name in ("x", "y")}
    spaces["joint"] = model.get_latent_representation()
    fitted = KNeighborsClassifier(15).fit(table, batch[train])
    near = fitted.kneighbors(return_distance=False)
    of_second = (batch[train][near] == "b1").mean(axis=1) > 0.5
    accuracy = {"table": (of_second == (batch[train] == "b1")).mean()}
    for name, z in spaces.items():
        vote = KNeighborsClassifier(15).fit(z[train], batch[train])
        accuracy[name] = vote.score(z[held_out], batch[held_out])
    assert max(accuracy.values()) < 0.55, accuracy
    for factor in ("Z1", "Z2"):
        values = data.obs[[factor]].to_numpy(dtype=float)
        assert explained(spaces["joint"], values) > 0.95
        assert explained(table.to_numpy(), values[train]) > 0.95


def test_a_state_that_only_one_batch_has_stays_apart() -> None:
    """Batches are not to be drawn onto each other where they differ in what they hold."""
    rng = np.random.default_rng(1)
    n = 800
    batch = np.repeat([0, 1], n // 2)
    state = np.where(batch == 0, rng.integers(0, 3, n), rng.integers(0, 4, n))
    shared = 1.5 * rng.normal(size=(4, 5))[state] + 0.5 * rng.normal(size=(n, 5))
    parts = {}
    for name, p in (("x", 60), ("y", 40)):
        factors = np.hstack([shared, rng.normal(size=(n, 3))])
        x = factors @ rng.normal(size=(8, p)) + 0.5 * rng.normal(size=(n, p))
        x += 2 * batch[:, None] * rng.normal(size=p)
        parts[name] = AnnData(x.astype(np.float32))
        parts[name].obs_names = [f"c{i}" for i in range(n)]
        parts[name].obs["batch"] = np.where(batch == 0, "b0", "b1")
    scvi.settings.seed = 1
    data = mosaic(parts)
    APOLLO.setup_mudata(data, batch_key="batch")
    model = APOLLO(data, n_shared=8, n_specific=5, losses="mse")
    model.train(enable_progress_bar=False, accelerator="cpu")
    z = model.get_latent_representation()
    vote = cross_val_predict(KNeighborsClassifier(15), z, state, cv=5)
    assert (vote[state == 3] == 3).mean() > 0.95
    assert (vote == state).mean() > 0.98
    both = state < 3
    assert separation(z[both], batch[both]) < 0.05


def test_latents_are_mixed_eight_times_and_last(monkeypatch) -> None:
    """Seven times between epochs, so that decoders follow, and once when the stage is done."""
    calls = []

    def spy(z, batch):
        calls.append(len(z))
        assert len(batch) == len(z)
        return z + len(calls)

    monkeypatch.setattr(_plan, "mixed", spy)
    still = {"lr_latents": 1e-12, "lr_schedule": "constant"}
    train = {"max_epochs": 16, "early_stopping": False, "plan_kwargs": still}
    model = trained(counts_mosaic(), None, train)
    assert len(calls) == 8
    assert set(calls) == {len(model.get_latent_table())}
    moved = model.get_latent_table().to_numpy().mean()
    assert moved == pytest.approx(sum(range(1, 9)), abs=1)  # from a start around 0
    trained(counts_mosaic(), {}, train)  # no batch is registered
    assert len(calls) == 8


def test_encoders_learn_to_say_the_same_in_all_batches(monkeypatch) -> None:
    """Inputs of one batch are moved, which no training has seen."""
    seen = []
    monkeypatch.setattr(_model, "mix_encoders", lambda *arguments: seen.append(arguments))
    data = cantata.datasets.simulate_disentangled(1, n_cells=500, noise=0.3)
    data.obs["batch"] = [f"b{i % 2}" for i in range(500)]
    train = {"max_epochs": 8, "encoder_epochs": 4, "batch_size": 128}
    model = trained(data, {"batch_key": "batch"}, train, losses="mse")
    trained(data, {}, train, losses="mse")
    ((net, inputs, covariates, table_rows, _),) = seen  # with a registered batch alone
    second = covariates.batch == 1
    rng = np.random.default_rng(0)
    for x in inputs.values():
        x[second] += torch.from_numpy(rng.normal(0, 1.5, x.shape[1]).astype(np.float32))
    is_train = (table_rows["shared"] >= 0).numpy()

    def apart() -> dict[str, float]:
        net.eval()
        with torch.inference_mode():
            z = {n: net.encode(n, x, covariates)[0].numpy()[is_train] for n, x in inputs.items()}
        z["joint"] = (z["x"] + z["y"]) / 2
        return {n: separation(part, second.numpy()[is_train]) for n, part in z.items()}

    before = apart()
    assert min(before.values()) > 0.2, before
    mix_encoders(net, inputs, covariates, table_rows)
    after = apart()
    assert max(after.values()) < 0.06, after
    assert model.module is net
    z = model.get_latent_table().to_numpy()
    with torch.inference_mode():
        encoded = net.encode("x", inputs["x"], covariates)[0].numpy()[is_train]
    for factor in ("Z1", "Z2"):
        values = data.obs[[factor]].to_numpy(dtype=float)[is_train]
        assert explained(encoded, values) > 0.9 * explained(z, values)
