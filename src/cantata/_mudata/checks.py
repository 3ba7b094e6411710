"""Checks of the input that run before anything is registered or trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from mudata import MuData
from scipy import sparse

from cantata._keys import RESERVED, rep_key, rows_key
from cantata._mudata.pairing import feature_rows, row_table
from cantata._mudata.values import iter_blocks, matrix_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

MAX_ABSENT = 0.2
"""Largest share of a modality's features that a query may lack."""


def check_modalities(
    mdata: MuData, modalities: Sequence[str] | None, *, allow_empty: bool = False
) -> list[str]:
    """Names of the modalities to use, after checking that they can be used.

    With `allow_empty` a modality may have no cell, as in a query that lacks it.

    Raises
    ------
    TypeError
        If `mdata` is no MuData.
    KeyError
        If a modality does not exist.
    ValueError
        For a view, a modality without cells or features, duplicate names, a stale ``obsmap``, or a
        modality whose name cantata needs for itself.
    """
    if not isinstance(mdata, MuData):
        raise TypeError(
            f"Expected a MuData, got {type(mdata).__name__}. Wrap it: "
            "mudata.MuData({'rna': adata})."
        )
    if mdata.is_view:
        raise ValueError("The MuData is a view. Copy it first: mdata = mdata.copy().")
    names = list(mdata.mod) if modalities is None else list(modalities)
    absent = [name for name in names if name not in mdata.mod]
    if absent or not names:
        raise KeyError(
            f"modalities={names}: {absent or 'nothing'} is not in the MuData, which holds "
            f"{list(mdata.mod)}."
        )
    reserved = RESERVED | {f(name) for f in (rows_key, rep_key) for name in names}
    clash = [name for name in names if name in reserved]
    if clash:
        raise ValueError(f"Modality {clash[0]!r} has a name that cantata needs; rename it.")
    for name in names:
        _check_names(name, mdata[name], allow_empty)
    _check_obsmap(mdata, names)
    return names


def _check_names(name: str, adata: AnnData, allow_empty: bool) -> None:
    if (adata.n_obs == 0 and not allow_empty) or adata.n_vars == 0:
        raise ValueError(
            f"Modality {name!r} has {adata.n_obs} cells and {adata.n_vars} features. Leave it out "
            "with modalities=[...]."
        )
    for axis, index, remedy in (
        ("cell", adata.obs_names, "mdata[m].obs_names_make_unique(); mdata.update()"),
        ("feature", adata.var_names, "mdata[m].var_names_make_unique(); mdata.update()"),
    ):
        if not index.is_unique:
            repeated = index[index.duplicated()].unique()
            raise ValueError(
                f"Modality {name!r} has {len(repeated)} duplicate {axis} names, e.g. "
                f"{repeated[0]!r}. Make them unique: {remedy.replace('[m]', f'[{name!r}]')}."
            )


def _check_obsmap(mdata: MuData, names: Sequence[str]) -> None:
    obs_names = mdata.obs_names.to_numpy()
    for name, rows in row_table(mdata, names).items():
        present = rows >= 0
        cells = mdata[name].obs_names.to_numpy()
        stale = present.sum() != cells.size or rows.max(initial=-1) >= cells.size
        if stale or np.any(cells[rows[present]] != obs_names[present]):
            raise ValueError(
                f"The rows of modality {name!r} changed after the MuData was made. "
                "Call mdata.update()."
            )


def check_varmap(mdata: MuData) -> None:
    """Refuse a MuData whose modalities gained, lost or moved features after it was made."""
    joint = mdata.var_names.to_numpy()
    for name, adata in mdata.mod.items():
        rows = feature_rows(mdata, name)
        features, present = adata.var_names.to_numpy(), np.flatnonzero(rows >= 0)
        if present.size != features.size or np.any(features[rows[present]] != joint[present]):
            raise ValueError(
                f"The features of modality {name!r} changed after the MuData was made. "
                "Call mdata.update()."
            )


