"""APOLLO as pairs are taken away: ``python benchmarks/apollo/unpaired.py``.

APOLLO on the same training cells, of which a falling share is known to be paired, half of the
others having one modality each; without any pair it refuses the data. Shared and specific latents
of held-out cells are read apart, and beside those of the fully paired self. Every run adds a line
to ``--work`` and a row to ``results/<name>.md``; a call goes on where an earlier one stopped.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import bench  # noqa: F401
import fits
import numpy as np
import scvi
import torch
from data import TEST_SHARE, build
from inputs import LABEL
from mudata import MuData
from processes import run_missing
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from tables import table
from watching import quiet

import cantata
from cantata.metrics import foscttm

RESULTS = Path(__file__).resolve().parent / "results"
K = 15
Blocks = dict[str, np.ndarray]


def latents(share: float, data: str, split: int, n_cells: int | None) -> tuple[Blocks, dict]:
    """Blocks of latents of the held-out cells, and scores that need the model."""
    paired = build(data, inductive=True, split=split, n_cells=n_cells)
    n_training = round((1 - TEST_SHARE) / TEST_SHARE * paired.about["n_test"])
    n_pairs = round(share / 100 * n_training)
    inputs = build(data, inductive=True, split=split, n_cells=n_cells, n_pairs=n_pairs)
    training, scored = MuData(inputs.training), MuData(inputs.scored)
    scvi.settings.seed = split
    cantata.APOLLO.setup_mudata(training)
    model = cantata.APOLLO(training)
    model.train(**fits.QUIET)
    blocks: Blocks = {}
    types: dict[str, float] = {}
    for m in inputs.modalities:
        y, truth = (a[m].obs[LABEL].astype(str) for a in (inputs.training, inputs.scored))
        for space, name in (("shared", f"shared from {m}"), ("specific", m)):
            read: Any = model.get_latent_representation
            seen, new = (read(x, modality=m, space=space) for x in (training, scored))
            blocks[name] = new
            votes = KNeighborsClassifier(min(K, len(seen))).fit(seen, y)
            types[name] = float((votes.predict(new) == truth.to_numpy()).mean())
    first, second = inputs.modalities
    x, y = (blocks[f"shared from {m}"] for m in (first, second))
    blocks["shared"] = (x + y) / 2
    return blocks, {"pairs": n_pairs, "foscttm": foscttm(x, y), "types": types}


def read_from(block: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the variance of latents that a linear map reads from others; folds of the cells."""
    found = cross_val_predict(RidgeCV(np.logspace(-1, 4, 6)), block, wanted, cv=5)
    return float(max(r2_score(wanted, found, multioutput="variance_weighted"), 0))


def scores(blocks: Blocks, paired: Blocks) -> dict[str, float]:
    """What blocks tell of the blocks of the paired self."""
    own = {name: read_from(blocks[name], paired[name]) for name in paired if "from" not in name}
    others = [name for name in own if name != "shared"]
    leaks = {f"shared in {name}": read_from(blocks[name], paired["shared"]) for name in others}
    return own | leaks


def report(lines: list[dict[str, Any]]) -> str:
    """One table for each set."""
    text = [
        "# APOLLO as pairs are taken away",
        "",
        f"`python benchmarks/apollo/unpaired.py`, {time.strftime('%Y-%m-%d')}, one thread beside "
        "other processes; held-out cells. FOSCTTM between shared latents by each modality. Types: "
        f"accuracy of a vote of {K} training cells, by shared latents of each modality and by its "
        "specific ones. Read: share of the variance of the fully paired self's block that the "
        "same block tells by a linear map; and, which should be low, how much of its shared block "
        "the specific ones tell. Mean over splits.",
        "",
    ]
    for data in dict.fromkeys(line["data"] for line in lines):
        of_data = [line for line in lines if line["data"] == data]
        types, read = list(of_data[0]["types"]), list(of_data[0]["read"])
        rows = []
        for share in sorted({line["share"] for line in of_data})[::-1]:
            runs = [line for line in of_data if line["share"] == share]
            row = [f"{share:g} %", f"{runs[0]['pairs']:,}", str(len(runs))]
            row.append(f"{np.mean([run['foscttm'] for run in runs]):.4f}")
            for part, names in (("types", types), ("read", read)):
                row += [f"{np.mean([run[part][name] for run in runs]):.3f}" for name in names]
            rows.append(row)
        header = ["paired", "pairs", "splits", "FOSCTTM", *(f"types, {t}" for t in types)]
        text += [f"## {data}", "", *table([*header, *(f"read, {r}" for r in read)], rows)]
    return "\n".join(text).rstrip() + "\n"


def main() -> None:
    """Run what has not been run."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["pbmc5k", "snare"])
    parser.add_argument("--shares", nargs="+", type=float, default=[100, 30, 10, 3, 1])
    parser.add_argument("--splits", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", type=int, help="a random part of the cells")
    parser.add_argument("--work", type=Path, default=RESULTS.parents[1] / "work/unpaired.jsonl")
    parser.add_argument("--name", default="unpaired")
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)

    @cache
    def paired_self(data: str, split: int) -> tuple[Blocks, dict[str, Any]]:
        """What all others are held against."""
        return latents(100, data, split, given.cells)

    def run(data: str, share: float, split: int) -> dict[str, Any]:
        paired = paired_self(data, split)
        blocks, about = paired if share == 100 else latents(share, data, split, given.cells)
        return about | {"read": scores(blocks, paired[0])}

    cases = (
        {"data": data, "share": share, "split": split}
        for split, data, share in product(given.splits, given.data, given.shares)
    )
    run_missing(given.work, cases, run, RESULTS / f"{given.name}.md", report)


if __name__ == "__main__":
    main()
