"""Where cells and features of modalities stand in a MuData; nothing else reads its maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData


def row_table(mdata: MuData, modalities: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Row of every cell in every modality (all by default), which may order cells differently.

    Returns
    -------
    For each modality an ``int64`` array of length ``mdata.n_obs``: the row of the cell in
    ``mdata[modality]``, or -1 where the modality does not hold the cell.
    """
    names = list(mdata.mod) if modalities is None else list(modalities)
    # obsmap counts from 1, 0 is absent, and it is unsigned: cast before subtracting
    return {m: np.asarray(mdata.obsmap[m]).astype(np.int64).ravel() - 1 for m in names}


def modality_cells(mdata: MuData, modality: str) -> np.ndarray:
    """For every row of the modality, the cell of the MuData: the inverse of its row table."""
    rows = row_table(mdata, [modality])[modality]
    cells = np.flatnonzero(rows >= 0)
    return cells[np.argsort(rows[cells])]


def feature_rows(mdata: MuData, modality: str) -> np.ndarray:
    """Row in the modality of every feature of the joint axis, -1 where it is of another one."""
    return np.asarray(mdata.varmap[modality]).astype(np.int64).ravel() - 1


def modality_features(mdata: MuData, modality: str) -> np.ndarray:
    """For every feature of the modality, its position on the joint axis of features."""
    rows = feature_rows(mdata, modality)
    positions = np.flatnonzero(rows >= 0)
    return positions[np.argsort(rows[positions])]


def membership(mdata: MuData, modalities: Sequence[str] | None = None) -> np.ndarray:
    """Boolean matrix (cells x modalities): which cell is measured in which modality."""
    table = row_table(mdata, modalities)
    return np.stack([rows >= 0 for rows in table.values()], axis=1)


def connected_groups(
    member: np.ndarray,
    modalities: Sequence[str],
    *,
    min_cells: int = 1,
    apart: Sequence[tuple[str, str]] = (),
) -> list[list[str]]:
    """Groups of modalities that cells with several of them connect, directly or by a chain.

    `member` is cells x modalities. Two modalities are connected by `min_cells` cells that have
    both, unless they are among those that are to be held `apart`.
    """
    together = member.T.astype(np.int64) @ member.astype(np.int64) >= min_cells
    for pair in apart:
        i, j = (list(modalities).index(name) for name in pair)
        together[i, j] = together[j, i] = False
    n_groups, group = connected_components(csr_matrix(together), directed=False)
    return [
        [name for name, g in zip(modalities, group, strict=True) if g == i]
        for i in range(n_groups)
    ]


def check_connected(member: np.ndarray, modalities: Sequence[str], method: str) -> None:
    """Refuse modalities that no chain of paired cells connects.

    `member` as for :func:`connected_groups`; the ``ValueError`` names the `method`.
    """
    groups = connected_groups(member, modalities)
    if len(groups) < 2:
        return
    raise ValueError(
        f"No cell connects the modalities {groups}: 0 of {len(member)} cells have one of each. "
        f"{method} learns from paired cells. For unpaired data use SCMODAL, which aligns linked "
        "features; if cells are paired, give them the same obs_names in every modality."
    )
