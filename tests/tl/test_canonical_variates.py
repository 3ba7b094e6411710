"""Canonical variates of a MuData: against the paper's formulas, on cells that were left out."""

from __future__ import annotations

import numpy as np
import pytest
from mosaics import counts_mosaic

import cantata
from cantata._mudata.pairing import row_table
from cantata._numeric.canonical import RIDGES
from cantata.metrics import foscttm


def with_reps(sizes: dict[str, int], member: np.ndarray, *, shift: float = 0.0, seed: int = 0):
    """Mosaic whose representations hold two common factors, and an effect of the batch."""
    mdata = counts_mosaic(sizes, member, n_cells=len(member), seed=seed)
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(len(member), 2))
    batch = np.array([int(name[1:]) % 2 for name in mdata.obs_names])
    for name, rows in row_table(mdata).items():
        cells = np.flatnonzero(rows >= 0)
        cells = cells[np.argsort(rows[cells])]
        values = factors[cells] @ rng.normal(size=(2, 5)) + rng.normal(size=(len(cells), 5))
        values += shift * np.outer(batch[cells], rng.normal(size=5))
        mdata[name].obsm["X_rep"] = values
    return mdata, batch


def test_two_modalities_are_hotellings() -> None:
    mdata, _ = with_reps({"rna": 8, "adt": 6}, np.ones((300, 2), dtype=bool))
    train = np.random.default_rng(0).random(300) < 0.7
    weights = cantata.tl.canonical_variates(mdata, use_rep="X_rep", n_variates=2, cells=train)
    table = row_table(mdata)
    x, y = (mdata[name].obsm["X_rep"][table[name]] for name in mdata.mod)
    whites = []
    for ridge in RIDGES:
        white = []
        for block in (x, y):
            centred = block - block[train].mean(axis=0)
            covariance = centred[train].T @ centred[train] / train.sum()
            covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
            values, vectors = np.linalg.eigh(covariance)
            white.append(centred @ vectors @ np.diag(values**-0.5) @ vectors.T)
        left, _, right = np.linalg.svd(white[0][train].T @ white[1][train])
        pair = []
        for variates in (white[0] @ left[:, :2], white[1] @ right[:2].T):
            scaled = variates / variates[train].std(axis=0) * weights.to_numpy()
            pair.append(scaled / np.linalg.norm(scaled, axis=1, keepdims=True))
        whites.append(pair)
    found = [mdata[name].obsm["X_cca"][table[name]] for name in mdata.mod]
    # one of the ridges; distances within and between modalities do not know signs
    grams = [[a @ b.T for a in pair for b in pair] for pair in (found, *whites)]
    errors = [
        max(np.abs(a - b).max() for a, b in zip(grams[0], g, strict=True)) for g in grams[1:]
    ]
    assert min(errors) < 1e-5
    joint = sum(found)
    joint = joint / np.linalg.norm(joint, axis=1, keepdims=True)
    np.testing.assert_allclose(mdata.obsm["X_cca"], joint, atol=1e-5)
    held = ~train
    assert foscttm(found[0][held], found[1][held]) < 0.25


def test_cells_that_are_left_out_do_not_matter() -> None:
    member = np.ones((200, 3), dtype=bool)
    member[:60, 0] = member[60:120, 1] = member[120:170, 2] = False
    mdata, _ = with_reps({"rna": 8, "adt": 6, "atac": 9}, member)
    train = np.random.default_rng(0).random(200) < 0.7
    cantata.tl.canonical_variates(mdata, use_rep="X_rep", cells=train, key_added="first")
    table = row_table(mdata)
    for name, rows in table.items():
        mdata[name].obsm["X_rep"][rows[(rows >= 0) & ~train]] += 5
    cantata.tl.canonical_variates(mdata, use_rep="X_rep", cells=train, key_added="second")
    for name, rows in table.items():
        seen = rows[(rows >= 0) & train]
        first, second = (mdata[name].obsm[key] for key in ("first", "second"))
        np.testing.assert_allclose(first[seen], second[seen], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


def test_batches_are_not_found_in_common() -> None:
    mdata, batch = with_reps({"rna": 8, "adt": 6}, np.ones((400, 2), dtype=bool), shift=6)
    told = []
    for key in (None, "batch"):
        cantata.tl.canonical_variates(mdata, use_rep="X_rep", n_variates=2, batch_key=key)
        of_batch = [np.corrcoef(v, batch)[0, 1] ** 2 for v in mdata.obsm["X_cca"].T]
        told.append(max(of_batch))
    assert told[0] > 0.5
    assert told[1] < 0.2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"use_rep": "X_none"}, KeyError, "X_none.* does not exist"),
        ({"cells": np.arange(30)}, ValueError, "cells must be a mask of the 60 cells"),
        ({"cells": np.arange(60) < 10}, ValueError, "0 cells have several of the modalities"),
        ({"modalities": ["rna"]}, ValueError, "0 cells have several of the modalities"),
        ({"batch_key": "lane"}, KeyError, "lane"),
        ({"batch_key": "few"}, ValueError, "2 of 60 cells have no batch in batch_key='few'"),
        ({"batch_key": "each"}, ValueError, "batch_key='each' has 60 values in 60 cells"),
        ({"n_variates": 0}, ValueError, "n_variates"),
        ({"use_rep": {"rna": "X_rep", "adt": "X_same"}}, ValueError, r"'adt'.*'X_same'\] is the"),
    ],
)
def test_bad_input_is_named(options: dict, error: type[Exception], message: str) -> None:
    member = np.ones((60, 2), dtype=bool)
    member[:15, 0] = False
    mdata, _ = with_reps({"rna": 8, "adt": 6}, member)
    mdata["adt"].obsm["X_same"] = np.ones((mdata["adt"].n_obs, 3))
    mdata.obs["few"] = [None, None] + ["a"] * 58
    mdata.obs["each"] = mdata.obs_names
    with pytest.raises(error, match=message):
        cantata.tl.canonical_variates(mdata, **({"use_rep": "X_rep"} | options))
    assert "X_cca" not in mdata.obsm
