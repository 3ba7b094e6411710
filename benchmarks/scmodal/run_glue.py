"""Train GLUE once, in its own environment: ``python run_glue.py CONFIG.json``.

``scglue.models.SCGLUEModel`` of scglue 0.4.1 (Cao and Gao 2022) as its tutorial does: negative
binomial counts, principal components and LSI as encoder input, training without alignment,
weights of cells by balancing, training with alignment. Each of the two trainings may take half of
``max_seconds``. Of the configuration: ``pair``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import benchpath  # noqa: F401
import ignite
import networkx as nx
import numpy as np
import scanpy as sc
import scglue
import torch
from harness import Recorder, read_config
from scglue.data import estimate_balancing_weight
from scglue.models.base import TrainingPlugin
from scglue.models.scglue import SCGLUEModel
from unpaired import Unpaired, unit
from watching import quiet

if TYPE_CHECKING:
    from anndata import AnnData
    from harness import Arrays

COMPONENTS = 100
CHROMATIN = "atac"


class Limit(TrainingPlugin):
    """Note the end of every epoch after the library's handlers; stop when the time is over."""

    def __init__(self, recorder: Recorder, seconds: float) -> None:
        super().__init__()
        self.recorder, self.seconds, self.epochs = recorder, seconds, 0

    def attach(self, train_engine: ignite.engine.Engine, **others: Any) -> None:
        """Called by the trainer."""
        self.recorder.epoch_end(None)
        start = self.recorder.epoch_ends.pop()

        @train_engine.on(ignite.engine.Events.EPOCH_COMPLETED)
        def _(engine: ignite.engine.Engine) -> None:
            self.epochs += 1
            self.recorder.epoch_end(None)
            if self.recorder.epoch_ends[-1] - start >= self.seconds:
                engine.terminate()


def represent(adata: AnnData, chromatin: bool, seed: int) -> str:
    """Add what the encoder reads and return its key."""
    if chromatin:
        scglue.data.lsi(adata, n_components=COMPONENTS, n_iter=15)
        return "X_lsi"
    values = adata.copy()
    sc.pp.normalize_total(values)
    sc.pp.log1p(values)
    sc.pp.scale(values)
    n = min(COMPONENTS, adata.n_vars - 1)
    sc.pp.pca(values, n_comps=n, svd_solver="auto", random_state=seed)
    adata.obsm["X_pca"] = values.obsm["X_pca"]
    return "X_pca"


def guidance(modalities: dict[str, AnnData], links: Any, a: str, b: str) -> nx.MultiDiGraph:
    """Links in both directions and every feature with itself."""
    graph = nx.MultiDiGraph()
    for source, target in zip(links["source"], links["target"], strict=True):
        ends = f"{a}:{source}", f"{b}:{target}"
        if ends[0] in modalities[a].var_names and ends[1] in modalities[b].var_names:
            graph.add_edge(*ends, weight=1.0, sign=1)
            graph.add_edge(*reversed(ends), weight=1.0, sign=1)
    for adata in modalities.values():
        for name in adata.var_names:
            graph.add_edge(name, name, weight=1.0, sign=1)
    return graph


def stage(
    modalities: dict[str, AnnData],
    graph: nx.MultiDiGraph,
    config: dict[str, Any],
    recorder: Recorder,
    pretrained: SCGLUEModel | None,
) -> tuple[SCGLUEModel, int]:
    """One of the two trainings, and how many epochs it took."""
    seed = config["seed"] + (pretrained is not None)
    model = SCGLUEModel(modalities, sorted(graph.nodes), random_seed=seed)
    if pretrained is not None:
        model.adopt_pretrained_model(pretrained)
    model.compile()
    limit = Limit(recorder, config["max_seconds"] / 2)
    # SCGLUEModel.fit has no argument for plugins, the trainer behind it has
    model.trainer.fit = partial(model.trainer.fit, plugins=[limit])
    without = {"align_burnin": np.inf, "safe_burnin": False} if pretrained is None else {}
    folder = recorder.folder / ("pretraining" if pretrained is None else "training")
    epochs = {"max_epochs": config["max_epochs"]} if "max_epochs" in config else {}
    model.fit(modalities, graph, directory=folder, **without, **epochs)
    return model, limit.epochs


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scglue.config.CPU_ONLY = True
    scglue.log.console_log_level = 40
    np.random.seed(config["seed"])  # noqa: NPY002
    inputs = Unpaired.read(config["inputs"])
    a, b = config["pair"]
    recorder = Recorder(config)
    recorder.watch.start()
    modalities = {}
    for m in (a, b):
        adata = inputs.modalities[m]
        adata = adata[:, np.asarray(adata.X.sum(axis=0)).ravel() > 0].copy()
        adata.var_names = np.array([f"{m}:{name}" for name in adata.var_names], dtype=object)
        rep = represent(adata, m == CHROMATIN, config["seed"])
        scglue.models.configure_dataset(adata, "NB", use_highly_variable=False, use_rep=rep)
        modalities[m] = adata
    graph = guidance(modalities, inputs.table(a, b), a, b)
    model, before = stage(modalities, graph, config, recorder, None)
    for m, adata in modalities.items():
        adata.obsm["X_pretrained"] = model.encode_data(m, adata)
    estimate_balancing_weight(
        *modalities.values(), use_rep="X_pretrained", key_added="balancing_weight"
    )
    for adata in modalities.values():
        adata.uns[scglue.config.ANNDATA_KEY]["use_dsc_weight"] = "balancing_weight"
    model, after = stage(modalities, graph, config, recorder, model)

    def embed() -> Arrays:
        # the library's documentation compares cells by their cosine
        found = {m: unit(model.encode_data(m, x)) for m, x in modalities.items()}
        return {m: x.astype(np.float32) for m, x in found.items()}

    recorder.finish(embed, stages=[before, after])


if __name__ == "__main__":
    main()
