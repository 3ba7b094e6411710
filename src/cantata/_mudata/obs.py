"""Annotations of cells, at MuData or at modality level, as one column."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cantata._mudata.pairing import row_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

MIN_CELLS = 20
"""With fewer cells values need not repeat."""


def category_name(value: Any) -> str:
    """Name of a category; whole numbers have one, whatever their type.

    Columns of numbers become floats where one value is missing, and integers or strings when files
    are written and read.

    Examples
    --------
    >>> [category_name(value) for value in (1, 1.0, "1", 1.5, True)]
    ['1', '1', '1', '1.5', 'True']
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if is_number and float(value).is_integer():
        return str(int(value))
    return str(value)


def category_names(column: pd.Series) -> pd.Series:
    """A column with the names of its categories; missing values stay missing."""
    return column.map(category_name, na_action="ignore")


def check_groups(names: pd.Series, argument: str, key: str) -> None:
    """Refuse a column whose values hardly ever repeat, as of ages (``ValueError``)."""
    known = names.dropna()
    if len(known) >= MIN_CELLS and known.nunique() > len(known) / 2:
        raise ValueError(
            f"{argument}={key!r} has {known.nunique()} values in {len(known)} cells, e.g. "
            f"{known.iloc[0]!r}, and groups no cells. Numbers go to continuous_covariate_keys."
        )


def known_batches(column: pd.Series, key: str, of: str = "") -> pd.Series:
    """Names of the batches of cells, every one of which has one (``ValueError``)."""
    missing = column.index[column.isna()]
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {len(column)} cells{of} have no batch in batch_key={key!r}, e.g. "
            f"{missing[0]!r}. Fill it in or leave them out."
        )
    names = category_names(column)
    check_groups(names, "batch_key", key)
    return names


def coalesce_obs(
    mdata: MuData,
    key: str,
    modalities: Sequence[str] | None = None,
    *,
    argument: str = "batch_key",
    top_alone: bool = False,
) -> pd.Series:
    """One value per cell of an annotation, wherever it is stored.

    Looks in ``mdata.obs[key]``, then for every modality (of `modalities`, if given) in
    ``mdata[m].obs[key]``, or without it ``mdata.obs["<m>:<key>"]``, and takes the first value that
    is not missing.

    With `top_alone`, ``mdata.obs[key]`` is not completed where it exists: what is missing there
    is unknown, such as labels that a user hid. A warning says it where modalities know more.

    Returns
    -------
    Series indexed by ``mdata.obs_names``, of dtype ``object``, NaN where no source has a value.

    Raises
    ------
    KeyError
        If the column is nowhere; it names the `argument` that `key` was given for.
    TypeError
        If `key` is no text, such as a list of columns.
    ValueError
        If two sources disagree about a cell.
    """
    if not isinstance(key, str):
        raise TypeError(f"{argument}={key!r} must be the name of one column.")
    names = list(mdata.mod) if modalities is None else list(modalities)
    # 1. columns called `key`: where each was found, and one value per cell of the MuData
    candidates: list[tuple[str, np.ndarray]] = []
    if key in mdata.obs:
        candidates.append((f"mdata.obs[{key!r}]", mdata.obs[key].to_numpy(dtype=object)))
    top_alone = top_alone and bool(candidates)
    for name, rows in row_table(mdata, names).items():
        if key in mdata[name].obs:
            values = np.full(mdata.n_obs, np.nan, dtype=object)
            values[rows >= 0] = mdata[name].obs[key].to_numpy(dtype=object)[rows[rows >= 0]]
            candidates.append((f"mdata[{name!r}].obs[{key!r}]", values))
        elif f"{name}:{key}" in mdata.obs:  # a copy, which mudata does not renew
            values = mdata.obs[f"{name}:{key}"].to_numpy(dtype=object)
            candidates.append((f"mdata.obs['{name}:{key}']", values))
    if not candidates:
        raise KeyError(
            f"{argument}={key!r} is neither a column of mdata.obs nor of any modality "
            f"({', '.join(names)}). Columns of mdata.obs: {list(mdata.obs.columns)}."
        )
    # 2. the first value that is not missing
    merged = np.full(mdata.n_obs, np.nan, dtype=object)
    origin = np.full(mdata.n_obs, -1)
    for source, (where, values) in enumerate(candidates):
        known = ~pd.isna(values)
        both = np.flatnonzero(known & (origin >= 0))
        unequal = both[merged[both] != values[both]]
        clash = [i for i in unequal if category_name(merged[i]) != category_name(values[i])]
        if clash:
            cell = clash[0]
            raise ValueError(
                f"{argument}={key!r} contradicts itself for {len(clash)} cells: cell "
                f"{mdata.obs_names[cell]!r} is {merged[cell]!r} in "
                f"{candidates[origin[cell]][0]} but {values[cell]!r} in {where}. Make the columns "
                "agree or delete one of them."
            )
        new = known & (origin < 0)
        merged[new], origin[new] = values[new], source
    # 3. unless what is missing in the first column is to stay so
    completed = origin > 0
    if top_alone and completed.any():
        warnings.warn(
            f"{argument}={key!r}: {completed.sum()} cells have no value in mdata.obs[{key!r}], "
            f"but one in {candidates[int(origin[completed][0])][0]}. They are taken as unknown; "
            f"to use all values, delete the column: del mdata.obs[{key!r}].",
            UserWarning,
            stacklevel=2,
        )
        merged[completed] = np.nan
    return pd.Series(merged, index=mdata.obs_names, name=key, dtype=object)
