"""Library sizes of cells whose counts were not observed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from cantata._keys import rows_key
from cantata.model.clue._network import MAX_READ

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cantata.model.clue._module import CLUEModule

MAX_CELLS = 50_000
PENALTIES = np.logspace(-3, 4, 15)


def _predictors(
    module: CLUEModule, tensors: Mapping[str, Tensor], source: str, target: str
) -> Tensor:
    """What the regression reads of the rows of `source`.

    The unit embedding, what the decoder of `target` makes of it (in one batch, whatever the
    cell's), the encoder's input where it is narrow, the log total of the source (0 without counts)
    and a constant.
    """
    values = module.encoder_input(tensors, source)
    loc, _ = module.encoders[source](values)
    unit = torch.nn.functional.normalize(loc, dim=1)
    codes, continuous = module.covariates(tensors)
    codes = torch.zeros_like(codes[: len(unit)])
    codes[:, 0] = module.library_batch[module.modalities.index(target)]
    if continuous is not None:
        continuous = torch.zeros_like(continuous[: len(unit)])
    hidden = module.decoders[target](unit[:, module.subspace(target)], codes, continuous)
    if module.head(source).is_count:
        total = module.observed_library(tensors[source]).log().unsqueeze(1)
    else:
        total = unit.new_zeros(len(unit), 1)
    read = [values] if values.shape[1] <= MAX_READ else []
    return torch.cat([unit, hidden, *read, total, torch.ones_like(total)], dim=1)


def predict_log_library(
    module: CLUEModule, tensors: Mapping[str, Tensor], source: str, target: str
) -> Tensor:
    """(n_source,) log library sizes of `target` predicted from the rows of `source`."""
    if module.library == "learned":
        return module.learned_library(source, target, tensors[source]).log()
    return _predictors(module, tensors, source, target) @ module.library_weights(source, target)


@torch.inference_mode()
def fit_library_weights(model: Any) -> None:
    """Fit one ridge regression per ordered pair of modalities on the training cells.

    The log total of the target is regressed on what the source says of the same cell. Where no
    training cell has both, the mean log total of the target is predicted. The penalty is chosen by
    leave-one-out errors.

    Parameters
    ----------
    model
        Trained :class:`cantata.CLUE`; the weights in ``model.module`` are set.
    """
    module = model.module
    targets = [m for m in module.modalities if module.head(m).has_library]
    if not targets or module.library == "learned":
        return
    train = model.train_indices
    if len(train) > MAX_CELLS:
        train = np.random.default_rng(0).choice(train, MAX_CELLS, replace=False)
    pairs = [(s, t) for s in module.modalities for t in targets if s != t]
    for target in targets:
        measured = model.measured_batches_[target]
        module.library_batch[module.modalities.index(target)] = measured.index(True)
    read: dict[tuple[str, str], list[np.ndarray]] = {pair: [] for pair in pairs}
    where: dict[str, list[np.ndarray]] = {m: [] for m in module.modalities}
    totals: dict[str, list[np.ndarray]] = {m: [] for m in targets}
    for tensors in model._minibatches(model._cells(None), np.asarray(train), None):
        for m in module.modalities:
            where[m].append(tensors["cell"][tensors[rows_key(m)]].cpu().numpy())
        for m in targets:
            totals[m].append(module.observed_library(tensors[m]).log().cpu().numpy())
        for source, target in pairs:
            read[source, target].append(_predictors(module, tensors, source, target).cpu().numpy())
    for source, target in pairs:
        weights = _regress(
            np.concatenate(read[source, target]),
            np.concatenate(where[source]),
            np.concatenate(totals[target]),
            np.concatenate(where[target]),
        )
        module.library_weights(source, target).copy_(torch.as_tensor(weights))


def _regress(
    predictors: np.ndarray, cells_x: np.ndarray, log_total: np.ndarray, cells_y: np.ndarray
) -> np.ndarray:
    """Weights, the last of them a constant, over the cells that are in both lists."""
    weights = np.zeros(predictors.shape[1], dtype=np.float32)
    weights[-1] = log_total.mean() if len(log_total) else 0.0
    _, at_x, at_y = np.intersect1d(cells_x, cells_y, return_indices=True)
    if len(at_x) < 10:
        return weights
    x, y = predictors[at_x, :-1].astype(np.float64), log_total[at_y].astype(np.float64)
    centre, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread < 1e-8] = 1.0
    ridge = RidgeCV(alphas=PENALTIES).fit((x - centre) / spread, y)
    weights[:-1] = ridge.coef_ / spread
    weights[-1] = ridge.intercept_ - (ridge.coef_ / spread) @ centre
    return weights
