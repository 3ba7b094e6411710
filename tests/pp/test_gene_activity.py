from __future__ import annotations

import logging
import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse

from cantata import pp
from cantata._mudata.pairing import row_table
from cantata._mudata.parts import no_pull

N_CELLS, N_PEAKS = 40, 12
GENES = ["Sox2", "Reln", "Gad1", "Cd4", "Silent"]


def build(fmt=sparse.csr_matrix):
    """RNA, ATAC and ADT over different cells; the name Cd4 occurs twice."""
    rng = np.random.default_rng(3)
    cells = np.array([f"c{i}" for i in range(N_CELLS)])
    rows = {"rna": rng.permutation(N_CELLS)[:30], "atac": rng.permutation(N_CELLS)[:25]}
    rows["adt"] = np.setdiff1d(np.arange(N_CELLS), np.union1d(rows["rna"], rows["atac"]))[::-1]
    names = {"rna": GENES, "atac": [f"p{j}" for j in range(N_PEAKS)], "adt": ["Cd4", "Cd8"]}
    parts = {}
    for name, features in names.items():
        x = rng.poisson(0.8, (len(rows[name]), len(features))).astype(np.float32)
        parts[name] = AnnData(fmt(x))
        parts[name].obs_names, parts[name].var_names = cells[rows[name]], features
    parts["atac"].obs["batch"] = [f"b{i % 2}" for i in range(25)]
    parts["atac"].obsm["spatial"] = rng.normal(size=(25, 2))
    return mosaic(parts)


