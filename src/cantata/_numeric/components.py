"""Principal components and latent semantic indexing that new cells can be projected on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from cantata._numeric.normalise import column_sums, scale_columns, variable_genes

if TYPE_CHECKING:
    from cantata._mudata.kinds import Kind

CLIP = 10.0
"""Largest z-score."""

FIRST_SD = 3.0
"""Standard deviation of the first component after scaling."""

N_TOP_GENES = 4000
"""Highly variable genes that enter components, as in :func:`cantata.pp.preprocess`."""


@dataclass(frozen=True)
class Components:
    """A linear map from normalised features to components.

    `loadings` is features x components, and zero for features that are not used. The other three
    are one number per feature. `factor` multiplies the principal components; `singular_values`
    (one per component) divides those of latent semantic indexing, and is None for principal
    components.
    """

    loadings: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    centre: np.ndarray
    factor: float
    singular_values: np.ndarray | None


def moments(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each column, float64; nothing is densified."""
    mean = column_sums(matrix) / matrix.shape[0]
    if sparse.issparse(matrix):
        squares = matrix.copy()
        squares.data = np.square(squares.data, dtype=np.float64)
        variance = column_sums(squares) / matrix.shape[0] - mean**2
    else:
        variance = np.var(matrix, axis=0, dtype=np.float64)
    variance[variance < 1e-10 * np.maximum(mean**2, 1e-10)] = 0
    return mean, np.sqrt(np.maximum(variance, 0))


def _scale_and_clip(matrix: Any, mean: np.ndarray, sd: np.ndarray) -> Any:
    """Values divided by `sd`, such that the z-score (x - mean) / sd is at most :data:`CLIP`.

    The mean is not subtracted, so that sparse stays sparse; the caller subtracts a centre
    afterwards.
    """
    scaled = scale_columns(matrix, 1 / sd)
    ceiling = (mean / sd + CLIP).astype(scaled.dtype)
    if sparse.issparse(scaled):
        np.minimum(scaled.data, ceiling[scaled.indices], out=scaled.data)
        return scaled
    return np.minimum(scaled, ceiling)


def _check_size(name: str, n_cells: int, n_used: int, least: int) -> None:
    if min(n_cells, n_used) <= least:
        raise ValueError(
            f"Modality {name!r}: {n_cells} cells with {n_used} features that vary are too few for "
            f"{least} component{'s' if least > 1 else ''}. Leave it out with modalities={{...}}."
        )


def fit_components(
    name: str,
    kind: Kind | None,
    counts: Any,
    normalised: Any,
    statistics: np.ndarray | None,
    n_components: int,
) -> Components:
    """Components by what a modality measures; arguments and errors as of :func:`fit_pca`.

    Chromatin: latent semantic components of the features with counts, which have a positive
    inverse document frequency in `statistics`. RNA: principal components of highly variable genes.
    Others, and values that are no counts (`kind` None): of all features.
    """
    if kind == "atac":
        assert statistics is not None
        return fit_lsi(name, normalised, statistics > 0, n_components)
    used = np.ones(normalised.shape[1], dtype=bool)
    if kind == "rna":
        used = variable_genes(name, counts, normalised, None, N_TOP_GENES)
    return fit_pca(name, normalised, used, n_components)


def fit_pca(name: str, normalised: Any, used: np.ndarray, n_components: int) -> Components:
    """Principal components of z-scores (clipped at 10), without densifying sparse input.

    Parameters
    ----------
    name
        Name of the modality, for errors.
    normalised
        Normalised values, cells x features.
    used
        Which features enter; those that do not vary are left out as well.
    n_components
        Wanted number of components; fewer where there are fewer cells or features.

    Returns
    -------
    The map, scaled by one factor such that the first component has a standard deviation of 3.

    Raises
    ------
    ValueError
        If there are not enough cells or features for one component.
    """
    import scanpy as sc

    mean, sd = moments(normalised)
    index = np.flatnonzero(used & (sd > 0))
    _check_size(name, normalised.shape[0], index.size, 1)
    scaled = _scale_and_clip(normalised[:, index], mean[index], sd[index])
    k = min(n_components, scaled.shape[0] - 1, index.size - 1)
    _, axes, _, variance = sc.pp.pca(
        scaled, n_comps=k, zero_center=True, svd_solver="arpack", random_state=0, return_info=True
    )
    n_features = normalised.shape[1]
    loadings = np.zeros((n_features, k), dtype=np.float32)
    loadings[index] = axes.T
    spread, centre = np.zeros(n_features), np.zeros(n_features)
    spread[index], centre[index] = sd[index], column_sums(scaled) / scaled.shape[0]
    return Components(
        loadings=loadings,
        mean=mean,
        sd=spread,
        centre=centre,
        factor=float(FIRST_SD / np.sqrt(variance[0])),
        singular_values=None,
    )


def fit_lsi(name: str, normalised: Any, used: np.ndarray, n_components: int) -> Components:
    """Latent semantic indexing: truncated singular value decomposition of TF-IDF values.

    Parameters
    ----------
    name, normalised, used, n_components
        As for :func:`fit_pca`.

    Returns
    -------
    The map. All components are kept, the first as well; see :func:`project`.

    Raises
    ------
    ValueError
        If there are not enough cells or features for two components.
    """
    index = np.flatnonzero(used)
    _check_size(name, normalised.shape[0], index.size, 2)
    # 1. The start of the iteration is fixed, such that the same counts give the same components.
    selected = normalised[:, index]
    k = min(n_components, min(selected.shape) - 1)
    start = np.random.default_rng(0).standard_normal(min(selected.shape))
    _, values, axes = svds(selected, k=k, v0=start)
    # 2. The largest first, and the largest loading of each positive.
    order = np.argsort(-values)
    values, axes = values[order], axes[order]
    axes *= np.sign(axes[np.arange(k), np.abs(axes).argmax(axis=1)])[:, None]
    n_features = normalised.shape[1]
    loadings = np.zeros((n_features, k), dtype=np.float32)
    loadings[index] = axes.T
    nothing = np.zeros(n_features)
    return Components(loadings, nothing, nothing, nothing, 1.0, values.astype(np.float64))


def project(
    components: Components, normalised: Any, source: np.ndarray | None = None
) -> np.ndarray:
    """Components of cells.

    Parameters
    ----------
    components
        Map fitted on a reference.
    normalised
        Values normalised as the reference's were, cells x features.
    source
        For each feature of the reference the column of `normalised`, or -1 where it is absent,
        which counts as 0. None: the same features in the same order.

    Returns
    -------
    float32 array, cells x components. LSI components are divided by their singular values, and
    each row by its root mean square: this removes most of the sequencing depth, which scales a
    whole row, and unlike subtracting the row's mean it does not depend on the arbitrary signs of
    the components.
    """
    columns = np.arange(normalised.shape[1]) if source is None else source
    loadings = components.loadings.astype(np.float64)
    if components.singular_values is not None:
        used = np.flatnonzero(columns >= 0)
        raw = normalised[:, columns[used]] @ (loadings[used] / components.singular_values)
        size = np.sqrt(np.mean(np.square(raw), axis=1, keepdims=True))
        return (raw / np.where(size > 0, size, 1)).astype(np.float32)
    used = np.flatnonzero((columns >= 0) & (components.sd > 0))
    scaled = _scale_and_clip(
        normalised[:, columns[used]], components.mean[used], components.sd[used]
    )
    raw = np.asarray(scaled @ loadings[used]) - components.centre @ loadings
    return (raw * components.factor).astype(np.float32)
