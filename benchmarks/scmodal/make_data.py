"""Make the inputs of these benchmarks: ``python benchmarks/scmodal/make_data.py NAME FOLDER``.

Counts, labels and links are written once, one h5ad per modality, so that every method reads the
same. Nothing is normalised here but cytometry, which is arcsinh(x / 5).
"""

from __future__ import annotations

import argparse
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anndata
import benchpath
import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from unpaired import CELL, CLEAN, COARSE, LABEL, SCORED, Pair, Unpaired

import cantata

if TYPE_CHECKING:
    from collections.abc import Callable

COFACTOR = 5
HIDDEN_SHARE = 0.2
SIMULATED_CELLS = 4000
SIMULATED_FEATURES = {"rna": 1000, "adt": 80, "atac": 4000}
PBMC_COARSE = {
    "naive CD4 T": "T",
    "mem CD4 T": "T",
    "CD8 T": "T",
    "NK": "NK",
    "B": "B",
    "CD14 Mono": "myeloid",
    "DC": "myeloid",
}
UNCLEAN = "doublets or low quality"
SPLEEN_COARSE = (
    ("doublets", UNCLEAN),
    ("Low quality", UNCLEAN),
    ("Cycling", "cycling"),
    ("NKT", "other T"),
    ("GD T", "other T"),
    ("CD8 T", "CD8 T"),
    ("CD4 T", "CD4 T"),
    ("Tregs", "CD4 T"),
    ("NK", "NK"),
    (" B", "B"),
    ("DC", "dendritic"),
    ("mono", "monocytes and macrophages"),
    ("macrophages", "monocytes and macrophages"),
)
"""The first part of a name that is found decides; names without any stay as they are."""


@dataclass(frozen=True)
class Made:
    """Modalities, links, and what the report says of them."""

    modalities: dict[str, AnnData]
    links: dict[Pair, pd.DataFrame]
    file: str
    label: str
    paired: bool
    """Whether rows of one name are the same cell, which only the scores know."""
    note: str = ""
    hidden: AnnData | None = None
    """What is imputed and compared."""


def data_folder() -> Path:
    """Folder with the real data: CANTATA_TEST_DATA, as for the tests."""
    default = benchpath.BENCHMARKS.parents[1] / "shared" / "data"
    return Path(os.environ.get("CANTATA_TEST_DATA", default))


def find(file: str) -> Path:
    """Path of a file of real data."""
    path = data_folder() / file
    if not path.exists():
        raise SystemExit(f"{path} not found; name the folder in CANTATA_TEST_DATA.")
    return path


def plain(
    adata: AnnData, labels: pd.Series, coarse: pd.Series, scored: np.ndarray | None = None
) -> AnnData:
    """Values, genes of the features and the columns of ``.obs`` that the benchmarks use."""
    result = AnnData(sparse.csr_matrix(adata.X, dtype=np.float32))
    result.obs_names, result.var_names = adata.obs_names.astype(str), adata.var_names.astype(str)
    result.obs[CELL] = np.asarray(adata.obs_names.astype(str))
    result.obs[LABEL] = np.asarray(labels.astype(str))
    result.obs[COARSE] = np.asarray(coarse.astype(str))
    result.obs[SCORED] = np.ones(adata.n_obs, dtype=bool) if scored is None else scored
    result.obs[CLEAN] = np.asarray(coarse != UNCLEAN)
    genes = adata.var["gene"] if "gene" in adata.var else adata.var_names.to_series()
    result.var["gene"] = np.asarray(genes.astype(str))
    return result


def links_by_gene(a: AnnData, b: AnnData) -> pd.DataFrame:
    """Links between features of one gene.

    Where a gene has several features on a side (isoforms of CD45), only features of the same name
    are linked if there are any.
    """
    left, right = (
        pd.DataFrame({"feature": x.var_names, "gene": x.var["gene"].to_numpy()}) for x in (a, b)
    )
    pairs = left[left["gene"] != ""].merge(right, on="gene", suffixes=("_a", "_b"))
    same = pairs["feature_a"] == pairs["feature_b"]
    crowded = pairs["gene"].duplicated(keep=False)
    named = pairs["gene"].isin(pairs.loc[same, "gene"])
    pairs = pairs[~crowded | ~named | same]
    return pd.DataFrame({"source": pairs["feature_a"], "target": pairs["feature_b"]})


def pbmc5k() -> dict[str, AnnData]:
    """RNA and proteins of the PBMC CITE-seq data."""
    mdata = mudata.read_h5mu(find("pbmc5k_citeseq.h5mu"))
    return {m: with_pbmc_labels(mdata[m]) for m in ("rna", "adt")}


def cytof() -> AnnData:
    """PBMC cytometry, arcsinh(x / 5)."""
    adata = anndata.read_h5ad(find("pbmc_cytof.h5ad"))
    adata.X = np.arcsinh(np.asarray(adata.X) / COFACTOR)
    return with_pbmc_labels(adata)


