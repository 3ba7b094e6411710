"""The inputs that all methods read: one h5ad per modality, tables of links, and a description.

numpy, pandas, scipy and anndata only, so that it runs in the environment of every peer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

CELL = "cell"
"""Column with the name of the cell that a row comes from; only the scores look at it."""
LABEL, COARSE = "label", "coarse"
"""Columns of the two levels of labels; only the scores look at them."""
SCORED = "scored"
"""Column that is False for rows without a usable label: trained on, not scored."""
CLEAN = "clean"
"""Column that is False for doublets and cells of low quality; scored with and without them."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Unpaired:
    """Modalities without a known pair of cells, and the links between their features."""

    modalities: dict[str, AnnData]
    links: dict[Pair, pd.DataFrame]
    """For each pair of modalities a table with the columns ``source`` and ``target``."""
    about: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Unpaired:
        """Inputs that ``make_data.py`` wrote."""
        folder = Path(folder)
        about = json.loads((folder / "inputs.json").read_text())
        files = {m: anndata.read_h5ad(folder / f"{m}.h5ad") for m in about["modalities"]}
        links = {
            (a, b): pd.read_csv(folder / f"links_{a}_{b}.csv", keep_default_na=False)
            for a, b, _ in about["links"]
        }
        return cls(files, links, about)

    def write(self, folder: Path) -> None:
        """Store where :meth:`read` finds them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, adata in self.modalities.items():
            for column in (CELL, LABEL, COARSE):
                # text as older anndata reads it too
                adata.obs[column] = adata.obs[column].astype(str).astype(object)
            adata.write_h5ad(folder / f"{name}.h5ad")
        for (a, b), table in self.links.items():
            table.to_csv(folder / f"links_{a}_{b}.csv", index=False)
        (folder / "inputs.json").write_text(json.dumps(self.about, indent=1))

    def counts(self, modality: str) -> bool:
        """Whether the values are counts; otherwise they are transformed already."""
        return bool(self.about["modalities"][modality]["counts"])

    def table(self, a: str, b: str) -> pd.DataFrame:
        """Links from `a` to `b`, whichever way round they are stored."""
        if (a, b) in self.links:
            return self.links[a, b]
        return self.links[b, a].rename(columns={"source": "target", "target": "source"})

    def linked(self, a: str, b: str) -> tuple[AnnData, AnnData]:
        """Values of the linked features, one column per link in both; a feature may repeat."""
        table = self.table(a, b)
        return tuple(
            self._columns(m, names) for m, names in ((a, table["source"]), (b, table["target"]))
        )

    def _columns(self, modality: str, names: pd.Series) -> AnnData:
        adata = self.modalities[modality]
        where = adata.var_names.get_indexer(pd.Index(names.astype(str)))
        return AnnData(sparse.csr_matrix(adata.X)[:, where], obs=adata.obs[[]].copy())


def dense(x: Any) -> np.ndarray:
    """Values as a dense array of single precision."""
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32)


def column_scaled(x: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1; constant columns are 0."""
    spread = x.std(axis=0, keepdims=True)
    return (x - x.mean(axis=0, keepdims=True)) / np.where(spread > 1e-8, spread, np.inf)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def log_normalised(counts: Any, total: float = 1e4) -> np.ndarray:
    """log1p of counts brought to one total per cell, dense."""
    values = dense(counts)
    return np.log1p(values / np.maximum(values.sum(axis=1, keepdims=True), 1.0) * total)
