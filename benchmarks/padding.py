"""Ragged data for models that need every modality of every cell: zeros where nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import inputs as columns
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

if TYPE_CHECKING:
    from inputs import Inputs


def padded(modalities: dict[str, AnnData], inputs: Inputs) -> MuData:
    """MuData in which all modalities hold all cells, in one order, missing ones as zeros.

    Parameters
    ----------
    modalities
        Counts in ``.X``.
    inputs
        Where they come from.

    Returns
    -------
    MuData whose ``.obs`` has a column ``batch``: the data's own batches, or which modalities a
    cell has, as the models' tutorials advise.
    """
    names = np.concatenate([adata.obs_names for adata in modalities.values()])
    cells = pd.Index(names).unique()
    column = inputs.batch_key or columns.PATTERN
    batch = pd.concat([adata.obs[column].astype(str) for adata in modalities.values()])
    batch = batch[~batch.index.duplicated()].reindex(cells)
    full = {}
    for name, adata in modalities.items():
        rows = cells.get_indexer(adata.obs_names)
        place = sparse.csr_matrix(
            (np.ones(len(rows), np.float32), (rows, np.arange(len(rows)))),
            shape=(len(cells), len(rows)),
        )
        values = sparse.csr_matrix(place @ adata.X)
        # the fields for proteins read dense values
        full[name] = AnnData(values.toarray() if name == "adt" else values)
        full[name].obs_names = cells
        # some models join features by name, and some proteins are called as their genes
        full[name].var_names = [f"{name}:{feature}" for feature in adata.var_names]
    mdata = MuData(full)
    mdata.obs[columns.BATCH] = batch.loc[mdata.obs_names].to_numpy(dtype=object)
    return mdata
