"""Train DIAGVI once, in its own environment: ``python run_diagvi.py CONFIG.json``.

``scvi.external.DIAGVI`` of scvi-tools 1.5 with its defaults, which include early stopping.
Likelihoods: negative binomial for RNA, its mixture with background for proteins, normal for
values that are no counts. Of the configuration: ``pair``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import benchpath  # noqa: F401
import numpy as np
import scvi
import torch
from harness import Recorder, read_config
from lightning.pytorch.callbacks import Callback
from scvi.external import DIAGVI
from unpaired import Unpaired
from watching import quiet

if TYPE_CHECKING:
    from harness import Arrays


class Limit(Callback):
    """Note the end of every epoch and stop at the time limit."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Called by the trainer."""
        if self.recorder.epoch_end(None):
            trainer.should_stop = True


def likelihood(inputs: Unpaired, modality: str) -> str:
    """What the documentation names for the kind of values."""
    if not inputs.counts(modality):
        return "normal"
    return "nbmixture" if modality == "adt" else "nb"


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scvi.settings.seed = config["seed"]
    inputs = Unpaired.read(config["inputs"])
    a, b = config["pair"]
    modalities = {m: inputs.modalities[m] for m in (a, b)}
    recorder = Recorder(config)
    recorder.watch.start()
    for m, adata in modalities.items():
        DIAGVI.setup_anndata(adata, likelihood=likelihood(inputs, m))
    table = inputs.table(a, b).rename(columns={"source": a, "target": b})
    graph = DIAGVI.construct_custom_guidance_graph(modalities, table)
    model = DIAGVI(modalities, guidance_graph=graph)
    limits = {"max_epochs": config["max_epochs"]} if "max_epochs" in config else {}
    model.train(accelerator="cpu", callbacks=[Limit(recorder)], **limits)

    def embed() -> Arrays:
        return {m: x.astype(np.float32) for m, x in model.get_latent_representation().items()}

    recorder.finish(embed)


if __name__ == "__main__":
    main()
