"""Scores of how well datasets mix and cell types stay apart in one embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pandas as pd
from scipy.stats import chi2
from sklearn import config_context
from sklearn.metrics import silhouette_samples

from cantata._mudata.checks import check_integer
from cantata._numeric.neighbors import MAX_EXACT, check_rows, nearest_neighbors
from cantata.metrics._inputs import read_cells, read_datasets

if TYPE_CHECKING:
    from mudata import MuData
    from numpy.typing import ArrayLike

BLOCK_ROWS = 4096
"""Cells whose neighbourhoods are ranked at a time."""

BLOCK_MIB = 64
"""Memory for a block of distances in silhouettes."""


@overload
def mixing_metric(
    embedding: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike] | MuData,
    dataset: str | Sequence[Any] | np.ndarray | pd.Series | None = ...,
    *,
    use_rep: str | None = ...,
    k: int = ...,
    n_neighbor: int = ...,
    include_self: bool = ...,
    n_samples: int | None = ...,
    seed: int = ...,
    return_per_cell: Literal[False] = ...,
) -> float: ...
@overload
def mixing_metric(
    embedding: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike] | MuData,
    dataset: str | Sequence[Any] | np.ndarray | pd.Series | None = ...,
    *,
    use_rep: str | None = ...,
    k: int = ...,
    n_neighbor: int = ...,
    include_self: bool = ...,
    n_samples: int | None = ...,
    seed: int = ...,
    return_per_cell: Literal[True],
) -> np.ndarray: ...
def mixing_metric(
    embedding: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike] | MuData,
    dataset: str | Sequence[Any] | np.ndarray | pd.Series | None = None,
    *,
    use_rep: str | None = None,
    k: int = 300,
    n_neighbor: int = 5,
    include_self: bool = True,
    n_samples: int | None = None,
    seed: int = 0,
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
        dataset: ``mixing_metric([rna, adt])``. Or a MuData.
    dataset
        Dataset (batch, modality) of every row of `embedding`; of a MuData the name of a column.
    use_rep
        Of a MuData: key in ``mdata.obsm``, or ``"<modality>:<key>"``. Without `dataset` every
        modality with the key in its ``.obsm`` is a dataset.
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
    seed
        Seed of the draw, and of the approximate search that is used where all of more than 100,000
        cells are scored.
    return_per_cell
        Return the value of every scored cell in place of their mean.

    Returns
    -------
    The score, between about `n_neighbor` and `k`, or with `return_per_cell` an array (cells,) in
    the order of the rows (of the drawn cells, where `n_samples` is given).

    Raises
    ------
    KeyError
        If a key or column of the MuData does not exist.
    TypeError
        If an embedding is not numeric, a number is not an integer, or one array is given without
        `dataset`.
    ValueError
        If an embedding is empty or holds NaN, widths or lengths disagree, a dataset is missing,
        there are fewer than two, or `k` is less than `n_neighbor`.

    Notes
    -----
    Two datasets of one size that are mixed perfectly score about 10 on the default settings, two
    that lie apart 152.5.

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
    k, n_neighbor = check_integer("k", k), check_integer("n_neighbor", n_neighbor)
    if n_neighbor > k:
        raise ValueError(f"n_neighbor={n_neighbor} cannot be found among k={k} neighbours.")
    rows, codes, names = _stack_datasets(*read_datasets(embedding, dataset, use_rep))
    k = min(k, len(rows) if include_self else len(rows) - 1)
    cells = choose_cells(len(rows), n_samples, seed)
    neighbors = _neighborhoods(rows, cells, k, include_self=include_self, seed=seed)
    values = np.empty(len(cells))
    for start in range(0, len(cells), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        near = codes[neighbors[block]]
        ranks = [_rank(near == code, n_neighbor) for code in range(len(names))]
        values[block] = np.median(ranks, axis=0)
    return values if return_per_cell else float(values.mean())


def _rank(of_dataset: np.ndarray, n_neighbor: int) -> np.ndarray:
    """Rank (from 1) of the `n_neighbor`-th true entry of every row, the row's length if absent."""
    reached = np.cumsum(of_dataset, axis=1, dtype=np.int32) >= n_neighbor
    return np.where(reached[:, -1], reached.argmax(axis=1) + 1, of_dataset.shape[1])


