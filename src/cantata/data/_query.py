"""New data brought into the shape a model was set up with, without touching the original."""

from __future__ import annotations

import logging
import warnings
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from cantata import _keys
from cantata._keys import CHANNEL_NAMES
from cantata._mudata.checks import match_features
from cantata._mudata.images import channels_of
from cantata._mudata.parts import no_pull
from cantata._mudata.values import layer_names, matrix_of, saved_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

logger = logging.getLogger(__name__)


def align_query(
    mdata: MuData,
    var_names: Mapping[str, np.ndarray],
    layers: Mapping[str, str | None],
    rep_widths: Mapping[str, tuple[str, int]],
    images: Mapping[str, tuple[str, int]] = MappingProxyType({}),
) -> MuData:
    """A MuData with the reference's modalities and features, sharing memory with `mdata`.

    Features are matched by name and re-ordered. A modality that `mdata` lacks is present with no
    cell. Cells may be in another order than those of `mdata`.

    Parameters
    ----------
    mdata
        New data: any subset of the reference's modalities, also a view.
    var_names
        Features of each modality of the reference.
    layers
        Layer of each modality, None for ``.X``.
    rep_widths
        For modalities with a representation: its ``.obsm`` key and number of columns.
    images
        For modalities of images: their ``.obsm`` key and side.

    Raises
    ------
    KeyError
        If `mdata` has none of the modalities, or a layer or representation is missing.
    ValueError
        If more than 20 % of a modality's features are absent, or names are duplicated.
    """
    shared = [name for name in var_names if name in mdata.mod]
    if not shared:
        raise KeyError(
            f"The query holds the modalities {list(mdata.mod)}, the model knows {list(var_names)}."
        )
    parts = {name: mdata[name] for name in shared}
    aligned = _lined_up(parts, var_names, layers, rep_widths, images)
    aligned.obs = mdata.obs.reindex(aligned.obs_names)
    return aligned


def without_cells(
    var_names: Mapping[str, np.ndarray],
    layers: Mapping[str, str | None],
    rep_widths: Mapping[str, tuple[str, int]],
    columns: Iterable[str],
    images: Mapping[str, tuple[str, int]] = MappingProxyType({}),
) -> MuData:
    """A MuData in the shape of the reference without a cell, and with these columns of ``.obs``.

    Other arguments are those of :func:`align_query`.
    """
    empty = _lined_up({}, var_names, layers, rep_widths, images)
    for key in columns:
        empty.obs[key] = pd.Series(dtype=object, index=empty.obs_names)
    return empty


def _lined_up(
    modalities: Mapping[str, AnnData],
    var_names: Mapping[str, np.ndarray],
    layers: Mapping[str, str | None],
    rep_widths: Mapping[str, tuple[str, int]],
    images: Mapping[str, tuple[str, int]],
) -> MuData:
    parts = {
        name: _align_images(name, modalities.get(name), names, *images[name])
        if name in images
        else _align_modality(
            name, modalities.get(name), names, layers.get(name), rep_widths.get(name)
        )
        for name, names in var_names.items()
    }
    with warnings.catch_warnings(), no_pull():
        warnings.simplefilter("ignore", (UserWarning, FutureWarning))
        return MuData(parts)


def _align_modality(
    name: str,
    adata: AnnData | None,
    var_names: np.ndarray,
    layer: str | None,
    rep: tuple[str, int] | None,
) -> AnnData:
    uns: dict[str, Any] = {}
    var = pd.DataFrame(index=pd.Index(var_names, dtype=str))
    if adata is None:
        obs = pd.DataFrame(index=pd.Index([], dtype=str))
        matrix: Any = sparse.csr_matrix((0, len(var_names)), dtype=np.float32)
        obsm = {} if rep is None else {rep[0]: np.zeros((0, rep[1]), dtype=np.float32)}
    else:
        obs = adata.obs
        if layer is not None and layer not in adata.layers:
            raise KeyError(
                f"The query's modality {name!r} lacks the layer {layer!r} that the model reads; "
                f"it has {layer_names(adata)}."
            )
        matrix = matrix_of({name: adata}, name, layer)
        matrix = _select_features(name, matrix, adata.var_names, var.index)
        obsm = {} if rep is None else {rep[0]: _representation(name, adata, *rep)}
        record = saved_record(adata)
        uns = {} if record is None else {_keys.UNS: {_keys.PREPROCESS: record}}
    if layer is None:
        return AnnData(X=matrix, obs=obs, var=var, obsm=obsm, uns=uns)
    return AnnData(obs=obs, var=var, layers={layer: matrix}, obsm=obsm, uns=uns)


def _align_images(
    name: str, adata: AnnData | None, stains: np.ndarray, key: str, side: int
) -> AnnData:
    """The images of a query with the stains of the reference, in its order, all channels kept."""
    var = pd.DataFrame(index=pd.Index(stains, dtype=str))
    if adata is None:
        obs = pd.DataFrame(index=pd.Index([], dtype=str))
        none = np.zeros((0, len(stains), side, side), dtype=np.float32)
        return AnnData(obs=obs, var=var, obsm={key: none})
    if key not in adata.obsm:
        raise KeyError(
            f"The query's modality {name!r} lacks .obsm[{key!r}], the images that the model reads."
        )
    channels = channels_of(name, adata, key)
    absent = [stain for stain in stains if stain not in channels[CHANNEL_NAMES]]
    if absent:
        raise ValueError(
            f"The query's modality {name!r} lacks {len(absent)} of {len(stains)} stains, e.g. "
            f"{absent[0]!r}; it has the channels {channels[CHANNEL_NAMES]}."
        )
    return AnnData(obs=adata.obs, var=var, obsm={key: adata.obsm[key]}, uns={key: channels})


def _representation(name: str, adata: AnnData, key: str, width: int) -> np.ndarray:
    if key not in adata.obsm:
        raise KeyError(
            f"The query's modality {name!r} lacks .obsm[{key!r}], which the model's encoder "
            "reads. Project the query as the reference was: "
            "cantata.pp.preprocess(query, reference=mdata)."
        )
    values = adata.obsm[key]
    values = values.toarray() if sparse.issparse(values) else values
    values = np.asarray(values, dtype=np.float32)
    if values.shape[1] != width:
        raise ValueError(
            f"The query's mdata[{name!r}].obsm[{key!r}] has {values.shape[1]} columns, the "
            f"model's {width}."
        )
    return values


def _select_features(name: str, matrix: Any, have: pd.Index, want: pd.Index) -> Any:
    """Columns of a matrix by name, in the order of the reference."""
    if have.equals(want):
        return matrix
    if not have.is_unique:
        repeated = have[have.duplicated()]
        raise ValueError(
            f"The query's modality {name!r} has {len(repeated)} duplicate feature names, e.g. "
            f"{repeated[0]!r}."
        )
    source = match_features(name, have, want, owner="model", stacklevel=6)
    if not isinstance(matrix, np.ndarray) and not sparse.issparse(matrix):
        logger.info("Reading modality %r of the query into memory to re-order its features.", name)
        matrix = matrix.compute() if hasattr(matrix, "compute") else matrix[:]
    # columns that the query lacks stay 0
    present = np.flatnonzero(source >= 0)
    picked = matrix[:, source[present]]
    if present.size == len(want):
        return picked
    shape = picked.shape[0], len(want)
    if sparse.issparse(picked):
        picked = picked.tocsr()
        wide = sparse.csr_matrix((picked.data, present[picked.indices], picked.indptr), shape)
        wide.sort_indices()
        return wide
    dense = np.zeros(shape, dtype=picked.dtype)
    dense[:, present] = picked
    return dense
