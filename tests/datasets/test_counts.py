"""Counts against the equations, written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse

from cantata.datasets import _counts
from cantata.datasets._counts import (
    draw_block,
    draw_counts,
    library_sizes,
    seed_empty_cells,
    seed_empty_features,
)
from cantata.datasets._latent import ASSAYS, draw_features, link_to_genes, type_centres

KINDS = ["rna", "protein", "atac"]
SIZES = {"n_shared": 3, "n_private": 2, "n_batches": 2, "batch_effect": 0.4}


def _features(kind, n=6, seed=0):
    return draw_features(kind, n, rng=np.random.default_rng(seed), **SIZES)


def _naive_expected(kind, features, signal, batch, library):
    n, p = signal.shape
    expected = np.zeros((n, p))
    for i in range(n):
        rates = [
            math.exp(features.baseline[j] + signal[i, j] + features.batch[batch[i], j])
            for j in range(p)
        ]
        for j in range(p):
            if kind == "protein":
                positive = 1 / (1 + math.exp(-3 * signal[i, j]))
                level = math.exp(features.baseline[j] + features.batch[batch[i], j])
                mixture = 4 + positive * 25 * math.exp(signal[i, j])
                expected[i, j] = library[i] * level * mixture
            else:
                expected[i, j] = library[i] * rates[j] / sum(rates)
    return expected


@pytest.mark.parametrize("kind", KINDS)
def test_expected_counts_follow_the_equations(kind):
    rng = np.random.default_rng(1)
    features, batch = _features(kind), np.array([0, 1, 1, 0])
    signal, library = rng.normal(size=(4, 6)), rng.uniform(5, 50, size=4)
    _, expected = draw_block(kind, features, signal, batch, library, rng)
    naive = _naive_expected(kind, features, signal, batch, library)
    np.testing.assert_allclose(expected, naive, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_have_the_expected_mean_and_spread(kind):
    n = 40_000
    rng = np.random.default_rng(2)
    features = _features(kind)
    signal = np.repeat(rng.normal(size=(1, 6)), n, axis=0)
    batch, library = np.zeros(n, dtype=int), np.full(n, 30.0 if kind != "protein" else 1.0)
    counts, expected = draw_block(kind, features, signal, batch, library, rng)
    error = counts.std(axis=0) / math.sqrt(n)
    assert np.all(np.abs(counts.mean(axis=0) - expected[0]) < 5 * error)
    poisson = expected[0]
    overdispersed = poisson + expected[0] ** 2 / features.dispersion
    variance = counts.var(axis=0)
    if kind == "atac":
        np.testing.assert_allclose(variance, poisson, rtol=0.06)
    elif kind == "rna":
        np.testing.assert_allclose(variance, overdispersed, rtol=0.1)
    else:
        assert np.all(variance > 1.5 * poisson)


@pytest.mark.parametrize("kind", KINDS)
def test_library_sizes_have_the_stated_median_and_spread(kind):
    assay = ASSAYS[kind]
    sizes = library_sizes(kind, 50_000, 400, 2.0, np.random.default_rng(0))
    median = {"rna": 2 * 9 * 20, "protein": 2.0, "atac": 2 * 2.5 * 20}[kind]
    assert np.median(sizes) == pytest.approx(median, rel=0.02)
    assert np.log(sizes).std() == pytest.approx(assay.library_sd, rel=0.02)


def test_empty_cells_get_one_count_where_it_is_likely():
    counts = np.array([[0, 0, 0], [2, 0, 1], [0, 0, 0]])
    expected = np.array([[0.0, 1e-9, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 3.0]])
    seed_empty_cells(counts, expected, np.random.default_rng(0))
    assert counts.tolist() == [[0, 1, 0], [2, 0, 1], [0, 0, 1]]


def test_empty_features_get_one_count_where_it_is_likely():
    counts = sparse.csr_matrix(np.array([[0, 1, 0], [0, 2, 0]], dtype=np.float32))
    filled = seed_empty_features(counts, np.array([0.0, 7.0]), np.random.default_rng(0))
    assert filled.toarray().tolist() == [[0, 1, 0], [1, 2, 1]]
    assert filled.dtype == np.float32
    assert seed_empty_features(filled, np.ones(2), np.random.default_rng(0)) is filled


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_cells_do_not_change_the_others(kind):
    n, rng = 2 * _counts.BLOCK + 3, np.random.default_rng(3)
    latents = {"shared": rng.normal(size=(n, 3)), "private": rng.normal(size=(n, 2))}
    fixed = latents | {"batch": rng.integers(0, 2, n), "library": np.full(n, 40.0)}
    measured = rng.random(n) < 0.4
    draws = [
        draw_counts(
            kind,
            _features(kind),
            measured=mask,
            keep_expected=True,
            rng=np.random.default_rng(4),
            **fixed,
        )
        for mask in (np.ones(n, dtype=bool), measured)
    ]
    (everything, all_means), (some, some_means) = draws
    np.testing.assert_array_equal(everything[measured].toarray(), some.toarray())
    np.testing.assert_array_equal(all_means[measured], some_means)


@pytest.mark.parametrize("n_types", [1, 2, 5, 6, 20])
def test_sibling_types_are_closer_than_others(n_types):
    centres = type_centres(n_types, 8, np.random.default_rng(0))
    assert centres.shape == (n_types, 8)
    if n_types == 6:
        apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)
        siblings = [apart[i, i + 1] for i in range(0, n_types, 2)]
        others = [apart[i, j] for i in range(6) for j in range(6) if i // 2 != j // 2]
        assert max(siblings) < min(others)


def test_linked_features_share_the_direction_of_a_visible_gene():
    genes, proteins = _features("rna", 30), _features("protein", 20, seed=1)
    before = np.linalg.norm(proteins.shared, axis=1)
    link_to_genes(proteins, genes, "protein", np.random.default_rng(0))
    linked = np.flatnonzero(proteins.gene >= 0)
    assert len(linked) == 16
    assert sorted(np.unique(proteins.gene[linked], return_counts=True)[1]) == [2] * 8, "evenly"
    visible = genes.baseline + np.log(np.linalg.norm(genes.shared, axis=1))
    assert visible[proteins.gene[linked]].min() >= np.sort(visible)[-8]
    for j in linked:
        a, b = proteins.shared[j], genes.shared[proteins.gene[j]]
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.85
    np.testing.assert_allclose(np.linalg.norm(proteins.shared, axis=1), before)
