"""The values of linked features: normalised on their own, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cantata._mudata.rows import iter_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator


COFACTOR = 5.0
"""Intensities are divided by this before the inverse hyperbolic sine, as is usual for CyTOF."""

BLOCK = 4096
"""Cells that are read at a time."""


@dataclass(frozen=True)
class Smoother:
    """Linear regression of the linked features on components of their modality.

    ``scores`` is cells x components, its last column 1; ``weights`` components x features.
    """

    scores: np.ndarray
    weights: np.ndarray

    def predict(self, rows: slice) -> np.ndarray:
        """Smoothed values of cells, float64 (cells, features)."""
        return self.scores[rows].astype(np.float64) @ self.weights


@dataclass(frozen=True)
class Linked:
    """The linked features of one modality, each once.

    ``features`` are their positions in the modality, in order. ``matrix`` may be on disk, and
    ``columns`` are the features' places in it. ``transform`` is ``"log1p"``, ``"clr"``,
    ``"arcsinh"`` or None. ``totals``, the cells' sums over the linked features, and ``target``,
    what they are scaled to, matter to ``"log1p"`` only; ``log_means``, the features' means of
    log(1 + x), to ``"clr"``. With a ``smoother`` its predictions take the place of the values.
    """

    name: str
    matrix: Any
    n_cells: int
    features: np.ndarray
    columns: np.ndarray
    transform: str | None
    totals: np.ndarray
    log_means: np.ndarray
    target: float = 0.0
    smoother: Smoother | None = None

    def places(self, index: Any) -> np.ndarray:
        """For positions in the modality, which of the linked features they are."""
        return np.searchsorted(self.features, np.asarray(index))

    def measured(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows, and normalised values of the linked features, float64 (cells, features)."""
        for rows, block in row_blocks(self.matrix, self.n_cells):
            values = _dense(block[:, self.columns])
            if self.transform == "log1p":
                totals = self.totals[rows]
                factors = np.divide(
                    self.target, totals, out=np.zeros_like(totals), where=totals > 0
                )
                values = np.log1p(values * factors[:, None])
            elif self.transform == "clr":
                values = np.log1p(values * np.exp(-self.log_means))
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
    for start, block in iter_blocks(matrix, n_cells, BLOCK):
        block = block.tocsr() if sparse.issparse(block) else np.asarray(block)
        yield slice(start, start + block.shape[0]), block


def _dense(block: Any) -> np.ndarray:
    block = block.toarray() if sparse.issparse(block) else block
    return np.asarray(block, dtype=np.float64)


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

    ``order`` says for each link which of the linked features it is, and ``weights`` are those of
    the links. With ``center`` the weighted mean over links is subtracted from each cell.
    """

    linked: Linked
    mean: np.ndarray
    sd: np.ndarray
    order: np.ndarray
    weights: np.ndarray
    max_value: float | None
    center: bool

    @property
    def smoothed(self) -> bool:
        """Whether they are predictions by components."""
        return self.linked.smoother is not None

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and float32 values (cells, links): z-scores times the root of the weight."""
        sd = np.where(self.sd > 0, self.sd, 1.0)
        roots = np.sqrt(self.weights).astype(np.float32)
        shares = (self.weights / self.weights.sum()).astype(np.float32)
        for rows, values in self.linked.blocks():
            scores = (values - self.mean) / sd
            if self.max_value is not None:
                np.clip(scores, -self.max_value, self.max_value, out=scores)
            scores = scores.astype(np.float32)[:, self.order]
            if self.center:
                scores -= (scores @ shares)[:, None]
            yield rows, scores * roots

    def array(self, basis: np.ndarray | None = None) -> np.ndarray:
        """All cells x links, or x columns of a basis (links, columns), float32."""
        width = self.order.size if basis is None else basis.shape[1]
        result = np.empty((self.linked.n_cells, width), dtype=np.float32)
        for rows, scores in self.blocks():
            result[rows] = scores if basis is None else scores @ basis
        return result
