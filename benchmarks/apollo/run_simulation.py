"""Fit one method to one simulation: ``python run_simulation.py CONFIG.json``.

Of the configuration: ``setting``, ``nonlinear``, ``method`` (``"apollo"``, ``"canonical"``,
``"autoencoder"``), and for ``"apollo"`` ``preset``, ``model``, ``train``, ``max_seconds``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fits
import numpy as np

import cantata

if TYPE_CHECKING:
    import pandas as pd

FACTORS = ["Z1", "Z2", "Z3", "Z4", "Z5", "r4", "r5"]
OWN = {"Z1": "shared", "Z2": "shared", "Z3": "x", "r4": "x", "r5": "y"}


def scores(
    blocks: fits.Blocks, factors: pd.DataFrame, test: np.ndarray | None, seed: int
) -> dict[str, Any]:
    """Summary and probe R2 of all factors from all blocks, without and with noise."""
    found = {}
    for noisy in (False, True):
        table = cantata.metrics.disentanglement(
            blocks, factors[FACTORS], OWN, test=test, noisy=noisy, seed=seed
        )
        found[noisy] = table.pivot(index="factor", columns="block", values="score")
        if not noisy:
            silhouettes = table.pivot(index="factor", columns="block", values="silhouette")
    clean, noisy_r2 = found[False], found[True]
    others = [silhouettes.loc["Z1", ["x", "y"]], silhouettes.loc["Z3", ["shared", "y"]]]
    return {
        "own": min(clean.loc[f, b] for f, b in OWN.items()),
        "own, noisy": min(noisy_r2.loc[f, b] for f, b in OWN.items()),
        "shared to others": clean.loc[["Z3", "r4", "r5"], "shared"].max(),
        "shared to others, noisy": noisy_r2.loc[["Z3", "r4", "r5"], "shared"].max(),
        "specific to shared, noisy": noisy_r2.loc[["Z1", "Z2"], ["x", "y"]].to_numpy().max(),
        "specific to shared": clean.loc[["Z1", "Z2"], ["x", "y"]].to_numpy().max(),
        "silhouette own": min(silhouettes.loc["Z1", "shared"], silhouettes.loc["Z3", "x"]),
        "silhouette else": float(np.max([o.max() for o in others])),
        "r2": clean.to_dict(),
        "r2 noisy": noisy_r2.to_dict(),
        "silhouettes": silhouettes.loc[["Z1", "Z3"]].to_dict(),
    }


def main() -> None:
    """Run the configuration."""
    config, recorder, clock = fits.begin()
    mdata = cantata.datasets.simulate_disentangled(
        config["setting"],
        nonlinear=config["nonlinear"],
        n_cells=config.get("cells", 2000),
        seed=config["seed"],
    )
    recorder.watch.start()
    model = None
    if config["method"] == "apollo":
        model = fits.fit_apollo(mdata, config, clock)
        tables, cells, train = fits.latents_of(model)
    else:
        tables, cells, train = fits.fit(mdata, config, clock)
    with recorder.watch.paused():
        held = np.ones(mdata.n_obs, dtype=bool)
        held[train] = False
        found = {"encoders": scores(cells, mdata.obs, held, config["seed"])}
        if tables is not None:
            found["tables"] = scores(tables, mdata.obs.iloc[train], None, config["seed"])
        error = None if model is None else fits.held_out_error(model, held)
    recorder.finish(None, scores=found, held_out_error=error, **clock.record())


if __name__ == "__main__":
    main()
