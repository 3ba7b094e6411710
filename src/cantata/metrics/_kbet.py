"""k-nearest-neighbour batch-effect test: acceptance rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import chi2

from cantata.metrics._datasets import check_count, neighborhoods, stack_datasets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike


def kbet(
    embedding: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike],
    dataset: Sequence[Any] | np.ndarray | pd.Series | None = None,
    *,
    k: int | None = None,
    alpha: float = 0.05,
    n_repeats: int = 100,
    n_samples: int = 1000,
    include_self: bool = True,
    random_state: int = 0,
) -> float:
    r"""Acceptance rate of the k-nearest-neighbour batch-effect test; higher is better.

    For a cell, Pearson's :math:`\chi^2` test compares how often each dataset occurs among the
    `k` nearest cells (Euclidean) with how often it occurs among all cells. The share of cells
    whose test is *not* rejected is averaged over `n_samples` random cells; the score is the
    median over `n_repeats` draws (Büttner et al. 2019; Wang et al. 2025, scMODAL, "Evaluation
    metrics").

    Parameters
    ----------
    embedding, dataset
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
    random_state
        Seed of the draws, and of the approximate search that is used where all of more than
        50,000 cells are drawn.

    Returns
    -------
    A fraction in [0, 1]. Datasets that are mixed perfectly score about ``1 - alpha`` or a little
    more, as the test is discrete; datasets that lie apart score 0.

    Raises
    ------
    TypeError
        If an embedding is not numeric, a number is not an integer, or one array is given without
        `dataset`.
    ValueError
        If an embedding is empty or holds NaN, widths or lengths disagree, a dataset is missing,
        there are fewer than two, `k` is larger than the number of cells, or `alpha` is not
        between 0 and 1.

    Notes
    -----
    The distribution of :math:`\chi^2` has as many degrees of freedom as there are datasets, less
    one. It is an approximation where a dataset is expected less than about five times among
    `k` cells.

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
    n_repeats = check_count(n_repeats, "n_repeats")
    n_samples = check_count(n_samples, "n_samples")
    rows, codes, names = stack_datasets(embedding, dataset)
    sizes = np.bincount(codes)
    k = _default_k(sizes) if k is None else check_count(k, "k")
    available = len(rows) if include_self else len(rows) - 1
    if k > available:
        raise ValueError(
            f"k={k} neighbours were asked of {len(rows)} cells, of which a cell has {available}."
        )
    rng = np.random.default_rng(random_state)
    n_drawn = min(n_samples, len(rows))
    draws = [rng.choice(len(rows), n_drawn, replace=False) for _ in range(n_repeats)]
    cells = np.unique(np.concatenate(draws))
    found = neighborhoods(rows, cells, k, include_self=include_self, random_state=random_state)
    counts = np.column_stack([(codes[found] == code).sum(axis=1) for code in range(len(names))])
    expected = k * sizes / len(rows)
    p = chi2.sf(((counts - expected) ** 2 / expected).sum(axis=1), df=len(names) - 1)
    accepted = np.zeros(len(rows))
    accepted[cells] = p >= alpha
    return float(np.median([accepted[draw].mean() for draw in draws]))


def _default_k(sizes: np.ndarray) -> int:
    """A quarter of the mean size within [10, 70], and not more than there are other cells."""
    return int(min(70, max(10, sizes.mean() // 4), sizes.sum() - 1))
