"""A MuData whose annotations stand exactly where they are put, on mudata 0.3 and 0.4."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mudata import MuData

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    from anndata import AnnData

EXPECTED_WARNINGS = (
    "From 0.4 .update",
    "Cannot join columns with the same name",
    "var_names are not unique",
)


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Silence what mudata says about copied columns and about names that two modalities share."""
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def assemble(modalities: Mapping[str, AnnData], obs: pd.DataFrame) -> MuData:
    """MuData of `modalities` with the columns of `obs` at the top and in every modality.

    Columns are added after the MuData is made, because mudata 0.3 copies the columns that it finds
    then to the top level (``"rna:batch"``).

    Parameters
    ----------
    modalities
        One AnnData per modality; cells are matched by name. Their ``obs`` columns are replaced.
    obs
        One row per cell, indexed by the cells' names.

    Returns
    -------
    The MuData. Its top level holds the columns of `obs` and nothing else; ``var`` columns stay in
    their modalities.
    """
    features = {name: adata.var for name, adata in modalities.items()}
    for adata in modalities.values():
        adata.obs, adata.var = adata.obs[[]], adata.var[[]]
    with expected_warnings():
        mdata = MuData(dict(modalities))
    for name, table in features.items():
        mdata[name].var = table
    for holder in (mdata, *mdata.mod.values()):
        for column in obs:
            holder.obs[column] = obs[column].reindex(holder.obs_names)
    return mdata
