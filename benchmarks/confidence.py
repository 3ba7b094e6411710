"""How far results can be trusted: ``python benchmarks/confidence.py OUT.csv [--report OUT.md]``.

Two questions, on open data. Each cell type is taken out of one modality in turn: does
``tl.counterparts`` tell the cells that are left alone, and what do labels say that are carried
over to them? MaxFuse, where its environment is there, by the scores by which it filters matches.
And how many measured values lie within the intervals of ``impute``? Results are
written line by line, and what a file has already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
import scvi
import torch
from data import SOURCES, data_folder
from mudata import MuData
from sklearn.metrics import roc_auc_score

import cantata

sys.path.append(str(Path(__file__).parent / "scmodal"))
import make_data
from unpaired import Unpaired

if TYPE_CHECKING:
    from anndata import AnnData

HERE = Path(__file__).resolve().parent
MAXFUSE = HERE / "environments" / "maxfuse" / "bin" / "python"
MIN_TYPE = 50
UNASSIGNED = "Mis"
PAIRED_SHARE = 0.2
COVERAGES = (0.8, 0.9, 0.95)
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def known_types(labels: pd.Series) -> pd.Series:
    """Types of cells, missing where a cell was not assigned to any, which is no type."""
    types = labels.astype(str).astype(object)
    return types.where(types != UNASSIGNED)


def clue_data(name: str) -> tuple[dict[str, AnnData], Any]:
    """Two modalities of the same cells, with labels in ``obs["type"]``."""
    source = SOURCES[name]
    mdata = mudata.read_h5mu(data_folder() / source.file)
    found = {}
    for m, adata in mdata.mod.items():
        found[m] = adata.copy()
        found[m].obs["type"] = known_types(adata.obs[source.label])
    return found, None


def scmodal_data(name: str) -> tuple[dict[str, AnnData], Any]:
    """The same for :class:`cantata.SCMODAL`, with links; of chromatin gene activity."""
    made = make_data.DATA[name]()
    pair = next(iter(made.links)) if name != "snare" else ("rna", "activity")
    found = {m: made.modalities[m].copy() for m in pair}
    for adata in found.values():
        adata.obs["type"] = known_types(adata.obs[make_data.LABEL])
    return found, made.links[pair]


def without(found: dict[str, AnnData], type_: str, loses: str, share: float, seed: int) -> MuData:
    """A type taken out of a modality, and a share of the cells that are known to be paired."""
    rng = np.random.default_rng(seed)
    names = next(iter(found.values())).obs_names
    paired = set(names[rng.permutation(len(names))[: int(share * len(names))]])
    parts = {}
    for m, adata in found.items():
        part = adata[(adata.obs["type"] != type_).to_numpy() | (m != loses)]
        part = part[rng.permutation(part.n_obs)].copy()
        part.obs_names = [c if c in paired else f"{m}_{c}" for c in part.obs_names]
        parts[m] = part
    return MuData(parts)


def calibration_error(confidence: np.ndarray, right: np.ndarray, n_bins: int = 15) -> float:
    """Expected calibration error: |confidence - share of right ones|, averaged over cells."""
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gap = [abs((confidence - right)[bins == b].sum()) for b in np.unique(bins)]
    return float(np.sum(gap) / len(confidence))


def orphans(model: str, data: str, loses: int, type_: str, seed: int) -> dict[str, Any]:
    """Train without a type in one modality, and judge the cells of the other one."""
    found, links = (clue_data if model == "CLUE" else scmodal_data)(data)
    first, second = found
    lost, kept = (first, second)[loses], (second, first)[loses]
    mdata = without(found, type_, lost, PAIRED_SHARE if model == "CLUE" else 0, seed)
    scvi.settings.seed = seed
    if model == "CLUE":
        cantata.CLUE.setup_mudata(mdata)
        fitted: Any = cantata.CLUE(mdata)
    else:
        cantata.pp.link_features(mdata, first, second, links=links)
        cantata.SCMODAL.setup_mudata(mdata, pairs=[(first, second)])
        fitted = cantata.SCMODAL(mdata)
    fitted.train(**QUIET)
    fitted.write_results(mdata)
    rep = f"X_{fitted.method}"
    start = time.perf_counter()
    cantata.tl.counterparts(mdata, use_rep=rep)
    seconds = time.perf_counter() - start
    table = cantata.tl.transfer_labels(mdata, "type", use_rep=rep, source=lost, target=kept)
    # what is asked: cells without a known partner, of known type
    truth = mdata[kept].obs["type"].to_numpy()
    asked = ~mdata[kept].obs_names.isin(mdata[lost].obs_names) & ~pd.isna(truth)
    table, truth = table[asked], truth[asked]
    lacks, has = truth == type_, table["counterpart"].to_numpy()
    right = (table["label"].astype(str) == truth).to_numpy()
    votes = table["confidence"].to_numpy() / np.maximum(has, 1e-12)
    return {
        "n": int(lacks.sum()),
        "auc": roc_auc_score(~lacks, has) if lacks.any() else np.nan,
        "auc_votes": roc_auc_score(~lacks, votes) if lacks.any() else np.nan,
        "flagged": (has[lacks] < 0.5).mean() if lacks.any() else np.nan,
        "flagged_others": (has[~lacks] < 0.5).mean(),
        "error_votes": calibration_error(votes, right),
        "error": calibration_error(table["confidence"].to_numpy(), right),
        "seconds": seconds,
    }


def maxfuse_orphans(data: str, loses: int, type_: str, seed: int) -> dict[str, Any]:
    """The same area by the scores of MaxFuse's matches; a cell without a match has the least."""
    found, links = scmodal_data(data)
    pair = tuple(found)
    mdata = without(found, type_, pair[loses], 0, seed)
    about = {"links": [[*pair, len(links)]], "modalities": {m: {"counts": True} for m in pair}}
    with TemporaryDirectory() as folder:
        config = {"inputs": f"{folder}/inputs", "out": f"{folder}/out", "pair": pair}
        config |= {"seed": seed, "scores": True}
        Unpaired(dict(mdata.mod), {pair: links}, about).write(Path(config["inputs"]))
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        script = HERE / "scmodal" / "run_maxfuse.py"
        subprocess.run([MAXFUSE, script, path], check=True, stdout=subprocess.DEVNULL)
        kept = pair[1 - loses]
        scores = np.load(f"{config['out']}/scores.npz")[kept]
    truth = mdata[kept].obs["type"].to_numpy()
    asked = ~pd.isna(truth)
    lacks, has = truth[asked] == type_, np.nan_to_num(scores[asked], nan=-1.0)
    nothing = dict.fromkeys(("auc_votes", "flagged", "flagged_others", "error_votes", "error"))
    return {"n": int(lacks.sum()), "auc": roc_auc_score(~lacks, has)} | nothing


