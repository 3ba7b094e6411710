"""What every latent space reveals of every known factor, and what it should not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.progress import track

from cantata._numeric.neighbors import check_rows
from cantata.metrics._datasets import check_count, choose_cells
from cantata.metrics._factors import Factor, check_split, checked_factors, held_out_cells
from cantata.metrics._probes import ProbeData, classify, regress
from cantata.metrics._silhouette import silhouette

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

SHOWN = 2_000_000
"""Cells x blocks x factors from which on a progress bar is shown."""


def disentanglement(
    blocks: Mapping[str, ArrayLike],
    factors: pd.DataFrame,
    own: Mapping[str, str | Sequence[str]] | None = None,
    *,
    test: ArrayLike | None = None,
    noisy: bool = False,
    n_neighbors: int = 15,
    n_silhouette: int | None = 5000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""How well every factor can be read from every block of latents, on held-out cells.

    A model that disentangles holds each factor in its own block and nowhere else: read the scores
    of own blocks, which should be high, beside all others, which should be at chance. Simple
    probes are trained to predict each factor from each block; their scores, and silhouettes as in
    Zhang et al. 2026 (APOLLO, Extended Data Figs 1 to 4), make one tidy table, which
    :func:`disentanglement_summary` sums up.

    Parameters
    ----------
    blocks
        Name to latents (cells, dimensions), such as the shared and the specific spaces. The same
        cells in the same order.
    factors
        One column per factor, one row per cell, in the order of the blocks; the index is not used.
        Numbers are predicted as numbers; booleans, categories and text as classes. Cells without a
        value take no part in that factor.
    own
        Factor to the name of the block, or the blocks, that should hold it, such as
        ``mdata.uns["factors"]`` of :func:`cantata.datasets.simulate_disentangled`. Factors that
        are not named have no own block, and the summary leaves them out. To say that no block
        should hold a factor give ``()``.
    test
        Held-out cells: a mask over all cells, or row numbers. None: a fifth of the cells, drawn at
        random.
    noisy
        Add noise :math:`N(0, 1)` to the latents before they are probed. It is what the decoders of
        APOLLO see in training: dimensions of much smaller spread carry nothing then, while a
        standardised column reveals what it holds at any scale.
        Meant for leakage: a factor that fills one dimension of standard deviation 3 is itself read
        with an R2 of 0.9 at most.
    n_neighbors
        Number of neighbours of the second probe.
    n_silhouette
        Compute silhouettes among at most so many cells, drawn at random; their cost grows with the
        square. None: all.
    seed
        Seed of the held-out cells, the noise and the permutations.

    Returns
    -------
    One row per block and factor, with columns

    - ``block``, ``factor``, ``kind``: ``"numeric"``, ``"binary"`` (a number of two values) or
      ``"categorical"``;
    - ``linear``, ``knn``: on held-out cells, for numbers the R2 of least squares and of the mean
      over the nearest training cells; for classes the accuracy of logistic regression and of a
      vote of the nearest training cells. Columns of the latents are standardised;
    - ``score``: the better of the two;
    - ``chance``: for classes the accuracy of always naming the most common training class, for
      numbers 0;
    - ``permuted``: the score after a permutation of the training cells' values;
    - ``silhouette``: average silhouette width of binary and categorical factors over all cells, in
      the latents as they are, without noise;
    - ``is_own``: whether the block should hold the factor; missing where `own` does not say.

    Raises
    ------
    TypeError
        If a block is not numeric, `factors` is no table, or a number is no integer.
    KeyError
        If `own` names an unknown factor or block.
    ValueError
        If lengths disagree, a block holds NaN, a factor holds infinity or has one value only (in
        the training or held-out cells as well), or `test` is no mask and no list of rows.

    Notes
    -----
    R2 may be negative. Where one factor is a parent of another (Z2 of Z4 in settings 3 to 5 of
    :func:`cantata.datasets.simulate_disentangled`), a block that holds the parent predicts the
    child; use what the child has of its own. Neighbours are searched in blocks of cells: no
    matrix of cells x cells is formed.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_disentangled(1, n_cells=500)
    >>> table = cantata.metrics.disentanglement(
    ...     {"shared": mdata.obs[["Z1", "Z2"]], "x": mdata.obs[["Z3", "Z4"]]},
    ...     mdata.obs[["Z1", "Z3"]],
    ...     own={"Z1": "shared", "Z3": "x"},
    ... )
    >>> scores = table.pivot(index="factor", columns="block", values="score")
    >>> scores.loc["Z1"].round(1).abs().to_dict()
    {'shared': 1.0, 'x': 0.0}
    """
    latents = _checked_blocks(blocks)
    n_cells = len(next(iter(latents.values())))
    known = checked_factors(factors, n_cells, own, list(latents))
    held_out = held_out_cells(test, n_cells, seed)
    for factor in known:
        check_split(factor, held_out, n_neighbors)
    if n_silhouette is not None:
        check_count(n_silhouette, "n_silhouette")
    records = []
    work = n_cells * len(latents) * len(known)
    for block, x in track(latents.items(), description="Probes", disable=work < SHOWN):
        probed = _noisy(x, seed) if noisy else x
        data: dict[bytes, ProbeData] = {}  # factors that the same cells have share neighbours
        for factor in known:
            present = ~np.isnan(factor.values)
            train, rows = (np.flatnonzero(present & part) for part in (~held_out, held_out))
            key = present.tobytes()
            if key not in data:
                data[key] = ProbeData.split(probed, train, rows, n_neighbors, seed=seed)
            record: dict[str, Any] = {"block": block, "factor": factor.name, "kind": factor.kind}
            record |= _scores(factor, data[key], train, rows, seed)
            record["silhouette"] = _silhouette(x, factor, n_silhouette, seed)
            record["is_own"] = pd.NA if factor.own is None else block in factor.own
            records.append(record)
    return pd.DataFrame.from_records(records).astype({"is_own": "boolean"})


