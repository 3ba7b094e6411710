"""Peak-gene links after an unpaired integration: ``python benchmarks/scmodal/links.py``.

SNARE-seq of the mouse cortex with the pairing hidden. Links are scored against the correlation of
gene and peak in the truly paired cells, beside what needs no integration. Writes
``benchmarks/scmodal/results/<name>.md``, anew after each seed.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

import benchpath  # noqa: F401
from bench import Bench, add_arguments
from reporting import describe
from tables import preamble, spread, table

if TYPE_CHECKING:
    from pathlib import Path

DATA = "snare"
WAYS = {
    "activity": "SCMODAL, RNA and gene activity",
    "atac": "SCMODAL, RNA and all peaks",
}
BASELINES = {
    "activity, untrained": "gene activity, no integration; contains the peak",
    "activity of other peaks, untrained": "gene activity without the peak, no integration",
    "distance": "distance to the middle of the gene's peaks",
    "halves": "paired cells: one half against the other",
}
SMOKE_STEPS = 20


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--max-steps", type=int, help="steps of SCMODAL, by default its own")
    parser.add_argument("--quick", action="store_true", help="one seed")
    add_arguments(parser)
    given = parser.parse_args()
    if given.quick:
        given.seeds = given.seeds[:1]
    if given.smoke:
        given.seeds, given.max_steps = given.seeds[:1], SMOKE_STEPS
    return given


def measure(way: str, seed: int, given: Namespace, bench: Bench, inputs: Path) -> dict[str, Any]:
    """Result of one run with its scores."""
    config = {"seed": seed, "way": way, "max_steps": given.max_steps}
    label = f"{way}/seed{seed}"
    result = bench.run_in(None, "run_links.py", label, inputs, config)
    if "error" not in result:
        reference = bench.folder / f"without/seed{given.seeds[0]}"
        bench.make("score_links.py", [str(bench.folder / label), str(reference)], "scores")
        result["scores"] = json.loads((bench.folder / label / "scores.json").read_text())
    return result


def rows(results: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Cells of the table."""
    lines = []
    names = [*((way, way, label) for way, label in WAYS.items())]
    names += [("without", key, label) for key, label in BASELINES.items()]
    for way, key, label in names:
        done = [r for r in results.get(way, ()) if "scores" in r]
        failed = [r["error"] for r in results.get(way, ()) if "error" in r]
        if failed and not done:
            lines.append([label, "failed", failed[0], *["–"] * 4])
        if not done:
            continue
        scores = [r["scores"][key] for r in done]
        cells = [spread([s[n] for s in scores]) for n in ("spearman", "auprc", "prevalence")]
        seconds = "–" if way == "without" else spread([r["total_seconds"] for r in done], 1)
        lines.append([label, str(len(done)), *cells, f"{scores[0]['pairs']:,}", seconds])
    return lines


def report(
    given: Namespace, results: dict[str, list[dict[str, Any]]], about: dict[str, Any]
) -> list[str]:
    """Lines of the report."""
    everything = [r for of_way in results.values() for r in of_way]
    header = ["ranked by", "runs", "Spearman with the truth", "AUPRC", "AUPRC of chance"]
    return [
        "# Peak-gene links after an unpaired integration",
        "",
        *preamble(given, everything),
        *describe([about]),
        "The pairs are those of the file's table, which was made around genes. Truth: Pearson "
        "correlation of log-normalised expression and accessibility over the truly paired cells "
        "with a label; positive pairs have q < 0.05 there. Spearman correlation and AUPRC are "
        "over the pairs whose peak and gene vary. After integration: the same correlation, in "
        "all ATAC cells, with the expression that the model imputes from ATAC alone. Data this "
        "shallow bound every score: the last row is what the truth of one half of the cells says "
        "of the other. Where genes start is not in the file, so that distance is to the middle "
        "of the peaks of a gene.",
        "",
        *table([*header, "pairs", "seconds"], rows(results)),
    ]


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    bench = Bench.of(given, "links")
    inputs = bench.inputs(DATA)
    about = json.loads((inputs / "inputs.json").read_text())
    name = given.name or "links" + "-quick" * given.quick
    results = {"without": [measure("without", given.seeds[0], given, bench, inputs)]}
    for seed in given.seeds:
        for way in given.ways:
            results.setdefault(way, []).append(measure(way, seed, given, bench, inputs))
        bench.write(name, report(given, results, about))


if __name__ == "__main__":
    main()
