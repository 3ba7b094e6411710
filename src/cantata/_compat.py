"""The only file that imports a private scvi-tools name or branches on a version."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mudata
import torch
from scvi.data import AnnDataManager, _constants

FIELD_REGISTRIES: str = _constants._FIELD_REGISTRIES_KEY
STATE_REGISTRY: str = _constants._STATE_REGISTRY_KEY
SETUP_ARGS: str = _constants._SETUP_ARGS_KEY

__all__ = [
    "FIELD_REGISTRIES",
    "SETUP_ARGS",
    "STATE_REGISTRY",
    "keep_thread_limit",
    "no_pull",
    "source_registry",
]


def keep_thread_limit() -> None:
    """Hold torch to ``OMP_NUM_THREADS`` again, which numba and Leiden are known to undo."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdigit() and 0 < int(limit) < torch.get_num_threads():
        torch.set_num_threads(int(limit))


def no_pull() -> AbstractContextManager[Any]:
    """Build or update a MuData without copying columns of the modalities to the top level.

    mudata 0.3 copies them by default and re-orders views when they are copied; mudata 0.4 never
    does and has no such option.
    """
    if hasattr(mudata, "set_options"):
        return mudata.set_options(pull_on_update=False)
    return nullcontext()


def source_registry(manager: AnnDataManager) -> dict[str, Any] | None:
    """Registry of the model that data were registered for; None where there is none."""
    return manager._source_registry
