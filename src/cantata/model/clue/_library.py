"""Library sizes of cells whose counts were not observed."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from cantata._keys import CELL, rows_key
from cantata.losses import SparseValues, block_entries, mean_over_modalities, paired_rows
from cantata.nn import Covariates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cantata.model.base import MosaicModelClass
    from cantata.model.clue._module import CLUEModule
    from cantata.nn import PoissonHead

MAX_CELLS = 20_000
"""Training cells that regressions are fitted on; more are sampled."""
PENALTIES = np.logspace(-3, 4, 15)
MIN_ROWS = 10
"""Cells below which nothing is regressed."""
MIN_DECODED = 16
"""Cells that are decoded at a time, however many features they have."""
MIN_SD = 1e-8
"""Spread below which a predictor counts as constant."""


def _predictors(
    module: CLUEModule, tensors: Mapping[str, Tensor], source: str, target: str
) -> Tensor:
    """(n_source, d) predictors in the rows of `source`, the last of them constant."""
    # 1. the unit embedding, and what the decoder of the target makes of it in one batch that has
    #    the target, whatever the cell's, so that sizes do not depend on a batch which the decoder
    #    may not know
    loc, _ = module.posterior(source, module.encoder_input(tensors, source))
    unit = torch.nn.functional.normalize(loc, dim=1)
    batch = module.library_batch[module.modalities.index(target)]
    covariates = Covariates.of(tensors).rows(slice(len(unit))).zeros().with_batch(batch)
    hidden = module.decoders[target](unit[:, module.subspace(target)], covariates)
    # 2. the log total of counts
    total = unit.new_zeros(len(unit), 1)
    if module.head(source).requires_counts:
        total = module.head(source).observed_library(tensors[source]).log().unsqueeze(1)
    return torch.cat([hidden, unit, total, torch.ones_like(total)], dim=1)


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

    `choice` is the `library_size` of :meth:`cantata.CLUE.impute`, or (n,) sizes that a user gave.
    """
    if not module.head(modality).has_library:
        return None
    if isinstance(choice, Tensor):
        return choice
    n = len(tensors[CELL])
    rows = tensors[rows_key(modality)]
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
        sizes[rows] = module.head(modality).observed_library(tensors[modality])
    elif choice == "predicted":
        is_alone = torch.ones(n, dtype=torch.bool, device=rows.device)
        for of_other in others.values():
            is_alone[of_other] = False
        keep = is_alone[rows]
        sizes[rows[keep]] = module.head(modality).observed_library(tensors[modality])[keep]
    return sizes


@torch.inference_mode()
def fit_library_weights(model: MosaicModelClass, before: CLUEModule) -> None:
    """Fit one ridge regression per ordered pair of modalities on a model's training cells.

    The log library size with which the target's counts fit best what the source has decoded of
    them is regressed on what the source says of the same cell; penalties are chosen by
    leave-one-out errors. In such a size features count by their precision, where a total is that
    of the few which make up most of it. What the module knew `before` training, such as a query's
    from its reference, is kept: the regression is first corrected such that it predicts what it
    did then, which needs no cell with both modalities, and then by such cells, over which totals
    are right on average. Without either the mean log total is predicted.
    """
    module: CLUEModule = model.module
    targets = [m for m in module.modalities if module.head(m).has_library]
    if not targets or module.library == "learned":
        return
    train = model.train_indices
    if len(train) > MAX_CELLS:
        train = np.random.default_rng(0).choice(train, MAX_CELLS, replace=False)
    pairs = [(s, t) for s in module.modalities for t in targets if s != t]
    known = {pair for pair in pairs if before.library_weights(*pair).any()}
    # 1. the batch that predictors are decoded in: the first that has the target
    for target in targets:
        measured = model.measured_batches_[target]
        module.library_batch[module.modalities.index(target)] = measured.index(True)
    # 2. predictors, earlier predictions and log totals of the rows of each modality, the cells of
    #    these rows, and the log sizes of those with a pair's both modalities
    predictors: dict[tuple[str, str], list[np.ndarray]] = {pair: [] for pair in pairs}
    earlier: dict[tuple[str, str], list[np.ndarray]] = {pair: [] for pair in known}
    cells: dict[str, list[np.ndarray]] = {m: [] for m in module.modalities}
    totals: dict[str, list[np.ndarray]] = {m: [] for m in targets}
    sizes: dict[tuple[str, str], list[np.ndarray]] = {pair: [] for pair in pairs}
    for tensors in model._minibatches(model._cells(None), np.asarray(train), None):
        for m in module.modalities:
            cells[m].append(tensors[CELL][tensors[rows_key(m)]].cpu().numpy())
        for m in targets:
            totals[m].append(module.head(m).observed_library(tensors[m]).log().cpu().numpy())
        for pair in pairs:
            predictors[pair].append(_predictors(module, tensors, *pair).cpu().numpy())
            sizes[pair].append(_fitted_log_library(module, tensors, *pair).cpu().numpy())
        for pair in known:
            earlier[pair].append(predict_log_library(before, tensors, *pair).cpu().numpy())
    # 3. one regression for each pair, over the cells that have both
    for source, target in pairs:
        stored = module.library_weights(source, target)
        weights = _regress(
            np.concatenate(predictors[source, target]),
            np.concatenate(cells[source]),
            np.concatenate(totals[target]),
            np.concatenate(cells[target]),
            np.concatenate(sizes[source, target]),
            np.concatenate(earlier.get((source, target), [np.empty(0)])),
            stored.cpu().numpy(),
        )
        stored.copy_(torch.as_tensor(weights))


