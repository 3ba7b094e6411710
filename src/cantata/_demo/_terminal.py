"""What the demo says while it runs, and what it keeps from being said."""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer
    from rich.console import Console

CHATTY = ("lightning.pytorch", "lightning.fabric", "scvi")
"""Loggers whose remarks on seeds, devices and names of columns tell a user of the demo nothing."""

FEATURES_PER_THREAD = 10_000


class Step:
    """A step of the demo; `detail` is what its line says when it is done."""

    def __init__(self) -> None:
        self.detail = ""


@contextmanager
def step(console: Console, title: str) -> Iterator[Step]:
    """A spinner while a step runs, and one line with its result and its seconds afterwards."""
    start, current = time.perf_counter(), Step()
    with console.status(f"{title} ..."):
        yield current
    say(console, title, current.detail, time.perf_counter() - start)


def say(console: Console, title: str, text: str, seconds: float | None = None) -> None:
    """Print one line: a title, a text and how long it took."""
    style = "yellow" if seconds is None else "bold"
    took = "" if seconds is None else f" [dim]({seconds:.1f} s)[/dim]"
    console.print(
        f"[{style}]{title:<10}[/{style}] {escape(text)}{took}", highlight=False, soft_wrap=True
    )


@contextmanager
def quiet(console: Console) -> Iterator[None]:
    """Silence remarks of other packages, and print warnings of cantata as notes.

    Parameters
    ----------
    console
        Where the notes go.
    """
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]

    def note(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
        say(console, "note", str(message))

    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=UserWarning, module=r"cantata(\.|$)")
            warnings.showwarning = note
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def few_threads(n_features: int) -> Iterator[None]:
    """Let torch use as many threads as its products are worth, and no more than it uses already.

    Small products gain nothing from a second thread, and lose a hundredfold where another program
    keeps it waiting.

    Parameters
    ----------
    n_features
        Features of all modalities.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, max(1, n_features // FEATURES_PER_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available(accelerator: str) -> bool:
    """Whether this machine has an accelerator: ``"auto"``, ``"cpu"``, ``"gpu"`` or ``"mps"``."""
    found = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return found.get(accelerator, True)


def shown(path: Path) -> str:
    """Path as short as it can be told from here."""
    here = path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


class EpochBar(Callback):
    """Progress bar over the epochs of a training, with the quantity that early stopping watches.

    Parameters
    ----------
    console
        Where the bar is drawn; without a terminal it is drawn once, at the end.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]Train     [/bold] epoch"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[score]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the bar."""
        self._task = self._progress.add_task("", total=trainer.max_epochs, score="")
        self._progress.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Advance the bar."""
        value = trainer.callback_metrics.get("foscttm_validation")
        score = "" if value is None else f"FOSCTTM {float(value):.3f}"
        self._progress.update(self._task, advance=1, score=score)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._progress.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar."""
        self._progress.stop()
