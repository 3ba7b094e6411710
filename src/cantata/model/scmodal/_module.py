"""scMODAL's network and losses: Wang et al. 2025."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from cantata._keys import CATEGORICAL, CONTINUOUS, rows_key
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
    squared_distances,
)
from cantata.nn import MLP, Covariates, EncoderInput, Transform, WeightInit, initialize_weights

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from cantata.model.scmodal._links import Pair


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


@dataclass(frozen=True)
class Variates:
    """Map from what the encoder of a modality reads to what another modality has too.

    Linked features stay beside the variates unless they are fewer than `min_linked`.
    """

    weights: Tensor
    """(n_out, variates)."""
    offset: Tensor
    """(variates,)."""
    min_linked: int

    def __call__(self, x: Tensor, linked: Tensor) -> Tensor:
        """(n, s) linked features of a minibatch, from inputs and the linked features so far."""
        variates = x.float() @ self.weights.to(x.device) + self.offset.to(x.device)
        if linked.shape[1] < self.min_linked:
            return variates
        return torch.cat([normalize(variates, dim=1), normalize(linked, dim=1)], dim=1)


class SCMODALModule(BaseModuleClass):
    """Autoencoders of all modalities and a discriminator for every linked pair.

    Parameters
    ----------
    n_features, transforms
        Features and transform of every modality.
    pairs
        Linked pairs; they form a tree.
    weight_init
        ``"torch"``'s initial weights, or ``"normal"``: all from N(0, 0.1).
    n_categories, n_continuous
        Number of categories of each categorical covariate, the batch first, and of continuous
        covariates.
    has_batch
        Whether the first covariate is the batch.

    Notes
    -----
    All other parameters are those of :class:`cantata.SCMODAL`.

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
        weight_init: WeightInit = "torch",
        n_categories: list[int] | None = None,
        n_continuous: int = 0,
        has_batch: bool = False,
    ) -> None:
        super().__init__()
        self.modalities = list(n_features)
        self.n_batch = n_categories[0] if has_batch and n_categories else 1
        self.pairs: list[Pair] = [(first, second) for first, second in pairs]
        self.n_latent, self.has_batch = n_latent, has_batch
        self.inputs, self.encoders, self.decoders = (nn.ModuleDict() for _ in range(3))
        network = partial(
            MLP,
            n_hidden=n_hidden,
            n_layers=1,
            n_categories=n_categories or (),
            n_continuous=n_continuous,
            inject_covariates=False,
            activation=nn.ReLU(),
        )
        for name, p in n_features.items():
            rotate = n_components is not None and p > n_components
            width, known = n_components if rotate else None, self.n_batch if has_batch else None
            layer = EncoderInput(p, transforms[name], width, n_batch=known)
            self.inputs[name] = layer
            self.encoders[name] = network(layer.n_out, n_out=n_latent)
            self.decoders[name] = network(n_latent, n_out=layer.n_out)
        self.discriminators = nn.ModuleDict()
        for pair in self.pairs:
            self.discriminators[pair_name(pair)] = MLP(
                n_latent,
                n_hidden_discriminator,
                n_layers_discriminator,
                1,
                n_categories=[self.n_batch] if has_batch else (),
                inject_covariates=False,
                activation=nn.ReLU(),
            )
        for part in (self.encoders, self.decoders, self.discriminators):
            initialize_weights(part, weight_init)

    def input(self, modality: str) -> EncoderInput:
        """Standardisation of a modality."""
        return cast("EncoderInput", self.inputs[modality])

    # From registered values ---------------------------------------------------------------------

    def encode(
        self, tensors: Mapping[str, Tensor], modality: str | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Embeddings of every modality's rows in a minibatch of cells, and their positions.

        With a `modality` only its own.
        """
        z, rows = {}, {}
        covariates = self.covariates(tensors)
        for name in self.modalities if modality is None else [modality]:
            rows[name] = tensors[rows_key(name)]
            own = covariates.rows(rows[name])
            x = self.inputs[name](tensors[name], own.batch if self.has_batch else None)
            z[name] = self.encoders[name](x, own)
        return z, rows

    def covariates(self, tensors: Mapping[str, Tensor]) -> Covariates:
        """Covariates of a minibatch of cells; without registered batches none for the batch."""
        return Covariates.of(tensors, default_batch=self.has_batch)

    def joint(self, z: Mapping[str, Tensor], rows: Mapping[str, Tensor], n: int) -> Tensor:
        """(n, q) mean of the embeddings over the modalities that a cell has."""
        return mean_over_modalities(dict(z), dict(rows), n)

    def translate(self, z: Tensor, via: Sequence[str], covariates: Covariates) -> Tensor:
        """Embeddings decoded to each modality of a path in turn and encoded again."""
        for name in via:
            z = self.encoders[name](self.decoders[name](z, covariates), covariates)
        return z

    def decode(
        self, modality: str, z: Tensor, covariates: Covariates, library: Tensor | None = None
    ) -> Tensor:
        """(n, p) values of a modality, in registered units."""
        x = self.decoders[modality](z, covariates)
        batch = covariates.batch if self.has_batch else None
        return self.input(modality).inverse(x, library, batch)

    # Training -----------------------------------------------------------------------------------

    def inference(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(n, q) embeddings of a training minibatch, whose values are standardised already."""
        return {
            name: self.encoders[name](batch[name], training_covariates(batch, name))
            for name in self.modalities
            if name in batch
        }

    def generative(
        self, batch: Mapping[str, Tensor], z: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """(n, n_out) reconstructions of a training minibatch from its embeddings."""
        return {
            name: self.decoders[name](embedding, training_covariates(batch, name))
            for name, embedding in z.items()
        }

    def present_pairs(self, z: Container[str]) -> list[Pair]:
        """Linked pairs of which both modalities are in a minibatch."""
        return [pair for pair in self.pairs if pair[0] in z and pair[1] in z]

    def discriminator_loss(
        self, batch: Mapping[str, Tensor], z: Mapping[str, Tensor], pair: Pair
    ) -> Tensor:
        """Loss of the discriminator of a pair, eq. 1.

        It is told the batch of cells where both modalities have cells of it in the minibatch, so
        that modalities are mixed within batches, whose compositions may differ.
        """
        discriminate = self.discriminators[pair_name(pair)]
        codes: list[Tensor | None] = [None, None]
        if self.has_batch:
            own = [training_covariates(batch, name).batch for name in pair]
            codes = [torch.where(torch.isin(a, b), a, -1)[:, None] for a, b in (own, own[::-1])]
        first, second = (
            discriminate(z[name], Covariates(code, None)).squeeze(1).float()
            for name, code in zip(pair, codes, strict=True)
        )
        return pair_discriminator_loss(first, second)

    def loss(
        self,
        batch: Mapping[str, Tensor],
        z: Mapping[str, Tensor],
        decoded: Mapping[str, Tensor],
        weights: LossWeights,
        *,
        n_neighbors: int,
        anchor_factors: Mapping[Pair, float] | None = None,
        min_linked: int = 1,
        variates: Mapping[Pair, Variates] | None = None,
    ) -> LossOutput:
        """Objective of encoders and decoders, Wang et al. 2025, eq. 7.

        Parameters
        ----------
        batch
            Training minibatch: standardised values, linked features, covariates.
        z, decoded
            Its embeddings and reconstructions, from :meth:`inference` and :meth:`generative`.
        weights
            Weights of the terms; a term of weight 0 is not computed.
        n_neighbors
            Neighbours among which anchors are mutual.
        anchor_factors
            By how much more the anchors of a pair weigh; 1 by default.
        min_linked
            Pairs with fewer linked features have no linked term.
        variates
            For ordered pairs, what makes refined linked features of linked ones.
        """
        # 1. terms by kind and by modality or pair; the order of computation fixes rounding
        terms: dict[tuple[str, str], Tensor] = {}
        n_anchors: dict[str, Tensor] = {}
        for name, embedding in z.items():
            x, p = batch[name], self.input(name).n_used
            terms["reconstruction", name] = reconstruction_loss(x, decoded[name].float(), p)
            if weights.lambda_geo:
                with full_precision(embedding):
                    of_values = gaussian_kernel(x.float(), p)
                    of_embedding = gaussian_kernel(embedding.float(), self.n_latent)
                    terms["geometry", name] = geometry_loss(of_values, of_embedding)
        for pair in self.present_pairs(z):
            label, ways = pair_name(pair), (pair, pair[::-1])
            if weights.lambda_gan:
                terms["discriminator", label] = self.discriminator_loss(batch, z, pair)
            if weights.lambda_cycle:
                there, back = (self._cycle(batch, z, *way) for way in ways)
                terms["cycle", label] = there + back
            with full_precision(z[pair[0]]):
                first, second = (z[name].float() for name in pair)
                a, b = (_linked_features(batch, way, variates or {}) for way in ways)
                if weights.lambda_anchor:
                    anchors = mutual_neighbors(a, b, n_neighbors)
                    terms["anchor", label] = anchor_loss(first, second, anchors)
                    n_anchors[f"n_anchors_{label}"] = anchors.sum().float()
                if weights.lambda_linked and a.shape[1] >= min_linked:
                    terms["linked", label] = linked_loss(first, second, a, b)
                if weights.lambda_paired:
                    same = batch[paired_key(*pair)]
                    terms["paired", label] = paired_loss(first[same[0]], second[same[1]])
        # 2. their weights
        of_kind = {
            "reconstruction": weights.lambda_ae,
            "geometry": weights.lambda_geo,
            "discriminator": -weights.lambda_gan,
            "cycle": weights.lambda_cycle,
            "anchor": weights.lambda_anchor,
            "linked": weights.lambda_linked,
            "paired": weights.lambda_paired,
        }
        factors = {("anchor", pair_name(pair)): f for pair, f in (anchor_factors or {}).items()}
        like = next(iter(z.values()))
        total = like.new_zeros((), dtype=torch.float32)
        for (kind, label), value in terms.items():
            total = total + of_kind[kind] * factors.get((kind, label), 1.0) * value
        named = {f"{kind}_{label}": value for (kind, label), value in terms.items()}
        metrics = named | n_anchors | {"objective": total}
        return LossOutput(loss=total, n_obs_minibatch=len(like), extra_metrics=metrics)

    @torch.no_grad()
    def consistency(
        self, batch: Mapping[str, Tensor], z: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Of each pair in a minibatch, the agreement that :func:`link_consistency` measures."""
        found = {}
        for first, second in self.present_pairs(z):
            with full_precision(z[first]):
                embeddings = z[first].float(), z[second].float()
                links = (batch[linked_key(*way)] for way in ((first, second), (second, first)))
                found[consistency_name((first, second))] = link_consistency(*embeddings, *links)
        return found

    def _cycle(
        self, batch: Mapping[str, Tensor], z: Mapping[str, Tensor], name: str, other: str
    ) -> Tensor:
        """Embeddings of one modality through the decoder and encoder of another."""
        cycled = self.translate(z[name], [other], training_covariates(batch, name))
        return cycle_loss(z[name].float(), cycled.float())


def _linked_features(
    batch: Mapping[str, Tensor], way: Pair, variates: Mapping[Pair, Variates]
) -> Tensor:
    """(n, s) features that a modality has in common with another: linked, or refined ones."""
    linked = batch[linked_key(*way)]
    return variates[way](batch[way[0]], linked) if way in variates else linked


NEIGHBOR_SHARE = 0.04
"""Share of a minibatch's cells that are near to a cell."""


def link_consistency(z_a: Tensor, z_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """How well near cells of two modalities agree in linked features, beside those of one.

    The mean cosine between the linked features of a cell and their mean over the 4 % of cells of
    the other modality that are nearest to it in the embedding, divided by the same within its own
    modality. The second is what depth and noise allow, so that right links come close to 1.
    Beyond the paper; GLUE (Cao and Gao 2022) has a score with the same purpose.

    Parameters
    ----------
    z_a, z_b
        (n, q) and (m, q) embeddings.
    a, b
        (n, s) and (m, s) linked features; column j of both is link j.

    Examples
    --------
    >>> z = torch.linspace(0, 1, 100)[:, None]
    >>> links = torch.cat([z.cos(), z.sin()], dim=1)
    >>> bool(link_consistency(z, z, links, links) > 0.99)
    True
    >>> bool(link_consistency(z, z, links, -links) < -0.99)
    True
    """
    across = torch.cat([_agreement(z_a, z_b, a, b), _agreement(z_b, z_a, b, a)])
    within = torch.cat([_agreement(z_a, z_a, a, a), _agreement(z_b, z_b, b, b)])
    return across.mean() / within.mean().clamp(min=0.01)


def _agreement(z: Tensor, other: Tensor, own: Tensor, linked: Tensor) -> Tensor:
    """(n,) cosines of the linked features of cells with the mean of those of near cells."""
    distances = squared_distances(z, other)
    if z is other:
        distances = distances + torch.diag(torch.full_like(distances[0], torch.inf))
    k = max(1, int(NEIGHBOR_SHARE * len(other)))
    near = distances.topk(min(k, len(other)), dim=1, largest=False).indices
    return cosine_similarity(own, linked[near].mean(dim=1), dim=1)


def pair_name(pair: Pair) -> str:
    """Name of a pair in the history, e.g. ``"rna_adt"``."""
    return "_".join(pair)


def consistency_name(pair: Pair) -> str:
    """Name of the consistency of a pair's links in the history."""
    return f"consistency_{pair_name(pair)}"


def linked_key(modality: str, other: str) -> str:
    """Name of the tensor with a modality's features that are linked to another modality."""
    return f"{modality}_linked_{other}"


def covariates_key(modality: str, kind: str) -> str:
    """Name of the tensor with the covariates of a modality's rows in a training minibatch."""
    return f"{modality}_{kind}"


def training_covariates(batch: Mapping[str, Tensor], modality: str) -> Covariates:
    """Covariates of a modality's rows in a training minibatch."""
    return Covariates(
        batch.get(covariates_key(modality, CATEGORICAL)),
        batch.get(covariates_key(modality, CONTINUOUS)),
    )


def full_precision(like: Tensor) -> torch.autocast:
    """Switch autocast off: differences of squared lengths need single precision."""
    return torch.autocast(like.device.type, enabled=False)
