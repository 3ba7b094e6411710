"""What start, terms and schedule of APOLLO contribute: ``python benchmarks/apollo/ablation.py``.

On simulation 4 and on CITE-seq with a batch effect in RNA. Writes
``benchmarks/apollo/results/<name>.md``, anew after each seed.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import cite
import simulations
from bench import Bench, Results, add_arguments, failures, heading, parse
from tables import table

CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "start normal": {"model": {"start": "normal"}},
    "no independence": {"plan_kwargs": {"lambda_independence": 0.0}},
    "shared latents moved by shared decoders": {"plan_kwargs": {"lambda_shared_latents": 1.0}},
    "start normal, no independence": {
        "model": {"start": "normal"},
        "plan_kwargs": {"lambda_independence": 0.0},
    },
    "dense row updates": {"plan_kwargs": {"row_updates": "dense"}},
    "fixed minibatches": {"train": {"shuffle": False}},
    "no linear encoders": {"train": {"linear_encoders": False}},
    "constant learning rates": {
        "plan_kwargs": {"lr_schedule": "constant"},
        "train": {"encoder_plan_kwargs": {"lr_schedule": "constant"}},
    },
    "no early stopping": {"train": {"early_stopping": False}},
}
SHORT = {row: f"{number:02d}" for number, row in enumerate(CHANGES)}


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument(
        "--data",
        nargs="+",
        choices=["linear", "nonlinear", "cite"],
        default=["linear", "nonlinear", "cite"],
    )
    add_arguments(parser, range(3))
    given = parse(parser)
    if given.quick:
        given.rows = given.rows[:4]
    return given


def configuration(row: str, data: str, seed: int) -> dict[str, Any]:
    """Of ``run_cite.py`` or ``run_simulation.py``."""
    change = CHANGES[row]
    train = dict(change.get("train", {}))
    if "plan_kwargs" in change:
        train["plan_kwargs"] = change["plan_kwargs"]
    model = dict(change.get("model", {}))
    config = {"seed": seed, "method": "apollo", "model": model, "train": train}
    if data == "cite":
        return config | {"effect": "rna"}
    config["model"] = simulations.SIZES | model
    config["train"] = {"train_size": 0.8} | train
    return config | {"setting": 4, "nonlinear": data == "nonlinear"}


def report(given: Namespace, of_data: dict[str, Results]) -> list[str]:
    """Lines of the report."""
    lines = [
        *heading("Ablation of APOLLO", given, of_data),
        "Defaults but for what is named; columns as in the other reports.",
        "",
    ]
    for data, results in of_data.items():
        if data == "cite":
            rows = [line for row, of_row in results.items() for line in cite.lines_of(row, of_row)]
            lines += ["## CITE-seq with an effect in RNA", "", *table(cite.HEADER, rows)]
        else:
            named = {f"4|{row}": of_row for row, of_row in results.items()}
            for where in ("tables", "encoders"):
                lines += [f"## Simulation 4, {data}, {where}", ""]
                lines += table(simulations.HEADER, simulations.rows(named, where))
        lines += failures(results)
    return lines


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    bench = Bench.of(given, "ablation")
    of_data: dict[str, Results] = {data: {} for data in given.data}
    for seed in given.seeds:
        for data in given.data:
            script = "run_cite.py" if data == "cite" else "run_simulation.py"
            for row in given.rows:
                label = f"{data}/{SHORT[row]}/seed{seed}"
                found = bench.measure(script, label, configuration(row, data, seed))
                of_data[data].setdefault(row, []).append(found)
            bench.write(given.name or "ablation" + "-quick" * given.quick, report(given, of_data))


if __name__ == "__main__":
    main()
