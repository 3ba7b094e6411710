"""Every model on an accelerator, within a few minutes: see ``benchmarks/gpu.sh``, which calls it.

Simulated counts of the shape of SHARE-seq, in one process. The report is written after every row,
and rows for which no time is left say so.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from processes import HERE
from tables import table
from watching import quiet

import cantata
from cantata.data import _preload

PRELOAD_SHARE = _preload.MAX_SHARE
WARMUP = 5
"""Steps that are not timed."""
PRECISIONS = ("32-true", "bf16-mixed")
PRELOADED, FROM_HOST = "GPU", "host"
HEADER = ["", "precision", "matrices in memory of", "cells per second", "ms per step"]
HEADER += ["utilisation, %", "device memory, GB", "s before the first step", "s in all"]


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--accelerator", default="gpu", choices=["cpu", "gpu"])
    parser.add_argument("--seconds", type=float, default=290, help="for everything")
    parser.add_argument("--cells", type=int, default=28_098)
    parser.add_argument("--steps", type=int, default=150, help="that are timed of a row")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.md")
    parser.add_argument("--smoke", action="store_true", help="few cells, features and steps")
    given = parser.parse_args()
    if given.smoke:
        given.cells, given.steps = 300, 3
    return given


class Usage(threading.Thread):
    """Share of the time in which the device was busy, asked of it twice a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.shares: list[float] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        """Ask until it is over."""
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self.is_over.wait(0.5):
            with suppress(OSError, ValueError, subprocess.SubprocessError):
                told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
                self.shares.append(float(told.splitlines()[0]))


class Clock(Callback):
    """Times the steps of each stage after the first ones, and ends stages on request."""

    def __init__(self, n_steps: int | None, seconds: float) -> None:
        self.n_steps, self.seconds = n_steps, seconds
        self.stages: list[list[float]] = []
        self.usage: Usage | None = None
        self.stopped = False

    def on_train_start(self, *_: Any) -> None:
        """A new stage."""
        self.stages.append([])
        self.until = time.perf_counter() + self.seconds
        if self.usage is None and torch.cuda.is_available():
            self.usage = Usage()
            self.usage.start()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Note the time, of the device too."""
        times = self.stages[-1]
        done = self.n_steps is not None and len(times) == WARMUP + self.n_steps
        if len(times) in (0, WARMUP) or done:
            synchronize()
        times.append(time.perf_counter())
        self.stopped |= times[-1] > self.until
        if done or self.stopped:
            trainer.should_stop = True
            trainer.limit_train_batches = 0  # within the epoch, too

    def on_train_end(self, *_: Any) -> None:
        """End of a stage."""
        synchronize()
        self.stages[-1].append(time.perf_counter())

    def step_seconds(self) -> list[float]:
        """Mean seconds of a step of each stage; NaN where none was timed."""
        return [
            (s[-2] - s[WARMUP]) / (len(s) - 2 - WARMUP) if len(s) > WARMUP + 2 else np.nan
            for s in self.stages
        ]


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def share_seq(n_cells: int) -> mudata.MuData:
    """Simulated cells of the shape of SHARE-seq."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "share.h5mu"
        script = HERE / "apollo" / "make_share.py"
        subprocess.run([sys.executable, str(script), str(path), str(n_cells)], check=True)
        return mudata.read_h5mu(path)


def unpaired(paired: mudata.MuData) -> mudata.MuData:
    """Genes of one half of the cells, and 228 of them, as proteins would be, of the other."""
    rna, half = paired["rna"], paired.n_obs // 2
    first, second = rna[:half, :2000].copy(), rna[half:, :228].copy()
    for adata in (first, second):
        adata.X[:, 0] = 1.0  # no cell is empty
    return mudata.MuData({"rna": first, "adt": second})


