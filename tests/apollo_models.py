"""Small APOLLO models that tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scvi
from mosaics import counts_mosaic

from cantata import APOLLO

if TYPE_CHECKING:
    import mudata

SMALL = {"n_shared": 4, "n_specific": 3, "n_hidden": 8, "n_hidden_encoder": 8}
QUIET = {
    "max_epochs": 2,
    "encoder_epochs": 2,
    "batch_size": 16,
    "enable_progress_bar": False,
    "accelerator": "cpu",
}


def trained(mdata: mudata.MuData, setup: dict | None = None, train: dict | None = None, **model):
    """Model of a few epochs, the same every time."""
    scvi.settings.seed = 0
    APOLLO.setup_mudata(mdata, **({"batch_key": "batch"} if setup is None else setup))
    apollo = APOLLO(mdata, **(SMALL | model))
    apollo.train(**(QUIET | (train or {})))
    return apollo


__all__ = ["QUIET", "SMALL", "counts_mosaic", "trained"]


def explained(z: np.ndarray, factor: np.ndarray) -> float:
    """Share of the variance of a factor that is linear in latents."""
    design = np.hstack([z, np.ones((len(z), 1))])
    left = factor - design @ np.linalg.lstsq(design, factor, rcond=None)[0]
    return 1 - left.var() / factor.var()
