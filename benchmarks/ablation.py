"""Repeat the paper's ablation (Tu et al. 2022, Table 5): ``python benchmarks/ablation.py``.

The eight on/off settings of cross loss, closeness loss and discriminator without the contrastive
term, and the full objective with it. With ``--paper`` encoders start at random, and nothing is
decoded from another modality alone. Writes ``benchmarks/results/<name>.md``, anew after each seed.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from processes import Workplace, add_arguments
from tables import describe, number, preamble, table

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = ("lambda_cross", "lambda_mse", "lambda_d", "lambda_contrastive")
PAPER_MODEL, PAPER_PLAN = {"start": "random"}, {"lambda_real_cross": 0.0}
PAPER_NOTE = ", but a random start and no decoding from another modality alone"


@dataclass(frozen=True)
class Setting:
    """A row of the table: which terms are on."""

    cross: bool
    closeness: bool
    discriminator: bool
    contrastive: bool = False
    published: float | None = None
    """Matching score of the paper, on other data: competition's test cells, fine-tuned on them."""

    @property
    def key(self) -> str:
        """Name of the setting's folder."""
        return "".join("01"[on] for on in self.switches)

    @property
    def switches(self) -> tuple[bool, bool, bool, bool]:
        """State of the terms in the order of the weights."""
        return (self.cross, self.closeness, self.discriminator, self.contrastive)

    @property
    def plan(self) -> dict[str, float]:
        """Weights that differ from the default."""
        return {name: 0.0 for name, on in zip(WEIGHTS, self.switches, strict=True) if not on}


SETTINGS = (
    Setting(False, False, False, published=0.0001),
    Setting(True, False, False, published=0.0250),
    Setting(False, True, False, published=0.0253),
    Setting(False, False, True, published=0.0115),
    Setting(False, True, True, published=0.0444),
    Setting(True, False, True, published=0.0451),
    Setting(True, True, False, published=0.0284),
    Setting(True, True, True, published=0.0539),
    Setting(True, True, True, contrastive=True),
)


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("pbmc5k", "snare"), default="pbmc5k")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--paper", action="store_true", help="without what is not in the paper")
    parser.add_argument("--epochs", type=int, help="epochs of every setting, by default CLUE's")
    parser.add_argument("--quick", action="store_true", help="one seed, 8 epochs")
    add_arguments(parser)
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.epochs = given.seeds[:1], 8
    return given


def run_seed(seed: int, given: Namespace, workplace: Workplace, inputs: Path) -> dict[str, dict]:
    """Results of all settings with one seed."""
    results = {}
    for setting in SETTINGS:
        config = {
            "seed": seed,
            "max_epochs": given.epochs,
            "curve": False,
            "model": PAPER_MODEL if given.paper else {},
            "plan": setting.plan | (PAPER_PLAN if given.paper else {}),
            # all settings train equally long
            "train": {"early_stopping": False},
        }
        label = f"{setting.key}/seed{seed}"
        results[setting.key] = workplace.run("run_cantata.py", label, inputs, config)
    labels = [f"{key}/seed{seed}" for key, result in results.items() if "error" not in result]
    scored = workplace.score(labels)
    return results | {label.split("/")[0]: result for label, result in scored.items()}


def rows(results: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Cells of the table."""
    lines = []
    for setting in SETTINGS:
        of_setting = results[setting.key]
        ends = [r["points"][-1]["scores"] for r in of_setting if "error" not in r]
        failed = [r["error"] for r in of_setting if "error" in r]
        transfer = [name for name in (ends[0] if ends else {}) if " to " in name]
        lines.append(
            ["x" if on else "" for on in setting.switches]
            + [number([e["matching"] for e in ends], 4), number([e["foscttm"] for e in ends], 4)]
            + [number([sum(e[name] for name in transfer) / 2 for e in ends], 3)]
            + ["–" if setting.published is None else f"{setting.published:.4f}"]
            + [failed[0] if failed else str(len(ends))]
        )
    return lines


def report(
    given: Namespace, results: dict[str, list[dict[str, Any]]], about: dict[str, Any]
) -> list[str]:
    """Lines of the report."""
    everything = [r for of_setting in results.values() for r in of_setting]
    header = ["cross", "closeness", "discriminator", "contrastive", "matching score", "FOSCTTM"]
    header += ["label transfer, mean of both directions", "matching score of the paper", "runs"]
    return [
        "# Ablation of CLUE's objective",
        "",
        *preamble(given, everything),
        *describe([about]),
        f"Defaults otherwise{PAPER_NOTE if given.paper else ''}, no early stopping, transductive. "
        "The self-linked likelihood is always on. The paper's column is on other data (bone "
        "marrow, mean of CITE-seq and multiome): compare the order, not the numbers. Its "
        "objective has no contrastive term.",
        "",
        *table(header, rows(results)),
    ]


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    workplace = Workplace.of(given, "ablation")
    inputs = workplace.inputs(given.data)
    about = json.loads((inputs / "inputs.json").read_text())
    results: dict[str, list[dict[str, Any]]] = {setting.key: [] for setting in SETTINGS}
    name = given.name or "ablation" + "-quick" * given.quick
    for seed in given.seeds:
        for key, result in run_seed(seed, given, workplace, inputs).items():
            results[key].append(result)
        workplace.write(name, report(given, results, about))


if __name__ == "__main__":
    main()
