"""A MuData taken apart and put together again, since it can be neither pickled nor deep-copied."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import h5py
import mudata
import zarr
from anndata import AnnData
from mudata import MuData

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd


def no_pull() -> AbstractContextManager[Any]:
    """Build or update a MuData without copying columns of the modalities to the top level.

    mudata 0.3 copies them by default and re-orders views when they are copied; mudata 0.4 never
    does and has no such option.
    """
    if hasattr(mudata, "set_options"):
        return mudata.set_options(pull_on_update=False)
    return nullcontext()


def copied(adata: AnnData) -> AnnData:
    """Copy of a modality that shares what of ``.obsm`` is on disk, which cannot be copied."""
    on_disk = {k: v for k, v in adata.obsm.items() if isinstance(v, h5py.Dataset | zarr.Array)}
    if not on_disk:
        return adata.copy()
    shell = AnnData(
        adata.X,
        obs=adata.obs,
        var=adata.var,
        uns=adata.uns,
        obsm={k: v for k, v in adata.obsm.items() if k not in on_disk},
        varm=dict(adata.varm),
        layers={k: v for k, v in adata.layers.items() if k is not None},
        obsp=dict(adata.obsp),
        varp=dict(adata.varp),
    )
    copy = shell.copy()
    copy.obsm.update(on_disk)
    return copy


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
    with warnings.catch_warnings(), no_pull():
        warnings.simplefilter("ignore", (UserWarning, FutureWarning))
        mdata = MuData(modalities, obs=obs.iloc[:, :0].copy(), var=var.iloc[:, :0].copy())
    mdata.obs, mdata.var = obs.copy(), var.copy()
    mdata.uns.update(uns)
    for attribute, entries in further.items():
        for key, values in entries.items():
            getattr(mdata, attribute)[key] = values
    return mdata
