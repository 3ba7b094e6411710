"""Seconds and memory of an epoch: ``python benchmarks/speed.py``.

4,000 paired cells, 2,000 genes and 10,000, 50,000 or 200,000 peaks, or the first as four
modalities. Cases take turns; the table has the fastest epoch, which other work on the machine
disturbs least.
Writes ``benchmarks/results/<name>.md``.
"""

from __future__ import annotations

import json
import statistics
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from processes import Workplace, add_arguments
from tables import describe, epoch_seconds, gigabytes, number, preamble, table

if TYPE_CHECKING:
    from pathlib import Path

REAL_CROSS = 0.02
NETWORK = {
    "n_latent": 20,
    "n_hidden_encoder": 512,
    "n_layers_encoder": 2,
    "n_hidden_decoder": 128,
    "n_layers_decoder": 1,
    "n_hidden_discriminator": 128,
    "n_layers_discriminator": 2,
    "library": "learned",
}
"""As the peer with the published CITE-seq settings."""
PEER_NETWORK = {
    "latent_dim": 20,
    "x2u_h_dim": 512,
    "x2u_h_depth": 2,
    "u2x_h_dim": 128,
    "u2x_h_depth": 1,
    "du_h_dim": 128,
    "du_h_depth": 2,
}
PEER_LOSSES = {
    "lam_kl": 1.0,
    "lam_align": 2.0,
    "lam_joint_cross": 2.0,
    "lam_real_cross": REAL_CROSS,
    "lam_cos": 1.0,
}
PEER_DEFAULT = {
    "latent_dim": 50,
    "x2u_h_dim": 256,
    "u2x_h_dim": 256,
    "u2x_h_depth": 2,
    "du_h_dim": 256,
    "du_h_depth": 2,
}
PEER_DEFAULT_LOSSES = {
    "lam_kl": 1.0,
    "lam_align": 0.02,
    "lam_joint_cross": 0.02,
    "lam_real_cross": REAL_CROSS,
    "lam_cos": 0.02,
}
PLAN = {
    "decode_once": False,
    "lambda_kl": 1.0,
    "lambda_d": 2.0,
    "lambda_cross": 2.0,
    "lambda_real_cross": REAL_CROSS,
    "lambda_mse": 1.0,
    "lambda_contrastive": 0.0,
    "lr_schedule": "constant",
}
BF16 = {"precision": "bf16-mixed"}
TOPICS = {"model": {"likelihoods": {"atac": "topics"}}}


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    label: str
    script: str
    config: dict[str, Any]
    data: str = "timing"
    peer: bool = False


CASES = {
    "scglue": Case(
        "scglue SCCLUEModel",
        "run_scglue.py",
        {"network": PEER_NETWORK, "losses": PEER_LOSSES},
        peer=True,
    ),
    "scglue-counts": Case(
        "scglue SCCLUEModel, its default widths and weights, log counts as encoder input",
        "run_scglue.py",
        {"network": PEER_DEFAULT, "losses": PEER_DEFAULT_LOSSES, "use_reps": False},
        peer=True,
    ),
    "cantata": Case(
        "cantata CLUE, same network and decoder passes",
        "run_cantata.py",
        {"model": NETWORK, "plan": PLAN},
    ),
    "cantata-bf16": Case(
        "the same, bf16-mixed",
        "run_cantata.py",
        {"model": NETWORK, "plan": PLAN, "train": BF16},
    ),
    "cantata-once": Case(
        "cantata CLUE, same network, decoded once",
        "run_cantata.py",
        {"model": NETWORK, "plan": PLAN | {"decode_once": True}},
    ),
    "default": Case("cantata CLUE, default", "run_cantata.py", {}),
    "default-all": Case(
        "the same, decoded from each embedding", "run_cantata.py", {"plan": {"decode_once": False}}
    ),
    "default-bf16": Case("the same, bf16-mixed", "run_cantata.py", {"train": BF16}),
    "k4": Case(
        "cantata CLUE, default, K = 4, shared first layer",
        "run_cantata.py",
        {"model": {"shared_first_layer": True}},
        data="timing4",
    ),
    "k4-own": Case("the same, own first layers", "run_cantata.py", {}, data="timing4"),
    "multivi": Case("MULTIVI, default", "run_multivi.py", {}),
    "topics": Case("cantata CLUE, topics", "run_cantata.py", TOPICS),
    "wide": Case("50,000 peaks: cantata CLUE, default", "run_cantata.py", {}, data="wide"),
    "wide-topics": Case("the same, topics", "run_cantata.py", TOPICS, data="wide"),
    "wide-multivi": Case("MULTIVI, default", "run_multivi.py", {}, data="wide"),
    "widest": Case("200,000 peaks: cantata CLUE, default", "run_cantata.py", {}, data="widest"),
    "widest-topics": Case("the same, topics", "run_cantata.py", TOPICS, data="widest"),
    "widest-multivi": Case("MULTIVI, default", "run_multivi.py", {}, data="widest"),
}
QUICK = ("scglue", "cantata", "cantata-bf16", "default", "k4")


