"""What :func:`cantata.pp.link_features` found, as a table that people like to read."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudata import MuData
    from rich.console import Group

    from cantata.pp._links._components import Basis
    from cantata.pp._links._matrices import Scaled

SHOWN = 8
"""Number of names that are listed in full."""

WAYS = {
    "name": "by equal names",
    "gene": "by the column 'gene'",
    "alias": "by known names of proteins",
    "table": "by the table given",
}


@dataclass(frozen=True, repr=False)
class LinkReport:
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
    n_comps
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
    n_comps: int
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

    def settings(self, max_value: float | None) -> dict[str, Any]:
        """How features were treated, in values that a file can hold."""
        return {
            "transforms": dict(self.transforms),
            "targets": dict(self.targets),
            "smoothed": dict(self.smoothed),
            "centered": self.centered,
            "n_comps": self.n_comps,
            "n_directions": self.n_directions,
            "max_value": np.inf if max_value is None else float(max_value),
        }

    def _median(self, column: str) -> float | None:
        return float(self.links[column].median()) if column in self.links else None

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

    def _lines(self) -> list[tuple[str, str]]:
        counts = self.links["type"].value_counts()
        ways = ", ".join(f"{n:,} {WAYS.get(way, way)}" for way, n in counts.items())
        lines = [("links", f"{self.n_links:,}: {ways}")]
        width = (
            f"{self.n_comps} joint principal components"
            if self.n_comps
            else f"{self.n_links:,} columns, one per link"
        )
        if not self.n_comps and self.n_directions < self.n_links:
            width += f", along {self.n_directions} directions that both share"
        if self.centered:
            width += ", each cell centred"
        lines.append(("matrices", width))
        if self.agreement is not None:
            text = f"median correlation {self.agreement:.3f}"
            if "smoothed" in self.links:
                text += f" ({self._median('smoothed'):.3f} smoothed)"
            text += f" over {self.n_paired:,} cells with both; {self.chance:.3f} if shuffled"
            lines.append(("agreement", text))
        else:
            lines.append(("agreement", "unknown: too few cells have both modalities"))
        for name in self.modalities:
            if self.unlinked[name]:
                lines.append((f"not linked in {name}", _listed(self.unlinked[name])))
            if self.repeated[name]:
                lines.append((f"repeated in {name}", _listed(self.repeated[name])))
        if len(self.constant):
            pairs = zip(self.constant["source"], self.constant["target"], strict=True)
            names = tuple(f"{source} with {target}" for source, target in pairs)
            lines.append(("do not vary", _listed(names)))
        return lines

    def __rich__(self) -> Group:
        """Table for a rich console."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        title = f"Links of {self.modalities[0]} and {self.modalities[1]}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        values = self._table()
        table.add_column("modality")
        for column in values.columns:
            table.add_column(column, justify="right")
        for name, row in values.iterrows():
            table.add_row(Text(str(name)), *row)
        facts = Table.grid(padding=(0, 2))
        for key, text in self._lines():
            facts.add_row(Text(key, style="bold"), Text(text))
        return Group(table, facts)

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=100, color_system=None, force_jupyter=False)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def _repr_html_(self) -> str:
        """Table for a notebook."""
        facts = "".join(
            f"<tr><th style='text-align:left;vertical-align:top'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for key, text in self._lines()
        )
        return f"<div>{self._table().to_html(border=0)}<table>{facts}</table></div>"


def _listed(names: tuple[str, ...]) -> str:
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{len(names):,}, e.g. {', '.join(names[:SHOWN])}"


def _ends(names: pd.Index, index: np.ndarray) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of features without a link, and of those with several.

    Parameters
    ----------
    names
        Features of a modality.
    index
        Position of the end of each link.
    """
    number = np.bincount(index, minlength=len(names))
    return tuple(map(str, names[number == 0])), tuple(map(str, names[number > 1]))


def link_report(
    mdata: MuData,
    table: pd.DataFrame,
    used: pd.DataFrame,
    constant: pd.DataFrame,
    found: pd.DataFrame,
    scaled: tuple[Scaled, Scaled],
    basis: Basis,
    n_paired: int,
) -> LinkReport:
    """Put together what was found.

    Parameters
    ----------
    mdata
        Any MuData.
    table, found
        One row per column of the z-scores, and how well its two ends agree.
    used
        The links behind them; others than `table` where several peaks were summed.
    constant
        Rows that were left out.
    scaled
        Z-scores of both modalities.
    basis
        What they were multiplied with.
    n_paired
        Number of cells with both modalities.
    """
    sides = {side.linked.name: side.linked for side in scaled}
    index = {
        name: _ends(mdata[name].var_names, used[column].to_numpy())
        for name, column in zip(sides, ("source_index", "target_index"), strict=True)
    }
    columns = ["source", "target", "weight", "type"]
    first, second = sides
    return LinkReport(
        modalities=(first, second),
        links=pd.concat([table[columns], found], axis=1),
        constant=constant[columns],
        n_vars={name: int(mdata[name].n_vars) for name in sides},
        unlinked={name: unlinked for name, (unlinked, _) in index.items()},
        repeated={name: repeated for name, (_, repeated) in index.items()},
        transforms={name: side.transform or "none" for name, side in sides.items()},
        targets={name: side.target for name, side in sides.items()},
        smoothed={name: side.smoother is not None for name, side in sides.items()},
        centered=scaled[0].center,
        n_comps=basis.n_comps,
        n_directions=basis.n_directions,
        n_paired=n_paired,
    )
