"""Where a gene and its peaks lie on the genome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata._mudata.annotation import read_annotation
from cantata._mudata.regions import gene_regions, peak_regions

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData


@dataclass(frozen=True)
class Gene:
    """A gene on the genome, in base pairs, 0-based and half-open.

    ``known`` is False for a gene whose position is not known: `start` and `end` are then where it
    is drawn.
    """

    name: str
    chrom: str
    start: float
    end: float
    strand: str
    known: bool = True

    @property
    def tss(self) -> float:
        """Transcription start site; the middle of a gene of unknown strand."""
        if self.strand not in ("+", "-"):
            return (self.start + self.end) / 2
        return self.start if self.strand == "+" else self.end

    @property
    def label(self) -> str:
        """Name with an arrow in the direction of transcription."""
        if not self.known:
            return f"{self.name} (position unknown)"
        return {"+": f"{self.name} →", "-": f"← {self.name}"}.get(self.strand, self.name)


def target_regions(mdata: MuData, modality: str) -> pd.DataFrame:
    """Columns ``chrom``, ``start`` and ``end`` of the features of a modality, indexed by feature.

    A KeyError without the modality, a ValueError without coordinates or with repeated names.
    """
    if modality not in mdata.mod:
        raise KeyError(f"There is no modality {modality!r}; there are {list(mdata.mod)}.")
    adata = mdata[modality]
    twice = adata.var_names[adata.var_names.duplicated()]
    if len(twice):
        raise ValueError(
            f"Modality {modality!r}: {len(twice)} names of features occur twice, e.g. "
            f"{twice[0]!r}."
        )
    return peak_regions(modality, adata).set_index(adata.var_names)


def same_chromosome(chroms: pd.Series, chrom: str) -> np.ndarray:
    """Which chromosomes are `chrom`, with or without ``chr`` in front."""
    return np.asarray(
        chroms.astype(str).str.removeprefix("chr") == chrom.removeprefix("chr"), dtype=bool
    )


def find_gene(
    name: str,
    annotation: pd.DataFrame | str | Path | None,
    mdata: MuData,
    source: str,
    chroms: pd.Series | None = None,
) -> Gene | None:
    """A gene by name; None if its position is not known.

    Parameters
    ----------
    name
        Name of the gene.
    annotation
        Table as from :func:`cantata.pp.read_annotation`, or path of a GTF file; None: columns of
        ``mdata[source].var``.
    mdata, source
        The modality that has the gene, if it does: the gene may be annotated by its identifier.
    chroms
        Chromosomes of the peaks of the gene: of several places of the gene, the one that lies
        where most of them do is taken.
    """
    if annotation is not None:
        if not isinstance(annotation, pd.DataFrame):
            annotation = read_annotation(annotation)
        table = gene_regions(None, None, annotation)
        rows = table[table["gene"] == name]
    if annotation is None or rows.empty:
        if source not in mdata.mod or name not in mdata[source].var_names:
            return None
        try:
            rows = gene_regions(source, mdata[source][:, [name]], annotation)
        except ValueError:  # neither annotated nor with coordinates of its own
            return None
    most_peaks = 0
    if chroms is not None:
        n_peaks = [same_chromosome(chroms, str(chrom)).sum() for chrom in rows["chrom"]]
        most_peaks = int(np.argmax(n_peaks))
    row = rows.iloc[most_peaks]
    return Gene(
        name, str(row["chrom"]), float(row["start"]), float(row["end"]), str(row["strand"])
    )