def with_pbmc_labels(adata: AnnData) -> AnnData:
    """The seven classes of the PBMC files and four coarse ones."""
    labels = adata.obs["cell_type"].astype(str)
    return plain(adata, labels, labels.map(PBMC_COARSE))


def make_pbmc5k() -> Made:
    """RNA and proteins of the same cells, treated as unpaired; every link by gene."""
    found = pbmc5k()
    links = {("rna", "adt"): links_by_gene(found["rna"], found["adt"])}
    return Made(found, links, "pbmc5k_citeseq.h5mu", "cell_type", paired=True)


def make_pbmc5k_panel() -> Made:
    """The same cells and proteins, with the links of a panel of 14 proteins only."""
    made = make_pbmc5k()
    panel = mudata.read_h5mu(find("pbmc10k_citeseq.h5mu"))["adt"].var_names
    table = made.links["rna", "adt"]
    return Made(
        made.modalities,
        {("rna", "adt"): table[table["target"].isin(panel)]},
        made.file,
        made.label,
        paired=True,
        note="links of the proteins of pbmc10k_citeseq.h5mu only; all proteins stay in the data",
    )


def make_pbmc5k_hidden() -> Made:
    """The same data; the proteins of a fifth of the cells are hidden."""
    made = make_pbmc5k()
    adt = made.modalities["adt"]
    order = np.random.default_rng(0).permutation(adt.n_obs)
    n_hidden = int(HIDDEN_SHARE * adt.n_obs)
    kept, hidden = np.sort(order[n_hidden:]), np.sort(order[:n_hidden])
    return Made(
        {"rna": made.modalities["rna"], "adt": adt[kept].copy()},
        made.links,
        made.file,
        made.label,
        paired=True,
        note=f"proteins of {n_hidden} cells are hidden",
        hidden=adt[hidden].copy(),
    )


def make_pbmc_cytof() -> Made:
    """RNA and cytometry of different people."""
    found = {"rna": pbmc5k()["rna"], "cytof": cytof()}
    links = {("rna", "cytof"): links_by_gene(found["rna"], found["cytof"])}
    file = "pbmc5k_citeseq.h5mu, pbmc_cytof.h5ad"
    return Made(found, links, file, "cell_type", paired=False, note="cytometry as arcsinh(x / 5)")


def make_pbmc_three() -> Made:
    """RNA, proteins and cytometry; that the first two share cells is known to no method."""
    found = {**pbmc5k(), "cytof": cytof()}
    pairs = (("rna", "adt"), ("rna", "cytof"), ("adt", "cytof"))
    links = {(a, b): links_by_gene(found[a], found[b]) for a, b in pairs}
    file = "pbmc5k_citeseq.h5mu, pbmc_cytof.h5ad"
    return Made(found, links, file, "cell_type", paired=True, note="cytometry as arcsinh(x / 5)")


def spleen_coarse(name: str) -> str:
    """Coarse class of one of the 35 labels, see `SPLEEN_COARSE`."""
    return next((coarse for part, coarse in SPLEEN_COARSE if part in name), name)


def make_spleen() -> Made:
    """RNA of one mouse and proteins of another, spleen and lymph node."""
    files = {"rna": "spleen_lymph_rna_d2.h5ad", "adt": "spleen_lymph_adt_d1.h5ad"}
    found = {}
    for name, file in files.items():
        adata = anndata.read_h5ad(find(file))
        labels = adata.obs["cell_type"].astype(str)
        found[name] = plain(adata, labels, labels.map(spleen_coarse))
    links = {("rna", "adt"): links_by_gene(found["rna"], found["adt"])}
    return Made(found, links, ", ".join(files.values()), "cell_type", paired=False)


def make_snare() -> Made:
    """RNA and chromatin of the same nuclei, treated as unpaired, and gene activity."""
    file = "snareseq_mouse_cortex_open.h5mu"
    mdata = mudata.read_h5mu(find(file))
    table = pd.DataFrame(mdata.uns["gene_peak_links"]).astype(str)
    table = table.rename(columns={"gene": "source", "peak": "target"})
    found = {}
    for name in ("rna", "atac"):
        obs = mdata[name].obs
        known = (obs["cell_type"] != "Mis").to_numpy()
        # the finer annotation is what the other data sets call the label
        found[name] = plain(mdata[name], obs["cell_type"], obs["cell_type_fine"], known)
    for column in ("chrom", "chromStart", "chromEnd"):
        found["atac"].var[column] = mdata["atac"].var[column].to_numpy()
    table = table[table["source"].isin(found["rna"].var_names)]
    found["activity"] = gene_activity(found["rna"], found["atac"], table)
    links = {
        ("rna", "atac"): table,
        ("rna", "activity"): pd.DataFrame(
            {"source": found["activity"].var_names, "target": found["activity"].var_names}
        ),
    }
    return Made(
        found,
        links,
        file,
        "cell_type",
        paired=True,
        note="gene activity: sum of the peaks that the file's table links to a gene; 'Mis' is "
        "trained on and not scored; the second level is cell_type_fine",
    )


