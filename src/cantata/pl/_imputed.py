"""Imputed expression of a gene beside what was measured around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cantata.pl._axes import panels_for
from cantata.pl._colors import MISSING_COLOR
from cantata.pl._embedding import PANEL, _coordinates, _draw_numbers
from cantata.pl._imputed_values import gene_activity, imputed_values, measured, peak_sum

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

    from cantata.pl._imputed_values import CellValues

ACTIVITY = "activity"
"""Modality that :func:`cantata.pp.gene_activity` makes."""

FEWEST = 3
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
    values are drawn as they are. Cells without a value are grey. Colours span the 1st to the 99th
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
    for name in (source, target):
        if name not in mdata.mod:
            raise KeyError(f"There is no modality {name!r}; there are {list(mdata.mod)}.")
    xy, label = _coordinates(mdata, basis)
    layers = layers or {}
    shown = [measured(mdata, gene, source, layers)]
    inferred = imputed_values(mdata, gene, imputed, method, source, target)
    shown.append(inferred)
    if activity is None and ACTIVITY in mdata.mod and gene in mdata[ACTIVITY].var_names:
        activity = ACTIVITY
    if activity is not None:
        shown.append(gene_activity(mdata, gene, activity, layers))
    if peaks is not None or max_distance is not None:
        shown.append(
            peak_sum(
                mdata,
                gene,
                source=source,
                target=target,
                annotation=annotation,
                peaks=peaks,
                max_distance=max_distance,
                layers=layers,
            )
        )
    panels = panels_for(len(shown), ncols, axes, width=PANEL + 1.4, height=PANEL + 0.4)
    for ax, values in zip(panels, shown, strict=True):
        _draw(ax, xy, label, values, size)
        title = f"{gene}, {values.title}"
        if values is not inferred:
            title += f"\n{_agreement(values, inferred)}"
        ax.set_title(title, fontsize="medium")
    return panels


def _agreement(values: CellValues, inferred: CellValues) -> str:
    """Spearman's rank correlation in words, over the cells that have both values."""
    from scipy.stats import spearmanr

    both = np.isfinite(values.values) & np.isfinite(inferred.values)
    n = int(both.sum())
    pair = [v.values[both] for v in (values, inferred)]
    if n < FEWEST or any(np.ptp(v) == 0 for v in pair):
        return "no cell has both" if n == 0 else f"no correlation ({n:,} cells)"
    return f"ρ = {spearmanr(*pair).statistic:.2f} with imputed ({n:,} cells)"


def _draw(ax: Axes, xy: np.ndarray, label: str, values: CellValues, size: float | None) -> None:
    shown = np.flatnonzero(np.isfinite(xy).all(axis=1))
    order = np.random.default_rng(0).permutation(shown)
    area = float(np.clip(15_000 / max(order.size, 1), 1, 15)) if size is None else size
    missing = ~np.isfinite(values.values[order])
    below, above = order[missing], order[~missing]
    ax.scatter(xy[below, 0], xy[below, 1], s=area, c=MISSING_COLOR, linewidths=0, rasterized=True)
    _draw_numbers(ax, xy, values.values, above, area)
    ax.child_axes[-1].set_ylabel(values.unit)
    ax.set(xlabel=f"{label}1", ylabel=f"{label}2", xticks=[], yticks=[])
    ax.set_box_aspect(1)
    ax.spines[["top", "right"]].set_visible(False)
