"""CLUE's networks: cross-encoders, decoders, discriminator, library sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import torch
from scvi.module.base import BaseModuleClass
from torch import Tensor, nn
from torch.nn import functional

from cantata._keys import rep_key, rows_key
from cantata.model._covariates import batch_first
from cantata.nn import (
    LIKELIHOODS,
    MIN_LIBRARY,
    ComponentInput,
    CrossEncoder,
    Decoder,
    LikelihoodHead,
    mlp,
    normalised_log_counts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Fusion = Literal["mean", "poe"]
Alignment = Literal["cosine", "mse"]
Library = Literal["observed", "learned"]

MAX_READ = 512
"""Encoder inputs up to this width take part in predicting library sizes."""

MIN_FEATURES = 3
"""A modality with no more features is read as it is, not by components."""


class CLUENetwork(BaseModuleClass):
    """Cross-linked variational autoencoder with a modality discriminator.

    A cell's embedding is the concatenation of K subspaces, one per modality. The encoders of each
    modality infer all of them; the decoder of a modality sees its own subspace and the covariates.

    Parameters
    ----------
    n_features
        Features of each modality.
    n_input
        Width of the registered representation of the modalities that have one.
    likelihoods
        Name of each modality's likelihood, see :data:`cantata.nn.LIKELIHOODS`.
    n_batch, n_labels, n_categories, n_continuous
        Batches, labels (0: no classifier), categories of further covariates, continuous
        covariates.
    n_latent
        Width d of each subspace.
    n_components
        Components that encoders read of modalities without a representation; None for normalised
        log counts.
    n_hidden_encoder, n_layers_encoder, n_hidden_decoder, n_layers_decoder
        Width and depth of encoders and decoders.
    n_hidden_discriminator, n_layers_discriminator
        Width and depth of the discriminator.
    dropout_rate
        Dropout everywhere.
    fusion
        ``"mean"`` of unit samples, or product of experts (``"poe"``, eq. 6).
    alignment
        ``"cosine"``, or ``"mse"`` (eq. 9).
    normalize_latent
        Bring samples to unit length before they are fused and decoded.
    library
        ``"observed"`` totals, or ``"learned"`` from the source's counts.
    shared_first_layer
        Let the encoders of a source share their first layer.
    discriminator_batch
        Tell the discriminator the batch.
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_input: Mapping[str, int],
        likelihoods: Mapping[str, str],
        n_batch: int = 1,
        n_labels: int = 0,
        n_categories: list[int] | None = None,
        n_continuous: int = 0,
        n_latent: int = 20,
        n_components: int | None = 50,
        n_hidden_encoder: int = 256,
        n_layers_encoder: int = 2,
        n_hidden_decoder: int = 128,
        n_layers_decoder: int = 1,
        n_hidden_discriminator: int = 128,
        n_layers_discriminator: int = 2,
        dropout_rate: float = 0.2,
        fusion: Fusion = "mean",
        alignment: Alignment = "cosine",
        normalize_latent: bool = True,
        library: Library = "observed",
        shared_first_layer: bool = False,
        discriminator_batch: bool = False,
    ) -> None:
        super().__init__()
        self.modalities = list(n_features)
        self.n_features = dict(n_features)
        self.reps = set(n_input)
        self.n_batch, self.n_latent = n_batch, n_latent
        self.fusion, self.alignment, self.library = fusion, alignment, library
        self.normalize_latent, self.discriminator_batch = normalize_latent, discriminator_batch
        self.frozen = False
        covariates = n_categories or []
        k = len(self.modalities)
        self.inputs = nn.ModuleDict()
        widths = dict(n_input)
        for name, p in n_features.items():
            if n_components is not None and name not in n_input and p > MIN_FEATURES:
                widths[name] = min(n_components, p - 1)
                self.inputs[name] = ComponentInput(p, widths[name])
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for name, p in n_features.items():
            self.encoders[name] = CrossEncoder(
                widths.get(name, p),
                k,
                n_latent,
                n_hidden_encoder,
                n_layers_encoder,
                dropout_rate,
                shared_first_layer,
            )
            decoder = Decoder(
                n_latent,
                [n_batch, *covariates],
                n_continuous,
                n_hidden_decoder,
                n_layers_decoder,
                dropout_rate,
            )
            self.decoders[name] = decoder
            self.heads[name] = LIKELIHOODS[likelihoods[name]](
                decoder.n_out, p, n_batch, covariates, n_continuous
            )
        n_extra = n_batch if discriminator_batch else 0
        self.discriminator = mlp(
            k * n_latent + n_extra,
            n_hidden_discriminator,
            n_layers_discriminator,
            k,
            dropout_rate,
        )
        self.classifier = nn.Linear(k * n_latent, n_labels) if n_labels else None
        self.library_encoders = nn.ModuleDict(
            {name: nn.Linear(p, k) for name, p in n_features.items()}
            if library == "learned"
            else {}
        )
        self.library_batch: Tensor
        self.register_buffer("library_batch", torch.zeros(k, dtype=torch.long))
        for i, source in enumerate(self.modalities):
            for j, target in enumerate(self.modalities):
                read = widths.get(source, n_features[source])
                hidden = self.head(target).output.in_features
                width = k * n_latent + hidden + (read if read <= MAX_READ else 0) + 2
                self.register_buffer(f"library_{i}_{j}", torch.zeros(width))

    # What the modules below read from a minibatch -----------------------------------------------

    def head(self, modality: str) -> LikelihoodHead:
        """Likelihood head of a modality."""
        return self.heads[modality]  # type: ignore[return-value]

    def subspace(self, modality: str) -> slice:
        """Columns of the embedding that the decoder of `modality` reads."""
        k = self.modalities.index(modality)
        return slice(k * self.n_latent, (k + 1) * self.n_latent)

    def encoder_input(self, tensors: Mapping[str, Tensor], modality: str) -> Tensor:
        """Registered representation, or components, or normalised log counts, or plain values."""
        if modality in self.reps:
            return tensors[rep_key(modality)]
        values = tensors[modality]
        if modality in self.inputs:
            return self.inputs[modality](values)
        if self.head(modality).of_counts:
            return normalised_log_counts(values)
        return values

    def covariates(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """(n, 1 + c) codes with the batch first, and (n, d) continuous covariates."""
        return batch_first(tensors)

    def freeze_all_but_covariates(self) -> None:
        """Let training change the parameters of batches and covariates alone."""
        self.frozen = True
        for name, parameter in self.named_parameters():
            of_covariates = ".covariates" in name or name.startswith("heads.")
            parameter.requires_grad_(of_covariates and ".output." not in name)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode; frozen networks keep their statistics and use no dropout."""
        super().train(mode and not self.frozen)
        return self

    # Posterior ----------------------------------------------------------------------------------

    def _unit(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1) if self.normalize_latent else x

    def unit_means(self, loc: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Posterior means as the model compares them."""
        return {name: self._unit(value) for name, value in loc.items()}

    def encode(self, tensors: Mapping[str, Tensor]) -> tuple[dict, dict, dict]:
        """Posterior means and standard deviations of each modality's rows, and their places."""
        loc, scale, rows = {}, {}, {}
        for name in self.modalities:
            loc[name], scale[name] = self.encoders[name](self.encoder_input(tensors, name))
            rows[name] = tensors[rows_key(name)]
        return loc, scale, rows

    # Likelihood ---------------------------------------------------------------------------------

    def decode(self, modality: str, z: Tensor, codes: Tensor, values: Tensor | None) -> Tensor:
        """(n, p) locations of a modality from whole embeddings `z`."""
        hidden = self.decoders[modality](z[:, self.subspace(modality)], codes, values)
        return self.head(modality).location(hidden, codes, values)

    def observed_library(self, counts: Tensor) -> Tensor:
        """(n,) totals of counts, bounded away from 0."""
        return counts.sum(dim=1).clamp(min=MIN_LIBRARY)

    def learned_library(self, source: str, target: str, counts: Tensor) -> Tensor:
        """(n,) library sizes of `target` that the counts of `source` predict."""
        column = self.modalities.index(target)
        sizes = functional.relu(self.library_encoders[source](counts))
        return sizes[:, column].clamp(min=MIN_LIBRARY)

    def library_weights(self, source: str, target: str) -> Tensor:
        """Weights that predict the log library size of `target` from rows of `source`."""
        i, j = self.modalities.index(source), self.modalities.index(target)
        return getattr(self, f"library_{i}_{j}")

    def _library(
        self, source: str, target: str, source_counts: Tensor, target_counts: Tensor
    ) -> Tensor | None:
        if not self.head(target).has_library:
            return None
        if self.library == "learned":
            return self.learned_library(source, target, source_counts)
        return self.observed_library(target_counts)