def kbet(
    embedding: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike] | MuData,
    dataset: str | Sequence[Any] | np.ndarray | pd.Series | None = None,
    *,
    use_rep: str | None = None,
    k: int | None = None,
    alpha: float = 0.05,
    n_repeats: int = 100,
    n_samples: int = 1000,
    include_self: bool = True,
    seed: int = 0,
) -> float:
    r"""Acceptance rate of the k-nearest-neighbour batch-effect test; higher is better.

    For a cell, Pearson's :math:`\chi^2` test compares how often each dataset occurs among the
    `k` nearest cells (Euclidean) with how often it occurs among all cells. The share of cells
    whose test is *not* rejected is averaged over `n_samples` random cells; the score is the
    median over `n_repeats` draws (Büttner et al. 2019; Wang et al. 2025, scMODAL, "Evaluation
    metrics").

    Parameters
    ----------
    embedding, dataset, use_rep
        As in :func:`mixing_metric`.
    k
        Size of the neighbourhood. By default a quarter of the mean dataset size, but at least 10
        and at most 70: the rule of the benchmark of Luecken et al. 2022. The scMODAL paper does
        not state its size, and the score falls with it: compare only scores of one `k`.
    alpha
        Level of the test: a cell is accepted if its p value is at least `alpha`.
    n_repeats
        Number of draws.
    n_samples
        Cells in a draw, without replacement; at most all cells, and then all draws are one.
    include_self
        Whether the cell itself is one of its `k` neighbours, as in the R package ``kBET``.
    seed
        Seed of the draws, and of the approximate search that is used where all of more than
        100,000 cells are drawn.

    Returns
    -------
    A fraction in [0, 1]. Datasets that are mixed perfectly score about ``1 - alpha`` or a little
    more, as the test is discrete; datasets that lie apart score 0.

    Raises
    ------
    KeyError, TypeError
        As :func:`mixing_metric`.
    ValueError
        As there, and if `k` is larger than the number of cells, or `alpha` is not between 0 and 1.

    Notes
    -----
    The distribution of :math:`\chi^2` is an approximation where a dataset is expected less than
    about five times among `k` cells.

    Examples
    --------
    >>> import numpy as np
    >>> from cantata.metrics import kbet
    >>> rng = np.random.default_rng(0)
    >>> rna, adt = rng.normal(size=(500, 2)), rng.normal(size=(500, 2))
    >>> kbet([rna, adt]) > 0.9
    True
    >>> kbet([rna, adt + 100])
    0.0
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}.")
    n_repeats = check_integer("n_repeats", n_repeats)
    n_samples = check_integer("n_samples", n_samples)
    rows, codes, names = _stack_datasets(*read_datasets(embedding, dataset, use_rep))
    sizes = np.bincount(codes)
    k = _default_k(sizes) if k is None else check_integer("k", k)
    available = len(rows) if include_self else len(rows) - 1
    if k > available:
        raise ValueError(
            f"k={k} neighbours were asked of {len(rows)} cells, of which a cell has {available}."
        )
    # 1. the neighbourhoods of all cells that are drawn
    rng = np.random.default_rng(seed)
    n_drawn = min(n_samples, len(rows))
    draws = [rng.choice(len(rows), n_drawn, replace=False) for _ in range(n_repeats)]
    cells = np.unique(np.concatenate(draws))
    near = codes[_neighborhoods(rows, cells, k, include_self=include_self, seed=seed)]
    # 2. Pearson's test of each cell
    counts = np.column_stack([(near == code).sum(axis=1) for code in range(len(names))])
    expected = k * sizes / len(rows)
    p = chi2.sf(((counts - expected) ** 2 / expected).sum(axis=1), df=len(names) - 1)
    # 3. the share of accepted cells in each draw
    accepted = np.zeros(len(rows))
    accepted[cells] = p >= alpha
    return float(np.median([accepted[draw].mean() for draw in draws]))


def _default_k(sizes: np.ndarray) -> int:
    """A quarter of the mean size within [10, 70], and not more than there are other cells."""
    return int(min(70, max(10, sizes.mean() // 4), sizes.sum() - 1))


def silhouette(
    embedding: ArrayLike | MuData,
    labels: str | Sequence[Any] | np.ndarray | pd.Series,
    *,
    use_rep: str | None = None,
    rescale: bool = False,
    n_samples: int | None = None,
    seed: int = 0,
) -> float:
    r"""Average silhouette width (ASW) of cell types; higher is better.

    For a cell, :math:`(b - a) / \max(a, b)`: `a` is its mean Euclidean distance to the other
    cells of its type, `b` that to the cells of the nearest other type; the mean over all cells
    (Rousseeuw 1987; Wang et al. 2025, scMODAL, "Evaluation metrics").

    Parameters
    ----------
    embedding
        Embedding of the cells (cells, dimensions), or a MuData.
    labels
        Cell type of every cell; of a MuData the name of a column. Cells whose label is missing
        take no part.
    use_rep
        Of a MuData: key in ``mdata.obsm``, or ``"<modality>:<key>"``.
    rescale
        Return :math:`(s + 1) / 2` in [0, 1], the convention of GLUE and of the benchmark of
        Luecken et al. 2022, in place of :math:`s` in [-1, 1], the one of scMODAL.
    n_samples
        Compute the score of this many cells, drawn at random, among themselves. All by default;
        time grows with the square of the number of cells.
    seed
        Seed of the draw.

    Returns
    -------
    The score. A cell that is alone in its type counts as 0 before rescaling.

    Raises
    ------
    KeyError
        If a key or column of the MuData does not exist.
    TypeError
        If `embedding` is not numeric or `n_samples` is not an integer.
    ValueError
        If `embedding` is empty or holds NaN, lengths disagree, or there are fewer than two labels
        or as many as cells.

    Examples
    --------
    >>> from cantata.metrics import silhouette
    >>> round(silhouette([[0.0], [1.0], [10.0], [11.0]], ["B", "B", "T", "T"]), 2)
    0.9
    """
    rows, (column,) = read_cells(embedding, use_rep, labels=labels)
    rows, kept = rows[_labelled(column)], column[_labelled(column)]
    cells = choose_cells(len(rows), n_samples, seed)
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
    embedding: ArrayLike | MuData,
    dataset: str | Sequence[Any] | np.ndarray | pd.Series,
    labels: str | Sequence[Any] | np.ndarray | pd.Series,
    *,
    use_rep: str | None = ...,
    n_samples: int | None = ...,
    seed: int = ...,
    return_per_label: Literal[False] = ...,
) -> float: ...
@overload
def silhouette_batch(
    embedding: ArrayLike | MuData,
    dataset: str | Sequence[Any] | np.ndarray | pd.Series,
    labels: str | Sequence[Any] | np.ndarray | pd.Series,
    *,
    use_rep: str | None = ...,
    n_samples: int | None = ...,
    seed: int = ...,
    return_per_label: Literal[True],
) -> pd.Series: ...
def silhouette_batch(
    embedding: ArrayLike | MuData,
    dataset: str | Sequence[Any] | np.ndarray | pd.Series,
    labels: str | Sequence[Any] | np.ndarray | pd.Series,
    *,
    use_rep: str | None = None,
    n_samples: int | None = None,
    seed: int = 0,
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
        Embedding of the cells (cells, dimensions), or a MuData.
    dataset
        Dataset (batch, modality) of every cell; of a MuData the name of a column.
    labels
        Cell type of every cell; of a MuData the name of a column. Cells whose label is missing
        take no part.
    use_rep
        Of a MuData: key in ``mdata.obsm``, or ``"<modality>:<key>"``.
    n_samples
        At most this many cells of a type, drawn at random. All by default.
    seed
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
    KeyError
        If a key or column of the MuData does not exist.
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
    rows, (batch, column) = read_cells(embedding, use_rep, dataset=dataset, labels=labels)
    codes, known = _encode(batch, "dataset")[0], _labelled(column)
    rows, codes, kept = rows[known], codes[known], column[known]
    types, names = pd.factorize(kept, sort=True)
    scores = pd.Series(np.nan, index=pd.Index(names, name="label"), name="silhouette_batch")
    for code in range(len(names)):
        cells = np.flatnonzero(types == code)
        cells = cells[choose_cells(len(cells), n_samples, seed)]
        n_datasets = len(np.unique(codes[cells]))
        if 2 <= n_datasets < len(cells):
            scores.iloc[code] = 1 - np.abs(_widths(rows[cells], codes[cells])).mean()
    if scores.isna().all():
        raise ValueError(
            f"None of the {len(names)} cell types has cells of two datasets, and more than one of "
            f"a dataset, e.g. {names[0]!r}: mixing within types cannot be scored."
        )
    return scores if return_per_label else float(scores.mean())


def _labelled(labels: np.ndarray) -> np.ndarray:
    """Which cells have a label."""
    known = ~pd.isna(labels)
    if not known.any():
        raise ValueError(f"None of the {len(labels)} cells has a label.")
    return known


def _widths(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Silhouette width of every cell; distances are computed in blocks."""
    with config_context(working_memory=BLOCK_MIB):
        return silhouette_samples(rows, codes)


