"""How far modalities are related by more than a line: ``python benchmarks/curvature.py``.

Components of one modality are predicted from those of the other, on left-out cells: by ridge
regression, and by kernel regression of what that leaves. Open sets and simulated mosaics, 1,600
paired cells at most, of which 800 are fitted. Writes ``results/curvature.md``.
"""

from __future__ import annotations

import time
import warnings
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING

import mudata
import numpy as np
from data import SOURCES, data_folder
from mudata import MuData
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold
from tables import table

import cantata

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).resolve().parent / "results"
N_CELLS, N_FITTED, N_COMPONENTS = 1600, 800, 20
GRID = {"alpha": [0.1, 1.0, 10.0], "gamma": [0.003, 0.01, 0.03, 0.1]}


def sets(curvatures: list[float]) -> Iterator[tuple[str, MuData]]:
    """Simulated and real data."""
    for curvature in curvatures:
        yield (
            f"simulated, curvature {curvature:g}",
            cantata.datasets.simulate_mosaic(N_CELLS, pairing="full", curvature=curvature),
        )
    for name, source in SOURCES.items():
        yield name, mudata.read_h5mu(data_folder() / source.file)


def components(mdata: MuData) -> dict[str, np.ndarray]:
    """Leading components of the paired cells with counts."""
    parts = cantata.pp.drop_empty(mdata).mod
    both = set.intersection(*(set(adata.obs_names) for adata in parts.values()))
    chosen = np.random.default_rng(0).permutation(sorted(both))[:N_CELLS]
    mdata = MuData({m: adata[chosen].copy() for m, adata in parts.items()})
    cantata.pp.preprocess(mdata)
    records = mdata.uns["cantata"]["preprocess"]
    return {m: mdata[m].obsm[records[m]["rep"]][:, :N_COMPONENTS] for m in mdata.mod}


def explained(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Share of the variance of y that x explains in a line, and with a curve."""
    line, curve = [], []
    for train, test in KFold(3, shuffle=True, random_state=0).split(x):
        seen = x[train[:N_FITTED]] / x[train].std()
        new, wanted = x[test] / x[train].std(), y[train[:N_FITTED]]
        ridge = RidgeCV(np.logspace(-1, 4, 8)).fit(seen, wanted)
        rest = wanted - ridge.predict(seen)
        kernel = GridSearchCV(KernelRidge(kernel="rbf"), GRID, cv=3).fit(seen, rest)
        straight = ridge.predict(new)
        for found, values in ((line, straight), (curve, straight + kernel.predict(new))):
            found.append(r2_score(y[test], values, multioutput="variance_weighted"))
    return float(np.mean(line)), float(np.mean(curve))


def main() -> None:
    """Measure and write the report."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--curvatures", nargs="+", type=float, default=[0, 0.5, 1])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name, mdata in sets(given.curvatures):
        parts = components(mdata)
        (a, x), (b, y) = parts.items()
        for source, target, pair in ((a, b, (x, y)), (b, a, (y, x))):
            line, curve = explained(*pair)
            values = [f"{line:.3f}", f"{curve:.3f}", f"{100 * (curve / line - 1):.1f} %"]
            rows.append([name, f"{source} to {target}", *values])
    header = ["data", "prediction", "in a line", "with a curve", "gain"]
    text = [
        "# How curved modalities are",
        "",
        f"`python benchmarks/curvature.py`, {time.strftime('%Y-%m-%d')}. Share of the variance of "
        f"{N_COMPONENTS} components that those of the other modality explain in left-out cells.",
        "",
        *table(header, rows),
    ]
    (RESULTS / "curvature.md").write_text("\n".join(text).rstrip() + "\n")


if __name__ == "__main__":
    main()
