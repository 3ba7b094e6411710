"""Checks of the input that run before anything is registered or trained."""

from __future__ import annotations

import difflib
import inspect
import math
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from cantata._keys import IMAGES, RESERVED, rep_key, rows_key
from cantata._mudata.pairing import feature_rows, membership, row_table
from cantata._mudata.panels import without_nan
from cantata._mudata.values import iter_blocks, matrix_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

PACKAGE = str(Path(__file__).parents[1])
"""Folder of the package."""
MAX_ABSENT = 0.2
"""Largest share of a modality's features that a query may lack."""
MAX_BLOCK_ENTRIES = 2**23
"""Entries of a dense block; images are wide."""
MAX_SCALE = 3.0
"""Factor between mean absolute values from which new data count as of another scale."""
MAX_LOG = 50.0
"""Values above this are no logarithms of anything that was counted or measured."""
MIN_INTEGERS = 0.1
"""Share of the values but 0 that are integers, from which on they are counts in part."""
TRANSFER_ARGUMENTS = {"source_registry", "extend_categories", "allow_absent"}
"""What scvi-tools and queries pass to ``setup_mudata`` beside the arguments of a user."""
MIN_LIKENESS = 0.7
"""How alike a mistyped name and the right one are, by :mod:`difflib`."""


def warn_user(text: str) -> None:
    """Warn at the innermost line that is not of this package."""
    frame, stacklevel = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(text, UserWarning, stacklevel=stacklevel)


# Arguments --------------------------------------------------------------------------------------


def as_list(argument: str, names: Any) -> list[Any]:
    """Names that a user gave, as a list; one string is one name, None are none.

    A ``TypeError`` for a mapping, or anything that is no collection.
    """
    if names is None:
        return []
    if isinstance(names, str | bytes):
        return [names]
    if isinstance(names, Mapping) or not isinstance(names, Iterable):
        raise TypeError(f"{argument}={names!r}: give a list of names.")
    return list(names)


def name_list(argument: str, given: Any) -> list[str]:
    """Names that a user gave, each once, in their order; one string is one name.

    None and what is no list of strings are a ``TypeError``, an empty list is a ``ValueError``.
    """
    if given is None:
        raise TypeError(f"{argument}=None: give a list of names.")
    names = list(dict.fromkeys(as_list(argument, given)))
    if not names:
        raise ValueError(f"{argument} is empty; name at least one.")
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"{argument} must be a list of names; {wrong[0]!r} is none.")
    return [str(name) for name in names]


