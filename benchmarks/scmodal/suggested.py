"""How many suggested links are right: ``python benchmarks/scmodal/suggested.py``.

``pp.suggest_links`` on every open set with known links, cells shuffled, with none or a few of the
links told. A suggestion for a feature whose partners are known is right if it is one of them.
Every run adds a line to ``--work`` and a row to ``results/<name>.md``; a call goes on where an
earlier one stopped.
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import benchpath  # noqa: F401
import make_data
import mudata
import numpy as np
import pandas as pd
from mudata import MuData
from processes import run_missing
from tables import table

import cantata

RESULTS = Path(__file__).resolve().parent / "results"
TOP = 10


def of_scmodal(name: str, a: str, b: str) -> tuple[MuData, pd.DataFrame]:
    """Two modalities of these benchmarks and their links."""
    made = make_data.DATA[name]()
    return MuData({m: made.modalities[m] for m in (a, b)}), made.links[a, b]


def pbmc10k() -> tuple[MuData, pd.DataFrame]:
    """RNA and 14 proteins."""
    mdata = mudata.read_h5mu(make_data.find("pbmc10k_citeseq.h5mu"))
    adt = mdata["adt"].var
    links = pd.DataFrame({"source": adt["gene"].astype(str), "target": mdata["adt"].var_names})
    return mdata, links[links["source"].isin(mdata["rna"].var_names)]


def mosaic() -> tuple[MuData, pd.DataFrame]:
    """500 genes and 224 proteins, linked where names are equal in capitals."""
    mdata = mudata.read_h5mu(make_data.find("pbmc_mosaic_midas.h5mu"))
    proteins = mdata["adt"].var_names
    links = pd.DataFrame({"source": proteins.str.upper(), "target": proteins})
    return mdata, links[links["source"].isin(mdata["rna"].var_names)]


DATA: dict[str, Any] = {
    "pbmc5k, rna and adt": lambda: of_scmodal("pbmc5k", "rna", "adt"),
    "pbmc10k, rna and adt": pbmc10k,
    "mosaic, rna and adt": mosaic,
    "pbmc, rna and cytof": lambda: of_scmodal("pbmc-three", "rna", "cytof"),
    "pbmc, adt and cytof": lambda: of_scmodal("pbmc-three", "adt", "cytof"),
    "spleen, rna and adt": lambda: of_scmodal("spleen", "rna", "adt"),
    "snare, rna and activity": lambda: of_scmodal("snare", "rna", "activity"),
}


def run(data: str, n_known: int, seed: int, n_cells: int | None) -> dict[str, Any]:
    """Share of right suggestions, of all and of the best."""
    mdata, links = DATA[data]()
    (a, x), (b, y) = mdata.mod.items()
    rng = np.random.default_rng(seed)
    # 1. shuffled cells of other names: no pairs, no common order
    parts = {}
    for m, adata in mdata.mod.items():
        part = adata[rng.permutation(adata.n_obs)[:n_cells]].copy()
        part.obs_names = [f"{m}_{i}" for i in range(part.n_obs)]
        parts[m] = part
    known = links.iloc[rng.permutation(len(links))[:n_known]] if n_known else None
    narrow = "target" if y.n_vars <= x.n_vars else "source"
    # 2. suggestions for features whose partners are known, and were not told
    found = cantata.pp.suggest_links(MuData(parts), a, b, known=known, seed=seed)
    found = found[~found["known"] & found[narrow].isin(links[narrow])]
    if known is not None:
        found = found[~found[narrow].isin(known[narrow])]
    right = found.merge(links, how="left", on=["source", "target"], indicator=True)
    right = (right["_merge"] == "both").to_numpy()
    partners = links.groupby(narrow).size().mean()
    return {
        "n": len(right),
        "right": float(right.mean()) if len(right) else np.nan,
        "best": float(right[:TOP].mean()) if len(right) else np.nan,
        "score": float(found["score"].mean()),
        "chance": float(partners / max(x.n_vars, y.n_vars)),
    }


def report(lines: list[dict[str, Any]]) -> str:
    """Markdown of what has been run."""
    text = [
        "# Suggested links",
        "",
        f"`python benchmarks/scmodal/suggested.py`, {time.strftime('%Y-%m-%d')}. Suggestions of "
        "`pp.suggest_links` for features whose partners are known: how many of them are right, of "
        f"all and of the {TOP} best; their mean score, which is a correlation over matched groups "
        "of cells and no probability; and a guess. Cells are shuffled, no pair is known; mean "
        "over seeds, which draw cells, known links and metacells.",
        "",
    ]
    rows = []
    for data, n_known in dict.fromkeys((line["data"], line["known"]) for line in lines):
        runs = [r for r in lines if (r["data"], r["known"]) == (data, n_known)]
        mean = {key: np.mean([r[key] for r in runs]) for key in ("right", "best", "score")}
        rows.append(
            [data, str(n_known), str(len(runs)), f"{np.mean([r['n'] for r in runs]):.0f}"]
            + [f"{mean[key]:.2f}" for key in ("right", "best", "score")]
            + [f"{runs[0]['chance']:.4f}"]
        )
    header = ["data", "links told", "runs", "judged", "right", f"of the {TOP} best", "score"]
    return "\n".join([*text, *table([*header, "guess"], rows)]).rstrip() + "\n"


def main() -> None:
    """Run what has not been run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--known", nargs="+", type=int, default=[0, 3, 5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", type=int, help="at most so many cells of each modality")
    parser.add_argument("--work", type=Path, default=RESULTS.parents[1] / "work/suggested.jsonl")
    parser.add_argument("--name", default="suggested")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    cases = (
        {"data": data, "known": n_known, "seed": seed}
        for seed, data, n_known in product(given.seeds, given.data, given.known)
    )
    run_missing(
        given.work,
        cases,
        lambda data, known, seed: run(data, known, seed, given.cells),
        RESULTS / f"{given.name}.md",
        report,
    )


if __name__ == "__main__":
    main()
