"""Linear encoders in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cantata.model.apollo._network import SHARED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cantata.model.apollo._network import APOLLONetwork

ABSENT = -2
"""Place of a cell in the table of a modality that it lacks."""
RIDGE = 1e-3
"""Penalty, in units of the mean variance of the inputs."""


@torch.no_grad()
def fit_linear_encoders(
    module: APOLLONetwork, inputs: Mapping[str, Tensor], places: Mapping[str, Tensor]
) -> None:
    """Set the linear part of all encoders to a ridge regression of latents on inputs.

    Parameters
    ----------
    module
        Network with latents.
    inputs
        For each modality (n_m, d_m) the encoder's input of all its cells, in the order of the
        cells of the data.
    places
        For each table the row of every cell of the data; -1 where it is not trained on, -2 where
        it lacks the modality.
    """
    shared_places = places[SHARED]
    for name, x in inputs.items():
        own = places[name]
        cells = own > ABSENT  # cells that have the modality, in its order in `inputs`
        known = (own[cells] >= 0).nonzero().squeeze(1)
        rows = own[cells][known]
        x = x.to(rows.device)[known].double()
        shared = module.table(SHARED).weight[shared_places[cells][known]]
        latents = torch.cat([shared, module.table(name).weight[rows]], dim=1).double()
        x_mean, mean = x.mean(dim=0), latents.mean(dim=0)
        centred = x - x_mean
        gram = centred.T @ centred
        penalty = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(gram + penalty * eye, centred.T @ (latents - mean))
        module.encoder(name).set_linear(weights, mean - x_mean @ weights)
