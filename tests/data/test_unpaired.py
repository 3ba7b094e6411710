"""Minibatches of unpaired modalities: each cell's own id is written into all that is read."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from linked_mosaics import SMALL
from mosaics import mosaic
from scipy import sparse

from cantata import SCMODAL
from cantata._numeric.composition import composition_weights
from cantata.data import StepSampler, UnpairedDataModule, UnpairedDataset, paired_key
from cantata.model.scmodal._module import covariates_key, linked_key
from cantata.model.scmodal._training import draw_weights, known_pairs, readers_of

if TYPE_CHECKING:
    import mudata


def id_mosaic(
    member: np.ndarray, names: list[str], pairs: list[tuple[str, str]], seed: int = 0
) -> mudata.MuData:
    """Values, linked features and covariates are the cell's id; rows have an order of their own.

    Modality k holds id + k + 1, its features linked to modality l hold id + 1000 (k + 1) + l.
    """
    rng = np.random.default_rng(seed)
    parts = {}
    for k, name in enumerate(names):
        rows = rng.permutation(np.flatnonzero(member[:, k]))
        x = np.repeat((rows + k + 1).astype(np.float32)[:, None], 3, axis=1)
        parts[name] = AnnData(sparse.csr_matrix(x) if k else x)
        parts[name].obs_names = [f"cell{i}" for i in rows]
        parts[name].var_names = [f"{name}_{j}" for j in range(3)]
        parts[name].obs["batch"] = [f"b{i % 3}" for i in rows]
        parts[name].obs["site"] = [f"s{i % 2}" for i in rows]
        parts[name].obs["age"] = rows.astype(float)
        for pair in pairs:
            if name in pair:
                other = pair[pair[0] == name]
                linked = np.repeat((rows + 1000.0 * (k + 1) + names.index(other))[:, None], 2, 1)
                parts[name].obsm[f"X_linked_{other}"] = linked
    return mosaic(parts)


def model_of(mdata: mudata.MuData, pairs: list[tuple[str, str]]) -> SCMODAL:
    SCMODAL.setup_mudata(
        mdata,
        pairs=pairs,
        batch_key="batch",
        categorical_covariate_keys=["site"],
        continuous_covariate_keys=["age"],
    )
    model = SCMODAL(mdata, transforms=None, **SMALL)
    model._fit_inputs()
    return model


def dataset_of(model: SCMODAL, *, use_paired: bool = False, batch_size: int = 11):
    names = model.modalities
    return UnpairedDataset(
        {m: readers_of(model, m, names) for m in names},
        {m: np.arange(model.adata[m].n_obs) for m in names},
        paired=known_pairs(model) if use_paired else None,
        batch_size=batch_size,
    )


def ids_of(model: SCMODAL, batch: dict, modality: str) -> np.ndarray:
    """Ids of the rows, read back from the standardised values."""
    values = model.module.input(modality).inverse(batch[modality]).numpy()
    assert np.ptp(values, axis=1).max() < 1e-2
    return np.round(values[:, 0] - model.modalities.index(modality) - 1).astype(int)


def assert_lined_up(model: SCMODAL, batch: dict) -> None:
    ages = pd.Series({name: float(name[4:]) for name in model.adata.obs_names})
    for k, name in enumerate(model.modalities):
        ids = ids_of(model, batch, name)
        assert set(ids) <= {int(cell[4:]) for cell in model.adata[name].obs_names}
        codes = batch[covariates_key(name, "categorical_covariates")].numpy()
        np.testing.assert_array_equal(codes, np.column_stack([ids % 3, ids % 2]))
        age = batch[covariates_key(name, "continuous_covariates")].numpy()
        np.testing.assert_allclose(
            age[:, 0], (ids - ages.mean()) / ages.std(ddof=0), rtol=1e-4, atol=1e-5
        )
        for pair in model.module.pairs:
            if name in pair:
                other = pair[pair[0] == name]
                linked = batch[linked_key(name, other)].numpy()
                expected = ids + 1000.0 * (k + 1) + model.modalities.index(other)
                np.testing.assert_array_equal(linked, np.column_stack([expected, expected]))


CHAIN = [("a", "b"), ("b", "c"), ("c", "d")]
HUB = [("b", "a"), ("b", "c"), ("d", "b")]


@pytest.mark.parametrize("pairs", [CHAIN, HUB])
@pytest.mark.parametrize("seed", range(3))
def test_everything_that_is_read_is_of_one_cell(pairs, seed: int) -> None:
    rng = np.random.default_rng(seed)
    member = rng.random((50, 4)) < 0.4
    member[~member.any(axis=1), rng.integers(0, 4)] = True
    model = model_of(id_mosaic(member, list("abcd"), pairs, seed), pairs)
    dataset = dataset_of(model)
    for step in range(4):
        assert_lined_up(model, dataset[step])


@pytest.mark.parametrize("pairs", [CHAIN, HUB, CHAIN[:1]])
@pytest.mark.parametrize("batch_size", [1, 2, 11, 12])
def test_paired_rows_are_the_same_cell(pairs, batch_size: int) -> None:
    names = sorted({name for pair in pairs for name in pair})
    member = np.random.default_rng(0).random((60, len(names))) < 0.6
    member[~member.any(axis=1), 0] = True
    model = model_of(id_mosaic(member, names, pairs), pairs)
    dataset = dataset_of(model, use_paired=True, batch_size=batch_size)
    busiest = max(sum(name in pair for pair in pairs) for name in names)
    for step in range(5):
        batch = dataset[step]
        assert_lined_up(model, batch)
        for pair in pairs:
            places = batch[paired_key(*pair)].numpy()
            assert places.shape == (2, batch_size // (busiest + 1))
            first, second = (ids_of(model, batch, m)[p] for m, p in zip(pair, places, strict=True))
            np.testing.assert_array_equal(first, second)
        for one, two in combinations(pairs, 2):
            for name in set(one) & set(two):  # no two pairs share a place
                ours, theirs = (batch[paired_key(*p)][p.index(name)].tolist() for p in (one, two))
                assert not set(ours) & set(theirs)


def test_a_part_of_every_minibatch_is_of_cells_without_a_partner() -> None:
    """Also where a modality is in several pairs."""
    member = np.ones((60, 3), dtype=bool)
    member[:20, [0, 2]] = False
    pairs = CHAIN[:2]
    model = model_of(id_mosaic(member, list("abc"), pairs), pairs)
    dataset = dataset_of(model, use_paired=True, batch_size=30)
    drawn = np.concatenate([ids_of(model, dataset[step], "b") for step in range(20)])
    assert 0.05 < (drawn < 20).mean() < 0.2


def plain(batch_size: int = 50, seed: int | None = 0, **rows: np.ndarray) -> UnpairedDataset:
    readers = {name: {name: lambda r: r.astype(np.float32)[:, None]} for name in rows}
    return UnpairedDataset(readers, rows, batch_size=batch_size, seed=seed)


def test_draws_are_a_function_of_seed_and_step() -> None:
    rows = {"a": np.arange(40), "b": np.arange(7)}
    one, two, other = plain(**rows), plain(**rows), plain(seed=1, **rows)
    for step in (0, 17, 3):
        assert one[step]["a"].equal(two[step]["a"])
        assert one[step]["b"].equal(one[step]["b"])
        assert not one[step]["a"].equal(other[step]["a"])
    assert not one[0]["a"].equal(one[1]["a"])
    scvi.settings.seed = 1
    assert plain(seed=None, **rows)[5]["a"].equal(other[5]["a"])


def test_rows_are_drawn_with_replacement_and_alike() -> None:
    rows = np.array([3, 5, 8, 9])
    dataset = plain(batch_size=100, a=rows)
    drawn = np.concatenate([dataset[step]["a"].numpy().ravel() for step in range(30)])
    values, n = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(values, rows)
    assert (np.abs(n - 750) < 5 * np.sqrt(750 * 0.75)).all()


def test_no_rows_to_a_minibatch_is_an_error() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        plain(batch_size=0, a=np.arange(3))


@pytest.mark.parametrize("max_steps", [1, 100, 101, 250])
def test_epochs_number_all_steps_once(max_steps: int) -> None:
    sampler = StepSampler(max_steps)
    steps, lengths = [], []
    for epoch in range(-(-max_steps // 100) + 1):
        sampler.set_epoch(epoch)
        lengths.append(len(sampler))
        steps += list(sampler)
    assert steps == list(range(max_steps))
    assert sum(lengths) == max_steps
    assert lengths[-1] == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_gives_the_steps_of_the_trainers_epoch(num_workers: int) -> None:
    dataset = plain(batch_size=3, a=np.arange(40))
    module = UnpairedDataModule(dataset, 205, num_workers=num_workers)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(current_epoch=2, strategy=strategy)
    batches = list(module.train_dataloader())
    assert len(batches) == 5
    for step, batch in zip(range(200, 205), batches, strict=True):
        assert batch["a"].equal(dataset[step]["a"])


def test_defaults_of_minibatches_and_steps() -> None:
    values = np.arange(2000, dtype=np.float32)[:, None]
    scvi.settings.seed = 0
    readers = {"rna": {"rna": lambda rows: values[rows]}}
    first = UnpairedDataset(readers, {"rna": np.arange(2000)})[0]["rna"]
    assert first.shape == (500, 1)
    assert first[:, 0].tolist() == np.random.default_rng((0, 0)).integers(2000, size=500).tolist()
    assert list(StepSampler(250)) == list(range(100))


def test_rows_are_drawn_by_their_weights() -> None:
    weights = np.array([1.0, 0.0, 3.0, 6.0])
    values = np.arange(40, dtype=np.float32)
    readers = {m: {m: lambda rows: values[rows]} for m in ("a", "b")}
    rows = {"a": np.array([5, 6, 7, 8]), "b": np.arange(10, 14)}
    weighted, plain = (
        UnpairedDataset(readers, rows, weights=w, batch_size=20_000, seed=0)[3]
        for w in ({"a": weights}, None)
    )
    share = np.bincount(weighted["a"].numpy().astype(int), minlength=9)[5:9] / 20_000
    np.testing.assert_allclose(share, weights / weights.sum(), atol=0.01)
    # a modality without weights is drawn evenly, without any all are as they were
    for found in (weighted["b"], plain["b"], plain["a"]):
        counts = np.unique(found.numpy(), return_counts=True)[1]
        np.testing.assert_allclose(counts / 20_000, 0.25, atol=0.01)
    rng = np.random.default_rng((0, 3))
    assert np.array_equal(plain["a"], values[rows["a"][rng.integers(4, size=20_000)]])


def test_weights_of_several_pairs_are_their_geometric_mean() -> None:
    rng = np.random.default_rng(0)
    sizes = {"a": 300, "b": 400, "c": 250}
    pairs = [("a", "b"), ("b", "c")]
    linked = {
        (m, o): rng.normal(size=(sizes[m], 4)).astype(np.float32) + (m == "c") * np.eye(4)[0] * 3
        for pair in pairs
        for m, o in (pair, pair[::-1])
    }
    readers = {
        m: {linked_key(*key): values.__getitem__ for key, values in linked.items() if key[0] == m}
        for m in sizes
    }
    found = draw_weights(pairs, readers, sizes)
    ab = composition_weights(linked["a", "b"], linked["b", "a"])
    bc = composition_weights(linked["b", "c"], linked["c", "b"])
    np.testing.assert_allclose(found["a"], ab[0])
    np.testing.assert_allclose(found["b"], np.sqrt(ab[1] * bc[0]))
    np.testing.assert_allclose(found["c"], bc[1])
    # a modality without cells is linked to nothing
    assert list(draw_weights(pairs, {m: readers[m] for m in "ab"}, sizes)) == ["a", "b"]
