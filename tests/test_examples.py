"""Examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import cantata

MODULES = [
    module.name
    for module in pkgutil.walk_packages(cantata.__path__, "cantata.")
    if not module.name.endswith("__main__")
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed, capsys.readouterr().out
