"""What the demo shows: lines and a table in the terminal, and one picture."""

from __future__ import annotations

import logging
import textwrap
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich import box
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cantata import pl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer
    from matplotlib.axes import Axes
    from mudata import MuData
    from rich.console import Console

    from cantata._demo._scores import Score

CHATTY = ("lightning.pytorch", "lightning.fabric", "scvi")
"""Loggers whose remarks on seeds, devices and names of columns tell a user of the demo nothing."""

FEATURES_PER_THREAD = 10_000

TITLE_WIDTH = 11
"""Columns that the title of a line takes."""

MODEL_COLOR, SIMPLE_COLOR, CHANCE_COLOR = "#2f6b9a", "#b9c6d2", "#c44e52"

CURVES = ("objective", "foscttm", "alignment", "discriminator")
"""Terms of the history that are drawn, as far as they exist."""


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
    """Print a title, a text and how long it took: one line, which a terminal wraps at words."""
    style = "yellow" if seconds is None else "bold"
    took = "" if seconds is None else f" ({seconds:.1f} s)"
    lines = [text + took]
    if console.is_terminal:
        width = max(console.width - TITLE_WIDTH, 1)
        lines = textwrap.wrap(lines[0], width, break_long_words=False, break_on_hyphens=False)
    for row, line in enumerate(lines or [""]):
        start = f"{title:<{TITLE_WIDTH - 1}}" if row == 0 else " " * (TITLE_WIDTH - 1)
        marked = f"[{style}]{start}[/{style}] {escape(line)}"
        console.print(marked, highlight=False, soft_wrap=True)


@contextmanager
def quiet(console: Console) -> Iterator[None]:
    """Silence remarks of other packages, and print warnings of cantata as notes."""
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
    keeps it waiting. `n_features` are those of all modalities.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, max(1, n_features // FEATURES_PER_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available(accelerator: str) -> bool:
    """Whether this machine has an accelerator: ``"auto"``, ``"cpu"``, ``"gpu"`` or ``"mps"``."""
    present = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return present.get(accelerator, True)


def short(path: Path) -> str:
    """Path relative to the working directory, if it lies there."""
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
        """Start the bar, anew in each stage."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
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


# Table of scores ---------------------------------------------------------------------------------


def _number(value: float, other: float, error: float, *, higher: bool) -> str:
    """Three digits, bold where the value is better than the other by more than the error."""
    text, gain = f"{value:.3f}", value - other if higher else other - value
    return f"[bold]{text}[/bold]" if gain > error else text


def score_table(scores: Sequence[Score], model: str) -> Table:
    """Table for a rich console; what is better by more than a standard error is bold.

    Scores of one section stand together in `scores`; `model` is its name.
    """
    table = Table(title="Scores", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("score")
    for name in ("cells", model, "simple", "±", "chance"):
        table.add_column(name, justify="right")
    section = None
    for score in scores:
        if score.section != section:
            section = score.section
            table.add_row(f"[italic]{section}[/italic]")
        higher = score.higher_is_better
        simple = _number(score.simple, score.model, score.error, higher=higher)
        table.add_row(
            f"  {escape(score.name)}",
            score.cells,
            _number(score.model, score.simple, score.error, higher=higher),
            f"{simple} {score.method:<4}",
            f"{score.error:.3f}",
            f"{score.chance:.3f}",
        )
    return table


def legend(lines: Mapping[str, str]) -> Table:
    """How to read the scores: words and what they mean."""
    grid = Table.grid(padding=(0, 2))
    for word, meaning in lines.items():
        grid.add_row(f"[bold]{escape(word)}[/bold]", escape(meaning))
    return grid


# Picture -----------------------------------------------------------------------------------------


def picture(
    path: Path,
    mdata: MuData,
    history: Mapping[str, Any],
    scores: Sequence[Score],
    *,
    title: str,
    batch_key: str | None,
    colors: Sequence[str],
) -> None:
    """Draw pairing, embedding, training curves and scores, and save them as a PNG.

    `batch_key` colors the bars of the pairing patterns, each of `colors` one panel of the UMAP of
    `mdata`.
    """
    lower = max(4.4, 1.2 + 0.42 * len(scores))
    size = (4.6 * (1 + len(colors)), 4.6 + lower)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=size, layout=layout, dpi=130)
    figure.suptitle(title, fontsize=17, fontweight="bold")
    above, below = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[4.2, lower])))
    panels = above.subplots(1, 1 + len(colors))
    pl.pairing(mdata, batch_key=batch_key, ax=panels[0])
    panels[0].set_title("what was measured")
    pl.embedding(mdata, "X_umap", color=list(colors), axes=list(panels[1:]))
    for ax, color in zip(panels[1:], colors, strict=True):
        ax.set_title(f"UMAP of X_clue by {color}")
    left, right = np.ravel(below.subfigures(1, 2, width_ratios=[1, 1.15]))
    _draw_curves(left, history)
    draw_scores(right.subplots(), scores)
    figure.savefig(path)


def _draw_curves(figure: Any, history: Mapping[str, Any]) -> None:
    """Training curves."""
    terms = [term for term in CURVES if any(name.startswith(f"{term}_") for name in history)]
    axes = figure.subplots(-(-len(terms) // 2), 2, squeeze=False).ravel()
    for unused in axes[len(terms) :]:
        unused.remove()
    pl.history(history, terms, axes=list(axes[: len(terms)]))


def draw_scores(ax: Axes, scores: Sequence[Score]) -> None:
    """Bars of the model and of the simple method, with a mark at chance."""
    if not scores:
        ax.text(0.5, 0.5, "too few cells to score", ha="center", va="center")
        ax.set_axis_off()
        return
    y = np.arange(len(scores), dtype=float)[::-1]
    methods = "/".join(dict.fromkeys(score.method for score in scores))
    for shift, label, color, values in (
        (0.2, "CLUE", MODEL_COLOR, [score.model for score in scores]),
        (-0.2, methods, SIMPLE_COLOR, [score.simple for score in scores]),
    ):
        ax.barh(y + shift, values, height=0.36, color=color, label=label)
        for height, value in zip(y + shift, values, strict=True):
            ax.annotate(
                f"{value:.3f}",
                (max(value, 0), height),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
    chance = [score.chance for score in scores]
    ax.vlines(chance, y - 0.42, y + 0.42, colors=CHANCE_COLOR, lw=2, label="chance")
    names = [
        f"{score.name}{'' if score.higher_is_better else ' (lower is better)'}\n{score.section}"
        for score in scores
    ]
    ax.set_yticks(y, names, fontsize="small")
    lowest = min([0.0, *(min(score.model, score.simple) for score in scores)])
    ax.set(xlim=(lowest, 1.08), ylim=(-0.6, len(scores) - 0.4), title="scores")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, frameon=False)
