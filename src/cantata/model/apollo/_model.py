"""APOLLO for users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from cantata._mudata.checks import check_counts, per_modality
from cantata._mudata.pairing import membership
from cantata._numeric.normalise import row_sums
from cantata.model._feature_inputs import check_components, fit_input, resolve_transforms
from cantata.model._impute_targets import measured_batches
from cantata.model._pairing import check_linked
from cantata.model._sample import sampled_rows
from cantata.model.apollo._impute import ImputeMixin
from cantata.model.apollo._latents import LatentsMixin
from cantata.model.apollo._module import APOLLOModule
from cantata.model.apollo._presets import PRESETS
from cantata.model.apollo._stages import StagesMixin
from cantata.model.base import MosaicModelClass
from cantata.nn import LOSSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudata import MuData

MAX_POS_WEIGHT = 50.0


class APOLLO(StagesMixin, LatentsMixin, ImputeMixin, MosaicModelClass):
    """Latents that paired modalities share, and latents that each keeps to itself.

    In the first stage the latents of every training cell are parameters: shared ones, and
    specific ones of each modality. They are optimised together with decoders, of which one reads
    a modality's shared and specific latents with noise, and another the shared ones alone. In the
    second stage encoders are regressed on these latents, one for each modality, which take new
    cells.

    Source: Zhang et al. 2026, APOLLO: partially shared latent spaces by latent optimisation.
    Beyond the paper, latents start from canonical variates and from what these leave, specific
    latents are kept independent of the shared ones, and cells may lack modalities.

    Parameters
    ----------
    mdata
        MuData registered with :meth:`setup_mudata`.
    n_shared
        Width of the shared latents.
    n_specific
        Width of the specific latents, of all modalities or of each; 0 for none.
    losses
        Loss of all modalities or of each: ``"bce"``, the cross-entropy of every cell's log counts
        scaled to [0, 1] (of its values, where some are negative); ``"mse"``, the squared error of
        standardised values; or a likelihood of counts: ``"nb"``, ``"zinb"``, ``"poisson"``,
        ``"bernoulli"``, ``"normal"``.
    transforms
        Transform of what encoders read, and of what ``"mse"`` compares, of all modalities or of
        each, as for :class:`cantata.SCMODAL`.
    n_components
        Encoders of modalities with more features read so many principal components (latent
        semantic components of chromatin), fitted in training and kept. None: encoders read what
        is decoded, as in the paper.
    n_hidden, n_layers
        Width and number of hidden layers of each decoder.
    n_hidden_encoder, n_layers_encoder
        Width and number of hidden layers of each encoder.
    dropout
        Dropout rate of all hidden layers.
    shared_decoders
        Have decoders that read shared latents alone.
    noise
        Standard deviation of the noise on latents in the first stage.
    learn_noise
        Learn the noise of every latent of every cell instead, from 1: its uncertainty, see
        :meth:`get_latent_table`.
    start
        ``"canonical"``: canonical variates of the modalities' components, and principal
        components of what these leave. ``"normal"``: N(0, 1), as in the paper.

    Raises
    ------
    ValueError
        If a width is not positive, a loss or transform is unknown or does not fit the values, or
        no cell has two modalities.
    KeyError
        If a mapping names an unknown modality.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=300, pairing="full")
    >>> cantata.APOLLO.setup_mudata(mdata)
    >>> model = cantata.APOLLO(mdata, n_shared=8, n_specific=4)
    >>> model.train(max_epochs=2, encoder_epochs=2, enable_progress_bar=False)
    >>> model.get_latent_representation().shape
    (300, 8)
    """

    method = "apollo"
    _reads_reps = False
    presets: ClassVar = PRESETS
    """Published settings: ``APOLLO(mdata, **presets["published"]["model"])`` and
    ``model.train(**presets["published"]["train"])``."""
    _module_cls = APOLLOModule

    def __init__(
        self,
        mdata: MuData,
        n_shared: int = 50,
        n_specific: int | Mapping[str, int] = 20,
        losses: str | Mapping[str, str] = "bce",
        transforms: str | Mapping[str, str | None] | None = "auto",
        *,
        n_components: int | None = 100,
        n_hidden: int = 128,
        n_layers: int = 1,
        n_hidden_encoder: int = 128,
        n_layers_encoder: int = 2,
        dropout: float = 0.01,
        shared_decoders: bool = True,
        noise: float = 1.0,
        learn_noise: bool = False,
        start: Literal["canonical", "normal"] = "canonical",
    ) -> None:
        self.init_params_ = {
            "kwargs": {},
            "non_kwargs": {
                k: v for k, v in locals().items() if k not in ("self", "mdata", "__class__")
            },
        }
        if start not in ("canonical", "normal"):
            raise ValueError(f"start={start!r} is neither 'canonical' nor 'normal'.")
        super().__init__(mdata)
        named = per_modality("losses", losses, self.modalities, "bce")
        widths = per_modality("n_specific", n_specific, self.modalities, 20)
        _check_widths(n_shared, widths)
        self._check_losses(named)
        resolved = resolve_transforms(
            transforms,
            {name: mdata[name] for name in self.modalities},
            self.adata_manager.matrix_stats,
            rotates=n_components is not None,
        )
        n_features = {name: len(self.feature_names(name)) for name in self.modalities}
        check_components(resolved, n_features, n_components)
        given = self.init_params_["non_kwargs"]
        # a query, or data that a model is loaded with, may tell less than the reference did
        given["transforms"] = {n: None if t == "identity" else t for n, t in resolved.items()}
        arguments = {k: v for k, v in given.items() if k != "start"}
        self.module = APOLLOModule(
            n_features=n_features,
            n_batch=max(1, len(self.batch_categories)),
            n_categories=self._n_categories(),
            n_continuous=len(self.setup_args["continuous_covariate_keys"]),
            **arguments | {"transforms": resolved, "losses": named, "n_specific": widths},
        )
        self.start_ = start
        self.has_inputs_ = False
        self.table_cells_ = np.array([], dtype=str)
        self.table_members_: dict[str, np.ndarray] = {}
        self.typical_totals_: dict[str, float] = {}
        self.measured_batches_ = measured_batches(
            self.adata_manager, self.modalities, self.module.n_batch
        )
        self._model_summary_string = self.summary()

    def _check_losses(self, losses: Mapping[str, str]) -> None:
        """Checks that need the losses or the pairing; see the class for what is raised."""
        unknown = {name: value for name, value in losses.items() if value not in LOSSES}
        if unknown:
            raise ValueError(f"Unknown losses {unknown}; choose from {sorted(LOSSES)}.")
        if getattr(self.adata_manager, "_source_registry", None) is None:
            check_linked(membership(self.adata, self.modalities), self.modalities, "APOLLO")
        for name, loss in losses.items():
            if LOSSES[loss].is_count and self.adata[name].n_obs:
                check_counts(name, self.adata_manager.matrix_stats[name], loss)

    # Inputs -------------------------------------------------------------------------------------

    def _fit_inputs(self) -> None:
        """Standardisation, components and weights of the losses, once."""
        if self.has_inputs_:
            return
        for name in self.modalities:
            n_obs = self.adata[name].n_obs
            values = sampled_rows(self._matrix(name), n_obs)
            fit_input(name, self.module.input(name), values, values.shape[0])
            if self.module.losses[name] == "bce":
                self.module.set_takes_log(
                    name, not self.adata_manager.matrix_stats[name].n_negative
                )
                n_positive = values.nnz if hasattr(values, "nnz") else np.count_nonzero(values)
                size = values.shape[0] * values.shape[1]
                weight = (size - n_positive) / max(n_positive, 1)
                self.module.set_pos_weight(name, float(np.clip(weight, 1, MAX_POS_WEIGHT)))
            self.typical_totals_[name] = float(np.median(row_sums(values)))
        self.has_inputs_ = True

    def _adopt(self, reference: Any) -> None:
        super()._adopt(reference)
        self.typical_totals_ = dict(reference.typical_totals_)

    def _reconstruct(self, modality: str, mdata: MuData | None) -> np.ndarray:
        cells = self._cells(mdata).of_modality(modality)
        return self.get_reconstruction(modality, mdata, indices=cells).X


def _check_widths(n_shared: int, n_specific: Mapping[str, int]) -> None:
    if n_shared < 1:
        raise ValueError(f"n_shared={n_shared}: give at least 1.")
    negative = {name: width for name, width in n_specific.items() if width < 0}
    if negative:
        raise ValueError(f"n_specific={negative}: give at least 0.")
