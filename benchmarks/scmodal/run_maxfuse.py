"""Run MaxFuse once, in its own environment: ``python run_maxfuse.py CONFIG.json``.

MaxFuse 0.0.2 (Chen et al. 2024) with the steps and settings of its CITE-seq tutorial. Of the
configuration: ``pair`` (the first and second modality), ``seed``, ``proteins`` (whether they are
imputed into the cells of the first), ``genes`` (whether into those of the second), ``scores``
(whether the scores of matches are kept, by which it filters).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING

import benchpath  # noqa: F401
import numpy as np
import scanpy as sc
from harness import Recorder, read_config, versions
from maxfuse.model import Fusor
from scipy import sparse
from unpaired import Unpaired, column_scaled, dense, unit

if TYPE_CHECKING:
    from harness import Arrays

SPLIT = {"max_outward_size": 5000, "matching_ratio": 3, "metacell_size": 2}
NEIGHBORS, RESOLUTION, RESOLUTION_TOLERANCE = 15, 2, 0.1
WEIGHT = 0.7
SHARED_COMPONENTS, ACTIVE_COMPONENTS = (25, 20), 30
CCA_COMPONENTS, ITERATIONS, DIMENSIONS = 20, 3, 15
"""The tutorial uses the first 15 of the 20 canonical variates."""
FILTERED_PIVOTS, FILTERED_PROPAGATED = 0.3, 0.0


def shared_arrays(inputs: Unpaired, a: str, b: str) -> tuple[np.ndarray, np.ndarray]:
    """Linked features: totals brought to the mean of the two medians, log1p, scaled."""
    pair = inputs.linked(a, b)
    counted = [x for x, m in zip(pair, (a, b), strict=True) if inputs.counts(m)]
    target = np.mean([np.median(dense(x.X).sum(axis=1)) for x in counted])
    for x in counted:
        sc.pp.normalize_total(x, target_sum=target)
        sc.pp.log1p(x)
    scaled = [column_scaled(dense(x.X)) for x in pair]
    varies = (scaled[0].std(axis=0) > 1e-5) & (scaled[1].std(axis=0) > 1e-5)
    return scaled[0][:, varies], scaled[1][:, varies]


def active_array(inputs: Unpaired, modality: str) -> np.ndarray:
    """All features: normalised, log1p, the variable genes only of many, scaled."""
    adata = inputs.modalities[modality].copy()
    if inputs.counts(modality):
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
    if adata.n_vars > 500:
        sc.pp.highly_variable_genes(adata)
        adata = adata[:, adata.var["highly_variable"]].copy()
    scaled = column_scaled(dense(adata.X))
    return scaled[:, scaled.std(axis=0) > 1e-5]


def fit(inputs: Unpaired, a: str, b: str, seed: int) -> Fusor:
    """The tutorial's steps until the pivots are filtered."""
    shared = shared_arrays(inputs, a, b)
    active = [active_array(inputs, m) for m in (a, b)]

    def components(n: int, array: np.ndarray) -> int:
        return min(n, array.shape[1] - 1)

    fusor = Fusor(*shared, *active)
    fusor.split_into_batches(**SPLIT, seed=seed)
    svd = {f"svd_components{i}": components(ACTIVE_COMPONENTS, x) for i, x in enumerate(active, 1)}
    fusor.construct_graphs(
        n_neighbors1=NEIGHBORS,
        n_neighbors2=NEIGHBORS,
        resolution1=RESOLUTION,
        resolution2=RESOLUTION,
        resolution_tol=RESOLUTION_TOLERANCE,
        leiden_seed=seed,
        **svd,
    )
    fusor.find_initial_pivots(
        wt1=WEIGHT,
        wt2=WEIGHT,
        svd_components1=components(SHARED_COMPONENTS[0], shared[0]),
        svd_components2=components(SHARED_COMPONENTS[1], shared[1]),
    )
    fusor.refine_pivots(
        wt1=WEIGHT, wt2=WEIGHT, cca_components=CCA_COMPONENTS, n_iters=ITERATIONS, **svd
    )
    fusor.filter_bad_matches(target="pivot", filter_prop=FILTERED_PIVOTS)
    return fusor


