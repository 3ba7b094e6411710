"""How well linked features agree in cells that have both modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cantata._mudata.pairing import row_table
from cantata._numeric.sampling import sample_cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from mudata import MuData

    from cantata.pp._links._matrices import Scaled

LEAST = 10
"""Correlations are not taken over fewer cells."""

MOST = 5000
"""Correlations are taken over at most so many cells."""

ENTRIES = 2**24
"""And over so few cells that cells x links are at most this."""


def link_agreement(
    mdata: MuData, links: pd.DataFrame, a: Scaled, b: Scaled
) -> tuple[pd.DataFrame, int]:
    """Correlate the two ends of each link over cells with both modalities.

    Parameters
    ----------
    mdata
        Any MuData.
    links
        One row per link.
    a, b
        Values of the linked features of both modalities.

    Returns
    -------
    Columns ``correlation``, ``shuffled`` and (if a modality is smoothed) ``smoothed``, none where
    fewer than 10 cells have both; and the number of cells.
    """
    names = a.linked.name, b.linked.name
    rows = row_table(mdata, names)
    paired = np.flatnonzero((rows[names[0]] >= 0) & (rows[names[1]] >= 0))
    found = links[[]].copy()
    if paired.size < LEAST:
        return found, 0
    most = max(min(MOST, ENTRIES // max(len(links), 1)), LEAST)
    paired = paired[sample_cells(paired.size, most)]
    left = _pick(a.linked.measured(), rows[names[0]][paired], a)
    right = _pick(b.linked.measured(), rows[names[1]][paired], b)
    found["correlation"] = _correlate(left, right)
    found["shuffled"] = _correlate(left, np.random.default_rng(0).permutation(right))
    if a.linked.smoother is not None or b.linked.smoother is not None:
        left = _pick(a.linked.blocks(), rows[names[0]][paired], a)
        right = _pick(b.linked.blocks(), rows[names[1]][paired], b)
        found["smoothed"] = _correlate(left, right)
    return found, int(paired.size)


def _pick(
    blocks: Iterator[tuple[slice, np.ndarray]], rows: np.ndarray, side: Scaled
) -> np.ndarray:
    """Values of cells (in the order of `rows`), one column per link."""
    values = np.empty((rows.size, side.order.size))
    for place, block in blocks:
        here = np.flatnonzero((rows >= place.start) & (rows < place.stop))
        values[here] = block[rows[here] - place.start][:, side.order]
    return values


def _correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of columns; NaN where one does not vary."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    size = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return np.divide((x * y).sum(axis=0), size, out=np.full(size.shape, np.nan), where=size > 0)
