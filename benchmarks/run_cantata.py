"""Train :class:`cantata.CLUE` once: ``python benchmarks/run_cantata.py CONFIG.json``.

Of the configuration: ``preset`` (published settings and schedule instead of the defaults),
``model``, ``train`` and ``plan`` (arguments of the constructor, of ``train`` and of the training
plan), ``impute``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import scvi
import torch
from harness import Recorder, read_config
from inputs import Inputs
from mudata import MuData
from watching import epoch_callback, quiet

import cantata

if TYPE_CHECKING:
    from harness import Arrays


PUBLISHED_STEPS, PUBLISHED_EPOCHS = 36_000, 72
"""Schedule of the published runs: at least so many steps, and so many epochs."""


def settings(config: dict[str, Any], inputs: Inputs) -> tuple[dict, dict, dict]:
    """Arguments of the constructor, of ``train`` and of the plan."""
    model, train, plan = {}, {}, {}
    if config.get("preset"):
        preset = cantata.CLUE.presets[inputs.about["preset"]]
        model = dict(preset["model"])
        # the discriminator may know the batch only where every modality has every batch
        model["discriminator_batch"] = inputs.about["shared_batches"]
        train = {k: v for k, v in preset["train"].items() if k != "plan_kwargs"}
        plan = dict(preset["train"]["plan_kwargs"])
    model |= config.get("model", {})
    train |= config.get("train", {})
    plan |= config.get("plan", {})
    return model, train, plan


def embed(model: Any, inputs: Inputs, scored: MuData) -> Arrays:
    """Embeddings that are scored: of halves, or of all cells of a mosaic."""
    if inputs.kind == "mosaic":
        joint = model.get_latent_representation(scored)
        order = scored.obs_names.get_indexer(inputs.cells)
        return {"joint": joint[order]}
    return {m: model.get_latent_representation(scored, modality=m) for m in inputs.modalities}


def impute(model: Any, inputs: Inputs) -> Arrays:
    """Expected protein counts of the RNA halves of test cells."""
    halves = inputs.scored["rna"]
    expected = model.impute("adt", MuData({"rna": halves}), source="rna")
    return {"expected": expected[halves.obs_names].X}


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scvi.settings.seed = config["seed"]
    inputs = Inputs.read(config["inputs"])
    arguments, train, plan = settings(config, inputs)
    training = MuData(inputs.training)
    scored = MuData(inputs.scored) if inputs.kind != "timing" else None
    recorder = Recorder(config)
    recorder.watch.start()
    cantata.CLUE.setup_mudata(training, reps=inputs.reps, batch_key=inputs.batch_key)
    model = cantata.CLUE(training, **arguments)
    epochs = config.get("max_epochs")
    if config.get("preset") and epochs is None:
        steps_per_epoch = 0.9 * training.n_obs / 128
        epochs = max(math.ceil(PUBLISHED_STEPS / steps_per_epoch), PUBLISHED_EPOCHS)
    look = None if scored is None else lambda: embed(model, inputs, scored)
    model.train(
        epochs,
        plan_kwargs=plan,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[epoch_callback(recorder, model, look)],
        **train,
    )
    recorder.finish(
        look,
        metric="cosine",
        planned_epochs=model.trainer.max_epochs,
        parameters=sum(p.numel() for p in model.module.parameters()),
    )
    if config.get("impute"):
        recorder.save("imputation", impute(model, inputs))


if __name__ == "__main__":
    main()