def embed(fusor: Fusor, a: str, b: str) -> Arrays:
    """Canonical variates; rows centred and of length 1, as its correlation distance compares."""
    both = fusor.get_embedding(active_arr1=fusor.active_arr1, active_arr2=fusor.active_arr2)
    used = [np.asarray(x)[:, :DIMENSIONS] for x in both]
    rows = [unit(x - x.mean(axis=1, keepdims=True)).astype(np.float32) for x in used]
    return dict(zip((a, b), rows, strict=True))


def propagate(fusor: Fusor) -> None:
    """The tutorial's steps after the pivots are filtered."""
    svd = {
        f"svd_components{i}": min(ACTIVE_COMPONENTS, x.shape[1] - 1)
        for i, x in enumerate((fusor.active_arr1, fusor.active_arr2), 1)
    }
    fusor.propagate(wt1=WEIGHT, wt2=WEIGHT, **svd)
    fusor.filter_bad_matches(target="propagated", filter_prop=FILTERED_PROPAGATED)


def match_scores(fusor: Fusor, a: str, b: str) -> Arrays:
    """The best score of any match of each cell; NaN of cells without one."""
    propagate(fusor)
    first, second, scores = map(np.asarray, fusor.get_matching(target="full_data"))
    found = {}
    for name, cells, array in ((a, first, fusor.active_arr1), (b, second, fusor.active_arr2)):
        best = np.full(len(array), -np.inf)
        np.maximum.at(best, cells, scores)
        found[name] = np.where(np.isfinite(best), best, np.nan)
    return found


def impute(fusor: Fusor, values: np.ndarray, into_first: bool) -> np.ndarray:
    """Mean of the matched cells of the other modality, after propagation, as log counts.

    Parameters
    ----------
    fusor
        Fitted until the pivots are filtered.
    values
        Log counts of the other modality, (cells, features).
    into_first
        Whether the cells of the first modality get values, or those of the second.
    """
    propagate(fusor)
    order = (1, 2) if into_first else (2, 1)
    first, second, _ = fusor.get_matching(order=order, target="full_data")
    cells, sources = (first, second) if into_first else (second, first)
    n_cells = len(fusor.active_arr1 if into_first else fusor.active_arr2)
    weights = sparse.csr_matrix(
        (np.ones(len(cells), np.float32), (cells, sources)), shape=(n_cells, len(values))
    )
    totals = np.asarray(weights.sum(axis=1))
    found = np.asarray(weights @ values) / np.maximum(totals, 1)
    # cells that nothing was matched to
    return np.where(totals > 0, found, values.mean(axis=0))


def main() -> None:
    """Run the configuration."""
    warnings.simplefilter("ignore")
    config = read_config()
    np.random.seed(config["seed"])  # noqa: NPY002
    inputs = Unpaired.read(config["inputs"])
    a, b = config["pair"]
    recorder = Recorder(config)
    recorder.watch.start()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        fusor = fit(inputs, a, b, config["seed"])
        recorder.watch.stop()
        arrays = embed(fusor, a, b)
        recorder.watch.start()
    recorder.finish(lambda: arrays, versions=versions() | {"maxfuse": version("maxfuse")})
    if config.get("scores"):
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            recorder.save("scores", match_scores(fusor, a, b))
    if config.get("proteins") or config.get("genes"):
        name, target = ("proteins", b) if config.get("proteins") else ("genes", a)
        known = np.log1p(dense(inputs.modalities[target].X))
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            expected = np.expm1(impute(fusor, known, into_first=target == b))
        recorder.save(name, {"expected": expected})


if __name__ == "__main__":
    main()
