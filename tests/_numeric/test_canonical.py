"""Canonical variates: against textbook formulas, other libraries, and constructed answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import linalg
from scipy.stats import chi2

from cantata._numeric.canonical import (
    N_FOLDS,
    RIDGES,
    canonical_variates,
    chosen_variates,
    mean_correlations,
    pairing_by_folds,
)
from cantata._numeric.pairing_test import pairing_test
from cantata.metrics import foscttm


def blocks_with(shared, widths, noise=0.5, n=400, seed=0):
    """Blocks that read the first `shared` of their columns' factors in common."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, shared))
    result = []
    for width in widths:
        own = rng.normal(size=(n, width))
        values = np.hstack([common + noise * rng.normal(size=common.shape), own])
        result.append(values @ rng.normal(size=(width + shared, width + shared)) + 3)
    return result


def textbook(x, y, ridge=0.0):
    """Canonical correlations and weights by the generalised eigenvalue problem."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    n = len(x)
    xx, yy, xy = x.T @ x / n, y.T @ y / n, x.T @ y / n
    xx = xx + ridge * np.trace(xx) / len(xx) * np.eye(len(xx))
    yy = yy + ridge * np.trace(yy) / len(yy) * np.eye(len(yy))
    values, a = linalg.eigh(xy @ np.linalg.solve(yy, xy.T), xx)
    return np.sqrt(np.maximum(values[::-1], 0)), a[:, ::-1]


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.3])
def test_two_blocks_equal_the_textbook(ridge):
    x, y = blocks_with(2, (4, 3))
    found = canonical_variates([x, y], 5, ridge=ridge)
    values, a = textbook(x, y, ridge)
    assert found.n == 5
    ours = found.transform(0, x)
    theirs = (x - x.mean(axis=0)) @ a[:, :5]
    np.testing.assert_allclose(np.abs(np.diag(np.corrcoef(ours.T, theirs.T)[:5, 5:])), 1)
    if ridge == 0:
        np.testing.assert_allclose(found.correlations, values[:5], atol=1e-10)


def test_correlations_are_those_of_the_variates():
    blocks = blocks_with(2, (4, 3, 2))
    for chosen in (blocks[:2], blocks):
        found = canonical_variates(chosen, 3)
        variates = [found.transform(k, x) for k, x in enumerate(chosen)]
        for j in range(3):
            pairs = itertools.combinations([v[:, j] for v in variates], 2)
            expected = np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])
            assert found.correlations[j] == pytest.approx(expected)
        for variate in variates:
            np.testing.assert_allclose(variate.mean(axis=0), 0, atol=1e-9)
            np.testing.assert_allclose(variate.std(axis=0), 1)


def test_several_blocks_maximise_the_maxvar_criterion():
    blocks = blocks_with(2, (3, 2, 4), n=300)
    found = canonical_variates(blocks, 2, ridge=0)
    # MAXVAR: leading eigenvectors of the sum of the projections on the blocks (Kettenring 1971)
    projections = np.zeros((300, 300))
    for x in blocks:
        q = np.linalg.qr(x - x.mean(axis=0))[0]
        projections += q @ q.T
    leading = np.linalg.eigh(projections)[1][:, ::-1][:, :2]
    joint = found.joint(blocks)
    np.testing.assert_allclose(np.abs(leading.T @ joint) / np.sqrt(300), np.eye(2), atol=1e-8)
    np.testing.assert_allclose(joint.std(axis=0), 1)


def test_joint_of_two_is_their_scaled_mean():
    x, y = blocks_with(2, (4, 3))
    found = canonical_variates([x, y], 3)
    mean = (found.transform(0, x) + found.transform(1, y)) / 2
    np.testing.assert_allclose(found.joint([x, y]), mean / mean.std(axis=0))
    assert np.all(found.shares == 0.5)


def test_shared_factors_are_found_and_a_block_without_them_weighs_little():
    rng = np.random.default_rng(1)
    common = rng.normal(size=(2000, 1))
    x, y = (np.hstack([common, rng.normal(size=(2000, 3))]) for _ in range(2))
    z = rng.normal(size=(2000, 3))
    found = canonical_variates([x, y, z], 2)
    joint = found.joint([x, y, z])[:, 0]
    assert abs(np.corrcoef(joint, common[:, 0])[0, 1]) > 0.995
    assert found.shares[2, 0] < 0.1
    np.testing.assert_allclose(found.shares.sum(axis=0), 1)
    assert found.correlations[0] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("n_blocks", [2, 3])
def test_blocks_of_smaller_rank_give_fewer_variates(n_blocks):
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(200, 2))
    narrow = factors @ rng.normal(size=(2, 6))
    wide = [rng.normal(size=(200, 4)) + factors[:, :1] for _ in range(n_blocks - 1)]
    for block in (narrow, narrow.astype(np.float32), np.hstack([narrow, np.full((200, 1), 0.1)])):
        found = canonical_variates([*wide, block], 10)
        assert found.n == 2
        assert np.isfinite(found.joint([*wide, block])).all()
    few = [block[:5] for block in [*wide, narrow]]
    assert canonical_variates(few, 10).n == 2


def test_units_do_not_matter():
    x, y = blocks_with(2, (4, 3))
    plain = canonical_variates([x, y], 3)
    scaled = canonical_variates([x * 1e170, y * 1e-170 + 1e-168], 3)
    np.testing.assert_allclose(scaled.correlations, plain.correlations, atol=1e-6)
    np.testing.assert_allclose(
        scaled.transform(0, x * 1e170), plain.transform(0, x), rtol=1e-4, atol=1e-5
    )


def test_new_cells_and_rotated_blocks():
    x, y = blocks_with(2, (4, 3))
    found = canonical_variates([x[:300], y[:300]], 2)
    np.testing.assert_allclose(
        found.joint([x[300:], y[300:]]), found.joint([x, y])[300:], atol=1e-12
    )
    turn = linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    turned = canonical_variates([x[:300] @ turn, y[:300]], 2)
    np.testing.assert_allclose(
        np.abs(turned.transform(0, x @ turn)), np.abs(found.transform(0, x)), atol=1e-8
    )
    signs = found.weights[0][np.abs(found.weights[0]).argmax(axis=0), [0, 1]]
    assert np.all(signs > 0)


def test_blocks_that_share_some_cells_each():
    """Each correlation is over the cells that two blocks have in common."""
    blocks = blocks_with(2, (3, 2, 4), n=600, noise=0.1)
    whole = canonical_variates(blocks, 2, ridge=0)
    rows = [np.arange(600) for _ in blocks]
    again = canonical_variates(blocks, 2, rows=rows, ridge=0)
    np.testing.assert_allclose(again.weights[0], whole.weights[0])
    rows[0][400:] = rows[2][:400] = -1  # a chain: none of the cells has the first and the last
    chain = canonical_variates(blocks, 2, rows=rows, ridge=0)
    assert np.isnan(chain.pairs[0, 2]).all()
    a, b = (chain.transform(k, blocks[k])[:400] for k in (0, 1))
    for j in range(2):
        expected = np.corrcoef(a[:, j], b[:, j])[0, 1]
        assert chain.pairs[0, 1, j] == pytest.approx(expected)
    assert (chain.least_correlations > 0.9).all()
    for k, x in enumerate(blocks):
        angles = linalg.subspace_angles(chain.transform(k, x), whole.transform(k, x))
        assert np.cos(angles).min() > 0.98
    # blocks whose cells come in other orders
    order = np.random.default_rng(0).permutation(600)
    shuffled = canonical_variates(
        [blocks[0], blocks[1][order], blocks[2]],
        2,
        ridge=0,
        rows=[rows[0], np.argsort(order), rows[2]],
    )
    np.testing.assert_allclose(shuffled.correlations, chain.correlations)


def test_what_covariates_explain_is_not_found_in_common():
    """An effect of batches in both blocks is their strongest variate, unless they are told."""
    x, y = blocks_with(1, (3, 3), n=800, noise=0.3)
    batch = np.random.default_rng(1).integers(0, 2, 800)
    for block in (x, y):
        block += np.outer(batch, np.random.default_rng(2).normal(size=block.shape[1])) * 20
    names = np.eye(2)[batch]
    plain = canonical_variates([x, y], 2, ridge=0.1)
    told = canonical_variates([x, y], 2, ridge=0.1, covariates=names[:, 1:])

    def of_batch(found):
        variates = found.transform(0, x)
        return [abs(np.corrcoef(v, batch)[0, 1]) for v in variates.T]

    assert of_batch(plain)[0] > 0.9
    assert of_batch(told)[0] < 0.3
    # correlations are those of cells within a batch, pooled
    a, b = (told.transform(k, block) for k, block in enumerate((x, y)))
    for v in (a, b):
        for code in (0, 1):
            v[batch == code] -= v[batch == code].mean(axis=0)
    for j in range(2):
        assert told.correlations[j] == pytest.approx(np.corrcoef(a[:, j], b[:, j])[0, 1])


@pytest.mark.parametrize("n_alone", [0, 60])
def test_left_out_cells_choose_ridge_and_weights(n_alone):
    """Beside a loop over ridges and folds; cells in one block do not count."""
    x, y = blocks_with(2, (5, 4), n=100 + n_alone, noise=2.0, seed=1)
    rows = [np.arange(len(x)), np.arange(len(x))]
    rows[1][100:] = -1
    found, weights = chosen_variates([x, y], 4, rows, seed=3)
    folds = np.array_split(np.random.default_rng(3).permutation(100), N_FOLDS)
    scores, of_ridge = [], []
    for ridge in RIDGES:
        variates, correlations = [], []
        for fold in folds:
            kept = np.setdiff1d(np.arange(100), fold)
            fit = canonical_variates([x[kept], y[kept]], 4, ridge=ridge)
            variates.append([fit.transform(k, block[fold]) for k, block in enumerate((x, y))])
            a, b = variates[-1]
            correlations.append([np.corrcoef(a[:, j], b[:, j])[0, 1] for j in range(4)])
        mean = np.maximum(np.mean(correlations, axis=0), 0)
        of_ridge.append(mean)
        unit = [
            [v * mean / np.linalg.norm(v * mean, axis=1)[:, None] for v in f] for f in variates
        ]
        scores.append(np.mean([foscttm(a, b) for a, b in unit]))
    best = int(np.argmin(scores))
    assert best > 0
    np.testing.assert_allclose(weights, of_ridge[best])
    expected = canonical_variates([x[:100], y[:100]], 4, ridge=RIDGES[best])
    np.testing.assert_allclose(found.weights[0], expected.weights[0])


def test_pairs_are_tested_by_variates_that_have_not_seen_them():
    """Beside a loop; the second block lacks some cells, the third is paired by chance."""
    x, y = blocks_with(2, (5, 4), n=150, seed=1)
    z = np.random.default_rng(0).normal(size=(150, 3))
    rows = [np.arange(150) for _ in range(3)]
    rows[1][130:] = -1
    found = pairing_by_folds([x, y, z], 3, rows, seed=3)
    assert {pair: n for pair, (n, _) in found.items()} == {(0, 1): 130, (0, 2): 150, (1, 2): 130}
    assert found[0, 1][1] < 1e-3
    assert found[0, 2][1] > 0.05
    p_values = []
    for fold in np.array_split(np.random.default_rng(3).permutation(150), N_FOLDS):
        kept = np.setdiff1d(np.arange(150), fold)
        fit = canonical_variates([x, y, z], 3, ridge=RIDGES[-1], rows=[r[kept] for r in rows])
        both = fold[fold < 130]
        unit = []
        for k, block in enumerate((x, y)):
            v = fit.transform(k, block[both]) * np.maximum(fit.correlations, 0)
            unit.append(v / np.linalg.norm(v, axis=1)[:, None])
        p_values.append(pairing_test(*unit)[1])
    statistic = -2 * np.log(p_values).sum()
    assert found[0, 1][1] == pytest.approx(chi2.sf(statistic, 2 * N_FOLDS))


def test_weights_of_a_chain_without_a_common_cell():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(600, 2))
    blocks = [np.hstack([common, 0.5 * rng.normal(size=(600, w))]) for w in (3, 0, 4)]
    rows = [np.arange(600) for _ in blocks]
    rows[0][300:] = rows[2][:300] = -1
    found, weights = chosen_variates(blocks, 4, rows)
    assert (weights[:2] > 0.7).all()
    assert found.n == len(weights) == 2  # as wide as the narrowest block


def test_mean_correlations_equal_a_loop():
    x = np.random.default_rng(0).normal(size=(3, 50, 2))
    x[1] += x[0]
    expected = [
        np.mean([np.corrcoef(a[:, j], b[:, j])[0, 1] for a, b in itertools.combinations(x, 2)])
        for j in range(2)
    ]
    np.testing.assert_allclose(mean_correlations(x), expected)
    x[2, :, 0] = 4.0
    both = np.corrcoef(x[0, :, 0], x[1, :, 0])[0, 1]
    assert mean_correlations(x)[0] == pytest.approx(both / 3)


def test_prints():
    found = canonical_variates(blocks_with(2, (4, 3), noise=0.1), 2)
    assert repr(found) == "2 canonical variates of 6 + 5 columns: correlations 0.99, 0.99"


X = np.random.default_rng(0).normal(size=(20, 3))


@pytest.mark.parametrize(
    ("blocks", "options", "error", "message"),
    [
        ([X], {}, ValueError, "1 block was given; variates need at least two"),
        ([X, X[:10]], {}, ValueError, r"The blocks have \[20, 10\] rows"),
        ([X, X * np.nan], {}, ValueError, "block 1 holds NaN"),
        ([X, X[:, :0]], {}, ValueError, "block 1 is empty"),
        ([X, np.full((20, 2), 0.1)], {}, ValueError, "Block 1 is constant over its 20 cells"),
        ([X[:2], X[:2]], {}, ValueError, "2 cells are too few"),
        ([X, X], {"n": 0}, ValueError, "n=0: ask for at least one"),
        ([X, X], {"n": 1.0}, TypeError, "n must be an integer"),
        ([X, X], {"ridge": -1}, ValueError, "ridge=-1"),
    ],
)
def test_bad_input_is_named(blocks, options, error, message):
    with pytest.raises(error, match=message):
        canonical_variates(blocks, **{"n": 2, **options})


def test_bad_new_cells_are_named():
    found = canonical_variates([X, X + 1], 2)
    with pytest.raises(ValueError, match="block 1 has 2 dimensions where 3 are expected"):
        found.transform(1, X[:, :2])
    with pytest.raises(ValueError, match="1 blocks were given, but 2 were fitted"):
        found.joint([X])
    with pytest.raises(ValueError, match=r"The blocks have \[20, 3\] rows"):
        found.joint([X, X[:3]])
