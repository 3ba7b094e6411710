"""How values become what encoders read: transforms, standardisation, components."""

from __future__ import annotations

import logging
import warnings
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from scipy import sparse
from scvi.utils import track

from cantata._mudata.checks import MAX_LOG, check_no_empty_cell, per_modality
from cantata._mudata.kinds import Kind, guess_kind, is_cytometry
from cantata._mudata.values import MatrixReader, RowReader
from cantata._numeric.batches import (
    MIN_CELLS,
    Clusters,
    apply_maps,
    batch_maps,
    new_batch_map,
    sample_cells,
    sampled_by_batch,
)
from cantata._numeric.components import CLIP, fit_components, moments, project
from cantata._numeric.normalise import (
    ATAC_DEPTH,
    RNA_TOTAL,
    column_range,
    feature_statistics,
    normalise,
    row_sums,
    scale_rows,
    target_total,
)
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
MIN_SPREAD = 1e-5
"""Of its spread over all batches, what a column spreads within them; less is rounding."""
MIN_TAIL = 10.0
"""A value so many standard deviations from the mean is a long tail."""
MIN_LONG = 0.1
"""Share of a modality's features with long tails that is worth a warning."""
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


def _automatic_transform(name: str, adata: AnnData, stats: MatrixStats) -> Transform:
    """Transform by what a modality holds, which is said where it does not go without saying."""
    is_linear = stats.largest > MAX_LOG
    if is_linear and is_cytometry(name, adata):
        logger.info(
            "Modality %r holds intensities of cytometry, up to %.4g: transform 'arcsinh'.",
            name,
            stats.largest,
        )
        return "arcsinh"
    if not stats.look_like_counts:
        return "identity"
    transform = transform_of_counts(name, adata)
    if stats.n_noninteger:
        logger.info(
            "Modality %r holds %d values that are no integers, e.g. in cell %r, but no logarithms "
            "either: they are taken as corrected counts, transform %r. Log-normalised values are "
            "taken as they are with transforms={%r: None}.",
            name,
            stats.n_noninteger,
            stats.noninteger_example,
            transform,
            name,
        )
    return transform


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
        If cells have no counts, if a transform is unknown or cannot be taken of the values, or if
        chromatin by ``"tfidf"`` is not read as components.
    """
    resolved: dict[str, Transform] = {}
    for name, wanted in per_modality("transforms", transforms, list(modalities), "auto").items():
        check_no_empty_cell(name, stats[name])
        transform: Any = "identity" if wanted is None else str(wanted)
        if transform == "auto":
            transform = _automatic_transform(name, modalities[name], stats[name])
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


def sampled_rows(matrix: Any, n_obs: int, rows: np.ndarray | None = None) -> Any:
    """Rows to fit on, in memory, all or at most 20,000 of them; sparse stays sparse.

    They are drawn from `rows`; None: from all `n_obs` rows.
    """
    rows = np.arange(n_obs) if rows is None else rows
    in_memory = sparse.issparse(matrix) or isinstance(matrix, np.ndarray)
    if len(rows) <= MAX_CELLS and in_memory:
        if len(rows) == n_obs:
            return matrix
        return (matrix.tocsr() if sparse.issparse(matrix) else matrix)[np.sort(rows)]
    rows = np.sort(rows[sample_cells(len(rows), MAX_CELLS)])
    if sparse.issparse(matrix):
        return matrix.tocsr()[rows]
    # in blocks, since only what is sparse may be small enough as a whole
    read, blocks = MatrixReader(matrix), range(0, len(rows), BLOCK_ROWS)
    read_blocks = [sparse.csr_matrix(read(rows[i : i + BLOCK_ROWS])) for i in blocks]
    return sparse.vstack(read_blocks, format="csr")


def check_varies(name: str, x: np.ndarray, remedy: str) -> None:
    """Refuse (n, d) inputs of an encoder that are the same for all cells, which tell nothing."""
    if not np.ptp(x, axis=0).any():
        raise ValueError(
            f"What the encoder of modality {name!r} reads is the same for all {len(x)} training "
            f"cells. Leave the modality out, or pass {remedy}."
        )


def totals_by_batch(matrix: Any, rows: np.ndarray, codes: np.ndarray, n_batch: int) -> np.ndarray:
    """(n_batch, p) sums of `rows`, at most 20,000 of them, by the batch of each row of all."""
    rows = np.sort(rows[sample_cells(len(rows), MAX_CELLS)])
    entries = np.ones(len(rows)), (codes[rows], np.arange(len(rows)))
    totals = sparse.csr_matrix(entries, (n_batch, len(rows))) @ sampled_rows(
        matrix, len(codes), rows
    )
    return totals.toarray() if sparse.issparse(totals) else np.asarray(totals)


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
        if layer.transform == "identity":
            _warn_of_long_tails(name, transformed)
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
        state: dict[str, Any] = {"weight": np.exp(-statistics), "total": 0.0}
        if not as_preprocess:
            state["depth_weight"] = _depth_weights(values, state["weight"])
            depth = values @ state["depth_weight"]
            state["total"] = total = float(np.median(depth))
            factors = np.divide(total, depth, out=np.zeros_like(depth), where=depth > 0)
            values = scale_rows(values.astype(np.float32), factors)
        return normalise("protein", values, 0.0, statistics), state
    if transform == "arcsinh":
        scaled = values / ARCSINH_COFACTOR
        return scaled.arcsinh() if sparse.issparse(scaled) else np.arcsinh(scaled), {}
    # Dividing columns of integers by their standard deviation would truncate it.
    return values.astype(np.float32, copy=False), {}


def _depth_weights(values: Any, weight: np.ndarray) -> np.ndarray:
    """What a count of each protein adds to the depth of its cell, for the `weight` of its ratios.

    Each ratio estimates the depth, and counts by the inverse of its squared coefficient of
    variation: markers of some cells, which make up most of a sum, say of what type a cell is and
    not how deep it was read. Counts vary at least as those of Poisson do.
    """
    mean, sd = moments(values)
    return weight * mean**2 / np.maximum(np.maximum(sd**2, mean), np.finfo(float).tiny)


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
    if layer.is_invertible:
        state["lowest"], state["highest"] = column_range(transformed)
        state["library"] = float(np.median(row_sums(values)))
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
        "depth_weight": weight,
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
        state["highest"] = column_range(scale_rows(values.astype(np.float32), factors))[1]
        state["lowest"], state["library"] = np.zeros(values.shape[1]), total / ATAC_DEPTH
    return state


def _warn_of_long_tails(name: str, values: Any) -> None:
    """Say where values that are taken as they are span orders of magnitude."""
    lowest, highest = column_range(values)
    mean, sd = moments(values)
    size = np.maximum(highest, -lowest)
    is_long = (size > MAX_LOG) & (np.maximum(highest - mean, mean - lowest) > MIN_TAIL * sd)
    if is_long.sum() < MIN_LONG * len(size):
        return
    warnings.warn(
        f"Modality {name!r} is taken as it is, though {is_long.sum()} of {len(size)} features "
        f"have long tails; one reaches {size.max():,.6g}. Few cells then decide what is learned. "
        f"Pass transforms={{{name!r}: 'arcsinh'}} for intensities, 'log1p' or 'clr' for counts.",
        UserWarning,
        stacklevel=5,
    )


def fit_batches(layer: EncoderInput, matrix: Any, codes: np.ndarray, n_known: int) -> None:
    """Let a fitted layer take out what is peculiar to each batch.

    Parameters
    ----------
    layer
        What the encoder of a modality reads.
    matrix
        Values of the modality, cells x features, as they are stored.
    codes
        Batch of each cell.
    n_known
        Number of batches that the layer knows already; these come first and stay.
    """
    rows = sampled_by_batch(codes)
    rows = rows[codes[rows] >= n_known]
    if not len(rows):
        return
    x, batch = InputReader.of(layer, matrix)(rows).astype(np.float64), codes[rows]
    if layer.cluster_share.any():
        # 1. new batches are brought to the cells that are known
        clusters = clusters_of(layer)
        sizes = np.bincount(batch)
        chosen = [int(b) for b in np.unique(batch) if sizes[b] >= MIN_CELLS]
        maps = {b: new_batch_map(x[batch == b], clusters) for b in chosen}
    else:
        # 2. all batches to each other; features are z-scores again then, components keep what
        #    they spread within batches
        maps, clusters = batch_maps(x, batch)
        corrected = apply_maps(x, batch, maps)
        mean, sd = corrected.mean(axis=0), corrected.std(axis=0)
        if layer.is_rotated:
            mean, sd = np.zeros_like(mean), np.ones_like(sd)
        sd = np.where(sd > MIN_SPREAD * x.std(axis=0), sd, 1)
        maps = {b: (ratio / sd, (shift - mean) / sd) for b, (ratio, shift) in maps.items()}
        layer.batch_ratio[:], layer.batch_shift[:] = (
            torch.as_tensor(v, dtype=torch.float32) for v in (1 / sd, -mean / sd)
        )
        layer.set(
            {
                "cluster_share": clusters.share,
                "cluster_mean": (clusters.mean - mean) / sd,
                "cluster_variance": clusters.variance / sd**2,
            }
        )
    for b, (ratio, shift) in maps.items():
        layer.batch_ratio[b], layer.batch_shift[b] = torch.as_tensor(ratio), torch.as_tensor(shift)


def clusters_of(layer: EncoderInput) -> Clusters:
    """Clusters of the cells that a layer was fitted to."""
    kept = (layer.cluster_share, layer.cluster_mean, layer.cluster_variance)
    return Clusters(*(buffer.cpu().double().numpy() for buffer in kept))


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
    layer: EncoderInput,
    matrix: Any,
    n_obs: int,
    codes: np.ndarray | None = None,
    *,
    progress: bool = True,
) -> RowReader:
    """Function from row numbers to what a modality's encoder reads.

    Narrow inputs are computed once and kept, wide ones are computed for each minibatch, on the
    processor, wherever the model is. `codes` are the batches of the cells, where the layer is to
    take out what is peculiar to them.
    """
    prepared = InputReader.of(layer, matrix, codes)
    if layer.n_out > MAX_CACHED:
        return prepared
    kept = np.empty((n_obs, layer.n_out), dtype=np.float32)
    starts = range(0, n_obs, BLOCK_ROWS)
    for start in track(starts, description="Standardising", disable=not progress):
        block = np.arange(start, min(start + BLOCK_ROWS, n_obs))
        kept[block] = prepared(block)
    return MatrixReader(kept)


@dataclass(frozen=True)
class InputReader:
    """Row numbers to what a layer makes of values; can be pickled for the workers of a loader."""

    read: MatrixReader
    layer: EncoderInput
    codes: np.ndarray | None
    """Batches of the cells, if they matter."""

    @classmethod
    def of(cls, layer: EncoderInput, matrix: Any, codes: np.ndarray | None = None) -> InputReader:
        """Reader of a matrix as it is stored."""
        return cls(MatrixReader(matrix, keep_sparse=True), deepcopy(layer).cpu(), codes)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        batch = None if self.codes is None else torch.from_numpy(self.codes[rows])
        with torch.inference_mode():
            return self.layer(as_tensor(self.read(rows)), batch).numpy()
