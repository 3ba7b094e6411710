"""CLUE's networks, likelihoods and objective (Tu et al. 2022, sections 4.1 to 4.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn
from torch.nn import functional

from cantata._keys import CELL, LABELS, rep_key, rows_key
from cantata._numeric.normalise import RNA_TOTAL
from cantata.losses import (
    SparseValues,
    contrastive,
    cosine_to_fused,
    fuse_mean,
    kl_to_standard_normal,
    mean_over_modalities,
    modality_count,
    modality_cross_entropy,
    paired_rows,
    product_of_experts,
    squared_to_fused,
)
from cantata.nn import (
    LIKELIHOODS,
    MIN_LIBRARY,
    MLP,
    Covariates,
    CrossEncoder,
    EncoderInput,
    LikelihoodHead,
    sparse_product,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cantata.nn import Transform

Start = Literal["canonical", "random"]
Fusion = Literal["mean", "poe"]
Alignment = Literal["cosine", "mse"]
Library = Literal["observed", "learned"]
DiscriminatorInput = Literal["mean", "sample"]

ALIGNMENTS = {"cosine": cosine_to_fused, "mse": squared_to_fused}
MIN_FEATURES = 3
"""A modality with no more features is read as it is, not by components."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of CLUE's objective (equation 15)."""

    lambda_self: float = 1.0
    """Self-linked ELBO (equation 5)."""
    lambda_kl: float = 1.0
    """Divergence from the prior inside the ELBOs (equation 3)."""
    lambda_cross: float = 2.0
    """Cross-linked ELBO (equation 8)."""
    lambda_real_cross: float = 1.0
    """Decoding a modality from another one alone; not in the paper."""
    lambda_mse: float = 1.0
    """Closeness of a cell's embeddings (equation 9)."""
    lambda_d: float = 2.0
    """Modality discriminator (equation 12)."""
    lambda_contrastive: float = 1.0
    """Finding a cell among those of another modality; not in the paper."""
    lambda_residual: float = 0.003
    """Squared length of what networks add to canonical variates; not in the paper."""
    lambda_label: float = 0.02
    """Label classifier, where labels are registered."""


@dataclass
class Inference:
    """Posteriors of a minibatch's cells."""

    loc: dict[str, Tensor]
    """For each modality (n_m, K * d) posterior means."""
    scale: dict[str, Tensor]
    """For each modality (n_m, K * d) posterior standard deviations."""
    added: dict[str, Tensor]
    """For each modality (n_m, K * d) what its network says of the means, before its share."""
    samples: dict[str, Tensor]
    """For each modality (n_m, K * d) samples, unit vectors where the latent is normalised."""
    rows: dict[str, Tensor]
    """For each modality (n_m,) positions of its rows in the minibatch."""
    fused: Tensor
    """(n, K * d) fused sample of each cell."""
    fused_loc: Tensor | None
    """(n, K * d) mean of the product of experts, with that fusion."""
    fused_scale: Tensor | None
    """(n, K * d) standard deviation of the product of experts, with that fusion."""


@dataclass
class _Pass:
    """Rows of a modality that are decoded from some embeddings."""

    term: Literal["self", "cross", "real_cross"]
    z: Tensor
    """(n, K * d) embeddings."""
    rows: Tensor
    """(n,) rows of the modality."""
    source: str
    """Modality of the embeddings."""
    source_rows: Tensor
    """(n,) its rows."""

    def taken(self, at: Tensor) -> _Pass:
        """Some of its rows."""
        return replace(self, z=self.z[at], rows=self.rows[at], source_rows=self.source_rows[at])