def check_integer(argument: str, value: Any, minimum: int = 1) -> int:
    """An integer, of numpy's types too, that is not too small.

    A ``TypeError`` for anything else, a ``ValueError`` for less than the `minimum`.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{argument} must be an integer, got {value!r}.")
    if value < minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value}.")
    return int(value)


def positions_of(indices: Any, names: pd.Index) -> np.ndarray:
    """Positions that a user chose among cells with these `names`.

    Parameters
    ----------
    indices
        None for all; a slice; positions, also negative or a single one; a mask; or names.
    names
        Names of the cells.

    Raises
    ------
    IndexError
        If a position does not exist, or a mask is of another length.
    KeyError
        If a name does not exist.
    TypeError
        If it is none of these.

    Examples
    --------
    >>> import pandas as pd
    >>> positions_of([True, False, True], pd.Index(["a", "b", "c"]))
    array([0, 2])
    """
    n = len(names)
    if indices is None or isinstance(indices, slice):
        return np.arange(n)[slice(None) if indices is None else indices]
    chosen = np.atleast_1d(np.asarray(indices))
    if chosen.size == 0:
        return np.array([], dtype=np.int64)
    if chosen.ndim != 1:
        raise TypeError(f"indices has {chosen.ndim} dimensions; give one row of positions.")
    if chosen.dtype == bool:
        if len(chosen) != n:
            raise IndexError(f"indices is a mask of {len(chosen)} cells; there are {n}.")
        return np.flatnonzero(chosen)
    if chosen.dtype.kind in "iu":
        outside = chosen[(chosen < -n) | (chosen >= n)]
        if outside.size:
            raise IndexError(
                f"indices holds {outside.size} positions that do not exist, e.g. {outside[0]}; "
                f"there are {n} cells."
            )
        return chosen.astype(np.int64) % n
    if not all(isinstance(name, str) for name in chosen):
        raise TypeError(
            f"indices holds {chosen.tolist()[0]!r} (dtype {chosen.dtype}); give positions, a "
            "mask, a slice or names of cells."
        )
    positions = names.get_indexer(pd.Index(chosen))
    absent = np.flatnonzero(positions < 0)
    if absent.size:
        raise KeyError(
            f"indices names {absent.size} cells that do not exist, e.g. "
            f"{str(chosen[absent[0]])!r}."
        )
    return positions


# Modalities and their names ---------------------------------------------------------------------


def check_mudata(mdata: Any) -> None:
    """Refuse what is no MuData (``TypeError``)."""
    if not isinstance(mdata, MuData):
        raise TypeError(
            f"Expected a MuData, got {type(mdata).__name__}. "
            + (
                f"Read it: mudata.read({str(mdata)!r})."
                if isinstance(mdata, str | PathLike)
                else "Wrap it: mudata.MuData({'rna': adata, ...})."
            )
        )


def check_modalities(
    mdata: MuData,
    modalities: Sequence[str] | None,
    *,
    allow_empty: bool = False,
    allow_view: bool = False,
) -> list[str]:
    """Names of the modalities to use, after checking that they can be used.

    With `allow_empty` a modality may have no cell, as in a query that lacks it, and with
    `allow_view` the MuData may be a view.

    Raises
    ------
    TypeError
        If `mdata` is no MuData.
    KeyError
        If a modality does not exist.
    ValueError
        For a view, a modality without cells or features, missing or duplicate names, a stale
        ``obsmap``, or a modality whose name cantata needs for itself.
    """
    check_mudata(mdata)
    if mdata.is_view and not allow_view:
        raise ValueError("The MuData is a view. Copy it first: mdata = mdata.copy().")
    names = list(mdata.mod) if modalities is None else as_list("modalities", modalities)
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
    check_obsmap(mdata, names)
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
        if index.hasnans:
            raise ValueError(
                f"Modality {name!r} has {index.isna().sum()} {axis}s without a name (NaN), the "
                f"first of them at position {int(np.argmax(index.isna()))}. Name them: "
                f"mdata[{name!r}].{'obs' if axis == 'cell' else 'var'}_names = ...; "
                "mdata.update()."
            )
        if not index.is_unique:
            repeated = index[index.duplicated()].unique()
            raise ValueError(
                f"Modality {name!r} has {len(repeated)} duplicate {axis} names, e.g. "
                f"{repeated[0]!r}. Make them unique: {remedy.replace('[m]', f'[{name!r}]')}."
            )


def check_obsmap(mdata: MuData, names: Sequence[str]) -> None:
    """Refuse a MuData whose modalities gained, lost or moved cells after it was made."""
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


def check_for_model(mdata: MuData, names: Sequence[str], model: str, min_modalities: int) -> None:
    """Refuse modalities that a model cannot use: too few or repeated, views, cells with none.

    `model` is its name, for the ``ValueError``; a single modality that it takes is a warning.
    """
    if len(names) < 2:
        text = f"{model} aligns modalities; {list(names)} is only one."
        if IMAGES in mdata[names[0]].obsm:
            text += " Make one of each stain: mdata = cantata.pp.split_stains(adata)."
        if len(names) < min_modalities:
            raise ValueError(text)
        warnings.warn(text, UserWarning, stacklevel=3)
    if len(set(names)) < len(names):
        raise ValueError(f"modalities={list(names)} names a modality twice.")
    views = [name for name in names if mdata[name].is_view]
    if views:
        raise ValueError(
            f"Modality {views[0]!r} is a view of another AnnData. Copy it before the MuData is "
            f"made: mudata.MuData({{{views[0]!r}: adata.copy(), ...}})."
        )
    lacking = np.flatnonzero(~membership(mdata, names).any(axis=1))
    if lacking.size:
        raise ValueError(
            f"{lacking.size} of {mdata.n_obs} cells have none of the modalities {list(names)}, "
            f"e.g. {mdata.obs_names[lacking[0]]!r}. Leave them out: mdata = "
            f"mdata[cantata.data.membership(mdata, {list(names)}).any(axis=1)].copy()."
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


# Features of new data ---------------------------------------------------------------------------


def match_features(
    name: str, have: pd.Index, want: pd.Index, *, owner: str, stacklevel: int
) -> np.ndarray:
    """Column of a query's modality for each feature that is wanted, -1 where it is absent.

    `owner` says what wants them, a ``"model"`` or a ``"reference"``. Up to 20 % may be absent,
    with a warning (its `stacklevel` counts from the caller); more are a ``ValueError``. Both say
    it where names differ in nothing but case.
    """
    columns = have.get_indexer(want)
    absent = np.flatnonzero(columns < 0)
    if not absent.size:
        return columns
    text = (
        f"The query's modality {name!r} lacks {absent.size} of the {owner}'s {len(want)} "
        f"features, e.g. {want[absent[0]]!r}"
    )
    hint = _case_hint(have, want[absent])
    if absent.size > MAX_ABSENT * len(want):
        raise ValueError(f"{text}. At most {MAX_ABSENT:.0%} may be absent.{hint}")
    warnings.warn(f"{text}; they are taken as 0.{hint}", UserWarning, stacklevel=stacklevel + 1)
    return columns


def _case_hint(have: pd.Index, absent: pd.Index) -> str:
    """What to say where the query has absent features under names of another case."""
    by_lower = {str(name).lower(): name for name in have}
    twins = [(name, by_lower[low]) for name in absent if (low := str(name).lower()) in by_lower]
    if not twins:
        return ""
    return (
        f" {len(twins)} of them are there in another case, {twins[0][1]!r} for {twins[0][0]!r}: "
        "rename the query's features."
    )


# Values -----------------------------------------------------------------------------------------


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
    mean_size: float = 0.0
    """Mean absolute value, over finite entries and zeros."""
    n_values: int = 0
    """Values that are not 0."""
    largest: float = 0.0
    """Largest value, whatever its sign."""

    @property
    def are_counts(self) -> bool:
        """Whether there are none but whole numbers from 0 up."""
        return not (self.n_negative or self.n_noninteger or self.n_nonfinite)

    @property
    def look_like_counts(self) -> bool:
        """Whether values can be counts, if corrected ones (SoupX, alevin) that are no integers.

        None is negative, and all are integers, a tenth of them is, or some are too large for
        logarithms.
        """
        if self.n_negative or not self.n_noninteger:
            return not self.n_negative
        n_integer = self.n_values - self.n_noninteger
        return n_integer >= MIN_INTEGERS * self.n_values or self.largest > MAX_LOG


def matrix_stats(matrix: Any, obs_names: Any, n_features: int) -> MatrixStats:
    """Read a matrix once, in blocks, and count what count models cannot use."""
    counts = dict.fromkeys(("nonfinite", "negative", "noninteger", "empty"), 0)
    example = dict.fromkeys(counts, "")
    column_total, size = np.zeros(n_features), 0.0
    n_values, largest = 0, 0.0
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
        size += float(np.abs(values[finite], dtype=np.float64).sum())
        n_values += int(np.count_nonzero(values))
        largest = max(largest, float(np.abs(values).max(initial=0, where=finite)))
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
        mean_size=size / max(len(obs_names) * n_features, 1),
        n_values=n_values,
        largest=largest,
    )


def row_fingerprints(matrix: Any) -> np.ndarray | None:
    """One number for each row, which changes with its values; None for a matrix on disk.

    They are the same whatever the storage, within rounding. 10 million entries take 20 ms.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> dense = np.array([[0.0, 2.0], [3.0, 0.0]])
    >>> np.allclose(row_fingerprints(dense), row_fingerprints(sparse.csc_matrix(dense)))
    True
    """
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    if not (isinstance(matrix, np.ndarray) or sparse.issparse(matrix)):
        return None
    if matrix.ndim > 2:  # images
        matrix = matrix.reshape(len(matrix), math.prod(matrix.shape[1:]))
    # positive weights, so that values of one sign do not cancel
    weights = np.random.default_rng(0).uniform(0.5, 1.5, matrix.shape[1])
    if sparse.issparse(matrix):
        sums = np.asarray(matrix @ weights).ravel()
    else:
        size = max(1, MAX_BLOCK_ENTRIES // max(matrix.shape[1], 1))
        found = iter_blocks(matrix, matrix.shape[0], min(size, 4096))
        blocks = [np.asarray(block) @ weights for _, block in found]
        sums = np.concatenate(blocks) if blocks else np.zeros(0)
    # NaN, which a model reads as 0 where it takes it at all, hides the other values of a row
    hidden = np.flatnonzero(np.isnan(sums))
    if hidden.size:
        sums[hidden] = without_nan(matrix[hidden]) @ weights
    return sums


def check_like_source(name: str, stats: MatrixStats, source: MatrixStats) -> None:
    """Refuse values of a modality that are of another kind than those a model was set up with.

    What those had none of is a ``ValueError`` here: NaN, negative values, values that are no
    integers, cells without counts. Values that are no counts and of a size that differs by a
    factor of more than 3 are a warning.
    """
    check_finite(name, stats)
    for n, n_before, example, what in (
        (stats.n_negative, source.n_negative, stats.negative_example, "negative values"),
        (
            stats.n_noninteger,
            source.n_noninteger,
            stats.noninteger_example,
            "values that are no integers",
        ),
    ):
        if n and not n_before:
            kind = "counts" if source.are_counts else "values that had none"
            raise ValueError(
                f"Modality {name!r} has {n} {what}, e.g. in cell {example!r}, and the model was "
                f"set up with {kind}. Give it values as it was set up with, in the same layer."
            )
    if source.are_counts and not source.n_empty_cells:
        check_no_empty_cell(name, stats)
    if source.are_counts or not (stats.mean_size and source.mean_size):
        return
    factor = stats.mean_size / source.mean_size
    if not 1 / MAX_SCALE <= factor <= MAX_SCALE:
        warnings.warn(
            f"Values of modality {name!r} are on average {factor:.2g} times as large as those the "
            "model was set up with. Are they transformed in the same way?",
            UserWarning,
            stacklevel=2,
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


def check_counts(
    name: str,
    stats: MatrixStats,
    likelihood: str,
    remedy: str = "likelihoods={{{name!r}: 'normal'}}",
) -> None:
    """Refuse values that a count likelihood cannot generate; warn about features without counts.

    Negative or non-integer values and cells without counts are a ``ValueError``; `remedy` is the
    argument that takes such values, with a place for the name.
    """
    check_not_negative(name, stats, likelihood, remedy)
    if stats.n_noninteger:
        raise ValueError(
            f"Modality {name!r} has {stats.n_noninteger} values that are no integers, e.g. in "
            f"cell {stats.noninteger_example!r}, which likelihood {likelihood!r} cannot model. "
            f"{_counts_or(remedy, name)}"
        )
    check_no_empty_cell(name, stats)
    if stats.n_empty_features:
        warnings.warn(
            f"Modality {name!r}: {stats.n_empty_features} of {stats.n_features} features have no "
            "count in any cell. They are modelled as they are; consider filtering them out.",
            UserWarning,
            stacklevel=4,
        )


def check_not_negative(
    name: str,
    stats: MatrixStats,
    likelihood: str,
    remedy: str = "likelihoods={{{name!r}: 'normal'}}",
) -> None:
    """Refuse negative values, which no likelihood of counts can generate (``ValueError``)."""
    if stats.n_negative:
        raise ValueError(
            f"Modality {name!r} has {stats.n_negative} negative values, e.g. in cell "
            f"{stats.negative_example!r}, which likelihood {likelihood!r} cannot model. "
            f"{_counts_or(remedy, name)}"
        )


def _counts_or(remedy: str, name: str) -> str:
    layer = f"Register the layer that holds counts, layers={{{name!r}: ...}}"
    return f"{layer}, or pass {remedy.format(name=name)}."


def check_no_empty_cell(name: str, stats: MatrixStats) -> None:
    """Refuse cells whose values are all 0, which were not measured (``ValueError``)."""
    if stats.n_empty_cells:
        raise ValueError(
            f"Modality {name!r} has {stats.n_empty_cells} cells without counts, e.g. "
            f"{stats.empty_cell_example!r}. Make them unmeasured there: "
            "mdata = cantata.pp.drop_empty(mdata)."
        )


# Arguments of set-up --------------------------------------------------------------------------


def covariate_columns(setup_args: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Columns of the batch and of all covariates, each after the argument that named it."""
    arguments = ("batch_key", "categorical_covariate_keys", "continuous_covariate_keys")
    return [(name, key) for name in arguments for key in as_list(name, setup_args[name])]


