"""CLUE for users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
import torch

from cantata import _compat
from cantata._keys import LABELS, rep_key
from cantata._mudata.checks import check_counts, per_modality
from cantata._mudata.pairing import membership
from cantata.losses import fuse_mean, product_of_experts
from cantata.model._callbacks import BestWeights
from cantata.model._impute_targets import measured_batches
from cantata.model._pairing import check_linked
from cantata.model.base import MosaicModelClass, to_numpy
from cantata.model.clue._impute import ImputeMixin
from cantata.model.clue._input import fit_component_inputs
from cantata.model.clue._module import CLUEModule
from cantata.model.clue._network import Alignment, Fusion, Library
from cantata.model.clue._plan import CLUETrainingPlan
from cantata.model.clue._presets import PRESETS
from cantata.model.clue._transfer import FinetuneMixin
from cantata.nn import LIKELIHOODS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mudata import MuData
    from torch import Tensor


N_STEPS = 500
"""Planned generator steps of the default schedule, within the limits on epochs below."""
MIN_EPOCHS, MAX_EPOCHS = 6, 60


class CLUE(ImputeMixin, FinetuneMixin, MosaicModelClass):
    """Cross-linked unified embedding of mosaic data.

    Some cells have several modalities, others only one. Every modality has an encoder into the
    subspace of every modality, so that any cell has a complete embedding, whatever was measured;
    the decoder of a modality sees its own subspace. Paired cells, a shared likelihood and a
    modality discriminator bring the embeddings of a cell from its modalities together.

    Source: Tu, Cao, Xia, Mostafavi and Gao, Cross-Linked Unified Embedding for cross-modality
    representation learning, NeurIPS 2022.

    Parameters
    ----------
    mdata
        MuData registered with :meth:`setup_mudata`. Some cells must have several modalities.
    n_latent
        Width of each modality's subspace; the embedding has ``n_latent`` times the number of
        modalities.
    likelihoods
        Likelihood of all modalities or of each: ``"nb"``, ``"zinb"``, ``"poisson"``,
        ``"bernoulli"`` or ``"normal"``. Modalities not named are ``"nb"``.
    n_components
        Encoders of modalities without a registered representation read this many principal
        (chromatin: latent semantic) components, fitted in training and kept; None for
        all normalised log counts, as in the reference implementation.
    n_hidden_encoder, n_layers_encoder
        Width and number of hidden layers of each encoder.
    n_hidden_decoder, n_layers_decoder
        Width and number of hidden layers of each decoder.
    n_hidden_discriminator, n_layers_discriminator
        Width and number of hidden layers of the modality discriminator.
    dropout_rate
        Dropout rate.
    fusion
        How the modalities of a cell are combined: ``"mean"`` of the unit samples, or product of
        experts, ``"poe"`` (eq. 6 to 8).
    alignment
        ``"cosine"`` distance to the fused sample, or squared distance, ``"mse"`` (eq. 9).
    normalize_latent
        Bring samples to unit length before they are fused and decoded.
    library
        Library sizes in training: the ``"observed"`` totals, or ``"learned"`` from the source's
        counts as in the reference implementation.
    shared_first_layer
        Let the encoders of a modality share their first layer, the paper's remedy for many
        modalities.
    discriminator_batch
        Tell the discriminator the batch; sensible only where every batch has every modality.

    Raises
    ------
    ValueError
        If modalities are not connected by paired cells, if an option is unknown, or if values
        do not fit the likelihood.
    KeyError
        If `likelihoods` names an unknown modality.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=300)
    >>> cantata.CLUE.setup_mudata(mdata, batch_key="batch")
    >>> model = cantata.CLUE(mdata, n_latent=10)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> model.get_latent_representation().shape
    (300, 20)
    """

    method = "clue"
    presets: ClassVar = PRESETS
    """Published settings: ``CLUE(mdata, **presets["cite"]["model"])`` and
    ``model.train(**presets["cite"]["train"])``."""
    _module_cls = CLUEModule
    _training_plan_cls = CLUETrainingPlan

    def __init__(
        self,
        mdata: MuData,
        n_latent: int = 20,
        likelihoods: str | Mapping[str, str] = "nb",
        *,
        n_components: int | None = 50,
        n_hidden_encoder: int = 256,
        n_layers_encoder: int = 2,
        n_hidden_decoder: int = 128,
        n_layers_decoder: int = 1,
        n_hidden_discriminator: int = 128,
        n_layers_discriminator: int = 2,
        dropout_rate: float = 0.2,
        fusion: Fusion = "mean",
        alignment: Alignment = "cosine",
        normalize_latent: bool = True,
        library: Library = "observed",
        shared_first_layer: bool = False,
        discriminator_batch: bool = False,
    ) -> None:
        self.init_params_ = {
            "kwargs": {},
            "non_kwargs": {
                k: v for k, v in locals().items() if k not in ("self", "mdata", "__class__")
            },
        }
        for argument, value, choices in (
            ("fusion", fusion, get_args(Fusion)),
            ("alignment", alignment, get_args(Alignment)),
            ("library", library, get_args(Library)),
        ):
            if value not in choices:
                raise ValueError(f"{argument}={value!r} is not one of {choices}.")
        super().__init__(mdata)
        named = _known_likelihoods(likelihoods, self.modalities)
        self._check_input(named)
        arguments = dict(self.init_params_["non_kwargs"]) | {"likelihoods": named}
        self.module = CLUEModule(
            n_features={name: len(self.feature_names(name)) for name in self.modalities},
            n_input={
                name: len(self._state(rep_key(name))["column_names"])
                for name in self.setup_args["reps"]
            },
            n_batch=max(1, len(self.batch_categories)),
            n_labels=self._n_labels(),
            n_categories=self._n_categories(),
            n_continuous=len(self.setup_args["continuous_covariate_keys"]),
            **arguments,
        )
        self.likelihoods_ = named
        self.has_inputs_ = not self.module.inputs
        self.measured_batches_ = measured_batches(
            self.adata_manager, self.modalities, self.module.n_batch
        )
        self._model_summary_string = self.summary()

    def _n_labels(self) -> int:
        if self.setup_args["labels_key"] is None:
            return 0
        return len(self._state(LABELS)["categorical_mapping"])

    def _check_input(self, likelihoods: Mapping[str, str]) -> None:
        """Checks that need the likelihoods or the pairing; see the class for what is raised."""
        is_query = getattr(self.adata_manager, "_source_registry", None) is not None
        if not is_query:
            check_linked(membership(self.adata, self.modalities), self.modalities, "CLUE")
        for name, likelihood in likelihoods.items():
            if LIKELIHOODS[likelihood].is_count and self.adata[name].n_obs:
                check_counts(name, self.adata_manager.matrix_stats[name], likelihood)

    # Training -----------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int = 128,
        train_size: float | None = None,
        validation_size: float | None = None,
        early_stopping: bool = True,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            Epochs that the schedule is planned for; by default 500 steps, but at least 6 and at
            most 60 epochs.
        batch_size
            Cells per minibatch.
        train_size, validation_size
            Fractions of the cells of each pairing pattern; 0.9 and the rest by default.
        early_stopping
            Stop when paired validation cells no longer come closer to each other (their FOSCTTM;
            the self and cross likelihood where too few cells are paired), and restore the best
            epoch. Without it the last epoch is kept.
        accelerator, devices
            Passed to the trainer.
        plan_kwargs
            Arguments of :class:`~cantata.model.clue.CLUETrainingPlan`: learning rate, weights of
            the loss terms.
        **kwargs
            Passed to :class:`~scvi.train.Trainer`, e.g. ``enable_progress_bar``, ``precision``.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata)
        >>> model = cantata.CLUE(mdata)
        >>> model.train(max_epochs=2, plan_kwargs={"lambda_d": 1.0}, enable_progress_bar=False)
        >>> "nll_rna_validation" in model.history
        True
        """
        if max_epochs is None:
            max_epochs = self._planned_epochs(batch_size)
        if not self.has_inputs_:
            fit_component_inputs(self)
            self.has_inputs_ = True
        _compat.keep_thread_limit()
        kwargs.setdefault("check_val_every_n_epoch", 1)
        kwargs.setdefault("log_every_n_steps", 1)
        if early_stopping:
            self._add_early_stopping(kwargs, max_epochs, train_size, validation_size)
        super().train(
            max_epochs=max_epochs,
            batch_size=batch_size,
            train_size=train_size,
            validation_size=validation_size,
            early_stopping=early_stopping,
            accelerator=accelerator,
            devices=devices,
            plan_kwargs=dict(plan_kwargs or {}),
            **kwargs,
        )
        self._fit_library()

    def _planned_epochs(self, batch_size: int) -> int:
        """Epochs of the default schedule."""
        per_epoch = 0.9 * self.adata.n_obs / batch_size
        return int(np.clip(round(N_STEPS / per_epoch), MIN_EPOCHS, MAX_EPOCHS))

    def _add_early_stopping(
        self,
        kwargs: dict[str, Any],
        max_epochs: int,
        train_size: float | None,
        validation_size: float | None,
    ) -> None:
        """Choose what to monitor, and keep the best epoch's weights."""
        paired = int((membership(self.adata, self.modalities).sum(axis=1) > 1).sum())
        share = validation_size if validation_size is not None else 1 - (train_size or 0.9)
        monitor = "foscttm_validation" if paired * share >= 20 else "objective_validation"
        kwargs.setdefault("early_stopping_monitor", monitor)
        kwargs.setdefault("early_stopping_patience", max(5, max_epochs // 3))
        best = BestWeights(kwargs["early_stopping_monitor"])
        kwargs["callbacks"] = [*kwargs.get("callbacks", []), best]

    # Embedding ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        modality: str | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        normalize: bool = True,
        return_dist: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Embedding of cells.

        Parameters
        ----------
        mdata
            Data to embed, with any subset of the modalities; the model's own by default. It is not
            modified.
        modality
            Infer from this modality alone; by default from all that a cell has.
        indices
            Cells to embed: positions in ``mdata.obs_names``, or in ``mdata[modality].obs_names``.
        batch_size
            Cells per minibatch.
        normalize
            Bring rows to unit length, which is what the model compares. Otherwise the raw
            posterior mean (averaged over modalities, or of the product of experts).
        return_dist
            Return posterior mean and variance instead, both not normalised.

        Returns
        -------
        float32 array (cells, modalities * n_latent), in the order of ``mdata.obs_names`` or of
        ``mdata[modality].obs_names``; two of them with `return_dist`.

        Raises
        ------
        KeyError
            If `modality` is unknown or not in `mdata`.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata)
        >>> model = cantata.CLUE(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> model.get_latent_representation(modality="adt").shape[0] == mdata["adt"].n_obs
        True
        """
        cells = self._cells(mdata)
        chosen = self._chosen_cells(cells, modality, indices)
        parts: list[Tensor] = []
        variances: list[Tensor] = []
        for tensors in self._minibatches(cells, chosen, batch_size):
            loc, scale, rows = self.module.encode(tensors)
            if modality is not None:
                mean, std = loc[modality], scale[modality]
            else:
                unit = normalize and not return_dist
                mean, std = self._fuse(loc, scale, rows, len(tensors["cell"]), unit=unit)
            if normalize and not return_dist:
                mean = torch.nn.functional.normalize(mean, dim=1)
            parts.append(mean)
            variances.append(std.pow(2))
        width = len(self.modalities) * self.module.n_latent
        if return_dist:
            return to_numpy(parts, width), to_numpy(variances, width)
        return to_numpy(parts, width)

    def _fuse(
        self,
        loc: dict[str, Tensor],
        scale: dict[str, Tensor],
        rows: dict[str, Tensor],
        n: int,
        *,
        unit: bool,
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the joint posterior of ``n`` cells."""
        if self.module.fusion == "poe":
            return product_of_experts(loc, scale, rows, n)
        own = self.module.unit_means(loc) if unit else loc
        mean = fuse_mean(own, rows, n, unit=False)
        variance = fuse_mean({m: s.pow(2) for m, s in scale.items()}, rows, n, unit=False)
        count = torch.bincount(torch.cat(list(rows.values())), minlength=n).clamp(min=1)
        return mean, (variance / count.unsqueeze(1)).sqrt()


def _known_likelihoods(
    likelihoods: str | Mapping[str, str], modalities: Sequence[str]
) -> dict[str, str]:
    """Name of the likelihood of every modality."""
    named = per_modality("likelihoods", likelihoods, modalities, "nb")
    unknown = {name: value for name, value in named.items() if value not in LIKELIHOODS}
    if unknown:
        raise ValueError(f"Unknown likelihoods {unknown}; choose from {sorted(LIKELIHOODS)}.")
    return named
