"""Small mosaics with linked features, and what the tests of SCMODAL share."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mosaics import counts_mosaic
from scipy import sparse

if TYPE_CHECKING:
    import mudata

SMALL = {"n_latent": 4, "n_hidden": 16, "n_hidden_discriminator": 8}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu", "batch_size": 16}
THREE = {"adt": 6, "rna": 12, "atac": 9}
IDENTIFIERS = {"_scvi_uuid", "_scvi_manager_uuid"}


def link(mdata: mudata.MuData, a: str, b: str, n_links: int = 4) -> None:
    """Take the first features of two modalities for linked, as z-scores of log counts."""
    for name, other in ((a, b), (b, a)):
        x = np.log1p(mdata[name].X[:, :n_links].toarray())
        mdata[name].obsm[f"X_linked_{other}"] = (x - x.mean(axis=0)) / x.std(axis=0)


def linked_mosaic(
    sizes: dict[str, int] | None = None,
    pairs: list[tuple[str, str]] | None = None,
    **arguments,
) -> mudata.MuData:
    """A mosaic of counts whose modalities are linked, by default each to the next."""
    mdata = counts_mosaic(sizes, **arguments)
    names = list(mdata.mod)
    for a, b in pairs or pairwise(names):
        link(mdata, a, b)
    return mdata


def unpaired_member(n_cells: int, n_modalities: int) -> np.ndarray:
    """Every cell has one modality."""
    return np.arange(n_cells)[:, None] % n_modalities == np.arange(n_modalities)


def partial_member(n_cells: int, n_modalities: int) -> np.ndarray:
    """Half of the cells have every modality, the others one each."""
    member = unpaired_member(n_cells, n_modalities)
    member[n_cells // 2 :] = True
    return member


def chain(**arguments) -> mudata.MuData:
    """Proteins, RNA and chromatin, each linked to the next."""
    return linked_mosaic(THREE, member=partial_member(90, 3), n_cells=90, **arguments)


def dense(x: np.ndarray | sparse.spmatrix) -> np.ndarray:
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def snapshot(mdata: mudata.MuData) -> dict:
    """What a model must leave as it is."""
    return {
        "obs": mdata.obs.copy(),
        "uns": set(mdata.uns) - IDENTIFIERS,
        "obsm": set(mdata.obsm),
        "parts": {
            m: (
                a.X.copy(),
                a.obs.copy(),
                a.var.copy(),
                set(a.layers),
                {key: np.array(value) for key, value in a.obsm.items()},
                set(a.uns),
            )
            for m, a in mdata.mod.items()
        },
    }


def assert_unchanged(mdata: mudata.MuData, before: dict) -> None:
    pd.testing.assert_frame_equal(mdata.obs, before["obs"])
    assert set(mdata.uns) - IDENTIFIERS == before["uns"]
    assert set(mdata.obsm) == before["obsm"]
    assert list(mdata.mod) == list(before["parts"])
    for m, (x, obs, var, layers, obsm, uns) in before["parts"].items():
        a = mdata[m]
        assert type(a.X) is type(x)
        assert np.array_equal(dense(a.X), dense(x), equal_nan=True)
        pd.testing.assert_frame_equal(a.obs, obs)
        pd.testing.assert_frame_equal(a.var, var)
        assert (set(a.layers), set(a.obsm), set(a.uns)) == (layers, set(obsm), uns)
        for key, value in obsm.items():
            assert np.array_equal(a.obsm[key], value, equal_nan=True)
