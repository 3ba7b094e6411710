"""simulate_mosaic: what comes out, for every pairing, format and library version."""

from __future__ import annotations

import ast
import itertools
import math
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsClassifier

from cantata import datasets
from cantata.datasets import _mosaic, simulate_mosaic
from cantata.datasets._assemble import expected_warnings, stream
from cantata.datasets._mosaic import (
    ASSAYS,
    assign_patterns,
    draw_block,
    draw_counts,
    draw_features,
    exact_shares,
    library_sizes,
    link_to_genes,
    resolve_features,
    resolve_kinds,
    resolve_pairing,
    seed_empty_cells,
    seed_empty_features,
    type_centers,
)

WIDTHS = {"rna": 30, "adt": 8, "atac": 40, "spliced": 12, "panel": 5}
KINDS = {"spliced": "rna", "panel": "protein"}


def _small(k=2, n_cells=120, **options):
    widths = dict(itertools.islice(WIDTHS.items(), k))
    kinds = {name: kind for name, kind in KINDS.items() if name in widths}
    return simulate_mosaic(n_cells, n_features=widths, kinds=kinds, **options)


def _same(a, b):
    """Whether two simulated MuData hold the same bits."""
    if list(a.mod) != list(b.mod) or a.obs_names.tolist() != b.obs_names.tolist():
        return False
    same = np.array_equal(a.obsm["truth_shared"], b.obsm["truth_shared"])
    for name in a.mod:
        x, y = a[name], b[name]
        same &= x.obs_names.tolist() == y.obs_names.tolist()
        same &= x.var_names.tolist() == y.var_names.tolist()
        same &= x.obs["cell_type"].tolist() == y.obs["cell_type"].tolist()
        same &= x.obs["batch"].tolist() == y.obs["batch"].tolist()
        same &= x.shape == y.shape and (x.X != y.X).nnz == 0
        same &= np.array_equal(x.obsm["truth_private"], y.obsm["truth_private"])
    return bool(same)


