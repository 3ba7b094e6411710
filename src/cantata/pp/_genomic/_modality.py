"""Add a modality to a MuData without losing what lies over its axes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from cantata._compat import no_pull

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


def check_features(mdata: MuData) -> None:
    """Refuse a MuData whose modalities gained, lost or moved features after it was made.

    Raises
    ------
    ValueError
        With the modality.
    """
    joint = mdata.var_names.to_numpy()
    for name, adata in mdata.mod.items():
        rows = np.asarray(mdata.varmap[name]).astype(np.int64).ravel() - 1
        own, place = adata.var_names.to_numpy(), np.flatnonzero(rows >= 0)
        if place.size != own.size or np.any(own[rows[place]] != joint[place]):
            raise ValueError(
                f"The features of modality {name!r} changed after the MuData was made. "
                "Call mdata.update()."
            )


def add_modality(mdata: MuData, name: str, adata: AnnData) -> None:
    """Add a modality of known cells, or replace one.

    :meth:`mudata.MuData.update` fills ``varp`` with -1 or NaN for new features, and its indices
    are quadratic in the number of cells and features. Here entries of ``varp`` stay sparse and
    gain empty rows and columns, those of ``varm`` gain missing rows, and those of ``obsm`` and
    ``obsp`` stay as they are. Features of a modality that is replaced lose theirs.

    Parameters
    ----------
    mdata
        In memory; changed in place.
    name
        Name of the new modality.
    adata
        Its cells are cells of `mdata`.
    """
    features = _features(mdata)
    features = features[features["modality"] != name]
    kept = {attr: _take_out(mdata, attr) for attr in ("obsm", "obsp", "varm", "varp")}
    _put_last(mdata, name, adata)
    now = _features(mdata).merge(features, on=["modality", "row"], how="inner")
    new, old = now["place_x"].to_numpy(), now["place_y"].to_numpy()
    for attr in ("obsm", "obsp"):
        for key, value in kept[attr].items():
            getattr(mdata, attr)[key] = value
    for key, value in kept["varp"].items():
        mdata.varp[key] = _moved_pairs(value, old, new, mdata.n_vars)
    for key, value in kept["varm"].items():
        mdata.varm[key] = _moved_rows(value, old, new, mdata.var_names)


def _features(mdata: MuData) -> pd.DataFrame:
    """For every feature its modality, its row there, and its place on the joint axis."""
    tables = []
    for name in mdata.mod:
        rows = np.asarray(mdata.varmap[name]).astype(np.int64).ravel() - 1
        place = np.flatnonzero(rows >= 0)
        tables.append(pd.DataFrame({"modality": name, "row": rows[place], "place": place}))
    return pd.concat(tables, ignore_index=True)


def _take_out(mdata: MuData, attr: str) -> dict[str, Any]:
    """Remove and return the entries that are no masks of modalities."""
    store = getattr(mdata, attr)
    return {key: store.pop(key) for key in list(store) if key not in mdata.mod}


def _put_last(mdata: MuData, name: str, adata: AnnData) -> None:
    """Set a modality behind all others on both axes.

    mudata remembers the names of cells and features of a modality beyond its removal, and does
    not look at one that comes back with the same: an empty one in between makes it forget.
    """
    from anndata import AnnData

    known = name in mdata.mod
    mdata.mod[name] = AnnData(np.zeros((0, 0), dtype=np.float32))
    _update(mdata)
    if known:
        del mdata.mod[name]
        _update(mdata)
    mdata.mod[name] = adata
    _update(mdata)


def _update(mdata: MuData) -> None:

    with warnings.catch_warnings(), no_pull():
        warnings.simplefilter("ignore", (UserWarning, FutureWarning))
        mdata.update()


def _moved_pairs(matrix: Any, old: np.ndarray, new: np.ndarray, size: int) -> Any:
    """Square matrix over the new axis; entries of new features are 0."""
    if sparse.issparse(matrix):
        to = np.full(matrix.shape[0], -1)
        to[old] = new
        entries = matrix.tocoo()
        row, col = to[entries.row], to[entries.col]
        held = (row >= 0) & (col >= 0)
        places = row[held], col[held]
        moved = sparse.csr_matrix((entries.data[held], places), shape=(size, size))
        return type(matrix)(moved)
    values = np.asarray(matrix)
    moved = np.zeros((size, size), dtype=values.dtype)
    moved[np.ix_(new, new)] = values[np.ix_(old, old)]
    return moved


def _moved_rows(matrix: Any, old: np.ndarray, new: np.ndarray, names: pd.Index) -> Any:
    """Array or table over the new axis; rows of new features are missing (0 if sparse)."""
    take = np.full(len(names), -1)
    take[new] = old
    if sparse.issparse(matrix):
        entries = (np.ones(new.size), (new, old))
        chooser = sparse.csr_matrix(entries, shape=(len(names), matrix.shape[0]))
        return type(matrix)(chooser @ matrix)
    if isinstance(matrix, pd.DataFrame):
        table = matrix.reset_index(drop=True).reindex(take)
        return table.set_axis(names, axis=0)
    values = np.asarray(matrix)
    if np.all(take >= 0):
        return values[take]
    moved = values[take].astype(np.result_type(values.dtype, np.float32))
    moved[take < 0] = np.nan
    return moved
