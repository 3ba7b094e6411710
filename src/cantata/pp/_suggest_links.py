"""Propose linked features of two modalities from distributions and co-variation alone."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from cantata.pp._link_options import link_options
from cantata.pp._link_tables import links_by_table
from cantata.pp._suggest_alignment import Known, best_alignment, refine, suggested
from cantata.pp._suggest_sides import Side, group_cells, read_side
from cantata.pp._suggest_starts import first_couplings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudata import MuData

N_METACELLS = 50
"""Number of metacells of each modality."""


def suggest_links(
    mdata: MuData,
    a: str,
    b: str,
    *,
    known: pd.DataFrame | None = None,
    layers: Mapping[str, str | None] | None = None,
    transforms: Mapping[str, str | None] | Literal["auto"] = "auto",
    n_links: int | None = None,
    n_top_features: int = 4000,
    n_repeats: int = 5,
    random_state: int = 0,
) -> pd.DataFrame:
    """Propose links."""
    options = link_options(mdata, a, b, layers, transforms, None, False, None)
    table = None if known is None else links_by_table(mdata, a, b, known)
    _check_numbers(n_links, n_top_features, n_repeats, 0 if table is None else len(table))
    ends = {a: "source_index", b: "target_index"}
    sides = {
        name: read_side(
            name,
            mdata[name],
            options.matrices[name],
            options.transforms[name],
            n_top_features,
            np.empty(0, dtype=np.int64) if table is None else table[index].to_numpy(),
        )
        for name, index in ends.items()
    }
    wide, narrow = sorted((a, b), key=lambda name: mdata[name].n_vars, reverse=True)
    links = _known(table, sides[wide], sides[narrow], ends[wide], ends[narrow])
    correlation = _correlation(sides[wide], sides[narrow], links, n_repeats, random_state)
    chosen = suggested(correlation, links)
    n_known = 0 if links is None else links.a.size
    result = pd.DataFrame(
        {
            wide: mdata[wide].var_names[sides[wide].features[chosen.a]],
            narrow: mdata[narrow].var_names[sides[narrow].features[chosen.b]],
            "score": correlation[chosen.a, chosen.b],
            "known": np.arange(chosen.a.size) < n_known,
        }
    )
    return _ranked(result.rename(columns={a: "source", b: "target"}), n_links)


def _check_numbers(n_links: int | None, n_top: int, n_repeats: int, n_known: int) -> None:
    if n_links is not None and n_links < max(n_known, 1):
        raise ValueError(
            f"n_links={n_links}: give at least {max(n_known, 1)}, the number of known links is "
            f"{n_known}."
        )
    for name, value in (("n_top_features", n_top), ("n_repeats", n_repeats)):
        if value < 1:
            raise ValueError(f"{name}={value}: give a positive number.")


def _known(
    table: pd.DataFrame | None, wide: Side, narrow: Side, first: str, second: str
) -> Known | None:
    """Known links as columns of the two sides; those with a constant end are left out."""
    if table is None:
        return None
    ends = table[first].to_numpy(), table[second].to_numpy()
    varies = np.isin(ends[0], wide.features) & np.isin(ends[1], narrow.features)
    if not varies.all():
        row = table.iloc[int(np.flatnonzero(~varies)[0])]
        text = (
            f"known: {(~varies).sum()} of {len(table)} links have an end that does not vary, "
            f"e.g. {row['source']!r} with {row['target']!r}"
        )
        if not varies.any():
            raise ValueError(f"{text}. None is left.")
        warnings.warn(f"{text}; they are left out.", UserWarning, stacklevel=3)
    columns = (
        pd.Index(side.features).get_indexer(end[varies])
        for side, end in zip((wide, narrow), ends, strict=True)
    )
    return Known(*columns)


def _correlation(
    wide: Side, narrow: Side, known: Known | None, n_repeats: int, random_state: int
) -> np.ndarray:
    """Correlation (features of wide, features of narrow) over matched cells, mean of repeats."""
    from rich.progress import track

    total = np.zeros((wide.features.size, narrow.features.size))
    for repeat in track(range(n_repeats), description="Suggesting links", transient=True):
        rng = np.random.default_rng([random_state, repeat])
        a, b = (group_cells(side, N_METACELLS, rng) for side in (wide, narrow))
        couplings = refine(a, b, first_couplings(a, b, known, int(rng.integers(2**31))), known)
        total += best_alignment(a, b, couplings, known).correlation
    return total / n_repeats


def _ranked(table: pd.DataFrame, n_links: int | None) -> pd.DataFrame:
    """Known links first, then by score; links that are not positive are no suggestions."""
    table = table[table["known"] | (table["score"] > 0)]
    table = table.sort_values(["known", "score"], ascending=False, kind="stable")[:n_links]
    table["rank"] = np.arange(1, len(table) + 1)
    return table[["source", "target", "score", "rank", "known"]].reset_index(drop=True)
