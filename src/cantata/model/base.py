"""The contract of a model: what it gives, and what it gets."""

from __future__ import annotations

import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer as LightningTrainer
from scvi import settings
from scvi.model.base import BaseModelClass
from scvi.train import Trainer, TrainingPlan, TrainRunner

from cantata import _compat, _keys
from cantata._keys import BATCH, CELL, IMAGES, rep_key
from cantata._mudata.checks import (
    MatrixStats,
    as_list,
    as_pairs,
    check_counts,
    check_for_model,
    check_integer,
    check_known,
    check_mapping,
    check_matrix_keys,
    check_modalities,
    check_mudata,
    check_setup_arguments,
    covariate_columns,
    fingerprints,
    parameters_of,
    per_modality,
    positions_of,
    warn_user,
)
from cantata._mudata.images import feature_names_of, recorded_images
from cantata._mudata.obs import category_names, check_groups, coalesce_obs
from cantata._mudata.pairing import modality_cells, row_table
from cantata._mudata.panels import panel_of_batches, report_panel, without_nan
from cantata._mudata.parts import mudata_of_parts, parts_of_mudata
from cantata._mudata.values import MatrixReader, matrix_of, recorded_reps
from cantata._numeric.abundance import log_densities
from cantata._numeric.batches import sample_cells
from cantata._numeric.conformal import ConformalIntervals, n_needed
from cantata.data import (
    MosaicDataset,
    MosaicLoader,
    MosaicManager,
    MosaicSplitter,
    align_query,
    keeps_sparse,
    registered_fields,
    without_cells,
)
from cantata.model._checkpoint import TrainingCheckpoint, TrainingRecord, digest
from cantata.model._differential import (
    abundance_contrasts,
    check_comparison,
    checked_samples,
    compared_groups,
    conditions_of,
    differences,
)
from cantata.model._imputation import (
    ImputationWriter,
    batch_codes,
    batch_weights,
    check_batches_known,
    check_interval,
    check_library_size,
    feature_columns,
    mean_over_batches,
    values_of,
)
from cantata.model._inputs import totals_by_batch
from cantata.model._plan import BestWeights, kept_random_state
from cantata.model._threads import step_work, with_threads_for_steps
from cantata.nn import CovariateEffects, Covariates, LikelihoodHead, with_new_categories

if TYPE_CHECKING:
    from anndata import AnnData
    from lightning.pytorch import LightningDataModule, LightningModule
    from mudata import MuData
    from torch import Tensor

    from cantata.nn import PoissonHead

logger = logging.getLogger(__name__)

Indices = Sequence[int] | Sequence[bool] | Sequence[str] | np.ndarray | slice | int | str | None
"""Cells: positions, a mask, a slice, or names; None for all."""
Batches = str | int | Sequence[str] | Sequence[int] | None
"""Batch or batches to decode for, by name; None for a cell's own."""
MODULE_NAMES = {*dir(torch.nn.ModuleDict()), "shared"}
"""Names that no part of a network can have, and that of APOLLO's shared latents."""
MAX_CALIBRATION_ENTRIES = 20_000_000
"""Values, of cells by features, that intervals rest on at most."""
MAX_CHANGE = 1e-5
"""Largest relative change of a row's fingerprint that is rounding."""


@dataclass
class Cells:
    """Cells to run a model on, lined up with the MuData that the user passed."""

    manager: MosaicManager
    mdata: MuData
    """The user's own object, whose order results follow."""
    positions: np.ndarray
    """Position in the manager's data of each cell of ``mdata.obs_names``."""

    def of_modality(self, modality: str) -> np.ndarray:
        """Positions in ``mdata.obs_names`` of the rows of a modality."""
        if modality not in self.mdata.mod:
            raise KeyError(
                f"Modality {modality!r} is not in the MuData, which holds {list(self.mdata.mod)}."
            )
        return modality_cells(self.mdata, modality)


