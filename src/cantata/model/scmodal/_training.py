"""What a training step of scMODAL reads."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cantata import _keys
from cantata._keys import BATCH, CATEGORICAL, CONTINUOUS
from cantata._mudata.pairing import modality_cells, row_table
from cantata._mudata.values import MatrixReader
from cantata._numeric.batches import apply_maps, batch_maps, sampled_by_batch
from cantata._numeric.composition import composition_weights
from cantata.data import MosaicObsField
from cantata.model._inputs import clusters_of, training_reader
from cantata.model.scmodal._links import linked_matrix
from cantata.model.scmodal._module import covariates_key, linked_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cantata._mudata.values import RowReader
    from cantata.model.base import MosaicModelClass
    from cantata.model.scmodal._links import Pair

JOINT_FACTOR = 10.0
"""Weight of anchors on joint components, beside those on single links."""


def readers_of(
    model: MosaicModelClass, modality: str, present: Sequence[str], *, progress: bool = True
) -> dict[str, RowReader]:
    """Functions from row numbers to a modality's tensors of a training minibatch.

    The inputs of `model` are fitted, `present` are the modalities that have cells, and `progress`
    shows a progress bar while values are standardised.
    """
    layer, n_obs = model.module.input(modality), model.adata[modality].n_obs
    values, codes = model.registered_values(modality), batches_of(model, modality)
    read = training_reader(layer, values, n_obs, codes, progress=progress)
    readers = {modality: read}
    if codes is not None:
        rows = sampled_by_batch(codes)
        labels = clusters_of(layer).nearest(read(rows))
    for pair in model.module.pairs:
        if modality in pair and all(name in present for name in pair):
            other = pair[1] if modality == pair[0] else pair[0]
            linked = linked_matrix(model.adata, modality, other)
            if codes is not None:
                # a factor on a feature of a batch turns the angles that cells are compared by
                maps, _ = batch_maps(linked[rows], codes[rows], labels)
                linked = apply_maps(linked, codes, maps)
            readers[linked_key(modality, other)] = MatrixReader(linked)
    return readers | _covariate_readers(model, modality)


def batches_of(model: MosaicModelClass, modality: str) -> np.ndarray | None:
    """Batch of each cell of a modality; None where none are registered."""
    if model.setup_args["batch_key"] is None:
        return None
    columns = model.adata_manager.create_torch_dataset(data_and_attributes=[BATCH]).columns
    return columns[BATCH].numpy()[modality_cells(model.adata, modality)]


def draw_weights(
    pairs: Sequence[Pair], readers: Mapping[str, Mapping[str, RowReader]], n_obs: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """How often the cells of each modality are drawn, so that those of linked ones are alike.

    By the linked features of `pairs`; of several that a modality is in, the geometric mean.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in readers}
    for pair in pairs:
        if all(name in readers for name in pair):
            linked = [
                readers[m][linked_key(m, other)](np.arange(n_obs[m]))
                for m, other in zip(pair, reversed(pair), strict=True)
            ]
            for name, weights in zip(pair, composition_weights(*linked), strict=True):
                found[name].append(np.log(weights))
    return {name: np.exp(np.mean(logs, axis=0)) for name, logs in found.items() if logs}


def _covariate_readers(model: MosaicModelClass, modality: str) -> dict[str, RowReader]:
    keys = [f.registry_key for f in model.adata_manager.fields if isinstance(f, MosaicObsField)]
    columns = model.adata_manager.create_torch_dataset(data_and_attributes=keys).columns
    cells = modality_cells(model.adata, modality)
    readers: dict[str, RowReader] = {}
    # the batch is the first of the categorical covariates
    codes = [columns[BATCH].numpy()[:, None]] if BATCH in columns else []
    if CATEGORICAL in columns:
        codes.append(columns[CATEGORICAL].numpy())
    if codes:
        of_rows = np.concatenate(codes, axis=1)[cells]
        readers[covariates_key(modality, CATEGORICAL)] = partial(np.take, of_rows, axis=0)
    if CONTINUOUS in columns:
        values = columns[CONTINUOUS].numpy()[cells]
        readers[covariates_key(modality, CONTINUOUS)] = partial(np.take, values, axis=0)
    return readers


def anchor_factors(model: MosaicModelClass) -> dict[Pair, float]:
    """How much more anchors of each pair weigh: 10 where they rest on joint components.

    Components of hundreds of links tell much more than single links do, while profiles so shallow
    that they need them are mostly noise, which the autoencoders would rather keep.
    """
    records = model.adata.uns.get(_keys.UNS, {}).get(_keys.LINKS, {})
    factors = {}
    for first, second in model.module.pairs:
        keys = (_keys.link_record(first, second), _keys.link_record(second, first))
        n_components = [int(records[k].get("n_components", 0)) for k in keys if k in records]
        factors[first, second] = JOINT_FACTOR if any(n_components) else 1.0
    return factors


def known_pairs(model: MosaicModelClass) -> dict[Pair, np.ndarray]:
    """(n, 2) rows of the cells that are in both modalities of each linked pair that has cells.

    Raises
    ------
    ValueError
        If no cell has two linked modalities.
    """
    table = row_table(model.adata, model.modalities)
    known = {}
    for pair in model.module.pairs:
        if not all(model.adata[name].n_obs for name in pair):
            continue
        rows = np.stack([table[name] for name in pair], axis=1)
        known[pair] = rows[(rows >= 0).all(axis=1)]
    if not any(len(rows) for rows in known.values()):
        raise ValueError(
            f"use_paired=True: none of {model.adata.n_obs} cells has two of the linked modalities "
            f"{model.module.pairs}. Leave it out; cells that are paired need equal obs_names."
        )
    return known
