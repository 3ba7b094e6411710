"""Fit one method to CITE-seq and score its blocks: ``python run_cite.py CONFIG.json``.

Of the configuration: ``effect``, ``method``, and for ``"apollo"`` as in ``run_simulation.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bench  # noqa: F401
import fits
import make_cells
import numpy as np
import peers
import scvi
import torch
from harness import Recorder, read_config
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from watching import quiet

if TYPE_CHECKING:
    from scipy import sparse

K, FOLDS = 15, 3


def block_scores(z: np.ndarray, y: np.ndarray, train: np.ndarray | None) -> dict[str, float]:
    """15-NN accuracy by three folds of all rows, and of held-out cells among training cells."""
    vote = KNeighborsClassifier(K)
    found = {"folds": float(cross_val_score(vote, z, y, cv=FOLDS).mean())}
    if train is not None:
        held = np.setdiff1d(np.arange(len(z)), train)
        found["held"] = float(vote.fit(z[train], y[train]).score(z[held], y[held]))
    return found


def graph_scores(graph: sparse.csr_matrix, y: np.ndarray, train: np.ndarray) -> dict[str, float]:
    """Vote of a cell's neighbours, and of the training cells among a held-out cell's."""
    classes, codes = np.unique(y, return_inverse=True)
    is_train = np.zeros(len(y), dtype=bool)
    is_train[train] = True
    right = np.zeros((2, len(y)), dtype=bool)
    for cell in range(len(y)):
        near = graph.indices[graph.indptr[cell] : graph.indptr[cell + 1]]
        near = near[near != cell]
        for k, own in enumerate((near, near[is_train[near]])):
            votes = np.bincount(codes[own], minlength=len(classes))
            right[k, cell] = votes.any() and votes.argmax() == codes[cell]
    return {"folds": float(right[0].mean()), "held": float(right[1, ~is_train].mean())}


def fit(mdata: Any, config: dict[str, Any], clock: fits.StageClock) -> tuple[Any, Any, np.ndarray]:
    """Tables of training cells or None, blocks of all cells or a graph, training cells."""
    method = config["method"]
    if method == "apollo":
        model = fits.fit_apollo(mdata, config, clock)
        train = mdata.obs_names.get_indexer(model.get_latent_table().index)
        return fits.optimised(model), fits.encoded(model), train
    inputs, parts = fits.read(mdata, config)
    if method == "canonical":
        return *fits.fit_canonical(inputs, parts[0], config), parts[0]
    if method == "autoencoder":
        return None, fits.fit_one_step(inputs, parts[0], config), parts[0]
    if method == "pca":
        return None, {"joint": peers.joint_components(inputs, parts[0])}, parts[0]
    if method == "wnn":
        return None, peers.weighted_neighbours(mdata, config["seed"]), parts[0]
    if method == "mofa":
        return None, {"joint": peers.mofa(mdata, config["seed"])}, parts[0]
    latents = peers.totalvi(mdata, parts, clock, config.get("max_epochs"))
    return None, {"joint": latents}, parts[0]


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scvi.settings.seed = config["seed"]
    mdata = make_cells.some(
        make_cells.citeseq(config["effect"], config["seed"]), config.get("cells")
    )
    recorder = Recorder(config)
    clock = fits.StageClock(config.get("max_seconds"))
    recorder.watch.start()
    tables, cells, train = fit(mdata, config, clock)
    with recorder.watch.paused():
        scores: dict[str, dict[str, Any]] = {}
        chance = {}
        for name in (make_cells.TYPE, make_cells.BATCH):
            y = mdata.obs[name].to_numpy(dtype=str)
            chance[name] = float(np.unique(y, return_counts=True)[1].max() / len(y))
            if not isinstance(cells, dict):
                scores.setdefault("encoders/joint", {})[name] = graph_scores(cells, y, train)
                continue
            for block, z in cells.items():
                scores.setdefault(f"encoders/{block}", {})[name] = block_scores(z, y, train)
            for block, z in (tables or {}).items():
                scores.setdefault(f"tables/{block}", {})[name] = block_scores(z, y[train], None)
    recorder.finish(None, scores=scores, chance=chance, shape=list(mdata.shape), **clock.record())


if __name__ == "__main__":
    main()
