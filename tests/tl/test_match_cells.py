from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from cantata.metrics import matching_matrix
from cantata.tl import match_cells


@pytest.fixture
def mosaic() -> MuData:
    """Two modalities with other cells in other orders; two batches."""
    rng = np.random.default_rng(0)
    cells = pd.Index([f"cell{i}" for i in range(50)])
    position = rng.normal(size=(50, 5))
    mods = {}
    for name, size in [("rna", 30), ("adt", 35)]:
        rows = rng.permutation(50)[:size]
        mods[name] = AnnData(
            np.ones((size, 3), dtype=np.float32),
            obs=pd.DataFrame({"batch": np.array(["b0", "b1"])[rows % 2]}, index=cells[rows]),
            var=pd.DataFrame(index=[f"{name}{i}" for i in range(3)]),
            obsm={"X_clue": position[rows]},
        )
    return MuData(mods)


def naive_spread(mdata: MuData, source: str, target: str, matched) -> np.ndarray:
    """The matrix of two modalities, entry by entry at the places of the cell names."""
    names = list(mdata.obs_names)
    spread = np.zeros((mdata.n_obs, mdata.n_obs))
    for i, first in enumerate(mdata[source].obs_names):
        for j, second in enumerate(mdata[target].obs_names):
            spread[names.index(first), names.index(second)] = matched[i, j]
    return spread


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("batch_key", [None, "batch"])
@pytest.mark.parametrize(("source", "target"), [("rna", "adt"), ("adt", "rna")])
def test_entries_stand_at_the_cells_of_the_mudata(mosaic, source, target, batch_key, k):
    groups = {}
    if batch_key:
        groups = {"groups_x": mosaic[source].obs["batch"], "groups_y": mosaic[target].obs["batch"]}
    expected = matching_matrix(
        mosaic[source].obsm["X_clue"], mosaic[target].obsm["X_clue"], k=k, **groups
    ).toarray()
    result = match_cells(
        mosaic, use_rep="X_clue", source=source, target=target, batch_key=batch_key, k=k
    )
    assert sparse.issparse(result)
    np.testing.assert_array_equal(result.toarray(), naive_spread(mosaic, source, target, expected))


def test_cells_of_both_modalities_match_themselves(mosaic):
    match_cells(mosaic, use_rep="X_clue", source="rna", target="adt", k=1)
    both = mosaic.obs_names.isin(mosaic["rna"].obs_names) & mosaic.obs_names.isin(
        mosaic["adt"].obs_names
    )
    assert both.sum() >= 10
    diagonal = mosaic.obsp["clue_match"].diagonal()
    assert (diagonal[both] >= 0.25).all()
    assert (diagonal[~both] == 0).all()


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_neighbours_are_20_or_all_of_a_batch(mosaic, batch_key):
    options = {"use_rep": "X_clue", "source": "rna", "target": "adt", "batch_key": batch_key}
    # a batch that one modality alone has matters to none
    mosaic["rna"].obs["batch"] = (
        mosaic["rna"].obs["batch"].where(np.arange(mosaic["rna"].n_obs) > 0, "alone")
    )
    mosaic["rna"].obs_names = ["new", *mosaic["rna"].obs_names[1:]]
    mosaic = MuData(mosaic.mod)
    found = match_cells(mosaic, **options)
    if batch_key is None:
        assert (found != match_cells(mosaic, **options, k=20)).nnz == 0
        return
    total = sparse.csr_matrix(found.shape)
    for name in ("b0", "b1"):
        part = MuData({m: a[a.obs["batch"] == name].copy() for m, a in mosaic.mod.items()})
        k = min(a.n_obs for a in part.mod.values())
        assert k < 20
        own = match_cells(part, use_rep="X_clue", source="rna", target="adt", k=k).tocoo()
        at = mosaic.obs_names.get_indexer(part.obs_names)
        total += sparse.csr_matrix((own.data, (at[own.row], at[own.col])), shape=found.shape)
    np.testing.assert_allclose(found.toarray(), total.toarray(), atol=1e-12)
    for i, adata in enumerate(mosaic.mod.values()):
        adata.obs_names = [f"{i}{cell}" for cell in adata.obs_names]
        adata.obs["batch"] = f"b{i}"
    mosaic = MuData(mosaic.mod)
    with pytest.raises(ValueError, match="no batch in common"):
        match_cells(mosaic, **options)


