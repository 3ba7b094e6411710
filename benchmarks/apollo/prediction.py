"""Predict proteins and peaks from RNA, and cell types: ``python benchmarks/apollo/prediction.py``.

Writes ``benchmarks/apollo/results/<name>.md``, anew after each data set and seed.
"""

from __future__ import annotations

import statistics
from argparse import ArgumentParser, Namespace
from typing import Any

from bench import Bench, Results, add_arguments, costs, done, failures, heading, parse
from tables import spread, table, with_error

DATA = ("pbmc5k", "snare")
ROWS: dict[str, dict[str, Any]] = {
    "APOLLO": {"method": "apollo", "classify": True},
    "APOLLO, mse": {"method": "apollo", "model": {"losses": "mse"}},
    "CLUE": {"method": "clue"},
    "15 nearest cells in RNA components": {"method": "knn"},
    "TOTALVI / MULTIVI": {"method": "scvi"},
}
SHORT = {row: f"{number:02d}" for number, row in enumerate(ROWS)}
WIDTHS = ((50, 50), (20, 10), (10, 5))
"""Shared and specific dimensions beside the default."""
DEFAULT_WIDTHS = "50 / 20"
CLASSIFIERS = ("logistic", "15-NN", "network", "permuted")
QUICK = ("APOLLO", "15 nearest cells in RNA components")


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--peer-seconds", type=float, default=180, help="TOTALVI and MULTIVI")
    parser.add_argument("--widths", type=int, default=len(WIDTHS), help="so many of the choices")
    add_arguments(parser, range(3))
    given = parse(parser)
    if given.quick:
        given.rows, given.widths = list(QUICK), 1
    return given


def prediction_rows(results: Results) -> list[list[str]]:
    """Cells of the table of one data set."""
    lines = []
    for row, of_row in results.items():
        found = done(of_row)
        if not found or row not in ROWS:
            continue
        values = [list(r["features"].values()) for r in found]
        stopped = [sum(r["steps"]) for r in found if r.get("stopped")]
        lines.append(
            [
                row,
                spread([statistics.fmean(v) for v in values]),
                spread([statistics.median(v) for v in values]),
                str(len(values[0])),
                *costs(found),
                f"stopped after {stopped[0]:,} steps" if stopped else "",
            ]
        )
    return lines


def type_rows(results: Results) -> list[list[str]]:
    """Cells of the table of cell types."""
    lines = []
    for row, of_row in results.items():
        found = [r["types"] for r in done(of_row) if "types" in r]
        words = DEFAULT_WIDTHS if row in ROWS else row
        for block in found[0] if found else ():
            scores = [t[block] for t in found]
            cells = [with_error([s[how] for s in scores]) for how in CLASSIFIERS]
            lines.append([words, block, *cells])
    return lines


def report(given: Namespace, of_data: dict[str, Results]) -> list[str]:
    """Lines of the report."""
    lines = [
        *heading("Held-out prediction by APOLLO", given, of_data),
        "A fifth of the cells is held out of everything, components included; TOTALVI and MULTIVI "
        "alone must see the RNA of these cells in training, and are stopped after "
        f"{given.peer_seconds:.0f} s at most. Predicted from RNA: proteins, Pearson correlation "
        "of log1p over held-out cells; peaks (of those in at least 1 % of the cells), AUROC. Mean "
        "and median over features; mean (range) over seeds, which change split and model.",
        "",
    ]
    for data, results in of_data.items():
        known = [r for of_row in results.values() for r in done(of_row)]
        if not known:
            continue
        sizes = "; ".join(f"{m} {n:,} x {p:,}" for m, (n, p) in known[0]["shape"].items())
        score = "Pearson correlation" if data == "pbmc5k" else "AUROC"
        lines += [f"## {data}", "", f"Training {sizes}; {known[0]['n_test']:,} held out.", ""]
        header = ["", f"{score}, mean", "median", "features", "seconds", "processor s", ""]
        lines += table(header, prediction_rows(results))
        lines += [
            "Fig. 2a of the paper: cell types of held-out cells from what a modality's encoder "
            "infers, shared latents alone or with its specific ones (full); logistic regression, "
            "15-NN and a network of three hidden layers of 128 on standardised latents of the "
            "training cells; unassigned cells are not scored. Permuted: 15-NN with the labels of "
            "the training cells permuted, mean of 5. Mean ± standard error over seeds; each has a "
            "split, a model and classifiers of its own.",
            "",
            *table(["shared / specific", "latents", *CLASSIFIERS], type_rows(results)),
            *failures(results),
        ]
    return lines


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    bench = Bench.of(given, "prediction")
    of_data: dict[str, Results] = {}
    for data in given.data:
        results = of_data.setdefault(data, {})
        for seed in given.seeds:
            plans = {row: ROWS[row] for row in given.rows}
            for shared, specific in WIDTHS[: given.widths]:
                model = {"n_shared": shared, "n_specific": specific}
                plan = {"method": "apollo", "classify": True, "model": model}
                plans[f"{shared} / {specific}"] = plan
            for row, fixed in plans.items():
                config = {"seed": seed, "data": data} | fixed
                if fixed["method"] == "scvi":
                    config["max_seconds"] = given.peer_seconds
                short = SHORT.get(row, row.replace(" / ", "-"))
                label = f"{data}/{short}/seed{seed}"
                found = bench.measure("run_prediction.py", label, config)
                results.setdefault(row, []).append(found)
            name = given.name or "prediction" + "-quick" * given.quick
            bench.write(name, report(given, of_data))


if __name__ == "__main__":
    main()
