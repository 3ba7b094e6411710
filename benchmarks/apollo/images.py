"""Prediction of one stain from another: ``python benchmarks/apollo/images.py``.

Crops of 875 cells in three stains (`scportrait_dapi_488_mcherry_crops.npz`), 48 pixels a side,
each image scaled to [0, 1]. Three folds of whole regions; regions that show the same cells at
three times are trained on always. Writes ``benchmarks/apollo/results/images.md``, and each fit to
``images.jsonl`` beside it; fits that are there are not made again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

from cantata.metrics import image_agreement
from cantata.nn import N_VIEWS, ConvDecoder, ConvEncoder, turned

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CANTATA_TEST_DATA", HERE.parents[2] / "shared" / "data"))
FILE, SIDE, FOLDS = "scportrait_dapi_488_mcherry_crops.npz", 48, 3
STAINS = ["DAPI", "488", "mCherry"]
WIDTHS, N_LATENT, BATCH = (16, 32, 64, 96), 64, 64
ROWS = (
    "mean image",
    "pixel ridge, 8 views",
    "one-step autoencoder",
    "U-Net",
    "APOLLO",
    "APOLLO without specific spaces",
)
SPACES = {
    "shared, by chromatin": ("source", "shared"),
    "shared, by the stain": ("target", "shared"),
    "specific to the stain": ("target", "specific"),
}
KEYS = "row", "stain", "fold", "seed"
SCORES = {"pearson": "Pearson", "l1": "L1", "r2": "R2 over the mean image", "top1": "top-1"}


def crops() -> tuple[np.ndarray, np.ndarray]:
    """(875, 3, 48, 48) images, each from 0 to 1, and the fold of each cell; -1: never held out."""
    file = np.load(DATA / FILE)
    images = file["images"].astype(np.float32)
    n, factor = len(images), images.shape[-1] // SIDE
    images = images.reshape(n, 3, SIDE, factor, SIDE, factor).mean(axis=(3, 5))
    low, high = (f(images, axis=(2, 3), keepdims=True) for f in (np.min, np.max))
    images = (images - low) / (high - low)
    # regions with several time points show the same cells again
    region, times = file["region"], file["timepoint"]
    names, sizes = np.unique(region, return_counts=True)
    once = [(s, r) for r, s in zip(names, sizes, strict=True) if len(set(times[region == r])) == 1]
    fold, filled = dict.fromkeys(names, -1), np.zeros(FOLDS)
    for size, name in sorted(once, key=lambda pair: -pair[0]):
        fold[name] = int(filled.argmin())
        filled[fold[name]] += size
    return images, np.array([fold[r] for r in region])


# Other methods ----------------------------------------------------------------------------------


def of_mean(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """The mean image of the training cells."""
    return np.broadcast_to(y.mean(axis=0), test.shape)


def of_ridge(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Every pixel from all pixels of the other stain, over all views of the training cells."""
    views = [
        [turned(torch.from_numpy(part)[:, None], v).flatten(1).numpy() for v in range(N_VIEWS)]
        for part in (x, y)
    ]
    a, b = (np.concatenate(part) for part in views)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    gram = (a - mean_a).T @ (a - mean_a) + 0.1 * len(a) * np.eye(a.shape[1], dtype=np.float32)
    weights = np.linalg.solve(gram, (a - mean_a).T @ (b - mean_b))
    return ((test.reshape(len(test), -1) - mean_a) @ weights + mean_b).reshape(test.shape)


class Autoencoder(nn.Module):
    """One step, with the widths of APOLLO."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ConvEncoder(1, SIDE, WIDTHS)
        self.head = nn.Linear(self.encoder.n_out, N_LATENT)
        self.decoder = ConvDecoder(N_LATENT, 1, SIDE, WIDTHS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, side, side) logits from (n, 1, side, side)."""
        (features,) = self.encoder(x)
        return self.decoder(self.head(features))