def check_pair(mdata: MuData, hints: Mapping[str, str] | None = None, **names: str | None) -> None:
    """Refuse two modalities that do not exist, cannot be used, or are the same.

    `names` are the modalities given for two arguments (None: not given), `hints` what else the
    error for an unknown one says. Errors are those of :func:`check_modalities`.
    """
    known = check_modalities(mdata, None)
    for argument, name in names.items():
        if name is not None and name not in known:
            hint = (hints or {}).get(argument, "")
            raise KeyError(f"{argument}={name!r} is no modality; there are {known}.{hint}")
    (first, a), (second, b) = names.items()
    if a == b:
        raise ValueError(f"{first} and {second} are both {a!r}; give two modalities.")


def match_features(
    name: str, have: pd.Index, want: pd.Index, *, owner: str, stacklevel: int
) -> np.ndarray:
    """Column of a query's modality for each feature that is wanted, -1 where it is absent.

    `owner` says what wants them, a ``"model"`` or a ``"reference"``. Up to 20 % may be absent,
    with a warning (its `stacklevel` counts from the caller); more are a ``ValueError``.
    """
    columns = have.get_indexer(want)
    absent = np.flatnonzero(columns < 0)
    if not absent.size:
        return columns
    text = (
        f"The query's modality {name!r} lacks {absent.size} of the {owner}'s {len(want)} "
        f"features, e.g. {want[absent[0]]!r}"
    )
    if absent.size > MAX_ABSENT * len(want):
        raise ValueError(f"{text}. At most {MAX_ABSENT:.0%} may be absent.")
    warnings.warn(f"{text}; they are taken as 0.", UserWarning, stacklevel=stacklevel + 1)
    return columns


@dataclass(frozen=True)
class MatrixStats:
    """What one pass over a modality's values finds.

    Each ``n_*`` is a number of offenders and each ``*_example`` names the first of them.
    """

    n_nonfinite: int
    nonfinite_example: str
    n_negative: int
    negative_example: str
    n_noninteger: int
    noninteger_example: str
    n_empty_cells: int
    empty_cell_example: str
    n_empty_features: int
    n_features: int


def matrix_stats(matrix: Any, obs_names: Any, n_features: int) -> MatrixStats:
    """Read a matrix once, in blocks, and count what count models cannot use."""
    counts = dict.fromkeys(("nonfinite", "negative", "noninteger", "empty"), 0)
    example = dict.fromkeys(counts, "")
    column_total = np.zeros(n_features)
    for start, block in iter_blocks(matrix, len(obs_names)):
        # 1. values in one dimension, and the row of each
        if sparse.issparse(block):
            block = block.tocsr()
            values, per_row = block.data, np.diff(block.indptr)
        else:
            block = np.asarray(block)
            values, per_row = block.ravel(), block.shape[1]
        row_of = np.repeat(np.arange(block.shape[0]), per_row)
        # 2. rows of offenders, one entry per value (or per cell without counts)
        finite = np.isfinite(values)
        offenders = {
            "nonfinite": row_of[~finite],
            "negative": row_of[values < 0],
            "noninteger": row_of[finite & (values != np.round(values))],
            "empty": np.flatnonzero(np.asarray(abs(block).sum(axis=1)).ravel() == 0),
        }
        column_total += np.asarray(abs(block).sum(axis=0)).ravel()
        # 3. count them; the first one is the example
        for kind, rows in offenders.items():
            if rows.size and not counts[kind]:
                example[kind] = str(obs_names[start + int(rows[0])])
            counts[kind] += int(rows.size)
    return MatrixStats(
        n_nonfinite=counts["nonfinite"],
        nonfinite_example=example["nonfinite"],
        n_negative=counts["negative"],
        negative_example=example["negative"],
        n_noninteger=counts["noninteger"],
        noninteger_example=example["noninteger"],
        n_empty_cells=counts["empty"],
        empty_cell_example=example["empty"],
        n_empty_features=int((column_total == 0).sum()),
        n_features=n_features,
    )


