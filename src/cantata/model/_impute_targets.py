"""Which cells, features and batches an imputation is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cantata._keys import BATCH
from cantata._mudata.pairing import membership

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from cantata.data import MosaicManager
    from cantata.model.base import Cells


class ImputeTargets:
    """What imputation of every model has in common."""

    module: Any
    modalities: list[str]
    measured_batches_: dict[str, list[bool]]

    def _adopt(self, reference: Any) -> None:
        """Remember in which batches a reference model saw a modality."""
        known = len(reference.batch_categories)
        for name, seen in self.measured_batches_.items():
            before = reference.measured_batches_[name]
            seen[:known] = [a or b for a, b in zip(seen[:known], before, strict=False)]

    def _imputed_names(
        self, modality: str, source: str | None, features: Sequence[str] | None
    ) -> np.ndarray:
        for argument, name in (("modality", modality), ("source", source)):
            if name is not None and name not in self.modalities:
                raise KeyError(f"{argument}={name!r} is not one of {self.modalities}.")
        known = self.feature_names(modality)  # type: ignore[attr-defined]
        if features is None:
            return known
        unknown = [name for name in features if name not in set(known)]
        if unknown:
            raise KeyError(
                f"{len(unknown)} features are not in modality {modality!r}, e.g. {unknown[0]!r}."
            )
        return np.asarray(features)

    def _imputed_cells(
        self, cells: Cells, source: str | None, indices: Sequence[int] | np.ndarray | None
    ) -> np.ndarray:
        with_source = None if source is None else np.sort(cells.of_modality(source))
        if indices is None:
            return np.arange(cells.mdata.n_obs) if with_source is None else with_source
        chosen = np.arange(cells.mdata.n_obs)[np.asarray(indices)]
        lacking = [] if with_source is None else chosen[~np.isin(chosen, with_source)]
        if len(lacking):
            raise ValueError(
                f"{len(lacking)} of the chosen cells have no {source!r}, e.g. "
                f"{cells.mdata.obs_names[lacking[0]]!r}."
            )
        return chosen

    def _batch_indices(self, transform_batch: str | Sequence[str] | None) -> list[int] | None:
        if transform_batch is None:
            return None
        wanted = [transform_batch] if isinstance(transform_batch, str) else list(transform_batch)
        known = self.batch_categories  # type: ignore[attr-defined]
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            raise KeyError(
                f"transform_batch={unknown or wanted} is not one of the batches {known}."
            )
        return [known.index(name) for name in wanted]

    def _batches_of(
        self, tensors: dict[str, Tensor], modality: str, batches: list[int] | None
    ) -> Tensor:
        """(n, n_batch) weights of the batches whose decoder parameters each cell is given."""
        n, n_batch = len(tensors["cell"]), self.module.n_batch
        weights = torch.zeros(n, n_batch, device=tensors["cell"].device)
        if batches is not None:
            weights[:, batches] = 1 / len(batches)
            return weights
        if BATCH not in tensors:
            return weights + 1
        own = tensors[BATCH]
        measured = torch.tensor(self.measured_batches_[modality], device=own.device)
        unknown = (own < 0) | (own >= n_batch)
        if unknown.any():
            raise ValueError(
                f"{int(unknown.sum())} cells are of a batch that the model does not know. Name "
                f"one with "
                f"transform_batch=..., from {self.batch_categories}, or adapt the model with "  # type: ignore[attr-defined]
                "load_query_data."
            )
        weights[torch.arange(n, device=own.device), own] = 1
        elsewhere = ~measured[own]
        weights[elsewhere] = measured.float() / measured.sum()
        return weights


def mean_over_batches(weights: Tensor, decode: Callable[[int], Tensor]) -> Tensor:
    """Values decoded as of each batch that any cell is given, averaged by the cells' weights.

    Parameters
    ----------
    weights
        (n, n_batch) weights, from :meth:`ImputeTargets._batches_of`.
    decode
        From the number of a batch to (n, p) values.
    """
    total: Tensor | None = None
    for batch in weights.any(dim=0).nonzero().squeeze(1).tolist():
        value = decode(batch) * weights[:, batch : batch + 1]
        total = value if total is None else total + value
    assert total is not None
    return total


def measured_batches(
    manager: MosaicManager, modalities: Sequence[str], n_batch: int
) -> dict[str, list[bool]]:
    """For each modality, whether a batch has cells with it."""
    member = membership(manager.adata, modalities)
    has_batch = any(field.registry_key == BATCH for field in manager.fields)
    codes = manager.get_from_registry(BATCH) if has_batch else np.zeros(len(member), dtype=int)
    return {
        name: [bool((codes[member[:, k]] == b).any()) for b in range(n_batch)]
        for k, name in enumerate(modalities)
    }
