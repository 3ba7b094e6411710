"""What dimensions are estimated from: a draw of cells, and scaled features of each modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from cantata._mudata.kinds import KINDS, guess_kind
from cantata._mudata.pairing import row_table
from cantata._mudata.values import saved_record
from cantata._numeric.components import CLIP, moments
from cantata._numeric.normalise import normalise, scale_columns, target_total, variable_genes

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from cantata._mudata.kinds import Kind

MIN_PAIRED_CELLS = 50
"""Canonical correlations are not cross-validated over fewer cells."""

MAX_GRAM_WIDTH = 500
"""Up to so many features matrices of features x features are made; beyond, they are only
multiplied with."""


def choose_cells(
    mdata: MuData, names: list[str], max_cells: int | None, seed: int
) -> tuple[dict[str, np.ndarray], int]:
    """Rows of the cells to read in each modality, and how many of them have all modalities.

    These come first, in one order.
    """
    table = row_table(mdata, names)
    everywhere = np.all([rows >= 0 for rows in table.values()], axis=0)
    if everywhere.sum() < MIN_PAIRED_CELLS:
        raise ValueError(
            f"Only {everywhere.sum()} cells have all of {names}; canonical correlations need "
            f"{MIN_PAIRED_CELLS}. Name modalities that are measured together with "
            "modalities=[...]."
        )
    rng = np.random.default_rng([seed, 2])
    paired = _draw(np.flatnonzero(everywhere), max_cells, rng)
    chosen = {}
    for name, rows in table.items():
        others = np.flatnonzero((rows >= 0) & ~everywhere)
        left = None if max_cells is None else max_cells - len(paired)
        chosen[name] = rows[np.concatenate([paired, _draw(others, left, rng)])]
    return chosen, len(paired)


def _draw(cells: np.ndarray, most: int | None, rng: np.random.Generator) -> np.ndarray:
    if most is None or len(cells) <= most:
        return cells
    return np.sort(rng.choice(cells, most, replace=False))


@dataclass(frozen=True)
class ScaledFeatures:
    """Values (cells x features, CSR or dense) of features that vary, with moments of columns."""

    values: Any
    mean: np.ndarray
    variance: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of features."""
        return self.values.shape[0], self.values.shape[1]

    def times(self, right: np.ndarray) -> np.ndarray:
        """Centred values times `right` (features x any)."""
        return np.asarray(self.values @ right - self.mean @ right)

    def transposed_times(self, left: np.ndarray) -> np.ndarray:
        """Transposed centred values times `left` (cells x any)."""
        return np.asarray(
            self.values.T @ left - np.multiply.outer(self.mean, left.sum(axis=0))
        ).reshape(self.shape[1], *left.shape[1:])


def _read_matrix(name: str, adata: AnnData, layer: str | None) -> Any:
    """``.X`` or a layer: numpy or CSR."""
    matrix: Any = adata.X if layer is None else adata.layers[layer]
    if isinstance(matrix, pd.DataFrame):
        matrix = matrix.to_numpy()
    if sparse.issparse(matrix):
        return sparse.csr_matrix(matrix)
    if not isinstance(matrix, np.ndarray):
        raise TypeError(
            f"The values of modality {name!r} are a {type(matrix).__name__}; numpy arrays and "
            "scipy sparse matrices can be read. Load it first: mdata[m].to_memory()."
        )
    return np.asarray(matrix)


def modality_kind(name: str, adata: AnnData, given: str | None) -> Kind | None:
    """Kind as given, as recorded by ``pp.preprocess``, or guessed; None if nothing tells."""
    if given is not None:
        if given not in KINDS:
            raise ValueError(
                f"modalities={{{name!r}: {given!r}}}: the kinds are {', '.join(KINDS)}."
            )
        return KINDS[given]
    recorded: Kind | None = (saved_record(adata) or {}).get("kind")
    if recorded is not None:
        return recorded
    try:
        return guess_kind(name, adata)[0]
    except ValueError:
        return None


