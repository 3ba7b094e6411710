"""Report which cells have which modalities, and which model fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from mudata import MuData

from cantata._mudata.pairing import connected_groups, membership, row_table
from cantata._mudata.patterns import pattern_counts
from cantata.pp._report import Report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd


@dataclass(frozen=True, repr=False)
class PairingReport(Report):
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

    @property
    def _headings(self) -> tuple[str, str]:
        return "Pairing", "measured"

    def _table(self) -> pd.DataFrame:
        """Counts with totals; a total column only where there are several batches."""
        table = self.counts.copy()
        if table.shape[1] > 1:
            table["all"] = table.sum(axis=1)
        if len(table) > 1:
            table.loc["all"] = table.sum(axis=0)
        return table.map(lambda n: f"{n:,}" if n else "·")

    def _facts(self) -> list[tuple[str, str]]:
        sizes = ", ".join(f"{m} {n:,} x {self.n_vars[m]:,}" for m, n in self.n_obs.items())
        model = self.model or "none"
        if self.alternative:
            model += f" (or {self.alternative})"
        facts = [("cells x features", sizes), ("model", model), ("why", self.reason)]
        return facts + [("note", note) for note in self.notes]

    @property
    def _width(self) -> int:
        return max(100, sum(max(len(str(c)), 7) + 3 for c in self.counts.columns) + 40)


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
    if not isinstance(mdata, MuData):
        raise TypeError(
            f"Expected a MuData, got {type(mdata).__name__}. Wrap it: "
            "mudata.MuData({'rna': adata})."
        )
    names = list(mdata.mod)
    counts, _ = pattern_counts(mdata, batch_key)
    member = membership(mdata) if names else np.zeros((mdata.n_obs, 0), dtype=bool)
    model, alternative, reason = choose_model(member, names)
    return PairingReport(
        counts=counts,
        n_obs={name: int(n) for name, n in zip(names, member.sum(axis=0), strict=True)},
        n_vars={name: int(mdata[name].n_vars) for name in names},
        model=model,
        alternative=alternative,
        reason=reason,
        notes=_notes(mdata),
    )


def choose_model(
    member: np.ndarray, modalities: Sequence[str]
) -> tuple[str | None, str | None, str]:
    """Recommend a model for a pairing (cells x modalities), by a rule on that alone.

    Returns
    -------
    The model (None with fewer than two modalities), an alternative, and one sentence with the
    numbers behind it.
    """
    n_cells, n_mod = member.shape
    n_measured = member.sum(axis=1)
    n_paired = int((n_measured > 1).sum())
    n_complete = int((n_measured == n_mod).sum())
    if n_mod < 2:
        what = f"only {modalities[0]!r}" if n_mod else "no modality"
        return None, None, f"The MuData holds {what}: there is nothing to integrate."
    if n_paired == 0:
        sizes = ", ".join(
            f"{name} {n:,}" for name, n in zip(modalities, member.sum(axis=0), strict=True)
        )
        return (
            "SCMODAL",
            None,
            f"None of the {n_cells:,} cells has two modalities ({sizes}): only linked features "
            "can tell which cells belong together, which is what SCMODAL uses.",
        )
    if n_complete == n_cells:
        return (
            "CLUE",
            "APOLLO",
            f"All {n_cells:,} cells have all {n_mod} modalities: CLUE gives one embedding and "
            "also takes later cells with one modality; APOLLO separates what the modalities share "
            "from what is private to each.",
        )
    detail = "" if n_mod == 2 else f" ({n_complete:,} have all {n_mod})"
    reason = (
        f"{n_paired:,} of {n_cells:,} cells ({n_paired / n_cells:.1%}) have several "
        f"modalities{detail}, the others fewer: CLUE learns from the paired cells and embeds "
        "every cell"
    )
    groups = connected_groups(member, modalities)
    if len(groups) == 1:
        return "CLUE", None, reason + "."
    apart = "; ".join(" + ".join(group) for group in groups)
    return (
        "CLUE",
        "SCMODAL",
        f"{reason}, but no cell connects these groups of modalities: {apart}. CLUE can align "
        "within a group only; across groups SCMODAL needs linked features.",
    )
