"""Scores of imputed proteins and genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors
from unpaired import CELL, LABEL, Unpaired, dense, log_normalised

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

NEIGHBORS = 30


def neighbor_mean(query: np.ndarray, reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of the values of the nearest reference cells, (queries, features)."""
    index = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(reference))).fit(reference)
    found = index.kneighbors(query, return_distance=False)
    return np.stack([values[rows].mean(axis=0) for rows in found])


def correlations(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson correlation of every column, NaN where one is constant."""
    a, b = found - found.mean(axis=0), truth - truth.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def score_proteins(
    folder: Path, inputs: Unpaired, truth: AnnData, embedding: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Correlation, for each protein, of imputed and hidden log counts of the held-out cells.

    Parameters
    ----------
    folder
        Where ``proteins.npz`` is, expected counts of every RNA cell, if the method imputes.
    inputs
        The RNA of all cells and the proteins of the others.
    truth
        Counts that were hidden.
    embedding
        From which neighbours are taken for a second imputation, the same for all methods.
    """
    rna, adt = inputs.modalities["rna"], inputs.modalities["adt"]
    rows = pd.Index(rna.obs[CELL]).get_indexer(pd.Index(truth.obs[CELL]))
    hidden, known = np.log1p(dense(truth.X)), np.log1p(dense(adt.X))
    found = {}
    if "adt" in embedding:
        near = neighbor_mean(embedding["rna"][rows], embedding["adt"], known)
        found["neighbours"] = correlations(near, hidden)
    own = folder / "proteins.npz"
    if own.exists():
        with np.load(own) as arrays:
            found["own"] = correlations(np.log1p(arrays["expected"][rows]), hidden)
    return {k: dict(zip(truth.var_names, map(float, v), strict=True)) for k, v in found.items()}


def type_means(values: np.ndarray, labels: np.ndarray, types: list[str]) -> np.ndarray:
    """Mean of every type less the mean of the types, (types, features)."""
    means = np.stack([values[labels == name].mean(axis=0) for name in types])
    return means - means.mean(axis=0)


def score_genes(
    folder: Path, inputs: Unpaired, embedding: dict[str, np.ndarray], target: str
) -> dict[str, dict[str, float]]:
    """Whether genes imputed into cells without RNA look like those of the cells' type.

    Means of types less the mean over types, of imputed and of measured log-normalised genes:
    their correlation over genes for each type, and the share of types that are nearest to
    themselves by it.

    Parameters
    ----------
    folder
        Where ``genes.npz`` is, expected counts of every cell of `target`, if the method imputes.
    inputs
        RNA of other cells, and labels.
    embedding
        From which neighbours are taken for a second imputation, the same for all methods.
    target
        Modality whose cells get genes.
    """
    rna = inputs.modalities["rna"]
    labels = {m: inputs.modalities[m].obs[LABEL].astype(str).to_numpy() for m in ("rna", target)}
    types = sorted(set(labels["rna"]) & set(labels[target]))
    values = log_normalised(rna.X)
    measured = type_means(values, labels["rna"], types)
    imputed = {"neighbours": neighbor_mean(embedding[target], embedding["rna"], values)}
    if (folder / "genes.npz").exists():
        with np.load(folder / "genes.npz") as arrays:
            imputed["own"] = log_normalised(arrays["expected"])
    found = {}
    for name, genes in imputed.items():
        means = type_means(genes, labels[target], types)
        both = np.corrcoef(means, measured)[: len(types), len(types) :]
        found[name] = dict(zip(types, map(float, np.diag(both)), strict=True))
        found[name]["mean"] = float(np.diag(both).mean())
        nearest = both.argmax(axis=1) == np.arange(len(types))
        found[name]["own type is nearest"] = float(nearest.mean())
    return found
