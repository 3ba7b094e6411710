"""Imputed expression of a gene beside what was measured around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import spearmanr

from cantata import _keys
from cantata._mudata.checks import check_mudata, name_list
from cantata._mudata.pairing import row_table
from cantata._mudata.values import iter_blocks, matrix_of, saved_record
from cantata.pl._axes import panels_for
from cantata.pl._embedding import LEGEND_INCHES, PANEL_INCHES, coordinates, draw_cells
from cantata.pl._genome import find_gene, same_chromosome, target_regions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from mudata import MuData

    Layers = Mapping[str, str | None]

ACTIVITY = "activity"
"""Modality that :func:`cantata.pp.gene_activity` makes."""

TARGET_SUM = 10_000
"""Total to which the counts of a cell are scaled."""

MIN_CELLS = 3
"""A rank correlation is given for at least so many cells."""


def imputed(
    mdata: MuData,
    gene: str,
    *,
    method: str = "scmodal",
    source: str = "rna",
    target: str = "atac",
    imputed: AnnData | None = None,
    activity: str | AnnData | None = None,
    annotation: pd.DataFrame | str | Path | None = None,
    peaks: Sequence[str] | None = None,
    max_distance: int | None = 10_000,
    layers: Mapping[str, str | None] | None = None,
    basis: str = "X_umap",
    size: float | None = None,
    ncols: int = 4,
    axes: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    r"""Draw the imputed expression of a gene beside its measured expression, activity and peaks.

    Panels of one embedding (Wang et al. 2025, scMODAL, figure 4g to i): the expression measured
    in the cells of `source`; imputed into the cells of `target`; the gene activity; and the sum of
    the peaks at the gene. Titles give Spearman's rank correlation with the imputed expression.

    Parameters
    ----------
    mdata
        MuData with an embedding of all cells; it is not modified.
    gene
        Feature of `source`.
    method
        Method that imputed the expression.
    source, target
        Modality of the gene, and modality of the peaks.
    imputed
        AnnData from ``model.impute(source, ...)`` of all or some cells. None:
        ``mdata.obsm["<method>_imputed_<source>"]``. To judge the imputation, infer it from
        `target` alone: ``model.impute("rna", source="atac")``.
    activity
        Gene activity: a modality, or an AnnData of all or some cells with the gene among its
        features. None: the modality ``"activity"`` of :func:`cantata.pp.gene_activity` if it has
        the gene, else no such panel.
    annotation
        Position of the gene: a table as from :func:`cantata.pp.read_annotation`, or the path of a
        GTF file. None: columns of ``mdata[source].var``.
    peaks
        Features of `target` to sum up, in place of those near the gene.
    max_distance
        Peaks at most so many base pairs from the gene body are summed up. None, without `peaks`:
        no such panel.
    layers
        Modality to layer, None for ``.X``. By default the counts that
        :func:`cantata.pp.preprocess` kept, else a layer ``"counts"``, else ``.X``.
    basis
        Key in ``mdata.obsm``, with or without ``"X_"``; its first two columns are drawn.
    size
        Area of a point in square points; by default it falls with the number of cells.
    ncols
        Panels in a row.
    axes
        As many axes as panels. None: a new figure.

    Returns
    -------
    Axes of the panels, two to four.

    Raises
    ------
    KeyError
        If the embedding, a modality, the gene, a peak, a layer or the imputation does not exist.
    TypeError
        If an annotation or an AnnData is something else.
    ValueError
        If no imputed cell is in `mdata`, the position of the gene is not known, no peak is near
        it, or the number of axes is not the number of panels.

    Notes
    -----
    Counts (non-negative integers) are scaled to 10,000 per cell, and log(1 + x) is drawn; other
    values are drawn as they are. Cells without a value are grey. Colors span the 1st to the 99th
    percentile. Correlations of imputed with measured expression are over the cells that have both
    modalities, and mean little if the imputation has seen their `source`; where no cell has both,
    there is none.

    Examples
    --------
    >>> import cantata, mudata, numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> rna, atac = AnnData(rng.poisson(2.0, (20, 1))), AnnData(rng.poisson(1.0, (20, 2)))
    >>> rna.var_names, atac.var_names = ["Fam107a"], ["chr14:100-200", "chr14:900-990"]
    >>> rna.var[["chrom", "start", "end", "strand"]] = [["chr14", 150, 800, "+"]]
    >>> mdata = mudata.MuData({"rna": rna, "atac": atac})
    >>> mdata.obsm["X_umap"] = rng.normal(size=(20, 2))
    >>> values = AnnData(rng.normal(size=(20, 1)), mdata.obs[[]], rna.var[[]])
    >>> axes = cantata.pl.imputed(mdata, "Fam107a", imputed=values)
    >>> [ax.get_title().split("\n")[0] for ax in axes]
    ['Fam107a, measured in rna', 'Fam107a, imputed in atac', 'Fam107a, 2 peaks within 10 kb']
    """
    check_mudata(mdata)
    for name in (source, target):
        if name not in mdata.mod:
            raise KeyError(f"There is no modality {name!r}; there are {list(mdata.mod)}.")
    if layers is not None and not hasattr(layers, "items"):
        raise TypeError(f"layers={layers!r} must be a dict from modalities to layers.")
    xy, axis_label = coordinates(mdata, basis)
    layers = layers or {}
    measured = _measured(mdata, gene, source, layers)
    inferred = _imputed(mdata, gene, imputed, method, source, target)
    shown = [measured, inferred]
    if activity is None and ACTIVITY in mdata.mod and gene in mdata[ACTIVITY].var_names:
        activity = ACTIVITY
    if activity is not None:
        shown.append(_activity(mdata, gene, activity, layers))
    if peaks is not None:
        shown.append(_peak_sum(mdata, target, name_list("peaks", peaks), "", layers))
    elif max_distance is not None:
        near = _peaks_near(mdata, gene, source, target, annotation, max_distance)
        where = f" within {max_distance / 1000:g} kb"
        shown.append(_peak_sum(mdata, target, near, where, layers))
    width = PANEL_INCHES + LEGEND_INCHES
    panels = panels_for(len(shown), ncols, axes, width=width, height=PANEL_INCHES + 0.4)
    for ax, cells in zip(panels, shown, strict=True):
        finite = np.where(np.isfinite(cells.values), cells.values, np.nan)
        draw_cells(ax, xy, axis_label, pd.Series(finite), size)
        ax.child_axes[-1].set_ylabel(cells.unit)
        title = f"{gene}, {cells.title}"
        if cells is not inferred:
            title += f"\n{_agreement(cells, inferred)}"
        ax.set_title(title, fontsize="medium")
    return panels


@dataclass(frozen=True)
class _CellValues:
    """One value per cell of the MuData, NaN where there is none, and what it is."""

    title: str
    values: np.ndarray
    unit: str


def _agreement(cells: _CellValues, inferred: _CellValues) -> str:
    """Spearman's rank correlation in words, over the cells that have both values."""
    both = np.isfinite(cells.values) & np.isfinite(inferred.values)
    n = int(both.sum())
    x, y = cells.values[both], inferred.values[both]
    if n < MIN_CELLS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return "no cell has both" if n == 0 else f"no correlation ({n:,} cells)"
    return f"ρ = {spearmanr(x, y).statistic:.2f} with imputed ({n:,} cells)"


