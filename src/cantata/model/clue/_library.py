"""Library sizes of cells whose counts were not observed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from cantata._keys import CELL, rows_key
from cantata.losses import mean_over_modalities
from cantata.model.clue._module import MAX_READ
from cantata.nn import Covariates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cantata.model.base import MosaicModelClass
    from cantata.model.clue._module import CLUEModule

MAX_CELLS = 50_000
"""Training cells that regressions are fitted on; more are sampled."""
PENALTIES = np.logspace(-3, 4, 15)
MIN_PAIRED = 10
"""Paired cells below which the mean is predicted."""
MIN_SD = 1e-8
"""Spread below which a predictor counts as constant."""


def _predictors(
    module: CLUEModule, tensors: Mapping[str, Tensor], source: str, target: str
) -> Tensor:
    """(n_source, d) predictors in the rows of `source`, the last of them constant."""
    # 1. the unit embedding
    values = module.encoder_input(tensors, source)
    loc, _ = module.encoders[source](values)
    unit = torch.nn.functional.normalize(loc, dim=1)
    # 2. what the decoder of the target makes of it, in one batch that has the target, whatever
    #    the cell's, so that sizes do not depend on a batch which the decoder may not know
    batch = module.library_batch[module.modalities.index(target)]
    covariates = Covariates.of(tensors).rows(slice(len(unit))).zeros().with_batch(batch)
    hidden = module.decoders[target](unit[:, module.subspace(target)], covariates)
    # 3. the encoder's input where it is narrow, and the log total of counts
    narrow = [values] if values.shape[1] <= MAX_READ else []
    total = unit.new_zeros(len(unit), 1)
    if module.head(source).requires_counts:
        total = module.observed_library(tensors[source]).log().unsqueeze(1)
    return torch.cat([unit, hidden, *narrow, total, torch.ones_like(total)], dim=1)


def predict_log_library(
    module: CLUEModule, tensors: Mapping[str, Tensor], source: str, target: str
) -> Tensor:
    """(n_source,) log library sizes of `target` predicted from the rows of `source`."""
    if module.library == "learned":
        return module.learned_library(source, target, tensors[source]).log()
    return _predictors(module, tensors, source, target) @ module.library_weights(source, target)


def imputed_library(
    module: CLUEModule,
    tensors: Mapping[str, Tensor],
    modality: str,
    source: str | None,
    choice: str | Tensor,
) -> Tensor | None:
    """(n,) library sizes to impute a modality of a minibatch with; None where it has none.

    `choice` is the `library_size` of :meth:`cantata.CLUE.impute`, or (n,) sizes that a user gave;
    a ``ValueError`` where it asks for observed totals that do not exist.
    """
    if not module.head(modality).has_library:
        return None
    if isinstance(choice, Tensor):
        return choice
    n = len(tensors[CELL])
    rows = tensors[rows_key(modality)]
    if choice == "observed" and len(rows) < n:
        raise ValueError(
            f"library_size='observed': {n - len(rows)} cells of a minibatch have no {modality!r}."
        )
    sources = [source] if source is not None else module.modalities
    uses_observed = choice == "observed" or (choice == "auto" and modality in sources)
    sizes = torch.zeros(n, device=rows.device)
    # 1. what other modalities of a cell predict, averaged over these on the log scale
    others = {m: tensors[rows_key(m)] for m in sources if m != modality}
    if others and (not uses_observed or len(rows) < n):
        predicted = {
            m: predict_log_library(module, tensors, m, modality).unsqueeze(1) for m in others
        }
        sizes = mean_over_modalities(predicted, others, n).squeeze(1).exp()
    # 2. observed totals, where they are wanted or there is nothing to predict from
    if uses_observed:
        sizes[rows] = module.observed_library(tensors[modality])
    elif choice == "predicted":
        is_alone = torch.ones(n, dtype=torch.bool, device=rows.device)
        for of_other in others.values():
            is_alone[of_other] = False
        keep = is_alone[rows]
        sizes[rows[keep]] = module.observed_library(tensors[modality])[keep]
    return sizes


@torch.inference_mode()
def fit_library_weights(model: MosaicModelClass) -> None:
    """Fit one ridge regression per ordered pair of modalities on a model's training cells.

    The log total of the target is regressed on what the source says of the same cell. Where hardly
    a training cell has both, the mean log total of the target is predicted. The penalty is chosen
    by leave-one-out errors.
    """
    module: CLUEModule = model.module
    targets = [m for m in module.modalities if module.head(m).has_library]
    if not targets or module.library == "learned":
        return
    train = model.train_indices
    if len(train) > MAX_CELLS:
        train = np.random.default_rng(0).choice(train, MAX_CELLS, replace=False)
    pairs = [(s, t) for s in module.modalities for t in targets if s != t]
    # 1. the batch that predictors are decoded in: the first that has the target
    for target in targets:
        measured = model.measured_batches_[target]
        module.library_batch[module.modalities.index(target)] = measured.index(True)
    # 2. predictors and log totals of the rows of each modality, and the cells of these rows
    predictors: dict[tuple[str, str], list[np.ndarray]] = {pair: [] for pair in pairs}
    cells: dict[str, list[np.ndarray]] = {m: [] for m in module.modalities}
    totals: dict[str, list[np.ndarray]] = {m: [] for m in targets}
    for tensors in model._minibatches(model._cells(None), np.asarray(train), None):
        for m in module.modalities:
            cells[m].append(tensors[CELL][tensors[rows_key(m)]].cpu().numpy())
        for m in targets:
            totals[m].append(module.observed_library(tensors[m]).log().cpu().numpy())
        for pair in pairs:
            predictors[pair].append(_predictors(module, tensors, *pair).cpu().numpy())
    # 3. one regression for each pair, over the cells that have both
    for source, target in pairs:
        parts = predictors[source, target], cells[source], totals[target], cells[target]
        weights = _regress(*map(np.concatenate, parts))
        module.library_weights(source, target).copy_(torch.as_tensor(weights))


def _regress(
    predictors: np.ndarray, cells_x: np.ndarray, log_total: np.ndarray, cells_y: np.ndarray
) -> np.ndarray:
    """Weights of the predictors, the last of them constant, over cells that are in both lists."""
    # 1. the mean of all totals, where there are too few cells to regress on
    weights = np.zeros(predictors.shape[1], dtype=np.float32)
    weights[-1] = log_total.mean() if len(log_total) else 0.0
    _, at_x, at_y = np.intersect1d(cells_x, cells_y, return_indices=True)
    if len(at_x) < MIN_PAIRED:
        return weights
    # 2. one penalty for all predictors needs them on one scale; the constant is not penalised
    x, y = predictors[at_x, :-1].astype(np.float64), log_total[at_y].astype(np.float64)
    mean, sd = x.mean(axis=0), x.std(axis=0)
    sd[sd < MIN_SD] = 1.0
    ridge = RidgeCV(alphas=PENALTIES).fit((x - mean) / sd, y)
    # 3. back to the scale of the predictors
    weights[:-1] = ridge.coef_ / sd
    weights[-1] = ridge.intercept_ - (ridge.coef_ / sd) @ mean
    return weights
