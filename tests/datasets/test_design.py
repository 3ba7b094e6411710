"""Kinds, pairing patterns and exact shares of a simulated study."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cantata.datasets._design import (
    assign_patterns,
    exact_shares,
    resolve_features,
    resolve_kinds,
    resolve_pairing,
    stream,
)

NAMES = ["rna", "adt", "atac", "m4", "m5"]


@pytest.mark.parametrize("n", [1, 7, 100, 1601])
@pytest.mark.parametrize("shares", [[1.0], [0.25, 0.25, 0.5], [1, 1, 1], [0.9, 0.09, 0.01]])
def test_exact_shares_are_the_largest_remainders(n, shares):
    counts = exact_shares(n, shares)
    ideal = [n * share / sum(shares) for share in shares]
    naive = [int(value + 1e-9) for value in ideal]
    remainders = [value - count for value, count in zip(ideal, naive, strict=True)]
    for _ in range(n - sum(naive)):
        largest = int(np.argmax(remainders))
        naive[largest] += 1
        remainders[largest] -= 1
    assert counts.tolist() == naive
    assert counts.sum() == n


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("pairing", ["full", "partial", "none"])
def test_named_pairings(k, pairing):
    names = NAMES[:k]
    shares = resolve_pairing(pairing, names)
    assert sum(shares.values()) == pytest.approx(1)
    sizes = {len(pattern) for pattern in shares}
    expected = {"full": {k}, "none": {1}, "partial": {1, k}}[pairing]
    assert sizes == expected
    if pairing == "partial" and k > 1:
        assert shares[tuple(names)] == 0.5


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_all_patterns_are_assigned_with_exact_shares(k):
    names = NAMES[:k]
    patterns = [p for r in range(1, k + 1) for p in itertools.combinations(names, r)]
    weights = np.arange(1, len(patterns) + 1)
    shares = resolve_pairing(dict(zip(patterns, weights / weights.sum(), strict=True)), names)
    n_cells = int(weights.sum())
    member = assign_patterns(n_cells, shares, names, stream(0, "pairing"))
    found = [tuple(np.array(names)[row]) for row in member]
    assert [found.count(pattern) for pattern in patterns] == weights.tolist()
    if k > 1:
        assert found != sorted(found), "patterns must be in random order"


def test_patterns_do_not_depend_on_the_order_of_their_modalities():
    shares = resolve_pairing({("adt", "rna"): 0.5, "rna": 0.5}, ["rna", "adt"])
    assert shares == {("rna", "adt"): 0.5, ("rna",): 0.5}


@pytest.mark.parametrize(
    ("pairing", "error", "message"),
    [
        ("some", ValueError, "choose 'partial', 'full', 'none'"),
        ({"rna": 0.5, "atac": 0.5}, KeyError, "atac"),
        ({("rna", "adt"): 0.5}, ValueError, "sum to 0.5"),
        ({"rna": 1.0}, ValueError, "no pattern contains modality 'adt'"),
        ({("rna", "adt"): 0.5, ("adt", "rna"): 0.5}, ValueError, "repeats"),
        ({("rna", "rna"): 0.5, "adt": 0.5}, ValueError, "repeats"),
        ({"rna": 1.5, "adt": -0.5}, ValueError, "must be > 0"),
        ({(): 0.5, ("rna", "adt"): 0.5}, KeyError, "not made of"),
    ],
)
def test_unusable_pairings(pairing, error, message):
    with pytest.raises(error, match=message):
        resolve_pairing(pairing, ["rna", "adt"])


def test_a_modality_without_cells_is_an_error():
    shares = {("rna",): 0.999, ("adt",): 0.001}
    with pytest.raises(ValueError, match="'adt' gets no cell"):
        assign_patterns(10, shares, ["rna", "adt"], stream(0, "pairing"))


def test_kinds_by_name_and_as_stated():
    assert resolve_kinds(["GEX", "prot", "peaks"], None) == {
        "GEX": "rna",
        "prot": "protein",
        "peaks": "atac",
    }
    assert resolve_kinds(["rna", "x"], {"x": "protein"}) == {"rna": "rna", "x": "protein"}


@pytest.mark.parametrize(
    ("names", "kinds", "error", "message"),
    [
        (["rna", "image"], None, ValueError, "'image'"),
        (["rna"], {"adt": "protein"}, KeyError, "'adt'"),
        (["rna"], {"rna": "pixels"}, ValueError, "'pixels'"),
    ],
)
def test_unusable_kinds(names, kinds, error, message):
    with pytest.raises(error, match=message):
        resolve_kinds(names, kinds)


@pytest.mark.parametrize(
    "features", [{}, dict.fromkeys("abcdef", 3), {"rna": 0}, {"a/b": 3}, {"a:b": 3}, {"": 3}]
)
def test_unusable_features(features):
    with pytest.raises(ValueError, match="n_features"):
        resolve_features(features)


def test_streams_differ_by_name_and_seed():
    draws = [stream(seed, name).random() for seed in (0, 1) for name in ("a", "b")]
    assert len(set(draws)) == 4
    assert stream(1, "a").random() == draws[2]
