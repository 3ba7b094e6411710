"""What the history says of both stages together."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pandas as pd

from cantata.model.apollo._plan import EncoderPlan, LatentPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

MIN_GAIN = 0.01
"""Share of the loss of held-out cells that encoders have to gain to be more than linear."""
LINEAR, FULL = f"{LatentPlan.prefix}decoded_validation", f"{EncoderPlan.prefix}decoded_validation"
"""Losses of held-out cells in the history, by linear encoders and by whole ones."""


def is_better_than_linear(least: Mapping[str, float]) -> bool:
    """Whether held-out cells gain from what encoders add to their linear maps.

    True also where linear maps alone were not judged.

    Parameters
    ----------
    least
        Least losses of held-out cells by their names in the history.

    Examples
    --------
    >>> is_better_than_linear({"linear_decoded_validation": 2.0, "decoded_validation": 1.9})
    True
    """
    if LINEAR not in least:
        return True
    gain = (least[LINEAR] - least[FULL]) / abs(least[LINEAR])
    if gain < MIN_GAIN:
        logger.info(
            "Encoders lower the loss of held-out cells by %.1f %%; linear maps are kept.",
            100 * gain,
        )
    return gain >= MIN_GAIN


def least_losses(history: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Least losses of held-out cells in earlier training of a model."""
    return {
        name: float(history[name].iloc[:, 0].astype(float).min())
        for name in (LINEAR, FULL)
        if name in history
    }


def continued(
    before: Mapping[str, pd.DataFrame], new: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """History with new epochs after those of earlier training."""
    history = dict(before)
    for key, table in new.items():
        if key in history:
            later = table.set_axis(table.index + len(history[key]), axis=0)
            history[key] = pd.concat([history[key], later])
        else:
            history[key] = table
    return history