def _measured(mdata: MuData, gene: str, source: str, layers: Layers) -> _CellValues:
    """The gene in the cells of its modality."""
    values, unit = _of_modality(mdata, source, [gene], layers)
    return _CellValues(f"measured in {source}", values, unit)


def _imputed(
    mdata: MuData, gene: str, imputed: AnnData | None, method: str, source: str, target: str
) -> _CellValues:
    """The imputed gene in the cells of `target`."""
    if imputed is None:
        values = _stored(mdata, gene, method, source)
    elif isinstance(imputed, AnnData):
        matrix = matrix_of({"imputed": imputed}, "imputed")
        values, _ = _sum(imputed, matrix, [gene], "imputed")
        values = _spread(values, _rows_of(mdata, imputed, "imputed"))
    else:
        raise TypeError(
            f"imputed is a {type(imputed).__name__}; give an AnnData, as from model.impute."
        )
    has_target = row_table(mdata, [target])[target] >= 0
    if not np.isfinite(values[has_target]).any():
        raise ValueError(f"No cell of {target!r} has an imputed value of {gene!r}.")
    return _CellValues(
        f"imputed in {target}", np.where(has_target, values, np.nan), "imputed expression"
    )


def _activity(mdata: MuData, gene: str, activity: str | AnnData, layers: Layers) -> _CellValues:
    """The gene in a modality or an AnnData of gene activities."""
    if isinstance(activity, AnnData):
        matrix = matrix_of({"activity": activity}, "activity")
        values, unit = _normalized(activity, matrix, [gene], None, "activity")
        values = _spread(values, _rows_of(mdata, activity, "activity"))
        return _CellValues("gene activity", values, unit)
    if activity not in mdata.mod:
        raise KeyError(
            f"activity={activity!r} is no modality; there are {list(mdata.mod)}. "
            "Or give an AnnData."
        )
    values, unit = _of_modality(mdata, activity, [gene], layers)
    return _CellValues("gene activity", values, unit)


def _peak_sum(
    mdata: MuData, target: str, peaks: list[str], where: str, layers: Layers
) -> _CellValues:
    """Sum over peaks in the cells of `target`; `where` tells where they lie, for the title."""
    values, unit = _of_modality(mdata, target, peaks, layers)
    return _CellValues(f"{len(peaks)} peak{'s' * (len(peaks) != 1)}{where}", values, unit)


def _peaks_near(
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
    counts_layer = (saved_record(adata) or {}).get("counts_layer", _keys.COUNTS)
    layer = layers.get(modality, counts_layer if counts_layer in adata.layers else None)
    matrix = matrix_of(mdata, modality, layer)
    values, unit = _normalized(adata, matrix, features, layer, f"modality {modality!r}")
    return _spread(values, row_table(mdata, [modality])[modality]), unit


def _normalized(
    adata: AnnData, matrix: Any, features: Sequence[str], layer: str | None, name: str
) -> tuple[np.ndarray, str]:
    """Sum of features per cell and its unit; counts are scaled to the total and logarithmic."""
    values, totals = _sum(adata, matrix, features, name)
    both = np.concatenate([values, totals])
    if (both < 0).any() or (both != np.round(both)).any():
        return values, "value as stored" if layer is None else layer
    scaled = np.divide(values, totals, out=np.zeros_like(values), where=totals > 0)
    return np.log1p(TARGET_SUM * scaled), f"log(1 + counts per {TARGET_SUM // 1000}k)"


def _sum(
    adata: AnnData, matrix: Any, features: Sequence[str], name: str
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
    values, totals = np.empty(adata.n_obs), np.empty(adata.n_obs)
    for start, block in iter_blocks(matrix, adata.n_obs):
        rows = slice(start, start + block.shape[0])
        values[rows] = np.asarray(block[:, columns].sum(axis=1)).ravel()
        totals[rows] = np.asarray(block.sum(axis=1)).ravel()
    return values, totals
