"""Report which features are linked, and how well they agree in cells with both modalities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata._mudata.pairing import row_table
from cantata._numeric.sampling import sample_cells
from cantata.pp._report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mudata import MuData

    from cantata.pp._links._components import Basis
    from cantata.pp._links._values import ZScores

MAX_NAMES = 8
"""Up to so many names are listed in full."""

MIN_PAIRED_CELLS = 10
"""Correlations are not taken over fewer cells."""

MAX_PAIRED_CELLS = 5000
"""Correlations are taken over at most so many cells."""

MAX_ENTRIES = 2**24
"""And over so few cells that cells x links are at most this."""

WAYS = {
    "name": "by equal names",
    "gene": "by the column 'gene'",
    "alias": "by known names of proteins",
    "table": "by the table given",
}


@dataclass(frozen=True, repr=False)
class LinkReport(Report):
    """What :func:`cantata.pp.link_features` found; prints as a table.

    Parameters
    ----------
    modalities
        The two modalities.
    links
        One row per link: ``source``, ``target``, ``weight``, ``type`` (how it was found). Where
        cells have both modalities also ``correlation`` (Pearson, of the normalised values of both
        ends over these cells), ``shuffled`` (the same with the cells of one end permuted), and
        ``smoothed`` (with smoothed values, if any are).
    constant
        Links that were left out since one end does not vary.
    n_vars
        Number of features of each modality.
    unlinked
        Features of each modality without a link, in their order.
    repeated
        Features of each modality with several links; they fill several columns.
    transforms
        How each modality was transformed: ``"log1p"``, ``"clr"``, ``"arcsinh"`` or ``"none"``.
    targets
        Total to which the linked counts of each modality were scaled; 0 where they were not.
    smoothed
        Whether each modality was smoothed.
    centered
        Whether each cell's mean over the links was subtracted.
    n_components
        Number of joint components; 0 where the matrices have one column per link.
    n_directions
        Number of directions that the rows of both matrices span: that of the links, or less where
        only shared ones are kept.
    n_paired
        Number of cells with both modalities on which correlations were taken.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> counts = np.random.default_rng(0).poisson(3.0, (50, 6)).astype("float32")
    >>> rna, adt = AnnData(counts[:, :3]), AnnData(counts[:, 3:])
    >>> rna.var_names, adt.var_names = ["CD4", "MS4A1", "PTPRC"], ["CD4", "CD20", "CD45RA"]
    >>> mdata = mudata.MuData({"rna": rna, "adt": adt})
    >>> report = cantata.pp.link_features(mdata, "rna", "adt")
    >>> report.links[["source", "target", "type"]]
      source  target   type
    0    CD4     CD4   name
    1  MS4A1    CD20  alias
    2  PTPRC  CD45RA  alias
    """

    modalities: tuple[str, str]
    links: pd.DataFrame
    constant: pd.DataFrame
    n_vars: Mapping[str, int]
    unlinked: Mapping[str, tuple[str, ...]]
    repeated: Mapping[str, tuple[str, ...]]
    transforms: Mapping[str, str]
    targets: Mapping[str, float]
    smoothed: Mapping[str, bool]
    centered: bool
    n_components: int
    n_directions: int
    n_paired: int

    @property
    def n_links(self) -> int:
        """Number of links."""
        return len(self.links)

    @property
    def agreement(self) -> float | None:
        """Median correlation of the two ends of a link; None where no cells have both."""
        return self._median("correlation")

    @property
    def chance(self) -> float | None:
        """Median correlation of the two ends with shuffled cells; None as for agreement."""
        return self._median("shuffled")

    @property
    def summary(self) -> str:
        """One sentence."""
        a, b = self.modalities
        text = (
            f"{self.n_links} links of {a!r} and {b!r}; {len(self.unlinked[a])} and "
            f"{len(self.unlinked[b])} of their features have none"
        )
        if self.agreement is not None:
            text += f"; median correlation {self.agreement:.3f}, shuffled {self.chance:.3f}"
        return text + "."

    def _median(self, column: str) -> float | None:
        return float(self.links[column].median()) if column in self.links else None

    @property
    def _headings(self) -> tuple[str, str]:
        return f"Links of {self.modalities[0]} and {self.modalities[1]}", "modality"

    def _table(self) -> pd.DataFrame:
        rows = {}
        for name in self.modalities:
            linked = self.n_vars[name] - len(self.unlinked[name])
            target = self.targets[name]
            rows[name] = {
                "features": f"{self.n_vars[name]:,}",
                "linked": f"{linked:,}",
                "in several links": f"{len(self.repeated[name]):,}",
                "transform": self.transforms[name],
                "total": f"{target:,.4g}" if target else "·",
                "smoothed": "yes" if self.smoothed[name] else "no",
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    def _facts(self) -> list[tuple[str, str]]:
        counts = self.links["type"].value_counts()
        ways = ", ".join(f"{n:,} {WAYS.get(way, way)}" for way, n in counts.items())
        facts = [("links", f"{self.n_links:,}: {ways}")]
        width = (
            f"{self.n_components} joint principal components"
            if self.n_components
            else f"{self.n_links:,} columns, one per link"
        )
        if not self.n_components and self.n_directions < self.n_links:
            width += f", along {self.n_directions} directions that both share"
        if self.centered:
            width += ", each cell centred"
        facts.append(("matrices", width))
        if self.agreement is not None:
            text = f"median correlation {self.agreement:.3f}"
            if "smoothed" in self.links:
                text += f" ({self._median('smoothed'):.3f} smoothed)"
            text += f" over {self.n_paired:,} cells with both; {self.chance:.3f} if shuffled"
            facts.append(("agreement", text))
        else:
            facts.append(("agreement", "unknown: too few cells have both modalities"))
        for name in self.modalities:
            if self.unlinked[name]:
                facts.append((f"not linked in {name}", _listed(self.unlinked[name])))
            if self.repeated[name]:
                facts.append((f"repeated in {name}", _listed(self.repeated[name])))
        if len(self.constant):
            pairs = zip(self.constant["source"], self.constant["target"], strict=True)
            names = tuple(f"{source} with {target}" for source, target in pairs)
            facts.append(("do not vary", _listed(names)))
        return facts


def _listed(names: tuple[str, ...]) -> str:
    if len(names) <= MAX_NAMES:
        return ", ".join(names)
    return f"{len(names):,}, e.g. {', '.join(names[:MAX_NAMES])}"


def _ends(names: pd.Index, index: np.ndarray) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of features without a link, and of those with several; `index`: an end of each."""
    n_links = np.bincount(index, minlength=len(names))
    return tuple(map(str, names[n_links == 0])), tuple(map(str, names[n_links > 1]))


