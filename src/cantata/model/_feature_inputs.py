"""How values become what the autoencoders read: transforms, standardisation, components."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from scipy import sparse
from scvi.utils import track

from cantata._mudata.checks import check_mapping
from cantata._mudata.rows import RowReader, row_reader
from cantata._numeric.components import CLIP, fit_lsi, fit_pca, moments, project
from cantata._numeric.normalise import (
    feature_statistics,
    normalise,
    row_sums,
    target_total,
    variable_genes,
)
from cantata.data import as_tensor
from cantata.model._sample import kind_of, sampled_rows
from cantata.nn import COFACTOR, Transform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from cantata._mudata.checks import MatrixStats
    from cantata.nn import FeatureInput

logger = logging.getLogger(__name__)

N_TOP_GENES = 4000
"""Highly variable genes that enter, as in :func:`cantata.pp.preprocess`."""
BLOCK_ROWS = 1024
MAX_CACHED = 256
"""Inputs of at most this width are kept in memory for training."""
OF_KIND: dict[str, Transform] = {"rna": "log1p", "protein": "clr", "atac": "tfidf"}


def resolve_transforms(
    transforms: str | Mapping[str, str | None] | None,
    modalities: Mapping[str, AnnData],
    stats: Mapping[str, MatrixStats],
    *,
    rotates: bool = True,
) -> dict[str, Transform]:
    """Transform of every modality; without rotation ``"log1p"`` of chromatin too.

    Raises
    ------
    KeyError
        If `transforms` names an unknown modality.
    ValueError
        If a transform is unknown, or cannot be taken of the values.
    """
    is_mapping = hasattr(transforms, "items")
    named = dict(transforms) if is_mapping else {}  # type: ignore[arg-type]
    check_mapping("transforms", named, list(modalities))
    default = "auto" if is_mapping else transforms
    resolved: dict[str, Transform] = {}
    for name, adata in modalities.items():
        wanted = named.get(name, default)
        if wanted == "auto":
            counts = not (stats[name].n_negative or stats[name].n_noninteger)
            kind = kind_of(name, adata)
            kind = "rna" if kind == "atac" and not rotates else kind
            resolved[name] = OF_KIND[kind] if counts else "identity"
        else:
            resolved[name] = _known(name, "identity" if wanted is None else str(wanted))
        if resolved[name] in ("log1p", "clr", "tfidf") and stats[name].n_negative:
            raise ValueError(
                f"Modality {name!r} has {stats[name].n_negative} negative values, e.g. in cell "
                f"{stats[name].negative_example!r}, of which transform {resolved[name]!r} cannot "
                f"be taken. Pass transforms={{{name!r}: 'arcsinh'}} or None."
            )
    return resolved


def _known(name: str, transform: str) -> Transform:
    if transform not in get_args(Transform):
        raise ValueError(
            f"transforms={{{name!r}: {transform!r}}} is none of 'auto', None and "
            f"{get_args(Transform)}."
        )
    return transform  # type: ignore[return-value]


def check_components(
    transforms: Mapping[str, Transform], n_features: Mapping[str, int], n_components: int | None
) -> None:
    """Refuse chromatin that is not read as components.

    Raises
    ------
    ValueError
        If there are no components, or as many as features.
    """
    for name, transform in transforms.items():
        p = n_features[name]
        if transform == "tfidf" and not (n_components and p > n_components):
            raise ValueError(
                f"Modality {name!r} has {p} features and n_components={n_components}: transform "
                "'tfidf' makes components, fewer than features. Give n_components, or "
                f"transforms={{{name!r}: 'log1p'}}."
            )


def fit_input(name: str, layer: FeatureInput, matrix: Any, n_obs: int) -> None:
    """Fit the standardisation, and the components of a wide modality, on at most 20,000 cells.

    Raises
    ------
    ValueError
        If a modality has too few cells or features that vary.
    """
    values = sampled_rows(matrix, n_obs)
    if layer.transform == "tfidf":
        state = _fit_chromatin(name, values, layer)
    else:
        transformed, state = _transformed(values, layer.transform)
        mean, sd = moments(transformed)
        if not (sd > 0).any():
            raise ValueError(f"Modality {name!r} has no feature that varies over its cells.")
        state |= {"mean": mean, "sd": sd, "ceiling": CLIP, "n_used": float((sd > 0).sum())}
        if layer.is_rotated:
            state |= _rotation(name, values, transformed, layer)
    layer.set(state)
    logger.info(
        "Modality %r: transform %r, %d features as %d inputs, fitted on %d cells.",
        name,
        layer.transform,
        int(layer.n_used),
        layer.n_out,
        values.shape[0],
    )


def _transformed(values: Any, transform: Transform) -> tuple[Any, dict[str, Any]]:
    """Transformed values, and the state that the transform needs; sparse stays sparse."""
    if transform == "log1p":
        total = float(np.median(row_sums(values)))
        return normalise("rna", values, total), {"total": total}
    if transform == "clr":
        statistics = feature_statistics("protein", values)
        return normalise("protein", values, 0.0, statistics), {"weight": np.exp(-statistics)}
    if transform == "arcsinh":
        scaled = values / COFACTOR
        return scaled.arcsinh() if sparse.issparse(scaled) else np.arcsinh(scaled), {}
    # dividing columns of integers by their standard deviation would truncate it
    return values.astype(np.float32, copy=False), {}


def _rotation(name: str, values: Any, transformed: Any, layer: FeatureInput) -> dict[str, Any]:
    """Leading principal components, and the way back to all features by least squares."""
    used = np.ones(values.shape[1], dtype=bool)
    if layer.transform == "log1p":
        used = variable_genes(name, values, transformed, None, N_TOP_GENES)
    components = fit_pca(name, transformed, used, layer.n_out)
    scores = project(components, transformed) / components.factor
    loadings = components.loadings.astype(np.float64)
    sd = moments(transformed)[1]
    # z-scores of a feature are its values over their standard deviation, up to a constant
    inverse = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0)
    return {
        "loadings": loadings,
        "offset": (components.centre - components.mean * inverse) @ loadings,
        "patterns": _patterns(scores, transformed) * inverse,
        "n_used": float((np.abs(loadings).sum(axis=1) > 0).sum()),
    }


def _patterns(scores: np.ndarray, values: Any, factors: np.ndarray | None = None) -> np.ndarray:
    """(k, p) least-squares weights of the scores in each centred feature, cells times factors."""
    centred = scores - scores.mean(axis=0)
    weighted = centred if factors is None else centred * factors[:, None]
    return np.linalg.pinv(centred.T @ centred, hermitian=True) @ np.asarray(values.T @ weighted).T


def _fit_chromatin(name: str, values: Any, layer: FeatureInput) -> dict[str, Any]:
    """Latent semantic components, and the way back to scaled counts by least squares."""
    total = target_total("atac", values)
    weight = feature_statistics("atac", values)
    normalised = normalise("atac", values, total, weight)
    components = fit_lsi(name, normalised, weight > 0, layer.n_out)
    assert components.singular_values is not None
    state = {
        "total": total,
        "weight": weight,
        "loadings": components.loadings / components.singular_values,
        "sd": np.ones(values.shape[1]),
        "n_used": float(components.loadings.shape[1]),
    }
    sums = row_sums(values)
    factors = np.divide(total, sums, out=np.zeros_like(sums), where=sums > 0)
    scores = project(components, normalised)
    patterns = _patterns(scores, values, factors)
    mean = np.asarray(values.T @ factors).ravel() / len(scores) - scores.mean(axis=0) @ patterns
    return state | {"patterns": patterns, "mean": mean}


def training_reader(
    layer: FeatureInput, matrix: Any, n_obs: int, *, progress: bool = True
) -> RowReader:
    """Function from row numbers to what a modality's encoder reads.

    Narrow inputs are computed once and kept, wide ones are computed for each minibatch, on the
    processor, wherever the model is.
    """
    read = row_reader(matrix, keep_sparse=True)
    layer = deepcopy(layer).cpu()

    def prepared(rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return layer(as_tensor(read(rows))).numpy()

    if layer.n_out > MAX_CACHED:
        return prepared
    kept = np.empty((n_obs, layer.n_out), dtype=np.float32)
    starts = range(0, n_obs, BLOCK_ROWS)
    for start in track(starts, description="Standardising", disable=not progress):
        block = np.arange(start, min(start + BLOCK_ROWS, n_obs))
        kept[block] = prepared(block)
    return row_reader(kept)
