"""What is compared, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """A row of the tables."""

    label: str
    script: str
    config: dict[str, Any] = field(default_factory=dict)
    capped: bool = False
    """Whether the limits on epochs and time hold; otherwise the method plans its own end."""
    peer: bool = False
    """Whether it runs in the environment of scglue and scmidas."""
    inductive: bool = True
    """Whether it can embed cells that it was not trained on."""
    only: tuple[str, ...] = ("pbmc5k", "snare", "mosaic")
    """Data that it is run on."""

    def runs_on(self, name: str, inductive: bool) -> bool:
        """Whether it is run on these inputs."""
        return name in self.only and (self.inductive or not inductive)


PAPER_TERMS = {"lambda_contrastive": 0.0, "lambda_real_cross": 0.0, "decoder_epochs": 0.0}

METHODS = {
    "cca": Method("CCA", "run_baselines.py", {"baseline": "cca"}),
    "cantata": Method("cantata", "run_cantata.py", {"impute": True}),
    "cantata-paper": Method(
        "cantata, paper's terms",
        "run_cantata.py",
        {"impute": True, "model": {"start": "random"}, "plan": PAPER_TERMS},
    ),
    "cantata-published": Method(
        "cantata, published settings",
        "run_cantata.py",
        # its own schedule, of which only the time is capped; scored at every tenth epoch
        {"preset": True, "train": {"early_stopping": False}, "max_epochs": None, "curve": 10},
        capped=True,
    ),
    "cantata-topics": Method(
        "cantata, topics of peaks",
        "run_cantata.py",
        {"model": {"likelihoods": {"atac": "topics"}}},
        only=("snare",),
    ),
    "cantata-poisson": Method(
        "cantata, Poisson peaks",
        "run_cantata.py",
        {"model": {"likelihoods": {"atac": "poisson"}}},
        only=("snare",),
    ),
    "cantata-bernoulli": Method(
        "cantata, binary peaks",
        "run_cantata.py",
        {"model": {"likelihoods": {"atac": "bernoulli"}}},
        only=("snare",),
    ),
    "cantata-mixture": Method(
        "cantata, background and foreground",
        "run_cantata.py",
        {"impute": True, "model": {"likelihoods": {"adt": "nb_mixture"}}},
        only=("pbmc5k",),
    ),
    "scglue": Method(
        "scglue",
        "run_scglue.py",
        {"schedule": "automatic"},
        capped=True,
        peer=True,
    ),
    "scglue-scaled": Method(
        "scglue, schedule scaled",
        "run_scglue.py",
        {"schedule": "scaled"},
        capped=True,
        peer=True,
    ),
    "multivi": Method("MULTIVI", "run_multivi.py", capped=True, inductive=False),
    "midas": Method(
        "MIDAS",
        "run_midas.py",
        {"max_epochs": 65},
        capped=True,
        peer=True,
        inductive=False,
        only=("mosaic",),
    ),
    "knn": Method("30-NN", "run_baselines.py", {"baseline": "knn"}, only=("pbmc5k",)),
    "knn-cca": Method(
        "10-NN, canonical", "run_baselines.py", {"baseline": "knn-cca"}, only=("pbmc5k",)
    ),
    "types": Method("type means", "run_baselines.py", {"baseline": "types"}, only=("pbmc5k",)),
    "totalvi": Method("TOTALVI", "run_totalvi.py", capped=True, inductive=False, only=("pbmc5k",)),
}
