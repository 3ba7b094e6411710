"""A batch effect in one modality of CITE-seq: ``python benchmarks/apollo/cite.py``.

Writes ``benchmarks/apollo/results/<name>.md``, anew after each data set and seed.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from bench import ONE_STEP, Bench, Results, add_arguments, costs, done, failures, heading, parse
from tables import spread, table

if TYPE_CHECKING:
    from collections.abc import Callable

TITLES = {
    "rna": "Effect in RNA only",
    "adt": "Effect in proteins only",
    "experiments": "Two experiments, pbmc5k and pbmc10k: the batch is in both modalities",
}
ROWS: dict[str, dict[str, Any]] = {
    "APOLLO": {"method": "apollo"},
    "APOLLO, no specific spaces": {"method": "apollo", "model": {"n_specific": 0}},
    "APOLLO, no shared decoders": {"method": "apollo", "model": {"shared_decoders": False}},
    "APOLLO, mse": {"method": "apollo", "model": {"losses": "mse"}},
    "one-step autoencoder": {"method": "autoencoder"},
    "canonical variates and residual components, untrained": {"method": "canonical"},
    "joint PCA": {"method": "pca"},
    "weighted nearest neighbours (muon)": {"method": "wnn"},
    "TOTALVI, no batch key": {"method": "totalvi"},
    "MOFA+": {"method": "mofa"},
}
QUICK = ("APOLLO", "one-step autoencoder", "joint PCA")
SHORT = {row: f"{number:02d}" for number, row in enumerate(ROWS)}
TYPE, BATCH = "cell_type", "batch_of_cell"
HEADER = ["", "of", "block", "cell type", "batch", "cell type, held out", "batch, held out"]
HEADER += ["seconds", "processor s"]


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--effects", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--totalvi-seconds", type=float, default=180, help="at most so long")
    add_arguments(parser, range(3))
    given = parse(parser)
    if given.quick:
        given.rows, given.effects = list(QUICK), given.effects[:1]
    return given


def lines_of(row: str, of_row: list[dict[str, Any]]) -> list[list[str]]:
    """Cells of a method's lines, one per block."""
    found = done(of_row)
    lines = []
    for block in found[0]["scores"] if found else ():
        where, name = block.split("/")
        of_block = [r["scores"][block] for r in found]
        cells = [
            spread([s[label].get(how) for s in of_block])
            for how in ("folds", "held")
            for label in (TYPE, BATCH)
        ]
        first = [row, where, name] if not lines else ["", where, name]
        lines.append([*first, *cells, *(costs(found) if not lines else ["", ""])])
    return lines


def report(given: Namespace, of_effect: dict[str, Results]) -> list[str]:
    """Lines of the report."""
    lines = [
        *heading("APOLLO on CITE-seq with a batch effect", given, of_effect),
        "pbmc5k, 3,920 cells. A synthetic effect multiplies the counts of a random half of the "
        "cells in one modality by exp(N(0, .5)) per feature. Accuracy of a vote of 15 neighbours: "
        "by three folds of the cells (tables: of the training cells), and of cells held out of "
        "training among the training cells. Weighted nearest neighbours: the vote of the cells in "
        "their graph. Held-out cells are in the components that encoders read, in that graph and "
        "in MOFA+. No method is told the batch. Mean (range) over seeds, which change effect, "
        "split and model. Aims: shared cell type at least .97 and batch at most .60; own specific "
        "space batch at least .85 and cell type at most .55; the other's batch at most .55.",
        "",
        f"TOTALVI is stopped after {given.totalvi_seconds:.0f} s at most. {ONE_STEP}",
        "",
    ]
    for effect, results in of_effect.items():
        known = [r for of_row in results.values() for r in done(of_row)]
        if not known:
            continue
        chance = known[0]["chance"]
        lines += [f"## {TITLES[effect]}", ""]
        lines += [f"Chance: cell type {chance[TYPE]:.3f}, batch {chance[BATCH]:.3f}.", ""]
        body = [line for row, of_row in results.items() for line in lines_of(row, of_row)]
        lines += table(HEADER, body)
        lines += [
            f"* {row}: stopped after {sum(of_row[0]['steps']):,} steps."
            for row, of_row in results.items()
            if done(of_row) and of_row[0].get("stopped")
        ]
        lines += ["", *failures(results)]
    return lines


def run(
    given: Namespace,
    name: str,
    script: str,
    report: Callable[[Namespace, dict[str, Results]], list[str]],
) -> None:
    """Run every method on every data set, and write the report anew after each seed."""
    bench = Bench.of(given, name)
    of_effect: dict[str, Results] = {}
    for effect in given.effects:
        results = of_effect.setdefault(effect, {})
        for seed in given.seeds:
            for row in given.rows:
                config = {"seed": seed, "effect": effect} | ROWS[row]
                if ROWS[row]["method"] == "totalvi":
                    config["max_seconds"] = given.totalvi_seconds
                label = f"{effect}/{SHORT[row]}/seed{seed}"
                results.setdefault(row, []).append(bench.measure(script, label, config))
            bench.write(given.name or name + "-quick" * given.quick, report(given, of_effect))


if __name__ == "__main__":
    run(arguments(), "cite", "run_cite.py", report)
