"""Features that were not measured in some batches, though cells of these have the modality."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from cantata._mudata.values import iter_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_CHANCE = 1e-6
"""Probability of a batch without any count, at the rate of the others, below which a feature was
not measured in it."""


def panel_of_batches(
    matrix: Any, codes: np.ndarray, n_batch: int, rate: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Which features each batch measured.

    A feature was not measured in a batch where all its values are NaN there, as an outer join
    leaves them, or all are 0 and would hardly be by chance: cells have the feature as often as
    those of the batches in which it occurs, one of a million batches of that size would lack it.

    Parameters
    ----------
    matrix
        Values of a modality.
    codes
        (n,) batch of each of its cells.
    n_batch
        Number of batches.
    rate
        (p,) shares of cells with a feature that are known; by default those of the matrix.

    Returns
    -------
    ``"measured"``
        (n_batch, p) booleans, True also for batches without a cell.
    ``"found"``
        (n_batch, p) whether a feature occurs in a batch.
    ``"rate"``
        (p,) shares of cells with a feature, of the batches in which it occurs.
    ``"counted"``
        (p,) features that are measured in every batch, which library sizes are totals of; all
        where there is none.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((40, 2))
    >>> x[20:, 1] = 0
    >>> panel_of_batches(x, np.repeat([0, 1], 20), 2)["measured"]
    array([[ True,  True],
           [ True, False]])
    """
    n_cells = np.bincount(codes, minlength=n_batch)
    filled, missing = _occurrences(matrix, codes, n_batch)
    # 1. how often a feature is found where it is found at all
    if rate is None:
        rate = filled.sum(axis=0) / (1 + (n_cells[:, None] * (filled > 0)).sum(axis=0))
    # 2. batches that lack it for another reason than chance
    chance = (1 - rate) ** n_cells[:, None]
    lacking = (filled == 0) & (chance < MAX_CHANCE)
    lacking |= (missing == n_cells[:, None]) & (n_cells > 0)[:, None]
    measured = ~lacking
    measured[:, lacking.all(axis=0)] = True
    counted = measured.all(axis=0)
    return {
        "measured": measured,
        "found": filled > 0,
        "rate": rate,
        "counted": counted if counted.any() else np.ones_like(counted),
    }


def _occurrences(matrix: Any, codes: np.ndarray, n_batch: int) -> tuple[np.ndarray, np.ndarray]:
    """(n_batch, p) numbers of cells in which features are found, and in which they are NaN."""
    found, missing = (np.zeros((n_batch, matrix.shape[1])) for _ in range(2))
    for start, block in iter_blocks(matrix, len(codes)):
        of_block = codes[start : start + block.shape[0]]
        ones = np.ones(len(of_block)), (of_block, np.arange(len(of_block)))
        member = sparse.csr_matrix(ones, (n_batch, len(of_block)))
        if sparse.issparse(block):
            flags = block.tocsr(copy=True)
            is_nan = np.isnan(flags.data)
            flags.data = ((flags.data != 0) & ~is_nan).astype(float)
            found += (member @ flags).toarray()
            flags.data = is_nan.astype(float)
            missing += (member @ flags).toarray()
        else:
            values = np.asarray(block)
            is_nan = np.isnan(values)
            found += member @ ((values != 0) & ~is_nan).astype(float)
            missing += member @ is_nan.astype(float)
    return found, missing


def report_panel(
    name: str,
    panel: Mapping[str, np.ndarray],
    features: np.ndarray,
    batches: Iterable[int],
    batch_names: Sequence[str],
) -> None:
    """Warn of the features of a modality that batches did not measure."""
    for batch in batches:
        lacking = np.flatnonzero(~panel["measured"][batch])
        if len(lacking):
            warnings.warn(
                f"Modality {name!r}: {len(lacking)} of {len(features)} features were not "
                f"measured in batch {batch_names[batch]!r}, e.g. {features[lacking[0]]!r}: all "
                "values are 0 or NaN there, and not in other batches. Nothing is learned of them "
                "from this batch, and they are imputed from the others.",
                UserWarning,
                stacklevel=5,
            )


def has_only_whole_nan(matrix: Any, codes: np.ndarray, n_batch: int) -> bool:
    """Whether all values are finite but for NaN of all cells of a batch in a feature.

    A feature that is NaN in all cells is not counted as one that others measured.
    """
    n_cells = np.bincount(codes, minlength=n_batch)[:, None]
    _, missing = _occurrences(matrix, codes, n_batch)
    whole = (missing == 0) | (missing == n_cells)
    n_nonfinite = sum(
        int((~np.isfinite(block.data if sparse.issparse(block) else np.asarray(block))).sum())
        for _, block in iter_blocks(matrix, len(codes))
    )
    everywhere = (missing.sum(axis=0) == len(codes)).any()
    return bool(whole.all() and missing.sum() == n_nonfinite and not everywhere)


def without_nan(matrix: Any) -> Any:
    """A copy of a matrix in memory in which NaN is 0."""
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    if sparse.issparse(matrix):
        filled = matrix.copy()
        filled.data = np.nan_to_num(filled.data, nan=0.0)
        return filled
    return np.nan_to_num(np.asarray(matrix), nan=0.0)
