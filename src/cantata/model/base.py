"""What all models share: registration of a MuData, queries, and where results are written."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mudata import MuData
from scvi import settings
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin

from cantata import _compat, _keys
from cantata._keys import BATCH, rep_key
from cantata._mudata.checks import check_mapping, check_matrix_keys, check_modalities
from cantata._mudata.pairing import modality_cells
from cantata._mudata.values import matrix_of
from cantata.data import (
    MosaicLoader,
    MosaicManager,
    MosaicSplitter,
    align_query,
)
from cantata.model._query import QueryMixin
from cantata.model._registration import all_stats, recorded_reps, registered_fields

if TYPE_CHECKING:
    from anndata import AnnData
    from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass
class Cells:
    """Cells to run a model on, lined up with the MuData that the user passed."""

    manager: MosaicManager
    mdata: MuData
    """The user's own object, whose order results follow."""
    position: np.ndarray
    """Position in the manager's data of each cell of ``mdata.obs_names``."""

    def of_modality(self, modality: str) -> np.ndarray:
        """Positions, in ``mdata.obs_names``, of the cells of a modality, in its own order."""
        if modality not in self.mdata.mod:
            raise KeyError(
                f"Modality {modality!r} is not in the MuData, which holds {list(self.mdata.mod)}."
            )
        return modality_cells(self.mdata, modality)


