"""The one-step baseline: encoders and decoders trained together, with shared and own latents."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

N_HIDDEN, N_STEPS, BATCH, LR, NOISE = 128, 1500, 256, 1e-3, 1.0
"""Hidden width, steps, cells of a minibatch, learning rate (cosine), noise on latents."""


def network(n_in: int, n_out: int, n_layers: int) -> nn.Sequential:
    """Linear layers with batch norm and LeakyReLU between them."""
    layers: list[nn.Module] = []
    for _ in range(n_layers):
        layers += [nn.Linear(n_in, N_HIDDEN), nn.BatchNorm1d(N_HIDDEN), nn.LeakyReLU()]
        n_in = N_HIDDEN
    return nn.Sequential(*layers, nn.Linear(n_in, n_out))


def fit_autoencoder(
    inputs: dict[str, np.ndarray],
    train: np.ndarray,
    n_shared: int,
    n_specific: dict[str, int],
    seed: int,
    max_epochs: int | None = None,
) -> dict[str, np.ndarray]:
    """Blocks of all cells.

    Each encoder reads one modality and returns shared and specific codes. Each decoder reads the
    mean of the shared codes and its modality's specific ones, with the noise that APOLLO uses.
    Loss: squared errors of all modalities, in units of their mean variance, and between the
    shared codes of all modalities. There is no variational sampling, see `bench.ONE_STEP`.
    """
    torch.manual_seed(seed)
    data, encoders, decoders = {}, nn.ModuleDict(), nn.ModuleDict()
    for name, x in inputs.items():
        scale = float(np.sqrt(x[train].var(axis=0).mean()))
        data[name] = torch.from_numpy(((x - x[train].mean(axis=0)) / scale).astype(np.float32))
        encoders[name] = network(x.shape[1], n_shared + n_specific[name], 2)
        decoders[name] = network(n_shared + n_specific[name], x.shape[1], 1)
    optimizer = torch.optim.Adam([*encoders.parameters(), *decoders.parameters()], lr=LR)
    per_epoch = max(1, len(train) // BATCH)
    steps = N_STEPS if max_epochs is None else max_epochs * per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.empty(0, dtype=torch.long)
    cells = torch.from_numpy(train)
    for _ in range(steps):
        if len(order) < min(BATCH, len(train)):
            order = cells[torch.randperm(len(cells))]
        batch, order = order[:BATCH], order[BATCH:]
        loss = _loss({m: x[batch] for m, x in data.items()}, encoders, decoders, n_shared)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    encoders.eval()
    blocks = {}
    with torch.inference_mode():
        for name, x in data.items():
            codes = encoders[name](x).numpy()
            blocks[f"shared from {name}"] = codes[:, :n_shared]
            blocks[name] = codes[:, n_shared:]
    return blocks


def _loss(
    batch: dict[str, Tensor], encoders: nn.ModuleDict, decoders: nn.ModuleDict, n_shared: int
) -> Tensor:
    codes = {name: encoders[name](x) for name, x in batch.items()}
    shared = {name: code[:, :n_shared] for name, code in codes.items()}
    mean = torch.stack(list(shared.values())).mean(dim=0)
    total = torch.zeros(())
    for name, x in batch.items():
        latents = torch.cat([mean, codes[name][:, n_shared:]], dim=1)
        decoded = decoders[name](latents + NOISE * torch.randn_like(latents))
        total = total + nn.functional.mse_loss(decoded, x)
    for a, b in combinations(shared, 2):
        total = total + nn.functional.mse_loss(shared[a], shared[b])
    return total