def _pattern_counts(mdata):
    member = np.stack([mdata.obs_names.isin(mdata[m].obs_names) for m in mdata.mod], axis=1)
    patterns = [tuple(np.array(list(mdata.mod))[row].tolist()) for row in member]
    return {pattern: patterns.count(pattern) for pattern in set(patterns)}


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("pairing", ["full", "partial", "none"])
def test_every_pairing_of_one_to_five_modalities(k, pairing):
    mdata = _small(k, pairing=pairing)
    names = tuple(mdata.mod)
    counts = _pattern_counts(mdata)
    assert mdata.n_obs == sum(counts.values()) == 120
    singles = {(name,): (120 if pairing == "none" else 60) // k for name in names}
    expected = {
        "full": {names: 120},
        "none": singles,
        "partial": singles | {names: 60} if k > 1 else {names: 120},
    }
    assert counts == expected[pairing]
    for name in names:
        counts = mdata[name].X
        assert sparse.issparse(counts)
        assert counts.format == "csr"
        assert counts.dtype == np.float32
        assert counts.data.min() >= 1
        assert not np.any(counts.data % 1)
        assert np.all(counts.sum(axis=1) > 0)
        assert np.all(counts.sum(axis=0) > 0)
        assert mdata[name].n_vars == WIDTHS[name]
        assert mdata[name].obsm["truth_private"].shape == (mdata[name].n_obs, 4)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_all_patterns_at_once(k):
    names = list(WIDTHS)[:k]
    patterns = [p for r in range(1, k + 1) for p in itertools.combinations(names, r)]
    mdata = _small(k, 4 * len(patterns), pairing=dict.fromkeys(patterns, 1 / len(patterns)))
    assert _pattern_counts(mdata) == dict.fromkeys(patterns, 4)


def test_default_is_a_mosaic_of_rna_and_proteins():
    mdata = simulate_mosaic()
    assert mdata.n_obs == 1600
    assert mdata["rna"].shape == (1200, 500)
    assert mdata["adt"].shape == (1200, 40)
    assert mdata.obs["batch"].value_counts().tolist() == [800, 800]
    assert mdata.obs["cell_type"].nunique() == 6


def test_same_seed_same_bits_other_seed_other_bits():
    first = _small(3, seed=5)
    assert _same(first, _small(3, seed=5))
    other = _small(3, seed=6)
    assert not _same(first, other)
    assert (first["rna"].X.sum(), first["adt"].X.sum()) != (
        other["rna"].X.sum(),
        other["adt"].X.sum(),
    )


def test_annotations_at_both_levels_and_nowhere_else():
    mdata = _small(3)
    assert mdata.obs.columns.tolist() == ["cell_type", "batch"]
    assert mdata.var.columns.tolist() == []
    for name in mdata.mod:
        obs = mdata[name].obs
        assert obs.columns.tolist() == ["cell_type", "batch"]
        for column in obs:
            assert isinstance(obs[column].dtype, pd.CategoricalDtype)
            top = mdata.obs[column].astype(str).loc[obs.index]
            assert obs[column].astype(str).tolist() == top.tolist()
    assert mdata["rna"].var.columns.tolist() == []
    assert mdata["adt"].var.columns.tolist() == mdata["atac"].var.columns.tolist() == ["gene"]


def test_rows_have_their_own_order_and_the_truth_follows():
    mixed, plain = _small(shuffle=True), _small(shuffle=False)
    assert all(plain[m].obs_names.is_monotonic_increasing for m in plain.mod)
    both = set(mixed["rna"].obs_names) & set(mixed["adt"].obs_names)
    paired = [[cell for cell in mixed[m].obs_names if cell in both] for m in mixed.mod]
    assert paired[0] != paired[1]
    for m in mixed.mod:
        order = mixed[m].obs_names
        assert (mixed[m].X != plain[m][order].X).nnz == 0
        truth = plain[m][order].obsm["truth_private"]
        np.testing.assert_array_equal(mixed[m].obsm["truth_private"], truth)
    shared = pd.DataFrame(plain.obsm["truth_shared"], index=plain.obs_names)
    np.testing.assert_array_equal(mixed.obsm["truth_shared"], shared.loc[mixed.obs_names])


def test_another_pairing_of_the_same_seed_hides_cells_only():
    full, mosaic = _small(pairing="full", n_cells=400), _small(pairing="none", n_cells=400)
    for m in mosaic.mod:
        shown = full[m][mosaic[m].obs_names]
        added = (shown.X != mosaic[m].X).nnz
        assert added <= np.sum(shown.X.sum(axis=0) == 0), "only features that would be empty"
    cells = pd.Series(full.obs["cell_type"].astype(str), index=full.obs_names)
    assert cells.loc[mosaic.obs_names].tolist() == mosaic.obs["cell_type"].astype(str).tolist()


def test_a_further_modality_leaves_the_first_ones_as_they_are():
    two, three = _small(2, pairing="full"), _small(3, pairing="full")
    for name in two.mod:
        assert (two[name].X != three[name].X).nnz == 0


@pytest.mark.parametrize("sparse_format", ["csr", "csc", "dense"])
def test_formats_hold_the_same_counts(sparse_format):
    mdata, reference = _small(sparse_format=sparse_format), _small()
    counts = mdata["rna"].X
    if sparse_format == "dense":
        assert isinstance(counts, np.ndarray)
    else:
        assert counts.format == sparse_format
    np.testing.assert_array_equal(
        sparse.csr_matrix(counts).toarray(), reference["rna"].X.toarray()
    )


def test_expected_counts_only_if_asked():
    assert "truth_expected" not in _small()["rna"].layers
    mdata = _small(n_cells=600, keep_expected=True)
    for name in mdata.mod:
        expected = mdata[name].layers["truth_expected"]
        assert expected.shape == mdata[name].shape
        seen = np.asarray(mdata[name].X.sum(axis=0)).ravel()
        assert np.corrcoef(np.log1p(seen), np.log1p(expected.sum(axis=0)))[0, 1] > 0.98
        assert np.corrcoef(mdata[name].X.toarray().ravel(), expected.ravel())[0, 1] > 0.4


def test_depth_scales_the_counts_of_one_modality():
    plain, deep = _small(), _small(depth={"rna": 4.0})
    assert deep["rna"].X.sum() / plain["rna"].X.sum() == pytest.approx(4, rel=0.1)
    assert deep["adt"].X.sum() == plain["adt"].X.sum()
    assert _small(depth=4.0)["adt"].X.sum() / plain["adt"].X.sum() == pytest.approx(4, rel=0.1)


UNUSUAL = {"n_private": 0, "n_batches": 1, "batch_effect": 0, "n_shared": 1, "n_cell_types": 11}


@pytest.mark.parametrize(
    "options", [{key: UNUSUAL[key]} for key in UNUSUAL] + [{"n_cell_types": 1}]
)
def test_unusual_sizes(options):
    mdata = _small(3, **options)
    assert mdata.n_obs == 120
    assert mdata.obs["cell_type"].nunique() == options.get("n_cell_types", 6)
    assert mdata.obs["batch"].nunique() == options.get("n_batches", 2)
    assert mdata.obsm["truth_shared"].shape[1] == options.get("n_shared", 8)
    assert np.isfinite(mdata.obsm["truth_shared"]).all()


def test_very_shallow_data_have_no_empty_cell_or_feature():
    mdata = _small(3, depth=0.01)
    for name in mdata.mod:
        assert np.all(mdata[name].X.sum(axis=1) > 0)
        assert np.all(mdata[name].X.sum(axis=0) > 0)


def test_names_are_unique_over_modalities():
    mdata = _small(5)
    assert mdata.var_names.is_unique
    assert mdata["adt"].var_names[0] == "adt_protein0"
    assert mdata["atac"].var_names[-1] == "peak39"


def _plain(value):
    if isinstance(value, dict | mudata.MuData):
        return {key: _plain(value[key]) for key in sorted(value)}
    return value.item() if hasattr(value, "item") else value


@pytest.mark.parametrize("k", [1, 2, 3])
def test_h5mu_round_trip(tmp_path, k):
    mdata = _small(k, keep_expected=True)
    with expected_warnings():
        mdata.write_h5mu(tmp_path / "mosaic.h5mu")
        back = mudata.read_h5mu(tmp_path / "mosaic.h5mu")
    assert _same(mdata, back)
    before, after = dict(mdata.uns["truth"]), dict(back.uns["truth"])
    links = [table.pop("links") for table in (before, after)]
    assert links[0].astype(str).to_numpy().tolist() == links[1].astype(str).to_numpy().tolist()
    assert links[0].columns.tolist() == links[1].columns.tolist()
    assert len(links[0]) == {1: 0, 2: 6, 3: 18}[k]
    assert _plain(before) == _plain(after)
    for name in mdata.mod:
        expected = [x[name].layers["truth_expected"] for x in (mdata, back)]
        np.testing.assert_array_equal(*expected)
        if name != "rna":
            assert mdata[name].var["gene"].tolist() == back[name].var["gene"].tolist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_cells": 0}, ValueError, "n_cells=0"),
        ({"n_cells": 10.5}, ValueError, "n_cells=10.5"),
        ({"n_cells": 5}, ValueError, "too few for n_cell_types=6"),
        ({"n_cells": 8, "n_batches": 9, "n_cell_types": 1}, ValueError, "too few for n_batches=9"),
        ({"n_shared": 0}, ValueError, "n_shared=0"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"batch_effect": -0.1}, ValueError, "batch_effect"),
        ({"curvature": -0.1}, ValueError, "curvature"),
        ({"batch_effect": float("nan")}, ValueError, "batch_effect"),
        ({"depth": 0}, ValueError, "depth of modality 'rna'"),
        ({"depth": {"atac": 1.0}}, KeyError, "'atac'"),
        ({"sparse_format": "coo"}, ValueError, "sparse_format='coo'"),
        ({"pairing": "half"}, ValueError, "pairing='half'"),
        ({"n_features": {"image": 10}}, ValueError, "'image'"),
    ],
)
def test_unusable_arguments(options, error, message):
    with pytest.raises(error, match=message):
        simulate_mosaic(**({"n_cells": 50} | options))