class CLUEModule(BaseModuleClass):
    """Cross-linked variational autoencoder, trained against its modality discriminator.

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
    library
        ``"observed"`` totals, or ``"learned"`` from the source's counts.
    discriminator_batch
        Tell the discriminator the batch.
    discriminator_input
        What the discriminator sees: posterior ``"mean"`` with noise, as in the reference
        implementation, or the ``"sample"``, without further noise (eq. 12).

    Notes
    -----
    All other parameters are those of :class:`cantata.CLUE`.
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
        start: Start = "canonical",
        discriminator_batch: bool = False,
        discriminator_input: DiscriminatorInput = "mean",
    ) -> None:
        super().__init__()
        self.modalities = list(n_features)
        self.n_features = dict(n_features)
        self.reps = set(n_input)
        self.n_batch, self.n_latent = n_batch, n_latent
        self.fusion, self.alignment, self.library = fusion, alignment, library
        self.normalize_latent = normalize_latent
        self.start, self.discriminator_batch = start, discriminator_batch
        self.discriminator_input = discriminator_input
        covariates = n_categories or []
        k = len(self.modalities)
        self.inputs = nn.ModuleDict()
        widths = dict(n_input)
        for name, p in n_features.items():
            if name in n_input:
                continue
            # what counts measure is known when components are fitted
            is_count = LIKELIHOODS[likelihoods[name]].models_counts
            transform: Transform = "log1p" if is_count else "identity"
            width = None
            if n_components is not None and p > MIN_FEATURES:
                width = min(n_components, p - 1)
            layer = EncoderInput(p, transform, width, total=RNA_TOTAL, invertible=False)
            self.inputs[name], widths[name] = layer, layer.n_out
        # of what encoders' networks say beside their linear maps, the share that counts
        self.share: Tensor
        self.register_buffer("share", torch.ones(()))
        self.encoders, self.decoders, self.heads = (nn.ModuleDict() for _ in range(3))
        for name, p in n_features.items():
            self.encoders[name] = CrossEncoder(
                widths[name],
                k,
                n_latent,
                n_hidden_encoder,
                n_layers_encoder,
                dropout_rate,
                shared_first_layer,
                linear=start == "canonical",
            )
            decoder = MLP(
                n_latent,
                n_hidden_decoder,
                n_layers_decoder,
                n_categories=[n_batch, *covariates],
                n_continuous=n_continuous,
                use_batch_norm=True,
                dropout_rate=dropout_rate,
            )
            self.decoders[name] = decoder
            self.heads[name] = LIKELIHOODS[likelihoods[name]](
                decoder.n_out, p, n_batch, covariates, n_continuous
            )
        n_extra = n_batch if discriminator_batch else 0
        self.discriminator = MLP(
            k * n_latent + n_extra,
            n_hidden_discriminator,
            n_layers_discriminator,
            k,
            dropout_rate=dropout_rate,
        )
        self.classifier = nn.Linear(k * n_latent, n_labels) if n_labels else None
        learned = n_features if library == "learned" else {}
        self.library_encoders = nn.ModuleDict({m: nn.Linear(p, k) for m, p in learned.items()})
        # the regressions of library sizes, which are fitted once the model is trained
        self.library_batch: Tensor
        self.register_buffer("library_batch", torch.zeros(k, dtype=torch.long))
        for j, target in enumerate(self.modalities):
            n_predictors = self.head(target).output.in_features + k * n_latent + 2
            for i in range(k):
                self.register_buffer(f"library_{i}_{j}", torch.zeros(n_predictors))

    # Parts --------------------------------------------------------------------------------------

    def input(self, modality: str) -> EncoderInput:
        """What the encoder of a modality without a representation reads."""
        return cast("EncoderInput", self.inputs[modality])

    def encoder(self, modality: str) -> CrossEncoder:
        """Encoders of a modality."""
        return cast("CrossEncoder", self.encoders[modality])

    def head(self, modality: str) -> LikelihoodHead:
        """Likelihood head of a modality."""
        return cast("LikelihoodHead", self.heads[modality])

    @property
    def has_variates(self) -> bool:
        """Whether encoders have canonical variates beside their network."""
        return self.start == "canonical" and any(
            bool(self.encoder(name).slope.any()) for name in self.modalities
        )

    def subspace(self, modality: str) -> slice:
        """Columns of the embedding that the decoder of `modality` reads."""
        k = self.modalities.index(modality)
        return slice(k * self.n_latent, (k + 1) * self.n_latent)

    # Posterior ----------------------------------------------------------------------------------

    def encoder_input(self, tensors: Mapping[str, Tensor], modality: str) -> Tensor:
        """Registered representation, or components, or normalised log counts, or plain values."""
        if modality in self.reps:
            return tensors[rep_key(modality)].to_dense()
        return self.inputs[modality](tensors[modality])

    def _unit(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1) if self.normalize_latent else x

    def unit_means(self, loc: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Posterior means as the model compares them."""
        return {name: self._unit(value) for name, value in loc.items()}

    def encode(
        self, tensors: Mapping[str, Tensor], modality: str | None = None
    ) -> tuple[dict, dict, dict]:
        """Posterior means and standard deviations of each modality's rows, and their positions.

        With a `modality` only its own.
        """
        loc, scale, rows = {}, {}, {}
        for name in self.modalities if modality is None else [modality]:
            loc[name], scale[name] = self.posterior(name, self.encoder_input(tensors, name))
            rows[name] = tensors[rows_key(name)]
        return loc, scale, rows

    def posterior(self, modality: str, values: Tensor) -> tuple[Tensor, Tensor]:
        """(n, K * d) means and standard deviations from what the encoder of a modality reads."""
        straight, added, scale = self.encoder(modality).parts(values)
        return straight + self.share * added, scale

    def _get_inference_input(self, tensors: Mapping[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        return {"tensors": tensors}

    def inference(
        self, tensors: Mapping[str, Tensor], sample: bool = True, share: Tensor | None = None
    ) -> Inference:
        """Posteriors of a minibatch, with samples (or, for validation, means) and their fusion.

        What networks say beside linear maps counts by the (n, 1) `share` of each cell, by default
        :attr:`share`.
        """
        loc, scale, added, rows = {}, {}, {}, {}
        n = len(tensors[CELL])
        for name in self.modalities:
            rows[name] = tensors[rows_key(name)]
            values = self.encoder_input(tensors, name)
            straight, added[name], scale[name] = self.encoder(name).parts(values)
            of_rows = self.share if share is None else share[rows[name]]
            loc[name] = straight + of_rows * added[name]

        def draw(mean: Tensor, std: Tensor) -> Tensor:
            return self._unit(mean + std * torch.randn_like(std) if sample else mean)

        samples = {name: draw(loc[name], scale[name]) for name in loc}
        fused_loc = fused_scale = None
        if self.fusion == "poe":
            fused_loc, fused_scale = product_of_experts(loc, scale, rows, n)
            fused = draw(fused_loc, fused_scale)
        else:
            fused = fuse_mean(samples, rows, n, unit=self.normalize_latent)
        return Inference(loc, scale, added, samples, rows, fused, fused_loc, fused_scale)

    def fuse(
        self,
        loc: Mapping[str, Tensor],
        scale: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        n: int,
        *,
        unit: bool,
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the joint posterior of n cells.

        With `unit` means of unit length are averaged, as the model compares them.
        """
        if self.fusion == "poe":
            return product_of_experts(dict(loc), dict(scale), dict(rows), n)
        means = self.unit_means(loc) if unit else dict(loc)
        mean = fuse_mean(means, dict(rows), n, unit=False)
        variance = fuse_mean({m: s.pow(2) for m, s in scale.items()}, dict(rows), n, unit=False)
        count = torch.bincount(torch.cat(list(rows.values())), minlength=n).clamp(min=1)
        return mean, (variance / count.unsqueeze(1)).sqrt()

    def decoder_input(
        self,
        loc: Mapping[str, Tensor],
        scale: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        n: int,
    ) -> Tensor:
        """(n, K * d) fused means that decoders read, of unit length where the latent is."""
        if self.fusion == "poe":
            return self._unit(self.fuse(loc, scale, rows, n, unit=False)[0])
        return fuse_mean(self.unit_means(loc), dict(rows), n, unit=self.normalize_latent)

    # Likelihood ---------------------------------------------------------------------------------

    def decode(self, modality: str, z: Tensor, covariates: Covariates) -> Tensor:
        """(n, p) locations of a modality from whole embeddings `z`."""
        hidden = self.decoders[modality](z[:, self.subspace(modality)], covariates)
        return self.head(modality).location(hidden, covariates)

    def learned_library(self, source: str, target: str, counts: Tensor) -> Tensor:
        """(n,) library sizes of `target` that the counts of `source` predict."""
        column = self.modalities.index(target)
        layer = cast("nn.Linear", self.library_encoders[source])
        if counts.layout == torch.sparse_csr:
            sizes = sparse_product(counts, layer.weight.T) + layer.bias
        else:
            sizes = layer(counts)
        return functional.relu(sizes)[:, column].clamp(min=MIN_LIBRARY)

    def library_weights(self, source: str, target: str) -> Tensor:
        """Weights that predict the log library size of `target` from rows of `source`."""
        i, j = self.modalities.index(source), self.modalities.index(target)
        return getattr(self, f"library_{i}_{j}")

    def _library(self, target: str, tensors: Mapping[str, Tensor], step: _Pass) -> Tensor | None:
        """(n,) library sizes of what is decoded, where the likelihood has some."""
        if not self.head(target).has_library:
            return None
        if self.library == "learned":
            sizes = self.learned_library(step.source, target, tensors[step.source])
            return sizes[step.source_rows]
        return self.head(target).observed_library(tensors[target])[step.rows]

    def _get_generative_input(
        self, tensors: Mapping[str, Tensor], inference_outputs: Inference, **kwargs: Any
    ) -> dict[str, Any]:
        return {"tensors": tensors, "inferred": inference_outputs}

    def generative(
        self,
        tensors: Mapping[str, Tensor],
        inferred: Inference,
        cross: bool = True,
        real_cross: bool = False,
        once: LossWeights | None = None,
        min_saved: int = 0,
    ) -> dict[str, dict[str, Tensor]]:
        """Negative log-likelihoods per row, divided by the number of features.

        Given weights, `once`, each row of a modality is decoded from one embedding, which is drawn
        in proportion to the weights of the terms, if that saves `min_saved` values. What is drawn
        is divided by its chance and all else is 0, so that every mean over rows is right on
        average.

        Returns
        -------
        ``"self"`` and, if asked for, ``"cross"`` and ``"real_cross"``: for each modality the
        values of its rows, decoded from its own sample, from the fused sample and from other
        modalities alone.
        """
        covariates = Covariates.of(tensors)
        n_modalities = modality_count(inferred.rows, len(tensors[CELL]))
        out: dict[str, dict[str, Tensor]] = {"self": {}, "cross": {}, "real_cross": {}}
        for name in self.modalities:
            rows = inferred.rows[name]
            if not len(rows):
                continue
            others = [m for m in self.modalities if m != name] if real_cross else []
            # 1. which embeddings are decoded, and what rows of the modality are those of
            several = (n_modalities[rows] > 1).nonzero().squeeze(1)
            every = torch.arange(len(rows), device=rows.device)
            passes = [_Pass("self", inferred.samples[name], every, name, every)]
            if cross and len(several):
                fused = inferred.fused[rows[several]]
                passes.append(_Pass("cross", fused, several, name, several))
            for source in others:
                here, there = paired_rows(rows, inferred.rows[source])
                if len(here):
                    z = inferred.samples[source][there]
                    passes.append(_Pass("real_cross", z, here, source, there))
            # 2. one likelihood of all of them
            of_modality = covariates.rows(rows)
            n_saved = (sum(len(step.rows) for step in passes) - len(rows)) * self.n_features[name]
            if once is None or n_saved < min_saved:
                parts = self._nll(name, tensors, of_modality, passes)
            else:
                parts = self._drawn_nll(name, tensors, of_modality, passes, once)
            out["self"][name] = nll = parts.pop(0)
            if cross:
                # a cell with one modality is fused from it: its cross value is its self value
                out["cross"][name] = nll
                if len(several):
                    out["cross"][name] = nll.index_copy(0, several, parts.pop(0))
            if real_cross:
                out["real_cross"][name] = torch.cat([nll.new_zeros(0), *parts])
        return out

    def _nll(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        covariates: Covariates,
        passes: list[_Pass],
    ) -> list[Tensor]:
        """Of each pass, negative log-likelihoods of its rows, divided by the number of features.

        `covariates` are those of all rows of the modality.
        """
        decoder, part = self.decoders[name], self.subspace(name)
        hidden = [decoder(step.z[:, part], covariates.rows(step.rows)) for step in passes]
        libraries = [self._library(name, tensors, step) for step in passes]
        sizes = [library for library in libraries if library is not None]
        log_prob = self.head(name).log_prob_of_hidden(
            torch.cat(hidden),
            covariates,
            torch.cat(sizes) if sizes else None,
            SparseValues.of(tensors[name]),
            torch.cat([step.rows for step in passes]),
        )
        nll = -log_prob / self.n_features[name]
        return list(nll.split([len(step.rows) for step in passes]))

    def _drawn_nll(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        covariates: Covariates,
        passes: list[_Pass],
        weights: LossWeights,
    ) -> list[Tensor]:
        """What :meth:`_nll` returns on average, from one pass for each row of the modality."""
        # 1. chances: what a pass of a row weighs in the objective
        n = len(passes[0].rows)
        n_of_others = sum(len(step.rows) for step in passes if step.term == "real_cross")
        of_term = {
            "self": weights.lambda_self,
            "cross": weights.lambda_cross,
            "real_cross": weights.lambda_real_cross * n / max(n_of_others, 1),
        }
        chance = passes[0].z.new_zeros(n, len(passes), dtype=torch.float32)
        for k, step in enumerate(passes):
            chance[step.rows, k] = of_term[step.term]
        chance /= chance.sum(dim=1, keepdim=True)
        # 2. one pass for each row
        drawn = torch.multinomial(chance, 1).squeeze(1)
        kept = [(drawn[p.rows] == k).nonzero().squeeze(1) for k, p in enumerate(passes)]
        steps = [p.taken(i) for p, i in zip(passes, kept, strict=True)]
        parts = self._nll(name, tensors, covariates, steps)
        # 3. values over chances, 0 for what was not drawn
        return [
            nll.new_zeros(len(p.rows)).index_copy(0, i, nll / chance[p.rows[i], k])
            for k, (p, i, nll) in enumerate(zip(passes, kept, parts, strict=True))
        ]

    # Objective ----------------------------------------------------------------------------------

    def discriminator_loss(
        self, tensors: Mapping[str, Tensor], inferred: Inference, noise: float, *, detach: bool
    ) -> Tensor:
        """Cross-entropy of the modality discriminator (eq. 12)."""
        if self.discriminator_input == "sample":
            seen = inferred.samples
        else:
            seen = self.noisy_means(inferred, noise)
        if detach:
            seen = {name: value.detach() for name, value in seen.items()}
        if self.discriminator_batch:
            batch = functional.one_hot(Covariates.of(tensors).batch, self.n_batch).float()
            seen = {
                name: torch.cat([value, batch[inferred.rows[name]]], dim=1)
                for name, value in seen.items()
            }
        logits = self.discriminator(torch.cat(list(seen.values()))).float()
        of_modality = logits.split([len(value) for value in seen.values()])
        return modality_cross_entropy(dict(zip(seen, of_modality, strict=True)))

    def noisy_means(self, inferred: Inference, noise: float) -> dict[str, Tensor]:
        """Posterior means with Gaussian noise of standard deviation `noise`."""
        if noise <= 0:
            return inferred.loc
        return {name: loc + noise * torch.randn_like(loc) for name, loc in inferred.loc.items()}

    def _kl_terms(self, inferred: Inference) -> dict[str, Tensor]:
        """Divergence from the prior of each modality's posterior, divided by its features.

        With a product of experts each modality answers for its own subspace (eq. 5); otherwise for
        all that it infers.
        """
        terms = {}
        for name, loc in inferred.loc.items():
            if len(loc):
                part = self.subspace(name) if self.fusion == "poe" else slice(None)
                kl = kl_to_standard_normal(loc[:, part], inferred.scale[name][:, part])
                terms[name] = kl.mean() / self.n_features[name]
        return terms

    def _closeness(self, inferred: Inference) -> Tensor:
        """Closeness of the samples of a cell to their mean (eq. 9)."""
        center = inferred.fused
        # a fused mean has the direction of the mean, which is all that a cosine looks at; a draw
        # from the product of experts has not
        if self.fusion == "poe" or self.alignment == "mse":
            center = mean_over_modalities(inferred.samples, inferred.rows, len(center))
        return ALIGNMENTS[self.alignment](inferred.samples, inferred.rows, center)

    def _fused_kl(self, inferred: Inference) -> Tensor:
        """Divergence of the product of experts from the prior (eq. 8), divided by features."""
        total = inferred.fused.new_zeros(())
        if inferred.fused_loc is None or inferred.fused_scale is None:
            return total
        for name in self.modalities:
            part = self.subspace(name)
            kl = kl_to_standard_normal(inferred.fused_loc[:, part], inferred.fused_scale[:, part])
            total = total + kl.mean() / self.n_features[name]
        return total

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        inference_outputs: Inference,
        generative_outputs: Mapping[str, Mapping[str, Tensor]],
        weights: LossWeights | None = None,
        noise: float = 0.0,
        temperature: float = 0.1,
    ) -> LossOutput:
        """What the encoders and decoders minimise (eq. 15), with every term by name."""
        weights = weights or LossWeights()
        inferred, nll = inference_outputs, generative_outputs
        # 1. terms by name; the order of computation fixes rounding
        self_nll = {name: value.mean() for name, value in nll["self"].items()}
        kl = self._kl_terms(inferred)
        terms = {f"nll_{name}": value for name, value in self_nll.items()}
        terms |= {f"kl_{name}": value for name, value in kl.items()}
        if nll["cross"]:
            cross = torch.stack([value.mean() for value in nll["cross"].values()]).sum()
            terms["cross"] = cross + weights.lambda_kl * self._fused_kl(inferred)
        terms["alignment"] = self._closeness(inferred)
        real_cross = [value.mean() for value in nll["real_cross"].values() if len(value)]
        if real_cross:
            terms["real_cross"] = torch.stack(real_cross).sum()
        if weights.lambda_contrastive:
            terms["contrastive"] = contrastive(inferred.samples, inferred.rows, temperature)
        if weights.lambda_residual:
            lengths = [x.square().sum(dim=1).mean() for x in inferred.added.values() if len(x)]
            terms["residual"] = torch.stack(lengths).sum()
        if self.classifier is not None:
            terms["label"] = self._label_loss(tensors, inferred, noise)
        terms["discriminator"] = self.discriminator_loss(tensors, inferred, noise, detach=False)
        # 2. their weights; held-out cells are judged by all terms but the adversary's
        of_term = {
            "cross": weights.lambda_cross,
            "alignment": weights.lambda_mse,
            "real_cross": weights.lambda_real_cross,
            "contrastive": weights.lambda_contrastive,
            "residual": weights.lambda_residual,
            "label": weights.lambda_label,
        }
        self_elbo = torch.stack([self_nll[m] + weights.lambda_kl * kl[m] for m in self_nll]).sum()
        objective = weights.lambda_self * self_elbo
        for name, weight in of_term.items():
            if name in terms:
                objective = objective + weight * terms[name]
        metrics = {k: v.detach() for k, v in (terms | {"objective": objective}).items()}
        loss = objective - weights.lambda_d * terms["discriminator"]
        return LossOutput(loss, n_obs_minibatch=len(tensors[CELL]), extra_metrics=metrics)

    def _label_loss(
        self, tensors: Mapping[str, Tensor], inferred: Inference, noise: float
    ) -> Tensor:
        assert self.classifier is not None
        noisy = self.noisy_means(inferred, noise)
        labels = torch.cat([tensors[LABELS][inferred.rows[name]] for name in noisy])
        logits = self.classifier(torch.cat(list(noisy.values()))).float()
        loss = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        return loss / (labels >= 0).sum().clamp(min=1)

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        """Draws of imputed data come from :meth:`cantata.CLUE.impute`."""
        raise NotImplementedError("Use CLUE.impute(n_samples=...).")
