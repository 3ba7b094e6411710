"""Train the peer's CLUE once, in its own environment: ``python run_scglue.py CONFIG.json``.

``scglue.models.SCCLUEModel`` of scglue 0.4.1 with the settings of the runs behind the published
scores. Of the configuration: ``schedule``: ``"automatic"`` (the library's own) or ``"scaled"``
(its burn-in, patience and plateau in the same proportion to the epochs that are allowed).
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import ignite
import numpy as np
import scglue
import torch
from harness import Recorder, read_config
from inputs import Inputs, joint, unit
from scglue.models.base import TrainingPlugin
from scglue.models.scclue import SCCLUEModel
from watching import quiet, undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Arrays

PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "cite": {
        "network": {
            "latent_dim": 20,
            "x2u_h_depth": 2,
            "x2u_h_dim": 512,
            "u2x_h_depth": 1,
            "u2x_h_dim": 128,
            "du_h_depth": 2,
            "du_h_dim": 128,
            "dropout": 0.2,
        },
        "losses": {
            "lam_data": 1.0,
            "lam_kl": 1.0,
            "lam_align": 2.0,
            "lam_joint_cross": 2.0,
            "lam_real_cross": 0.0,
            "lam_cos": 1.0,
            "normalize_u": True,
            "lr": 2e-3,
        },
    },
    "multiome": {
        "network": {
            "latent_dim": 50,
            "x2u_h_depth": 2,
            "x2u_h_dim": 512,
            "u2x_h_depth": 1,
            "u2x_h_dim": 256,
            "du_h_depth": 1,
            "du_h_dim": 256,
            "dropout": 0.2,
        },
        "losses": {
            "lam_data": 1.0,
            "lam_kl": 0.3,
            "lam_align": 0.02,
            "lam_joint_cross": 1.0,
            "lam_real_cross": 0.0,
            "lam_cos": 0.02,
            "normalize_u": True,
            "lr": 2e-3,
        },
    },
}
"""Settings of the competition entry; its objective has no real-cross term."""


class Watch(TrainingPlugin):
    """Note the end of every epoch after the library's handlers; stop at the time limit."""

    def __init__(self, recorder: Recorder, look: Callable[[], Arrays] | None) -> None:
        super().__init__()
        self.recorder, self.look = recorder, look

    def attach(self, train_engine: ignite.engine.Engine, **others: Any) -> None:
        """Called by the trainer."""

        @train_engine.on(ignite.engine.Events.EPOCH_COMPLETED)
        def _(engine: ignite.engine.Engine) -> None:
            if self.recorder.epoch_end(self.look):
                engine.terminate()


def schedule(config: dict[str, Any]) -> dict[str, int]:
    """Arguments of ``fit`` that plan the epochs."""
    epochs = config["max_epochs"]
    if config.get("schedule", "automatic") == "automatic":
        return {"max_epochs": epochs}
    share = epochs / SCCLUEModel.MAX_EPOCH_PRG
    return {
        "max_epochs": epochs,
        "align_burnin": max(1, math.ceil(share * SCCLUEModel.ALIGN_BURNIN_PRG)),
        "patience": max(2, math.ceil(share * SCCLUEModel.PATIENCE_PRG)),
        "reduce_lr_patience": max(1, math.floor(share * SCCLUEModel.REDUCE_LR_PATIENCE_PRG)),
    }


def embed(model: SCCLUEModel, inputs: Inputs) -> Arrays:
    """Embeddings that are scored: of halves, or of all cells of a mosaic."""
    with undisturbed(model.net):
        found = {m: unit(model.encode_data(m, a)) for m, a in inputs.scored.items()}
    return {"joint": joint(inputs, found)} if inputs.kind == "mosaic" else found


def configure(adatas: dict[str, Any], inputs: Inputs, use_reps: bool) -> None:
    """Negative binomial counts in ``.X``, encoders on the shared representation, pairs by name."""
    for name, adata in adatas.items():
        adata.var_names = adata.var_names.astype(object)
        scglue.models.configure_dataset(
            adata,
            "NB",
            use_highly_variable=False,
            use_rep=inputs.reps[name] if use_reps else None,
            use_batch=inputs.batch_key,
            use_obs_names=True,
        )


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scglue.config.CPU_ONLY = True
    scglue.log.console_log_level = 40
    np.random.seed(config["seed"])  # noqa: NPY002
    inputs = Inputs.read(config["inputs"])
    adatas = inputs.training
    published = PUBLISHED[inputs.about["preset"]]
    network = published["network"] | config.get("network", {})
    losses = published["losses"] | config.get("losses", {})
    recorder = Recorder(config)
    recorder.watch.start()
    configure(adatas, inputs, config.get("use_reps", True))
    model = SCCLUEModel(
        adatas,
        shared_batches=inputs.about["shared_batches"],
        random_seed=config["seed"],
        **network,
    )
    model.compile(**losses)
    look = None if inputs.kind == "timing" else lambda: embed(model, inputs)
    # SCCLUEModel.fit has no argument for plugins, the trainer behind it has
    model.trainer.fit = partial(model.trainer.fit, plugins=[Watch(recorder, look)])
    model.fit(
        adatas,
        batch_size=128,
        val_split=0.1,
        directory=recorder.folder / "training",
        **schedule(config),
    )
    recorder.finish(
        look,
        metric="cosine",
        parameters=sum(p.numel() for p in model.net.parameters()),
    )


if __name__ == "__main__":
    main()
