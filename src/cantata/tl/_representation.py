"""Embeddings of a MuData by key, with errors that say what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cantata._numeric.neighbors import check_rows

if TYPE_CHECKING:
    import numpy as np
    from mudata import MuData


def modality_rep(mdata: MuData, modality: str, use_rep: str) -> np.ndarray:
    """``mdata[modality].obsm[use_rep]``, one row per cell of the modality in its order."""
    if modality not in mdata.mod:
        raise KeyError(f"There is no modality {modality!r}; there are {list(mdata.mod)}.")
    obsm = mdata[modality].obsm
    name = f"mdata[{modality!r}].obsm[{use_rep!r}]"
    if use_rep not in obsm:
        raise KeyError(f"{name} does not exist; keys there: {list(obsm.keys())}.")
    return check_rows(obsm[use_rep], name)


def joint_rep(mdata: MuData, use_rep: str) -> np.ndarray:
    """``mdata.obsm[use_rep]``, one row per cell."""
    name = f"mdata.obsm[{use_rep!r}]"
    known = [key for key in mdata.obsm if key not in mdata.mod]  # the rest are membership masks
    if use_rep not in known:
        raise KeyError(
            f"{name} does not exist; keys there: {known}. To use the embeddings of single "
            "modalities give source and target."
        )
    return check_rows(mdata.obsm[use_rep], name)
