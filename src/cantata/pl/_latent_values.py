"""Cells along a component of a latent space, and the values of features in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cantata.tl import LatentInterpretation
from cantata.tl._expression import expression
from cantata.tl._feature_columns import FeatureColumns
from cantata.tl._interpret_axes import principal_axes
from cantata.tl._interpret_latent import check_cells
from cantata.tl._interpret_options import Options
from cantata.tl._interpret_splits import place_cells
from cantata.tl._interpret_tables import cell_tables, component_name
from cantata.tl._latent_spaces import space_of
from cantata.tl._link_values import check_modality, imputed_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData


@dataclass(frozen=True)
class Traversal:
    """Cells that are central in the other components, and what to draw of them.

    ``rows`` of the modality; ``bins`` of these cells; ``features``, names.
    """

    component: str
    title: str
    rows: np.ndarray
    bins: np.ndarray
    n_bins: int
    features: list[str]


def find_traversal(
    mdata: MuData,
    modality: str,
    interpretation: LatentInterpretation | None,
    *,
    component: str | int,
    use_rep: str | None,
    features: Sequence[str] | None,
    n_features: int,
) -> Traversal:
    """Cells and features, as :func:`cantata.pl.latent_traversal` draws them.

    Raises
    ------
    KeyError, TypeError, ValueError
        As there.
    """
    check_modality(mdata, modality, "modality")
    if (interpretation is None) == (use_rep is None):
        raise ValueError("Give either interpretation or use_rep.")
    if isinstance(features, str):
        raise TypeError(f"features={features!r} must be a list of names.")
    if interpretation is None:
        assert use_rep is not None  # checked above
        if features is None:
            raise ValueError("Without an interpretation, name the features: features=.")
        name = component if isinstance(component, str) else component_name(component - 1)
        space = use_rep
        bins, central = _computed(mdata, modality, use_rep, name)
        n_bins = Options().n_bins
    else:
        if not isinstance(interpretation, LatentInterpretation):
            raise TypeError(
                f"interpretation is a {type(interpretation).__name__}; give the result of "
                "cantata.tl.interpret_latent."
            )
        name = interpretation.component_name(component)
        space, n_bins = (interpretation.parameters[key] for key in ("use_rep", "n_bins"))
        bins, central = interpretation.bins[name], interpretation.central[name]
    bins = bins[central]
    rows = mdata[modality].obs_names.get_indexer(bins.index)
    if (rows < 0).all():
        raise ValueError(
            f"None of the {len(rows)} cells in the centre of the other components is in modality "
            f"{modality!r}: the interpretation is one of other cells, e.g. {bins.index[0]!r}."
        )
    chosen = _features(mdata, modality, interpretation, name, features, n_features)
    title = f"{modality} along {name} of {space}"
    held = rows >= 0
    return Traversal(name, title, rows[held], bins.to_numpy()[held], n_bins, chosen)


def _computed(
    mdata: MuData, modality: str, use_rep: str, component: str
) -> tuple[pd.Series, pd.Series]:
    """Bins of the cells of a latent space, and whether they are central in other components."""
    space, rows = space_of(mdata, modality, use_rep)
    options = Options()
    check_cells(space, options.n_bins)
    axes = principal_axes(space.values)
    placed = place_cells(space.values, axes, np.arange(len(axes.variances)), options)
    tables = cell_tables(placed, mdata[modality].obs_names[rows])
    if component not in tables["bins"]:
        raise KeyError(f"component={component!r}: there are PC1 to {tables['bins'].columns[-1]}.")
    return tables["bins"][component], tables["central"][component]


def _features(
    mdata: MuData,
    modality: str,
    interpretation: LatentInterpretation | None,
    component: str,
    features: Sequence[str] | None,
    n_features: int,
) -> list[str]:
    """Names of the features to draw."""
    if features is not None:
        names = list(dict.fromkeys(features))
    else:
        assert interpretation is not None  # without one, features are named
        of = interpretation.parameters["modality"]
        if of != modality:
            raise ValueError(
                f"The interpretation is one of the features of {of!r}; name those of "
                f"{modality!r}: features=."
            )
        table = interpretation.features
        ends = table[(table["component"] == component) & (table["group"] != "centre")]
        ends = ends.sort_values("area", ascending=False, kind="stable")
        names = ends["feature"].drop_duplicates().head(n_features).tolist()
        if not names:
            raise ValueError(
                f"No feature differs at the ends of {component}; name some: features=."
            )
    if not names:
        raise ValueError("features is empty; name at least one.")
    unknown = [name for name in names if name not in mdata[modality].var_names]
    if unknown:
        raise KeyError(
            f"features: {len(unknown)} of {len(names)} are no features of {modality!r}, e.g. "
            f"{unknown[0]!r}."
        )
    return names


def feature_values(
    mdata: MuData,
    modality: str,
    traversal: Traversal,
    layer: str | None,
    values: AnnData | None,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Values of the features (cells x features), and the bins of these cells.

    Raises
    ------
    KeyError, TypeError, ValueError
        As in :func:`cantata.pl.latent_traversal`.
    """
    names = traversal.features
    if values is None:
        found = expression(mdata, modality, layer, traversal.rows)
        columns = mdata[modality].var_names.get_indexer(pd.Index(names))
        part = found.matrix[:, columns]
        part = part.toarray() if sparse.issparse(part) else np.asarray(part)
        return pd.DataFrame(part.astype(np.float64), columns=names), traversal.bins
    if layer is not None:
        raise ValueError("layer= is one of the measured values; leave it out with values=.")
    if not isinstance(values, AnnData):
        raise TypeError(f"values is a {type(values).__name__}; give an AnnData, cells x features.")
    given = imputed_values(mdata, modality, values, "", modality)
    rows = given.rows[traversal.rows]
    held = rows >= 0
    if not held.any():
        raise ValueError("values holds none of the cells in the centre of the other components.")
    columns = values.var_names.get_indexer(pd.Index(names))
    if (columns < 0).any():
        lacking = names[int(np.flatnonzero(columns < 0)[0])]
        raise KeyError(f"values lacks {(columns < 0).sum()} of the features, e.g. {lacking!r}.")
    block = FeatureColumns(given.matrix, rows[held], columns, names=names, where="values")
    part = block.dense(slice(0, len(names)))
    if not np.isfinite(part).all():
        raise ValueError("values holds NaN or infinity in the features that are drawn.")
    return pd.DataFrame(part, columns=names), traversal.bins[held]
