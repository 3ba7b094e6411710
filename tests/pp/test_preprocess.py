from __future__ import annotations

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from cantata import pp
from cantata._mudata.parts import no_pull

REPS = {"rna": "X_cantata_pca", "adt": "X_cantata_pca", "atac": "X_cantata_lsi"}


def _reps(mdata):
    return {m: np.array(mdata[m].obsm[REPS[m]]) for m in mdata.mod}


def _dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def _rows(mdata, name, values):
    return pd.DataFrame(values, index=mdata[name].obs_names)


@pytest.mark.parametrize("fmt", ["csr", "csc", "csr_array", "dense"])
@pytest.mark.parametrize("pairing", ["full", "partial", "none"])
def test_what_is_written(make, fmt, pairing):
    mdata = make(pairing, fmt=fmt)
    counts = {m: _dense(mdata[m].X).copy() for m in mdata.mod}
    columns = list(mdata.obs.columns), {m: list(mdata[m].obs.columns) for m in mdata.mod}
    pp.preprocess(mdata, n_components=8, n_top_genes=60)
    assert (list(mdata.obs.columns), {m: list(mdata[m].obs) for m in mdata.mod}) == columns
    for name, rep in _reps(mdata).items():
        adata = mdata[name]
        np.testing.assert_array_equal(_dense(adata.layers["counts"]), counts[name])
        assert rep.dtype == np.float32
        assert rep.shape == (adata.n_obs, 8)
        assert np.isfinite(rep).all()
        assert sparse.issparse(adata.X) == (fmt != "dense" or name == "atac")
        assert sparse.issparse(adata.layers["counts"]) == (fmt != "dense")
        if name != "atac":
            assert rep[:, 0].std() == pytest.approx(3, rel=0.02)
        record = mdata.uns["cantata"]["preprocess"][name]
        assert record == {
            "kind": {"rna": "rna", "adt": "protein", "atac": "atac"}[name],
            "rep": REPS[name],
            "n_components": 8,
            "counts_layer": "counts",
        }
    assert mdata["rna"].var["highly_variable"].sum() == 60
    assert not mdata["rna"].var["highly_variable"].iloc[0]
    loadings = mdata["rna"].varm["cantata_pca"]
    assert not loadings[~mdata["rna"].var["highly_variable"].to_numpy()].any()


