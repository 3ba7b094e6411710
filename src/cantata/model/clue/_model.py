"""CLUE for users."""

from __future__ import annotations

import warnings
from copy import deepcopy
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import anndata
import numpy as np
import pandas as pd
import torch
from mudata import MuData

from cantata._keys import CELL, LABELS, rep_key
from cantata._mudata.checks import (
    check_integer,
    check_no_empty_cell,
    check_not_negative,
    per_modality,
)
from cantata._mudata.obs import coalesce_obs
from cantata._mudata.pairing import check_connected, membership, row_table
from cantata._mudata.parts import no_pull
from cantata._numeric.pairing_test import pairing_test
from cantata.model._imputation import check_own_totals
from cantata.model._inputs import fit_input, transform_of_counts
from cantata.model._threads import with_threads_for_steps
from cantata.model.base import Batches, Indices, MosaicModelClass
from cantata.model.clue._library import fit_library_weights, imputed_library
from cantata.model.clue._module import (
    Alignment,
    CLUEModule,
    DiscriminatorInput,
    Fusion,
    Library,
    Start,
)
from cantata.model.clue._plan import CLUETrainingPlan
from cantata.model.clue._presets import PRESETS
from cantata.model.clue._start import MAX_P_VALUE, fit_start, warn_of_pairs
from cantata.nn import LIKELIHOODS, Covariates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from torch import Tensor

N_STEPS, MIN_EPOCHS, MAX_EPOCHS = 500, 6, 60
"""Generator steps of the default schedule, and bounds on its epochs."""
MIN_SPLIT_PAIRS = 400
"""Cells with the same several modalities from which on a part of them is held out."""
MIN_VALIDATION_PAIRS = 20
"""Paired held-out cells below which their FOSCTTM is noise."""
MAX_CHECKED_PAIRS = 1000
"""Held-out pairs that are compared with chance."""


