"""Which cells of one set have counterparts in another, from embeddings in one space."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from cantata._numeric.batches import sample_cells
from cantata._numeric.neighbors import nearest_neighbors

if TYPE_CHECKING:
    from collections.abc import Callable

MIN_CELLS = 40
"""Cells of either set below which neighbourhoods tell nothing."""
N_NEAREST = 30
"""Cells of the other set, and of its own, whose distances to a cell are compared."""
N_NEIGHBORS = 100
"""Cells of its own set among which known counterparts of a cell are counted."""
MIN_KNOWN = 0.05
"""Share of cells with known counterparts from which on these alone are asked."""
MAX_SHARE = 20
"""At most one of so many cells is a neighbour."""
N_CLUSTERS, MIN_CLUSTERS = 15, 5
MIN_PER_CLUSTER = 100
N_ROUNDS = 5
MIN_SD = 1e-9
"""Spread below which evidence counts as constant."""
MAX_RATIO = 3.0
"""How much farther cells of the other set usually are, from which on the two are apart."""
MIN_POWER = 0.05
"""Least difference of calls within and outside a class from which its share is told."""
SMALL_SHARE = 0.05
"""Share of cells that may seem to lack a counterpart before errors are taken off."""
MAX_FITTED = 20_000
"""Cells that clusters and regressions are fitted to."""


def counterpart_probability(
    x: np.ndarray,
    y: np.ndarray,
    is_paired: np.ndarray,
    own: np.ndarray | None = None,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Probability that each cell of `x` has a counterpart among those of `y`.

    Two things tell: how many neighbours of a cell are known to have a counterpart, and how far
    its nearest cells of `y` are beside the nearest of `x`, averaged over neighbours. Where at
    least one cell of 20 is known, these alone are asked: distances are what training made of
    them, and it lays cells without counterpart on others. What either says of a cell without one
    is learned by leaving out, for each of 15 clusters, the cells of `y` and the known counterparts
    in it. The prior is the share of cells without: of those that look so, less what looks so of
    known ones, where these are asked.

    Parameters
    ----------
    x, y
        (n, q) and (m, q) embeddings in one space.
    is_paired
        (n,) whether a cell of `x` is known to have a counterpart.
    own
        (n, d) coordinates in which cells of `x` are neighbours; `x` by default. Components of what
        was measured keep populations apart that a common space has no reason to.
    seed
        Seed of the clusters, and of the approximate search above 100,000 cells.

    Returns
    -------
    (n,) probabilities; 1 where `is_paired`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(400, 2)), rng.normal(size=(300, 2))
    >>> x[:100] += 20  # which y does not have
    >>> p = counterpart_probability(x, y, np.zeros(400, bool))
    >>> bool(p[:100].max() < 0.01), bool(np.median(p[100:]) > 0.8)
    (True, True)
    """
    if is_paired.all():
        return np.ones(len(x))
    enough = is_paired.mean() >= MIN_KNOWN
    evidence = _evidence(x, y, is_paired, x if own is None else own, seed, by_distance=not enough)
    lacks = _lacking(*evidence, is_paired & enough)
    return np.where(is_paired, 1.0, 1 - lacks)


