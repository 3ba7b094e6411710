"""The steps of the demo, in the order in which a user would take them."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
import scvi
from anndata import AnnData
from rich.console import Console

from cantata import _keys, pp, tl
from cantata._demo._data import DemoError, Mosaic, hold_out, load, training_part
from cantata._demo._images import run_images
from cantata._demo._output import (
    EpochBar,
    available,
    few_threads,
    legend,
    picture,
    quiet,
    say,
    score_table,
    short,
    step,
)
from cantata._demo._scores import (
    N_NEIGHBORS,
    SECTIONS,
    Cells,
    Embedding,
    Score,
    as_table,
    cluster_score,
    embedding_scores,
    imputation_scores,
    target_modality,
)
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import row_table
from cantata.model import CLUE

if TYPE_CHECKING:
    import pandas as pd

CLUSTERS = "leiden_clue"
"""Column with the clusters."""

HELD_OUT = "held_out"
"""Column that tells which cells training did not see."""

MAX_IMPUTED = 1000
"""A modality with at most so many features is written imputed."""


@dataclass(frozen=True)
class Prepared:
    """What is ready before training."""

    mosaic: Mosaic
    held_out: np.ndarray
    """Mask of the cells that training does not see."""
    model: CLUE
    records: dict[str, Any]
    """What preprocessing recorded of each modality."""
    target: str
    """Modality that is imputed."""


def run(
    data: Path | None = None,
    *,
    model: str = "clue",
    images: bool = False,
    label_key: str | None = None,
    batch_key: str | None = None,
    out: Path = Path(),
    seed: int = 0,
    epochs: int | None = None,
    accelerator: str = "auto",
) -> pd.DataFrame:
    """Run the demo, write ``demo.h5mu`` and ``demo.png``, and return the table of the scores.

    The arguments are the options of ``python -m cantata demo``; the folder `out` exists.

    Raises
    ------
    DemoError
        If the data or the options cannot be used; the message says why.
    """
    console = Console(file=sys.stdout)
    start = time.perf_counter()
    with quiet(console):
        if not available(accelerator):
            raise DemoError(f"--accelerator: there is no {accelerator} here.")
        scvi.settings.seed = seed
        if images:
            options: dict[str, Any] = {"epochs": epochs, "accelerator": accelerator, "seed": seed}
            table = run_images(out, console, **options)
            _done(console, start)
            return table
        try:
            mosaic = _load(data, label_key, batch_key, console, seed=seed)
            ready = _prepare(mosaic, model, console, seed=seed)
        except (KeyError, TypeError, ValueError) as error:
            raise DemoError(str(error.args[0] if error.args else error)) from error
        _train(ready.model, epochs, accelerator, console)
        ours, simple = _embed(ready, console, seed=seed)
        scores = _score(ready, ours, simple, console, seed=seed)
        _report(ready, scores, console)
        try:
            _write(ready, scores, out, console, seed=seed)
        except OSError as error:
            raise DemoError(f"--out: cannot write to {out}: {error}") from error
    _done(console, start)
    return as_table(scores)


def _done(console: Console, start: float) -> None:
    console.print(f"Done in {time.perf_counter() - start:.0f} s.", highlight=False)


def _load(
    data: Path | None,
    label_key: str | None,
    batch_key: str | None,
    console: Console,
    *,
    seed: int,
) -> Mosaic:
    with step(console, "Data") as current:
        mosaic = load(data, label_key, batch_key, seed=seed)
        current.detail = (
            f"{mosaic.name}; labels: {mosaic.label_key or 'none'}, "
            f"batches: {mosaic.batch_key or 'none'}"
        )
    for note in mosaic.notes:
        say(console, "note", note)
    return mosaic


def _prepare(mosaic: Mosaic, model: str, console: Console, *, seed: int) -> Prepared:
    """Pairing report, preprocessing with the statistics of the training cells, and set-up."""
    mdata = mosaic.mdata
    report = pp.pairing_report(mdata, batch_key=mosaic.batch_key)
    console.print(report)
    console.print()
    if report.model != model.upper():
        raise DemoError(f"{model.upper()} does not fit this data. {report.reason}")
    held_out = hold_out(mosaic, seed=seed)
    train = training_part(mdata, held_out)
    with step(console, "Preprocess") as current:
        try:
            pp.preprocess(train, batch_key=mosaic.batch_key, layers=mosaic.counts)
        except ValueError as error:
            where = "The demo reads counts from .layers['counts'], or else from .X."
            raise DemoError(f"{error} {where}") from error
        pp.preprocess(mdata, reference=train, layers=mosaic.counts)
        recorded = train.uns[_keys.UNS][_keys.PREPROCESS]
        records = {name: recorded[name] for name in train.mod}
        current.detail = ", ".join(
            f"{name} as {record['kind']}: {record['n_components']} components"
            for name, record in records.items()
        )
    CLUE.setup_mudata(
        train,
        layers={name: str(record["counts_layer"]) for name, record in records.items()},
        batch_key=mosaic.batch_key,
    )
    target = target_modality(
        mdata, {name: str(record["kind"]) for name, record in records.items()}
    )
    return Prepared(mosaic, held_out, CLUE(train), records, target)


def _train(model: CLUE, epochs: int | None, accelerator: str, console: Console) -> None:
    start = time.perf_counter()
    with (
        few_threads(model.adata.n_vars),
        contextlib.redirect_stdout(io.StringIO()),  # the trainer prints why it stopped
    ):
        model.train(
            epochs,
            accelerator=accelerator,
            enable_progress_bar=False,
            callbacks=[EpochBar(console)],
        )
    detail = f"{len(model.history['train_loss'])} epochs"
    if "foscttm_validation" in model.history:
        detail += f", FOSCTTM {model.history['foscttm_validation'].iloc[-1, 0]:.3f}"
        detail += " on validation cells"
    if "share" in model.history:
        detail += f", share of networks {model.history['share'].iloc[-1, 0]:.2f}"
    say(console, "Train", detail, time.perf_counter() - start)


def _embed(ready: Prepared, console: Console, *, seed: int) -> tuple[Embedding, Embedding]:
    """Write the model's results, UMAP and clusters; its embeddings, and the simple method's."""
    mdata, target = ready.mosaic.mdata, ready.target
    with step(console, "Embed") as current:
        imputed = [target] if mdata[target].n_vars <= MAX_IMPUTED else []
        with few_threads(mdata.n_vars):
            ready.model.write_results(mdata, imputed=imputed)
        mdata.obs[HELD_OUT] = ready.held_out
        sc.pp.neighbors(mdata, use_rep="X_clue", random_state=seed)
        sc.tl.umap(mdata, random_state=seed)
        _leiden(mdata, seed)
        n_clusters = mdata.obs[CLUSTERS].nunique()
        current.detail = f"X_clue of {mdata.n_obs:,} cells, UMAP, {n_clusters} Leiden clusters"
    names = list(ready.records)
    # batches are taken out, as in the model: what is left of them would bring halves together,
    # which are of the same batch
    tl.canonical_variates(mdata, names, cells=~ready.held_out, batch_key=ready.mosaic.batch_key)

    def embedding(key: str) -> Embedding:
        by_modality = {name: np.asarray(mdata[name].obsm[key]) for name in names}
        return Embedding(np.asarray(mdata.obsm[key]), by_modality)

    return embedding(_keys.embedding(ready.model.method)), embedding("X_cca")


def _leiden(data: Any, seed: int) -> None:
    sc.tl.leiden(
        data,
        key_added=CLUSTERS,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=seed,
    )


def _clusters(embedding: np.ndarray, seed: int) -> np.ndarray:
    """Leiden clusters of any embedding (cells, dimensions), as those of the model are made."""
    data = AnnData(obsm={"X": embedding.astype(np.float32)})
    sc.pp.neighbors(data, use_rep="X", random_state=seed)
    _leiden(data, seed)
    return data.obs[CLUSTERS].to_numpy()


def _score(
    ready: Prepared, ours: Embedding, simple: Embedding, console: Console, *, seed: int
) -> list[Score]:
    """All scores, those of one section together."""
    mosaic, mdata = ready.mosaic, ready.mosaic.mdata
    labels = None
    if mosaic.label_key is not None:
        labels = coalesce_obs(mdata, mosaic.label_key).to_numpy(dtype=object)
    cells = Cells(row_table(mdata, list(ready.records)), ready.held_out, labels)
    with step(console, "Score") as current:
        scores = list(embedding_scores(cells, ours, simple))
        if labels is not None:
            clusters, others = mdata.obs[CLUSTERS].to_numpy(), _clusters(simple.joint, seed)
            scores.append(cluster_score(cells, clusters, others, seed=seed))
        with few_threads(mdata.n_vars):
            scores += imputation_scores(
                ready.model, mdata, cells, ready.target, ready.records, mosaic.truth
            )
        scores.sort(key=lambda score: SECTIONS.index(score.section))
        n_held_out = ready.held_out.sum()
        current.detail = f"{len(scores)} scores; {n_held_out:,} paired cells were held out"
    return scores


def _report(ready: Prepared, scores: list[Score], console: Console) -> None:
    """Print the table and how to read it."""
    console.print(score_table(scores, type(ready.model).__name__))
    lines = {
        "held-out": "paired cells that training did not see, each modality by itself",
        "training": "cells that training saw, without their labels",
        "FOSCTTM": "fraction of cells closer than the true partner; low is good",
        "matching": "probability given to the true partner",
        "labels": f"share of right labels, {N_NEIGHBORS} nearest neighbours",
        "r": "Pearson correlation of log counts over cells, mean over features",
        "CCA": "regularised canonical correlation on the components that CLUE reads, batches out",
        "k-NN": f"mean of {N_NEIGHBORS} nearest paired training cells, by the source's components",
    }
    lines["±"] = "standard error of the difference over cells; bold: better by more than that"
    if ready.mosaic.label_key is None:
        lines["no labels"] = "scores of labels are left out; name a column with --label-key"
    worse = [score.name for score in scores if not score.beats_chance]
    if worse:
        lines["bad"] = f"not better than chance: {'; '.join(worse)}"
    console.print(legend(lines), highlight=False)
    console.print()


def _write(
    ready: Prepared,
    scores: list[Score],
    out: Path,
    console: Console,
    *,
    seed: int,
) -> None:
    """Write the MuData with the scores, and the picture."""
    mosaic = ready.mosaic
    paths = [out / "demo.h5mu", out / "demo.png"]
    replaced = [path.name for path in paths if path.exists()]
    with step(console, "Write") as current:
        mosaic.mdata.uns[_keys.UNS]["demo"] = {"scores": as_table(scores)}
        mosaic.mdata.write(paths[0])
        batches = [] if mosaic.batch_key is None else [mosaic.batch_key]
        picture(
            paths[1],
            mosaic.mdata,
            ready.model.history,
            scores,
            title=f"CLUE on {mosaic.name}: {mosaic.mdata.n_obs:,} cells, seed {seed}",
            batch_key=mosaic.batch_key,
            colors=["pairing", *batches, mosaic.label_key or CLUSTERS],
        )
        current.detail = " and ".join(short(path) for path in paths)
        if replaced:
            current.detail += f" (replaced: {', '.join(replaced)})"
