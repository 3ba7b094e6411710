"""Linked features refined, while a model trains, by the cells that its embeddings match."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cantata._numeric.sampling import sample_cells
from cantata.model.scmodal._variates import Variates, matched_variates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cantata._mudata.rows import RowReader
    from cantata.model.scmodal._module import SCMODALModule

N_CELLS = 10_000
"""Cells of each modality, at most, whose nearest cells are sought."""

BLOCK = 2_000
"""Cells that are embedded at a time."""


def refinement_steps(n_steps: int, n_refinements: int, *, continued: bool) -> frozenset[int]:
    """Steps before which linked features are refined: evenly over the last third.

    Training that is `continued` refines them at once too, since a model does not keep them.

    Raises
    ------
    ValueError
        If `n_refinements` is negative.

    Examples
    --------
    >>> sorted(refinement_steps(600, 4, continued=False))
    [400, 450, 500, 550]
    """
    if n_refinements < 0:
        raise ValueError(f"n_refinements={n_refinements}: give 0 or more.")
    third = n_steps / 3
    steps = {int(2 * third + i * third / n_refinements) for i in range(n_refinements)}
    return frozenset(steps | ({0} if continued and n_refinements else set()))


class Refiner:
    """Replace linked features by canonical variates of matched cells, as the model trains.

    The 20 nearest cells of the other modality, by the embeddings so far, stand for what a cell
    lacks. Canonical correlation analysis of what the encoders read with the mean of these, over
    the cells of both modalities, finds the directions in which all features of the two agree,
    linked or not; each is scaled by its correlation. They join the linked features, and replace
    them where these are fewer than latents. Beyond the paper; MaxFuse (Chen et al. 2024) refines
    its matches in a like manner.

    Parameters
    ----------
    module
        Network that is trained.
    readers
        Functions from row numbers to the tensors of a minibatch, for every modality.
    n_obs
        Cells of every modality.
    """

    def __init__(
        self,
        module: SCMODALModule,
        readers: Mapping[str, Mapping[str, RowReader]],
        n_obs: Mapping[str, int],
    ) -> None:
        self.module, self.readers = module, readers
        self.rows = {name: sample_cells(n_obs[name], N_CELLS) for name in readers}

    def __call__(self) -> None:
        """Refine the linked features of every pair that has cells."""
        embedded = {name: self._embed(name) for name in self.readers}
        if not all(np.isfinite(z).all() for _, z in embedded.values()):
            return  # the end of the epoch says so, with advice
        device = next(self.module.parameters()).device
        for pair in self.module.present_pairs(embedded):
            first, second = (embedded[name] for name in pair)
            maps = matched_variates(*first, *second)
            for way, own in zip((pair, pair[::-1]), maps, strict=True):
                weights, offset = (tensor.to(device) for tensor in own)
                self.module.variates[way] = Variates(weights, offset, self.module.n_latent)

    @torch.no_grad()
    def _embed(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """What the encoder reads of the sampled cells of a modality, and their embeddings."""
        device = next(self.module.parameters()).device
        values, z = [], []
        for start in range(0, len(self.rows[name]), BLOCK):
            rows = self.rows[name][start : start + BLOCK]
            batch = {
                key: torch.from_numpy(read(rows)).to(device)
                for key, read in self.readers[name].items()
            }
            values.append(batch[name].float().cpu().numpy())
            z.append(self.module.embed(batch)[name].float().cpu().numpy())
        return np.concatenate(values).astype(np.float64), np.concatenate(z).astype(np.float64)
