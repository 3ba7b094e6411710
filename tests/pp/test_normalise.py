from __future__ import annotations

import logging
import math

import muon
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from cantata._numeric import components
from cantata._numeric.components import (
    _scale_and_clip,
    fit_components,
    fit_lsi,
    fit_pca,
    project,
)
from cantata._numeric.normalise import feature_statistics, normalise, target_total, variable_genes


def _counts(fmt, shape=(30, 12), rate=1.5, seed=0):
    x = np.random.default_rng(seed).poisson(rate, size=shape).astype(np.float32)
    x[:, 3] = 0
    x[x.sum(axis=1) == 0, 0] = 1
    return x if fmt == "dense" else getattr(sparse, fmt)(x)


def _dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def _naive(kind, x, total):
    n, p = x.shape
    out = np.zeros((n, p))
    for i in range(n):
        for j in range(p):
            if kind == "rna":
                out[i, j] = math.log(1 + x[i, j] / sum(x[i]) * total)
            elif kind == "protein":
                mean = sum(math.log(1 + x[k, j]) for k in range(n)) / n
                out[i, j] = math.log(1 + x[i, j] / math.exp(mean))
            else:
                weights = [n / sum(x[:, k]) if sum(x[:, k]) else 0.0 for k in range(p)]
                row = [x[i, k] / sum(x[i]) * weights[k] for k in range(p)]
                out[i, j] = math.log(1 + row[j] / sum(row) * total)
    return out


