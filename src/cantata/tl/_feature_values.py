"""Values of features in the cells of a MuData: measured, normalised or imputed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cantata import _keys
from cantata._mudata.checks import check_mudata, name_list
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import modality_cells
from cantata._mudata.values import matrix_of
from cantata._numeric.feature_statistics import FeatureMatrix, Statistic
from cantata._numeric.normalise import RNA_TOTAL, normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

logger = logging.getLogger(__name__)

MIN_CELLS = 3
"""Fewer cells have no correlation that could be told from chance."""


@dataclass(frozen=True)
class FeatureValues:
    """A matrix (rows x features) of a modality and where its cells and features stand.

    ``rows`` is the row of every cell, or -1 where the matrix lacks it; ``features`` the position
    in the modality of every column; ``where`` names the matrix in messages.
    """

    matrix: Any
    rows: np.ndarray
    features: np.ndarray
    where: str


@dataclass(frozen=True)
class NormalizedValues:
    """Values in a set of cells as they are compared between cells.

    ``matrix`` (cells x features): CSR or an array, possibly the MuData's own, not to be written
    to. ``names`` of the features; ``where`` names the matrix in messages. ``from_counts`` tells
    whether it held counts and was normalised, ``any_negative`` whether a value is below 0;
    ``largest`` is the largest one.
    """

    matrix: Any
    names: np.ndarray
    where: str
    from_counts: bool
    any_negative: bool
    largest: float


def check_modality(mdata: MuData, name: str, argument: str) -> None:
    """Refuse what is no MuData, a modality that does not exist or whose feature names repeat."""
    check_mudata(mdata)
    if name not in mdata.mod:
        raise KeyError(f"{argument}={name!r} is no modality; there are {list(mdata.mod)}.")
    names = mdata[name].var_names
    if not names.is_unique:
        twice = names[names.duplicated()]
        raise ValueError(
            f"Modality {name!r}: {len(twice)} feature names occur twice, e.g. {twice[0]!r}. Call "
            f"mdata[{name!r}].var_names_make_unique() and mdata.update()."
        )


def feature_positions(
    mdata: MuData, modality: str, names: Sequence[str], argument: str = "features"
) -> np.ndarray:
    """Positions in the modality of features that the user named; an unknown one is an error."""
    index = pd.Index(name_list(argument, names), dtype=object)
    positions = mdata[modality].var_names.get_indexer(index)
    unknown = index[positions < 0]
    if len(unknown):
        raise KeyError(
            f"{argument}: {len(unknown)} of {len(index)} are no features of {modality!r}, e.g. "
            f"{unknown[0]!r}."
        )
    return positions


def measured_values(mdata: MuData, modality: str, layer: str | None) -> FeatureValues:
    """Values of a modality in its own cells, in its order."""
    adata = mdata[modality]
    matrix = matrix_of(mdata, modality, layer, argument=f"layer={layer!r}")
    where = f"mdata[{modality!r}]" + (".X" if layer is None else f".layers[{layer!r}]")
    return FeatureValues(matrix, np.arange(adata.n_obs), np.arange(adata.n_vars), where)


def normalized_values(
    mdata: MuData, modality: str, layer: str | None, rows: np.ndarray | None = None
) -> NormalizedValues:
    """Values of a modality in some of its rows (None: all), counts normalised.

    Counts (no value is negative or no integer) are scaled to 10,000 per cell and replaced by the
    natural logarithm of 1 + x; other values are taken as they are. Sparse stays sparse. NaN or
    infinity is an error.
    """
    measured = measured_values(mdata, modality, layer)
    names = mdata[modality].var_names.to_numpy(dtype=object)
    matrix = _rows_in_memory(measured, rows, names)
    stored = matrix.data if sparse.issparse(matrix) else matrix
    if not np.isfinite(stored).all():
        raise _not_finite(matrix, names, measured.where)
    negative = bool(stored.size) and bool(stored.min() < 0)
    counts = not negative and bool((stored == np.rint(stored)).all())
    if counts:
        matrix = normalise("rna", matrix, RNA_TOTAL)
    largest = float(stored.max()) if stored.size else 0.0
    return NormalizedValues(matrix, names, measured.where, counts, negative, largest)


def _rows_in_memory(measured: FeatureValues, rows: np.ndarray | None, names: np.ndarray) -> Any:
    """Rows of a matrix: CSR without duplicates, or an array."""
    matrix = measured.matrix
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    if not (isinstance(matrix, np.ndarray) or sparse.issparse(matrix)):
        rows = measured.rows if rows is None else rows
        part = FeatureMatrix(matrix, rows, measured.features, names=names, where=measured.where)
        matrix, rows = part.block(slice(0, len(names))), None
    if sparse.issparse(matrix):
        matrix = sparse.csr_matrix(matrix)
    if rows is not None and not np.array_equal(rows, measured.rows):
        matrix = matrix[rows]
    if sparse.issparse(matrix) and not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix


def _not_finite(matrix: Any, names: np.ndarray, where: str) -> ValueError:
    """The error that names a feature with NaN or infinity."""
    if sparse.issparse(matrix):
        bad = np.unique(matrix.indices[~np.isfinite(matrix.data)])
    else:
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=0))
    return ValueError(
        f"{where} holds NaN or infinity in {len(bad)} of {len(names)} features, e.g. "
        f"{names[bad[0]]!r}. Leave out these features or cells."
    )


def imputed_values(
    mdata: MuData, modality: str, imputed: AnnData | None, method: str, cells_of: str
) -> FeatureValues:
    """Imputed values of `modality` in the cells of `cells_of`, in their order.

    `imputed` holds cells x features, both known by name. None: what ``write_results`` of `method`
    wrote. Names that repeat or are unknown are an error, and so is no cell in common.
    """
    if imputed is None:
        return _written_imputation(mdata, modality, method, cells_of)
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
    features = _imputed_features(mdata, modality, imputed.var_names, "imputed")
    cells = mdata[cells_of].obs_names
    rows = imputed.obs_names.get_indexer(cells)
    if (rows < 0).all():
        raise ValueError(
            f"imputed holds none of the {len(cells)} cells of {cells_of!r} (e.g. {cells[0]!r}) "
            f"but others (e.g. {imputed.obs_names[0]!r}). Impute into these cells: "
            f"model.impute({modality!r}, source={cells_of!r})."
        )
    return FeatureValues(imputed.X, rows, features, "imputed")


def _written_imputation(mdata: MuData, modality: str, method: str, cells_of: str) -> FeatureValues:
    key = _keys.imputed(method, modality)
    record = mdata.uns.get(_keys.UNS, {}).get(method, {}).get("imputed_features", {})
    if key not in mdata.obsm or modality not in record:
        raise KeyError(
            f"mdata.obsm[{key!r}] with its names in mdata.uns[{_keys.UNS!r}] does not exist. Give "
            f"imputed=model.impute({modality!r}, source={cells_of!r}), or write it with "
            f"model.write_results(mdata, imputed=[{modality!r}])."
        )
    where = f"mdata.obsm[{key!r}]"
    features = _imputed_features(mdata, modality, pd.Index(record[modality]), where)
    matrix = mdata.obsm[key]
    if matrix.shape[1] != len(features):
        raise ValueError(
            f"{where} has {matrix.shape[1]} columns but {len(features)} names in "
            f"mdata.uns[{_keys.UNS!r}][{method!r}]. Write the results again."
        )
    return FeatureValues(matrix, modality_cells(mdata, cells_of), features, where)


def _imputed_features(mdata: MuData, modality: str, names: pd.Index, where: str) -> np.ndarray:
    """Positions in the modality of imputed features; an unknown one is an error."""
    positions = mdata[modality].var_names.get_indexer(names)
    unknown = np.flatnonzero(positions < 0)
    if unknown.size:
        raise ValueError(
            f"{where}: {unknown.size} of {len(names)} features are none of modality {modality!r}, "
            f"e.g. {names[unknown[0]]!r} (it has e.g. {mdata[modality].var_names[0]!r})."
        )
    return positions


def cells_with_values(values: FeatureValues, modality: str) -> np.ndarray:
    """Rows of the modality whose cells have values, at least three."""
    cells = np.flatnonzero(values.rows >= 0)
    if len(cells) < MIN_CELLS:
        raise ValueError(
            f"{values.where} holds {len(cells)} of the {len(values.rows)} cells of {modality!r}; "
            f"correlations need at least {MIN_CELLS}."
        )
    if len(cells) < len(values.rows):
        logger.info(
            "%s holds %d of the %d cells of modality %r: the others take no part.",
            values.where,
            len(cells),
            len(values.rows),
            modality,
        )
    return cells


def choose_features(
    mdata: MuData,
    modality: str,
    values: FeatureValues,
    cells: np.ndarray,
    wanted: np.ndarray | None,
    statistic: Statistic,
) -> tuple[FeatureMatrix, np.ndarray]:
    """Matrix of the wanted features, in the order of the modality, and their positions there.

    `cells` are positions in ``values.rows``; `wanted` are positions in the modality, of which
    those without values are left out (None: all that have values).
    """
    columns = np.argsort(values.features)
    positions = values.features[columns]
    if wanted is not None:
        kept = np.isin(positions, wanted)
        columns, positions = columns[kept], positions[kept]
    if not len(columns):
        raise ValueError(
            f"{values.where} has values for none of the wanted features of modality {modality!r}."
        )
    matrix = FeatureMatrix(
        values.matrix,
        values.rows[cells],
        columns,
        names=mdata[modality].var_names[positions],
        where=values.where,
        statistic=statistic,
    )
    return matrix, positions


def group_codes(mdata: MuData, key: str | None, modality: str, cells: np.ndarray) -> np.ndarray:
    """Group of some cells of a modality, by a column of cells; all 0 without a key.

    A cell without a group is an error, and so is every cell alone in its group.
    """
    if key is None:
        return np.zeros(len(cells), dtype=np.int64)
    cells = modality_cells(mdata, modality)[cells]
    codes = cell_groups(mdata, key, cells, argument="within", modality=modality)
    if np.bincount(codes).max() == 1:
        raise ValueError(
            f"within={key!r}: each of the {len(codes)} cells is alone in its group, so no "
            "cells can be shuffled. Name a column of cell types or batches."
        )
    return codes


def cell_groups(
    mdata: MuData, key: str, cells: np.ndarray, *, argument: str, modality: str | None = None
) -> np.ndarray:
    """Group 0, 1, ... of some cells of the MuData, by a column of all or of one modality.

    `argument` is how the user named the column. A cell without a group is an error.
    """
    names = None if modality is None else [modality]
    column = coalesce_obs(mdata, key, names, argument=argument).iloc[cells]
    missing = column.index[column.isna()]
    if len(missing):
        of = "" if modality is None else f" of {modality!r}"
        raise ValueError(
            f"{len(missing)} of {len(column)} cells{of} have no value in {argument}={key!r}, e.g. "
            f"{missing[0]!r}. Fill it in or leave these cells out."
        )
    return pd.factorize(column.to_numpy(dtype=object))[0]
