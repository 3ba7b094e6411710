"""Pairing patterns, their names, and groups of modalities that cells connect."""

from __future__ import annotations

import numpy as np

from cantata._mudata.pairing import connected_groups
from cantata._mudata.patterns import natural_order, pattern_codes, pattern_name


def test_pattern_names() -> None:
    codes = pattern_codes(np.array([[True, False], [True, True], [False, False]]))
    assert [pattern_name(c, ["rna", "adt"]) for c in codes] == ["rna only", "rna + adt", "none"]


def test_natural_order() -> None:
    names = ["d10", "d2", "a", "d1", "10", "9"]
    assert natural_order(names) == ["9", "10", "a", "d1", "d2", "d10"]


def test_groups_share_no_cell() -> None:
    member = np.array([[1, 1, 0, 0]] * 5 + [[0, 0, 1, 1]] * 4 + [[0, 0, 1, 0]], dtype=bool)
    names = ["rna", "adt", "atac", "cytof"]
    assert connected_groups(member, names) == [["rna", "adt"], ["atac", "cytof"]]
    assert connected_groups(member[:, [0, 2, 1, 3]], ["rna", "atac", "adt", "cytof"]) == [
        ["rna", "adt"],
        ["atac", "cytof"],
    ]


def test_chain_of_pairs_is_one_group() -> None:
    member = np.array([[1, 0, 1], [0, 1, 1]], dtype=bool)
    assert connected_groups(member, ["a", "b", "c"]) == [["a", "b", "c"]]
