"""Measured and imputed values of a modality in cells of a MuData."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cantata import _keys
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import modality_cells
from cantata._mudata.values import matrix_of

if TYPE_CHECKING:
    from mudata import MuData

logger = logging.getLogger(__name__)

LEAST_CELLS = 3
"""Fewer cells have no correlation that could be told from chance."""


@dataclass(frozen=True)
class Values:
    """A matrix (rows x features) of a modality and where its cells and features stand.

    ``rows`` is the row of every cell, or -1 where the matrix lacks it; ``features`` the position
    in the modality of every column; ``where`` names the matrix in messages.
    """

    matrix: Any
    rows: np.ndarray
    features: np.ndarray
    where: str


def check_modality(mdata: MuData, name: str, argument: str) -> None:
    """Refuse a modality that does not exist or whose feature names repeat.

    Raises
    ------
    KeyError
        If there is no such modality.
    ValueError
        If a name occurs twice in it.
    """
    if name not in mdata.mod:
        raise KeyError(f"{argument}={name!r} is no modality; there are {list(mdata.mod)}.")
    names = mdata[name].var_names
    if not names.is_unique:
        twice = names[names.duplicated()]
        raise ValueError(
            f"Modality {name!r}: {len(twice)} feature names occur twice, e.g. {twice[0]!r}. Call "
            f"mdata[{name!r}].var_names_make_unique() and mdata.update()."
        )


def joint_places(mdata: MuData, modality: str) -> np.ndarray:
    """For every feature of the modality, its place on the joint axis of features."""
    rows = np.asarray(mdata.varmap[modality]).astype(np.int64).ravel() - 1
    places = np.flatnonzero(rows >= 0)
    return places[np.argsort(rows[places])]


def measured_values(mdata: MuData, modality: str, layer: str | None) -> Values:
    """Values of a modality in its own cells, in its order.

    Raises
    ------
    KeyError
        If there is no such layer, or no ``.X``.
    """
    adata = mdata[modality]
    matrix = matrix_of(mdata, modality, layer, argument=f"layer={layer!r}")
    where = f"mdata[{modality!r}]" + (".X" if layer is None else f".layers[{layer!r}]")
    return Values(matrix, np.arange(adata.n_obs), np.arange(adata.n_vars), where)


def imputed_values(
    mdata: MuData, modality: str, imputed: AnnData | None, method: str, cells_of: str
) -> Values:
    """Imputed values of a modality in the cells of another, in the order of the latter.

    Parameters
    ----------
    mdata
        Holds the values if `imputed` is None.
    modality
        Whose features are imputed.
    imputed
        Cells x features, both known by name; None: what ``write_results`` of `method` wrote.
    method
        Name of the method.
    cells_of
        Modality whose cells count.

    Raises
    ------
    KeyError
        If nothing was imputed.
    TypeError
        If `imputed` is no AnnData.
    ValueError
        If names repeat or are unknown, or no cell or feature is left.
    """
    if imputed is None:
        return _written(mdata, modality, method, cells_of)
    if not isinstance(imputed, AnnData):
        raise TypeError(
            f"imputed is a {type(imputed).__name__}; give the AnnData that model.impute returns."
        )
    for axis, names in (("obs_names", imputed.obs_names), ("var_names", imputed.var_names)):
        if not names.is_unique:
            twice = names[names.duplicated()]
            raise ValueError(
                f"imputed: {len(twice)} of its {axis} occur twice, e.g. {twice[0]!r}."
            )
    features = _known(mdata, modality, imputed.var_names, "imputed")
    cells = mdata[cells_of].obs_names
    rows = imputed.obs_names.get_indexer(cells)
    if (rows < 0).all():
        raise ValueError(
            f"imputed holds none of the {len(cells)} cells of {cells_of!r} (e.g. {cells[0]!r}) "
            f"but others (e.g. {imputed.obs_names[0]!r}). Impute into these cells: "
            f"model.impute({modality!r}, source={cells_of!r})."
        )
    return Values(imputed.X, rows, features, "imputed")


def _written(mdata: MuData, modality: str, method: str, cells_of: str) -> Values:

    key = _keys.imputed(method, modality)
    record = mdata.uns.get(_keys.UNS, {}).get(method, {}).get("imputed_features", {})
    if key not in mdata.obsm or modality not in record:
        raise KeyError(
            f"mdata.obsm[{key!r}] with its names in mdata.uns[{_keys.UNS!r}] does not exist. Give "
            f"imputed=model.impute({modality!r}, source={cells_of!r}), or write it with "
            f"model.write_results(mdata, imputed=[{modality!r}])."
        )
    where = f"mdata.obsm[{key!r}]"
    features = _known(mdata, modality, pd.Index(record[modality]), where)
    matrix = mdata.obsm[key]
    if matrix.shape[1] != len(features):
        raise ValueError(
            f"{where} has {matrix.shape[1]} columns but {len(features)} names in "
            f"mdata.uns[{_keys.UNS!r}][{method!r}]. Write the results again."
        )
    return Values(matrix, modality_cells(mdata, cells_of), features, where)


def _known(mdata: MuData, modality: str, names: pd.Index, where: str) -> np.ndarray:
    """Positions of features by name; an unknown one is an error."""
    places = mdata[modality].var_names.get_indexer(names)
    unknown = np.flatnonzero(places < 0)
    if unknown.size:
        raise ValueError(
            f"{where}: {unknown.size} of {len(names)} features are none of modality {modality!r}, "
            f"e.g. {names[unknown[0]]!r} (it has e.g. {mdata[modality].var_names[0]!r})."
        )
    return places


def held_rows(values: Values, modality: str) -> np.ndarray:
    """Rows of the modality whose cells have values.

    Raises
    ------
    ValueError
        If there are fewer than three.
    """
    rows = np.flatnonzero(values.rows >= 0)
    if len(rows) < LEAST_CELLS:
        raise ValueError(
            f"{values.where} holds {len(rows)} of the {len(values.rows)} cells of {modality!r}; "
            f"correlations need at least {LEAST_CELLS}."
        )
    if len(rows) < len(values.rows):
        logger.info(
            "%s holds %d of the %d cells of modality %r: the others take no part.",
            values.where,
            len(rows),
            len(values.rows),
            modality,
        )
    return rows


def group_codes(mdata: MuData, key: str | None, modality: str, rows: np.ndarray) -> np.ndarray:
    """Group of some rows of a modality, by a column of cells; all 0 without a key.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a cell has no group, or contradicting ones, or every cell is alone in its group.
    """
    if key is None:
        return np.zeros(len(rows), dtype=np.int64)

    column = coalesce_obs(mdata, key, [modality], argument="within")
    column = column.iloc[modality_cells(mdata, modality)[rows]]
    missing = column.index[column.isna()]
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {len(column)} cells of {modality!r} have no value in "
            f"within={key!r}, e.g. {missing[0]!r}. Fill it in or leave these cells out."
        )
    codes = pd.factorize(column.to_numpy(dtype=object))[0]
    if np.bincount(codes).max() == 1:
        raise ValueError(
            f"within={key!r}: each of the {len(codes)} cells is alone in its group, so no "
            "cells can be shuffled. Name a column of cell types or batches."
        )
    return codes