def _fitted_log_library(
    module: CLUEModule, tensors: Mapping[str, Tensor], source: str, target: str
) -> Tensor:
    """(n_target,) log library sizes that fit best what `source` decodes of the rows of `target`.

    Rows without the source keep their log total.
    """
    head, counts = cast("PoissonHead", module.head(target)), tensors[target]
    sizes = head.observed_library(counts)
    here, there = paired_rows(tensors[rows_key(target)], tensors[rows_key(source)])
    if len(here) and not head.totals_are_likeliest:
        loc, _ = module.posterior(source, module.encoder_input(tensors, source)[there])
        unit = module.unit_means({source: loc})[source]
        covariates = Covariates.of(tensors).rows(tensors[rows_key(target)][here])
        values = SparseValues.of(counts)
        # arrays of few cells and all features are neither slow nor large
        n = max(MIN_DECODED, block_entries(unit.device) // counts.shape[1])
        fitted = []
        for rows in torch.arange(len(here), device=here.device).split(n):
            of_rows = covariates.rows(rows)
            location = module.decode(target, unit[rows], of_rows)
            x = values.taken(here[rows]).dense()
            fitted.append(head.fitted_library(location, of_rows, x))
        sizes = sizes.index_copy(0, here, torch.cat(fitted))
    return sizes.log()


def _regress(
    predictors: np.ndarray,
    cells_x: np.ndarray,
    log_total: np.ndarray,
    cells_y: np.ndarray,
    log_size: np.ndarray,
    predicted: np.ndarray,
    known: np.ndarray,
) -> np.ndarray:
    """Weights of the predictors, the last of them constant, over cells that are in both lists.

    `log_size` are those of the rows of `cells_y`, and what is regressed; `predicted` are the log
    totals that `known` weights gave for the rows before, empty for none.
    """
    weights, x = known.astype(np.float64), predictors.astype(np.float64)
    _, at_x, at_y = np.intersect1d(cells_x, cells_y, return_indices=True)
    # 1. what predictors that training has changed leave of earlier predictions
    if len(predicted) >= MIN_ROWS:
        weights += _ridge(x, predicted - x @ weights)
    # 2. what this leaves of measured totals; without any of both the mean
    if len(at_x) >= MIN_ROWS:
        weights += _ridge(x[at_x], log_size[at_y] - x[at_x] @ weights)
        # totals, not their logarithms, are right on average (Duan 1983)
        weights[-1] += np.log(np.exp(log_total[at_y] - x[at_x] @ weights).mean())
    elif not known.any() and len(log_total):
        weights[-1] = log_total.mean()
    return weights


def _ridge(predictors: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Weights of the predictors, the last of them constant and not penalised."""
    # 1. one penalty for all predictors needs them on one scale
    x = predictors[:, :-1]
    mean, sd = x.mean(axis=0), x.std(axis=0)
    sd[sd < MIN_SD] = 1.0
    ridge = RidgeCV(alphas=PENALTIES).fit((x - mean) / sd, target)
    # 2. back to the scale of the predictors
    return np.append(ridge.coef_ / sd, ridge.intercept_ - (ridge.coef_ / sd) @ mean)
