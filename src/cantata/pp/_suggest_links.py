"""Propose linked features of two modalities from distributions and co-variation alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from cantata._mudata.checks import warn_user
from cantata.pp._links._tables import links_by_table
from cantata.pp._links._values import choose_values
from cantata.pp._suggest._matching import (
    ColumnPairs,
    best_correlation,
    first_couplings,
    refine,
    suggested,
)
from cantata.pp._suggest._metacells import ModalitySample, group_cells, read_modality

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
    seed: int = 0,
) -> pd.DataFrame:
    """Propose linked features where few links, or none, are known.

    The need for links is the limitation that Wang et al. 2025 (scMODAL) name. This looks at how
    features are distributed over the cells of each modality and how they vary with each other. The
    cells of each modality are grouped into metacells. Groups of one modality are matched to groups
    of the other by independent components of alike distribution, by the totals of cells, and by
    known links; each matching is improved by turns of canonical correlation and optimal transport,
    and the one is kept whose own suggestions bring the modalities closest. For each feature of the
    narrower modality the feature of the other is proposed that it goes with best over matched
    groups.

    Parameters
    ----------
    mdata
        MuData with both modalities. No pair of cells is used, and nothing is written.
    a, b
        Modalities to link.
    known
        Links that are known, columns ``source`` (features of `a`) and ``target`` (of `b`). A few
        help much: they turn a guess about populations into one about features.
    layers, transforms
        As for :func:`cantata.pp.link_features`.
    n_links
        Return at most so many links, the known ones included; all by default.
    n_top_features
        Look at so many features of a modality, those that vary most.
    n_repeats
        Average over so many groupings into metacells.
    seed
        Seed of the groupings.

    Returns
    -------
    Table with the columns ``source``, ``target``, ``score`` (correlation over matched groups),
    ``rank`` and ``known``: known links first, then suggestions by descending score, which is
    positive. Each feature of the narrower modality is suggested at most once.

    Raises
    ------
    KeyError
        If a modality, a layer or a feature of `known` does not exist.
    TypeError
        If `mdata` is no MuData or `known` no table.
    ValueError
        If values cannot be transformed, a number is out of range, or all known links have an end
        that does not vary.

    Notes
    -----
    Suggestions are questions, not findings. Without known links populations may be matched in a
    wrong order, and then next to all suggestions are wrong while their scores are high: look at
    the ones that you can judge. The result can be passed to :func:`cantata.pp.link_features` as
    it is.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=400, pairing="none")
    >>> links = cantata.pp.suggest_links(mdata, "rna", "adt", n_repeats=1, n_links=5)
    >>> list(links.columns)
    ['source', 'target', 'score', 'rank', 'known']
    """
    matrices, wanted = choose_values(mdata, a, b, layers, transforms)
    table = None if known is None else links_by_table(mdata, a, b, known, "known")
    _check_numbers(n_links, n_top_features, n_repeats, 0 if table is None else len(table))
    ends = {a: "source_index", b: "target_index"}
    samples = {
        name: read_modality(
            name,
            mdata[name],
            matrices[name],
            wanted[name],
            n_top_features,
            np.empty(0, dtype=np.int64) if table is None else table[end].to_numpy(),
        )
        for name, end in ends.items()
    }
    wide, narrow = sorted((a, b), key=lambda name: mdata[name].n_vars, reverse=True)
    links = _known_columns(table, samples[wide], samples[narrow], ends[wide], ends[narrow])
    correlation = _correlation(samples[wide], samples[narrow], links, n_repeats, seed)
    chosen = suggested(correlation, links)
    n_known = 0 if links is None else links.a.size
    result = pd.DataFrame(
        {
            wide: mdata[wide].var_names[samples[wide].features[chosen.a]],
            narrow: mdata[narrow].var_names[samples[narrow].features[chosen.b]],
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


def _known_columns(
    table: pd.DataFrame | None,
    wide: ModalitySample,
    narrow: ModalitySample,
    first: str,
    second: str,
) -> ColumnPairs | None:
    """Known links as columns of the two samples; those with a constant end are left out."""
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
        warn_user(f"{text}; they are left out.")
    columns = (
        pd.Index(sample.features).get_indexer(end[varies])
        for sample, end in zip((wide, narrow), ends, strict=True)
    )
    return ColumnPairs(*columns)


def _correlation(
    wide: ModalitySample,
    narrow: ModalitySample,
    known: ColumnPairs | None,
    n_repeats: int,
    seed: int,
) -> np.ndarray:
    """Correlation (features of wide, features of narrow) over matched cells, mean of repeats."""
    console = Console(stderr=True)
    total = np.zeros((wide.features.size, narrow.features.size))
    repeats = track(
        range(n_repeats), description="Suggesting links", transient=True, console=console
    )
    for repeat in repeats:
        rng = np.random.default_rng([seed, repeat])
        a, b = (group_cells(sample, N_METACELLS, rng) for sample in (wide, narrow))
        couplings = refine(a, b, first_couplings(a, b, known, int(rng.integers(2**31))), known)
        total += best_correlation(a, b, couplings, known)
    return total / n_repeats


def _ranked(table: pd.DataFrame, n_links: int | None) -> pd.DataFrame:
    """Known links first, then by score; links that are not positive are no suggestions."""
    table = table[table["known"] | (table["score"] > 0)]
    table = table.sort_values(["known", "score"], ascending=False, kind="stable")[:n_links]
    table["rank"] = np.arange(1, len(table) + 1)
    return table[["source", "target", "score", "rank", "known"]].reset_index(drop=True)
