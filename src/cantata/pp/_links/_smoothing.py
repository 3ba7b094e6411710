"""Linked features without their noise: what a modality's principal components say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cantata._numeric.components import Components, fit_lsi, fit_pca, project
from cantata._numeric.normalise import (
    RNA_TOTAL,
    feature_statistics,
    normalise,
    target_total,
    variable_genes,
)
from cantata._numeric.sampling import sample_cells
from cantata.pp._links._components import SAMPLE
from cantata.pp._links._matrices import Smoother, row_blocks

if TYPE_CHECKING:
    from cantata._mudata.kinds import Kind
    from cantata.pp._links._matrices import Linked

N_COMPONENTS = 30
"""Principal components of a modality on which its linked features are projected."""

N_VARIABLE = 4000
"""Number of highly variable features that the components are made of."""


def fit_smoother(linked: Linked, matrix: Any, *, chromatin: bool = False) -> Smoother:
    """Regress linked features on the leading principal components of all features.

    Parameters
    ----------
    linked
        The linked features with their normalisation complete.
    matrix
        All features of the modality, cells x features. Counts (those that `linked` scales and
        logs) are scaled to 10,000 per cell, log1p; other values are taken as they are.

    chromatin
        Use latent semantic components in place of principal ones.

    Returns
    -------
    The regression, fitted on all cells; components are fitted on at most 20,000.
    """
    n_cells, n_features = matrix.shape
    rows = sample_cells(n_cells, SAMPLE)
    sample = _take(matrix, rows)
    kind: Kind | None = "atac" if chromatin else "rna" if linked.transform == "log1p" else None
    total = RNA_TOTAL
    if chromatin:
        total = target_total("atac", sample)
    statistics = np.zeros(n_features) if kind is None else feature_statistics(kind, sample)
    normalised = sample if kind is None else normalise(kind, sample, total, statistics)
    components = _fit_components(linked.name, kind, sample, normalised, statistics)
    scores = np.ones((n_cells, components.loadings.shape[1] + 1), dtype=np.float32)
    if rows.size == n_cells:
        scores[:, :-1] = project(components, normalised)
    else:
        for place, block in row_blocks(matrix, n_cells):
            if kind is not None:
                block = normalise(kind, block, total, statistics)
            scores[place, :-1] = project(components, block)
    return Smoother(scores, _regress(scores, linked))


def _fit_components(
    name: str, kind: Kind | None, sample: Any, normalised: Any, statistics: np.ndarray
) -> Components:
    if kind == "atac":
        return fit_lsi(name, normalised, statistics > 0, N_COMPONENTS)
    used = np.ones(normalised.shape[1], dtype=bool)
    if kind == "rna":
        used = variable_genes(name, sample, normalised, None, N_VARIABLE)
    return fit_pca(name, normalised, used, N_COMPONENTS)


def _take(matrix: Any, rows: np.ndarray) -> Any:
    """Rows in order, in memory; sparse stays sparse."""
    if sparse.issparse(matrix) or isinstance(matrix, np.ndarray):
        return matrix if rows.size == matrix.shape[0] else matrix[rows]
    chosen = np.zeros(matrix.shape[0], dtype=bool)
    chosen[rows] = True
    parts = [block[chosen[place]] for place, block in row_blocks(matrix, matrix.shape[0])]
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.vstack(parts)


def _regress(scores: np.ndarray, linked: Linked) -> np.ndarray:
    inner = scores.astype(np.float64).T @ scores.astype(np.float64)
    cross = np.zeros((scores.shape[1], linked.columns.size))
    for rows, values in linked.measured():
        cross += scores[rows].astype(np.float64).T @ values
    return np.linalg.lstsq(inner, cross, rcond=None)[0]
