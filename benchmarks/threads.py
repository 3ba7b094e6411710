"""Training on a busy machine: ``python benchmarks/threads.py``.

Seconds of an epoch on an otherwise quiet machine, and beside one and two processes that each want
a core, with one thread, with two, and with as many as the models choose. One training for each
row; busy loops come and go between its steps, in turn, and the least time of the turns counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import HERE
from tables import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import mudata

CASES = {
    "CLUE, pbmc5k": ("CLUE", "pbmc5k_citeseq.h5mu"),
    "CLUE, mosaic of 1,600 cells": ("CLUE", "pbmc_mosaic_midas.h5mu"),
    "SCMODAL, pbmc5k": ("SCMODAL", "pbmc5k_citeseq.h5mu"),
    "APOLLO, pbmc5k, first stage": ("APOLLO", "pbmc5k_citeseq.h5mu"),
}
THREADS = ("1", "2", "default")
N_LOOPS = (0, 1, 2)
UNSET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
WARMUP = 2
"""Steps that are not timed."""


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", nargs="+", choices=THREADS, default=list(THREADS))
    parser.add_argument("--turns", type=int, default=3, help="of each number of busy loops")
    parser.add_argument("--seconds", type=float, default=8, help="of a turn, and at least a step")
    parser.add_argument("--name", default="threads", help="name of the report")
    parser.add_argument("--smoke", action="store_true", help="one short turn; no report is kept")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "THREADS"), help="(one row)")
    given = parser.parse_args()
    if given.smoke:
        given.turns, given.seconds = 1, 0.5
    return given


@contextmanager
def busy(n: int) -> Iterator[None]:
    """Beside so many processes that do nothing else than count as busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class DoneError(Exception):
    """All turns are over."""


@dataclass
class Turns:
    """Times steps in turns, of one after another number of busy loops."""

    n_turns: int
    seconds: float
    found: dict[int, list[float]] = field(default_factory=dict)
    """Seconds of a step, for each number of loops and turn."""
    threads: set[int] = field(default_factory=set)

    def steps(self) -> Iterator[None]:
        """To be advanced at the end of every step."""
        import torch

        for _ in range(WARMUP):
            yield
        for _ in range(self.n_turns):
            for n_loops in N_LOOPS:
                with busy(n_loops):
                    yield  # the first beside them is not timed
                    n, began = 0, time.perf_counter()
                    while n == 0 or time.perf_counter() - began < self.seconds:
                        yield
                        n += 1
                        self.threads.add(torch.get_num_threads())
                    spent = (time.perf_counter() - began) / n
                self.found.setdefault(n_loops, []).append(spent)
        raise DoneError


def measure(given: Namespace) -> None:
    """One row, printed as JSON."""
    import warnings

    import mudata
    import scvi
    from lightning.pytorch.callbacks import Callback

    warnings.simplefilter("ignore")
    case, threads = given.measure
    name, file = CASES[case]
    if threads != "default":
        scvi.settings.num_threads = int(threads)
    scvi.settings.seed = 0
    folder = Path(os.environ.get("CANTATA_TEST_DATA", HERE.parents[1] / "shared" / "data"))
    mdata = mudata.read_h5mu(folder / file)
    turns = Turns(given.turns, given.seconds)
    steps = turns.steps()

    class Clock(Callback):
        per_epoch = 0

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            """Called by the trainer."""
            type(self).per_epoch = trainer.num_training_batches
            next(steps)

    try:
        train(name, mdata, Clock())
    except DoneError:
        seconds = {n: [Clock.per_epoch * s for s in found] for n, found in turns.found.items()}
        print(json.dumps({"seconds": seconds, "threads": sorted(turns.threads)}))
    finally:
        steps.close()


def train(name: str, mdata: mudata.MuData, clock: Any) -> None:
    """Train until the clock has seen enough."""
    import cantata

    if name == "SCMODAL":
        cantata.pp.link_features(mdata, "rna", "adt")
    cls = getattr(cantata, name)
    cls.setup_mudata(mdata)
    cls(mdata).train(
        max_epochs=10_000,
        callbacks=[clock],
        accelerator="cpu",
        limit_val_batches=0,
        early_stopping=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def rows(results: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """Cells of the table: seconds, and in brackets how often the quiet time."""
    for case, of_case in results.items():
        for k, (threads, result) in enumerate(of_case.items()):
            if threads == "default":
                threads = f"default: {', '.join(map(str, result['threads']))}"
            least = [min(result["seconds"][str(n)]) for n in N_LOOPS]
            beside = [f"{s:.2f} ({s / least[0]:.2f})" for s in least[1:]]
            yield ["" if k else case, threads, f"{least[0]:.2f}", *beside]


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    if given.measure:
        measure(given)
        return
    environment = {k: v for k, v in os.environ.items() if k not in (*UNSET, "OMP_WAIT_POLICY")}
    results: dict[str, dict[str, Any]] = {}
    loads = [os.getloadavg()[0]]
    for case in given.cases:
        for threads in given.threads:
            command = [sys.executable, __file__, "--measure", case, threads]
            command += ["--turns", str(given.turns), "--seconds", str(given.seconds)]
            done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            results.setdefault(case, {})[threads] = result
            print(time.strftime("%H:%M:%S"), case, threads, result, flush=True)
            loads.append(os.getloadavg()[0])
    header = ["", "threads", "quiet", "beside one busy loop", "beside two"]
    lines = [
        "# Threads on a busy machine",
        "",
        f"Seconds of an epoch (of SCMODAL: 100 steps), the least of {given.turns} turns of "
        f"{given.seconds:g} s, and in brackets how often the time beside no loop. "
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, nothing set in the environment; "
        f"load average before and after each row, own processes included: "
        f"{', '.join(f'{load:.1f}' for load in loads)}.",
        "",
        *table(header, rows(results)),
    ]
    print("\n".join(lines))
    if not given.smoke:
        (HERE / "results" / f"{given.name}.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
