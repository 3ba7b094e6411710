"""scMODAL's network and losses: Wang et al. 2025."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn

from cantata._keys import BATCH, CATEGORICAL, CONTINUOUS, rows_key
from cantata.data import paired_key
from cantata.losses import (
    anchor_loss,
    cycle_loss,
    gaussian_kernel,
    geometry_loss,
    linked_loss,
    mean_over_modalities,
    mutual_neighbors,
    pair_discriminator_loss,
    paired_loss,
    reconstruction_loss,
)
from cantata.nn import FeatureInput, Perceptron, Start, Transform, initialise

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from cantata.model.scmodal._variates import Variates

Pair = tuple[str, str]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss, Wang et al. 2025, eq. 7.

    Examples
    --------
    >>> LossWeights(lambda_geo=10.0).lambda_geo
    10.0
    """

    lambda_gan: float = 1.0
    """Adversarial term, eq. 1; the paper has no symbol for it."""
    lambda_ae: float = 10.0
    """Reconstruction, first part of eq. 2."""
    lambda_cycle: float = 10.0
    """Latent cycle, second part of eq. 2; the paper weighs both parts by lambda_AE."""
    lambda_anchor: float = 5.0
    """Anchors on linked features, eq. 3, as a mean over pairs; ten times as much for a pair whose
    linked features are joint components of many links, which are the better guide."""
    lambda_linked: float = 5.0
    """Linked features that one linear map reads off the embeddings of both modalities; left out
    of a pair with fewer linked columns than latents. Beyond the paper, 0 restores it."""
    lambda_geo: float = 10.0
    """Geometry, eq. 6."""
    lambda_paired: float = 0.0
    """Cells measured in two modalities as anchors; beyond the paper."""


@dataclass
class Covariates:
    """Covariates of the rows of one modality."""

    codes: Tensor | None
    values: Tensor | None


