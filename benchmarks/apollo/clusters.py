"""What Leiden clusters of each latent space are made of: ``python benchmarks/apollo/clusters.py``.

As many clusters as there are cell types, on CITE-seq with a batch effect in one modality (the
paper's Extended Data Fig. 7). Writes ``benchmarks/apollo/results/<name>.md``.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import cite
from bench import ONE_STEP, Results, add_arguments, costs, done, failures, heading, parse
from tables import spread, table

ROWS = (
    "APOLLO",
    "one-step autoencoder",
    "canonical variates and residual components, untrained",
    "joint PCA",
    "TOTALVI, no batch key",
)
MEANS = {
    "type share": "commonest type",
    "batch share": "commonest batch",
    "type Rand": "Rand index, types",
    "batch Rand": "Rand index, batches",
}
HEADER = ["", "space", "clusters", *MEANS.values(), "seconds", "processor s"]


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    effects = ["rna", "adt"]
    parser.add_argument("--effects", nargs="+", choices=effects, default=effects)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--totalvi-seconds", type=float, default=180, help="at most so long")
    add_arguments(parser, range(3))
    given = parse(parser)
    if given.quick:
        given.rows = ["APOLLO", "joint PCA"]
    return given


def lines_of(row: str, found: list[dict[str, Any]]) -> list[list[str]]:
    """Cells of a method's lines, one per space."""
    lines = []
    for block in found[0]["blocks"]:
        own = [r["blocks"][block] for r in found]
        cells = [spread([len(o["clusters"]) for o in own], 0)]
        cells += [spread([o[name] for o in own]) for name in MEANS]
        first = [row, block] if not lines else ["", block]
        lines.append([*first, *cells, *(costs(found) if not lines else ["", ""])])
    return lines


def cluster_table(result: dict[str, Any], block: str) -> list[str]:
    """Every cluster of one space."""
    rows = [
        [
            str(line["cluster"]),
            f"{line['cells']:,}",
            f"{line['type']}, {line['type share']:.0%}",
            f"{line['batch share']:.0%}",
        ]
        for line in result["blocks"][block]["clusters"]
    ]
    return table(["cluster", "cells", "commonest type", "commonest batch"], rows)


def report(given: Namespace, of_effect: dict[str, Results]) -> list[str]:
    """Lines of the report."""
    lines = [
        *heading("Clusters of APOLLO's latent spaces", given, of_effect),
        "pbmc5k with a synthetic batch effect in one modality, as in `cite.md`. Leiden on the "
        "15-nearest-neighbour graph of a space, the resolution chosen such that there are as many "
        "clusters as cell types, or nearly. Commonest type, batch: its share of a cluster, mean "
        "over cells. Adjusted Rand index of clusters with types and with batches; chance is 0. "
        f"All cells; spaces are what encoders infer. Mean (range) over seeds. {ONE_STEP}",
        "",
    ]
    for effect, results in of_effect.items():
        known = {row: done(of_row) for row, of_row in results.items() if done(of_row)}
        if not known:
            continue
        lines += [f"## {cite.TITLES[effect]}", ""]
        lines += table(HEADER, [line for row in known for line in lines_of(row, known[row])])
        for row, block in (("APOLLO", "shared"), ("APOLLO", effect), ("joint PCA", "joint")):
            if row in known:
                lines += [f"{row}, {block}, seed {given.seeds[0]}:", ""]
                lines += cluster_table(known[row][0], block)
        lines += failures(results)
    return lines


if __name__ == "__main__":
    cite.run(arguments(), "clusters", "run_clusters.py", report)
