"""Report which features are linked, and how well they agree in cells with both modalities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from cantata._mudata.checks import warn_user
from cantata._mudata.pairing import row_table
from cantata._numeric.batches import sample_cells
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

MIN_LINKS = 5
"""Of fewer links it cannot be said whether they are consistent."""

MIN_WARNED_LINKS = 15
"""And with fewer than these right links may look like shuffled ones, so that nothing is warned."""

MAX_LINKS = 2000
"""Consistency is taken over at most so many links."""

MAX_SHUFFLED_LINKS = 300
"""And compared with shuffled links over at most so many."""

N_SHUFFLES = 200
"""Number of times that links are shuffled."""

MIN_Z = 2.0
"""Paired cells agree better than shuffled ones if they lie so many standard deviations above."""

MIN_WARNED_CELLS = 30
"""With fewer paired cells their agreement is not warned of."""

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
        ``smoothed`` (with smoothed values, if any are). ``consistency`` needs no pairs: whether
        the source varies with the other sources as the target does with the other targets, a
        correlation over the other links. A link that is below 0 while most are above is doubtful.
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
    consistency
        Whether linked features vary together in one modality as they do in the other: the
        correlation, over pairs of links, of the correlation of their sources with that of their
        targets (a Mantel test). It needs no pairs of cells and no labels. None with fewer than
        five links.
    shuffled_consistency
        What 95 % of shuffled links stay below; right links are above.
    agreement_z
        By how many standard deviations paired cells agree better than shuffled ones, over all
        links; below 2 pairs or links may be wrong. None where too few cells have both.
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
    consistency: float | None
    shuffled_consistency: float | None
    agreement_z: float | None
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
        if self.consistency is not None:
            text += (
                f"; consistency {self.consistency:.2f}, shuffled {self.shuffled_consistency:.2f}"
            )
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
        if self.consistency is not None:
            text = (
                f"{self.consistency:.2f}; of shuffled links 95 % are below "
                f"{self.shuffled_consistency:.2f}"
            )
            facts.append(("consistency", text))
            low = self.links[self.links["consistency"] < 0].sort_values("consistency")
            if 0 < len(low) < len(self.links) / 2:
                facts.append(("doubtful", _listed(_pair_names(low))))
        else:
            facts.append(("consistency", f"unknown: fewer than {MIN_LINKS} links"))
        for name in self.modalities:
            if self.unlinked[name]:
                facts.append((f"not linked in {name}", _listed(self.unlinked[name])))
            if self.repeated[name]:
                facts.append((f"repeated in {name}", _listed(self.repeated[name])))
        if len(self.constant):
            facts.append(("do not vary", _listed(_pair_names(self.constant))))
        return facts


def _pair_names(links: pd.DataFrame) -> tuple[str, ...]:
    pairs = zip(links["source"], links["target"], strict=True)
    return tuple(f"{source} with {target}" for source, target in pairs)


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
    agreement: Agreement,
    consistency: Consistency,
    scores: tuple[ZScores, ZScores],
    basis: Basis,
) -> LinkReport:
    """Report on the links of two modalities.

    Parameters
    ----------
    table, agreement, consistency
        One row per column of the z-scores, and what :func:`link_agreement` and
        :func:`link_consistency` say of it.
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
        links=pd.concat([table[columns], agreement.links, consistency.links], axis=1),
        constant=constant[columns],
        n_vars={name: int(mdata[name].n_vars) for name in linked},
        unlinked={name: unlinked for name, (unlinked, _) in ends.items()},
        repeated={name: repeated for name, (_, repeated) in ends.items()},
        transforms={name: values.transform or "none" for name, values in linked.items()},
        targets={name: values.target for name, values in linked.items()},
        smoothed={name: values.smoother is not None for name, values in linked.items()},
        centered=scores[0].center,
        consistency=consistency.score,
        shuffled_consistency=consistency.shuffled,
        agreement_z=agreement.z,
        n_components=basis.n_components,
        n_directions=basis.n_directions,
        n_paired=agreement.n_paired,
    )


class Agreement(NamedTuple):
    """How well linked features agree in cells with both modalities.

    ``links`` has the columns ``correlation``, ``shuffled`` and (if a modality is smoothed)
    ``smoothed``, none where fewer than 10 cells have both; ``z`` is None then.
    """

    links: pd.DataFrame
    z: float | None
    n_paired: int


def link_agreement(mdata: MuData, links: pd.DataFrame, a: ZScores, b: ZScores) -> Agreement:
    """Correlate the two ends of each link over cells with both modalities."""
    names = a.linked.name, b.linked.name
    rows = row_table(mdata, names)
    paired = np.flatnonzero((rows[names[0]] >= 0) & (rows[names[1]] >= 0))
    agreement = links[[]].copy()
    if paired.size < MIN_PAIRED_CELLS:
        return Agreement(agreement, None, 0)
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
    return Agreement(agreement, _agreement_z(left, right), int(paired.size))


