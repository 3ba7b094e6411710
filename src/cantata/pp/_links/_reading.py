"""Read a modality once, and decide how its linked features are transformed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from cantata.pp._links._matrices import Linked, row_blocks

LEAST_TOTAL = 20.0
"""Smallest total to which the linked counts of a cell are scaled."""

LARGEST_LOG = 50.0
"""Values above this are no logarithms of anything that was counted or measured."""

HELD = 2**26
"""Up to so many entries (cells x linked features) are kept in memory after the reading."""


@dataclass(frozen=True)
class _Scan:
    """What one reading finds: of all features whether they are counts, the rest of linked ones.

    ``kept`` holds blocks of the linked features, nothing if they are too many.
    """

    counts: bool
    lowest: float
    highest: float
    totals: np.ndarray
    log_means: np.ndarray
    kept: list[Any]


def read_linked(name: str, matrix: Any, index: Any, transform: str | None) -> Linked:
    """Read a modality once.

    Parameters
    ----------
    name
        Name of the modality, for errors.
    matrix
        Cells x features, in memory or on disk.
    index
        Position of the linked feature of each link.
    transform
        ``"auto"``, ``"log1p"``, ``"clr"``, ``"arcsinh"`` or None.

    Returns
    -------
    The linked features, with no target total yet; `transform` is resolved.

    Raises
    ------
    ValueError
        If values are not finite, or there are negative ones where logarithms are taken.
    """
    if sparse.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    features = np.unique(np.asarray(index))
    scan = _scan(name, matrix, features)
    transform = _resolve(name, transform, scan)
    columns = features
    if scan.kept:
        whole = sparse.issparse(scan.kept[0])
        matrix = sparse.vstack(scan.kept, format="csr") if whole else np.vstack(scan.kept)
        columns = np.arange(features.size)
    return Linked(
        name, matrix, scan.totals.size, features, columns, transform, scan.totals, scan.log_means
    )


def _scan(name: str, matrix: Any, features: np.ndarray) -> _Scan:
    n_cells = matrix.shape[0]
    totals, logs, kept = np.zeros(n_cells), np.zeros(features.size), []
    integers, lowest, highest = True, 0.0, 0.0
    for rows, block in row_blocks(matrix, n_cells):
        values = block.data if sparse.issparse(block) else block
        finite = np.isfinite(values)
        if not finite.all():
            n_bad = finite.size - int(finite.sum())
            raise ValueError(
                f"Modality {name!r} has {n_bad} NaN or infinite values among "
                f"rows {rows.start} to {rows.stop - 1}. Cells that were not measured are left "
                "out of the modality, not filled with NaN."
            )
        lowest = min(lowest, float(values.min(initial=0)))
        integers = integers and bool(np.all(values == np.rint(values)))
        chosen = block[:, features]
        held = chosen.data if sparse.issparse(chosen) else chosen
        highest = max(highest, float(held.max(initial=0)))
        totals[rows] = np.asarray(chosen.sum(axis=1, dtype=np.float64)).ravel()
        if lowest >= 0:
            logged = chosen.log1p() if sparse.issparse(chosen) else np.log1p(chosen)
            logs += np.asarray(logged.sum(axis=0, dtype=np.float64)).ravel()
        if n_cells * features.size <= HELD:
            kept.append(chosen)
    return _Scan(integers and lowest >= 0, lowest, highest, totals, logs / n_cells, kept)


def _resolve(name: str, transform: str | None, scan: _Scan) -> str | None:
    if transform == "auto" and not scan.counts and scan.highest > LARGEST_LOG:
        warnings.warn(
            f"The linked values of modality {name!r} are no counts and reach {scan.highest:,.4g}; "
            "they are taken as they are. If they are intensities that were not transformed, use "
            f"transforms={{{name!r}: 'arcsinh'}}.",
            UserWarning,
            stacklevel=4,
        )
    if transform == "auto":
        return "log1p" if scan.counts else None
    if transform in ("log1p", "clr") and scan.lowest < 0:
        raise ValueError(
            f"Modality {name!r} has negative values (down to {scan.lowest:.3g}), of which "
            f"{transform!r} cannot take logarithms. Name the layer of the counts, or use "
            f"transforms={{{name!r}: None}} (or 'arcsinh')."
        )
    return transform


def set_targets(a: Linked, b: Linked) -> tuple[Linked, Linked]:
    """Totals to which the linked counts are scaled (Wang et al. 2025, scMODAL, the recipes).

    Both are scaled: to the median total of the shallower modality, at least 20. One is: to the
    median sum of expm1 of the other if its values can be logarithms, else to its own median
    total, at least 20.
    """
    scaled = [side.transform == "log1p" for side in (a, b)]
    if all(scaled):
        shared = min(_own_target(a), _own_target(b))
        return replace(a, target=shared), replace(b, target=shared)
    if scaled[0]:
        return replace(a, target=_foreign_target(b) or _own_target(a)), b
    if scaled[1]:
        return a, replace(b, target=_foreign_target(a) or _own_target(b))
    return a, b


def _own_target(side: Linked) -> float:
    return max(float(np.median(side.totals)), LEAST_TOTAL)


def _foreign_target(side: Linked) -> float | None:
    """Median sum of expm1 of values that are logarithms; None if they are not."""
    if side.transform == "clr":
        return None
    sums = np.zeros(side.n_cells)
    for rows, values in side.measured():
        if values.min(initial=0) < 0 or values.max(initial=0) > LARGEST_LOG:
            return None
        sums[rows] = np.expm1(values).sum(axis=1)
    return float(np.median(sums)) or None
