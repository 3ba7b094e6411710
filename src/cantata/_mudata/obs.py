"""Cell annotations that may live at MuData or at modality level, brought to one column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata._mudata.pairing import row_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData


def _candidates(mdata: MuData, key: str, modalities: Sequence[str]) -> list[tuple[str, pd.Series]]:
    """Columns called `key`, each as ``(where it was found, one value per cell of the MuData)``."""
    found = []
    if key in mdata.obs:
        found.append((f"mdata.obs[{key!r}]", mdata.obs[key].reset_index(drop=True)))
    table = row_table(mdata, modalities)
    for name in modalities:
        if f"{name}:{key}" in mdata.obs:
            column = mdata.obs[f"{name}:{key}"].reset_index(drop=True)
            found.append((f"mdata.obs['{name}:{key}']", column))
        if key in mdata[name].obs:
            rows = table[name]
            values = mdata[name].obs[key].to_numpy(dtype=object)
            spread = np.full(mdata.n_obs, np.nan, dtype=object)
            spread[rows >= 0] = values[rows[rows >= 0]]
            found.append((f"mdata[{name!r}].obs[{key!r}]", pd.Series(spread)))
    return found


def coalesce_obs(
    mdata: MuData,
    key: str,
    modalities: Sequence[str] | None = None,
    *,
    argument: str = "batch_key",
) -> pd.Series:
    """One value per cell of an annotation, wherever it is stored.

    Looks in ``mdata.obs[key]``, then ``mdata.obs["<m>:<key>"]``, then ``mdata[m].obs[key]`` of
    every modality, and takes the first value that is not missing.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    key
        Name of the column.
    modalities
        Modalities that may hold the column; all by default.
    argument
        Name of the argument that `key` was given for, used in error messages.

    Returns
    -------
    Series of length ``mdata.n_obs``, indexed by ``mdata.obs_names``, of dtype ``object`` with NaN
    where no source has a value.

    Raises
    ------
    KeyError
        If the column is nowhere.
    ValueError
        If two sources disagree about a cell.
    """
    names = list(mdata.mod) if modalities is None else list(modalities)
    found = _candidates(mdata, key, names)
    if not found:
        raise KeyError(
            f"{argument}={key!r} is neither a column of mdata.obs nor of any modality "
            f"({', '.join(names)}). Columns of mdata.obs: {list(mdata.obs.columns)}."
        )
    merged = np.full(mdata.n_obs, np.nan, dtype=object)
    origin = np.full(mdata.n_obs, -1)
    for source, (where, column) in enumerate(found):
        values = column.to_numpy(dtype=object)
        known = ~pd.isna(values)
        both = np.flatnonzero(known & (origin >= 0))
        clash = both[merged[both] != values[both]]
        if clash.size:
            cell = clash[0]
            raise ValueError(
                f"{argument}={key!r} contradicts itself for {clash.size} cells: cell "
                f"{mdata.obs_names[cell]!r} is {merged[cell]!r} in {found[origin[cell]][0]} but "
                f"{values[cell]!r} in {where}. Make the columns agree or delete one of them."
            )
        new = known & (origin < 0)
        merged[new], origin[new] = values[new], source
    return pd.Series(merged, index=mdata.obs_names, name=key, dtype=object)