@pytest.mark.parametrize(("source", "target"), [("rna", "adt"), ("adt", "rna")])
def test_one_to_one_is_the_best_assignment(mosaic, source, target):
    options = {"use_rep": "X_clue", "source": source, "target": target, "k": 8}
    soft = match_cells(mosaic, **options).toarray()
    hard = match_cells(mosaic, **options, one_to_one=True).toarray()
    assert ((hard > 0).sum(axis=0) <= 1).all()
    assert ((hard > 0).sum(axis=1) <= 1).all()
    np.testing.assert_array_equal(hard[hard > 0], soft[hard > 0])
    best = linear_sum_assignment(soft, maximize=True)
    assert hard.sum() == pytest.approx(soft[best].sum())
    assert (hard > 0).sum() == min(mosaic[source].n_obs, mosaic[target].n_obs)


def test_cells_that_find_none_are_left_over(mosaic):
    # all cells of one batch are nearest to one cell
    for name in mosaic.mod:
        is_first = (mosaic[name].obs["batch"] == "b0").to_numpy()
        mosaic[name].obsm["X_clue"][is_first] = 1 + np.arange(5) * 1e-3
        mosaic[name].obsm["X_clue"][is_first] += np.linspace(0, 1e-6, is_first.sum())[:, None]
    hard = match_cells(mosaic, use_rep="X_clue", source="rna", target="adt", k=1, one_to_one=True)
    assert hard.nnz < mosaic["rna"].n_obs
    assert (np.diff(hard.indptr) <= 1).all()


def test_matches_are_right_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    cells = [f"c{i}" for i in range(1500)]
    position = rng.normal(size=(1500, 6))
    mods = {}
    for name in ("rna", "adt"):
        mods[name] = AnnData(np.ones((1500, 1)), obs=pd.DataFrame(index=cells))
        mods[name].obsm["X_clue"] = position + 0.8 * rng.normal(size=position.shape)
    mdata = MuData(mods)
    shares = {}
    for k in (1, None):
        matched = match_cells(mdata, use_rep="X_clue", source="rna", target="adt", k=k)
        best = np.asarray(matched.argmax(axis=1)).ravel()
        confidence = matched.max(axis=1).toarray().ravel().mean()
        shares[k] = abs(confidence - (best == np.arange(1500)).mean())
    assert shares[None] < 0.05
    assert shares[1] > 0.5


@pytest.mark.parametrize(("options", "key"), [({}, "clue_match"), ({"key_added": "mine"}, "mine")])
def test_only_the_key_is_written_and_survives_a_file(mosaic, options, key, tmp_path):
    uns, obsm = list(mosaic.uns), list(mosaic.obsm)
    matched = match_cells(mosaic, use_rep="X_clue", source="rna", target="adt", **options)
    assert list(mosaic.obsp) == [key]
    assert (list(mosaic.uns), list(mosaic.obsm)) == (uns, obsm)
    mosaic.write(tmp_path / "matched.h5mu")
    read = mudata.read(tmp_path / "matched.h5mu").obsp[key]
    assert sparse.issparse(read)
    np.testing.assert_array_equal(read.toarray(), matched.toarray())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": "rna"}, ValueError, "source and target are both 'rna'"),
        ({"target": "atac"}, KeyError, "no modality 'atac'"),
        ({"use_rep": "X_pca"}, KeyError, r"mdata\['rna'\].obsm\['X_pca'\] does not exist"),
        ({"use_rep": "X_narrow"}, ValueError, "has 2 dimensions in 'rna' and 3 in 'adt'"),
        ({"batch_key": "donor"}, KeyError, "batch_key='donor'"),
        ({"batch_key": "half"}, ValueError, "30 of 30 cells of 'rna'|35 of 35 cells of 'adt'"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"k": 31}, ValueError, "k=31 neighbours were asked of x"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(mosaic, change, error, message):
    mosaic["rna"].obsm["X_narrow"], mosaic["adt"].obsm["X_narrow"] = (
        np.ones((30, 2)),
        np.ones((35, 3)),
    )
    mosaic["adt"].obs["half"] = None
    options = {"use_rep": "X_clue", "source": "rna", "target": "adt", **change}
    with pytest.raises(error, match=message):
        match_cells(mosaic, **options)
    assert not list(mosaic.obsp)
