"""Scores as others compute them: ``python benchmarks/public_scores.py``.

Embeddings of held-out cells by each model, given to ``scib_metrics`` and ``multibench`` (``pip
install 'cantata[bench]'``). Two questions: how well do joint embeddings keep cell types, and,
with the two halves of each cell as cells of their own and the modality as their batch, how well
are modalities mixed. Writes ``results/<name>.md``.
"""

from __future__ import annotations

import time
import warnings
from argparse import ArgumentParser
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import anndata
import mudata
import multibench
import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from data import SOURCES, TEST_SHARE, data_folder
from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation
from tables import table
from watching import quiet

import cantata

if TYPE_CHECKING:
    from mudata import MuData

RESULTS = Path(__file__).resolve().parent / "results"
TYPE, MODALITY = "cell_type", "modality"
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
CLOSED = "closed form"
JOINT = {"CLUE": "X_clue", "APOLLO": "X_apollo", "SCMODAL": "X_scmodal", CLOSED: "X_cca"}
"""Keys of ``mdata.obsm``."""
OF_MODALITY = JOINT | {"APOLLO": "X_apollo_shared"}
"""Keys of ``mdata[m].obsm``."""


def split(data: str, seed: int) -> tuple[MuData, MuData]:
    """Cells to train on, and cells that nothing sees."""
    mdata = mudata.read_h5mu(data_folder() / SOURCES[data].file)
    test = np.random.default_rng(seed).permutation(mdata.n_obs) < TEST_SHARE * mdata.n_obs
    train, new = mdata[~test].copy(), mdata[test].copy()
    cantata.pp.preprocess(train)
    cantata.pp.preprocess(new, reference=train)
    return train, new


def embed(train: MuData, new: MuData, seed: int) -> None:
    """Train every model, SCMODAL without the pairs, and write its embeddings of new cells."""
    first, second = train.mod
    both = mudata.MuData({m: anndata.concat([train[m], new[m]], merge="same") for m in train.mod})
    cantata.tl.canonical_variates(both, cells=both.obs_names.isin(train.obs_names))
    new.obsm["X_cca"] = both[new.obs_names].obsm["X_cca"]
    for m in new.mod:
        new[m].obsm["X_cca"] = both[m][new[m].obs_names].obsm["X_cca"]
    cantata.pp.link_features(train, first, second, layers=dict.fromkeys(train.mod, "counts"))
    for cls in (cantata.CLUE, cantata.APOLLO, cantata.SCMODAL):
        scvi.settings.seed = seed
        cls.setup_mudata(train, layers="counts")
        model = cls(train)
        model.train(**QUIET)
        model.write_results(new)


def joint(mdata: MuData) -> tuple[AnnData, dict[str, str]]:
    """Cells with their joint embeddings and the components of each modality, and all keys."""
    keys = JOINT | {f"{m} alone": f"{m}_components" for m in mdata.mod}
    obs = pd.DataFrame({TYPE: next(iter(mdata.mod.values())).obs[TYPE].astype(str)})
    obsm = {key: mdata.obsm[key] for key in JOINT.values()}
    for m, adata in mdata.mod.items():
        obsm[f"{m}_components"] = adata[mdata.obs_names].obsm["X_cantata_pca"]
    return AnnData(obs=obs.loc[mdata.obs_names].assign(**{MODALITY: "both"}), obsm=obsm), keys


def halves(mdata: MuData) -> tuple[AnnData, dict[str, str]]:
    """The profiles of all modalities below each other, and the keys of their embeddings."""
    parts = {
        m: AnnData(
            obs=adata.obs[[TYPE]].astype(str),
            obsm={key: adata.obsm[key] for key in OF_MODALITY.values()},
        )
        for m, adata in mdata.mod.items()
    }
    return anndata.concat(parts, label=MODALITY, index_unique="-"), OF_MODALITY


def by_scib(adata: AnnData, keys: dict[str, str]) -> pd.DataFrame:
    """Scores (methods, metrics) of ``scib_metrics``."""
    mixed = adata.obs[MODALITY].nunique() > 1
    benchmarker = Benchmarker(
        adata,
        batch_key=MODALITY,
        label_key=TYPE,
        embedding_obsm_keys=list(keys.values()),
        bio_conservation_metrics=BioConservation(
            isolated_labels=mixed, nmi_ari_cluster_labels_leiden=True
        ),
        # no unintegrated embedding has both modalities
        batch_correction_metrics=BatchCorrection(pcr_comparison=False) if mixed else None,
        pre_integrated_embedding_obsm_key=next(iter(keys.values())),
        progress_bar=False,
    )
    benchmarker.benchmark()
    found = benchmarker.get_results().drop(index="Metric Type").astype(float)
    return found.loc[list(keys.values())].set_axis(list(keys))


def by_multibench(adata: AnnData, keys: dict[str, str]) -> pd.DataFrame:
    """The same of ``multibench``, the metrics of scMultiBench."""
    mixed = adata.obs[MODALITY].nunique() > 1
    found = [
        multibench.evaluate(
            adata,
            labels=TYPE,
            batch=MODALITY if mixed else None,
            category="diagonal" if mixed else "vertical",
            obsm=key,
            method=method,
            verbose=False,
        )
        for method, key in keys.items()
    ]
    wide = pd.concat(found).pivot(index="method", columns="metric", values="value")
    return wide.loc[list(keys)].astype(float)


def as_markdown(found: pd.DataFrame) -> list[str]:
    """Lines of a table."""
    rows = [[str(m), *(f"{v:.3f}" for v in row)] for m, row in found.iterrows()]
    return table(["", *map(str, found.columns)], rows)


def main() -> None:
    """Train, score, and write the report."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="pbmc5k", choices=["pbmc5k"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="public")
    given = parser.parse_args()
    quiet()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    train, new = split(given.data, given.seed)
    embed(train, new, given.seed)
    packages = ", ".join(f"{p} {version(p)}" for p in ("scib-metrics", "multibench-sc"))
    text = [
        "# Scores as others compute them",
        "",
        f"`python benchmarks/public_scores.py`, {time.strftime('%Y-%m-%d')}, seed {given.seed}, "
        f"{packages}; {given.data} (`{SOURCES[given.data].file}`, labels `{TYPE}`). "
        f"{train.n_obs:,} cells to train on, {new.n_obs} held-out ones are scored, which no "
        "component, variate or model has seen. SCMODAL knows no pairs, of APOLLO shared latents.",
        "",
    ]
    for title, (adata, keys) in {
        "Joint embeddings": joint(new),
        "Halves of cells, the modality as batch": halves(new),
    }.items():
        text += [f"## {title}", "", "`scib_metrics.benchmark.Benchmarker`:", ""]
        text += as_markdown(by_scib(adata, keys))
        text += ["`multibench.evaluate`:", "", *as_markdown(by_multibench(adata, keys))]
    (RESULTS / f"{given.name}.md").write_text("\n".join(text).rstrip() + "\n")


if __name__ == "__main__":
    main()
