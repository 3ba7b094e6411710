"""Mixing metric: how far a cell must look to meet cells of every dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from cantata.metrics._datasets import check_count, choose_cells, neighborhoods, stack_datasets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike

_BLOCK_ROWS = 4096


@overload
def mixing_metric(
    embedding: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike],
    dataset: Sequence[Any] | np.ndarray | pd.Series | None = ...,
    *,
    k: int = ...,
    n_neighbor: int = ...,
    include_self: bool = ...,
    n_samples: int | None = ...,
    random_state: int = ...,
    return_per_cell: Literal[False] = ...,
) -> float: ...
@overload
def mixing_metric(
    embedding: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike],
    dataset: Sequence[Any] | np.ndarray | pd.Series | None = ...,
    *,
    k: int = ...,
    n_neighbor: int = ...,
    include_self: bool = ...,
    n_samples: int | None = ...,
    random_state: int = ...,
    return_per_cell: Literal[True],
) -> np.ndarray: ...
def mixing_metric(
    embedding: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike],
    dataset: Sequence[Any] | np.ndarray | pd.Series | None = None,
    *,
    k: int = 300,
    n_neighbor: int = 5,
    include_self: bool = True,
    n_samples: int | None = None,
    random_state: int = 0,
    return_per_cell: bool = False,
) -> float | np.ndarray:
    """Mixing metric; lower is better.

    Among the `k` nearest cells of a cell (Euclidean), the rank of the fifth one of every dataset,
    or `k` where there are fewer than five of a dataset. The median over the datasets is the
    cell's value, the mean over the cells the score (Stuart et al. 2019; Wang et al. 2025,
    scMODAL, "Evaluation metrics").

    Parameters
    ----------
    embedding
        Embedding of the cells of all datasets in one space (cells, dimensions), with one value of
        `dataset` per row; or, without `dataset`, a sequence or a mapping of embeddings, one per
        dataset: ``mixing_metric([rna, adt])``.
    dataset
        Dataset (batch, modality) of every row of `embedding`.
    k
        Size of the neighbourhood. Where there are fewer cells it is their number.
    n_neighbor
        Which neighbour in each dataset is looked for.
    include_self
        Whether the cell itself is the first of its neighbourhood, as in Seurat's
        ``MixingMetric``, which the published numbers come from: its own dataset then needs four
        others, and every rank is one higher. With ``False`` neighbours are other cells.
    n_samples
        Average over this many cells, drawn at random; their neighbours are found among all cells,
        exactly. All cells by default. Advised above 50,000 cells.
    random_state
        Seed of the draw, and of the approximate search that is used where all of more than 50,000
        cells are scored.
    return_per_cell
        Return the value of every scored cell in place of their mean.

    Returns
    -------
    The score, between about `n_neighbor` and `k`, or with `return_per_cell` an array (cells,) in
    the order of the rows (of the drawn cells, where `n_samples` is given).

    Raises
    ------
    TypeError
        If an embedding is not numeric, a number is not an integer, or one array is given without
        `dataset`.
    ValueError
        If an embedding is empty or holds NaN, widths or lengths disagree, a dataset is missing,
        there are fewer than two, or `k` is less than `n_neighbor`.

    Notes
    -----
    With two datasets the median is the mean of two ranks. Two datasets of one size that are
    mixed perfectly score about 10 on the default settings, two that lie apart 152.5. Equally
    near cells come in the order of their rows.

    Examples
    --------
    >>> import numpy as np
    >>> from cantata.metrics import mixing_metric
    >>> rng = np.random.default_rng(0)
    >>> rna, adt = rng.normal(size=(500, 2)), rng.normal(size=(500, 2))
    >>> round(mixing_metric([rna, adt]))
    10
    >>> mixing_metric([rna, adt + 100])
    152.5
    """
    k, n_neighbor = check_count(k, "k"), check_count(n_neighbor, "n_neighbor")
    if n_neighbor > k:
        raise ValueError(f"n_neighbor={n_neighbor} cannot be found among k={k} neighbours.")
    rows, codes, names = stack_datasets(embedding, dataset)
    k = min(k, len(rows) if include_self else len(rows) - 1)
    cells = choose_cells(len(rows), n_samples, random_state)
    found = neighborhoods(rows, cells, k, include_self=include_self, random_state=random_state)
    values = np.empty(len(cells))
    for start in range(0, len(cells), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        near = codes[found[block]]
        ranks = [_rank(near == code, n_neighbor) for code in range(len(names))]
        values[block] = np.median(ranks, axis=0)
    return values if return_per_cell else float(values.mean())


def _rank(of_dataset: np.ndarray, n_neighbor: int) -> np.ndarray:
    """Rank (from 1) of the `n_neighbor`-th true entry of every row, the row's length if absent."""
    reached = np.cumsum(of_dataset, axis=1, dtype=np.int32) >= n_neighbor
    return np.where(reached[:, -1], reached.argmax(axis=1) + 1, of_dataset.shape[1])
