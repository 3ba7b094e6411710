"""The values of linked features: normalised on their own, block by block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cantata.pp._link_smoothing import Smoother

COFACTOR = 5.0
"""Intensities are divided by this before the inverse hyperbolic sine, as is usual for CyTOF."""

LEAST_TOTAL = 20.0
"""Smallest total to which the linked counts of a cell are scaled."""

LARGEST_LOG = 50.0
"""Values above this are no logarithms of anything that was counted or measured."""

BLOCK = 4096
"""Cells that are read at a time."""

HELD = 2**26
"""Up to so many entries (cells x linked features) are kept in memory after the first reading."""


@dataclass(frozen=True)
class Linked:
    """The linked features of one modality, each once.

    ``features`` are their positions in the modality, in order. ``matrix`` may be on disk;
    ``columns`` are the features' places in it. ``transform`` is
    ``"log1p"``, ``"arcsinh"`` or None. ``totals`` are the
    cells' sums over the linked features and ``target`` is what they are scaled to; both matter
    to ``"log1p"`` only. With a ``smoother`` its predictions take the place of the values.
    """

    name: str
    matrix: Any
    n_cells: int
    features: np.ndarray
    columns: np.ndarray
    transform: str | None
    totals: np.ndarray
    target: float = 0.0
    smoother: Smoother | None = None

    def places(self, index: Any) -> np.ndarray:
        """For positions in the modality, which of the linked features they are."""
        return np.searchsorted(self.features, np.asarray(index))

    def measured(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows, and normalised values of the linked features, float64 (cells, features)."""
        for rows, block in row_blocks(self.matrix, self.n_cells):
            values = dense(block[:, self.columns])
            if self.transform == "log1p":
                totals = self.totals[rows]
                factors = np.divide(
                    self.target, totals, out=np.zeros_like(totals), where=totals > 0
                )
                values = np.log1p(values * factors[:, None])
            elif self.transform == "arcsinh":
                values = np.arcsinh(values / COFACTOR)
            yield rows, values

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """As :meth:`measured`, smoothed if there is a smoother."""
        if self.smoother is None:
            yield from self.measured()
            return
        for start in range(0, self.n_cells, BLOCK):
            rows = slice(start, min(start + BLOCK, self.n_cells))
            yield rows, self.smoother.predict(rows)


def row_blocks(matrix: Any, n_cells: int) -> Iterator[tuple[slice, Any]]:
    """Blocks of rows with their places; sparse blocks are CSR."""
    from cantata.data._rows import iter_blocks  # its package imports torch

    for start, block in iter_blocks(matrix, n_cells, BLOCK):
        block = block.tocsr() if sparse.issparse(block) else np.asarray(block)
        yield slice(start, start + block.shape[0]), block


def dense(block: Any) -> np.ndarray:
    """A float64 array."""
    block = block.toarray() if sparse.issparse(block) else block
    return np.asarray(block, dtype=np.float64)


def read_linked(name: str, matrix: Any, index: Any, transform: str | None) -> Linked:
    """Read a modality once: what it holds, and the sums over its linked features.

    Parameters
    ----------
    name
        Name of the modality, for errors.
    matrix
        Cells x features, in memory or on disk.
    index
        Position of the linked feature of each link.
    transform
        ``"auto"``, ``"log1p"``, ``"arcsinh"`` or None.

    Returns
    -------
    The linked features, with no target total yet; `transform` is resolved.

    Raises
    ------
    ValueError
        If values are not finite, or negative ones are to be scaled and logged.
    """
    if sparse.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    n_cells = matrix.shape[0]
    features = columns = np.unique(np.asarray(index))
    keep = n_cells * columns.size <= HELD
    totals, kept = np.zeros(n_cells), []
    integers, lowest = True, 0.0
    for rows, block in row_blocks(matrix, n_cells):
        values = block.data if sparse.issparse(block) else block
        if not np.isfinite(values).all():
            raise ValueError(
                f"Modality {name!r} has NaN or infinite values. Cells that were not measured are "
                "left out of the modality, not filled with NaN."
            )
        lowest = min(lowest, float(values.min(initial=0)))
        integers = integers and bool(np.all(values == np.rint(values)))
        chosen = block[:, columns]
        totals[rows] = np.asarray(chosen.sum(axis=1, dtype=np.float64)).ravel()
        if keep:
            kept.append(chosen)
    counts = integers and lowest >= 0
    if transform == "auto":
        transform = "log1p" if counts else None
    if transform == "log1p" and lowest < 0:
        raise ValueError(
            f"Modality {name!r} has negative values (down to {lowest:.3g}), which 'log1p' cannot "
            f"scale. Use transforms={{{name!r}: None}} or 'arcsinh', or name the layer of the "
            "counts."
        )
    if keep:
        matrix = sparse.vstack(kept, format="csr") if sparse.issparse(kept[0]) else np.vstack(kept)
        columns = np.arange(columns.size)
    return Linked(name, matrix, n_cells, features, columns, transform, totals)


