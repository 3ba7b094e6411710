"""The Open Problems task predict modality on open data: ``python benchmarks/openproblems/run.py``.

Makes the files of the task from a fifth of the cells held out, runs the component as viash does,
by exchanging its parameters, and scores what it writes beside controls and nearest cells. Writes
``benchmarks/results/<name>.md``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anndata
import mudata
import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse, stats
from sklearn.decomposition import TruncatedSVD
from sklearn.neighbors import KNeighborsRegressor

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
from data import SOURCES, TEST_SHARE, data_folder  # noqa: E402
from tables import table  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = {"rna": "GEX", "adt": "ADT", "atac": "ATAC"}
METRICS = ["rmse", "mae"] + [
    f"{what} {method}" for method in ("pearson", "spearman") for what in ("cell", "feature", "all")
]


def task_files(
    data: str, source: str, target: str, folder: Path, n_cells: int | None
) -> dict[str, AnnData]:
    """Training and test cells of both modalities, in the form of the task."""
    mdata = mudata.read_h5mu(data_folder() / SOURCES[data].file)
    order = np.random.default_rng(0).permutation(mdata.n_obs)[:n_cells]
    n_test = int(TEST_SHARE * len(order))
    parts = {"test": mdata.obs_names[order[:n_test]], "train": mdata.obs_names[order[n_test:]]}
    files = {}
    for part, cells in parts.items():
        for k, name in ((1, source), (2, target)):
            counts = sparse.csr_matrix(mdata[name][cells].X)
            adata = AnnData(counts.copy(), layers={"counts": counts})
            adata.obs_names, adata.var_names = cells, mdata[name].var_names
            sc.pp.normalize_total(adata, target_sum=1e4)
            sc.pp.log1p(adata)
            adata.layers["normalized"] = adata.X.tocsc()
            adata.obs["batch"] = data
            adata.uns = {
                "dataset_id": data,
                "modality": KINDS[name],
                "normalization_id": "log_cp10k",
            }
            del adata.X
            adata.write_h5ad(folder / f"{part}_mod{k}.h5ad")
            files[f"{part}_mod{k}"] = adata
    return files


def component(name: str, folder: Path, **arguments: object) -> np.ndarray:
    """Run a component with its parameters exchanged, and read what it predicts."""
    inputs = ("train_mod1", "train_mod2", "test_mod1")
    par = {f"input_{key}": str(folder / f"{key}.h5ad") for key in inputs}
    par |= {"output": str(folder / "prediction.h5ad"), "n_latent": 20} | arguments
    block = f"par = {par!r}\nmeta = {{'name': {name!r}}}\n"
    text = (HERE / name / "script.py").read_text()
    script = re.sub(r"(?s)## VIASH START.*## VIASH END", lambda _: block, text)
    (folder / "script.py").write_text(script)
    subprocess.run([sys.executable, str(folder / "script.py")], check=True, cwd=folder)
    found = anndata.read_h5ad(folder / "prediction.h5ad")
    assert found.uns["method_id"] == name
    return found.layers["normalized"].toarray()


def nearest_cells(files: dict[str, AnnData]) -> np.ndarray:
    """The task's nearest neighbours: 100 in 50 components of both parts."""
    train, test = (files[f"{part}_mod1"].layers["normalized"] for part in ("train", "test"))
    z = TruncatedSVD(50, random_state=0).fit_transform(sparse.vstack([train, test]))
    values = files["train_mod2"].layers["normalized"].toarray()
    neighbors = KNeighborsRegressor(min(100, len(values))).fit(z[: train.shape[0]], values)
    return neighbors.predict(z[train.shape[0] :])


def mean_of_features(files: dict[str, AnnData]) -> np.ndarray:
    """The task's control."""
    mean = files["train_mod2"].layers["normalized"].mean(axis=0).A1
    return np.tile(mean, (files["test_mod1"].n_obs, 1))


def mean_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Mean Pearson correlation of rows; 0 where one of them is constant."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return float(np.mean((x * y).sum(axis=1) / np.where(scale > 1e-12, scale, np.inf)))


def scores(predicted: np.ndarray, truth: np.ndarray) -> list[float]:
    """The metrics of the task, in the order of :data:`METRICS`."""
    error = predicted - truth
    found = [float(np.sqrt((error**2).mean())), float(np.abs(error).mean())]
    for by_rank in (False, True):
        for x, y in ((predicted, truth), (predicted.T, truth.T)):
            if by_rank:
                x, y = stats.rankdata(x, axis=1), stats.rankdata(y, axis=1)
            found.append(mean_correlation(x, y))
        x, y = ((stats.rankdata(m) if by_rank else m).reshape(1, -1) for m in (predicted, truth))
        found.append(mean_correlation(x, y))
    return found


def main() -> None:
    """Make files, run methods, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="pbmc5k", choices=["pbmc5k", "pbmc10k", "snare"])
    parser.add_argument("--source", default="rna", choices=KINDS)
    parser.add_argument("--target", default="adt", choices=KINDS)
    parser.add_argument("--cells", type=int, help="a random part of the cells")
    parser.add_argument("--epochs", type=int, help="epochs of the component")
    parser.add_argument("--name", default="openproblems")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        files = task_files(given.data, given.source, given.target, path, given.cells)
        truth = files["test_mod2"].layers["normalized"].toarray()
        methods: dict[str, Callable[[], np.ndarray]] = {
            "cantata_clue": lambda: component(
                "cantata_clue", path, max_epochs=given.epochs, seed=0
            ),
            "nearest cells (knnr_py)": lambda: nearest_cells(files),
            "mean_per_gene": lambda: mean_of_features(files),
        }
        rows = []
        for name, predict in methods.items():
            start = time.perf_counter()
            found = scores(predict(), truth)
            seconds = time.perf_counter() - start
            rows.append([name, *(f"{v:.3f}" for v in found), f"{seconds:.0f}"])
    text = [
        "# Open Problems: predict modality",
        "",
        f"`python benchmarks/openproblems/run.py`, {time.strftime('%Y-%m-%d')}, seed 0, one "
        f"process beside others. {given.data} (`{SOURCES[given.data].file}`), {given.source} to "
        f"{given.target}: {files['train_mod1'].n_obs:,} cells to train on, "
        f"{files['test_mod1'].n_obs} held-out ones; of the methods nearest cells have seen the "
        "held-out cells' source modality in their components. Scores of the task on values of "
        "log_cp10k; correlations over features of a cell, over cells of a feature, and over all.",
        "",
        *table(["", *METRICS, "seconds"], rows),
    ]
    (HERE.parent / "results" / f"{given.name}.md").write_text("\n".join(text).rstrip() + "\n")


if __name__ == "__main__":
    main()
