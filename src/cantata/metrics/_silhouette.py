"""Average silhouette widths: of cell types, and of datasets within cell types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pandas as pd
from sklearn import config_context
from sklearn.metrics import silhouette_samples

from cantata._numeric.neighbors import check_rows
from cantata.metrics._datasets import choose_cells, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

_BLOCK_MIB = 64


def silhouette(
    embedding: ArrayLike,
    labels: Sequence[Any] | np.ndarray | pd.Series,
    *,
    rescale: bool = False,
    n_samples: int | None = None,
    random_state: int = 0,
) -> float:
    r"""Average silhouette width (ASW) of cell types; higher is better.

    For a cell, :math:`(b - a) / \max(a, b)`: `a` is its mean Euclidean distance to the other
    cells of its type, `b` that to the cells of the nearest other type; the mean over all cells
    (Rousseeuw 1987; Wang et al. 2025, scMODAL, "Evaluation metrics").

    Parameters
    ----------
    embedding
        Embedding of the cells (cells, dimensions).
    labels
        Cell type of every cell. Cells whose label is missing take no part.
    rescale
        Return :math:`(s + 1) / 2` in [0, 1], the convention of GLUE and of the benchmark of
        Luecken et al. 2022, in place of :math:`s` in [-1, 1], the one of scMODAL.
    n_samples
        Compute the score of this many cells, drawn at random, among themselves. All by default;
        time grows with the square of the number of cells.
    random_state
        Seed of the draw.

    Returns
    -------
    The score. A cell that is alone in its type counts as 0 before rescaling.

    Raises
    ------
    TypeError
        If `embedding` is not numeric or `n_samples` is not an integer.
    ValueError
        If `embedding` is empty or holds NaN, lengths disagree, or there are fewer than two labels
        or as many as cells.

    Notes
    -----
    Distances are computed in blocks of 64 MiB.

    Examples
    --------
    >>> from cantata.metrics import silhouette
    >>> round(silhouette([[0.0], [1.0], [10.0], [11.0]], ["B", "B", "T", "T"]), 2)
    0.9
    """
    rows, kept = _labelled(embedding, labels)
    cells = choose_cells(len(rows), n_samples, random_state)
    rows, kept = rows[cells], kept[cells]
    codes, names = pd.factorize(kept)
    if not 2 <= len(names) < len(rows):
        raise ValueError(
            f"The {len(rows)} labelled cells have {len(names)} different labels; silhouettes "
            "need at least two, and fewer than cells."
        )
    score = float(_widths(rows, codes).mean())
    return (score + 1) / 2 if rescale else score


@overload
def silhouette_batch(
    embedding: ArrayLike,
    dataset: Sequence[Any] | np.ndarray | pd.Series,
    labels: Sequence[Any] | np.ndarray | pd.Series,
    *,
    n_samples: int | None = ...,
    random_state: int = ...,
    return_per_label: Literal[False] = ...,
) -> float: ...
@overload
def silhouette_batch(
    embedding: ArrayLike,
    dataset: Sequence[Any] | np.ndarray | pd.Series,
    labels: Sequence[Any] | np.ndarray | pd.Series,
    *,
    n_samples: int | None = ...,
    random_state: int = ...,
    return_per_label: Literal[True],
) -> pd.Series: ...
def silhouette_batch(
    embedding: ArrayLike,
    dataset: Sequence[Any] | np.ndarray | pd.Series,
    labels: Sequence[Any] | np.ndarray | pd.Series,
    *,
    n_samples: int | None = None,
    random_state: int = 0,
    return_per_label: bool = False,
) -> float | pd.Series:
    r"""Average silhouette width of datasets within cell types; higher is better mixed.

    For every cell type, the mean of :math:`1 - |s|` over its cells, where :math:`s` is the
    silhouette width of the cell with datasets as clusters among the cells of that type; the mean
    over the cell types (Luecken et al. 2022). It lies in [0, 1]; the plain width of datasets is
    ``silhouette(embedding, dataset)``.

    Parameters
    ----------
    embedding
        Embedding of the cells (cells, dimensions).
    dataset
        Dataset (batch, modality) of every cell.
    labels
        Cell type of every cell. Cells whose label is missing take no part.
    n_samples
        At most this many cells of a type, drawn at random. All by default.
    random_state
        Seed of the draws.
    return_per_label
        Return the score of every cell type in place of their mean.

    Returns
    -------
    The score, or with `return_per_label` a series over the sorted cell types. Types that only one
    dataset has, or whose every cell is of another dataset, have no score (NaN) and take no part
    in the mean.

    Raises
    ------
    TypeError
        If `embedding` is not numeric or `n_samples` is not an integer.
    ValueError
        If `embedding` is empty or holds NaN, lengths disagree, a cell has no dataset, or no type
        has cells of two datasets.

    Examples
    --------
    >>> from cantata.metrics import silhouette_batch
    >>> cells = [[0.0], [1.0], [0.1], [1.1]]
    >>> round(silhouette_batch(cells, ["rna", "rna", "adt", "adt"], ["B"] * 4), 2)
    0.55
    >>> round(silhouette_batch(cells, ["rna", "adt", "rna", "adt"], ["B"] * 4), 2)
    0.1
    """
    codes, _ = encode(dataset, len(check_rows(embedding, "embedding")), "dataset")
    rows, kept = _labelled(embedding, labels)
    codes = codes[~pd.isna(pd.Series(labels).to_numpy(dtype=object))]
    types, names = pd.factorize(kept, sort=True)
    scores = pd.Series(np.nan, index=pd.Index(names, name="label"), name="silhouette_batch")
    for place in range(len(names)):
        cells = np.flatnonzero(types == place)
        cells = cells[choose_cells(len(cells), n_samples, random_state)]
        n_datasets = len(np.unique(codes[cells]))
        if 2 <= n_datasets < len(cells):
            scores.iloc[place] = 1 - np.abs(_widths(rows[cells], codes[cells])).mean()
    if scores.isna().all():
        raise ValueError(
            f"None of the {len(names)} cell types has cells of two datasets, and more than one of "
            f"a dataset, e.g. {names[0]!r}: mixing within types cannot be scored."
        )
    return scores if return_per_label else float(scores.mean())


def _labelled(embedding: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the cells that have a label, and their labels."""
    rows = check_rows(embedding, "embedding")
    column = pd.Series(labels).to_numpy(dtype=object)
    if len(column) != len(rows):
        raise ValueError(f"embedding has {len(rows)} rows but labels has {len(column)} values.")
    known = ~pd.isna(column)
    if not known.any():
        raise ValueError(f"None of the {len(rows)} cells has a label.")
    return rows[known], column[known]


def _widths(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    with config_context(working_memory=_BLOCK_MIB):
        return silhouette_samples(rows, codes)