def set_targets(a: Linked, b: Linked) -> tuple[Linked, Linked]:
    """Totals to which the linked counts are scaled (Wang et al. 2025, scMODAL, the recipes).

    Both are counts: the median total of the shallower modality, at least 20, for both. One is
    not: the median sum of expm1 of the other, if its values can be logarithms, else the median
    total, at least 20.
    """
    logged = [side.transform == "log1p" for side in (a, b)]
    if all(logged):
        shared = min(_own_target(a), _own_target(b))
        return replace(a, target=shared), replace(b, target=shared)
    if logged[0]:
        return replace(a, target=_foreign_target(b) or _own_target(a)), b
    if logged[1]:
        return a, replace(b, target=_foreign_target(a) or _own_target(b))
    return a, b


def _own_target(side: Linked) -> float:
    return max(float(np.median(side.totals)), LEAST_TOTAL)


def _foreign_target(side: Linked) -> float | None:
    """Median sum of expm1 of values that are logarithms; None if they are not."""
    sums = np.zeros(side.n_cells)
    for rows, values in side.measured():
        if values.min(initial=0) < 0 or values.max(initial=0) > LARGEST_LOG:
            return None
        sums[rows] = np.expm1(values).sum(axis=1)
    return float(np.median(sums)) or None


def moments(blocks: Iterator[tuple[slice, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each column; 0 where it does not vary."""
    n, mean, spread = 0, np.zeros(()), np.zeros(())
    for _, values in blocks:
        size, own = values.shape[0], values.mean(axis=0)
        shift = own - mean
        spread = spread + values.var(axis=0) * size + shift**2 * (n * size / (n + size))
        mean = mean + shift * (size / (n + size))
        n += size
    sd = np.sqrt(spread / n)
    return mean, np.where(sd > 1e-6 * np.maximum(np.abs(mean), 1e-6), sd, 0.0)


@dataclass(frozen=True)
class Scaled:
    """Z-scores of linked features, one column per link.

    ``order`` says for each link which of the linked features it is, ``factors`` what its column
    is multiplied by.
    """

    linked: Linked
    mean: np.ndarray
    sd: np.ndarray
    order: np.ndarray
    factors: np.ndarray
    max_value: float | None

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and float32 values (cells, links)."""
        sd = np.where(self.sd > 0, self.sd, 1.0)
        for rows, values in self.linked.blocks():
            scores = (values - self.mean) / sd
            if self.max_value is not None:
                np.clip(scores, -self.max_value, self.max_value, out=scores)
            scores = scores.astype(np.float32)
            yield rows, scores[:, self.order] * self.factors.astype(np.float32)

    def array(self, axes: np.ndarray | None = None) -> np.ndarray:
        """All cells: (cells, links), or (cells, components) with the axes of components."""
        width = self.order.size if axes is None else axes.shape[1]
        result = np.empty((self.linked.n_cells, width), dtype=np.float32)
        for rows, scores in self.blocks():
            result[rows] = scores if axes is None else scores @ axes
        return result
