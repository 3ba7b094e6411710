"""Packages that only functions of images need."""

from __future__ import annotations

import importlib
from typing import Any


def import_for_images(name: str) -> Any:
    """A module of scikit-image or tifffile, with an error that says how to install them."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This function needs {name.partition('.')[0]}: pip install 'cantata[images]'."
        ) from error
