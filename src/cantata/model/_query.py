"""New data for a trained model."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import torch

from cantata._mudata.obs import coalesce_obs

if TYPE_CHECKING:
    from mudata import MuData
    from torch import Tensor


class QueryMixin:
    """Query mapping for models of :class:`~cantata.model.base.MosaicModelClass`."""

    @classmethod
    def prepare_query_mudata(cls, query_mdata: MuData, reference_model: Self | str) -> MuData:
        """A MuData with the modalities and features of a reference model.

        Features are matched by name and re-ordered; absent ones are 0 where they are at most a
        fifth of a modality. A modality that the query lacks is present without cells.

        Parameters
        ----------
        query_mdata
            New data with any subset of the modalities; it is not modified.
        reference_model
            Trained model, or the directory that one was saved to.

        Returns
        -------
        New MuData that shares memory with the query.

        Raises
        ------
        KeyError
            If the query has none of the modalities, or lacks a layer or representation.
        ValueError
            If more than a fifth of the features of a modality are absent.

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
        model = _loaded(cls, reference_model)
        aligned = model._align(query_mdata)
        for key in covariate_columns(model.setup_args):
            present = [name for name in model.modalities if name in query_mdata.mod]
            column = coalesce_obs(query_mdata, key, present)
            aligned.obs[key] = column.reindex(aligned.obs_names).to_numpy()
        return aligned

    @classmethod
    def load_query_data(
        cls,
        query_mdata: MuData,
        reference_model: Self | str,
        *,
        freeze: bool = True,
    ) -> Self:
        """A model of new data that starts from a reference model.

        New batches start at the mean of the reference's batches, so that the model can be used
        without training.

        Parameters
        ----------
        query_mdata
            New data with any subset of the modalities; it is not modified.
        reference_model
            Trained model, or the directory that one was saved to.
        freeze
            Let training change what belongs to batches and covariates alone; embeddings of known
            batches then stay those of the reference.

        Returns
        -------
        Model of the prepared query, ``model.adata``.

        Raises
        ------
        KeyError, ValueError
            As :meth:`prepare_query_mudata`; also if the query lacks the batch or covariate
            columns.

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
        reference = _loaded(cls, reference_model)
        prepared = cls.prepare_query_mudata(query_mdata, reference)
        model = grown(reference, prepared)
        if freeze:
            model.module.freeze_all_but_covariates()
        model.is_trained_ = reference.is_trained_
        model.history_ = {key: table.copy() for key, table in (reference.history or {}).items()}
        return model


def _loaded(cls: type, reference_model: Any) -> Any:
    if isinstance(reference_model, str):
        return cls.load(reference_model)  # type: ignore[attr-defined]
    return reference_model


def covariate_columns(arguments: dict[str, Any]) -> list[str]:
    keys = [arguments["batch_key"]] if arguments["batch_key"] is not None else []
    return [
        *keys,
        *arguments["categorical_covariate_keys"],
        *arguments["continuous_covariate_keys"],
    ]


def grown(reference: Any, mdata: MuData) -> Any:
    """Copy of a model on other data, with the reference's weights and room for new batches."""
    cls = type(reference)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*have no count in any cell.*")
        cls.setup_mudata(
            mdata,
            source_registry=reference.registry_,
            extend_categories=True,
            **reference.setup_args,
        )
        model = cls(mdata, **reference.init_params_["non_kwargs"])
    state = reference.module.state_dict()
    own = model.module.state_dict()
    grown_state = {
        # latents belong to the cells of the reference
        key: value if key.startswith("tables.") else _grow(state[key], value)
        for key, value in own.items()
    }
    model.module.load_state_dict(grown_state)
    model._adopt(reference)
    model.has_inputs_ = reference.has_inputs_
    model.to_device(reference.device)
    return model


def _grow(old: Tensor, new: Tensor) -> Tensor:
    """`old` with rows added, each the mean of the old ones, where `new` has more categories."""
    if old.shape == new.shape:
        return old
    if old.dim() == 2 and old.shape[0] < new.shape[0] and old.shape[1] == new.shape[1]:
        added = old.mean(dim=0, keepdim=True).expand(new.shape[0] - len(old), -1)
        return torch.cat([old, added])
    if old.dim() == 2 and old.shape[0] == new.shape[0] and old.shape[1] < new.shape[1]:
        return torch.cat([old, new[:, old.shape[1] :].to(old.device)], dim=1)
    raise ValueError(f"Cannot adapt weights of shape {tuple(old.shape)} to {tuple(new.shape)}.")
