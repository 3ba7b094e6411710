"""What encoders read where no representation is registered: components that the model fits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from cantata._numeric.components import CLIP, Components, fit_lsi, fit_pca
from cantata._numeric.normalise import feature_statistics, normalise, target_total, variable_genes
from cantata.model._sample import kind_of, sampled_rows

if TYPE_CHECKING:
    from cantata._mudata.kinds import Kind

logger = logging.getLogger(__name__)

N_TOP_GENES = 4000
"""Highly variable genes that enter, as in :func:`cantata.pp.preprocess`."""


def fit_component_inputs(model: Any) -> None:
    """Fit the component inputs of a model by the recipe of :func:`cantata.pp.preprocess`.

    Parameters
    ----------
    model
        Model whose module has ``inputs``; they are set.

    Raises
    ------
    ValueError
        If a modality has too few cells or features that vary.
    """
    for name, layer in model.module.inputs.items():
        adata = model.adata[name]
        matrix = sampled_rows(model._matrix(name), adata.n_obs)
        kind = kind_of(name, adata) if model.module.head(name).of_counts else None
        layer.set(fit_component_input(name, matrix, kind, layer.loadings.shape[1]))
        logger.info("Encoders of %r read components fitted on %d cells.", name, matrix.shape[0])


def fit_component_input(
    name: str, values: Any, kind: Kind | None, n_components: int
) -> dict[str, np.ndarray | float | bool]:
    """State of a :class:`~cantata.nn.ComponentInput` fitted on values.

    Parameters
    ----------
    name
        Name of the modality, for errors.
    values
        Cells x features, sparse or dense.
    kind
        What counts measure; None for values that are no counts.
    n_components
        Wanted number of components.

    Returns
    -------
    Values by buffer name.
    """
    n_features = values.shape[1]
    state: dict[str, np.ndarray | float | bool] = {"use_log": kind is not None}
    if kind is None:
        components = fit_pca(name, values, np.ones(n_features, dtype=bool), n_components)
        return state | _linear(components)
    total = target_total(kind, values)
    statistics = feature_statistics(kind, values)
    normalised = normalise(kind, values, total, statistics)
    state["total"] = total
    if kind == "atac":
        state["weight"] = statistics
        return state | _linear(fit_lsi(name, normalised, statistics > 0, n_components))
    used = np.ones(n_features, dtype=bool)
    if kind == "protein":
        state["weight"] = np.exp(-statistics)
    else:
        used = variable_genes(name, values, normalised, None, N_TOP_GENES)
    return state | _linear(fit_pca(name, normalised, used, n_components))


def _linear(components: Components) -> dict[str, np.ndarray | float | bool]:
    """The linear part of the map."""
    loadings = components.loadings.astype(np.float64)
    if components.singular_values is not None:
        return {"loadings": loadings / components.singular_values, "unit_rows": True}
    used = components.sd > 0
    inverse = np.divide(1.0, components.sd, out=np.zeros_like(components.sd), where=used)
    return {
        "inverse_sd": inverse,
        "ceiling": components.mean * inverse + CLIP,
        "loadings": loadings * components.factor,
        "offset": components.centre @ loadings * components.factor,
    }
