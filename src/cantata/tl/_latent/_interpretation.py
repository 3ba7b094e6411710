"""What the components of a latent space stand for: the result, and its tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from cantata._numeric.feature_statistics import q_values
from cantata.tl._latent._components import GROUPS, component_name, component_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cantata.tl._latent._components import BinnedCells
    from cantata.tl._latent._differences import Findings, SplitResults

logger = logging.getLogger(__name__)

N_PRINTED = 4
"""Features of each end that are printed."""


@dataclass(frozen=True, repr=False, eq=False)
class LatentInterpretation:
    """Features that change along the principal components of a latent space.

    Attributes
    ----------
    features
        One row per component, group of cells and feature that is significant in a split or more
        with the sign that it has in all cells, best first: ``component`` (``"PC1"``, ...),
        ``group`` (``"low"``, ``"center"``, ``"high"``), ``feature``; ``area`` under the curve of
        counts over fold changes, as a share of the largest possible (1: significant in every split
        at every fold change); ``n_significant``, the splits in which it is significant at the
        smallest fold change; ``log2_fold_change`` of the group against its reference in all cells,
        and Welch's ``t``; ``rank`` by area, then by the size of t, within component and group,
        from 1. A group without cells, or with none to compare them with, among all cells has no
        rows.
    counts
        The curves: ``component``, ``group``, ``feature``, ``fold_change``, ``n_significant``;
        only rows with at least one split.
    components
        One row per component: ``variance_ratio``, its share of the variance of the latent space;
        ``stability`` and ``least_stability``, mean and least absolute correlation of its scores
        with those of its partner in a split; ``n_low``, ``n_center``, ``n_high``, cells per
        group; ``n_test``, the median over splits of the cells in the smallest group of the test
        part.
    gene_sets
        One row per component, group and gene set, by p: ``n_genes`` of the set that vary,
        ``n_significant`` of them, ``share`` of the significant features that are in the set,
        ``mean_area`` over the set, ``p`` (hypergeometric), ``q`` (Benjamini-Hochberg over the
        table). None without gene sets.
    cells
        Group of every cell along every component, missing for those in none (cells x components).
    scores, bins, central
        Coordinate of every cell along every component, its percentile bin (0, 1, ...), and
        whether it is central in the other components (cells x components).
    parameters
        Arguments, and the number of features.
    """

    features: pd.DataFrame
    counts: pd.DataFrame
    components: pd.DataFrame
    gene_sets: pd.DataFrame | None
    cells: pd.DataFrame
    scores: pd.DataFrame
    bins: pd.DataFrame
    central: pd.DataFrame
    parameters: Mapping[str, Any]

    def component_name(self, component: str | int) -> str:
        """Name of a component, given its name or its number from 1.

        Raises
        ------
        KeyError
            If there is no such component.
        """
        name = component if isinstance(component, str) else component_name(component - 1)
        if name not in self.scores.columns:
            raise KeyError(
                f"component={component!r}: there are {self.scores.columns[0]} to "
                f"{self.scores.columns[-1]}."
            )
        return name

    def top(self, component: str | int, n: int = 10, group: str | None = None) -> pd.DataFrame:
        """Rows of ``features`` with the largest area.

        Parameters
        ----------
        component
            Name or number from 1.
        n
            At most so many.
        group
            ``"low"``, ``"center"`` or ``"high"``. None: all, each feature once, in the group
            where its area is largest.

        Raises
        ------
        KeyError
            If there is no such component or group.
        """
        if group is not None and group not in GROUPS:
            raise KeyError(f"group={group!r}: there are {', '.join(GROUPS)}.")
        table = self.features[self.features["component"] == self.component_name(component)]
        if group is not None:
            return table[table["group"] == group].head(n).reset_index(drop=True)
        order = np.lexsort([-table["t"].abs(), -table["area"]])
        return table.iloc[order].drop_duplicates("feature").head(n).reset_index(drop=True)

    def __repr__(self) -> str:
        given = self.parameters
        head = (
            f"{type(self).__name__} of {given['use_rep']} by {given['n_features']:,} features of "
            f"{given['modality']}: {len(self.cells):,} cells, {len(self.components)} components, "
            f"{given['n_splits']} splits"
        )
        table = self.components[["component", "variance_ratio", "stability"]].copy()
        table["component"] = table["component"].astype(str)
        table.columns = ["", "variance", "stability"]
        for group in (GROUPS[0], GROUPS[-1]):
            table[f"{group} end"] = [self._best(name, group) for name in table[""]]
        return head + "\n" + table.to_string(index=False, float_format="{:.3f}".format)

    def _best(self, component: str, group: str) -> str:
        """The best features of an end, with a sign for what is less there."""
        best = self.top(component, N_PRINTED, group)
        signs = ["-" if change < 0 else "+" for change in best["log2_fold_change"]]
        words = [f"{sign}{name}" for sign, name in zip(signs, best["feature"], strict=True)]
        return " ".join(words) or "."


def _categorical(codes: np.ndarray, names: Sequence[str]) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, list(names), ordered=True)


def feature_tables(
    findings: Findings,
    names: np.ndarray,
    changes: np.ndarray,
    statistics: np.ndarray,
    thresholds: np.ndarray,
    n_splits: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of features and of their counts over thresholds.

    `changes` and `statistics` are log2 fold changes and t in all cells (components, groups,
    features). Findings of the other sign do not count, nor do any where the change is NaN: the
    group or its reference has no cell among all, whatever it has in a split.
    """
    n_components, n_groups, n_features = changes.shape
    # 1. How many thresholds each finding passes.
    passed = np.searchsorted(np.log2(thresholds), np.abs(findings.strength), side="left")
    change = changes[findings.component, findings.group, findings.feature]
    counted = (passed > 0) & (np.sign(findings.strength) == np.sign(change))
    # 2. Over the splits, how often a feature of a group of a component passes each threshold: a
    #    histogram of the number passed, summed from above.
    key = (findings.component * n_groups + findings.group) * n_features + findings.feature
    keys, row = np.unique(key[counted], return_inverse=True)
    width = len(thresholds) + 1
    histogram = np.bincount(row * width + passed[counted], minlength=len(keys) * width)
    histogram = histogram.reshape(len(keys), width)
    counts = histogram[:, :0:-1].cumsum(axis=1)[:, ::-1]
    component, rest = np.divmod(keys, n_groups * n_features)
    group, feature = np.divmod(rest, n_features)
    # 3. The table of features, best first, and the counts that are not 0 as a long table.
    columns = {
        "component": _categorical(component, component_names(n_components)),
        "group": _categorical(group, GROUPS),
        "feature": names[feature],
    }
    table = pd.DataFrame(columns)
    table["area"] = np.minimum(_areas(counts, thresholds) / n_splits, 1.0)
    table["n_significant"] = counts[:, 0] if len(keys) else np.empty(0, dtype=np.int64)
    table["log2_fold_change"] = changes[component, group, feature]
    table["t"] = statistics[component, group, feature]
    order = np.lexsort([feature, -table["t"].abs(), -table["area"], group, component])
    table = table.iloc[order].reset_index(drop=True)
    ranked = table.groupby(["component", "group"], observed=True).cumcount() + 1
    table["rank"] = ranked.astype(np.int64)
    row, threshold = np.nonzero(counts[order])
    curves = pd.DataFrame({name: column[order[row]] for name, column in columns.items()})
    curves["fold_change"] = thresholds[threshold]
    curves["n_significant"] = counts[order][row, threshold]
    return table, curves


