"""From the values of two modalities in the same cells to a table of tested correlations."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata.tl._feature_columns import FeatureColumns, Moments, Statistic, group_moments
from cantata.tl._link_permutations import permutation_p
from cantata.tl._link_statistics import (
    approximate_p,
    pair_products,
    pair_statistics,
    q_values,
    strong_pairs,
)

if TYPE_CHECKING:
    from mudata import MuData

    from cantata.tl._link_candidates import Candidates
    from cantata.tl._link_values import Values

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How pairs are tested and which are kept; see :func:`cantata.tl.infer_links`.

    Raises
    ------
    TypeError
        If a count is no integer.
    ValueError
        If a number is out of range.
    """

    min_correlation: float = 0.0
    max_links: int = 1_000_000
    n_permutations: int = 0
    random_state: int = 0
    block_size: int | None = None
    limit: str = "max_links"
    """Name of the argument that ``max_links`` was given for, used in error messages."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_correlation <= 1:
            raise ValueError(f"min_correlation={self.min_correlation!r} must be within [0, 1].")
        for name, least in (("max_links", 1), ("n_permutations", 0), ("block_size", 1)):
            value = getattr(self, name)
            if name == "block_size" and value is None:
                continue
            shown = self.limit if name == "max_links" else name
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"{shown} must be an integer, got {value!r}.")
            if value < least:
                raise ValueError(f"{shown} must be at least {least}, got {value}.")


@dataclass(frozen=True)
class Correlated:
    """Pairs of features (positions ``i`` and ``j``), their table, and how many were tested."""

    i: np.ndarray
    j: np.ndarray
    table: pd.DataFrame
    n_tests: int


def choose_columns(
    mdata: MuData,
    modality: str,
    values: Values,
    rows: np.ndarray,
    wanted: np.ndarray | None,
    statistic: Statistic,
) -> tuple[FeatureColumns, np.ndarray]:
    """Columns of the wanted features, in the order of the modality, and their positions there.

    Parameters
    ----------
    mdata, modality
        Where the features stand.
    values
        Values of the modality.
    rows
        Cells, as positions in ``values.rows``.
    wanted
        Positions of features in the modality; None: all that have values. Those without values
        are left out.
    statistic
        Values or ranks.

    Raises
    ------
    ValueError
        If none of the wanted features has values.
    """
    order = np.argsort(values.features)
    positions = values.features[order]
    if wanted is not None:
        kept = np.isin(positions, wanted)
        order, positions = order[kept], positions[kept]
    if not len(order):
        raise ValueError(
            f"{values.where} has values for none of the wanted features of modality {modality!r}."
        )
    names = mdata[modality].var_names[positions]
    columns = FeatureColumns(
        values.matrix,
        values.rows[rows],
        order,
        names=names,
        where=values.where,
        statistic=statistic,
    )
    return columns, positions


def correlate(
    first: FeatureColumns,
    second: FeatureColumns,
    candidates: Candidates | None,
    codes: np.ndarray,
    options: Options,
    *,
    upper: bool = False,
) -> Correlated:
    """Correlate pairs of features and test them against permutations within groups.

    Parameters
    ----------
    first, second
        Features of both ends in the same cells.
    candidates
        Pairs to test, sorted; None: all.
    codes
        Group of every cell.
    options
        How pairs are tested and which are kept.
    upper
        Both ends are the same features: each pair once, none with itself.

    Returns
    -------
    The pairs that are kept, in the order of `first` and then `second`.
    """
    moments = group_moments(first, codes), group_moments(second, codes)
    if candidates is None:
        pairs = strong_pairs(
            first,
            second,
            *moments,
            min_correlation=options.min_correlation,
            max_pairs=options.max_links,
            block_size=options.block_size,
            upper=upper,
        )
        n_tests = _count_pairs(*moments, upper)
        distance = np.full(len(pairs.i), np.nan)
        if len(pairs.i) == options.max_links < n_tests:
            logger.info("The %d strongest of %d pairs are kept.", len(pairs.i), n_tests)
    else:
        pairs = pair_products(first, second, moments[0], candidates.source, candidates.target)
        n_tests = int(np.count_nonzero(_vary(moments[0])[pairs.i] & _vary(moments[1])[pairs.j]))
        distance = candidates.distance
    statistics = pair_statistics(pairs, *moments)
    if options.n_permutations:
        p = permutation_p(
            first,
            second,
            pairs,
            statistics,
            codes,
            n_permutations=options.n_permutations,
            random_state=options.random_state,
        )
    else:
        p = approximate_p(statistics)
    table = pd.DataFrame(
        {
            "source": first.names[pairs.i],
            "target": second.names[pairs.j],
            "correlation": statistics.correlation,
            "within_correlation": statistics.within,
            "p": p,
            "q": q_values(p, n_tests),
            "distance": distance,
        }
    )
    kept = np.ones(len(table), dtype=bool)
    if options.min_correlation > 0:  # without a limit pairs of constant features stay too
        kept = np.abs(statistics.correlation) >= options.min_correlation
    return Correlated(pairs.i[kept], pairs.j[kept], table[kept].reset_index(drop=True), n_tests)


def _vary(moments: Moments) -> np.ndarray:
    """Which features are not constant."""
    return moments.variation > 0


def _count_pairs(first: Moments, second: Moments, upper: bool) -> int:
    """Number of all pairs whose features both vary."""
    n_first, n_second = (int(np.count_nonzero(_vary(of))) for of in (first, second))
    return n_first * (n_first - 1) // 2 if upper else n_first * n_second
