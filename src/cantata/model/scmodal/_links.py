"""What scMODAL asks of feature links: pairs that form a tree, and matrices of linked features."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cantata import _keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

Pair = tuple[str, str]


def resolve_pairs(mdata: MuData, names: Sequence[str], pairs: Sequence[Pair] | None) -> list[Pair]:
    """Linked pairs of the modalities of a model, by default all; they must form a tree.

    Raises
    ------
    KeyError
        If a pair names an unknown modality or has no linked features.
    ValueError
        If there are fewer than two modalities, if pairs repeat, close a circle or leave a
        modality unlinked, or if linked features are not finite or differ in number.
    """
    if len(names) < 2:
        raise ValueError(f"SCMODAL aligns modalities; {list(names)} is only one.")
    if pairs is None:
        pairs = [
            (a, b)
            for a, b in combinations(names, 2)
            if _keys.linked(b) in mdata[a].obsm and _keys.linked(a) in mdata[b].obsm
        ]
    chosen = [(str(a), str(b)) for a, b in pairs]
    for pair in chosen:
        for name in pair:
            if name not in names:
                raise KeyError(f"pairs={chosen}: {name!r} is not one of {list(names)}.")
    _check_tree(chosen, names)
    for first, second in chosen:
        check_matrices(mdata, first, second)
    return chosen


def _check_tree(pairs: Sequence[Pair], names: Sequence[str]) -> None:
    remedy = "Link them: cantata.pp.link_features(mdata, first, second)."
    if not pairs:
        raise ValueError(
            f"None of the modalities {list(names)} are linked to each other. {remedy}"
        )
    position = {name: i for i, name in enumerate(names)}
    ends = np.array([[position[a], position[b]] for a, b in pairs])
    graph = coo_matrix((np.ones(len(ends)), ends.T), shape=(len(names), len(names)))
    n_parts, part = connected_components(graph, directed=False)
    if n_parts > 1:
        groups = [[m for m, p in zip(names, part, strict=True) if p == i] for i in range(n_parts)]
        raise ValueError(f"pairs={list(pairs)}: nothing links the modalities {groups}. {remedy}")
    if len(pairs) >= len(names):
        raise ValueError(
            f"pairs={list(pairs)} must form a chain or tree of {len(names)} modalities, with "
            f"{len(names) - 1} pairs; leave out {len(pairs) - len(names) + 1}: "
            "setup_mudata(mdata, pairs=[...])."
        )


def linked_matrix(mdata: MuData, modality: str, other: str) -> np.ndarray:
    """Linked features of a modality's cells; a ``KeyError`` where there are none."""
    key = _keys.linked(other)
    if key not in mdata[modality].obsm:
        raise KeyError(
            f"mdata[{modality!r}].obsm has no {key!r}. Make it: "
            f"cantata.pp.link_features(mdata, {modality!r}, {other!r})."
        )
    return np.asarray(mdata[modality].obsm[key], dtype=np.float32)


def check_matrices(mdata: MuData, first: str, second: str) -> None:
    """Refuse linked features that are absent, not finite, or not as many on both sides."""
    widths = {}
    for modality, other in ((first, second), (second, first)):
        values = linked_matrix(mdata, modality, other)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            raise ValueError(
                f"Linked features of modality {modality!r} are not finite for {bad.size} cells, "
                f"e.g. {mdata[modality].obs_names[bad[0]]!r}. Make them again with "
                f"cantata.pp.link_features(mdata, {first!r}, {second!r})."
            )
        widths[modality] = values.shape[1]
    if widths[first] != widths[second]:
        raise ValueError(
            f"Modalities {first!r} and {second!r} have {widths[first]} and {widths[second]} "
            "linked features, which must correspond one to one. Make them again with "
            f"cantata.pp.link_features(mdata, {first!r}, {second!r})."
        )