class MosaicModelClass(QueryMixin, UnsupervisedTrainingMixin, BaseModelClass):
    """Base class of models that are set up with a MuData of any pairing.

    A subclass names its `method`, builds ``self.module`` in its constructor and implements
    ``get_latent_representation`` and ``impute``.
    """

    method: str
    """Name in the keys of results, e.g. ``"clue"``."""
    _reads_reps = True
    """Whether encoders can read representations, and labels are used."""
    _data_loader_cls = MosaicLoader
    _data_splitter_cls = MosaicSplitter

    @classmethod
    def setup_anndata(cls, adata: AnnData, **kwargs: Any) -> None:
        """Not available: wrap the AnnData in a MuData and call :meth:`setup_mudata`.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            f"{cls.__name__} is set up with a MuData: "
            f"{cls.__name__}.setup_mudata(mudata.MuData({{'rna': "
            "adata, ...}))."
        )

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        modalities: Sequence[str] | None = None,
        layers: Mapping[str, str | None] | None = None,
        reps: Mapping[str, str] | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        pairs: Sequence[tuple[str, str]] | None = None,
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
            Layer with each modality's values; ``.X`` where None or not named.
        reps
            ``.obsm`` key of the representation that a modality's encoder reads in place of its
            values. By default those that :func:`cantata.pp.preprocess` made; ``{}`` for none.
        batch_key
            Column of ``mdata.obs``, or of the ``.obs`` of modalities.
        labels_key
            Column of cell labels for semi-supervision; missing values are unknown labels.
        categorical_covariate_keys, continuous_covariate_keys
            Columns of further covariates.
        pairs
            Linked modalities, for models that use links.
        **kwargs
            ``source_registry`` of a model, when it is loaded.

        Raises
        ------
        TypeError
            If `mdata` is no MuData or a continuous covariate is not numeric.
        KeyError
            For modalities, layers, representations or columns that do not exist.
        ValueError
            For empty modalities, duplicate names, values that are not finite, contradicting or
            incomplete columns.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata, batch_key="batch")
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        is_query = kwargs.get("source_registry") is not None
        names = check_modalities(mdata, modalities, allow_empty=is_query)
        if not cls._reads_reps:
            cls._refuse_unused(reps=reps, labels_key=labels_key)
            reps = {}
        check_mapping("layers", layers or {}, names)
        check_mapping("reps", reps or {}, names)
        arguments: dict[str, Any] = {
            "modalities": names,
            "layers": {name: (layers or {}).get(name) for name in names},
            "reps": recorded_reps(mdata, names) if reps is None else dict(reps),
            "batch_key": batch_key,
            "labels_key": labels_key,
            "categorical_covariate_keys": list(categorical_covariate_keys or []),
            "continuous_covariate_keys": list(continuous_covariate_keys or []),
            "pairs": pairs if is_query else cls._linked_pairs(mdata, names, pairs),
        }
        setup_method_args[_compat.SETUP_ARGS] = arguments
        check_matrix_keys(mdata, arguments["layers"], arguments["reps"])
        manager = MosaicManager(registered_fields(arguments), setup_method_args)
        manager.matrix_stats = all_stats(mdata, arguments["layers"])
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def _linked_pairs(
        cls, mdata: MuData, names: Sequence[str], pairs: Sequence[tuple[str, str]] | None
    ) -> list[tuple[str, str]] | None:
        """Linked pairs to register; refuses them where the model has no use for links."""
        if pairs is not None:
            raise ValueError(
                f"{cls.__name__} does not use links between features; leave out pairs."
            )
        return None

    @classmethod
    def _refuse_unused(cls, **arguments: Any) -> None:
        """Refuse arguments that the model would ignore."""
        for name, value in arguments.items():
            if value:
                raise ValueError(f"{cls.__name__} has no use for {name}; leave it out.")

    # What was registered ------------------------------------------------------------------------

    @property
    def setup_args(self) -> dict[str, Any]:
        """Arguments of ``setup_mudata``, completed."""
        return self.registry_[_compat.SETUP_ARGS]

    @property
    def modalities(self) -> list[str]:
        """Modalities of the model, in order."""
        return self.setup_args["modalities"]

    def _state(self, registry_key: str) -> dict[str, Any]:
        return self.registry_[_compat.FIELD_REGISTRIES][registry_key][_compat.STATE_REGISTRY]

    def feature_names(self, modality: str) -> np.ndarray:
        """Names of the features of a modality, in the model's order."""
        return np.asarray(self._state(modality)["column_names"])

    @property
    def batch_categories(self) -> list[str]:
        """Names of the batches; empty without a batch key."""
        if self.setup_args["batch_key"] is None:
            return []
        return list(self._state(BATCH)["categorical_mapping"])

    def _n_categories(self) -> list[int]:
        """Number of categories of each categorical covariate but the batch."""
        return [
            len(self._state(f"categorical_{key}")["categorical_mapping"])
            for key in self.setup_args["categorical_covariate_keys"]
        ]

    def _matrix(self, modality: str) -> Any:
        """Registered values of a modality, as they are stored."""
        return matrix_of(self.adata, modality, self.setup_args["layers"][modality])

    # Running on data ----------------------------------------------------------------------------

    def _cells(self, mdata: MuData | None) -> Cells:
        """Cells of the model's own data, or of new data that is lined up with it.

        New data is never modified, and views of it are read in their own order.
        """
        if mdata is None or mdata is self.adata:
            own = self.adata
            return Cells(self.adata_manager, own, np.arange(own.n_obs))
        aligned = self._align(mdata)
        manager = MosaicManager(
            registered_fields(self.setup_args),
            {
                key: self.registry_[key]
                for key in (_compat.MODEL_NAME, _compat.SETUP_METHOD, _compat.SETUP_ARGS)
            },
        )
        manager.register_fields(aligned, self.registry_, extend_categories=True, allow_absent=True)
        position = aligned.obs_names.get_indexer(mdata.obs_names)
        if (position < 0).any():
            cell = mdata.obs_names[np.flatnonzero(position < 0)[0]]
            raise ValueError(
                f"{(position < 0).sum()} cells of the query have none of the modalities "
                f"{self.modalities}, e.g. {cell!r}. Leave them out."
            )
        return Cells(manager, mdata, position)

    def _chosen_cells(
        self, cells: Cells, modality: str | None, indices: Sequence[int] | np.ndarray | None
    ) -> np.ndarray:
        """Positions in ``cells.mdata.obs_names`` of all cells or of a modality's, at `indices`."""
        if modality is not None and modality not in self.modalities:
            raise KeyError(f"modality={modality!r} is not one of {self.modalities}.")
        chosen = np.arange(cells.mdata.n_obs) if modality is None else cells.of_modality(modality)
        return chosen if indices is None else chosen[np.asarray(indices)]

    def _align(self, mdata: MuData) -> MuData:
        """New data in the shape of the reference, sharing memory with it."""
        if not isinstance(mdata, MuData):
            raise TypeError(f"Expected a MuData, got {type(mdata).__name__}.")
        widths = {
            name: (key, len(self._state(rep_key(name))["column_names"]))
            for name, key in self.setup_args["reps"].items()
        }
        names = {name: self.feature_names(name) for name in self.modalities}
        return align_query(mdata, names, self.setup_args["layers"], widths)

    def _minibatches(
        self, cells: Cells, chosen: np.ndarray, batch_size: int | None
    ) -> Iterator[dict[str, Tensor]]:
        """Minibatches, on the model's device, of cells chosen by position in ``cells.mdata``."""
        self._check_if_trained(warn=True)
        loader = MosaicLoader(
            cells.manager,
            indices=cells.position[chosen],
            batch_size=batch_size or settings.batch_size,
            num_workers=0,
        )
        self.module.eval()
        device = self.module.device
        for minibatch in loader:
            yield {key: value.to(device) for key, value in minibatch.items()}

    # Results ------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        modality: str | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Embedding of cells; see the model."""
        raise NotImplementedError

    def impute(
        self,
        modality: str,
        mdata: MuData | None = None,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> AnnData:
        """Expected values of a modality; see the model."""
        raise NotImplementedError

    def write_results(
        self,
        mdata: MuData | None = None,
        *,
        denoised: bool = False,
        imputed: Sequence[str] = (),
    ) -> None:
        """Write embeddings, reconstructions and imputations into a MuData.

        Everything is computed before anything is written.

        Parameters
        ----------
        mdata
            MuData to run on and to write to; the model's own by default.
        denoised
            Also write reconstructions of the observed cells to ``mdata[m].layers``. Dense.
        imputed
            Modalities to write, for every cell, to ``mdata.obsm``. Dense.

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
        check_mapping("imputed", dict.fromkeys(imputed), self.modalities)
        key = _keys.embedding(self.method)
        present = [name for name in self.modalities if name in target.mod]
        joint = self.get_latent_representation(mdata)
        own = self._embeddings_to_write(mdata, present)
        layers = {}
        if denoised:
            for name in present:
                layers[name] = self._reconstruct(name, mdata)
        filled = {name: self.impute(name, mdata) for name in imputed}
        target.obsm[key] = joint
        for (name, own_key), embedding in own.items():
            target[name].obsm[own_key] = embedding
        for name, layer in layers.items():
            target[name].layers[_keys.denoised(self.method)] = layer
        for name, adata in filled.items():
            target.obsm[_keys.imputed(self.method, name)] = adata.X
        record = dict(target.uns.get(_keys.UNS, {}))
        record[self.method] = dict(record.get(self.method, {})) | {
            "version": version("cantata"),
            "seed": -1 if settings.seed is None else int(settings.seed),
            "parameters": _plain(self.init_params_["non_kwargs"]),
            "imputed_features": {
                name: adata.var_names.to_numpy().astype(str) for name, adata in filled.items()
            },
        }
        target.uns[_keys.UNS] = record

    def _embeddings_to_write(
        self, mdata: MuData | None, present: list[str]
    ) -> dict[tuple[str, str], np.ndarray]:
        """For modalities and keys of their ``.obsm``, what each modality alone says of cells."""
        key = _keys.embedding(self.method)
        return {
            (name, key): self.get_latent_representation(mdata, modality=name) for name in present
        }

    def _reconstruct(self, modality: str, mdata: MuData | None) -> np.ndarray:
        """Reconstruction of a modality's own cells, in its order."""
        cells = self._cells(mdata).of_modality(modality)
        return self.impute(modality, mdata, indices=cells).X

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
        features = ", ".join(f"{name} {len(self.feature_names(name))}" for name in self.modalities)
        n_parameters = sum(p.numel() for p in self.module.parameters())
        state = "trained" if self.is_trained_ else "not trained"
        return (
            f"{type(self).__name__} of {self.adata.n_obs} cells; features: {features}; "
            f"{n_parameters:,} parameters; {state}"
        )


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as values that h5mu files hold."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in parameters.items()
        if value is not None
    }


def to_numpy(parts: list[Tensor], width: int) -> np.ndarray:
    """Stack device tensors into a float32 array, also when there are none."""
    if not parts:
        return np.zeros((0, width), dtype=np.float32)
    return torch.cat(parts).float().cpu().numpy()
