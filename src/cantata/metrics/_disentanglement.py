"""How well known factors of the cells can be read from each block of latents."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from rich.progress import track
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from cantata._mudata.checks import check_integer
from cantata._numeric.neighbors import check_k, check_rows, nearest_neighbors
from cantata.metrics._inputs import read_blocks
from cantata.metrics._mixing import choose_cells, silhouette

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mudata import MuData
    from numpy.typing import ArrayLike

Kind = Literal["numeric", "binary", "categorical"]

MIN_WORK_FOR_PROGRESS = 2_000_000
"""Cells x blocks x factors from which on a progress bar is shown."""

HELD_OUT_SHARE = 0.2
"""Share of the cells that probes do not see, if none are named."""

MIN_VARIANCE = 1e-10
"""Directions with less than this share of the largest variance do not enter a regression."""


def disentanglement(
    blocks: Mapping[str, ArrayLike] | MuData,
    factors: pd.DataFrame | str | Sequence[str],
    own: Mapping[str, str | Sequence[str]] | None = None,
    *,
    use_rep: Mapping[str, str] | None = None,
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
        cells in the same order. Or a MuData.
    factors
        One column per factor, one row per cell, in the order of the blocks; its index may be any
        other, but not the cells of a block in another order. Of a MuData names of columns, or a
        table by name of cell. Numbers are predicted as numbers; booleans, categories and text as
        classes. Cells without a value take no part in that factor.
    own
        Factor to the name of the block, or the blocks, that should hold it, such as
        ``mdata.uns["factors"]`` of :func:`cantata.datasets.simulate_disentangled`. Factors that
        are not named have no own block, and the summary leaves them out. To say that no block
        should hold a factor give ``()``.
    use_rep
        Of a MuData: name of the block to key in ``mdata.obsm``, or ``"<modality>:<key>"``, such as
        ``{"shared": "X_apollo", "rna": "rna:X_apollo_specific"}``. Cells that have all of them
        take part, in the order of ``mdata.obs_names``.
    test
        Held-out cells: a mask over the cells, or row numbers. None: a fifth of the cells, drawn at
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
        If `own` names an unknown factor or block, or a key or column of the MuData does not exist.
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
    blocks, factors = read_blocks(blocks, factors, use_rep)
    latents = _checked_blocks(blocks)
    n_cells = len(next(iter(latents.values())))
    known = _checked_factors(factors, n_cells, own, list(latents))
    held_out = _held_out_cells(test, n_cells, seed)
    for factor in known:
        _check_split(factor, held_out, n_neighbors)
    if n_silhouette is not None:
        check_integer("n_silhouette", n_silhouette)
    records = []
    quick = n_cells * len(latents) * len(known) < MIN_WORK_FOR_PROGRESS
    for block, x in track(latents.items(), description="Probes", disable=quick):
        probed = _noisy(x, seed) if noisy else x
        data: dict[bytes, _ProbeData] = {}  # factors that the same cells have share neighbours
        for factor in known:
            present = ~np.isnan(factor.values)
            train, rows = (np.flatnonzero(present & part) for part in (~held_out, held_out))
            key = present.tobytes()
            if key not in data:
                data[key] = _ProbeData.split(probed, train, rows, n_neighbors, seed=seed)
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
    factor: _Factor, data: _ProbeData, train: np.ndarray, test: np.ndarray, seed: int
) -> dict[str, float]:
    known, true = factor.values[train], factor.values[test]
    shuffled = np.random.default_rng([seed, 2]).permutation(known)
    if factor.kind == "categorical":
        known, true, shuffled = (x.astype(np.int64) for x in (known, true, shuffled))
        chance = float(np.mean(true == np.bincount(known).argmax()))
        probe = _classify
    else:
        chance, probe = 0.0, _regress
    linear, knn = probe(data, known, true)
    return {
        "score": max(linear, knn),
        "linear": linear,
        "knn": knn,
        "chance": chance,
        "permuted": max(probe(data, shuffled, true)),
    }


def _silhouette(latents: np.ndarray, factor: _Factor, n_samples: int | None, seed: int) -> float:
    if factor.kind == "numeric":
        return float("nan")
    present = np.flatnonzero(~np.isnan(factor.values))
    cells = present[choose_cells(len(present), n_samples, seed)]
    labels = factor.values[cells]
    if not 2 <= len(np.unique(labels)) < len(cells):
        return float("nan")  # a draw without rare classes
    return silhouette(latents[cells], labels)


# Factors and held-out cells --------------------------------------------------------------------


@dataclass(frozen=True)
class _Factor:
    """A factor of the cells."""

    name: str
    kind: Kind
    values: np.ndarray
    """(cells,) float64 values or codes, NaN where missing."""
    own: tuple[str, ...] | None
    """Blocks that should hold it, None if unknown."""


def _checked_factors(
    factors: pd.DataFrame, n_cells: int, own: Mapping[str, Any] | None, blocks: list[str]
) -> list[_Factor]:
    """Columns of the table as numbers or codes, with the blocks that should hold them."""
    if not isinstance(factors, pd.DataFrame):
        raise TypeError(
            f"factors is a {type(factors).__name__}; give a DataFrame, cells x factors."
        )
    if len(factors) != n_cells or factors.shape[1] == 0:
        raise ValueError(
            f"factors has the shape {factors.shape}, but the blocks have {n_cells} cells; give "
            "one row per cell and at least one column."
        )
    if not factors.columns.is_unique:
        twice = factors.columns[factors.columns.duplicated()][0]
        raise ValueError(f"factors has several columns named {twice!r}.")
    owners = {}
    for name, given in (own or {}).items():
        owners[name] = (given,) if isinstance(given, str) else tuple(given)
        if name not in factors:
            raise KeyError(f"own names {name!r}, but the factors are {list(factors.columns)}.")
        unknown = [block for block in owners[name] if block not in blocks]
        if unknown:
            raise KeyError(f"own[{name!r}] names {unknown[0]!r}, but the blocks are {blocks}.")
    return [_encoded(name, factors[name], owners.get(name)) for name in factors]


def _encoded(name: Any, column: pd.Series, own: tuple[str, ...] | None) -> _Factor:
    """A factor as numbers or codes."""
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numeric:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        infinite = int(np.isinf(values).sum())
        if infinite:
            raise ValueError(f"Factor {name!r} is infinite in {infinite} cells.")
        n_values = len(np.unique(values[~np.isnan(values)]))
    else:
        codes, classes = pd.factorize(column.to_numpy(dtype=object))
        values, n_values = np.where(codes < 0, np.nan, codes), len(classes)
        if n_values == (codes >= 0).sum() > 1:
            raise ValueError(
                f"Factor {name!r} has {n_values} different values in as many cells, e.g. "
                f"{classes[0]!r}: these are names, not classes."
            )
    if n_values < 2:
        raise ValueError(f"Factor {name!r} has {n_values} different values; it must vary.")
    kind: Kind = "categorical" if not numeric else "binary" if n_values == 2 else "numeric"
    return _Factor(str(name), kind, values, own)


def _held_out_cells(test: Any, n_cells: int, seed: int) -> np.ndarray:
    """Mask of the held-out cells: as given, or drawn at random."""
    mask = np.zeros(n_cells, dtype=bool)
    if test is None:
        rng = np.random.default_rng([seed, 0])
        mask[rng.permutation(n_cells)[: max(2, round(HELD_OUT_SHARE * n_cells))]] = True
        return mask
    given = np.asarray(test)
    if given.dtype == bool:
        if given.shape != (n_cells,):
            raise ValueError(f"test is a mask of shape {given.shape} for {n_cells} cells.")
        return given
    inside = np.issubdtype(given.dtype, np.integer) and given.ndim == 1
    if not inside or given.min(initial=0) < 0 or given.max(initial=0) >= n_cells:
        raise ValueError(
            f"test must be a mask over the {n_cells} cells or their row numbers, got an array of "
            f"{given.dtype} of shape {given.shape}."
        )
    mask[given] = True
    return mask


def _check_split(factor: _Factor, held_out: np.ndarray, k: int) -> None:
    """Refuse a split after which a factor cannot be learnt with `k` neighbours, or not scored."""
    present = ~np.isnan(factor.values)
    train, rows = factor.values[present & ~held_out], factor.values[present & held_out]
    check_k(k, len(train), f"the training cells of factor {factor.name!r}")
    for part, values in (("training", train), ("held-out", rows)):
        needed = 1 if factor.kind == "categorical" and part == "held-out" else 2
        if len(np.unique(values)) < needed:
            raise ValueError(
                f"Factor {factor.name!r} does not vary in its {len(values)} {part} cells; choose "
                "others with test=..., or leave the factor out."
            )


# Probes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ProbeData:
    """One block of latents, split into training cells and held-out ones."""

    train: np.ndarray
    test: np.ndarray
    """Standardised latents (cells, dimensions)."""
    neighbors: np.ndarray
    """Nearest training cells of every held-out cell (cells, k), nearest first."""

    @classmethod
    def split(
        cls, latents: np.ndarray, train: np.ndarray, test: np.ndarray, k: int, *, seed: int
    ) -> _ProbeData:
        """Rows `train` and `test` of the latents, and `k` neighbours.

        Columns are standardised by the training cells; those that do not vary there become 0.
        """
        mean, sd = latents[train].mean(axis=0), latents[train].std(axis=0)
        sd[sd <= 1e-12 * np.abs(mean)] = np.inf
        left, right = ((latents[rows] - mean) / sd for rows in (train, test))
        neighbors, _ = nearest_neighbors(left, right, k, seed=seed)
        return cls(left, right, neighbors)


def _regress(data: _ProbeData, train: np.ndarray, test: np.ndarray) -> tuple[float, float]:
    """R2 on held-out cells of least squares, and of the mean over the nearest training cells.

    `train` and `test` are the factor's values. Negative where the mean of the held-out cells
    predicts better.
    """
    centered = data.train - data.train.mean(axis=0)
    slope = np.linalg.lstsq(centered, train - train.mean(), rcond=np.sqrt(MIN_VARIANCE))[0]
    linear = train.mean() + (data.test - data.train.mean(axis=0)) @ slope
    return _r2(test, linear), _r2(test, train[data.neighbors].mean(axis=1))


def _classify(data: _ProbeData, train: np.ndarray, test: np.ndarray) -> tuple[float, float]:
    """Accuracy on held-out cells of logistic regression, and of the nearest training cells.

    `train` and `test` are codes of the classes. A tie of the vote goes to the class whose cells
    are nearer.
    """
    return _accuracy(test, _logistic(data, train)), _accuracy(test, _vote(data, train))


def _r2(true: np.ndarray, predicted: np.ndarray) -> float:
    return float(1 - ((true - predicted) ** 2).sum() / ((true - true.mean()) ** 2).sum())


def _accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(true == predicted))


def _logistic(data: _ProbeData, train: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe need not be exact
        model = LogisticRegression(max_iter=200).fit(data.train, train)
    return np.asarray(model.predict(data.test))


def _vote(data: _ProbeData, train: np.ndarray) -> np.ndarray:
    n_test, k = data.neighbors.shape
    classes = train[data.neighbors]
    votes = np.zeros((n_test, int(train.max()) + 1))
    for rank in range(k):  # nearer cells weigh a trace more, which decides ties only
        votes[np.arange(n_test), classes[:, rank]] += 1 + 0.5 * (k - rank) / k**3
    return np.asarray(votes.argmax(axis=1))