def test_representation_separates_the_cell_types(make):
    mdata = make("full")
    pp.preprocess(mdata, n_components=5)
    for name, rep in _reps(mdata).items():
        kind = np.array([int(cell[4:]) % 3 for cell in mdata[name].obs_names])
        means = np.stack([rep[kind == k].mean(axis=0) for k in range(3)])
        nearest = ((rep[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == kind).mean() > 0.95


def test_storage_format_changes_nothing(make):
    results = []
    for fmt in ("csr", "csc", "csr_array", "dense"):
        mdata = make("partial", fmt=fmt)
        pp.preprocess(mdata, n_components=6, n_top_genes=60)
        results.append(_reps(mdata))
    for other in results[1:]:
        for name, rep in results[0].items():
            np.testing.assert_allclose(other[name], rep, atol=2e-3)


def test_integer_counts(make):
    reps = []
    for dtype in ("float32", "int64", "uint16"):
        mdata = make("full", dtype=dtype)
        pp.preprocess(mdata, n_components=6)
        assert mdata["rna"].layers["counts"].dtype == dtype
        reps.append(_reps(mdata))
    for name in REPS:
        np.testing.assert_array_equal(reps[0][name], reps[1][name])
        np.testing.assert_array_equal(reps[0][name], reps[2][name])


def test_twice_is_once_and_runs_agree(make):
    mdata, again = make("partial"), make("partial")
    pp.preprocess(mdata, n_components=6, batch_key="batch", n_top_genes=60)
    first, x = _reps(mdata), {m: _dense(mdata[m].X).copy() for m in mdata.mod}
    pp.preprocess(mdata, n_components=6, batch_key="batch", n_top_genes=60)
    pp.preprocess(again, n_components=6, batch_key="batch", n_top_genes=60)
    for name in REPS:
        np.testing.assert_array_equal(_reps(mdata)[name], first[name])
        np.testing.assert_array_equal(_reps(again)[name], first[name])
        np.testing.assert_array_equal(_dense(mdata[name].X), x[name])


def test_named_layer_is_read_and_kept(make):
    mdata, plain = make("full"), make("full")
    pp.preprocess(plain, n_components=6)
    mdata["rna"].layers["raw"] = mdata["rna"].X.copy()
    mdata["rna"].X = np.full(mdata["rna"].shape, -0.5, dtype="float32")
    pp.preprocess(mdata, n_components=6, layers={"rna": "raw"})
    assert "counts" not in mdata["rna"].layers
    assert mdata.uns["cantata"]["preprocess"]["rna"]["counts_layer"] == "raw"
    pp.preprocess(mdata, n_components=6)
    np.testing.assert_array_equal(_reps(mdata)["rna"], _reps(plain)["rna"])


def test_a_copy_leaves_the_input_alone(make):
    mdata = make("partial")
    x = _dense(mdata["rna"].X).copy()
    with no_pull():
        new = mdata.copy()
    pp.preprocess(new, n_components=6)
    assert "cantata" not in mdata.uns
    assert not mdata["rna"].obsm
    np.testing.assert_array_equal(_dense(mdata["rna"].X), x)
    assert list(new.obs_names) == list(mdata.obs_names)
    assert list(new.obs.columns) == list(mdata.obs.columns)
    pp.preprocess(mdata, n_components=6)
    np.testing.assert_array_equal(_reps(new)["adt"], _reps(mdata)["adt"])


def test_only_named_modalities_and_fewer_components(make):
    mdata = make("full")
    pp.preprocess(mdata, modalities={"adt": "adt"})
    assert mdata["adt"].obsm["X_cantata_pca"].shape[1] == 12  # 14 proteins, one without counts
    assert list(mdata.uns["cantata"]["preprocess"]) == ["adt"]
    assert not mdata["rna"].obsm
    pp.preprocess(mdata, modalities={"rna": "rna"})
    assert sorted(mdata.uns["cantata"]["preprocess"]) == ["adt", "rna"]


def test_reference_reproduces_itself_also_from_disk(make, tmp_path):
    mdata = make("partial")
    pp.preprocess(mdata, n_components=6, n_top_genes=60)
    first = _reps(mdata)
    fresh = make("partial")
    pp.preprocess(mdata, reference=mdata)
    assert "cantata_pca" in mdata["rna"].varm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata.write(tmp_path / "ref.h5mu")
        stored = mudata.read(tmp_path / "ref.h5mu")
    for name, record in mdata.uns["cantata"]["preprocess"].items():
        assert dict(stored.uns["cantata"]["preprocess"][name]) == record
    pp.preprocess(fresh, reference=stored)
    for name, rep in first.items():
        np.testing.assert_allclose(_reps(mdata)[name], rep, atol=1e-4)
        np.testing.assert_allclose(_reps(fresh)[name], rep, atol=1e-4)
    # a file read back is preprocessed from its counts again
    pp.preprocess(stored, n_components=6, n_top_genes=60)
    np.testing.assert_allclose(_reps(stored)["adt"], first["adt"], atol=1e-4)


def _permuted(mdata, seed=0):
    rng = np.random.default_rng(seed)
    mod = {}
    for name, adata in mdata.mod.items():
        cells, features = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
        mod[name] = adata[cells][:, features].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MuData(mod)


@pytest.mark.parametrize("fmt", ["csr", "dense"])
def test_query_with_permuted_features_and_cells(make, fmt):
    mdata = make("partial", fmt=fmt)
    query = _permuted(mdata)
    pp.preprocess(mdata, n_components=6, n_top_genes=60)
    pp.preprocess(query, reference=mdata)
    for name, rep in _reps(mdata).items():
        expected = _rows(mdata, name, rep)
        got = _rows(query, name, query[name].obsm[REPS[name]]).loc[expected.index]
        np.testing.assert_allclose(got, expected, atol=1e-4)
        x = mdata[name].to_df()
        np.testing.assert_allclose(
            query[name].to_df().loc[x.index, x.columns], x, rtol=1e-4, atol=1e-5
        )
    with pytest.raises(ValueError, match="itself projected"):
        pp.preprocess(mdata, reference=query)


def test_query_of_few_cells_does_not_depend_on_the_others(make):
    mdata = make("full")
    pp.preprocess(mdata, n_components=6)
    fresh = make("full")
    few = MuData({m: fresh[m][["cell5", "cell17"]].copy() for m in ("rna", "atac", "adt")})
    pp.preprocess(few, reference=mdata)
    for name, rep in _reps(mdata).items():
        expected = _rows(mdata, name, rep).loc[["cell5", "cell17"]]
        np.testing.assert_allclose(few[name].obsm[REPS[name]], expected, atol=1e-4)


def test_absent_features_count_as_zero(make):
    mdata = make("full")
    pp.preprocess(mdata, n_components=6)
    fresh = make("full")
    lacking, zeroed = {}, {}
    for name in REPS:
        kept = np.arange(fresh[name].n_vars) % 6 != 2
        lacking[name] = fresh[name][:, kept].copy()
        x = _dense(fresh[name].X).copy()
        x[:, ~kept] = 0
        zeroed[name] = fresh[name].copy()
        zeroed[name].X = sparse.csr_matrix(x)
    lacking, zeroed = MuData(lacking), MuData(zeroed)
    with pytest.warns(UserWarning, match=r"lacks .*taken as 0") as caught:
        pp.preprocess(lacking, reference=mdata)
    messages = [str(w.message) for w in caught]
    assert sum("'rna' lacks 25 of the reference's 150" in message for message in messages) == 1
    assert {w.filename for w in caught} == {__file__}
    pp.preprocess(zeroed, reference=mdata)
    for name in REPS:
        np.testing.assert_allclose(_reps(lacking)[name], _reps(zeroed)[name], atol=1e-4)


def test_additional_features_change_no_representation(make):
    mdata = make("full")
    pp.preprocess(mdata, n_components=6)
    query = make("full")
    wide = {}
    for name in REPS:
        adata = query[name]
        extra = adata.copy()
        extra.var_names = [f"new{j}" for j in range(adata.n_vars)]
        wide[name] = AnnData(
            sparse.hstack([adata.X, extra.X], format="csr"),
            obs=adata.obs,
            var=pd.DataFrame(index=[*adata.var_names, *extra.var_names]),
        )
    query = MuData(wide)
    pp.preprocess(query, reference=mdata)
    for name, rep in _reps(mdata).items():
        np.testing.assert_allclose(_reps(query)[name], rep, atol=1e-4)
        assert np.isfinite(query[name].X.data).all()
        assert query[name].X[:, mdata[name].n_vars :].nnz


def test_too_many_absent_features(make):
    mdata = make("full")
    pp.preprocess(mdata, n_components=6)
    query = MuData({"rna": make("full")["rna"][:, :100].copy()})
    with pytest.raises(ValueError, match="lacks 50 of the reference's 150"):
        pp.preprocess(query, reference=mdata)
    assert not query["rna"].obsm


def test_reference_must_be_whole(make):
    mdata = make("full")
    with pytest.raises(ValueError, match="not preprocessed"):
        pp.preprocess(make("full"), reference=mdata)
    pp.preprocess(mdata, n_components=6)
    smaller = MuData({m: mdata[m][:, :10].copy() for m in REPS})
    with pytest.raises(ValueError, match="10 features but was preprocessed with"):
        pp.preprocess(make("full"), reference=smaller)
    only = MuData({"rna": mdata["rna"]})
    with pytest.raises(KeyError, match="adt"):
        pp.preprocess(make("full"), reference=only)
    with pytest.raises(ValueError, match="reference"):
        pp.preprocess(make("full"), reference=mdata, n_components=7)


def _break(mdata, how):
    adata = mdata["atac"]
    x = _dense(adata.X).astype("float32")
    value = {"nan": np.nan, "negative": -1.0, "fraction": 0.5}.get(how)
    if how == "empty":
        x[4] = 0
    else:
        x[4, 9] = value
    adata.X = sparse.csr_matrix(x)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("nan", "1 NaN"),
        ("negative", "1 negative"),
        ("fraction", "1 values that are no integers"),
        ("empty", r"1 cells without counts.*drop_empty"),
    ],
)
def test_bad_values_name_modality_and_cell_and_nothing_is_written(make, how, match):
    mdata = make("full")
    _break(mdata, how)
    cell = mdata["atac"].obs_names[4]
    with pytest.raises(ValueError, match=match) as error:
        pp.preprocess(mdata)
    assert "'atac'" in str(error.value)
    assert cell in str(error.value)
    assert "cantata" not in mdata.uns
    for adata in mdata.mod.values():
        assert not adata.obsm
        assert "counts" not in adata.layers


