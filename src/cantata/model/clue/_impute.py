"""Expected values of modalities that were, or were not, measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pandas as pd
import torch

from cantata._keys import rows_key
from cantata.losses import fuse_mean, mean_over_modalities
from cantata.model._imputation import ImputationWriter
from cantata.model._impute_targets import ImputeTargets
from cantata.model._library_size import LibrarySize
from cantata.model.clue._library import fit_library_weights, predict_log_library

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData
    from mudata import MuData
    from torch import Tensor

    from cantata.model.clue._module import CLUEModule

LibraryChoice = Literal["auto", "observed", "predicted"]


class ImputeMixin(ImputeTargets):
    """Imputation for :class:`cantata.CLUE`."""

    module: CLUEModule

    @torch.inference_mode()
    def impute(
        self,
        modality: str,
        mdata: MuData | None = None,
        *,
        source: str | None = None,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        transform_batch: str | Sequence[str] | None = None,
        library_size: LibraryChoice | float | np.ndarray = "auto",
        n_samples: int = 0,
        batch_size: int | None = None,
        out: str | None = None,
    ) -> AnnData:
        """Expected values of a modality for every cell.

        Parameters
        ----------
        modality
            Modality to impute.
        mdata
            Data to impute for; the model's own by default. It is not modified.
        source
            Infer from this modality alone, for the cells that have it; by default from all that a
            cell has.
        features
            Names of the features to return; all by default.
        indices
            Cells to impute, as positions in ``mdata.obs_names``.
        transform_batch
            Batch, or batches to average over, whose decoder parameters are used. By default the
            cell's own batch, or the mean over the batches in which the modality was measured where
            its own batch was not among them.
        library_size
            For count likelihoods with proportions: ``"observed"`` totals of the cell, totals
            ``"predicted"`` from the source by a ridge regression on paired training cells,
            ``"auto"`` (observed where the cell has the modality and it is used as a source, else
            predicted), one number for all cells, or one per returned cell.
        n_samples
            Samples from the posterior; their mean replaces the value at the posterior mean and
            their standard deviation is returned as ``layers["std"]``. 0 for none.
        batch_size
            Cells per minibatch.
        out
            Directory ending in ``.zarr`` to write the values to as they are computed.

        Returns
        -------
        AnnData, cells x features. ``.X`` is float32 in the units of the registered values:
        expected counts, probabilities (``"bernoulli"``) or means (``"normal"``); with `out` it
        stays on disk. ``.obs`` and ``obsm["spatial"]`` are those of the cells,
        ``obs["library_size"]`` what was used.

        Raises
        ------
        KeyError
            If a modality, feature or batch is unknown.
        ValueError
            If cells lack the source, if a cell's batch is unknown and `transform_batch` is not
            given, or if library sizes are asked for that do not exist.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200)
        >>> cantata.CLUE.setup_mudata(mdata)
        >>> model = cantata.CLUE(mdata)
        >>> model.train(max_epochs=1, enable_progress_bar=False)
        >>> proteins = model.impute("adt", source="rna")
        >>> proteins.n_obs == mdata["rna"].n_obs
        True
        """
        names = self._imputed_names(modality, source, features)
        cells = self._cells(mdata)  # type: ignore[attr-defined]
        chosen = self._imputed_cells(cells, source, indices)
        batches = self._batch_indices(transform_batch)
        library = LibrarySize(library_size, len(chosen))
        writer = ImputationWriter(cells, chosen, names, out, with_std=n_samples > 0)
        known = pd.Index(self.feature_names(modality))  # type: ignore[attr-defined]
        columns = known.get_indexer(pd.Index(names))
        for tensors in self._minibatches(cells, chosen, batch_size):  # type: ignore[attr-defined]
            part = slice(writer.start, writer.start + len(tensors["cell"]))
            sizes = self._library_sizes(tensors, modality, source, library, part)
            table = self._batches_of(tensors, modality, batches)
            mean, std = self._expected(tensors, modality, source, table, sizes, n_samples)
            writer.add(mean[:, columns], None if std is None else std[:, columns], sizes)
        return writer.finish()

    # One minibatch ------------------------------------------------------------------------------

    def _expected(
        self,
        tensors: dict[str, Tensor],
        modality: str,
        source: str | None,
        weights: Tensor,
        library: Tensor | None,
        n_samples: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Mean, and with samples standard deviation, of the expected values of a minibatch."""
        loc, scale, rows = self.module.encode(tensors)
        if source is not None:
            loc, scale, rows = (
                {source: loc[source]},
                {source: scale[source]},
                {source: rows[source]},
            )
        n = len(tensors["cell"])
        if not n_samples:
            z = self._embedding(loc, scale, rows, n)
            return self._decode_mean(modality, z, tensors, weights, library), None
        total = square = None
        for _ in range(n_samples):
            drawn = {m: loc[m] + scale[m] * torch.randn_like(loc[m]) for m in loc}
            z = self._embedding(drawn, scale, rows, n)
            value = self._decode_mean(modality, z, tensors, weights, library)
            total = value if total is None else total + value
            square = value.square() if square is None else square + value.square()
        assert total is not None
        assert square is not None
        mean = total / n_samples
        return mean, (square / n_samples - mean.square()).clamp(min=0).sqrt()

    def _embedding(
        self, loc: dict[str, Tensor], scale: dict[str, Tensor], rows: dict[str, Tensor], n: int
    ) -> Tensor:
        """What decoders read: the fused embedding, of unit length where the model normalises."""
        if self.module.fusion == "poe":
            fused, _ = self._fuse(loc, scale, rows, n, unit=False)  # type: ignore[attr-defined]
            return self.module._unit(fused)
        own = self.module.unit_means(loc)
        return fuse_mean(own, rows, n, unit=self.module.normalize_latent)

    def _decode_mean(
        self,
        modality: str,
        z: Tensor,
        tensors: dict[str, Tensor],
        weights: Tensor,
        library: Tensor | None,
    ) -> Tensor:
        """Expected values, averaged over batches."""
        codes, values = self.module.covariates(tensors)
        codes = codes.clamp(min=0)
        head = self.module.head(modality)
        total: Tensor | None = None
        for batch in weights.any(dim=0).nonzero().squeeze(1).tolist():
            rows = weights[:, batch].nonzero().squeeze(1)
            own = codes[rows].clone()
            own[:, 0] = batch
            continuous = None if values is None else values[rows]
            location = self.module.decode(modality, z[rows], own, continuous)
            size = None if library is None else library[rows]
            mean = head.distribution(location, size, own).mean * weights[rows, batch].unsqueeze(1)
            if total is None:
                total = mean.new_zeros(len(z), mean.shape[1])
            total.index_add_(0, rows, mean)
        assert total is not None
        return total

    # Library sizes ------------------------------------------------------------------------------

    def _fit_library(self) -> None:
        """Regress log library sizes on embeddings over paired training cells."""
        fit_library_weights(self)

    def _library_sizes(
        self,
        tensors: dict[str, Tensor],
        modality: str,
        source: str | None,
        choice: LibrarySize,
        part: slice,
    ) -> Tensor | None:
        """(n,) library sizes of a minibatch; None where the likelihood has none."""
        if not self.module.head(modality).has_library:
            return None
        n, device = len(tensors["cell"]), tensors["cell"].device
        given = choice.tensor(part, device)
        if given is not None:
            return given
        sources = [source] if source is not None else self.modalities
        rows = tensors[rows_key(modality)]
        use_observed = choice.name == "observed" or (choice.name == "auto" and modality in sources)
        sizes = torch.zeros(n, device=device)
        if choice.name == "observed" and len(rows) < n:
            raise ValueError(
                f"library_size='observed': {n - len(rows)} cells of a minibatch have no "
                f"{modality!r}."
            )
        if not use_observed or len(rows) < n:
            log_sizes = {
                m: predict_log_library(self.module, tensors, m, modality)
                for m in sources
                if m != modality or (choice.name == "predicted" and sources == [modality])
            }
            places = {m: tensors[rows_key(m)] for m in log_sizes}
            if places:
                columns = {m: value.unsqueeze(1) for m, value in log_sizes.items()}
                sizes = mean_over_modalities(columns, places, n).squeeze(1).exp()
        if use_observed or choice.name == "predicted":
            alone = torch.ones(n, dtype=torch.bool, device=device)
            for m in self.modalities:
                if m != modality and m in sources:
                    alone[tensors[rows_key(m)]] = False
            observed = self.module.observed_library(tensors[modality])
            keep = alone[rows] if choice.name == "predicted" else slice(None)
            sizes[rows[keep]] = observed[keep]
        return sizes
