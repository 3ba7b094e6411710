"""Repeat the paper's ablation (Wang et al. 2025, Supplementary Fig. 7).

``python benchmarks/scmodal/ablation.py``: all terms of the loss, and all but one. Writes
``benchmarks/scmodal/results/<name>.md``, anew after each seed.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import benchpath  # noqa: F401
from bench import Bench, add_arguments
from compared import PAIRS
from reporting import WITHOUT_LABELS, describe
from tables import preamble, spread, table

if TYPE_CHECKING:
    from pathlib import Path

SMOKE_STEPS = 20
SCORES = {
    "mixing": "mixing metric",
    "kBET": "kBET",
    "label ASW": "ASW",
    "label 1-NN, a to b": "1-NN {a} to {b}",
    "label 1-NN, b to a": "1-NN {b} to {a}",
    "label 20-NN, a to b": "20-NN {a} to {b}",
    "label 20-NN, b to a": "20-NN {b} to {a}",
    "FOSCTTM": "FOSCTTM",
    "pair distance": "pair distance",
}


@dataclass(frozen=True)
class Setting:
    """A row of the table."""

    label: str
    plan: dict[str, float] = field(default_factory=dict)
    """Weights that differ from the default."""
    published: str = ""
    """What the paper says of it."""
    train: dict[str, int] = field(default_factory=dict)
    """Other arguments of ``train``."""


SETTINGS = {
    "full": Setting("all terms"),
    "no-gan": Setting("without GAN", {"lambda_gan": 0.0}, "mixing metric higher, kBET lower"),
    "no-ae": Setting(
        "without autoencoding and latent cycle",
        {"lambda_ae": 0.0, "lambda_cycle": 0.0},
        "label transfer and ASW lower",
    ),
    "no-cycle": Setting("without latent cycle", {"lambda_cycle": 0.0}),
    "no-anchor": Setting("without anchors", {"lambda_anchor": 0.0}, "label transfer nearly 0"),
    "no-geo": Setting("without geometry", {"lambda_geo": 0.0}, "ASW lower"),
    "no-linked": Setting(
        "without linked features read off (not in the paper)", {"lambda_linked": 0.0}
    ),
    "no-refinement": Setting(
        "without refined links (not in the paper)", train={"n_refinements": 0}
    ),
}


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    choices = [name for name in PAIRS if name != "pbmc5k-hidden"]
    parser.add_argument("--data", choices=choices, default="pbmc5k")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, help="steps of every setting, by default its own")
    parser.add_argument("--preset", help="settings of SCMODAL from which terms are taken away")
    parser.add_argument("--quick", action="store_true", help="one seed")
    add_arguments(parser)
    given = parser.parse_args()
    if given.quick:
        given.seeds = given.seeds[:1]
    if given.smoke:
        given.seeds, given.max_steps = given.seeds[:1], SMOKE_STEPS
    return given


def run_seed(seed: int, given: Namespace, bench: Bench, inputs: Path) -> dict[str, dict[str, Any]]:
    """Results of all settings with one seed."""
    results = {}
    for key, setting in SETTINGS.items():
        config = {
            "seed": seed,
            "pairs": [list(PAIRS[given.data])],
            "plan": setting.plan,
            "train": setting.train,
            "preset": given.preset,
            "max_steps": given.max_steps,
        }
        label = f"{key}/seed{seed}"
        results[key] = bench.run_in(None, "run_scmodal.py", label, inputs, config)
    labels = [f"{key}/seed{seed}" for key, result in results.items() if "error" not in result]
    scored = bench.score(labels)
    return results | {label.split("/")[0]: result for label, result in scored.items()}


def rows(results: dict[str, list[dict[str, Any]]], names: list[str]) -> list[list[str]]:
    """Cells of the table."""
    lines = []
    for key, of_setting in results.items():
        done = [r for r in of_setting if "error" not in r]
        failed = [r["error"] for r in of_setting if "error" in r]
        ends = [next(iter(r["points"][-1]["scores"].values())) for r in done]
        cells = [spread([e[n] for e in ends if n in e], 1 if n == "mixing" else 3) for n in names]
        cells.append(spread([r["total_seconds"] for r in done], 1))
        runs = failed[0] if failed else str(len(ends))
        setting = SETTINGS[key]
        lines.append([setting.label, *cells, runs, setting.published or "–"])
    return lines


def report(
    given: Namespace, results: dict[str, list[dict[str, Any]]], about: dict[str, Any]
) -> list[str]:
    """Lines of the report."""
    everything = [r for of_setting in results.values() for r in of_setting]
    a, b = PAIRS[given.data]
    names = [n for n in SCORES if about["paired"] or n not in WITHOUT_LABELS[2:]]
    header = ["terms", *(SCORES[n].format(a=a, b=b) for n in names)]
    header += ["seconds", "runs", "the paper, on bone marrow"]
    return [
        "# Ablation of SCMODAL's objective",
        "",
        *preamble(given, everything),
        *describe([about]),
        "Settings are the defaults, or the preset named above, but for the weight that is set to "
        "0. Scores at the last step; mean (range) over seeds; labels are seen by none. Mixing "
        "metric: lower is better. The paper's column is on other data, CITE-seq and CyTOF of bone "
        "marrow: compare the direction.",
        "",
        *table(header, rows(results, names)),
    ]


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    bench = Bench.of(given, "ablation")
    inputs = bench.inputs(given.data)
    about = json.loads((inputs / "inputs.json").read_text())
    results: dict[str, list[dict[str, Any]]] = {key: [] for key in SETTINGS}
    name = given.name or "ablation" + "-quick" * given.quick
    for seed in given.seeds:
        for key, result in run_seed(seed, given, bench, inputs).items():
            results[key].append(result)
        bench.write(name, report(given, results, about))


if __name__ == "__main__":
    main()
