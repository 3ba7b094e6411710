"""Run a method without training once: ``python benchmarks/run_baselines.py CONFIG.json``.

Of the configuration: ``baseline``: ``"cca"`` or ``"knn"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from baselines import choose_cca, knn_impute
from harness import Recorder, read_config
from inputs import Inputs, joint
from watching import quiet

from cantata.metrics import foscttm

if TYPE_CHECKING:
    from harness import Arrays

N_COMPONENTS = 20
N_NEIGHBORS = 30


def paired_rows(inputs: Inputs) -> dict[str, np.ndarray]:
    """Rows of the training cells that have both modalities, in one order."""
    first, second = inputs.training.values()
    common = first.obs_names.intersection(second.obs_names)
    names = list(inputs.modalities)
    rows = (a.obs_names.get_indexer(common) for a in (first, second))
    return dict(zip(names, rows, strict=True))


def run_cca(inputs: Inputs, recorder: Recorder) -> None:
    """Canonical variates of the paired training cells, applied to the cells that are scored."""
    rows = paired_rows(inputs)
    fitted = {m: a.obsm[inputs.reps[m]][rows[m]] for m, a in inputs.training.items()}
    x, y = (values.astype(np.float64) for values in fitted.values())
    seed = recorder.config["seed"]
    recorder.watch.start()
    left, right, regularisation = choose_cca(x, y, foscttm, N_COMPONENTS, seed)
    project = dict(zip(inputs.modalities, (left, right), strict=True))

    def embed() -> Arrays:
        found = {m: project[m](a.obsm[inputs.reps[m]]) for m, a in inputs.scored.items()}
        return {"joint": joint(inputs, found)} if inputs.kind == "mosaic" else found

    recorder.finish(embed, metric="cosine", regularisation=regularisation)


def run_knn(inputs: Inputs, recorder: Recorder) -> None:
    """Proteins of the nearest paired training cells in RNA principal components."""
    rows = paired_rows(inputs)
    key = inputs.reps["rna"]
    training = inputs.training
    reference = training["rna"].obsm[key][rows["rna"]]
    logs = np.log1p(training["adt"].X[rows["adt"]].toarray())
    recorder.watch.start()
    means = knn_impute(reference, logs, inputs.scored["rna"].obsm[key], N_NEIGHBORS)
    recorder.finish(metric="euclidean")
    recorder.save("imputation", {"expected": np.expm1(means)})


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    inputs = Inputs.read(config["inputs"])
    {"cca": run_cca, "knn": run_knn}[config["baseline"]](inputs, Recorder(config))


if __name__ == "__main__":
    main()
