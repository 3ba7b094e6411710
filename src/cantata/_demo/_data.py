"""The mosaic of the demo: simulated or read, and some of its paired cells held out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
from mudata import MuData

from cantata import _keys
from cantata._mudata.kinds import guess_kind
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import membership
from cantata._mudata.parts import no_pull
from cantata._mudata.patterns import pattern_codes
from cantata.datasets import simulate_mosaic
from cantata.pp import drop_empty

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIMULATION: dict[str, Any] = {"n_cells": 1600, "curvature": 0.5}
"""Arguments of the simulated mosaic, as curved as real data: ``benchmarks/curvature.py``."""

LABEL_NAMES = (
    "cell_type",
    "celltype",
    "CellType",
    "cell_types",
    "cell_type_coarse",
    "celltype.l1",
    "celltype.l2",
    "labels",
    "label",
    "annotation",
    "annotations",
    "cluster",
    "clusters",
    "leiden",
    "louvain",
)
"""Columns that are taken as labels where none is named, the first one first."""

BATCH_NAMES = ("batch", "Batch", "sample", "donor", "orig.ident")
"""Columns that are taken as batches where none is named, the first one first."""

HELD_OUT_SHARE, MAX_HELD_OUT_SHARE = 0.1, 0.25
"""Share of the paired cells that training does not see, and the largest for few cells."""

MIN_HELD_OUT, MAX_HELD_OUT = 60, 1000
"""Number of such cells, where their share allows it."""


class DemoError(Exception):
    """Something that the user can put right; its message is all that has to be said."""


@dataclass
class Mosaic:
    """Cells of the demo and what is known of them."""

    mdata: MuData
    name: str
    """What the title of the picture calls the data."""
    label_key: str | None
    batch_key: str | None
    counts: dict[str, str]
    """Layers that hold counts, for the modalities where it is not ``.X``."""
    truth: MuData | None
    """The same cells with every modality and their expected counts, where they are simulated."""
    notes: list[str]
    """What the user should know about how the data was read."""


def load(path: Path | None, label_key: str | None, batch_key: str | None, *, seed: int) -> Mosaic:
    """Read the file, or simulate a mosaic; columns that are None are looked for.

    Raises
    ------
    DemoError
        If the file cannot be read, or holds nothing that can be integrated.
    KeyError, ValueError
        If a named column does not exist, or contradicts itself.
    """
    truth, counts = None, {}
    notes: list[str] = []
    if path is None:
        mdata = simulate_mosaic(seed=seed, **SIMULATION)
        truth = simulate_mosaic(seed=seed, pairing="full", keep_expected=True, **SIMULATION)
        name = "a simulated mosaic"
    else:
        mdata, name = _known_kinds(_read(path), notes), path.name
        counts = {m: _keys.COUNTS for m in mdata.mod if _keys.COUNTS in mdata[m].layers}
        mdata = _without_empty(mdata, counts, notes)
    return Mosaic(
        mdata=mdata,
        name=name,
        label_key=_column(mdata, label_key, LABEL_NAMES, "--label-key", notes),
        batch_key=_column(mdata, batch_key, BATCH_NAMES, "--batch-key", notes),
        counts=counts,
        truth=truth,
        notes=notes,
    )


def _read(path: Path) -> MuData:
    try:
        return _read_10x(path) if path.suffix == ".h5" else mudata.read_h5mu(path)
    except (OSError, KeyError, TypeError, ValueError) as error:
        kind = "a 10x" if path.suffix == ".h5" else "an h5mu"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DemoError(f"--data: {path} cannot be read as {kind} file: {reason}") from error


def _read_10x(path: Path) -> MuData:
    """Modalities ``rna``, ``prot`` and ``atac`` of a file of Cell Ranger."""
    with warnings.catch_warnings(), no_pull():
        warnings.simplefilter("ignore")
        import muon  # where it is used, since it takes ten seconds

        mdata = muon.read_10x_h5(path, extended=False)
        for adata in mdata.mod.values():
            adata.var_names_make_unique()  # several genes share a symbol
        mdata.update()
    return mdata


def _known_kinds(mdata: MuData, notes: list[str]) -> MuData:
    """The MuData without the modalities of which nothing tells what they measure."""
    unknown = []
    for name, adata in mdata.mod.items():
        try:
            guess_kind(name, adata)
        except ValueError:
            unknown.append(name)
    if not unknown:
        return mdata
    known = [name for name in mdata.mod if name not in unknown]
    what = (
        f"Nothing tells what {', '.join(map(repr, unknown))} measures (RNA, protein or ATAC); "
        "name such a modality 'rna', 'adt' or 'atac', or fill in .var['feature_types']."
    )
    if len(known) < 2:
        raise DemoError(f"--data: {what} Known: {known}; the demo needs two modalities.")
    notes.append(f"{what} Left out.")
    with no_pull():
        rest = MuData({name: mdata[name] for name in known})
    rest.obs = mdata.obs.loc[rest.obs_names]
    return rest


def _without_empty(mdata: MuData, counts: dict[str, str], notes: list[str]) -> MuData:
    """The MuData, with cells that have no count in a modality unmeasured there."""
    empty = {}
    for name, adata in mdata.mod.items():
        matrix: Any = adata.layers[counts[name]] if name in counts else adata.X
        if matrix is None:
            raise DemoError(f"--data: modality {name!r} has neither .X nor layers['counts'].")
        n_empty = int((np.asarray(abs(matrix).sum(axis=1)).ravel() == 0).sum())
        if n_empty:
            empty[name] = n_empty
    if not empty:
        return mdata
    cells = ", ".join(f"{n:,} cells in {name}" for name, n in empty.items())
    notes.append(f"Without any count and taken as not measured there: {cells}.")
    return drop_empty(mdata, layers=counts)


def _column(
    mdata: MuData, key: str | None, names: Sequence[str], option: str, notes: list[str]
) -> str | None:
    """The named column, or the first of the common names that can be used."""
    if key is not None:
        values = coalesce_obs(mdata, key, argument=option).dropna()
        if values.nunique() < 2 and option == "--label-key":
            raise DemoError(f"{option}: column {key!r} has {values.nunique()} distinct values.")
        return key
    columns = set(mdata.obs.columns).union(*(adata.obs.columns for adata in mdata.mod.values()))
    for name in names:
        if name not in columns:
            continue
        try:
            values = coalesce_obs(mdata, name, argument=option)
        except ValueError:
            notes.append(f"Column {name!r} differs between modalities and is not used.")
            continue
        n_levels, n_known = values.nunique(), int(values.notna().sum())
        complete = n_known == mdata.n_obs or option == "--label-key"
        if complete and 2 <= n_levels <= max(2, n_known // 5):
            return name
    return None


def hold_out(mosaic: Mosaic, *, seed: int) -> np.ndarray:
    """Mask of the paired cells that training does not see.

    A tenth of the cells with several modalities, more if that is few, in the same share from every
    pairing pattern and batch, such that some of each remain.
    """
    mdata, rng = mosaic.mdata, np.random.default_rng(seed)
    member = membership(mdata)
    held_out = np.zeros(mdata.n_obs, dtype=bool)
    paired = member.sum(axis=1) > 1
    n_paired = int(paired.sum())
    if n_paired == 0:
        return held_out
    share = np.clip(MIN_HELD_OUT / n_paired, HELD_OUT_SHARE, MAX_HELD_OUT_SHARE)
    share = min(share, MAX_HELD_OUT / n_paired)
    group = pattern_codes(member).astype(str).astype(object)
    if mosaic.batch_key is not None:
        group = group + " " + coalesce_obs(mdata, mosaic.batch_key).astype(str).to_numpy()
    for name in sorted(set(group[paired])):
        cells = np.flatnonzero(group == name)
        held_out[rng.permutation(cells)[: int(share * cells.size)]] = True
    return held_out


def training_part(mdata: MuData, held_out: np.ndarray) -> MuData:
    """Copy of the cells that are not held out."""
    with no_pull():
        return mdata[~held_out].copy()