def link_report(
    mdata: MuData,
    table: pd.DataFrame,
    used: pd.DataFrame,
    constant: pd.DataFrame,
    agreement: pd.DataFrame,
    scores: tuple[ZScores, ZScores],
    basis: Basis,
    n_paired: int,
) -> LinkReport:
    """Report on the links of two modalities.

    Parameters
    ----------
    table, agreement, n_paired
        One row per column of the z-scores, and what :func:`link_agreement` says of it.
    used
        The links behind them; others than `table` where several peaks were summed.
    constant
        Rows that were left out.
    scores, basis
        Z-scores of both modalities, and what they were multiplied with.
    """
    linked = {x.linked.name: x.linked for x in scores}
    ends = {
        name: _ends(mdata[name].var_names, used[column].to_numpy())
        for name, column in zip(linked, ("source_index", "target_index"), strict=True)
    }
    columns = ["source", "target", "weight", "type"]
    first, second = linked
    return LinkReport(
        modalities=(first, second),
        links=pd.concat([table[columns], agreement], axis=1),
        constant=constant[columns],
        n_vars={name: int(mdata[name].n_vars) for name in linked},
        unlinked={name: unlinked for name, (unlinked, _) in ends.items()},
        repeated={name: repeated for name, (_, repeated) in ends.items()},
        transforms={name: values.transform or "none" for name, values in linked.items()},
        targets={name: values.target for name, values in linked.items()},
        smoothed={name: values.smoother is not None for name, values in linked.items()},
        centered=scores[0].center,
        n_components=basis.n_components,
        n_directions=basis.n_directions,
        n_paired=n_paired,
    )


def link_agreement(
    mdata: MuData, links: pd.DataFrame, a: ZScores, b: ZScores
) -> tuple[pd.DataFrame, int]:
    """Correlate the two ends of each link over cells with both modalities.

    Returns
    -------
    Columns ``correlation``, ``shuffled`` and (if a modality is smoothed) ``smoothed``, none where
    fewer than 10 cells have both; and the number of cells.
    """
    names = a.linked.name, b.linked.name
    rows = row_table(mdata, names)
    paired = np.flatnonzero((rows[names[0]] >= 0) & (rows[names[1]] >= 0))
    agreement = links[[]].copy()
    if paired.size < MIN_PAIRED_CELLS:
        return agreement, 0
    max_cells = max(min(MAX_PAIRED_CELLS, MAX_ENTRIES // max(len(links), 1)), MIN_PAIRED_CELLS)
    paired = paired[sample_cells(paired.size, max_cells)]
    left = _pick(a.linked.measured(), rows[names[0]][paired], a)
    right = _pick(b.linked.measured(), rows[names[1]][paired], b)
    agreement["correlation"] = _correlate(left, right)
    agreement["shuffled"] = _correlate(left, np.random.default_rng(0).permutation(right))
    if a.linked.smoother is not None or b.linked.smoother is not None:
        left = _pick(a.linked.blocks(), rows[names[0]][paired], a)
        right = _pick(b.linked.blocks(), rows[names[1]][paired], b)
        agreement["smoothed"] = _correlate(left, right)
    return agreement, int(paired.size)


def _pick(
    blocks: Iterator[tuple[slice, np.ndarray]], rows: np.ndarray, scores: ZScores
) -> np.ndarray:
    """Values of cells (in the order of `rows`), one column per link."""
    values = np.empty((rows.size, scores.order.size))
    for span, block in blocks:
        here = np.flatnonzero((rows >= span.start) & (rows < span.stop))
        values[here] = block[rows[here] - span.start][:, scores.order]
    return values


def _correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of columns; NaN where one does not vary."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    size = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return np.divide((x * y).sum(axis=0), size, out=np.full(size.shape, np.nan), where=size > 0)
