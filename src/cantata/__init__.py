"""Integration of multimodal single-cell data in a MuData, whatever its pairing.

Rooms and models are imported when they are first used: the command line refuses a wrong option
before torch is there.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cantata import datasets, metrics, model, pl, pp, tl
    from cantata.model import APOLLO, CLUE, SCMODAL

try:
    __version__ = version("cantata")
except PackageNotFoundError:
    __version__ = "0+unknown"

__all__ = [
    "APOLLO",
    "CLUE",
    "SCMODAL",
    "__version__",
    "datasets",
    "metrics",
    "model",
    "pl",
    "pp",
    "tl",
]


def __getattr__(name: str) -> Any:
    """Import a room or a model at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.isupper():
        return getattr(import_module("cantata.model"), name)
    return import_module(f"cantata.{name}")


def __dir__() -> list[str]:
    return __all__