def disentanglement_summary(table: pd.DataFrame) -> pd.DataFrame:
    r"""Own scores and leakage of every block and of all together.

    Parameters
    ----------
    table
        Result of :func:`disentanglement`; several may be concatenated.

    Returns
    -------
    One row per block and the row ``"all"``, with columns

    - ``own_min``, ``own_mean``: of the factors that the block should hold; higher is better;
    - ``leakage_max``, ``leakage_mean``: of the factors that it should not; lower is better;
    - ``leaks``: the factor of ``leakage_max``, with its block in the last row;
    - ``silhouette_own``, ``silhouette_other``: the smallest silhouette of a factor that the block
      should hold, and the largest of one that it should not.

    Missing where there is no such factor. Factors without known owner are left out. So that
    numbers and classes compare, scores are shares of what is possible beyond chance,
    :math:`(score - chance) / (1 - chance)`; for numbers this is R2 itself. Shares below 0 count
    as 0.

    Raises
    ------
    KeyError
        If `table` lacks a column.
    ValueError
        If no factor of the table has a known owner, or a block is called ``"all"``.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_disentangled(1, n_cells=500)
    >>> blocks = {"shared": mdata.obs[["Z1", "Z2"]], "x": mdata.obs[["Z3", "Z4"]]}
    >>> table = cantata.metrics.disentanglement(
    ...     blocks, mdata.obs[["Z1", "Z3"]], {"Z1": "shared", "Z3": "x"}
    ... )
    >>> summary = cantata.metrics.disentanglement_summary(table)
    >>> summary.loc["all", ["own_min", "leakage_max"]].astype(float).round(1).tolist()
    [1.0, 0.0]
    """
    needed = ["block", "factor", "score", "chance", "silhouette", "is_own"]
    lacking = [column for column in needed if column not in table]
    if lacking:
        raise KeyError(f"table lacks the columns {lacking}; give what disentanglement returned.")
    known = table.loc[table["is_own"].notna(), needed].copy()
    if known.empty:
        raise ValueError(
            f"None of the {table['factor'].nunique()} factors has a known owner; say which block "
            "should hold which factor with own={...}."
        )
    if (known["block"] == "all").any():
        raise ValueError("A block is called 'all', as is the last row of the summary; rename it.")
    beyond = (known["score"] - known["chance"]) / (1 - known["chance"])
    known["share"] = beyond.clip(lower=0).where(known["chance"] < 1)
    known["is_own"] = known["is_own"].astype(bool)
    rows = {
        str(block): _summed(part, str(block)) for block, part in known.groupby("block", sort=False)
    }
    rows["all"] = _summed(known, None)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("block")


def _summed(part: pd.DataFrame, block: str | None) -> dict[str, Any]:
    own, other = part[part["is_own"]], part[~part["is_own"]]
    leaks = None
    if other["share"].notna().any():
        worst = other.loc[other["share"].idxmax()]
        leaks = worst["factor"] if block else f"{worst['factor']} in {worst['block']}"
    return {
        "own_min": own["share"].min(),
        "own_mean": own["share"].mean(),
        "leakage_max": other["share"].max(),
        "leakage_mean": other["share"].mean(),
        "leaks": leaks,
        "silhouette_own": own["silhouette"].min(),
        "silhouette_other": other["silhouette"].max(),
    }


def _checked_blocks(blocks: Mapping[str, Any]) -> dict[str, np.ndarray]:
    latents = {str(name): check_rows(x, f"blocks[{name!r}]") for name, x in blocks.items()}
    if not latents:
        raise ValueError("blocks is empty; give at least one array of latents.")
    lengths = {name: len(x) for name, x in latents.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Blocks must hold the same cells in the same order; rows are {lengths}.")
    return latents


def _noisy(latents: np.ndarray, seed: int) -> np.ndarray:
    noise: np.ndarray = np.random.default_rng([seed, 1]).standard_normal(latents.shape)
    return latents + noise


def _scores(
    factor: Factor, data: ProbeData, train: np.ndarray, test: np.ndarray, seed: int
) -> dict[str, float]:
    known, true = factor.values[train], factor.values[test]
    shuffled = np.random.default_rng([seed, 2]).permutation(known)
    if factor.kind == "categorical":
        known, true, shuffled = (x.astype(np.int64) for x in (known, true, shuffled))
        found, by_chance = classify(data, known, true), classify(data, shuffled, true)
        chance = float(np.mean(true == np.bincount(known).argmax()))
    else:
        found, by_chance = regress(data, known, true), regress(data, shuffled, true)
        chance = 0.0
    return {
        "score": found.best,
        "linear": found.linear,
        "knn": found.knn,
        "chance": chance,
        "permuted": by_chance.best,
    }


def _silhouette(latents: np.ndarray, factor: Factor, n_samples: int | None, seed: int) -> float:
    if factor.kind == "numeric":
        return float("nan")
    present = np.flatnonzero(~np.isnan(factor.values))
    cells = present[choose_cells(len(present), n_samples, seed)]
    labels = factor.values[cells]
    if not 2 <= len(np.unique(labels)) < len(cells):
        return float("nan")  # a draw without rare classes
    return silhouette(latents[cells], labels)
