"""Infer peak-gene links once: ``python run_links.py CONFIG.json``.

The pairs of gene and peak that the file's table names are ranked. Of the configuration: ``way``:

* ``"activity"`` or ``"atac"``: SCMODAL integrates RNA with gene activity, or with all peaks; its
  expression imputed into the ATAC cells is correlated with the measured peaks by
  :func:`cantata.tl.infer_links`. Which cells are pairs is not used.
* ``"without"``: what needs no integration, and the truth: the same correlation with the measured
  expression of the truly paired cells, of all and of each half of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import benchpath  # noqa: F401
import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from harness import Recorder, read_config
from mudata import MuData
from run_scmodal import settings
from scipy import sparse
from unpaired import CELL, SCORED, Unpaired, dense
from watching import quiet

import cantata

if TYPE_CHECKING:
    from harness import Arrays

LAYER = "normalised"


def normalised(counts: Any) -> sparse.csr_matrix:
    """log1p of counts brought to the median total, sparse."""
    values = sparse.csr_matrix(counts, dtype=np.float32)
    totals = np.asarray(values.sum(axis=1)).ravel()
    scale = sparse.diags_array(np.median(totals) / np.maximum(totals, 1)).astype(np.float32)
    return sparse.csr_matrix((scale @ values).log1p())


def rows_like(adata: AnnData, cells: pd.Series) -> AnnData:
    """The same cells in another order, under their names there."""
    found = adata[pd.Index(adata.obs[CELL]).get_indexer(pd.Index(cells))].copy()
    found.obs_names = cells.index
    return found


def correlations(
    inputs: Unpaired, expression: AnnData, candidates: pd.DataFrame, rows: np.ndarray | None = None
) -> pd.DataFrame:
    """Correlation of expression with peaks across ATAC cells, in the order of the candidates.

    With `rows` only these cells take part; expression is then measured in them, and tested.
    """
    atac = inputs.modalities["atac"]
    atac = AnnData(sparse.csr_matrix(atac.X), obs=atac.obs[[CELL]], var=atac.var[[]])
    atac.layers[LAYER] = normalised(atac.X)
    if rows is not None:
        atac = atac[rows].copy()
        expression = expression[atac.obs_names].copy()
    mdata = MuData({"rna": inputs.modalities["rna"], "atac": atac})
    table = cantata.tl.infer_links(
        mdata,
        "rna",
        "atac",
        imputed=expression,
        layer=LAYER,
        candidates=candidates,
        p_values=rows is not None,
    )
    found = table.set_index(["source", "target"])
    return found.loc[pd.MultiIndex.from_frame(candidates)]


def integrated(
    config: dict[str, Any], inputs: Unpaired, recorder: Recorder, candidates: pd.DataFrame
) -> Arrays:
    """Correlations after an unpaired integration."""
    way = config["way"]
    names = inputs.modalities["atac"].obs[CELL]
    other = inputs.modalities["atac"]
    if way == "activity":
        other = rows_like(inputs.modalities["activity"], names)
    mdata = MuData({"rna": inputs.modalities["rna"], way: other})
    arguments, train = settings(config)
    recorder.watch.start()
    cantata.pp.link_features(mdata, "rna", way, links=inputs.table("rna", way))
    cantata.SCMODAL.setup_mudata(mdata, pairs=[("rna", way)])
    model = cantata.SCMODAL(mdata, **arguments)
    model.train(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **train)
    expression = model.impute("rna", source=way)
    expression.X = normalised(expression.X).toarray()
    return {way: correlations(inputs, expression, candidates)["correlation"].to_numpy()}


def without_integration(inputs: Unpaired, candidates: pd.DataFrame) -> Arrays:
    """The truth, its halves, gene activity and distance."""
    atac = inputs.modalities["atac"]
    names = atac.obs[CELL]
    rna = rows_like(inputs.modalities["rna"], names)
    activity = rows_like(inputs.modalities["activity"], names)
    for adata in (rna, activity):
        adata.X = normalised(adata.X)
    kept = np.flatnonzero(atac.obs[SCORED].to_numpy(bool))
    order = np.random.default_rng(0).permutation(kept)
    found = {"activity, untrained": correlations(inputs, activity, candidates)}
    found["truth"] = correlations(inputs, rna, candidates, kept)
    for i, half in enumerate(np.array_split(order, 2)):
        found[f"half {i}"] = correlations(inputs, rna, candidates, np.sort(half))
    arrays = {name: table["correlation"].to_numpy() for name, table in found.items()}
    arrays |= {f"{name}, q": found[name]["q"].to_numpy() for name in ("truth", "half 0")}
    arrays["activity of other peaks, untrained"] = other_peaks(atac, candidates)
    arrays["distance"] = -distance_to_centre(atac, candidates)
    return arrays


def other_peaks(atac: AnnData, candidates: pd.DataFrame) -> np.ndarray:
    """Correlation of every peak with the sum of the other peaks of its gene.

    Gene activity itself contains the peak, which is why it correlates.
    """
    values = sparse.csc_matrix(normalised(atac.X))
    columns = atac.var_names.get_indexer(candidates["target"])
    found = np.full(len(candidates), np.nan)
    for rows in candidates.groupby("source", sort=False).indices.values():
        peaks = dense(values[:, columns[rows]])
        others = peaks.sum(axis=1, keepdims=True) - peaks
        a, b = peaks - peaks.mean(axis=0), others - others.mean(axis=0)
        scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
        found[rows] = np.where(scale > 0, (a * b).sum(axis=0) / np.maximum(scale, 1e-12), np.nan)
    return found


def distance_to_centre(atac: AnnData, candidates: pd.DataFrame) -> np.ndarray:
    """Base pairs from the middle of a peak to the middle of all peaks of its gene.

    The file says where peaks lie, not where genes start.
    """
    var = atac.var.loc[candidates["target"]]
    middle = (var["chromStart"].astype(float) + var["chromEnd"].astype(float)) / 2
    middle = pd.Series(middle.to_numpy(), index=candidates.index)
    of_gene = middle.groupby(candidates["source"])
    centre = (of_gene.transform("min") + of_gene.transform("max")) / 2
    return (middle - centre).abs().to_numpy()


def main() -> None:
    """Run the configuration."""
    quiet()
    config = read_config()
    torch.set_num_threads(config["threads"])
    scvi.settings.seed = config["seed"]
    inputs = Unpaired.read(config["inputs"])
    candidates = inputs.table("rna", "atac").reset_index(drop=True)
    recorder = Recorder(config)
    if config["way"] == "without":
        recorder.watch.start()
        arrays = without_integration(inputs, candidates)
    else:
        arrays = integrated(config, inputs, recorder, candidates)
    recorder.save("links", arrays)
    recorder.finish(None)


if __name__ == "__main__":
    main()
