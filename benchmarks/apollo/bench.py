"""Paths, options and folders of these benchmarks; standard library only.

Importing this puts ``benchmarks/`` on the path, whose modules they share. Processes that are
started from here inherit it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
BENCHMARKS = HERE.parent
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))
_known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if str(BENCHMARKS) not in _known:
    os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, _known), str(BENCHMARKS)])

import processes  # noqa: E402
import tables  # noqa: E402

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

Results = dict[str, list[dict[str, Any]]]
"""Results of every row, one per seed."""


def add_arguments(parser: ArgumentParser, seeds: Sequence[int]) -> None:
    """Options that all programs have."""
    processes.add_arguments(parser)
    parser.set_defaults(work=BENCHMARKS / "work" / "apollo")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    parser.add_argument("--quick", action="store_true", help="one seed, fewer rows")


def parse(parser: ArgumentParser) -> Namespace:
    """Options, with one seed where that is enough."""
    given = parser.parse_args()
    if given.quick or given.smoke:
        given.seeds = given.seeds[:1]
    return given


class Bench(processes.Workplace):
    """Where runs are kept and how processes are started."""

    results = HERE / "results"

    def measure(self, script: str, label: str, config: dict[str, Any]) -> dict[str, Any]:
        """Run a script of this folder in a process of its own, unless it has been."""
        config = {"cells": processes.SMOKE_CELLS} | config if self.smoke else config
        return self.run(f"apollo/{script}", label, self.folder, config)

    def make(self, script: str, arguments: list[str]) -> None:
        """Run a script of this folder that makes data."""
        done = self._start(sys.executable, f"apollo/{script}", arguments, None)
        if done.returncode:
            raise SystemExit(f"{script} failed:\n{done.stderr[-2000:]}")


ONE_STEP = (
    "The one-step autoencoder: encoders of two layers and decoders of one on the same components, "
    "1,500 steps. That of the paper differs: it has a variational sampling step in place of noise "
    "of a fixed size, trains one modality after the other, and has the widths of APOLLO."
)
"""What reports say of a baseline."""


def heading(title: str, given: Namespace, of_part: dict[str, Results]) -> list[str]:
    """First lines of a report: machine, versions, options, command; no paths."""
    runs = [r for results in of_part.values() for of_row in results.values() for r in of_row]
    return [f"# {title}", "", *tables.preamble(given, runs), tables.command(), ""]


def done(of_row: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that have finished."""
    return [r for r in of_row if "error" not in r]


def costs(found: Sequence[dict[str, Any]]) -> list[str]:
    """Cells with wall and processor seconds."""
    return [tables.spread([r[k] for r in found], 0) for k in ("total_seconds", "cpu_seconds")]


def failures(results: Results) -> list[str]:
    """Lines on the runs that have not finished."""
    failed = [(row, r["error"]) for row, of_row in results.items() for r in of_row if "error" in r]
    lines = [f"* {row}: failed, {error}" for row, error in failed]
    return [*lines, ""] if lines else []
