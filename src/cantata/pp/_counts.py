"""Find the counts of a modality and refuse what is no count matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from cantata import _keys
from cantata._mudata.checks import matrix_stats
from cantata._mudata.values import layer_names, matrix_of, saved_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData


@dataclass(frozen=True)
class Counts:
    """Counts of one modality (cells x features), and the layer in which they are kept."""

    matrix: Any
    layer: str


def chosen_matrix(
    name: str, adata: AnnData, layers: Mapping[str, str | None], argument: str | None = None
) -> tuple[Any, str | None]:
    """A modality's matrix and its layer, None for ``.X``.

    A layer named by the user comes first, then the layer that :func:`cantata.pp.preprocess`
    recorded, then ``.X``.

    Parameters
    ----------
    name
        Name of the modality.
    adata
        The modality; it is not modified.
    layers
        Layer of the values, for the modalities that the user named.
    argument
        How the user named the layer, for errors; by default an entry of ``layers``, of which
        None is ``.X``.

    Raises
    ------
    KeyError
        If the layer or ``.X`` does not exist.
    """
    layer = layers.get(name)
    if name not in layers:
        layer = (saved_record(adata) or {}).get("counts_layer")
        layer = layer if layer in adata.layers else None
    return matrix_of({name: adata}, name, layer, argument=argument), layer


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if sparse.issparse(a) and sparse.issparse(b):
        return abs(a - b).max() == 0
    return not np.any(abs(a - b))


def find_counts(name: str, adata: AnnData, layers: Mapping[str, str | None]) -> Counts:
    """Counts of a modality, checked; :func:`chosen_matrix` says from where.

    Parameters
    ----------
    name
        Name of the modality.
    adata
        The modality; it is not modified.
    layers
        Layer of the counts, for the modalities that the user named.

    Returns
    -------
    Matrix and the layer that holds it, or will hold it.

    Raises
    ------
    KeyError
        If the layer or ``.X`` does not exist.
    TypeError
        If the matrix is neither dense nor sparse in memory.
    ValueError
        If the values are no counts, or ``layers["counts"]`` holds something else.
    """
    matrix, layer = chosen_matrix(name, adata, layers)
    where = ".X" if layer is None else f".layers[{layer!r}]"
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    if not (isinstance(matrix, np.ndarray) or sparse.issparse(matrix)):
        raise TypeError(
            f"Modality {name!r}: {where} is a {type(matrix).__name__}; preprocess reads numpy "
            "arrays and scipy sparse matrices. Load it first: mdata[m].to_memory()."
        )
    if sparse.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    _check_values(name, adata, matrix, where)
    if layer is None and not _same(matrix, adata.layers.get(_keys.COUNTS, matrix)):
        raise ValueError(
            f"Modality {name!r}: .layers[{_keys.COUNTS!r}] and .X both exist and differ. "
            "Start from the "
            f"layer with layers={{{name!r}: {_keys.COUNTS!r}}}, or delete it to start from .X."
        )
    return Counts(matrix, layer or _keys.COUNTS)


def _check_values(name: str, adata: AnnData, matrix: Any, where: str) -> None:

    stats = matrix_stats(matrix, adata.obs_names, adata.n_vars)
    for n, example, what in (
        (stats.n_nonfinite, stats.nonfinite_example, "NaN or infinite values"),
        (stats.n_negative, stats.negative_example, "negative values"),
        (stats.n_noninteger, stats.noninteger_example, "values that are no integers"),
    ):
        if n:
            raise ValueError(
                f"Modality {name!r}: {where} has {n} {what}, e.g. in cell {example!r}; preprocess "
                f"starts from counts. Name their layer with layers={{{name!r}: ...}} (there are "
                f"{layer_names(adata)}), or leave the modality out with modalities={{...}}."
            )
    if stats.n_empty_cells:
        raise ValueError(
            f"Modality {name!r} has {stats.n_empty_cells} cells without counts, e.g. "
            f"{stats.empty_cell_example!r}. Make them unmeasured there: mdata = "
            "cantata.pp.drop_empty(mdata)."
        )
