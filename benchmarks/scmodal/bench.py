"""Start the processes of these benchmarks, one at a time, each in the environment it needs.

Standard library only: a process inherits the peak memory of the one that starts it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import benchpath
import processes

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = ("maxfuse", "scglue", "diagvi")
"""Peers that have an environment of their own."""


def add_arguments(parser: ArgumentParser) -> None:
    """Options that all programs have."""
    processes.add_arguments(parser)
    parser.set_defaults(work=benchpath.BENCHMARKS / "work" / "scmodal")
    for name in ENVIRONMENTS:
        if name != "scglue":
            parser.add_argument(
                f"--{name}-python",
                type=Path,
                default=benchpath.BENCHMARKS / "environments" / name / "bin" / "python",
                help=f"Python of the environment with {name}",
            )


@dataclass
class Bench(processes.Workplace):
    """Where runs are kept and how processes are started."""

    results = HERE / "results"
    pythons: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Namespace, program: str) -> Bench:
        """Workplace of one call of a program."""
        base = processes.Workplace.of(given, program)
        pythons = {name: getattr(given, f"{name}_python").absolute() for name in ENVIRONMENTS}
        return cls(base.folder, base.threads, base.scglue, base.smoke, pythons)

    def inputs(self, name: str, *, inductive: bool = False) -> Path:
        """Make inputs and return their folder; these benchmarks have no inductive use."""
        if inductive:
            raise ValueError("These inputs have no held-out cells of training.")
        folder = self.folder / "inputs" / name
        if not (folder / "inputs.json").exists():
            arguments = [name, str(folder)]
            arguments += ["--cells", str(processes.SMOKE_CELLS)] if self.smoke else []
            self.make("make_data.py", arguments, f"inputs {name!r}")
        return folder

    def run_in(
        self,
        environment: str | None,
        script: str,
        label: str,
        inputs: Path,
        config: dict[str, Any],
    ) -> dict[str, Any]:
        """Run a configuration unless it has been run, in the environment of this name.

        Parameters
        ----------
        environment
            One of `ENVIRONMENTS`, or None for that of `cantata`.
        script, label, inputs, config
            As in :meth:`processes.Workplace.run`, the script in this folder.
        """
        if environment is None:
            return self.run(f"scmodal/{script}", label, inputs, config)
        python = self.pythons[environment]
        if not python.exists():
            return {"error": f"no environment with {environment}"}
        elsewhere = replace(self, scglue=python)
        return elsewhere.run(f"scmodal/{script}", label, inputs, config, peer=True)

    def score(self, labels: list[str]) -> dict[str, dict[str, Any]]:
        """Score the runs of these names and return their results."""
        self.make("score.py", [str(self.folder / label) for label in labels], "scores")
        return {
            label: json.loads((self.folder / label / "result.json").read_text())
            for label in labels
        }

    def make(self, script: str, arguments: list[str], what: str) -> None:
        """Run a script of this folder in the environment of `cantata`; stop if it fails.

        Parameters
        ----------
        script, arguments
            Command line.
        what
            What the script makes, for the message.
        """
        done = self._start(sys.executable, f"scmodal/{script}", arguments, None)
        if done.returncode:
            raise SystemExit(f"Making the {what} failed:\n{done.stderr[-2000:]}")
