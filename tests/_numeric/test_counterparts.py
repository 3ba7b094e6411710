"""Counterparts against a version with loops, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score

from cantata._numeric.counterparts import SMALL_SHARE, _evidence, counterpart_probability


def populations(rng, n_types=6, sizes=(200, 150), noise=0.4):
    """Two sets of cells of common types, with the types of each."""
    centers = rng.normal(size=(n_types, 5)) * 2
    types = [np.repeat(np.arange(n_types), size) for size in sizes]
    shift = [rng.normal(size=5) * noise / 4 for _ in sizes]
    cells = [
        centers[t] + s + rng.normal(size=(len(t), 5)) * noise
        for t, s in zip(types, shift, strict=True)
    ]
    return *cells, *types


def plain_evidence(x, y, is_paired, own, n_nearest, n_own, seed=0):
    """What :func:`_evidence` computes, cell by cell."""
    of = KMeans(5, n_init=1, random_state=seed).fit(own)
    of_x = of.predict(own)
    centres = [np.mean([x[i] for i in range(len(x)) if of_x[i] == c], axis=0) for c in range(5)]
    of_y = [int(np.argmin([np.linalg.norm(z - centre) for centre in centres])) for z in y]

    def ratio(i, others):
        within = sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)
        across = sorted(np.linalg.norm(x[i] - z) for z in others)
        return np.log(np.mean(across[:n_nearest])) - np.log(np.mean(within[:n_nearest]))

    here, left_out = [], []
    for i in range(len(x)):
        near = sorted(
            (j for j in range(len(x)) if j != i), key=lambda j: np.sum((own[i] - own[j]) ** 2)
        )
        mine = of_x[i]
        rest = [z for z, c in zip(y, of_y, strict=True) if c != mine]
        here.append([np.mean([ratio(j, y) for j in near[:n_nearest]])])
        left_out.append(
            [np.mean([ratio(j, rest if of_x[j] == mine else y) for j in near[:n_nearest]])]
        )
        if is_paired.any():
            here[-1].append(-np.mean([is_paired[j] for j in near[:n_own]]))
            left_out[-1].append(-np.mean([is_paired[j] and of_x[j] != mine for j in near[:n_own]]))
    return np.array(here), np.array(left_out)


@pytest.mark.parametrize("n_paired", [0, 3, 30])
def test_evidence_is_that_of_a_plain_loop(n_paired):
    rng = np.random.default_rng(0)
    x, y, *_ = populations(rng, n_types=3, sizes=(30, 20))
    is_paired = rng.permutation(len(x)) < n_paired
    own = x if n_paired else np.hstack([x[:, :3], rng.normal(size=(len(x), 2))])
    few = n_paired < 30
    here, left_out, balance = _evidence(x, y, is_paired, own, 0, by_distance=few)
    expected = plain_evidence(x, y, is_paired, own, n_nearest=3, n_own=4)
    if not few:  # enough known pairs tell alone
        expected = [part[:, 1:] for part in expected]
    np.testing.assert_allclose(here, expected[0], rtol=1e-6)
    np.testing.assert_allclose(left_out, expected[1], rtol=1e-6)
    assert ((balance > 0) & (balance <= 1)).all()


@pytest.mark.parametrize("share_paired", [0.0, 0.2])
@pytest.mark.parametrize("missing", range(6))
def test_a_population_without_counterpart_is_found(missing, share_paired):
    rng = np.random.default_rng(missing)
    x, y, of_x, of_y = populations(rng)
    lacks = of_x == missing
    is_paired = (rng.random(len(x)) < share_paired) & ~lacks
    p = counterpart_probability(x, y[of_y != missing], is_paired)
    assert ((p >= 0) & (p <= 1)).all()
    assert (p[is_paired] == 1).all()
    assert roc_auc_score(~lacks, p) > 0.97
    assert (p[~lacks] > 0.5).mean() > 0.95


def test_most_of_them_are_called_so():
    called = []
    for missing in range(6):
        rng = np.random.default_rng(missing)
        x, y, of_x, of_y = populations(rng)
        lacks = of_x == missing
        is_paired = (rng.random(len(x)) < 0.2) & ~lacks
        p = counterpart_probability(x, y[of_y != missing], is_paired)
        called.append((p[lacks] < 0.5).mean())
    # a population next to another one may stay below one half, though it is ranked right
    assert np.mean(np.array(called) > 0.9) >= 5 / 6


def test_hardly_any_cell_is_suspected_where_none_is_alone():
    rng = np.random.default_rng(10)
    x, y, *_ = populations(rng)
    for a, b in ((x, y), (y, x)):
        p = counterpart_probability(a, b, np.zeros(len(a), dtype=bool))
        assert (p < 0.5).mean() < 0.05
        assert p.mean() > 0.9


@pytest.mark.parametrize("share_lacking", [0.0, 0.15])
def test_probabilities_sum_to_the_cells_that_have_one(share_lacking):
    """Of one cloud without populations, where single cells tell little."""
    excess = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(2, 3000, 5))
        edge = np.quantile(x[:, 0], 1 - share_lacking)
        lacks = x[:, 0] > edge
        is_paired = (rng.random(3000) < 0.2) & ~lacks
        p = counterpart_probability(x, y[y[:, 0] < edge], is_paired)
        excess.append(p[~is_paired].mean() - (~lacks)[~is_paired].mean())
    # up to a small share is granted to what seems to have none
    assert -SMALL_SHARE * (share_lacking == 0) - 0.02 < np.mean(excess) < 0.02


def test_known_counterparts_tell_where_embeddings_do_not():
    rng = np.random.default_rng(11)
    x, _, of_x, _ = populations(rng, sizes=(150, 1))
    lacks = of_x == 0
    # its cells lie on another population, of which y has twice as many
    x[lacks] = x[of_x == 1] + 0.4 * rng.normal(size=(150, 5)) + [0.5, 0, 0, 0, 0]
    y = np.concatenate([x[~lacks], x[of_x == 1]]) + 0.4 * rng.normal(size=(6 * 150, 5))
    is_paired = (rng.random(len(x)) < 0.3) & ~lacks
    open_question = ~is_paired
    scores = [
        roc_auc_score(~lacks[open_question], counterpart_probability(x, y, known)[open_question])
        for known in (is_paired, np.zeros(len(x), dtype=bool))
    ]
    assert scores[0] > scores[1] + 0.1


def test_the_order_of_cells_and_the_scale_change_nothing():
    rng = np.random.default_rng(12)
    x, y, _, of_y = populations(rng)
    y = y[of_y != 2]
    none = np.zeros(len(x), dtype=bool)
    p = counterpart_probability(x, y, none)
    np.testing.assert_allclose(counterpart_probability(100 * x, 100 * y, none), p, atol=1e-6)
    np.testing.assert_array_equal(counterpart_probability(x, y, none), p)


def test_copies_of_one_cell_are_no_error():
    x = np.ones((60, 2))
    p = counterpart_probability(x, x, np.zeros(60, dtype=bool))
    assert np.isfinite(p).all()
