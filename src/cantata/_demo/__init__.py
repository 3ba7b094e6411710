"""The whole story on one mosaic, behind ``python -m cantata demo``."""

from cantata._demo._data import DemoError
from cantata._demo._run import Options, run

__all__ = ["DemoError", "Options", "run"]
