"""Annotations of cells, at MuData or at modality level, as one column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata._mudata.pairing import row_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData


def coalesce_obs(
    mdata: MuData,
    key: str,
    modalities: Sequence[str] | None = None,
    *,
    argument: str = "batch_key",
) -> pd.Series:
    """One value per cell of an annotation, wherever it is stored.

    Looks in ``mdata.obs[key]``, then ``mdata.obs["<m>:<key>"]``, then ``mdata[m].obs[key]`` of
    every modality (of `modalities`, if given), and takes the first value that is not missing.

    Returns
    -------
    Series indexed by ``mdata.obs_names``, of dtype ``object``, NaN where no source has a value.

    Raises
    ------
    KeyError
        If the column is nowhere; it names the `argument` that `key` was given for.
    ValueError
        If two sources disagree about a cell.
    """
    names = list(mdata.mod) if modalities is None else list(modalities)
    # 1. columns called `key`: where each was found, and one value per cell of the MuData
    candidates: list[tuple[str, np.ndarray]] = []
    if key in mdata.obs:
        candidates.append((f"mdata.obs[{key!r}]", mdata.obs[key].to_numpy(dtype=object)))
    for name, rows in row_table(mdata, names).items():
        if f"{name}:{key}" in mdata.obs:
            values = mdata.obs[f"{name}:{key}"].to_numpy(dtype=object)
            candidates.append((f"mdata.obs['{name}:{key}']", values))
        if key in mdata[name].obs:
            values = np.full(mdata.n_obs, np.nan, dtype=object)
            values[rows >= 0] = mdata[name].obs[key].to_numpy(dtype=object)[rows[rows >= 0]]
            candidates.append((f"mdata[{name!r}].obs[{key!r}]", values))
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
        clash = both[merged[both] != values[both]]
        if clash.size:
            cell = clash[0]
            raise ValueError(
                f"{argument}={key!r} contradicts itself for {clash.size} cells: cell "
                f"{mdata.obs_names[cell]!r} is {merged[cell]!r} in "
                f"{candidates[origin[cell]][0]} but {values[cell]!r} in {where}. Make the columns "
                "agree or delete one of them."
            )
        new = known & (origin < 0)
        merged[new], origin[new] = values[new], source
    return pd.Series(merged, index=mdata.obs_names, name=key, dtype=object)
