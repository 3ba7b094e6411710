"""Seconds and memory at the shape of SHARE-seq: ``python benchmarks/apollo/speed.py``.

Writes a file of simulated counts once (0.8 GB), and ``benchmarks/apollo/results/<name>.md``.
"""

from __future__ import annotations

import math
import statistics
from argparse import ArgumentParser, Namespace
from typing import Any

from bench import Bench, Results, add_arguments, done, failures, heading, parse
from tables import gigabytes, table

CELLS, SMOKE_CELLS = 28_098, 600
EPOCHS = 2
ROWS: dict[str, dict[str, Any]] = {
    "default": {"train": {}},
    "published widths and settings": {"preset": "published", "train": {}},
}
SHORT = {"default": "default", "published widths and settings": "published"}
BOUNDS = {"default": 4, "published widths and settings": 6}


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=list(SHORT.values()), default=None)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each stage")
    parser.add_argument(
        "--seconds", type=float, help="stop stages after so long; epochs are then extrapolated"
    )
    add_arguments(parser, [0])
    return parse(parser)


def data_file(given: Namespace, bench: Bench) -> str:
    """File of simulated cells, written once and kept for later calls."""
    n_cells = SMOKE_CELLS if given.smoke else CELLS
    path = given.work.absolute() / "simulated" / f"share-{n_cells}.h5mu"
    if not path.exists():
        print(f"writing {n_cells:,} cells", flush=True)
        part = path.with_suffix(".part.h5mu")
        bench.make("make_share.py", [str(part), str(n_cells)])
        part.rename(path)
    return str(path)


def stage_cells(result: dict[str, Any], stage: int) -> list[str]:
    """Seconds of an epoch of a stage, and its share of the rate of matrix products."""
    steps = result["step_seconds"][stage]
    per_epoch = math.ceil(result["n_train"] / result["batch"])
    # the first step of an epoch also waits for validation and for new minibatches
    inside = [s for k, s in enumerate(steps) if k % per_epoch] or steps
    median = statistics.median(inside)
    seconds = per_epoch * median
    # forwards 2 operations per weight and cell; backwards towards weights and inputs 4
    operations = 6 * result["weights"][stage] * result["n_train"]
    share = operations / seconds / max(result["matmul"])
    return [
        f"{result['steps'][stage]} of {per_epoch} an epoch",
        f"{median:.3f}",
        f"{seconds:.1f}",
        f"{operations / 1e12:.2f}",
        f"{100 * share:.0f} %",
    ]


def rows(results: Results) -> list[list[str]]:
    """Cells of the table."""
    lines = []
    for row, of_row in results.items():
        for r in done(of_row):
            for stage, words in enumerate(("latents and decoders", "encoders")):
                first = stage == 0
                memory = f"{gigabytes(r['memory']['training']):.2f}" if first else ""
                lines.append(
                    [
                        row if first else "",
                        words,
                        *stage_cells(r, stage),
                        f"{r['prepared'][stage]:.0f}",
                        f"{r['stage_seconds'][stage]:.0f}",
                        memory,
                    ]
                )
    return lines


def report(given: Namespace, results: Results) -> list[str]:
    """Lines of the report."""
    found = [r for of_row in results.values() for r in done(of_row)]
    header = ["", "stage", "steps timed", "s per step, median", "s per epoch, steps alone"]
    header += ["10^12 operations", "share of matrix products", "s to prepare", "s in all"]
    rates = ", ".join(f"{rate / 1e9:.0f}" for r in found for rate in r["matmul"])
    shape = found[0]["shape"] if found else {}
    sizes = "; ".join(f"{m} {n:,} x {p:,}" for m, (n, p) in shape.items())
    bounds = ", ".join(f"{row} {gb} GB" for row, gb in BOUNDS.items())
    return [
        *heading("Speed of APOLLO at the shape of SHARE-seq", given, {"": results})[:-1],
        f"* Simulated counts: {sizes}. Square products of float32, 10^9 operations per second, "
        f"before and after: {rates}.",
        "",
        "An epoch is the median step times the steps of an epoch, without validation. Operations: "
        "six per weight of the decoders, or of the encoders, and cell. Preparation of the first "
        "stage: standardisation, components, the start; of the second: linear encoders. Memory: "
        f"largest resident set, libraries and data included. Bounds: {bounds}.",
        "",
        *table([*header, "peak memory, GB"], rows(results)),
        *(
            f"* {row}: GB with libraries and data "
            f"{gigabytes(r['memory']['libraries and data']):.2f}; all {r['total_seconds']:.0f} s."
            for row, of_row in results.items()
            for r in done(of_row)
        ),
        "",
        *failures(results),
    ]


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    bench = Bench.of(given, "speed")
    file = data_file(given, bench)
    results: Results = {}
    for row, fixed in ROWS.items():
        if given.rows is not None and SHORT[row] not in given.rows:
            continue
        epochs = 1 if given.quick else given.epochs
        config = {"seed": given.seeds[0], "file": file, "max_epochs": epochs} | fixed
        if given.seconds:
            config["max_seconds"] = given.seconds
        results[row] = [bench.measure("run_speed.py", SHORT[row], config)]
        bench.write(given.name or "speed" + "-quick" * given.quick, report(given, results))


if __name__ == "__main__":
    main()
