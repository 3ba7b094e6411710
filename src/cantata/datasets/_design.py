"""The plan of a simulated study: kinds of modalities, pairing patterns, exact shares of cells."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

import numpy as np

Kind = Literal["rna", "protein", "atac"]
Pairing = Literal["partial", "full", "none"] | Mapping[str | tuple[str, ...], float]

KINDS: tuple[Kind, ...] = get_args(Kind)
ALIASES: dict[str, Kind] = {
    "rna": "rna",
    "gex": "rna",
    "adt": "protein",
    "protein": "protein",
    "prot": "protein",
    "atac": "atac",
    "peaks": "atac",
}
MAX_MODALITIES = 5


def stream(seed: int, name: str) -> np.random.Generator:
    """Random numbers for one named part, so that no part depends on what else is simulated."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))


def resolve_features(n_features: Mapping[str, int] | None) -> dict[str, int]:
    """Modality names and widths, checked."""
    features = {"rna": 500, "adt": 40} if n_features is None else dict(n_features)
    if not 1 <= len(features) <= MAX_MODALITIES:
        raise ValueError(
            f"n_features names {len(features)} modalities; give between 1 and {MAX_MODALITIES}."
        )
    for name, width in features.items():
        if not name or "/" in name or ":" in name:
            raise ValueError(
                f"n_features: {name!r} is no modality name (no '/', no ':', not empty)."
            )
        if width < 1:
            raise ValueError(f"n_features[{name!r}] is {width}; a modality needs a feature.")
    return features


def resolve_kinds(names: Sequence[str], kinds: Mapping[str, Kind] | None) -> dict[str, Kind]:
    """What each modality measures: as stated in `kinds`, otherwise by its name."""
    stated = dict(kinds or {})
    unknown = [name for name in stated if name not in names]
    if unknown:
        raise KeyError(f"kinds names {unknown[0]!r}, but the modalities are {list(names)}.")
    resolved: dict[str, Kind] = {}
    for name in names:
        kind = stated.get(name, ALIASES.get(name.lower()))
        if kind is None:
            raise ValueError(
                f"Nothing tells what modality {name!r} measures. Give kinds={{{name!r}: kind}} "
                f"with one of {list(KINDS)}, or use one of the names {list(ALIASES)}."
            )
        if kind not in KINDS:
            raise ValueError(f"kinds[{name!r}] is {kind!r}; choose one of {list(KINDS)}.")
        resolved[name] = kind
    return resolved


def resolve_pairing(pairing: Pairing, names: Sequence[str]) -> dict[tuple[str, ...], float]:
    """Share of the cells for each pairing pattern, a tuple in the order of `names`."""
    everything, singles = tuple(names), [(name,) for name in names]
    if isinstance(pairing, str):
        if pairing == "full" or (len(names) == 1 and pairing in ("partial", "none")):
            return {everything: 1.0}
        if pairing == "partial":
            return dict.fromkeys(singles, 0.5 / len(singles)) | {everything: 0.5}
        if pairing == "none":
            return dict.fromkeys(singles, 1 / len(singles))
        raise ValueError(
            f"pairing={pairing!r}: choose 'partial', 'full', 'none' or give a dict such as "
            f"{{{everything!r}: 1.0}}."
        )
    return _checked_patterns(pairing, names)


def _checked_patterns(
    pairing: Mapping[str | tuple[str, ...], float], names: Sequence[str]
) -> dict[tuple[str, ...], float]:
    shares: dict[tuple[str, ...], float] = {}
    for pattern, share in pairing.items():
        members = (pattern,) if isinstance(pattern, str) else tuple(pattern)
        unknown = [name for name in members if name not in names]
        if unknown or not members:
            raise KeyError(
                f"pairing: pattern {pattern!r} is not made of the modalities {list(names)}."
            )
        ordered = tuple(name for name in names if name in members)
        if ordered in shares or len(ordered) < len(members):
            raise ValueError(f"pairing: pattern {pattern!r} repeats a pattern or a modality.")
        if not share > 0:
            raise ValueError(
                f"pairing: the share of pattern {pattern!r} is {share}; it must be > 0."
            )
        shares[ordered] = float(share)
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(
            f"pairing: the {len(shares)} shares sum to {total:g}; they must sum to 1."
        )
    missing = [name for name in names if not any(name in pattern for pattern in shares)]
    if missing:
        raise ValueError(
            f"pairing: no pattern contains modality {missing[0]!r}; add one or drop the modality."
        )
    return shares


def exact_shares(n: int, shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """Integers that sum to `n`, each within one of ``n * shares`` (largest remainder)."""
    ideal = n * np.asarray(shares, dtype=float) / np.sum(shares)
    counts = np.floor(ideal + 1e-9).astype(np.int64)
    order = np.argsort(counts - ideal, kind="stable")
    counts[order[: n - counts.sum()]] += 1
    return counts


def assign_patterns(
    n_cells: int,
    shares: Mapping[tuple[str, ...], float],
    names: Sequence[str],
    rng: np.random.Generator,
) -> np.ndarray:
    """Boolean matrix (cells x modalities) with exact shares in random order."""
    table = np.array([[name in pattern for name in names] for pattern in shares])
    counts = exact_shares(n_cells, list(shares.values()))
    member = cast("np.ndarray", table[rng.permutation(np.repeat(np.arange(len(table)), counts))])
    empty = np.flatnonzero(~member.any(axis=0))
    if empty.size:
        raise ValueError(
            f"With n_cells={n_cells} and this pairing modality {names[empty[0]]!r} gets no cell; "
            "raise n_cells or the share of a pattern that contains it."
        )
    return member
