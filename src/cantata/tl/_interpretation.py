"""What the components of a latent space stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cantata.tl._interpret_axes import GROUPS
from cantata.tl._interpret_tables import component_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

NAMED = 4
"""Features of each end that are printed."""


@dataclass(frozen=True, repr=False, eq=False)
class LatentInterpretation:
    """Features that change along the principal components of a latent space.

    Attributes
    ----------
    features
        One row per component, group of cells and feature that is significant in a split or more
        with the sign that it has in all cells, best first: ``component`` (``"PC1"``, ...),
        ``group`` (``"low"``, ``"centre"``, ``"high"``), ``feature``; ``area`` under the curve of
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
        with those of its partner in a split; ``n_low``, ``n_centre``, ``n_high``, cells per
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
            ``"low"``, ``"centre"`` or ``"high"``. None: all, each feature once, in the group
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
        facts = self.parameters
        head = (
            f"{type(self).__name__} of {facts['use_rep']} by {facts['n_features']:,} features of "
            f"{facts['modality']}: {len(self.cells):,} cells, {len(self.components)} components, "
            f"{facts['n_splits']} splits"
        )
        table = self.components[["component", "variance_ratio", "stability"]].copy()
        table["component"] = table["component"].astype(str)
        table.columns = ["", "variance", "stability"]
        for group in (GROUPS[0], GROUPS[-1]):
            table[f"{group} end"] = [self._named(name, group) for name in table[""]]
        return head + "\n" + table.to_string(index=False, float_format="{:.3f}".format)

    def _named(self, component: str, group: str) -> str:
        """The best features of an end, with a sign for what is less there."""
        best = self.top(component, NAMED, group)
        signs = ["-" if change < 0 else "+" for change in best["log2_fold_change"]]
        named = [f"{sign}{name}" for sign, name in zip(signs, best["feature"], strict=True)]
        return " ".join(named) or "."
