"""APOLLO for users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi import settings

from cantata import _keys
from cantata._mudata.checks import (
    check_integer,
    check_known,
    check_mapping,
    parameters_of,
    per_modality,
)
from cantata._mudata.pairing import check_connected, membership, row_table
from cantata._mudata.values import MatrixReader
from cantata._numeric.batches import sample_cells
from cantata._numeric.normalise import row_sums
from cantata.model._checkpoint import digest
from cantata.model._imputation import (
    ImputationWriter,
    batch_codes,
    check_own_totals,
    values_of,
)
from cantata.model._inputs import BLOCK_ROWS, fit_input, resolve_transforms, sampled_rows
from cantata.model._threads import with_threads_for_steps
from cantata.model.apollo._batches import mix_encoders
from cantata.model.apollo._checkpoint import Stage, StageCheckpoint, StageRecord
from cantata.model.apollo._impute import MAX_CALIBRATION_CELLS, Calibration
from cantata.model.apollo._module import SHARED, APOLLOModule
from cantata.model.apollo._plan import (
    EncoderPlan,
    LatentPlan,
    fit_linear_encoders,
)
from cantata.model.apollo._presets import PRESETS
from cantata.model.apollo._training import (
    StageSplitter,
    by_cell,
    cached_inputs,
    continued,
    covariates_of,
    fit_images,
    is_better_than_linear,
    set_start,
    split,
    table_rows_of,
)
from cantata.model.base import Batches, Cells, Indices, MosaicModelClass
from cantata.nn import LOSSES, Covariates

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

WIDTHS, IMAGE_WIDTHS = (50, 20), (16, 8)
"""Shared and specific latents, and as many where there are images."""
N_STEPS, MIN_EPOCHS, MAX_EPOCHS = 400, 15, 60
"""Steps of the default schedule of each stage, and bounds on its epochs."""
IMAGE_STEPS, IMAGE_ENCODER_STEPS, MIN_IMAGE_EPOCHS = 200, 800, 5
"""The same of images, whose encoders learn what is not linear."""
BATCH_SIZE, IMAGE_BATCH_SIZE = 256, 64
MAX_POS_WEIGHT = 50.0
"""Of the cross-entropy's positive part."""

IMAGE_LOSSES = ("bce", "mse")

Space = Literal["shared", "specific", "full", "table"]


