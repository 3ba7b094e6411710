"""Files and functions entered from a public call to its arithmetic, traced at run time.

``python tools/hops.py`` prints a table: for each call how many files of cantata and how many
functions it enters, and the deepest chain of these functions. On simulated data, in seconds.
"""

from __future__ import annotations

import logging
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scvi

import cantata

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from mudata import MuData

Row = tuple[str, int, int, int]

ROOT = str(Path(cantata.__file__).parent)
QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}
HEADER = ("call", "files", "functions", "depth")
MODELS: dict[Any, tuple[dict, dict]] = {
    cantata.CLUE: ({}, {"max_epochs": 1}),
    cantata.SCMODAL: ({}, {"max_steps": 6, "batch_size": 50}),
    cantata.APOLLO: ({"n_shared": 8, "n_specific": 4}, {"max_epochs": 1, "encoder_epochs": 1}),
}
"""Arguments of the constructor and of ``train``."""


class Trace:
    """Functions of cantata that are entered while it is set as the profiler.

    With `inside` only those that are entered within a function of that name.
    """

    def __init__(self, inside: str | None = None) -> None:
        self.inside = inside
        self.codes: set[CodeType] = set()
        self.depth = self._depth = self._within = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Count a call or a return."""
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(ROOT):
            return
        step = 1 if event == "call" else -1
        if code.co_name == self.inside:
            self._within += step
        if self.inside is None or self._within or code.co_name == self.inside:
            self._depth = max(self._depth + step, 0)
            self.codes.add(code)
            self.depth = max(self.depth, self._depth)


def traced(name: str, call: Callable[[], Any], inside: str | None = None) -> Row:
    """Row of the table for a call."""
    trace = Trace(inside)
    sys.setprofile(trace)
    try:
        call()
    finally:
        sys.setprofile(None)
    return name, len({code.co_filename for code in trace.codes}), len(trace.codes), trace.depth


def mosaic() -> MuData:
    """Small simulated data, with links."""
    mdata = cantata.datasets.simulate_mosaic(
        n_cells=200, n_features={"rna": 100, "adt": 20}, pairing="full"
    )
    cantata.pp.link_features(mdata, "rna", "adt")
    return mdata


def model_rows(cls: Any) -> list[Row]:
    """Set-up, a minibatch, training and imputation of a model."""
    options, training = MODELS[cls]
    name, mdata = cls.__name__, mosaic()
    setup = traced(f"{name}.setup_mudata", partial(cls.setup_mudata, mdata, batch_key="batch"))
    model = cls(mdata, **options)
    train = partial(model.train, **training, **QUIET)
    return [
        setup,
        traced(f"{name}.train", train),
        traced(f"{name}, minibatch to loss", train, "training_step"),
        traced(f"{name}.impute", partial(model.impute, "adt", source="rna")),
    ]


def function_rows() -> list[Row]:
    """Preprocessing and tools."""
    pp, tl, mdata = cantata.pp, cantata.tl, mosaic()
    rows = [
        traced("pp.preprocess", partial(pp.preprocess, mdata)),
        traced("pp.link_features", partial(pp.link_features, mdata, "rna", "adt")),
    ]
    cantata.CLUE.setup_mudata(mdata, layers={"rna": "counts", "adt": "counts"})
    model = cantata.CLUE(mdata)
    model.train(1, **QUIET)
    model.write_results()
    links = {"method": "clue", "imputed": model.impute("rna", source="adt")}
    return [
        *rows,
        traced("tl.infer_links", partial(tl.infer_links, mdata, "rna", "adt", **links)),
        traced(
            "tl.interpret_latent", partial(tl.interpret_latent, mdata, "rna", use_rep="X_clue")
        ),
        traced("tl.estimate_dimensions", partial(tl.estimate_dimensions, mdata)),
    ]


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    scvi.settings.seed = 0
    rows = [row for cls in MODELS for row in model_rows(cls)] + function_rows()
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
