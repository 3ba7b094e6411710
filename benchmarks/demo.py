"""The demo's table over seeds: ``python benchmarks/demo.py``.

Runs ``python -m cantata demo`` with each seed, on its own data and on the same mosaic without
curvature, whose counts are log-linear in common factors as canonical correlation assumes. Writes
``results/demo.md``: means over seeds, and by how much CLUE is better with its standard error.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import mudata
import pandas as pd
from tables import table, with_error

import cantata

RESULTS = Path(__file__).resolve().parent / "results"
N_CELLS = 1600


def scores(seed: int, *, is_linear: bool) -> pd.DataFrame:
    """Table of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cantata", "demo", "--seed", str(seed), "--out", folder]
        if is_linear:
            path = Path(folder) / "linear.h5mu"
            cantata.datasets.simulate_mosaic(N_CELLS, seed=seed).write(path)
            command += ["--data", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        found = mudata.read_h5mu(Path(folder) / "demo.h5mu").uns["cantata"]["demo"]["scores"]
    return found.assign(seed=seed)


def row(name: str, runs: pd.DataFrame) -> list[str]:
    """Means over seeds of a score."""
    sign = 1 if runs["higher_is_better"].iloc[0] else -1
    gains = (sign * (runs["model"] - runs["simple"])).tolist()
    return [
        name,
        f"{runs['model'].mean():.3f}",
        f"{runs['simple'].mean():.3f} {runs['simple_method'].iloc[0]}",
        with_error(gains, sign="+"),
    ]


def main() -> None:
    """Run all seeds and write the report."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    text = [
        "# The demo over seeds",
        "",
        f"`python benchmarks/demo.py`, {time.strftime('%Y-%m-%d')}, seeds {given.seeds}. Means, "
        "and by how much CLUE is better (+) with its standard error over seeds.",
        "",
    ]
    header = ["score", "CLUE", "simple method", "CLUE better by"]
    for title, is_linear in (("As curved as real data", False), ("Log-linear", True)):
        runs = pd.concat([scores(seed, is_linear=is_linear) for seed in given.seeds])
        rows = [row(name, part) for name, part in runs.groupby("score", sort=False)]
        text += [f"## {title}", "", *table(header, rows)]
        (RESULTS / "demo.md").write_text("\n".join(text).rstrip() + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
