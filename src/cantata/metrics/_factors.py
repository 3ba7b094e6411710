"""Known factors of cells, as probes read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cantata._numeric.neighbors import check_k

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["numeric", "binary", "categorical"]

HELD_OUT = 0.2
"""Share of the cells that probes do not see, if none are named."""


@dataclass(frozen=True)
class Factor:
    """A factor: values or codes of the cells, float64, NaN where missing."""

    name: str
    kind: Kind
    values: np.ndarray
    own: tuple[str, ...] | None


def checked_factors(
    factors: pd.DataFrame, n_cells: int, own: Mapping[str, Any] | None, blocks: list[str]
) -> list[Factor]:
    """Factors of a table, one per column.

    Parameters
    ----------
    factors
        Cells x factors.
    n_cells
        Number of cells of the blocks.
    own
        Factor to the name or names of its own blocks.
    blocks
        Names of the blocks.

    Raises
    ------
    TypeError
        If `factors` is no table.
    KeyError
        If `own` names an unknown factor or block.
    ValueError
        If the table does not fit the blocks, or a factor is infinite, does not vary or consists of
        names.
    """
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
        strange = [block for block in owners[name] if block not in blocks]
        if strange:
            raise KeyError(f"own[{name!r}] names {strange[0]!r}, but the blocks are {blocks}.")
    return [_encoded(name, factors[name], owners.get(name)) for name in factors]


def _encoded(name: Any, column: pd.Series, own: tuple[str, ...] | None) -> Factor:
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
    return Factor(str(name), kind, values, own)


def held_out_cells(test: Any, n_cells: int, seed: int) -> np.ndarray:
    """Mask of the held-out cells: as told, or drawn at random.

    Raises
    ------
    ValueError
        If `test` is no mask over the cells and no list of rows.
    """
    mask = np.zeros(n_cells, dtype=bool)
    if test is None:
        rng = np.random.default_rng([seed, 0])
        mask[rng.permutation(n_cells)[: max(2, round(HELD_OUT * n_cells))]] = True
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


def check_split(factor: Factor, held_out: np.ndarray, k: int) -> None:
    """Refuse a split after which a factor cannot be learnt with `k` neighbours, or not scored."""
    present = ~np.isnan(factor.values)
    train, rows = factor.values[present & ~held_out], factor.values[present & held_out]
    check_k(k, len(train), f"the training cells of factor {factor.name!r}")
    for part, values in (("training", train), ("held-out", rows)):
        least = 1 if factor.kind == "categorical" and part == "held-out" else 2
        if len(np.unique(values)) < least:
            raise ValueError(
                f"Factor {factor.name!r} does not vary in its {len(values)} {part} cells; choose "
                "others with test=..., or leave the factor out."
            )
