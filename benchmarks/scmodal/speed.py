"""Seconds and memory of a step: ``python benchmarks/scmodal/speed.py``.

Minibatches of 500 cells of each modality, 2,000 genes and 228 proteins, 100 links; then the same
from a file that stays on the disk, with few and with very many cells. Cases take turns. Writes
``benchmarks/scmodal/results/<name>.md``.
"""

from __future__ import annotations

import statistics
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import benchpath  # noqa: F401
from bench import Bench, add_arguments
from tables import gigabytes, preamble, spread, table

if TYPE_CHECKING:
    from pathlib import Path

FEW, MANY = 20_000, 322_318
"""The second is the largest run of the paper."""
SMALL = 8000
SMOKE_CELLS, SMOKE_STEPS = 2000, 20
WARM_UP = 10
"""Steps that are left out of the median."""
BOUNDS = {"seconds": 0.15, "memory": 0.7}


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    label: str
    cells: int
    config: dict[str, Any] = field(default_factory=dict)


CASES = {
    "default": Case("default", SMALL),
    "published": Case("published settings", SMALL, {"preset": "published"}),
    "full-width": Case(
        "default, all genes without rotation", SMALL, {"model": {"n_components": None}}
    ),
    "few": Case("default, backed file", FEW, {"backed": True}),
    "many": Case("default, backed file", MANY, {"backed": True}),
}
QUICK = ("default", "published", "few", "many")


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="fewer cases, 60 steps, once")
    add_arguments(parser)
    given = parser.parse_args()
    if given.quick:
        given.cases, given.steps, given.repeats = list(QUICK), 60, 1
    if given.smoke:
        given.steps, given.repeats = SMOKE_STEPS, 1
    return given


def data_file(n_cells: int, given: Namespace, bench: Bench) -> Path:
    """File of simulated cells, written once and kept for later calls."""
    if given.smoke:
        n_cells = min(n_cells, SMOKE_CELLS)
    path = given.work.absolute() / "simulated" / f"{n_cells}.h5mu"
    if not path.exists():
        print(f"writing {n_cells:,} cells", flush=True)
        part = path.with_suffix(".part.h5mu")
        bench.make("make_large.py", [str(part), str(n_cells)], "cells")
        part.rename(path)
    return path


def rows(results: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Cells of the table."""
    lines = []
    for key, of_case in results.items():
        done = [r for r in of_case if "error" not in r]
        if not done:
            lines.append([CASES[key].label, "failed", of_case[0]["error"], *["–"] * 8])
            continue
        steps = [r["step_seconds"][WARM_UP:] or r["step_seconds"] for r in done]
        cells = sum(done[0]["n_cells"].values())
        memory = {name: [gigabytes(r["memory"][name]) for r in done] for name in done[0]["memory"]}
        lines.append(
            [
                CASES[key].label,
                f"{cells:,}",
                f"{min(map(min, steps)):.3f}",
                spread([statistics.median(s) for s in steps]),
                spread([r["setup_seconds"] for r in done], 1),
                *(spread(values, 2) for values in memory.values()),
                str(len(done)),
            ]
        )
    return lines


def report(given: Namespace, results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Lines of the report."""
    everything = [r for of_case in results.values() for r in of_case]
    header = ["", "cells", "s per step, fastest", "median", "s to set up"]
    header += ["GB with libraries and data", "after links", "after set-up", "after training"]
    return [
        "# Speed of a step of SCMODAL",
        "",
        *preamble(given, everything),
        "Minibatches of 500 cells of each modality; 2,000 genes and 228 proteins of simulated "
        "cells, half of the cells in each modality, 100 links. Memory: largest resident set of "
        f"the process so far. Bounds: {BOUNDS['seconds']} s and {BOUNDS['memory']} GB in the "
        "first row on two cores; time and memory of the last two must not differ but for what "
        "holds a number per cell (names, linked features).",
        "",
        *table([*header, "runs"], rows(results)),
    ]


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    bench = Bench.of(given, "speed")
    files = {key: data_file(CASES[key].cells, given, bench) for key in given.cases}
    results: dict[str, list[dict[str, Any]]] = {key: [] for key in given.cases}
    for repeat in range(given.repeats):
        for key in given.cases:
            config = {"seed": repeat, "file": str(files[key]), "max_steps": given.steps}
            config |= CASES[key].config
            label = f"{key}/repeat{repeat}"
            results[key].append(
                bench.run_in(None, "run_speed.py", label, files[key].parent, config)
            )
    bench.write(given.name or "speed" + "-quick" * given.quick, report(given, results))


if __name__ == "__main__":
    main()
