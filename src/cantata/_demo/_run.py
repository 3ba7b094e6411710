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

from cantata import _keys, pp
from cantata._demo._baseline import canonical_embedding, joint_embedding
from cantata._demo._data import DemoError, Mosaic, hold_back, load, training_part
from cantata._demo._imputation import Imputation, target_modality
from cantata._demo._picture import picture
from cantata._demo._scores import (
    SECTIONS,
    K,
    Cells,
    Embedding,
    Score,
    as_table,
    cluster_score,
    embedding_scores,
)
from cantata._demo._table import legend, score_table
from cantata._demo._terminal import EpochBar, available, few_threads, quiet, say, shown, step
from cantata.data._obs import coalesce_obs
from cantata.data._pairing import row_table

if TYPE_CHECKING:
    import pandas as pd
    from mudata import MuData
    from rich.console import Console

    from cantata import CLUE

CLUSTERS = "leiden_clue"
"""Column with the clusters."""

HELD_OUT = "held_out"
"""Column that tells which cells training did not see."""

SIMPLE = "CCA"


@dataclass(frozen=True)
class Options:
    """What can be asked of the demo."""

    data: Path | None = None
    model: str = "clue"
    label_key: str | None = None
    batch_key: str | None = None
    out: Path = Path()
    seed: int = 0
    epochs: int | None = None
    accelerator: str = "auto"


@dataclass(frozen=True)
class Prepared:
    """What is ready before training."""

    mosaic: Mosaic
    held: np.ndarray
    train: MuData
    model: CLUE
    records: dict[str, Any]
    """What preprocessing recorded of each modality."""

    @property
    def kinds(self) -> dict[str, str]:
        """What each modality measures."""
        return {name: str(record["kind"]) for name, record in self.records.items()}


def run(options: Options) -> pd.DataFrame:
    """Run the demo and write ``demo.h5mu`` and ``demo.png``.

    Parameters
    ----------
    options
        What is asked.

    Returns
    -------
    Table of the scores.

    Raises
    ------
    DemoError
        If the data or the options cannot be used; the message says why.
    """
    from rich.console import Console

    console = Console(file=sys.stdout)
    start = time.perf_counter()
    with quiet(console):
        try:
            ready = _prepare(options, console)
        except (KeyError, TypeError, ValueError) as error:
            raise DemoError(str(error.args[0] if error.args else error)) from error
        kept_epoch = _train(ready.model, options, console)
        simple = _embed(ready, options, console)
        scores = _scores(ready, simple, options, console)
        table = as_table(scores)
        ready.mosaic.mdata.uns[_keys.UNS]["demo"] = {"scores": table}
        _report(console, ready, scores)
        _write(ready, scores, options, kept_epoch, console)
    console.print(f"Done in {time.perf_counter() - start:.0f} s.", highlight=False)
    return table


def _prepare(options: Options, console: Console) -> Prepared:
    """Everything that the user's input can fail."""
    import scvi

    import cantata

    out = options.out
    if out.exists() and not out.is_dir():
        raise DemoError(f"--out: {out} is a file, not a directory.")
    out.mkdir(parents=True, exist_ok=True)
    if not available(options.accelerator):
        raise DemoError(f"--accelerator: there is no {options.accelerator} here.")
    scvi.settings.seed = options.seed
    with step(console, "Data") as current:
        mosaic = load(options.data, options.label_key, options.batch_key, seed=options.seed)
        mdata = mosaic.mdata
        current.detail = (
            f"{mosaic.name}; labels: {mosaic.label_key or 'none'}, "
            f"batches: {mosaic.batch_key or 'none'}"
        )
    for note in mosaic.notes:
        say(console, "note", note)
    report = pp.pairing_report(mdata, batch_key=mosaic.batch_key)
    console.print(report)
    console.print()
    if report.model != options.model.upper():
        raise DemoError(f"{options.model.upper()} does not fit this data. {report.reason}")
    held = hold_back(mosaic, seed=options.seed)
    train = training_part(mdata, held)
    with step(console, "Preprocess") as current:
        try:
            pp.preprocess(train, batch_key=mosaic.batch_key, layers=mosaic.counts)
        except ValueError as error:
            where = "The demo reads counts from .layers['counts'], or else from .X."
            raise DemoError(f"{error} {where}") from error
        pp.preprocess(mdata, reference=train, layers=mosaic.counts)
        found = train.uns[_keys.UNS][_keys.PREPROCESS]
        records = {name: found[name] for name in train.mod}
        current.detail = ", ".join(
            f"{name} as {record['kind']}: {record['n_comps']} components"
            for name, record in records.items()
        )
    cantata.CLUE.setup_mudata(
        train,
        layers={name: str(record["counts_layer"]) for name, record in records.items()},
        batch_key=mosaic.batch_key,
    )
    return Prepared(mosaic, held, train, cantata.CLUE(train), records)


def _train(model: CLUE, options: Options, console: Console) -> int | None:
    """Train, and return the epoch whose weights were kept."""
    start = time.perf_counter()
    with (
        few_threads(model.adata.n_vars),
        contextlib.redirect_stdout(io.StringIO()),  # the trainer prints why it stopped
    ):
        model.train(
            options.epochs,
            accelerator=options.accelerator,
            enable_progress_bar=False,
            callbacks=[EpochBar(console)],
        )
    n_epochs = len(model.history["train_loss"])
    detail, kept = f"{n_epochs} epochs", None
    if "foscttm_validation" in model.history:
        curve = model.history["foscttm_validation"].iloc[:, 0].astype(float)
        kept = int(curve.index[int(np.argmin(curve.to_numpy()))])
        detail += f", epoch {kept} kept (FOSCTTM {curve.min():.3f} on validation cells)"
    say(console, "Train", detail, time.perf_counter() - start)
    return kept


