"""Differential features along components, replicated over splits of the cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cantata.tl._interpret_axes import (
    BETWEEN,
    GROUPS,
    Axes,
    find_cuts,
    group_codes,
    match_axes,
    other_distances,
    percentile_bins,
    principal_axes,
)
from cantata.tl._interpret_tests import Difference, Features, Sums, group_difference

if TYPE_CHECKING:
    from cantata.tl._interpret_options import Options

N_CODES = len(GROUPS) + 1

SHOWN = 2**26
"""Additions from which on a progress bar is shown."""


@dataclass(frozen=True)
class Placed:
    """Cells along components, each (cells x components).

    ``scores``; percentile ``bins``; ``central``, whether they are near the origin in the other
    components; ``codes`` of groups.
    """

    scores: np.ndarray
    bins: np.ndarray
    central: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True)
class Hits:
    """Features found in both parts of a split, each (hits,).

    ``component``, ``group`` and ``feature`` are positions; ``strength`` is that of the two log2
    fold changes, of one sign, that is smaller in size.
    """

    component: np.ndarray
    group: np.ndarray
    feature: np.ndarray
    strength: np.ndarray


@dataclass(frozen=True)
class Replication:
    """What the splits have in common.

    ``correlations`` (splits, components): absolute correlation of each component with its partner
    in the split, 0 without one. ``sizes`` (splits, components): cells of the smallest group of
    the test part.
    """

    hits: Hits
    correlations: np.ndarray
    sizes: np.ndarray


def place_cells(
    latent: np.ndarray,
    axes: Axes,
    components: np.ndarray,
    options: Options,
    train: np.ndarray | None = None,
) -> Placed:
    """Cells along components, by borders from the cells `train` (all by default)."""
    everything = axes.scores(latent)
    scores = everything[:, components]
    distances = other_distances(everything, components, options.n_central)
    of = slice(None) if train is None else train
    cuts = find_cuts(scores[of], distances[of], options.n_bins, options.central)
    bins = percentile_bins(scores, cuts)
    central = distances <= cuts.radii
    return Placed(scores, bins, central, group_codes(bins, central, options.n_bins))


def split_cells(n_cells: int, train_size: float, seed: int) -> np.ndarray:
    """Which cells are in the training part, drawn at random."""
    order = np.random.default_rng(seed).permutation(n_cells)
    train = np.zeros(n_cells, dtype=bool)
    train[order[: round(train_size * n_cells)]] = True
    return train


def replicate(
    latent: np.ndarray, axes: Axes, n_comps: int, features: Features, options: Options, work: int
) -> Replication:
    """Search every split for features that differ along its components.

    Parameters
    ----------
    latent
        Cells x dimensions.
    axes
        Principal axes of all cells; the components of a split are matched to these.
    n_comps
        Number of components.
    features
        Values in the same cells.
    options
        Thresholds.
    work
        Additions that all this takes.
    """
    from rich.progress import track

    covariance = np.cov(latent, rowvar=False).reshape(latent.shape[1], -1)
    found: list[list[np.ndarray]] = []
    correlations = np.zeros((options.n_splits, n_comps))
    sizes = np.zeros((options.n_splits, n_comps), dtype=np.int64)
    for split in track(range(options.n_splits), "Splits", disable=work < SHOWN):
        train = split_cells(len(latent), options.train_size, options.random_state + split)
        own = principal_axes(latent[train])
        partner, correlation = match_axes(axes.loadings[:, :n_comps], own.loadings, covariance)
        correlations[split] = np.abs(correlation)
        matched = np.flatnonzero(partner >= 0)
        signs = np.where(correlation < 0, -1.0, 1.0)[matched]
        turned = own.loadings.copy()
        turned[:, partner[matched]] *= signs
        own = Axes(own.center, turned, own.variances)
        placed = place_cells(latent, own, partner[matched], options, train)
        for column, component in enumerate(matched):
            codes = placed.codes[:, column]
            sizes[split, component] = np.bincount(codes[~train & (codes >= 0)], minlength=3)[
                : len(GROUPS)
            ].min()
            for group, feature, strength in _component_hits(codes, train, features, options):
                place = np.broadcast_to([[component], [group]], (2, len(feature)))
                found.append([*place, feature, strength])
    return Replication(_joined(found), correlations, sizes)


def _joined(found: list[list[np.ndarray]]) -> Hits:
    if not found:
        nothing = np.empty(0, dtype=np.int64)
        return Hits(nothing, nothing, nothing, np.empty(0))
    component, group, feature, strength = map(np.concatenate, zip(*found, strict=True))
    return Hits(component, group, feature, strength)


def _component_hits(
    codes: np.ndarray, train: np.ndarray, features: Features, options: Options
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Group, features and strengths of what is significant in both parts with one sign."""
    both = np.where(codes >= 0, codes + N_CODES * ~train, -1)
    sums = features.sums(both, 2 * N_CODES)
    found = []
    for group in range(len(GROUPS)):
        parts: list[Difference] = []
        for start in (0, N_CODES):
            if parts and not parts[0].significant.any():
                break
            parts.append(compare(sums, group, features.offset, options, start))
        if len(parts) < 2:
            continue
        first, second = (part.log2_fold_change for part in parts)
        hit = parts[0].significant & parts[1].significant & (first * second > 0)
        feature = np.flatnonzero(hit)
        first, second = first[feature], second[feature]
        found.append((group, feature, np.where(np.abs(first) < np.abs(second), first, second)))
    return found


def compare(
    sums: Sums, group: int, offset: np.ndarray, options: Options, start: int = 0
) -> Difference:
    """Difference between a group and its reference; `start` is the code of the first group."""
    others = [other for other in range(len(GROUPS)) if other != group]
    if options.reference == "rest":
        others.append(BETWEEN)
    return group_difference(
        sums,
        start + group,
        [start + other for other in others],
        offset=offset,
        scale=options.scale,
        pseudocount=options.pseudocount,
        alpha=options.alpha,
        test=options.test,
    )