def arguments() -> Namespace:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="fewer cases, 3 epochs, once")
    add_arguments(parser)
    given = parser.parse_args()
    if given.quick:
        given.cases, given.epochs, given.repeats = list(QUICK), 3, 1
    return given


def measure(
    key: str, repeat: int, given: Namespace, workplace: Workplace, inputs: dict[str, Path]
) -> dict[str, Any]:
    """One run of a case; training is neither scored nor stopped early."""
    case = CASES[key]
    config = {"seed": repeat, "max_epochs": given.epochs, "curve": False, **case.config}
    if case.script == "run_cantata.py":
        config["train"] = {"early_stopping": False} | case.config.get("train", {})
        # epochs of decoders alone are cheaper
        config["plan"] = {"decoder_epochs": 0.0} | case.config.get("plan", {})
    return workplace.run(
        case.script, f"{key}/repeat{repeat}", inputs[case.data], config, peer=case.peer
    )


def fastest(results: list[dict[str, Any]]) -> float | None:
    """Seconds of the fastest epoch, the first of each run left out."""
    seconds = [s for r in results if "error" not in r for s in epoch_seconds(r)]
    return min(seconds) if seconds else None


def rows(results: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Cells of the table."""
    peer = fastest(results.get("scglue", []))
    others = {CASES[key].data: fastest(r) for key, r in results.items() if "multivi" in key}
    two = fastest(results.get("default", []))
    lines = []
    for key, of_case in results.items():
        label, data, best = CASES[key].label, CASES[key].data, fastest(of_case)
        other = others.get(data)
        done = [r for r in of_case if "error" not in r]
        if best is None:
            lines.append([label, "failed", of_case[0]["error"], *["–"] * 7])
            continue
        medians = [statistics.median(epoch_seconds(r)) for r in done]
        memory = [gigabytes(r["peak_memory"]) for r in done]
        before = [gigabytes(r["memory_at_start"]) for r in done]
        lines.append(
            [
                label,
                f"{best:.2f}",
                number(medians, 2),
                "–" if peer is None or data != "timing" else f"{best / peer:.3f}",
                "–" if other is None else f"{best / other:.2f}",
                "–" if two is None or not key.startswith("k4") else f"{best / two:.2f}",
                f"{done[0]['parameters']:,}",
                f"{max(memory):.2f}",
                f"{max(before):.2f}",
                str(len(done)),
            ]
        )
    return lines


def report(
    given: Namespace, results: dict[str, list[dict[str, Any]]], abouts: list[dict[str, Any]]
) -> list[str]:
    """Lines of the report."""
    everything = [r for of_case in results.values() for r in of_case]
    header = ["", "s per epoch, fastest", "median", "of scglue's", "of MULTIVI's", "of K = 2"]
    header += ["parameters", "peak memory, GB", "before training, GB", "runs"]
    return [
        "# Speed of an epoch",
        "",
        *preamble(given, everything),
        *describe(abouts),
        "Batches of 128, negative binomial likelihoods, 90 % of the cells in training and a pass "
        "over the others for validation in every epoch, encoders on 50 components of each "
        "modality. Decoder passes of the first rows: from the own sample, from the fused sample "
        "and from the other modality's, for each modality; decoded once: from one of them, drawn "
        "by weight. All networks learn in every epoch. Memory is of the whole "
        "process.",
        "",
        *table(header, rows(results)),
    ]


def main() -> None:
    """Run everything and write the report."""
    given = arguments()
    workplace = Workplace.of(given, "speed")
    names = list(dict.fromkeys(CASES[key].data for key in given.cases))
    inputs = {name: workplace.inputs(name) for name in names}
    results: dict[str, list[dict[str, Any]]] = {key: [] for key in given.cases}
    for repeat in range(given.repeats):
        for key in given.cases:
            results[key].append(measure(key, repeat, given, workplace, inputs))
    abouts = [json.loads((folder / "inputs.json").read_text()) for folder in inputs.values()]
    workplace.write(given.name or "speed" + "-quick" * given.quick, report(given, results, abouts))


if __name__ == "__main__":
    main()
