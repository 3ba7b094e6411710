"""Fit one method to CITE-seq and score its blocks: ``python run_cite.py CONFIG.json``.

Of the configuration: ``effect``, ``method``, and for ``"apollo"`` as in ``run_simulation.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fits
import make_cells
import numpy as np
import peers
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

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
    """As :func:`fits.fit`, also for other methods; in place of blocks a graph of neighbours."""
    method = config["method"]
    if method in ("apollo", "canonical", "autoencoder"):
        return fits.fit(mdata, config, clock)
    inputs, parts = fits.read(mdata, config)
    if method == "wnn":
        return None, peers.weighted_neighbours(mdata, config["seed"]), parts[0]
    if method == "pca":
        joint = peers.joint_components(inputs, parts[0])
    elif method == "mofa":
        joint = peers.mofa(mdata, config["seed"])
    else:
        split = [np.sort(part) for part in parts[:2]]
        model, _ = peers.totalvi(mdata, clock, config, external_indexing=split)
        joint = model.get_latent_representation()
    return None, {"joint": joint}, parts[0]


def main() -> None:
    """Run the configuration."""
    config, recorder, clock = fits.begin()
    mdata = make_cells.citeseq(config["effect"], config["seed"])
    mdata = make_cells.some(mdata, config.get("cells"))
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
    recorder.finish(None, scores=scores, chance=chance, **clock.record())


if __name__ == "__main__":
    main()
