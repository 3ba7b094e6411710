"""What every timed process shares: its stopwatch, the record that it writes, and the machine.

Standard library and numpy only, so that it runs in the environment of every peer.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGES = ("cantata", "scglue", "scvi-tools", "torch", "lightning", "anndata", "mudata", "numpy")

Arrays = dict[str, Any]


def read_config() -> dict[str, Any]:
    """Content of the JSON file that the process was started with."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {sys.argv[0]} CONFIG.json")
    return json.loads(Path(sys.argv[1]).read_text())


def machine() -> dict[str, Any]:
    """Cores that this process may use, processor and memory; nothing that names the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "processor": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _first(path: str, key: str) -> str | None:
    """Value of the first line of a ``key: value`` file that starts with `key`."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result, of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes.

    On Linux a child inherits the figure of the process that started it, which is why the programs
    that start timed processes import nothing large.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass
class Stopwatch:
    """Wall time and processor time of the timed part; evaluation stops both."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    _since: tuple[float, float] | None = None

    def start(self) -> None:
        """Start or go on."""
        self._since = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """Stop, and add what has passed since the start."""
        if self._since is None:
            raise RuntimeError("The stopwatch is not running.")
        wall, cpu = self._since
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        self._since = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still inside a ``with`` block."""
        self.stop()
        try:
            yield
        finally:
            self.start()


@dataclass
class Recorder:
    """Times and embeddings of one run, written to ``<out>/result.json`` and ``<out>/*.npz``."""

    config: dict[str, Any]
    watch: Stopwatch = field(default_factory=Stopwatch)
    points: list[dict[str, Any]] = field(default_factory=list)
    epoch_ends: list[float] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = Path(self.config["out"])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.load_at_start = os.getloadavg()
        self.memory_at_start = peak_memory()
        self.started = datetime.now(UTC)

    def epoch_end(self, embed: Callable[[], Arrays] | None) -> bool:
        """Note the end of an epoch, off the clock; True where it is to be the last.

        It is where the time allowed is used up, or a file ``stop`` lies beside the result.

        Parameters
        ----------
        embed
            Function that returns the arrays to score, or None where nothing is scored.
        """
        with self.watch.paused():
            self.epoch_ends.append(self.watch.seconds)
            every, epoch = self.config.get("curve", 1), len(self.epoch_ends)
            if embed is not None and every and epoch % every == 0:
                self._add_point(epoch, embed())
        limit = self.config.get("max_seconds", math.inf)
        return self.epoch_ends[-1] >= limit or (self.folder / "stop").exists()

    def finish(self, embed: Callable[[], Arrays] | None = None, **extra: Any) -> None:
        """Stop the clock, note the final state and write the result."""
        self.watch.stop()
        memory = peak_memory()
        if embed is not None:
            self._add_point("end", embed())
        self.extra |= extra
        ends = [0.0, *self.epoch_ends]
        result = {
            "config": self.config,
            "date": self.started.isoformat(timespec="seconds"),
            "machine": machine(),
            "load_average": {"start": self.load_at_start[0], "end": os.getloadavg()[0]},
            "versions": versions(),
            "epochs": len(self.epoch_ends),
            "epoch_seconds": [after - before for before, after in pairwise(ends)],
            "total_seconds": self.watch.seconds,
            "cpu_seconds": self.watch.cpu_seconds,
            "peak_memory": memory,
            "memory_at_start": self.memory_at_start,
            "points": self.points,
            **self.extra,
        }
        (self.folder / "result.json").write_text(json.dumps(result, indent=1))

    def save(self, name: str, arrays: Arrays) -> str:
        """Write arrays next to the result and return the file's name."""
        import numpy as np

        np.savez(self.folder / f"{name}.npz", **arrays)
        return f"{name}.npz"

    def _add_point(self, epoch: int | str, arrays: Arrays) -> None:
        file = self.save(f"point_{epoch}", arrays)
        self.points.append({"epoch": epoch, "seconds": self.watch.seconds, "file": file})
