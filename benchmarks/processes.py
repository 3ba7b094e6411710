"""Start the processes that are timed, one at a time.

Standard library only: a process inherits the peak memory of the one that starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterable

HERE = Path(__file__).resolve().parent
GRACE = 900
"""Seconds that a process may take beyond the training time that it is allowed."""
SMOKE_CELLS, SMOKE_EPOCHS = 300, 2


def add_arguments(parser: ArgumentParser) -> None:
    """Options that all programs have."""
    parser.add_argument("--threads", type=int, default=2, help="threads of every process")
    parser.add_argument(
        "--scglue-python",
        type=Path,
        default=HERE / "environments" / "scglue" / "bin" / "python",
        help="Python of the environment with scglue",
    )
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder of single runs")
    parser.add_argument("--name", help="name of the report")
    parser.add_argument("--note", help="what to say of the machine, printed among the options")
    parser.add_argument(
        "--resume", type=Path, help="folder of an earlier call, whose finished runs are kept"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="few cells and two epochs, to see that all runs"
    )


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Results of earlier calls, one in a line of JSON each; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Keep results for later calls."""
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def run_missing(
    path: Path,
    cases: Iterable[dict[str, Any]],
    run: Callable[..., dict[str, Any]],
    page: Path,
    report: Callable[[list[dict[str, Any]]], str],
) -> None:
    """Run the cases that a file of results lacks, and write the page anew after each.

    `run` takes the entries of a case and returns the rest of its line.
    """
    lines = lines_of(path)
    for case in cases:
        if any(case.items() <= line.items() for line in lines):
            continue
        lines.append(case | run(**case))
        add_lines(path, lines[-1:])
        page.write_text(report(lines))
        print(time.strftime("%H:%M:%S"), lines[-1], flush=True)


@dataclass
class Workplace:
    """Where runs are kept and how processes are started."""

    folder: Path
    threads: int
    scglue: Path
    smoke: bool
    results: ClassVar[Path] = HERE / "results"
    """Where reports go."""

    @classmethod
    def of(cls, given: Namespace, program: str) -> Workplace:
        """Workplace of one call of a program."""
        folder = given.resume or given.work / program / time.strftime("%Y%m%d-%H%M%S")
        # absolute, but not resolved: an environment's Python is a link
        return cls(folder.absolute(), given.threads, given.scglue_python.absolute(), given.smoke)

    def write(self, name: str, lines: list[str]) -> None:
        """Write a report: to the results, or after a smoke run to the folder of single runs."""
        folder = self.folder if self.smoke else self.results
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.md"
        path.write_text("\n".join(lines).rstrip() + "\n")
        print(f"wrote {os.path.relpath(path)}", flush=True)

    def inputs(self, name: str, *, inductive: bool = False) -> Path:
        """Make inputs and return their folder."""
        folder = self.folder / "inputs" / (name + "-inductive" * inductive)
        if (folder / "inputs.json").exists():
            return folder
        arguments = [name, str(folder)]
        arguments += ["--inductive"] * inductive
        arguments += ["--cells", str(SMOKE_CELLS)] if self.smoke else []
        done = self._start(sys.executable, "data.py", arguments, None)
        if done.returncode:
            raise SystemExit(f"The inputs {name!r} could not be made:\n{done.stderr[-2000:]}")
        return folder

    def run(
        self, script: str, label: str, inputs: Path, config: dict[str, Any], *, peer: bool = False
    ) -> dict[str, Any]:
        """Run a configuration in a process of its own, unless it has been, and return its result.

        Parameters
        ----------
        script
            Program to run.
        label
            Name of the run's folder, unique in this workplace.
        inputs
            Folder of the inputs.
        config
            What the program reads; the rest is added here.
        peer
            Use the environment of scglue.

        Returns
        -------
        The result, or ``{"error": ...}``, what stopped the process; ``log.txt`` has the whole.
        """
        folder = self.folder / label
        result = folder / "result.json"
        if result.exists():
            return json.loads(result.read_text())
        folder.mkdir(parents=True, exist_ok=True)
        config = {"inputs": str(inputs), "out": str(folder), "threads": self.threads, **config}
        if self.smoke:
            config["max_epochs"] = SMOKE_EPOCHS
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        print(time.strftime("%H:%M:%S"), label, flush=True)
        python = str(self.scglue if peer else sys.executable)
        limit = None if "max_seconds" not in config else config["max_seconds"] + GRACE
        done = self._start(python, script, [str(folder / "config.json")], limit)
        (folder / "log.txt").write_text(done.stdout + done.stderr)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            return {"error": lines[-1].split(":")[0] if lines else f"code {done.returncode}"}
        return json.loads(result.read_text())

    def score(self, labels: list[str]) -> dict[str, dict[str, Any]]:
        """Score the runs of these names and return their results."""
        folders = [str(self.folder / label) for label in labels]
        done = self._start(sys.executable, "scores.py", folders, None)
        if done.returncode:
            raise SystemExit(f"Scoring failed:\n{done.stderr[-2000:]}")
        return {
            label: json.loads((self.folder / label / "result.json").read_text())
            for label in labels
        }

    def _start(
        self, python: str, script: str, arguments: list[str], limit: float | None
    ) -> subprocess.CompletedProcess[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        threads = str(self.threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        # entries may be relative to where the program was started
        entries = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        path = os.pathsep.join(os.path.abspath(entry) for entry in entries)
        command = [python, str(HERE / script), *arguments]
        try:
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=limit,
                env={**os.environ, **dict.fromkeys(names, threads), "PYTHONPATH": path},
                cwd=self.folder,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"stopped after {limit:.0f} s")
