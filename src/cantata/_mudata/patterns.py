"""Pairing patterns: which modalities the cells of a MuData have."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata._mudata.obs import category_names, coalesce_obs
from cantata._mudata.pairing import membership

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mudata import MuData

MISSING = "(missing)"
"""Column of the table for cells whose batch is unknown."""


def pattern_codes(member: np.ndarray) -> np.ndarray:
    """Integer per cell for its pairing pattern: bit ``j`` is set if it has modality ``j``."""
    return member.astype(np.int64) @ (1 << np.arange(member.shape[1], dtype=np.int64))


def pattern_name(code: int, modalities: Sequence[str]) -> str:
    """Readable name of a pairing pattern, e.g. ``"rna + adt"`` or ``"rna only"``."""
    present = [name for bit, name in enumerate(modalities) if code >> bit & 1]
    if len(present) == 1:
        return f"{present[0]} only"
    return " + ".join(present) if present else "none"


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names such that numbers in them count as numbers: donor_2 before donor_10."""

    def key(name: str) -> list[tuple[int, int, str]]:
        parts = re.findall(r"\d+|\D+", name)
        return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]

    return sorted(names, key=key)


def pattern_counts(
    mdata: MuData, batch_key: str | None = None, member: np.ndarray | None = None
) -> tuple[pd.DataFrame, dict[str, tuple[str, ...]]]:
    """Cells per pairing pattern and batch (None: all cells together), and patterns' modalities.

    `member` (cells x modalities) says what is measured; by default what the MuData holds.
    Counts are patterns x batches: patterns with most modalities first, then in the order of the
    modalities; batches in natural order.
    """
    names = list(mdata.mod)
    if member is None and names:
        member = membership(mdata)
    codes = np.zeros(mdata.n_obs, np.int64) if member is None else pattern_codes(member)
    if batch_key is None:
        batches = np.full(mdata.n_obs, "cells", dtype=object)
    else:
        column = coalesce_obs(mdata, batch_key)
        batches = category_names(column).where(column.notna(), MISSING).to_numpy(dtype=object)
    order = sorted(np.unique(codes).tolist(), key=lambda code: (-code.bit_count(), code))
    counts = pd.crosstab(codes, batches).reindex(index=order, columns=natural_order(set(batches)))
    members = {
        pattern_name(code, names): tuple(m for bit, m in enumerate(names) if code >> bit & 1)
        for code in order
    }
    counts.index = pd.Index(list(members), name="measured", dtype=object)
    counts.columns = pd.Index(list(counts.columns), dtype=object, name=batch_key)
    return counts.astype(np.int64), members
