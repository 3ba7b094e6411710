"""simulate_mosaic: what comes out, for every pairing, format and library version."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cantata import datasets
from cantata.datasets import simulate_mosaic
from cantata.datasets._assemble import expected_warnings

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
                names = [node.module]
            for name in names:
                assert name.split(".")[0] not in ("torch", "scvi", "lightning"), path.name
                assert not name.startswith(("cantata.model", "cantata._compat")), path.name
