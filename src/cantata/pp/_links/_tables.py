"""Which features of two modalities are linked."""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata._mudata.link_tables import find_table
from cantata.pp._links._proteins import genes_of, plain_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

GENE = "gene"
"""Column of ``.var`` that names the gene of a feature."""

MAX_PANEL_FEATURES = 1000
"""Up to this many features a modality may be a panel of antibodies with names of proteins."""


class FeatureNames:
    """Names of a modality's features, and their genes (None: there is no such column)."""

    def __init__(self, adata: AnnData) -> None:
        self.names = adata.var_names.astype(str).to_numpy(dtype=object)
        self.maybe_panel = len(self.names) <= MAX_PANEL_FEATURES
        self.genes: list[tuple[str, ...]] | None = None
        if GENE in adata.var:
            entries = adata.var[GENE].astype(object)
            parts = ([] if pd.isna(entry) else str(entry).split("/") for entry in entries)
            self.genes = [tuple(g.strip() for g in genes if g.strip()) for genes in parts]

    def plain_names(self) -> list[tuple[str, ...]]:
        """The name of each feature, without what a panel's maker put around it."""
        return [(plain_name(name) if self.maybe_panel else name,) for name in self.names]

    def gene_names(self) -> list[tuple[str, ...]]:
        """The genes of each feature: by the column, else its name and known aliases."""
        if self.genes is not None:
            return self.genes
        if not self.maybe_panel:
            return [(name,) for name in self.names]
        return [(name, *genes_of(name)) for name in self.names]

    def examples(self) -> str:
        """The first names, for an error."""
        names = [repr(str(name)) for name in self.names[:3]]
        if self.genes is not None:
            genes = ["/".join(genes) for genes in self.genes[:3]]
            names = [f"{n} with gene {g!r}" for n, g in zip(names, genes, strict=True)]
        return ", ".join(names)


def links_by_name(mdata: MuData, a: str, b: str) -> pd.DataFrame:
    """Links by ``.var["gene"]``, equal names and known aliases; none is a ``ValueError``.

    Returns
    -------
    Columns ``source`` and ``target`` (names), ``weight`` (1), ``type`` (``"name"``, ``"gene"``
    or ``"alias"``), ``source_index`` and ``target_index`` (positions), in the order of `a`.
    """
    left, right = FeatureNames(mdata[a]), FeatureNames(mdata[b])
    ways: dict[tuple[int, int], str] = {}
    # 1. by equal names, unless a panel says itself which genes of a wide modality it measures
    panel_names_genes = any(
        x.genes is not None and x.maybe_panel and not y.maybe_panel
        for x, y in ((left, right), (right, left))
    )
    if not panel_names_genes:
        ways.update(dict.fromkeys(_match(left.plain_names(), right.plain_names()), "name"))
    # 2. by gene; a feature of a panel that has a link by name gets no other one
    linked_left, linked_right = {i for i, _ in ways}, {j for _, j in ways}
    way = "alias" if left.genes is None and right.genes is None else "gene"
    for i, j in _match(left.gene_names(), right.gene_names()):
        of_left = left.maybe_panel and i in linked_left
        of_right = right.maybe_panel and j in linked_right
        if not (of_left or of_right):
            ways.setdefault((i, j), way)
    if not ways:
        raise ValueError(
            f"No feature of {a!r} (e.g. {left.examples()}) is linked with one of {b!r} (e.g. "
            f"{right.examples()}) by the column {GENE!r} of .var, equal names or known aliases of "
            "proteins. Give links: a table with the columns 'source' (features of "
            f"{a!r}), 'target' (features of {b!r}) and optionally 'weight'."
        )
    table = pd.DataFrame(sorted(ways), columns=["source_index", "target_index"])
    table["type"] = [ways[pair] for pair in sorted(ways)]
    table["weight"] = 1.0
    return _with_names(table, left.names, right.names)


def _match(
    left: Sequence[tuple[str, ...]], right: Sequence[tuple[str, ...]]
) -> list[tuple[int, int]]:
    """Pairs that share a key as it is written; among the others, those that do in any case."""
    pairs = _equal(left, right)
    matched_left, matched_right = {i for i, _ in pairs}, {j for _, j in pairs}
    folded = [[tuple(key.casefold() for key in keys) for keys in side] for side in (left, right)]
    return pairs + [
        (i, j) for i, j in _equal(*folded) if i not in matched_left and j not in matched_right
    ]


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
        warnings.warn(f"{text}; they are left out.", UserWarning, stacklevel=3)
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