class UNet(nn.Module):
    """Three levels of 8, 16 and 32 channels."""

    def __init__(self) -> None:
        super().__init__()

        def block(a: int, b: int) -> nn.Sequential:
            layers = []
            for i, j in ((a, b), (b, b)):
                layers += [nn.Conv2d(i, j, 3, padding=1), nn.BatchNorm2d(j), nn.ReLU()]
            return nn.Sequential(*layers)

        self.down = nn.ModuleList([block(1, 8), block(8, 16), block(16, 32)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)]
        )
        self.join = nn.ModuleList([block(32, 16), block(16, 8)])
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, side, side) logits from (n, 1, side, side)."""
        first = self.down[0](x)
        second = self.down[1](functional.max_pool2d(first, 2))
        x = self.down[2](functional.max_pool2d(second, 2))
        for up, join, skip in zip(self.up, self.join, (second, first), strict=True):
            x = join(torch.cat([up(x), skip], dim=1))
        return self.last(x)


def of_network(net_cls: Any, steps: int, lr: float) -> Any:
    """Train a network on random views, with the cross-entropy."""

    def predict(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        net = net_cls()
        optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        both = torch.from_numpy(np.stack([x, y], axis=1))
        for _ in range(steps):
            chosen = both[torch.randint(len(both), (BATCH,))]
            chosen = turned(chosen, torch.randint(N_VIEWS, (BATCH,)))
            loss = functional.binary_cross_entropy_with_logits(net(chosen[:, :1]), chosen[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            return net(torch.from_numpy(test)[:, None]).sigmoid().squeeze(1).numpy()

    return predict


# APOLLO -----------------------------------------------------------------------------------------


def mdata_of(images: dict[str, Any]) -> Any:
    """MuData of one stain a modality, from (cells, 1, side, side) images."""
    import mudata
    from anndata import AnnData

    parts = {}
    for name, values in images.items():
        obs = pd.DataFrame(index=[f"cell{i}" for i in range(values.shape[0])])
        parts[name] = AnnData(obs=obs, var=pd.DataFrame(index=[name]))
        parts[name].obsm["single_cell_images"] = values
    return mudata.MuData(parts)


def texture(images: np.ndarray) -> np.ndarray:
    """Fine structure relative to brightness: what a blur of 1 pixel takes away, over the mean.

    Within what is brighter than Otsu's threshold; (n, side, side) images give (n,) values.
    """
    values = []
    for image in images:
        inside = image > threshold_otsu(image)
        fine = image - gaussian_filter(image, 1)
        values.append(fine[inside].std() / image[inside].mean())
    return np.array(values)


def of_apollo(n_specific: int) -> Any:
    """APOLLO; also what the target's own latents make of held-out cells, and tell of texture."""

    def predict(x: np.ndarray, y: np.ndarray, test: Any, seed: int, truth: np.ndarray) -> Any:
        import scvi

        import cantata

        scvi.settings.seed = seed
        mdata = mdata_of({"source": x[:, None], "target": y[:, None]})
        cantata.APOLLO.setup_mudata(mdata)
        model = cantata.APOLLO(mdata, n_shared=N_LATENT, n_specific=n_specific)
        model.train(enable_progress_bar=False)
        query = mdata_of({"source": test[:, None], "target": truth[:, None]})
        key = "single_cell_images"
        own = model.get_reconstruction("target", query).obsm[key][:, 0]
        told = {"own": float(image_agreement(own, truth)["pearson"].mean())}
        for name, (modality, space) in SPACES.items() if n_specific else ():
            of = {"modality": modality, "space": space}
            z, z_test = (model.get_latent_representation(m, **of) for m in (None, query))
            probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11)))
            told[name] = float(probe.fit(z, texture(y)).score(z_test, texture(truth)))
        return model.impute("target", query, source="source").obsm[key][:, 0], told

    return predict


METHODS = {
    "mean image": of_mean,
    "pixel ridge, 8 views": of_ridge,
    "one-step autoencoder": of_network(Autoencoder, 1200, 2e-3),
    "U-Net": of_network(UNet, 600, 4e-3),
    "APOLLO": of_apollo(16),
    "APOLLO without specific spaces": of_apollo(0),
}


