"""The report of ``run.py``: one table of costs and scores per data set, then imputation."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from tables import gigabytes, spread, table

if TYPE_CHECKING:
    from collections.abc import Iterable

Results = dict[str, list[dict[str, Any]]]
"""Results of every row, one per seed."""

LEVELS = {"label": "labels", "coarse": "second level of labels"}
TRANSFER = {
    "1-NN, a to b": "1-NN {a} to {b}",
    "1-NN, b to a": "1-NN {b} to {a}",
    "20-NN, a to b": "20-NN {a} to {b}",
    "20-NN, b to a": "20-NN {b} to {a}",
    "ASW": "ASW",
}
WITHOUT_LABELS = ("mixing", "kBET", "FOSCTTM", "pair distance")
DIGITS = {"mixing": 1}


def describe(abouts: Iterable[dict[str, Any]]) -> list[str]:
    """Table of the inputs."""
    rows = []
    for about in abouts:
        shapes = "; ".join(
            f"{m} {v['cells']:,} x {v['features']:,} ({100 * v['nonzero']:.1f} % not zero)"
            for m, v in about["modalities"].items()
        )
        links = "; ".join(f"{a}–{b} {n:,}" for a, b, n in about["links"])
        first = next(iter(about["modalities"].values()))
        levels = f"{about['label']}: {first['labels']}, {first['coarse']}"
        known = "same cells, pairing hidden" if about["paired"] else "different cells"
        rows.append([about["name"], about["file"], shapes, links, levels, known, about["note"]])
    header = ["data", "file", "modalities", "links", "labels, classes of both levels"]
    return table([*header, "cells", "note"], rows)


def score_tables(results: Results, labels: dict[str, str]) -> list[str]:
    """Tables of one data set, one per pair of modalities and level of labels.

    Parameters
    ----------
    results
        Results of every row.
    labels
        Names of the rows.
    """
    pairs = list(
        dict.fromkeys(
            name
            for of_row in results.values()
            for r in of_row
            for name in r.get("points", [{}])[-1].get("scores", ())
        )
    )
    lines = []
    # the same modalities with another view of the features belong to one table
    for suffix in ("", ", clean"):
        chosen = [p for p in pairs if p.endswith(", clean") == bool(suffix)]
        groups: dict[tuple[str, ...], list[str]] = {}
        for p in chosen:
            groups.setdefault(_group(p), []).append(p)
        for group, members in groups.items():
            a, b = group
            title = f"{a} and {b}" + (", without doublets and cells of low quality" * bool(suffix))
            lines += [f"### {title}", ""]
            for level, words in LEVELS.items():
                lines += [f"{words.capitalize()}:", ""]
                lines += _level_table(results, labels, members, level, a, b, full=not suffix)
    return lines + _failures(results, labels)


def _group(pair: str) -> tuple[str, str]:
    a, b = pair.removesuffix(", clean").split("|")
    return a, "atac" if b == "activity" else b


def _level_table(
    results: Results,
    labels: dict[str, str],
    pairs: list[str],
    level: str,
    a: str,
    b: str,
    *,
    full: bool,
) -> list[str]:
    """One table: scores on a level, and on the first level costs and scores without labels."""
    whole = full and level == "label"
    extra = [n for n in WITHOUT_LABELS if any(_values(r, pairs, n) for r in results.values())]
    header = ["method", "runs", *(text.format(a=a, b=b) for text in TRANSFER.values())]
    header += [*extra, "seconds", "processor s", "peak memory, GB", "steps"] if whole else []
    rows = []
    for key, of_row in results.items():
        scored = _values(of_row, pairs, f"{level} ASW")
        if not scored:
            continue
        cells = [spread(_values(of_row, pairs, f"{level} {name}")) for name in TRANSFER]
        if whole:
            cells += [spread(_values(of_row, pairs, n), DIGITS.get(n, 3)) for n in extra]
            cells += _costs(of_row)
        rows.append([labels[key], str(len(scored)), *cells])
    return table(header, rows)


def _values(of_row: list[dict[str, Any]], pairs: list[str], name: str) -> list[float]:
    found = []
    for result in of_row:
        scores = result.get("points", [{}])[-1].get("scores", {}) if result.get("points") else {}
        found += [scores[p][name] for p in pairs if p in scores and name in scores[p]]
    return found


def _costs(of_row: list[dict[str, Any]]) -> list[str]:
    done = [r for r in of_row if "error" not in r]
    steps = [r["steps"] for r in done if "steps" in r]
    return [
        spread([r["total_seconds"] for r in done], 1),
        spread([r["cpu_seconds"] for r in done], 1),
        spread([gigabytes(r["peak_memory"]) for r in done], 2),
        spread(steps, 0),
    ]


def _failures(results: Results, labels: dict[str, str]) -> list[str]:
    failed = [
        f"* {labels[key]}: failed, {r['error']}"
        for key, of_row in results.items()
        for r in of_row
        if "error" in r
    ]
    return [*failed, ""] if failed else []


def imputation_table(results: Results, labels: dict[str, str], name: str) -> list[str]:
    """Correlations of one kind of imputed values, per feature or type, and their mean.

    Parameters
    ----------
    results, labels
        As in :func:`score_tables`.
    name
        ``"proteins"`` or ``"genes"``.
    """
    columns = {
        (key, how): [r[name][how] for r in of_row if how in r.get(name, {})]
        for key, of_row in results.items()
        for how in ("own", "neighbours")
    }
    columns = {key: found for key, found in columns.items() if found}
    if not columns:
        return []
    features = [f for f in next(iter(columns.values()))[0] if f != "mean"]
    ways = {"own": "", "neighbours": ", 30 neighbours"}
    header = ["", *(labels[key] + ways[how] for key, how in columns)]
    means = [[statistics.fmean(r[f] for f in features) for r in c] for c in columns.values()]
    if name == "genes":
        means = [[r["mean"] for r in c] for c in columns.values()]
    rows = [["**mean**", *(f"**{spread(values)}**" for values in means)]]
    rows += [
        [feature, *(spread([r[feature] for r in found]) for found in columns.values())]
        for feature in features
    ]
    return table(header, rows)


def order_table(results: Results, labels: dict[str, str]) -> list[str]:
    """Label transfer of every pair of modalities for every order of the chain.

    Each of the two measures is a row per pair; the last column is the largest difference between
    the orders.
    """
    scores = {
        key: [r["points"][-1]["scores"] for r in of_row if r.get("points")]
        for key, of_row in results.items()
    }
    scores = {key: found for key, found in scores.items() if found}
    if not scores:
        return []
    rows = []
    for pair in next(iter(scores.values()))[0]:
        a, b = pair.split("|")
        for k in ("1-NN", "20-NN"):
            for way, direction in (("a to b", f"{a} to {b}"), ("b to a", f"{b} to {a}")):
                values = [
                    [s[pair][f"label {k}, {way}"] for s in found] for found in scores.values()
                ]
                means = [statistics.fmean(v) for v in values]
                rows.append([f"{k} {direction}", *map(spread, values)])
                rows[-1].append(f"{max(means) - min(means):.3f}")
    header = ["label transfer", *(labels[key] for key in scores), "largest difference"]
    return table(header, rows)
