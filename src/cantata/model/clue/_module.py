"""CLUE's inference, likelihoods and objective (Tu et al. 2022, sections 4.1 to 4.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from scvi.module.base import LossOutput
from torch import Tensor
from torch.nn import functional

from cantata._keys import CELL, LABELS
from cantata.losses import (
    SparseCounts,
    contrastive,
    cosine_to_fused,
    fuse_mean,
    kl_to_standard_normal,
    modality_count,
    modality_cross_entropy,
    paired_rows,
    product_of_experts,
    squared_to_fused,
)
from cantata.model.clue._network import CLUENetwork

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class LossWeights:
    """Weights of CLUE's objective (equation 15)."""

    lambda_self: float = 1.0
    """Self-linked ELBO (equation 5)."""
    lambda_kl: float = 1.0
    """Divergence from the prior inside the ELBOs (equation 3)."""
    lambda_cross: float = 2.0
    """Cross-linked ELBO (equation 8)."""
    lambda_real_cross: float = 0.0
    """Decoding a modality from another one alone; not in the paper."""
    lambda_mse: float = 1.0
    """Closeness of a cell's embeddings (equation 9)."""
    lambda_d: float = 2.0
    """Modality discriminator (equation 12)."""
    lambda_contrastive: float = 0.3
    """Finding a cell among those of another modality; not in the paper."""
    lambda_label: float = 0.02
    """Label classifier, where labels are registered."""


@dataclass
class Inference:
    """Posteriors of a minibatch's cells."""

    loc: dict[str, Tensor]
    """For each modality (n_m, K * d) posterior means."""
    scale: dict[str, Tensor]
    """For each modality (n_m, K * d) posterior standard deviations."""
    samples: dict[str, Tensor]
    """For each modality (n_m, K * d) samples, unit vectors where the latent is normalised."""
    rows: dict[str, Tensor]
    """For each modality (n_m,) places of its rows in the minibatch."""
    fused: Tensor
    """(n, K * d) fused sample of each cell."""
    fused_loc: Tensor | None
    """(n, K * d) mean of the product of experts, with that fusion."""
    fused_scale: Tensor | None
    """(n, K * d) standard deviation of the product of experts, with that fusion."""