def _agreement_z(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of products of standardised columns, in standard deviations over permuted cells.

    With centred columns the sum over permuted cells has mean 0 and variance
    tr(X'X Y'Y) / (n - 1), exactly.
    """
    x, y = (z[:, spread > 0] / spread[spread > 0] for z, spread in _both_vary(x, y))
    n, n_links = x.shape
    # the trace from the smaller of the products
    variance = np.square(x @ y.T).sum() if n <= n_links else ((x.T @ x) * (y.T @ y)).sum()
    return float((x * y).sum() / np.sqrt(variance / (n - 1))) if variance > 0 else 0.0


def _both_vary(x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Centred columns, and their standard deviation: 0 where either end does not vary."""
    centred = [z - z.mean(axis=0) for z in (x, y)]
    spread = [z.std(axis=0) for z in centred]
    varies = (spread[0] > 0) & (spread[1] > 0)
    return [(z, np.where(varies, sd, 0.0)) for z, sd in zip(centred, spread, strict=True)]


class Consistency(NamedTuple):
    """Whether links are consistent: of each the column ``consistency``, of all, and shuffled."""

    links: pd.DataFrame
    score: float | None
    shuffled: float | None


def link_consistency(links: pd.DataFrame, a: ZScores, b: ZScores) -> Consistency:
    """Compare how sources vary together with how their targets do; no cell need have both.

    Parameters
    ----------
    links
        One row per column of the z-scores.
    a, b
        Z-scores of sources and of targets.

    Returns
    -------
    The correlation of the two correlation matrices, over pairs of links that share no feature; for
    each link over the pairs with it; and the 95 % quantile of the first with shuffled links.
    """
    consistency = pd.DataFrame({"consistency": np.full(len(links), np.nan)}, index=links.index)
    if len(links) < MIN_LINKS:
        return Consistency(consistency, None, None)
    # 1. correlation matrices over a sample of the cells of each modality
    chosen = sample_cells(len(links), MAX_LINKS)
    x, y = (_sampled_correlations(scores, chosen) for scores in (a, b))
    source, target = (links[f"{end}_index"].to_numpy()[chosen] for end in ("source", "target"))
    apart = (source[:, None] != source) & (target[:, None] != target)
    apart &= np.isfinite(x) & np.isfinite(y)
    # 2. for each link
    weights = apart.astype(np.float64)
    x, y = np.where(apart, x, 0.0), np.where(apart, y, 0.0)
    consistency.iloc[chosen, 0] = _weighted_correlations(x, y, weights)
    # 3. of all, and with shuffled links
    some = sample_cells(chosen.size, MAX_SHUFFLED_LINKS)
    x, y, weights = (z[np.ix_(some, some)] for z in (x, y, weights))
    score = _weighted_correlation(x, y, weights)
    if not np.isfinite(score):
        return Consistency(consistency, None, None)
    rng = np.random.default_rng(0)
    shuffled = []
    for _ in range(N_SHUFFLES):
        order = np.ix_(*[rng.permutation(some.size)] * 2)
        shuffled.append(_weighted_correlation(x, y[order], weights * weights[order]))
    return Consistency(consistency, score, float(np.nanquantile(shuffled, 0.95)))


def _sampled_correlations(scores: ZScores, chosen: np.ndarray) -> np.ndarray:
    """Correlations (links, links) of the z-scores of some links; NaN where one does not vary."""
    sampled = np.zeros(scores.linked.n_cells, dtype=bool)
    sampled[sample_cells(scores.linked.n_cells, MAX_PAIRED_CELLS)] = True
    rows = np.vstack([block[sampled[span]][:, chosen] for span, block in scores.blocks()])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(rows, rowvar=False)


def _weighted_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    return float(
        _weighted_correlations(x.reshape(1, -1), y.reshape(1, -1), weights.reshape(1, -1))[0]
    )


def _weighted_correlations(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlation of each row of `x` with that of `y` where `weights` are 1; NaN if constant."""
    n = np.maximum(weights.sum(axis=1), 1.0)[:, None]
    x = (x - (x * weights).sum(axis=1)[:, None] / n) * weights
    y = (y - (y * weights).sum(axis=1)[:, None] / n) * weights
    return _ratio((x * y).sum(axis=1), np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1)))


def warn_of_disagreement(report: LinkReport) -> None:
    """Warn loudly if links agree no better than shuffled ones, or cells than shuffled cells."""
    a, b = report.modalities
    few_links = report.n_links < MIN_WARNED_LINKS
    score, limit = report.consistency, report.shuffled_consistency
    links_fail = not few_links and score is not None and limit is not None and score <= limit
    if links_fail:
        warn_user(
            f"The {report.n_links} links of {a!r} and {b!r} agree no better than shuffled ones: "
            "their features do not vary together in one modality as they do in the other "
            f"(consistency {score:.2f}, 95 % of shuffled links are below {limit:.2f}). "
            "Models that use them will align the wrong cells. Check the links, names and species; "
            "report.links has the consistency of each."
        )
    z = report.agreement_z
    if z is not None and z < MIN_Z and report.n_paired >= MIN_WARNED_CELLS:
        doubt = "links or pairs" if links_fail or few_links else "pairs"
        warn_user(
            f"{report.n_paired:,} cells have both {a!r} and {b!r}, but their linked features "
            "agree no better than those of shuffled cells (median correlation "
            f"{report.agreement:.3f}, shuffled {report.chance:.3f}): {doubt} may be wrong. Are "
            "cells of one name one cell, and were rows in the same order when they were named?"
        )


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
    return _ratio((x * y).sum(axis=0), np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0)))


def _ratio(product: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.divide(product, size, out=np.full(size.shape, np.nan), where=size > 0)
