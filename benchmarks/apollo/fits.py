"""Fit :class:`cantata.APOLLO` and what it is compared with, and read their latents."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import bench  # noqa: F401
import numpy as np
import scvi
import torch
from autoencoder import fit_autoencoder
from harness import Recorder, read_config
from lightning.pytorch.callbacks import Callback
from sklearn.linear_model import Ridge
from watching import quiet

import cantata
from cantata.model.apollo._start import canonical_start
from cantata.model.apollo._training import cached_inputs, split

if TYPE_CHECKING:
    from mudata import MuData

RIDGE = 1e-3
"""Of the linear encoders of the untrained baseline, in units of the mean variance."""

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Arguments of every training."""

Blocks = dict[str, np.ndarray]


class StageClock(Callback):
    """Note seconds and steps of every stage, and stop one that takes longer than `limit`."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self.since = time.perf_counter()
        self.stages: list[dict[str, Any]] = []

    def on_train_start(self, *_: Any) -> None:
        """Called by the trainer."""
        started = time.perf_counter()
        self.stages.append({"prepared": started - self.since, "ends": [started]})

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Called by the trainer."""
        ends = self.stages[-1]["ends"]
        ends.append(time.perf_counter())
        if self.limit is not None and ends[-1] - ends[0] > self.limit:
            self.stages[-1]["stopped"] = trainer.should_stop = True

    def on_train_end(self, *_: Any) -> None:
        """Called by the trainer."""
        ended = time.perf_counter()
        self.stages[-1]["seconds"], self.since = ended - self.since, ended

    def record(self) -> dict[str, Any]:
        """For the result: steps, seconds, and whether a stage was stopped."""
        return {
            "steps": [len(stage["ends"]) - 1 for stage in self.stages],
            "stage_seconds": [stage["seconds"] for stage in self.stages],
            "stopped": any(stage.get("stopped", False) for stage in self.stages),
        }


def begin() -> tuple[dict[str, Any], Recorder, StageClock]:
    """Configuration of this process, its record and its clock."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scvi.settings.seed = config["seed"]
    return config, Recorder(config), StageClock(config.get("max_seconds"))


def settings(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the constructor and of ``train``: the preset's, then the configuration's."""
    preset = cantata.APOLLO.presets.get(config.get("preset"), {"model": {}, "train": {}})
    train = dict(config.get("train", {}))
    for key in ("plan_kwargs", "encoder_plan_kwargs"):
        train[key] = preset["train"].get(key, {}) | train.get(key, {})
    train = preset["train"] | train
    if "max_epochs" in config:
        train |= {"max_epochs": config["max_epochs"], "encoder_epochs": config["max_epochs"]}
    return preset["model"] | config.get("model", {}), train


def fit_apollo(mdata: MuData, config: dict[str, Any], clock: StageClock) -> Any:
    """Trained model of a configuration."""
    arguments, train = settings(config)
    cantata.APOLLO.setup_mudata(mdata)
    model = cantata.APOLLO(mdata, **arguments)
    model.train(
        callbacks=[clock],
        **QUIET,
        **train,
    )
    return model


def optimised(model: Any) -> Blocks:
    """Tables of the training cells, in the order of the training cells of the model's split."""
    blocks = {"shared": model.get_latent_table().to_numpy()}
    for name in model.modalities:
        if model.module.n_specific[name]:
            blocks[name] = model.get_latent_table(name).to_numpy()
    return blocks


def encoded(model: Any) -> Blocks:
    """What the encoders infer of all cells, which are paired and in one order."""
    blocks = {"shared": model.get_latent_representation()}
    for name in model.modalities:
        blocks[f"shared from {name}"] = model.get_latent_representation(modality=name)
        if model.module.n_specific[name]:
            blocks[name] = model.get_latent_representation(modality=name, space="specific")
    return blocks


def latents_of(model: Any) -> tuple[Blocks, Blocks, np.ndarray]:
    """Blocks of the tables, of all cells, and the training cells."""
    train = model.adata.obs_names.get_indexer(model.get_latent_table().index)
    return optimised(model), encoded(model), train


def held_out_error(model: Any, held: np.ndarray) -> float:
    """Squared error of decoding what encoders infer of held-out cells, in units of the variance.

    The mean over modalities; all cells are paired.
    """
    errors = []
    for name in model.modalities:
        x = np.asarray(model.adata[name].X, dtype=float)
        found = np.asarray(model.get_reconstruction(name, space="full").X)
        errors.append(float((((x - found)[held] / x.std(axis=0)) ** 2).mean()))
    return float(np.mean(errors))


def read(mdata: MuData, config: dict[str, Any]) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Inputs of APOLLO's encoders for all cells, and its split of the cells."""
    arguments, train = settings(config)
    cantata.APOLLO.setup_mudata(mdata)
    model = cantata.APOLLO(mdata, **arguments)
    parts = split(model, train.get("train_size"), train.get("validation_size"), None)
    model._train_cells = parts[0]
    model._fit_inputs()
    inputs = cached_inputs(model, progress=False)
    assert inputs is not None
    return inputs, parts


def _widths(config: dict[str, Any], inputs: dict[str, np.ndarray]) -> tuple[int, dict[str, int]]:
    model = config.get("model", {})
    return model.get("n_shared", 50), dict.fromkeys(inputs, model.get("n_specific", 20))


def fit_canonical(
    inputs: dict[str, np.ndarray], train: np.ndarray, config: dict[str, Any]
) -> tuple[Blocks, Blocks]:
    """Canonical variates and residual components, APOLLO's start, without training.

    Returns
    -------
    Blocks of the training cells, and of all cells through a ridge regression on the inputs.
    """
    rows = dict.fromkeys(inputs, train)
    shared, specific = canonical_start(inputs, rows, *_widths(config, inputs))
    blocks: Blocks = {}
    for name, x in inputs.items():
        centred = x[train] - x[train].mean(axis=0)
        penalty = RIDGE * float((centred**2).sum(axis=0).mean())
        target = np.hstack([shared, specific[name]])
        latents = Ridge(alpha=penalty).fit(x[train], target).predict(x)
        blocks[f"shared from {name}"] = latents[:, : shared.shape[1]]
        blocks[name] = latents[:, shared.shape[1] :]
    return {"shared": shared, **specific}, _with_mean(blocks, list(inputs))


def fit_one_step(
    inputs: dict[str, np.ndarray], train: np.ndarray, config: dict[str, Any]
) -> Blocks:
    """Blocks of all cells from the one-step autoencoder."""
    blocks = fit_autoencoder(
        inputs, train, *_widths(config, inputs), config["seed"], config.get("max_epochs")
    )
    return _with_mean(blocks, list(inputs))


def _with_mean(blocks: Blocks, modalities: list[str]) -> Blocks:
    mean = np.mean([blocks[f"shared from {name}"] for name in modalities], axis=0)
    return {"shared": mean, **blocks}


def fit(
    mdata: MuData, config: dict[str, Any], clock: StageClock
) -> tuple[Blocks | None, Blocks, np.ndarray]:
    """Blocks of the training cells' tables or None, of all cells, and the training cells.

    Of the configuration: ``method``, which is ``"apollo"``, ``"canonical"`` or ``"autoencoder"``.
    """
    if config["method"] == "apollo":
        return latents_of(fit_apollo(mdata, config, clock))
    inputs, parts = read(mdata, config)
    if config["method"] == "canonical":
        return *fit_canonical(inputs, parts[0], config), parts[0]
    return None, fit_one_step(inputs, parts[0], config), parts[0]
