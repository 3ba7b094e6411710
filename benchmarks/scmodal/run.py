"""Compare SCMODAL with its peers: ``python benchmarks/scmodal/run.py``.

Every method reads the same cells and links with the same seeds, one process at a time, the
methods in turn within each seed. Writes ``benchmarks/scmodal/results/<name>.md``, anew after each
seed.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import benchpath  # noqa: F401
from bench import Bench, add_arguments
from compared import CHAINS, IMPUTING, METHODS, PAIRS, Method, chain
from reporting import (
    Results,
    describe,
    imputation_table,
    order_table,
    score_tables,
)
from tables import preamble

SMOKE_STEPS, SMOKE_SECONDS = 20, 60.0
QUICK: dict[str, Any] = {
    "data": ["pbmc5k", "pbmc-cytof", "spleen", "snare", "pbmc5k-hidden"],
    "methods": ["linked", "linked-smooth", "scmodal", "scmodal-published", "glue", "knn-paired"],
    "minutes": 1.0,
}


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=[*PAIRS, *CHAINS], default=[*PAIRS, *CHAINS])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--minutes",
        type=float,
        default=20.0,
        help="cap on GLUE, DIAGVI and the published settings, which plan hours",
    )
    parser.add_argument(
        "--peer-seeds", nargs="+", type=int, default=[0], help="seeds of the slow peers"
    )
    parser.add_argument("--max-steps", type=int, help="steps of SCMODAL, by default its own")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, fewer data and methods, a cap of a minute"
    )
    add_arguments(parser)
    given = parser.parse_args()
    if given.quick:
        given.seeds = given.seeds[:1]
        for name, value in QUICK.items():
            setattr(given, name, value)
    if given.smoke:
        given.seeds, given.max_steps = given.seeds[:1], SMOKE_STEPS
        given.minutes = SMOKE_SECONDS / 60
    return given


def config_of(
    method: Method, data: str, seed: int, given: Namespace, pairs: list[list[str]]
) -> dict[str, Any]:
    """Configuration of a run."""
    config: dict[str, Any] = {"seed": seed, "pairs": pairs, "pair": pairs[0], **method.config}
    if method.script == "run_scmodal.py" and given.max_steps:
        config["max_steps"] = given.max_steps
    if method.capped:
        config["max_seconds"] = 60 * given.minutes
    if data == "pbmc5k-hidden":
        config["proteins"] = True
    if data == "pbmc-cytof":
        config["genes"] = "cytof"
    return config


def rows_of(data: str, given: Namespace) -> dict[str, tuple[Method, list[list[str]]]]:
    """Rows of a data set: the method and the pairs of modalities that it links."""
    if data in CHAINS:
        names = CHAINS[data]
        return {f"chain-{middle}": (METHODS["scmodal"], chain(middle, names)) for middle in names}
    allowed = IMPUTING if data == "pbmc5k-hidden" else tuple(METHODS)
    return {
        key: (METHODS[key], [list(METHODS[key].pair or PAIRS[data])])
        for key in given.methods
        if key in allowed and data in METHODS[key].only
    }


def run_seed(
    seed: int, given: Namespace, bench: Bench, inputs: dict[str, Path]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Results of one seed: data, row, result."""
    results: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in inputs}
    for name, folder in inputs.items():
        for key, (method, pairs) in rows_of(name, given).items():
            if not method.seeded and seed != given.seeds[0]:
                continue
            if method.environment and seed not in given.peer_seeds:
                continue
            config = config_of(method, name, seed, given, pairs)
            label = f"{name}/{key}/seed{seed}"
            results[name][key] = bench.run_in(
                method.environment, method.script, label, folder, config
            )
    labels = [
        f"{name}/{key}/seed{seed}"
        for name in results
        for key, result in results[name].items()
        if "error" not in result
    ]
    for label, scored in bench.score(labels).items():
        name, key, _ = label.split("/")
        results[name][key] = scored
    return results


def labels_of(data: str, given: Namespace) -> dict[str, str]:
    """Names of the rows of a data set."""
    if data in CHAINS:
        return {
            key: " – ".join([pairs[0][0], pairs[0][1], pairs[1][1]])
            for key, (_, pairs) in rows_of(data, given).items()
        }
    return {key: method.label for key, (method, _) in rows_of(data, given).items()}


def report(given: Namespace, runs: dict[str, Results], inputs: dict[str, Path]) -> list[str]:
    """Lines of the report."""
    abouts = [json.loads((folder / "inputs.json").read_text()) for folder in inputs.values()]
    everything = [r for of in runs.values() for results in of.values() for r in results]
    lines = ["# SCMODAL and its peers", "", *preamble(given, everything), *describe(abouts)]
    lines += [Path(__file__).with_name("notes.md").read_text().strip(), ""]
    for name, results in runs.items():
        labels = labels_of(name, given)
        lines += [f"## {name}", ""]
        if name in CHAINS:
            lines += [*order_table(results, labels)]
        if name == "pbmc5k-hidden":
            lines += ["Imputed proteins:", "", *imputation_table(results, labels, "proteins")]
            continue
        lines += score_tables(results, labels)
        genes = imputation_table(results, labels, "genes")
        lines += ["### Genes imputed into cells without RNA", "", *genes] if genes else []
    return lines


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    bench = Bench.of(given, "run")
    inputs = {name: bench.inputs(name) for name in given.data}
    runs: dict[str, Results] = {name: {} for name in inputs}
    name = given.name or "benchmark" + "-quick" * given.quick
    for seed in given.seeds:
        for data, results in run_seed(seed, given, bench, inputs).items():
            for key, result in results.items():
                runs[data].setdefault(key, []).append(result)
        bench.write(name, report(given, runs, inputs))


if __name__ == "__main__":
    main()
