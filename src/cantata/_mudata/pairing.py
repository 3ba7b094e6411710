"""Which cell has which modality: the only place that reads ``mdata.obsmap``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData


def row_table(mdata: MuData, modalities: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Row of every cell in every modality.

    Parameters
    ----------
    mdata
        Any MuData; modalities may hold different cells in different orders.
    modalities
        Names to look up; all by default.

    Returns
    -------
    For each modality an ``int64`` array of length ``mdata.n_obs``: the row of the cell in
    ``mdata[modality]``, or -1 where the modality does not hold the cell.

    Notes
    -----
    ``mdata.obsmap`` is 1-based with 0 for absent, in an unsigned dtype, so it is cast before the
    subtraction.
    """
    names = list(mdata.mod) if modalities is None else list(modalities)
    return {name: np.asarray(mdata.obsmap[name]).astype(np.int64).ravel() - 1 for name in names}


def modality_cells(mdata: MuData, modality: str) -> np.ndarray:
    """For every row of the modality, the cell of the MuData: the inverse of its row table."""
    rows = row_table(mdata, [modality])[modality]
    cells = np.flatnonzero(rows >= 0)
    return cells[np.argsort(rows[cells])]


def membership(mdata: MuData, modalities: Sequence[str] | None = None) -> np.ndarray:
    """Boolean matrix (cells x modalities): which cell is measured in which modality."""
    table = row_table(mdata, modalities)
    return np.stack([rows >= 0 for rows in table.values()], axis=1)