class SCMODALModule(BaseModuleClass):
    """Autoencoders of all modalities and a discriminator for every linked pair.

    Parameters
    ----------
    n_features
        Features of every modality.
    transforms
        Transform of every modality.
    pairs
        Linked pairs; they form a tree.
    n_latent
        Width q of the latent space.
    n_components
        Modalities with more features are rotated to so many components; None for no rotation.
    n_hidden
        Width of the hidden layer of encoders and decoders.
    n_hidden_discriminator, n_layers_discriminator
        Width and number of hidden layers of the discriminators.
    start
        ``"torch"``'s initial weights, or ``"normal"``: all from N(0, 0.1).
    n_categories
        Number of categories of each categorical covariate, the batch first.
    n_continuous
        Number of continuous covariates.
    has_batch
        Whether the first covariate is the batch.

    Examples
    --------
    >>> module = SCMODALModule(
    ...     {"rna": 30, "adt": 5}, {"rna": "log1p", "adt": "log1p"}, [("rna", "adt")]
    ... )
    >>> module.inputs["rna"].n_out
    30
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        transforms: Mapping[str, Transform],
        pairs: Sequence[Pair],
        n_latent: int = 20,
        n_components: int | None = 100,
        n_hidden: int = 512,
        n_hidden_discriminator: int = 128,
        n_layers_discriminator: int = 2,
        start: Start = "torch",
        n_categories: list[int] | None = None,
        n_continuous: int = 0,
        has_batch: bool = False,
    ) -> None:
        super().__init__()
        self.modalities = list(n_features)
        self.n_batch = n_categories[0] if has_batch and n_categories else 1
        self.pairs: list[Pair] = [(first, second) for first, second in pairs]
        self.n_latent = n_latent
        self.anchor_factors = dict.fromkeys(map(pair_name, self.pairs), 1.0)
        self.least_linked = 1
        self.variates: dict[Pair, Variates] = {}
        self.inputs = nn.ModuleDict()
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        covariates = (n_categories, n_continuous)
        for name, p in n_features.items():
            rotate = n_components is not None and p > n_components
            layer = FeatureInput(p, transforms[name], n_components if rotate else None)
            self.inputs[name], width = layer, layer.n_out
            self.encoders[name] = Perceptron(width, n_hidden, 1, n_latent, *covariates)
            self.decoders[name] = Perceptron(n_latent, n_hidden, 1, width, *covariates)
        self.discriminators = nn.ModuleDict(
            {
                pair_name(pair): Perceptron(
                    n_latent, n_hidden_discriminator, n_layers_discriminator, 1
                )
                for pair in self.pairs
            }
        )
        for part in (self.encoders, self.decoders, self.discriminators):
            initialise(part, start)

    def input(self, modality: str) -> FeatureInput:
        """Standardisation of a modality."""
        return cast("FeatureInput", self.inputs[modality])

    def freeze_all_but_covariates(self) -> None:
        """Let training change the parameters of covariates alone, and those of discriminators."""
        for name, parameter in self.named_parameters():
            if not name.startswith("discriminators."):
                parameter.requires_grad_(".covariates." in name)

    # From registered values ---------------------------------------------------------------------

    def encode(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Embeddings of the rows of every modality in a minibatch of cells, and their places."""
        z, rows = {}, {}
        for name in self.modalities:
            rows[name] = tensors[rows_key(name)]
            own = covariates_of(tensors, rows[name])
            z[name] = self.encoders[name](self.inputs[name](tensors[name]), own.codes, own.values)
        return z, rows

    def joint(self, z: Mapping[str, Tensor], rows: Mapping[str, Tensor], n: int) -> Tensor:
        """(n, q) mean of the embeddings over the modalities that a cell has."""
        return mean_over_modalities(dict(z), dict(rows), n)

    def translate(self, z: Tensor, via: Sequence[str], covariates: Covariates) -> Tensor:
        """Embeddings decoded to each modality of a path in turn and encoded again."""
        for name in via:
            decoded = self.decoders[name](z, covariates.codes, covariates.values)
            z = self.encoders[name](decoded, covariates.codes, covariates.values)
        return z

    def decode(
        self, modality: str, z: Tensor, covariates: Covariates, library: Tensor | None = None
    ) -> Tensor:
        """(n, p) values of a modality, in registered units."""
        x = self.decoders[modality](z, covariates.codes, covariates.values)
        return self.input(modality).inverse(x, library)

    # Losses -------------------------------------------------------------------------------------

    def embed(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings of a training minibatch, whose values are standardised already."""
        z = {}
        for name in self.modalities:
            if name in batch:
                own = training_covariates(batch, name)
                z[name] = self.encoders[name](batch[name], own.codes, own.values)
        return z

    def present_pairs(self, z: Container[str]) -> list[Pair]:
        """Linked pairs of which both modalities are in a minibatch."""
        return [pair for pair in self.pairs if pair[0] in z and pair[1] in z]

    def discriminator_loss(self, z: Mapping[str, Tensor], pair: Pair) -> Tensor:
        """Loss of the discriminator of a pair, eq. 1."""
        discriminate = self.discriminators[pair_name(pair)]
        first, second = (discriminate(z[name]).squeeze(1).float() for name in pair)
        return pair_discriminator_loss(first, second)

    def loss(
        self,
        batch: Mapping[str, Tensor],
        z: Mapping[str, Tensor],
        weights: LossWeights,
        n_neighbors: int,
    ) -> LossOutput:
        """Objective of encoders and decoders, Wang et al. 2025, eq. 7.

        Parameters
        ----------
        batch
            Training minibatch: standardised values, linked features, covariates.
        z
            Its embeddings, from :meth:`embed`.
        weights
            Weights of the terms.
        n_neighbors
            Neighbours among which anchors are mutual.
        """
        terms: dict[str, Tensor] = {}
        total = next(iter(z.values())).new_zeros((), dtype=torch.float32)
        for name in z:
            total = total + self._own_terms(batch, z, name, weights, terms)
        for pair in self.present_pairs(z):
            total = total + self._pair_terms(batch, z, pair, weights, n_neighbors, terms)
        terms["objective"] = total
        size = len(next(iter(z.values())))
        return LossOutput(loss=total, n_obs_minibatch=size, extra_metrics=terms)

    def _own_terms(
        self,
        batch: Mapping[str, Tensor],
        z: Mapping[str, Tensor],
        name: str,
        weights: LossWeights,
        terms: dict[str, Tensor],
    ) -> Tensor:
        """Reconstruction and geometry of one modality."""
        own = training_covariates(batch, name)
        width = self.input(name).n_used
        decoded = self.decoders[name](z[name], own.codes, own.values)
        terms[f"reconstruction_{name}"] = reconstruction_loss(batch[name], decoded.float(), width)
        total = weights.lambda_ae * terms[f"reconstruction_{name}"]
        if weights.lambda_geo:
            with full_precision(z[name]):
                terms[f"geometry_{name}"] = geometry_loss(
                    gaussian_kernel(batch[name].float(), width),
                    gaussian_kernel(z[name].float(), self.n_latent),
                )
            total = total + weights.lambda_geo * terms[f"geometry_{name}"]
        return total

    def _pair_terms(
        self,
        batch: Mapping[str, Tensor],
        z: Mapping[str, Tensor],
        pair: Pair,
        weights: LossWeights,
        n_neighbors: int,
        terms: dict[str, Tensor],
    ) -> Tensor:
        """Adversarial term, latent cycle, anchors and linked features of a pair."""
        label = pair_name(pair)
        total = next(iter(z.values())).new_zeros((), dtype=torch.float32)
        if weights.lambda_gan:
            terms[f"discriminator_{label}"] = self.discriminator_loss(z, pair)
            total = total - weights.lambda_gan * terms[f"discriminator_{label}"]
        if weights.lambda_cycle:
            terms[f"cycle_{label}"] = self._cycle(batch, z, *pair) + self._cycle(
                batch, z, *pair[::-1]
            )
            total = total + weights.lambda_cycle * terms[f"cycle_{label}"]
        with full_precision(z[pair[0]]):
            first, second = (z[name].float() for name in pair)
            a, b = (self._linked(batch, *way) for way in (pair, pair[::-1]))
            if weights.lambda_anchor:
                anchors = mutual_neighbors(a, b, n_neighbors)
                terms[f"anchor_{label}"] = anchor_loss(first, second, anchors)
                terms[f"n_anchors_{label}"] = anchors.sum().float()
                weight = weights.lambda_anchor * self.anchor_factors[label]
                total = total + weight * terms[f"anchor_{label}"]
            if weights.lambda_linked and a.shape[1] >= self.least_linked:
                terms[f"linked_{label}"] = linked_loss(first, second, a, b)
                total = total + weights.lambda_linked * terms[f"linked_{label}"]
            if weights.lambda_paired:
                same = batch[paired_key(*pair)]
                terms[f"paired_{label}"] = paired_loss(first[same[0]], second[same[1]])
                total = total + weights.lambda_paired * terms[f"paired_{label}"]
        return total

    def _linked(self, batch: Mapping[str, Tensor], name: str, other: str) -> Tensor:
        """Features that a modality has in common with another: linked, or refined ones."""
        linked = batch[linked_key(name, other)]
        variates = self.variates.get((name, other))
        return linked if variates is None else variates(batch[name], linked)

    def _cycle(
        self, batch: Mapping[str, Tensor], z: Mapping[str, Tensor], name: str, other: str
    ) -> Tensor:
        """Embeddings of one modality through the decoder and encoder of another."""
        cycled = self.translate(z[name], [other], training_covariates(batch, name))
        return cycle_loss(z[name].float(), cycled.float())


def pair_name(pair: Pair) -> str:
    """Name of a pair in the history, e.g. ``"rna_adt"``."""
    return "_".join(pair)


def linked_key(modality: str, other: str) -> str:
    """Name of the tensor with a modality's features that are linked to another modality."""
    return f"{modality}_linked_{other}"


def covariates_key(modality: str, kind: str) -> str:
    """Name of the tensor with the covariates of a modality's rows in a training minibatch."""
    return f"{modality}_{kind}"


def covariates_of(tensors: Mapping[str, Tensor], rows: Tensor | slice) -> Covariates:
    """Covariates of some of the cells of a minibatch of cells, the batch first."""
    codes = [tensors[BATCH].unsqueeze(1)] if BATCH in tensors else []
    if CATEGORICAL in tensors:
        codes.append(tensors[CATEGORICAL])
    values = tensors.get(CONTINUOUS)
    return Covariates(
        torch.cat(codes, dim=1)[rows] if codes else None,
        None if values is None else values[rows],
    )


def training_covariates(batch: Mapping[str, Tensor], modality: str) -> Covariates:
    """Covariates of a modality's rows in a training minibatch."""
    return Covariates(
        batch.get(covariates_key(modality, CATEGORICAL)),
        batch.get(covariates_key(modality, CONTINUOUS)),
    )


def full_precision(like: Tensor) -> torch.autocast:
    """Switch autocast off: differences of squared lengths need single precision."""
    return torch.autocast(like.device.type, enabled=False)
