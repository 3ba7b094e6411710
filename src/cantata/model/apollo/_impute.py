"""Values of modalities from shared latents, and reconstructions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch

from cantata._keys import rows_key
from cantata._mudata.rows import row_reader
from cantata.model._imputation import ImputationWriter
from cantata.model._impute_targets import ImputeTargets, mean_over_batches
from cantata.model._library_size import LibrarySize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData
    from torch import Tensor

    from cantata.model.apollo._module import APOLLOModule

MAX_CALIBRATION = 5000
"""Cells that the way back from [0, 1] to counts is fitted on."""


class ImputeMixin(ImputeTargets):
    """Cross-modal prediction and reconstruction for :class:`cantata.APOLLO`."""

    module: APOLLOModule

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
        library_size: float | np.ndarray | None = None,
        calibrate: bool = False,
        batch_size: int | None = None,
        out: str | None = None,
    ) -> AnnData:
        """Values of a modality for every cell, from what it shares with the others.

        The shared latents that the encoder of the source infers go through the decoder of the
        modality that reads shared latents alone (Zhang et al. 2026). Without such decoders the
        other one is used, with specific latents at their mean.

        Parameters
        ----------
        modality
            Modality to impute.
        mdata
            Data to impute for; the model's own by default. It is not modified.
        source
            Infer from this modality alone, for the cells that have it; by default from the mean
            of the shared latents that the encoders of all modalities of a cell infer.
        features
            Names of the features to return; all by default.
        indices
            Cells to impute, as positions in ``mdata.obs_names``.
        transform_batch
            Batch, or batches to average over, whose decoder parameters are used. By default the
            cell's own batch, or the mean over the batches in which the modality was measured where
            its own batch was not among them.
        library_size
            Total per cell, one number or one per returned cell, for losses that scale cells to a
            total (counts, and ``"mse"`` of ``"log1p"`` values); by default the median of the
            modality's cells.
        calibrate
            With the loss ``"bce"``: map each feature back from [0, 1] to registered units, by a
            monotone function that agrees with the modality's cells on the mean.
        batch_size
            Cells per minibatch.
        out
            Directory ending in ``.zarr`` to write the values to as they are computed.

        Returns
        -------
        AnnData, cells x features. ``.X`` is float32: expected counts of count likelihoods,
        registered units with ``"mse"``, and [0, 1] with ``"bce"``. With `out` it stays on disk.
        ``.obs`` and ``obsm["spatial"]`` are those of the cells.

        Raises
        ------
        KeyError
            If a modality, feature or batch is unknown.
        ValueError
            If cells lack the source, if a cell's batch is unknown and `transform_batch` is not
            given, or if `library_size` or `calibrate` do not fit the modality's loss.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
        >>> model.impute("adt", source="rna").shape == (200, mdata["adt"].n_vars)
        True
        """
        return self._decoded(
            modality,
            mdata,
            source=source,
            specific=False,
            features=features,
            indices=indices,
            transform_batch=transform_batch,
            library_size=library_size,
            calibrate=calibrate,
            batch_size=batch_size,
            out=out,
        )

    @torch.inference_mode()
    def get_reconstruction(
        self,
        modality: str,
        mdata: MuData | None = None,
        *,
        space: Literal["full", "shared"] = "full",
        features: Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        calibrate: bool = False,
        batch_size: int | None = None,
        out: str | None = None,
    ) -> AnnData:
        """What a modality's own encoder and decoders make of its cells.

        Parameters
        ----------
        modality
            Modality to reconstruct.
        mdata
            Data; the model's own by default. It is not modified.
        space
            ``"full"``: from shared and specific latents. ``"shared"``: from shared latents alone;
            what is missing is what the modality keeps to itself.
        features, calibrate, batch_size, out
            As for :meth:`impute`.
        indices
            Cells, as positions in ``mdata.obs_names``, that have the modality; by default all
            that have it.

        Returns
        -------
        AnnData, cells x features, in the units of :meth:`impute`.

        Raises
        ------
        KeyError
            If the modality or a feature is unknown.
        ValueError
            If `space` is neither, or chosen cells lack the modality.

        Examples
        --------
        >>> import cantata
        >>> mdata = cantata.datasets.simulate_mosaic(n_cells=200, pairing="full")
        >>> cantata.APOLLO.setup_mudata(mdata)
        >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
        >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
        >>> model.get_reconstruction("adt", space="shared").n_obs
        200
        """
        if space not in ("full", "shared"):
            raise ValueError(f"space={space!r} is neither 'full' nor 'shared'.")
        return self._decoded(
            modality,
            mdata,
            source=modality,
            specific=space == "full",
            features=features,
            indices=indices,
            calibrate=calibrate,
            batch_size=batch_size,
            out=out,
        )

    def _decoded(
        self,
        modality: str,
        mdata: MuData | None,
        *,
        source: str | None,
        specific: bool,
        features: Sequence[str] | None,
        indices: Sequence[int] | np.ndarray | None,
        transform_batch: str | Sequence[str] | None = None,
        library_size: float | np.ndarray | None = None,
        calibrate: bool,
        batch_size: int | None,
        out: str | None,
    ) -> AnnData:
        names = self._imputed_names(modality, source, features)
        if calibrate and self.module.losses[modality] != "bce":
            raise ValueError(
                f"calibrate=True: modality {modality!r} has loss "
                f"{self.module.losses[modality]!r}, whose values are in registered units already."
            )
        cells = self._cells(mdata)  # type: ignore[attr-defined]
        chosen = self._imputed_cells(cells, source, indices)
        batches = self._batch_indices(transform_batch)
        sizes = self._sizes(modality, library_size, len(chosen))
        back = self._way_back(modality) if calibrate else None
        writer = ImputationWriter(cells, chosen, names, out, with_std=False)
        known = pd.Index(self.feature_names(modality))  # type: ignore[attr-defined]
        columns = known.get_indexer(pd.Index(names))
        for tensors in self._minibatches(cells, chosen, batch_size):  # type: ignore[attr-defined]
            n = len(tensors["cell"])
            library = None
            if sizes is not None:
                part = slice(writer.start, writer.start + n)
                library = sizes.tensor(part, self.module.device)
            shared, own, rows = self.module.encode_values(tensors)
            if source is not None:
                shared, rows = {source: shared[source]}, {source: tensors[rows_key(source)]}
            joint = self.module.joint(shared, rows, n)
            kept = own[modality] if specific else None
            weights = self._batches_of(tensors, modality, batches)
            value = self._over_batches(modality, joint, kept, tensors, weights, library)
            value = value if back is None else back.values(value)
            writer.add(value[:, columns], None, library)
        return writer.finish()

    def _over_batches(
        self,
        modality: str,
        shared: Tensor,
        specific: Tensor | None,
        tensors: dict[str, Tensor],
        weights: Tensor,
        library: Tensor | None,
    ) -> Tensor:
        """Decoded values in registered units (``"bce"``: in [0, 1]), averaged over batches."""
        codes, continuous = self.module.covariates(tensors)

        def decode(batch: int) -> Tensor:
            own = codes.clamp(min=0)
            own[:, 0] = batch
            value = self.module.decode(modality, shared, specific, (own, continuous), library)
            return self._in_units(modality, value, library)

        return mean_over_batches(weights, decode)

    def _in_units(self, modality: str, value: Tensor, library: Tensor | None) -> Tensor:
        if self.module.losses[modality] != "mse":
            return value
        layer = self.module.input(modality)
        return layer.from_standardised(value, library if layer.scales_cells else None)

    def _sizes(
        self, modality: str, choice: float | np.ndarray | None, n: int
    ) -> LibrarySize | None:
        """Library sizes, where the loss has a use for them."""
        layer, loss = self.module.input(modality), self.module.losses[modality]
        uses = self.module.head(modality).has_library or (loss == "mse" and layer.scales_cells)
        if choice is None:
            if not self.module.head(modality).has_library:
                return None
            choice = self.typical_totals_[modality]
        if not uses:
            raise ValueError(
                f"library_size={choice!r}: modality {modality!r} has loss {loss!r}. Give a "
                "number, or one per cell, for count likelihoods; leave it out otherwise."
            )
        return LibrarySize(choice, n)

    def _way_back(self, modality: str) -> _WayBack:
        """From [0, 1] to registered units, fitted on cells that have the modality."""
        cells = self._cells(None).of_modality(modality)  # type: ignore[attr-defined]
        rng = np.random.default_rng(0)
        rows = np.arange(len(cells))
        if len(rows) > MAX_CALIBRATION:
            rows = np.sort(rng.choice(rows, MAX_CALIBRATION, replace=False))
        scaled = self.get_reconstruction(modality, space="shared", indices=cells[rows]).X
        measured = row_reader(self._matrix(modality))(rows)  # type: ignore[attr-defined]
        takes_log = bool(getattr(self.module, f"takes_log_{modality}"))
        return _WayBack(scaled, measured, takes_log, self.module.device)

    typical_totals_: dict[str, float]


class _WayBack:
    """Monotone map of every feature from values in [0, 1] to registered units.

    ``x = c_j (exp(a + y b) - 0.5)``, clipped at 0, with the median floor ``a`` and range ``b`` of
    the log counts of a cell, and c_j such that means agree.
    """

    def __init__(
        self, scaled: np.ndarray, measured: np.ndarray, takes_log: bool, device: torch.device
    ) -> None:
        self.is_log = takes_log
        values = np.log(measured + 0.5) if self.is_log else measured
        self.floor = float(np.median(values.min(axis=1)))
        self.size = float(np.median(values.max(axis=1))) - self.floor
        mapped = self._mapped(torch.from_numpy(scaled)).numpy()
        if self.is_log:
            total = mapped.mean(axis=0)
            factor = np.divide(
                measured.mean(axis=0), total, out=np.zeros_like(total), where=total > 0
            )
            self.factor = torch.from_numpy(factor).to(device)
            self.shift = torch.tensor(0.0, device=device)
        else:
            self.factor = torch.tensor(1.0, device=device)
            shift = measured.mean(axis=0) - mapped.mean(axis=0)
            self.shift = torch.from_numpy(shift).to(device)

    def _mapped(self, scaled: Tensor) -> Tensor:
        t = self.floor + scaled * self.size
        return (torch.exp(t) - 0.5).clamp(min=0) if self.is_log else t

    def values(self, scaled: Tensor) -> Tensor:
        return self._mapped(scaled) * self.factor + self.shift
