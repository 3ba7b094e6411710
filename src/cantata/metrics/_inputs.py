"""What metrics read: arrays, or the embeddings and columns of a MuData, lined up by cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData

from cantata._mudata.checks import name_list
from cantata._mudata.embeddings import modality_rep, single_space
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import modality_cells, row_table
from cantata._numeric.neighbors import check_column, check_pairs, check_rows

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_pairs(
    x: Any, y: Any, use_rep: str | None, source: str | None, target: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Embeddings of the same cells by two modalities, and where these cells are in the MuData.

    Of a MuData the cells that both modalities hold, in the order of ``mdata.obs_names``; of two
    arrays all rows, and None.
    """
    if not isinstance(x, MuData):
        _check_arrays(use_rep=use_rep, source=source, target=target)
        check_order({"x": x, "y": y})
        return *check_pairs(x, y), None
    names = _two_modalities(x, y, use_rep, source, target, "y")
    table = row_table(x, names)
    cells = np.flatnonzero(np.all([rows >= 0 for rows in table.values()], axis=0))
    if not cells.size:
        raise ValueError(f"No cell is in both {names[0]!r} and {names[1]!r}: there are no pairs.")
    left, right = (modality_rep(x, name, str(use_rep))[table[name][cells]] for name in names)
    return *check_pairs(left, right), cells


def read_transfer(
    reference: Any,
    reference_labels: Any,
    query: Any,
    query_labels: Any,
    use_rep: str | None,
    source: str | None,
    target: str | None,
) -> tuple[Any, Any, Any, np.ndarray]:
    """Embedding and labels of reference and query: as given, or those of two modalities."""
    if not isinstance(reference, MuData):
        _check_arrays(use_rep=use_rep, source=source, target=target)
        return reference, reference_labels, query, check_column(query_labels, "query_labels")
    if query_labels is not None:
        raise TypeError("query_labels= goes with arrays; both labels are one column of a MuData.")
    names = _two_modalities(reference, query, use_rep, source, target, "query")
    sides: list[Any] = []
    for name in names:
        rows = modality_rep(reference, name, str(use_rep))
        sides += [rows, _column(reference, reference_labels, "labels", name)]
    return sides[0], sides[1], sides[2], sides[3]


def read_cells(
    embedding: Any, use_rep: str | None, **columns: Any
) -> tuple[np.ndarray, list[np.ndarray]]:
    """One embedding of cells, and columns of these cells: as given, or of a MuData."""
    if not isinstance(embedding, MuData):
        _check_arrays(use_rep=use_rep)
        check_order({"embedding": embedding, **columns})
        rows = check_rows(embedding, "embedding")
        return rows, [_of_length(values, name, len(rows)) for name, values in columns.items()]
    space = single_space(embedding, _needed(use_rep, "use_rep"))
    values = [_column(embedding, key, name)[space.cells] for name, key in columns.items()]
    return space.values, values


def read_datasets(embedding: Any, dataset: Any, use_rep: str | None) -> tuple[Any, Any]:
    """Embedding and dataset of cells; of a MuData without a column one dataset per modality."""
    if not isinstance(embedding, MuData) and dataset is None:
        _check_arrays(use_rep=use_rep)
        return embedding, None
    if dataset is not None:
        rows, (values,) = read_cells(embedding, use_rep, dataset=dataset)
        return rows, values
    key = _needed(use_rep, "use_rep")
    names = [name for name in embedding.mod if key in embedding[name].obsm]
    if len(names) < 2:
        raise KeyError(
            f"use_rep={key!r} is in .obsm of {names or 'no modality'}: mixing of modalities needs "
            "two. To compare batches, name their column: dataset=."
        )
    return {name: modality_rep(embedding, name, key) for name in names}, None


