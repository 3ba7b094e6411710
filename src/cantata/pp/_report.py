"""How reports are printed: in a terminal, with ``rich.print`` and in a notebook."""

from __future__ import annotations

import html
import io
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd


class Report:
    """A table and facts below it. Subclasses give both."""

    @property
    def _headings(self) -> tuple[str, str]:
        """Title of the table, and what its rows are."""
        raise NotImplementedError

    def _table(self) -> pd.DataFrame:
        """Entries of the table, as text."""
        raise NotImplementedError

    def _facts(self) -> list[tuple[str, str]]:
        """What each fact is about, and the fact."""
        raise NotImplementedError

    @property
    def _width(self) -> int:
        """Characters per line in a terminal."""
        return 100

    def __rich__(self) -> Group:
        """Table for a rich console."""
        title, row_heading = self._headings
        values = self._table()
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column(row_heading)
        for column in values.columns:
            table.add_column(Text(str(column)), justify="right")
        for label, row in values.iterrows():
            table.add_row(Text(str(label)), *row, style="bold" if label == "all" else None)
        facts = Table.grid(padding=(0, 2))
        for topic, text in self._facts():
            facts.add_row(Text(topic, style="bold"), Text(text))
        return Group(table, facts)

    def __repr__(self) -> str:
        console = Console(
            file=io.StringIO(), width=self._width, color_system=None, force_jupyter=False
        )
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def _repr_html_(self) -> str:
        """Table for a notebook."""
        facts = "".join(
            f"<tr><th style='text-align:left;vertical-align:top'>{html.escape(topic)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for topic, text in self._facts()
        )
        return f"<div>{self._table().to_html(border=0)}<table>{facts}</table></div>"
