"""APOLLO for users."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from cantata import _compat
from cantata.data import membership
from cantata.data._checks import check_counts, per_modality
from cantata.model._callbacks import BestWeights
from cantata.model._feature_inputs import check_components, fit_input, resolve_transforms
from cantata.model._impute_targets import measured_batches
from cantata.model._pairing import check_linked
from cantata.model._sample import sampled_rows
from cantata.model.apollo._impute import ImputeMixin
from cantata.model.apollo._latents import LatentsMixin
from cantata.model.apollo._linear import fit_linear_encoders
from cantata.model.apollo._module import APOLLOModule
from cantata.model.apollo._plan import EncoderPlan, LatentPlan
from cantata.model.apollo._presets import PRESETS
from cantata.model.apollo._training import (
    StageSplitter,
    by_cell,
    cached_inputs,
    places_of,
    set_start,
    split,
)
from cantata.model.base import MosaicModelClass
from cantata.nn import LOSSES
from cantata.pp._normalise import row_sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudata import MuData

logger = logging.getLogger(__name__)

N_STEPS, MIN_EPOCHS, MAX_EPOCHS = 400, 15, 60
"""Steps of the default schedule of each stage, and bounds on its epochs."""
MIN_GAIN = 0.01
"""Share of the loss of held-out cells that encoders have to gain to be more than linear."""
MAX_POS_WEIGHT = 50.0


class APOLLO(LatentsMixin, ImputeMixin, MosaicModelClass):
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
        Width of the shared latents.
    n_specific
        Width of the specific latents, of all modalities or of each; 0 for none.
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
    dropout
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
    _reads_reps = False
    presets: ClassVar = PRESETS
    """Published settings: ``APOLLO(mdata, **presets["published"]["model"])`` and
    ``model.train(**presets["published"]["train"])``."""
    _module_cls = APOLLOModule

    def __init__(
        self,
        mdata: MuData,
        n_shared: int = 50,
        n_specific: int | Mapping[str, int] = 20,
        losses: str | Mapping[str, str] = "bce",
        transforms: str | Mapping[str, str | None] | None = "auto",
        *,
        n_components: int | None = 100,
        n_hidden: int = 128,
        n_layers: int = 1,
        n_hidden_encoder: int = 128,
        n_layers_encoder: int = 2,
        dropout: float = 0.01,
        shared_decoders: bool = True,
        noise: float = 1.0,
        learn_noise: bool = False,
        start: Literal["canonical", "normal"] = "canonical",
    ) -> None:
        self.init_params_ = {
            "kwargs": {},
            "non_kwargs": {
                k: v for k, v in locals().items() if k not in ("self", "mdata", "__class__")
            },
        }
        if start not in ("canonical", "normal"):
            raise ValueError(f"start={start!r} is neither 'canonical' nor 'normal'.")
        super().__init__(mdata)
        named = per_modality("losses", losses, self.modalities, "bce")
        widths = per_modality("n_specific", n_specific, self.modalities, 20)
        _check_widths(n_shared, widths)
        self._check_losses(named)
        resolved = resolve_transforms(
            transforms,
            {name: mdata[name] for name in self.modalities},
            self.adata_manager.matrix_stats,
            rotates=n_components is not None,
        )
        n_features = {name: len(self.feature_names(name)) for name in self.modalities}
        check_components(resolved, n_features, n_components)
        given = self.init_params_["non_kwargs"]
        # a query, or data that a model is loaded with, may tell less than the reference did
        given["transforms"] = {n: None if t == "identity" else t for n, t in resolved.items()}
        arguments = {k: v for k, v in given.items() if k != "start"}
        self.module = APOLLOModule(
            n_features=n_features,
            n_batch=max(1, len(self.batch_categories)),
            n_categories=self._n_categories(),
            n_continuous=len(self.setup_args["continuous_covariate_keys"]),
            **arguments | {"transforms": resolved, "losses": named, "n_specific": widths},
        )
        self.start_ = start
        self.has_inputs_ = False
        self.table_cells_ = np.array([], dtype=str)
        self.table_members_: dict[str, np.ndarray] = {}
        self.typical_totals_: dict[str, float] = {}
        self.measured_batches_ = measured_batches(
            self.adata_manager, self.modalities, self.module.n_batch
        )
        self._model_summary_string = self.summary()

    def _check_losses(self, losses: Mapping[str, str]) -> None:
        """Checks that need the losses or the pairing; see the class for what is raised."""
        unknown = {name: value for name, value in losses.items() if value not in LOSSES}
        if unknown:
            raise ValueError(f"Unknown losses {unknown}; choose from {sorted(LOSSES)}.")
        if getattr(self.adata_manager, "_source_registry", None) is None:
            check_linked(membership(self.adata, self.modalities), self.modalities, "APOLLO")
        for name, loss in losses.items():
            if LOSSES[loss].is_count and self.adata[name].n_obs:
                check_counts(name, self.adata_manager.matrix_stats[name], loss)

    # Training -----------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        *,
        encoder_epochs: int | None = None,
        batch_size: int = 256,
        train_size: float | None = None,
        validation_size: float | None = None,
        early_stopping: bool = True,
        shuffle: bool = True,
        linear_encoders: bool = True,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: Mapping[str, Any] | None = None,
        encoder_plan_kwargs: Mapping[str, Any] | None = None,
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
            and at most 60 epochs.
        encoder_epochs
            Epochs of the second stage: encoders. By default as many.
        batch_size
            Cells per minibatch.
        train_size, validation_size
            Fractions of the cells of each pairing pattern; 0.9 and the rest by default.
        early_stopping
            Stop a stage when the loss of held-out cells no longer falls, and restore its best
            epoch. Without it the last epoch is kept.
        shuffle
            Draw new minibatches every epoch; otherwise they are the same in all, as in the
            reference implementation.
        linear_encoders
            Add to each encoder the least-squares map from its input to the latents, so that its
            layers learn the rest; where held-out cells gain less than 1 % by these, the map alone
            is kept.
        accelerator, devices
            Passed to the trainer.
        plan_kwargs, encoder_plan_kwargs
            Arguments of :class:`~cantata.model.apollo.LatentPlan` and of
            :class:`~cantata.model.apollo.EncoderPlan`: learning rates, weights of the loss terms.
        **kwargs
            Passed to :class:`~scvi.train.Trainer`, e.g. ``enable_progress_bar``, ``precision``.

        Raises
        ------
        ValueError
            If there is nothing to start latents from.
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
        parts = split(self, train_size, validation_size)
        epochs = max_epochs or self._planned_epochs(len(parts[0]), batch_size)
        stages = {"latent": epochs, "encoder": encoder_epochs or epochs}
        _compat.keep_thread_limit()
        self._fit_inputs()
        inputs = cached_inputs(self, progress=kwargs.get("enable_progress_bar", True))
        cells = self.adata.obs_names[parts[0]].to_numpy().astype(str)
        places = places_of(self, parts[0])
        fits_linear = linear_encoders and inputs is not None and not self.module.frozen
        ordered = by_cell(self, inputs) if fits_linear and inputs is not None else None
        validates = early_stopping and len(parts[1]) > 0
        if not np.array_equal(cells, self.table_cells_):
            set_start(self, parts[0], inputs, self.start_)
            self.table_cells_ = cells
            self.table_members_ = {
                name: places[name][parts[0]].numpy() >= 0 for name in self.modalities
            }
        plan = LatentPlan(
            self.module, places, ordered if validates else None, **(plan_kwargs or {})
        )
        run = {"accelerator": accelerator, "devices": devices, **kwargs}
        splitter: dict[str, Any] = {
            "batch_size": batch_size,
            "external_indexing": parts,
            "fixed_order": not shuffle,
        }
        self._run_stage(
            plan,
            StageSplitter(self.adata_manager, **splitter),
            stages["latent"],
            validates and ordered is not None,
            run,
        )
        if self.module.frozen:
            return
        if ordered is not None:
            fit_linear_encoders(self.module, ordered, places)
        self._run_stage(
            EncoderPlan(
                self.module, places, cached=inputs is not None, **(encoder_plan_kwargs or {})
            ),
            StageSplitter(self.adata_manager, inputs, **splitter),
            stages["encoder"],
            validates,
            run,
        )
        if ordered is not None and validates and not self._is_better_than_linear():
            fit_linear_encoders(self.module, ordered, places)

    def _is_better_than_linear(self) -> bool:
        """Whether held-out cells gain from what encoders add to their linear maps."""
        assert self.history_ is not None
        linear, full = (
            float(self.history_[f"{prefix}decoded_validation"].iloc[:, 0].astype(float).min())
            for prefix in ("linear_", "")
        )
        gain = (linear - full) / abs(linear)
        if gain < MIN_GAIN:
            logger.info(
                "Encoders lower the loss of held-out cells by %.1f %%; linear maps are kept.",
                100 * gain,
            )
        return gain >= MIN_GAIN

    def _run_stage(
        self,
        plan: LatentPlan | EncoderPlan,
        splitter: StageSplitter,
        epochs: int,
        validates: bool,
        run: Mapping[str, Any],
    ) -> None:
        """Train one stage, and keep its best epoch where held-out cells tell."""
        run = dict(run)
        run.setdefault("log_every_n_steps", 1)
        if validates:
            run.setdefault("check_val_every_n_epoch", 1)
            run.setdefault("early_stopping_monitor", plan.monitor)
            run.setdefault("early_stopping_patience", max(5, epochs // 4))
            best = BestWeights(run["early_stopping_monitor"])
            run["callbacks"] = [*run.get("callbacks", []), best]
        else:
            run["limit_val_batches"] = 0
        runner = self._train_runner_cls(
            self,
            training_plan=plan,
            data_splitter=splitter,
            max_epochs=epochs,
            early_stopping=validates,
            reload_dataloaders_every_n_epochs=1,
            **run,
        )
        self.module.train()
        # scvi-tools would only extend what an earlier stage has recorded
        before: dict[str, pd.DataFrame] = self.history or {}
        self.history_: dict[str, pd.DataFrame] | None = None
        self.is_trained_ = False
        try:
            runner()
        finally:
            self.history_ = _continued(before, self.history_ or {})

    def _planned_epochs(self, n_train: int, batch_size: int) -> int:
        """Epochs of the default schedule."""
        return int(np.clip(round(N_STEPS * batch_size / n_train), MIN_EPOCHS, MAX_EPOCHS))

    def _fit_inputs(self) -> None:
        """Standardisation, components and weights of the losses, once."""
        if self.has_inputs_:
            return
        for name in self.modalities:
            n_obs = self.adata[name].n_obs
            values = sampled_rows(self._matrix(name), n_obs)
            fit_input(name, self.module.input(name), values, values.shape[0])
            if self.module.losses[name] == "bce":
                self.module.set_takes_log(
                    name, not self.adata_manager.matrix_stats[name].n_negative
                )
                n_positive = values.nnz if hasattr(values, "nnz") else np.count_nonzero(values)
                size = values.shape[0] * values.shape[1]
                weight = (size - n_positive) / max(n_positive, 1)
                self.module.set_pos_weight(name, float(np.clip(weight, 1, MAX_POS_WEIGHT)))
            self.typical_totals_[name] = float(np.median(row_sums(values)))
        self.has_inputs_ = True

    def _adopt(self, reference: Any) -> None:
        super()._adopt(reference)
        self.typical_totals_ = dict(reference.typical_totals_)

    def _reconstruct(self, modality: str, mdata: MuData | None) -> np.ndarray:
        cells = self._cells(mdata).of_modality(modality)
        return self.get_reconstruction(modality, mdata, indices=cells).X


def _check_widths(n_shared: int, n_specific: Mapping[str, int]) -> None:
    if n_shared < 1:
        raise ValueError(f"n_shared={n_shared}: give at least 1.")
    negative = {name: width for name, width in n_specific.items() if width < 0}
    if negative:
        raise ValueError(f"n_specific={negative}: give at least 0.")


def _continued(
    before: Mapping[str, pd.DataFrame], new: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """History with new epochs after those of earlier training."""
    history = dict(before)
    for key, table in new.items():
        if key in history:
            later = table.set_axis(table.index + len(history[key]), axis=0)
            history[key] = pd.concat([history[key], later])
        else:
            history[key] = table
    return history
