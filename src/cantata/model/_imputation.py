"""What a user asks of imputation, checked, and where imputed values are collected."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import torch
import zarr
from anndata import AnnData

from cantata._keys import BATCH, CELL, CHANNEL_MAPPING, CHANNELS, IMAGE_CHANNEL, IMAGES, UNS
from cantata._mudata.checks import as_list
from cantata._mudata.obs import category_name
from cantata._mudata.pairing import modality_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mudata import MuData
    from torch import Tensor

    from cantata.nn import Covariates


MIN_WEIGHT = 1e-6
"""Keeps shares of features that no batch of a cell measured finite."""


def feature_columns(
    modality: str, known: np.ndarray, features: Sequence[str] | None
) -> np.ndarray:
    """Columns of `features`, all by default; a ``KeyError`` where the modality lacks some."""
    if features is None:
        return np.arange(len(known))
    features = as_list("features", features)
    columns = pd.Index(known).get_indexer(pd.Index(features, dtype=object))
    absent = np.flatnonzero(columns < 0)
    if absent.size:
        raise KeyError(
            f"{absent.size} features are not in modality {modality!r}, e.g. "
            f"{features[absent[0]]!r}."
        )
    return columns


def batch_codes(transform_batch: Any, known: Sequence[str]) -> list[int] | None:
    """Codes of the batch or batches that a user names; a ``KeyError`` where the model lacks some.

    A batch may be named by a number, as in the column that the model was set up with.
    """
    if transform_batch is None:
        return None
    is_one = isinstance(transform_batch, str) or np.ndim(transform_batch) == 0
    wanted = [category_name(name) for name in ([transform_batch] if is_one else transform_batch)]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise KeyError(f"transform_batch={unknown or wanted} is not one of the batches {known}.")
    return [known.index(name) for name in dict.fromkeys(wanted)]


def check_batches_known(codes: np.ndarray, cells: Sequence[str], known: Sequence[str]) -> None:
    """Refuse (n,) codes of batches that a model lacks; `cells` are their names."""
    unknown = np.flatnonzero((codes < 0) | (codes >= max(len(known), 1)))
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} cells are of a batch that the model does not know, e.g. "
            f"{cells[unknown[0]]!r}. Adapt the model with load_query_data, or name a batch from "
            f"{list(known)} for them: impute(..., transform_batch=...)."
        )


def batch_weights(
    tensors: Mapping[str, Tensor],
    batches: Sequence[int] | None,
    measured: Sequence[bool],
    names: Sequence[str],
) -> Tensor:
    """(n, n_batch) weights of the batches whose decoder parameters serve each cell.

    Parameters
    ----------
    tensors
        Minibatch of n cells.
    batches
        Codes of the batches to average over; None: the cell's own.
    measured
        For each batch, whether it has the modality.
    names
        Names of the batches.

    Raises
    ------
    ValueError
        If a cell's own batch is needed and unknown.
    """
    n, device = len(tensors[CELL]), tensors[CELL].device
    weights = torch.zeros(n, len(measured), device=device)
    if batches is not None:
        weights[:, batches] = 1 / len(batches)
        return weights
    if BATCH not in tensors:
        return weights + 1
    batch = tensors[BATCH]
    check_batches_known(batch.cpu().numpy(), tensors[CELL].tolist(), names)
    weights[torch.arange(n, device=device), batch] = 1
    # a batch without the modality has learned nothing of it; those that have it stand in
    has = torch.tensor(measured, device=device)
    weights[~has[batch]] = has.float() / has.sum()
    return weights


def mean_over_batches(
    decode: Callable[[Tensor, Covariates, Tensor | None], Tensor],
    z: Tensor,
    covariates: Covariates,
    library: Tensor | None,
    weights: Tensor,
    measured: Tensor,
) -> Tensor:
    """(n, p) values decoded for every batch that has a weight, averaged over these.

    Features that none of a cell's batches measured are averaged over those that did.

    Parameters
    ----------
    decode
        From (n, q) embeddings, covariates and (n,) library sizes to (n, p) values.
    z, covariates, library
        What is decoded.
    weights
        (n, n_batch) weights of the batches.
    measured
        (n_batch, p) whether a batch measured a feature.
    """
    total: Tensor | None = None

    def add(batch: int, rows: Tensor, share: Tensor) -> None:
        nonlocal total
        sizes = None if library is None else library[rows]
        values = decode(z[rows], covariates.rows(rows).with_batch(batch), sizes) * share
        if total is None:
            total = values.new_zeros(len(z), values.shape[1])
        total.index_add_(0, rows, values)

    # 1. the batches of each cell; of a feature only those that measured it
    used = weights.any(dim=0).nonzero().squeeze(1).tolist()
    is_whole = bool(measured[used].all())
    share_measured = None if is_whole else weights @ measured.to(weights.dtype)
    for batch in used:
        rows = weights[:, batch].nonzero().squeeze(1)
        share = weights[rows, batch].unsqueeze(1)
        if share_measured is not None:
            share = share * measured[batch] / share_measured[rows].clamp(min=MIN_WEIGHT)
        add(batch, rows, share)
    # 2. features that none of these measured, from all batches that did
    if share_measured is not None:
        lacking = share_measured == 0
        rows = lacking.any(dim=1).nonzero().squeeze(1)
        n_measured = measured.sum(dim=0).clamp(min=1)
        for batch in range(len(measured)):
            helps = lacking[rows] & measured[batch]
            if helps.any():
                add(batch, rows, helps / n_measured)
    return decode(z, covariates, library) if total is None else total  # None: no cell


def check_library_size(
    library_size: str | float | np.ndarray | None, n_cells: int, names: tuple[str, ...] = ()
) -> str | np.ndarray | None:
    """The user's choice of library sizes: one of `names`, None, or a number per imputed cell.

    Raises
    ------
    ValueError
        If the name is unknown, or numbers are not positive and finite, or not one per cell.

    Examples
    --------
    >>> check_library_size(100.0, 3)
    array([100., 100., 100.])
    """
    if library_size is None or (isinstance(library_size, str) and library_size in names):
        return library_size
    if isinstance(library_size, str):
        known = "".join(f"{name!r}, " for name in names) or "None, "
        raise ValueError(f"library_size={library_size!r}: use {known}a number, or one per cell.")
    sizes = np.asarray(library_size, dtype=np.float64)
    if sizes.ndim and sizes.shape != (n_cells,):
        raise ValueError(f"library_size has shape {sizes.shape} for {n_cells} imputed cells.")
    if not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise ValueError("library_size must be positive and finite.")
    return np.broadcast_to(sizes, (n_cells,))


def check_interval(
    interval: float | None, modality: str, source: str | None, what: str | None
) -> None:
    """Refuse intervals that nothing could be calibrated on.

    Raises
    ------
    ValueError
        If `interval` is no share between 0 and 1, there is no single other source, or values are
        of a kind, `what`, that has no intervals.
    """
    if interval is None:
        return
    is_number = isinstance(interval, float | np.floating)
    if not is_number or not 0 < interval < 1:
        raise ValueError(f"interval={interval!r} is the share of values within it, such as 0.9.")
    if source is None or source == modality:
        raise ValueError(
            f"interval= holds for values of {modality!r} that are inferred from one other "
            f"modality, as this is what held-out cells are compared by; got source={source!r}."
        )
    if what is not None:
        raise ValueError(f"interval= is of measured numbers; imputed {modality!r} are {what}.")


def check_own_totals(interval: float | None, library_size: float | np.ndarray | None) -> None:
    """Refuse intervals of values at another total than cells would have.

    Raises
    ------
    ValueError
        If both are given.
    """
    if interval is not None and library_size is not None:
        raise ValueError(
            "interval= is of values as they would be measured, library_size= asks for another "
            "total; leave one out."
        )


def spatial_coordinates(mdata: MuData) -> np.ndarray | None:
    """``obsm["spatial"]`` of every cell, or None where there is none.

    That of the MuData, or of the first modality of a cell that has one; NaN for other cells.
    """
    if "spatial" in mdata.obsm:
        return np.asarray(mdata.obsm["spatial"])
    places: np.ndarray | None = None
    for name, adata in mdata.mod.items():
        if "spatial" not in adata.obsm:
            continue
        of_modality = np.asarray(adata.obsm["spatial"])
        if places is None:
            places = np.full((mdata.n_obs, of_modality.shape[1]), np.nan)
        if of_modality.shape[1] != places.shape[1]:
            continue
        cells = modality_cells(mdata, name)
        is_missing = np.isnan(places[cells]).all(axis=1)
        places[cells[is_missing]] = of_modality[is_missing]
    return places


def values_of(imputed: AnnData) -> Any:
    """Imputed values: images where there are some, else ``.X``."""
    return imputed.obsm.get(IMAGES, imputed.X)


class ImputationWriter:
    """Collects imputed values in memory, or in a zarr store as they are computed.

    Parameters
    ----------
    mdata
        Data that the cells are from; their ``.obs`` and ``obsm["spatial"]``, at the top or of a
        modality, are kept.
    chosen
        Positions of the imputed cells in ``mdata.obs_names``.
    names
        Names of the imputed features.
    out
        New directory ending in ``.zarr``; None: memory.
    units
        What values mean, for ``.uns["cantata"]["units"]``.
    side
        Height and width of images, where values are such: they go to ``.obsm``, and their means
        to ``.X``.
    interval
        What bounds of values rest on, for ``.uns["cantata"]["interval"]``.

    Raises
    ------
    ValueError
        If `out` ends otherwise.
    FileExistsError
        If `out` exists.
    """

    def __init__(
        self,
        mdata: MuData,
        chosen: np.ndarray,
        names: np.ndarray,
        out: str | Path | None,
        units: str,
        side: int | None = None,
        interval: Mapping[str, Any] | None = None,
    ) -> None:
        if out is not None:
            out = os.fspath(out)
            if not out.endswith(".zarr"):
                raise ValueError(f"out={out!r} must end in '.zarr'.")
            if os.path.exists(out):
                raise FileExistsError(f"out={out!r} exists. Delete it, or name another.")
        obs = mdata.obs.iloc[chosen].copy()
        self.adata = AnnData(obs=obs, var=pd.DataFrame(index=pd.Index(names, dtype=str)))
        self.adata.uns[UNS] = {"units": units}
        if interval is not None:
            self.adata.uns[UNS]["interval"] = dict(interval)
        places = spatial_coordinates(mdata)
        if places is not None:
            self.adata.obsm["spatial"] = places[chosen]
        self.start = 0
        self._out = out
        self._side = side
        if side is not None:
            self.adata.var[CHANNELS] = self.adata.var_names
            self.adata.var[CHANNEL_MAPPING] = IMAGE_CHANNEL
        self._library_sizes: list[np.ndarray] = []
        self._arrays: dict[str, Any] = {}

    def add(self, values: Tensor, library: Tensor | None, layers: Mapping[str, Any]) -> None:
        """Add the next cells: (n, p) values, (n,) library sizes, and (n, p) further layers.

        Of images (n, p, side, side) values.
        """
        part = slice(self.start, self.start + len(values))
        if self._side is not None:
            self._array(IMAGES)[part] = values.cpu().numpy()
            values = values.mean(dim=(2, 3))
        for key, block in {"X": values, **layers}.items():
            self._array(key)[part] = torch.as_tensor(block).cpu().numpy()
        if library is not None:
            self._library_sizes.append(library.cpu().numpy())
        self.start = part.stop

    def _array(self, key: str) -> Any:
        """Array for all cells, made when it is first needed; on disk in anndata's format."""
        shape, chunk = self.adata.shape, 1024
        if key == IMAGES:
            assert self._side is not None
            shape, chunk = (*shape, self._side, self._side), 1
        if key not in self._arrays and self._out is None:
            self._arrays[key] = np.empty(shape, np.float32)
        elif key not in self._arrays:
            if not self._arrays:  # not before the first values are known: errors leave no store
                self.adata.write_zarr(self._out)
            group = zarr.open_group(self._out, mode="a", use_consolidated=False)
            path = {"X": key, IMAGES: f"obsm/{key}"}.get(key, f"layers/{key}")
            if path in group:
                del group[path]
            chunks = (max(min(shape[0], chunk), 1), *(max(size, 1) for size in shape[1:]))
            array = group.create_array(path, shape=shape, chunks=chunks, dtype="f4")
            array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            self._arrays[key] = array
        return self._arrays[key]

    def finish(self) -> AnnData:
        """Values of all cells; the metadata of a store are completed."""
        values = self._array("X")
        if self._library_sizes:
            self.adata.obs["library_size"] = np.concatenate(self._library_sizes)
        if self._out is not None:
            group = zarr.open_group(self._out, mode="a", use_consolidated=False)
            anndata.io.write_elem(group, "obs", self.adata.obs)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata.*")
                zarr.consolidate_metadata(self._out)
        self.adata.X = values
        for key in self._arrays.keys() - {"X", IMAGES}:
            self.adata.layers[key] = self._arrays[key]
        if self._side is not None:
            self.adata.obsm[IMAGES] = self._array(IMAGES)
        return self.adata
