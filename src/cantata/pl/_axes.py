"""Axes of the panels, and the values and colors of the cells that are drawn in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from scanpy.plotting import palettes

from cantata._mudata.checks import check_integer
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import membership, row_table
from cantata._mudata.patterns import natural_order, pattern_codes, pattern_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

PAIRING = "pairing"
"""Special value of `color`: the modalities that a cell has."""

MISSING_COLOR = "#d9d9d9"
"""Color of cells without a value."""


def panels_for(
    n: int, ncols: int, axes: Axes | Sequence[Axes] | None, *, width: float, height: float
) -> list[Axes]:
    """Axes for `n` panels: those that the caller was given, or those of a new figure.

    A new figure has at most `ncols` panels in a row, each `width` by `height` inches.
    """
    if axes is not None:
        given = [axes] if isinstance(axes, Axes) else list(np.ravel(np.asarray(axes)))
        if len(given) != n:
            raise ValueError(f"{len(given)} axes were given for {n} panels.")
        return given
    n_columns = min(check_integer("ncols", ncols), n)
    n_rows = -(-n // n_columns)
    _, grid = plt.subplots(
        n_rows,
        n_columns,
        figsize=(width * n_columns, height * n_rows),
        squeeze=False,
        layout="constrained",
    )
    for unused in grid.ravel()[n:]:
        unused.remove()
    return list(grid.ravel()[:n])


def palette(n: int) -> list[str]:
    """At least `n` distinguishable colors, as hexadecimal codes."""
    for colors in (palettes.vega_10_scanpy, palettes.default_20, palettes.default_28):
        if n <= len(colors):
            return [to_hex(color) for color in colors]
    if n <= len(palettes.default_102):
        return [to_hex(color) for color in palettes.default_102]
    return [to_hex(color) for color in colormaps["hsv"](np.linspace(0, 1, n, endpoint=False))]


def level_colors(mdata: MuData, key: str, levels: Sequence[str]) -> list[str]:
    """Colors of the levels: those that scanpy stored for this column if they fit, or new ones."""
    stored = mdata.uns.get(f"{key}_colors")
    if stored is not None and len(stored) == len(levels):
        return [str(color) for color in stored]
    return palette(len(levels))[: len(levels)]


def cell_values(mdata: MuData, key: str) -> pd.Series:
    """One value per cell, float64 or a categorical, indexed by ``mdata.obs_names``.

    `key` is ``"pairing"``, a column at MuData or modality level, or ``"<modality>:<column>"``.
    Levels keep the order of a categorical column; others are in natural order.

    Raises
    ------
    KeyError
        If the column is nowhere.
    ValueError
        If two columns of that name disagree about a cell.
    """
    prefix, _, rest = key.partition(":")
    if key == PAIRING and key not in mdata.obs:
        return _pairing_values(mdata)
    if key not in mdata.obs and prefix in mdata.mod and rest in mdata[prefix].obs:
        rows = row_table(mdata, [prefix])[prefix]
        column = mdata[prefix].obs[rest].iloc[np.maximum(rows, 0)].reset_index(drop=True)
        values = column.where(pd.Series(rows >= 0)).set_axis(mdata.obs_names)
    else:
        values = coalesce_obs(mdata, key, argument="color")
    order = _level_order(mdata, key)
    plain = values.astype(object).infer_objects()
    numeric = pd.api.types.is_numeric_dtype(plain) and not pd.api.types.is_bool_dtype(plain)
    if order is None and numeric:
        return pd.Series(plain.to_numpy(dtype=np.float64), index=mdata.obs_names, name=key)
    text = plain.where(plain.isna(), plain.astype(str))
    present = set(text.dropna())
    levels = (
        natural_order(present) if order is None else [level for level in order if level in present]
    )
    return pd.Series(pd.Categorical(text, categories=levels), index=mdata.obs_names, name=key)


def _pairing_values(mdata: MuData) -> pd.Series:
    names = list(mdata.mod)
    codes = pattern_codes(membership(mdata))
    order = sorted(np.unique(codes).tolist(), key=lambda code: (-code.bit_count(), code))
    levels = [pattern_name(code, names) for code in order]
    position = {code: i for i, code in enumerate(order)}
    values = pd.Categorical.from_codes([position[code] for code in codes.tolist()], levels)
    return pd.Series(values, index=mdata.obs_names, name=PAIRING)


def _level_order(mdata: MuData, key: str) -> list[str] | None:
    """Order of the levels, from the first categorical column of that name."""
    columns = [mdata.obs[key]] if key in mdata.obs else []
    for name, adata in mdata.mod.items():
        prefix, _, rest = key.partition(":")
        column = rest if rest and prefix == name else key
        if column in adata.obs:
            columns.append(adata.obs[column])
    for values in columns:
        if isinstance(values.dtype, pd.CategoricalDtype):
            return [str(level) for level in values.cat.categories]
    return None
