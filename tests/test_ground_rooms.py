"""The ground rooms, ``cantata._mudata`` and ``cantata._numeric``, work without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cantata

SCRIPT = """
import importlib, pkgutil, sys, types

package = types.ModuleType("cantata")  # so that cantata/__init__.py does not run
package.__path__ = [sys.argv[1]]
sys.modules["cantata"] = package


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "scvi", "lightning"):
            raise ImportError(f"{name} is imported")


sys.meta_path.insert(0, Blocked())
for room in ("_mudata", "_numeric"):
    folder = importlib.import_module(f"cantata.{room}")
    for module in pkgutil.iter_modules(folder.__path__):
        print(importlib.import_module(f"cantata.{room}.{module.name}").__name__)
"""


def test_every_module_is_imported_without_torch() -> None:
    folder = Path(cantata.__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = [*folder.glob("_mudata/[!_]*.py"), *folder.glob("_numeric/[!_]*.py")]
    assert set(done.stdout.split()) == {f"cantata.{f.parent.name}.{f.stem}" for f in files}
