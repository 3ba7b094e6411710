"""Train :class:`cantata.SCMODAL` once: ``python run_scmodal.py CONFIG.json``.

Of the configuration: ``pairs`` (the linked modalities), ``preset`` (published settings instead of
the defaults), ``model``, ``train`` and ``plan`` (arguments of the constructor, of ``train`` and
of the training plan), ``max_steps``, ``max_seconds``, ``proteins`` (whether they are imputed into
RNA cells), ``genes`` (the modality whose cells get imputed genes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import benchpath  # noqa: F401
import scvi
import torch
from harness import Recorder, read_config
from lightning.pytorch.callbacks import Callback
from mudata import MuData
from unpaired import Unpaired, dense
from watching import quiet

import cantata

if TYPE_CHECKING:
    from harness import Arrays


class Watch(Callback):
    """Count steps and stop at the time limit."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.steps = recorder, 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Note a step, and the time every hundred steps."""
        self.steps += 1
        if self.steps % 100 == 0 and self.recorder.epoch_end(None):
            trainer.should_stop = True


def settings(config: dict[str, Any]) -> tuple[dict, dict]:
    """Arguments of the constructor and of ``train``."""
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    if config.get("preset"):
        preset = cantata.SCMODAL.presets[config["preset"]]
        model, train = dict(preset["model"]), dict(preset["train"])
    model |= config.get("model", {})
    plan = dict(train.pop("plan_kwargs", {})) | config.get("plan", {})
    train |= config.get("train", {})
    if plan:
        train["plan_kwargs"] = plan
    if config.get("max_steps"):
        train["max_steps"] = config["max_steps"]
    return model, train


def modalities_of(pairs: list[list[str]]) -> list[str]:
    """Names in the pairs, each once."""
    return list(dict.fromkeys(m for pair in pairs for m in pair))


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scvi.settings.seed = config["seed"]
    inputs = Unpaired.read(config["inputs"])
    pairs = config["pairs"]
    names = modalities_of(pairs)
    arguments, train = settings(config)
    mdata = MuData({m: inputs.modalities[m] for m in names})
    recorder = Recorder(config)
    watch = Watch(recorder)
    recorder.watch.start()
    for a, b in pairs:
        cantata.pp.link_features(mdata, a, b, links=inputs.table(a, b))
    cantata.SCMODAL.setup_mudata(mdata, pairs=[tuple(pair) for pair in pairs])
    model = cantata.SCMODAL(mdata, **arguments)
    model.train(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
        **train,
    )

    def embed() -> Arrays:
        return {m: model.get_latent_representation(modality=m) for m in names}

    recorder.finish(
        embed,
        steps=watch.steps,
        parameters=sum(p.numel() for p in model.module.parameters()),
    )
    for name, target, source in (
        ("proteins", "adt", "rna"),
        ("genes", "rna", config.get("genes")),
    ):
        if config.get(name):
            imputed = model.impute(target, source=source)[mdata[source].obs_names]
            recorder.save(name, {"expected": dense(imputed.X)})


if __name__ == "__main__":
    main()