class CLUE(MosaicModelClass):
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
        Likelihood of all modalities or of each: ``"nb"``, ``"zinb"``, ``"nb_mixture"``
        (background and foreground, for antibodies), ``"poisson"``, ``"topics"`` (Poisson, with
        mixtures of topics: for wide chromatin, where a step then costs what the counts that are
        not 0 do), ``"bernoulli"`` or ``"normal"``. Modalities not named are ``"nb"``.
    n_components
        Encoders of modalities without a registered representation read this many principal
        (chromatin: latent semantic) components, fitted in training and kept; None for
        all normalised log counts, as in the reference implementation.
    n_hidden_encoder, n_layers_encoder, n_hidden_decoder, n_layers_decoder
        Width and number of hidden layers of each encoder and decoder.
    n_hidden_discriminator, n_layers_discriminator
        Those of the modality discriminator.
    dropout_rate
        Dropout rate of all hidden layers.
    fusion
        How the modalities of a cell are combined: ``"mean"`` of the unit samples, or product of
        experts, ``"poe"`` (eq. 6 to 8).
    alignment
        ``"cosine"`` distance to the fused sample, or squared distance, ``"mse"`` (eq. 9).
    normalize_latent
        Bring samples to unit length before they are fused and decoded.
    shared_first_layer
        Let the encoders of a modality share their first layer, the paper's remedy for many
        modalities.
    start
        ``"canonical"``: beside the network of each encoder stand the canonical variates of what
        encoders read (:func:`cantata.tl.canonical_variates`), and held-out pairs choose how much
        networks add; beyond the paper, and better with few pairs. ``"random"``: networks alone.
    **module_kwargs
        Further arguments of :class:`~cantata.model.clue.CLUEModule`, which the published settings
        need.

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
    _uses_reps = _uses_labels = _takes_sparse = True
    _min_modalities = 1
    _monitor = "objective_validation"
    presets: ClassVar = PRESETS
    """Published settings: ``pp.preprocess(mdata, **presets["cite"]["preprocess"])``, ``CLUE(mdata,
    **presets["cite"]["model"])``, ``model.train(**presets["cite"]["train"])`` and
    ``model.finetune(query, **presets["cite"]["finetune"])``; also ``"seed"`` and, of
    ``"multiome"``, ``"n_top_peaks"``."""
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
        shared_first_layer: bool = False,
        start: Start = "canonical",
        **module_kwargs: Any,
    ) -> None:
        init_params = self._get_init_params(locals())
        for argument, value, choices in (
            ("start", start, get_args(Start)),
            ("fusion", fusion, get_args(Fusion)),
            ("alignment", alignment, get_args(Alignment)),
            ("library", module_kwargs.get("library", "observed"), get_args(Library)),
            (
                "discriminator_input",
                module_kwargs.get("discriminator_input", "mean"),
                get_args(DiscriminatorInput),
            ),
        ):
            if value not in choices:
                raise ValueError(f"{argument}={value!r} is not one of {choices}.")
        if n_layers_encoder < 1:
            raise ValueError(f"n_layers_encoder={n_layers_encoder} must be at least 1.")
        super().__init__(mdata)
        self.init_params_ = init_params
        self.likelihoods_ = _known_likelihoods(likelihoods, self.modalities)
        if not self.is_query:
            check_connected(membership(self.adata, self.modalities), self.modalities, "CLUE")
        for name, likelihood in self.likelihoods_.items():
            if LIKELIHOODS[likelihood].requires_counts:
                self._check_counts(name, likelihood)
                continue
            check_no_empty_cell(name, self._matrix_stats[name])
            if LIKELIHOODS[likelihood].models_counts:
                check_not_negative(name, self._matrix_stats[name], likelihood)
        reps, has_labels = self.setup_args["reps"], self.setup_args["labels_key"] is not None
        self.module = CLUEModule(
            n_features=self.n_features,
            n_input={name: len(self._state(rep_key(name))["column_names"]) for name in reps},
            n_batch=self.n_batch,
            n_labels=len(self._categories(LABELS)) if has_labels else 0,
            n_categories=self.n_categories,
            n_continuous=self.n_continuous,
            **self._init_arguments | {"likelihoods": self.likelihoods_},
        )

    # Training -----------------------------------------------------------------------------------

    @with_threads_for_steps
    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int = 128,
        train_size: float | None = None,
        validation_size: float | None = None,
        early_stopping: bool = False,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        ckpt_path: str | Path | None = None,
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
            Fractions of the cells of each pairing pattern. By default .9 and the rest, but fewer
            than 400 cells with the same several modalities are all trained on, where others can be
            held out: such pairs are worth more to the start than to choose by.
        early_stopping
            Stop when the objective of held-out cells no longer falls, and restore the best epoch.
            By default the last epoch is kept.
        datasplitter_kwargs
            Further arguments of :class:`~cantata.data.MosaicSplitter`.
        plan_kwargs
            Arguments of :class:`~cantata.model.clue.CLUETrainingPlan`: learning rate, weights of
            the loss terms.
        ckpt_path
            Checkpoint from the end of an epoch, by lightning's ``ModelCheckpoint``. A model of the
            same data, arguments and seed then ends where uninterrupted training would have ended.
            The history begins after the checkpoint.
        accelerator, devices, **kwargs
            Passed to :class:`~scvi.train.Trainer`, e.g. ``enable_progress_bar``, ``precision``.

        Raises
        ------
        ValueError, FileNotFoundError
            If `ckpt_path` is no checkpoint of this model and these cells.

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
        before, self._tested_pairs = None if self.is_frozen_ else deepcopy(self.module), False
        if train_size is None and validation_size is None and not self.is_query:
            datasplitter_kwargs = {"min_pairs": MIN_SPLIT_PAIRS} | dict(datasplitter_kwargs or {})
        super().train(
            max_epochs,
            batch_size=batch_size,
            train_size=train_size,
            validation_size=validation_size,
            early_stopping=early_stopping,
            accelerator=accelerator,
            devices=devices,
            datasplitter_kwargs=datasplitter_kwargs,
            plan_kwargs=plan_kwargs,
            ckpt_path=ckpt_path,
            **kwargs,
        )
        if before is not None:
            fit_library_weights(self, before.to(self.device).eval())
        if not self._tested_pairs:
            self._check_pairs()

    def _check_pairs(self) -> None:
        """Warn where held-out cells do not find their other half better than chance."""
        cells = np.asarray(self.validation_indices, dtype=int)
        rows = row_table(self.adata, self.modalities)
        for first, second in combinations(self.modalities, 2):
            both = cells[(rows[first][cells] >= 0) & (rows[second][cells] >= 0)]
            if len(both) < MIN_VALIDATION_PAIRS:
                continue
            both = both[:MAX_CHECKED_PAIRS]
            x, y = (
                self._run(self._cells(None), both, None, partial(self._embed, modality=m), m)
                for m in (first, second)
            )
            _, p_value = pairing_test(x, y)
            if p_value > MAX_P_VALUE:
                warn_of_pairs(len(both), first, second, p_value)

    def _fit_inputs(self) -> None:
        for name in self.module.inputs:
            layer, adata = self.module.input(name), self.adata[name]
            if layer.is_rotated:
                if self.module.head(name).models_counts:
                    layer.transform = transform_of_counts(name, adata)
                values = self.registered_values(name)
                fit_input(name, layer, values, adata.n_obs, as_preprocess=True)
        self._tested_pairs = fit_start(self, self._train_cells)

    def _planned_epochs(self, n_cells: int, batch_size: int) -> int:
        steps_per_epoch = 0.9 * n_cells / batch_size
        return int(np.clip(round(N_STEPS / steps_per_epoch), MIN_EPOCHS, MAX_EPOCHS))

    # Embedding ----------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        modality: str | None = None,
        indices: Indices = None,
        batch_size: int | None = None,
        normalize: bool = True,
        return_dist: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Embedding of cells.

        Parameters
        ----------
        mdata
            Data with any subset of the modalities, never modified; the model's own by default.
        modality
            Infer from this modality alone; by default from all that a cell has.
        indices
            Cells to embed: positions in ``mdata.obs_names``, or in ``mdata[modality].obs_names``;
            a mask, a slice or names of these.
        batch_size
            Cells per minibatch.
        normalize
            Bring rows to unit length, which is what the model compares. Otherwise the posterior
            mean (averaged over modalities, or of the product of experts) as it is.
        return_dist
            Return posterior mean and variance instead, neither of them normalised.

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

        def embed(tensors: Mapping[str, Tensor]) -> Tensor:
            if return_dist:
                return torch.cat(self._posterior(tensors, modality, unit=False), dim=1)
            if normalize:
                return self._embed(tensors, modality)
            return self._posterior(tensors, modality, unit=False)[0]

        cells = self._cells(mdata)
        chosen = self._chosen_cells(cells, modality, indices)
        values = self._run(cells, chosen, batch_size, embed, modality)
        if not return_dist:
            return values
        mean, std = np.split(values, 2, axis=1)
        return mean, std**2

    def _embed(self, tensors: Mapping[str, Tensor], modality: str | None) -> Tensor:
        mean, _ = self._posterior(tensors, modality, unit=True)
        return torch.nn.functional.normalize(mean, dim=1)

    def _posterior(
        self, tensors: Mapping[str, Tensor], modality: str | None, *, unit: bool
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior of a minibatch's cells."""
        loc, scale, rows = self.module.encode(tensors, modality)
        if modality is not None:
            return loc[modality], scale[modality]
        return self.module.fuse(loc, scale, rows, len(tensors[CELL]), unit=unit)

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
        library_size: Literal["auto", "observed", "predicted"]
        | float
        | np.ndarray
        | None = "auto",
        n_samples: int = 0,
        background: bool = True,
        interval: float | None = None,
        batch_size: int | None = None,
        out: str | Path | None = None,
    ) -> AnnData:
        """Expected values of a modality for every cell.

        Parameters
        ----------
        modality
            Modality to impute.
        mdata
            Data with any subset of the modalities, never modified; the model's own by default.
        source
            Infer from this modality alone, for cells with it; by default from all that a cell has.
        features
            Names of the features to return; all by default.
        indices
            Cells to impute: positions in ``mdata.obs_names``, a mask, a slice or names.
        transform_batch
            Batch to decode for, or batches to average over. By default a cell's own; where that
            lacks the modality, the mean over the batches that have it.
        library_size
            For count likelihoods: ``"observed"`` totals of the cells, totals ``"predicted"`` from
            the source by a ridge regression on paired training cells, ``"auto"`` (observed where
            the modality is a source and the cell has it, else predicted), one number, or one per
            returned cell.
        n_samples
            Samples from the posterior; their mean replaces the value at the posterior mean, and
            their standard deviation is in ``layers["std"]``. 0 for none.
        background
            False leaves out what of counts is background; for the likelihood ``"nb_mixture"``.
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
        AnnData, cells x features, with ``.obs`` and ``obsm["spatial"]`` of the cells and the
        ``obs["library_size"]`` that were used. ``.X`` is float32: expected counts, probabilities
        (``"bernoulli"``) or means (``"normal"``); with `out` it stays on disk.

        Raises
        ------
        KeyError
            If a modality, feature or batch is unknown.
        ValueError
            If cells lack the source or the library sizes that are asked for, or are of an unknown
            batch without `transform_batch`; if an `interval` has no `source`, a number for
            `library_size`, or too few held-out cells with both modalities, or if `background` is
            to be left out, which is not what is measured; if the likelihood has no background.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata)
        >>> model = cantata.CLUE(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> proteins = model.impute("adt", source="rna")
        >>> proteins.n_obs == mdata["rna"].n_obs
        True
        """
        check_own_totals(interval, None if isinstance(library_size, str) else library_size)
        self._check_modality("modality", modality)
        n_samples = check_integer("n_samples", n_samples, 0)
        is_default = library_size is None or (
            isinstance(library_size, str) and library_size == "auto"
        )
        if not (is_default or self._has_totals(modality)):
            raise ValueError(
                f"library_size={library_size!r}: the likelihood {self.likelihoods_[modality]!r} "
                f"of {modality!r} has no library sizes. Leave it out."
            )
        if not background:
            self._check_background(modality, interval)
        return self._impute(
            modality,
            mdata,
            source=source,
            features=features,
            indices=indices,
            transform_batch=transform_batch,
            library_size="auto" if library_size is None else library_size,
            library_names=("auto", "observed", "predicted"),
            interval=interval,
            batch_size=batch_size,
            out=out,
            n_samples=n_samples,
            background=background,
        )

    def _check_background(self, modality: str, interval: float | None) -> None:
        if not self.module.head(modality).has_background:
            raise ValueError(
                f"background=False: the likelihood {self.likelihoods_[modality]!r} of "
                f"{modality!r} has no background. Train with "
                f"likelihoods={{{modality!r}: 'nb_mixture'}}."
            )
        if interval is not None:
            raise ValueError(
                f"interval={interval} is of what is measured, background included; "
                "leave out background=False."
            )

    def _units(self, modality: str, **options: Any) -> str:
        if self._is_binary(modality):
            return "probability of a count"
        if not self._has_totals(modality):
            return "registered values"
        what = "" if options.get("background", True) else "foreground "
        return f"expected {what}counts of a cell with obs['library_size'] counts"

    def _expected(
        self,
        tensors: dict[str, Tensor],
        modality: str,
        source: str | None,
        batches: list[int] | None,
        library: Any,
        n_samples: int = 0,
        background: bool = True,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        sizes = imputed_library(self.module, tensors, modality, source, library)
        loc, scale, rows = self.module.encode(tensors, source)

        def decode(latents: dict[str, Tensor]) -> Tensor:
            z = self.module.decoder_input(latents, scale, rows, len(tensors[CELL]))
            return self._decode_batches(
                tensors, modality, z, batches, sizes, background=background
            )

        if not n_samples:
            return decode(loc), None, sizes
        total: Any = 0
        squares: Any = 0
        for _ in range(n_samples):
            values = decode({m: loc[m] + scale[m] * torch.randn_like(loc[m]) for m in loc})
            total, squares = total + values, squares + values.square()
        mean = total / n_samples
        std = (squares / n_samples - mean.square()).clamp(min=0).sqrt()
        return mean, std, sizes

    def _decode(
        self,
        modality: str,
        z: Tensor,
        covariates: Covariates,
        library: Tensor | None,
        background: bool = True,
    ) -> Tensor:
        location, head = self.module.decode(modality, z, covariates), self.module.head(modality)
        what = head.expected if background else head.foreground
        return what(location, library, covariates)

    def _has_totals(self, modality: str) -> bool:
        return bool(self.module.head(modality).has_library)

    def _is_binary(self, modality: str) -> bool:
        return bool(self.likelihoods_[modality] == "bernoulli")

    def _sampling(self, modality: str) -> dict[str, Any]:
        return {"n_samples": 1}

    # Labels -------------------------------------------------------------------------------------

    def predict(
        self,
        mdata: MuData | None = None,
        *,
        modality: str | None = None,
        indices: Indices = None,
        soft: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray | pd.DataFrame:
        """Labels of cells by the classifier, which ``labels_key`` trains.

        Parameters
        ----------
        mdata, modality, indices, batch_size
            As in :meth:`get_latent_representation`.
        soft
            Return probabilities.

        Returns
        -------
        Array of labels in the order of ``mdata.obs_names`` or ``mdata[modality].obs_names``, or,
        with `soft`, DataFrame of cells x labels. The classifier reads posterior means, averaged
        over the modalities of a cell.

        Raises
        ------
        ValueError
            If no labels were registered.
        KeyError
            If `modality` is unknown or not in `mdata`.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata, labels_key="cell_type")
        >>> model = cantata.CLUE(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> model.predict().shape
        (200,)
        """
        classifier = self.module.classifier
        if classifier is None:
            raise ValueError(
                "Without labels there is no classifier; setup_mudata(labels_key=...)."
            )
        cells = self._cells(mdata)
        chosen = self._chosen_cells(cells, modality, indices)
        probabilities = self._run(
            cells,
            chosen,
            batch_size,
            lambda t: classifier(self._posterior(t, modality, unit=False)[0]).softmax(dim=1),
            modality,
        )
        labels = np.asarray(self._categories(LABELS))
        if not soft:
            return labels[probabilities.argmax(axis=1)]
        return pd.DataFrame(probabilities, index=cells.mdata.obs_names[chosen], columns=labels)

    # Fine-tuning --------------------------------------------------------------------------------

    def finetune(
        self,
        query_mdata: MuData,
        *,
        max_epochs: int | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Continue training on the reference and the query together.

        This is the transductive second step of the competition entry: the query's cells take part
        unpaired or paired, as they are. The learning rate starts at 1e-3, and the discriminator
        sees no noise.

        Parameters
        ----------
        query_mdata
            New data with any subset of the modalities, never modified.
        max_epochs
            Planned epochs; half of what :meth:`train` would plan by default.
        plan_kwargs, **kwargs
            As in :meth:`train`.

        Returns
        -------
        New model of all cells, ``model.adata``; this one is left as it is. Cells are named as
        before.

        Raises
        ------
        ValueError
            If query and reference share cell names, and as :meth:`prepare_query_mudata`.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata)
        >>> model = cantata.CLUE(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> query = cantata.datasets.simulate_mosaic(n_cells=100, seed=1)
        >>> for name in query.mod:
        ...     query[name].obs_names = "query_" + query[name].obs_names
        >>> query.update()
        >>> model.finetune(query, max_epochs=1, enable_progress_bar=False).adata.n_obs
        300
        """
        model = self._extended_to(self._joined_with(query_mdata))
        if max_epochs is None:
            planned = model._planned_epochs(model.adata.n_obs, kwargs.get("batch_size", 128))
            max_epochs = max(5, planned // 2)
        plan = {"lr": 1e-3, "noise_epochs": 0.0, **(plan_kwargs or {})}
        model.train(max_epochs, plan_kwargs=plan, **kwargs)
        if model.held_out_cells_ is not None:
            # nor any that this model was trained on
            mine = self.held_out_cells_
            seen = self.adata.obs_names[~self.adata.obs_names.isin([] if mine is None else mine)]
            model.held_out_cells_ = model.held_out_cells_[~np.isin(model.held_out_cells_, seen)]
        return model

    def _joined_with(self, query_mdata: MuData) -> MuData:
        """The model's own cells and those of a query, with batches, covariates and labels."""
        query = self.prepare_query_mudata(query_mdata, self)
        reference = self._align(self.adata)
        shared = reference.obs_names.intersection(query.obs_names)
        if len(shared):
            raise ValueError(
                f"{len(shared)} cell names are in both the reference and the query, e.g. "
                f"{shared[0]!r}. Make them unique, e.g. with a prefix per data set."
            )
        modalities = {
            name: anndata.concat([part[name] for part in (reference, query) if part[name].n_obs])
            for name in self.modalities
        }
        with warnings.catch_warnings(), no_pull():
            warnings.simplefilter("ignore", (UserWarning, FutureWarning))
            joined = MuData(modalities)
        labels_key = self.setup_args["labels_key"]
        keys = [key for _, key in self._covariate_columns]
        for key in [*keys, *([] if labels_key is None else [labels_key])]:
            is_label = key == labels_key
            columns = [coalesce_obs(self.adata, key, top_alone=is_label)]
            if not is_label or _has_column(query, key):  # a query may have no labels
                columns.append(coalesce_obs(query, key, top_alone=is_label))
            joined.obs[key] = pd.concat(columns).reindex(joined.obs_names).to_numpy()
            # the column of all cells is the only one, so that none contradicts it
            for name in modalities:
                if key in joined[name].obs:
                    del joined[name].obs[key]
        return joined


def _has_column(mdata: MuData, key: str) -> bool:
    """Whether cells or those of a modality have an annotation."""
    return key in mdata.obs or any(key in adata.obs for adata in mdata.mod.values())


def _known_likelihoods(
    likelihoods: str | Mapping[str, str], modalities: Sequence[str]
) -> dict[str, str]:
    """Name of the likelihood of every modality."""
    named = per_modality("likelihoods", likelihoods, modalities, "nb")
    unknown = {name: value for name, value in named.items() if value not in LIKELIHOODS}
    if unknown:
        raise ValueError(f"Unknown likelihoods {unknown}; choose from {sorted(LIKELIHOODS)}.")
    return named