def read_blocks(
    blocks: Any, factors: Any, use_rep: Mapping[str, str] | None
) -> tuple[Mapping[str, Any], Any]:
    """Blocks of latents and factors: as given, or those of the cells that all blocks hold."""
    if not isinstance(blocks, MuData):
        _check_arrays(use_rep=use_rep)
        if not hasattr(blocks, "items"):
            raise TypeError(
                f"blocks is a {type(blocks).__name__}; give a dict from names to arrays, or a "
                "MuData and use_rep={name: key}."
            )
        check_order({**blocks, "factors": factors})
        return blocks, factors
    if not hasattr(use_rep, "items"):
        raise TypeError(f"use_rep={use_rep!r} must be a dict from names of blocks to keys.")
    assert use_rep is not None
    spaces = {name: single_space(blocks, key) for name, key in use_rep.items()}
    cells = np.arange(blocks.n_obs)
    for space in spaces.values():
        cells = np.intersect1d(cells, space.cells)
    if not cells.size:
        raise ValueError(f"No cell has all of the blocks {list(spaces)}.")
    latents = {
        name: space.values[np.searchsorted(space.cells, cells)] for name, space in spaces.items()
    }
    if isinstance(factors, pd.DataFrame):
        absent = blocks.obs_names[cells].difference(factors.index)
        if len(absent):
            raise KeyError(f"factors lacks {len(absent)} of the cells, e.g. {absent[0]!r}.")
        return latents, factors.loc[blocks.obs_names[cells]]
    keys = name_list("factors", factors)
    columns = {key: coalesce_obs(blocks, key, argument="factors").iloc[cells] for key in keys}
    return latents, pd.DataFrame(columns).infer_objects()


def group_column(mdata: Any, groups: Any, cells: np.ndarray | None) -> Any:
    """Groups of paired cells: as given, or a column of the MuData that they are from."""
    if cells is None:
        return groups if groups is None else check_column(groups, "groups")
    return None if groups is None else _column(mdata, groups, "groups")[cells]


def check_order(given: Mapping[str, Any]) -> None:
    """Refuse tables and columns of the same cells by name, but in another order."""
    known = {
        name: values.index
        for name, values in given.items()
        if isinstance(values, pd.DataFrame | pd.Series) and values.index.is_unique
    }
    for name, index in list(known.items())[1:]:
        first, other = next(iter(known.items()))
        if len(index) == len(other) and not index.equals(other) and other.isin(index).all():
            row = int(np.flatnonzero(index != other)[0])
            raise ValueError(
                f"{first} and {name} are tables of the same cells in another order: row {row} is "
                f"{other[row]!r} and {index[row]!r}. Line them up: {name}.loc[{first}.index]."
            )


def _check_arrays(**given: Any) -> None:
    """Refuse arguments that name something in a MuData, where there is none."""
    for name, value in given.items():
        if value is not None:
            raise TypeError(
                f"{name}={value!r} goes with a MuData as the first argument. Of an AnnData give "
                "arrays: adata.obsm[...] and adata.obs[...]."
            )


def _needed(value: str | None, name: str) -> str:
    if not isinstance(value, str):
        example = {"use_rep": "X_clue", "source": "rna", "target": "adt"}.get(name, name)
        raise TypeError(f"A MuData needs {name}=, e.g. {name}={example!r}; got {value!r}.")
    return value


def _two_modalities(
    mdata: MuData, other: Any, use_rep: Any, source: Any, target: Any, argument: str
) -> list[str]:
    """Names of the two modalities, after checking what else was given."""
    if other is not None:
        raise TypeError(
            f"{argument}= goes with arrays. Of a MuData name the key of the embedding and two "
            "modalities: use_rep='X_clue', source='rna', target='adt'."
        )
    _needed(use_rep, "use_rep")
    names = [_needed(source, "source"), _needed(target, "target")]
    if source == target:
        raise ValueError(f"source and target are both {source!r}; give two modalities.")
    for name, modality in zip(("source", "target"), names, strict=True):
        if modality not in mdata.mod:
            raise KeyError(f"{name}={modality!r} is no modality; there are {list(mdata.mod)}.")
    return names


def _column(mdata: MuData, key: Any, argument: str, modality: str | None = None) -> np.ndarray:
    """A column of the cells of the MuData, or of the rows of a modality."""
    if not isinstance(key, str):
        raise TypeError(
            f"{argument} must be the name of a column of the MuData, got {type(key).__name__}."
        )
    names = None if modality is None else [modality]
    column = coalesce_obs(mdata, key, names, argument=argument).to_numpy(dtype=object)
    return column if modality is None else column[modality_cells(mdata, modality)]


def _of_length(values: Any, name: str, n_cells: int) -> np.ndarray:
    column = check_column(values, name)
    if len(column) != n_cells:
        raise ValueError(f"embedding has {n_cells} rows but {name} has {len(column)} values.")
    return column
