"""Report which cells have which modalities, and which model fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cantata._mudata.checks import check_mudata, check_obsmap
from cantata._mudata.images import describe_images, recorded_images
from cantata._mudata.kinds import hashtag_hint, kind_of
from cantata._mudata.obs import category_names, check_groups, coalesce_obs
from cantata._mudata.pairing import connected_groups, membership, modality_cells, row_table
from cantata._mudata.patterns import pattern_counts
from cantata._mudata.values import MatrixReader, choose_layer, with_counts
from cantata._numeric.batches import sample_cells
from cantata._numeric.dependence import dependence_p, profile
from cantata.pp._report import Report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mudata import MuData

MIN_PAIRS = 50
"""CLUE is worse with fewer pairs than SCMODAL with none (accuracy .60 with 20, .94 with 50)."""

MIN_CHECKED_PAIRS = 100
"""Of fewer pairs it cannot be said whether they agree better than chance."""

MAX_CHECKED_PAIRS = 1000
"""So many pairs are read to say so."""

MAX_P = 0.05
"""Pairs agree better than chance if no larger share of permutations of the cells is as good."""

MAX_CHANCE_SHARE = 0.05
"""If at most this share of a modality's cells is paired, names may coincide by chance."""

MIN_MATCHES = 0.2
"""If more than this share of a modality's cells is paired once names are cut, they are alike."""

PARTS = {
    "suffix": r"[-_.:#][^-_.:#]*$",
    "prefix": r"^[^-_.:#]*[-_.:#]",
}
"""What names of cells may differ by."""


