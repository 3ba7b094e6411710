"""What the two stages of APOLLO's training read, and where its latents are set."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track
from scvi import settings

from cantata._keys import CELL
from cantata._mudata.obs import category_names, coalesce_obs
from cantata._mudata.pairing import row_table
from cantata._numeric.batches import sample_cells
from cantata.data import (
    EpochBatchSampler,
    MosaicLoader,
    MosaicSplitter,
    stratified_split,
)
from cantata.model._inputs import MAX_CACHED, check_varies, training_reader
from cantata.model.apollo._batches import without_covariates
from cantata.model.apollo._module import ABSENT, SHARED
from cantata.model.apollo._plan import EncoderPlan, LatentPlan
from cantata.model.apollo._start import canonical_start, check_paired, random_start
from cantata.nn import N_VIEWS, Covariates, turned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cantata._mudata.images import StainImages
    from cantata.model.base import MosaicModelClass
    from cantata.nn import ImageComponents

logger = logging.getLogger(__name__)

MAX_IMAGES = 1_000
"""Cells whose images, in all views, tell components."""
MAX_START_ROWS = 20_000
"""Images, with their views, that canonical variates are fitted on."""
MIN_ENCODER_GAIN = 0.01
"""Share of the loss of held-out cells that encoders have to gain to be more than linear."""
LINEAR, FULL = f"{LatentPlan.prefix}decoded_validation", f"{EncoderPlan.prefix}decoded_validation"
"""Losses of held-out cells in the history, by linear encoders and by whole ones."""


class StageSplitter(MosaicSplitter):
    """Splitter whose minibatches hold encoder inputs in place of values, or sparse values.

    `cached` are, for each modality, the encoder's input of all its cells (None: values), and with
    `fixed_order` minibatches are the same in every epoch.
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

    def train_dataloader(self) -> MosaicLoader:
        """Loader of the training cells."""
        loader = super().train_dataloader()
        if self._fixed_order and isinstance(loader.sampler, EpochBatchSampler):
            loader.sampler.set_epoch(0)
            loader.sampler.is_fixed = True  # the trainer sets the epoch, too
        if self._cached is not None:
            loader.mosaic.replace_values(self._cached)
        return loader


def split(
    model: MosaicModelClass,
    train_size: float | None,
    validation_size: float | None,
    group_key: str | None,
) -> list[np.ndarray]:
    """Training, validation and test cells of both stages."""
    share, seed = 0.9 if train_size is None else train_size, settings.seed or 0
    mdata, names, groups = model.adata, model.modalities, None
    if group_key is not None:
        column = category_names(coalesce_obs(mdata, group_key, names, argument="group_key"))
        lacking = np.flatnonzero(column.isna())
        if lacking.size:
            raise ValueError(
                f"group_key={group_key!r} has no value for {lacking.size} of {len(column)} cells, "
                f"e.g. {column.index[lacking[0]]!r}."
            )
        groups = column.to_numpy().astype(str)
    parts = stratified_split(mdata, names, share, validation_size, seed=seed, groups=groups)
    if groups is not None:
        for what, cells in zip(("validation", "test"), parts[1:], strict=True):
            if len(cells):
                held_out = ", ".join(np.unique(groups[cells]))
                logger.info("%s of %s: %s (%d cells).", group_key, what, held_out, len(cells))
    return parts


def cached_inputs(model: MosaicModelClass, *, progress: bool) -> dict[str, np.ndarray] | None:
    """For each modality what its encoder, or the linear part of it, reads of all its cells.

    None where that is too wide. Of images these are components.
    """
    module = model.module
    narrow = all(module.input(name).n_out <= MAX_CACHED for name in model.modalities)
    if not (module.reads_components and narrow):
        return None
    inputs = {}
    for name in model.modalities:
        values, n_obs = model.registered_values(name), model.adata[name].n_obs
        if name in module.image_sides:
            layer = module.components(name)
            (inputs[name],) = image_components(layer, values, progress=progress)
            continue
        read = training_reader(module.input(name), values, n_obs, progress=progress)
        inputs[name] = read(np.arange(n_obs))
    return inputs


@torch.inference_mode()
def image_components(
    layer: ImageComponents,
    images: StainImages,
    views: Sequence[int] = (0,),
    *,
    progress: bool = False,
) -> np.ndarray:
    """(views, n, d) components of all images of a modality in some of their views, read once."""
    device = layer.mean.device
    components = np.empty((len(views), len(images), layer.n_out), dtype=np.float32)
    blocks = track(images.blocks(), description="Reading images", disable=not progress)
    for start, block in blocks:
        values = torch.from_numpy(block).to(device)
        for of_view, view in zip(components, views, strict=True):
            of_view[start : start + len(block)] = layer(turned(values, view)).cpu().numpy()
    return components


def fit_images(layer: ImageComponents, images: StainImages, rows: np.ndarray) -> None:
    """Fit the components of images to those of some cells, at most 1,000 of them."""
    chosen = rows[sample_cells(len(rows), MAX_IMAGES)]
    layer.fit(torch.from_numpy(images[np.sort(chosen)]).to(layer.mean.device))