def _evidence(
    x: np.ndarray,
    y: np.ndarray,
    is_paired: np.ndarray,
    own: np.ndarray,
    seed: int,
    *,
    by_distance: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 1 or 2) evidence against counterparts: as it is, and with a cell's cluster left out.

    The third array, (n,), is how much of a cluster there was to leave out, at most 1.
    """
    smaller = min(len(x), len(y))
    n_nearest = max(1, min(N_NEAREST, smaller // MAX_SHARE))
    n_own = max(n_nearest, min(N_NEIGHBORS, len(x) // MAX_SHARE))
    # 1. neighbourhoods that are left out, of x and of what of y is nearest to their centres
    n_clusters = max(MIN_CLUSTERS, min(N_CLUSTERS, smaller // MIN_PER_CLUSTER))
    clusters = KMeans(n_clusters, n_init=1, random_state=seed)
    of_x = clusters.fit(own[sample_cells(len(own), MAX_FITTED)]).predict(own)
    present = np.unique(of_x)
    centres = np.stack([x[of_x == cluster].mean(axis=0) for cluster in present])
    of_y = present[nearest_neighbors(centres, y, 1)[0][:, 0]]
    shares = [np.bincount(c, minlength=n_clusters) / len(c) for c in (of_x, of_y)]
    balance = np.minimum(shares[1] / np.maximum(shares[0], 1 / len(x)), 1)[of_x]
    # 2. nearest cells of the own set, without the cell itself, which is the first unless it has
    #    copies
    neighbors = nearest_neighbors(own, own, n_own + 1, seed=seed)[0][:, 1:]
    here, left_out = [], []
    # 3. how much farther those of the other set are
    if by_distance:
        scale = _log_mean(nearest_neighbors(x, x, n_nearest + 1, seed=seed)[1][:, 1:])
        ratio = _log_mean(nearest_neighbors(y, x, n_nearest, seed=seed)[1]) - scale
        _warn_where_apart(ratio)
        without = ratio.copy()
        for cluster in present:
            rows, others = of_x == cluster, y[of_y != cluster]
            if len(others) >= n_nearest:
                far = nearest_neighbors(others, x[rows], n_nearest, seed=seed)[1]
                without[rows] = _log_mean(far) - scale[rows]
        near = neighbors[:, :n_nearest]
        same = of_x[near] == of_x[:, None]
        here.append(ratio[near].mean(axis=1))
        left_out.append(np.where(same, without[near], ratio[near]).mean(axis=1))
    # 4. how few of a cell's neighbours are known to have a counterpart
    if is_paired.any():
        known = is_paired[neighbors]
        here.append(-known.mean(axis=1))
        left_out.append(-(known & (of_x[neighbors] != of_x[:, None])).mean(axis=1))
    return np.column_stack(here), np.column_stack(left_out), balance


def _warn_where_apart(ratio: np.ndarray) -> None:
    """Say so where the two sets are not mixed, by (n,) log ratios of distances."""
    if np.median(ratio) > np.log(MAX_RATIO):
        warnings.warn(
            "Cells of one modality or batch lie apart from all others in this embedding: their "
            f"nearest others are {np.exp(np.median(ratio)):.1f} times as far as their own kind. "
            "Probabilities of counterparts mean nothing there.",
            UserWarning,
            stacklevel=5,
        )


def _log_mean(distances: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(distances.mean(axis=1), np.finfo(float).tiny))


def _lacking(
    here: np.ndarray, left_out: np.ndarray, balance: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """(n,) probability that a cell has no counterpart, from evidence of either kind.

    Cells are a mixture of those that have one and those that do not, the latter like those whose
    cluster was left out: logistic regression and shares of the mixture in turn. `known` to have
    one are (n,) cells that errors are counted among.
    """
    n = len(here)
    fitted = sample_cells(n, MAX_FITTED)
    # cells that are farther off than any whose cluster was left out would turn regressions round
    informative = left_out[balance > 0.5] if (balance > 0.5).any() else left_out
    highest = np.quantile(informative, 0.95, axis=0)
    x, without = (np.minimum(part[fitted], highest) for part in (here, left_out))
    center, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale < MIN_SD] = 1.0
    x, without, every = ((part - center) / scale for part in (x, without, here))
    lacks = np.zeros(len(x))
    for _ in range(N_ROUNDS + 1):
        # 1. log odds at even priors; either kind as a whole has the same weight
        has_none = np.repeat([0, 1, 1], len(x))
        weights = np.concatenate([1 - lacks, lacks, balance[fitted]])
        for kind in (0, 1):
            weights[has_none == kind] /= weights[has_none == kind].sum()
        log_odds = _fitted_log_odds(np.concatenate([x, x, without]), has_none, weights * len(x))
        # 2. the share of cells for which lacking one is the likelier; where some are known to have
        #    one, the share among these are errors
        seems, known_here = log_odds(x) > 0, known[fitted]
        share = seems[~known_here].mean()
        if known_here.any():
            errors = seems[known_here].mean()
            found = np.average(log_odds(without) > 0, weights=balance[fitted])
            share = _true_share(share, errors, found, known_here.sum())
        share = np.clip(share, 1 / n, 1 - 1 / n)
        prior = np.log(share / (1 - share))
        lacks = expit(log_odds(x) + prior)
    return expit(log_odds(every) + prior)


def _true_share(share: float, errors: float, found: float, n_known: int) -> float:
    """Share of a class from that of its calls, and of calls within and outside the class.

    Calls outside are counted on few cells: their share is taken one standard error smaller. And a
    small class drowns in these errors: up to a twentieth, all calls count.
    """
    errors -= np.sqrt(errors * (1 - errors) / n_known)
    return max((share - errors) / max(found - errors, MIN_POWER), min(share, SMALL_SHARE))


def _fitted_log_odds(
    evidence: np.ndarray, has_none: np.ndarray, weights: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Log odds of having no counterpart by logistic regression, never falling with evidence."""
    used = np.arange(evidence.shape[1])
    while len(used):
        fit = LogisticRegression().fit(evidence[:, used], has_none, sample_weight=weights)
        if (fit.coef_[0] > 0).all():
            break
        used = used[fit.coef_[0] > 0]
    else:
        return lambda x: np.zeros(len(x))
    return lambda x: np.asarray(fit.decision_function(x[:, used]))
