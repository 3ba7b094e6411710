"""Speed and memory of APOLLO on images: ``python benchmarks/apollo/images_speed.py``.

Images of two stains in a zarr store, read minibatch by minibatch, beside a plain loop over the
same network with all images in memory. Also for a GPU: ``--accelerator gpu --precision 16-mixed``.
Prints one line for each; ``--out`` adds them to a report.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from images import mdata_of

MODES = ("plain loop", "zarr", "memory")
N_LATENT, WIDTHS = 64, (16, 32, 64, 96)
FIRST_STAGE_STEPS = 5
"""They are not timed."""


def write_images(path: Path, n: int, side: int) -> None:
    """Two stains of n cells, float16, a chunk for each cell."""
    import zarr

    rng = np.random.default_rng(0)
    group = zarr.open_group(str(path), mode="w")
    low = rng.random((64, side, side), dtype=np.float32)
    for name in ("dna", "protein"):
        shape = n, 1, side, side
        array = group.create_array(name, shape=shape, chunks=(1, 1, side, side), dtype="f2")
        for start in range(0, n, 512):
            size = min(512, n - start)
            weights = rng.random((size, 64), dtype=np.float32) / 32
            array[start : start + size, 0] = np.einsum("nk,khw->nhw", weights, low)


def of_plain_loop(
    given: Namespace, images: dict[str, np.ndarray], device: str
) -> dict[str, float]:
    """Cells per second of the second stage's arithmetic alone."""
    from torch.nn import functional

    from cantata.nn import N_VIEWS, ConvDecoder, ConvEncoder, SplitEncoder, turned

    side, names = given.side, ("dna", "protein")
    tensors = {m: torch.from_numpy(images[m].astype(np.float32)).to(device) for m in names}
    encoders, full, shared = {}, {}, {}
    for m in names:
        trunk = ConvEncoder(1, side, WIDTHS, n_branches=2)
        encoders[m] = SplitEncoder(trunk, 100, N_LATENT, 16).to(device)
        full[m] = ConvDecoder(N_LATENT + 16, 1, side, WIDTHS).to(device).requires_grad_(False)
        shared[m] = ConvDecoder(N_LATENT, 1, side, WIDTHS).to(device)
    parameters = [p for part in (encoders, shared) for m in names for p in part[m].parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    n = len(tensors["dna"])
    table = {m: torch.randn(n, N_LATENT + 16, device=device) for m in names}
    linear = {m: torch.randn(n, 100, device=device) for m in names}
    loss_of = functional.binary_cross_entropy_with_logits

    def step() -> None:
        rows = torch.randint(n, (given.batch_size,), device=device)
        view = torch.randint(N_VIEWS, rows.shape, device=device)
        x = {m: turned(tensors[m][rows], view) for m in names}
        z = {m: encoders[m](x[m], None, linear[m][rows]) for m in names}
        loss = sum(
            (torch.cat(z[m], dim=1) - table[m][rows]).square().mean()
            + 100 * loss_of(full[m](torch.cat(z[m], dim=1)), x[m])
            + 100 * loss_of(shared[m](z[other][0]), x[m])
            for m, other in zip(names, reversed(names), strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    begin = now()
    for _ in range(given.steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return rates(given, begin, now())


def now() -> np.ndarray:
    """Seconds by the clock, and of all processors of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def rates(given: Namespace, begin: np.ndarray, end: np.ndarray) -> dict[str, float]:
    """Cells per second of the steps that were timed."""
    wall, cpu = given.steps * given.batch_size / (end - begin)
    return {"cells per second": wall, "per processor second": cpu}


def of_model(given: Namespace, arrays: dict[str, Any]) -> dict[str, float]:
    """Cells per second of the second stage, as the trainer runs it, and seconds before it."""
    import scvi
    from lightning.pytorch.callbacks import Callback

    import cantata

    class Clock(Callback):
        """Times of the steps of the second stage, the first of which is not counted."""

        times: ClassVar[list[np.ndarray]] = []

        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
            """Count a step, and end an epoch early."""
            is_timed = hasattr(plan, "lambda_decoded")
            if is_timed:
                self.times.append(now())
            trainer.should_stop = batch_idx >= (given.steps if is_timed else FIRST_STAGE_STEPS)

    scvi.settings.seed = 0
    mdata = mdata_of(arrays)
    begin = now()
    cantata.APOLLO.setup_mudata(mdata)
    model = cantata.APOLLO(mdata, n_shared=N_LATENT, n_specific=16)
    clock = Clock()
    model.train(
        max_epochs=1,
        encoder_epochs=1,
        batch_size=given.batch_size,
        early_stopping=False,
        callbacks=[clock],
        enable_progress_bar=False,
        accelerator=given.accelerator,
        precision=given.precision,
    )
    assert len(clock.times) == given.steps + 1, f"{len(clock.times) - 1} steps; give fewer"
    wall, cpu = clock.times[0] - begin
    before = {"seconds before": wall, "processor seconds before": cpu}
    return rates(given, clock.times[0], clock.times[-1]) | before


def measure(given: Namespace, mode: str, path: str) -> dict[str, Any]:
    """One mode, in this process."""
    import zarr

    if given.threads:
        torch.set_num_threads(given.threads)
    group: Any = zarr.open_group(path, mode="r")
    arrays = {name: group[name] for name in ("dna", "protein")}
    device = "cuda" if given.accelerator == "gpu" else "cpu"
    if mode != "zarr":
        arrays = {name: array[:] for name, array in arrays.items()}
    if mode == "plain loop":
        found = of_plain_loop(given, arrays, device)
    else:
        found = of_model(given, arrays)
    found["GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device == "cuda":
        found["GPU GB"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def main() -> None:
    """Every mode in a process of its own."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=30_000)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100, help="steps that are timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--out", type=Path, help="report to add to")
    parser.add_argument("--one", nargs=2, metavar=("MODE", "PATH"))
    given = parser.parse_args()
    if given.one:
        print("RESULT", json.dumps(measure(given, *given.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.zarr"
        write_images(path, given.cells, given.side)
        lines = [
            "",
            f"`python benchmarks/apollo/images_speed.py {' '.join(sys.argv[1:])}`, "
            f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}: {given.cells:,} cells of "
            f"two stains, {given.side} pixels, {given.threads} threads.",
            "",
        ]
        for mode in given.modes:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", mode, str(path)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            (line,) = [x for x in done.stdout.splitlines() if x.startswith("RESULT")]
            found = json.loads(line.removeprefix("RESULT"))
            shown = ", ".join(f"{name} {value:,.2f}" for name, value in found.items())
            lines.append(f"- {mode}: {shown}")
            print(lines[-1], flush=True)
    if given.out:
        with given.out.open("a", encoding="utf-8") as report:
            report.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
