"""The inputs that all methods read: one h5ad per modality, and a description of the whole.

numpy and anndata only, so that it runs in the environment of every peer.
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

CELL = "cell"
"""Column with the name of the cell that a row comes from; halves of a cell share it."""
TEST = "test"
"""Column that is True for rows whose other half is hidden; these are scored."""
LABEL = "label"
"""Column of the labels."""
PATTERN = "pattern"
"""Column of the modalities that a row's cell is known to have, joined by ``+``."""
BATCH = "batch"
"""Column of the batches, where the data have several."""


@dataclass(frozen=True)
class Inputs:
    """Counts in ``.X``, the encoder's input in ``.obsm``, and what is scored."""

    modalities: dict[str, AnnData]
    about: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Inputs:
        """Inputs that ``data.py`` wrote."""
        about = json.loads((Path(folder) / "inputs.json").read_text())
        files = {m: anndata.read_h5ad(Path(folder) / f"{m}.h5ad") for m in about["modalities"]}
        return cls(files, about)

    @property
    def kind(self) -> str:
        """``"split"`` (some cells in two halves), ``"mosaic"`` or ``"timing"``."""
        return self.about["kind"]

    @property
    def reps(self) -> dict[str, str]:
        """Key in ``.obsm`` of each modality's representation."""
        return self.about["reps"]

    @property
    def batch_key(self) -> str | None:
        """Column of the batches, or None."""
        return self.about["batch_key"]

    @property
    def training(self) -> dict[str, AnnData]:
        """Rows to train on: all, or without the test rows where use is inductive."""
        if not self.about["inductive"]:
            return self.modalities
        return {m: a[~a.obs[TEST].to_numpy(dtype=bool)].copy() for m, a in self.modalities.items()}

    @property
    def scored(self) -> dict[str, AnnData]:
        """Rows that are scored: test rows, in the same order in every modality; or all."""
        if self.kind == "mosaic":
            return self.modalities
        return {m: a[a.obs[TEST].to_numpy(dtype=bool)].copy() for m, a in self.modalities.items()}

    @property
    def cells(self) -> pd.Index:
        """Names of all cells, each once, in the order of joint embeddings."""
        return pd.Index(np.concatenate([a.obs_names for a in self.modalities.values()])).unique()


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def joint(inputs: Inputs, embeddings: dict[str, np.ndarray]) -> np.ndarray:
    """Mean of the unit vectors of a cell's modalities, for methods without an embedding of cells.

    Parameters
    ----------
    inputs
        Inputs whose order of cells counts.
    embeddings
        For each modality (cells of the modality, d), in the order of its file.
    """
    cells = inputs.cells
    width = next(iter(embeddings.values())).shape[1]
    total = np.zeros((len(cells), width))
    for name, embedding in embeddings.items():
        total[cells.get_indexer(inputs.modalities[name].obs_names)] += unit(embedding)
    return unit(total).astype(np.float32)
