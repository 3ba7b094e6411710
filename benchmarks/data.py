"""Make the inputs of the benchmarks: ``python benchmarks/data.py NAME FOLDER [options]``.

Preprocessing is done once, by :func:`cantata.pp.preprocess`, and stored as one h5ad per modality,
so that every method reads the same counts and the same principal components or LSI.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import inputs as columns
import mudata
import numpy as np
from anndata import AnnData
from mudata import MuData
from scipy import sparse

import cantata

REPOSITORY = Path(__file__).resolve().parents[1]
TEST_SHARE = 0.2
TIMING_CELLS = 4000
TIMING_GENES = 2000
TIMING_PEAKS = {"timing": 10_000, "timing4": 10_000, "wide": 50_000, "widest": 200_000}
"""By the name of the simulated data."""
TIMING_DEPTH = {"rna": 3.0, "atac": 2.5}
"""About 19 % and 3 % of the values are not zero, as in good multiome data."""


@dataclass(frozen=True)
class Source:
    """A file of real data and how the benchmarks use it."""

    file: str
    label: str
    preset: str
    kind: str = "split"
    without: tuple[str, ...] = ()
    top_peaks: int | None = None
    batch_key: str | None = None


SOURCES = {
    "pbmc5k": Source("pbmc5k_citeseq.h5mu", "cell_type", "cite"),
    "pbmc10k": Source("pbmc10k_citeseq.h5mu", "cell_type_transferred", "cite"),
    "snare": Source(
        "snareseq_mouse_cortex_open.h5mu",
        "cell_type",
        "multiome",
        without=("Mis",),
        top_peaks=10_000,
    ),
    "mosaic": Source(
        "pbmc_mosaic_midas.h5mu", "celltype", "cite", kind="mosaic", batch_key="batch"
    ),
}
SIMULATED = Source("simulated", "cell_type", "multiome", kind="timing")
NAMES = (*SOURCES, *TIMING_PEAKS)


def data_folder() -> Path:
    """Folder with the real data: CANTATA_TEST_DATA, as for the tests."""
    default = REPOSITORY.parent / "shared" / "data"
    return Path(os.environ.get("CANTATA_TEST_DATA", default))


def load(name: str, n_cells: int | None) -> dict[str, AnnData]:
    """Counts of each modality, with labels, batches and names of cells in ``.obs``."""
    source = SOURCES[name]
    path = data_folder() / source.file
    if not path.exists():
        raise SystemExit(f"{path} not found; name the folder in CANTATA_TEST_DATA.")
    mdata = mudata.read_h5mu(path)
    cells = mdata.obs_names
    if source.kind == "split":
        cells = _usable(mdata, source)
    if n_cells is not None:
        cells = cells[np.sort(np.random.default_rng(0).permutation(len(cells))[:n_cells])]
    return {m: _plain(a[cells[cells.isin(a.obs_names)]], source) for m, a in mdata.mod.items()}


def _usable(mdata: MuData, source: Source) -> Any:
    """Names of the cells that have a usable label and a count in the features that are kept."""
    first = next(iter(mdata.mod.values()))
    cells = mdata.obs_names
    cells = cells[~first.obs[source.label].reindex(cells).isin(source.without).to_numpy()]
    if source.top_peaks is not None:
        atac = mdata["atac"][cells]
        counts = atac.X[:, top_peaks(atac.X, source.top_peaks)]
        cells = cells[np.asarray(counts.sum(axis=1)).ravel() > 0]
    return cells


def top_peaks(counts: Any, n: int) -> np.ndarray:
    """Positions of the peaks with the most counts."""
    totals = np.asarray(counts.sum(axis=0)).ravel()
    return np.sort(np.argsort(-totals, kind="stable")[:n])


def _plain(adata: AnnData, source: Source) -> AnnData:
    """Counts and the columns of ``.obs`` that the benchmarks use, and nothing else."""
    result = AnnData(sparse.csr_matrix(adata.X, dtype=np.float32))
    result.obs_names, result.var_names = adata.obs_names, adata.var_names
    result.obs[columns.CELL] = np.asarray(adata.obs_names)
    result.obs[columns.LABEL] = np.asarray(adata.obs[source.label].astype(str))
    result.obs[columns.TEST] = False
    if source.batch_key is not None:
        result.obs[columns.BATCH] = np.asarray(adata.obs[source.batch_key].astype(str))
    return result


def simulate(name: str, n_cells: int | None) -> tuple[dict[str, AnnData], dict[str, str]]:
    """Fully paired cells for timing, and the kind of each modality.

    With four modalities every modality is cut into its even and its odd features, so that the
    counts and their number are the same as with two.
    """
    n_cells = TIMING_CELLS if n_cells is None else n_cells
    features = {"rna": TIMING_GENES, "atac": TIMING_PEAKS[name]}
    mdata = cantata.datasets.simulate_mosaic(
        n_cells + 100,  # some have no count in a half
        n_features=features,
        pairing="full",
        depth=TIMING_DEPTH,
        seed=0,
    )
    halves, kinds = {}, {}
    for kind in features:
        adata = _plain(mdata[kind][mdata.obs_names], SIMULATED)
        for part, start in (("a", 0), ("b", 1)):
            halves[f"{kind}_{part}"] = adata[:, start::2].copy()
            kinds[f"{kind}_{part}"] = kind
    totals = [np.asarray(adata.X.sum(axis=1)).ravel() for adata in halves.values()]
    cells = mdata.obs_names[np.min(totals, axis=0) > 0][:n_cells]
    if name == "timing4":
        return {half: adata[cells].copy() for half, adata in halves.items()}, kinds
    whole = {kind: _plain(mdata[kind][cells], SIMULATED) for kind in features}
    return whole, {kind: kind for kind in whole}


def hide_pairing(modalities: dict[str, AnnData], share: float, seed: int) -> None:
    """Cut a share of the cells into halves: rows of different names that no method can pair."""
    first = next(iter(modalities.values()))
    cells = np.random.default_rng(seed).permutation(first.n_obs)[: int(share * first.n_obs)]
    test = np.isin(np.arange(first.n_obs), cells)
    for name, adata in modalities.items():
        adata.obs[columns.TEST] = test
        names = adata.obs_names.to_numpy(dtype=object)
        adata.obs_names = [
            f"{cell}_{name}" if t else cell for cell, t in zip(names, test, strict=True)
        ]


def keep_pairs(modalities: dict[str, AnnData], n_pairs: int, seed: int) -> None:
    """Leave `n_pairs` training cells both of two modalities, and every second other cell one."""
    (first, x), (second, y) = modalities.items()
    training = np.flatnonzero(~x.obs[columns.TEST].to_numpy(dtype=bool))
    alone = np.random.default_rng(seed).permutation(training)[n_pairs:]
    modalities[first] = x[np.setdiff1d(np.arange(x.n_obs), alone[::2])].copy()
    modalities[second] = y[np.setdiff1d(np.arange(y.n_obs), alone[1::2])].copy()


def represent(
    modalities: dict[str, AnnData], kinds: dict[str, str] | None, inductive: bool
) -> dict[str, str]:
    """Add each modality's representation to ``.obsm`` and return the keys.

    For inductive use, genes are chosen and components are fitted without the test rows.
    """
    test = {m: a.obs[columns.TEST].to_numpy(dtype=bool) for m, a in modalities.items()}
    fitted = MuData({m: a[~(test[m] & inductive)].copy() for m, a in modalities.items()})
    cantata.pp.preprocess(fitted, modalities=kinds)
    about = fitted.uns["cantata"]["preprocess"]
    keys = {m: str(about[m]["rep"]) for m in modalities}
    parts = [fitted]
    if inductive:
        parts.append(MuData({m: a[test[m]].copy() for m, a in modalities.items()}))
        cantata.pp.preprocess(parts[1], reference=fitted)
    for name, adata in modalities.items():
        values = np.empty((adata.n_obs, fitted[name].obsm[keys[name]].shape[1]), np.float32)
        for part in parts:
            values[adata.obs_names.get_indexer(part[name].obs_names)] = part[name].obsm[keys[name]]
        adata.obsm[keys[name]] = values
    return keys


def whole(modalities: dict[str, AnnData]) -> MuData:
    """All cells, the halves of the test cells put together again."""
    parts = {m: adata.copy() for m, adata in modalities.items()}
    for adata in parts.values():
        adata.obs_names = adata.obs[columns.CELL].to_numpy(dtype=str)
    return MuData(parts)


def add_patterns(modalities: dict[str, AnnData]) -> None:
    """Note for every row which modalities its cell is known to have."""
    known: dict[str, list[str]] = {}
    for modality, adata in modalities.items():
        for cell in adata.obs_names:
            known.setdefault(cell, []).append(modality)
    for adata in modalities.values():
        adata.obs[columns.PATTERN] = ["+".join(known[cell]) for cell in adata.obs_names]


def build(
    name: str, *, inductive: bool, split: int, n_cells: int | None, n_pairs: int | None = None
) -> columns.Inputs:
    """Inputs of one of the benchmarks' data sets, with at most `n_pairs` paired training cells."""
    if name in SOURCES:
        source, kinds = SOURCES[name], None
        modalities = load(name, n_cells)
    else:
        source = SIMULATED
        modalities, kinds = simulate(name, n_cells)
    if source.kind == "split":
        hide_pairing(modalities, TEST_SHARE, split)
    if n_pairs is not None:
        keep_pairs(modalities, n_pairs, split)
    reps = represent(modalities, kinds, inductive)
    if source.top_peaks is not None:
        # as in the published runs, LSI reads all peaks and the decoder the commonest
        atac = modalities["atac"]
        modalities["atac"] = atac[:, top_peaks(atac.X, source.top_peaks)].copy()
    add_patterns(modalities)
    about = _describe(name, source, modalities, reps, inductive, split)
    return columns.Inputs(modalities, about)