def coverage(model: str, data: str, source: int, seed: int) -> dict[str, Any]:
    """Shares of measured values within the intervals, for a fifth of the cells held out."""
    found, _ = clue_data(data)
    names = next(iter(found.values())).obs_names
    test = np.isin(
        np.arange(len(names)),
        np.random.default_rng(seed).permutation(len(names))[: len(names) // 5],
    )
    train, new = (MuData({m: a[rows].copy() for m, a in found.items()}) for rows in (~test, test))
    scvi.settings.seed = seed
    cls = getattr(cantata, model)
    cls.setup_mudata(train)
    fitted = cls(train)
    fitted.train(**QUIET)
    given, target = list(found)[source], list(found)[1 - source]
    result: dict[str, Any] = {}
    for share in COVERAGES:
        imputed = fitted.impute(target, new, source=given, interval=share)
        measured = np.asarray(new[target][imputed.obs_names].X.todense())
        totals = fitted._typical_library(target)
        if totals is not None:
            measured = measured * totals / np.maximum(measured.sum(axis=1, keepdims=True), 1)
        within = (measured >= imputed.layers["lower"]) & (measured <= imputed.layers["upper"])
        dense = new[target].X.mean(axis=0).A1 >= 1
        result[f"{share}"] = within.mean()
        result[f"{share} dense"] = within[:, dense].mean()
        result["n"] = imputed.uns["cantata"]["interval"]["n_cells"]
    return result


def jobs(seeds: list[int]) -> list[tuple[str, Any]]:
    """What is run, cheapest first."""
    planned: list[tuple[str, Any]] = []
    for seed in seeds:
        for model, data, source in (
            ("CLUE", "pbmc5k", 0),
            ("CLUE", "pbmc5k", 1),
            ("APOLLO", "pbmc5k", 0),
            ("CLUE", "snare", 1),
        ):
            planned.append(("coverage", (model, data, source, seed)))
        for data in ("pbmc5k", "snare"):
            types = clue_data(data)[0]["rna"].obs["type"].value_counts()
            names = ["none", *sorted(types.index[types >= MIN_TYPE])]
            for loses in (1, 0):
                for model in ("CLUE", "SCMODAL"):
                    planned += [("orphans", (model, data, loses, t, seed)) for t in names]
                if MAXFUSE.exists():
                    planned += [("orphans", ("MaxFuse", data, loses, t, seed)) for t in names[1:]]
    return planned


def report(lines: pd.DataFrame) -> str:
    """Tables of means and of every type."""
    given = lines["job"].str.split("|", expand=True)
    text = [
        "# How far results can be trusted",
        "",
        f"`python benchmarks/confidence.py`, {date.today()}, torch {torch.__version__}, one "
        "thread beside other processes.",
    ]
    of = lines[given[0] == "orphans"].copy()
    if len(of):
        of[["model", "data", "loses", "type", "seed"]] = given.loc[of.index, [1, 2, 3, 4, 5]]
        loses = {"1": "second", "0": "first"}
        text += ["", "## Types taken out of one modality", ""]
        text += [
            "| model | data | modality that lacks it | type | cells | area | area by votes "
            "| below one half | of the others | calibration error of labels | by votes |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for keys, part in of.groupby(["model", "data", "loses"], sort=False):
            row = [*keys[:2], loses[str(keys[2])]]
            for _, one in part.iterrows():
                text.append(_line([*row, one["type"], int(one["n"])], one))
            some = part[part["type"] != "none"]
            text.append(_line([*row, "**mean**", ""], some.mean(numeric_only=True)))
            worst = some["auc"].min()
            text.append(f"| {' | '.join(row)} | worst | | {worst:.3f} | | | | | |")
    of = lines[given[0] == "coverage"].copy()
    if len(of):
        of[["model", "data", "source", "seed"]] = given.loc[of.index, [1, 2, 3, 4]]
        text += ["", "## Measured values within intervals, cells held out", ""]
        columns = [f"{c}{kind}" for c in COVERAGES for kind in ("", " dense")]
        text += [
            "Dense: features with a mean of at least 1.",
            "",
            f"| model | data | from | calibration cells | {' | '.join(columns)} |",
            "|" + "---|" * (4 + len(columns)),
        ]
        for _, one in of.iterrows():
            values = " | ".join(f"{one[c]:.3f}" for c in columns)
            given_ = "first modality" if one["source"] == "0" else "second modality"
            text.append(
                f"| {one['model']} | {one['data']} | {given_} | {int(one['n'])} | {values} |"
            )
    return "\n".join(text) + "\n"


def _line(start: list[Any], one: Any) -> str:
    columns = ("auc", "auc_votes", "flagged", "flagged_others", "error", "error_votes")
    values = ["" if np.isnan(one[c]) else f"{one[c]:.3f}" for c in columns]
    return f"| {' | '.join(map(str, start))} | {' | '.join(values)} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--report", type=Path, help="write tables of what there is, run nothing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", default="", help="jobs that contain this, e.g. 'CLUE|pbmc5k'")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.report:
        given.report.write_text(report(pd.read_csv(given.out, dtype={"job": str})))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    done = set(pd.read_csv(given.out)["job"]) if given.out.exists() else set()
    for kind, arguments in jobs(given.seeds):
        job = "|".join(map(str, (kind, *arguments)))
        if job in done or given.only not in job:
            continue
        if arguments[0] == "MaxFuse":
            found = maxfuse_orphans(*arguments[1:])
        else:
            found = {"orphans": orphans, "coverage": coverage}[kind](*arguments)
        new = pd.DataFrame([{"job": job} | found])
        known = [pd.read_csv(given.out)] if given.out.exists() else []
        pd.concat([*known, new]).to_csv(given.out, index=False)
        print(job, found, flush=True)


if __name__ == "__main__":
    main()
