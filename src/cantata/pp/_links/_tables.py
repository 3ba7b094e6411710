"""Which features of two modalities are linked."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata.pp._links._names import genes_of, plain_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

GENE = "gene"
"""Column of ``.var`` that names the gene of a feature."""

NARROW = 1000
"""Up to this many features a modality may be a panel of antibodies with names of proteins."""


@dataclass(frozen=True)
class Features:
    """Names of a modality's features, and their genes (None: there is no such column)."""

    modality: str
    names: np.ndarray
    genes: list[tuple[str, ...]] | None

    @property
    def narrow(self) -> bool:
        """Whether it may be a panel."""
        return len(self.names) <= NARROW

    def called(self) -> list[tuple[str, ...]]:
        """The name of each feature, without what a panel's maker put around it."""
        return [(plain_name(name) if self.narrow else name,) for name in self.names]

    def coded(self) -> list[tuple[str, ...]]:
        """The genes of each feature: by the column, else its name and known aliases."""
        if self.genes is not None:
            return self.genes
        if not self.narrow:
            return [(name,) for name in self.names]
        return [(name, *genes_of(name)) for name in self.names]


def read_features(modality: str, adata: AnnData) -> Features:
    """Names of the features of a modality, and their genes if it has a column of them."""
    names = adata.var_names.astype(str).to_numpy(dtype=object)
    if GENE not in adata.var:
        return Features(modality, names, None)
    column = adata.var[GENE].astype(object)
    genes = [
        tuple(gene.strip() for gene in str(entry).split("/") if gene.strip())
        if not pd.isna(entry)
        else ()
        for entry in column
    ]
    return Features(modality, names, genes)


def links_by_name(mdata: MuData, a: str, b: str) -> pd.DataFrame:
    """Links by ``.var["gene"]``, equal names and known aliases.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    a, b
        Two modalities.

    Returns
    -------
    Columns ``source`` and ``target`` (names), ``weight`` (1), ``type`` (``"name"``, ``"gene"``
    or ``"alias"``), ``source_index`` and ``target_index`` (positions), in the order of `a`.

    Raises
    ------
    ValueError
        If there is no link.
    """
    left, right = read_features(a, mdata[a]), read_features(b, mdata[b])
    found: dict[tuple[int, int], str] = {}
    if not any(x.genes is not None and x.narrow and not y.narrow for x, y in _both(left, right)):
        found.update(dict.fromkeys(_match(left.called(), right.called()), "name"))
    linked = {i for i, _ in found}, {j for _, j in found}
    how = "alias" if left.genes is None and right.genes is None else "gene"
    for i, j in _match(left.coded(), right.coded()):
        taken = (left.narrow and i in linked[0]) or (right.narrow and j in linked[1])
        if not taken:
            found.setdefault((i, j), how)
    if not found:
        raise ValueError(
            f"No feature of {a!r} (e.g. {_some(left)}) is linked with one of {b!r} (e.g. "
            f"{_some(right)}) by the column {GENE!r} of .var, equal names or known aliases of "
            "proteins. Give links: a table with the columns 'source' (features of "
            f"{a!r}), 'target' (features of {b!r}) and optionally 'weight'."
        )
    table = pd.DataFrame(sorted(found), columns=["source_index", "target_index"])
    table["type"] = [found[pair] for pair in sorted(found)]
    table["weight"] = 1.0
    return _named(table, left.names, right.names)


def _both(left: Features, right: Features) -> tuple[tuple[Features, Features], ...]:
    return (left, right), (right, left)


def _some(features: Features) -> str:
    shown = [repr(str(name)) for name in features.names[:3]]
    if features.genes is None:
        return ", ".join(shown)
    genes = ["/".join(genes) for genes in features.genes[:3]]
    return ", ".join(f"{name} with gene {gene!r}" for name, gene in zip(shown, genes, strict=True))


