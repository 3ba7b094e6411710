"""Integration of a mosaic from beginning to end, behind ``python -m cantata demo``."""

from cantata._demo._data import DemoError
from cantata._demo._run import run

__all__ = ["DemoError", "run"]
