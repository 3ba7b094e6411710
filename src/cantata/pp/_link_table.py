"""The links that a MuData holds, as an edge table that other packages read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from cantata import _keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudata import MuData

COLUMNS = ["source", "target", "weight", "sign", "type", "source_modality", "target_modality"]


def link_table(
    mdata: MuData, a: str | None = None, b: str | None = None, *, complete: bool = False
) -> pd.DataFrame:
    """Recorded links as an edge table.

    Parameters
    ----------
    mdata
        Any MuData to which :func:`cantata.pp.link_features` was applied; it is not modified.
    a, b
        Modalities. None: links with any modality; with both None all links of the MuData.
    complete
        Add each link in the other direction, and a loop from every feature of the modalities to
        itself (type ``"loop"``, weight 1), linked or not.

    Returns
    -------
    One row per link:

    - ``source``, ``target``: names of features. A name that occurs in several of the modalities
      in the table has the modality in front, as in ``"rna:CD4"``,
    - ``weight``: positive, as it was given; ``sign``: 1,
    - ``type``: how the link was found: ``"gene"``, ``"name"``, ``"alias"``, ``"table"``,
    - ``source_modality``, ``target_modality``. The source is of modality `a` if that is given.

    Raises
    ------
    KeyError
        If a modality does not exist, or no links of it are recorded.
    ValueError
        If only `b` is given.

    Notes
    -----
    GLUE (scglue) reads the complete table: nodes are all features, edges are symmetric, carry
    ``weight`` (in (0, 1]) and ``sign``, and every node has a loop. Features must have the same
    names in the AnnData objects::

        table = cantata.pp.link_table(mdata, "rna", "atac", complete=True)
        graph = nx.from_pandas_edgelist(
            table, edge_attr=["weight", "sign", "type"], create_using=nx.MultiDiGraph
        )
        scglue.graph.check_graph(graph, [rna, atac])

    DIAGVI (scvi-tools) takes a table with one column per modality, and gives all links the same
    weight. Names must differ between its two modalities there as well::

        table = cantata.pp.link_table(mdata, "rna", "adt")
        mapping = table.rename(columns={"source": "rna", "target": "adt"})[["rna", "adt"]]
        scvi.external.DIAGVI({"rna": rna, "adt": adt}, mapping_df=mapping)

    Where names occur in both modalities rename the features of the copies that you hand over::

        both = mdata["rna"].var_names.intersection(mdata["adt"].var_names)
        rna.var_names = [f"rna:{name}" if name in both else name for name in rna.var_names]

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> counts = np.random.default_rng(0).poisson(3.0, (50, 6)).astype("float32")
    >>> rna, adt = AnnData(counts[:, :3]), AnnData(counts[:, 3:])
    >>> rna.var_names, adt.var_names = ["CD4", "MS4A1", "PTPRC"], ["CD4", "CD20", "CD45RA"]
    >>> mdata = mudata.MuData({"rna": rna, "adt": adt})
    >>> report = cantata.pp.link_features(mdata, "rna", "adt")
    >>> cantata.pp.link_table(mdata)[["source", "target", "weight", "sign", "type"]]
        source   target  weight  sign   type
    0  rna:CD4  adt:CD4     1.0     1   name
    1    MS4A1     CD20     1.0     1  alias
    2    PTPRC   CD45RA     1.0     1  alias
    """
    records = mdata.uns.get(_keys.UNS, {}).get(_keys.LINKS, {})
    tables = [_of_pair(*pair, records[key]) for key, pair in _pairs(mdata, records, a, b).items()]
    table = pd.concat([_from(table, a) for table in tables], ignore_index=True)
    if complete:
        table = pd.concat([table, _turned(table), _loops(mdata, table)], ignore_index=True)
    ends = ("source", "target")
    members = pd.unique(pd.concat([table[f"{end}_modality"] for end in ends]))
    names = pd.Series([name for member in members for name in mdata[member].var_names])
    repeated = set(names[names.duplicated()])
    for end in ends:
        prefix = table[f"{end}_modality"] + ":"
        table[end] = prefix.where(table[end].isin(repeated), "") + table[end]
    return table[COLUMNS]


def _pairs(
    mdata: MuData, records: Mapping[str, object], a: str | None, b: str | None
) -> dict[str, tuple[str, str]]:
    """Keys of the records that were asked for, with their modalities."""
    if a is None and b is not None:
        raise ValueError(
            f"b={b!r} is given without a; links with one modality are asked for by a."
        )
    known = list(mdata.mod)
    for argument, name in (("a", a), ("b", b)):
        if name is not None and name not in known:
            raise KeyError(f"{argument}={name!r} is no modality; there are {known}.")
    pairs = {
        _keys.link_record(first, second): (first, second)
        for first in known
        for second in known
        if _keys.link_record(first, second) in records
    }
    wanted = {name for name in (a, b) if name is not None}
    chosen = {key: pair for key, pair in pairs.items() if wanted <= set(pair)}
    if not chosen:
        recorded = ", ".join(f"{first!r} and {second!r}" for first, second in pairs.values())
        raise KeyError(
            f"No links {f'of {a!r} ' if a else ''}{f'and {b!r} ' if b else ''}are recorded; there "
            f"are {f'links of {recorded}' if recorded else 'none'}. Make them: "
            f"cantata.pp.link_features(mdata, {(a or known[0])!r}, {(b or known[-1])!r})."
        )
    return chosen


def _of_pair(first: str, second: str, record: Mapping[str, object]) -> pd.DataFrame:
    table = pd.DataFrame({key: record[key] for key in ("source", "target", "weight", "type")})
    return table.assign(sign=1, source_modality=first, target_modality=second)


def _from(table: pd.DataFrame, a: str | None) -> pd.DataFrame:
    """The table with modality `a` as the source."""
    return _turned(table) if a is not None and (table["target_modality"] == a).all() else table


def _turned(table: pd.DataFrame) -> pd.DataFrame:
    names = {
        "source": "target",
        "target": "source",
        "source_modality": "target_modality",
        "target_modality": "source_modality",
    }
    return table.rename(columns=names)


def _loops(mdata: MuData, table: pd.DataFrame) -> pd.DataFrame:
    """A loop from every feature of the table's modalities to itself."""
    members = pd.unique(pd.concat([table["source_modality"], table["target_modality"]]))
    loops = [
        pd.DataFrame({"source": mdata[name].var_names.astype(object)}).assign(
            source_modality=name, target_modality=name
        )
        for name in members
    ]
    table = pd.concat(loops, ignore_index=True)
    return table.assign(target=table["source"], weight=1.0, sign=1, type="loop")
