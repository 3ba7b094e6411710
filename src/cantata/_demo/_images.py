"""The demo on simulated images: which space holds which factor, and stains that are predicted."""

from __future__ import annotations

import contextlib
import io
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from rich import box
from rich.table import Table

from cantata import _keys, pl
from cantata._demo._data import DemoError, training_part
from cantata._demo._output import EpochBar, legend, say, short, step
from cantata._demo._scores import correlations
from cantata.datasets import simulate_images
from cantata.metrics import disentanglement
from cantata.model import APOLLO

if TYPE_CHECKING:
    from pathlib import Path

    from mudata import MuData
    from rich.console import Console

SIMULATION: dict[str, Any] = {"n_cells": 600}
"""Arguments of the simulated images."""

HELD_OUT_SHARE = 0.2

EPOCHS, ENCODER_EPOCHS, BATCH_SIZE = 8, 36, 64
"""Fewer than by default, so that the demo ends within a minute."""

SHARED_IN = "shared, {}"
"""Name of the block of shared latents that a stain's encoder infers."""


def run_images(
    out: Path, console: Console, *, epochs: int | None, accelerator: str, seed: int
) -> pd.DataFrame:
    """Run the demo on images, write its files, and return the scores of factors by space.

    A ``DemoError`` where they cannot be written.
    """
    with step(console, "Data") as current:
        mdata = simulate_images(seed=seed, **SIMULATION)
        n_held_out = round(HELD_OUT_SHARE * mdata.n_obs)
        held_out = np.zeros(mdata.n_obs, dtype=bool)
        held_out[np.random.default_rng(seed).permutation(mdata.n_obs)[:n_held_out]] = True
        side = mdata.uns["truth"]["side"]
        current.detail = (
            f"{mdata.n_obs:,} simulated cells in {' and '.join(mdata.mod)}, {side} x {side} "
            f"pixels; {n_held_out} are held out"
        )
    train, test = training_part(mdata, held_out), training_part(mdata, ~held_out)
    APOLLO.setup_mudata(train)
    model = APOLLO(train)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):  # the trainer prints why it stopped
        model.train(
            epochs or EPOCHS,
            encoder_epochs=epochs or ENCODER_EPOCHS,
            batch_size=BATCH_SIZE,
            accelerator=accelerator,
            enable_progress_bar=False,
            callbacks=[EpochBar(console)],
        )
    stages = [len(model.history[key]) for key in ("norm_shared", "decoded_validation")]
    detail = f"{stages[0]} epochs of latents and decoders, {stages[1]} of encoders"
    say(console, "Train", detail, time.perf_counter() - start)
    with step(console, "Score") as current:
        factors = _factor_scores(model, mdata, held_out)
        pictures = {stain: _pictures(model, test, stain) for stain in test.mod}
        pearson = _pearson(pictures, train, seed)
        current.detail = "factors by space, pixels of predicted images"
    console.print(_factor_table(factors))
    console.print(_pearson_table(pearson))
    lines = {
        "R2": "of the better of a linear and a nearest-neighbour probe, neither of which reads "
        "elongation well, through the noise that decoders see; bold in the space that should hold "
        "the factor",
        "predicted": "from the other stain alone, through what is shared",
        "Pearson": "correlation over the pixels of a cell, mean over cells",
        "noiseless": "the simulated image without the camera's noise: no prediction can do better",
    }
    console.print(legend(lines), highlight=False)
    console.print()
    try:
        _write(model, mdata, pictures, factors, pearson, out, console)
    except OSError as error:
        raise DemoError(f"--out: cannot write to {out}: {error}") from error
    return factors


