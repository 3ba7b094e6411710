"""What the data sets share: making a MuData, streams of random numbers, a check."""

from __future__ import annotations

import warnings
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
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

    Cells are matched by name. The top level holds nothing else; ``var`` columns stay in their
    modalities. Columns are added after the MuData is made, because mudata 0.3 copies those that it
    finds then to the top level (``"rna:batch"``).
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


def stream(seed: int, name: str) -> np.random.Generator:
    """Random numbers for one named part, so that no part depends on what else is simulated."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))


def check_integer(name: str, value: Any, smallest: int) -> None:
    """Refuse what is no integer of at least `smallest`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < smallest:
        raise ValueError(f"{name}={value!r}: give an integer of at least {smallest}.")
