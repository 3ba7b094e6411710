"""What a training step of scMODAL reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cantata import _keys
from cantata._keys import BATCH, CATEGORICAL, CONTINUOUS
from cantata._mudata.pairing import modality_cells, row_table
from cantata._mudata.rows import row_reader
from cantata.data import MosaicObsField
from cantata.model._feature_inputs import training_reader
from cantata.model.scmodal._links import Pair, linked_matrix
from cantata.model.scmodal._module import covariates_key, linked_key, pair_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cantata._mudata.rows import RowReader

JOINT_FACTOR = 10.0
"""Weight of anchors on joint components, beside those on single links."""


def readers_of(
    model: Any, modality: str, present: Sequence[str], *, progress: bool = True
) -> dict[str, RowReader]:
    """Functions from row numbers to a modality's tensors of a training minibatch.

    Parameters
    ----------
    model
        Model with fitted inputs.
    modality
        The modality.
    present
        Modalities that have cells.
    progress
        Show a progress bar while values are standardised.
    """
    layer = model.module.input(modality)
    n_obs = model.adata[modality].n_obs
    read = training_reader(layer, model._matrix(modality), n_obs, progress=progress)
    readers = {modality: read}
    for pair in model.module.pairs:
        if modality in pair and all(name in present for name in pair):
            other = pair[1] if modality == pair[0] else pair[0]
            linked = linked_matrix(model.adata, modality, other)
            readers[linked_key(modality, other)] = row_reader(linked)
    return readers | _covariate_readers(model, modality)


def anchor_factors(model: Any, *, given: bool) -> dict[str, float]:
    """How much more anchors of each pair weigh: 10 where they rest on joint components.

    1 for all where the user has `given` their weight.

    Components of hundreds of links tell much more than single links do, while profiles so shallow
    that they need them are mostly noise, which the autoencoders would rather keep.
    """
    records = model.adata.uns.get(_keys.UNS, {}).get(_keys.LINKS, {})
    factors = {}
    for first, second in model.module.pairs:
        ways = (_keys.link_record(first, second), _keys.link_record(second, first))
        found = [records[way] for way in ways if way in records]
        joint = not given and any(int(record.get("n_comps", 0)) > 0 for record in found)
        factors[pair_name((first, second))] = JOINT_FACTOR if joint else 1.0
    return factors


def _covariate_readers(model: Any, modality: str) -> dict[str, RowReader]:
    keys = [f.registry_key for f in model.adata_manager.fields if isinstance(f, MosaicObsField)]
    dataset = model.adata_manager.create_torch_dataset(data_and_attributes=keys)
    cells = modality_cells(model.adata, modality)
    columns = dataset.columns
    codes = [columns[BATCH].numpy()[:, None]] if BATCH in columns else []
    if CATEGORICAL in columns:
        codes.append(columns[CATEGORICAL].numpy())
    readers: dict[str, RowReader] = {}
    if codes:
        own = np.concatenate(codes, axis=1)[cells]
        readers[covariates_key(modality, CATEGORICAL)] = own.__getitem__
    if CONTINUOUS in columns:
        values = columns[CONTINUOUS].numpy()[cells]
        readers[covariates_key(modality, CONTINUOUS)] = values.__getitem__
    return readers


def known_pairs(model: Any) -> dict[Pair, np.ndarray]:
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
