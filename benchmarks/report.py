"""The report of ``run.py``: scores, score against time, proteins."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from methods import METHODS
from tables import epoch_seconds, gigabytes, number, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TIMES = (2, 5, 10, 20, 30, 60, 120, 300, 600, 1200)
BETTER: dict[str, Callable[[Sequence[float]], float]] = {"foscttm": min}
"""Scores of which less is better; of all others more is."""
NAMES = {"foscttm": "FOSCTTM", "matching": "matching score", "nmi": "Leiden NMI"}

Runs = dict[str, list[dict[str, Any]]]
"""Results of every method, one per seed."""


def score_names(runs: Runs) -> list[str]:
    """Scores of these inputs, in order."""
    points = [p for results in runs.values() for r in results for p in r.get("points", ())]
    return list(dict.fromkeys(name for point in points for name in point["scores"]))


def scores_table(runs: Runs) -> list[str]:
    """One row per method at the end of its training, and one at its best for capped ones."""
    names = score_names(runs)
    header = ["method", "runs", *(NAMES.get(n, n) for n in names), "epochs", "s per epoch"]
    header += ["s in total", "processor s", "peak memory, GB"]
    rows = []
    for key, results in runs.items():
        method = METHODS[key]
        done = [r for r in results if "error" not in r and r["points"]]
        rows += [
            [method.label, "failed", r["error"], *["–"] * (len(header) - 3)]
            for r in results
            if "error" in r
        ]
        if not done:
            continue
        ends = [r["points"][-1]["scores"] for r in done]
        rows.append(
            [method.label, str(len(done))]
            + [number([end[n] for end in ends], digits(n)) for n in names]
            + costs(done)
        )
        if method.capped and len(done[0]["points"]) > 1:
            best = [[best_of(r["points"], n)[0] for r in done] for n in names]
            rows.append(
                [f"{method.label}, at its best epoch", str(len(done))]
                + [number(values, digits(n)) for n, values in zip(names, best, strict=True)]
                + ["–"] * 5
            )
    return table(header, rows)


def digits(name: str) -> int:
    """Decimals to print of a score."""
    return 4 if name in ("foscttm", "matching") else 3


def costs(done: list[dict[str, Any]]) -> list[str]:
    """Epochs of those planned, median seconds of an epoch, in total, of the processor; memory."""
    seconds = [statistics.median(epoch_seconds(r)) for r in done if r["epoch_seconds"]]
    planned = {r.get("planned_epochs") for r in done} - {None}
    return [
        number([r["epochs"] for r in done], 0) + "".join(f" of {n}" for n in sorted(planned)),
        number(seconds, 2),
        number([r["total_seconds"] for r in done], 1),
        number([r["cpu_seconds"] for r in done], 1),
        number([gigabytes(r["peak_memory"]) for r in done], 2),
    ]


def best_of(points: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """Best value of a score along a run, and the seconds after which it was first reached."""
    value = BETTER.get(name, max)([p["scores"][name] for p in points])
    return value, next(p["seconds"] for p in points if p["scores"][name] == value)


def curve_table(runs: Runs, name: str) -> list[str]:
    """A score after some seconds of training, mean over runs."""
    curves = {
        key: [r["points"] for r in results if "error" not in r and len(r["points"]) > 1]
        for key, results in runs.items()
    }
    curves = {key: found for key, found in curves.items() if found}
    if not curves:
        return []
    rows = []
    for seconds in TIMES:
        cells = []
        for found in curves.values():
            last = [[p for p in points if p["seconds"] <= seconds][-1:] for points in found]
            known = [points[0]["scores"][name] for points in last if points]
            ended = all(points and points[0]["epoch"] == "end" for points in last)
            complete = len(known) == len(found)
            cells.append(f"{statistics.fmean(known):.4f}{' (end)' * ended}" if complete else "–")
        rows.append([str(seconds), *cells])
        if all(cell.endswith("(end)") for cell in cells):
            break
    return table(["seconds", *(METHODS[key].label for key in curves)], rows)


def reach_table(runs: Runs, ours: Sequence[str], peers: Sequence[str]) -> list[str]:
    """When ours first reaches the best that a peer reaches at any epoch of the same seed."""
    rows = []
    for peer in peers:
        for key in ours:
            pairs = same_seeds(runs.get(key, []), runs.get(peer, []))
            rows += [
                [METHODS[key].label, METHODS[peer].label, NAMES[name], *reach(pairs, name)]
                for name in ("foscttm", "matching")
                if pairs
            ]
    header = ["ours", "peer", "score", "peer's best", "peer, s", "ours, s", "ours / peer"]
    return table([*header, "ours at the end"], rows) if rows else []


def same_seeds(
    first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> list[tuple[list[dict], list[dict]]]:
    """Points of the runs of two methods that have a seed in common."""
    curves = [
        {r["config"]["seed"]: r["points"] for r in results if r.get("points")}
        for results in (first, second)
    ]
    return [(curves[0][seed], curves[1][seed]) for seed in curves[0] if seed in curves[1]]


def reach(pairs: list[tuple[list[dict], list[dict]]], name: str) -> list[str]:
    """Cells of :func:`reach_table` for one score."""
    better = BETTER.get(name, max)
    bests, theirs, mine, ends = [], [], [], []
    for ours, peer in pairs:
        value, seconds = best_of(peer, name)
        bests.append(value)
        theirs.append(seconds)
        ends.append(ours[-1]["scores"][name])
        reached = [
            p["seconds"] for p in ours if better([p["scores"][name], value]) == p["scores"][name]
        ]
        if reached:
            mine.append(reached[0])
    if len(mine) < len(pairs):
        when, ratio = f"not in {len(pairs) - len(mine)} of {len(pairs)} runs", "–"
    else:
        when = number(mine, 1)
        ratio = number([a / b for a, b in zip(mine, theirs, strict=True)], 3)
    return [number(bests, 4), number(theirs, 1), when, ratio, number(ends, 4)]


def protein_table(runs: Runs) -> list[str]:
    """Correlation of imputed and hidden log counts for each protein, and their mean.

    Above it the calibration of means of types.
    """
    found, calibration = (
        {key: scored for key, r in runs.items() if (scored := [x[part] for x in r if part in x])}
        for part in ("proteins", "calibration")
    )
    if not found:
        return []
    proteins = list(next(iter(found.values()))[0])
    means = [
        number([statistics.fmean(r.values()) for r in results], 3) for results in found.values()
    ]
    rows = [["**mean**", *(f"**{mean}**" for mean in means)]]
    rows += [
        [name, *(number([c[name] for c in results], 2) for results in calibration.values())]
        for name in next(iter(calibration.values()))[0]
    ]
    rows += [
        [protein, *(f"{statistics.fmean(r[protein] for r in found[key]):.3f}" for key in found)]
        for protein in proteins
    ]
    return table(["protein", *(METHODS[key].label for key in found)], rows)
