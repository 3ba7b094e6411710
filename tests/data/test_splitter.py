"""Splits keep rare pairing patterns in every part."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scvi
import torch
from mosaics import counts_mosaic

from cantata import CLUE
from cantata._mudata.pairing import membership
from cantata.data import MosaicSplitter, stratified_split


def rare_pairs():
    member = np.ones((200, 2), dtype=bool)
    member[:98, 0] = False
    member[98:196, 1] = False
    return counts_mosaic(member=member, n_cells=200)


@pytest.mark.parametrize("train_size", [0.5, 0.9])
def test_rare_paired_cells_are_in_both_parts(train_size: float) -> None:
    mdata = rare_pairs()
    train, valid, test = stratified_split(mdata, ["rna", "adt"], train_size)
    paired = membership(mdata).all(axis=1)
    assert paired.sum() == 4
    assert paired[train].sum() >= 1
    assert paired[valid].sum() >= 1
    assert len(test) == 0
    assert sorted(np.concatenate([train, valid])) == list(range(200))


@pytest.mark.parametrize(("min_pairs", "is_split"), [(4, True), (5, False)])
def test_few_pairs_stay_together(min_pairs: int, is_split: bool) -> None:
    mdata = rare_pairs()
    train, valid, _ = stratified_split(mdata, ["rna", "adt"], 0.9, min_pairs=min_pairs)
    paired = membership(mdata).all(axis=1)
    assert paired[valid].any() == is_split
    assert sorted(np.concatenate([train, valid])) == list(range(200))
    assert len(valid) == 20 + is_split
    # unless nothing would be held out
    pairs = counts_mosaic(n_cells=200, member=np.ones((200, 2), dtype=bool))
    assert len(stratified_split(pairs, ["rna", "adt"], 0.9, min_pairs=201)[1]) == 20


def test_test_part_and_seed() -> None:
    mdata = rare_pairs()
    parts = stratified_split(mdata, ["rna", "adt"], 0.6, 0.2, seed=1)
    assert sorted(np.concatenate(parts)) == list(range(200))
    assert len(parts[2]) > 20
    again = stratified_split(mdata, ["rna", "adt"], 0.6, 0.2, seed=1)
    other = stratified_split(mdata, ["rna", "adt"], 0.6, 0.2, seed=2)
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[0], other[0])


def test_all_cells_can_be_trained_on() -> None:
    mdata = rare_pairs()
    train, valid, test = stratified_split(mdata, ["rna", "adt"], 1.0)
    assert len(train) == 200
    assert len(valid) == len(test) == 0


@pytest.mark.parametrize("train_size", [0.3, 0.5, 0.7])
def test_no_cell_is_left_out_by_rounding(train_size: float) -> None:
    member = np.ones((15, 2), dtype=bool)
    member[:5, 0] = False
    member[5:8, 1] = False
    mdata = counts_mosaic(member=member, n_cells=15)
    parts = stratified_split(mdata, ["rna", "adt"], train_size)
    assert sorted(np.concatenate(parts[:2])) == list(range(15))
    assert len(parts[2]) == 0


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("options", [{}, {"shuffle_set_split": False}, {"train_size": 0.6}])
def test_splitter_draws_within_patterns(options: dict, seed: int) -> None:
    scvi.settings.seed = seed
    mdata = rare_pairs()
    CLUE.setup_mudata(mdata)
    splitter = MosaicSplitter(CLUE(mdata).adata_manager, batch_size=50, **options)
    splitter.setup()
    size, shuffle = options.get("train_size", 0.9), options.get("shuffle_set_split", True)
    parts = stratified_split(mdata, ["rna", "adt"], size, seed=seed, shuffle=shuffle)
    for found, part in zip((splitter.train_idx, splitter.val_idx), parts[:2], strict=True):
        np.testing.assert_array_equal(np.sort(found), part)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        MosaicSplitter(CLUE(mdata).adata_manager, batch_size=0)


@pytest.mark.parametrize("train_size", [0.0, 1.2])
def test_training_size_out_of_range(train_size: float) -> None:
    with pytest.raises(ValueError, match=r"train_size must be in \(0, 1\]"):
        stratified_split(rare_pairs(), ["rna", "adt"], train_size)


@pytest.mark.parametrize("sizes", [("a", None), (0.9, "0.1")])
def test_fractions_that_are_no_numbers(sizes: tuple) -> None:
    with pytest.raises(TypeError, match="_size must be a fraction of the cells, got '"):
        stratified_split(rare_pairs(), ["rna", "adt"], *sizes)


@pytest.mark.parametrize(("train", "valid"), [(0.0, None), (1.2, None), (0.9, 0.3), (0.5, -0.1)])
def test_fractions_out_of_range(train: float, valid: float | None) -> None:
    with pytest.raises(ValueError, match="train_size"):
        stratified_split(rare_pairs(), ["rna", "adt"], train, valid)


def test_training_cells_come_in_the_order_of_the_trainers_epoch() -> None:
    scvi.settings.seed = 3
    mdata = rare_pairs()
    CLUE.setup_mudata(mdata)
    parts = [np.arange(150), np.arange(150, 200), np.arange(0)]
    splitter = MosaicSplitter(CLUE(mdata).adata_manager, external_indexing=parts, batch_size=64)
    splitter.setup()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    splitter.trainer = SimpleNamespace(current_epoch=2, strategy=strategy)
    loader = splitter.train_dataloader()
    order = np.random.default_rng((3, 2)).permutation(150)
    assert next(iter(loader))["cell"].tolist() == order[:64].tolist()


@pytest.mark.parametrize("shares", [(0.8, None), (0.6, 0.2), (0.9, None)])
def test_groups_are_in_one_part_each(shares: tuple[float, float | None]) -> None:
    groups = np.repeat([f"g{i}" for i in range(12)], np.arange(5, 17))
    n = len(groups)
    parts = stratified_split(mosaic_of(n), ["rna", "adt"], *shares, groups=groups)
    assert sorted(np.concatenate(parts)) == list(range(n))
    named = [set(groups[part]) for part in parts]
    assert sum(map(len, named)) == 12
    wanted = (shares[0], 1 - shares[0] if shares[1] is None else shares[1])
    for part, share in zip(parts[:2], wanted, strict=True):
        assert abs(len(part) / n - share) < 0.08
    again = stratified_split(mosaic_of(n), ["rna", "adt"], *shares, groups=groups, seed=1)
    assert not np.array_equal(parts[0], again[0])


def test_two_groups_are_one_to_train_and_one_to_validate() -> None:
    groups = np.repeat(["a", "b"], [60, 20])
    train, valid, test = stratified_split(mosaic_of(80), ["rna", "adt"], 0.9, groups=groups)
    assert len(train)
    assert len(valid)
    assert not len(test)
    # the smallest is held out where all are larger than what is asked for
    assert set(groups[valid]) == {"b"}
    for seed in range(4):
        very = np.repeat(["a", "b", "c"], [60, 2, 18])
        parts = stratified_split(mosaic_of(80), ["rna", "adt"], 0.9, groups=very, seed=seed)
        assert len(parts[1]) < 20
    with pytest.raises(ValueError, match="All cells are of one group, 'a'"):
        stratified_split(mosaic_of(80), ["rna", "adt"], 0.9, groups=np.repeat("a", 80))


def mosaic_of(n: int):
    return counts_mosaic(member=np.ones((n, 2), dtype=bool), n_cells=n)
