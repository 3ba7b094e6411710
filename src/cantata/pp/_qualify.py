"""Which model suits a pairing: a rule on the membership matrix alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Choice:
    """A recommended model, another that fits too, and why."""

    model: str | None
    alternative: str | None
    reason: str


def linked_groups(member: np.ndarray, modalities: Sequence[str]) -> list[list[str]]:
    """Modalities that are connected by cells that have several of them.

    Parameters
    ----------
    member
        Boolean matrix, cells x modalities.
    modalities
        Names of the columns.

    Returns
    -------
    Groups of names; modalities of different groups share no cell, not even through a third one.
    """
    shared = (member.T.astype(np.int64) @ member.astype(np.int64)) > 0
    groups: list[set[int]] = []
    for j in range(member.shape[1]):
        linked = {j} | set(np.flatnonzero(shared[j]).tolist())
        touching = [group for group in groups if group & linked]
        groups = [group for group in groups if not group & linked]
        groups.append(linked.union(*touching))
    return [[modalities[j] for j in sorted(group)] for group in sorted(groups, key=min)]


def choose_model(member: np.ndarray, modalities: Sequence[str]) -> Choice:
    """Recommend a model for a pairing.

    Parameters
    ----------
    member
        Boolean matrix, cells x modalities.
    modalities
        Names of the columns.

    Returns
    -------
    The recommended model, an alternative and one sentence with the numbers behind it. `model` is
    None with fewer than two modalities.
    """
    n_cells, n_mod = member.shape
    width = member.sum(axis=1)
    several = int((width > 1).sum())
    if n_mod < 2:
        what = f"only {modalities[0]!r}" if n_mod else "no modality"
        return Choice(None, None, f"The MuData holds {what}: there is nothing to integrate.")
    if several == 0:
        sizes = ", ".join(
            f"{name} {n:,}" for name, n in zip(modalities, member.sum(axis=0), strict=True)
        )
        return Choice(
            "SCMODAL",
            None,
            f"None of the {n_cells:,} cells has two modalities ({sizes}): only linked features "
            "can tell which cells belong together, which is what SCMODAL uses.",
        )
    if several == n_cells and bool((width == n_mod).all()):
        return Choice(
            "CLUE",
            "APOLLO",
            f"All {n_cells:,} cells have all {n_mod} modalities: CLUE gives one embedding and "
            "also takes later cells with one modality; APOLLO separates what the modalities share "
            "from what is private to each.",
        )
    full = int((width == n_mod).sum())
    detail = "" if n_mod == 2 else f" ({full:,} have all {n_mod})"
    groups = linked_groups(member, modalities)
    reason = (
        f"{several:,} of {n_cells:,} cells ({several / n_cells:.1%}) have several "
        f"modalities{detail}, "
        f"the others fewer: CLUE learns from the paired cells and embeds every cell"
    )
    if len(groups) == 1:
        return Choice("CLUE", None, reason + ".")
    apart = "; ".join(" + ".join(group) for group in groups)
    return Choice(
        "CLUE",
        "SCMODAL",
        f"{reason}, but no cell connects these groups of modalities: {apart}. CLUE can align "
        "within a group only; across groups SCMODAL needs linked features.",
    )
