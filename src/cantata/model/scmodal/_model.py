"""scMODAL for users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from cantata import _compat, _keys
from cantata.data import STEPS_PER_EPOCH, UnpairedDataModule, UnpairedDataset
from cantata.model._feature_inputs import check_components, fit_input, resolve_transforms
from cantata.model._impute_targets import measured_batches
from cantata.model.base import MosaicModelClass, to_numpy
from cantata.model.scmodal._impute import ImputeMixin
from cantata.model.scmodal._links import check_matrices, resolve_pairs
from cantata.model.scmodal._module import SCMODALModule
from cantata.model.scmodal._plan import SCMODALTrainingPlan
from cantata.model.scmodal._presets import PRESETS
from cantata.model.scmodal._refine import Refiner, refinement_steps
from cantata.model.scmodal._training import anchor_factors, known_pairs, readers_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mudata import MuData
    from torch import Tensor

N_STEPS = 600
"""Steps of the default schedule."""


class SCMODAL(ImputeMixin, MosaicModelClass):
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
        are divided by the number of features as before. None: no rotation, as in the paper.
    n_hidden
        Width of the hidden layer of each encoder and decoder.
    n_hidden_discriminator, n_layers_discriminator
        Width and number of hidden layers of each discriminator.
    start
        ``"torch"``'s initial weights, or ``"normal"``: weights and biases from N(0, 0.1), as in
        the reference implementation.

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
    _reads_reps = False
    presets: ClassVar = PRESETS
    """Published settings: ``SCMODAL(mdata, **presets["published"]["model"])`` and
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
        start: Literal["torch", "normal"] = "torch",
    ) -> None:
        self.init_params_ = {
            "kwargs": {},
            "non_kwargs": {
                k: v for k, v in locals().items() if k not in ("self", "mdata", "__class__")
            },
        }
        if start not in ("torch", "normal"):
            raise ValueError(f"start={start!r} is neither 'torch' nor 'normal'.")
        super().__init__(mdata)
        resolved = resolve_transforms(
            transforms,
            {name: mdata[name] for name in self.modalities},
            self.adata_manager.matrix_stats,
            rotates=n_components is not None,
        )
        n_features = {name: len(self.feature_names(name)) for name in self.modalities}
        check_components(resolved, n_features, n_components)
        # a query, or data that a model is loaded with, may tell less than the reference did
        self.init_params_["non_kwargs"]["transforms"] = {
            name: None if value == "identity" else value for name, value in resolved.items()
        }
        has_batch = self.setup_args["batch_key"] is not None
        n_categories = [len(self.batch_categories)] if has_batch else []
        n_categories += self._n_categories()
        self.module = SCMODALModule(
            n_features=n_features,
            pairs=self.setup_args["pairs"],
            n_categories=n_categories,
            n_continuous=len(self.setup_args["continuous_covariate_keys"]),
            has_batch=has_batch,
            **self.init_params_["non_kwargs"] | {"transforms": resolved},
        )
        self.has_inputs_ = False
        self.n_steps_ = 0
        self.measured_batches_ = measured_batches(
            self.adata_manager, self.modalities, self.module.n_batch
        )
        self._model_summary_string = self.summary()

    @classmethod
    def _linked_pairs(
        cls, mdata: MuData, names: Sequence[str], pairs: Sequence[tuple[str, str]] | None
    ) -> list[tuple[str, str]]:
        return resolve_pairs(mdata, names, pairs)

    # Training -----------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        batch_size: int = 500,
        use_paired: bool = False,
        n_refinements: int = 4,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: Mapping[str, Any] | None = None,
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
            Cells of each modality in a step.
        use_paired
            Take cells that were measured in two linked modalities as anchors too
            (``lambda_paired``, 5 unless given). Beyond the paper.
        n_refinements
            Times that linked features are refined in the last third of the steps: canonical
            variates of all features, between each cell and the cells of the other modality that
            are nearest by then, join them, or replace them where they are fewer than latents.
            Beyond the paper, 0 restores it. Nothing is refined where weights are frozen.
        accelerator, devices
            Passed to the trainer.
        plan_kwargs
            Arguments of :class:`~cantata.model.scmodal.SCMODALTrainingPlan`: learning rate,
            weights of the loss terms.
        **kwargs
            Passed to :class:`~scvi.train.Trainer`, e.g. ``enable_progress_bar``, ``precision``.

        Raises
        ------
        ValueError
            If both `max_epochs` and `max_steps` are given, if one is not positive, if
            `use_paired` finds no cell with two linked modalities, or if the linked features of
            two modalities cannot be compared any more.
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
        steps = _planned_steps(max_epochs, max_steps)
        if not any(p.requires_grad for p in self.module.encoders.parameters()):
            raise ValueError(
                "The weights are frozen and there are no covariates to adapt to; use "
                "load_query_data(query, model, freeze=False)."
            )
        present = [name for name in self.modalities if self.adata[name].n_obs]
        for pair in self.module.pairs:
            if all(name in present for name in pair):
                check_matrices(self.adata, *pair)
        frozen = not all(p.requires_grad for p in self.module.encoders.parameters())
        refine_before = refinement_steps(
            steps, 0 if frozen else n_refinements, continued=self.n_steps_ > 0
        )
        plan: dict[str, Any] = {"max_steps": steps, **(plan_kwargs or {})}
        paired = None
        if use_paired:
            paired = known_pairs(self)
            plan.setdefault("lambda_paired", 5.0)
        elif plan.get("lambda_paired"):
            raise ValueError("lambda_paired needs train(use_paired=True).")
        self.module.anchor_factors = anchor_factors(self, given="lambda_anchor" in plan)
        self.module.least_linked = 1 if "lambda_linked" in plan else self.module.n_latent
        self.module.variates = {}
        training_plan = self._training_plan_cls(self.module, refine_before=refine_before, **plan)
        _compat.keep_thread_limit()
        self._fit_inputs()
        progress = kwargs.get("enable_progress_bar", True)
        readers = {name: readers_of(self, name, present, progress=progress) for name in present}
        n_obs = {name: self.adata[name].n_obs for name in present}
        training_plan.refiner = Refiner(self.module, readers, n_obs)
        dataset = UnpairedDataset(
            readers,
            {name: np.arange(n) for name, n in n_obs.items()},
            paired=paired,
            batch_size=batch_size,
            first_step=self.n_steps_,
        )
        kwargs.setdefault("log_every_n_steps", 1)
        kwargs.setdefault("checkpointing_monitor", "train_loss")
        runner = self._train_runner_cls(
            self,
            training_plan=training_plan,
            data_splitter=UnpairedDataModule(dataset, steps),
            max_epochs=-(-steps // STEPS_PER_EPOCH),
            accelerator=accelerator,
            devices=devices,
            early_stopping=False,
            limit_val_batches=0,
            reload_dataloaders_every_n_epochs=1,
            **kwargs,
        )
        self.module.train()
        runner()
        self.n_steps_ += steps

    def _fit_inputs(self) -> None:
        """Standardisation and components, once."""
        if self.has_inputs_:
            return
        for name in self.modalities:
            fit_input(name, self.module.input(name), self._matrix(name), self.adata[name].n_obs)
        self.has_inputs_ = True

    def _align(self, mdata: MuData) -> MuData:
        """New data in the shape of the reference, with its linked features, for training."""
        aligned = super()._align(mdata)
        for pair in self.module.pairs:
            for name, other in (pair, pair[::-1]):
                key = _keys.linked(other)
                if name in mdata.mod and key in mdata[name].obsm:
                    aligned[name].obsm[key] = mdata[name].obsm[key]
        return aligned

    # Embedding ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        modality: str | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Embedding of cells.

        Parameters
        ----------
        mdata
            Data to embed, with any subset of the modalities; the model's own by default. It is not
            modified, and needs no linked features.
        modality
            Infer from this modality alone; by default the mean over all that a cell has.
        indices
            Cells to embed: positions in ``mdata.obs_names``, or in ``mdata[modality].obs_names``.
        batch_size
            Cells per minibatch.

        Returns
        -------
        float32 array (cells, n_latent), in the order of ``mdata.obs_names`` or of
        ``mdata[modality].obs_names``.

        Raises
        ------
        KeyError
            If `modality` is unknown or not in `mdata`.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="none")
        >>> report = cantata.pp.link_features(mdata, "rna", "adt")
        >>> cantata.SCMODAL.setup_mudata(mdata)
        >>> model = cantata.SCMODAL(mdata)
        >>> model.train(max_steps=5, batch_size=50, enable_progress_bar=False)
        >>> model.get_latent_representation(modality="adt").shape[0] == mdata["adt"].n_obs
        True
        """
        cells = self._cells(mdata)
        chosen = self._chosen_cells(cells, modality, indices)
        parts: list[Tensor] = []
        for tensors in self._minibatches(cells, chosen, batch_size):
            z, rows = self.module.encode(tensors)
            joint = self.module.joint(z, rows, len(tensors["cell"]))
            parts.append(joint if modality is None else z[modality])
        return to_numpy(parts, self.module.n_latent)


def _planned_steps(max_epochs: int | None, max_steps: int | None) -> int:
    if max_epochs is not None and max_steps is not None:
        raise ValueError(
            f"max_epochs={max_epochs} and max_steps={max_steps} say the same; give one. An epoch "
            f"has {STEPS_PER_EPOCH} steps."
        )
    steps = max_steps if max_epochs is None else max_epochs * STEPS_PER_EPOCH
    if steps is None:
        return N_STEPS
    if steps < 1:
        raise ValueError(f"The number of steps must be at least 1, got {steps}.")
    return int(steps)