def measure(row: str, stain: str, fold: int, seed: int) -> dict[str, float]:
    """Scores of one fit on the held-out cells."""
    images, folds = crops()
    train, test = folds != fold, folds == fold
    x, y = (images[:, STAINS.index(name)] for name in ("DAPI", stain))
    begin = time.process_time()
    further: tuple = (y[test],) if row.startswith("APOLLO") else ()
    predicted = METHODS[row](x[train], y[train], x[test], seed, *further)
    predicted, told = predicted if isinstance(predicted, tuple) else (predicted, {})
    seconds = time.process_time() - begin
    scores = image_agreement(predicted, y[test], mean_image=y[train].mean(axis=0))
    found = {name: float(scores[name].mean()) for name in ("pearson", "l1", "r2")}
    return found | {"top1": float((scores["rank"] == 1).mean()), "seconds": seconds} | told


# Report -----------------------------------------------------------------------------------------


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"


def report(given: Namespace, results: list[dict[str, Any]]) -> str:
    """The page."""
    table, asked = pd.DataFrame(results), sys.argv[1:]
    if "--note" in asked:  # which has a place of its own
        del asked[asked.index("--note") : asked.index("--note") + 2]
    lines = [
        "# Prediction of stains",
        "",
        f"`python benchmarks/apollo/images.py {' '.join(asked)}`".rstrip(),
        f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, one thread. {given.note or ''}",
        "",
        f"Crops of {FILE}, {SIDE} pixels, held-out regions in {FOLDS} folds (121, 115 "
        "and 116 cells). Mean ± standard error over fits, folds times seeds. "
        "Pearson per cell; L1 with both images thresholded at the mode of the real one; R2 beside "
        "the mean image of the training cells; top-1: the own real image is the nearest. `own`: "
        "Pearson of what APOLLO makes of the target's own latents. Processor seconds of one fit. "
        f"Texture: {texture.__doc__.splitlines()[0]} A linear probe of held-out cells.",
        "",
    ]
    for stain in STAINS[1:]:
        lines += [f"## DAPI to {stain}", ""]
        lines += [f"| | fits | {' | '.join(SCORES.values())} | own | s |", "|" + "---|" * 8]
        for row in ROWS:
            part = table[(table["row"] == row) & (table["stain"] == stain)]
            if part.empty:
                continue
            cells = [spread(part[name].tolist()) for name in SCORES]
            has_own = "own" in part and part["own"].notna().any()
            cells.append(spread(part["own"].tolist()) if has_own else "")
            cells = [str(len(part)), *cells, f"{part['seconds'].mean():.0f}"]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        part = table[(table["row"] == "APOLLO") & (table["stain"] == stain)]
        told = part.dropna(subset=list(SPACES)) if set(SPACES) <= set(part) else part[:0]
        if len(told):
            of = ", ".join(f"{name} {spread(told[name].tolist(), 2)}" for name in SPACES)
            lines += ["", f"R2 of its texture from latents of APOLLO, {len(told)} fits: {of}."]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run every fit in a process of its own, and write the report."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--stains", nargs="+", choices=STAINS[1:], default=STAINS[1:])
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(FOLDS)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--note", help="what to say of the machine")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "images.md")
    parser.add_argument("--one", nargs=4, metavar=("ROW", "STAIN", "FOLD", "SEED"))
    given = parser.parse_args()
    if given.one:
        torch.set_num_threads(1)
        row, stain, fold, seed = given.one
        print("RESULT", json.dumps(measure(row, stain, int(fold), int(seed))))
        return
    # 1. fits that are still to make; a whole table of one seed comes before the next
    log = given.out.with_suffix(".jsonl")
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    made = {tuple(found[key] for key in KEYS) for found in results}
    wanted = [
        (row, stain, fold, seed)
        for seed, row, stain, fold in product(given.seeds, given.rows, given.stains, given.folds)
        if seed == given.seeds[0] or row not in ROWS[:2]
    ]
    # 2. each in a process of its own, with what it told
    for fit in [x for x in wanted if x not in made]:
        command = [sys.executable, __file__, "--one", *map(str, fit)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        (line,) = [x for x in done.stdout.splitlines() if x.startswith("RESULT")]
        results.append(dict(zip(KEYS, fit, strict=True)) | json.loads(line.removeprefix("RESULT")))
        print(results[-1], flush=True)
        with log.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
    given.out.write_text(report(given, results), encoding="utf-8")


if __name__ == "__main__":
    main()