def _match(
    left: Sequence[tuple[str, ...]], right: Sequence[tuple[str, ...]]
) -> list[tuple[int, int]]:
    """Pairs that share a key as it is written; among the others, those that do in any case."""
    pairs = _equal(left, right)
    exact = {i for i, _ in pairs}, {j for _, j in pairs}
    folded = [[tuple(key.casefold() for key in keys) for keys in side] for side in (left, right)]
    for i, j in _equal(folded[0], folded[1]):
        if i not in exact[0] and j not in exact[1]:
            pairs.append((i, j))
    return pairs


def _equal(
    left: Sequence[tuple[str, ...]], right: Sequence[tuple[str, ...]]
) -> list[tuple[int, int]]:
    holders: dict[str, list[int]] = defaultdict(list)
    for j, keys in enumerate(right):
        for key in dict.fromkeys(keys):
            holders[key].append(j)
    pairs = ((i, j) for i, keys in enumerate(left) for key in keys for j in holders.get(key, []))
    return list(dict.fromkeys(pairs))


def _named(table: pd.DataFrame, left: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    table = table.assign(
        source=left[table["source_index"].to_numpy()],
        target=right[table["target_index"].to_numpy()],
    )
    columns = ["source", "target", "weight", "type", "source_index", "target_index"]
    return table[columns].reset_index(drop=True)


def links_by_table(mdata: MuData, a: str, b: str, links: pd.DataFrame) -> pd.DataFrame:
    """Check a user's table of links.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    a, b
        Modalities of the columns ``source`` and ``target``.
    links
        Table with these columns, or ``gene`` and ``peak``, and optionally ``weight``.

    Returns
    -------
    As :func:`links_by_name`, of type ``"table"``, in the order of the table. Links of features
    that do not exist are left out with a warning; of repeated links the largest weight stays.

    Raises
    ------
    TypeError
        If `links` is no table.
    ValueError
        If a column is missing, a weight is no positive number, or no link is left.
    """
    if not isinstance(links, pd.DataFrame):
        raise TypeError(
            f"links is a {type(links).__name__}; give a DataFrame with the columns 'source' "
            f"(features of {a!r}), 'target' (features of {b!r}) and optionally 'weight'."
        )
    links = _as_links(mdata[a].var_names, links)
    if not {"source", "target"} <= set(links.columns) or links.empty:
        raise ValueError(
            f"links has {len(links)} rows and the columns {list(links.columns)}; needed are "
            f"'source' (features of {a!r}) and 'target' (features of {b!r})."
        )
    source, target = links["source"].astype(str), links["target"].astype(str)
    left, right = mdata[a].var_names, mdata[b].var_names
    table = pd.DataFrame(
        {
            "source_index": left.get_indexer(source),
            "target_index": right.get_indexer(target),
            "weight": _weights(links),
            "type": "table",
        }
    )
    known = (table["source_index"] >= 0) & (table["target_index"] >= 0)
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        text = (
            f"links: {(~known).sum()} of {len(links)} rows name a feature that does not exist, "
            f"e.g. {source.iloc[row]!r} of {a!r} with {target.iloc[row]!r} of {b!r}"
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
    return _named(table, left.to_numpy(), right.to_numpy())


def _as_links(left: pd.Index, links: pd.DataFrame) -> pd.DataFrame:
    """A table of genes and peaks with the columns ``source`` and ``target``."""
    if "source" in links or not {"gene", "peak"} <= set(links.columns):
        return links
    genes_first = bool(links["gene"].astype(str).isin(left).any())
    names = ("source", "target") if genes_first else ("target", "source")
    return links.rename(columns=dict(zip(("gene", "peak"), names, strict=True)))


def _weights(links: pd.DataFrame) -> np.ndarray:
    if "weight" not in links:
        return np.ones(len(links))
    weights = pd.to_numeric(links["weight"], errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(weights) & (weights > 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"links: {bad.sum()} of {len(links)} weights are no positive numbers, e.g. that of "
            f"{links['source'].iloc[row]!r} with {links['target'].iloc[row]!r} "
            f"({links['weight'].iloc[row]!r}). Leave such links out."
        )
    return weights
