"""Tables of feature links that a user gives, or keeps in ``mdata.uns``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from mudata import MuData

ENDS = (("source", "target"), ("gene", "peak"))
"""Columns that name the two ends of a link; the first pair that a table has counts."""


def find_table(
    mdata: MuData,
    links: pd.DataFrame | str,
    argument: str,
    modalities: tuple[str, str] | None = None,
) -> tuple[pd.DataFrame, tuple[str, str]]:
    """A user's table of links, or its key in ``mdata.uns``, and the columns of the two ends.

    `argument` is the name of the argument and `modalities` are those of source and target, for
    errors: a ``KeyError`` for an unknown key, a ``TypeError`` for no table, a ``ValueError`` if it
    has no rows or lacks the columns.
    """
    if isinstance(links, str):
        if links not in mdata.uns:
            raise KeyError(
                f"{argument}={links!r} is not in mdata.uns, which has {list(mdata.uns)}."
            )
        links = mdata.uns[links]
    needed = "source and target, or gene and peak"
    if modalities is not None:
        needed = "source (features of {!r}) and target (of {!r}), or gene and peak".format(
            *modalities
        )
    if not isinstance(links, pd.DataFrame):
        raise TypeError(
            f"{argument} is a {type(links).__name__}; give a DataFrame with columns {needed}, or "
            "its key in mdata.uns."
        )
    columns = next((pair for pair in ENDS if set(pair) <= set(links.columns)), None)
    if columns is None or links.empty:
        raise ValueError(
            f"{argument} has {len(links)} rows and the columns {list(links.columns)}; needed are "
            f"{needed}."
        )
    return links, columns
