"""Links between features of two modalities: which vary together, from an integration."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from cantata import _keys
from cantata._mudata.link_tables import ENDS, find_table
from cantata._mudata.regions import peak_regions
from cantata.pp import peak_gene_links
from cantata.tl._feature_values import (
    cells_with_values,
    check_modality,
    choose_features,
    group_codes,
    imputed_values,
    measured_values,
)
from cantata.tl._links._correlation import Candidates, check_options, correlate

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from cantata._numeric.feature_statistics import Statistic


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
    p_values: bool = False,
    n_permutations: int = 0,
    seed: int = 0,
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
        Column of cells (cell type, batch): adds the correlation within its groups. P values are
        then conditional on it, as cells are shuffled within groups only; without, every pair of
        features that differs between cell types is significant.
    p_values
        Also test every pair, see Notes. Only for `imputed` values that do not depend on the
        features they are compared with: measured ones of the same cells, or values imputed from
        a third modality in cells that the model was not trained on. What ``model.impute(source,
        source=target)`` returns does depend on them.
    n_permutations
        With `p_values`, 0: from the exact mean, variance and skewness of the permutation
        distribution (Pearson type III), which resolves small ones and takes no shuffling. Else
        this number of random permutations, for which the smallest p value is
        ``1 / (1 + n_permutations)``: advised where features are seen in few cells of a group.
    seed
        Seed of the permutations.

    Returns
    -------
    One row per pair, in the order of the features of `source`, then `target`:

    - ``source``, ``target``: names of the features,
    - ``correlation``: over all cells, in [-1, 1]; missing where a feature is constant,
    - ``within_correlation``: pooled within the groups; only with `within`,
    - ``p``: how often a permutation is at least as far from the mean of all permutations, on
      either side; only with `p_values`,
    - ``q``: Benjamini-Hochberg adjusted over all pairs that were tested; only with `p_values`,
    - ``distance``: in base pairs, missing where it is not known.

    The table is also written to ``mdata.uns["<method>_links"]``, the correlations to
    ``mdata.varp["<method>_links"]`` (sparse, over the joint axis of features, rows are features of
    `source`), and the settings to ``mdata.uns["cantata"]["<method>"]["inferred_links"]``. Entries
    of that name are replaced.

    Raises
    ------
    KeyError
        If a modality, layer, column or imputation does not exist.
    TypeError, ValueError
        If names are unknown or repeat, values are not finite, a cell has no group, there are
        fewer than three cells or no pair, coordinates are missing, an argument is out of range,
        or `p_values` are asked of what ``write_results`` wrote.

    Notes
    -----
    There are no p values by default. An imputed value is a function of the measured profile of
    its cell, the tested feature included, so that both correlate although nothing links them: of
    six proteins of pure noise beside those of 3,000 PBMCs, half of the pairs with a gene had
    p < .05. No permutation of cells corrects that, and the feature cannot be left out of values
    that are computed already. Correlations rank links; whether one is more than chance needs cells
    in which both ends were measured.

    With :math:`x` imputed, :math:`y` measured and groups :math:`g` of :math:`n_g` cells, the
    statistic :math:`T = \sum_c x_c y_c` has under permutation within groups the mean
    :math:`\sum_g n_g \bar x_g \bar y_g` and the variance
    :math:`\sum_g S_g(x) S_g(y) / (n_g - 1)`, where :math:`S_g` sums squares about the mean of the
    group. The p value compares deviations from that mean: what the groups explain is no evidence.
    Cells are not independent samples of a tissue: q values screen links, they prove no regulation.

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
    if source == target:
        raise ValueError(
            f"source and target are both {source!r}; give two modalities. Networks within one: "
            "cantata.tl.feature_network."
        )
    check_modality(mdata, source, "source")
    check_modality(mdata, target, "target")
    if cells not in ("target", "source"):
        raise ValueError(f"cells={cells!r} is unknown; choose from ('target', 'source').")
    check_options(statistic, min_correlation, n_permutations, max_links=max_links)
    _check_p_values(p_values, n_permutations, imputed, (source, target))
    tested = _find_candidates(mdata, source, target, candidates, max_distance, annotation)
    measured, other = (target, source) if cells == "target" else (source, target)
    values = {
        measured: measured_values(mdata, measured, layer),
        other: imputed_values(mdata, other, imputed, method, measured),
    }
    rows = cells_with_values(values[other], measured)
    codes = group_codes(mdata, within, measured, rows)
    wanted = (None, None) if tested is None else (tested.source, tested.target)
    (first, of_first), (second, of_second) = (
        choose_features(mdata, name, values[name], rows, ends, statistic)
        for name, ends in zip((source, target), wanted, strict=True)
    )
    if tested is not None:
        tested = tested.among(of_first, of_second)
    result = correlate(
        first,
        second,
        tested,
        codes,
        min_correlation=min_correlation,
        max_pairs=max_links,
        p_values=p_values,
        n_permutations=n_permutations,
        seed=seed,
    )
    table = result.table
    unasked = [] if within is not None else ["within_correlation"]
    table = table.drop(columns=unasked if p_values else [*unasked, "p", "q"])
    record = {
        "source": source,
        "target": target,
        "cells": cells,
        "n_cells": len(rows),
        "statistic": statistic,
        "within": within or "",
        "p_values": p_values,
        "n_permutations": n_permutations,
        "seed": seed,
        "version": version("cantata"),
    }
    _write(mdata, method, table, (of_first[result.i], of_second[result.j]), record)
    return table


def _check_p_values(
    p_values: bool, n_permutations: int, imputed: AnnData | None, ends: tuple[str, str]
) -> None:
    """Refuse p values of what was imputed from all that a cell has, the tested features too."""
    if n_permutations and not p_values:
        raise ValueError(
            f"n_permutations={n_permutations} are for p values, which p_values=True asks for."
        )
    if p_values and imputed is None:
        raise ValueError(
            f"p_values=True: what write_results wrote was imputed from all that a cell has, the "
            f"tested features of {ends[0]!r} or {ends[1]!r} included, and correlates with them by "
            "construction. Give values that do not depend on them: imputed=."
        )


def _write(
    mdata: MuData,
    method: str,
    table: pd.DataFrame,
    ends: tuple[np.ndarray, np.ndarray],
    record: dict[str, Any],
) -> None:
    """Write table, weights and settings; all are ready before the first is written."""
    key = _keys.inferred_links(method)
    rows = _joint_positions(mdata, record["source"])[ends[0]]
    columns = _joint_positions(mdata, record["target"])[ends[1]]
    weights = table["correlation"].to_numpy(dtype=np.float32)
    known = np.isfinite(weights) & (weights != 0)
    links = sparse.csr_matrix(
        (weights[known], (rows[known], columns[known])), shape=(mdata.n_vars, mdata.n_vars)
    )
    records = dict(mdata.uns.get(_keys.UNS, {}))
    records[method] = {**records.get(method, {}), "inferred_links": record}
    mdata.varp[key] = links
    mdata.uns[key] = table.copy()
    mdata.uns[_keys.UNS] = records


def _joint_positions(mdata: MuData, modality: str) -> np.ndarray:
    """For every feature of the modality, its position on the joint axis of features."""
    rows = np.asarray(mdata.varmap[modality]).astype(np.int64).ravel() - 1
    positions = np.flatnonzero(rows >= 0)
    return positions[np.argsort(rows[positions])]


def _find_candidates(
    mdata: MuData,
    source: str,
    target: str,
    candidates: pd.DataFrame | str | None,
    max_distance: int | None,
    annotation: pd.DataFrame | str | Path | None,
) -> Candidates | None:
    """Pairs of features to test, by source and then target; None for all pairs."""
    if candidates is not None:
        if max_distance is not None or annotation is not None:
            raise ValueError(
                "candidates and max_distance or annotation are both given: candidates are taken "
                "as they are. Give one of them."
            )
        return _from_table(mdata, source, target, candidates)
    if max_distance is not None:
        return _by_distance(mdata, source, target, max_distance, annotation)
    if annotation is not None:
        raise ValueError("annotation is given without max_distance; give both.")
    return None


def _from_table(
    mdata: MuData, source: str, target: str, candidates: pd.DataFrame | str
) -> Candidates:
    table, columns = find_table(mdata, candidates, "candidates")
    names = [mdata[name].var_names for name in (source, target)]
    ends = [table[column].astype(str).to_numpy(dtype=object) for column in columns]
    i, j = _look_up(names, ends)
    if columns == ENDS[1]:  # the source may be the chromatin
        reverse = _look_up(names, ends[::-1])
        if ((reverse[0] >= 0) & (reverse[1] >= 0)).sum() > ((i >= 0) & (j >= 0)).sum():
            (i, j), ends = reverse, ends[::-1]
    absent = (i < 0) | (j < 0)
    if absent.any():
        row = int(np.flatnonzero(absent)[0])
        text = (
            f"{absent.sum()} of {len(table)} candidates name a feature that {source!r} or "
            f"{target!r} does not have, e.g. {ends[0][row]!r} with {ends[1][row]!r}"
        )
        if absent.all():
            raise ValueError(
                f"{text}. {source!r} has e.g. {names[0][0]!r}, {target!r} e.g. {names[1][0]!r}."
            )
        warnings.warn(f"{text}; they are left out.", UserWarning, stacklevel=4)
    distance = table["distance"] if "distance" in table else pd.Series(np.nan, table.index)
    pairs = pd.DataFrame({"i": i, "j": j, "distance": pd.to_numeric(distance).to_numpy(float)})
    pairs = pairs[~absent].sort_values(["i", "j", "distance"]).drop_duplicates(["i", "j"])
    return Candidates(*(pairs[column].to_numpy() for column in ("i", "j", "distance")))


def _look_up(names: list[pd.Index], ends: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of both ends, -1 where there is no such feature."""
    i, j = (index.get_indexer(end) for index, end in zip(names, ends, strict=True))
    return i, j


def _by_distance(
    mdata: MuData,
    source: str,
    target: str,
    max_distance: int,
    annotation: pd.DataFrame | str | Path | None,
) -> Candidates:
    peaks = _chromatin(mdata, source, target)
    genes = source if peaks == target else target
    links = peak_gene_links(
        mdata, peaks, genes, annotation=annotation, upstream=0, max_distance=max_distance
    )
    if peaks == source:
        links = links.rename(columns={"source": "target", "target": "source"})
    return _from_table(mdata, source, target, links)


def _chromatin(mdata: MuData, source: str, target: str) -> str:
    """Which of two modalities has peaks."""
    reasons = []
    for name in (target, source):
        try:
            peak_regions(name, mdata[name])
        except ValueError as error:
            reasons.append(str(error))
        else:
            return name
    raise ValueError(f"max_distance needs a modality of peaks. {' '.join(reasons)}")
