"""What is compared, on which data, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PAIRS = {
    "pbmc5k": ("rna", "adt"),
    "pbmc5k-11": ("rna", "adt"),
    "pbmc-cytof": ("rna", "cytof"),
    "spleen": ("rna", "adt"),
    "snare": ("rna", "activity"),
    "pbmc5k-hidden": ("rna", "adt"),
}
"""Data sets of two modalities; the second modality is what links are known to."""
CHAINS = {
    "pbmc-three": ("rna", "adt", "cytof"),
    "simulated-three": ("rna", "adt", "atac"),
}
"""Data sets of three modalities, each of which is the middle of the chain once."""
WITH_PROTEINS = ("pbmc5k", "pbmc5k-11", "pbmc-cytof", "spleen")


@dataclass(frozen=True)
class Method:
    """A row of the tables."""

    label: str
    script: str
    environment: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    capped: bool = False
    """Whether the limit on time holds; otherwise the method plans its own end."""
    seeded: bool = True
    """Whether another seed gives another result."""
    only: tuple[str, ...] = tuple(PAIRS)
    """Data that it is run on."""
    pair: tuple[str, str] | None = None
    """Modalities that it integrates where they are not those of the data set."""


METHODS = {
    "linked": Method("linked features, untrained", "run_linked.py", seeded=False),
    "linked-smooth": Method(
        "linked features, smoothed, untrained",
        "run_linked.py",
        config={"smooth": True},
        seeded=False,
    ),
    "scmodal": Method("SCMODAL", "run_scmodal.py"),
    "scmodal-peaks": Method(
        "SCMODAL, all peaks", "run_scmodal.py", only=("snare",), pair=("rna", "atac")
    ),
    "scmodal-published": Method(
        "SCMODAL, published settings",
        "run_scmodal.py",
        config={"preset": "published"},
        capped=True,
    ),
    "maxfuse": Method("MaxFuse", "run_maxfuse.py", "maxfuse"),
    "diagvi": Method("DIAGVI", "run_diagvi.py", "diagvi", capped=True, only=WITH_PROTEINS),
    "glue": Method(
        "GLUE", "run_glue.py", "scglue", capped=True, only=("snare",), pair=("rna", "atac")
    ),
    "knn-paired": Method(
        "k-NN, pairs known",
        "run_linked.py",
        config={"paired": True},
        seeded=False,
        only=("pbmc5k-hidden",),
    ),
}
"""Peers and baselines; what is untrained and not random runs once."""
IMPUTING = ("linked-smooth", "scmodal", "maxfuse", "knn-paired")
"""Methods of the table of hidden proteins."""


def chain(middle: str, names: tuple[str, ...]) -> list[list[str]]:
    """Pairs of a chain with this modality in the middle."""
    first, last = (name for name in names if name != middle)
    return [[first, middle], [middle, last]]
