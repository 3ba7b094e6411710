"""Paths, options and folders of these benchmarks; standard library only.

Importing this puts ``benchmarks/`` on the path, whose modules they share. Processes that are
started from here inherit it.
"""

from __future__ import annotations

import os
import statistics
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

    def write(self, name: str, lines: list[str]) -> None:
        """Write a report: to the results, or after a smoke run to the folder of single runs."""
        folder = self.folder if self.smoke else HERE / "results"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.md"
        path.write_text("\n".join(lines).rstrip() + "\n")
        print(f"wrote {os.path.relpath(path)}", flush=True)

    def measure(self, script: str, label: str, config: dict[str, Any]) -> dict[str, Any]:
        """Run a script of this folder in a process of its own, unless it has been."""
        config = {"cells": processes.SMOKE_CELLS} | config if self.smoke else config
        return self.run(f"apollo/{script}", label, self.folder, config)

    def make(self, script: str, arguments: list[str]) -> None:
        """Run a script of this folder that makes data."""
        done = self._start(sys.executable, f"apollo/{script}", arguments, None)
        if done.returncode:
            raise SystemExit(f"{script} failed:\n{done.stderr[-2000:]}")


def program(given: Namespace) -> str:
    """How the program was called, for the report; no paths."""
    skipped = False
    words = [Path(sys.argv[0]).name]
    for word in sys.argv[1:]:
        if word in ("--resume", "--work", "--scglue-python"):
            skipped = True
        elif skipped:
            skipped = False
        else:
            words.append(word)
    return f"`python benchmarks/apollo/{' '.join(words)}`"


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean, with the range over runs where there are several."""
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    text = f"{statistics.fmean(known):.{digits}f}"
    if len(known) == 1:
        return text
    return f"{text} ({min(known):.{digits}f}–{max(known):.{digits}f})"


def done(of_row: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that have finished."""
    return [r for r in of_row if "error" not in r]


def failures(results: Results) -> list[str]:
    """Lines on the runs that have not finished."""
    lines = [f"* {k}: failed, {r['error']}" for k, rs in results.items() for r in rs if "error" in r]
    return [*lines, ""] if lines else []
