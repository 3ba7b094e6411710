"""Write what preprocessing computed into a MuData, and read a fitted recipe back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cantata import _keys
from cantata._compat import no_pull
from cantata._mudata.values import saved_record
from cantata._numeric.components import Components

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from cantata._mudata.kinds import Kind
    from cantata.pp._counts import Counts

MOMENTS = "cantata_moments"
"""``.varm`` entry with one row per feature; its columns are :data:`COLUMNS`."""

COLUMNS = ("statistic", "mean", "sd", "centre")

LOADINGS = {_keys.PCA: "PCs", _keys.LSI: "LSI"}
"""``.varm`` entry with the loadings of a representation."""


@dataclass(frozen=True)
class Fitted:
    """All that preprocessing computes for one modality of a reference."""

    kind: Kind
    counts: Counts
    normalised: Any
    statistics: np.ndarray
    total: float
    components: Components
    representation: np.ndarray
    highly_variable: np.ndarray | None


@dataclass(frozen=True)
class Recipe:
    """What projects a query: read from a preprocessed modality."""

    kind: Kind
    rep: str
    statistics: np.ndarray
    total: float
    components: Components


def rep_key(kind: Kind) -> str:
    """Key in ``.obsm`` of a kind's representation."""
    return _keys.LSI if kind == "atac" else _keys.PCA


def plain_copy(mdata: MuData) -> MuData:
    """Copy that has the columns of the original and no more."""
    with warnings.catch_warnings(), no_pull():
        warnings.simplefilter("ignore", (UserWarning, FutureWarning))
        return mdata.copy()


def _set_record(uns: Any, key: str | None, record: dict[str, Any]) -> None:
    """Put a record under ``uns["cantata"]["preprocess"]``, without touching other entries."""
    room = dict(uns.get(_keys.UNS, {}))
    if key is None:
        room[_keys.PREPROCESS] = record
    else:
        room[_keys.PREPROCESS] = {**room.get(_keys.PREPROCESS, {}), key: record}
    uns[_keys.UNS] = room


def write_common(
    mdata: MuData, name: str, kind: Kind, counts: Counts, normalised: Any, rep: np.ndarray
) -> dict[str, Any]:
    """Write counts, normalised values, representation and the MuData's record, and return it."""
    key, adata = rep_key(kind), mdata[name]
    if counts.layer not in adata.layers:
        adata.layers[counts.layer] = counts.matrix
    adata.X = normalised
    adata.obsm[key] = rep
    record = {
        "kind": str(kind),
        "rep": key,
        "n_comps": int(rep.shape[1]),
        "counts_layer": counts.layer,
    }
    _set_record(mdata.uns, name, record)
    return record


def write_fitted(mdata: MuData, name: str, fitted: Fitted) -> None:
    """Write a fitted modality with all that projects a query."""
    adata, c = mdata[name], fitted.components
    record = write_common(
        mdata, name, fitted.kind, fitted.counts, fitted.normalised, fitted.representation
    )
    if fitted.highly_variable is not None:
        adata.var["highly_variable"] = fitted.highly_variable
    adata.varm[LOADINGS[record["rep"]]] = c.loadings
    adata.varm[MOMENTS] = np.column_stack([fitted.statistics, c.mean, c.sd, c.centre])
    record = {
        **record,
        "n_vars": int(adata.n_vars),
        "total": float(fitted.total),
        "factor": float(c.factor),
    }
    if c.singular_values is not None:
        record["singular_values"] = c.singular_values
    _set_record(adata.uns, None, record)


def write_projected(
    mdata: MuData, name: str, kind: Kind, counts: Counts, normalised: Any, rep: np.ndarray
) -> None:
    """Write a projected modality; what an earlier fit of its own left behind is removed."""
    adata = mdata[name]
    record = write_common(mdata, name, kind, counts, normalised, rep)
    if MOMENTS in adata.varm:
        del adata.varm[MOMENTS]
        adata.varm.pop(LOADINGS[record["rep"]], None)
    _set_record(adata.uns, None, record)


def read_recipe(name: str, adata: AnnData) -> Recipe:
    """Recipe of a preprocessed modality.

    Raises
    ------
    ValueError
        If the modality was not preprocessed, was itself projected, or lost features since.
    """
    record = saved_record(adata)
    if record is None:
        raise ValueError(
            f"The reference's modality {name!r} was not preprocessed. Run "
            "cantata.pp.preprocess(reference) first."
        )
    if MOMENTS not in adata.varm or LOADINGS[record["rep"]] not in adata.varm:
        raise ValueError(
            f"The reference's modality {name!r} holds no loadings: it was itself projected, or "
            "they were deleted. Pass the MuData on which cantata.pp.preprocess was fitted."
        )
    if adata.n_vars != record["n_vars"]:
        raise ValueError(
            f"The reference's modality {name!r} has {adata.n_vars} features but was preprocessed "
            f"with {record['n_vars']}. Pass it with all of them."
        )
    statistics, mean, sd, centre = np.asarray(adata.varm[MOMENTS], dtype=np.float64).T
    values = record.get("singular_values")
    return Recipe(
        kind=record["kind"],
        rep=record["rep"],
        statistics=statistics,
        total=float(record["total"]),
        components=Components(
            loadings=np.asarray(adata.varm[LOADINGS[record["rep"]]]),
            mean=mean,
            sd=sd,
            centre=centre,
            factor=float(record["factor"]),
            singular_values=None if values is None else np.asarray(values, dtype=np.float64),
        ),
    )
