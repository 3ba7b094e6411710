"""Scores, table, file and picture of the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cantata import _keys
from cantata._demo._embed import CLUSTERS, clusters
from cantata._demo._imputation import Imputation, target_modality
from cantata._demo._picture import picture
from cantata._demo._scores import (
    SECTIONS,
    Cells,
    Embedding,
    K,
    Score,
    as_table,
    cluster_score,
    embedding_scores,
)
from cantata._demo._table import legend, score_table
from cantata._demo._terminal import few_threads, shown, step
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import row_table

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from cantata._demo._data import Prepared

SIMPLE = "CCA"


def all_scores(
    ready: Prepared, ours: Embedding, simple: Embedding, console: Console, *, seed: int
) -> list[Score]:
    """All scores, those of one section together.

    Parameters
    ----------
    ready
        Data and trained model.
    ours, simple
        Embeddings of the model and of the simple method.
    console
        Where to say so.
    seed
        Seed of clusters.
    """
    mosaic, mdata = ready.mosaic, ready.mosaic.mdata
    labels = None
    if mosaic.label_key is not None:
        labels = coalesce_obs(mdata, mosaic.label_key).to_numpy(dtype=object)
    cells = Cells(row_table(mdata, list(ready.records)), ready.held, labels)
    with step(console, "Score") as current:
        scores = list(embedding_scores(cells, ours, simple, SIMPLE))
        if labels is not None:
            found, theirs = mdata.obs[CLUSTERS].to_numpy(), clusters(simple.joint, seed)
            scores.append(cluster_score(cells, found, theirs, SIMPLE, seed=seed))
        target = target_modality(mdata, ready.kinds)
        imputation = Imputation(ready.model, mdata, cells, target, ready.records)
        with few_threads(mdata.n_vars):
            scores += imputation.scores(mosaic.truth)
        scores.sort(key=lambda score: SECTIONS.index(score.section))
        current.detail = f"{len(scores)} scores; {ready.held.sum():,} paired cells were held out"
    return scores


def report(ready: Prepared, scores: list[Score], console: Console) -> None:
    """Print the table and how to read it.

    Parameters
    ----------
    ready
        Data and trained model.
    scores
        Scores, those of one section together.
    console
        Where to print.
    """
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


def write(
    ready: Prepared,
    scores: list[Score],
    out: Path,
    console: Console,
    *,
    kept_epoch: int | None,
    seed: int,
) -> None:
    """Write the MuData with the scores, and the picture.

    Parameters
    ----------
    ready
        Data with all results, and the trained model.
    scores
        Scores.
    out
        Directory.
    console
        Where to say so.
    kept_epoch
        Epoch whose weights were kept.
    seed
        Seed, for the title.
    """
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
            kept_epoch=kept_epoch,
        )
        current.detail = " and ".join(shown(path) for path in paths)
        if replaced:
            current.detail += f" (replaced: {', '.join(replaced)})"
