"""Arguments of an interpretation, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from cantata.tl._expression import Scale
from cantata.tl._interpret_tests import Reference, Test

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cantata.tl._expression import Expression

FOLD_CHANGES = (1.2, 8.0, 0.2)
"""First and last threshold of fold change, and the step between."""


@dataclass(frozen=True)
class Options:
    """Arguments of :func:`cantata.tl.interpret_latent`.

    Raises
    ------
    ValueError
        If one is out of its range.
    """

    n_comps: int = 20
    n_bins: int = 11
    central: float = 0.15
    n_central: int | None = None
    n_splits: int = 36
    train_size: float = 0.8
    reference: Reference = "others"
    test: Test = "both"
    scale: Scale = "auto"
    pseudocount: float = 1e-9
    alpha: float = 0.05
    min_share: float = 0.5
    random_state: int = 0

    def __post_init__(self) -> None:
        for name in ("n_comps", "n_splits", "n_central"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value!r} must be at least 1.")
        if self.n_bins < 5 or self.n_bins % 2 == 0:
            raise ValueError(
                f"n_bins={self.n_bins!r} must be odd and at least 5: two bins at each end and one "
                "in the middle."
            )
        for name in ("central", "alpha"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"{name}={value!r} must be above 0 and at most 1.")
        if not 0 < self.train_size < 1:
            raise ValueError(f"train_size={self.train_size!r} must be between 0 and 1.")
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"min_share={self.min_share!r} must be within [0, 1].")
        if not self.pseudocount > 0:
            raise ValueError(f"pseudocount={self.pseudocount!r} must be positive.")
        for name, known in (("reference", Reference), ("test", Test), ("scale", Scale)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown; choose from {get_args(known)}."
                )


def check_fold_changes(fold_changes: Sequence[float] | None) -> np.ndarray:
    """Thresholds of fold change, rising.

    Raises
    ------
    ValueError
        If there is none, one is below 1, or they do not rise.
    """
    if fold_changes is None:
        first, last, step = FOLD_CHANGES
        return np.linspace(first, last, round((last - first) / step) + 1).round(6)
    thresholds = np.asarray(fold_changes, dtype=np.float64)
    if thresholds.ndim != 1 or not thresholds.size:
        raise ValueError("fold_changes is no list of numbers; give at least one.")
    if not (thresholds >= 1).all() or not (np.diff(thresholds) > 0).all():
        raise ValueError(f"fold_changes={list(fold_changes)!r} must rise from 1 or more.")
    return thresholds


def resolve_scale(scale: Scale, values: Expression) -> Scale:
    """What values are, if the user left it open.

    Raises
    ------
    ValueError
        If amounts are negative.
    """
    if values.counts:
        if scale not in ("auto", "log1p"):
            raise ValueError(
                f"scale={scale!r}: {values.where} holds counts, which are normalised and become "
                "'log1p'. Leave scale out, or name a layer with other values."
            )
        return "log1p"
    if scale == "auto":
        return "log" if values.negative else "log1p"
    if scale != "log" and values.negative:
        raise ValueError(
            f"scale={scale!r}: {values.where} holds negative values, which have no fold change. "
            "Use scale='log', for which differences of means count."
        )
    return scale
