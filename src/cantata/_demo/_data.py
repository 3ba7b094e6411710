"""The mosaic of the demo: simulated or read, its columns found, some paired cells held back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cantata import _compat, _keys
from cantata._mudata.kinds import guess_kind
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import membership
from cantata._mudata.patterns import pattern_codes
from cantata.datasets import simulate_mosaic
from cantata.pp import drop_empty

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mudata import MuData

    from cantata import CLUE

SIMULATION: dict[str, Any] = {"n_cells": 1600}
"""Arguments of the simulated mosaic."""

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

HELD_SHARE, HELD_LARGEST_SHARE = 0.1, 0.25
HELD_FEWEST, HELD_MOST = 60, 1000


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


@dataclass(frozen=True)
class Prepared:
    """What is ready before training."""

    mosaic: Mosaic
    held: np.ndarray
    """Mask of the cells that training does not see."""
    train: MuData
    model: CLUE
    records: dict[str, Any]
    """What preprocessing recorded of each modality."""

    @property
    def kinds(self) -> dict[str, str]:
        """What each modality measures."""
        return {name: str(record["kind"]) for name, record in self.records.items()}


def load(path: Path | None, label_key: str | None, batch_key: str | None, *, seed: int) -> Mosaic:
    """Read or simulate the mosaic.

    Parameters
    ----------
    path
        File to read; None simulates.
    label_key, batch_key
        Columns with cell labels and batches; None looks for common names.
    seed
        Seed of the simulation.

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
        mdata, name = _read(path), path.name
        mdata = _known_kinds(mdata, notes)
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
    import mudata

    if not path.is_file():
        raise DemoError(f"--data: there is no file {path}.")
    if path.suffix == ".h5ad":
        raise DemoError(
            f"--data: {path} holds an AnnData, one table. Put the modalities into a MuData, "
            "mudata.MuData({'rna': rna, 'adt': adt}), and write it as .h5mu."
        )
    try:
        return mudata.read_h5mu(path)
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DemoError(f"--data: {path} cannot be read as an h5mu file: {reason}") from error


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
    from mudata import MuData

    with _compat.no_pull():
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


def hold_back(mosaic: Mosaic, *, seed: int) -> np.ndarray:
    """Choose paired cells that training does not see.

    A tenth of the cells with several modalities, more if that is few, in the same share from every
    pairing pattern and batch, such that some of each remain.

    Returns
    -------
    Mask over the cells.
    """
    mdata, rng = mosaic.mdata, np.random.default_rng(seed)
    member = membership(mdata)
    held = np.zeros(mdata.n_obs, dtype=bool)
    paired = member.sum(axis=1) > 1
    n_paired = int(paired.sum())
    if n_paired == 0:
        return held
    share = np.clip(HELD_FEWEST / n_paired, HELD_SHARE, HELD_LARGEST_SHARE)
    share = min(share, HELD_MOST / n_paired)
    group = pattern_codes(member).astype(str).astype(object)
    if mosaic.batch_key is not None:
        group = group + " " + coalesce_obs(mdata, mosaic.batch_key).astype(str).to_numpy()
    for name in sorted(set(group[paired])):
        cells = np.flatnonzero(group == name)
        held[rng.permutation(cells)[: int(share * cells.size)]] = True
    return held


def training_part(mdata: MuData, held: np.ndarray) -> MuData:
    """Copy of the cells that are not held back."""
    with _compat.no_pull():
        return mdata[~held].copy()
