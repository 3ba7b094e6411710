"""APOLLO's two objectives (Zhang et al. 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from scvi.module.base import LossOutput
from torch import Tensor

from cantata._keys import CELL, rows_key
from cantata.losses import dependence, maximum_mean_discrepancy, norm_penalty
from cantata.model.apollo._network import SHARED, APOLLONetwork

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_ROWS = 8
"""Rows of a minibatch below which a term that compares distributions is left out."""
PRIOR_SD = 3.0
"""Spread of latents that noise of size 1 leaves readable, and of the prior of learned noise."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the objective of the first stage."""

    lambda_norm: float = 1e-3
    """Length of the latents (equation 1)."""
    lambda_shared: float = 1.0
    """Decoding from shared latents alone, where there are shared decoders (equation 1)."""
    lambda_shared_latents: float = 0.0
    """How much decoding from shared latents alone moves these: 0, it only trains its decoders,
    or 1 as in the paper. It rewards shared latents for all that a modality alone knows."""
    lambda_independence: float = 1.0
    """Dependence of specific latents on the shared ones, held fixed; not in the paper."""
    lambda_mmd: float = 1.0
    """Difference of shared latents between cells of one modality each; not in the paper."""
    lambda_noise: float = 1e-3
    """Divergence from the prior where noise is learned; not in the paper."""


