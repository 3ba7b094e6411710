"""Embeddings of a MuData by key, and the cells that they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cantata._mudata.checks import check_mudata, name_list
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


def modality_rep(mdata: MuData, modality: str, use_rep: str) -> np.ndarray:
    """``mdata[modality].obsm[use_rep]``, one row per cell of the modality in its order."""
    check_mudata(mdata)
    if modality not in mdata.mod:
        raise KeyError(f"There is no modality {modality!r}; there are {list(mdata.mod)}.")
    obsm = mdata[modality].obsm
    name = f"mdata[{modality!r}].obsm[{use_rep!r}]"
    if use_rep not in obsm:
        raise KeyError(f"{name} does not exist; keys there: {list(obsm.keys())}.")
    return check_rows(obsm[use_rep], name)


def joint_rep(mdata: MuData, use_rep: str) -> np.ndarray:
    """``mdata.obsm[use_rep]``, one row per cell."""
    check_mudata(mdata)
    name = f"mdata.obsm[{use_rep!r}]"
    if use_rep not in _joint_keys(mdata):
        raise KeyError(
            f"{name} does not exist; keys there: {_joint_keys(mdata)}. To use the embeddings of "
            "single modalities give source and target."
        )
    return check_rows(mdata.obsm[use_rep], name)


def find_space(mdata: MuData, modality: str, use_rep: str) -> tuple[LatentSpace, np.ndarray]:
    """One space in the cells of a modality, and for each of its rows the row of the modality.

    `use_rep` is a key in ``mdata[modality].obsm``, else ``"<other modality>:<key>"``, else a key
    in ``mdata.obsm``. Rows are in the order of the modality; cells without it are left out.
    """
    cells = modality_cells(mdata, modality)
    if use_rep in mdata[modality].obsm:
        return _modality_space(mdata, modality, use_rep), np.arange(len(cells))
    space = _prefixed_space(mdata, use_rep)
    if space is None:
        if use_rep not in _joint_keys(mdata):
            raise _unknown_key(mdata, use_rep, [modality])
        return _joint_space(mdata, use_rep, cells), np.arange(len(cells))
    rows = row_table(mdata, [modality])[modality][space.cells]
    measured = np.flatnonzero(rows >= 0)
    if not measured.size:
        raise ValueError(f"No cell of {space.where} is measured in modality {modality!r}.")
    measured = measured[np.argsort(rows[measured])]
    part = LatentSpace(space.name, space.values[measured], space.cells[measured], space.where)
    return part, rows[measured]


def single_space(mdata: MuData, use_rep: str) -> LatentSpace:
    """The space of one key: of ``mdata.obsm``, or ``"<modality>:<key>"`` for that of a modality.

    Rows are in the order of ``mdata.obs_names``; cells without the modality are left out.
    """
    check_mudata(mdata)
    if use_rep in _joint_keys(mdata):
        return _joint_space(mdata, use_rep, np.arange(mdata.n_obs))
    space = _prefixed_space(mdata, use_rep)
    if space is None:
        raise _unknown_key(mdata, use_rep, list(mdata.mod))
    order = np.argsort(space.cells)
    return replace(space, values=space.values[order], cells=space.cells[order])


def find_spaces(
    mdata: MuData, use_rep: str | Sequence[str], modality: str | Sequence[str] | None
) -> list[LatentSpace]:
    """All spaces of some keys of ``.obsm``; ``"<modality>:<key>"`` is the key of one modality.

    Keys without a modality are looked up in the given modalities; None: in all, and in
    ``mdata.obsm``. A key that is nowhere is an error.
    """
    check_mudata(mdata)
    keys = name_list("use_rep", use_rep)
    names = list(mdata.mod)
    if modality is not None:
        names = name_list("modality", modality)
    for name in names:
        if name not in mdata.mod:
            raise KeyError(f"modality={name!r} is no modality; there are {list(mdata.mod)}.")
    spaces: dict[str, LatentSpace] = {}
    for key in keys:
        matches = [_modality_space(mdata, name, key) for name in names if key in mdata[name].obsm]
        if modality is None and key in _joint_keys(mdata):
            matches.insert(0, _joint_space(mdata, key, np.arange(mdata.n_obs)))
        prefixed = None if matches else _prefixed_space(mdata, key)
        if prefixed is not None:
            matches = [prefixed]
        if not matches:
            raise _unknown_key(mdata, key, names)
        spaces |= {space.name: space for space in matches}
    return list(spaces.values())


def _joint_keys(mdata: MuData) -> list[str]:
    return [key for key in mdata.obsm if key not in mdata.mod]  # the rest are membership masks


def _modality_space(mdata: MuData, modality: str, key: str) -> LatentSpace:
    values = modality_rep(mdata, modality, key)
    where = f"mdata[{modality!r}].obsm[{key!r}]"
    return LatentSpace(f"{modality}:{key}", values, modality_cells(mdata, modality), where)


def _joint_space(mdata: MuData, key: str, cells: np.ndarray) -> LatentSpace:
    where = f"mdata.obsm[{key!r}]"
    values: Any = mdata.obsm[key]
    values = values.iloc[cells] if isinstance(values, pd.DataFrame) else values[cells]
    return LatentSpace(key, check_rows(values, where), cells, where)


def _prefixed_space(mdata: MuData, use_rep: str) -> LatentSpace | None:
    """The space of a modality that is named before a colon."""
    modality, _, key = use_rep.partition(":")
    if modality in mdata.mod and key in mdata[modality].obsm:
        return _modality_space(mdata, modality, key)
    return None


def _unknown_key(mdata: MuData, use_rep: str, modalities: Sequence[str]) -> KeyError:
    keys = {name: list(mdata[name].obsm.keys()) for name in modalities}
    return KeyError(
        f"use_rep={use_rep!r} does not exist; keys of .obsm by modality: {keys}, of mdata.obsm: "
        f"{_joint_keys(mdata)}. The space of another modality is called '<modality>:<key>'."
    )
