"""Which cells have which modalities, as a table that people like to read."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cantata._mudata.pairing import membership, row_table
from cantata._mudata.patterns import pattern_counts
from cantata.pp._qualify import choose_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from mudata import MuData
    from rich.console import Group


@dataclass(frozen=True, repr=False)
class PairingReport:
    """What :func:`cantata.pp.pairing_report` found; prints as a table.

    Parameters
    ----------
    counts
        Number of cells, pairing patterns x batches (one column ``"cells"`` without a batch key).
    n_obs
        Number of cells of each modality.
    n_vars
        Number of features of each modality.
    model
        Recommended model, or None where there is nothing to integrate.
    alternative
        Another model that fits the same pairing but answers another question.
    reason
        One sentence with the numbers behind the recommendation.
    notes
        What may look odd about the data but is harmless, or is worth knowing.

    Examples
    --------
    >>> import cantata
    >>> report = cantata.pp.pairing_report(cantata.datasets.simulate_mosaic())
    >>> report.model
    'CLUE'
    """

    counts: pd.DataFrame
    n_obs: Mapping[str, int]
    n_vars: Mapping[str, int]
    model: str | None
    alternative: str | None
    reason: str
    notes: tuple[str, ...]

    def _lines(self) -> list[tuple[str, str]]:
        sizes = ", ".join(f"{m} {n:,} x {self.n_vars[m]:,}" for m, n in self.n_obs.items())
        model = self.model or "none"
        if self.alternative:
            model += f" (or {self.alternative})"
        lines = [("cells x features", sizes), ("model", model), ("why", self.reason)]
        return lines + [("note", note) for note in self.notes]

    def _table(self) -> pd.DataFrame:
        """Counts with totals; a total column only where there are several batches."""
        table = self.counts.copy()
        if table.shape[1] > 1:
            table["all"] = table.sum(axis=1)
        if len(table) > 1:
            table.loc["all"] = table.sum(axis=0)
        return table

    def __rich__(self) -> Group:
        """Table for a rich console."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title="Pairing", title_justify="left", box=box.SIMPLE_HEAD)
        counts = self._table()
        table.add_column("measured")
        for column in counts.columns:
            table.add_column(Text(str(column)), justify="right")
        for pattern, row in counts.iterrows():
            style = "bold" if pattern == "all" else None
            table.add_row(Text(str(pattern)), *(f"{n:,}" if n else "·" for n in row), style=style)
        facts = Table.grid(padding=(0, 2))
        for key, text in self._lines():
            facts.add_row(Text(key, style="bold"), Text(text))
        return Group(table, facts)

    def __repr__(self) -> str:
        from rich.console import Console

        widest = sum(max(len(str(c)), 7) + 3 for c in self.counts.columns) + 40
        console = Console(
            file=io.StringIO(), width=max(100, widest), color_system=None, force_jupyter=False
        )
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def _repr_html_(self) -> str:
        """Table for a notebook."""
        table = self._table().to_html(border=0, formatters=[_thousands] * self._table().shape[1])
        facts = "".join(
            f"<tr><th style='text-align:left;vertical-align:top'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for key, text in self._lines()
        )
        return f"<div>{table}<table>{facts}</table></div>"


def _thousands(value: int) -> str:
    return f"{value:,}" if value else "·"


def _notes(mdata: MuData) -> tuple[str, ...]:

    names, notes = list(mdata.mod), []
    rows = row_table(mdata)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = (rows[a] >= 0) & (rows[b] >= 0)
            order = np.argsort(rows[a][both])
            if np.any(np.diff(rows[b][both][order]) < 0):
                notes.append(
                    f"The rows of {a} and {b} are in different orders. That is no problem: cells "
                    "are matched by name."
                )
            common = mdata[a].var_names.intersection(mdata[b].var_names)
            if len(common):
                notes.append(
                    f"{len(common):,} feature names occur in both {a} and {b} (e.g. {common[0]}). "
                    "That is harmless: features are told apart by modality."
                )
    nowhere = int(np.all([r < 0 for r in rows.values()], axis=0).sum()) if names else 0
    if nowhere:
        notes.append(f"{nowhere:,} cells have no modality at all; no model can use them.")
    return tuple(notes)


def pairing_report(mdata: MuData, *, batch_key: str | None = None) -> PairingReport:
    """Report which cells have which modalities, and which model fits.

    Parameters
    ----------
    mdata
        Any MuData, also a view or backed; matrices are not read and nothing is modified.
    batch_key
        Column with the batch, at MuData or modality level. None: all cells together; no column is
        guessed.

    Returns
    -------
    Report with ``counts`` (patterns x batches), ``n_obs``, ``n_vars``, ``model``, ``alternative``,
    ``reason`` and ``notes``. It prints as a table in a terminal, with ``rich.print``, and in a
    notebook.

    Raises
    ------
    TypeError
        If `mdata` is no MuData.
    KeyError
        If `batch_key` is nowhere.
    ValueError
        If two columns named `batch_key` disagree about a cell.

    Notes
    -----
    No cell with two modalities: SCMODAL. Some cells with several modalities and others
    with fewer: CLUE. Every cell with every modality: CLUE for one embedding and later queries with
    one modality, APOLLO to separate shared from private information.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic()
    >>> report = cantata.pp.pairing_report(mdata)
    >>> int(report.counts.to_numpy().sum()) == mdata.n_obs
    True
    """
    from mudata import MuData

    if not isinstance(mdata, MuData):
        raise TypeError(
            f"Expected a MuData, got {type(mdata).__name__}. Wrap it: "
            f"mudata.MuData({{'rna': adata}})."
        )
    names = list(mdata.mod)
    counts, _ = pattern_counts(mdata, batch_key)
    member = membership(mdata) if names else np.zeros((mdata.n_obs, 0), dtype=bool)
    choice = choose_model(member, names)
    return PairingReport(
        counts=counts,
        n_obs={name: int(n) for name, n in zip(names, member.sum(axis=0), strict=True)},
        n_vars={name: int(mdata[name].n_vars) for name in names},
        model=choice.model,
        alternative=choice.alternative,
        reason=choice.reason,
        notes=_notes(mdata),
    )
