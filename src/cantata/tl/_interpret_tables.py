"""Tables of an interpretation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata.tl._interpret_axes import GROUPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cantata.tl._interpret_splits import Hits, Placed, Replication


def component_name(position: int) -> str:
    """Name of a component, ``"PC1"`` for position 0."""
    return f"PC{position + 1}"


def component_names(n_comps: int) -> list[str]:
    """Names of the first components."""
    return [component_name(position) for position in range(n_comps)]


def _categorical(codes: np.ndarray, names: Sequence[str]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, list(names), ordered=True)


def feature_tables(
    hits: Hits,
    names: np.ndarray,
    changes: np.ndarray,
    statistics: np.ndarray,
    thresholds: np.ndarray,
    n_splits: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of features and of their counts over thresholds.

    Parameters
    ----------
    hits
        What was found in the splits.
    names
        Of all features.
    changes, statistics
        log2 fold changes and t in all cells (components, groups, features). Hits of the other
        sign do not count, nor do any where the change is NaN: the group or its reference has no
        cell among all, whatever it has in a split.
    thresholds
        Of fold change.
    n_splits
        Number of splits.
    """
    n_comps, n_groups, n_features = changes.shape
    passed = np.searchsorted(np.log2(thresholds), np.abs(hits.strength), side="left")
    change = changes[hits.component, hits.group, hits.feature]
    counted = (passed > 0) & (np.sign(hits.strength) == np.sign(change))
    key = (hits.component * n_groups + hits.group) * n_features + hits.feature
    keys, place = np.unique(key[counted], return_inverse=True)
    width = len(thresholds) + 1
    histogram = np.bincount(place * width + passed[counted], minlength=len(keys) * width)
    histogram = histogram.reshape(len(keys), width)
    counts = histogram[:, :0:-1].cumsum(axis=1)[:, ::-1]  # splits above each threshold
    component, rest = np.divmod(keys, n_groups * n_features)
    group, feature = np.divmod(rest, n_features)
    columns = {
        "component": _categorical(component, component_names(n_comps)),
        "group": _categorical(group, GROUPS),
        "feature": names[feature],
    }
    features = pd.DataFrame(columns)
    features["area"] = np.minimum(_areas(counts, thresholds) / n_splits, 1.0)
    features["n_significant"] = counts[:, 0] if len(keys) else np.empty(0, dtype=np.int64)
    features["log2_fold_change"] = changes[component, group, feature]
    features["t"] = statistics[component, group, feature]
    order = np.lexsort([feature, -features["t"].abs(), -features["area"], group, component])
    table = features.iloc[order].reset_index(drop=True)
    ranked = table.groupby(["component", "group"], observed=True).cumcount() + 1
    table["rank"] = ranked.astype(np.int64)
    return table, _curves(columns, counts[order], order, thresholds)


def _areas(counts: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Area under counts over thresholds, as a mean count."""
    if len(thresholds) == 1:
        return counts[:, 0].astype(np.float64)
    return np.trapezoid(counts, thresholds, axis=1) / (thresholds[-1] - thresholds[0])


def _curves(
    columns: Mapping[str, pd.Categorical | np.ndarray],
    counts: np.ndarray,
    order: np.ndarray,
    thresholds: np.ndarray,
) -> pd.DataFrame:
    """Long table of the counts that are not 0."""
    row, threshold = np.nonzero(counts)
    table = pd.DataFrame({name: column[order[row]] for name, column in columns.items()})
    table["fold_change"] = thresholds[threshold]
    table["n_significant"] = counts[row, threshold]
    return table


def component_table(
    placed: Placed, replication: Replication, variance_ratio: np.ndarray
) -> pd.DataFrame:
    """Table of components."""
    n_comps = placed.codes.shape[1]
    table = pd.DataFrame(
        {
            "component": _categorical(np.arange(n_comps), component_names(n_comps)),
            "variance_ratio": variance_ratio[:n_comps],
            "stability": replication.correlations.mean(axis=0),
            "least_stability": replication.correlations.min(axis=0),
        }
    )
    for code, group in enumerate(GROUPS):
        table[f"n_{group}"] = (placed.codes == code).sum(axis=0)
    table["n_test"] = np.median(replication.sizes, axis=0)
    return table


def cell_tables(placed: Placed, cells: pd.Index) -> dict[str, pd.DataFrame]:
    """Tables (cells x components) of groups, scores, bins and centrality."""
    names = component_names(placed.codes.shape[1])
    in_group = np.where(placed.codes < len(GROUPS), placed.codes, -1)
    groups = {
        name: pd.Categorical.from_codes(in_group[:, column], list(GROUPS), ordered=True)
        for column, name in enumerate(names)
    }
    return {
        "cells": pd.DataFrame(groups, index=cells),
        "scores": pd.DataFrame(placed.scores, index=cells, columns=names),
        "bins": pd.DataFrame(placed.bins, index=cells, columns=names),
        "central": pd.DataFrame(placed.central, index=cells, columns=names),
    }
