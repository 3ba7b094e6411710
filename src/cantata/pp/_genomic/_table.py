"""Links between genes and peaks that come as a table."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata._mudata.checks import check_modalities
from cantata._mudata.link_tables import find_table

if TYPE_CHECKING:
    from mudata import MuData

logger = logging.getLogger(__name__)


def check_names(mdata: MuData, peaks: str, genes: str | None) -> None:
    """Refuse modalities that do not exist or cannot be used.

    Raises
    ------
    TypeError, KeyError, ValueError
        As :func:`cantata._mudata.checks.check_modalities`.
    """
    if genes is not None and genes == peaks:
        raise ValueError(f"peaks and genes are both {peaks!r}; give two modalities.")
    known = check_modalities(mdata, None)
    for argument, name, hint in (
        ("peaks", peaks, ""),
        ("genes", genes, " With genes=None all genes of the annotation or table are taken."),
    ):
        if name is not None and name not in known:
            raise KeyError(f"{argument}={name!r} is no modality; there are {known}.{hint}")


def links_from_table(
    mdata: MuData, links: pd.DataFrame | str, peaks: str, genes: str | None
) -> pd.DataFrame:
    """Check a table of links and bring it into the form of :func:`cantata.pp.peak_gene_links`.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    links
        Table with columns ``source`` and ``target``, or ``gene`` and ``peak``, and optionally
        ``weight`` and ``distance``; or its key in ``mdata.uns``. Either end may be the peak.
    peaks, genes
        Modalities that hold the features; `genes` may be None.

    Returns
    -------
    ``source`` (gene), ``target`` (peak), ``weight``, ``distance``, by gene and then by peak in
    the order of the features (of the table where `genes` is None). Links of absent features are
    left out with a warning; of repeated links the one of the largest weight stays.

    Raises
    ------
    KeyError
        If the key does not exist.
    TypeError
        If `links` is no table.
    ValueError
        If columns are missing, weights are no positive numbers, or no link is left.
    """
    table = _ends(*find_table(mdata, links, "links"), mdata[peaks].var_names)
    known_peaks = mdata[peaks].var_names
    known_genes = pd.Index(pd.unique(table["source"])) if genes is None else mdata[genes].var_names
    gene, peak = known_genes.get_indexer(table["source"]), known_peaks.get_indexer(table["target"])
    absent = (gene < 0) | (peak < 0)
    if absent.any():
        row = table[absent].iloc[0]
        text = (
            f"{absent.sum()} of {len(table)} links name a gene or a peak that the MuData does not "
            f"have, e.g. {row['source']!r} with {row['target']!r}"
        )
        if absent.all():
            raise ValueError(
                f"{text}. Modality {peaks!r} names its peaks e.g. {known_peaks[0]!r}, genes are "
                f"named e.g. {known_genes[0]!r}."
            )
        warnings.warn(f"{text}; they are left out.", UserWarning, stacklevel=4)
    table = table.assign(gene=gene, peak=peak)[~absent]
    table = table.sort_values(["gene", "peak", "weight"], ascending=[True, True, False])
    table = table.drop_duplicates(["gene", "peak"])
    return table[["source", "target", "weight", "distance"]].reset_index(drop=True)


def _ends(links: pd.DataFrame, columns: tuple[str, str], peaks: pd.Index) -> pd.DataFrame:
    """Table with columns source (gene), target (peak), weight and distance."""
    first, second = (links[column].astype(str).to_numpy(dtype=object) for column in columns)
    if (peaks.get_indexer(second) < 0).all() and (peaks.get_indexer(first) >= 0).any():
        first, second = second, first
    weight = links["weight"].to_numpy() if "weight" in links else np.ones(len(links))
    weight = pd.to_numeric(pd.Series(weight), errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"links: {bad.sum()} of {len(links)} weights are no finite numbers of at least 0, "
            f"e.g. that of {first[row]!r} with {second[row]!r}."
        )
    table = pd.DataFrame({"source": first, "target": second, "weight": weight})
    table["distance"] = links["distance"].to_numpy() if "distance" in links else np.nan
    return table