def measure(
    given: Namespace,
    name: str,
    data: Any,
    precision: str,
    place: str,
    seconds: float,
    *,
    whole: bool = False,
) -> list[list[str]]:
    """Rows of one training: `whole`, or so many steps; stages end after `seconds`."""
    _preload.MAX_SHARE = PRELOAD_SHARE if place == PRELOADED else 0
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    scvi.settings.seed = 0
    cls = getattr(cantata, name)
    began = time.perf_counter()
    cls.setup_mudata(data)
    model = cls(data)
    clock = Clock(None if whole else given.steps, seconds)
    options: dict[str, Any] = {"APOLLO": {"encoder_epochs": 1}, "SCMODAL": {}}.get(name, {})
    options |= {"max_epochs": 1} if name != "SCMODAL" else {"max_steps": WARMUP + given.steps + 1}
    sizes = {"CLUE": 128, "SCMODAL": 1000, "APOLLO": 256}  # SCMODAL: 500 of each modality
    if not whole and name != "SCMODAL":  # small data have too few steps in an epoch
        epochs = -(-(WARMUP + given.steps + 1) // max(1, int(0.9 * data.n_obs / sizes[name])))
        options |= dict.fromkeys(options, epochs)
    model.train(
        **({} if whole and not given.smoke else options),
        precision=precision,
        accelerator=given.accelerator,
        callbacks=[clock],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    ended = time.perf_counter()
    shares = []
    if clock.usage is not None:
        clock.usage.is_over.set()
        shares = clock.usage.shares
    busy = f"{np.mean(shares):.0f}" if shares else "–"
    memory = (
        f"{torch.cuda.max_memory_allocated() / 2**30:.2f}" if torch.cuda.is_available() else "–"
    )
    label = name + (", whole training" if whole else "") + (", stopped" if clock.stopped else "")
    rows = []
    for k, spent in enumerate(clock.step_seconds()):
        stage = f", stage {k + 1}" if len(clock.stages) > 1 else ""
        start = clock.stages[k][0] - (clock.stages[k - 1][-1] if k else began)
        speed = [f"{sizes[name] / spent:,.0f}", f"{1000 * spent:.1f}"]
        last = [f"{start:.1f}", f"{ended - began:.1f}"]
        rows.append([label + stage, precision, place, *speed, busy, memory, *last])
    return rows


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    quiet()
    until = time.perf_counter() + given.seconds
    paired = share_seq(given.cells)
    if given.smoke:
        paired = mudata.MuData({m: a[:, :600].copy() for m, a in paired.mod.items()})
    ways = [(PRECISIONS[0], FROM_HOST), *((p, PRELOADED) for p in PRECISIONS)]
    plan = [(name, *way, False) for name in ("CLUE", "SCMODAL", "APOLLO") for way in ways]
    plan.append(("APOLLO", *ways[1], True))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    shapes = ", ".join(f"{m} {a.n_vars:,}" for m, a in paired.mod.items())
    head = [
        "# Models on a GPU",
        "",
        f"{time.strftime('%Y-%m-%d')}, {device}, torch {torch.__version__}; simulated counts of "
        f"{paired.n_obs:,} cells: {shapes}; of SCMODAL 2,000 and 228 features, half of the cells "
        f"each. {given.steps} steps after {WARMUP} are timed. Memory is the most that torch held. "
        "Matrices are preloaded to the GPU where they take less than a third of its free memory.",
        "",
    ]
    rows: list[list[str]] = []
    failed = False
    for k, (name, precision, place, whole) in enumerate(plan):
        now = time.perf_counter()
        # half of what is left is shared among the rows, of which the whole training counts as four
        limit = (until - now) * (4 if whole else 1) / (len(plan) - k + 3) / 2
        if now > until:
            rows.append([name, precision, place, "no time left", *[""] * (len(HEADER) - 4)])
            continue
        try:
            data = paired.copy() if name != "SCMODAL" else unpaired(paired)
            if name == "SCMODAL":
                names = data["adt"].var_names[:100]
                links = pd.DataFrame({"source": names, "target": names})
                cantata.pp.link_features(data, "rna", "adt", links=links)
            rows += measure(given, name, data, precision, place, limit, whole=whole)
        except Exception as error:  # noqa: BLE001 - the other rows are worth having
            failed = True
            rows.append([name, precision, place, f"{type(error).__name__}: {error}"[:200]])
            rows[-1] += [""] * (len(HEADER) - len(rows[-1]))
        print(*rows[-1], sep=" | ", flush=True)
        given.out.write_text("\n".join([*head, *table(HEADER, rows)]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with given.out.open("a") as report:
        report.write(f"\nLargest memory of the host: {memory:.1f} GB.\n")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
