"""Differential expression beside TOTALVI: ``python benchmarks/differential.py OUT.md``.

Cells of ``pbmc5k_citeseq.h5mu`` are divided at random. In one half the counts of some features
are thinned to a half, so that it is known what differs, and by how much. Then types of cells are
compared, of which the truth is not known: there the two models are held against each other.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
import scvi
import torch
from data import data_folder
from mudata import MuData
from scipy import sparse
from scipy.stats import mannwhitneyu, spearmanr
from sklearn.metrics import roc_auc_score

import cantata

if TYPE_CHECKING:
    from collections.abc import Callable

SHARES = {"rna": 0.1, "adt": 0.3}
MIN_MEAN = {"rna": 0.1, "adt": 1.0}
TYPES = ("B", "NK", "CD8 T", "CD14 Mono")


def planted(seed: int) -> tuple[MuData, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Data, which features were thinned, and which are scored."""
    rng = np.random.default_rng(seed)
    mdata = mudata.read_h5mu(data_folder() / "pbmc5k_citeseq.h5mu")
    thinned, scored, parts = {}, {}, {}
    is_thinned = rng.random(mdata.n_obs) < 0.5
    for m, share in SHARES.items():
        adata = mdata[m].copy()
        x = sparse.csr_matrix(adata.X).toarray()
        scored[m] = x.mean(axis=0) >= MIN_MEAN[m]
        thinned[m] = scored[m] & (rng.random(adata.n_vars) < share)
        part = np.ix_(is_thinned, thinned[m])
        x[part] = rng.binomial(x[part].astype(int), 0.5)
        adata.X = sparse.csr_matrix(x.astype(np.float32))
        adata.obs["half"] = np.where(is_thinned, "thinned", "whole")
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
        parts[m] = adata
    return MuData(parts), thinned, scored


def clue(mdata: MuData, epochs: int | None) -> Callable[[str, str, str | None], pd.DataFrame]:
    """Tables of CLUE by annotation, group and the group it is compared with."""
    cantata.CLUE.setup_mudata(mdata)
    model = cantata.CLUE(mdata)
    model.train(epochs, enable_progress_bar=False, accelerator="cpu")

    def table(key: str, one: str, two: str | None) -> pd.DataFrame:
        found = [
            model.differential_expression(m, key, one, two, silent=True).assign(modality=m)
            for m in SHARES
        ]
        return pd.concat(found)

    return table


def totalvi(mdata: MuData, epochs: int | None) -> Callable[[str, str, str | None], pd.DataFrame]:
    """The same of TOTALVI."""
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["adt"].layers["counts"] = mdata["adt"].X.toarray()
    scvi.model.TOTALVI.setup_mudata(
        mdata,
        rna_layer="counts",
        protein_layer="counts",
        modalities={"rna_layer": "rna", "protein_layer": "adt"},
    )
    model = scvi.model.TOTALVI(mdata)
    model.train(epochs, accelerator="cpu", enable_progress_bar=False)

    def table(key: str, one: str, two: str | None) -> pd.DataFrame:
        masks = [(mdata["rna"].obs[key] == one).to_numpy()]
        masks.append(~masks[0] if two is None else (mdata["rna"].obs[key] == two).to_numpy())
        found = model.differential_expression(
            idx1=masks[0], idx2=masks[1], silent=True, all_stats=False
        )
        is_protein = found.index.str.endswith("_protein")
        found["modality"] = np.where(is_protein, "adt", "rna")
        found.index = found.index.str.removesuffix("_protein")
        return found

    return table


def ranks(mdata: MuData, key: str, one: str, two: str | None, m: str) -> pd.Series:
    """Wilcoxon's test of normalised counts, as scanpy and Seurat have it: p values."""
    x = np.log1p(normalised(mdata[m].X))
    first = (mdata[m].obs[key] == one).to_numpy()
    second = ~first if two is None else (mdata[m].obs[key] == two).to_numpy()
    return pd.Series(mannwhitneyu(x[first], x[second]).pvalue, index=mdata[m].var_names)


def normalised(x: Any) -> np.ndarray:
    """Counts of cells brought to one total."""
    dense = x.toarray().astype(float)
    total = dense.sum(axis=1, keepdims=True)
    return dense * np.median(total) / np.maximum(total, 1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--totalvi-epochs", type=int, default=100)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    rows, tables = [], {}
    for name, fit, epochs in (("CLUE", clue, None), ("TOTALVI", totalvi, given.totalvi_epochs)):
        mdata, thinned, scored = planted(given.seed)
        scvi.settings.seed = given.seed
        start = time.process_time()
        table = fit(mdata, epochs)
        seconds = time.process_time() - start
        found = table("half", "whole", "thinned")
        for m in SHARES:
            names = mdata[m].var_names[scored[m]]
            part = found[found["modality"] == m].reindex(names).dropna(subset=["proba_de"])
            truth = pd.Series(thinned[m], index=mdata[m].var_names)[part.index].to_numpy()
            called = part["is_de_fdr_0.05"].to_numpy(dtype=bool)
            rows.append(
                {
                    "method": name,
                    "modality": m,
                    "features": len(part),
                    "changed": int(truth.sum()),
                    "area": roc_auc_score(truth, part["proba_de"]),
                    "fold change of changed": part["lfc_mean"][truth].median(),
                    "of others": part["lfc_mean"][~truth].median(),
                    "called": int(called.sum()),
                    "false": int((called & ~truth).sum()),
                    "seconds of training": seconds,
                }
            )
            if name == "CLUE":
                p = ranks(mdata, "half", "whole", "thinned", m)[part.index]
                rows.append(
                    {
                        "method": "Wilcoxon",
                        "modality": m,
                        "area": roc_auc_score(truth, -np.log(p.astype(float) + 1e-300)),
                    }
                )
        tables[name] = {t: table("cell_type", t, None) for t in TYPES}
    agreement = []
    for t in TYPES:
        for m in SHARES:
            one, two = (tables[name][t] for name in ("CLUE", "TOTALVI"))
            one, two = (x[x["modality"] == m] for x in (one, two))
            common = one.index.intersection(two.index)
            top = [
                set(x.loc[common, "lfc_mean"].nlargest(20 if m == "rna" else 3).index)
                for x in (one, two)
            ]
            agreement.append(
                {
                    "type": t,
                    "modality": m,
                    "rank correlation of fold changes": spearmanr(
                        one.loc[common, "lfc_mean"], two.loc[common, "lfc_mean"]
                    ).statistic,
                    "common among the 20 (3 proteins) that rise most": len(top[0] & top[1]),
                }
            )
    text = [
        "# Differential expression",
        "",
        f"`python benchmarks/differential.py --seed {given.seed}`, {date.today()}, torch "
        f"{torch.__version__}, one thread beside other processes; TOTALVI "
        f"{given.totalvi_epochs} epochs, scvi-tools {scvi.__version__}.",
        "",
        "## Counts thinned to a half (log2 fold change 1)",
        "",
        _markdown(pd.DataFrame(rows)),
        "",
        "## Types of cells, CLUE beside TOTALVI",
        "",
        _markdown(pd.DataFrame(agreement)),
    ]
    given.out.write_text("\n".join(text) + "\n")


def _markdown(table: pd.DataFrame) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.3f}".removesuffix(".000")
        return str(value)

    lines = [" | ".join(table.columns), "|".join(["---"] * table.shape[1])]
    lines += [" | ".join(cell(v) for v in row) for row in table.itertuples(index=False)]
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    main()