@dataclass(frozen=True, repr=False)
class PairingReport(Report):
    """What :func:`cantata.pp.pairing_report` found; prints as a table.

    Parameters
    ----------
    counts
        Number of cells, pairing patterns x batches (one column ``"cells"`` without a batch key).
    n_obs
        Number of cells of each modality, those without counts included.
    n_empty
        Number of cells of each modality without counts; in `counts` they are not measured there.
    n_vars
        Number of features of each modality.
    pairs
        For each two modalities, the number of cells with both, and ``p``: the share of random
        permutations of these cells in which the modalities go together as well. Above .05 pairs
        may be wrong. Missing for fewer than 100 pairs.
    model
        Recommended model, or None where there is nothing to integrate.
    alternative
        Another model that fits the same pairing but answers another question.
    reason
        One sentence with the numbers behind the recommendation.
    notes
        What may look odd about the data but is harmless, or is worth knowing.
    images
        Size and stains of modalities that hold images. These count as measured, and their pairs
        are not checked.

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
    n_empty: Mapping[str, int]
    pairs: pd.DataFrame
    model: str | None
    alternative: str | None
    reason: str
    notes: tuple[str, ...]
    images: Mapping[str, str] = field(default_factory=dict)

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
        sizes = ", ".join(
            f"{m} {n:,} "
            + (f"({self.images[m]})" if m in self.images else f"x {self.n_vars[m]:,}")
            for m, n in self.n_obs.items()
        )
        model = self.model or "none"
        if self.alternative:
            model += f" (or {self.alternative})"
        facts = [("cells x features", sizes), ("model", model), ("why", self.reason)]
        facts += [
            ("pairs", f"{a} + {b}: {n:,}; {_agreement(p, bool({a, b} & set(self.images)))}")
            for (a, b), n, p in self.pairs.itertuples()
            if n
        ]
        return facts + [("note", note) for note in self.notes]

    @property
    def _width(self) -> int:
        return max(100, sum(max(len(str(c)), 7) + 3 for c in self.counts.columns) + 40)


def _agreement(p: float, of_images: bool) -> str:
    if of_images:
        return "not checked (images are not)"
    if np.isnan(p):
        return f"not checked (at least {MIN_CHECKED_PAIRS} pairs are)"
    better = "better" if p <= MAX_P else "no better"
    return f"they agree {better} than shuffled cells (p = {p:.2f})"


def pairing_report(mdata: MuData, *, batch_key: str | None = None) -> PairingReport:
    """Report which cells have which modalities, and which model fits.

    Names of cells are looked at, whether they match by chance or nearly match, and values: cells
    without counts are not measured, and 1,000 paired cells should agree better than shuffled ones.

    Parameters
    ----------
    mdata
        Any MuData, also a view or backed; nothing is modified.
    batch_key
        Column with the batch, at MuData or modality level. None: all cells together; no column is
        guessed.

    Returns
    -------
    Report with ``counts`` (patterns x batches), ``n_obs``, ``n_vars``, ``n_empty``, ``pairs``,
    ``model``, ``alternative``, ``reason`` and ``notes``. It prints as a table in a terminal, with
    ``rich.print``, and in a notebook.

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
    No cell with two modalities, fewer than 50, or pairs that agree no better than shuffled cells:
    SCMODAL. Some cells with several modalities and others with fewer: CLUE. Every cell with every
    modality: CLUE for one embedding and later queries with one modality, APOLLO to separate shared
    from private information. Paired images: APOLLO.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic()
    >>> report = cantata.pp.pairing_report(mdata)
    >>> int(report.counts.to_numpy().sum()) == mdata.n_obs
    True
    """
    check_mudata(mdata)
    names = list(mdata.mod)
    if not names:
        counts, _ = pattern_counts(mdata, batch_key)
        _, _, reason = choose_model(np.zeros((mdata.n_obs, 0), dtype=bool), names)
        empty = pd.DataFrame(columns=["cells", "p"])
        return PairingReport(counts, {}, {}, {}, empty, None, None, reason, ())
    check_obsmap(mdata, names)
    # 1. what is measured: cells without counts are not
    rows, member = row_table(mdata), membership(mdata)
    full = {name: _with_counts(mdata, name) for name in names}
    n_empty = {name: int((~full[name]).sum()) for name in names}
    for j, name in enumerate(names):
        member[modality_cells(mdata, name)[~full[name]], j] = False
    counts, _ = pattern_counts(mdata, batch_key, member)
    # 2. do cells with two modalities agree better than shuffled ones?
    groups = None
    if batch_key is not None:
        batch = category_names(coalesce_obs(mdata, batch_key))
        check_groups(batch, "batch_key", batch_key)
        groups = pd.factorize(batch)[0]
    pairs = _check_pairs(mdata, rows, member, groups)
    wrong = tuple(pairs.index[pairs["p"] > MAX_P])
    images = {m: describe_images(m, a) for m, a in mdata.mod.items() if recorded_images(a)}
    model, alternative, reason = choose_model(member, names, wrong, tuple(images))
    return PairingReport(
        counts=counts,
        n_obs={name: int(mdata[name].n_obs) for name in names},
        n_vars={name: int(mdata[name].n_vars) for name in names},
        n_empty=n_empty,
        pairs=pairs,
        model=model,
        alternative=alternative,
        reason=reason,
        notes=tuple(_notes(mdata, rows, member, n_empty, pairs)),
        images=images,
    )


def _matrix(mdata: MuData, name: str) -> Any:
    """Values of a modality, or None if it has none, or images."""
    if recorded_images(mdata[name]):
        return None
    layer = choose_layer(mdata, name, {})
    return mdata[name].X if layer is None else mdata[name].layers[layer]


def _with_counts(mdata: MuData, name: str) -> np.ndarray:
    matrix, n_obs = _matrix(mdata, name), mdata[name].n_obs
    return np.ones(n_obs, dtype=bool) if matrix is None else with_counts(matrix, n_obs)


def _check_pairs(
    mdata: MuData,
    rows: Mapping[str, np.ndarray],
    member: np.ndarray,
    groups: np.ndarray | None,
) -> pd.DataFrame:
    """Cells with both of each two modalities, and whether they go together: ``cells``, ``p``."""
    names = list(mdata.mod)
    index = pd.MultiIndex.from_tuples(list(combinations(names, 2)), names=["first", "second"])
    pairs = pd.DataFrame({"cells": 0, "p": np.nan}, index=index)
    for a, b in index:
        cells = np.flatnonzero(member[:, names.index(a)] & member[:, names.index(b)])
        pairs.loc[(a, b), "cells"] = cells.size
        if cells.size < MIN_CHECKED_PAIRS:
            continue
        cells = cells[sample_cells(cells.size, MAX_CHECKED_PAIRS)]
        x, y = (_profile(mdata, name, rows[name][cells]) for name in (a, b))
        if x is not None and y is not None:
            within = None if groups is None else groups[cells]
            pairs.loc[(a, b), "p"] = dependence_p(x, y, within)
    return pairs


def _profile(mdata: MuData, name: str, rows: np.ndarray) -> np.ndarray | None:
    """Components of some cells; None if they have none."""
    matrix = _matrix(mdata, name)
    if matrix is None:
        return None
    kind = kind_of(name, mdata[name])
    try:
        return profile(name, kind, MatrixReader(matrix, keep_sparse=True)(rows))
    except ValueError:  # values that are not finite, or do not vary
        return None


# Notes ------------------------------------------------------------------------------------------


def _notes(
    mdata: MuData,
    rows: Mapping[str, np.ndarray],
    member: np.ndarray,
    n_empty: Mapping[str, int],
    pairs: pd.DataFrame,
) -> list[str]:
    names, notes = list(mdata.mod), []
    for name, n in n_empty.items():
        if n:
            notes.append(
                f"{n:,} of {mdata[name].n_obs:,} cells of {name} have no counts there and count "
                "as not measured. Models refuse them: mdata = cantata.pp.drop_empty(mdata)."
            )
    for (a, b), n, p in pairs.itertuples():
        both = (rows[a] >= 0) & (rows[b] >= 0)
        notes += _notes_on_names(mdata, a, b, int(both.sum()))
        if n and np.isnan(p):
            notes += _notes_on_few_pairs(mdata, a, b, n)
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
    tables = [name for name in names if not recorded_images(mdata[name])]
    notes += [hint for name in tables if (hint := hashtag_hint(name, mdata[name]))]
    nowhere = int((~member).all(axis=1).sum())
    if nowhere:
        notes.append(f"{nowhere:,} cells have no modality at all; no model can use them.")
    return notes


def _notes_on_few_pairs(mdata: MuData, a: str, b: str, n: int) -> list[str]:
    """Suspicion where so few names match that they may coincide."""
    if n > MAX_CHANCE_SHARE * min(mdata[a].n_obs, mdata[b].n_obs):
        return []
    common = mdata[a].obs_names.intersection(mdata[b].obs_names)
    return [
        f"Only {n:,} of {mdata[a].n_obs:,} cells of {a} and {mdata[b].n_obs:,} of {b} share a "
        f"name (e.g. {common[0]}). Barcodes of two experiments coincide so by chance. If these "
        f"are two experiments, make names unique: mdata[{b!r}].obs_names = {b + ':'!r} + "
        f"mdata[{b!r}].obs_names; {REBUILD}"
    ]


REBUILD = "mdata = mudata.MuData(dict(mdata.mod))"


def _notes_on_names(mdata: MuData, a: str, b: str, n: int) -> list[str]:
    """Names that are row numbers, or that would match more cells without a part of them."""
    left, right = (mdata[name].obs_names.astype(str) for name in (a, b))
    if n and all(_are_row_numbers(names) for names in (left, right)):
        return [
            f"Cells of {a} and {b} are named by numbers of rows. They are pairs only if both were "
            "in the same order when they were named."
        ]
    smaller = min(len(left), len(right))
    if n > smaller / 2:
        return []
    for part, pattern in PARTS.items():
        cut = [names.str.replace(pattern, "", regex=True) for names in (left, right)]
        for which in ([a, b], [a], [b]):
            x, y = (
                c if m in which else o for m, c, o in zip((a, b), cut, (left, right), strict=True)
            )
            matches = x.intersection(y)
            telling = not matches.str.fullmatch(r"\d*").all()
            if (
                telling
                and x.is_unique
                and y.is_unique
                and len(matches) > n + MIN_MATCHES * smaller
            ):
                code = (
                    f"for m in {which}: mdata[m].obs_names = "
                    f"mdata[m].obs_names.str.replace(r{pattern!r}, '', regex=True)"
                )
                return [
                    f"Names of cells of {a} and {b} differ by a {part} (e.g. {left[0]} and "
                    f"{right[0]}): {n:,} match, {len(matches):,} would without it. If these are "
                    f"the same cells, rename them. {code}\n{REBUILD}"
                ]
    return []


def _are_row_numbers(names: pd.Index) -> bool:
    return bool(names.str.fullmatch(r"\d+").all()) and bool(
        (names.astype(np.int64) < 2 * len(names)).all()
    )


# The rule ---------------------------------------------------------------------------------------


def choose_model(
    member: np.ndarray,
    modalities: Sequence[str],
    wrong: Sequence[tuple[str, str]] = (),
    images: Sequence[str] = (),
) -> tuple[str | None, str | None, str]:
    """Recommend a model for a pairing (cells x modalities), by a rule on that alone.

    `wrong` are modalities whose pairs agree no better than shuffled cells, `images` those that
    hold images.

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
    if images and n_paired == 0:
        return (
            None,
            None,
            f"None of the {n_cells:,} cells has two modalities, and {' + '.join(images)} hold "
            "images, which APOLLO alone reads and learns from paired cells. SCMODAL reads tables: "
            "cantata.pp.image_features.",
        )
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
    complete = n_complete == n_cells
    groups = connected_groups(
        member, modalities, min_cells=1 if complete else MIN_PAIRS, apart=wrong
    )
    number = (
        f"{n_paired:,} of {n_cells:,} cells ({n_paired / n_cells:.1%}) have several modalities"
    )
    if images:
        doubt = "; ".join(" + ".join(pair) for pair in wrong)
        return (
            "APOLLO",
            None,
            f"{number}, and APOLLO alone reads images ({', '.join(images)}); it separates what "
            "modalities share from what is private to each."
            + (f" Pairs of {doubt} agree no better than shuffled cells: mend that." * bool(doubt)),
        )
    if wrong and len(groups) > 1:
        which = "; ".join(" + ".join(pair) for pair in wrong)
        return (
            "SCMODAL",
            "CLUE",
            f"{number}, but those of {which} agree no better than shuffled cells: cells of one "
            "name may not be one cell, or rows were named in another order. Mend that first. "
            "SCMODAL uses linked features and no pairs; with right pairs CLUE is better.",
        )
    if len(groups) == n_mod:
        return (
            "SCMODAL",
            "CLUE",
            f"Only {number}. CLUE learns from pairs and wants at least {MIN_PAIRS}, better 100, "
            "for each modality; SCMODAL uses linked features and no pairs.",
        )
    if complete:
        return (
            "CLUE",
            "APOLLO",
            f"All {n_cells:,} cells have all {n_mod} modalities: CLUE gives one embedding and "
            "also takes later cells with one modality; APOLLO separates what the modalities share "
            "from what is private to each.",
        )
    detail = "" if n_mod == 2 else f" ({n_complete:,} have all {n_mod})"
    reason = (
        f"{number}{detail}, the others fewer: CLUE learns from the paired cells and embeds every "
        "cell"
    )
    if len(groups) == 1:
        return "CLUE", None, reason + "."
    apart = "; ".join(" + ".join(group) for group in groups)
    few = (
        "no cell connects"
        if len(connected_groups(member, modalities)) > 1
        else (f"fewer than {MIN_PAIRS} cells connect")
    )
    return (
        "CLUE",
        "SCMODAL",
        f"{reason}, but {few} these groups of modalities: {apart}. CLUE can align within a group "
        "only; across groups SCMODAL needs linked features.",
    )