class MosaicModelClass(BaseModelClass):
    """Base class of models that are set up with a MuData of any pairing.

    It gives a model set-up, training, embeddings, imputation, results in the MuData, saving,
    loading and queries. The model gives the class attributes and hooks below; the docs page
    "Write your own model" has one in full.

    Parameters
    ----------
    mdata
        MuData registered with :meth:`setup_mudata`.

    Notes
    -----
    **A model must have**

    ``method``
        Its name in the keys of results, e.g. ``"clue"``.
    ``__init__(self, mdata, ...)``
        Calls ``super().__init__(mdata)``, sets ``self.init_params_ =
        self._get_init_params(locals())``, from which saved models and queries are built again,
        and builds ``self.module`` from :attr:`n_features`, :attr:`n_batch` and
        :attr:`n_categories`. Weights with a row for each category, as in
        :class:`~cantata.nn.CovariateEffects` and :class:`~cantata.nn.LikelihoodHead`, get rows
        for new batches and categories in a query. Of queries (:attr:`is_query`) nothing is asked
        beyond the shape of the data.
    ``_embed(tensors, modality)``
        From a minibatch of n cells to (n, q) embeddings, or to the (n_m, q) embeddings of the
        rows of `modality` by that modality alone, in the order of the minibatch's cells.
    ``_decode(modality, z, covariates, library)``
        From (n, q) embeddings, :class:`~cantata.nn.Covariates` and, for likelihoods that have
        them, (n,) library sizes to (n, p_m) expected values in registered units.

    **It may have**

    ``_training_plan_cls``
        Lightning module that takes the module first; scvi-tools' ``TrainingPlan`` by default,
        for an ordinary :class:`~scvi.module.base.BaseModuleClass`, whose ``LossOutput`` needs
        ``n_obs_minibatch``, since modalities differ in their rows.
    ``_monitor``, ``_planned_epochs(n_cells, batch_size)``
        Logged quantity of held-out cells that :meth:`train` stops by, and its default epochs.
    ``_setup_pairs(mdata, modalities, pairs)``
        Linked pairs of modalities to register.
    ``_fit_inputs()``
        What is computed from the data once, before the first step.
    ``_inherit_from(reference)``
        Takes over what the weights of a reference model do not hold.
    ``_open_when_frozen``
        Parts of the module that are trained in frozen queries beside the effects of covariates.
    ``_parts_of_cells``
        Parts of the module that belong to the cells of the reference and not to a query's.
    ``_units(modality)``
        What imputed values mean, in words.
    ``_embeddings_to_write(mdata, modalities)``, ``_expected(...)``, ``_reconstruct(...)``
        Where a model writes or decodes more than the default.

    **What it can rely on**

    - Values are finite, and those of queries of the same kind as the model's;
      ``_check_counts(modality, likelihood)`` refuses what a likelihood of counts cannot model.
    - A minibatch is as :class:`~cantata.data.MosaicDataset` says: of a modality it holds the
      rows that exist, which may be none or a single one (:class:`~cantata.nn.BatchNorm1d` takes
      both), and ``<modality>_rows`` says of which of its cells.
    - Codes of covariates are -1, or beyond the known ones, where new data has an unknown category;
      :class:`~cantata.nn.CovariateEffects` then takes the mean of the known ones.
    - ``_embed`` and ``_decode`` run in evaluation mode, without gradients, on the model's device,
      and get every cell's measured modalities whatever the order or storage of new data.
    - Public attributes that end in an underscore are saved.
    - In a frozen model the module is in evaluation mode in training too: no dropout, running
      statistics stay.
    """

    method: str
    _uses_reps = False
    """Whether encoders can read representations."""
    _uses_labels = False
    """Whether labels of cells are used."""
    _uses_images = False
    """Whether modalities can be images."""
    _takes_sparse = False
    """Whether the module takes values of sparse matrices as CSR tensors."""
    _min_modalities = 2
    """Fewest modalities that can be trained on."""
    _monitor = "elbo_validation"
    _open_when_frozen: tuple[str, ...] = ()
    _parts_of_cells: tuple[str, ...] = ()
    _training_plan_cls: Any = TrainingPlan
    _train_runner_cls = TrainRunner
    _data_loader_cls = MosaicLoader
    _module_cls: Any = None  # takes the further arguments of a model that passes them on
    _data_splitter_cls = MosaicSplitter

    def __init__(self, mdata: MuData) -> None:
        self._check_set_up(mdata)
        super().__init__(mdata)
        self.is_frozen_ = self.has_inputs_ = False
        self.held_out_cells_: np.ndarray | None = None
        self.measured_batches_ = {
            name: (np.bincount(self._batch_codes(name), minlength=self.n_batch) > 0).tolist()
            for name in self.modalities
        }
        self.panels_ = {name: self._panel(name) for name in self.modalities}
        if not self.is_query:
            self._report_panels(0)

    def _panel(self, modality: str, rate: np.ndarray | None = None) -> dict[str, Any]:
        """Which features each batch measured; of images all."""
        if modality in self.setup_args["images"]:
            n = self.n_features[modality]
            measured = np.ones((self.n_batch, n), dtype=bool)
            return {
                "measured": measured,
                "found": measured,
                "rate": np.ones(n),
                "counted": measured[0],
            }
        values, codes = self.registered_values(modality), self._batch_codes(modality)
        return panel_of_batches(values, codes, self.n_batch, rate)

    def _get_init_params(self, locals: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the model, as scvi-tools has them, after a check of the numbers."""
        parameters: dict[str, Any] = super()._get_init_params(locals)
        own, passed_on = (parameters_of(call) for call in (type(self), self._module_cls))
        for given in parameters["kwargs"].values():
            check_known(type(self).__name__, given, own, passed_on)
        for arguments in (parameters["non_kwargs"], *parameters["kwargs"].values()):
            for name, value in arguments.items():
                if isinstance(value, np.generic):
                    value = arguments[name] = value.item()
                is_number = not (value is None or isinstance(value, Mapping | str))
                if name.startswith("n_") and is_number:
                    check_integer(name, value, 0 if name.startswith(("n_layers", "n_sp")) else 1)
        return parameters

    @classmethod
    def _check_set_up(cls, mdata: Any) -> None:
        """Refuse data that were not set up for this class."""
        check_mudata(mdata)
        try:
            cls._get_most_recent_anndata_manager(mdata, required=True)
        except ValueError as error:
            raise ValueError(
                f"This MuData was not set up for {cls.__name__}, or it is a copy of one that was. "
                f"Call {cls.__name__}.setup_mudata(mdata, ...) first."
            ) from error

    # Set-up -------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(cls, adata: AnnData, **kwargs: Any) -> None:
        """Not available: wrap the AnnData in a MuData and call :meth:`setup_mudata`."""
        raise NotImplementedError(
            f"{cls.__name__} is set up with a MuData: {cls.__name__}.setup_mudata("
            "mudata.MuData({'rna': adata, ...}))."
        )

    @classmethod
    def setup_annbatch(cls, *args: Any, **kwargs: Any) -> None:
        """Not available: collections on disk are not supported yet."""
        raise NotImplementedError(
            f"{cls.__name__} cannot be set up with a collection on disk yet; call "
            f"{cls.__name__}.setup_mudata with a MuData, which may be backed."
        )

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        modalities: Sequence[str] | None = None,
        layers: Mapping[str, str | None] | str | None = None,
        reps: Mapping[str, str] | str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | str | None = None,
        continuous_covariate_keys: Sequence[str] | str | None = None,
        pairs: Sequence[tuple[str, str]] | None = None,
        images: Mapping[str, str] | None = None,
        mask_background: bool = False,
        **kwargs: Any,
    ) -> None:
        """Register a MuData. Its modalities may hold different cells in different orders.

        Parameters
        ----------
        mdata
            Data. Nothing but two identifiers in ``mdata.uns`` is written.
        modalities
            Modalities to use; all by default.
        layers
            Layer with each modality's values, or with those of all; ``.X`` where None or not
            named.
        reps
            ``.obsm`` key of the representation that a modality's encoder reads in place of its
            values. By default those that :func:`cantata.pp.preprocess` made; ``{}`` for none.
        batch_key
            Column of ``mdata.obs``, or of the ``.obs`` of modalities. Whole numbers are the same
            category whatever their type.
        labels_key
            Column of cell labels for semi-supervision; missing values are unknown labels. A column
            of ``mdata.obs`` is not completed by those of modalities.
        categorical_covariate_keys, continuous_covariate_keys
            Columns of further covariates.
        pairs
            Linked modalities, for models that use links.
        images
            ``.obsm`` key of the images of a modality, (cells, channels, height, width), of which
            ``.var`` names the channels that are stains, for models of images. By default
            ``"single_cell_images"`` where a modality has it; ``{}`` for none. Floats lie in
            [0, 1]; integers are scaled by the range of each stain.
        mask_background
            Set what no mask of a cell covers to 0; masks are channels that
            ``.var["channel_mapping"]`` calls so.
        **kwargs
            ``source_registry`` of a model, when it is loaded.

        Raises
        ------
        TypeError
            If `mdata` is no MuData, a continuous covariate is not numeric, or an argument is
            unknown.
        KeyError
            If modalities, layers, representations or columns do not exist.
        ValueError
            If there is only one modality, modalities are empty, cells have none of them, names
            repeat, values are not finite, or columns contradict each other or are incomplete.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata, batch_key="batch")
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        check_setup_arguments(cls.setup_mudata, kwargs, batch_key=batch_key, labels_key=labels_key)
        is_query = kwargs.get("source_registry") is not None
        names = check_modalities(mdata, modalities, allow_empty=is_query)
        _check_module_names(names)
        check_for_model(mdata, names, cls.__name__, cls._min_modalities)
        for argument, value, is_used in (
            ("reps", reps, cls._uses_reps),
            ("labels_key", labels_key, cls._uses_labels),
            ("images", images, cls._uses_images),
            ("mask_background", mask_background, cls._uses_images),
        ):
            if value and not is_used:
                raise ValueError(f"{cls.__name__} has no use for {argument}; leave it out.")
        if reps is None:
            reps = recorded_reps(mdata, names) if cls._uses_reps else {}
        if images is None and cls._uses_images:
            images = {name: IMAGES for name in names if recorded_images(mdata[name])}
        check_mapping("images", images or {}, names)
        categorical = as_list("categorical_covariate_keys", categorical_covariate_keys)
        continuous = as_list("continuous_covariate_keys", continuous_covariate_keys)
        given_reps = per_modality("reps", reps, names, None)
        arguments: dict[str, Any] = {
            "modalities": names,
            "layers": per_modality("layers", layers or {}, names, None),
            "reps": {name: rep for name, rep in given_reps.items() if rep is not None},
            "batch_key": batch_key,
            "labels_key": labels_key,
            "categorical_covariate_keys": categorical,
            "continuous_covariate_keys": continuous,
            "pairs": pairs if is_query else cls._setup_pairs(mdata, names, as_pairs(pairs)),
            "images": dict(images or {}),
            "mask_background": mask_background,
        }
        setup_method_args[_compat.SETUP_ARGS] = arguments
        check_matrix_keys(mdata, arguments)
        manager = MosaicManager(registered_fields(arguments), setup_method_args)
        manager.register_fields(mdata, **kwargs)
        manager.fingerprints = fingerprints(mdata, arguments)
        cls.register_manager(manager)

    @classmethod
    def _setup_pairs(
        cls, mdata: MuData, modalities: Sequence[str], pairs: Sequence[tuple[str, str]] | None
    ) -> list[tuple[str, str]] | None:
        """Linked pairs to register; a model without a use for links refuses them."""
        if pairs is not None:
            raise ValueError(
                f"{cls.__name__} does not use links between features; leave out pairs."
            )
        return None

    # What was registered ------------------------------------------------------------------------

    @property
    def setup_args(self) -> dict[str, Any]:
        """Arguments of ``setup_mudata``, completed."""
        return self.registry_[_compat.SETUP_ARGS]

    @property
    def modalities(self) -> list[str]:
        """Modalities of the model, in order."""
        return self.setup_args["modalities"]

    @property
    def is_query(self) -> bool:
        """Whether the data were registered as another model's were: loaded, or a query."""
        return _compat.source_registry(self.adata_manager) is not None

    def _state(self, registry_key: str) -> dict[str, Any]:
        return self.registry_[_compat.FIELD_REGISTRIES][registry_key][_compat.STATE_REGISTRY]

    def _categories(self, registry_key: str) -> list[str]:
        return list(self._state(registry_key)["categorical_mapping"])

    def feature_names(self, modality: str) -> np.ndarray:
        """Names of the features of a modality, in the model's order."""
        return np.asarray(self._state(modality)["column_names"])

    @property
    def n_features(self) -> dict[str, int]:
        """Number of features of each modality."""
        return {name: len(self.feature_names(name)) for name in self.modalities}

    @property
    def image_sides(self) -> dict[str, int]:
        """Height and width of the images of each modality that has some."""
        return {name: self._state(name)["side"] for name in self.setup_args["images"]}

    @property
    def batch_categories(self) -> list[str]:
        """Names of the batches; empty without a batch key."""
        return [] if self.setup_args["batch_key"] is None else self._categories(BATCH)

    @property
    def n_batch(self) -> int:
        """Number of batches, 1 without a batch key."""
        return max(1, len(self.batch_categories))

    def _batch_codes(self, modality: str) -> np.ndarray:
        """Batch of each of a modality's cells."""
        cells = modality_cells(self.adata, modality)
        if self.setup_args["batch_key"] is None:
            return np.zeros(len(cells), dtype=np.int64)
        return self.adata_manager.get_from_registry(BATCH)[cells]

    @property
    def n_categories(self) -> list[int]:
        """Number of categories of each categorical covariate but the batch."""
        keys = self.setup_args["categorical_covariate_keys"]
        return [len(self._categories(f"categorical_{key}")) for key in keys]

    @property
    def n_continuous(self) -> int:
        """Number of continuous covariates."""
        return len(self.setup_args["continuous_covariate_keys"])

    @property
    def _matrix_stats(self) -> dict[str, MatrixStats]:
        """What one pass over each modality's values found when they were registered."""
        return {name: MatrixStats(**self._state(name)["stats"]) for name in self.modalities}

    def _check_counts(self, modality: str, likelihood: str, **kwargs: Any) -> None:
        """Refuse registered values that the named likelihood of counts cannot model."""
        if self.adata[modality].n_obs:
            with warnings.catch_warnings():
                if self.is_query:  # it was said of the reference
                    warnings.filterwarnings("ignore", message=".* have no count in any cell")
                check_counts(modality, self._matrix_stats[modality], likelihood, **kwargs)

    def registered_values(self, modality: str) -> Any:
        """Registered values of a modality, as they are stored; images are read when indexed."""
        if modality in self.setup_args["images"]:
            return self.adata_manager.get_from_registry(modality)
        values = matrix_of(self.adata, modality, self.setup_args["layers"][modality])
        return without_nan(values) if self._state(modality)["has_nan"] else values

    # Training -----------------------------------------------------------------------------------

    @with_threads_for_steps
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
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        ckpt_path: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            Epochs; 400 by default, fewer for more than 20,000 cells.
        batch_size
            Cells per minibatch.
        train_size, validation_size
            Fractions of the cells of each pairing pattern; 0.9 and the rest by default.
        early_stopping
            Stop when the loss of held-out cells no longer falls, and restore the best epoch.
            Without it the last epoch is kept.
        datasplitter_kwargs
            Further arguments of :class:`~cantata.data.MosaicSplitter`.
        plan_kwargs
            Arguments of the training plan.
        ckpt_path
            Checkpoint from the end of an epoch, by lightning's ``ModelCheckpoint``. A model of the
            same data, arguments and seed then ends where uninterrupted training would have ended.
            The history begins after the checkpoint.
        accelerator, devices, **kwargs
            Passed to :class:`~scvi.train.Trainer`, e.g. ``enable_progress_bar``, ``precision``.
        """
        self._check_training_data()
        batch_size = check_integer("batch_size", batch_size, 1)
        if max_epochs is None:
            max_epochs = self._planned_epochs(self.adata.n_obs, batch_size)
        max_epochs = check_integer("max_epochs", max_epochs, 1)
        splitter = self._data_splitter_cls(
            self.adata_manager,
            train_size,
            validation_size,
            batch_size=batch_size,
            **{"load_sparse_tensor": self._takes_sparse} | dict(datasplitter_kwargs or {}),
        )
        self._train_cells = np.asarray(splitter.external_indexing[0])
        cells = self.adata.obs_names[self._train_cells]
        kwargs = self._resumable(ckpt_path, cells, max_epochs, kwargs)
        self._ensure_inputs()
        self._fit(
            self._training_plan_cls(self.module, **(plan_kwargs or {})),
            splitter,
            max_epochs,
            monitor=self._monitor if early_stopping else None,
            accelerator=accelerator,
            devices=devices,
            **kwargs,
        )

    def _resumable(
        self,
        ckpt_path: str | Path | None,
        cells: Sequence[str],
        n_epochs: int,
        options: Mapping[str, Any],
        planned_by: str = "max_epochs",
    ) -> dict[str, Any]:
        """Arguments of the trainer with which checkpoints say what they are of.

        With `ckpt_path` they also continue it. It is checked first: a ``ValueError`` if it is not
        of this model and these training cells, or beyond `n_epochs`.
        """
        method, options = type(self).__name__, dict(options)
        record = TrainingRecord(method, digest(cells))
        options["callbacks"] = [*options.get("callbacks", []), record]
        if ckpt_path is not None:
            checkpoint = TrainingCheckpoint.read(ckpt_path, method)
            checkpoint.check_weights(self.module)
            checkpoint.check_cells(cells)
            checkpoint.check_epochs(n_epochs, planned_by)
            options |= checkpoint.options(options)
        return options

    def _planned_epochs(self, n_cells: int, batch_size: int) -> int:
        """Epochs of :meth:`train` by default."""
        return int(np.clip(round(20_000 * 400 / n_cells), 1, 400))

    def _ensure_inputs(self) -> None:
        """Call :meth:`_fit_inputs` unless it was called, or weights were inherited."""
        self._set_panels()
        if not self.has_inputs_:
            self._fit_inputs()
            self._start_heads()
            self.has_inputs_ = True

    def _check_training_data(self) -> None:
        """Refuse data that are not as they were when they were set up."""
        moved = self._moved_features()
        if moved or self._new_cells():
            what = f"Features of modality {moved[0]!r}" if moved else "Cells"
            raise ValueError(
                f"{what} were added, moved or removed after the data were set up. Bring them "
                "back, or set the data up again for a new model."
            )

    def _set_panels(self) -> None:
        """Tell output layers which features each batch measured."""
        for path, part in self.module.named_modules():
            name = next((m for m in self.modalities if m in path.split(".")), None)
            if isinstance(part, LikelihoodHead) and name is not None:
                measured, counted = (
                    torch.as_tensor(self.panels_[name][key]) for key in ("measured", "counted")
                )
                part.set_measured(None if measured.all() else measured, counted)

    def _start_heads(self) -> None:
        """Tell output layers that start there how frequent features are in each batch."""
        totals: dict[str, torch.Tensor] = {}
        for path, part in self.module.named_modules():
            name = next((m for m in self.modalities if m in path.split(".")), None)
            if name is None or not (isinstance(part, LikelihoodHead) and part.starts_at_shares):
                continue
            if name not in totals:
                rows = row_table(self.adata, [name])[name][self._train_cells]
                values, codes = self.registered_values(name), self._batch_codes(name)
                found = totals_by_batch(values, rows[rows >= 0], codes, self.n_batch)
                totals[name] = torch.as_tensor(found, dtype=torch.float32)
            cast("PoissonHead", part).set_shares(totals[name].to(self.module.device))

    def _report_panels(self, first_batch: int) -> None:
        """Warn of features that batches did not measure."""
        for name, panel in self.panels_.items():
            batches, names = range(first_batch, self.n_batch), self.batch_categories
            report_panel(name, panel, self.feature_names(name), batches, names)

    def _fit_inputs(self) -> None:
        """Compute from the data what the module needs before its first step."""

    def _fit(
        self,
        plan: LightningModule,
        splitter: LightningDataModule,
        max_epochs: int,
        *,
        validates: bool | None = None,
        monitor: str | None = None,
        patience: int | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Run the trainer; the only place that does.

        Held-out cells are validated on where the splitter has some, unless `validates` is given.
        Training stops when `monitor` has not improved for `patience` epochs (a third of the
        planned ones, and at least 5, by default), and the best epoch is restored; without a
        `monitor` the last is kept. Trainer arguments that a user gives come before defaults.
        """
        max_epochs = check_integer("max_epochs", max_epochs, 1)
        passed_on = ["ckpt_path", *parameters_of(Trainer), *parameters_of(LightningTrainer)]
        own = parameters_of(self.train)
        check_known(f"{type(self).__name__}.train", trainer_kwargs, own, passed_on)
        trainer_kwargs.setdefault("log_every_n_steps", 1)
        if "log_save_dir" not in trainer_kwargs:
            trainer_kwargs.setdefault("logger", _compat.simple_logger())
        if validates is None:
            validates = getattr(splitter, "n_val", 0) > 0
        if validates:
            trainer_kwargs.setdefault("check_val_every_n_epoch", 1)
        else:
            trainer_kwargs.setdefault("checkpointing_monitor", "train_loss")
            trainer_kwargs["limit_val_batches"] = 0
        stops = monitor is not None and validates
        if stops:
            trainer_kwargs.setdefault("early_stopping_monitor", monitor)
            patience = patience or max(5, max_epochs // 3)
            trainer_kwargs.setdefault("early_stopping_patience", patience)
            best = BestWeights(trainer_kwargs["early_stopping_monitor"])
            trainer_kwargs["callbacks"] = [*trainer_kwargs.get("callbacks", []), best]
        with _compat.quiet_lightning(), warnings.catch_warnings():
            runner = self._train_runner_cls(
                self,
                training_plan=plan,
                data_splitter=splitter,
                max_epochs=max_epochs,
                early_stopping=stops,
                **trainer_kwargs,
            )
            _warn_of_precision(runner.trainer)
            # lightning trains in whatever mode the module is in; inference left it in evaluation
            self.module.train(not self.is_frozen_)
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
            # minibatches start with the cells, whose number is what is inferred
            warnings.filterwarnings("ignore", message="Trying to infer the `batch_size`")
            warnings.filterwarnings("ignore", message=".*LeafSpec")
            runner()
        if validates and self.validation_indices is not None:
            # by name, and none that any training before has seen
            held_out = self.adata.obs_names[self.validation_indices].to_numpy().astype(str)
            before = self.held_out_cells_
            self.held_out_cells_ = (
                held_out if before is None else held_out[np.isin(held_out, before)]
            )

    def _step_work(self, n_cells: int) -> int:
        """Multiplications of a minibatch, by which threads are chosen."""
        weights = (
            weight
            for key, weight in self.module.named_parameters()
            if key.split(".")[0] not in self._parts_of_cells
        )
        return step_work(weights, n_cells, max(self.image_sides.values(), default=1))

    # Running on data ----------------------------------------------------------------------------

    def _cells(self, mdata: MuData | None) -> Cells:
        """Cells of the model's own data, or of new data, which is lined up and never modified.

        The model's own data are as new where features moved or cells came since set-up.
        """
        if mdata is None or mdata is self.adata:
            mdata = self.adata
            if not self._moved_features() and not self._new_cells():
                return Cells(self.adata_manager, mdata, np.arange(mdata.n_obs))
        aligned = self._align(mdata)
        manager = self.adata_manager.transfer_fields(
            aligned, extend_categories=True, allow_absent=True
        )
        positions = aligned.obs_names.get_indexer(mdata.obs_names)
        absent = np.flatnonzero(positions < 0)
        if absent.size:
            raise ValueError(
                f"{absent.size} cells of the query have none of the modalities "
                f"{self.modalities}, e.g. {mdata.obs_names[absent[0]]!r}. Leave them out."
            )
        return Cells(manager, mdata, positions)

    def _moved_features(self) -> list[str]:
        """Modalities of the model's own data whose features are not those of the set-up.

        A ``ValueError`` where there are no data, or where rows moved without ``mdata.update()``.
        """
        if not self.adata.n_obs:
            raise ValueError(
                f"The model was loaded without data. Pass a MuData, or load it with one: "
                f"{type(self).__name__}.load(folder, mdata)."
            )
        check_modalities(self.adata, self.modalities, allow_empty=True)
        check_matrix_keys(self.adata, self.setup_args)
        return [
            name
            for name in self.modalities
            if not np.array_equal(
                feature_names_of(self.adata[name], name, self.setup_args["images"]),
                self.feature_names(name),
            )
        ]

    def _new_cells(self) -> bool:
        """Whether the model's own data have cells which they had not at set-up.

        A ``ValueError`` where values of other cells changed.
        """
        has_new = False
        for key, now in fingerprints(self.adata, self.setup_args).items():
            before = self.adata_manager.fingerprints[key].reindex(now.index).to_numpy()
            known = ~np.isnan(before) if len(now) else np.array([], dtype=bool)
            has_new = has_new or not known.all()
            tolerance = MAX_CHANGE * np.abs(before[known]).max(initial=0)
            changed = ~np.isclose(now[known], before[known], rtol=MAX_CHANGE, atol=tolerance)
            if changed.any():
                raise ValueError(
                    f"Values of {key} changed after set-up in {changed.sum()} of {len(now)} "
                    f"cells, e.g. {now.index[known][changed][0]!r}, so that the model would read "
                    "other values than it was trained on. Put them back, or register a layer that "
                    "stays as it is: setup_mudata(mdata, layers=...)."
                )
        return has_new

    def _align(self, mdata: MuData) -> MuData:
        """New data in the shape of the reference, sharing memory with it."""
        check_mudata(mdata)
        shared = [name for name in self.modalities if name in mdata.mod]
        unknown = [name for name in mdata.mod if name not in self.modalities]
        if unknown and len(shared) < len(self.modalities):
            lacking = next(name for name in self.modalities if name not in shared)
            warnings.warn(
                f"The model does not know {unknown[0]!r} of the query, and it lacks {lacking!r}: "
                "if these are the same, rename it: mudata.MuData({"
                f"{lacking!r}: query[{unknown[0]!r}], ...}}).",
                UserWarning,
                stacklevel=4,
            )
        if shared:
            check_modalities(mdata, shared, allow_empty=True, allow_view=True)
        aligned = align_query(mdata, *self._shape)
        check_matrix_keys(aligned, self.setup_args | {"layers": {}})
        return aligned

    @property
    def _shape(self) -> tuple[Any, Any, Any, Any]:
        """Features, layers, representations and images, as :func:`align_query` takes them."""
        widths = {
            name: (key, len(self._state(rep_key(name))["column_names"]))
            for name, key in self.setup_args["reps"].items()
        }
        names = {name: self.feature_names(name) for name in self.modalities}
        images = {m: (key, self.image_sides[m]) for m, key in self.setup_args["images"].items()}
        return names, self.setup_args["layers"], widths, images

    def _minibatches(
        self,
        cells: Cells,
        chosen: np.ndarray,
        batch_size: int | None,
        modality: str | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Minibatches, on the model's device, of cells chosen by position in ``cells.mdata``.

        With a `modality` they hold rows of no other.
        """
        self._check_if_trained(warn=True)
        self.module.eval()
        positions = cells.positions[chosen]
        batch_size = settings.batch_size if batch_size is None else batch_size
        batch_size = check_integer("batch_size", batch_size, 1)
        device = self.module.device  # found anew from all parameters at each call
        keep_sparse = self._takes_sparse and keeps_sparse(device)
        minibatches = MosaicDataset(cells.manager, keep_sparse=keep_sparse)
        if modality is not None:
            minibatches.leave_out([name for name in self.modalities if name != modality])
        # without cells one minibatch of none, which tells the width of results
        for start in range(0, max(1, len(positions)), batch_size):
            minibatch = minibatches[positions[start : start + batch_size]]
            yield {key: value.to(device) for key, value in minibatch.items()}

    # Embeddings ---------------------------------------------------------------------------------

    @abstractmethod
    def _embed(self, tensors: Mapping[str, Tensor], modality: str | None) -> Tensor:
        """(n, q) embeddings of a minibatch's cells, or (n_m, q) of a modality's rows."""

    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        modality: str | None = None,
        indices: Indices = None,
        batch_size: int | None = None,
    ) -> Any:
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

        Returns
        -------
        float32 array (cells, latents), in the order of ``mdata.obs_names`` or of
        ``mdata[modality].obs_names``.

        Raises
        ------
        KeyError
            If `modality` is unknown or not in `mdata`.
        """
        cells = self._cells(mdata)
        chosen = self._chosen_cells(cells, modality, indices)
        return self._run(cells, chosen, batch_size, lambda t: self._embed(t, modality), modality)

    @with_threads_for_steps
    @torch.inference_mode()
    def _run(
        self,
        cells: Cells,
        chosen: np.ndarray,
        batch_size: int | None,
        function: Callable[[dict[str, Tensor]], Tensor],
        modality: str | None = None,
    ) -> np.ndarray:
        """A function of minibatches, of one modality if named, for all chosen cells."""
        parts = [function(t) for t in self._minibatches(cells, chosen, batch_size, modality)]
        return torch.cat(parts).float().cpu().numpy()

    def _chosen_cells(self, cells: Cells, modality: str | None, indices: Indices) -> np.ndarray:
        """Positions in ``cells.mdata.obs_names`` of all cells or of a modality's, at `indices`."""
        self._check_modality("modality", modality)
        if modality is None:
            return positions_of(indices, cells.mdata.obs_names)
        of_modality = cells.of_modality(modality)
        return of_modality[positions_of(indices, cells.mdata[modality].obs_names)]

    def _check_modality(self, argument: str, name: str | None) -> None:
        """Refuse a modality that the model does not know."""
        if name is not None and name not in self.modalities:
            raise KeyError(f"{argument}={name!r} is not one of {self.modalities}.")

    # Imputation ---------------------------------------------------------------------------------

    @abstractmethod
    def _decode(
        self, modality: str, z: Tensor, covariates: Covariates, library: Tensor | None
    ) -> Tensor:
        """(n, p_m) expected values from (n, q) embeddings, in registered units; images flat."""

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
        interval: float | None = None,
        batch_size: int | None = None,
        out: str | Path | None = None,
    ) -> AnnData:
        """Expected values of a modality for every cell, in registered units.

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
            Total per cell, one number or one per returned cell, for models that have a use for it.
        interval
            Share of new measurements, e.g. 0.9, that are to lie between ``layers["lower"]`` and
            ``layers["upper"]``, by the errors for held-out cells that have both `source` and
            `modality`; conformal, so it holds whatever the model, for cells as those. Bounds of
            features that too few of them measured are NaN, with a warning.
        batch_size
            Cells per minibatch.
        out
            New directory ending in ``.zarr`` to write values to as they are computed.

        Returns
        -------
        AnnData, cells x features, with ``.obs`` and ``obsm["spatial"]`` of the cells (of their
        modalities where the MuData has none). ``.X`` is float32, in the units
        that ``.uns["cantata"]["units"]`` says; with `out` it stays on disk. Of images it holds
        their means, and ``obsm["single_cell_images"]`` the (cells, stains, side, side) images.

        Raises
        ------
        KeyError
            If a modality, feature or batch is unknown.
        ValueError
            If cells lack the source, or are of an unknown batch without `transform_batch`, or
            too few held-out cells have both modalities for an `interval`.
        FileExistsError
            If `out` exists.
        """
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
        )

    @with_threads_for_steps
    @torch.inference_mode()
    def _impute(
        self,
        modality: str,
        mdata: MuData | None,
        *,
        source: str | None,
        features: Sequence[str] | None,
        indices: Indices,
        transform_batch: Batches = None,
        library_size: str | float | np.ndarray | None = None,
        library_names: tuple[str, ...] = (),
        interval: float | None = None,
        batch_size: int | None,
        out: str | Path | None,
        **options: Any,
    ) -> AnnData:
        """What :meth:`impute` of every model does; `options` go to :meth:`_expected`."""
        # 1. what is asked for, checked before anything is computed
        self._check_modality("modality", modality)
        self._check_modality("source", source)
        names = self.feature_names(modality)
        what = "images" if modality in self.image_sides else None
        if self._is_binary(modality):
            what = "probabilities"
        check_interval(interval, modality, source, what)
        columns = feature_columns(modality, names, features)
        cells = self._cells(mdata)
        chosen = self._imputed_cells(cells, source, indices)
        batches = batch_codes(transform_batch, self.batch_categories)
        if batches is None and self.setup_args["batch_key"] is not None:
            codes = cells.manager.get_from_registry(BATCH)[cells.positions[chosen]]
            check_batches_known(codes, cells.mdata.obs_names[chosen], self.batch_categories)
        sizes = check_library_size(library_size, len(chosen), library_names)
        if isinstance(sizes, str) and sizes == "observed":
            has = modality in cells.mdata.mod
            lacks = chosen[~np.isin(chosen, cells.of_modality(modality))] if has else chosen
            if len(lacks):
                raise ValueError(
                    f"library_size='observed': {len(lacks)} of {len(chosen)} cells have no "
                    f"{modality!r}, e.g. {cells.mdata.obs_names[lacks[0]]!r}. Leave them out, or "
                    "pass 'auto' or 'predicted'."
                )
        units, side = self._units(modality, **options), self.image_sides.get(modality)
        # 2. how far values may be off
        intervals, about = None, None
        if interval is not None and source is not None and len(columns):
            totals = sizes if isinstance(sizes, str) else self._typical_library(modality)
            intervals, about = self._intervals(
                modality, source, columns, interval, totals, **options
            )
        # 3. minibatch by minibatch, into memory or to disk
        writer = ImputationWriter(cells.mdata, chosen, names[columns], out, units, side, about)
        for tensors in self._minibatches(cells, chosen, batch_size):
            library: Any = sizes
            if isinstance(sizes, np.ndarray):
                part = sizes[writer.start : writer.start + len(tensors[CELL])].astype(np.float32)
                library = torch.from_numpy(part).to(self.module.device)
            values, std, library = self._expected(
                tensors, modality, source, batches, library, **options
            )
            if side is not None:
                values = values.unflatten(1, (len(names), side, side))
            layers: dict[str, Any] = {} if std is None else {"std": std[:, columns]}
            if intervals is not None:
                bounds = intervals.bounds(values[:, columns].cpu().numpy())
                layers |= dict(zip(("lower", "upper"), bounds, strict=True))
            writer.add(values[:, columns], library, layers)
        return writer.finish()

    def _intervals(
        self,
        modality: str,
        source: str,
        columns: np.ndarray,
        interval: float,
        totals: str | float | None,
        **options: Any,
    ) -> tuple[ConformalIntervals, dict[str, Any]]:
        """Intervals of values inferred from `source`, and what they rest on."""
        # 1. cells whose values are known
        cells, rows, what = self._calibration_cells(modality, source)
        if len(cells) < n_needed(interval):
            raise ValueError(
                f"interval={interval} needs {n_needed(interval)} {what} with {source!r} and "
                f"{modality!r} among the model's own data; there are {len(cells)}. "
                f"{self._interval_remedy(modality, source, len(cells))}"
            )
        chosen = sample_cells(len(cells), max(MAX_CALIBRATION_ENTRIES // len(columns), 500))
        cells, rows = cells[chosen], rows[chosen]
        # 2. what is inferred for them
        of_model, predicted = self._cells(None), []
        for tensors in self._minibatches(of_model, cells, None):
            library: Any = totals
            if isinstance(totals, float):
                library = torch.full((len(tensors[CELL]),), totals, device=self.module.device)
            values = self._expected(tensors, modality, source, None, library, **options)[0]
            predicted.append(values[:, columns].cpu().double().numpy())
        # 3. and what was measured, at the same total
        measured = MatrixReader(self.registered_values(modality))(rows).astype(np.float64)
        if isinstance(totals, float):
            sums = measured.sum(axis=1, keepdims=True)
            measured *= totals / np.where(sums > 0, sums, 1)
        measured = measured[:, columns]
        in_panel = np.asarray(self.panels_[modality]["measured"])[:, columns]
        measured[~in_panel[self._batch_codes(modality)[rows]]] = np.nan
        fitted = ConformalIntervals(np.concatenate(predicted), measured, interval)
        if fitted.is_unknown.any():
            few = self.feature_names(modality)[columns][fitted.is_unknown]
            warn_user(
                f"{len(few)} of {len(columns)} features of {modality!r}, e.g. {few[0]!r}, were "
                f"measured in fewer than {n_needed(interval)} {what} with {source!r}: their "
                "bounds are NaN."
            )
        return fitted, {"coverage": interval, "n_cells": len(cells), "calibrated_on": what}

    def _calibration_cells(self, modality: str, source: str) -> tuple[np.ndarray, np.ndarray, str]:
        """Cells with `source`, the rows of `modality` to compare them with, and what they are.

        Cells are positions in the model's own data, whose values the weights have not seen.
        """
        names = self.held_out_cells_
        is_held_out = self.adata.obs_names.isin([] if names is None else names)
        cells = np.flatnonzero(is_held_out)
        table = row_table(self.adata, [modality, source])
        paired = cells[(table[modality][cells] >= 0) & (table[source][cells] >= 0)]
        return paired, table[modality][paired], "held-out cells"

    def _interval_remedy(self, modality: str, source: str, n: int) -> str:
        """What to do where `n` cells are too few for intervals."""
        if not self.adata.n_obs:
            return "Load the model with its data: load(..., adata=mdata)."
        table = row_table(self.adata, [modality, source])
        if not ((table[modality] >= 0) & (table[source] >= 0)).any():
            more = "No cell at all has both, so nothing says how far values are off."
        else:
            more = "Ask for a smaller share, or hold" if n else "Hold"
            more += " out more: train(train_size=...) of a new model."
        return f"{more} Of new cells ask the model of paired ones, impute(mdata=query)."

    def _is_binary(self, modality: str) -> bool:
        """Whether imputed values are probabilities of a binary one."""
        return False

    def _typical_library(self, modality: str) -> float | None:
        """Total that imputed values have by default, where that is one number."""
        return None

    def _units(self, modality: str, **options: Any) -> str:
        """What imputed values mean; `options` are those of :meth:`_expected`."""
        return "registered values"

    def _expected(
        self,
        tensors: dict[str, Tensor],
        modality: str,
        source: str | None,
        batches: list[int] | None,
        library: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Expected values of a minibatch of n cells, all with the source.

        `batches` are the codes of ``transform_batch``; `library` are (n,) sizes, a name, or None.
        Returned are (n, p_m) values, standard deviations or None, and (n,) sizes or None.
        """
        z = self._embed(tensors, source)
        return self._decode_batches(tensors, modality, z, batches, library), None, library

    def _decode_batches(
        self,
        tensors: dict[str, Tensor],
        modality: str,
        z: Tensor,
        batches: list[int] | None,
        library: Tensor | None,
        **options: Any,
    ) -> Tensor:
        """(n, p_m) values that :meth:`_decode` makes, averaged over the batches of each cell."""
        measured = self.measured_batches_[modality]
        weights = batch_weights(tensors, batches, measured, self.batch_categories)
        decode = partial(self._decode, modality, **options)
        panel = torch.as_tensor(self.panels_[modality]["measured"], device=z.device)
        panel = panel & torch.tensor(measured, device=z.device).unsqueeze(1)
        return mean_over_batches(decode, z, Covariates.of(tensors), library, weights, panel)

    def _imputed_cells(self, cells: Cells, source: str | None, indices: Indices) -> np.ndarray:
        all_cells = np.arange(cells.mdata.n_obs)
        with_source = all_cells if source is None else np.sort(cells.of_modality(source))
        if indices is None:
            return with_source
        chosen = positions_of(indices, cells.mdata.obs_names)
        lacking = chosen[~np.isin(chosen, with_source)]
        if len(lacking):
            raise ValueError(
                f"{len(lacking)} of the chosen cells have no {source!r}, e.g. "
                f"{cells.mdata.obs_names[lacking[0]]!r}."
            )
        return chosen

    # Differential expression --------------------------------------------------------------------

    def differential_expression(
        self,
        modality: str,
        groupby: str,
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        *,
        mdata: MuData | None = None,
        source: str | None = None,
        mode: Literal["change", "vanilla"] = "change",
        delta: float | None = 0.25,
        pseudocounts: float = 1e-5,
        batch_correction: bool = False,
        fdr_target: float = 0.05,
        n_samples: int = 5000,
        batch_size: int | None = None,
        silent: bool = False,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Features of a modality whose expected values differ between groups of cells.

        scvi-tools' own computation (:class:`scvi.model.base.DifferentialComputation`; Lopez et al.
        2018, Boyeau et al. 2023) on what the model expects of each cell: posterior samples of
        CLUE, and single values of SCMODAL and APOLLO, whose latents have no posterior, so that
        groups differ by their cells alone. Values are those of :meth:`impute`; where that takes a
        library size they are shares of a cell's total.

        Parameters
        ----------
        modality
            Modality whose features are compared.
        groupby
            Annotation of the cells, at the level of the MuData or of a modality.
        group1
            Group or groups, each compared with `group2`; by default all with at least 3 cells.
        group2
            Group to compare with; all other cells by default.
        mdata
            Data to compare; the model's own by default.
        source
            Infer from this modality alone, for cells with it, in place of from all that a cell
            has, the compared modality among it.
        mode, delta
            ``"change"``: how likely is a log2 fold change of at least `delta` (None: learned), or
            a difference of as much of values that may be negative; ``"vanilla"``: how likely is
            the larger value in the first group.
        pseudocounts
            Share, or value, that is added before fold changes.
        batch_correction
            Compare cells as if each were of every batch, in place of within their own.
        fdr_target
            Expected share of false discoveries in column ``is_de_fdr_<fdr_target>``.
        n_samples
            Samples of each group, fewer of more than 4,000 features.
        batch_size, silent
            Cells per minibatch; show no progress.
        **kwargs
            Further arguments of
            :meth:`~scvi.model.base.DifferentialComputation.get_bayes_factors`.

        Returns
        -------
        A row per feature and comparison, the largest probability first: the columns of
        scvi-tools (``proba_de``, ``bayes_factor``, ``lfc_mean``, ``scale1``, ...), and ``group1``,
        ``group2``, ``measured1`` and ``measured2``, the shares of either group's cells in which
        values of the modality were measured and told the model; none are with another `source`.

        Warns
        -----
        Where they are 0 for a group: such values are the model's alone, and so may be the
        difference.

        Raises
        ------
        KeyError
            If the modality, the annotation or a group does not exist.
        ValueError
            If the modality holds images, a group has fewer than 3 cells, the annotation groups
            none or contradicts itself, cells are of an unknown batch without `batch_correction`,
            or a number or the mode is impossible.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata)
        >>> model = cantata.CLUE(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> table = model.differential_expression("adt", "cell_type", n_samples=100, silent=True)
        >>> len(table) == mdata["adt"].n_vars * mdata["rna"].obs["cell_type"].nunique()
        True
        """
        # 1. what is compared
        self._check_modality("modality", modality)
        self._check_modality("source", source)
        if modality in self.image_sides:
            raise ValueError(f"Modality {modality!r} holds images; compare pp.image_features.")
        n_samples = check_integer("n_samples", n_samples, 2)
        check_comparison(mode, delta, pseudocounts, fdr_target)
        cells = self._cells(mdata)
        column = category_names(coalesce_obs(cells.mdata, groupby, argument="groupby"))
        check_groups(column, "groupby", groupby)
        chosen = self._imputed_cells(cells, source, None)
        groups = compared_groups(column.iloc[chosen], group1, group2, groupby)
        is_measured = np.zeros(cells.mdata.n_obs, dtype=bool)
        if modality in cells.mdata.mod:
            is_measured[cells.of_modality(modality)] = source in (None, modality)
        is_measured = is_measured[chosen]
        # 2. samples of expected values
        p = len(self.feature_names(modality))
        n_samples = max(min(n_samples, 20_000_000 // p), 2)
        is_negative = self._matrix_stats[modality].n_negative > 0
        drawn = self._sampling(modality)

        def sample(positions: np.ndarray, batch: str | None) -> np.ndarray:
            unique, inverse = positions, np.arange(len(positions))
            if not drawn.get("n_samples"):  # a cell has one value
                unique, inverse = np.unique(positions, return_inverse=True)
            batches = batch_codes(batch, self.batch_categories)
            values = self._values_at(
                modality, cells, chosen[unique], source, batches, batch_size, **drawn
            )
            return (values if is_negative else np.maximum(values, 0))[inverse]

        def difference(x: np.ndarray, y: np.ndarray, _: float) -> np.ndarray:
            return x - y

        table = differences(
            cells.mdata.obs.iloc[chosen],
            groups,
            sample,
            self.feature_names(modality),
            self.batch_categories if batch_correction and self.n_batch > 1 else None,
            n_samples=n_samples,
            fdr_target=fdr_target,
            silent=silent,
            mode=mode,
            delta=delta,
            pseudocounts=pseudocounts,
            **{"change_fn": difference if is_negative else None, **kwargs},
        )
        # 3. what was measured of either group
        shares = {
            name: [is_measured[rows].mean() for rows in of_both]
            for name, of_both in groups.items()
        }
        table["group2"] = "Rest" if group2 is None else group2
        for k in (0, 1):
            table[f"measured{k + 1}"] = table["group1"].map({n: s[k] for n, s in shares.items()})
        alone = [name for name, share in shares.items() if not min(share)]
        if alone:
            why = (
                f"measured in no cell of a group that is compared, e.g. {alone[0]!r} or what it "
                "is compared with"
                if source in (None, modality)
                else f"all inferred from source={source!r}"
            )
            warn_user(
                f"Values of {modality!r} were {why}: they are the model's alone, and so may be "
                "the difference."
            )
        return table

    @with_threads_for_steps
    @torch.inference_mode()
    def _values_at(
        self,
        modality: str,
        cells: Cells,
        chosen: np.ndarray,
        source: str | None,
        batches: list[int] | None,
        batch_size: int | None,
        **options: Any,
    ) -> np.ndarray:
        """(n, p) expected values of cells, any of them several times, as shares of totals."""
        values = []
        with kept_random_state():
            torch.manual_seed(settings.seed or 0)
            for tensors in self._minibatches(cells, chosen, batch_size):
                total = None
                if self._has_totals(modality):
                    total = torch.ones(len(tensors[CELL]), device=self.module.device)
                expected = self._expected(tensors, modality, source, batches, total, **options)[0]
                values.append(expected.cpu().double().numpy())
        return np.concatenate(values)

    def _has_totals(self, modality: str) -> bool:
        """Whether imputed values take a library size."""
        return self._typical_library(modality) is not None

    def _sampling(self, modality: str) -> dict[str, Any]:
        """Options of :meth:`_expected` for one sample of each cell."""
        return {}

    def differential_abundance(
        self,
        mdata: MuData | None = None,
        *,
        sample_key: str,
        groupby: str | None = None,
        n_neighbors: int = 50,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Where in the embedding samples, or conditions, have more or fewer cells than others.

        In the form of scvi-tools, a log density of each sample around every cell, and differences
        between groups of samples (Boyeau et al. 2025, MrVI). Densities are those of each sample
        among a cell's nearest other cells. scvi-tools' own, the mixture of the posteriors of a
        sample's cells, says of most cells that they are like themselves: posteriors are narrower
        than the space between cells, and SCMODAL and APOLLO have none.

        Parameters
        ----------
        mdata
            Cells to compare; the model's own by default.
        sample_key
            Annotation of the samples, at the level of the MuData or of a modality. Cells without
            one are scored, but are nobody's neighbours.
        groupby
            Annotation of conditions, one for each sample.
        n_neighbors
            Neighbours of a cell. More are less noisy, and blur what is rarer.
        batch_size
            Cells per minibatch.

        Returns
        -------
        DataFrame of the cells in the order of ``mdata.obs_names``: a column for each sample, the
        natural logarithm of its density over that of all cells. With `groupby` a column
        ``DA_<condition>`` for each condition: log of the mean density of its samples, less that of
        all other samples with a condition. At .7 such cells are twice as frequent in it.

        Raises
        ------
        KeyError
            If an annotation does not exist.
        ValueError
            If there are fewer than two samples or conditions, a sample has fewer than 3 cells, or
            cells of two conditions.

        Notes
        -----
        Whatever separates samples in the embedding looks like abundance: a batch that was not
        registered, or a modality that one sample lacks. Neighbourhoods overlap and cells of one
        donor are not independent: to test a difference compare samples, not cells.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata, batch_key="batch")
        >>> model = cantata.CLUE(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> model.differential_abundance(sample_key="batch").shape
        (200, 2)
        """
        k = check_integer("n_neighbors", n_neighbors, 1)
        cells = self._cells(mdata)
        column = category_names(coalesce_obs(cells.mdata, sample_key, argument="sample_key"))
        check_groups(column, "sample_key", sample_key)
        samples = checked_samples(column, sample_key)
        conditions = None
        if groupby is not None:
            column = category_names(coalesce_obs(cells.mdata, groupby, argument="groupby"))
            conditions = conditions_of(samples, column, groupby)
        z = self.get_latent_representation(mdata, batch_size=batch_size).astype(np.float64)
        densities = log_densities(z, samples.codes, k, seed=settings.seed or 0)
        table = pd.DataFrame(densities, cells.mdata.obs_names, samples.categories.to_list())
        return table if conditions is None else abundance_contrasts(table, conditions)

    # Results ------------------------------------------------------------------------------------

    def write_results(
        self, mdata: MuData | None = None, *, denoised: bool = False, imputed: Sequence[str] = ()
    ) -> None:
        """Write embeddings, reconstructions and imputations into a MuData.

        Everything is computed before anything is written.

        Parameters
        ----------
        mdata
            MuData to run on and to write to; the model's own by default.
        denoised
            Also write reconstructions of the observed cells to ``mdata[m].layers``, dense; those
            of images to ``mdata[m].obsm``.
        imputed
            Modalities to write, for every cell, to ``mdata.obsm``, dense.

        Raises
        ------
        KeyError
            If `imputed` names an unknown modality.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata)
        >>> model = cantata.CLUE(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> model.write_results()
        >>> mdata.obsm["X_clue"].shape
        (200, 40)
        """
        target = self.adata if mdata is None else mdata
        imputed = as_list("imputed", imputed)
        check_mapping("imputed", dict.fromkeys(imputed), self.modalities)
        present = [name for name in self.modalities if name in target.mod]
        # 1. everything is computed
        joint = self.get_latent_representation(mdata)
        of_modalities = self._embeddings_to_write(mdata, present)
        layers = {name: self._reconstruct(name, mdata) for name in present if denoised}
        imputations = {name: self.impute(name, mdata) for name in imputed}
        # 2. and then written
        target.obsm[_keys.embedding(self.method)] = joint
        for (name, key), embedding in of_modalities.items():
            target[name].obsm[key] = embedding
        for name, layer in layers.items():
            place = target[name].obsm if name in self.image_sides else target[name].layers
            place[_keys.denoised(self.method)] = layer
        for name, adata in imputations.items():
            target.obsm[_keys.imputed(self.method, name)] = values_of(adata)
        record = dict(target.uns.get(_keys.UNS, {}))
        record[self.method] = dict(record.get(self.method, {})) | {
            "version": version("cantata"),
            "seed": -1 if settings.seed is None else int(settings.seed),
            "parameters": _plain(self._init_arguments),
            "imputed_features": {
                m: adata.var_names.to_numpy().astype(str) for m, adata in imputations.items()
            },
        }
        target.uns[_keys.UNS] = record

    def _embeddings_to_write(
        self, mdata: MuData | None, modalities: list[str]
    ) -> dict[tuple[str, str], np.ndarray]:
        """By modality and key of its ``.obsm``, the embeddings of its cells by it alone."""
        key = _keys.embedding(self.method)
        return {(m, key): self.get_latent_representation(mdata, modality=m) for m in modalities}

    def _reconstruct(self, modality: str, mdata: MuData | None) -> np.ndarray:
        """Reconstruction of a modality's own cells, in its order."""
        cells = self._cells(mdata).of_modality(modality)
        return values_of(self.impute(modality, mdata, indices=cells))

    def summary(self) -> str:
        """One line on the model: modalities, features, parameters, whether it is trained.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata)
        >>> cantata.CLUE(mdata).summary().split(";")[0]
        'CLUE of 200 cells'
        """
        features = ", ".join(f"{name} {n}" for name, n in self.n_features.items())
        n_parameters = sum(p.numel() for p in self.module.parameters())
        state = "trained" if self.is_trained_ else "not trained"
        return (
            f"{type(self).__name__} of {self.adata.n_obs} cells; features: {features}; "
            f"{n_parameters:,} parameters; {state}"
        )

    # Queries ------------------------------------------------------------------------------------

    @classmethod
    def prepare_query_mudata(
        cls, query_mdata: MuData, reference_model: Self | str | Path
    ) -> MuData:
        """A MuData with the modalities and features of a reference model.

        Features are matched by name and re-ordered; absent ones are 0 where they are at most a
        fifth of a modality. A modality that the query lacks is present without cells.

        Parameters
        ----------
        query_mdata
            New data with any subset of the modalities; it is not modified.
        reference_model
            Trained model, or the directory that one was saved to, with or without its data.

        Returns
        -------
        New MuData that shares memory with the query.

        Raises
        ------
        KeyError
            If the query has none of the modalities, or lacks a layer, a representation, the batch
            or a covariate.
        ValueError
            If more than a fifth of the features of a modality are absent, or names repeat.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata)
        >>> model = cantata.CLUE(mdata)
        >>> query = cantata.datasets.simulate_mosaic(n_cells=100)
        >>> del query.mod["adt"]
        >>> cantata.CLUE.prepare_query_mudata(query, model)["adt"].n_obs
        0
        """
        model = cls._loaded(reference_model)
        aligned = model._align(query_mdata)
        for argument, key in model._covariate_columns:
            present = [name for name in model.modalities if name in query_mdata.mod]
            column = coalesce_obs(query_mdata, key, present, argument=argument)
            aligned.obs[key] = column.reindex(aligned.obs_names).to_numpy()
        return aligned

    @classmethod
    def load_query_data(
        cls, query_mdata: MuData, reference_model: Self | str | Path, *, freeze: bool = True
    ) -> Self:
        """A model of new data that starts from a reference model.

        New batches start at the mean of the reference's batches in which a modality was measured,
        so that the model can be used without training.

        Parameters
        ----------
        query_mdata, reference_model
            As for :meth:`prepare_query_mudata`.
        freeze
            Let training change what belongs to batches and covariates alone; embeddings of known
            batches then stay those of the reference.

        Returns
        -------
        Model of the prepared query, ``model.adata``.

        Raises
        ------
        KeyError, ValueError
            As :meth:`prepare_query_mudata`; also if values are of another kind than those of the
            reference, such as logarithms in place of counts.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata, batch_key="batch")
        >>> model = cantata.CLUE(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> query = cantata.datasets.simulate_mosaic(n_cells=100, seed=1)
        >>> query.obs["batch"] = "new"
        >>> for name in query.mod:
        ...     query[name].obs["batch"] = "new"
        >>> cantata.CLUE.load_query_data(query, model).batch_categories[-1]
        'new'
        """
        reference = cls._loaded(reference_model)
        model = reference._extended_to(cls.prepare_query_mudata(query_mdata, reference))
        if freeze:
            model._freeze()
        model.is_trained_ = reference.is_trained_
        model.history_ = {key: table.copy() for key, table in (reference.history or {}).items()}
        return model

    @classmethod
    def _loaded(cls, reference_model: Self | str | Path) -> Self:
        if isinstance(reference_model, str | Path):
            return cls.load(reference_model, False)
        return reference_model

    @property
    def _init_arguments(self) -> dict[str, Any]:
        """Arguments that the model was made with, but for the data."""
        named, further = self.init_params_["non_kwargs"], self.init_params_["kwargs"]
        return {k: v for arguments in (named, *further.values()) for k, v in arguments.items()}

    @property
    def _covariate_columns(self) -> list[tuple[str, str]]:
        """Columns of the batch and of all covariates, each after the argument that named it."""
        return covariate_columns(self.setup_args)

    def _extended_to(self, mdata: MuData) -> Self:
        """Copy of the model on other data, with its weights and room for new categories."""
        cls = type(self)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have no count in any cell.*")
            cls._setup_like(mdata, self.registry_, extend_categories=True)
            model = cls(mdata, **self._init_arguments)
        weights, new_weights = self.module.state_dict(), model.module.state_dict()
        for key, new in new_weights.items():
            if key.split(".")[0] not in self._parts_of_cells:
                learned = self._batches_learned(key)
                new_weights[key] = with_new_categories(weights[key], new, learned)
        model.module.load_state_dict(new_weights)
        model.has_inputs_ = self.has_inputs_
        model._inherit_from(self)
        model._set_panels()
        model.to_device(self.device)
        return model

    @classmethod
    def _setup_like(cls, mdata: MuData, registry: Mapping[str, Any], **kwargs: Any) -> None:
        """Set data up as those that a model was trained on."""
        setup_args = registry[_compat.SETUP_ARGS]
        cls.setup_mudata(mdata, source_registry=registry, **setup_args, **kwargs)

    def _batches_learned(self, key: str) -> np.ndarray | None:
        """For weights with a row per batch, in which batches their modality was measured.

        Of output layers, batches x features.

        None where weights of that name have no such rows, or are of no modality.
        """
        path, _, name = key.rpartition(".")
        modality = next((m for m in self.modalities if m in path.split(".")), None)
        if modality is None or not self.batch_categories:
            return None
        owners = [self.module.get_submodule(p) for p in _ancestors(path)]
        in_head = any(isinstance(part, LikelihoodHead) for part in owners)
        # heads have a row per batch of their own, and no batch among their further covariates
        if in_head and not isinstance(owners[-1], LikelihoodHead):
            return None
        if not in_head and not (path.endswith("categorical") and name == "0"):
            return None
        measured = np.asarray(self.measured_batches_[modality])
        if in_head:
            measured = measured[:, None] & np.asarray(self.panels_[modality]["measured"])
        return measured

    def _inherit_from(self, reference: Self) -> None:
        """Remember in which batches a reference model saw a modality, and which features."""
        for name, measured in self.measured_batches_.items():
            for batch, before in enumerate(reference.measured_batches_[name]):
                measured[batch] = measured[batch] or before
            known, own = reference.panels_[name], self.panels_[name]
            n_known, panel = reference.n_batch, self._panel(name, known["rate"])
            panel["measured"][:n_known] = known["measured"] | own["found"][:n_known]
            self.panels_[name] = panel | {"counted": known["counted"]}
        self._report_panels(reference.n_batch)

    def _freeze(self) -> None:
        """Let training change what belongs to batches and covariates alone."""
        self.is_frozen_ = True
        self.module.requires_grad_(False)
        for part in self.module.modules():
            if isinstance(part, CovariateEffects):
                part.requires_grad_(True)
            elif isinstance(part, LikelihoodHead):
                part.freeze()
        for name in self._open_when_frozen:
            self.module.get_submodule(name).requires_grad_(True)

    # Saving -------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: MuData | Literal[False] | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        backup_url: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a model that was saved with ``model.save(dir_path)``.

        Parameters
        ----------
        dir_path
            Directory.
        adata
            MuData to attach, the model's own or another. Where its features differ from the
            model's, they are matched by name as for :meth:`prepare_query_mudata`, and
            ``model.adata`` is the result. ``model.validation_indices`` are the cells of it that
            were held out, by name. By default what was saved with the model; without it, or
            with False, the model has no data, and every method needs some.
        accelerator, device, prefix, backup_url
            As for :meth:`scvi.model.base.BaseModelClass.load`.
        **kwargs
            Not supported.

        Raises
        ------
        TypeError
            If `adata` is no MuData.
        KeyError, ValueError
            If there is no such model, or as :meth:`load_query_data`.

        Examples
        --------
        >>> import cantata, tempfile
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata)
        >>> model = cantata.CLUE(mdata)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(folder, overwrite=True)
        ...     loaded = cantata.CLUE.load(folder)
        >>> loaded.get_latent_representation(mdata).shape
        (200, 40)
        """
        if any(value is not None for value in kwargs.values()):
            raise TypeError(f"{cls.__name__}.load does not support {sorted(kwargs)}.")
        if backup_url is None and not Path(dir_path, f"{prefix or ''}model.pt").exists():
            raise ValueError(f"There is no saved model in {str(dir_path)!r}.")
        attributes, weights, saved, torch_device = _compat.saved_files(
            str(dir_path),
            accelerator=accelerator,
            device=device,
            with_data=adata is None,
            prefix=prefix,
            backup_url=backup_url,
        )
        mdata = saved if adata is None or adata is False else adata
        model = cls._from_saved(attributes, weights, mdata)
        model.to_device(torch_device)
        return model

    @classmethod
    def _from_saved(
        cls, attributes: dict[str, Any], weights: dict[str, Tensor], mdata: MuData | None
    ) -> Self:
        """Model with saved attributes and weights on data, or on none."""
        if mdata is not None:
            check_mudata(mdata)
        registry = attributes["registry_"]
        name, setup_args = registry[_compat.MODEL_NAME], registry[_compat.SETUP_ARGS]
        if name != cls.__name__:
            raise ValueError(f"This is a saved {name}; load it with {name}.load.")
        # 1. a model without data, which knows the features
        fields = registry[_compat.FIELD_REGISTRIES]
        states = {key: field[_compat.STATE_REGISTRY] for key, field in fields.items()}
        features = {m: np.asarray(states[m]["column_names"]) for m in setup_args["modalities"]}
        widths = {
            m: (key, len(states[rep_key(m)]["column_names"]))
            for m, key in setup_args["reps"].items()
        }
        keys = setup_args["images"]
        is_whole = mdata is not None and all(
            m in mdata.mod and np.array_equal(feature_names_of(mdata[m], m, keys), names)
            for m, names in features.items()
        )
        if not is_whole:
            columns = [key for _, key in covariate_columns(setup_args)]
            images = {m: (key, states[m]["side"]) for m, key in keys.items()}
            empty = without_cells(features, setup_args["layers"], widths, columns, images)
            model = cls._restored(attributes, weights, empty)
            if mdata is None:
                return model
            # 2. lines data up that have other features, or in another order
            mdata = model.prepare_query_mudata(mdata, model)
            logger.info(
                "The features of the MuData are not those of the model in their order; "
                "model.adata is a MuData with the model's. Results are written to yours with "
                "write_results(mdata)."
            )
        return cls._restored(attributes, weights, mdata)

    @classmethod
    def _restored(
        cls, attributes: Mapping[str, Any], weights: dict[str, Tensor], mdata: MuData | None
    ) -> Self:
        """The same for data with the features of the model."""
        registry = attributes["registry_"]
        cls._setup_like(mdata, registry)
        arguments = attributes["init_params_"]
        given = {k: v for part in arguments["kwargs"].values() for k, v in part.items()}
        model = cls(mdata, **arguments["non_kwargs"], **given)
        for name, value in attributes.items():
            if name not in ("registry_", "init_params_"):
                setattr(model, name, value)
        model.module.on_load(model)
        model.module.load_state_dict(weights)
        model._set_panels()
        model.module.eval()
        if model.is_frozen_:
            model._freeze()
        model._find_held_out()
        return model

    def _find_held_out(self) -> None:
        """Positions of held-out cells in the model's data, which need not be those it had.

        Those of training cells are known for the very same cells alone.
        """
        if self.held_out_cells_ is None or self.validation_indices is None:
            return
        names, cells = self.adata.obs_names, np.asarray(self.validation_indices)
        is_there = cells.max(initial=-1) < len(names)
        if is_there and np.isin(self.held_out_cells_, names[cells]).all():
            return
        self.validation_indices_ = np.flatnonzero(names.isin(self.held_out_cells_))
        self.train_indices_ = self.test_indices_ = None

    def _get_user_attributes(self) -> list[tuple[str, Any]]:
        """Attributes to save; names in the history as any pandas reads them."""
        attributes = dict(super()._get_user_attributes())
        if attributes.get("history_"):
            attributes["history_"] = {
                key: table.set_axis(table.columns.astype(object), axis=1)
                for key, table in attributes["history_"].items()
            }
        return list(attributes.items())

    def get_var_names(self, legacy_mudata_format: bool = False) -> dict[str, np.ndarray]:
        """Names of the features of every modality."""
        return {name: self.feature_names(name) for name in self.modalities}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy a model as it is saved, with its data and without its trainer."""
        attributes = {k: v for k, v in self._get_user_attributes() if k.endswith("_")}
        weights, parts = self.module.state_dict(), parts_of_mudata(self.adata)
        return _unpickled, (type(self), attributes, weights, parts)

    @property
    def summary_string(self) -> str:
        """What is printed of a model."""
        return self.summary()

    def __repr__(self) -> str:
        return self.summary()


def _warn_of_precision(trainer: LightningTrainer) -> None:
    """Say where half precision makes training slower."""
    precision, device = str(trainer.precision), trainer.strategy.root_device.type
    if "16" in precision and device == "cpu" and not _compat.computes_in_bf16():
        warnings.warn(
            f"precision={precision!r} is several times slower here than single precision: this "
            "processor has no arithmetic of bfloat16 (AVX512_BF16 or AMX), so that all values are "
            "converted there and back. Leave precision out, or train on a GPU.",
            UserWarning,
            stacklevel=4,
        )


def _ancestors(path: str) -> list[str]:
    """Paths of a part of a module and of those that it is in, outermost first."""
    names = path.split(".")
    return [".".join(names[: depth + 1]) for depth in range(len(names))]


def _unpickled(
    cls: type[MosaicModelClass],
    attributes: dict[str, Any],
    weights: dict[str, Tensor],
    parts: dict[str, Any],
) -> MosaicModelClass:
    return cls._restored(attributes, weights, mudata_of_parts(**parts))


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as values that h5mu files hold."""
    plain: dict[str, Any] = {}
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            value = _plain(value)
        plain[key] = list(value) if isinstance(value, tuple) else value
    return plain


def _check_module_names(modalities: Sequence[str]) -> None:
    """Refuse names of modalities that no part of a network can have."""
    for name in modalities:
        if not name or "." in name or "/" in name or name in MODULE_NAMES:
            other = name.replace(".", "_").replace("/", "_").strip("_") + "_1"
            raise ValueError(
                f"Modality {name!r} has a name that parts of a network, or groups of a file, "
                f"cannot have. Rename it: mdata = mudata.MuData({{{other!r}: "
                f"mdata[{name!r}], ...}})."
            )
