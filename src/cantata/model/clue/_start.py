"""Where CLUE's encoders start: canonical variates of what they read, beyond the paper."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from cantata._keys import CELL, rows_key
from cantata._mudata.checks import warn_user
from cantata._mudata.pairing import row_table
from cantata._numeric.batches import sample_cells
from cantata._numeric.canonical import (
    MIN_PAIRS,
    are_connected,
    chosen_variates,
    pairing_by_folds,
)
from cantata.data import MosaicLoader, keeps_sparse
from cantata.model._inputs import check_varies
from cantata.nn import Covariates

if TYPE_CHECKING:
    from cantata.model.base import MosaicModelClass
    from cantata.model.clue._module import CLUEModule

logger = logging.getLogger(__name__)

MAX_CELLS = 20_000
"""Cells that variates are fitted on; more are sampled."""
MAX_WIDTH = 512
"""Inputs that are wider have no variates: these are of components, not of features."""
MIN_CHECKED_PAIRS = 50
"""Pairs below which folds of them tell nothing: 20 right ones are no better than chance."""
MAX_P_VALUE = 0.05
"""Chance of as near a pairing by shuffled pairs from which on pairs are taken for wrong."""


def warn_of_pairs(n_pairs: int, first: str, second: str, p_value: float) -> None:
    """Say that left-out cells do not find their other half."""
    warn_user(
        f"{n_pairs} left-out cells with {first!r} and {second!r} do not find their other half "
        f"better than chance (p = {p_value:.2f}). If their rows were put together in the wrong "
        "order, or names of different cells happen to agree, embeddings, labels and imputed "
        "values are wrong, however sure they look: check obs_names of both."
    )


def fit_start(model: MosaicModelClass, cells: np.ndarray) -> bool:
    """Set the linear map of each encoder to the canonical variates of what encoders read.

    Every subspace starts from the same leading variates, each times its correlation over left-out
    cells. Nothing is set where encoders start at random, fewer than 20 of the training `cells`
    connect some of the modalities, or an input is wider than 512 columns.

    Returns
    -------
    Whether it was tested that halves of cells belong together, which is so wherever variates could
    be set.
    """
    module: CLUEModule = model.module
    names, starts = module.modalities, module.start == "canonical"
    # 1. inputs and covariates of the training cells that have several modalities
    rows_of = row_table(model.adata, names)
    table = np.stack([rows_of[name][cells] for name in names])
    widest = max(module.encoder(name).first.in_features for name in names)
    if len(names) < 2 or widest > MAX_WIDTH:
        return False
    if not are_connected(list(table)):
        if starts:
            _warn_of_few(names, table)
        return False
    several = cells[(table >= 0).sum(axis=0) > 1]
    blocks, rows, design = _inputs(model, several[sample_cells(len(several), MAX_CELLS)])
    if starts:
        for name in names:
            check_varies(name, blocks[name], "start='random'")
    elif not all(np.ptp(x, axis=0).any() for x in blocks.values()):
        return False
    # 2. whether halves find each other
    given = [blocks[name] for name in names], module.n_latent, [rows[name] for name in names]
    for (j, k), (n_pairs, p_value) in pairing_by_folds(*given, covariates=design).items():
        if n_pairs >= MIN_CHECKED_PAIRS and p_value > MAX_P_VALUE:
            warn_of_pairs(n_pairs, names[j], names[k], p_value)
    if not starts:
        return True
    # 3. their variates, in every subspace
    variates, weights = chosen_variates(*given, covariates=design)
    logger.info("Correlations of left-out cells: %s.", np.round(weights[:10], 2))
    for k, name in enumerate(names):
        slope = torch.as_tensor(variates.weights[k] * weights, dtype=torch.float32)
        offset = -torch.as_tensor(variates.means[k], dtype=torch.float32) @ slope
        slope, offset = (
            functional.pad(x, (0, module.n_latent - x.shape[-1])).tile(len(names))
            for x in (slope, offset)
        )
        module.encoder(name).set_linear(slope, offset)
    return True


def _warn_of_few(names: list[str], table: np.ndarray) -> None:
    """Say that encoders start at random, which nobody asked for."""
    n_pairs = int(((table >= 0).sum(axis=0) > 1).sum())
    warn_user(
        f"Only {n_pairs} training cells have several of the modalities {names}: fewer than "
        f"{MIN_PAIRS} connect some of them, so encoders start at random and nothing tells whether "
        "these halves belong together. With so few pairs use cantata.SCMODAL, or measure more."
    )


@torch.inference_mode()
def _inputs(
    model: MosaicModelClass, cells: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray | None]:
    """For each modality what its encoder reads of some cells and the row of each cell in it.

    The third is what covariates say of the cells, None where there is none.
    """
    module: CLUEModule = model.module
    names = module.modalities
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in names}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    designs, n_cells = [], 0
    sizes = [model.n_batch, *model.n_categories]
    for tensors in MosaicLoader(
        model.adata_manager,
        cells.tolist(),
        batch_size=1024,
        num_workers=0,
        load_sparse_tensor=keeps_sparse(model.device),
    ):
        minibatch = {key: value.to(model.device) for key, value in tensors.items()}
        for name in names:
            blocks[name].append(module.encoder_input(minibatch, name).cpu().double().numpy())
            rows[name].append(n_cells + tensors[rows_key(name)].numpy())
        n_cells += len(tensors[CELL])
        designs.append(_design(Covariates.of(tensors), sizes))
    stacked = {name: np.concatenate(parts) for name, parts in blocks.items()}
    of_cells = {}
    for name, parts in rows.items():
        of_cells[name] = np.full(n_cells, -1)
        of_cells[name][np.concatenate(parts)] = np.arange(len(stacked[name]))
    design = np.concatenate(designs)
    return stacked, of_cells, design if design.shape[1] else None


def _design(covariates: Covariates, sizes: list[int]) -> np.ndarray:
    """(n, q) indicators of categories but for the first of each, and continuous covariates."""
    assert covariates.codes is not None
    codes = covariates.codes.clamp(min=0)
    parts = [functional.one_hot(codes[:, c], size)[:, 1:] for c, size in enumerate(sizes)]
    parts += [] if covariates.values is None else [covariates.values]
    return torch.cat([part.double() for part in parts], dim=1).numpy()
