"""Time both stages of APOLLO on a large file: ``python run_speed.py CONFIG.json``.

Of the configuration: ``file``, and as in ``run_simulation.py``. Also measures the machine's rate
of matrix products, before and after.
"""

from __future__ import annotations

import time
from typing import Any

import fits
import mudata
import numpy as np
import torch
from harness import peak_memory

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
    config, recorder, clock = fits.begin()
    rates = [matmul_rate()]
    mdata = mudata.read_h5mu(config["file"])
    memory = {"libraries and data": peak_memory()}
    recorder.watch.start()
    model = fits.fit_apollo(mdata, config, clock)
    with recorder.watch.paused():
        memory["training"] = peak_memory()
        rates.append(matmul_rate())
        module: Any = model.module
        decoders = weights(module.full) + weights(module.shared_only)
    recorder.finish(
        None,
        memory=memory,
        matmul=rates,
        shape={name: list(mdata[name].shape) for name in mdata.mod},
        batch=fits.settings(config)[1].get("batch_size", 256),
        n_train=len(model.get_latent_table()),
        weights=[decoders, weights(module.encoders)],
        prepared=[stage["prepared"] for stage in clock.stages],
        step_seconds=[np.diff(stage["ends"]).tolist() for stage in clock.stages],
        **clock.record(),
    )


if __name__ == "__main__":
    main()