def gene_activity(rna: AnnData, atac: AnnData, table: pd.DataFrame) -> AnnData:
    """Counts of the peaks of every linked gene, added up; cells x linked genes."""
    genes = rna.var_names[rna.var_names.isin(table["source"])]
    rows = atac.var_names.get_indexer(table["target"])
    columns = genes.get_indexer(table["source"])
    weights = sparse.csr_matrix(
        (np.ones(len(table), np.float32), (rows, columns)), shape=(atac.n_vars, len(genes))
    )
    result = AnnData(sparse.csr_matrix(atac.X @ weights), obs=atac.obs.copy())
    result.var_names = genes
    result.var["gene"] = np.asarray(genes)
    return result


def make_simulated_three() -> Made:
    """RNA, proteins and chromatin of the same simulated cells, which is known to no method."""
    mdata = cantata.datasets.simulate_mosaic(
        SIMULATED_CELLS, n_features=SIMULATED_FEATURES, pairing="full", n_batches=1, seed=0
    )
    labels = {m: mdata[m].obs["cell_type"].astype(str) for m in mdata.mod}
    # types come in pairs of one lineage
    found = {
        m: plain(mdata[m], of, of.map(lambda name: f"lineage {(int(name.split()[1]) + 1) // 2}"))
        for m, of in labels.items()
    }
    truth = mdata.uns["truth"]["links"]
    links = {
        ("rna", m): truth.loc[truth["target_modality"] == m, ["source", "target"]]
        for m in ("adt", "atac")
    }
    joined = links["rna", "adt"].merge(links["rna", "atac"], on="source")
    links["adt", "atac"] = joined[["target_x", "target_y"]].set_axis(["source", "target"], axis=1)
    note = "links of the simulation; proteins and peaks are linked through the gene they share"
    return Made(found, links, "simulated", "cell_type", paired=True, note=note)


DATA: dict[str, Callable[[], Made]] = {
    "pbmc5k": make_pbmc5k,
    "pbmc5k-11": make_pbmc5k_panel,
    "pbmc5k-hidden": make_pbmc5k_hidden,
    "pbmc-cytof": make_pbmc_cytof,
    "spleen": make_spleen,
    "snare": make_snare,
    "pbmc-three": make_pbmc_three,
    "simulated-three": make_simulated_three,
}


def part(made: Made, n_cells: int) -> dict[str, AnnData]:
    """A random part of the cells; where they are paired, of the same cells."""
    rng = np.random.default_rng(0)
    chosen: dict[str, AnnData] = {}
    names = None
    for name, adata in made.modalities.items():
        if names is None or not made.paired or not adata.obs_names.isin(names).any():
            names = adata.obs_names[rng.permutation(adata.n_obs)[:n_cells]]
        chosen[name] = adata[adata.obs_names.isin(names)]
    return chosen


def build(name: str, n_cells: int | None) -> tuple[Unpaired, AnnData | None]:
    """Inputs of one of the data sets, and what is hidden from them.

    Each modality is shuffled on its own and its cells are renamed, so that neither their order
    nor their names tell which belong together; the scores know by the column ``cell``.
    """
    made = DATA[name]()
    modalities = {}
    chosen = made.modalities if n_cells is None else part(made, n_cells)
    for i, (m, adata) in enumerate(chosen.items()):
        shuffled = adata[np.random.default_rng(i).permutation(adata.n_obs)].copy()
        shuffled.obs_names = [f"{m}_{j}" for j in range(shuffled.n_obs)]
        modalities[m] = shuffled
    about = {
        "name": name,
        "file": made.file,
        "label": made.label,
        "paired": made.paired,
        "note": made.note,
        "links": [[a, b, len(table)] for (a, b), table in made.links.items()],
        "modalities": {
            m: {
                "cells": a.n_obs,
                "features": a.n_vars,
                "nonzero": round(a.X.nnz / (a.n_obs * a.n_vars), 4),
                "counts": m != "cytof",
                "labels": int(a.obs.loc[a.obs[SCORED], LABEL].nunique()),
                "coarse": int(a.obs.loc[a.obs[SCORED], COARSE].nunique()),
            }
            for m, a in modalities.items()
        },
    }
    hidden = made.hidden
    if hidden is not None:
        hidden = hidden[hidden.obs[CELL].isin(modalities["rna"].obs[CELL])].copy()
    return Unpaired(modalities, made.links, about), hidden


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(DATA))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, help="a random part of the cells, to try things out")
    given = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    for message in ("Cannot join columns", "var_names are not unique"):
        warnings.filterwarnings("ignore", message=message)
    made, hidden = build(given.name, given.cells)
    made.write(given.folder)
    if hidden is not None:
        hidden.obs = hidden.obs[[CELL]].astype(object)
        hidden.write_h5ad(given.folder / "hidden.h5ad")


if __name__ == "__main__":
    main()
