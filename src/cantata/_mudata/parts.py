"""A MuData taken apart and put together again, since it can be neither pickled nor deep-copied."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from mudata import MuData

from cantata import _compat

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from anndata import AnnData


def parts_of_mudata(mdata: MuData) -> dict[str, Any]:
    """Arguments of :func:`mudata_of_parts` that make the same MuData; matrices are shared.

    Data that stay on disk are a ``ValueError``.
    """
    backed = [name for name, adata in mdata.mod.items() if adata.isbacked]
    if mdata.isbacked or backed:
        raise ValueError(
            "The MuData is on disk, which cannot be copied with the model. Use save and load."
        )
    # entries by the name of a modality are mudata's own
    return {
        "modalities": dict(mdata.mod),
        "obs": mdata.obs,
        "var": mdata.var,
        "uns": dict(mdata.uns),
        "further": {
            attribute: {k: v for k, v in getattr(mdata, attribute).items() if k not in mdata.mod}
            for attribute in ("obsm", "obsp", "varm", "varp")
        },
    }


def mudata_of_parts(
    modalities: dict[str, AnnData],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    uns: Mapping[str, Any],
    further: Mapping[str, Mapping[str, Any]],
) -> MuData:
    """MuData of these modalities, with its cells and features in the order of `obs` and `var`."""
    with warnings.catch_warnings(), _compat.no_pull():
        warnings.simplefilter("ignore", (UserWarning, FutureWarning))
        mdata = MuData(modalities, obs=obs.iloc[:, :0].copy(), var=var.iloc[:, :0].copy())
    mdata.obs, mdata.var = obs.copy(), var.copy()
    mdata.uns.update(uns)
    for attribute, entries in further.items():
        for key, values in entries.items():
            getattr(mdata, attribute)[key] = values
    return mdata
