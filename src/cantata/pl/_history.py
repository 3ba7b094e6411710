"""Curves of the losses over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cantata._mudata.checks import name_list
from cantata.pl._axes import panels_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = {"train": "train", "validation": "validation", "val": "validation"}
"""Words in the name of a quantity that tell on which cells it was measured."""

COLORS = {"train": "#4c72b0", "validation": "#dd8452", "": "#333333"}


def group_terms(history: Mapping[str, Any]) -> dict[str, dict[str, pd.Series]]:
    """Values by epoch of each term and part (``"train"``, ``"validation"`` or ``""``).

    Values per step and quantities without any number are left out.
    """
    terms: dict[str, dict[str, pd.Series]] = {}
    for name, table in history.items():
        words = str(name).split("_")
        if words[-1] == "step":
            continue
        part = next((PARTS[word] for word in words if word in PARTS), "")
        rest = "_".join(word for word in words if word not in PARTS and word != "epoch")
        term = rest or str(name)
        column = table.iloc[:, 0] if isinstance(table, pd.DataFrame) else pd.Series(table)
        curve = pd.to_numeric(column, errors="coerce").astype(np.float64).dropna()
        if len(curve):
            terms.setdefault(term, {})[part] = curve
    return terms


def _limits(curves: Sequence[pd.Series]) -> tuple[float, float] | None:
    """Range of the curves without a first fifth that would flatten all the rest, or None."""
    finite = [c[np.isfinite(c)] for c in curves]
    everything = np.concatenate([c.to_numpy() for c in finite])
    later = np.concatenate([c.to_numpy()[len(c) // 5 :] for c in finite])
    if later.size < 9:
        return None
    spread = np.ptp(later)
    if spread == 0 or np.ptp(everything) < 4 * spread:
        return None
    return float(later.min() - 0.08 * spread), float(later.max() + 0.25 * spread)


def history(
    model: Any,
    terms: Sequence[str] | None = None,
    *,
    ncols: int = 4,
    axes: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draw the loss curves of a trained model, one small panel per term.

    Parameters
    ----------
    model
        A model with a ``history``, or such a history: a dict from name to DataFrame with one row
        per epoch, as in scvi-tools.
    terms
        Terms to draw, e.g. ``["loss", "elbo"]``: names without ``train`` and ``validation``. None:
        all.
    ncols
        Panels in a row.
    axes
        As many axes as panels. None: a new figure.

    Returns
    -------
    Axes of the panels; training and validation share a panel.

    Raises
    ------
    TypeError
        If there is no history.
    ValueError
        If the history is empty, or the number of axes is not the number of panels.
    KeyError
        For unknown terms.

    Notes
    -----
    Where the first fifth of the epochs would flatten the rest, the vertical axis shows the rest.

    Examples
    --------
    >>> import cantata, pandas as pd
    >>> curves = {"loss_train": pd.DataFrame({"loss_train": [3.0, 2.0, 1.5]})}
    >>> [ax.get_title() for ax in cantata.pl.history(curves)]
    ['loss']
    """
    record = model if isinstance(model, Mapping) else getattr(model, "history", None)
    if not isinstance(record, Mapping):
        state = "has not been trained" if hasattr(model, "history") else "has no history"
        raise TypeError(
            f"The {type(model).__name__} {state}; give a trained model or its history."
        )
    by_term = group_terms(record)
    if not by_term:
        raise ValueError(f"The history holds no value per epoch. Its quantities: {list(record)}.")
    chosen = list(by_term) if terms is None else name_list("terms", terms)
    unknown = [term for term in chosen if term not in by_term]
    if unknown:
        raise KeyError(f"The history has no term {unknown[0]!r}; its terms are {list(by_term)}.")
    panels = panels_for(len(chosen), ncols, axes, width=2.6, height=2.2)
    for ax, term in zip(panels, chosen, strict=True):
        curves = by_term[term]
        for part, curve in curves.items():
            marker = "o" if len(curve) == 1 else None
            ax.plot(
                curve.index, curve, color=COLORS[part], lw=1.5, marker=marker, label=part or None
            )
        limits = _limits(list(curves.values()))
        if limits is not None:
            ax.set_ylim(*limits)
        ax.set_title(term, fontsize="medium")
        ax.set_xlabel("epoch")
        ax.spines[["top", "right"]].set_visible(False)
    _legend(panels)
    return panels


def _legend(panels: Sequence[Axes]) -> None:
    """One legend, in the first panel that has both parts, or else the first with any."""
    labels = {ax: ax.get_legend_handles_labels()[1] for ax in panels}
    best = max(panels, key=lambda ax: len(labels[ax]))
    if labels[best]:
        best.legend(frameon=False, fontsize="small")
