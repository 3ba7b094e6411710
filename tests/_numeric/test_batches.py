"""Factors and shifts of batches: known ones are found, also where compositions differ."""

from __future__ import annotations

import numpy as np
import pytest

from cantata._numeric import batches
from cantata._numeric.batches import (
    Clusters,
    apply_maps,
    batch_maps,
    new_batch_map,
    sampled_by_batch,
)

TRUE_RATIO, TRUE_SHIFT = np.array([1.0, 2.0, 0.5, 1.5]), np.array([3.0, -1.0, 0.0, 2.0])


def cells(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of two kinds that differ in the first two columns, and which are of the second."""
    rng = np.random.default_rng(seed)
    kind = rng.random(n) < share
    x = rng.normal(size=(n, 4))
    x[kind, :2] += 6
    return x, kind


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.35, 0.6), (0.2, 0.7)])
def test_known_maps_are_found_whatever_the_composition(shares: tuple[float, float]) -> None:
    (a, kind_a), (b, kind_b) = cells(900, shares[0], 0), cells(700, shares[1], 1)
    x, codes = np.concatenate([a, b * TRUE_RATIO + TRUE_SHIFT]), np.repeat([0, 1], [900, 700])
    kind = np.concatenate([kind_a, kind_b])
    maps, clusters = batch_maps(x, codes)
    corrected = apply_maps(x, codes, maps)
    for of_kind in (False, True):
        means, sds = (
            [f(corrected[(codes == batch) & (kind == of_kind)], axis=0) for batch in (0, 1)]
            for f in (np.mean, np.std)
        )
        np.testing.assert_allclose(means[0], means[1], atol=0.5)
        np.testing.assert_allclose(sds[0], sds[1], rtol=0.2)
    # what is the same in both is left as it is
    assert clusters.share.sum() == pytest.approx(1)
    ratio = maps[1][0] / maps[0][0]
    np.testing.assert_allclose(ratio, 1 / TRUE_RATIO, rtol=0.15)


def test_composition_is_no_batch() -> None:
    """Without a batch effect nothing moves, though means differ."""
    (a, _), (b, _) = cells(900, 0.2, 0), cells(700, 0.7, 1)
    x, codes = np.concatenate([a, b]), np.repeat([0, 1], [900, 700])
    corrected = apply_maps(x, codes, batch_maps(x, codes)[0])
    shifts = [(corrected - x)[codes == batch].mean(axis=0) for batch in (0, 1)]
    np.testing.assert_allclose(shifts[0], shifts[1], atol=0.35)
    assert abs((b - a[:700]).mean(axis=0)[:2]).min() > 2


def test_a_new_batch_is_brought_to_known_cells() -> None:
    (a, _), (b, kind) = cells(900, 0.4, 0), cells(700, 0.7, 1)
    _, clusters = batch_maps(a, np.zeros(900, dtype=int))
    ratio, shift = new_batch_map(b * TRUE_RATIO + TRUE_SHIFT, clusters)
    found = (b * TRUE_RATIO + TRUE_SHIFT) * ratio + shift
    np.testing.assert_allclose(found[kind].mean(axis=0), b[kind].mean(axis=0), atol=0.6)
    np.testing.assert_allclose(found[~kind].mean(axis=0), b[~kind].mean(axis=0), atol=0.6)


def test_a_new_batch_starts_from_the_moments_of_all_cells(monkeypatch) -> None:
    monkeypatch.setattr(batches, "N_ROUNDS", 0)
    x, kind = cells(400, 0.5, 0)
    new = cells(300, 0.2, 1)[0] * [1.0, 2.0, 0.5, 0.1] + TRUE_SHIFT
    ratio, shift = new_batch_map(new, Clusters.of(x, kind.astype(int), 2))
    expected = np.minimum(x.std(axis=0) / new.std(axis=0), 5)
    np.testing.assert_allclose(ratio, expected)
    assert expected[3] == 5
    np.testing.assert_allclose(shift, x.mean(axis=0) - new.mean(axis=0) * expected)


@pytest.mark.parametrize(("n", "k"), [(39, 1), (79, 3), (400, 5)])
def test_every_twenty_cells_are_a_cluster_up_to_five(n: int, k: int) -> None:
    x, _ = cells(n, 0.5, 0)
    _, clusters = batch_maps(x, np.zeros(n, dtype=int))
    assert (clusters.share > 0).sum() == k


def test_small_batches_have_no_map_and_constant_columns_are_shifted() -> None:
    x, _ = cells(200, 0.5, 0)
    codes = np.repeat([0, 1, 2], [100, 85, 15])
    x[codes == 1, 3] = 7
    maps, _ = batch_maps(x, codes)
    assert set(maps) == {0, 1}
    assert maps[1][0][3] == 1
    corrected = apply_maps(x, codes, maps)
    np.testing.assert_array_equal(corrected[codes == 2], x[codes == 2])
    assert abs(corrected[codes == 1, 3].mean() - corrected[codes == 0, 3].mean()) < 0.5


def test_factors_are_bounded() -> None:
    x, _ = cells(200, 0.0, 0)
    codes = np.repeat([0, 1], 100)
    x[codes == 1] *= 1e-6
    maps, _ = batch_maps(x, codes)
    assert max(ratio.max() for ratio, _ in maps.values()) <= batches.MAX_RATIO


def test_given_clusters_are_kept() -> None:
    x, kind = cells(400, 0.5, 0)
    codes = np.arange(400) % 2
    _, clusters = batch_maps(x, codes, kind.astype(int))
    np.testing.assert_allclose(clusters.share[:2], [1 - kind.mean(), kind.mean()])
    assert (clusters.share[2:] == 0).all()
    labels = clusters.nearest(x)
    assert (labels == kind).mean() > 0.99


def test_moments_of_a_composition() -> None:
    x, kind = cells(400, 0.5, 0)
    clusters = Clusters.of(x, kind.astype(int), 2)
    mean, sd = clusters.moments(clusters.share)
    np.testing.assert_allclose(mean, x.mean(axis=0))
    np.testing.assert_allclose(sd, x.std(axis=0))


def test_at_most_5000_cells_of_each_batch(monkeypatch) -> None:
    monkeypatch.setattr(batches, "MAX_CELLS", 10)
    codes = np.repeat([3, 0, 1], [50, 4, 20])
    rows = sampled_by_batch(codes)
    assert np.bincount(codes[rows]).tolist() == [4, 10, 0, 10]
    assert len(set(rows.tolist())) == 24
