"""Latents of cells: as encoders infer them, and as they were optimised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from cantata import _keys
from cantata._mudata.pairing import membership
from cantata.model.apollo._network import SHARED
from cantata.model.base import to_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData
    from torch import Tensor

    from cantata.model.apollo._module import APOLLOModule

Space = Literal["shared", "specific", "full", "table"]
SPACES = ("shared", "specific", "full", "table")


class LatentsMixin:
    """Embeddings for :class:`cantata.APOLLO`."""

    module: APOLLOModule
    modalities: list[str]
    method: str
    table_cells_: np.ndarray
    table_members_: dict[str, np.ndarray]
    _cells: Any
    _chosen_cells: Any
    _minibatches: Any

    @torch.inference_mode()
    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        modality: str | None = None,
        space: Space = "shared",
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Latents of cells.

        Parameters
        ----------
        mdata
            Data to embed, with any subset of the modalities; the model's own by default. It is not
            modified.
        modality
            Infer from this modality alone. By default shared latents are the mean over all
            modalities that a cell has, and specific ones of all modalities stand side by side.
        space
            ``"shared"``, ``"specific"``, or both in this order, ``"full"``, as encoders infer
            them; ``"table"``: as they were optimised, the shared ones or those of `modality`
            (training cells only, see :meth:`get_latent_table`).
        indices
            Cells to embed: positions in ``mdata.obs_names``, or in ``mdata[modality].obs_names``.
        batch_size
            Cells per minibatch.

        Returns
        -------
        float32 array (cells, width), in the order of ``mdata.obs_names`` or of
        ``mdata[modality].obs_names``; with ``space="table"`` of the training cells among them.

        Raises
        ------
        KeyError
            If `modality` is unknown or not in `mdata`.
        ValueError
            If `space` is unknown, or cells lack a modality whose specific latents are asked for.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
        >>> model.get_latent_representation(modality="adt", space="specific").shape
        (200, 4)
        """
        if space not in SPACES:
            raise ValueError(f"space={space!r} is none of {SPACES}.")
        cells = self._cells(mdata)
        chosen = self._chosen_cells(cells, modality, indices)
        if space == "table":
            known = self.get_latent_table(modality)
            names = cells.mdata.obs_names[chosen]
            return known.loc[names[names.isin(known.index)]].to_numpy()
        if modality is None and space != "shared":
            self._check_complete(cells.mdata, chosen)
        parts: list[Tensor] = []
        for tensors in self._minibatches(cells, chosen, batch_size):
            shared, specific, rows = self.module.encode_values(tensors)
            if modality is not None:
                own = {"shared": [shared[modality]], "specific": [specific[modality]]}
            else:
                joint = self.module.joint(shared, rows, len(tensors["cell"]))
                own = {"shared": [joint], "specific": list(specific.values())}
            wanted = own["shared"] + own["specific"] if space == "full" else own[space]
            parts.append(torch.cat(wanted, dim=1))
        return to_numpy(parts, self._width(modality, space))

    def _width(self, modality: str | None, space: Space) -> int:
        own = self.modalities if modality is None else [modality]
        specific = sum(self.module.n_specific[name] for name in own)
        sizes = {"shared": self.module.n_shared, "specific": specific}
        return sizes.get(space, self.module.n_shared + specific)

    def _check_complete(self, mdata: MuData, chosen: np.ndarray) -> None:
        present = [name for name in self.modalities if name in mdata.mod]
        has = membership(mdata, present)[chosen]
        lacking = np.flatnonzero(~has.all(axis=1))
        if len(present) < len(self.modalities) or len(lacking):
            n = len(lacking) or len(chosen)
            raise ValueError(
                f"{n} of {len(chosen)} cells lack a modality and have no specific latents of it. "
                "Name a modality, or choose cells that have all."
            )

    def get_latent_table(
        self, modality: str | None = None, *, scale: bool = False
    ) -> pd.DataFrame:
        """Latents of training cells as they were optimised in the first stage.

        Parameters
        ----------
        modality
            Specific latents of this modality; the shared ones by default.
        scale
            The learned noise instead, the uncertainty of every latent; with ``learn_noise=True``.

        Returns
        -------
        Cells x latents, by cell name.

        Raises
        ------
        KeyError
            If `modality` is unknown.
        ValueError
            If the model is not trained, or noise was not learned.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
        >>> model.get_latent_table("rna").shape
        (180, 4)
        """
        if modality is not None and modality not in self.modalities:
            raise KeyError(f"modality={modality!r} is not one of {self.modalities}.")
        table = self.module.table(modality or SHARED)
        if not len(self.table_cells_):
            raise ValueError("The model has no latents yet: call train() first.")
        values: Tensor = table.weight
        if scale:
            if table.log_scale is None:
                raise ValueError("Noise was not learned: pass learn_noise=True to APOLLO.")
            values = table.log_scale.exp()
        cells = self.table_cells_
        if modality is not None:
            cells = cells[self.table_members_[modality]]
        return pd.DataFrame(values.detach().cpu().numpy(), index=pd.Index(cells))

    def _embeddings_to_write(self, mdata: MuData | None, present: list[str]) -> dict:
        written = {}
        for name in present:
            for space in ("shared", "specific"):
                values = self.get_latent_representation(mdata, modality=name, space=space)
                if values.shape[1]:
                    written[name, f"{_keys.embedding(self.method)}_{space}"] = values
        return written
