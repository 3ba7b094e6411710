"""Which features of two modalities are linked."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata._mudata.checks import warn_user
from cantata._mudata.kinds import WORDS, kind_of
from cantata._mudata.link_tables import find_table
from cantata._mudata.regions import IDS
from cantata.pp._links._proteins import genes_in, genes_of, plain_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

GENE = "gene"
"""Column of ``.var`` that names the gene of a feature."""

MAX_PANEL_FEATURES = 1000
"""Up to this many features a modality may be a panel of antibodies with names of proteins."""

_SEPARATORS = r"[/;,|&\s]+"
"""Between several genes of one feature; none of them occurs in a symbol."""

_BLANK = {"", "na", "n/a", "nan", "none", "null", "<na>"}
"""Entries of the column, in lower case, that leave it open which gene is meant."""

_ID = re.compile(r"^(ENS[A-Z]*G\d+)(\.\d+)?$")
_REPEAT = re.compile(r"^(.+)-\d$")


class FeatureNames:
    """Names of a modality's features, and the genes that they stand for.

    ``symbols`` are the genes that the column ``"gene"`` names for each feature, none where its
    entry is blank; ``ids`` the Ensembl identifiers that it, the columns of identifiers or the
    name itself give, without versions.
    """

    def __init__(self, modality: str, adata: AnnData) -> None:
        self.names = adata.var_names.astype(str).to_numpy(dtype=object)
        self.kind = kind_of(modality, adata)
        self.maybe_panel = len(self.names) <= MAX_PANEL_FEATURES
        self.bare = _without_prefix(self.names, modality)
        entries = [_entries(adata.var[GENE])] if GENE in adata.var else []
        self.symbols = [
            tuple(gene for gene in genes if not _ID.match(gene))
            for genes in (entries[0] if entries else [()] * len(self.names))
        ]
        entries += [_entries(adata.var[column]) for column in IDS if column in adata.var]
        entries.append([(name,) for name in self.bare])
        self.ids = [
            tuple({match[1]: None for gene in chain(*genes) if (match := _ID.match(gene))})
            for genes in zip(*entries, strict=True)
        ]

    def plain_names(self) -> list[tuple[str, ...]]:
        """The name of each feature, without what its modality or a panel's maker put around it.

        ``CD4-1`` is CD4 too where no other feature is, since scanpy makes names unique so.
        """
        if self.maybe_panel:
            return [(plain_name(name),) for name in self.bare]
        known = set(self.bare)
        repeats = (_REPEAT.match(name) for name in self.bare)
        return [
            (name, repeat[1]) if repeat and repeat[1] not in known else (name,)
            for name, repeat in zip(self.bare, repeats, strict=True)
        ]

    def named_genes(self, *, by_id: bool) -> list[tuple[str, ...]]:
        """Genes that columns name for each feature; identifiers only where they are asked for."""
        if not by_id:
            return self.symbols
        return [symbols + ids for symbols, ids in zip(self.symbols, self.ids, strict=True)]

    def implied_genes(self) -> list[tuple[str, ...]]:
        """Names under which each feature may be found as a gene: its own, and known aliases."""
        if not self.maybe_panel:
            return self.plain_names()
        return [(name, *genes_of(name)) for name in self.bare]

    def aliases(self) -> list[list[tuple[str, ...]]]:
        """Names of genes to look each feature up by: what columns say, else what names imply."""

        def is_new(gene: str, name: str) -> bool:
            # only proteins are written in any case: CD4 for Cd4
            return self.kind == "protein" or gene.casefold() != name.casefold()

        implied = [
            () if symbols else tuple(gene for gene in genes if is_new(gene, name))
            for name, symbols, genes in zip(
                self.names, self.symbols, self.implied_genes(), strict=True
            )
        ]
        return [self.named_genes(by_id=True), implied]

    def examples(self) -> str:
        """The first names, for an error."""
        first = zip(self.names[:3], self.symbols[:3], self.ids[:3], strict=True)
        return ", ".join(
            f"{name!r} with gene {'/'.join(symbols or ids)!r}"
            if symbols or (ids and name not in ids)
            else repr(name)
            for name, symbols, ids in first
        )


def _entries(column: pd.Series) -> list[tuple[str, ...]]:
    """Genes that each entry of a column names, none where it is blank."""
    texts = ("" if pd.isna(entry) else str(entry).strip() for entry in column.astype(object))
    return [
        ()
        if text.lower() in _BLANK
        else tuple(gene for gene in re.split(_SEPARATORS, text) if gene)
        for text in texts
    ]


def _without_prefix(names: np.ndarray, modality: str) -> list[str]:
    """Names without that of their modality in front, with which MuData makes names unique."""
    words = "|".join(map(re.escape, {modality, *chain(*WORDS.values())}))
    prefix = re.compile(rf"^(?:{words}):(?=.)", re.IGNORECASE)
    bare = [prefix.sub("", name) for name in names]
    # other separators occur in names of features, so that all of these must have the prefix
    prefix = re.compile(rf"^{re.escape(modality)}[-_. ](?=.)", re.IGNORECASE)
    return [prefix.sub("", name) for name in bare] if all(map(prefix.match, bare)) else bare


def links_by_name(mdata: MuData, a: str, b: str) -> pd.DataFrame:
    """Links by ``.var["gene"]``, equal names and known aliases; none is a ``ValueError``.

    Known markers of a panel that find no link under the name they have, though their gene is
    there, are named in a warning.

    Returns
    -------
    Columns ``source`` and ``target`` (names), ``weight`` (1), ``type`` (``"name"``, ``"gene"``
    or ``"alias"``), ``source_index`` and ``target_index`` (positions), in the order of `a`.
    """
    left, right = FeatureNames(a, mdata[a]), FeatureNames(b, mdata[b])
    # 1. what columns say of genes; identifiers can only be compared with identifiers
    by_id = any(left.ids) and any(right.ids)
    named = [names.named_genes(by_id=by_id) for names in (left, right)]
    # 2. by equal names, but for those of a panel of which it says which gene they measure
    plain = [left.plain_names(), right.plain_names()]
    for k, (own, other) in enumerate(((left, right), (right, left))):
        if own.maybe_panel and not other.maybe_panel:
            plain[k] = [() if genes else p for genes, p in zip(named[k], plain[k], strict=True)]
    ways: dict[tuple[int, int], str] = dict.fromkeys(_match(*plain), "name")
    # 3. by gene; a feature of a panel that has a link by name gets no other one
    linked_left, linked_right = {i for i, _ in ways}, {j for _, j in ways}
    implied = [names.implied_genes() for names in (left, right)]
    for k, names in enumerate((left, right)):
        implied[k] = [
            () if genes and (names.symbols[i] or names.maybe_panel) else keys
            for i, (genes, keys) in enumerate(zip(named[k], implied[k], strict=True))
        ]
    by_alias = {(i, j) for i, j in _equal(*map(_folded, implied))}
    keys = [
        [genes + names for genes, names in zip(*both, strict=True)]
        for both in zip(named, implied, strict=True)
    ]
    for i, j in _match(*keys):
        of_left = left.maybe_panel and i in linked_left
        of_right = right.maybe_panel and j in linked_right
        if not (of_left or of_right):
            ways.setdefault((i, j), "alias" if (i, j) in by_alias else "gene")
    if not ways:
        raise ValueError(
            f"No feature of {a!r} (e.g. {left.examples()}) is linked with one of {b!r} (e.g. "
            f"{right.examples()}) by the column {GENE!r} of .var, equal names or known aliases of "
            f"proteins. Give links: symbols of genes in that column, or a table with the "
            f"columns 'source' (features of {a!r}), 'target' (features of {b!r}) and optionally "
            "'weight'."
        )
    linked = {a: {i for i, _ in ways}, b: {j for _, j in ways}}
    for name, names, other in ((a, left, right), (b, right, left)):
        if names.kind == "protein":
            _warn_of_markers(name, names, linked[name], other)
    table = pd.DataFrame(sorted(ways), columns=["source_index", "target_index"])
    table["type"] = [ways[pair] for pair in sorted(ways)]
    table["weight"] = 1.0
    return _with_names(table, left.names, right.names)


def _warn_of_markers(
    modality: str, names: FeatureNames, linked: set[int], other: FeatureNames
) -> None:
    """Name features without a link that look like markers of which the gene is there."""
    known = {key.upper(): key for keys in other.plain_names() for key in keys}
    missed = {}
    for i, name in enumerate(names.bare):
        if i in linked or names.symbols[i] or set(map(str.upper, genes_of(name))) & set(known):
            continue
        genes = [known[gene.upper()] for gene in genes_in(name) if gene.upper() in known]
        if genes:
            missed[names.names[i]] = genes[0]
    if missed:
        examples = ", ".join(f"{name!r} ({gene})" for name, gene in list(missed.items())[:5])
        warn_user(
            f"{len(missed)} features of {modality!r} look like known markers but are not linked, "
            f"e.g. {examples}. Name their genes in the column {GENE!r} of "
            f"mdata[{modality!r}].var, or give links=."
        )


def _match(
    left: Sequence[tuple[str, ...]], right: Sequence[tuple[str, ...]]
) -> list[tuple[int, int]]:
    """Pairs that share a key as it is written; among the others, those that do in any case."""
    pairs = _equal(left, right)
    matched_left, matched_right = {i for i, _ in pairs}, {j for _, j in pairs}
    return pairs + [
        (i, j)
        for i, j in _equal(_folded(left), _folded(right))
        if i not in matched_left and j not in matched_right
    ]


def _folded(side: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [tuple(key.casefold() for key in keys) for keys in side]


def _equal(
    left: Sequence[tuple[str, ...]], right: Sequence[tuple[str, ...]]
) -> list[tuple[int, int]]:
    holders: dict[str, list[int]] = defaultdict(list)
    for j, keys in enumerate(right):
        for key in dict.fromkeys(keys):
            holders[key].append(j)
    pairs = ((i, j) for i, keys in enumerate(left) for key in keys for j in holders.get(key, []))
    return list(dict.fromkeys(pairs))


def _with_names(table: pd.DataFrame, left: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    table = table.assign(
        source=left[table["source_index"].to_numpy()],
        target=right[table["target_index"].to_numpy()],
    )
    columns = ["source", "target", "weight", "type", "source_index", "target_index"]
    return table[columns].reset_index(drop=True)


def links_by_table(
    mdata: MuData, a: str, b: str, links: pd.DataFrame | str, argument: str = "links"
) -> pd.DataFrame:
    """Check a user's table of links: see :func:`cantata._mudata.link_tables.find_table`.

    Returns
    -------
    As :func:`links_by_name`, of type ``"table"``, in the order of the table. Links of features
    that do not exist are left out with a warning; of repeated links the largest weight stays.

    Raises
    ------
    ValueError
        Also if a weight is no positive number, or no link is left.
    """
    links, ends = find_table(mdata, links, argument, (a, b))
    left, right = mdata[a].var_names, mdata[b].var_names
    source, target = (links[end].astype(str) for end in ends)
    if ends == ("gene", "peak") and not source.isin(left).any():
        source, target = target, source
    table = pd.DataFrame(
        {
            "source_index": left.get_indexer(source),
            "target_index": right.get_indexer(target),
            "weight": _weights(links, source, target, argument),
            "type": "table",
        }
    )
    known = (table["source_index"] >= 0) & (table["target_index"] >= 0)
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        text = (
            f"{argument}: {(~known).sum()} of {len(links)} rows name a feature that does not "
            f"exist, e.g. {source.iloc[row]!r} of {a!r} with {target.iloc[row]!r} of {b!r}"
        )
        if not known.any():
            swapped = source.isin(right).any() and target.isin(left).any()
            hint = " Are source and target swapped?" if swapped else ""
            raise ValueError(
                f"{text}. Features of {a!r} are named e.g. {left[0]!r}, those of {b!r} e.g. "
                f"{right[0]!r}.{hint}"
            )
        warn_user(f"{text}; they are left out.")
    table = table[known].sort_values("weight", ascending=False, kind="stable")
    table = table.drop_duplicates(["source_index", "target_index"]).sort_index()
    return _with_names(table, left.to_numpy(), right.to_numpy())


def _weights(
    links: pd.DataFrame, source: pd.Series, target: pd.Series, argument: str
) -> np.ndarray:
    if "weight" not in links:
        return np.ones(len(links))
    weights = pd.to_numeric(links["weight"], errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(weights) & (weights > 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{argument}: {bad.sum()} of {len(links)} weights are no positive numbers, e.g. that "
            f"of {source.iloc[row]!r} with {target.iloc[row]!r} "
            f"({links['weight'].iloc[row]!r}). Leave such links out."
        )
    return weights