@pytest.mark.parametrize("fmt", ["csr_matrix", "csr_array", "dense"])
@pytest.mark.parametrize("kind", ["rna", "protein", "atac"])
def test_normalise_equals_a_loop_and_leaves_counts_alone(kind, fmt):
    x = _counts(fmt)
    original = _dense(x).copy()
    total = target_total(kind, x)
    expected = _naive(kind, original.astype(float), total)
    fitted = normalise(kind, x, total)
    np.testing.assert_allclose(_dense(fitted), expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(_dense(x), original)
    assert fitted.dtype == np.float32
    assert sparse.issparse(fitted) == (fmt != "dense" or kind == "atac")


@pytest.mark.parametrize("fmt", ["csr_matrix", "dense"])
def test_statistics_of_features_equal_a_loop(fmt):
    x = _counts(fmt)
    columns = _dense(x).astype(float).T.tolist()
    expected = [sum(math.log(1 + v) for v in column) / 30 for column in columns]
    np.testing.assert_allclose(feature_statistics("protein", x), expected, rtol=1e-5)
    expected = [30 / sum(column) if any(column) else 0 for column in columns]
    np.testing.assert_allclose(feature_statistics("atac", x), expected, rtol=1e-5)
    assert feature_statistics("rna", x).tolist() == [0] * 12


@pytest.mark.parametrize("fmt", ["csr_matrix", "dense"])
def test_a_cell_of_a_single_count(fmt):
    x = _counts(fmt)
    x[4] = np.eye(12)[5]
    assert _dense(normalise("rna", x, 1e4))[4, 5] == pytest.approx(math.log(10_001))


@pytest.mark.parametrize("kind", ["rna", "protein", "atac"])
def test_normalise_equals_scanpy_and_muon(kind):
    x = _counts("csc_matrix", (200, 12))
    total = target_total(kind, x)
    theirs = AnnData(x.copy())
    if kind == "protein":
        muon.prot.pp.clr(theirs, axis=0)
    else:
        if kind == "atac":
            theirs.X = theirs.X.tocsr()
            with np.errstate(divide="ignore", invalid="ignore"):
                muon.atac.pp.tfidf(theirs, log_tf=False, log_idf=False, scale_factor=1)
        sc.pp.normalize_total(theirs, target_sum=total)
        sc.pp.log1p(theirs)
    ours = normalise(kind, x, total)
    np.testing.assert_allclose(ours.toarray(), theirs.X.toarray(), rtol=1e-5, atol=1e-6)


def test_target_totals():
    x = _counts("dense")
    assert target_total("rna", x) == 1e4
    assert target_total("atac", x) == pytest.approx(10 * np.median(x.sum(axis=1)))


def test_unknown_features_do_not_count_towards_the_total():
    x = _counts("csr_matrix")
    known = np.arange(12) < 8
    out = normalise("rna", x, 1e4, np.zeros(12), known)
    np.testing.assert_allclose(np.expm1(out.toarray()[:, :8]).sum(axis=1), 1e4, rtol=1e-4)
    assert np.any(out.toarray()[:, 8:])


@pytest.mark.parametrize("fmt", ["csr_matrix", "dense"])
def test_pca_equals_the_decomposition_of_dense_z_scores(fmt):
    x = _counts(fmt, (80, 20), rate=0.3)
    d = _dense(x).astype(np.float64)
    d[0, 5] = 60.0
    x = d if fmt == "dense" else sparse.csr_matrix(d)
    used = np.ones(20, dtype=bool)
    used[7] = False
    components = fit_pca("rna", x, used, 6)
    keep = np.flatnonzero(used & (d.std(axis=0) > 0))
    z = np.minimum((d[:, keep] - d[:, keep].mean(axis=0)) / d[:, keep].std(axis=0), 10)
    assert (d[0, 5] - d[:, 5].mean()) / d[:, 5].std() < 10 or z.max() == 10
    z -= z.mean(axis=0)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    expected = u[:, :6] * s[:6] * 3 / (u[:, 0] * s[0]).std(ddof=1)
    got = project(components, x)
    signs = np.sign((got * expected).sum(axis=0))
    np.testing.assert_allclose(got * signs, expected, atol=2e-3)
    assert not components.loadings[[3, 7]].any()


def test_clipping_is_that_of_z_scores_and_keeps_zeros():
    x = sparse.csr_matrix(np.array([[0.0, 500.0], [1.0, 0.0], [2.0, 0.0]]))
    mean, sd = np.array([1.0, 2.0]), np.array([0.5, 4.0])
    out = _scale_and_clip(x, mean, sd)
    z = out.toarray() - mean / sd
    np.testing.assert_allclose(z, np.minimum((x.toarray() - mean) / sd, 10))
    assert out.nnz == x.nnz


def test_lsi_spans_the_exact_singular_vectors():
    x = _counts("csr_matrix", (60, 40), rate=0.4)
    t = normalise("atac", x, 100.0)
    components = fit_lsi("atac", t, np.arange(40) != 3, 5)
    u, s, _ = np.linalg.svd(t.toarray().astype(np.float64), full_matrices=False)
    expected = u[:, :5] / np.sqrt((u[:, :5] ** 2).mean(axis=1, keepdims=True))
    got = project(components, t)
    np.testing.assert_allclose(components.singular_values, s[:5], rtol=1e-4)
    signs = np.sign((got * expected).sum(axis=0))
    np.testing.assert_allclose(got * signs, expected, atol=1e-3)
    np.testing.assert_allclose((got**2).mean(axis=1), 1, rtol=1e-5)


def test_components_by_what_is_measured(monkeypatch):
    x = _counts("csr_matrix", (60, 40), rate=0.4)
    t = normalise("atac", x, 100.0)
    weights = np.r_[0.0, np.ones(39)]  # the first feature is in no cell
    by_kind = fit_components("m", "atac", x, t, weights, 5)
    by_hand = fit_lsi("m", t, weights > 0, 5)
    np.testing.assert_array_equal(by_kind.loadings, by_hand.loadings)
    assert not by_kind.loadings[0].any()
    # of RNA the variable genes, 4,000 of them; of proteins all that vary
    assert components.N_TOP_GENES == 4000
    monkeypatch.setattr(components, "N_TOP_GENES", 15)
    t = normalise("rna", x, 100.0)
    n_used = {
        kind: int(fit_components("m", kind, x, t, None, 5).loadings.any(axis=1).sum())
        for kind in ("rna", "protein", None)
    }
    n_varying = int((x.toarray().std(axis=0) > 0).sum())
    assert n_used == {"rna": 15, "protein": n_varying, None: n_varying}


def test_too_small_is_an_error():
    x = _counts("csr_matrix", (30, 12))
    with pytest.raises(ValueError, match="'adt': 30 cells with 1 features that vary"):
        fit_pca("adt", x, np.arange(12) == 0, 5)
    with pytest.raises(ValueError, match="'atac': 30 cells with 2 features"):
        fit_lsi("atac", x, np.arange(12) < 2, 5)


def _genes(n=400, p=300, seed=0):
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1, 1, p) + 0.1
    x = rng.poisson(np.tile(rate, (n, 1)))
    x[: n // 2, :20] = rng.poisson(8 * rate[:20], size=(n // 2, 20))
    return sparse.csr_matrix(x.astype(np.float32))


def test_variable_genes_are_found_within_batches():
    x = _genes()
    batches = np.array(["a", "b"] * 200)
    for given in (None, batches):
        flags = variable_genes("rna", x, x, given, 20)
        assert flags.sum() == 20
        assert flags[:20].sum() >= 15
    # a gene that differs between batches only is not variable within them
    shifted = x.toarray()
    quiet = int(np.argmin(shifted[:, 20:].mean(axis=0))) + 20
    shifted[batches == "b", quiet] += 5
    shifted = sparse.csr_matrix(shifted)
    assert variable_genes("rna", shifted, shifted, None, 20)[quiet]
    assert not variable_genes("rna", shifted, shifted, batches, 20)[quiet]


def test_all_genes_with_counts_are_used_when_there_are_few():
    flags = variable_genes("rna", _counts("csr_matrix"), None, None, 12)
    np.testing.assert_array_equal(flags, np.arange(12) != 3)


@pytest.mark.parametrize("n_top", [300, 301])
def test_no_more_genes_than_asked_for_are_all_that_vary(n_top):
    x = _genes().toarray()
    x[:, 40] = 2
    flags = variable_genes("rna", x, None, None, n_top)
    np.testing.assert_array_equal(flags, np.arange(300) != 40)


@pytest.mark.parametrize("size", [1, 2, 19])
def test_tiny_batches_have_no_say(size, caplog):
    x = _genes()
    batches = np.where(np.arange(400) < size, "tiny", "big")
    with caplog.at_level(logging.INFO, logger="cantata"):
        flags = variable_genes("rna", x, None, batches, 20)
    np.testing.assert_array_equal(flags, variable_genes("rna", x[size:], None, None, 20))
    assert "'tiny'" in caplog.text
    every = np.arange(400).astype(str)
    np.testing.assert_array_equal(
        variable_genes("rna", x, None, every, 20), variable_genes("rna", x, None, None, 20)
    )


def test_poor_batches_have_no_say():
    x = _genes().toarray()
    batches = np.where(np.arange(400) < 50, "flat", "rich")
    x[:50, 10:] = 1
    np.testing.assert_array_equal(
        variable_genes("rna", x, None, batches, 20),
        variable_genes("rna", x[50:], None, None, 20),
    )


@pytest.mark.parametrize("fmt", ["csr_matrix", "csc_matrix", "csr_array", "dense"])
def test_all_that_vary_are_flagged_when_few_do(fmt):
    x = np.zeros((60, 300), dtype=np.float32)
    x[:, 200:] = 1
    x[np.arange(60), np.arange(60) % 15] = 1
    x = x if fmt == "dense" else getattr(sparse, fmt)(x)
    flags = variable_genes("rna", x, None, None, 10)
    np.testing.assert_array_equal(flags, np.arange(300) < 15)


def test_a_singular_trend_is_replaced_with_a_warning():
    x = np.zeros((60, 300), dtype=np.float32)
    x[np.arange(60) % 30, np.arange(60)] = 1
    x[:30, 60] = 5
    logs = normalise("rna", np.maximum(x, np.eye(60, 300, 200, dtype="float32")), 1e4)
    with pytest.warns(UserWarning, match="'rna'.*seurat"):
        flags = variable_genes("rna", x, logs, None, 10)
    assert 1 <= flags.sum() <= 10
