"""Mean values of features in the bins along a component of a latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cantata._mudata.checks import check_integer, name_list
from cantata._mudata.embeddings import find_space
from cantata._numeric.feature_statistics import FeatureMatrix
from cantata.tl._feature_values import (
    check_modality,
    feature_positions,
    imputed_values,
    normalized_values,
)
from cantata.tl._latent._components import (
    bin_cells,
    check_cells,
    component_name,
    component_names,
    principal_axes,
)
from cantata.tl._latent._interpretation import LatentInterpretation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

ScaleBy = Literal["cells", "bins"]

N_BINS, CENTRAL = 11, 0.15
"""Defaults of :func:`cantata.tl.interpret_latent`."""


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
) -> tuple[pd.DataFrame, pd.Series]:
    """Mean values of features in the bins along a component of a latent space.

    Only cells that are central in the other components are taken, so that what changes from bin
    to bin is the component (Zhang et al. 2026, APOLLO, figures 2b and 4a).

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
        Names of features, which come in this order. None: the best of both ends of the
        interpretation, those that fall along the component first.
    n_features
        Most features if they are not named.
    use_rep
        Latent space as in :func:`cantata.tl.interpret_latent`, if there is no interpretation.
    layer
        Layer with the values; None: ``.X``. Counts are scaled to 10,000 per cell and log(1 + x)
        is taken; anything else is used as it is.
    values
        Imputed or decoded values of the modality in place of the measured ones (cells x features,
        both found by name), e.g. from ``model.impute``, as they are. Cells that it lacks are left
        out.
    scale
        ``"cells"``: difference from the mean of these cells, in their standard deviations: what
        is noise stays small. ``"bins"``: each feature has mean 0 and standard deviation 1 over the
        bins: the shape of the change. None: mean values. A constant feature is 0.

    Returns
    -------
    Means (features x bins), missing without a cell, and the number of cells of each bin. Bins are
    numbered from the middle: -5 to 5 of 11.

    Raises
    ------
    KeyError
        If the modality, component, a feature, the layer or `use_rep` does not exist.
    TypeError, ValueError
        If neither or both of `interpretation` and `use_rep` are given, there is no feature, the
        interpretation is one of other cells, or a value is not finite.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> latent = rng.normal(size=(1000, 3)) * [3, 2, 1]
    >>> rna = AnnData(rng.normal(size=(1000, 2)), obsm={"X_apollo_shared": latent})
    >>> rna.X[:, 1] += latent[:, 0]
    >>> rna.var_names = ["Actb", "Sox2"]
    >>> mdata = mudata.MuData({"rna": rna})
    >>> means, n_cells = cantata.tl.latent_traversal(
    ...     mdata, "rna", use_rep="X_apollo_shared", features=["Sox2"]
    ... )
    >>> means.loc["Sox2", [-5, 0, 5]].round(1).tolist()
    [-2.0, 0.1, 1.5]
    """
    if scale is not None and scale not in get_args(ScaleBy):
        raise ValueError(f"scale={scale!r} is unknown; choose from {get_args(ScaleBy)} or None.")
    check_integer("n_features", n_features)
    if interpretation is None and use_rep is not None and features is None:
        raise ValueError("Without an interpretation, name the features: features=.")
    bins = latent_bins(mdata, modality, interpretation, component=component, use_rep=use_rep)
    n_bins = len(bins.cat.categories)
    rows = mdata[modality].obs_names.get_indexer(bins.index)
    if features is not None:
        names = name_list("features", features)
    else:
        assert interpretation is not None  # without one, features are named
        names = _features_of_ends(interpretation, component, modality, n_features)
    columns = feature_positions(mdata, modality, names)
    codes = bins.cat.codes.to_numpy()
    if values is None:
        matrix = normalized_values(mdata, modality, layer, rows).matrix[:, columns]
        matrix = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
    else:
        if layer is not None:
            raise ValueError("layer= is one of the measured values; leave it out with values=.")
        matrix, found = _given_values(mdata, modality, values, rows, names)
        codes = codes[found]
    means, n_cells = bin_means(matrix.astype(np.float64), codes, n_bins, scale)
    if features is None:
        order = trend_order(means)
        means, names = means[order], [names[k] for k in order]
    numbers = pd.Index(bins.cat.categories, name="bin")
    return pd.DataFrame(means, index=names, columns=numbers), pd.Series(n_cells, index=numbers)


def latent_bins(
    mdata: MuData,
    modality: str,
    interpretation: LatentInterpretation | None = None,
    *,
    component: str | int = "PC1",
    use_rep: str | None = None,
) -> pd.Series:
    """Bins along a component of a latent space, of the cells that are central in the others.

    These are the cells to look at: what changes from bin to bin is the component (Zhang et al.
    2026, APOLLO, figure 4a).

    Parameters
    ----------
    mdata, modality, interpretation, component, use_rep
        As in :func:`latent_traversal`.

    Returns
    -------
    Cells to bins, ordered categories numbered from the middle: -5 to 5 of 11.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`latent_traversal`.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> latent = np.random.default_rng(0).normal(size=(1000, 3)) * [3, 2, 1]
    >>> rna = AnnData(latent.copy(), obsm={"X_apollo_shared": latent})
    >>> mdata = mudata.MuData({"rna": rna})
    >>> bins = cantata.tl.latent_bins(mdata, "rna", use_rep="X_apollo_shared")
    >>> len(bins), int(bins.min()), int(bins.max())
    (150, -5, 5)
    """
    check_modality(mdata, modality, "modality")
    if (interpretation is None) == (use_rep is None):
        raise ValueError("Give either interpretation or use_rep.")
    if interpretation is None:
        assert use_rep is not None  # checked above
        bins, central = _bins_of_space(mdata, modality, use_rep, component)
        n_bins = N_BINS
    else:
        if not isinstance(interpretation, LatentInterpretation):
            raise TypeError(
                f"interpretation is a {type(interpretation).__name__}; give the result of "
                "cantata.tl.interpret_latent."
            )
        name = interpretation.component_name(component)
        bins, central = interpretation.bins[name], interpretation.central[name]
        n_bins = interpretation.parameters["n_bins"]
    bins = bins[central]
    known = bins[bins.index.isin(mdata[modality].obs_names)]
    if known.empty:
        raise ValueError(
            f"None of the {len(bins)} cells in the center of the other components is in modality "
            f"{modality!r}: the interpretation is one of other cells, e.g. {bins.index[0]!r}."
        )
    numbers = np.arange(-(n_bins // 2), n_bins // 2 + 1)
    return pd.Series(pd.Categorical.from_codes(known, numbers, ordered=True), known.index)


def _bins_of_space(
    mdata: MuData, modality: str, use_rep: str, component: str | int
) -> tuple[pd.Series, pd.Series]:
    """Bins of the cells of a latent space, and whether they are central in other components."""
    name = component if isinstance(component, str) else component_name(component - 1)
    space, rows = find_space(mdata, modality, use_rep)
    check_cells(space, N_BINS)
    axes = principal_axes(space.values)
    names = component_names(len(axes.variances))
    if name not in names:
        raise KeyError(f"component={name!r}: there are PC1 to {names[-1]}.")
    component_at = np.array([names.index(name)])
    binned = bin_cells(space.values, axes, component_at, n_bins=N_BINS, central=CENTRAL)
    cells = mdata[modality].obs_names[rows]
    return pd.Series(binned.bins[:, 0], cells), pd.Series(binned.central[:, 0], cells)


def _features_of_ends(
    interpretation: LatentInterpretation, component: str | int, modality: str, n_features: int
) -> list[str]:
    """The best features of both ends of a component."""
    interpreted = interpretation.parameters["modality"]
    if interpreted != modality:
        raise ValueError(
            f"The interpretation is one of the features of {interpreted!r}; name those of "
            f"{modality!r}: features=."
        )
    name, table = interpretation.component_name(component), interpretation.features
    ends = table[(table["component"] == name) & (table["group"] != "center")]
    ends = ends.sort_values("area", ascending=False, kind="stable")
    names = ends["feature"].drop_duplicates().head(n_features).tolist()
    if not names:
        raise ValueError(f"No feature differs at the ends of {name}; name some: features=.")
    return names


def _given_values(
    mdata: MuData, modality: str, values: AnnData, rows: np.ndarray, names: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Values of features in those rows of the modality that are in `values`, and which are."""
    if not isinstance(values, AnnData):
        raise TypeError(f"values is a {type(values).__name__}; give an AnnData, cells x features.")
    rows = imputed_values(mdata, modality, values, "", modality).rows[rows]
    found = rows >= 0
    if not found.any():
        raise ValueError("values holds none of the cells in the center of the other components.")
    columns = values.var_names.get_indexer(pd.Index(names))
    if (columns < 0).any():
        lacking = names[int(np.flatnonzero(columns < 0)[0])]
        raise KeyError(f"values lacks {(columns < 0).sum()} of the features, e.g. {lacking!r}.")
    part = FeatureMatrix(values.X, rows[found], columns, names=names, where="values")
    matrix = part.dense(slice(0, len(names)))
    if not np.isfinite(matrix).all():
        raise ValueError("values holds NaN or infinity in the features that are drawn.")
    return matrix, found


def bin_means(
    matrix: np.ndarray, bins: np.ndarray, n_bins: int, scale: ScaleBy | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every feature in every bin (features x bins), and the number of cells of the bins.

    Without a cell the mean is missing.
    """
    counts = np.bincount(bins, minlength=n_bins)
    sums = np.stack([np.bincount(bins, column, n_bins) for column in matrix.T])
    missing = np.full(sums.shape, np.nan)
    means = np.divide(sums, counts, out=missing, where=counts > 0)
    if scale is not None:
        over = matrix.T if scale == "cells" else means
        center, sd = np.nanmean(over, axis=1), np.nanstd(over, axis=1)
        means = (means - center[:, None]) / np.where(sd > 0, sd, 1)[:, None]
    return means, counts


def trend_order(values: np.ndarray) -> np.ndarray:
    """Order of the rows from those that fall from left to right to those that rise."""
    position = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    centred = np.nan_to_num(values - np.nanmean(values, axis=1, keepdims=True))
    length = np.sqrt((centred**2).sum(axis=1))
    return np.argsort(centred @ position / np.where(length > 0, length, 1), kind="stable")
