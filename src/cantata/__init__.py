"""Integration of multimodal single-cell data in a MuData, whatever its pairing."""

from importlib.metadata import PackageNotFoundError, version

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
