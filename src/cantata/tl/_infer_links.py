"""Which features of two modalities vary together, from an integration."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy import sparse

from cantata import _keys
from cantata.tl._correlate import Options, choose_columns, correlate
from cantata.tl._feature_columns import Statistic
from cantata.tl._link_candidates import find_candidates
from cantata.tl._link_values import (
    check_modality,
    group_codes,
    held_rows,
    imputed_values,
    joint_places,
    measured_values,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


def infer_links(
    mdata: MuData,
    source: str,
    target: str,
    *,
    method: str = "scmodal",
    imputed: AnnData | None = None,
    cells: Literal["target", "source"] = "target",
    layer: str | None = None,
    statistic: Statistic = "pearson",
    candidates: pd.DataFrame | str | None = None,
    max_distance: int | None = None,
    annotation: pd.DataFrame | str | Path | None = None,
    min_correlation: float = 0.0,
    max_links: int = 1_000_000,
    within: str | None = None,
    n_permutations: int = 0,
    random_state: int = 0,
    block_size: int | None = None,
    copy: bool = False,
) -> pd.DataFrame:
    r"""Infer links between features: correlate imputed with measured values across cells.

    In the cells of `target`, the imputed values of each feature of `source` are correlated with
    the measured values of features of `target`: imputed expression with each peak near a gene, for
    instance (Wang et al. 2025, scMODAL, "Gene-peak links").

    Parameters
    ----------
    mdata
        Any MuData; modalities may hold different cells in different orders.
    source, target
        Modalities of the two ends of the links.
    method
        Whose imputation is read, and under whose name links are written.
    imputed
        What ``model.impute(source, source=target)`` returns: cells of `target` x features of
        `source`, both known by name. None: ``mdata.obsm["<method>_imputed_<source>"]``, as written
        by ``model.write_results(mdata, imputed=[source])``. Where cells have both modalities give
        it: what is written may have seen the measured `source` of such a cell.
    cells
        ``"target"``: as above. ``"source"``: the other direction, in the cells of `source`:
        measured values of `source` with imputed values of `target`.
    layer
        Layer with the measured values, normalised; None: ``.X``. Sparse stays sparse.
    statistic
        ``"pearson"``, or ``"spearman"`` for correlations of ranks, ties by their mean rank. (The
        paper does not say which one it used.)
    candidates
        Pairs to test: a table with columns ``source`` and ``target``, or ``gene`` and ``peak``,
        and maybe ``distance``, or its key in ``mdata.uns``; e.g. from
        :func:`cantata.pp.peak_gene_links`.
    max_distance
        In place of a table: peaks at most so many base pairs from the body of a gene. The paper
        uses 10,000.
    annotation
        Where genes lie, for `max_distance`, as in :func:`cantata.pp.peak_gene_links`; None:
        columns of ``.var``.
    min_correlation
        Of the tested pairs those of at least this absolute correlation are returned.
    max_links
        Without candidates all pairs are tested, in blocks; at most so many are returned, those
        with the largest absolute correlations.
    within
        Column of cells (cell type, batch): p values are then conditional on it, as cells are
        shuffled within its groups only. Without, every pair of features that differs between cell
        types is significant.
    n_permutations
        0: p values from the exact mean, variance and skewness of the permutation distribution
        (Pearson type III), which resolves small ones and takes no shuffling. Else this number of
        random permutations, for which the smallest p value is ``1 / (1 + n_permutations)``:
        advised where features are seen in few cells of a group.
    random_state
        Seed of the permutations.
    block_size
        Features of each side in a block; by default as many as bound its memory. It changes no
        result beyond rounding.
    copy
        Return the table and write nothing.

    Returns
    -------
    One row per pair, in the order of the features of `source`, then `target`:

    - ``source``, ``target``: names of the features,
    - ``correlation``: over all cells, in [-1, 1]; missing where a feature is constant,
    - ``within_correlation``: pooled within the groups; only with `within`,
    - ``p``: how often a permutation is at least as far from the mean of all permutations, on
      either side,
    - ``q``: Benjamini-Hochberg adjusted over all pairs that were tested,
    - ``distance``: in base pairs, missing where it is not known.

    Unless `copy`, the table is also written to ``mdata.uns["<method>_links"]``, the correlations
    to ``mdata.varp["<method>_links"]`` (sparse, over the joint axis of features, rows are features
    of `source`), and the settings to ``mdata.uns["cantata"]["<method>"]["inferred_links"]``.
    Entries of that name are replaced.

    Raises
    ------
    KeyError
        If a modality, layer, column or imputation does not exist.
    TypeError
        If `imputed` or `candidates` is of a wrong type.
    ValueError
        If names are unknown or repeat, values are not finite, a cell has no group, there are
        fewer than three cells or no pair, coordinates are missing, or an argument is out of range.

    Notes
    -----
    With :math:`x` imputed, :math:`y` measured and groups :math:`g` of :math:`n_g` cells, the
    statistic :math:`T = \sum_c x_c y_c` has under permutation within groups the mean
    :math:`\sum_g n_g \bar x_g \bar y_g` and the variance
    :math:`\sum_g S_g(x) S_g(y) / (n_g - 1)`, where :math:`S_g` sums squares about the mean of the
    group. The p value compares deviations from that mean: what the groups explain is no evidence.

    An imputed value is computed from the measured profile of the same cell, the tested feature
    included, and cells are not independent samples of a tissue: q values rank and screen links,
    they do not prove regulation.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> state = np.linspace(0, 1, 8)[:, None]
    >>> rna, atac = AnnData(np.ones((2, 1))), AnnData(state * [1, -2] + [0, 3])
    >>> rna.obs_names, rna.var_names = ["r0", "r1"], ["Sox2"]
    >>> atac.obs_names, atac.var_names = [f"a{i}" for i in range(8)], ["peak0", "peak1"]
    >>> mdata = mudata.MuData({"rna": rna, "atac": atac})
    >>> imputed = AnnData(state**2, obs=atac.obs, var=rna.var)
    >>> table = cantata.tl.infer_links(mdata, "rna", "atac", imputed=imputed)
    >>> table[["source", "target", "correlation"]].round(2)
      source target  correlation
    0   Sox2  peak0         0.96
    1   Sox2  peak1        -0.96
    """
    _check_options(mdata, source, target, cells, statistic)
    options = Options(min_correlation, max_links, n_permutations, random_state, block_size)
    tested = find_candidates(
        mdata, source, target, candidates, max_distance=max_distance, annotation=annotation
    )
    measured, other = (target, source) if cells == "target" else (source, target)
    values = {
        measured: measured_values(mdata, measured, layer),
        other: imputed_values(mdata, other, imputed, method, measured),
    }
    rows = held_rows(values[other], measured)
    codes = group_codes(mdata, within, measured, rows)
    wanted = (None, None) if tested is None else (tested.source, tested.target)
    sides = [
        choose_columns(mdata, name, values[name], rows, ends, statistic)
        for name, ends in zip((source, target), wanted, strict=True)
    ]
    (first, of_first), (second, of_second) = sides
    if tested is not None:
        tested = tested.among(of_first, of_second)
    result = correlate(first, second, tested, codes, options)
    table = result.table
    if within is None:
        del table["within_correlation"]
    if not copy:
        record = {
            "source": source,
            "target": target,
            "cells": cells,
            "n_cells": len(rows),
            "statistic": statistic,
            "within": within or "",
            "n_permutations": n_permutations,
            "seed": random_state,
            "version": version("cantata"),
        }
        _write(mdata, method, table, (of_first[result.i], of_second[result.j]), record)
    return table


def _check_options(mdata: MuData, source: str, target: str, cells: str, statistic: str) -> None:
    if source == target:
        raise ValueError(
            f"source and target are both {source!r}; give two modalities. Networks within one: "
            "cantata.tl.feature_network."
        )
    check_modality(mdata, source, "source")
    check_modality(mdata, target, "target")
    if cells not in ("target", "source"):
        raise ValueError(f"cells={cells!r} is unknown; choose from ('target', 'source').")
    if statistic not in get_args(Statistic):
        raise ValueError(f"statistic={statistic!r} is unknown; choose from {get_args(Statistic)}.")


def _write(
    mdata: MuData,
    method: str,
    table: pd.DataFrame,
    ends: tuple[np.ndarray, np.ndarray],
    record: dict[str, Any],
) -> None:
    """Write table, weights and settings; all are ready before the first is written."""
    key = _keys.inferred_links(method)
    rows = joint_places(mdata, record["source"])[ends[0]]
    columns = joint_places(mdata, record["target"])[ends[1]]
    weights = table["correlation"].to_numpy(dtype=np.float32)
    known = np.isfinite(weights) & (weights != 0)
    links = sparse.csr_matrix(
        (weights[known], (rows[known], columns[known])), shape=(mdata.n_vars, mdata.n_vars)
    )
    room = dict(mdata.uns.get(_keys.UNS, {}))
    room[method] = {**room.get(method, {}), "inferred_links": record}
    mdata.varp[key] = links
    mdata.uns[key] = table.copy()
    mdata.uns[_keys.UNS] = room