def as_pairs(pairs: Any) -> list[tuple[str, str]] | None:
    """Pairs of modalities; two names are one pair."""
    if pairs is None:
        return None
    found = as_list("pairs", pairs)
    if len(found) == 2 and all(isinstance(name, str) for name in found):
        found = [(found[0], found[1])]
    for pair in found:
        if isinstance(pair, str) or len(as_list("pairs", pair)) != 2:
            raise TypeError(f"pairs={pairs!r}: give a list of pairs, e.g. [('rna', 'adt')].")
    return [(first, second) for first, second in found]


def parameters_of(call: Callable[..., Any] | None) -> list[str]:
    """Names of what a function, or a class, takes; none of None."""
    if call is None:
        return []
    every = inspect.signature(call).parameters.values()
    return [p.name for p in every if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def check_known(
    call: str, given: Mapping[str, Any], known: Sequence[str], passed_on: Sequence[str] = ()
) -> None:
    """Refuse arguments that are neither `known` nor `passed_on` (``TypeError``)."""
    unknown = [name for name in given if name not in (*known, *passed_on)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=MIN_LIKENESS)
        hint = f"Did you mean {near[0]}?" if near else f"It takes {', '.join(known)}."
        raise TypeError(f"{call} has no argument {unknown[0]!r}. {hint}")


def check_setup_arguments(
    setup: Callable[..., Any], kwargs: Mapping[str, Any], **columns: Any
) -> None:
    """Refuse arguments that ``setup_mudata`` does not have, and `columns` that are no name."""
    given = {name: value for name, value in kwargs.items() if name not in TRANSFER_ARGUMENTS}
    check_known("setup_mudata", given, parameters_of(setup))
    for argument, key in columns.items():
        if key is not None and not isinstance(key, str):
            raise TypeError(f"{argument}={key!r}: give the name of one column.")


def fingerprints(mdata: MuData, setup_args: Mapping[str, Any]) -> dict[str, pd.Series]:
    """Fingerprints of the values of each cell, of every matrix in memory that a model reads."""
    matrices = {
        f"modality {name!r}": (name, matrix_of(mdata, name, layer))
        for name, layer in setup_args["layers"].items()
        if name not in setup_args["images"]
    } | {
        f"mdata[{name!r}].obsm[{key!r}]": (name, mdata[name].obsm[key])
        for argument in ("reps", "images")
        for name, key in setup_args[argument].items()
    }
    fingerprints = {key: (name, row_fingerprints(m)) for key, (name, m) in matrices.items()}
    return {
        key: pd.Series(values, index=mdata[name].obs_names)
        for key, (name, values) in fingerprints.items()
        if values is not None
    }


# Arguments per modality -------------------------------------------------------------------------


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
    if isinstance(value, list | tuple | set):
        raise TypeError(
            f"{argument}={value!r}: give one value for all modalities, or a dict from their names."
        )
    if not hasattr(value, "items"):
        return dict.fromkeys(modalities, value)
    check_mapping(argument, value, modalities)
    return {name: value.get(name, default) for name in modalities}


def check_matrix_keys(mdata: MuData, setup_args: Mapping[str, Any]) -> None:
    """Refuse layers and representations that do not exist (``KeyError``) or are not finite."""
    for name, layer in setup_args["layers"].items():
        if name not in setup_args["images"]:
            matrix_of(mdata, name, layer)
    for name, rep in setup_args["reps"].items():
        if rep not in mdata[name].obsm:
            raise KeyError(
                f"reps={{{name!r}: {rep!r}}}: modality {name!r} has the representations "
                f"{list(mdata[name].obsm)}. Make one with cantata.pp.preprocess."
            )
        values = mdata[name].obsm[rep]
        values = np.asarray(values.toarray() if sparse.issparse(values) else values)
        bad = np.flatnonzero(~np.isfinite(values.astype(np.float64)).all(axis=1))
        if bad.size:
            raise ValueError(
                f"reps={{{name!r}: {rep!r}}} is not finite for {bad.size} cells, e.g. "
                f"{mdata[name].obs_names[bad[0]]!r}."
            )