def table(weighted: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    places = [(g, p) for g in range(4) for p in range(N_PEAKS - 2) if rng.random() < 0.3 or p == g]
    links = pd.DataFrame(
        {"gene": [GENES[g] for g, _ in places], "peak": [f"p{p}" for _, p in places]}
    )
    if weighted:
        links["weight"] = rng.random(len(links)) + 0.1
    return links.sample(frac=1, random_state=0)


def naive(x: np.ndarray, links: pd.DataFrame) -> pd.DataFrame:
    """Loop over links."""
    found = {gene: np.zeros(len(x)) for gene in GENES if gene in set(links["gene"])}
    for link in links.itertuples():
        found[link.gene] += getattr(link, "weight", 1.0) * x[:, int(link.peak[1:])]
    return pd.DataFrame(found)


@pytest.mark.parametrize(
    "fmt", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.asarray]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_a_loop_over_links(fmt, weighted, monkeypatch):
    monkeypatch.setattr("cantata.pp._gene_activity.BLOCK_CELLS", 7)
    mdata, links = build(fmt), table(weighted)
    x = mdata["atac"].X
    x = x.toarray() if sparse.issparse(x) else x
    activity = pp.gene_activity(mdata, links=links, key_added=None)
    expected = naive(x, links)
    assert list(activity.var_names) == list(expected.columns) == GENES[:4]
    assert sparse.issparse(activity.X)
    assert activity.X.dtype == np.float32
    assert activity.X.nnz == np.count_nonzero(activity.X.toarray())
    np.testing.assert_allclose(activity.X.toarray(), expected, rtol=1e-6)
    if not weighted:
        assert np.array_equal(activity.X.data, np.round(activity.X.data))
    assert list(mdata.mod) == ["rna", "atac", "adt"]
    assert list(activity.obs_names) == list(mdata["atac"].obs_names)
    assert list(activity.obs["batch"]) == list(mdata["atac"].obs["batch"])
    np.testing.assert_array_equal(activity.obsm["spatial"], mdata["atac"].obsm["spatial"])
    sizes = links.groupby("gene").size()
    assert dict(activity.var["n_peaks"]) == {gene: sizes[gene] for gene in GENES[:4]}


def test_genes_without_peaks_and_peaks_without_genes_are_counted(caplog):
    mdata = build()
    with caplog.at_level(logging.INFO, logger="cantata"):
        pp.gene_activity(mdata, links=table())
    n_linked = table()["peak"].nunique()
    assert f"Activity of 4 genes from {n_linked} of 12 peaks" in caplog.text
    assert f"{12 - n_linked} peaks have no gene. 1 features of 'rna' have no peak." in caplog.text


def test_options_of_links_are_passed_on():
    mdata = build()
    mdata["atac"].var["interval"] = [f"chr1:{1000 * j}-{1000 * j + 100}" for j in range(N_PEAKS)]
    genes = pd.DataFrame(
        {
            "gene": ["Sox2", "Gad1"],
            "chrom": "chr1",
            "start": 3000,
            "end": 4500,
            "strand": ["+", "-"],
        }
    )
    options = {"annotation": genes, "upstream": 1000, "max_distance": 2500, "min_weight": 0.5}
    for extra in ({}, {"gene_body": False}, {"decay": "power"}, {"genes": None}):
        links = pp.peak_gene_links(mdata, **options, **extra)
        links = links.rename(columns={"source": "gene"})
        dense = mdata["atac"].X.toarray()
        expected = np.stack(
            [
                dense[:, mdata["atac"].var_names.get_indexer(part["target"])] @ part["weight"]
                for _, part in links.groupby("gene", sort=False)
            ],
            axis=1,
        )
        activity = pp.gene_activity(mdata, key_added=None, **options, **extra)
        np.testing.assert_allclose(activity.X.toarray(), expected, rtol=1e-6)


def test_counts_are_found_where_preprocessing_left_them():
    mdata, links = build(), table()
    expected = pp.gene_activity(mdata, links=links, key_added=None)
    mdata["atac"].layers["raw"] = mdata["atac"].X.copy()
    mdata["atac"].X = mdata["atac"].X * 0.5
    mdata["atac"].uns["cantata"] = {"preprocess": {"counts_layer": "raw"}}
    found = pp.gene_activity(mdata, links=links, key_added=None)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    del mdata["atac"].uns["cantata"]
    halved = pp.gene_activity(mdata, links=links, key_added=None)
    np.testing.assert_allclose(halved.X.toarray(), expected.X.toarray() / 2)
    named = pp.gene_activity(mdata, links=links, layer="raw", key_added=None)
    np.testing.assert_array_equal(named.X.toarray(), expected.X.toarray())


def annotated():
    """A MuData with something over every axis."""
    mdata = build()
    rng = np.random.default_rng(0)
    n, p = mdata.shape
    mdata.obs = pd.DataFrame(
        {"number": np.arange(n), "kind": pd.Categorical(["x", "y"] * (n // 2))},
        index=mdata.obs_names,
    )
    mdata.obsm["X_joint"] = rng.normal(size=(n, 2))
    mdata.obsp["graph"] = sparse.random(n, n, 0.1, format="csr", random_state=0)
    mdata.varp["links"] = sparse.random(p, p, 0.2, format="csr", random_state=1)
    mdata.varp["dense"] = rng.normal(size=(p, p))
    mdata.varm["whole"] = np.arange(2 * p).reshape(p, 2)
    mdata.varm["table"] = pd.DataFrame({"w": np.arange(p)}, index=mdata.var_names)
    mdata.uns["note"] = {"a": [1]}
    return mdata


def by_feature(mdata) -> list[tuple[str, str]]:
    """Modality and name of each joint feature."""
    found = [("", "")] * mdata.n_vars
    for name in mdata.mod:
        for place, row in enumerate(np.asarray(mdata.varmap[name]).astype(int).ravel() - 1):
            if row >= 0:
                found[place] = (name, mdata[name].var_names[row])
    return found


def entries(mdata, key) -> dict:
    names, matrix = by_feature(mdata), sparse.coo_matrix(mdata.varp[key])
    triples = zip(matrix.row, matrix.col, matrix.data, strict=True)
    return {(names[i], names[j]): value for i, j, value in triples if value}


def prepared(again: bool):
    """Annotated, on request with an older activity in the middle."""
    mdata = annotated()
    if not again:
        return mdata
    pp.gene_activity(mdata, links=table()[table()["gene"] != "Reln"])
    older = mosaic({m: mdata[m] for m in ("rna", "activity", "atac", "adt")})
    older.obs = mdata.obs.loc[older.obs_names]
    p = older.n_vars
    older.obsm["X_joint"] = np.arange(2 * older.n_obs).reshape(-1, 2)
    older.varp["links"] = sparse.random(p, p, 0.3, format="csr", random_state=2)
    older.varm["whole"] = np.arange(2 * p).reshape(p, 2)
    return older


@pytest.mark.parametrize("again", [False, True])
def test_a_modality_is_added_and_nothing_else_changes(again):
    mdata, before = prepared(again), prepared(again)
    links, names = entries(before, "links"), by_feature(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pp.gene_activity(mdata, links=table())
    assert list(mdata.mod) == ["rna", "atac", "adt", "activity"]
    assert [name for name, _ in by_feature(mdata)][-4:] == ["activity"] * 4
    assert list(mdata["activity"].var_names) == GENES[:4]
    assert list(mdata.obs_names) == list(before.obs_names)
    pd.testing.assert_frame_equal(mdata.obs, before.obs)
    np.testing.assert_array_equal(mdata.obsm["X_joint"], before.obsm["X_joint"])
    expected = {k: v for k, v in links.items() if not {k[0][0], k[1][0]} & {"activity"}}
    assert entries(mdata, "links") == expected
    assert sparse.issparse(mdata.varp["links"])
    assert mdata.varp["links"].shape == (mdata.n_vars, mdata.n_vars)
    after = dict(zip(by_feature(mdata), np.asarray(mdata.varm["whole"]), strict=True))
    for name, values in zip(names, before.varm["whole"], strict=True):
        if name[0] != "activity":
            np.testing.assert_array_equal(after[name], values)
    for name, values in after.items():
        assert np.isnan(values).all() == (name[0] == "activity")
    for name, rows in row_table(mdata).items():
        held = np.flatnonzero(rows >= 0)
        assert list(mdata[name].obs_names[rows[held]]) == list(mdata.obs_names[held])


def test_a_modality_that_was_removed_comes_back():
    mdata = annotated()
    pp.gene_activity(mdata, links=table())
    expected = entries(mdata, "links"), row_table(mdata)
    with no_pull():
        del mdata.mod["activity"]
        mdata.update()
    mdata.varp["links"] = annotated().varp["links"]
    pp.gene_activity(mdata, links=table())
    assert entries(mdata, "links") == expected[0]
    for name, rows in row_table(mdata).items():
        np.testing.assert_array_equal(rows, expected[1][name])


def test_graphs_tables_and_notes_are_kept():
    mdata, before = annotated(), annotated()
    pp.gene_activity(mdata, links=table(), key_added="ga")
    assert (mdata.obsp["graph"] != before.obsp["graph"]).nnz == 0
    assert entries(mdata, "dense") == entries(before, "dense")
    assert mdata.uns["note"] == {"a": [1]}
    values = dict(zip(by_feature(mdata), mdata.varm["table"]["w"], strict=True))
    assert [values[name] for name in by_feature(before)] == list(range(before.n_vars))
    assert np.isnan(values["ga", "Sox2"])


def test_result_survives_a_file(tmp_path):
    mdata = annotated()
    del mdata.varm["table"]
    pp.gene_activity(mdata, links=table())
    mdata.write(tmp_path / "m.h5mu")
    back = mudata.read_h5mu(tmp_path / "m.h5mu")
    assert entries(back, "links") == entries(mdata, "links")
    np.testing.assert_array_equal(back["activity"].X.toarray(), mdata["activity"].X.toarray())


def test_cells_that_only_an_older_activity_has_are_not_lost():
    mdata = build()
    activity = pp.gene_activity(mdata, links=table(), key_added=None)
    smaller = mosaic({"rna": mdata["rna"], "atac": mdata["atac"][:20].copy(), "old": activity})
    alone = set(activity.obs_names) - set(mdata["rna"].obs_names) - set(smaller["atac"].obs_names)
    with pytest.raises(
        ValueError, match=f"{len(alone)} cells, e.g. .* only in the modality 'old'"
    ):
        pp.gene_activity(smaller, links=table(), key_added="old")


def test_backed(tmp_path, monkeypatch):
    monkeypatch.setattr("cantata.pp._gene_activity.BLOCK_CELLS", 6)
    mdata = build()
    expected = pp.gene_activity(mdata, links=table(), key_added=None)
    mdata.write(tmp_path / "m.h5mu")
    back = mudata.read_h5mu(tmp_path / "m.h5mu", backed="r")
    found = pp.gene_activity(back, links=table(), key_added=None)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    with pytest.raises(ValueError, match=r"backed.*key_added=None"):
        pp.gene_activity(back, links=table())


def test_errors_leave_the_data_alone():
    mdata = annotated()
    with pytest.raises(KeyError, match=r"layer='counts'.*'atac'"):
        pp.gene_activity(mdata, links=table(), layer="counts")
    for name in ("rna", "atac", "adt"):
        with pytest.raises(ValueError, match=f"key_added='{name}' is a modality that"):
            pp.gene_activity(mdata, links=table(), key_added=name)
    with pytest.raises(KeyError, match="peaks='peaks'"):
        pp.gene_activity(mdata, "peaks", links=table())
    mdata.mod["adt"].var_names = ["x", "y"]
    with pytest.raises(ValueError, match=r"'adt' changed.*mdata.update"):
        pp.gene_activity(mdata, links=table())
    assert list(mdata.mod) == ["rna", "atac", "adt"]
    assert set(mdata.varp) == {"links", "dense"}
