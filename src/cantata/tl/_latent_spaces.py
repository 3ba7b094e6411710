"""Latent spaces of a MuData by key, and the cells that they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cantata._mudata.pairing import modality_cells, row_table
from cantata._numeric.neighbors import check_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData


@dataclass(frozen=True)
class LatentSpace:
    """``values`` (cells x dimensions), and for each row the cell of the MuData.

    ``name`` is the key in ``mdata.obsm``, or ``"<modality>:<key>"``; ``where`` is for messages.
    """

    name: str
    values: np.ndarray
    cells: np.ndarray
    where: str


def _joint_keys(mdata: MuData) -> list[str]:
    return [key for key in mdata.obsm if key not in mdata.mod]  # the rest are membership masks


def _own_space(mdata: MuData, modality: str, key: str) -> LatentSpace:

    where = f"mdata[{modality!r}].obsm[{key!r}]"
    values = check_rows(mdata[modality].obsm[key], where)
    return LatentSpace(f"{modality}:{key}", values, modality_cells(mdata, modality), where)


def _joint_space(mdata: MuData, key: str, cells: np.ndarray) -> LatentSpace:
    where = f"mdata.obsm[{key!r}]"
    values: Any = mdata.obsm[key]
    values = values.iloc[cells] if isinstance(values, pd.DataFrame) else values[cells]
    return LatentSpace(key, check_rows(values, where), cells, where)


def _prefixed(mdata: MuData, use_rep: str) -> LatentSpace | None:
    """The space of a modality that is named before a colon."""
    modality, _, key = use_rep.partition(":")
    if modality in mdata.mod and key in mdata[modality].obsm:
        return _own_space(mdata, modality, key)
    return None


def _unknown(mdata: MuData, use_rep: str, modalities: Sequence[str]) -> KeyError:
    have = {name: list(mdata[name].obsm.keys()) for name in modalities}
    return KeyError(
        f"use_rep={use_rep!r} does not exist; keys of .obsm by modality: {have}, of mdata.obsm: "
        f"{_joint_keys(mdata)}. The space of another modality is called '<modality>:<key>'."
    )


def space_of(mdata: MuData, modality: str, use_rep: str) -> tuple[LatentSpace, np.ndarray]:
    """One space in the cells of a modality, in the order of the modality.

    Parameters
    ----------
    mdata
        Any MuData.
    modality
        Cells without it are left out.
    use_rep
        Key in ``mdata[modality].obsm``, else ``"<other modality>:<key>"``, else key in
        ``mdata.obsm``.

    Returns
    -------
    The space, and for each of its rows the row of the modality.

    Raises
    ------
    KeyError
        If there is no such key.
    TypeError, ValueError
        If the values are no finite numbers (cells x dimensions), or no cell is left.
    """
    cells = modality_cells(mdata, modality)
    if use_rep in mdata[modality].obsm:
        return _own_space(mdata, modality, use_rep), np.arange(len(cells))
    space = _prefixed(mdata, use_rep)
    if space is None:
        if use_rep not in _joint_keys(mdata):
            raise _unknown(mdata, use_rep, [modality])
        return _joint_space(mdata, use_rep, cells), np.arange(len(cells))
    rows = row_table(mdata, [modality])[modality][space.cells]
    held = np.flatnonzero(rows >= 0)
    if not held.size:
        raise ValueError(f"No cell of {space.where} is measured in modality {modality!r}.")
    held = held[np.argsort(rows[held])]
    taken = LatentSpace(space.name, space.values[held], space.cells[held], space.where)
    return taken, rows[held]


def find_spaces(
    mdata: MuData, use_rep: str | Sequence[str], modality: str | Sequence[str] | None
) -> list[LatentSpace]:
    """All spaces of some keys.

    Parameters
    ----------
    mdata
        Any MuData.
    use_rep
        Keys in ``.obsm``; ``"<modality>:<key>"`` is the key of one modality.
    modality
        Where keys without a modality are looked up: in these modalities; None: in all, and in
        ``mdata.obsm``.

    Raises
    ------
    KeyError
        If a modality does not exist, or a key is nowhere.
    TypeError, ValueError
        If `use_rep` is empty, or values are no finite numbers (cells x dimensions).
    """
    keys = [use_rep] if isinstance(use_rep, str) else list(use_rep)
    if not keys:
        raise ValueError("use_rep is empty; name at least one key of .obsm.")
    names = [modality] if isinstance(modality, str) else list(modality or mdata.mod)
    for name in names:
        if name not in mdata.mod:
            raise KeyError(f"modality={name!r} is no modality; there are {list(mdata.mod)}.")
    spaces: dict[str, LatentSpace] = {}
    for key in keys:
        own = [_own_space(mdata, name, key) for name in names if key in mdata[name].obsm]
        if modality is None and key in _joint_keys(mdata):
            own.insert(0, _joint_space(mdata, key, np.arange(mdata.n_obs)))
        prefixed = None if own else _prefixed(mdata, key)
        if prefixed is not None:
            own = [prefixed]
        if not own:
            raise _unknown(mdata, key, names)
        spaces |= {space.name: space for space in own}
    return list(spaces.values())
