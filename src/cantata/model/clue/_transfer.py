"""The transductive step of the competition entry: training on reference and query together."""

from __future__ import annotations

import warnings
from typing import Any, Self

import anndata
import pandas as pd
from mudata import MuData

from cantata import _compat
from cantata._mudata.obs import coalesce_obs
from cantata.model._query import covariate_columns, grown


class FinetuneMixin:
    """Fine-tuning for :class:`cantata.CLUE`."""

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
        prepared = self.prepare_query_mudata(query_mdata, self)  # type: ignore[attr-defined]
        union = _concatenate(self, prepared)
        model = grown(self, union)
        if max_epochs is None:
            max_epochs = max(5, model._planned_epochs(kwargs.get("batch_size", 128)) // 2)
        plan = {"lr": 1e-3, "noise_epochs": 0.0, **(plan_kwargs or {})}
        model.train(max_epochs, plan_kwargs=plan, **kwargs)
        return model


def _concatenate(model: Any, query: MuData) -> MuData:
    """Reference and query cells in one MuData."""
    reference = model._align(model.adata)
    shared = reference.obs_names.intersection(query.obs_names)
    if len(shared):
        raise ValueError(
            f"{len(shared)} cell names are in both the reference and the query, e.g. "
            f"{shared[0]!r}. Make them unique, e.g. with a prefix per data set."
        )
    parts = {
        name: anndata.concat([part[name] for part in (reference, query) if part[name].n_obs])
        for name in model.modalities
    }
    with warnings.catch_warnings(), _compat.no_pull():
        warnings.simplefilter("ignore", (UserWarning, FutureWarning))
        union = MuData(parts)
    for key in [*covariate_columns(model.setup_args), model.setup_args["labels_key"]]:
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
