"""Imputed values, collected in memory or written to disk block by block."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData

if TYPE_CHECKING:
    from torch import Tensor

    from cantata.model.base import Cells


class ImputationWriter:
    """Collects imputed values in memory or in a zarr store."""

    def __init__(
        self,
        cells: Cells,
        chosen: np.ndarray,
        names: np.ndarray,
        out: str | None,
        *,
        with_std: bool,
    ) -> None:
        obs = cells.mdata.obs.iloc[chosen].copy()
        self.adata = AnnData(obs=obs, var=pd.DataFrame(index=pd.Index(names, dtype=str)))
        if "spatial" in cells.mdata.obsm:
            self.adata.obsm["spatial"] = np.asarray(cells.mdata.obsm["spatial"])[chosen]
        self.start = 0
        self.sizes: list[np.ndarray] = []
        self.out = out
        keys = ["X", "std"] if with_std else ["X"]
        shape = (len(chosen), len(names))
        if out is None:
            self.arrays: dict[str, Any] = {key: np.empty(shape, np.float32) for key in keys}
        else:
            self.arrays = _zarr_arrays(self.adata, out, keys, shape)

    def add(self, mean: Tensor, std: Tensor | None, sizes: Tensor | None) -> None:
        part = slice(self.start, self.start + len(mean))
        self.arrays["X"][part] = mean.cpu().numpy()
        if std is not None:
            self.arrays["std"][part] = std.cpu().numpy()
        if sizes is not None:
            self.sizes.append(sizes.cpu().numpy())
        self.start = part.stop

    def finish(self) -> AnnData:
        if self.sizes:
            self.adata.obs["library_size"] = np.concatenate(self.sizes)
            if self.out is not None:
                anndata.io.write_elem(_open_zarr(self.out), "obs", self.adata.obs)
        if self.out is not None:
            _consolidate(self.out)
        self.adata.X = self.arrays["X"]
        if "std" in self.arrays:
            self.adata.layers["std"] = self.arrays["std"]
        return self.adata


def _open_zarr(path: str) -> zarr.Group:
    return zarr.open_group(path, mode="a", use_consolidated=False)


def _consolidate(path: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata.*")
        zarr.consolidate_metadata(path)


def _zarr_arrays(
    adata: AnnData, out: str, keys: list[str], shape: tuple[int, int]
) -> dict[str, Any]:
    """Empty arrays, in anndata's on-disk format, for values that are written block by block."""
    if not out.endswith(".zarr"):
        raise ValueError(f"out={out!r} must end in '.zarr'.")
    adata.write_zarr(out)
    group = _open_zarr(out)
    arrays = {}
    for key in keys:
        path = key if key == "X" else f"layers/{key}"
        if path in group:
            del group[path]
        arrays[key] = group.create_array(
            path, shape=shape, chunks=(min(shape[0], 1024), shape[1]), dtype="f4"
        )
        arrays[key].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return arrays