class CLUEModule(CLUENetwork):
    """Cross-linked variational autoencoder, trained against its modality discriminator.

    Its parameters are those of :class:`~cantata.model.clue.CLUENetwork`.
    """

    def _get_inference_input(self, tensors: Mapping[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        return {"tensors": tensors}

    def inference(self, tensors: Mapping[str, Tensor], sample: bool = True) -> Inference:
        """Posteriors of a minibatch, with samples (or, for validation, means) and their fusion."""
        loc, scale, rows = self.encode(tensors)
        n = len(tensors[CELL])

        def draw(mean: Tensor, std: Tensor) -> Tensor:
            return self._unit(mean + std * torch.randn_like(std) if sample else mean)

        samples = {name: draw(loc[name], scale[name]) for name in loc}
        fused_loc = fused_scale = None
        if self.fusion == "poe":
            fused_loc, fused_scale = product_of_experts(loc, scale, rows, n)
            fused = draw(fused_loc, fused_scale)
        else:
            fused = fuse_mean(samples, rows, n, unit=self.normalize_latent)
        return Inference(loc, scale, samples, rows, fused, fused_loc, fused_scale)

    def _get_generative_input(
        self, tensors: Mapping[str, Tensor], inference_outputs: Inference, **kwargs: Any
    ) -> dict[str, Any]:
        return {"tensors": tensors, "inferred": inference_outputs}

    def generative(
        self, tensors: Mapping[str, Tensor], inferred: Inference, real_cross: bool = False
    ) -> dict[str, dict[str, Tensor]]:
        """Negative log-likelihoods per cell, divided by the number of features.

        Returns
        -------
        ``"self"``, ``"cross"`` and, if asked for, ``"real_cross"``: for each modality the (n_m,)
        values, decoded from its own sample, from the fused sample and
        from other modalities alone. A cell with one modality is fused from that one, so its cross
        value is its self value.
        """
        codes, values = self.covariates(tensors)
        n_modalities = modality_count(inferred.rows, len(codes))
        out: dict[str, dict[str, Tensor]] = {"self": {}, "cross": {}, "real_cross": {}}
        for name in self.modalities:
            rows = inferred.rows[name]
            if not len(rows):
                continue
            data = _Target(self, name, tensors[name], codes[rows], _take(values, rows))
            own = data.nll(inferred.samples[name], name, tensors[name])
            several = (n_modalities[rows] > 1).nonzero().squeeze(1)
            cross = own
            if len(several):
                part = data.subset(several)
                fused = inferred.fused[rows[several]]
                cross = own.index_copy(0, several, part.nll(fused, name, part.counts.dense))
            out["self"][name], out["cross"][name] = own, cross
            if real_cross:
                out["real_cross"][name] = self._from_others(name, data, tensors, inferred)
        return out

    def _from_others(
        self, name: str, data: _Target, tensors: Mapping[str, Tensor], inferred: Inference
    ) -> Tensor:
        """Negative log-likelihoods of the rows that another modality of the cell can predict."""
        parts = []
        for source in self.modalities:
            if source == name:
                continue
            here, there = paired_rows(inferred.rows[name], inferred.rows[source])
            if len(here):
                sample = inferred.samples[source][there]
                parts.append(data.subset(here).nll(sample, source, tensors[source][there]))
        return torch.cat(parts) if parts else tensors[name].new_zeros(0)

    # Objective ----------------------------------------------------------------------------------

    def discriminator_loss(
        self, tensors: Mapping[str, Tensor], inferred: Inference, noise: float, *, detach: bool
    ) -> Tensor:
        """Cross-entropy of the modality discriminator on noisy posterior means (eq. 12)."""
        noisy = self.noisy_means(inferred, noise)
        if detach:
            noisy = {name: value.detach() for name, value in noisy.items()}
        if self.discriminator_batch:
            batch = functional.one_hot(self.covariates(tensors)[0][:, 0], self.n_batch).float()
            noisy = {
                name: torch.cat([value, batch[inferred.rows[name]]], dim=1)
                for name, value in noisy.items()
            }
        logits = self.discriminator(torch.cat(list(noisy.values()))).float()
        parts = logits.split([len(value) for value in noisy.values()])
        return modality_cross_entropy(dict(zip(noisy, parts, strict=True)))

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
        inferred = inference_outputs
        align = cosine_to_fused if self.alignment == "cosine" else squared_to_fused
        nll = {name: value.mean() for name, value in generative_outputs["self"].items()}
        kl = self._kl_terms(inferred)
        terms = {f"nll_{name}": value for name, value in nll.items()}
        terms |= {f"kl_{name}": value for name, value in kl.items()}
        fused_kl = self._fused_kl(inferred)
        cross = [value.mean() for value in generative_outputs["cross"].values()]
        terms["cross"] = torch.stack(cross).sum() + weights.lambda_kl * fused_kl
        terms["alignment"] = align(inferred.samples, inferred.rows, inferred.fused)
        own = torch.stack([nll[m] + weights.lambda_kl * kl[m] for m in nll]).sum()
        total = weights.lambda_self * own
        total = total + weights.lambda_cross * terms["cross"]
        total = total + weights.lambda_mse * terms["alignment"]
        others = [v.mean() for v in generative_outputs["real_cross"].values() if len(v)]
        if others:
            terms["real_cross"] = torch.stack(others).sum()
            total = total + weights.lambda_real_cross * terms["real_cross"]
        if weights.lambda_contrastive:
            terms["contrastive"] = contrastive(inferred.samples, inferred.rows, temperature)
            total = total + weights.lambda_contrastive * terms["contrastive"]
        if self.classifier is not None:
            terms["label"] = self._label_loss(tensors, inferred, noise)
            total = total + weights.lambda_label * terms["label"]
        terms["discriminator"] = self.discriminator_loss(tensors, inferred, noise, detach=False)
        fooled = total - weights.lambda_d * terms["discriminator"]
        terms["objective"] = total
        return LossOutput(
            loss=fooled,
            n_obs_minibatch=len(tensors[CELL]),
            extra_metrics={name: value.detach() for name, value in terms.items()},
        )

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


def _take(values: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if values is None else values[rows]


class _Target:
    """Rows of one modality that are to be reconstructed, with their covariates."""

    def __init__(
        self,
        module: CLUEModule,
        name: str,
        values: Tensor,
        codes: Tensor,
        continuous: Tensor | None,
    ) -> None:
        self.module, self.name = module, name
        self.counts = SparseCounts.from_dense(values)
        self.codes, self.continuous = codes, continuous

    def subset(self, rows: Tensor) -> _Target:
        if len(rows) == len(self.codes):
            return self
        return _Target(
            self.module,
            self.name,
            self.counts.dense[rows],
            self.codes[rows],
            _take(self.continuous, rows),
        )

    def nll(self, z: Tensor, source: str, source_counts: Tensor) -> Tensor:
        """Negative log-likelihood per row and feature, decoded from embeddings `z` of `source`."""
        module, name = self.module, self.name
        location = module.decode(name, z, self.codes, self.continuous)
        library = module._library(source, name, source_counts, self.counts.dense)
        log_prob = module.head(name).log_prob(location, library, self.codes, self.counts)
        return -log_prob / module.n_features[name]
