"""How values become what encoders read: transforms, standardisation, components."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from scipy import sparse
from scvi.utils import track

from cantata._mudata.checks import per_modality
from cantata._mudata.kinds import Kind, guess_kind
from cantata._mudata.values import MatrixReader, RowReader
from cantata._numeric.components import CLIP, fit_components, moments, project
from cantata._numeric.normalise import (
    RNA_TOTAL,
    feature_statistics,
    normalise,
    row_sums,
    target_total,
)
from cantata._numeric.sampling import sample_cells
from cantata.data import as_tensor
from cantata.nn import ARCSINH_COFACTOR, Transform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from cantata._mudata.checks import MatrixStats
    from cantata.nn import EncoderInput

logger = logging.getLogger(__name__)

MAX_CELLS = 20_000
"""Cells that inputs are fitted on; more are sampled."""
BLOCK_ROWS = 1024
MAX_CACHED = 256
"""Inputs of at most this width are kept in memory for training."""
KINDS: dict[Transform, Kind] = {"log1p": "rna", "clr": "protein", "tfidf": "atac"}
"""What the counts are that a transform is meant for."""
TRANSFORMS: dict[Kind, Transform] = {kind: transform for transform, kind in KINDS.items()}


# Which transform --------------------------------------------------------------------------------


def transform_of_counts(name: str, adata: AnnData) -> Transform:
    """Transform by what the counts of a modality measure; ``"log1p"`` where nothing tells."""
    try:
        return TRANSFORMS[guess_kind(name, adata)[0]]
    except ValueError:
        return "log1p"


def resolve_transforms(
    transforms: str | Mapping[str, str | None] | None,
    modalities: Mapping[str, AnnData],
    stats: Mapping[str, MatrixStats],
    n_components: int | None,
) -> dict[str, Transform]:
    """Transform of every modality; ``"auto"`` is by what it measures.

    Raises
    ------
    KeyError
        If `transforms` names an unknown modality.
    ValueError
        If a transform is unknown or cannot be taken of the values, or if chromatin by
        ``"tfidf"`` is not read as components.
    """
    resolved: dict[str, Transform] = {}
    for name, wanted in per_modality("transforms", transforms, list(modalities), "auto").items():
        transform: Any = "identity" if wanted is None else str(wanted)
        if transform == "auto":
            if stats[name].n_negative or stats[name].n_noninteger:
                transform = "identity"
            else:
                transform = transform_of_counts(name, modalities[name])
                if transform == "tfidf" and n_components is None:
                    transform = "log1p"
        elif transform not in get_args(Transform):
            raise ValueError(
                f"transforms={{{name!r}: {transform!r}}} is none of 'auto', None and "
                f"{get_args(Transform)}."
            )
        if transform in KINDS and stats[name].n_negative:
            raise ValueError(
                f"Modality {name!r} has {stats[name].n_negative} negative values, e.g. in cell "
                f"{stats[name].negative_example!r}, of which transform {transform!r} cannot be "
                f"taken. Pass transforms={{{name!r}: 'arcsinh'}} or None."
            )
        p = modalities[name].n_vars
        if transform == "tfidf" and not (n_components and p > n_components):
            raise ValueError(
                f"Modality {name!r} has {p} features and n_components={n_components}: transform "
                "'tfidf' makes components, fewer than features. Give n_components, or "
                f"transforms={{{name!r}: 'log1p'}}."
            )
        resolved[name] = transform
    return resolved


# Fitting ----------------------------------------------------------------------------------------


def sampled_rows(matrix: Any, n_obs: int) -> Any:
    """Rows to fit on, in memory; sparse stays sparse."""
    in_memory = sparse.issparse(matrix) or isinstance(matrix, np.ndarray)
    if n_obs <= MAX_CELLS and in_memory:
        return matrix
    rows = sample_cells(n_obs, MAX_CELLS)
    if sparse.issparse(matrix):
        return matrix.tocsr()[rows]
    # in blocks, since only what is sparse may be small enough as a whole
    read, blocks = MatrixReader(matrix), range(0, len(rows), BLOCK_ROWS)
    read_blocks = [sparse.csr_matrix(read(rows[i : i + BLOCK_ROWS])) for i in blocks]
    return sparse.vstack(read_blocks, format="csr")


def fit_input(
    name: str, layer: EncoderInput, matrix: Any, n_obs: int, *, as_preprocess: bool = False
) -> None:
    """Fit the standardisation, and the components of a rotated layer, on at most 20,000 cells.

    The state of `layer` is set by the `n_obs` rows of `matrix`, as they are stored; a
    ``ValueError`` names the modality where too few cells or features vary. `as_preprocess` makes
    the components of :func:`cantata.pp.preprocess`: cells are scaled to 10,000 counts, and the
    first principal component has a standard deviation of 3. Otherwise cells are scaled to their
    median total, and components keep the distances between standardised features.
    """
    values = sampled_rows(matrix, n_obs)
    if layer.transform == "tfidf":
        state = _fit_chromatin(name, values, layer)
    else:
        transformed, state = _transformed(values, layer.transform, as_preprocess)
        state |= _fit_standardized(name, values, transformed, layer, as_preprocess)
    layer.set(state)
    logger.info(
        "Modality %r: transform %r, %d features as %d inputs, fitted on %d cells.",
        name,
        layer.transform,
        int(layer.n_used),
        layer.n_out,
        values.shape[0],
    )


def _transformed(
    values: Any, transform: Transform, as_preprocess: bool
) -> tuple[Any, dict[str, Any]]:
    """Transformed values, and the state that the transform needs; sparse stays sparse."""
    if transform == "log1p":
        total = RNA_TOTAL if as_preprocess else float(np.median(row_sums(values)))
        return normalise("rna", values, total), {"total": total}
    if transform == "clr":
        statistics = feature_statistics("protein", values)
        return normalise("protein", values, 0.0, statistics), {"weight": np.exp(-statistics)}
    if transform == "arcsinh":
        scaled = values / ARCSINH_COFACTOR
        return scaled.arcsinh() if sparse.issparse(scaled) else np.arcsinh(scaled), {}
    # Dividing columns of integers by their standard deviation would truncate it.
    return values.astype(np.float32, copy=False), {}


def _fit_standardized(
    name: str, values: Any, transformed: Any, layer: EncoderInput, as_preprocess: bool
) -> dict[str, Any]:
    """Moments of the features, their leading principal components, and the way back."""
    # 1. z-scores, clipped above.
    mean, sd = moments(transformed)
    if not (sd > 0).any():
        raise ValueError(f"Modality {name!r} has no feature that varies over its cells.")
    inverse = _inverse(sd)
    state = {
        "mean": mean,
        "inverse_sd": _inverse(sd.astype(np.float32)),
        "ceiling": CLIP,
        "n_used": float((sd > 0).sum()),
    }
    if not layer.is_rotated:
        return state
    # 2. Their components. Those are centred values over standard deviations, clipped, less their
    #    means; the layer has subtracted the means of values already.
    kind = KINDS.get(layer.transform)
    components = fit_components(name, kind, values, transformed, None, layer.n_out)
    loadings = components.loadings.astype(np.float64)
    state |= {
        "loadings": loadings,
        "offset": (components.centre - mean * inverse) @ loadings,
        "n_used": float((np.abs(loadings).sum(axis=1) > 0).sum()),
    }
    # 3. The way back: z-scores of a feature are its values over their standard deviation, up to a
    #    constant.
    if layer.is_invertible:
        scores = project(components, transformed) / components.factor
        state["coefficients"] = _least_squares(scores, transformed) * inverse
    # 4. The same components scaled, with means subtracted after the rotation.
    if as_preprocess:
        state |= {
            "mean": np.zeros_like(mean),
            "inverse_sd": inverse,
            "ceiling": mean * inverse + CLIP,
            "loadings": loadings * components.factor,
            "offset": components.centre @ loadings * components.factor,
        }
    return state


def _fit_chromatin(name: str, values: Any, layer: EncoderInput) -> dict[str, Any]:
    """Latent semantic components, and the way back to scaled counts by least squares."""
    total, weight = target_total("atac", values), feature_statistics("atac", values)
    normalised = normalise("atac", values, total, weight)
    components = fit_components(name, "atac", values, normalised, weight, layer.n_out)
    assert components.singular_values is not None
    state = {
        "total": total,
        "weight": weight,
        "loadings": components.loadings / components.singular_values,
        "n_used": float(components.loadings.shape[1]),
    }
    if layer.is_invertible:
        sums = row_sums(values)
        factors = np.divide(total, sums, out=np.zeros_like(sums), where=sums > 0)
        scores = project(components, normalised)
        mean = np.asarray(values.T @ factors).ravel() / len(scores)
        state["coefficients"] = _least_squares(scores, values, factors)
        state["intercept"] = mean - scores.mean(axis=0) @ state["coefficients"]
    return state


def _inverse(sd: np.ndarray) -> np.ndarray:
    return np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)


def _least_squares(
    scores: np.ndarray, values: Any, factors: np.ndarray | None = None
) -> np.ndarray:
    """(k, p) coefficients of the scores in each centred feature, cells times factors."""
    centred = scores - scores.mean(axis=0)
    weighted = centred if factors is None else centred * factors[:, None]
    return np.linalg.pinv(centred.T @ centred, hermitian=True) @ np.asarray(values.T @ weighted).T


# Reading ----------------------------------------------------------------------------------------


def training_reader(
    layer: EncoderInput, matrix: Any, n_obs: int, *, progress: bool = True
) -> RowReader:
    """Function from row numbers to what a modality's encoder reads.

    Narrow inputs are computed once and kept, wide ones are computed for each minibatch, on the
    processor, wherever the model is.
    """
    prepared = _Prepared(MatrixReader(matrix, keep_sparse=True), deepcopy(layer).cpu())
    if layer.n_out > MAX_CACHED:
        return prepared
    kept = np.empty((n_obs, layer.n_out), dtype=np.float32)
    starts = range(0, n_obs, BLOCK_ROWS)
    for start in track(starts, description="Standardising", disable=not progress):
        block = np.arange(start, min(start + BLOCK_ROWS, n_obs))
        kept[block] = prepared(block)
    return MatrixReader(kept)


@dataclass(frozen=True)
class _Prepared:
    """Row numbers to what a layer makes of values; can be pickled for the workers of a loader."""

    read: MatrixReader
    layer: EncoderInput

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.layer(as_tensor(self.read(rows))).numpy()
