"""Markdown from results: numbers, tables, and the lines that every report starts with."""

from __future__ import annotations

import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Sequence

PATHS = ("--resume", "--work", "--scglue-python")
"""Options that name paths."""


def number(values: Sequence[float], digits: int) -> str:
    """Mean, with the standard deviation over runs where there are several."""
    if not values:
        return "–"
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def spread(values: Iterable[float | None], digits: int = 3) -> str:
    """Mean, with the range over runs where there are several; None is no run."""
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    text = f"{statistics.fmean(known):.{digits}f}"
    if len(known) == 1:
        return text
    return f"{text} ({min(known):.{digits}f}–{max(known):.{digits}f})"


def with_error(values: Sequence[float], digits: int = 3, sign: Literal["", "+"] = "") -> str:
    """Mean, with its standard error where there are several values; differences have a sign."""
    text = f"{statistics.fmean(values):{sign}.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def epoch_seconds(result: dict[str, Any]) -> list[float]:
    """Seconds of the epochs after the first, which also holds all preparation."""
    return result["epoch_seconds"][1:] or result["epoch_seconds"]


def gigabytes(n_bytes: float) -> float:
    """Bytes in units of 2^30."""
    return n_bytes / 2**30


def preamble(given: Namespace, results: Sequence[dict[str, Any]]) -> list[str]:
    """Machine, versions, load and options of a report; no paths."""
    done = [result for result in results if "error" not in result]
    if not done:
        return ["No run has finished.", ""]
    machine = done[0]["machine"]
    loads = [value for result in done for value in result["load_average"].values()]
    found: dict[str, set[str]] = {}
    for result in done:
        for package, version in result["versions"].items():
            found.setdefault(package, set()).add(version)
    options = {k: v for k, v in vars(given).items() if not isinstance(v, Path) and v is not None}
    threads = options.pop("threads")
    return [
        f"* {time.strftime('%Y-%m-%d')}; {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}; "
        f"threads: {threads}, no accelerator.",
        f"* Load average {min(loads):.1f} to {max(loads):.1f} (one process at a time is timed; "
        f"a load above {threads} means that others were at work).",
        "* " + ", ".join(f"{p} {' / '.join(sorted(v))}" for p, v in sorted(found.items())) + ".",
        "* Options: " + ", ".join(f"{k}={_plain(v)}" for k, v in sorted(options.items())) + ".",
        "",
    ]


def command() -> str:
    """How this program was called, without paths."""
    program = Path(sys.argv[0]).resolve().relative_to(Path(__file__).resolve().parents[1])
    words, hidden = [str(program)], False
    for word in sys.argv[1:]:
        if not hidden and word not in PATHS:
            words.append(shlex.quote(word))
        hidden = word in PATHS
    return f"* `python {' '.join(words)}`"


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def describe(abouts: Iterable[dict[str, Any]]) -> list[str]:
    """Table of the inputs."""
    rows = []
    for about in abouts:
        shapes = "; ".join(
            f"{m} {v['cells']:,} x {v['features']:,} ({100 * v['nonzero']:.1f} % not zero), "
            f"{about['reps'][m]} {v['components']}"
            for m, v in about["modalities"].items()
        )
        use = "inductive" if about["inductive"] else "transductive"
        rows.append(
            [
                about["name"],
                about["file"],
                shapes,
                f"{about['n_cells']:,}",
                f"{about['n_test']:,}",
                about["label"],
                use if about["kind"] == "split" else "–",
            ]
        )
    header = ["data", "file", "modalities", "cells", "of them test", "labels", "use"]
    return table(header, rows)
