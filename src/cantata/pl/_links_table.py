"""Tables of feature links: checked, and told which links count."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata import _keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData


@dataclass(frozen=True)
class LinkTable:
    """Links with the columns ``source``, ``target``, ``correlation`` and ``counts``.

    ``rule`` says in words when a link counts; it is empty if all do. ``what`` are the
    correlations. ``name`` is used in errors.
    """

    links: pd.DataFrame
    rule: str
    what: str
    name: str


def find_links(
    mdata: MuData,
    links: pd.DataFrame | None,
    method: str,
    *,
    column: str,
    min_correlation: float,
    max_q: float,
    argument: str = "links",
) -> LinkTable:
    """The links to draw.

    Parameters
    ----------
    mdata
        Holds the table if `links` is None.
    links
        Table with the columns ``source``, ``target``, `column` and maybe ``q``.
    method
        Which ``mdata.uns["<method>_links"]`` to read.
    column
        Column with the correlations.
    min_correlation, max_q
        A link counts if its absolute correlation is at least, and its q value at most, this.
    argument
        Name of the argument that `links` was given for.

    Returns
    -------
    New table. Links without a correlation are left out; those without a q value count.

    Raises
    ------
    KeyError
        If there is no such table or a column is missing.
    TypeError
        If the table is no DataFrame.
    ValueError
        If a threshold lies outside 0 to 1, no link has a correlation, a correlation lies outside
        -1 to 1, or a link occurs twice.
    """
    for threshold, value in (("min_correlation", min_correlation), ("max_q", max_q)):
        if not 0 <= value <= 1:
            raise ValueError(f"{threshold}={value!r} must lie between 0 and 1.")
    name = argument
    if links is None:
        key = _keys.inferred_links(method)
        name = f"mdata.uns[{key!r}]"
        if key not in mdata.uns:
            raise KeyError(
                f"{name} does not exist. Infer links with cantata.tl.infer_links, or give a "
                f"table: {argument}=."
            )
        links = mdata.uns[key]
    if not isinstance(links, pd.DataFrame):
        raise TypeError(f"{name} is a {type(links).__name__}; a DataFrame is needed.")
    absent = [needed for needed in ("source", "target", column) if needed not in links]
    if absent:
        raise KeyError(f"{name} has no column {absent[0]!r}; its columns are {list(links)}.")
    table = pd.DataFrame(
        {
            "source": links["source"].astype(str).to_numpy(),
            "target": links["target"].astype(str).to_numpy(),
            "correlation": pd.to_numeric(links[column]).to_numpy(dtype=np.float64),
        }
    )
    counts = table["correlation"].abs().to_numpy() >= min_correlation
    rules = [f"|r| ≥ {min_correlation:g}"] if min_correlation > 0 else []
    if "q" in links and max_q < 1:
        q = pd.to_numeric(links["q"]).to_numpy(dtype=np.float64)
        counts &= np.isnan(q) | (q <= max_q)
        rules.append(f"q ≤ {max_q:g}")
    table["counts"] = counts
    table = table[table["correlation"].notna()].reset_index(drop=True)
    _check(table, name)
    return LinkTable(table, " and ".join(rules), column.replace("_", " "), name)


def _check(table: pd.DataFrame, where: str) -> None:
    if table.empty:
        raise ValueError(f"{where} holds no link with a correlation.")
    outside = table[table["correlation"].abs() > 1 + 1e-6]
    if len(outside):
        row = outside.iloc[0]
        raise ValueError(
            f"{where}: {len(outside)} correlations lie outside -1 to 1, e.g. "
            f"{row['correlation']:.3g} of {row['source']!r} and {row['target']!r}."
        )
    twice = table[table.duplicated(["source", "target"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"{where}: {len(twice)} links occur more than once, e.g. {row['source']!r} with "
            f"{row['target']!r}. Give the rows of one analysis."
        )


def links_of(table: LinkTable, genes: Sequence[str], mdata: MuData, source: str) -> LinkTable:
    """The links of the given source features.

    Raises
    ------
    KeyError
        If a gene is neither a feature of `source` nor in the table.
    ValueError
        If a gene is a feature without links; the message tells which have some.
    """
    linked = table.links["source"].value_counts()
    features = mdata[source].var_names if source in mdata.mod else pd.Index([])
    for gene in genes:
        if gene in linked.index:
            continue
        if gene not in features:
            known = {str(name) for name in [*linked.index, *features]}
            near = difflib.get_close_matches(gene, sorted(known), n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
            raise KeyError(f"{gene!r} is no feature of {source!r} and not in {table.name}{hint}")
        raise ValueError(
            f"{gene!r} has no links in {table.name}; {len(linked)} features of {source!r} have, "
            f"most of them {', '.join(repr(name) for name in linked.index[:5])}."
        )
    chosen = table.links["source"].isin(list(genes))
    return replace(table, links=table.links[chosen].reset_index(drop=True))
