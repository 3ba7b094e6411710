"""Cells of several datasets in one space, and the neighbourhood of each among all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cantata._numeric.neighbors import MAX_EXACT, check_rows, nearest_neighbors


def stack_datasets(embedding: Any, dataset: Any) -> tuple[np.ndarray, np.ndarray, pd.Index]:
    """Embedding of all cells, the code of the dataset of each, and the names of the datasets.

    Parameters
    ----------
    embedding
        One array with one value of `dataset` per row; or, where `dataset` is None, a sequence or
        a mapping of arrays, one per dataset.
    dataset
        Dataset of every row, or None.

    Raises
    ------
    TypeError
        If an embedding is not numeric, or one array is given without `dataset`.
    ValueError
        If an embedding is empty or holds NaN, widths or lengths disagree, a dataset is missing,
        or there are fewer than two.
    """
    if dataset is None:
        rows, codes, names = _joined(embedding)
    else:
        rows = check_rows(embedding, "embedding")
        codes, names = encode(dataset, len(rows), "dataset")
    if len(names) < 2:
        raise ValueError(
            f"All {len(rows)} cells are of one dataset, {names[0]!r}: mixing needs at least two."
        )
    return rows, codes, names


def _joined(embeddings: Any) -> tuple[np.ndarray, np.ndarray, pd.Index]:
    if isinstance(embeddings, Mapping):
        parts = dict(embeddings)
    elif isinstance(embeddings, Sequence) and all(np.ndim(part) == 2 for part in embeddings):
        parts = dict(enumerate(embeddings))
    else:
        raise TypeError(
            "Without dataset, embedding must be a sequence or a mapping of arrays (cells, "
            f"dimensions), one per dataset, got {type(embeddings).__name__}. Give dataset, one "
            "value per row."
        )
    if not parts:
        raise ValueError("embedding holds no dataset: mixing needs at least two.")
    arrays: list[np.ndarray] = []
    for name, part in parts.items():
        width = arrays[0].shape[1] if arrays else None
        arrays.append(check_rows(part, f"embedding[{name!r}]", width=width))
    codes = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    return np.concatenate(arrays), codes, pd.Index(list(parts), dtype=object)


def encode(values: Any, n_cells: int, name: str) -> tuple[np.ndarray, pd.Index]:
    """Integer code of every value, and the values that occur in the order of their first cell.

    Raises
    ------
    ValueError
        If there is not one value per cell, or one is missing.
    """
    column = pd.Series(values).to_numpy(dtype=object)
    if len(column) != n_cells:
        raise ValueError(f"embedding has {n_cells} rows but {name} has {len(column)} values.")
    missing = np.flatnonzero(pd.isna(column))
    if missing.size:
        raise ValueError(
            f"{missing.size} of {n_cells} cells have no value in {name}, first row {missing[0]}. "
            "Fill it in or leave these cells out."
        )
    codes, names = pd.factorize(column)
    return codes, pd.Index(names, dtype=object)


def choose_cells(n_cells: int, n_samples: int | None, random_state: int) -> np.ndarray:
    """All cells, or `n_samples` of them drawn without replacement, in order."""
    if n_samples is None or check_count(n_samples, "n_samples") >= n_cells:
        return np.arange(n_cells)
    rng = np.random.default_rng(random_state)
    return np.sort(rng.choice(n_cells, n_samples, replace=False))


def check_count(value: int, name: str) -> int:
    """`value` as a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return int(value)


def neighborhoods(
    embedding: np.ndarray,
    cells: np.ndarray,
    k: int,
    *,
    include_self: bool,
    random_state: int,
) -> np.ndarray:
    """The `k` nearest of all cells for every one of `cells`, nearest first, as row numbers.

    With `include_self` the cell itself is the first of them, else it is not among them. Exact,
    except where all of more than 50,000 cells are asked for: there pynndescent searches.
    """
    n_cells = len(embedding)
    n_listed = min(k if include_self else k + 1, n_cells)
    limit = MAX_EXACT if len(cells) == n_cells else max(MAX_EXACT, n_cells)
    found, _ = nearest_neighbors(
        embedding, embedding[cells], n_listed, max_exact=limit, random_state=random_state
    )
    own = found == cells[:, None]
    own[~own.any(axis=1), -1] = True  # a cell that its copies push out takes the last place
    others = found[~own].reshape(len(cells), n_listed - 1)
    return np.column_stack([cells, others]) if include_self else others