def _describe(
    name: str,
    source: Source,
    modalities: dict[str, AnnData],
    reps: dict[str, str],
    inductive: bool,
    split: int,
) -> dict[str, Any]:
    """What the report says of the inputs, and what the methods must know."""
    batches = [
        set(a.obs[columns.BATCH]) if columns.BATCH in a.obs else set() for a in modalities.values()
    ]
    first = next(iter(modalities.values()))
    return {
        "name": name,
        "kind": source.kind,
        "file": source.file,
        "preset": source.preset,
        "inductive": inductive,
        "split": split,
        "reps": reps,
        "batch_key": columns.BATCH if source.batch_key else None,
        "shared_batches": all(b == batches[0] for b in batches),
        "label": source.label,
        "n_cells": len({cell for a in modalities.values() for cell in a.obs[columns.CELL]}),
        "n_test": int(first.obs[columns.TEST].sum()),
        "modalities": {
            m: {
                "cells": a.n_obs,
                "features": a.n_vars,
                "nonzero": round(a.X.nnz / (a.n_obs * a.n_vars), 4),
                "components": a.obsm[reps[m]].shape[1],
            }
            for m, a in modalities.items()
        },
    }


def write(made: columns.Inputs, folder: Path) -> None:
    """Store inputs where :meth:`inputs.Inputs.read` finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, adata in made.modalities.items():
        # text as older anndata reads it too
        for column in (columns.CELL, columns.LABEL, columns.PATTERN, columns.BATCH):
            if column in adata.obs:
                adata.obs[column] = adata.obs[column].astype(object)
        adata.write_h5ad(folder / f"{name}.h5ad")
    (folder / "inputs.json").write_text(json.dumps(made.about, indent=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inductive", action="store_true", help="keep test cells out of all fits")
    parser.add_argument("--split", type=int, default=0, help="seed of the split")
    parser.add_argument("--cells", type=int, help="a random part of the cells, to try things out")
    given = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    for message in ("Cannot join columns", "var_names are not unique"):
        warnings.filterwarnings("ignore", message=message)
    made = build(given.name, inductive=given.inductive, split=given.split, n_cells=given.cells)
    write(made, given.folder)


if __name__ == "__main__":
    main()
