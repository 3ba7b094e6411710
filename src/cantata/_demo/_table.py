"""The scores as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from cantata._demo._scores import Score


def _figure(value: float, other: float, *, higher: bool) -> str:
    """Three digits, bold where the value is at least as good as the other."""
    text = f"{value:.3f}"
    return f"[bold]{text}[/bold]" if (value >= other if higher else value <= other) else text


def score_table(scores: Sequence[Score], model: str) -> Table:
    """Table for a rich console; the better of the model and the simple method is bold.

    Parameters
    ----------
    scores
        Scores; those of one section belong together.
    model
        Name of the model.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Scores", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("score")
    for name in ("cells", model, "simple", "chance"):
        table.add_column(name, justify="right")
    section = None
    for score in scores:
        if score.section != section:
            section = score.section
            table.add_row(f"[italic]{section}[/italic]")
        higher = score.higher_is_better
        simple = _figure(score.simple, score.model, higher=higher)
        table.add_row(
            f"  {escape(score.name)}",
            score.cells,
            _figure(score.model, score.simple, higher=higher),
            f"{simple} {score.method:<4}",
            f"{score.chance:.3f}",
        )
    return table


def legend(lines: Mapping[str, str]) -> Table:
    """How to read the scores: what each word means.

    Parameters
    ----------
    lines
        Words and their meaning.
    """
    from rich.markup import escape
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for word, meaning in lines.items():
        grid.add_row(f"[bold]{escape(word)}[/bold]", escape(meaning))
    return grid