class APOLLO(MosaicModelClass):
    """Latents that paired modalities share, and latents that each keeps to itself.

    In the first stage the latents of every training cell are parameters: shared ones, and
    specific ones of each modality. They are optimised together with decoders, of which one reads
    a modality's shared and specific latents with noise, and another the shared ones alone. In the
    second stage encoders are regressed on these latents, one for each modality, which take new
    cells.

    Source: Zhang et al. 2026, APOLLO: partially shared latent spaces by latent optimisation.
    Beyond the paper, latents start from canonical variates and from what these leave, specific
    latents are kept independent of the shared ones, and cells may lack modalities.

    Parameters
    ----------
    mdata
        MuData registered with :meth:`setup_mudata`.
    n_shared
        Width of the shared latents. None: 50, and 16 where there are images.
    n_specific
        Width of the specific latents, of all modalities or of each; 0 for none. None: 20, and 8
        where there are images.
    losses
        Loss of all modalities or of each: ``"bce"``, the cross-entropy of every cell's log counts
        scaled to [0, 1] (of its values, where some are negative); ``"mse"``, the squared error of
        standardised values; or a likelihood of counts: ``"nb"``, ``"zinb"``, ``"poisson"``,
        ``"bernoulli"``, ``"normal"``.
    transforms
        Transform of what encoders read, and of what ``"mse"`` compares, of all modalities or of
        each, as for :class:`cantata.SCMODAL`.
    n_components
        Encoders of modalities with more features read so many principal components (latent
        semantic components of chromatin), fitted in training and kept. None: encoders read what
        is decoded, as in the paper.
    n_hidden, n_layers
        Width and number of hidden layers of each decoder.
    n_hidden_encoder, n_layers_encoder
        Width and number of hidden layers of each encoder.
    dropout_rate
        Dropout rate of all hidden layers.
    shared_decoders
        Have decoders that read shared latents alone.
    noise
        Standard deviation of the noise on latents in the first stage.
    learn_noise
        Learn the noise of every latent of every cell instead, from 1: its uncertainty, see
        :meth:`get_latent_table`.
    start
        ``"canonical"``: canonical variates of the modalities' components, and principal
        components of what these leave. ``"normal"``: N(0, 1), as in the paper.
    image_widths
        Channels of the convolutions of image encoders, each of which halves the side, and of
        decoders in reverse.
    networks
        Networks of your own in place of a modality's encoder: each makes (cells, features), or
        feature maps, of what the encoder reads, images (cells, stains, side, side) or (cells,
        components). Parameters that require no gradient are left as they are.
    **module_kwargs
        Further arguments of :class:`~cantata.model.apollo.APOLLOModule`, which the published
        settings need.

    Raises
    ------
    ValueError
        If a width is not positive, a loss or transform is unknown or does not fit the values, or
        no cell has two modalities.
    KeyError
        If a mapping names an unknown modality.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=300, pairing="full")
    >>> cantata.APOLLO.setup_mudata(mdata)
    >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
    >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
    >>> model.get_latent_representation().shape
    (300, 8)
    """

    method = "apollo"
    _open_when_frozen = _parts_of_cells = ("tables",)
    presets: ClassVar = PRESETS
    """Published settings, for SHARE-seq (``"published"``), CITE-seq (``"cite"``),
    ``"simulations"`` and ``"images"``: ``APOLLO(mdata, **presets["cite"]["model"])`` and
    ``model.train(**presets["cite"]["train"])``."""
    _module_cls = APOLLOModule
    _uses_images = True

    def __init__(
        self,
        mdata: MuData,
        n_shared: int | None = None,
        n_specific: int | Mapping[str, int] | None = None,
        losses: str | Mapping[str, str] = "bce",
        transforms: str | Mapping[str, str | None] | None = "auto",
        *,
        n_components: int | None = 100,
        n_hidden: int = 128,
        n_layers: int = 1,
        n_hidden_encoder: int = 128,
        n_layers_encoder: int = 2,
        dropout_rate: float = 0.01,
        shared_decoders: bool = True,
        noise: float = 1.0,
        learn_noise: bool = False,
        start: Literal["canonical", "normal"] = "canonical",
        image_widths: Sequence[int] = (16, 32, 64, 96),
        networks: Mapping[str, nn.Module] | None = None,
        **module_kwargs: Any,
    ) -> None:
        init_params = self._get_init_params(locals())
        if start not in ("canonical", "normal"):
            raise ValueError(f"start={start!r} is neither 'canonical' nor 'normal'.")
        super().__init__(mdata)
        check_mapping("networks", networks or {}, self.modalities)
        if not isinstance(image_widths, Sequence) or not image_widths:
            raise ValueError(
                f"image_widths={image_widths!r}: give the channels of each convolution, e.g. "
                "(16, 32, 64, 96)."
            )
        for width in image_widths:
            check_integer("image_widths", width, 1)
        named = per_modality("losses", losses, self.modalities, "bce")
        widths_of = IMAGE_WIDTHS if self.image_sides else WIDTHS
        if n_shared is None:
            n_shared = init_params["non_kwargs"]["n_shared"] = widths_of[0]
        if n_specific is None:
            n_specific = init_params["non_kwargs"]["n_specific"] = widths_of[1]
        widths = per_modality("n_specific", n_specific, self.modalities, widths_of[1])
        _check_widths(n_shared, widths)
        self._check_losses(named)
        modalities = {m: mdata[m] for m in self.modalities if m not in self.image_sides}
        given = per_modality("transforms", transforms, self.modalities, "auto")
        given = {name: given[name] for name in modalities}
        resolved = resolve_transforms(given, modalities, self._matrix_stats, n_components)
        # a query, or data that a model is loaded with, may tell less than the reference did
        self.init_params_ = init_params
        init_params["non_kwargs"]["transforms"] = {
            name: None if value == "identity" else value for name, value in resolved.items()
        }
        arguments = self._init_arguments
        self.start_ = arguments.pop("start")
        self.module = APOLLOModule(
            n_features=self.n_features,
            n_batch=self.n_batch,
            n_categories=self.n_categories,
            n_continuous=self.n_continuous,
            image_sides=self.image_sides,
            **arguments | {"transforms": resolved, "losses": named, "n_specific": widths},
        )
        self.table_cells_ = np.array([], dtype=str)
        self.table_members_: dict[str, np.ndarray] = {}
        self.typical_totals_: dict[str, float] = {}
        self.calibrations_: dict[str, dict[str, Any]] = {}

    def _check_losses(self, losses: Mapping[str, str]) -> None:
        unknown = {name: value for name, value in losses.items() if value not in LOSSES}
        if unknown:
            raise ValueError(f"Unknown losses {unknown}; choose from {sorted(LOSSES)}.")
        if not self.is_query:
            check_connected(membership(self.adata, self.modalities), self.modalities, "APOLLO")
        for name, loss in losses.items():
            if name in self.image_sides:
                if loss not in IMAGE_LOSSES:
                    raise ValueError(
                        f"losses={{{name!r}: {loss!r}}}: images have one of {list(IMAGE_LOSSES)}."
                    )
            elif LOSSES[loss].requires_counts:
                self._check_counts(name, loss, remedy="losses={{{name!r}: 'mse'}}")

    def _inherit_from(self, reference: Self) -> None:
        super()._inherit_from(reference)
        self.typical_totals_ = dict(reference.typical_totals_)
        self.calibrations_ = dict(reference.calibrations_)

    # Training -----------------------------------------------------------------------------------

    @with_threads_for_steps
    def train(
        self,
        max_epochs: int | None = None,
        *,
        encoder_epochs: int | None = None,
        batch_size: int | None = None,
        train_size: float | None = None,
        validation_size: float | None = None,
        group_key: str | None = None,
        early_stopping: bool = True,
        shuffle: bool = True,
        linear_encoders: bool = True,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: Mapping[str, Any] | None = None,
        encoder_plan_kwargs: Mapping[str, Any] | None = None,
        ckpt_path: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        """Train both stages.

        Held-out cells judge both by the loss of decoding what encoders infer of them. In the
        first stage, which they have no latents in, these encoders are linear and fitted in closed
        form before each validation; in the second they are the encoders themselves.

        Parameters
        ----------
        max_epochs
            Epochs of the first stage: latents and decoders. By default 400 steps, but at least 15
            and at most 60 epochs; of images 200 steps, but at least 5 epochs.
        encoder_epochs
            Epochs of the second stage: encoders. By default as many; of images 800 steps, but at
            least 5 epochs.
        batch_size
            Cells per minibatch; 256 by default, 64 where there are images.
        train_size, validation_size
            Fractions of the cells of each pairing pattern; 0.9 and the rest by default.
        group_key
            Column of groups, such as patients, wells or regions, of which each is held out as a
            whole.
        early_stopping
            Stop a stage when the loss of held-out cells no longer falls, and restore its best
            epoch. Without it the last epoch is kept.
        shuffle
            Draw new minibatches every epoch; otherwise they are the same in all, as in the
            reference implementation.
        linear_encoders
            Add to each encoder the least-squares map from its input to the latents, so that its
            layers learn the rest; where held-out cells gain less than 1 % by these, the map alone
            is kept. Encoders of images learn without it.
        plan_kwargs, encoder_plan_kwargs
            Arguments of :class:`~cantata.model.apollo.LatentPlan` and of
            :class:`~cantata.model.apollo.EncoderPlan`: learning rates, weights of the loss terms.
        ckpt_path
            Checkpoint from the end of an epoch of either stage, by lightning's
            ``ModelCheckpoint``. That stage is continued, and a later one run as usual. A model of
            the same data, arguments and seed then ends where uninterrupted training would have
            ended. The history begins after the checkpoint.
        accelerator, devices, **kwargs
            Passed to :class:`~scvi.train.Trainer`, e.g. ``enable_progress_bar``, ``precision``;
            ``callbacks`` and ``enable_checkpointing`` hold for both stages.

        Raises
        ------
        ValueError
            If there is nothing to start latents from, or `ckpt_path` is no checkpoint of this
            model and these cells.
        FileNotFoundError
            If `ckpt_path` does not exist.
        TypeError
            If `plan_kwargs` holds an unknown name.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> weights = {"lambda_independence": 0.0}
        >>> model.train(max_epochs=2, plan_kwargs=weights, enable_progress_bar=False)
        >>> "norm_shared" in model.history
        True
        """
        self._check_training_data()
        parts = split(self, train_size, validation_size, group_key)
        train = parts[0]
        if batch_size is None:
            batch_size = IMAGE_BATCH_SIZE if self.image_sides else BATCH_SIZE
        batch_size = check_integer("batch_size", batch_size, 1)
        planned = self._planned_epochs(len(train), batch_size)
        epochs = planned if max_epochs is None else check_integer("max_epochs", max_epochs, 1)
        n_epochs: dict[Stage, int] = {"latent": epochs}
        if not self.is_frozen_:
            if encoder_epochs is None and self.image_sides and max_epochs is None:
                encoder_epochs = _image_epochs(len(train), batch_size, IMAGE_ENCODER_STEPS)
            encoder_epochs = epochs if encoder_epochs is None else encoder_epochs
            n_epochs["encoder"] = check_integer("encoder_epochs", encoder_epochs, 1)
        table_rows = table_rows_of(self, train)
        further = dict(encoder_plan_kwargs or {})
        check_known("encoder_plan_kwargs", further, parameters_of(EncoderPlan)[3:])
        encoders = EncoderPlan(self.module, table_rows, **further)
        cells = self.adata.obs_names[train].to_numpy().astype(str)
        checkpoint = None
        if ckpt_path is not None:
            checkpoint = StageCheckpoint.read(ckpt_path, type(self).__name__)
            n_rows = {name: int((rows >= 0).sum()) for name, rows in table_rows.items()}
            checkpoint.check(self.module, cells, n_rows, n_epochs)
        # 1. what encoders read, and where latents start or were
        self._train_cells = train
        self._ensure_inputs()
        if checkpoint is not None:
            self.module.load_state_dict(dict(checkpoint.weights))
        inputs = cached_inputs(self, progress=kwargs.get("enable_progress_bar", True))
        if checkpoint is None and not np.array_equal(cells, self.table_cells_):
            set_start(self, train, inputs, self.start_)
        self.table_cells_ = cells
        self.table_members_ = {m: table_rows[m][train].numpy() >= 0 for m in self.modalities}
        linear_inputs = None
        if linear_encoders and inputs is not None and not self.is_frozen_:
            linear_inputs = by_cell(self, inputs)
        validates = early_stopping and len(parts[1]) > 0
        best = {} if checkpoint is None else dict(checkpoint.best)

        def run(
            stage: Stage,
            plan: LatentPlan | EncoderPlan,
            cached: Mapping[str, np.ndarray] | None,
            validates: bool,
        ) -> None:
            splitter = StageSplitter(
                self.adata_manager,
                cached,
                fixed_order=not shuffle,
                external_indexing=parts,
                batch_size=batch_size,
            )
            options = {"accelerator": accelerator, "devices": devices, **kwargs}
            record = StageRecord(stage, digest(cells), best)
            options["callbacks"] = [*options.get("callbacks", []), record]
            if checkpoint is not None and checkpoint.stage == stage:
                options |= checkpoint.options(options)
            self._run_stage(plan, splitter, n_epochs[stage], validates, **options)

        # 2. latents and decoders
        if checkpoint is None or checkpoint.stage == "latent":
            judged_by = linear_inputs if validates else None
            batch = None
            if self.n_batch > 1:
                batch = np.asarray(self.adata_manager.get_from_registry(_keys.BATCH))[train]
            further = {"batch": batch, **(plan_kwargs or {})}
            latents = LatentPlan(self.module, table_rows, judged_by, **further)
            run("latent", latents, None, judged_by is not None)
            latents.mix()
            if linear_inputs is not None:
                fit_linear_encoders(self.module, linear_inputs, table_rows)
                for name in self.image_sides:
                    # as pixels of few cells also tell of chance, which layers do not unlearn
                    self.module.encoder(name).clear_linear()
        # 3. encoders; linear ones are kept where held-out cells gain nothing by more
        if "encoder" in n_epochs:
            cached = None
            if inputs is not None and not encoders.lambda_decoded:
                cached = {m: x for m, x in inputs.items() if m not in self.image_sides}
                encoders.cached = cached
            run("encoder", encoders, cached, validates)
            if linear_inputs is not None and validates and not is_better_than_linear(best):
                fit_linear_encoders(self.module, linear_inputs, table_rows)
            # 4. what a registered batch still changes in what they say is taken out
            if inputs is not None and self.n_batch > 1 and not self.image_sides:
                mix_encoders(
                    self.module,
                    by_cell(self, inputs),
                    covariates_of(self),
                    table_rows,
                    settings.seed or 0,
                )
        if not self.is_frozen_:
            self._calibrate(train)

    def _planned_epochs(self, n_cells: int, batch_size: int) -> int:
        if self.image_sides:
            return _image_epochs(n_cells, batch_size, IMAGE_STEPS)
        return int(np.clip(round(N_STEPS * batch_size / n_cells), MIN_EPOCHS, MAX_EPOCHS))

    def _run_stage(
        self,
        plan: LatentPlan | EncoderPlan,
        splitter: StageSplitter,
        n_epochs: int,
        validates: bool,
        **trainer_kwargs: Any,
    ) -> None:
        """Train one stage, and keep its best epoch where held-out cells tell."""
        # scvi-tools would only extend what an earlier stage has recorded
        before: dict[str, pd.DataFrame] = self.history or {}
        self.history_: dict[str, pd.DataFrame] | None = None
        self.is_trained_ = False
        try:
            self._fit(
                plan,
                splitter,
                n_epochs,
                validates=validates,
                monitor=plan.monitor if validates else None,
                patience=max(5, n_epochs // 4),
                reload_dataloaders_every_n_epochs=1,
                **trainer_kwargs,
            )
        finally:
            self.history_ = continued(before, self.history_ or {})

    def _fit_inputs(self) -> None:
        """Fit to training cells what encoders read and the cross-entropy weighs."""
        for name, rows in row_table(self.adata, self.modalities).items():
            rows = rows[self._train_cells]
            if name in self.image_sides:
                fit_images(
                    self.module.components(name), self.registered_values(name), rows[rows >= 0]
                )
                continue
            n_obs = self.adata[name].n_obs
            values = sampled_rows(self.registered_values(name), n_obs, rows[rows >= 0])
            fit_input(name, self.module.input(name), values, values.shape[0])
            if self.module.losses[name] == "bce":
                self.module.set_takes_log(name, not self._matrix_stats[name].n_negative)
                # not what is stored, among which there may be zeros
                n_positive = (values > 0).sum()
                size = values.shape[0] * values.shape[1]
                weight = (size - n_positive) / max(n_positive, 1)
                self.module.set_pos_weight(name, float(np.clip(weight, 1, MAX_POS_WEIGHT)))
            self.typical_totals_[name] = float(np.median(row_sums(values)))

    @torch.inference_mode()
    def _calibrate(self, train: np.ndarray) -> None:
        """Fit the map from [0, 1] to registered units to training cells, for `impute`."""
        cells = self._cells(None)
        for name, rows in row_table(self.adata, self.modalities).items():
            has = train[rows[train] >= 0]
            if self.module.losses[name] != "bce" or name in self.image_sides or not len(has):
                continue
            chosen = has[sample_cells(len(has), MAX_CALIBRATION_CELLS)]
            read = MatrixReader(self.registered_values(name))
            # features that a batch did not measure are NaN there, and have no say
            panel = np.where(self.panels_[name]["measured"], 0.0, np.nan).astype(np.float32)
            lacking, batch = torch.as_tensor(panel, device=self.device), self._batch_codes(name)
            measured = (
                read(block) + panel[batch[block]]
                for block in np.array_split(rows[chosen], -(-len(chosen) // BLOCK_ROWS))
            )
            scaled = (
                self._expected(t, name, name, None, None)[0] + lacking[Covariates.of(t).batch]
                for t in self._minibatches(cells, chosen, None)
            )
            found = Calibration.fit(measured, scaled, self.module.takes_log(name))
            self.calibrations_[name] = found.state()

    # Latents ------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        modality: str | None = None,
        space: Space = "shared",
        indices: Indices = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Latents of cells.

        Parameters
        ----------
        mdata
            Data with any subset of the modalities, never modified; the model's own by default.
        modality
            Infer from this modality alone. By default shared latents are the mean over all
            modalities that a cell has, and specific ones of all modalities stand side by side.
        space
            ``"shared"``, ``"specific"``, or both in this order, ``"full"``, as encoders infer
            them; ``"table"``: as they were optimised, the shared ones or those of `modality`
            (training cells only, see :meth:`get_latent_table`).
        indices
            Cells to embed: positions in ``mdata.obs_names``, or in ``mdata[modality].obs_names``;
            a mask, a slice or names of these.
        batch_size
            Cells per minibatch.

        Returns
        -------
        float32 array (cells, width), in the order of ``mdata.obs_names`` or of
        ``mdata[modality].obs_names``; with ``space="table"`` of the training cells among them.

        Raises
        ------
        KeyError
            If `modality` is unknown or not in `mdata`.
        ValueError
            If `space` is unknown, or cells lack a modality whose specific latents are asked for.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
        >>> model.get_latent_representation(modality="adt", space="specific").shape
        (200, 4)
        """
        if space not in get_args(Space):
            raise ValueError(f"space={space!r} is none of {get_args(Space)}.")
        cells = self._cells(mdata)
        chosen = self._chosen_cells(cells, modality, indices)
        if space == "table":
            known = self.get_latent_table(modality)
            names = cells.mdata.obs_names[chosen]
            return known.loc[names[names.isin(known.index)]].to_numpy()
        if modality is None and space != "shared":
            self._check_complete(cells, chosen)

        def encode(tensors: Mapping[str, Tensor]) -> Tensor:
            shared, specific, rows = self.module.encode_values(tensors, modality)
            if modality is not None:
                parts = [shared[modality], specific[modality]]
            else:
                joint = self.module.joint(shared, rows, len(tensors[_keys.CELL]))
                parts = [joint, *specific.values()]
            wanted = {"shared": parts[:1], "specific": parts[1:], "full": parts}
            return torch.cat(wanted[space], dim=1)

        return self._run(cells, chosen, batch_size, encode, modality)

    def _embed(self, tensors: Mapping[str, Tensor], modality: str | None) -> Tensor:
        shared, _, rows = self.module.encode_values(tensors, modality)
        if modality is not None:
            return shared[modality]
        return self.module.joint(shared, rows, len(tensors[_keys.CELL]))

    def _check_complete(self, cells: Cells, chosen: np.ndarray) -> None:
        present = [name for name in self.modalities if name in cells.mdata.mod]
        has = membership(cells.mdata, present)[chosen]
        lacking = np.flatnonzero(~has.all(axis=1))
        if len(present) < len(self.modalities) or len(lacking):
            n = len(lacking) or len(chosen)
            raise ValueError(
                f"{n} of {len(chosen)} cells lack a modality and have no specific latents of it. "
                "Name a modality, or choose cells that have all."
            )

    def get_latent_table(
        self, modality: str | None = None, *, scale: bool = False
    ) -> pd.DataFrame:
        """Latents of training cells as they were optimised in the first stage.

        Parameters
        ----------
        modality
            Specific latents of this modality; the shared ones by default.
        scale
            The learned noise instead, the uncertainty of every latent; with ``learn_noise=True``.

        Returns
        -------
        Cells x latents, by cell name.

        Raises
        ------
        KeyError
            If `modality` is unknown.
        ValueError
            If the model is not trained, or noise was not learned.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
        >>> model.get_latent_table("rna").shape
        (180, 4)
        """
        self._check_modality("modality", modality)
        table = self.module.table(modality or SHARED)
        if not len(self.table_cells_):
            raise ValueError("The model has no latents yet: call train() first.")
        values: Tensor = table.weight
        if scale:
            if table.log_scale is None:
                raise ValueError("Noise was not learned: pass learn_noise=True to APOLLO.")
            values = table.log_scale.exp()
        cells = self.table_cells_
        if modality is not None:
            cells = cells[self.table_members_[modality]]
        return pd.DataFrame(values.detach().cpu().numpy(), index=pd.Index(cells))

    def _embeddings_to_write(
        self, mdata: MuData | None, modalities: list[str]
    ) -> dict[tuple[str, str], np.ndarray]:
        embeddings = {}
        spaces: tuple[Space, ...] = ("shared", "specific")
        for name in modalities:
            for space in spaces[: 1 + bool(self.module.n_specific[name])]:
                key = f"{_keys.embedding(self.method)}_{space}"
                z = self.get_latent_representation(mdata, modality=name, space=space)
                embeddings[name, key] = z
        return embeddings

    # Imputation ---------------------------------------------------------------------------------

    def impute(
        self,
        modality: str,
        mdata: MuData | None = None,
        *,
        source: str | None = None,
        features: Sequence[str] | None = None,
        indices: Indices = None,
        transform_batch: Batches = None,
        library_size: float | np.ndarray | None = None,
        calibrate: bool = True,
        interval: float | None = None,
        batch_size: int | None = None,
        out: str | Path | None = None,
    ) -> AnnData:
        """Values of a modality for every cell, in registered units, from what it shares.

        The shared latents that the encoder of the source infers go through the decoder of the
        modality that reads shared latents alone (Zhang et al. 2026). Without such decoders the
        other one is used, with specific latents at their mean.

        Parameters
        ----------
        modality
            Modality to impute.
        mdata
            Data with any subset of the modalities, never modified; the model's own by default.
        source
            Infer from this modality alone, for cells with it; by default from the mean of the
            shared latents that the encoders of all modalities of a cell infer.
        features
            Names of the features to return; all by default.
        indices
            Cells to impute: positions in ``mdata.obs_names``, a mask, a slice or names.
        transform_batch
            Batch to decode for, or batches to average over. By default a cell's own; where that
            lacks the modality, the mean over the batches that have it.
        library_size
            Total per cell, one number or one per returned cell, for losses that scale cells to a
            total (counts, and ``"mse"`` of ``"log1p"`` values); by default the median of the
            modality's cells.
        calibrate
            With the loss ``"bce"``: map each feature back from [0, 1] to registered units, by a
            monotone function that agrees with the training cells of the modality on the mean.
            False: leave it in [0, 1], the scale of its cell.
        interval
            Share of new measurements, e.g. 0.9, that are to lie between ``layers["lower"]`` and
            ``layers["upper"]``, by the errors for held-out cells that have both `source` and
            `modality` (conformal: it holds whatever the model, on average over cells as those).
        batch_size
            Cells per minibatch.
        out
            New directory ending in ``.zarr`` to write values to as they are computed.

        Returns
        -------
        AnnData, cells x features, with ``.obs`` and ``obsm["spatial"]`` of the cells. ``.X`` is
        float32, in the units that ``.uns["cantata"]["units"]`` says: registered ones, expected
        counts of count likelihoods; with `out` it stays on disk.

        Raises
        ------
        KeyError
            If a modality, feature or batch is unknown.
        ValueError
            If cells lack the source, or are of an unknown batch without `transform_batch`, or if
            `library_size` or `calibrate` do not fit the modality's loss, or the model is not
            trained; if an `interval` has no `source`, a `library_size`, values that are not
            calibrated, or too few held-out cells with both modalities.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
        >>> model.impute("adt", source="rna").shape == (200, mdata["adt"].n_vars)
        True
        """
        check_own_totals(interval, library_size)
        if interval is not None and not calibrate:
            raise ValueError("interval= is of values in registered units; leave out calibrate.")
        return self._impute(
            modality,
            mdata,
            source=source,
            features=features,
            indices=indices,
            transform_batch=transform_batch,
            library_size=self._library_size(modality, library_size),
            interval=interval,
            batch_size=batch_size,
            out=out,
            calibration=self._calibration(modality, calibrate),
        )

    def get_reconstruction(
        self,
        modality: str,
        mdata: MuData | None = None,
        *,
        space: Literal["full", "shared"] = "full",
        features: Sequence[str] | None = None,
        indices: Indices = None,
        calibrate: bool = True,
        batch_size: int | None = None,
        out: str | Path | None = None,
    ) -> AnnData:
        """What a modality's own encoder and decoders make of its cells, in registered units.

        Parameters
        ----------
        modality
            Modality to reconstruct.
        mdata
            Data with this modality, never modified; the model's own by default.
        space
            ``"full"``: from shared and specific latents. ``"shared"``: from shared latents alone;
            what is missing is what the modality keeps to itself.
        features, calibrate, batch_size, out
            As for :meth:`impute`.
        indices
            Cells, as positions in ``mdata.obs_names``, that have the modality; by default all
            that have it.

        Returns
        -------
        AnnData, cells x features, in the units of :meth:`impute`.

        Raises
        ------
        KeyError
            If the modality or a feature is unknown.
        ValueError
            If `space` is neither, or chosen cells lack the modality.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
        >>> model.get_reconstruction("adt", space="shared").n_obs
        200
        """
        if space not in ("full", "shared"):
            raise ValueError(f"space={space!r} is neither 'full' nor 'shared'.")
        return self._impute(
            modality,
            mdata,
            source=modality,
            features=features,
            indices=indices,
            library_size=self._library_size(modality, None),
            batch_size=batch_size,
            out=out,
            calibration=self._calibration(modality, calibrate),
            shared_only=space == "shared",
        )

    @with_threads_for_steps
    def decode_latents(
        self,
        modality: str,
        shared: np.ndarray | pd.DataFrame,
        specific: np.ndarray | pd.DataFrame | None = None,
        *,
        transform_batch: Batches = None,
        calibrate: bool = True,
        batch_size: int | None = None,
    ) -> AnnData:
        """What a modality looks like at given latents, of cells or of none, in registered units.

        For instance at the mean latents of the bins along a component, which
        :func:`cantata.pl.latent_traversal` draws.

        Parameters
        ----------
        modality
            Modality to decode.
        shared
            (n, n_shared) shared latents; the index of a table names the rows of the result.
        specific
            (n, n_specific) specific latents of the modality. None: from shared latents alone, as
            :meth:`impute`.
        transform_batch
            Batch to decode for, or batches to average over. None: all that have the modality.
            Other covariates are at their first category, or at their mean.
        calibrate
            As for :meth:`impute`.
        batch_size
            Rows per minibatch.

        Returns
        -------
        AnnData, rows x features, in the units of :meth:`impute`.

        Raises
        ------
        KeyError
            If the modality or a batch is unknown.
        ValueError
            If latents have another shape or are not finite, or the model is not trained.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
        >>> z = model.get_latent_representation(modality="rna")
        >>> model.decode_latents("adt", z[:2] + 1).shape == (2, mdata["adt"].n_vars)
        True
        """
        self._check_modality("modality", modality)
        self._check_if_trained(warn=True)
        parts, widths = [shared], [self.module.n_shared]
        if specific is not None:
            parts, widths = [shared, specific], [*widths, self.module.n_specific[modality]]
        arrays = [np.asarray(part, dtype=np.float32) for part in parts]
        found, wanted = [x.shape for x in arrays], [(len(arrays[0]), width) for width in widths]
        if found != wanted:
            raise ValueError(f"Latents of {modality!r} have shapes {found} in place of {wanted}.")
        z = torch.from_numpy(np.hstack(arrays))
        if not torch.isfinite(z).all():
            raise ValueError("Latents hold NaN or infinity.")
        batches = batch_codes(transform_batch, self.batch_categories)
        if batches is None and self.n_batch > 1:
            batches = np.flatnonzero(self.measured_batches_[modality]).tolist()
        names = shared.index.astype(str) if isinstance(shared, pd.DataFrame) else np.arange(len(z))
        frame = MuData({modality: AnnData(obs=pd.DataFrame(index=names.astype(str)))})
        calibration = self._calibration(modality, calibrate)
        units, side = (
            self._units(modality, calibration=calibration),
            self.image_sides.get(modality),
        )
        features = self.feature_names(modality)
        writer = ImputationWriter(frame, np.arange(len(z)), features, None, units, side)
        size = self._library_size(modality, None)
        self.module.eval()
        with torch.inference_mode():
            for part in z.to(self.device).split(batch_size or settings.batch_size):
                values = self._decode_batches(
                    self._covariates_of_none(len(part)),
                    modality,
                    part,
                    batches,
                    None if size is None else part.new_full((len(part),), float(size)),
                    calibration=calibration,
                    shared_only=specific is None,
                )
                if side is not None:
                    values = values.unflatten(1, (len(features), side, side))
                writer.add(values, None, {})
        return writer.finish()

    def _covariates_of_none(self, n: int) -> dict[str, Tensor]:
        """Minibatch of n rows that are no cells: first categories, and mean values."""
        whole = torch.zeros(n, dtype=torch.int64, device=self.device)
        tensors = {_keys.CELL: whole, _keys.BATCH: whole}
        if self.n_categories:
            tensors[_keys.CATEGORICAL] = whole.new_zeros(n, len(self.n_categories))
        if self.n_continuous:
            tensors[_keys.CONTINUOUS] = torch.zeros(n, self.n_continuous, device=self.device)
        return tensors

    def _expected(
        self,
        tensors: dict[str, Tensor],
        modality: str,
        source: str | None,
        batches: list[int] | None,
        library: Any,
        calibration: Calibration | None = None,
        shared_only: bool = True,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if shared_only:
            z = self._embed(tensors, source)
        else:
            shared, specific, _ = self.module.encode_values(tensors, modality)
            z = torch.cat([shared[modality], specific[modality]], dim=1)
        values = self._decode_batches(
            tensors,
            modality,
            z,
            batches,
            library,
            calibration=calibration,
            shared_only=shared_only,
        )
        return values, None, library

    def _decode(
        self,
        modality: str,
        z: Tensor,
        covariates: Covariates,
        library: Tensor | None,
        calibration: Calibration | None = None,
        shared_only: bool = True,
    ) -> Tensor:
        values = self.module.decode(modality, z, covariates, library, shared_only=shared_only)
        if self.module.losses[modality] != "mse" or modality in self.image_sides:
            return values if calibration is None else calibration.values(values)
        layer = self.module.input(modality)
        return layer.from_standardized(values, library if layer.scales_cells else None)

    def _units(self, modality: str, **options: Any) -> str:
        loss = self.module.losses[modality]
        if modality in self.image_sides:
            return "intensities in [0, 1]"
        if loss == "bce":
            return "registered values" if options["calibration"] else "[0, 1] within each cell"
        if self.module.has_library(modality):
            return "expected counts"
        return "registered values"

    def _library_size(
        self, modality: str, library_size: float | np.ndarray | None
    ) -> float | np.ndarray | None:
        """Library sizes as given, or the median total where the loss needs one."""
        self._check_modality("modality", modality)
        loss, has_library = self.module.losses[modality], self.module.has_library(modality)
        if library_size is None:
            return self._typical_library(modality) if has_library else None
        if self._typical_library(modality) is None:
            raise ValueError(
                f"library_size={library_size!r}: modality {modality!r} has loss {loss!r}. Give a "
                "number, or one per cell, for count likelihoods; leave it out otherwise."
            )
        return library_size

    def _is_binary(self, modality: str) -> bool:
        return bool(self.module.losses[modality] == "bernoulli")

    def _sampling(self, modality: str) -> dict[str, Any]:
        return {"calibration": self._calibration(modality, True)}

    def _typical_library(self, modality: str) -> float | None:
        if self.module.has_library(modality):
            return float(self.typical_totals_[modality])
        if modality in self.image_sides or self.module.losses[modality] != "mse":
            return None
        layer = self.module.input(modality)
        return float(layer.library) if layer.scales_cells else None

    def _calibration(self, modality: str, calibrate: bool) -> Calibration | None:
        self._check_modality("modality", modality)
        loss = self.module.losses[modality]
        if modality in self.image_sides:
            return None
        if loss != "bce":
            if not calibrate:
                raise ValueError(
                    f"calibrate=False: modality {modality!r} has loss {loss!r}, whose values are "
                    "in registered units as they are."
                )
            return None
        if not calibrate:
            return None
        if modality not in self.calibrations_:
            raise ValueError(
                f"Nothing is known of the units of modality {modality!r} before training: call "
                "train(), or pass calibrate=False for values in [0, 1]."
            )
        return Calibration(**self.calibrations_[modality])

    def _reconstruct(self, modality: str, mdata: MuData | None) -> np.ndarray:
        cells = self._cells(mdata).of_modality(modality)
        return values_of(self.get_reconstruction(modality, mdata, indices=cells))


def _image_epochs(n_cells: int, batch_size: int, n_steps: int) -> int:
    return max(round(n_steps * batch_size / n_cells), MIN_IMAGE_EPOCHS)


def _check_widths(n_shared: int, n_specific: Mapping[str, int]) -> None:
    if n_shared < 1:
        raise ValueError(f"n_shared={n_shared}: give at least 1.")
    negative = {name: width for name, width in n_specific.items() if width < 0}
    if negative:
        raise ValueError(f"n_specific={negative}: give at least 0.")
