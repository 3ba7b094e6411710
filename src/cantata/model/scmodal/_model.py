"""scMODAL for users."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

import numpy as np
import torch

from cantata import _keys
from cantata._mudata.checks import check_integer
from cantata._mudata.pairing import modality_cells
from cantata._mudata.values import MatrixReader
from cantata._numeric.batches import sample_cells
from cantata._numeric.neighbors import check_k, nearest_neighbors
from cantata.data import STEPS_PER_EPOCH, UnpairedDataModule, UnpairedDataset
from cantata.model._imputation import check_own_totals
from cantata.model._inputs import fit_batches, fit_input, resolve_transforms
from cantata.model._threads import with_threads_for_steps
from cantata.model.base import Batches, Indices, MosaicModelClass
from cantata.model.scmodal._impute import MAX_CALIBRATION_CELLS, NearestCells, make_unbiased
from cantata.model.scmodal._links import check_matrices, linked_matrix, resolve_pairs
from cantata.model.scmodal._module import SCMODALModule, consistency_name
from cantata.model.scmodal._plan import SCMODALTrainingPlan
from cantata.model.scmodal._presets import PRESETS
from cantata.model.scmodal._refine import refined_variates, refinement_steps
from cantata.model.scmodal._training import (
    anchor_factors,
    batches_of,
    draw_weights,
    known_pairs,
    readers_of,
)
from cantata.nn import WeightInit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from torch import Tensor

    from cantata.model.scmodal._links import Pair
    from cantata.nn import Covariates

N_STEPS = 600
"""Steps of the default schedule."""
MIN_JUDGED_STEPS = 300
"""After fewer steps embeddings say little of links."""
MIN_JUDGED_CELLS = 1000
"""With fewer cells of a modality near ones are not near enough to say it."""
MIN_CONSISTENCY = 0.85
"""Of right links more was seen (.90 to .94 on four data sets), of half wrong ones .80."""


class SCMODAL(MosaicModelClass):
    """Alignment of unpaired modalities through linked features.

    Every modality has an autoencoder, on all its features, into one latent space. Discriminators
    mix the embeddings of linked modalities; cells that are mutual nearest neighbours in linked
    features anchor them to each other; the similarities between the cells of a modality are
    preserved. Beyond the paper, one linear map reads the linked features off the embeddings of
    both modalities, and these features are refined by the cells that the embeddings match. No
    cell needs to have two modalities, and cells that have are treated as unpaired unless asked
    otherwise.

    Source: Wang, Zhao, Lin, Liu, Zhao and Zhao, scMODAL: a general deep learning framework for
    comprehensive single-cell multi-omics data alignment with feature links, Nature
    Communications 2025.

    Parameters
    ----------
    mdata
        MuData registered with :meth:`setup_mudata`.
    n_latent
        Width of the latent space.
    transforms
        Transform of all modalities or of each: ``"log1p"`` of values scaled to the median total,
        ``"clr"`` (centred log ratio over cells), ``"tfidf"`` (chromatin), ``"arcsinh"`` of a fifth
        (cytometry), None (as they are). ``"auto"``: by what counts measure ``"log1p"`` (RNA),
        ``"clr"`` (protein) or ``"tfidf"`` (chromatin); values that are no counts as they are.
    n_components
        Modalities with more features are rotated to so many principal components of their
        standardised highly variable features, fitted in training and kept; distances and errors
        are divided by the number of features all the same. None: no rotation, as in the paper.
    n_hidden
        Width of the hidden layer of each encoder and decoder.
    n_hidden_discriminator, n_layers_discriminator
        Width and number of hidden layers of each discriminator.
    **module_kwargs
        Further arguments of :class:`~cantata.model.scmodal.SCMODALModule`, which the published
        settings need.

    Raises
    ------
    ValueError
        If a transform is unknown or does not fit the values, or if chromatin is to be read by
        feature.
    KeyError
        If `transforms` names an unknown modality.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=300, pairing="none")
    >>> report = cantata.pp.link_features(mdata, "rna", "adt")
    >>> cantata.SCMODAL.setup_mudata(mdata)
    >>> model = cantata.SCMODAL(mdata, n_latent=10)
    >>> model.train(max_steps=5, batch_size=50, enable_progress_bar=False)
    >>> model.get_latent_representation().shape
    (300, 10)
    """

    method = "scmodal"
    _open_when_frozen = ("discriminators",)
    presets: ClassVar = PRESETS
    """Published settings: ``pp.link_features(mdata, a, b, **presets["published"]["links"])``,
    ``SCMODAL(mdata, **presets["published"]["model"])`` and
    ``model.train(**presets["published"]["train"])``."""
    _module_cls = SCMODALModule
    _training_plan_cls = SCMODALTrainingPlan

    def __init__(
        self,
        mdata: MuData,
        n_latent: int = 20,
        transforms: str | Mapping[str, str | None] | None = "auto",
        *,
        n_components: int | None = 100,
        n_hidden: int = 512,
        n_hidden_discriminator: int = 128,
        n_layers_discriminator: int = 2,
        **module_kwargs: Any,
    ) -> None:
        init_params = self._get_init_params(locals())
        if module_kwargs.get("weight_init", "torch") not in get_args(WeightInit):
            raise ValueError(
                f"weight_init={module_kwargs['weight_init']!r} is neither 'torch' nor 'normal'."
            )
        super().__init__(mdata)
        modalities = {name: mdata[name] for name in self.modalities}
        resolved = resolve_transforms(transforms, modalities, self._matrix_stats, n_components)
        # a query, or data that a model is loaded with, may tell less than the reference did
        self.init_params_ = init_params
        init_params["non_kwargs"]["transforms"] = {
            name: None if value == "identity" else value for name, value in resolved.items()
        }
        has_batch = self.setup_args["batch_key"] is not None
        self.module = SCMODALModule(
            n_features=self.n_features,
            pairs=self.setup_args["pairs"],
            n_categories=[self.n_batch] * has_batch + self.n_categories,
            n_continuous=self.n_continuous,
            has_batch=has_batch,
            **self._init_arguments | {"transforms": resolved},
        )
        self.n_steps_ = 0
        self.n_known_batches_ = 0

    @classmethod
    def _setup_pairs(
        cls, mdata: MuData, modalities: Sequence[str], pairs: Sequence[Pair] | None
    ) -> list[Pair]:
        return resolve_pairs(mdata, modalities, pairs)

    # Training -----------------------------------------------------------------------------------

    @with_threads_for_steps
    def train(
        self,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        batch_size: int = 500,
        train_size: float | None = None,
        validation_size: float | None = None,
        early_stopping: bool = False,
        use_paired: bool = False,
        n_refinements: int = 4,
        balance: bool = True,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: Mapping[str, Any] | None = None,
        ckpt_path: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        """Train the model on all its cells, and keep the last step.

        There are neither epochs over the data nor validation cells: every step draws cells of each
        modality with replacement, and no checkpoint is chosen.

        Parameters
        ----------
        max_epochs
            Hundreds of steps.
        max_steps
            Steps; 600 by default.
        batch_size
            Cells of each modality in a step, at most as many as the largest modality has.
        train_size, validation_size, early_stopping
            Arguments of other models. Here only 1, 0 and False can be given, which is what is
            done: without known pairs there is nothing to validate on.
        use_paired
            Take cells that were measured in two linked modalities as anchors too
            (``lambda_paired``, 5 unless given). Beyond the paper.
        n_refinements
            Times that linked features are refined in the last third of the steps: canonical
            variates of all features, between each cell and the cells of the other modality that
            are nearest by then, join them, or replace them where they are fewer than latents.
            Beyond the paper, 0 restores it. Nothing is refined where weights are frozen.
        balance
            Draw populations, found by linked features, in like shares from linked modalities.
            Drawn as they are, what is frequent in one modality alone is laid on other cells of the
            other. Not where links are so many that joint components stand for them. Beyond the
            paper.
        plan_kwargs
            Arguments of :class:`~cantata.model.scmodal.SCMODALTrainingPlan`: learning rate,
            weights of the loss terms.
        ckpt_path
            Checkpoint from the end of a hundred steps, by lightning's ``ModelCheckpoint``. A model
            of the same data, arguments and seed then ends where uninterrupted training would have
            ended. The history begins after the checkpoint.
        accelerator, devices, **kwargs
            Passed to :class:`~scvi.train.Trainer`, e.g. ``enable_progress_bar``, ``precision``.

        Raises
        ------
        ValueError
            If both `max_epochs` and `max_steps` are given or one is not positive, if cells are to
            be held out, if `use_paired` finds no cell with two linked modalities, if linked
            features cannot be compared, or if `ckpt_path` is no checkpoint of this model and these
            cells.
        FileNotFoundError
            If `ckpt_path` does not exist.
        KeyError
            If the linked features are gone.
        TypeError
            If `plan_kwargs` holds an unknown name.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="none")
        >>> report = cantata.pp.link_features(mdata, "rna", "adt")
        >>> cantata.SCMODAL.setup_mudata(mdata)
        >>> model = cantata.SCMODAL(mdata)
        >>> weights = {"lambda_geo": 1.0}
        >>> model.train(max_steps=5, batch_size=50, plan_kwargs=weights, enable_progress_bar=False)
        >>> "anchor_rna_adt_train" in model.history
        True
        """
        self._check_training_data()
        steps = _planned_steps(max_epochs, max_steps)
        batch_size = check_integer("batch_size", batch_size, 1)
        _check_nothing_held_out(train_size, validation_size, early_stopping=early_stopping)
        if not any(p.requires_grad for p in self.module.encoders.parameters()):
            raise ValueError(
                "The weights are frozen and there are no covariates to adapt to; use "
                "load_query_data(query, model, freeze=False)."
            )
        present = [name for name in self.modalities if self.adata[name].n_obs]
        for pair in self.module.pairs:
            if all(name in present for name in pair):
                check_matrices(self.adata, *pair)
        refine_before = refinement_steps(
            steps, 0 if self.is_frozen_ else n_refinements, continued=self.n_steps_ > 0
        )
        n_epochs = -(-steps // STEPS_PER_EPOCH)
        cells = [f"{name}:{cell}" for name in present for cell in self.adata[name].obs_names]
        kwargs = self._resumable(ckpt_path, cells, n_epochs, kwargs, "max_steps")
        # 1. the plan; weights that a user gives hold as they are
        options: dict[str, Any] = {"max_steps": steps, **(plan_kwargs or {})}
        paired = None
        if use_paired:
            paired = known_pairs(self)
            options.setdefault("lambda_paired", 5.0)
        elif options.get("lambda_paired"):
            raise ValueError("lambda_paired needs train(use_paired=True).")
        factors = anchor_factors(self)
        plan = self._training_plan_cls(
            self.module,
            anchor_factors=None if "lambda_anchor" in options else factors,
            min_linked=1 if "lambda_linked" in options else self.module.n_latent,
            refine_before=refine_before,
            **options,
        )
        # 2. what its steps read
        self._ensure_inputs()
        self._fit_new_batches()
        progress = kwargs.get("enable_progress_bar", True)
        readers = {name: readers_of(self, name, present, progress=progress) for name in present}
        n_obs = {name: self.adata[name].n_obs for name in present}
        plan.refine = partial(refined_variates, self.module, readers, n_obs)
        # clusters of joint components would differ between modalities by noise
        balanced = [p for p, factor in factors.items() if balance and factor == 1]
        dataset = UnpairedDataset(
            readers,
            {name: np.arange(n) for name, n in n_obs.items()},
            paired=paired,
            weights=draw_weights(balanced, readers, n_obs),
            batch_size=min(batch_size, max(n_obs.values())),
            first_step=self.n_steps_,
        )
        self._fit(
            plan,
            UnpairedDataModule(dataset, steps),
            n_epochs,
            accelerator=accelerator,
            devices=devices,
            reload_dataloaders_every_n_epochs=1,
            **kwargs,
        )
        self.n_steps_ += steps
        self._warn_of_inconsistent_links()
        # 3. what is imputed by the weights that came of it
        if not self.is_frozen_:
            for name in present:
                self._make_unbiased(name)

    def _warn_of_inconsistent_links(self) -> None:
        """Say where near cells of two modalities do not agree in what links them."""
        if self.n_steps_ < MIN_JUDGED_STEPS:
            return
        for pair in self.module.pairs:
            term = f"{consistency_name(pair)}_train"
            if term not in (self.history or {}):
                continue
            few_cells = min(self.adata[name].n_obs for name in pair) < MIN_JUDGED_CELLS
            n_linked = linked_matrix(self.adata, *pair).shape[1]
            if few_cells or n_linked < self.module.n_latent:  # such links do not lead
                continue
            score = float(self.history[term].iloc[-1, 0])
            if score < MIN_CONSISTENCY:
                warnings.warn(
                    f"Near cells of {pair[0]!r} and {pair[1]!r} agree in their linked features "
                    f"only {score:.2f} times as well as near cells of one modality; with right "
                    "links it is .9 or more. Some links may be wrong, or the modalities hold "
                    "different cells. Look at the report of cantata.pp.link_features, and do not "
                    "trust labels that are carried over.",
                    UserWarning,
                    stacklevel=3,
                )

    def _fit_inputs(self) -> None:
        for name in self.modalities:
            values, n_obs = self.registered_values(name), self.adata[name].n_obs
            fit_input(name, self.module.input(name), values, n_obs)

    def _fit_new_batches(self) -> None:
        """Standardise the batches that neither the model nor its reference has trained on."""
        for name in self.modalities:
            codes = batches_of(self, name)
            if codes is not None and len(codes):
                values = self.registered_values(name)
                fit_batches(self.module.input(name), values, codes, self.n_known_batches_)
        self.n_known_batches_ = self.n_batch

    def _inherit_from(self, reference: Self) -> None:
        super()._inherit_from(reference)
        self.n_known_batches_ = reference.n_known_batches_

    @torch.no_grad()
    def _make_unbiased(self, name: str) -> None:
        """Make means of imputed values those of the modality's own cells."""
        cells = self._cells(None)
        own = cells.of_modality(name)
        chosen = own[sample_cells(len(own), MAX_CALIBRATION_CELLS)]

        def values() -> Iterator[tuple[Tensor, Tensor]]:
            for tensors in self._minibatches(cells, chosen, None):
                covariates = self.module.covariates(tensors).rows(tensors[_keys.rows_key(name)])
                z = self._embed(tensors, name)
                yield self.module.decode(name, z, covariates), tensors[name].to_dense()

        make_unbiased(self.module.input(name), values)

    def _align(self, mdata: MuData) -> MuData:
        """New data in the shape of the reference, with its linked features, for training."""
        aligned = super()._align(mdata)
        for pair in self.module.pairs:
            for name, other in (pair, pair[::-1]):
                key = _keys.linked(other)
                if name in mdata.mod and key in mdata[name].obsm:
                    aligned[name].obsm[key] = mdata[name].obsm[key]
        return aligned

    # Embedding and imputation -------------------------------------------------------------------

    def _embed(self, tensors: Mapping[str, Tensor], modality: str | None) -> Tensor:
        z, rows = self.module.encode(tensors, modality)
        if modality is not None:
            return z[modality]
        return self.module.joint(z, rows, len(tensors[_keys.CELL]))

    def impute(
        self,
        modality: str,
        mdata: MuData | None = None,
        *,
        source: str | None = None,
        via: Sequence[str] = (),
        features: Sequence[str] | None = None,
        indices: Indices = None,
        transform_batch: Batches = None,
        library_size: float | np.ndarray | None = None,
        n_anchors: int = 0,
        interval: float | None = None,
        batch_size: int | None = None,
        out: str | Path | None = None,
    ) -> AnnData:
        """Expected counts, or other registered values, of a modality for every cell.

        ``G_target(E_source(x))``, Wang et al. 2025. Where the transform scales cells (``"log1p"``,
        ``"clr"``, ``"tfidf"``) these are the counts of a cell with as many as
        ``obs["library_size"]`` says, to which each row sums over all features; otherwise values
        stay in the range that was measured. Means over the modality's own cells are those that
        were measured, where no value is negative.

        Parameters
        ----------
        modality
            Modality to impute.
        mdata
            Data with any subset of the modalities, never modified; the model's own by default.
        source
            Infer from this modality alone, for cells with it; by default from the mean embedding
            of all that a cell has.
        via
            Modalities to pass on the way, each decoded and encoded again, such as the bridge
            between two modalities that are not linked.
        features
            Names of the features to return; all by default.
        indices
            Cells to impute: positions in ``mdata.obs_names``, a mask, a slice or names.
        transform_batch
            Batch to decode for, or batches to average over. By default a cell's own; where that
            lacks the modality, the mean over the batches that have it.
        library_size
            Total per cell, one number or one per returned cell, for transforms that scale cells
            alone; by default the median of the modality's cells.
        n_anchors
            Average the measured values of the modality's cells that are nearest in the embedding,
            as many as this, in place of the decoder's output; their standard deviation is in
            ``layers["std"]``. 0: the decoder, as in the paper.
        interval
            Share of new measurements, e.g. 0.9, that are to lie between ``layers["lower"]`` and
            ``layers["upper"]``, as far as the modality's cells that are nearest in the embedding
            stand for the same cells: no pair tells, so take it as what varies among cells that
            are alike, to which errors of the alignment come.
        batch_size
            Cells per minibatch.
        out
            New directory ending in ``.zarr`` to write values to as they are computed.

        Returns
        -------
        AnnData, cells x features, with ``.obs`` and ``obsm["spatial"]`` of the cells. ``.X`` is
        float32, in the units that ``.uns["cantata"]["units"]`` says; with `out` it stays on disk.

        Raises
        ------
        KeyError
            If a modality, feature or batch is unknown.
        ValueError
            If cells lack the source, or are of an unknown batch without `transform_batch`, if
            there are fewer cells than `n_anchors`, if `library_size` does not fit the transform,
            if an `interval` has no `source`, a `library_size` or `n_anchors`, or if both
            `n_anchors` and `transform_batch` are given.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="none")
        >>> report = cantata.pp.link_features(mdata, "rna", "adt")
        >>> cantata.SCMODAL.setup_mudata(mdata)
        >>> model = cantata.SCMODAL(mdata)
        >>> model.train(max_steps=5, batch_size=50, enable_progress_bar=False)
        >>> proteins = model.impute("adt", source="rna")
        >>> proteins.shape == (mdata["rna"].n_obs, mdata["adt"].n_vars)
        True
        """
        unknown = [name for name in via if name not in self.modalities]
        if unknown:
            raise KeyError(f"via={list(via)}: {unknown[0]!r} is not one of {self.modalities}.")
        if n_anchors and transform_batch is not None:
            raise ValueError(
                "n_anchors averages measured cells, transform_batch chooses a decoder; give one."
            )
        if n_anchors and interval is not None:
            raise ValueError(
                "interval= compares with the nearest cells, which n_anchors averages; give one."
            )
        self._check_modality("modality", modality)
        layer = self.module.input(modality)
        if library_size is not None and not layer.scales_cells:
            raise ValueError(
                f"Modality {modality!r} has transform {layer.transform!r}, which does not scale "
                "cells to a total; leave out library_size."
            )
        check_own_totals(interval, library_size)
        if library_size is None:
            library_size = self._typical_library(modality)
        nearest = None
        if n_anchors:
            reference = self.get_latent_representation(modality=modality)
            k = check_k(n_anchors, len(reference), f"modality {modality!r}")
            read = MatrixReader(self.registered_values(modality))
            nearest = NearestCells(reference, k, read, layer)
        return self._impute(
            modality,
            mdata,
            source=source,
            features=features,
            indices=indices,
            transform_batch=transform_batch,
            library_size=library_size,
            interval=interval,
            batch_size=batch_size,
            out=out,
            via=via,
            nearest=nearest,
        )

    def _typical_library(self, modality: str) -> float | None:
        layer = self.module.input(modality)
        return float(layer.library) if layer.scales_cells else None

    def _calibration_cells(self, modality: str, source: str) -> tuple[np.ndarray, np.ndarray, str]:
        cells = modality_cells(self.adata, source)
        if not self.adata[modality].n_obs:
            return cells[:0], cells[:0], "nearest cells"
        rows = sample_cells(len(cells), MAX_CALIBRATION_CELLS)
        z = self.get_latent_representation(modality=source, indices=rows).astype(np.float64)
        reference = self.get_latent_representation(modality=modality).astype(np.float64)
        nearest = nearest_neighbors(reference, z, 1)[0][:, 0]
        return cells[rows], nearest, "nearest cells of the other modality"

    def _interval_remedy(self, modality: str, source: str, n: int) -> str:
        if not self.adata.n_obs:
            return super()._interval_remedy(modality, source, n)
        return "Ask for a smaller share."

    def _expected(
        self,
        tensors: dict[str, Tensor],
        modality: str,
        source: str | None,
        batches: list[int] | None,
        library: Any,
        via: Sequence[str] = (),
        nearest: NearestCells | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        z = self._embed(tensors, source)
        z = self.module.translate(z, via, self.module.covariates(tensors))
        if nearest is not None:
            return *nearest.values(z, library), library
        return self._decode_batches(tensors, modality, z, batches, library), None, library

    def _units(self, modality: str, **options: Any) -> str:
        if self.module.input(modality).scales_cells:
            return "expected counts of a cell with obs['library_size'] counts"
        return "expected registered values"

    def _decode(
        self, modality: str, z: Tensor, covariates: Covariates, library: Tensor | None
    ) -> Tensor:
        if not self.module.has_batch:
            covariates = covariates.without_batch()
        return self.module.decode(modality, z, covariates, library)


def _planned_steps(max_epochs: int | None, max_steps: int | None) -> int:
    """Steps that a user asks for, in hundreds or one by one."""
    if max_epochs is not None and max_steps is not None:
        raise ValueError(
            f"max_epochs={max_epochs} and max_steps={max_steps} say the same; give one. An epoch "
            f"has {STEPS_PER_EPOCH} steps."
        )
    if max_epochs is not None:
        return check_integer("max_epochs", max_epochs, 1) * STEPS_PER_EPOCH
    return N_STEPS if max_steps is None else check_integer("max_steps", max_steps, 1)


def _check_nothing_held_out(
    train_size: float | None, validation_size: float | None, *, early_stopping: bool
) -> None:
    """Refuse what only a model that holds cells out can do."""
    given = {
        "train_size": (train_size, (None, 1)),
        "validation_size": (validation_size, (None, 0)),
        "early_stopping": (early_stopping, (None, False)),
    }
    for argument, (value, possible) in given.items():
        if value not in possible:
            raise ValueError(
                f"{argument}={value!r}: SCMODAL trains on all cells and keeps the last step, "
                "since without known pairs there is nothing to validate on. Leave "
                f"{argument} out; max_steps is how long it trains."
            )
