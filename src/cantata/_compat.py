"""The only file that uses private names of scvi-tools and torch, or branches on versions."""

from __future__ import annotations

import logging
import platform
import warnings
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from mudata import MuData
from scvi.data import AnnDataManager, _constants
from scvi.model._utils import parse_device_args
from scvi.model.base._save_load import _load_saved_files
from scvi.train._logger import SimpleLogger

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELD_REGISTRIES: str = _constants._FIELD_REGISTRIES_KEY
STATE_REGISTRY: str = _constants._STATE_REGISTRY_KEY
SETUP_ARGS: str = _constants._SETUP_ARGS_KEY

MODEL_NAME: str = _constants._MODEL_NAME_KEY

__all__ = [
    "FIELD_REGISTRIES",
    "MODEL_NAME",
    "SETUP_ARGS",
    "STATE_REGISTRY",
    "computes_in_bf16",
    "quiet",
    "quiet_lightning",
    "saved_files",
    "simple_logger",
    "source_registry",
]


def computes_in_bf16() -> bool:
    """Whether the processor calculates with bfloat16; otherwise every value is converted twice."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def source_registry(manager: AnnDataManager) -> dict[str, Any] | None:
    """Registry of the model that data were registered for; None where there is none."""
    return manager._source_registry


def saved_files(
    dir_path: str, *, accelerator: str, device: int | str, with_data: bool, **kwargs: Any
) -> tuple[dict[str, Any], dict[str, torch.Tensor], MuData | None, torch.device]:
    """Attributes, weights and data (None: not saved, or not asked for) of a model; its device."""
    *_, torch_device = parse_device_args(
        accelerator=accelerator, devices=device, return_device="torch", validate_single_device=True
    )
    with warnings.catch_warnings(), quiet("scvi.data._download"):
        warnings.filterwarnings("ignore", message="Save path contains no saved anndata")
        attributes, _, weights, data = _load_saved_files(
            dir_path, with_data, map_location=torch_device, **kwargs
        )
    weights.pop("pyro_param_store", None)
    return attributes, weights, data if isinstance(data, MuData) else None, torch_device


def simple_logger() -> SimpleLogger:
    """Logger of the history; without a version, which the progress bar would show."""
    return SimpleLogger(version="")


def quiet_lightning() -> AbstractContextManager[None]:
    """Leave out lightning's lines on devices and loggers, which every fit would repeat."""
    return quiet("lightning.pytorch.utilities.rank_zero")


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Leave out what a logger says that is no warning."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
