"""Pairs of features that are tested: from a table, by distance on the genome, or all."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata._mudata.link_tables import ENDS, find_table
from cantata._mudata.regions import peak_regions
from cantata.pp import peak_gene_links

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidates:
    """Positions in the source and target modality, and distances in base pairs (NaN: unknown)."""

    source: np.ndarray
    target: np.ndarray
    distance: np.ndarray

    def among(self, source: np.ndarray, target: np.ndarray) -> Candidates:
        """Candidates whose ends are among the given features, as positions among those."""
        places = [_places(known) for known in (source, target)]
        ends = [
            np.where(end < len(place), place[np.minimum(end, len(place) - 1)], -1)
            for end, place in zip((self.source, self.target), places, strict=True)
        ]
        kept = (ends[0] >= 0) & (ends[1] >= 0)
        return Candidates(ends[0][kept], ends[1][kept], self.distance[kept])


def _places(known: np.ndarray) -> np.ndarray:
    """Place of a position among the known ones, -1 elsewhere."""
    places = np.full(known.max() + 1, -1)
    places[known] = np.arange(len(known))
    return places


def find_candidates(
    mdata: MuData,
    source: str,
    target: str,
    candidates: pd.DataFrame | str | None,
    *,
    max_distance: int | None,
    annotation: pd.DataFrame | str | Path | None,
) -> Candidates | None:
    """Candidates of two modalities, by source and then target; None for all pairs.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    source, target
        Modalities.
    candidates
        Table with columns ``source`` and ``target`` (or ``gene`` and ``peak``, in any order) and
        maybe ``distance``, or its key in ``mdata.uns``.
    max_distance
        Largest distance between a gene and a peak in base pairs, in place of a table.
    annotation
        Where genes lie; with `max_distance`.

    Raises
    ------
    KeyError
        If the key does not exist.
    TypeError
        If `candidates` is no table.
    ValueError
        If both or too little is given, columns are missing, or no candidate is left.
    """
    if candidates is not None:
        if max_distance is not None or annotation is not None:
            raise ValueError(
                "candidates and max_distance or annotation are both given: candidates are taken "
                "as they are. Give one of them."
            )
        return _from_table(mdata, source, target, candidates)
    if max_distance is not None:
        return _by_distance(mdata, source, target, max_distance, annotation)
    if annotation is not None:
        raise ValueError("annotation is given without max_distance; give both.")
    return None


def _from_table(
    mdata: MuData, source: str, target: str, candidates: pd.DataFrame | str
) -> Candidates:
    table, columns = find_table(mdata, candidates, "candidates")
    names = [mdata[name].var_names for name in (source, target)]
    ends = [table[column].astype(str).to_numpy(dtype=object) for column in columns]
    i, j = _look_up(names, ends)
    if columns == ENDS[1]:  # the source may be the chromatin
        reverse = _look_up(names, ends[::-1])
        if ((reverse[0] >= 0) & (reverse[1] >= 0)).sum() > ((i >= 0) & (j >= 0)).sum():
            (i, j), ends = reverse, ends[::-1]
    absent = (i < 0) | (j < 0)
    if absent.any():
        row = int(np.flatnonzero(absent)[0])
        text = (
            f"{absent.sum()} of {len(table)} candidates name a feature that {source!r} or "
            f"{target!r} does not have, e.g. {ends[0][row]!r} with {ends[1][row]!r}"
        )
        if absent.all():
            raise ValueError(
                f"{text}. {source!r} has e.g. {names[0][0]!r}, {target!r} e.g. {names[1][0]!r}."
            )
        warnings.warn(f"{text}; they are left out.", UserWarning, stacklevel=4)
    distance = table["distance"] if "distance" in table else pd.Series(np.nan, table.index)
    found = pd.DataFrame({"i": i, "j": j, "distance": pd.to_numeric(distance).to_numpy(float)})
    found = found[~absent].sort_values(["i", "j", "distance"]).drop_duplicates(["i", "j"])
    return Candidates(*(found[column].to_numpy() for column in ("i", "j", "distance")))


def _look_up(names: list[pd.Index], ends: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of both ends, -1 where there is no such feature."""
    i, j = (index.get_indexer(end) for index, end in zip(names, ends, strict=True))
    return i, j


def _by_distance(
    mdata: MuData,
    source: str,
    target: str,
    max_distance: int,
    annotation: pd.DataFrame | str | Path | None,
) -> Candidates:
    peaks = _chromatin(mdata, source, target)
    genes = source if peaks == target else target
    links = peak_gene_links(
        mdata, peaks, genes, annotation=annotation, upstream=0, max_distance=max_distance
    )
    if peaks == source:
        links = links.rename(columns={"source": "target", "target": "source"})
    return _from_table(mdata, source, target, links)


def _chromatin(mdata: MuData, source: str, target: str) -> str:
    """Which of two modalities has peaks."""
    reasons = []
    for name in (target, source):
        try:
            peak_regions(name, mdata[name])
        except ValueError as error:
            reasons.append(str(error))
        else:
            return name
    raise ValueError(f"max_distance needs a modality of peaks. {' '.join(reasons)}")
