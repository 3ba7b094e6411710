"""What the dimensions are estimated from: the arguments, checked, and a draw of cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cantata._mudata.checks import check_mapping, check_modalities
from cantata._mudata.pairing import row_table
from cantata._mudata.values import check_in_memory, matrix_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

LEAST = 50
"""Canonical correlations are not cross-validated over fewer cells."""


def checked_modalities(
    mdata: MuData, modalities: Sequence[str] | Mapping[str, str] | None
) -> tuple[list[str], dict[str, str]]:
    """Names of the modalities, and the kinds that were told."""
    if isinstance(modalities, str):
        raise TypeError(f"modalities={modalities!r}: give a list of at least two names.")
    names = check_modalities(mdata, None if modalities is None else list(modalities))
    check_in_memory(mdata)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"modalities={names}: give at least two, each once.")
    return names, dict(modalities) if isinstance(modalities, Mapping) else {}


def check_sources(
    mdata: MuData, names: list[str], layers: Mapping[str, str | None], use_reps: Mapping[str, str]
) -> None:
    """Refuse modalities that are not used, and layers that do not exist."""
    check_mapping("layers", layers, names)
    check_mapping("use_reps", use_reps, names)
    for name in names:
        matrix_of(mdata, name, layers.get(name))


def check_numbers(
    sizes: dict[str, int], n_permutations: int, max_cells: int | None, seed: int
) -> None:
    least = dict.fromkeys(sizes, 1) | {"max_features": 2, "n_permutations": 2, "seed": 0}
    given = {**sizes, "n_permutations": n_permutations, "seed": seed}
    if max_cells is not None:
        least["max_cells"], given["max_cells"] = LEAST, max_cells
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be an integer, got {value!r}.")
        if value < least[name]:
            raise ValueError(f"{name}={value}: give at least {least[name]}.")


def check_shares(alpha: float, min_correlation: float) -> None:
    if not 0 <= min_correlation < 1:
        raise ValueError(f"min_correlation={min_correlation!r}: give a number from 0 to below 1.")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r}: give a number between 0 and 1.")


def choose_cells(
    mdata: MuData, names: list[str], max_cells: int | None, seed: int
) -> tuple[dict[str, np.ndarray], int]:
    """Rows of the cells to read in each modality, those with all modalities first, in one order.

    Returns the rows and the number of cells with all modalities.
    """
    table = row_table(mdata, names)
    everywhere = np.all([rows >= 0 for rows in table.values()], axis=0)
    if everywhere.sum() < LEAST:
        raise ValueError(
            f"Only {everywhere.sum()} cells have all of {names}; canonical correlations need "
            f"{LEAST}. Name modalities that are measured together with modalities=[...]."
        )
    rng = np.random.default_rng([seed, 2])
    paired = _drawn(np.flatnonzero(everywhere), max_cells, rng)
    chosen = {}
    for name, rows in table.items():
        others = np.flatnonzero((rows >= 0) & ~everywhere)
        left = None if max_cells is None else max_cells - len(paired)
        chosen[name] = rows[np.concatenate([paired, _drawn(others, left, rng)])]
    return chosen, len(paired)


def _drawn(cells: np.ndarray, most: int | None, rng: np.random.Generator) -> np.ndarray:
    if most is None or len(cells) <= most:
        return cells
    return np.sort(rng.choice(cells, most, replace=False))