def test_layers_that_contradict(make):
    mdata = make("full")
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    pp.preprocess(mdata.copy(), n_components=6)
    mdata["rna"].layers["counts"] = mdata["rna"].X * 2
    with pytest.raises(ValueError, match=r"'rna'.*both exist and differ"):
        pp.preprocess(mdata)
    with pytest.raises(KeyError, match="nothing"):
        pp.preprocess(mdata, layers={"rna": "nothing"})
    with pytest.raises(KeyError, match="cytof"):
        pp.preprocess(mdata, layers={"cytof": "counts"})


def test_views_backed_files_and_batches_are_checked(make, tmp_path):
    mdata = make("full")
    with pytest.raises(ValueError, match=r"view.*copy"):
        pp.preprocess(mdata[mdata.obs_names[:50]])
    with pytest.raises(KeyError, match="donor"):
        pp.preprocess(mdata, batch_key="donor")
    mdata["rna"].obs["lane"] = ["a"] * 119 + [None]
    with pytest.raises(ValueError, match=r"1 cells of modality 'rna' have no batch"):
        pp.preprocess(mdata, batch_key="lane")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make("full").write(tmp_path / "x.h5mu")
        backed = mudata.read(tmp_path / "x.h5mu", backed="r")
    with pytest.raises(ValueError, match=r"backed.*to_memory"):
        pp.preprocess(backed)
    with pytest.raises(TypeError, match="AnnData"):
        pp.preprocess(make("full")["rna"])


