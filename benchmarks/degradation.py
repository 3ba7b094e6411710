"""What is left as pairs are taken away: ``python benchmarks/degradation.py``.

CLUE, the closed form and each modality alone on the same cells, of which a falling share is known
to be paired; half of the others have one modality each. A fifth of the cells is left out of
everything and scored. Every run adds its lines to ``--work`` and to ``results/<name>.md``; a call
goes on where an earlier one stopped.
"""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser, Namespace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scvi
import torch
from data import TEST_SHARE, build, load, whole
from inputs import LABEL, TEST
from mudata import MuData
from processes import run_missing
from run_baselines import N_COMPONENTS
from scores import K, leiden_nmi
from sklearn.neighbors import KNeighborsClassifier
from tables import table, with_error
from watching import quiet

import cantata
from cantata.metrics import foscttm

HERE = Path(__file__).resolve().parent
CLOSED, SINGLE = "closed form", "better modality alone"
SCORES = {
    "foscttm": ("FOSCTTM", -1, 4),
    "accuracy": ("labels", 1, 3),
    "nmi": ("NMI of clusters", 1, 3),
}
"""Column, whether high or low is good, decimals."""


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["pbmc5k", "snare"])
    parser.add_argument("--shares", nargs="+", type=float, default=[100, 30, 10, 3, 1])
    parser.add_argument("--splits", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, default=HERE / "work" / "degradation.jsonl")
    parser.add_argument("--name", default="degradation")
    return parser.parse_args()


def of_labels(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> dict:
    """Labels by vote of the nearest training cells, and clusters of test cells."""
    votes = KNeighborsClassifier(K).fit(train, labels)
    return {
        "accuracy": float((votes.predict(test) == truth).mean()),
        "nmi": leiden_nmi(test, truth),
    }


def run(data: str, share: float, split: int) -> dict[str, dict[str, Any]]:
    """Scores of every method."""
    n_training = round((1 - TEST_SHARE) * next(iter(load(data, None).values())).n_obs)
    n_pairs = round(share / 100 * n_training)
    inputs = build(data, inductive=True, split=split, n_cells=None, n_pairs=n_pairs)
    cells = whole(inputs.modalities)
    first, second = cells.mod
    # 1. each modality alone
    found: dict[str, dict[str, Any]] = {}
    known: dict[str, str] = {}
    for m, adata in cells.mod.items():
        x, labels = adata.obsm[inputs.reps[m]], adata.obs[LABEL].to_numpy(dtype=str)
        test = adata.obs[TEST].to_numpy(dtype=bool)
        found[m] = of_labels(x[~test], labels[~test], x[test], labels[test])
        known |= dict(zip(adata.obs_names[~test], labels[~test], strict=True))
        held_out, truth = adata.obs_names[test], labels[test]
    # 2. both, in closed form and by CLUE
    is_training = cells.obs_names.isin(known)
    options = {"use_rep": inputs.reps, "n_variates": N_COMPONENTS, "cells": is_training}
    cantata.tl.canonical_variates(cells, **options)
    scvi.settings.seed = split
    training = MuData(inputs.training)
    cantata.CLUE.setup_mudata(training, reps=inputs.reps)
    model = cantata.CLUE(training)
    model.train(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    model.write_results(cells)
    labels = np.array([known[cell] for cell in cells.obs_names[is_training]])
    rows = cells.obs_names.get_indexer(held_out)
    for method, key in ((CLOSED, "X_cca"), ("CLUE", "X_clue")):
        z, halves = cells.obsm[key], (cells[m][held_out].obsm[key] for m in (first, second))
        found[method] = of_labels(z[is_training], labels, z[rows], truth)
        found[method]["foscttm"] = foscttm(*halves)
    found["CLUE"]["share"] = float(model.module.share)
    return {m: scores | {"pairs": n_pairs} for m, scores in found.items()}


def gain(runs: list[dict[str, Any]], score: str, rival: str) -> list[float]:
    """How much better CLUE is than its rival in every split."""
    sign = SCORES[score][1]
    gains = []
    for one in runs:
        others = [rival] if rival == CLOSED else [m for m in one if m not in ("CLUE", CLOSED)]
        best = max(sign * one[m][score] for m in others)
        gains.append(sign * one["CLUE"][score] - best)
    return gains


def cells_of(runs: list[dict[str, Any]], score: str) -> list[str]:
    """Mean of CLUE, and by how much it is better than its rivals, with standard errors."""
    digits = SCORES[score][2]
    text = [f"{statistics.fmean(one['CLUE'][score] for one in runs):.{digits}f}"]
    for rival in (CLOSED, SINGLE) if score != "foscttm" else (CLOSED,):
        text.append(with_error(gain(runs, score, rival), digits, "+"))
    return text


def report(lines: list[dict[str, Any]]) -> str:
    """One table for each set."""
    text = [
        "# As pairs are taken away",
        "",
        f"`python benchmarks/degradation.py`, {time.strftime('%Y-%m-%d')}, one thread beside "
        "other processes. Held-out cells, seen by nothing. FOSCTTM between their halves; labels: "
        "share "
        f"of right ones by {K} neighbours among training cells; "
        "clusters: Leiden of the held-out cells. After each score of CLUE by how much it is "
        "better (+) than the closed form and than the better of the two modalities alone, each in "
        "its own components: mean over splits and its standard error.",
        "",
    ]
    header = ["paired", "pairs", "splits"]
    for score, (name, _, _) in SCORES.items():
        header += [name, f"beside {CLOSED}"] + ([f"beside {SINGLE}"] if score != "foscttm" else [])
    for data in dict.fromkeys(line["data"] for line in lines):
        rows = []
        for share in sorted({line["share"] for line in lines if line["data"] == data})[::-1]:
            runs = [
                line["found"] for line in lines if line["data"] == data and line["share"] == share
            ]
            row = [f"{share:g} %", f"{runs[0]['CLUE']['pairs']:,}", str(len(runs))]
            rows.append(row + [text for score in SCORES for text in cells_of(runs, score)])
        text += [f"## {data}", "", *table(header, rows)]
    return "\n".join(text).rstrip() + "\n"


def main() -> None:
    """Run what has not been run, the splits after one another."""
    quiet()
    torch.set_num_threads(1)
    given = arguments()
    cases = (
        {"data": data, "share": share, "split": split}
        for split, data, share in product(given.splits, given.data, given.shares)
    )
    run_missing(
        given.work,
        cases,
        lambda **case: {"found": run(**case)},
        HERE / "results" / f"{given.name}.md",
        report,
    )


if __name__ == "__main__":
    main()
