"""Every model of the package, and the docs' own, with small arguments for tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scvi
from linked_mosaics import linked_mosaic

from cantata import APOLLO, CLUE, SCMODAL

if TYPE_CHECKING:
    import mudata

    from cantata.model.base import MosaicModelClass

NOTEBOOK = Path(__file__).parents[1] / "tutorials" / "own_model.ipynb"


def docs_model() -> type[MosaicModelClass]:
    """The model of the docs page, from the cell that the page shows."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    (source,) = ["".join(c["source"]) for c in cells if "model" in c["metadata"].get("tags", [])]
    assert len(source.splitlines()) <= 100
    names: dict[str, Any] = {"__name__": "own_model"}
    exec(compile(source, str(NOTEBOOK), "exec"), names)
    return names["JointVAE"]


@dataclass(frozen=True)
class Case:
    """A model class, and small arguments for it."""

    cls: type[MosaicModelClass]
    model: dict[str, Any]
    train: dict[str, Any]
    further: dict[str, Any] = field(default_factory=dict)
    """Arguments of a short training that goes on."""
    embedding: tuple[str, ...] = ("",)
    """Endings of the keys with what a modality alone says of its cells."""

    @property
    def key(self) -> str:
        return f"X_{self.cls.method}"

    def data(self, **arguments: Any) -> mudata.MuData:
        return linked_mosaic(**arguments)

    def fit(self, mdata: mudata.MuData, setup: dict | None = None, **train: Any) -> Any:
        scvi.settings.seed = 0
        self.cls.setup_mudata(mdata, **({"batch_key": "batch"} if setup is None else setup))
        model = self.cls(mdata, **self.model)
        model.train(**self.train | QUIET | train)
        return model


QUIET = {"enable_progress_bar": False, "accelerator": "cpu", "batch_size": 16}
CASES = {
    "CLUE": Case(
        CLUE,
        {"n_latent": 4, "n_components": 5, "n_hidden_encoder": 16, "n_hidden_decoder": 16},
        {"max_epochs": 2},
    ),
    "SCMODAL": Case(
        SCMODAL, {"n_latent": 4, "n_hidden": 16, "n_hidden_discriminator": 8}, {"max_steps": 4}
    ),
    "APOLLO": Case(
        APOLLO,
        {"n_shared": 4, "n_specific": 3, "n_hidden": 8, "n_hidden_encoder": 8},
        {"max_epochs": 2, "encoder_epochs": 2},
        embedding=("_shared", "_specific"),
    ),
    "own": Case(docs_model(), {"n_latent": 4, "n_hidden": 16}, {"max_epochs": 2}),
}


def new_batch(case: Case, **arguments: Any) -> mudata.MuData:
    query = case.data(**{"seed": 4, "n_cells": 40} | arguments)
    for name in query.mod:
        query[name].obs["batch"] = "new"
    return query


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)
