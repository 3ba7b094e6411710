"""Importing this puts ``benchmarks/`` on the path, whose modules these benchmarks share.

Processes that are started from here inherit it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]

if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))
_known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if str(BENCHMARKS) not in _known:
    os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, _known), str(BENCHMARKS)])
