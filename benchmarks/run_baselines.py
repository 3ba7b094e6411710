"""Run a method without training once: ``python benchmarks/run_baselines.py CONFIG.json``.

Of the configuration: ``baseline``: ``"cca"``, ``"knn"``, ``"knn-cca"`` or ``"types"``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from harness import Recorder, read_config
from inputs import LABEL, Inputs
from mudata import MuData
from sklearn.neighbors import KNeighborsRegressor
from watching import quiet

import cantata

N_COMPONENTS = 20
N_NEIGHBORS, N_NEAREST = 30, 10
"""Neighbours in components, and in canonical variates."""


def knn_impute(reference: np.ndarray, values: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """(m, p) means of the values of the `k` nearest reference cells of each of m cells."""
    return KNeighborsRegressor(k).fit(reference, values).predict(query)


def paired_rows(inputs: Inputs) -> dict[str, np.ndarray]:
    """Rows of the training cells that have both modalities, in one order."""
    first, second = inputs.training.values()
    common = first.obs_names.intersection(second.obs_names)
    names = list(inputs.modalities)
    rows = (a.obs_names.get_indexer(common) for a in (first, second))
    return dict(zip(names, rows, strict=True))


def with_variates(inputs: Inputs) -> MuData:
    """All cells, with canonical variates that the paired training cells fit."""
    data, seen = MuData(inputs.modalities), pd.Index([])
    for adata in inputs.training.values():
        seen = seen.union(adata.obs_names)
    cantata.tl.canonical_variates(
        data,
        use_rep=inputs.reps,
        n_variates=N_COMPONENTS,
        batch_key=inputs.batch_key,
        cells=data.obs_names.isin(seen),
    )
    return data


def variates(inputs: Inputs) -> dict[str, np.ndarray]:
    """Canonical variates of the cells that are scored."""
    data = with_variates(inputs)
    if inputs.kind == "mosaic":
        return {"joint": data.obsm["X_cca"][data.obs_names.get_indexer(inputs.cells)]}
    return {m: data[m][a.obs_names].obsm["X_cca"] for m, a in inputs.scored.items()}


def run_cca(inputs: Inputs, recorder: Recorder) -> None:
    """Canonical variates of the cells that are scored."""
    recorder.watch.start()
    found = variates(inputs)
    recorder.finish(lambda: found, metric="cosine")


def nearest_means(inputs: Inputs, baseline: str) -> np.ndarray:
    """Proteins of the nearest paired training cells, in components of RNA or canonical variates.

    Logarithms are averaged in the former (``"knn"``), as before, counts in the latter.
    """
    rows, training = paired_rows(inputs), inputs.training
    counts = training["adt"].X[rows["adt"]].toarray()
    if baseline == "knn":
        key = inputs.reps["rna"]
        reference, query = training["rna"].obsm[key][rows["rna"]], inputs.scored["rna"].obsm[key]
        return np.expm1(knn_impute(reference, np.log1p(counts), query, N_NEIGHBORS))
    rna = with_variates(inputs)["rna"]
    own, query = (rna[cells["rna"].obs_names].obsm["X_cca"] for cells in (training, inputs.scored))
    return knn_impute(own[rows["rna"]], counts, query, N_NEAREST)


def run_knn(inputs: Inputs, recorder: Recorder) -> None:
    """Proteins of the nearest paired training cells."""
    recorder.watch.start()
    means = nearest_means(inputs, recorder.config["baseline"])
    recorder.finish(metric="euclidean")
    recorder.save("imputation", {"expected": means})


def run_types(inputs: Inputs, recorder: Recorder) -> None:
    """Mean counts of the training cells of each cell's own type: what knowing types would give."""
    adt = inputs.training["adt"]
    recorder.watch.start()
    labels = adt.obs[LABEL].astype(str).to_numpy()
    means = {t: np.asarray(adt.X[labels == t].mean(axis=0)).ravel() for t in np.unique(labels)}
    of_cells = inputs.scored["rna"].obs[LABEL].astype(str)
    everywhere = np.asarray(adt.X.mean(axis=0)).ravel()
    expected = np.stack([means.get(t, everywhere) for t in of_cells])
    recorder.finish(metric="euclidean")
    recorder.save("imputation", {"expected": expected})


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    inputs = Inputs.read(config["inputs"])
    runs = {"cca": run_cca, "types": run_types}
    runs.get(config["baseline"], run_knn)(inputs, Recorder(config))


if __name__ == "__main__":
    main()
