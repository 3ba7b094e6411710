"""Checks of the input that run before anything is registered or trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from mudata import MuData
from scipy import sparse

from cantata._keys import RESERVED, rep_key, rows_key
from cantata._mudata.pairing import row_table
from cantata._mudata.rows import iter_blocks
from cantata._mudata.values import matrix_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData


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
    taken = RESERVED | {f(name) for f in (rows_key, rep_key) for name in names}
    clash = [name for name in names if name in taken]
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
        own = mdata[name].obs_names.to_numpy()
        stale = present.sum() != own.size or rows.max(initial=-1) >= own.size
        if stale or np.any(own[rows[present]] != obs_names[present]):
            raise ValueError(
                f"The rows of modality {name!r} changed after the MuData was made. "
                "Call mdata.update()."
            )


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
        if sparse.issparse(block):
            block = block.tocsr()
            values, row_of = (
                block.data,
                np.repeat(np.arange(block.shape[0]), np.diff(block.indptr)),
            )
        else:
            block = np.asarray(block)
            values, row_of = block.ravel(), np.repeat(np.arange(block.shape[0]), block.shape[1])
        finite = np.isfinite(values)
        offenders = {
            "nonfinite": row_of[~finite],
            "negative": row_of[values < 0],
            "noninteger": row_of[finite & (values != np.round(values))],
            "empty": np.flatnonzero(np.asarray(abs(block).sum(axis=1)).ravel() == 0),
        }
        column_total += np.asarray(abs(block).sum(axis=0)).ravel()
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
    """Refuse NaN and infinite values.

    Raises
    ------
    ValueError
        With the number of such values and the first cell that has one.
    """
    if stats.n_nonfinite:
        raise ValueError(
            f"Modality {name!r} has {stats.n_nonfinite} NaN or infinite values, e.g. in cell "
            f"{stats.nonfinite_example!r}. Cells that were not measured are left out of the "
            f"modality, "
            "not filled with NaN: mdata.mod[name] = mdata[name][measured].copy(); mdata.update()."
        )


def check_counts(name: str, stats: MatrixStats, likelihood: str) -> None:
    """Refuse values that a count likelihood cannot generate; warn about features without counts.

    Raises
    ------
    ValueError
        For negative or non-integer values and for cells without counts.
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
    """Refuse an argument per modality that names a modality which is not used.

    Raises
    ------
    KeyError
        With the unknown names.
    """
    unknown = [name for name in mapping if name not in modalities]
    if unknown:
        raise KeyError(
            f"{argument} names modalities that are not used: {unknown}. Used are "
            f"{list(modalities)}."
        )


def per_modality(
    argument: str, given: Any, modalities: Sequence[str], default: Any
) -> dict[str, Any]:
    """Value of an argument for every modality.

    Parameters
    ----------
    argument
        Its name, for the error.
    given
        One value for all, or a mapping from modality to value.
    modalities
        Modalities of the model.
    default
        Value of modalities that a mapping leaves out.

    Raises
    ------
    KeyError
        If a mapping names an unknown modality.
    """
    if not hasattr(given, "items"):
        return dict.fromkeys(modalities, given)
    check_mapping(argument, given, modalities)
    return {name: given.get(name, default) for name in modalities}


def check_matrix_keys(
    mdata: MuData, layers: Mapping[str, str | None], reps: Mapping[str, str]
) -> None:
    """Refuse layers and representations that do not exist or do not fit.

    Raises
    ------
    KeyError
        If a layer or an ``.obsm`` key is missing.
    ValueError
        If a representation holds NaN or infinite values.
    """
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
