"""Tables of links that a user gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from mudata import MuData

ENDS = (("source", "target"), ("gene", "peak"))
"""Columns that name the two ends of a link, first come, first served."""


def find_table(
    mdata: MuData, links: pd.DataFrame | str, argument: str
) -> tuple[pd.DataFrame, tuple[str, str]]:
    """A user's table of links, and the columns that name the two ends.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    links
        Table, or its key in ``mdata.uns``.
    argument
        Name of the argument, for errors.

    Raises
    ------
    KeyError
        If the key does not exist.
    TypeError
        If `links` is no table.
    ValueError
        If it has no rows or lacks the columns.
    """
    if isinstance(links, str):
        if links not in mdata.uns:
            raise KeyError(
                f"{argument}={links!r} is not in mdata.uns, which has {list(mdata.uns)}."
            )
        links = mdata.uns[links]
    if not isinstance(links, pd.DataFrame):
        raise TypeError(
            f"{argument} is a {type(links).__name__}; give a table with columns source and "
            "target, or gene and peak, or its key in mdata.uns."
        )
    columns = next((pair for pair in ENDS if set(pair) <= set(links.columns)), None)
    if columns is None or links.empty:
        raise ValueError(
            f"{argument} has {len(links)} rows and the columns {list(links.columns)}; needed are "
            "source and target, or gene and peak."
        )
    return links, columns
