"""Compare CLUE with its peers: ``python benchmarks/run.py``.

Every method is trained on the same inputs with the same seeds, one process at a time, the methods
in turn within each seed. Writes ``benchmarks/results/<name>.md``, anew after each seed.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from methods import METHODS
from processes import Workplace, add_arguments
from report import Runs, curve_table, protein_table, reach_table, score_names, scores_table
from tables import command, describe, preamble

DATA = ("pbmc5k", "snare", "mosaic")
CLOSED = ("cca", "knn", "knn-cca", "types")
STANDARD = (*CLOSED, "cantata", "cantata-paper", "scglue", "multivi", "totalvi", "midas")
INDUCTIVE = (*CLOSED, "cantata", "cantata-paper")
QUICK = {"methods": ["cca", "cantata", "scglue", "knn"], "peer_minutes": 0.5}


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(STANDARD))
    parser.add_argument(
        "--inductive",
        nargs="*",
        choices=list(METHODS),
        default=list(INDUCTIVE),
        help="methods that are also trained without the test cells",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--peer-seeds", nargs="+", type=int, help="seeds of the capped methods, if fewer"
    )
    parser.add_argument("--peer-epochs", type=int, default=60, help="cap on a peer's epochs")
    parser.add_argument("--peer-minutes", type=float, default=20, help="cap on a peer's time")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, fewer methods, peers capped at 30 seconds"
    )
    add_arguments(parser)
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.inductive = given.seeds[:1], ["cantata"]
        given.methods, given.peer_minutes = QUICK["methods"], QUICK["peer_minutes"]
    return given


def make_inputs(given: Namespace, workplace: Workplace) -> dict[str, Path]:
    """Folders of all inputs, by name; those for inductive use end in ``-inductive``."""
    found = {name: workplace.inputs(name) for name in given.data}
    if given.inductive:
        for name in given.data:
            if name != "mosaic":
                found[f"{name}-inductive"] = workplace.inputs(name, inductive=True)
    return found


def run_seed(
    seed: int, given: Namespace, workplace: Workplace, inputs: dict[str, Path]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Results of one seed: inputs, method, result."""
    results: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in inputs}
    for name, folder in inputs.items():
        data, _, use = name.partition("-")
        for key in given.inductive if use else given.methods:
            method = METHODS[key]
            spared = method.capped and seed not in (given.peer_seeds or given.seeds)
            if spared or not method.runs_on(data, bool(use)):
                continue
            config = {"seed": seed}
            if method.capped:
                config |= {"max_epochs": given.peer_epochs, "max_seconds": 60 * given.peer_minutes}
            config |= method.config
            # Leiden at every epoch would take longer than the training
            config["curve"] = config.get("curve", 1) if data != "mosaic" else 0
            config["impute"] = bool(config.get("impute")) and data == "pbmc5k"
            label = f"{name}/{key}/seed{seed}"
            results[name][key] = workplace.run(
                method.script, label, folder, config, peer=method.peer
            )
    labels = [
        f"{name}/{key}/seed{seed}"
        for name in results
        for key, result in results[name].items()
        if "error" not in result
    ]
    for label, scored in workplace.score(labels).items():
        name, key, _ = label.split("/")
        results[name][key] = scored
    return results


def report(given: Namespace, runs: dict[str, Runs], inputs: dict[str, Path]) -> list[str]:
    """Lines of the report."""
    abouts = [json.loads((folder / "inputs.json").read_text()) for folder in inputs.values()]
    everything = [r for of in runs.values() for results in of.values() for r in results]
    lines = ["# CLUE and its peers", "", *preamble(given, everything), command(), ""]
    lines += describe(abouts)
    lines += [Path(__file__).with_name("notes.md").read_text().strip(), ""]
    for name, of_data in runs.items():
        lines += [f"## {name}", "", *scores_table(of_data)]
        ours = [key for key in of_data if key.startswith("cantata")]
        peers = [key for key in of_data if METHODS[key].peer]
        if "foscttm" in score_names(of_data):
            reached = reach_table(of_data, ours, peers)
            lines += ["### Time to the peer's best", "", *reached] if reached else []
            for score, title in (("foscttm", "FOSCTTM"), ("matching", "Matching score")):
                curve = curve_table(of_data, score)
                lines += [f"### {title} against time", "", *curve] if curve else []
        proteins = protein_table(of_data)
        lines += ["### Imputed proteins of RNA-only cells", "", *proteins] if proteins else []
    return lines


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    workplace = Workplace.of(given, "run")
    inputs = make_inputs(given, workplace)
    runs: dict[str, Runs] = {name: {} for name in inputs}
    name = given.name or "benchmark" + "-quick" * given.quick
    for seed in given.seeds:
        for data, results in run_seed(seed, given, workplace, inputs).items():
            for key, result in results.items():
                runs[data].setdefault(key, []).append(result)
        workplace.write(name, report(given, runs, inputs))


if __name__ == "__main__":
    main()
