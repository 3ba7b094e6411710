"""Sets of genes among the features of components."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from cantata.tl._link_statistics import q_values

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)


def check_sets(
    gene_sets: Mapping[str, Iterable[str]] | None, names: np.ndarray, modality: str
) -> dict[str, np.ndarray] | None:
    """Positions of the features of each set; sets without any are left out.

    Raises
    ------
    TypeError
        If `gene_sets` is no mapping, or a set is text.
    ValueError
        If no set has a feature of the modality.
    """
    if gene_sets is None:
        return None
    if not isinstance(gene_sets, Mapping):
        raise TypeError(
            f"gene_sets is a {type(gene_sets).__name__}; give a dict from names to genes."
        )
    index, found, example = pd.Index(names), {}, None
    for name, genes in gene_sets.items():
        if isinstance(genes, str):
            raise TypeError(f"gene_sets[{name!r}] is text, {genes!r}; give a list of genes.")
        wanted = list(genes)
        places = np.unique(index.get_indexer(pd.Index(wanted, dtype=object)))
        places = places[places >= 0]
        if places.size:
            found[name] = places
        elif example is None and wanted:
            example = wanted[0]
    if not found:
        raise ValueError(
            f"None of the {len(gene_sets)} gene_sets has a feature of modality {modality!r}: they "
            f"hold e.g. {example!r}, the modality e.g. {names[0]!r}."
        )
    if len(found) < len(gene_sets):
        logger.info(
            "%d of %d gene sets have no feature of %r and are left out.",
            len(gene_sets) - len(found),
            len(gene_sets),
            modality,
        )
    return found


def set_table(
    features: pd.DataFrame,
    sets: Mapping[str, np.ndarray],
    names: np.ndarray,
    tested: np.ndarray,
    least: float,
) -> pd.DataFrame:
    """Enrichment of sets among the features of every group of every component.

    Parameters
    ----------
    features
        Table of features.
    sets
        Positions of the features of each set.
    names
        Of all features.
    tested
        Which features vary: the others belong to no set and are not in the background.
    least
        Splits in which a feature is significant at least, to count.

    Returns
    -------
    One row per component, group and set, for groups that have a feature that counts.
    """
    areas = np.zeros(len(names))
    background = int(tested.sum())
    kept = {name: places[tested[places]] for name, places in sets.items()}
    kept = {name: places for name, places in kept.items() if places.size}
    place = pd.Series(np.arange(len(names)), index=names)
    rows = []
    for (component, group), part in features.groupby(["component", "group"], observed=True):
        places = place[part["feature"]].to_numpy()
        counts = part["n_significant"].to_numpy() >= least
        if not counts.any():
            continue
        areas[:] = 0
        areas[places] = part["area"]
        chosen = np.zeros(len(names), dtype=bool)
        chosen[places[counts]] = True
        n_chosen = int(chosen.sum())
        for name, members in kept.items():
            n_both = int(chosen[members].sum())
            p = hypergeom.sf(n_both - 1, background, len(members), n_chosen)
            share = n_both / n_chosen
            rows.append(
                (component, group, name, len(members), n_both, share, areas[members].mean(), p)
            )
    columns = ["component", "group", "gene_set", "n_genes", "n_significant", "share"]
    table = pd.DataFrame(rows, columns=[*columns, "mean_area", "p"])
    for column in ("component", "group"):
        table[column] = pd.Categorical(table[column], dtype=features[column].dtype)
    table["q"] = q_values(table["p"].to_numpy(dtype=np.float64))
    return table.sort_values("p", kind="stable", ignore_index=True)
