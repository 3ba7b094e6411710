"""Time both stages of APOLLO on a large file: ``python run_speed.py CONFIG.json``.

Of the configuration: ``file``, and as in ``run_simulation.py``. Also measures the machine's rate
of matrix products, before and after.
"""

from __future__ import annotations

import time
from typing import Any

import bench  # noqa: F401
import fits
import mudata
import numpy as np
import scvi
import torch
from harness import Recorder, peak_memory, read_config
from watching import quiet

SIDE, REPEATS = 1536, 8


def matmul_rate() -> float:
    """Floating-point operations per second of square products in float32, the best of a few."""
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    best = np.inf
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * SIDE**3 / best


def weights(part: torch.nn.Module) -> int:
    """Weights of all linear layers; a cell costs twice as many operations forwards."""
    return sum(m.weight.numel() for m in part.modules() if isinstance(m, torch.nn.Linear))


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scvi.settings.seed = config["seed"]
    rates = [matmul_rate()]
    mdata = mudata.read_h5mu(config["file"])
    memory = {"libraries and data": peak_memory()}
    recorder = Recorder(config)
    clock = fits.StageClock(config.get("max_seconds"))
    recorder.watch.start()
    model = fits.fit_apollo(mdata, config, clock)
    recorder.finish(None)  # the peak before anything else is computed
    rates.append(matmul_rate())
    module: Any = model.module
    batch = config["train"].get("batch_size", 256)
    if config.get("preset") and "batch_size" not in config["train"]:
        batch = 512
    n_train = len(model.get_latent_table())
    recorder.watch.start()
    recorder.finish(
        None,
        memory=memory | {"training": recorder_peak(recorder)},
        matmul=rates,
        shape={name: list(mdata[name].shape) for name in mdata.mod},
        batch=batch,
        n_train=n_train,
        weights=[weights(module.full) + weights(module.shared_only), weights(module.encoders)],
        prepared=[stage["prepared"] for stage in clock.stages],
        step_seconds=[np.diff(stage["ends"]).tolist() for stage in clock.stages],
        **clock.record(),
    )


def recorder_peak(recorder: Recorder) -> int:
    """Peak memory that the recorder has written."""
    import json

    return json.loads((recorder.folder / "result.json").read_text())["peak_memory"]


if __name__ == "__main__":
    main()
