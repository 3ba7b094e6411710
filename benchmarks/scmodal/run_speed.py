"""Time the steps of :class:`cantata.SCMODAL`: ``python run_speed.py CONFIG.json``.

Of the configuration: ``file`` (an h5mu of ``make_large.py``), ``backed`` (leave the matrices on
the disk), ``preset``, ``model``, ``train``, ``max_steps``.
"""

from __future__ import annotations

import time
from typing import Any

import benchpath  # noqa: F401
import mudata
import pandas as pd
import scvi
import torch
from harness import Recorder, peak_memory, read_config
from lightning.pytorch.callbacks import Callback
from run_scmodal import settings
from watching import quiet

import cantata


class Clock(Callback):
    """Note the time at the end of every step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Called by the trainer."""
        self.ends.append(time.perf_counter())


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scvi.settings.seed = config["seed"]
    backed = config.get("backed", False)
    mdata = mudata.read_h5mu(config["file"], backed="r" if backed else None)
    arguments, train = settings(config)
    links = pd.DataFrame(mdata.uns["links"])
    recorder = Recorder(config)
    clock = Clock()
    marks = {"libraries and data": peak_memory()}
    recorder.watch.start()
    cantata.pp.link_features(mdata, "rna", "adt", links=links)
    marks["links"] = peak_memory()
    started = time.perf_counter()
    cantata.SCMODAL.setup_mudata(mdata, pairs=[("rna", "adt")])
    model = cantata.SCMODAL(mdata, **arguments)
    marks["model"] = peak_memory()
    prepared = time.perf_counter()
    model.train(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
        **train,
    )
    recorder.finish(
        None,
        step_seconds=[b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)],
        setup_seconds=prepared - started,
        memory=marks | {"training": peak_memory()},
        n_cells={m: mdata[m].n_obs for m in mdata.mod},
    )


if __name__ == "__main__":
    main()