@pytest.mark.filterwarnings("ignore::anndata.ImplicitModificationWarning")
def test_modalities_that_are_views_of_an_anndata(make):
    source = make("full")
    with no_pull():
        mdata = MuData({m: source[m][:80] for m in REPS})
        plain = MuData({m: source[m][:80].copy() for m in REPS})
    pp.preprocess(mdata, n_components=6)
    pp.preprocess(plain, n_components=6)
    for name, rep in _reps(plain).items():
        np.testing.assert_array_equal(_reps(mdata)[name], rep)
        assert "counts" not in source[name].layers
        assert (_dense(source[name].X) % 1 == 0).all()


def test_no_warning_on_good_data(make):
    mdata = make("partial")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pp.preprocess(mdata, n_components=6, batch_key="batch", n_top_genes=60)
        pp.preprocess(mdata, reference=mdata)


def _cca_foscttm(x, y, ridge=1e-3):
    """FOSCTTM of the last fifth of the cells under a regularised CCA of the others."""
    order = np.random.default_rng(0).permutation(len(x))
    test, train = order[: len(x) // 5], order[len(x) // 5 :]
    x, y = (v.astype(float) - v[train].mean(axis=0) for v in (x, y))
    roots = []
    for v in (x, y):
        cov = v[train].T @ v[train] / len(train)
        w, q = np.linalg.eigh(cov + ridge * np.trace(cov) / len(cov) * np.eye(len(cov)))
        roots.append(q / np.sqrt(w) @ q.T)
    cross = x[train].T @ y[train] / len(train)
    u, s, vt = np.linalg.svd(roots[0] @ cross @ roots[1])
    k = len(s)
    a, b = x[test] @ roots[0] @ u[:, :k] * s, y[test] @ roots[1] @ vt[:k].T * s
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    sim = a @ b.T
    true = np.diag(sim)
    closer = (sim > true[:, None]).mean() + (sim > true[None, :]).mean()
    return closer / 2


@pytest.mark.parametrize(
    ("file", "second", "limit"),
    [("pbmc5k_citeseq", "adt", 0.045), ("snareseq_mouse_cortex_open", "atac", 0.085)],
)
def test_closed_form_score_on_real_data(real_data, file, second, limit):
    path = real_data(f"{file}.h5mu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata = mudata.read(path)
    if "Mis" in set(mdata["rna"].obs["cell_type"]):
        kept = (mdata["rna"].obs["cell_type"] != "Mis").to_numpy()
        mdata = MuData({m: mdata[m][kept].copy() for m in mdata.mod})
    pp.preprocess(mdata)
    reps = _reps(mdata)
    assert _cca_foscttm(reps["rna"], reps[second]) < limit


@pytest.mark.parametrize("fmt", ["csr", "dense"])
def test_corrected_counts_can_be_rounded_as_the_error_says(make, fmt):
    mdata = make("full", fmt=fmt)
    counts = mdata["adt"].X.copy()
    mdata["adt"].X = counts * 0.999
    with pytest.raises(ValueError, match=r"'adt'.*no integers.*can be rounded") as error:
        pp.preprocess(mdata)
    code = str(error.value).split("can be rounded: ")[1].removesuffix(".")
    exec(code, {"mdata": mdata, "np": np})
    pp.preprocess(mdata, n_components=5)
    np.testing.assert_array_equal(_dense(mdata["adt"].layers["counts"]), _dense(counts))