def read_features(
    name: str,
    adata: AnnData,
    rows: np.ndarray,
    *,
    layer: str | None,
    kind: Kind | None,
    max_features: int,
) -> ScaledFeatures:
    """Features of some cells, ready for principal components.

    Counts are normalised as in :func:`cantata.pp.preprocess`, other values are taken as they are.
    Features are those flagged in ``.var["highly_variable"]``, or else highly variable genes of
    counts of RNA; of more than `max_features` those with the largest variance. They are divided
    by their standard deviations and clipped at a z-score of 10, but for chromatin, where rare
    peaks would lead. Values that are not finite, counts of unknown kind, a cell without counts and
    fewer than two features that vary are errors.
    """
    matrix = _read_matrix(name, adata, layer)[rows]
    stored = matrix.data if sparse.issparse(matrix) else matrix
    n_bad = int((~np.isfinite(stored)).sum())
    if n_bad:
        raise ValueError(
            f"Modality {name!r} has {n_bad} NaN or infinite values. Cells that were not measured "
            "are left out of the modality, not filled with NaN."
        )
    flagged = "highly_variable" in adata.var
    chosen = adata.var["highly_variable"].to_numpy(dtype=bool) if flagged else None
    if stored.min(initial=0) >= 0 and np.all(stored == np.rint(stored)):
        matrix, genes = _normalized_counts(name, matrix, kind, max_features, flagged=flagged)
        chosen = genes if chosen is None else chosen
    values = matrix if chosen is None or not chosen.any() else matrix[:, np.flatnonzero(chosen)]
    mean, sd = moments(values)
    kept = np.flatnonzero(sd > 0)
    if kept.size < 2:
        raise ValueError(
            f"Modality {name!r}: {kept.size} of {values.shape[1]} features vary over "
            f"{values.shape[0]} cells; at least two are needed."
        )
    if kept.size > max_features:
        kept = np.sort(kept[np.argsort(-sd[kept], kind="stable")[:max_features]])
    values, mean, sd = values[:, kept], mean[kept], sd[kept]
    if kind != "atac":
        values = _z_scored(values, mean, sd)
        mean, sd = moments(values)
    return ScaledFeatures(values, mean, sd**2)


def _normalized_counts(
    name: str, counts: Any, kind: Kind | None, max_features: int, *, flagged: bool
) -> tuple[Any, np.ndarray | None]:
    """Normalised counts, and which genes are highly variable where nobody has said it."""
    if kind is None:
        raise ValueError(
            f"Modality {name!r} holds counts, but nothing tells of what. Say it: "
            f"modalities={{{name!r}: 'rna', ...}} (or 'protein', 'atac')."
        )
    empty = int((np.asarray(counts.sum(axis=1)).ravel() == 0).sum())
    if empty:
        raise ValueError(
            f"Modality {name!r} has {empty} cells without counts. Make them unmeasured there: "
            "mdata = cantata.pp.drop_empty(mdata)."
        )
    values = normalise(kind, counts, target_total(kind, counts))
    if kind != "rna" or flagged:
        return values, None
    return values, variable_genes(name, counts, values, None, max_features)


def _z_scored(values: Any, mean: np.ndarray, sd: np.ndarray) -> Any:
    """Values over `sd`, at most :data:`CLIP` above the mean; not centred."""
    if not sparse.issparse(values):
        dtype = np.float64 if values.shape[1] <= MAX_GRAM_WIDTH else np.float32
        scaled = values / sd.astype(dtype)
        return np.minimum(scaled, (mean / sd + CLIP).astype(dtype)).astype(dtype)
    scaled = scale_columns(values.astype(np.float32), 1 / sd)
    ceiling = (mean / sd + CLIP).astype(np.float32)
    np.minimum(scaled.data, ceiling[scaled.indices], out=scaled.data)
    return scaled
