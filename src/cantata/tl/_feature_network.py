"""Networks of features that vary together, within and between modalities."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, get_args

import numpy as np
import pandas as pd

from cantata import _keys
from cantata.tl._correlate import Options, choose_columns, correlate
from cantata.tl._feature_columns import FeatureColumns, Statistic
from cantata.tl._link_statistics import q_values
from cantata.tl._link_values import (
    Values,
    check_modality,
    group_codes,
    held_rows,
    imputed_values,
    measured_values,
)
from cantata.tl._network import FeatureNetwork, Modules, build_network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData


def feature_network(
    mdata: MuData,
    cells: str,
    modalities: Sequence[str] | None = None,
    *,
    method: str = "scmodal",
    imputed: Mapping[str, AnnData] | None = None,
    features: Mapping[str, Sequence[str]] | None = None,
    layer: str | None = None,
    statistic: Statistic = "pearson",
    min_correlation: float = 0.3,
    max_q: float = 0.05,
    max_edges: int = 100_000,
    within: str | None = None,
    n_permutations: int = 0,
    modules: Modules = "leiden",
    resolution: float = 1.0,
    random_state: int = 0,
) -> FeatureNetwork:
    """Network of features that correlate across cells, within and between modalities.

    All pairs of features are correlated in the cells of one modality: its own features as
    measured, those of other modalities as imputed; e.g. genes with imputed proteins (Wang et al.
    2025, scMODAL). Nothing is written.

    Parameters
    ----------
    mdata
        Any MuData.
    cells
        Modality whose cells are used, and whose measured values.
    modalities
        Modalities whose features are nodes. None: `cells` and all that were imputed.
    method
        Whose imputation is read.
    imputed
        Imputed values by modality, as in :func:`cantata.tl.infer_links`; None: what
        ``model.write_results`` wrote for `method`.
    features
        Names of the features to use, by modality; a modality that is not named has all.
    layer, statistic, within, n_permutations
        As in :func:`cantata.tl.infer_links`.
    min_correlation, max_q
        An edge has at least this absolute correlation and at most this q value
        (Benjamini-Hochberg over all pairs of all modalities).
    max_edges
        At most so many edges, the strongest; within and between modalities so many are tried.
    modules
        How modules are found among the positive edges: ``"leiden"`` maximises modularity with the
        correlations as weights, ``"components"`` takes what is connected.
    resolution
        Of the former; more modules the larger.
    random_state
        Seed of permutations and modules.

    Returns
    -------
    A :class:`FeatureNetwork` with ``nodes``, ``edges``, ``to_sparse()`` and ``to_igraph()``. It
    may have no edge.

    Raises
    ------
    KeyError
        If a modality, feature, layer, column or imputation does not exist.
    TypeError, ValueError
        As :func:`cantata.tl.infer_links`.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> state = np.repeat([0.0, 1.0], 10)[:, None] + np.linspace(0, 0.1, 20)[:, None]
    >>> rna = AnnData(state * [1, -2, 0] + [0, 3, 1])
    >>> rna.var_names = ["Cd4", "Cd8a", "Actb"]
    >>> adt = AnnData(np.ones((2, 1)))
    >>> adt.obs_names, adt.var_names = ["x", "y"], ["CD4"]
    >>> mdata = mudata.MuData({"rna": rna, "adt": adt})
    >>> imputed = {"adt": AnnData(state**2, obs=rna.obs, var=adt.var)}
    >>> network = cantata.tl.feature_network(mdata, "rna", imputed=imputed)
    >>> network.edges[["source", "target", "correlation"]].round(2)
      source target  correlation
    0    Cd4   Cd8a         -1.0
    1    Cd4    CD4          1.0
    2   Cd8a    CD4         -1.0
    >>> network.nodes[["feature", "modality", "module"]]
      feature modality module
    0     Cd4      rna      0
    1    Cd8a      rna      1
    2     CD4      adt      0
    """
    options = Options(min_correlation, max_edges, n_permutations, random_state, limit="max_edges")
    _check_choices(statistic, modules, max_q, resolution)
    names = _modalities(mdata, cells, modalities, imputed, method)
    values = {
        name: measured_values(mdata, name, layer)
        if name == cells
        else imputed_values(mdata, name, (imputed or {}).get(name), method, cells)
        for name in names
    }
    wanted = {name: _wanted(mdata, name, features) for name in names}
    rows = _common_rows(values, cells)
    codes = group_codes(mdata, within, cells, rows)
    columns = {
        name: choose_columns(mdata, name, values[name], rows, wanted[name], statistic)[0]
        for name in names
    }
    edges, ends = _edges(columns, codes, options, max_q)
    if within is None:
        del edges["within_correlation"]
    return build_network(columns, edges, ends, modules, resolution, random_state)


def _check_choices(statistic: str, modules: str, max_q: float, resolution: float) -> None:
    for name, value, known in (("statistic", statistic, Statistic), ("modules", modules, Modules)):
        if value not in get_args(known):
            raise ValueError(f"{name}={value!r} is unknown; choose from {get_args(known)}.")
    if not 0 <= max_q <= 1:
        raise ValueError(f"max_q={max_q!r} must be within [0, 1].")
    if resolution <= 0:
        raise ValueError(f"resolution={resolution!r} must be positive.")


def _modalities(
    mdata: MuData,
    cells: str,
    modalities: Sequence[str] | None,
    imputed: Mapping[str, AnnData] | None,
    method: str,
) -> list[str]:
    check_modality(mdata, cells, "cells")
    if modalities is None:
        record = mdata.uns.get(_keys.UNS, {}).get(method, {}).get("imputed_features", {})
        others = record if imputed is None else imputed
        modalities = [cells, *(name for name in others if name != cells)]
    elif isinstance(modalities, str):
        raise TypeError(f"modalities={modalities!r} must be a list of names.")
    names = list(dict.fromkeys(modalities))
    if not names:
        raise ValueError("modalities is empty; name at least one.")
    for name in names:
        check_modality(mdata, name, "modalities")
    return names


def _wanted(
    mdata: MuData, modality: str, features: Mapping[str, Sequence[str]] | None
) -> np.ndarray | None:
    """Positions of the features that were named; None for all."""
    if features is None or modality not in features:
        return None
    names = pd.Index(features[modality])
    places = mdata[modality].var_names.get_indexer(names)
    unknown = names[places < 0]
    if len(unknown):
        raise KeyError(
            f"features[{modality!r}]: {len(unknown)} of {len(names)} are no features of "
            f"{modality!r}, e.g. {unknown[0]!r}."
        )
    return places


def _common_rows(values: Mapping[str, Values], cells: str) -> np.ndarray:
    """Rows of the cells' modality that have values of all modalities."""
    held = [held_rows(of, cells) for of in values.values()]
    rows = held[0]
    for other in held[1:]:
        rows = np.intersect1d(rows, other)
    if not len(rows):
        raise ValueError(f"No cell of {cells!r} has values of all of {list(values)}.")
    return rows


def _edges(
    columns: Mapping[str, FeatureColumns], codes: np.ndarray, options: Options, max_q: float
) -> tuple[pd.DataFrame, np.ndarray]:
    """Edges, strongest first, and their ends as positions among the features of all modalities."""
    widths = [of.shape[1] for of in columns.values()]
    starts = dict(zip(columns, np.cumsum([0, *widths[:-1]]), strict=True))
    tables, ends, n_tests = [], [], 0
    for a, b in combinations_with_replacement(columns, 2):
        found = correlate(columns[a], columns[b], None, codes, options, upper=a == b)
        n_tests += found.n_tests
        ends.append(np.column_stack([found.i + starts[a], found.j + starts[b]]))
        table = found.table.drop(columns="distance")
        table.insert(1, "source_modality", a)
        table.insert(3, "target_modality", b)
        tables.append(table)
    edges, places = pd.concat(tables, ignore_index=True), np.concatenate(ends)
    edges["q"] = q_values(edges["p"].to_numpy(), n_tests)
    order = np.argsort(-edges["correlation"].abs().to_numpy(), kind="stable")
    order = order[(edges["q"].to_numpy() <= max_q)[order]][: options.max_links]
    return edges.iloc[order].reset_index(drop=True), places[order]
