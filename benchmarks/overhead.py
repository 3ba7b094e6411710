"""What is not the network: ``python benchmarks/overhead.py``.

Encoding all cells beside a bare loop of the same network over minibatches that are ready, and
loading as a share of a training step. Processor time on one thread, the least of several turns.
Writes ``results/<name>.md``.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any

import numpy as np
import scvi
import torch
from data import SOURCES, load, simulate
from lightning.pytorch.callbacks import Callback
from mudata import MuData
from processes import HERE
from tables import table
from watching import quiet

import cantata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CASES = [(model, data) for data in ("pbmc5k", "timing") for model in ("CLUE", "APOLLO", "SCMODAL")]
CASES.remove(("SCMODAL", "timing"))  # no known links
TURNS, STEPS, WARMUP, BATCH_SIZE = 5, 30, 5, 128
HEADER = ["", "data", "modality", "encoding, s", "bare loop, s", "loop's share"]


class Clock(Callback):
    """Processor time of steps and, within it, of the loader."""

    def __init__(self) -> None:
        self.load = 0.0
        self.steps: list[tuple[float, float]] = []

    def read(self, make: Callable[[Any, Any], Any], dataset: Any, index: Any) -> Any:
        """A minibatch of a dataset."""
        began = time.process_time()
        minibatch = make(dataset, index)
        self.load += time.process_time() - began
        return minibatch

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Called by the trainer."""
        self.steps.append((time.process_time(), self.load))
        if len(self.steps) == WARMUP + STEPS:
            trainer.should_stop = True
            trainer.limit_train_batches = 0

    def share(self) -> tuple[float, float]:
        """Milliseconds of a step, and the share of loading."""
        ends = np.array(self.steps[WARMUP - 1 :])
        step, load = np.median(np.diff(ends, axis=0), axis=0)
        return 1000 * step, load / step


def trained(name: str, data: str) -> tuple[Any, Clock]:
    """A model after some steps, and their times."""
    mdata = MuData(load(data, None) if data in SOURCES else simulate(data, None)[0])
    if name == "SCMODAL":
        cantata.pp.link_features(mdata, *mdata.mod)
    cls, clock = getattr(cantata, name), Clock()
    cls.setup_mudata(mdata)
    model = cls(mdata)
    epochs = {"max_epochs": 2} | ({"encoder_epochs": 2} if name == "APOLLO" else {})
    kinds = [cantata.data.MosaicDataset, cantata.data.UnpairedDataset]
    makers = [kind.__getitem__ for kind in kinds]
    for kind, make in zip(kinds, makers, strict=True):
        kind.__getitem__ = lambda self, index, make=make: clock.read(make, self, index)
    model.train(
        **epochs,
        accelerator="cpu",
        callbacks=[clock],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    for kind, make in zip(kinds, makers, strict=True):
        kind.__getitem__ = make
    return model, clock


def least(function: Callable[[], Any]) -> float:
    """Processor seconds."""
    found = []
    for _ in range(TURNS):
        began = time.process_time()
        function()
        found.append(time.process_time() - began)
    return min(found)


@torch.inference_mode()
def encoding(model: Any) -> Iterator[tuple[str, float, float]]:
    """Modality, seconds of encoding all its cells, and of the network on ready minibatches."""
    cells = model._cells(None)
    for name in (*model.modalities, None):
        chosen = np.arange(cells.mdata.n_obs) if name is None else cells.of_modality(name)
        ready = list(model._minibatches(cells, chosen, BATCH_SIZE, name))
        whole = least(lambda name=name: model.get_latent_representation(modality=name))
        bare = least(lambda name=name, ready=ready: [model._embed(t, name) for t in ready])
        yield name or "all", whole, bare


def main() -> None:
    """Measure and write the report."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="overhead", help="name of the report")
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    encoded, loaded = [], []
    for name, data in CASES:
        scvi.settings.seed = 0
        model, clock = trained(name, data)
        ms, share = clock.share()
        loaded.append([name, data, f"{ms:.1f}", f"{100 * share:.1f} %"])
        for modality, whole, bare in encoding(model):
            ratio = f"{bare / whole:.2f}"
            encoded.append([name, data, modality, f"{whole:.3f}", f"{bare:.3f}", ratio])
            print(*encoded[-1], *loaded[-1][2:], flush=True)
    text = [
        "# What is not the network",
        "",
        f"`python benchmarks/overhead.py`, {time.strftime('%Y-%m-%d')}, torch "
        f"{torch.__version__}; "
        "processor time on one thread. pbmc5k: 3,920 cells with 4,000 genes and 29 proteins; "
        "timing: 4,000 cells with 2,000 genes and 10,000 peaks; minibatches of 128.",
        "",
        *table(HEADER, encoded),
        *table(["training", "data", "ms per step", "of it loading"], loaded),
    ]
    (HERE / "results" / f"{given.name}.md").write_text("\n".join(text).rstrip() + "\n")


if __name__ == "__main__":
    main()