def _embed(ready: Prepared, options: Options, console: Console) -> Embedding:
    """Write the model's results, its UMAP and clusters; return the simple method's embedding."""
    import scanpy as sc

    mdata, seed = ready.mosaic.mdata, options.seed
    target = target_modality(mdata, ready.kinds)
    with step(console, "Embed") as current:
        imputed = [target] if mdata[target].n_vars <= 1000 else []
        with few_threads(mdata.n_vars):
            ready.model.write_results(mdata, imputed=imputed)
        mdata.obs[HELD_OUT] = ready.held
        sc.pp.neighbors(mdata, use_rep="X_clue", random_state=seed)
        sc.tl.umap(mdata, random_state=seed)
        _leiden(mdata, seed)
        n_clusters = mdata.obs[CLUSTERS].nunique()
        current.detail = f"X_clue of {mdata.n_obs:,} cells, UMAP, {n_clusters} Leiden clusters"
    rows = row_table(mdata, list(ready.records))
    reps = {m: np.asarray(mdata[m].obsm[str(r["rep"])]) for m, r in ready.records.items()}
    own = canonical_embedding(reps, rows, ~ready.held)
    return Embedding(joint_embedding(own, rows), own)


def _leiden(data: Any, seed: int) -> None:
    import scanpy as sc

    sc.tl.leiden(
        data,
        key_added=CLUSTERS,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=seed,
    )


def _clusters(embedding: np.ndarray, seed: int) -> np.ndarray:
    """Leiden clusters of any embedding, as those of the model are made."""
    import scanpy as sc
    from anndata import AnnData

    data = AnnData(obsm={"X": embedding.astype(np.float32)})
    sc.pp.neighbors(data, use_rep="X", random_state=seed)
    _leiden(data, seed)
    return data.obs[CLUSTERS].to_numpy()


def _scores(ready: Prepared, simple: Embedding, options: Options, console: Console) -> list[Score]:
    """All scores, those of one section together."""
    mosaic, mdata = ready.mosaic, ready.mosaic.mdata
    rows = row_table(mdata, list(ready.records))
    labels = None
    if mosaic.label_key is not None:
        labels = coalesce_obs(mdata, mosaic.label_key).to_numpy(dtype=object)
    cells = Cells(rows, ready.held, labels)
    key = _keys.embedding(ready.model.method)
    own = {name: np.asarray(mdata[name].obsm[key]) for name in rows}
    ours = Embedding(np.asarray(mdata.obsm[key]), own)
    with step(console, "Score") as current:
        scores = list(embedding_scores(cells, ours, simple, SIMPLE))
        if labels is not None:
            clusters = mdata.obs[CLUSTERS].to_numpy()
            theirs = _clusters(simple.joint, options.seed)
            scores.append(cluster_score(cells, clusters, theirs, SIMPLE, seed=options.seed))
        target = target_modality(mdata, ready.kinds)
        imputation = Imputation(ready.model, mdata, cells, target, ready.records)
        with few_threads(mdata.n_vars):
            scores += imputation.scores(mosaic.truth)
        scores.sort(key=lambda score: SECTIONS.index(score.section))
        current.detail = f"{len(scores)} scores; {ready.held.sum():,} paired cells were held out"
    return scores


def _report(console: Console, ready: Prepared, scores: list[Score]) -> None:
    """Print the table and how to read it."""
    console.print(score_table(scores, type(ready.model).__name__))
    lines = {
        "held-out": "paired cells that training did not see, each modality by itself",
        "training": "cells that training saw, without their labels",
        "FOSCTTM": "fraction of cells closer than the true partner; low is good",
        "matching": "probability given to the true partner",
        "labels": f"share of right labels, {K} nearest neighbours",
        "r": "Pearson correlation of log counts over cells, mean over features",
        "CCA": "regularised canonical correlation on the components that CLUE reads",
        "k-NN": "mean of 15 nearest paired training cells, by the source's components",
    }
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
    options: Options,
    kept_epoch: int | None,
    console: Console,
) -> None:
    """Write the MuData and the picture."""
    mosaic = ready.mosaic
    paths = [options.out / "demo.h5mu", options.out / "demo.png"]
    replaced = [path.name for path in paths if path.exists()]
    with step(console, "Write") as current:
        mosaic.mdata.write(paths[0])
        batches = [] if mosaic.batch_key is None else [mosaic.batch_key]
        picture(
            paths[1],
            mosaic.mdata,
            ready.model.history,
            scores,
            title=f"CLUE on {mosaic.name}: {mosaic.mdata.n_obs:,} cells, seed {options.seed}",
            batch_key=mosaic.batch_key,
            colors=["pairing", *batches, mosaic.label_key or CLUSTERS],
            kept_epoch=kept_epoch,
        )
        current.detail = " and ".join(shown(path) for path in paths)
        if replaced:
            current.detail += f" (replaced: {', '.join(replaced)})"
