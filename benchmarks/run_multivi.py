"""Train MULTIVI of scvi-tools on padded data: ``python benchmarks/run_multivi.py CONFIG.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import scvi
import torch
from harness import Recorder, read_config
from inputs import BATCH, Inputs
from padding import padded
from watching import epoch_callback, quiet

if TYPE_CHECKING:
    from harness import Arrays
    from mudata import MuData

ROLES = {"rna": "rna_layer", "atac": "atac_layer", "adt": "protein_layer"}


def embed(model: Any, mdata: MuData, inputs: Inputs) -> Arrays:
    """Embeddings that are scored: of halves, or of all cells of a mosaic."""
    latent = model.get_latent_representation()
    if inputs.kind == "mosaic":
        return {"joint": latent[mdata.obs_names.get_indexer(inputs.cells)]}
    rows = {m: mdata.obs_names.get_indexer(a.obs_names) for m, a in inputs.scored.items()}
    return {m: latent[row] for m, row in rows.items()}


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scvi.settings.seed = config["seed"]
    inputs = Inputs.read(config["inputs"])
    if inputs.about["inductive"]:
        raise SystemExit("MULTIVI is run transductively only.")
    mdata = padded(inputs.training, inputs)
    recorder = Recorder(config)
    recorder.watch.start()
    scvi.model.MULTIVI.setup_mudata(
        mdata, batch_key=BATCH, modalities={ROLES[m]: m for m in inputs.modalities}
    )
    model = scvi.model.MULTIVI(mdata, fully_paired=inputs.kind == "timing")
    look = None if inputs.kind == "timing" else lambda: embed(model, mdata, inputs)
    model.train(
        config["max_epochs"],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        # without unpaired cells its adversary has nothing to tell apart
        adversarial_mixing=inputs.kind != "timing",
        callbacks=[epoch_callback(recorder, model, look)],
    )
    recorder.finish(
        look,
        metric="euclidean",
        parameters=sum(p.numel() for p in model.module.parameters()),
    )


if __name__ == "__main__":
    main()
