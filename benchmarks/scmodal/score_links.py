"""Score inferred links: ``python score_links.py FOLDER WITHOUT_FOLDER``.

Compares the correlations of ``FOLDER/links.npz`` with those of the truly paired cells in
``WITHOUT_FOLDER/links.npz`` and writes ``FOLDER/scores.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import benchpath  # noqa: F401
import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

LEVEL = 0.05
"""Pairs count as linked that correlate positively in paired cells with q below this."""


def agreement(found: np.ndarray, truth: np.ndarray, q: np.ndarray) -> dict[str, float]:
    """Spearman correlation with the truth and area under the precision-recall curve.

    Parameters
    ----------
    found
        (pairs,) what is ranked; higher is more likely a link.
    truth, q
        (pairs,) correlation in truly paired cells and its adjusted p value.

    Returns
    -------
    Over the pairs in which all three are known; a pair that the method cannot rank is last.
    """
    known = np.isfinite(truth) & np.isfinite(q)
    ranked = np.where(np.isfinite(found), found, np.nanmin(found))[known]
    linked = (truth[known] > 0) & (q[known] < LEVEL)
    return {
        "spearman": float(spearmanr(ranked, truth[known]).statistic),
        "auprc": float(average_precision_score(linked, ranked)),
        "prevalence": float(linked.mean()),
        "pairs": int(known.sum()),
    }


def main() -> None:
    """Command line."""
    folder, reference = map(Path, sys.argv[1:3])
    with np.load(reference / "links.npz") as arrays:
        truths = dict(arrays)
    with np.load(folder / "links.npz") as arrays:
        ranked = dict(arrays)
    left_out = {"truth", "truth, q", "half 0", "half 0, q", "half 1"}
    scores = {
        name: agreement(values, truths["truth"], truths["truth, q"])
        for name, values in ranked.items()
        if name not in left_out
    }
    if "half 1" in ranked:
        scores["halves"] = agreement(ranked["half 1"], ranked["half 0"], ranked["half 0, q"])
    (folder / "scores.json").write_text(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
