"""Values of a gene per cell: measured, imputed, of its activity and of its peaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cantata import _keys
from cantata._mudata.pairing import row_table
from cantata._mudata.rows import iter_blocks
from cantata._mudata.values import layer_names, saved_record
from cantata.pl._locus_coordinates import find_gene, same_chromosome, target_regions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mudata import MuData

    Layers = Mapping[str, str | None]

TOTAL = 10_000
"""Total to which the counts of a cell are scaled."""


@dataclass(frozen=True)
class CellValues:
    """One value per cell of the MuData, NaN where there is none, and what it is."""

    title: str
    values: np.ndarray
    unit: str


def measured(mdata: MuData, gene: str, source: str, layers: Layers) -> CellValues:
    """The gene in the cells of its modality."""
    values, unit = _of_modality(mdata, source, [gene], layers)
    return CellValues(f"measured in {source}", values, unit)


def imputed_values(
    mdata: MuData, gene: str, imputed: AnnData | None, method: str, source: str, target: str
) -> CellValues:
    """The imputed gene in the cells of `target`."""
    if imputed is None:
        values = _stored(mdata, gene, method, source)
    elif isinstance(imputed, AnnData):
        values = _spread(
            _sum(imputed, [gene], None, "imputed")[0], _rows_of(mdata, imputed, "imputed")
        )
    else:
        raise TypeError(
            f"imputed is a {type(imputed).__name__}; give an AnnData, as from model.impute."
        )
    has_target = _rows(mdata, target) >= 0
    if not np.isfinite(values[has_target]).any():
        raise ValueError(f"No cell of {target!r} has an imputed value of {gene!r}.")
    return CellValues(
        f"imputed in {target}", np.where(has_target, values, np.nan), "imputed expression"
    )


def gene_activity(mdata: MuData, gene: str, activity: str | AnnData, layers: Layers) -> CellValues:
    """The gene in a modality or an AnnData of gene activities."""
    if isinstance(activity, AnnData):
        values, unit = _normalised(activity, [gene], None, "activity")
        return CellValues(
            "gene activity", _spread(values, _rows_of(mdata, activity, "activity")), unit
        )
    if activity not in mdata.mod:
        raise KeyError(
            f"activity={activity!r} is no modality; there are {list(mdata.mod)}. "
            "Or give an AnnData."
        )
    values, unit = _of_modality(mdata, activity, [gene], layers)
    return CellValues("gene activity", values, unit)


def peak_sum(
    mdata: MuData,
    gene: str,
    *,
    source: str,
    target: str,
    annotation: pd.DataFrame | str | Path | None,
    peaks: Sequence[str] | None,
    max_distance: int | None,
    layers: Layers,
) -> CellValues:
    """Sum over given peaks, or those near the gene, in the cells of `target`."""
    if peaks is not None:
        names, where = list(peaks), ""
        if not names:
            raise ValueError("peaks=[] names no peak; None takes those near the gene.")
    else:
        assert max_distance is not None
        names = _near(mdata, gene, source, target, annotation, max_distance)
        where = f" within {max_distance / 1000:g} kb"
    values, unit = _of_modality(mdata, target, names, layers)
    title = f"{len(names)} peak{'s' * (len(names) != 1)}{where}"
    return CellValues(title, values, unit)


def _near(
    mdata: MuData,
    gene: str,
    source: str,
    target: str,
    annotation: pd.DataFrame | str | Path | None,
    max_distance: int,
) -> list[str]:
    """Peaks at most so many base pairs from the gene body."""
    if max_distance < 0:
        raise ValueError(f"max_distance={max_distance!r} must not be negative.")
    regions = target_regions(mdata, target)
    place = find_gene(gene, annotation, mdata, source)
    if place is None:
        raise ValueError(
            f"The position of {gene!r} is not known. Give annotation=, name the peaks with "
            "peaks=, or leave the panel out with max_distance=None."
        )
    distance = np.maximum(regions["start"] - place.end, place.start - regions["end"])
    near = same_chromosome(regions["chrom"], place.chrom) & (distance <= max_distance).to_numpy()
    if not near.any():
        raise ValueError(
            f"No peak of {target!r} lies within {max_distance:,} bp of {gene!r} "
            f"({place.chrom}:{place.start:.0f}-{place.end:.0f}). Enlarge max_distance, or leave "
            "the panel out with max_distance=None."
        )
    return list(regions.index[near])


def _rows(mdata: MuData, modality: str) -> np.ndarray:

    return row_table(mdata, [modality])[modality]


def _rows_of(mdata: MuData, adata: AnnData, argument: str) -> np.ndarray:
    """Row of every cell in an AnnData of its own, or -1."""
    if not adata.obs_names.is_unique:
        raise ValueError(f"{argument}: names of cells are not unique.")
    rows = np.asarray(adata.obs_names.get_indexer(mdata.obs_names))
    if (rows < 0).all():
        raise ValueError(
            f"{argument}: none of its {adata.n_obs} cells (e.g. {adata.obs_names[0]!r}) is among "
            f"those of mdata (e.g. {mdata.obs_names[0]!r})."
        )
    return rows


def _spread(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.where(rows >= 0, values[np.maximum(rows, 0)], np.nan)


def _stored(mdata: MuData, gene: str, method: str, source: str) -> np.ndarray:
    """Column of ``mdata.obsm["<method>_imputed_<source>"]``."""
    key = _keys.imputed(method, source)
    if key not in mdata.obsm:
        raise KeyError(
            f"mdata.obsm[{key!r}] does not exist. Write it with model.write_results(imputed="
            f"[{source!r}]), or give an AnnData from model.impute: imputed=."
        )
    stored: Any = mdata.obsm[key]
    if isinstance(stored, pd.DataFrame):
        names = stored.columns
    else:
        record = mdata.uns.get(_keys.UNS, {}).get(method, {}).get("imputed_features", {})
        names = pd.Index(np.asarray(record.get(source, []), dtype=str))
    if len(names) != stored.shape[1]:
        raise ValueError(
            f"mdata.obsm[{key!r}] has {stored.shape[1]} columns and mdata.uns[{_keys.UNS!r}] "
            f"names {len(names)} features of them. Write both with model.write_results."
        )
    if gene not in names:
        raise KeyError(f"{gene!r} is not among the {len(names)} features of mdata.obsm[{key!r}].")
    column = names.get_loc(gene)
    return np.asarray(np.asarray(stored)[:, column], dtype=np.float64)


def _of_modality(
    mdata: MuData, modality: str, features: Sequence[str], layers: Layers
) -> tuple[np.ndarray, str]:
    adata = mdata[modality]
    kept = layer_names(adata)
    recorded = (saved_record(adata) or {}).get("counts_layer", _keys.COUNTS)
    layer = layers.get(modality, recorded if recorded in kept else None)
    if layer is not None and layer not in kept:
        raise KeyError(
            f"layers={{{modality!r}: {layer!r}}}: modality {modality!r} has the layers {kept}."
        )
    values, unit = _normalised(adata, features, layer, f"modality {modality!r}")
    return _spread(values, _rows(mdata, modality)), unit


def _normalised(
    adata: AnnData, features: Sequence[str], layer: str | None, name: str
) -> tuple[np.ndarray, str]:
    """Sum of features per cell and its unit; counts are scaled to the total and logarithmic."""
    values, totals = _sum(adata, features, layer, name)
    both = np.concatenate([values, totals])
    if (both < 0).any() or (both != np.round(both)).any():
        return values, "value as stored" if layer is None else layer
    scaled = np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
    return np.log1p(TOTAL * scaled), f"log(1 + counts per {TOTAL // 1000}k)"


def _sum(
    adata: AnnData, features: Sequence[str], layer: str | None, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Sum over features, and over all features, of every cell; read in blocks."""
    absent = [feature for feature in features if feature not in adata.var_names]
    if absent:
        raise KeyError(
            f"{len(absent)} of {len(features)} features are not in {name}, e.g. {absent[0]!r}."
        )
    columns = np.flatnonzero(adata.var_names.isin(features))
    if len(columns) > len(set(features)):
        raise ValueError(f"{name}: names of features are not unique, e.g. {features[0]!r}.")
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise KeyError(f"{name} has no .X; name a layer: {layer_names(adata)}.")
    values, totals = np.empty(adata.n_obs), np.empty(adata.n_obs)
    for start, block in iter_blocks(matrix, adata.n_obs):
        rows = slice(start, start + block.shape[0])
        values[rows] = np.asarray(block[:, columns].sum(axis=1)).ravel()
        totals[rows] = np.asarray(block.sum(axis=1)).ravel()
    return values, totals