def _stack_datasets(embedding: Any, dataset: Any) -> tuple[np.ndarray, np.ndarray, pd.Index]:
    """Embedding of all cells, the code of the dataset of each, and the names of the datasets."""
    if dataset is None:
        rows, codes, names = _joined(embedding)
    else:
        rows = embedding
        codes, names = _encode(dataset, "dataset")
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


def _encode(column: np.ndarray, name: str) -> tuple[np.ndarray, pd.Index]:
    """Integer code of every value, and the values that occur in the order of their first cell."""
    missing = np.flatnonzero(pd.isna(column))
    if missing.size:
        raise ValueError(
            f"{missing.size} of {len(column)} cells have no value in {name}, first row "
            f"{missing[0]}. Fill it in or leave these cells out."
        )
    codes, names = pd.factorize(column)
    return codes, pd.Index(names, dtype=object)


def choose_cells(n_cells: int, n_samples: int | None, seed: int) -> np.ndarray:
    """All cells, or `n_samples` of them drawn without replacement, in order."""
    if n_samples is None or check_integer("n_samples", n_samples) >= n_cells:
        return np.arange(n_cells)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(n_cells, n_samples, replace=False))


def _neighborhoods(
    embedding: np.ndarray, cells: np.ndarray, k: int, *, include_self: bool, seed: int
) -> np.ndarray:
    """The `k` nearest of all cells for every one of `cells`, nearest first, as row numbers.

    With `include_self` the cell itself is the first of them, else it is not among them. Exact,
    except where all of more than 100,000 cells are asked for: there pynndescent searches.
    """
    n_cells = len(embedding)
    n_listed = min(k if include_self else k + 1, n_cells)
    limit = MAX_EXACT if len(cells) == n_cells else max(MAX_EXACT, n_cells)
    nearest, _ = nearest_neighbors(
        embedding, embedding[cells], n_listed, max_exact=limit, seed=seed
    )
    itself = nearest == cells[:, None]
    itself[~itself.any(axis=1), -1] = True  # a cell that its copies push out takes the last place
    others = nearest[~itself].reshape(len(cells), n_listed - 1)
    return np.column_stack([cells, others]) if include_self else others
