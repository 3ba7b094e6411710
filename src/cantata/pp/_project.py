"""New cells through the statistics and loadings of a reference."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from cantata._mudata.kinds import resolve_kinds
from cantata._numeric.components import project
from cantata._numeric.normalise import feature_statistics, normalise
from cantata.pp._counts import Counts, find_counts
from cantata.pp._store import Recipe, plain_copy, read_recipe, write_common, write_projected

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from mudata import MuData

logger = logging.getLogger(__name__)

MAX_ABSENT = 0.2
"""Largest fraction of a modality's features that a query may lack."""


def _match_features(name: str, have: pd.Index, want: pd.Index) -> np.ndarray:
    """Column of the query for each feature of the reference, -1 where it is absent."""
    source = have.get_indexer(want)
    absent = np.flatnonzero(source < 0)
    if absent.size > MAX_ABSENT * len(want):
        raise ValueError(
            f"The query's modality {name!r} lacks {absent.size} of the reference's {len(want)} "
            f"features, e.g. {want[absent[0]]!r}. At most {MAX_ABSENT:.0%} may be absent."
        )
    if absent.size:
        warnings.warn(
            f"The query's modality {name!r} lacks {absent.size} of the reference's {len(want)} "
            f"features, e.g. {want[absent[0]]!r}; they are taken as 0.",
            UserWarning,
            stacklevel=4,
        )
    return source


def _project_modality(
    recipe: Recipe, counts: Counts, source: np.ndarray
) -> tuple[Any, np.ndarray]:
    """Normalised values of all the query's features, and its representation.

    Features that the reference lacks are normalised by the query's own statistics and enter
    neither the totals of the cells nor the representation.
    """
    statistics = feature_statistics(recipe.kind, counts.matrix)
    found = source >= 0
    statistics[source[found]] = recipe.statistics[found]
    known = np.zeros(statistics.size, dtype=bool)
    known[source[found]] = True
    normalised = normalise(recipe.kind, counts.matrix, recipe.total, statistics, known)
    return normalised, project(recipe.components, normalised, source)


def preprocess_query(
    mdata: MuData,
    reference: MuData,
    modalities: Mapping[str, str] | None,
    layers: Mapping[str, str | None],
    *,
    copy: bool,
) -> MuData | None:
    """Preprocess a query exactly as its reference was; see :func:`cantata.pp.preprocess`."""
    from mudata import MuData

    if not isinstance(reference, MuData):
        raise TypeError(f"reference is a {type(reference).__name__}; expected a MuData.")
    names = list(mdata.mod) if modalities is None else list(resolve_kinds(mdata, modalities))
    unknown = [name for name in names if name not in reference.mod]
    if unknown:
        raise KeyError(
            f"The reference has no modality {unknown[0]!r}; it holds {list(reference.mod)}. Name "
            "those to "
            "project with modalities={...}."
        )
    results = {}
    for name in names:
        recipe = read_recipe(name, reference[name])
        counts = find_counts(name, mdata[name], layers)
        source = _match_features(name, mdata[name].var_names, reference[name].var_names)
        results[name] = (recipe.kind, counts, *_project_modality(recipe, counts, source))
    target = plain_copy(mdata) if copy else mdata
    for name, result in results.items():
        own = mdata[name] is reference[name]
        (write_common if own else write_projected)(target, name, *result)
        logger.info("Modality %r: projected on %d components.", name, result[3].shape[1])
    return target if copy else None
