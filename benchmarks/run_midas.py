"""Train MIDAS of scmidas 0.3.0, in the environment of peers: ``python run_midas.py CONFIG.json``.

As ``scmidas.integrate`` does, whose settings were chosen for the mosaic of these benchmarks; the
library advises more epochs for larger data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning
import scmidas
import torch
from harness import Recorder, read_config
from inputs import BATCH, Inputs
from mudata import MuData
from watching import epoch_callback, quiet

if TYPE_CHECKING:
    from harness import Arrays

SETTINGS = {"lr_net": 3e-4, "lr_dsc": 3e-4}
BATCH_SIZE = 128


def embed(model: Any, mdata: MuData, inputs: Inputs) -> Arrays:
    """Biological latents of all cells."""
    latent = model.get_latent_representation()
    return {"joint": latent[mdata.obs_names.get_indexer(inputs.cells)]}


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    lightning.seed_everything(config["seed"], verbose=False)
    inputs = Inputs.read(config["inputs"])
    mdata = MuData(inputs.training)
    recorder = Recorder(config)
    recorder.watch.start()
    scmidas.MIDAS.setup_mudata(mdata, batch_key=BATCH)
    model = scmidas.MIDAS(
        mdata,
        configs={**scmidas.config.load_config(), **SETTINGS},
        batch_size=BATCH_SIZE,
        save_model_path=str(recorder.folder / "training"),
    )
    # epoch_callback expects these of a model of scvi-tools
    model.module, model.is_trained_ = model.net, False
    look = lambda: embed(model, mdata, inputs)  # noqa: E731
    model.train(
        max_epochs=config["max_epochs"],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
        callbacks=[epoch_callback(recorder, model, look)],
    )
    recorder.finish(
        look, metric="euclidean", parameters=sum(p.numel() for p in model.net.parameters())
    )


if __name__ == "__main__":
    main()
