"""Values of modalities that were not measured: one encoder, another decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from cantata._keys import BATCH, rows_key
from cantata._mudata.rows import row_reader
from cantata._numeric.neighbors import check_k, nearest_neighbors
from cantata.model._imputation import ImputationWriter
from cantata.model._impute_targets import ImputeTargets, mean_over_batches
from cantata.model._library_size import LibrarySize
from cantata.model.scmodal._module import Covariates, covariates_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData
    from torch import Tensor

    from cantata.model.scmodal._module import SCMODALModule


class ImputeMixin(ImputeTargets):
    """Imputation for :class:`cantata.SCMODAL`."""

    module: SCMODALModule

    @torch.inference_mode()
    def impute(
        self,
        modality: str,
        mdata: MuData | None = None,
        *,
        source: str | None = None,
        via: Sequence[str] = (),
        features: Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        transform_batch: str | Sequence[str] | None = None,
        library_size: float | np.ndarray | None = None,
        n_anchors: int = 0,
        batch_size: int | None = None,
        out: str | None = None,
    ) -> AnnData:
        """Values of a modality for every cell: ``G_target(E_source(x))``, Wang et al. 2025.

        Parameters
        ----------
        modality
            Modality to impute.
        mdata
            Data to impute for; the model's own by default. It is not modified.
        source
            Infer from this modality alone, for the cells that have it; by default from the mean
            embedding of all that a cell has.
        via
            Modalities to pass on the way, each decoded and encoded again, such as the bridge
            between two modalities that are not linked.
        features
            Names of the features to return; all by default.
        indices
            Cells to impute, as positions in ``mdata.obs_names``.
        transform_batch
            Batch, or batches to average over, whose decoder parameters are used. By default the
            cell's own batch, or the mean over the batches in which the modality was measured where
            its own batch was not among them.
        library_size
            Total per cell, one number or one per returned cell, for transforms that scale cells
            (``"log1p"``, ``"tfidf"``) alone; by default the total to which the model scales them,
            the median of the modality's cells (for chromatin ten times that).
        n_anchors
            Average the measured values of so many cells of the modality that are nearest in the
            embedding, in place of the decoder's output; their standard deviation is returned as
            ``layers["std"]``. 0: the decoder, as in the paper.
        batch_size
            Cells per minibatch.
        out
            Directory ending in ``.zarr`` to write the values to as they are computed.

        Returns
        -------
        AnnData, cells x features. ``.X`` is float32 in the units of the registered values; with
        `out` it stays on disk. ``.obs`` and ``obsm["spatial"]`` are those of the cells.

        Raises
        ------
        KeyError
            If a modality, feature or batch is unknown.
        ValueError
            If cells lack the source, if a cell's batch is unknown and `transform_batch` is not
            given, if there are fewer cells than `n_anchors`, if `library_size` is not positive or
            the transform does not scale cells, or if both `n_anchors` and `transform_batch` are
            given.

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
        names = self._imputed_names(modality, source, features)
        unknown = [name for name in via if name not in self.modalities]
        if unknown:
            raise KeyError(f"via={list(via)}: {unknown[0]!r} is not one of {self.modalities}.")
        if n_anchors and transform_batch is not None:
            raise ValueError(
                "n_anchors averages measured cells, transform_batch chooses a decoder; give one."
            )
        cells = self._cells(mdata)  # type: ignore[attr-defined]
        chosen = self._imputed_cells(cells, source, indices)
        batches = self._batch_indices(transform_batch)
        sizes = self._library_sizes(modality, library_size, len(chosen))
        anchors = _Anchors(self, modality, n_anchors) if n_anchors else None
        writer = ImputationWriter(cells, chosen, names, out, with_std=n_anchors > 0)
        known = pd.Index(self.feature_names(modality))  # type: ignore[attr-defined]
        columns = known.get_indexer(pd.Index(names))
        for tensors in self._minibatches(cells, chosen, batch_size):  # type: ignore[attr-defined]
            n = len(tensors["cell"])
            library = None
            if sizes is not None:
                part = slice(writer.start, writer.start + n)
                library = sizes.tensor(part, self.module.device)
            z = self._embedded(tensors, source, via)
            if anchors is not None:
                mean, std = anchors.values(z, library)
                writer.add(mean[:, columns], std[:, columns], library)
                continue
            weights = self._batches_of(tensors, modality, batches)
            value = self._decoded(modality, z, tensors, weights, library)
            writer.add(value[:, columns], None, library)
        return writer.finish()

    def _library_sizes(
        self, modality: str, choice: float | np.ndarray | str | None, n: int
    ) -> LibrarySize | None:
        """The user's choice of library sizes, where the transform has a use for it."""
        if choice is None:
            return None
        if isinstance(choice, str):
            raise ValueError(f"library_size={choice!r}: give a number, one per cell, or None.")
        layer = self.module.input(modality)
        if not layer.scales_cells:
            raise ValueError(
                f"Modality {modality!r} has transform {layer.transform!r}, which does not scale "
                "cells to a total; leave out library_size."
            )
        return LibrarySize(choice, n)

    def _embedded(
        self, tensors: dict[str, Tensor], source: str | None, via: Sequence[str]
    ) -> Tensor:
        """(n, q) embeddings of a minibatch of cells."""
        z, rows = self.module.encode(tensors)
        n = len(tensors["cell"])
        if source is not None:
            z, rows = {source: z[source]}, {source: tensors[rows_key(source)]}
        joint = self.module.joint(z, rows, n)
        return self.module.translate(joint, via, covariates_of(tensors, slice(None)))

    def _decoded(
        self,
        modality: str,
        z: Tensor,
        tensors: dict[str, Tensor],
        weights: Tensor,
        library: Tensor | None,
    ) -> Tensor:
        """Decoded values, averaged over batches."""
        own = covariates_of(tensors, slice(None))
        if BATCH not in tensors:
            return self.module.decode(modality, z, own, library)

        def decode(batch: int) -> Tensor:
            assert own.codes is not None
            codes = own.codes.clone()
            codes[:, 0] = batch
            return self.module.decode(modality, z, Covariates(codes, own.values), library)

        return mean_over_batches(weights, decode)


class _Anchors:
    """Measured cells of a modality near given embeddings."""

    def __init__(self, model: ImputeMixin, modality: str, k: int) -> None:
        embedding = model.get_latent_representation(modality=modality)  # type: ignore[attr-defined]
        self.reference = embedding.astype(np.float64)
        self.k = check_k(k, len(embedding), f"modality {modality!r}")
        self.layer = model.module.input(modality)
        self.read = row_reader(model._matrix(modality))  # type: ignore[attr-defined]

    def values(self, z: Tensor, library: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over the nearest cells."""
        query = z.cpu().numpy().astype(np.float64)
        rows = nearest_neighbors(self.reference, query, self.k)[0]
        unique, inverse = np.unique(rows, return_inverse=True)
        measured = torch.from_numpy(self.read(unique)).to(z.device)
        if self.layer.scales_cells:
            sums = measured.sum(dim=1, keepdim=True)
            measured = measured * (self.layer.total / torch.where(sums > 0, sums, 1.0))
        near = measured[torch.from_numpy(inverse.reshape(rows.shape)).to(z.device)]
        if library is not None and self.layer.scales_cells:
            near = near * (library / self.layer.total)[:, None, None]
        return near.mean(dim=1), near.std(dim=1, correction=0)
