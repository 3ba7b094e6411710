"""The steps of the demo, in the order in which a user would take them."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cantata import _keys, pp
from cantata._demo._data import DemoError, Prepared, hold_back, load, training_part
from cantata._demo._embed import embed
from cantata._demo._results import all_scores, report, write
from cantata._demo._scores import as_table
from cantata._demo._terminal import EpochBar, available, few_threads, quiet, say, step

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from cantata import CLUE


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
        ours, simple = embed(ready, console, seed=options.seed)
        scores = all_scores(ready, ours, simple, console, seed=options.seed)
        report(ready, scores, console)
        write(ready, scores, options.out, console, kept_epoch=kept_epoch, seed=options.seed)
    console.print(f"Done in {time.perf_counter() - start:.0f} s.", highlight=False)
    return as_table(scores)


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
