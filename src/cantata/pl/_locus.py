"""What a view of a gene, the peaks around it and the links between them shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from cantata.pl._locus_coordinates import Gene, find_gene, same_chromosome, target_regions

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData

    from cantata.pl._links_table import LinkTable


@dataclass(frozen=True)
class Track:
    """One set of links of the gene.

    ``links`` has the columns ``middle`` (of the peak, in base pairs), ``correlation`` and
    ``counts``; ``rule`` says in words when a link counts, or nothing; ``n_outside`` links of the
    gene lie outside the view.
    """

    name: str
    links: pd.DataFrame
    rule: str
    n_outside: int

    @property
    def caption(self) -> str:
        """What the track shows, in words."""
        text = f"{len(self.links)} link{'s' * (len(self.links) != 1)}"
        if self.rule:
            text = f"{self.links['counts'].sum()} of {text} with {self.rule}"
        outside = f" ({self.n_outside} more outside)" if self.n_outside else ""
        return f"{self.name}: {text}{outside}"


@dataclass(frozen=True)
class Locus:
    """What a locus view shows; `view` in base pairs, `what` are the correlations."""

    gene: Gene
    what: str
    tracks: list[Track]
    peaks: pd.DataFrame
    view: tuple[float, float]


def _place_gene(name: str, found: Gene | None, linked: pd.DataFrame) -> Gene:
    """The gene; where its position is not known, amid the peaks that it is linked to."""
    if found is None:
        chrom = linked["chrom"].value_counts().index[0]
        here = linked[linked["chrom"] == chrom]
        middle = (here["start"].min() + here["end"].max()) / 2
        return Gene(name, str(chrom), middle, middle, ".", known=False)
    here = same_chromosome(linked["chrom"], found.chrom)
    if not here.any():
        raise ValueError(
            f"{name!r} lies on {found.chrom} and its {len(linked)} linked peaks lie on "
            f"{', '.join(map(str, linked['chrom'].unique()))}; see kind='heatmap'."
        )
    return replace(found, chrom=linked["chrom"][here].iloc[0])


def _view(gene: Gene, peaks: pd.DataFrame, window: int | None) -> tuple[float, float]:
    if window is not None:
        return max(gene.tss - window, 0), gene.tss + window
    first = min(gene.start, peaks["start"].min())
    last = max(gene.end, peaks["end"].max())
    margin = max(0.05 * (last - first), 500)
    return max(first - margin, 0), last + margin


def make_locus(
    name: str,
    tables: dict[str, LinkTable],
    mdata: MuData,
    *,
    source: str,
    target: str,
    annotation: pd.DataFrame | str | Path | None,
    window: int | None,
) -> Locus:
    """Gather what a locus view shows.

    Parameters
    ----------
    name
        Name of the gene.
    tables
        Name of a set of links to the links of this gene.
    mdata, source, target
        Modalities that hold the gene and the peaks.
    annotation
        Where to look for the gene.
    window
        Base pairs on both sides of the transcription start site; None: all peaks and the gene.

    Raises
    ------
    KeyError
        If there is no modality `target`, or it does not have the linked features.
    TypeError, ValueError
        If peaks have no coordinates, `annotation` is no table of genes, the gene and its peaks
        lie on different chromosomes, or no link lies in the window.
    """
    if window is not None and window <= 0:
        raise ValueError(f"window={window!r} must be a positive number of base pairs.")
    regions = target_regions(mdata, target)
    linked = pd.Index(pd.unique(pd.concat([table.links["target"] for table in tables.values()])))
    unknown = linked.difference(regions.index)
    if len(unknown):
        raise KeyError(
            f"{len(unknown)} of the {len(linked)} features linked to {name!r} are not in "
            f"modality {target!r}, e.g. {unknown[0]!r}."
        )
    at = regions.loc[linked]
    gene = _place_gene(name, find_gene(name, annotation, mdata, source, at["chrom"]), at)
    peaks = regions[same_chromosome(regions["chrom"], gene.chrom)]
    peaks = peaks.assign(
        linked=peaks.index.isin(linked), middle=(peaks["start"] + peaks["end"]) / 2
    )
    view = _view(gene, peaks[peaks["linked"]], window)
    peaks = peaks[(peaks["end"] > view[0]) & (peaks["start"] < view[1])]
    tracks = []
    for track, table in tables.items():
        placed = table.links.assign(middle=table.links["target"].map(peaks["middle"]))
        shown = placed[placed["middle"].between(*view)]
        tracks.append(Track(track, shown, table.rule, len(placed) - len(shown)))
    if all(track.links.empty for track in tracks):
        raise ValueError(
            f"No linked peak lies within {window:,} bp of {name!r}; widen the window."
        )
    return Locus(gene, next(iter(tables.values())).what, tracks, peaks, view)