def _factor_scores(model: APOLLO, mdata: MuData, held_out: np.ndarray) -> pd.DataFrame:
    """R2 of every factor in every space on held-out cells, by probes of the training cells.

    Noise of size 1 is on the latents, as decoders see them.
    """
    blocks, own = {}, {}
    stains = list(mdata.mod)
    for stain in stains:
        blocks[SHARED_IN.format(stain)] = model.get_latent_representation(mdata, modality=stain)
    for stain in stains:
        blocks[stain] = model.get_latent_representation(mdata, modality=stain, space="specific")
    for factor, block in mdata.uns["factors"].items():
        own[factor] = list(map(SHARED_IN.format, stains)) if block == "shared" else block
    # every cell has both stains, in the order of the MuData
    return disentanglement(blocks, mdata.obs[list(own)], own, test=held_out, noisy=True)


def _pictures(model: APOLLO, test: MuData, stain: str) -> dict[str, Any]:
    """Images of held-out cells by their source."""
    (other,) = (name for name in test.mod if name != stain)
    return {
        "real": test[stain],
        "from all": model.get_reconstruction(stain, test),
        "from shared": model.get_reconstruction(stain, test, space="shared"),
        "predicted": model.impute(stain, test, source=other),
    }


def _pearson(pictures: dict[str, dict[str, Any]], train: MuData, seed: int) -> pd.DataFrame:
    """Mean correlation with real images per cell, stains x sources."""
    noiseless = simulate_images(seed=seed, noise=0, **SIMULATION)
    rows = {}
    for stain, sources in pictures.items():
        real = sources["real"]
        same = noiseless[stain][real.obs_names]
        images = {label: adata.obsm[_keys.IMAGES] for label, adata in sources.items()}
        mean = train[stain].obsm[_keys.IMAGES].mean(axis=0, dtype=np.float64)
        images["mean image"] = np.broadcast_to(mean, images["real"].shape)
        images["noiseless"] = same.obsm[_keys.IMAGES]
        flat = {label: x.reshape(len(x), -1).T for label, x in images.items()}
        rows[stain] = {
            label: float(correlations(x, flat["real"]).mean())
            for label, x in flat.items()
            if label != "real"
        }
    order = ["predicted", "mean image", "from shared", "from all", "noiseless"]
    return pd.DataFrame.from_dict(rows, orient="index")[order]


def _factor_table(scores: pd.DataFrame) -> Table:
    table = Table(title="R2 on held-out cells", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("factor")
    for block in scores["block"].unique():
        table.add_column(block, justify="right")
    for factor, part in scores.groupby("factor", sort=False):
        cells = (f"{max(score, 0):.2f}" for score in part["score"])
        marked = (
            f"[bold]{text}[/bold]" if own else text
            for text, own in zip(cells, part["is_own"], strict=True)
        )
        table.add_row(str(factor), *marked)
    return table


def _pearson_table(pearson: pd.DataFrame) -> Table:
    title = "Pearson correlation with the real image, held-out cells"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("stain")
    for source in pearson:
        table.add_column(source, justify="right")
    for stain, row in pearson.iterrows():
        table.add_row(str(stain), *(f"{value:.3f}" for value in row))
    return table


def _write(
    model: APOLLO,
    mdata: MuData,
    pictures: dict[str, dict[str, Any]],
    factors: pd.DataFrame,
    pearson: pd.DataFrame,
    out: Path,
    console: Console,
) -> None:
    """Write latents and scores into a MuData, and pictures of both stains as a PNG."""
    paths = [out / "demo.h5mu", out / "demo.png"]
    replaced = [path.name for path in paths if path.exists()]
    with step(console, "Write") as current:
        model.write_results(mdata)
        scores = factors.astype({"is_own": bool})
        mdata.uns[_keys.UNS]["demo"] = {"factors": scores, "pearson": pearson}
        mdata.write(paths[0])
        rows = {
            label: [sources[label] for sources in pictures.values()]
            for label in next(iter(pictures.values()))
        }
        axes = pl.images(rows, difference=("predicted", "real"), title="phenotype")
        figure = axes[0].get_figure(root=True)
        assert figure is not None  # it was made for this
        figure.savefig(paths[1], dpi=150)
        plt.close(figure)
        current.detail = " and ".join(short(path) for path in paths)
        if replaced:
            current.detail += f" (replaced: {', '.join(replaced)})"