def check_finite(name: str, stats: MatrixStats) -> None:
    """Refuse NaN and infinite values, with their number and the first cell that has one."""
    if stats.n_nonfinite:
        raise ValueError(
            f"Modality {name!r} has {stats.n_nonfinite} NaN or infinite values, e.g. in cell "
            f"{stats.nonfinite_example!r}. Cells that were not measured are left out of the "
            "modality, not filled with NaN: mdata.mod[name] = mdata[name][measured].copy(); "
            "mdata.update()."
        )


def check_counts(name: str, stats: MatrixStats, likelihood: str) -> None:
    """Refuse values that a count likelihood cannot generate; warn about features without counts.

    Negative or non-integer values and cells without counts are a ``ValueError``.
    """
    if stats.n_negative:
        raise ValueError(
            f"Modality {name!r} has {stats.n_negative} negative values, e.g. in cell "
            f"{stats.negative_example!r}, which likelihood {likelihood!r} cannot model. Register "
            f"the counts (layers={{{name!r}: ...}}) or pass likelihoods={{{name!r}: 'normal'}}."
        )
    if stats.n_noninteger:
        raise ValueError(
            f"Modality {name!r} has {stats.n_noninteger} values that are no integers, e.g. in "
            f"cell {stats.noninteger_example!r}, which likelihood {likelihood!r} cannot model. "
            f"Register the counts (layers={{{name!r}: 'counts'}}) or pass "
            f"likelihoods={{{name!r}: 'normal'}}."
        )
    if stats.n_empty_cells:
        raise ValueError(
            f"Modality {name!r} has {stats.n_empty_cells} cells without counts, e.g. "
            f"{stats.empty_cell_example!r}. Make them unmeasured there: "
            "mdata = cantata.pp.drop_empty(mdata)."
        )
    if stats.n_empty_features:
        warnings.warn(
            f"Modality {name!r}: {stats.n_empty_features} of {stats.n_features} features have no "
            "count in any cell. They are modelled as they are; consider filtering them out.",
            UserWarning,
            stacklevel=4,
        )


def check_mapping(argument: str, mapping: Mapping[str, Any], modalities: Sequence[str]) -> None:
    """Refuse an argument per modality that names a modality which is not used (``KeyError``)."""
    unknown = [name for name in mapping if name not in modalities]
    if unknown:
        raise KeyError(
            f"{argument} names modalities that are not used: {unknown}. Used are "
            f"{list(modalities)}."
        )


def per_modality(
    argument: str, value: Any, modalities: Sequence[str], default: Any
) -> dict[str, Any]:
    """Value of an argument for every modality.

    `value` is one for all, or a mapping from modalities, which must be known ones; those that it
    leaves out have the `default`.
    """
    if not hasattr(value, "items"):
        return dict.fromkeys(modalities, value)
    check_mapping(argument, value, modalities)
    return {name: value.get(name, default) for name in modalities}


def check_matrix_keys(
    mdata: MuData, layers: Mapping[str, str | None], reps: Mapping[str, str]
) -> None:
    """Refuse layers and representations that do not exist (``KeyError``) or are not finite."""
    for name, layer in layers.items():
        matrix_of(mdata, name, layer)
    for name, rep in reps.items():
        if rep not in mdata[name].obsm:
            raise KeyError(
                f"reps={{{name!r}: {rep!r}}}: modality {name!r} has the representations "
                f"{list(mdata[name].obsm)}. Make one with cantata.pp.preprocess."
            )
        values = np.asarray(mdata[name].obsm[rep], dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            raise ValueError(
                f"reps={{{name!r}: {rep!r}}} is not finite for {bad.size} cells, e.g. "
                f"{mdata[name].obs_names[bad[0]]!r}."
            )
