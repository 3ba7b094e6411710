"""What the two stages of APOLLO's training read, and where latents start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import settings
from torch.utils.data import Subset

from cantata._mudata.pairing import modality_cells, row_table
from cantata.data import (
    EpochBatchSampler,
    MosaicCategoricalField,
    MosaicDataset,
    MosaicLoader,
    MosaicSplitter,
    stratified_split,
)
from cantata.model._feature_inputs import MAX_CACHED, training_reader
from cantata.model.apollo._linear import ABSENT
from cantata.model.apollo._network import SHARED
from cantata.model.apollo._warm_start import canonical_start, random_start

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class StageSplitter(MosaicSplitter):
    """Splitter whose minibatches may hold encoder inputs in place of values, or sparse values.

    Parameters
    ----------
    adata_manager
        Manager with a registered MuData.
    cached
        For each modality the encoder's input of all its cells; None: values.
    fixed_order
        Minibatches are the same in every epoch.
    **kwargs
        Passed to :class:`~cantata.data.MosaicSplitter`.
    """

    def __init__(
        self,
        adata_manager: Any,
        cached: Mapping[str, np.ndarray] | None = None,
        fixed_order: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(adata_manager, load_sparse_tensor=True, **kwargs)
        self._cached, self._fixed_order = cached, fixed_order

    def on_before_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Values go to the device as they are stored, where it knows sparse tensors."""
        trainer = self.trainer
        if trainer is None or trainer.strategy.root_device.type in ("cpu", "cuda"):
            return batch
        return {key: values.to_dense() for key, values in batch.items()}

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """The network takes sparse values; scvi-tools' splitter would make them dense."""
        return batch

    def train_dataloader(self) -> MosaicLoader:
        """Loader of the training cells."""
        loader = super().train_dataloader()
        if self._fixed_order and isinstance(loader.sampler, EpochBatchSampler):
            loader.sampler.set_epoch(0)
            loader.sampler.is_fixed = True  # the trainer sets the epoch, too
        if self._cached is not None:
            dataset = loader.dataset
            dataset = dataset.dataset if isinstance(dataset, Subset) else dataset
            assert isinstance(dataset, MosaicDataset)
            dataset.replace_values(self._cached)
        return loader


def split(model: Any, train_size: float | None, validation_size: float | None) -> list[np.ndarray]:
    """Training, validation and test cells of both stages."""
    return stratified_split(
        model.adata,
        model.modalities,
        0.9 if train_size is None else train_size,
        validation_size,
        seed=settings.seed or 0,
    )


def cached_inputs(model: Any, *, progress: bool) -> dict[str, np.ndarray] | None:
    """For each modality what its encoder reads of all its cells; None where that is too wide."""
    module = model.module
    narrow = all(module.input(name).n_out <= MAX_CACHED for name in model.modalities)
    if not (module.reads_components and narrow):
        return None
    inputs = {}
    for name in model.modalities:
        n_obs = model.adata[name].n_obs
        read = training_reader(module.input(name), model._matrix(name), n_obs, progress=progress)
        inputs[name] = read(np.arange(n_obs))
    return inputs


def places_of(model: Any, train: np.ndarray) -> dict[str, Tensor]:
    """For each table the row of every cell of the data.

    -1 where a cell is not trained on, -2 where it lacks the modality.
    """
    is_train = np.zeros(model.adata.n_obs, dtype=bool)
    is_train[train] = True
    places = {SHARED: np.where(is_train, np.cumsum(is_train) - 1, -1)}
    for name, rows in row_table(model.adata, model.modalities).items():
        has = rows >= 0
        own = is_train & has
        numbers = np.where(own, np.cumsum(own) - 1, -1)
        places[name] = np.where(has, numbers, ABSENT)
    return {name: torch.from_numpy(rows) for name, rows in places.items()}


def by_cell(model: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Encoder inputs in the order of the cells of the data, in place of that of modalities."""
    table = row_table(model.adata, model.modalities)
    return {name: torch.from_numpy(x[table[name][table[name] >= 0]]) for name, x in inputs.items()}


def set_start(
    model: Any,
    train: np.ndarray,
    inputs: Mapping[str, np.ndarray] | None,
    start: str,
) -> None:
    """Set the latents of training cells to where they start.

    Raises
    ------
    ValueError
        If canonical variates are asked for and the encoders' input is too wide for them, or too
        few cells are paired.
    """
    module = model.module
    rows = {n: r[train] for n, r in row_table(model.adata, model.modalities).items()}
    widths = (module.n_shared, module.n_specific)
    seed = settings.seed or 0
    if model.is_trained_:
        shared, specific = _encoded_start(model, train)
    elif start == "canonical":
        if inputs is None:
            raise ValueError(
                "start='canonical' needs components: give n_components, at most "
                f"{MAX_CACHED}, or start='normal'."
            )
        shared, specific = canonical_start(
            _without_covariates(model, inputs), rows, *widths, seed=seed
        )
    else:
        shared, specific = random_start(rows, *widths, seed=seed)
    module.table(SHARED).set(shared)
    for name, values in specific.items():
        module.table(name).set(values)


def _encoded_start(model: Any, train: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Latents of cells that a trained model has not seen: what its encoders say."""
    shared = model.get_latent_representation(indices=train)
    specific = {}
    for name, rows in row_table(model.adata, model.modalities).items():
        own = rows[train]
        specific[name] = model.get_latent_representation(
            modality=name, space="specific", indices=own[own >= 0]
        )
    return shared, specific


def _without_covariates(model: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs less the means of the batches and of other categories, which decoders are told."""
    codes = [
        model.adata_manager.get_from_registry(field.registry_key)
        for field in model.adata_manager.fields
        if isinstance(field, MosaicCategoricalField)
    ]
    corrected = {}
    for name, x in inputs.items():
        cells = modality_cells(model.adata, name)
        for code in codes:
            x = x - _group_means(x, np.asarray(code)[cells])
        corrected[name] = x
    return corrected


def _group_means(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each row the mean of its group, less the mean of all."""
    values, inverse = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(values), x.shape[1]))
    np.add.at(sums, inverse, x)
    means = sums / np.bincount(inverse)[:, None]
    return (means[inverse] - x.mean(axis=0)).astype(x.dtype)