def _areas(counts: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Area under counts over thresholds, as a mean count."""
    if len(thresholds) == 1:
        return counts[:, 0].astype(np.float64)
    return np.trapezoid(counts, thresholds, axis=1) / (thresholds[-1] - thresholds[0])


def component_table(
    binned: BinnedCells, splits: SplitResults, variance_ratio: np.ndarray
) -> pd.DataFrame:
    """Table of components."""
    n_components = binned.codes.shape[1]
    table = pd.DataFrame(
        {
            "component": _categorical(np.arange(n_components), component_names(n_components)),
            "variance_ratio": variance_ratio[:n_components],
            "stability": splits.correlations.mean(axis=0),
            "least_stability": splits.correlations.min(axis=0),
        }
    )
    for code, group in enumerate(GROUPS):
        table[f"n_{group}"] = (binned.codes == code).sum(axis=0)
    table["n_test"] = np.median(splits.sizes, axis=0)
    return table


def cell_tables(binned: BinnedCells, cells: pd.Index) -> dict[str, pd.DataFrame]:
    """Tables (cells x components) of groups, scores, bins and centrality."""
    names = component_names(binned.codes.shape[1])
    codes = np.where(binned.codes < len(GROUPS), binned.codes, -1)
    groups = {name: _categorical(codes[:, k], GROUPS) for k, name in enumerate(names)}
    return {
        "cells": pd.DataFrame(groups, index=cells),
        "scores": pd.DataFrame(binned.scores, index=cells, columns=names),
        "bins": pd.DataFrame(binned.bins, index=cells, columns=names),
        "central": pd.DataFrame(binned.central, index=cells, columns=names),
    }


def check_gene_sets(
    gene_sets: Mapping[str, Iterable[str]], names: np.ndarray, modality: str
) -> dict[str, np.ndarray]:
    """Positions of the features of each set; sets without any are left out."""
    if not isinstance(gene_sets, Mapping):
        raise TypeError(
            f"gene_sets is a {type(gene_sets).__name__}; give a dict from names to genes."
        )
    index, kept, example = pd.Index(names), {}, None
    for name, genes in gene_sets.items():
        if isinstance(genes, str):
            raise TypeError(f"gene_sets[{name!r}] is text, {genes!r}; give a list of genes.")
        wanted = list(genes)
        positions = np.unique(index.get_indexer(pd.Index(wanted, dtype=object)))
        positions = positions[positions >= 0]
        if positions.size:
            kept[name] = positions
        elif example is None and wanted:
            example = wanted[0]
    if not kept:
        raise ValueError(
            f"None of the {len(gene_sets)} gene_sets has a feature of modality {modality!r}: they "
            f"hold e.g. {example!r}, the modality e.g. {names[0]!r}."
        )
    if len(kept) < len(gene_sets):
        logger.info(
            "%d of %d gene sets have no feature of %r and are left out.",
            len(gene_sets) - len(kept),
            len(gene_sets),
            modality,
        )
    return kept


def gene_set_table(
    features: pd.DataFrame,
    sets: Mapping[str, np.ndarray],
    names: np.ndarray,
    varies: np.ndarray,
    min_splits: float,
) -> pd.DataFrame:
    """Enrichment of sets among the features of every group of every component.

    A feature counts if it is significant in `min_splits` splits. One row per component, group and
    set, for groups in which a feature counts. Features that do not vary belong to no set and are
    not in the background.
    """
    background = int(varies.sum())
    members = {name: positions[varies[positions]] for name, positions in sets.items()}
    position_of = pd.Series(np.arange(len(names)), index=names)
    rows = []
    for (component, group), part in features.groupby(["component", "group"], observed=True):
        counts = part["n_significant"].to_numpy() >= min_splits
        if not counts.any():
            continue
        positions = position_of[part["feature"]].to_numpy()
        areas = np.zeros(len(names))
        areas[positions] = part["area"]
        chosen = np.zeros(len(names), dtype=bool)
        chosen[positions[counts]] = True
        n_chosen = int(chosen.sum())
        for name, genes in members.items():
            if not genes.size:
                continue
            n_both = int(chosen[genes].sum())
            p = hypergeom.sf(n_both - 1, background, len(genes), n_chosen)
            share = n_both / n_chosen
            rows.append(
                (component, group, name, len(genes), n_both, share, areas[genes].mean(), p)
            )
    columns = ["component", "group", "gene_set", "n_genes", "n_significant", "share"]
    table = pd.DataFrame(rows, columns=[*columns, "mean_area", "p"])
    for column in ("component", "group"):
        table[column] = pd.Categorical(table[column], dtype=features[column].dtype)
    table["q"] = q_values(table["p"].to_numpy(dtype=np.float64))
    return table.sort_values("p", kind="stable", ignore_index=True)