class APOLLOModule(APOLLONetwork):
    """Latents, decoders and encoders with the objectives of both stages.

    Its parameters are those of :class:`~cantata.model.apollo.APOLLONetwork`.
    """

    # First stage --------------------------------------------------------------------------------

    def _noisy(self, name: str, rows: Tensor, z: Tensor) -> Tensor:
        """Latents with the noise that decoders see."""
        learned = self.table(name).scale(rows)
        return z + (self.noise if learned is None else learned) * torch.randn_like(z)

    def latent_loss(
        self, tensors: Mapping[str, Tensor], places: Mapping[str, Tensor], weights: LossWeights
    ) -> LossOutput:
        """Objective of latents and decoders, Zhang et al. 2026, eq. 1.

        Parameters
        ----------
        tensors
            Minibatch of training cells.
        places
            For each table the (n_cells,) row of every cell of the data; -1 where it has none.
        weights
            Weights of the terms.
        """
        cell = tensors[CELL]
        terms: dict[str, Tensor] = {}
        shared_rows = places[SHARED][cell]
        shared = self.table(SHARED)(shared_rows)
        noisy = self._noisy(SHARED, shared_rows, shared)
        total = weights.lambda_norm * norm_penalty(shared)
        total = total + self._noise_terms(SHARED, shared_rows, shared, weights, terms)
        covariates = self.covariates(tensors)
        for name in self.modalities:
            rows = tensors[rows_key(name)]
            if len(rows):
                own = places[name][cell[rows]]
                total = total + self._modality_terms(
                    name, tensors[name], rows, own, (shared, noisy), covariates, weights, terms
                )
        if weights.lambda_mmd:
            total = total + self._unpaired_term(tensors, shared, weights, terms)
        terms["objective"] = total
        return LossOutput(loss=total, n_obs_minibatch=len(cell), extra_metrics=terms)

    def _modality_terms(
        self,
        name: str,
        values: Tensor,
        rows: Tensor,
        own: Tensor,
        latents: tuple[Tensor, Tensor],
        covariates: tuple[Tensor, Tensor | None],
        weights: LossWeights,
        terms: dict[str, Tensor],
    ) -> Tensor:
        """Reconstructions, length and independence of one modality."""
        shared, noisy = (z[rows] for z in latents)
        specific = self.table(name)(own)
        data = self.data(name, values)
        codes = covariates[0][rows]
        continuous = None if covariates[1] is None else covariates[1][rows]
        seen = torch.cat([noisy, self._noisy(name, own, specific)], dim=1)
        terms[f"full_{name}"] = total = self.decoder(name).loss(seen, codes, continuous, *data)
        if self.has_shared_decoders and weights.lambda_shared:
            decoder = self.decoder(name, shared_only=True)
            moved = weights.lambda_shared_latents
            seen = moved * noisy + (1 - moved) * noisy.detach() if moved else noisy.detach()
            terms[f"shared_{name}"] = decoder.loss(seen, codes, continuous, *data)
            total = total + weights.lambda_shared * terms[f"shared_{name}"]
        if not specific.shape[1]:
            return total
        total = total + weights.lambda_norm * norm_penalty(specific)
        total = total + self._noise_terms(name, own, specific, weights, terms)
        if weights.lambda_independence and len(rows) >= MIN_ROWS:
            terms[f"dependence_{name}"] = dependence(specific, shared.detach())
            total = total + weights.lambda_independence * terms[f"dependence_{name}"]
        return total

    def _noise_terms(
        self,
        name: str,
        rows: Tensor,
        z: Tensor,
        weights: LossWeights,
        terms: dict[str, Tensor],
    ) -> Tensor:
        """Divergence of latents with learned noise from a wide normal distribution."""
        scale = self.table(name).scale(rows)
        if scale is None:
            return z.new_zeros(())
        variance = scale.square() / PRIOR_SD**2
        divergence = 0.5 * (variance + (z / PRIOR_SD).square() - 1 - variance.log())
        terms[f"divergence_{name}"] = divergence.sum(dim=1).mean()
        return weights.lambda_noise * terms[f"divergence_{name}"]

    def _unpaired_term(
        self,
        tensors: Mapping[str, Tensor],
        shared: Tensor,
        weights: LossWeights,
        terms: dict[str, Tensor],
    ) -> Tensor:
        """Difference between the shared latents of cells that have one modality each."""
        present = torch.zeros(len(shared), len(self.modalities), device=shared.device)
        for k, name in enumerate(self.modalities):
            present[tensors[rows_key(name)], k] = 1
        alone = present.sum(dim=1) == 1
        total = shared.new_zeros(())
        for (j, first), (k, second) in combinations(enumerate(self.modalities), 2):
            a, b = (alone & (present[:, i] == 1) for i in (j, k))
            if min(int(a.sum()), int(b.sum())) >= MIN_ROWS:
                term = maximum_mean_discrepancy(shared[a], shared[b])
                terms[f"mmd_{first}_{second}"] = term
                total = total + weights.lambda_mmd * term
        return total

    # Second stage -------------------------------------------------------------------------------

    def encoder_loss(
        self,
        inputs: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        places: Mapping[str, Tensor],
    ) -> LossOutput:
        """Squared distance of encoded to optimised latents (Zhang et al. 2026, second step)."""
        cell = tensors[CELL]
        terms: dict[str, Tensor] = {}
        total = next(iter(inputs.values())).new_zeros((), dtype=torch.float32)
        with torch.no_grad():
            shared = self.table(SHARED)(places[SHARED][cell])
        for name, x in inputs.items():
            rows = tensors[rows_key(name)]
            if not len(rows):
                continue
            with torch.no_grad():
                specific = self.table(name)(places[name][cell[rows]])
            found = self.encoders[name](x)
            terms[f"encoded_shared_{name}"] = (found[0].float() - shared[rows]).square().mean()
            total = total + terms[f"encoded_shared_{name}"]
            if specific.shape[1]:
                error = (found[1].float() - specific).square().mean()
                terms[f"encoded_specific_{name}"] = error
                total = total + error
        terms["encoder_objective"] = total
        return LossOutput(loss=total, n_obs_minibatch=len(cell), extra_metrics=terms)

    def decoded_loss(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss of decoding what the encoders infer, which held-out cells are judged by."""
        codes, values = self.covariates(tensors)
        codes = codes.clamp(min=0)
        shared, specific, rows = self.encode_values(tensors)
        terms: dict[str, Tensor] = {}
        total = codes.new_zeros((), dtype=torch.float32)
        for name, own in rows.items():
            if not len(own):
                continue
            continuous = None if values is None else values[own]
            data = self.data(name, tensors[name])
            z = torch.cat([shared[name], specific[name]], dim=1)
            loss = self.decoder(name).loss(z, codes[own], continuous, *data)
            terms[f"decoded_full_{name}"] = loss
            total = total + loss
            if self.has_shared_decoders:
                decoder = self.decoder(name, shared_only=True)
                loss = decoder.loss(shared[name], codes[own], continuous, *data)
                terms[f"decoded_shared_{name}"] = loss
                total = total + loss
        terms["decoded"] = total
        return terms
