"""CLUE with few pairs beside closed forms: ``python benchmarks/few_pairs.py``.

A fifth of the cells of each split is left out of everything; of the others some are paired, and
half of the rest have one modality each. Every run adds a line to ``--work`` and a row to
``results/<name>.md``; a call goes on where an earlier one stopped.
"""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser, Namespace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scvi
import torch
from data import build
from mudata import MuData
from processes import add_lines, lines_of
from run_baselines import nearest_means, variates
from run_cantata import embed, impute
from scores import CALIBRATION, calibration, protein_correlations, score_halves
from tables import table, with_error
from watching import quiet

import cantata

if TYPE_CHECKING:
    from inputs import Inputs

HERE = Path(__file__).resolve().parent
ALL = 10**9
SCORES = {
    "foscttm": ("FOSCTTM", 4, "closed form"),
    "matching": ("matching score", 4, "closed form"),
    "correlation": ("correlation", 3, "30-NN"),
    "within": ("means within 25 %", 2, "10-NN, canonical"),
}
"""Column, decimals, and what CLUE is compared with."""


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["pbmc5k", "pbmc10k", "snare"])
    parser.add_argument("--pairs", nargs="+", type=int, default=[100, 300, 1000, ALL])
    parser.add_argument("--splits", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=HERE / "work" / "few_pairs.jsonl")
    parser.add_argument("--name", default="benchmark-few-pairs")
    return parser.parse_args()


def imputed_scores(expected: np.ndarray, inputs: Inputs) -> dict[str, float]:
    """Mean correlation of imputed proteins, and how many means of types are right."""
    correlations = protein_correlations(expected, inputs).values()
    ratios = calibration(expected, inputs)
    return {
        "correlation": float(np.nanmean(list(correlations))),
        "within": ratios[CALIBRATION[0]],
        "ratio": ratios[CALIBRATION[1]],
    }


def without_training(inputs: Inputs) -> dict[str, dict[str, float]]:
    """Scores of the closed form, which has no seed, and of nearest cells."""
    found = {"closed form": score_halves(variates(inputs), inputs, "cosine")}
    if "adt" in inputs.modalities:
        for label, baseline in (("30-NN", "knn"), ("10-NN, canonical", "knn-cca")):
            found[label] = imputed_scores(nearest_means(inputs, baseline), inputs)
    return found


def trained(inputs: Inputs, seed: int) -> dict[str, float]:
    """Scores of CLUE with its defaults."""
    scvi.settings.seed = seed
    training, scored = MuData(inputs.training), MuData(inputs.scored)
    start = time.process_time()
    cantata.CLUE.setup_mudata(training, reps=inputs.reps)
    model = cantata.CLUE(training)
    model.train(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    about = {"seconds": time.process_time() - start, "share": float(model.module.share)}
    found = score_halves(embed(model, inputs, scored), inputs, "cosine")
    if "adt" in inputs.modalities:
        found |= imputed_scores(impute(model, inputs)["expected"], inputs)
    return found | about


def difference(runs: list[dict[str, Any]], score: str) -> str:
    """CLUE less what it is compared with: mean over splits, and its standard error."""
    rival = SCORES[score][2]
    by_split: dict[int, list[float]] = {}
    for run in runs:
        if run["method"] == "CLUE" and score in run:
            by_split.setdefault(run["split"], []).append(run[score])
    others = {run["split"]: run[score] for run in runs if run["method"] == rival}
    gains = [statistics.fmean(values) - others[split] for split, values in by_split.items()]
    return with_error(gains, SCORES[score][1], "+") if gains else "–"


def mean_of(runs: list[dict[str, Any]], method: str, score: str) -> str:
    """Mean of a score of a method."""
    values = [run[score] for run in runs if run["method"] == method and score in run]
    return f"{statistics.fmean(values):.{SCORES[score][1]}f}" if values else "–"


def report(lines: list[dict[str, Any]]) -> str:
    """Tables of what has been run."""
    text = [
        "# CLUE with few pairs",
        "",
        "`python benchmarks/few_pairs.py`, one thread; test cells",
    ]
    text += [
        "are left out of everything. Differences are CLUE less its rival, the mean over splits"
    ]
    text += ["of means over seeds, with its standard error over splits.", ""]
    cases = sorted({(line["data"], line["pairs"]) for line in lines})
    for scores in (("foscttm", "matching"), ("correlation", "within")):
        rows = []
        for data, pairs in cases:
            runs = [line for line in lines if (line["data"], line["pairs"]) == (data, pairs)]
            mine = [run for run in runs if run["method"] == "CLUE"]
            if not any(scores[0] in run for run in mine):
                continue
            splits = {run["split"] for run in mine}
            row = [data, f"{pairs:,}", f"{len(splits)}, {len(mine)}"]
            for score in scores:
                row += [mean_of(runs, m, score) for m in ("CLUE", SCORES[score][2])]
                row.append(difference(runs, score))
            rows.append(row)
        header = ["data", "pairs", "splits, runs"]
        for score in scores:
            header += [f"{SCORES[score][0]}, CLUE", SCORES[score][2], "difference"]
        text += table(header, rows)
    return "\n".join(text).rstrip() + "\n"


def main() -> None:
    """Run what has not been run, the splits of a seed after those of the one before."""
    quiet()
    torch.set_num_threads(1)
    given = arguments()
    lines = lines_of(given.work)
    path = HERE / "results" / f"{given.name}.md"
    wanted = product(given.seeds, given.splits, given.data, given.pairs)
    for seed, split, data, asked in wanted:
        done = {(r["data"], r["asked"], r["split"], r["method"], r["seed"]) for r in lines}
        if (data, asked, split, "CLUE", seed) in done:
            continue
        inputs = build(data, inductive=True, split=split, n_cells=None, n_pairs=asked)
        both = set.intersection(*(set(a.obs_names) for a in inputs.training.values()))
        case = {"data": data, "pairs": len(both), "asked": asked, "split": split}
        new: list[dict[str, Any]] = []
        if (data, asked, split, "closed form", None) not in done:
            new += [
                case | {"method": method, "seed": None} | scores
                for method, scores in without_training(inputs).items()
            ]
        new.append(case | {"method": "CLUE", "seed": seed} | trained(inputs, seed))
        add_lines(given.work, new)
        lines += new
        path.write_text(report(lines))
        print(time.strftime("%H:%M:%S"), data, len(both), "split", split, "seed", seed, flush=True)


if __name__ == "__main__":
    main()
