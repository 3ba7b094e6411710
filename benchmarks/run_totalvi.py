"""Impute proteins with scvi-tools' TOTALVI: ``python benchmarks/run_totalvi.py CONFIG.json``.

It takes cells with RNA; a batch whose proteins are all zero has not measured them. Paired cells
are one batch and the RNA halves of test cells another; halves with proteins alone are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import scvi
import torch
from harness import Recorder, read_config
from inputs import BATCH, PATTERN, Inputs
from padding import padded
from watching import epoch_callback, quiet

if TYPE_CHECKING:
    from harness import Arrays
    from mudata import MuData

PAIRED = "rna+adt"
N_SAMPLES = 10


def impute(model: Any, mdata: MuData, inputs: Inputs) -> Arrays:
    """Expected protein counts, background included, of the RNA halves of test cells."""
    rows = mdata.obs_names.get_indexer(inputs.scored["rna"].obs_names)
    _, proteins = model.get_normalized_expression(
        indices=rows,
        transform_batch=PAIRED,
        n_samples=N_SAMPLES,
        include_protein_background=True,
        return_numpy=True,
    )
    return {"expected": proteins}


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scvi.settings.seed = config["seed"]
    inputs = Inputs.read(config["inputs"])
    if inputs.kind != "split" or inputs.about["inductive"] or "adt" not in inputs.modalities:
        raise SystemExit("TOTALVI is run on RNA and proteins with hidden pairing only.")
    with_rna = {
        m: a[(a.obs[PATTERN] != "adt").to_numpy()].copy() for m, a in inputs.training.items()
    }
    mdata = padded(with_rna, inputs)
    recorder = Recorder(config)
    recorder.watch.start()
    scvi.model.TOTALVI.setup_mudata(
        mdata,
        rna_layer=None,
        protein_layer=None,
        batch_key=BATCH,
        modalities={"rna_layer": "rna", "protein_layer": "adt"},
    )
    model = scvi.model.TOTALVI(mdata)
    model.train(
        config["max_epochs"],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[epoch_callback(recorder, model, None)],
    )
    recorder.finish(
        metric="euclidean", parameters=sum(p.numel() for p in model.module.parameters())
    )
    recorder.save("imputation", impute(model, mdata, inputs))


if __name__ == "__main__":
    main()
