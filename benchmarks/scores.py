"""Score embeddings and imputations: ``python benchmarks/scores.py RESULT_FOLDER...``.

One implementation for all methods, outside their processes. Adds ``scores`` to the points of each
``result.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anndata
import igraph
import inputs as columns
import numpy as np
import scanpy as sc
from inputs import Inputs, unit
from sklearn.metrics import normalized_mutual_info_score

from cantata.metrics import foscttm, label_transfer_accuracy, matching_score

K = 15
"""Neighbours of label transfer and of the graph that is clustered."""
MIN_CELLS = 20
CALIBRATION = ("means within 25 %", "median ratio", "5th percentile", "95th percentile")
"""What is said of the ratio of imputed to measured means."""


def score_halves(arrays: dict[str, np.ndarray], inputs: Inputs, metric: str) -> dict[str, Any]:
    """FOSCTTM, matching score and label transfer between the hidden halves of test cells.

    Parameters
    ----------
    arrays
        (n_test, d) embedding of the halves of each modality, in one order.
    inputs
        Where the labels are.
    metric
        ``"cosine"``: rows are brought to length 1 first; ``"euclidean"``: as they are.
    """
    cosine = metric == "cosine"
    (first, x), (second, y) = (
        (name, unit(arrays[name]) if cosine else arrays[name]) for name in inputs.modalities
    )
    labels = inputs.scored[first].obs[columns.LABEL].astype(str).to_numpy()
    return {
        "foscttm": foscttm(x, y),
        "matching": matching_score(x, y, normalize=cosine),
        f"{first} to {second}": label_transfer_accuracy(x, labels, y, labels, k=K),
        f"{second} to {first}": label_transfer_accuracy(y, labels, x, labels, k=K),
    }


def score_mosaic(arrays: dict[str, np.ndarray], inputs: Inputs, metric: str) -> dict[str, Any]:
    """Label transfer between cells of one modality each, and agreement of clusters with labels.

    Parameters
    ----------
    arrays
        ``"joint"``: (n, d) embedding of all cells, in the order of ``inputs.cells``.
    inputs, metric
        As in :func:`score_halves`.
    """
    z = unit(arrays["joint"]) if metric == "cosine" else arrays["joint"]
    tables = [a.obs[[columns.LABEL, columns.PATTERN]] for a in inputs.modalities.values()]
    values = {c: np.concatenate([t[c].astype(str) for t in tables]) for c in tables[0]}
    names = np.concatenate([t.index for t in tables])
    place = {name: i for i, name in reversed(list(enumerate(names)))}
    rows = [place[name] for name in inputs.cells]
    labels, patterns = values[columns.LABEL][rows], values[columns.PATTERN][rows]
    first, second = inputs.modalities
    a, b = patterns == first, patterns == second
    nmi = leiden_nmi(z, labels)
    return {
        f"{first} to {second}": label_transfer_accuracy(z[a], labels[a], z[b], labels[b], k=K),
        f"{second} to {first}": label_transfer_accuracy(z[b], labels[b], z[a], labels[a], k=K),
        "nmi": nmi,
    }


def leiden_nmi(z: np.ndarray, labels: np.ndarray) -> float:
    """Normalised mutual information of labels and Leiden clusters at resolution 1."""
    cells = anndata.AnnData(obsm={"z": np.asarray(z, dtype=np.float32)})
    sc.pp.neighbors(cells, n_neighbors=K, use_rep="z", random_state=0)
    sc.tl.leiden(
        cells, resolution=1.0, flavor="igraph", n_iterations=2, directed=False, random_state=0
    )
    return float(normalized_mutual_info_score(labels, cells.obs["leiden"]))


def protein_correlations(expected: np.ndarray, inputs: Inputs) -> dict[str, float]:
    """Pearson correlation, for each protein, of imputed and hidden log counts of test cells.

    Parameters
    ----------
    expected
        (n_test, proteins) expected counts.
    inputs
        Where the counts of the hidden halves are.
    """
    hidden = inputs.scored["adt"]
    truth, found = np.log1p(hidden.X.toarray()), np.log1p(expected)
    return {
        name: float(np.corrcoef(found[:, i], truth[:, i])[0, 1])
        for i, name in enumerate(hidden.var_names)
    }


def calibration(expected: np.ndarray, inputs: Inputs) -> dict[str, float]:
    """Means of imputed counts over those measured, by type and protein.

    Types of at least 20 test cells, proteins with a mean count of at least 1 in them: the share of
    ratios within a quarter of 1, their median and 5th and 95th percentiles.
    """
    hidden = inputs.scored["adt"]
    counts, labels = hidden.X.toarray(), hidden.obs[columns.LABEL].astype(str).to_numpy()
    ratios = []
    for label in np.unique(labels):
        cells = labels == label
        if cells.sum() >= MIN_CELLS:
            measured = counts[cells].mean(axis=0)
            ratios.append((expected[cells].mean(axis=0) / measured)[measured >= 1])
    found = np.concatenate(ratios)
    low, median, high = np.percentile(found, [5, 50, 95])
    within = np.mean(np.abs(found - 1) <= 0.25)
    return dict(zip(CALIBRATION, map(float, (within, median, low, high)), strict=True))


def score(folder: Path) -> None:
    """Add scores to a result."""
    path = folder / "result.json"
    result = json.loads(path.read_text())
    inputs = Inputs.read(result["config"]["inputs"])
    scorer = score_mosaic if inputs.kind == "mosaic" else score_halves
    for point in result["points"]:
        if "scores" in point:
            continue
        with np.load(folder / point["file"]) as arrays:
            point["scores"] = scorer(dict(arrays), inputs, result["metric"])
    imputation = folder / "imputation.npz"
    if imputation.exists():
        with np.load(imputation) as arrays:
            result["proteins"] = protein_correlations(arrays["expected"], inputs)
            result["calibration"] = calibration(arrays["expected"], inputs)
    result["versions"]["igraph"] = igraph.__version__
    path.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        score(Path(name))