def table_rows_of(model: MosaicModelClass, train: np.ndarray) -> dict[str, Tensor]:
    """For each table the row of every cell of the data.

    -1 where a cell is not trained on, -2 where it lacks the modality.
    """
    is_train = np.zeros(model.adata.n_obs, dtype=bool)
    is_train[train] = True
    table_rows = {SHARED: np.where(is_train, np.cumsum(is_train) - 1, -1)}
    for name, rows in row_table(model.adata, model.modalities).items():
        has = rows >= 0
        in_table = is_train & has
        numbers = np.where(in_table, np.cumsum(in_table) - 1, -1)
        table_rows[name] = np.where(has, numbers, ABSENT)
    return {name: torch.from_numpy(rows) for name, rows in table_rows.items()}


def by_cell(model: MosaicModelClass, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Encoder inputs in the order of the cells of the data, in place of that of modalities."""
    table = row_table(model.adata, model.modalities)
    return {name: torch.from_numpy(x[table[name][table[name] >= 0]]) for name, x in inputs.items()}


def set_start(
    model: MosaicModelClass,
    train: np.ndarray,
    inputs: Mapping[str, np.ndarray] | None,
    start: str,
) -> None:
    """Set the latents of training cells to where they start.

    A ``ValueError`` where canonical variates are asked for and the encoders' input is too wide for
    them, or too few cells are paired.
    """
    module, seed = model.module, settings.seed or 0
    rows = {n: r[train] for n, r in row_table(model.adata, model.modalities).items()}
    n_cells = len(train)
    widths = module.n_shared, module.n_specific
    if model.is_trained_:
        # cells that the model has not been trained on: what its encoders say
        embed: Any = model.get_latent_representation
        shared = embed(indices=train)
        specific = {
            m: embed(modality=m, space="specific", indices=r[r >= 0]) for m, r in rows.items()
        }
    elif start == "canonical":
        if inputs is None:
            raise ValueError(
                "start='canonical' needs components: give n_components, at most "
                f"{MAX_CACHED}, or start='normal'."
            )
        check_paired(np.stack(list(rows.values())), list(rows))
        covariates = covariates_of(model)
        # images are also turned, which tells apart what is chance among few of them
        n_views = 1
        if module.image_sides:
            n_views = int(np.clip(MAX_START_ROWS // n_cells, 1, N_VIEWS))
        corrected, n_rows = {}, {}
        for name, x in inputs.items():
            # of training cells alone, and without what decoders are told
            has = rows[name] >= 0
            check_varies(name, x[rows[name][has]], "start='normal'")
            design = _design(covariates.rows(torch.from_numpy(train[has])))
            views = [x]
            if name in module.image_sides and n_views > 1:
                layer, images = module.components(name), model.registered_values(name)
                views += list(image_components(layer, images, range(1, n_views)))
            corrected[name] = np.vstack(
                [
                    without_covariates(views[v % len(views)][rows[name][has]], design)
                    for v in range(n_views)
                ]
            )
            n_rows[name] = int(has.sum())
            numbers = np.where(has, np.cumsum(has) - 1, -1)
            rows[name] = np.concatenate(
                [np.where(has, numbers + v * n_rows[name], -1) for v in range(n_views)]
            )
        batch = None
        if model.n_batch > 1:
            batch = np.tile(covariates.batch.numpy()[train], n_views)
        shared, specific = canonical_start(corrected, rows, *widths, batch=batch, seed=seed)
        shared = shared[:n_cells]
        specific = {name: values[: n_rows[name]] for name, values in specific.items()}
    else:
        shared, specific = random_start(rows, *widths, seed=seed)
    module.table(SHARED).set(shared)
    for name, values in specific.items():
        module.table(name).set(values)


def covariates_of(model: MosaicModelClass) -> Covariates:
    """Covariates of all cells of the data, in their order."""
    dataset = model.adata_manager.create_torch_dataset()
    return Covariates.of({**dataset.columns, CELL: torch.arange(len(dataset))})


def _design(covariates: Covariates) -> np.ndarray:
    """(n, c) codes of all categories as columns, and continuous covariates."""
    columns = [] if covariates.values is None else [covariates.values.numpy()]
    if covariates.codes is not None:
        columns += [np.eye(int(code.max()) + 1)[code] for code in covariates.codes.numpy().T]
    return np.hstack(columns)


def is_better_than_linear(least: Mapping[str, float]) -> bool:
    """Whether held-out cells gain from what encoders add to their linear maps.

    By the least losses of held-out cells; true also where linear maps alone were not judged.

    Examples
    --------
    >>> is_better_than_linear({"linear_decoded_validation": 2.0, "decoded_validation": 1.9})
    True
    """
    if LINEAR not in least:
        return True
    gain = (least[LINEAR] - least[FULL]) / abs(least[LINEAR])
    if gain < MIN_ENCODER_GAIN:
        logger.info(
            "Encoders lower the loss of held-out cells by %.1f %%; linear maps are kept.",
            100 * gain,
        )
    return gain >= MIN_ENCODER_GAIN


def continued(
    before: Mapping[str, pd.DataFrame], new: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """History with new epochs after those of earlier training."""
    history = dict(before)
    for key, table in new.items():
        if key in before:
            later = table.set_axis(table.index + len(before[key]), axis=0)
            table = pd.concat([before[key], later])
        history[key] = table
    return history
