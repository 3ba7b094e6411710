"""Link the features of two modalities, so that their cells can be compared."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cantata.pp._link_agreement import link_agreement
from cantata.pp._link_components import joint_axes
from cantata.pp._link_matrices import Linked, Scaled, moments, read_linked, set_targets
from cantata.pp._link_options import LinkOptions, link_options
from cantata.pp._link_report import LinkReport, ends
from cantata.pp._link_smoothing import fit_smoother
from cantata.pp._link_store import write_links
from cantata.pp._link_tables import links_by_name, links_by_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudata import MuData

logger = logging.getLogger(__name__)

FEW = 3
"""With fewer links than this, the angle between two cells says next to nothing."""


def link_features(
    mdata: MuData,
    a: str,
    b: str,
    links: pd.DataFrame | None = None,
    *,
    layers: Mapping[str, str | None] | None = None,
    transforms: Mapping[str, str | None] | Literal["auto"] = "auto",
    n_comps: int | Literal["auto"] | None = "auto",
    smooth: Mapping[str, bool | Literal["auto"]] | bool | Literal["auto"] = "auto",
    max_value: float | None = 10.0,
) -> LinkReport:
    """Link features of two modalities, and make matrices in which their cells can be compared."""
    options = link_options(mdata, a, b, layers, transforms, n_comps, smooth, max_value)
    table = links_by_name(mdata, a, b) if links is None else links_by_table(mdata, a, b, links)
    sides = [
        read_linked(name, options.matrices[name], table[index], options.transforms[name])
        for name, index in ((a, "source_index"), (b, "target_index"))
    ]
    left, right = set_targets(*sides)
    table, constant = _split(table, left, right)
    width = options.n_components(len(table))
    scaled = (
        _scale(left, table["source_index"], table["weight"], options),
        _scale(right, table["target_index"], table["weight"], options),
    )
    axes = joint_axes(*scaled, width) if width else None
    arrays = scaled[0].array(axes), scaled[1].array(axes)
    found, n_paired = link_agreement(mdata, table, *scaled)
    report = _report(mdata, table, constant, found, scaled, width, n_paired)
    write_links(mdata, a, b, table, arrays, _settings(report, max_value))
    logger.info("%d links of %r and %r: %s.", len(table), a, b, _said(report))
    return report


def _split(table: pd.DataFrame, left: Linked, right: Linked) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Links whose two ends vary, and the others, after a warning."""
    varies = np.ones(len(table), dtype=bool)
    for side, index in ((left, table["source_index"]), (right, table["target_index"])):
        varies &= (moments(side.measured())[1] > 0)[side.places(index)]
    kept, constant = table[varies].reset_index(drop=True), table[~varies].reset_index(drop=True)
    if len(constant):
        pairs = zip(constant["source"], constant["target"], strict=True)
        names = [f"{source} with {target}" for source, target in pairs][:5]
        text = (
            f"{len(constant)} of {len(table)} links of {left.name!r} and {right.name!r} have an "
            f"end that does not vary, e.g. {', '.join(names)}"
        )
        if kept.empty:
            raise ValueError(f"{text}. None is left: give others with links=.")
        warnings.warn(f"{text}; they are left out.", UserWarning, stacklevel=3)
    if len(kept) < FEW:
        warnings.warn(
            f"{left.name!r} and {right.name!r} have only {len(kept)} link(s); cells can hardly be "
            f"compared by fewer than {FEW}. Give more with links=.",
            UserWarning,
            stacklevel=3,
        )
    return kept, constant


def _scale(side: Linked, index: pd.Series, weight: pd.Series, options: LinkOptions) -> Scaled:
    if options.smooths(side.name, side.transform):
        side = replace(side, smoother=fit_smoother(side, options.matrices[side.name]))
    mean, sd = moments(side.blocks())
    factors = np.sqrt(weight.to_numpy())
    return Scaled(side, mean, sd, side.places(index), factors, options.max_value)


def _report(
    mdata: MuData,
    table: pd.DataFrame,
    constant: pd.DataFrame,
    found: pd.DataFrame,
    scaled: tuple[Scaled, Scaled],
    width: int,
    n_paired: int,
) -> LinkReport:
    sides = {side.linked.name: side.linked for side in scaled}
    index = {
        name: ends(mdata[name].var_names, table[column].to_numpy())
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
        n_comps=width,
        n_paired=n_paired,
    )


def _settings(report: LinkReport, max_value: float | None) -> dict[str, Any]:
    """What the record says beside the links, in values that a file can hold."""
    return {
        "transforms": dict(report.transforms),
        "targets": dict(report.targets),
        "smoothed": dict(report.smoothed),
        "n_comps": report.n_comps,
        "max_value": np.inf if max_value is None else float(max_value),
    }


def _said(report: LinkReport) -> str:
    a, b = report.modalities
    said = f"{len(report.unlinked[a])} and {len(report.unlinked[b])} features have none"
    if report.agreement is not None:
        said += f"; median correlation {report.agreement:.3f}"
    return said