def test_the_room_imports_neither_models_nor_torch():
    for path in Path(datasets.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in ("torch", "scvi", "lightning"), path.name
                assert not name.startswith(("cantata.model", "cantata._compat")), path.name


# Design of the study

NAMES = ["rna", "adt", "atac", "m4", "m5"]


@pytest.mark.parametrize("n", [1, 7, 100, 1601])
@pytest.mark.parametrize("shares", [[1.0], [0.25, 0.25, 0.5], [1, 1, 1], [0.9, 0.09, 0.01]])
def test_exact_shares_are_the_largest_remainders(n, shares):
    counts = exact_shares(n, shares)
    ideal = [n * share / sum(shares) for share in shares]
    naive = [int(value + 1e-9) for value in ideal]
    remainders = [value - count for value, count in zip(ideal, naive, strict=True)]
    for _ in range(n - sum(naive)):
        largest = int(np.argmax(remainders))
        naive[largest] += 1
        remainders[largest] -= 1
    assert counts.tolist() == naive
    assert counts.sum() == n


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("pairing", ["full", "partial", "none"])
def test_named_pairings(k, pairing):
    names = NAMES[:k]
    shares = resolve_pairing(pairing, names)
    assert sum(shares.values()) == pytest.approx(1)
    sizes = {len(pattern) for pattern in shares}
    expected = {"full": {k}, "none": {1}, "partial": {1, k}}[pairing]
    assert sizes == expected
    if pairing == "partial" and k > 1:
        assert shares[tuple(names)] == 0.5


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_all_patterns_are_assigned_with_exact_shares(k):
    names = NAMES[:k]
    patterns = [p for r in range(1, k + 1) for p in itertools.combinations(names, r)]
    weights = np.arange(1, len(patterns) + 1)
    shares = resolve_pairing(dict(zip(patterns, weights / weights.sum(), strict=True)), names)
    n_cells = int(weights.sum())
    member = assign_patterns(n_cells, shares, names, stream(0, "pairing"))
    found = [tuple(np.array(names)[row]) for row in member]
    assert [found.count(pattern) for pattern in patterns] == weights.tolist()
    if k > 1:
        assert found != sorted(found), "patterns must be in random order"


def test_patterns_do_not_depend_on_the_order_of_their_modalities():
    shares = resolve_pairing({("adt", "rna"): 0.5, "rna": 0.5}, ["rna", "adt"])
    assert shares == {("rna", "adt"): 0.5, ("rna",): 0.5}


@pytest.mark.parametrize(
    ("pairing", "error", "message"),
    [
        ("some", ValueError, "choose 'partial', 'full', 'none'"),
        ({"rna": 0.5, "atac": 0.5}, KeyError, "atac"),
        ({("rna", "adt"): 0.5}, ValueError, "sum to 0.5"),
        ({"rna": 1.0}, ValueError, "no pattern contains modality 'adt'"),
        ({("rna", "adt"): 0.5, ("adt", "rna"): 0.5}, ValueError, "repeats"),
        ({("rna", "rna"): 0.5, "adt": 0.5}, ValueError, "repeats"),
        ({"rna": 1.5, "adt": -0.5}, ValueError, "must be > 0"),
        ({(): 0.5, ("rna", "adt"): 0.5}, KeyError, "not made of"),
    ],
)
def test_unusable_pairings(pairing, error, message):
    with pytest.raises(error, match=message):
        resolve_pairing(pairing, ["rna", "adt"])


def test_a_modality_without_cells_is_an_error():
    shares = {("rna",): 0.999, ("adt",): 0.001}
    with pytest.raises(ValueError, match="'adt' gets no cell"):
        assign_patterns(10, shares, ["rna", "adt"], stream(0, "pairing"))


def test_kinds_by_name_and_as_stated():
    assert resolve_kinds(["GEX", "prot", "peaks"], None) == {
        "GEX": "rna",
        "prot": "protein",
        "peaks": "atac",
    }
    assert resolve_kinds(["rna", "x"], {"x": "protein"}) == {"rna": "rna", "x": "protein"}


@pytest.mark.parametrize(
    ("names", "kinds", "error", "message"),
    [
        (["rna", "image"], None, ValueError, "'image'"),
        (["rna"], {"adt": "protein"}, KeyError, "'adt'"),
        (["rna"], {"rna": "pixels"}, ValueError, "'pixels'"),
    ],
)
def test_unusable_kinds(names, kinds, error, message):
    with pytest.raises(error, match=message):
        resolve_kinds(names, kinds)


@pytest.mark.parametrize(
    "features", [{}, dict.fromkeys("abcdef", 3), {"rna": 0}, {"a/b": 3}, {"a:b": 3}, {"": 3}]
)
def test_unusable_features(features):
    with pytest.raises(ValueError, match="n_features"):
        resolve_features(features)


def test_streams_differ_by_name_and_seed():
    draws = [stream(seed, name).random() for seed in (0, 1) for name in ("a", "b")]
    assert len(set(draws)) == 4
    assert stream(1, "a").random() == draws[2]


# Counts against the equations, written as loops

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


@pytest.mark.parametrize("kind", list(ASSAYS))
def test_expected_counts_follow_the_equations(kind):
    rng = np.random.default_rng(1)
    features, batch = _features(kind), np.array([0, 1, 1, 0])
    signal, library = rng.normal(size=(4, 6)), rng.uniform(5, 50, size=4)
    _, expected = draw_block(kind, features, signal, batch, library, rng)
    naive = _naive_expected(kind, features, signal, batch, library)
    np.testing.assert_allclose(expected, naive, rtol=1e-10)


@pytest.mark.parametrize("kind", list(ASSAYS))
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


@pytest.mark.parametrize("kind", list(ASSAYS))
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


@pytest.mark.parametrize("kind", list(ASSAYS))
def test_hidden_cells_do_not_change_the_others(kind):
    n, rng = 2 * _mosaic.BLOCK_CELLS + 3, np.random.default_rng(3)
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
    centers = type_centers(n_types, 8, np.random.default_rng(0))
    assert centers.shape == (n_types, 8)
    if n_types == 6:
        apart = np.linalg.norm(centers[:, None] - centers[None], axis=2)
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


# The simulated signal can be found, is no gift, and is where the truth says it is

STUDY_WIDTHS = {"rna": 500, "adt": 40, "atac": 1500}


@pytest.fixture(scope="module")
def study():
    return simulate_mosaic(1600, n_features=STUDY_WIDTHS, pairing="full", shuffle=False)


def _log_normalised(adata):
    counts = sparse.csr_matrix(adata.X)
    total = np.asarray(counts.sum(axis=1)).ravel()
    return sparse.csr_matrix(sparse.diags(np.median(total) / total) @ counts).log1p()


def _components(adata, n=30):
    if adata.n_vars < 100:
        logs = np.log1p(adata.X.toarray())
        logs -= logs.mean(axis=1, keepdims=True)
        logs = (logs - logs.mean(axis=0)) / logs.std(axis=0)
        return TruncatedSVD(20, random_state=0).fit_transform(logs)
    logs = _log_normalised(adata).toarray()
    logs = (logs - logs.mean(axis=0)) / np.maximum(logs.std(axis=0), 1e-3)
    return TruncatedSVD(n, random_state=0).fit_transform(np.clip(logs, -10, 10))


def _halves(n):
    order = np.random.default_rng(0).permutation(n)
    return order[: n // 2], order[n // 2 :]


@pytest.mark.parametrize(
    ("name", "least", "r2"), [("rna", 0.85, 0.65), ("adt", 0.85, 0.65), ("atac", 0.7, 0.55)]
)
def test_types_and_shared_factors_are_found_but_not_given_away(study, name, least, r2):
    components, labels = _components(study[name]), study.obs["cell_type"].to_numpy()
    train, test = _halves(study.n_obs)
    neighbours = KNeighborsClassifier(15).fit(components[train], labels[train])
    accuracy = neighbours.score(components[test], labels[test])
    assert least < accuracy < 0.98
    truth = study.obsm["truth_shared"]
    probe = RidgeCV(np.logspace(-2, 4, 10)).fit(components[train], truth[train])
    assert r2 < probe.score(components[test], truth[test]) < 0.95
    other = study["rna" if name == "adt" else "adt"].obsm["truth_private"]
    assert (
        RidgeCV().fit(components[train], other[train]).score(components[test], other[test]) < 0.05
    )
    own = study[name].obsm["truth_private"]
    assert RidgeCV().fit(components[train], own[train]).score(components[test], own[test]) > 0.3


def test_canonical_variates_match_cells_but_not_perfectly(study):
    train, test = _halves(study.n_obs)
    blocks = [_components(study[name]) for name in ("rna", "adt")]
    blocks = [block - block[train].mean(axis=0) for block in blocks]
    whiten = []
    for block in blocks:
        values, vectors = np.linalg.eigh(np.cov(block[train].T))
        whiten.append(vectors / np.sqrt(values + 0.05 * values.mean()) @ vectors.T)
    a, b = (block @ w for block, w in zip(blocks, whiten, strict=True))
    left, strengths, right = np.linalg.svd(a[train].T @ b[train] / len(train))
    k = len(strengths)
    a, b = a @ left[:, :k] * strengths, b @ right.T[:, :k] * strengths
    a, b = (x[test] / np.linalg.norm(x[test], axis=1, keepdims=True) for x in (a, b))
    similarity = a @ b.T
    own = np.diag(similarity)
    closer = ((similarity > own[:, None]).mean() + (similarity > own[None]).mean()) / 2
    assert 0.02 < closer < 0.12


@pytest.mark.parametrize("target", ["adt", "atac"])
def test_linked_features_correlate(study, target):
    links = study.uns["truth"]["links"]
    links = links[links["target_modality"] == target]
    assert set(links["source_modality"]) == {"rna"}
    assert len(links) == {"adt": 32, "atac": 450}[target]
    genes, features = (
        dict(zip(study[m].var_names, _log_normalised(study[m]).T.toarray(), strict=True))
        for m in ("rna", target)
    )

    def mean_correlation(targets):
        pairs = zip(links["source"], targets, strict=True)
        return np.mean([np.corrcoef(genes[g], features[t])[0, 1] for g, t in pairs])

    linked = mean_correlation(links["target"])
    rng = np.random.default_rng(0)
    shuffled = [mean_correlation(rng.permutation(links["target"].to_numpy())) for _ in range(20)]
    assert linked > np.mean(shuffled) + 5 * np.std(shuffled)
    assert linked > {"adt": 0.15, "atac": 0.03}[target]


def test_the_gene_column_is_the_links_table(study):
    links = study.uns["truth"]["links"]
    for name in ("adt", "atac"):
        part = links[links["target_modality"] == name]
        gene = study[name].var["gene"]
        assert gene[gene != ""].to_dict() == dict(zip(part["target"], part["source"], strict=True))
        assert set(part["source"]) <= set(study["rna"].var_names)


def test_batches_differ_by_what_was_asked():
    def batch_accuracy(batch_effect):
        mdata = simulate_mosaic(
            800, n_features={"rna": 300}, pairing="full", batch_effect=batch_effect
        )
        labels = mdata["rna"].obs["batch"].to_numpy()
        components = _components(mdata["rna"])
        train, test = _halves(mdata.n_obs)
        neighbours = KNeighborsClassifier(15).fit(components[train], labels[train])
        return neighbours.score(components[test], labels[test])

    none, usual, strong = (batch_accuracy(effect) for effect in (0, 0.25, 1.0))
    assert none < 0.58
    assert none + 0.02 < usual < strong
    assert strong > 0.9


def test_curvature_adds_squares_to_what_modalities_read():
    sizes = {"n_features": {"rna": 60, "atac": 50}, "n_batches": 1, "n_private": 0, "n_shared": 3}

    def explained(curvature):
        """Share of log rates that factors tell in a line, and with their products."""
        mdata = simulate_mosaic(
            600, pairing="full", curvature=curvature, keep_expected=True, **sizes
        )
        z = mdata.obsm["truth_shared"]
        products = np.stack([z[:, i] * z[:, j] for i in range(3) for j in range(i, 3)], axis=1)
        found = []
        for name in ("rna", "atac"):
            adata = mdata[name][mdata.obs_names]
            rates = np.log(adata.layers["truth_expected"])
            rates = rates - rates.mean(axis=1, keepdims=True)
            for x in (z, np.hstack([z, products])):
                x = np.column_stack([x, np.ones(len(x))])
                rest = rates - x @ np.linalg.lstsq(x, rates)[0]
                found.append(1 - rest.var(axis=0).sum() / rates.var(axis=0).sum())
        return np.array(found)

    np.testing.assert_allclose(explained(0), 1, atol=1e-3)
    curved = explained(1)
    np.testing.assert_allclose(curved[[1, 3]], 1, atol=1e-3)
    assert (curved[[0, 2]] < 0.8).all()


def test_factors_are_bent_as_the_docs_say():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 3)) * [1, 2, 3] + 4
    found = _mosaic.bent(z, 0.5, np.random.default_rng(1))
    again = np.random.default_rng(1)
    p, q = (np.linalg.qr(again.normal(size=(3, 3)))[0] for _ in range(2))
    mean, sd = z.mean(axis=0), z.std(axis=0)
    for i in range(50):
        y = [sum((z[i, a] - mean[a]) / sd[a] * p[a, b] for a in range(3)) for b in range(3)]
        squares = [(value**2 - 1) / 2**0.5 for value in y]
        for c in range(3):
            added = 0.5 * sd[c] * sum(squares[b] * q[b, c] for b in range(3))
            assert found[i, c] == pytest.approx(mean[c] + (z[i, c] - mean[c] + added) / 1.25**0.5)
    assert _mosaic.bent(z, 0, rng) is z
