"""Features along a component of a latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from cantata.pl._heatmap import draw_matrix, new_axes
from cantata.pl._latent_values import Traversal, feature_values, find_traversal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

    from cantata.tl import LatentInterpretation

ScaleBy = Literal["cells", "bins"]

CELL = 0.3
"""Width and height of a cell of a new figure, in inches."""

FEW = 5
"""Bins with fewer cells do not set the ends of the colour map."""

STRIP = 0.55
"""Height of the bars with the numbers of cells, in inches."""


def latent_traversal(
    mdata: MuData,
    modality: str,
    interpretation: LatentInterpretation | None = None,
    *,
    component: str | int = "PC1",
    features: Sequence[str] | None = None,
    n_features: int = 20,
    use_rep: str | None = None,
    layer: str | None = None,
    values: AnnData | None = None,
    scale: ScaleBy | None = "cells",
    cmap: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean values of features in the bins along a component of a latent space.

    Only cells that are central in the other components are taken, so that what changes from bin
    to bin is the component (Zhang et al. 2026, APOLLO, figures 2b and 4a). Bars on top tell how
    many there are.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    modality
        Whose features. It may be another than that of the interpretation; then name `features`.
    interpretation
        From :func:`cantata.tl.interpret_latent`. None: the components of `use_rep` are computed
        anew with its defaults.
    component
        Name or number from 1.
    features
        Names of features, drawn in this order. None: the best of both ends of the interpretation,
        those that fall along the component first.
    n_features
        Most features if they are not named.
    use_rep
        Latent space as in :func:`cantata.tl.interpret_latent`, if there is no interpretation.
    layer
        Layer with the values; None: ``.X``. Counts are scaled to 10,000 per cell and log(1 + x)
        is taken; anything else is used as it is.
    values
        Imputed or decoded values of the modality to draw in place of the measured ones (cells x
        features, both found by name), e.g. from ``model.impute``, as they are. Cells that it lacks
        are left out.
    scale
        ``"cells"``: difference from the mean of these cells, in their standard deviations: what
        is noise stays pale. ``"bins"``: each feature has mean 0 and standard deviation 1 over the
        bins: the shape of the change. None: mean values.
    cmap
        Colour map. None: ``"RdBu_r"``, or ``"viridis"`` without `scale`. Bins with fewer than 5
        cells do not set its ends.
    ax
        Axes to draw in. None: a new figure.

    Returns
    -------
    The axes of the matrix (features x bins); those of the bars are its first child.

    Raises
    ------
    KeyError
        If the modality, component, a feature, the layer or `use_rep` does not exist.
    TypeError
        If `values` is no AnnData, or `interpretation` is none.
    ValueError
        If neither or both of `interpretation` and `use_rep` are given, there is no feature to
        draw, the interpretation is one of other cells, or a value is not finite.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> latent = rng.normal(size=(1000, 3)) * [3, 2, 1]
    >>> rna = AnnData(rng.normal(size=(1000, 4)), obsm={"X_apollo_shared": latent})
    >>> rna.X[:, 2] += latent[:, 0]
    >>> rna.var_names = ["Actb", "Cd4", "Sox2", "Pax6"]
    >>> mdata = mudata.MuData({"rna": rna})
    >>> ax = cantata.pl.latent_traversal(
    ...     mdata, "rna", use_rep="X_apollo_shared", features=["Sox2", "Actb"]
    ... )
    >>> bool(ax.images[0].get_array()[0, -1] > 1)
    True
    """
    if scale is not None and scale not in get_args(ScaleBy):
        raise ValueError(f"scale={scale!r} is unknown; choose from {get_args(ScaleBy)} or None.")
    traversal = find_traversal(
        mdata,
        modality,
        interpretation,
        component=component,
        use_rep=use_rep,
        features=features,
        n_features=n_features,
    )
    table, bins = feature_values(mdata, modality, traversal, layer, values)
    matrix, counts = binned(table, bins, traversal.n_bins, scale)
    if features is None:
        matrix = matrix.iloc[trend_order(matrix.to_numpy())]
    if ax is None:
        ax = new_axes(matrix, CELL)
        figure = ax.get_figure(root=True)
        assert figure is not None  # it was made for this
        figure.set_figheight(figure.get_figheight() + STRIP + 0.3)
        figure.canvas.draw()
    _draw(ax, matrix, counts, traversal, scale, cmap)
    return ax


def binned(
    table: pd.DataFrame, bins: np.ndarray, n_bins: int, scale: ScaleBy | None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Mean of every feature in every bin, and the number of cells of the bins.

    Parameters
    ----------
    table
        Values (cells x features).
    bins
        Bin of each cell, 0, 1, ....
    n_bins
        Number of bins; without a cell the mean is missing.
    scale
        As in :func:`latent_traversal`. A constant feature is 0.
    """
    counts = np.bincount(bins, minlength=n_bins)
    names = [f"{k:+d}".replace("-", "\N{MINUS SIGN}") for k in range(-(n_bins // 2), n_bins)]
    names = ["0" if name == "+0" else name for name in names[:n_bins]]
    sums = np.stack([np.bincount(bins, column, n_bins) for column in table.to_numpy().T])
    missing = np.full(sums.shape, np.nan)
    means = np.divide(sums, counts, out=missing, where=counts > 0)
    if scale is not None:
        over = table.to_numpy().T if scale == "cells" else means
        center, sd = np.nanmean(over, axis=1), np.nanstd(over, axis=1)
        means = (means - center[:, None]) / np.where(sd > 0, sd, 1)[:, None]
    return pd.DataFrame(means, index=table.columns, columns=names), counts


def trend_order(values: np.ndarray) -> np.ndarray:
    """Order of the rows from those that fall from left to right to those that rise."""
    place = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    centred = np.nan_to_num(values - np.nanmean(values, axis=1, keepdims=True))
    length = np.sqrt((centred**2).sum(axis=1))
    return np.argsort(centred @ place / np.where(length > 0, length, 1), kind="stable")


def _draw(
    ax: Axes,
    matrix: pd.DataFrame,
    counts: np.ndarray,
    traversal: Traversal,
    scale: ScaleBy | None,
    cmap: str | None,
) -> None:
    many = counts >= FEW
    numbers = matrix.to_numpy()[:, many if many.any() else counts > 0]
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    if scale is not None or low == high:
        largest = max(abs(low), abs(high)) or 1.0
        low, high = -largest, largest
    label = {"cells": "mean, in SD of the cells", "bins": "z score over bins", None: "mean"}[scale]
    draw_matrix(
        ax,
        matrix,
        cmap=cmap or ("viridis" if scale is None else "RdBu_r"),
        limits=(float(low), float(high)),
        bar_label=label,
    )
    ax.tick_params(axis="x", rotation=0)
    ax.set_xlabel(f"bin along {traversal.component}")
    ax.set_title(traversal.title, pad=72 * (STRIP + 0.16))
    figure = ax.get_figure(root=True)
    assert figure is not None  # the matrix was drawn in it
    height = ax.get_position().height * figure.get_figheight()
    strip = ax.inset_axes((0, 1 + 0.08 / height, 1, STRIP / height), sharex=ax)
    strip.bar(range(len(counts)), counts, width=0.8, color="0.6")
    strip.tick_params(axis="x", which="both", length=0, labelbottom=False)
    strip.set_ylabel("cells")
    strip.set_yticks([0, int(counts.max())])
    strip.spines[["top", "right"]].set_visible(False)
