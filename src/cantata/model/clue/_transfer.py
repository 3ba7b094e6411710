"""New data for a trained CLUE: queries, and the transductive step of the competition entry."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, Self

import anndata
import pandas as pd
import torch
from mudata import MuData

from cantata import _compat
from cantata.data._obs import coalesce_obs

if TYPE_CHECKING:
    from torch import Tensor

    from cantata.model.clue._model import CLUE

logger = logging.getLogger(__name__)


class TransferMixin:
    """Query mapping and fine-tuning for :class:`cantata.CLUE`."""

    @classmethod
    def prepare_query_mudata(cls, query_mdata: MuData, reference_model: CLUE | str) -> MuData:
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
        for key in _covariate_columns(model.setup_args):
            present = [name for name in model.modalities if name in query_mdata.mod]
            column = coalesce_obs(query_mdata, key, present)
            aligned.obs[key] = column.reindex(aligned.obs_names).to_numpy()
        return aligned

    @classmethod
    def load_query_data(
        cls,
        query_mdata: MuData,
        reference_model: CLUE | str,
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
            Let training change what belongs to batches and covariates alone; embeddings then stay
            those of the reference.

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
        model = _grown(reference, prepared)
        if freeze:
            model.module.freeze_all_but_covariates()
        model.is_trained_ = reference.is_trained_
        return model

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
            New data with any subset of the modalities; it is not modified.
        max_epochs
            Planned epochs; half of what :meth:`train` would plan by default.
        plan_kwargs
            As in :meth:`train`.
        **kwargs
            Passed to :meth:`train`.

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
        prepared = self.prepare_query_mudata(query_mdata, self)  # type: ignore[arg-type]
        union = _concatenate(self, prepared)
        model = _grown(self, union)
        if max_epochs is None:
            max_epochs = max(5, model._planned_epochs(kwargs.get("batch_size", 128)) // 2)
        plan = {"lr": 1e-3, "noise_epochs": 0.0, **(plan_kwargs or {})}
        model.train(max_epochs, plan_kwargs=plan, **kwargs)
        return model


def _loaded(cls: type, reference_model: CLUE | str) -> CLUE:
    return cls.load(reference_model) if isinstance(reference_model, str) else reference_model  # type: ignore[attr-defined]


def _covariate_columns(arguments: dict[str, Any]) -> list[str]:
    keys = [arguments["batch_key"]] if arguments["batch_key"] is not None else []
    return [
        *keys,
        *arguments["categorical_covariate_keys"],
        *arguments["continuous_covariate_keys"],
    ]


def _grown(reference: Any, mdata: MuData) -> Any:
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
    model.module.load_state_dict({key: _grow(state[key], value) for key, value in own.items()})
    known = len(reference.batch_categories)
    for name, seen in model.measured_batches_.items():
        seen[:known] = [
            a or b for a, b in zip(seen[:known], reference.measured_batches_[name], strict=False)
        ]
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


def _concatenate(model: Any, query: MuData) -> MuData:
    """Reference and query cells in one MuData."""
    reference = model._align(model.adata)
    shared = reference.obs_names.intersection(query.obs_names)
    if len(shared):
        raise ValueError(
            f"{len(shared)} cell names are in both the reference and the query, e.g. "
            f"{shared[0]!r}. Make "
            "them unique, e.g. with a prefix per data set."
        )
    parts = {
        name: anndata.concat([part[name] for part in (reference, query) if part[name].n_obs])
        for name in model.modalities
    }
    with warnings.catch_warnings(), _compat.no_pull():
        warnings.simplefilter("ignore", (UserWarning, FutureWarning))
        union = MuData(parts)
    for key in [*_covariate_columns(model.setup_args), model.setup_args["labels_key"]]:
        if key is None:
            continue
        columns = [coalesce_obs(model.adata, key)]
        columns.append(query.obs[key] if key in query.obs else pd.Series(dtype=object))
        values = pd.concat([column.astype(object) for column in columns])
        union.obs[key] = values.reindex(union.obs_names).to_numpy()
        for name in parts:
            if key in union[name].obs:
                del union[name].obs[key]
    return union


__all__ = ["TransferMixin"]
