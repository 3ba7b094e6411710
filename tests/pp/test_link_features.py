from __future__ import annotations

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
from cantata.pp import _link_report
from cantata.pp._links import _components, _values

GENES = ["CD4", "MS4A1", "PTPRC", "NCAM1", "ITGAX", "XIST", "ACTB"]
PROTEINS = ["CD56", "CD45RA", "CD20", "CD45RO", "CD4", "isotype"]
LINKS = [  # in the order of the genes
    ("CD4", "CD4"),
    ("MS4A1", "CD20"),
    ("PTPRC", "CD45RA"),
    ("PTPRC", "CD45RO"),
    ("NCAM1", "CD56"),
]
PUBLISHED = {"smooth": False, "center": False, "shared": False}


def build(fmt=sparse.csr_matrix, n_cells=60, n_genes=7):
    """RNA and proteins of overlapping cells in different orders, and a modality in between."""
    rng = np.random.default_rng(5)
    names = np.array([f"c{i}" for i in range(n_cells)])
    rows = {
        "rna": rng.permutation(n_cells)[: 3 * n_cells // 4],
        "other": rng.permutation(n_cells),
        "adt": rng.permutation(n_cells)[: 3 * n_cells // 4],
    }
    features = {
        "rna": GENES + [f"gene{i}" for i in range(n_genes - len(GENES))],
        "other": ["CD4", "foo"],
        "adt": PROTEINS,
    }
    state = rng.gamma(1.0, 1.0, (n_cells, 4))
    parts = {}
    for name, own in features.items():
        load = rng.gamma(0.4, 1.0, (4, len(own)))
        depth = 20.0 if name == "adt" else 1.5
        x = rng.poisson(depth * state[rows[name]] @ load).astype(np.float32)
        parts[name] = AnnData(fmt(x))
        parts[name].obs_names, parts[name].var_names = names[rows[name]], own
    return mosaic(parts)


def values(mdata, name):
    x = mdata[name].X
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)


def ends(mdata, links=LINKS):
    left = [list(mdata["rna"].var_names).index(source) for source, _ in links]
    right = [list(mdata["adt"].var_names).index(target) for _, target in links]
    return left, right


def naive_log(x, columns, target):
    """Loop over cells: linked features, each once, scaled to a total."""
    result = np.zeros((len(x), len(columns)))
    for i, row in enumerate(x):
        total = sum(row[j] for j in set(columns))
        if total > 0:
            result[i] = [np.log1p(row[j] * target / total) for j in columns]
    return result


def zscore(x, limit=10.0):
    return np.clip((x - x.mean(axis=0)) / x.std(axis=0), -limit, limit)


def matrices(mdata):
    return mdata["rna"].obsm["X_linked_adt"], mdata["adt"].obsm["X_linked_rna"]


@pytest.mark.parametrize("fmt", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.array])
@pytest.mark.parametrize("held", [True, False])
def test_published_recipe_of_counts(fmt, held, monkeypatch):
    monkeypatch.setattr(_values, "BLOCK_CELLS", 7)
    if not held:
        monkeypatch.setattr(_values, "MAX_KEPT_ENTRIES", 0)
    mdata = build(fmt)
    left, right = ends(mdata)
    x, y = values(mdata, "rna"), values(mdata, "adt")
    x[3] = 0
    mdata["rna"].X = fmt(x.astype(np.float32))
    totals = [np.median(v[:, sorted(set(c))].sum(axis=1)) for v, c in ((x, left), (y, right))]
    target = max(min(totals), 20)
    report = pp.link_features(mdata, "rna", "adt", transforms="log1p", **PUBLISHED)
    assert report.targets == {"rna": target, "adt": target}
    got = matrices(mdata)
    for array, v, columns in ((got[0], x, left), (got[1], y, right)):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, zscore(naive_log(v, columns, target)), atol=2e-5)
    assert np.isfinite(got[0]).all()


def test_counts_follow_the_scale_of_intensities():
    mdata = build()
    y = np.arcsinh(values(mdata, "adt") / 5)
    mdata["adt"].X = y.astype(np.float32)
    left, right = ends(mdata)
    target = np.median(np.expm1(y[:, sorted(set(right))].astype(np.float32)).sum(axis=1))
    report = pp.link_features(mdata, "rna", "adt", **PUBLISHED)
    assert report.targets["rna"] == pytest.approx(target, rel=1e-5)
    assert report.targets["adt"] == 0
    assert report.transforms == {"rna": "log1p", "adt": "none"}
    got = matrices(mdata)
    np.testing.assert_allclose(got[1], zscore(y[:, right]), atol=2e-5)
    expected = zscore(naive_log(values(mdata, "rna"), left, report.targets["rna"]))
    np.testing.assert_allclose(got[0], expected, atol=2e-5)


def test_other_transforms():
    mdata = build()
    y = values(mdata, "adt")
    _, right = ends(mdata)
    options = {"rna": None, "adt": "arcsinh"}
    pp.link_features(mdata, "rna", "adt", transforms=options, **PUBLISHED)
    np.testing.assert_allclose(matrices(mdata)[1], zscore(np.arcsinh(y / 5))[:, right], atol=2e-5)
    left, _ = ends(mdata)
    np.testing.assert_allclose(
        matrices(mdata)[0], zscore(values(mdata, "rna")[:, left]), atol=2e-5
    )
    report = pp.link_features(mdata, "rna", "adt", transforms={"adt": "clr"}, **PUBLISHED)
    ratio = np.log1p(y / np.exp(np.log1p(y).mean(axis=0)))
    np.testing.assert_allclose(matrices(mdata)[1], zscore(ratio)[:, right], atol=2e-5)
    assert report.targets == {"rna": 20.0, "adt": 0.0}


def test_intensities_that_were_not_transformed_are_noted():
    mdata = build()
    mdata["adt"].X = (values(mdata, "adt") * 7.3).astype(np.float32)
    with pytest.warns(UserWarning, match=r"'adt' are no counts and reach .* 'arcsinh'"):
        pp.link_features(mdata, "rna", "adt")


def test_layers_and_counts_that_preprocess_kept():
    mdata = build(n_cells=80)
    keep = {name: mdata[name] for name in ("rna", "adt")}
    mdata = mosaic(keep)
    pp.link_features(mdata, "rna", "adt")
    before = [array.copy() for array in matrices(mdata)]
    mdata = pp.drop_empty(mdata)
    pp.preprocess(mdata, n_components=3)
    pp.link_features(mdata, "rna", "adt")
    for array, old in zip(matrices(mdata), before, strict=True):
        np.testing.assert_array_equal(array, old)
    mdata["adt"].layers["mine"] = mdata["adt"].layers["counts"] * 2
    mdata["adt"].X = np.zeros(mdata["adt"].shape, dtype=np.float32)
    pp.link_features(mdata, "rna", "adt", layers={"adt": "mine"})
    np.testing.assert_allclose(matrices(mdata)[0], before[0], atol=1e-5)
    with pytest.raises(KeyError, match=r"layers=\{'adt': 'nil'\}"):
        pp.link_features(mdata, "rna", "adt", layers={"adt": "nil"})


def test_weights_scale_columns_and_center_is_a_weighted_mean():
    mdata = build()
    links = pd.DataFrame(LINKS, columns=["source", "target"])
    links["weight"] = [1.0, 4.0, 0.25, 1.0, 9.0]
    pp.link_features(mdata, "rna", "adt", **PUBLISHED)
    plain = [array.astype(np.float64) for array in matrices(mdata)]
    pp.link_features(mdata, "rna", "adt", links, **PUBLISHED)
    weight = links["weight"].to_numpy()
    for array, old in zip(matrices(mdata), plain, strict=True):
        np.testing.assert_allclose(array, old * np.sqrt(weight), rtol=1e-5)
    pp.link_features(mdata, "rna", "adt", links, **(PUBLISHED | {"center": True}))
    for array, old in zip(matrices(mdata), plain, strict=True):
        expected = (old - (old @ weight / weight.sum())[:, None]) * np.sqrt(weight)
        np.testing.assert_allclose(array, expected, atol=1e-4)


def test_clipping_is_two_sided():
    mdata = build()
    pp.link_features(mdata, "rna", "adt", max_value=None, **PUBLISHED)
    whole = [array.copy() for array in matrices(mdata)]
    assert min(array.max() for array in whole) > 1.0
    pp.link_features(mdata, "rna", "adt", max_value=0.8, **PUBLISHED)
    for array, old in zip(matrices(mdata), whole, strict=True):
        np.testing.assert_array_equal(array, np.clip(old, -0.8, 0.8))


def test_smoothing_is_regression_on_components(monkeypatch):
    mdata = build(n_cells=200, n_genes=40)
    left, right = ends(mdata)
    monkeypatch.setattr(_values, "BLOCK_CELLS", 33)
    monkeypatch.setattr(_values, "N_COMPONENTS", 5)
    options = {"center": False, "shared": False}
    report = pp.link_features(mdata, "rna", "adt", smooth={"rna": True}, **options)
    assert report.smoothed == {"rna": True, "adt": False}
    x = values(mdata, "rna")
    y = naive_log(x, left, report.targets["rna"])
    logs = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)
    u, s, _ = np.linalg.svd(zscore(logs) - zscore(logs).mean(axis=0), full_matrices=False)
    scores = np.column_stack([u[:, :5] * s[:5], np.ones(len(x))])
    expected = scores @ np.linalg.lstsq(scores, y, rcond=None)[0]
    np.testing.assert_allclose(matrices(mdata)[0], zscore(expected), atol=1e-3)
    pp.link_features(mdata, "rna", "adt", smooth=False, **options)
    np.testing.assert_allclose(matrices(mdata)[0], zscore(y), atol=1e-4)
    assert right  # the panel is not smoothed in either


def test_smoothing_fitted_on_a_sample_reads_in_blocks(monkeypatch):
    mdata = build(n_cells=300, n_genes=60)
    pp.link_features(mdata, "rna", "adt", smooth={"rna": True}, shared=False)
    whole = matrices(mdata)[0].copy()
    monkeypatch.setattr(_values, "MAX_FIT_CELLS", 150)
    monkeypatch.setattr(_values, "BLOCK_CELLS", 40)
    pp.link_features(mdata, "rna", "adt", smooth={"rna": True}, shared=False)
    sampled = matrices(mdata)[0]
    assert not np.array_equal(sampled, whole)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(sampled.T, whole.T, strict=True)]
    assert min(correlation) > 0.9


def test_only_wide_counts_are_smoothed_by_default():
    mdata = build(n_genes=301)
    assert pp.link_features(mdata, "rna", "adt").smoothed == {"rna": True, "adt": False}
    mdata["rna"].X = mdata["rna"].X.log1p()
    assert pp.link_features(mdata, "rna", "adt").smoothed == {"rna": False, "adt": False}
    mdata = build(n_genes=300)
    assert pp.link_features(mdata, "rna", "adt").smoothed == {"rna": False, "adt": False}
    report = pp.link_features(mdata, "rna", "adt", smooth={"rna": True})
    assert report.smoothed == {"rna": True, "adt": False}


def many_links(n=260, n_cells=150, seed=2):
    """Two modalities of genes with common and private variation; no cell has both."""
    rng = np.random.default_rng(seed)
    load = rng.normal(0, 0.7, (3, n))
    parts = {}
    for name in ("rna", "activity"):
        own = rng.normal(0, 0.5, (1, n))
        rate = np.exp(rng.normal(size=(n_cells, 3)) @ load + rng.normal(size=(n_cells, 1)) @ own)
        parts[name] = AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
        parts[name].obs_names = [f"{name}{i}" for i in range(n_cells)]
        parts[name].var_names = [f"gene{j}" for j in range(n)]
    return mosaic(parts)


def components(mdata):
    return mdata["rna"].obsm["X_linked_activity"], mdata["activity"].obsm["X_linked_rna"]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("largest", [3000, 10])
def test_joint_components(shared, largest, monkeypatch):
    monkeypatch.setattr(_components, "MAX_COVARIANCE_LINKS", largest)
    monkeypatch.setattr(_values, "BLOCK_CELLS", 64)
    mdata = many_links()
    options = {"smooth": False, "center": False, "shared": shared}
    pp.link_features(mdata, "rna", "activity", n_components=None, **(options | {"shared": False}))
    x, y = (array.astype(np.float64) for array in components(mdata))
    report = pp.link_features(mdata, "rna", "activity", n_components=4, **options)
    a, b = x.T @ x / len(x), y.T @ y / len(y)
    _, axes = np.linalg.eigh(a @ b + b @ a if shared else a + b)
    axes = axes[:, :-5:-1]
    assert report.n_components == 4
    for array, scores in zip(components(mdata), (x, y), strict=True):
        assert array.dtype == np.float32
        for j in range(4):
            expected = scores @ axes[:, j]
            assert abs(np.corrcoef(array[:, j], expected)[0, 1]) > 0.999
            np.testing.assert_allclose(array[:, j].std(), expected.std(), rtol=5e-3)
    # signs are the same in both
    both = np.vstack(components(mdata))
    stacked = np.vstack([x, y]) @ axes
    signs = np.sign((both * stacked).sum(axis=0))
    np.testing.assert_allclose(both, stacked * signs, atol=0.05 * np.abs(stacked).max())


def test_stacked_components_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    mdata = many_links()
    pp.link_features(mdata, "rna", "activity", n_components=None, **PUBLISHED)
    stacked = np.vstack(components(mdata))
    pp.link_features(mdata, "rna", "activity", n_components=3, **PUBLISHED)
    ours, theirs = np.vstack(components(mdata)), PCA(3, svd_solver="full").fit_transform(stacked)
    for j in range(3):
        assert abs(np.corrcoef(ours[:, j], theirs[:, j])[0, 1]) > 0.999


def test_many_links_are_reduced_by_default():
    mdata = many_links(201)
    report = pp.link_features(mdata, "rna", "activity")
    assert report.n_components == components(mdata)[0].shape[1] <= 30
    assert not report.centered
    mdata = many_links(200)
    assert pp.link_features(mdata, "rna", "activity").n_components == 0
    assert components(mdata)[1].shape == (150, 200)
    with pytest.raises(ValueError, match="n_components=200 with 200 links"):
        pp.link_features(mdata, "rna", "activity", n_components=200)


def test_single_links_are_projected_on_shared_directions():
    mdata = many_links(100)
    options = {"n_components": None, "smooth": False, "center": False}
    pp.link_features(mdata, "rna", "activity", shared=False, **options)
    x, y = (array.astype(np.float64) for array in components(mdata))
    report = pp.link_features(mdata, "rna", "activity", shared=True, **options)
    a, b = x.T @ x / len(x), y.T @ y / len(y)
    eigenvalues, axes = np.linalg.eigh((a @ b + b @ a) / 2)
    kept = axes[:, ::-1][:, : report.n_directions]
    assert report.n_directions < 100
    assert (eigenvalues[::-1][: report.n_directions] > 0).all()
    for array, scores in zip(components(mdata), (x, y), strict=True):
        np.testing.assert_allclose(array, scores @ kept @ kept.T, atol=1e-3)


def test_cells_are_centred_from_fifty_links_on():
    for n, centered in ((49, False), (50, True)):
        mdata = many_links(n)
        assert pp.link_features(mdata, "rna", "activity").centered is centered
        means = np.abs(components(mdata)[0].mean(axis=1)).max()
        assert (means < 1e-5) == centered


def test_links_are_kept_by_position():
    mdata = build()  # CD4 is a feature of all three modalities
    links = pd.DataFrame({"source": ["CD4", "foo"], "target": ["ACTB", "CD4"], "weight": [2.0, 3]})
    with pytest.warns(UserWarning, match="only 2 link"):
        pp.link_features(mdata, "other", "rna", links)
    with pytest.warns(UserWarning, match="only 2 link"):
        pp.link_features(mdata, "other", "adt", links.assign(target=["CD4", "CD20"]))
    pp.link_features(mdata, "rna", "adt")
    joint = mdata.varp["links"]
    assert joint.format == "csr"
    assert joint.dtype == np.float32
    assert joint.shape == (mdata.n_vars, mdata.n_vars)
    assert abs(joint - joint.T).max() == 0
    start = {"rna": 0, "other": len(GENES), "adt": len(GENES) + 2}
    expected = np.zeros(joint.shape)
    features = {name: list(mdata[name].var_names) for name in start}
    pairs = [("rna", s, "adt", t, 1.0) for s, t in LINKS] + [
        ("other", "CD4", "rna", "ACTB", 2.0),
        ("other", "foo", "rna", "CD4", 3.0),
        ("other", "CD4", "adt", "CD4", 2.0),
        ("other", "foo", "adt", "CD20", 3.0),
    ]
    for first, source, second, target, weight in pairs:
        i = start[first] + features[first].index(source)
        j = start[second] + features[second].index(target)
        expected[i, j] = expected[j, i] = weight
    np.testing.assert_array_equal(joint.toarray(), expected)
    # the same pair the other way round takes the place of the old one
    pp.link_features(mdata, "adt", "rna", pd.DataFrame(LINKS[:4], columns=["target", "source"]))
    i, j = features["rna"].index("NCAM1"), start["adt"] + features["adt"].index("CD56")
    expected[i, j] = expected[j, i] = 0
    np.testing.assert_array_equal(mdata.varp["links"].toarray(), expected)
    assert set(mdata.uns["cantata"]["links"]) == {"other|rna", "other|adt", "adt|rna"}


def test_record_and_report():
    mdata = build()
    mdata.uns["cantata"] = {"preprocess": {"rna": {"kind": "rna"}}}
    report = pp.link_features(mdata, "rna", "adt")
    record = mdata.uns["cantata"]["links"]["rna|adt"]
    assert mdata.uns["cantata"]["preprocess"] == {"rna": {"kind": "rna"}}
    assert list(zip(record["source"], record["target"], strict=True)) == LINKS
    left, right = ends(mdata)
    assert record["source_index"].tolist() == left
    assert record["target_index"].tolist() == right
    assert record["targets"] == dict(report.targets)
    assert report.n_links == 5
    assert report.unlinked == {"rna": ("ITGAX", "XIST", "ACTB"), "adt": ("isotype",)}
    assert report.repeated == {"rna": ("PTPRC",), "adt": ()}
    text = repr(report)
    assert "Links of rna and adt" in text
    assert "isotype" in text
    assert "PTPRC" in report._repr_html_()
    assert "5 links of 'rna' and 'adt'" in report.summary


def test_agreement_is_taken_over_cells_with_both():
    mdata = build()
    report = pp.link_features(mdata, "rna", "adt", **PUBLISHED)
    rows = row_table(mdata)
    both = (rows["rna"] >= 0) & (rows["adt"] >= 0)
    x, y = (
        array[rows[name][both]]
        for name, array in zip(("rna", "adt"), matrices(mdata), strict=True)
    )
    expected = [np.corrcoef(x[:, j], y[:, j])[0, 1] for j in range(5)]
    assert report.n_paired == both.sum()
    np.testing.assert_allclose(report.links["correlation"], expected, atol=1e-4)
    assert report.agreement == pytest.approx(np.median(expected), abs=1e-4)
    assert report.chance < report.agreement
    assert "smoothed" not in report.links
    smoothed = pp.link_features(mdata, "rna", "adt", smooth={"rna": True})
    np.testing.assert_allclose(smoothed.links["correlation"], expected, atol=1e-4)
    assert not np.allclose(smoothed.links["smoothed"], expected, atol=1e-3)


def test_agreement_is_unknown_without_pairs():
    mdata = many_links(30)
    report = pp.link_features(mdata, "rna", "activity")
    assert report.agreement is None
    assert report.chance is None
    assert "unknown" in repr(report)


def test_links_that_do_not_vary_are_left_out():
    mdata = build()
    x = values(mdata, "rna")
    x[:, GENES.index("MS4A1")] = 0
    mdata["rna"].X = sparse.csr_matrix(x.astype(np.float32))
    with pytest.warns(UserWarning, match="1 of 5 links .* MS4A1 with CD20"):
        report = pp.link_features(mdata, "rna", "adt", **PUBLISHED)
    assert report.constant["target"].tolist() == ["CD20"]
    assert "CD20" in report.unlinked["adt"]
    assert matrices(mdata)[0].shape[1] == 4
    assert mdata.varp["links"].nnz == 8
    mdata["rna"].X = sparse.csr_matrix(np.zeros_like(x, dtype=np.float32))
    with pytest.raises(ValueError, match=r"5 of 5 links .* None is left"):
        pp.link_features(mdata, "rna", "adt")


def test_file_round_trip(tmp_path):
    mdata = build()
    pp.link_features(mdata, "rna", "adt", max_value=None)
    path = tmp_path / "linked.h5mu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata.write_h5mu(path)
        again = mudata.read_h5mu(path)
        backed = mudata.read_h5mu(path, backed=True)
    assert abs(again.varp["links"] - mdata.varp["links"]).max() == 0
    record, old = (m.uns["cantata"]["links"]["rna|adt"] for m in (again, mdata))
    assert set(record) == set(old)
    for key in ("source", "target", "weight", "type", "source_index", "target_index"):
        np.testing.assert_array_equal(record[key], old[key])
    for key in ("targets", "transforms", "n_components", "version", "max_value"):
        assert record[key] == old[key]
    assert {name: bool(x) for name, x in record["smoothed"].items()} == old["smoothed"]
    for array, expected in zip(matrices(again), matrices(mdata), strict=True):
        np.testing.assert_array_equal(array, expected)
    pd.testing.assert_frame_equal(pp.link_table(again), pp.link_table(mdata))
    # on disk
    expected = [array.copy() for array in matrices(mdata)]
    for modality, key in (("rna", "X_linked_adt"), ("adt", "X_linked_rna")):
        del backed[modality].obsm[key]
    pp.link_features(backed, "rna", "adt", max_value=None)
    for array, old_array in zip(matrices(backed), expected, strict=True):
        np.testing.assert_allclose(array, old_array, atol=1e-6)
    backed.file.close()


def test_nothing_is_written_when_it_fails(monkeypatch):
    mdata = build()
    monkeypatch.setattr(
        "cantata.pp._link_features.link_agreement",
        lambda *_: (_ for _ in ()).throw(RuntimeError),
    )
    with pytest.raises(RuntimeError):
        pp.link_features(mdata, "rna", "adt")
    assert "links" not in mdata.varp
    assert "cantata" not in mdata.uns
    assert "X_linked_adt" not in mdata["rna"].obsm


def test_input_is_not_changed():
    mdata = build()
    before = {name: values(mdata, name) for name in mdata.mod}
    obs, var = mdata.obs.copy(), mdata.var.copy()
    pp.link_features(mdata, "rna", "adt", smooth={"rna": True})
    for name, old in before.items():
        np.testing.assert_array_equal(values(mdata, name), old)
    pd.testing.assert_frame_equal(mdata.obs, obs)
    pd.testing.assert_frame_equal(mdata.var, var)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"b": "nil"}, KeyError, "b='nil' is no modality"),
        ({"b": "rna"}, ValueError, "both 'rna'"),
        ({"layers": {"other": None}}, KeyError, "layers names modalities"),
        ({"transforms": {"adt": "log"}}, ValueError, "'adt': 'log'"),
        ({"transforms": "sqrt"}, ValueError, "'sqrt'"),
        ({"n_components": 1}, ValueError, "n_components=1"),
        ({"n_components": True}, ValueError, "n_components=True"),
        ({"smooth": {"adt": 3}}, ValueError, "smooth of 'adt' is 3"),
        ({"center": "yes"}, ValueError, "center is 'yes'"),
        ({"shared": 2}, ValueError, "shared is 2"),
        ({"max_value": 0}, ValueError, "max_value=0"),
        ({"links": 3}, TypeError, "int"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        pp.link_features(build(), **({"a": "rna", "b": "adt"} | arguments))


def test_bad_values():
    with pytest.raises(TypeError, match="AnnData"):
        pp.link_features(build()["rna"], "rna", "adt")
    mdata = build()
    mdata["rna"].X = values(mdata, "rna") - 3
    with pytest.raises(ValueError, match="'rna' has negative values"):
        pp.link_features(mdata, "rna", "adt", transforms={"rna": "log1p"})
    x = values(mdata, "rna")
    x[2, 1] = np.nan
    mdata["rna"].X = x
    with pytest.raises(ValueError, match="'rna' has 1 NaN"):
        pp.link_features(mdata, "rna", "adt")
    mdata = build()
    mdata.mod["rna"] = mdata["rna"][:, 1:].copy()
    with pytest.raises(ValueError, match="features of modality 'rna' changed"):
        pp.link_features(mdata, "rna", "adt")


# genes with peaks

N_GENES, N_PEAKS = 8, 20


def build_peaks(n_cells=60):
    rng = np.random.default_rng(4)
    parts = {}
    for name, n in (("rna", N_GENES), ("atac", N_PEAKS)):
        x = rng.poisson(rng.gamma(1.0, 1.0, (n_cells, n))).astype(np.float32)
        parts[name] = AnnData(sparse.csr_matrix(x))
        parts[name].obs_names = [f"{name}{i}" for i in range(n_cells)]
    parts["rna"].var_names = [f"Gene{j}" for j in range(N_GENES)]
    parts["atac"].var_names = [f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(N_PEAKS)]
    return mosaic(parts)


def peak_table(mdata):
    rng = np.random.default_rng(1)
    pairs = [(g, p) for g in range(N_GENES - 1) for p in range(N_PEAKS) if rng.random() < 0.3]
    return pd.DataFrame(
        {
            "gene": [mdata["rna"].var_names[g] for g, _ in pairs],
            "peak": [mdata["atac"].var_names[p] for _, p in pairs],
            "weight": rng.random(len(pairs)) + 0.5,
        }
    )


@pytest.mark.parametrize("turned", [False, True])
def test_a_gene_is_compared_with_the_sum_of_its_peaks(turned):
    mdata = build_peaks()
    links = peak_table(mdata)
    options = {"smooth": False, "shared": False, "transforms": None}
    pair = ("atac", "rna") if turned else ("rna", "atac")
    report = pp.link_features(mdata, *pair, links, **options)
    genes = sorted(set(links["gene"]))
    assert report.n_links == len(genes)
    assert set(report.unlinked["rna"]) == set(mdata["rna"].var_names) - set(genes)
    peaks = mdata["atac"].to_df()
    sums = np.column_stack(
        [
            sum(row.weight * peaks[row.peak] for row in links[links["gene"] == gene].itertuples())
            for gene in genes
        ]
    )
    for got, x in (
        (mdata["atac"].obsm["X_linked_rna"], sums),
        (mdata["rna"].obsm["X_linked_atac"], mdata["rna"].to_df()[genes].to_numpy()),
    ):
        np.testing.assert_allclose(got, (x - x.mean(axis=0)) / x.std(axis=0), atol=1e-4)
    # what is kept are the links of genes with peaks
    assert mdata.varp["links"].nnz == 2 * len(links)
    kept = pp.link_table(mdata, "rna", "atac")
    expected = links.rename(columns={"gene": "source", "peak": "target"})
    columns = ["source", "target", "weight"]
    pd.testing.assert_frame_equal(
        kept[columns].sort_values(columns, ignore_index=True),
        expected.sort_values(columns, ignore_index=True),
        check_dtype=False,
    )


def test_links_by_the_name_of_a_table():
    mdata = build_peaks()
    mdata.uns["peaks"] = peak_table(mdata)
    assert pp.link_features(mdata, "rna", "atac", "peaks").n_links == N_GENES - 1
    with pytest.raises(KeyError, match="links='nil'"):
        pp.link_features(mdata, "rna", "atac", "nil")


def test_chromatin_is_smoothed_by_all_its_peaks():
    mdata = build_peaks(200)
    report = pp.link_features(mdata, "rna", "atac", peak_table(mdata), smooth={"atac": True})
    assert report.smoothed == {"rna": False, "atac": True}
    assert np.isfinite(mdata["atac"].obsm["X_linked_rna"]).all()


# links and pairs that do not fit


def populations(n_genes=40, n_cells=300, seed=3, paired=True):
    """RNA and proteins of cells in a few programmes; gene j and protein j go together."""
    rng = np.random.default_rng(seed)
    programmes, load = rng.normal(size=(n_cells, 4)), rng.normal(0, 0.8, (4, n_genes))
    parts = {}
    for name, depth in (("rna", 2.0), ("adt", 20.0)):
        parts[name] = AnnData(rng.poisson(depth * np.exp(programmes @ load)).astype(np.float32))
        parts[name].obs_names = [f"c{i}" if paired else f"{name}{i}" for i in range(n_cells)]
        parts[name].var_names = [f"F{j}" for j in range(n_genes)]
    return mosaic(parts)


def told(call):
    """Warnings of this package, after a check that they point at this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    own = [w for w in caught if w.category is UserWarning and "var_names" not in str(w.message)]
    assert {w.filename for w in own} <= {__file__}
    return result, [str(w.message) for w in own]


def naive_consistency(x, y):
    """Loop over pairs of links: correlation of sources with that of targets."""
    a, b = np.corrcoef(x, rowvar=False), np.corrcoef(y, rowvar=False)
    pairs = [(i, j) for i in range(len(a)) for j in range(i)]
    left, right = ([m[i, j] for i, j in pairs] for m in (a, b))
    each = [np.corrcoef(np.delete(a[j], j), np.delete(b[j], j))[0, 1] for j in range(len(a))]
    return np.corrcoef(left, right)[0, 1], each


@pytest.mark.parametrize("paired", [True, False])
def test_right_links_are_consistent(paired):
    mdata = populations(paired=paired)
    report, warned = told(lambda: pp.link_features(mdata, "rna", "adt", **PUBLISHED))
    assert warned == []
    score, each = naive_consistency(*matrices(mdata))
    assert report.consistency == pytest.approx(score, abs=1e-3)
    np.testing.assert_allclose(report.links["consistency"], each, atol=1e-3)
    assert report.consistency > 0.8 > 3 * report.shuffled_consistency
    assert "consistency" in repr(report)
    assert "consistency" in report.summary
    assert (report.agreement_z is not None) == paired


def test_wrong_links_are_warned_of_without_pairs():
    mdata = populations(paired=False)
    features = mdata["rna"].var_names
    links = pd.DataFrame({"source": features, "target": np.roll(features, 7)})
    report, warned = told(lambda: pp.link_features(mdata, "rna", "adt", links))
    assert len(warned) == 1
    assert "40 links of 'rna' and 'adt' agree no better than shuffled ones" in warned[0]
    assert report.consistency < report.shuffled_consistency
    # a few wrong ones are found, and named in the report
    links["target"] = features
    links.loc[:5, "target"] = np.roll(features[:6], 2)
    report, warned = told(lambda: pp.link_features(mdata, "rna", "adt", links))
    assert warned == []
    each = report.links["consistency"]
    assert each[:6].max() < each[6:].min()
    assert "doubtful" in repr(report)


def test_links_of_one_feature_say_nothing_of_each_other():
    """Two proteins of one gene go together with it whatever they are."""
    mdata = populations(12)
    links = pd.DataFrame({"source": ["F0"] * 6, "target": [f"F{j}" for j in range(6)]})
    report, _ = told(lambda: pp.link_features(mdata, "rna", "adt", links, **PUBLISHED))
    assert report.consistency is None
    assert report.links["consistency"].isna().all()


@pytest.mark.parametrize("smooth", [True, False])
def test_wrong_pairs_are_warned_of(smooth):
    mdata = populations()
    adt = mdata["adt"][np.random.default_rng(0).permutation(300)].copy()
    adt.obs_names = mdata["rna"].obs_names
    shuffled = mosaic({"rna": mdata["rna"], "adt": adt})
    options = {"smooth": {"rna": smooth}, "shared": False}
    report, warned = told(lambda: pp.link_features(shuffled, "rna", "adt", **options))
    assert len(warned) == 1
    assert "300 cells have both 'rna' and 'adt'" in warned[0]
    assert "pairs may be wrong" in warned[0]
    assert report.agreement_z < 2
    right, warned = told(lambda: pp.link_features(mdata, "rna", "adt", **options))
    assert warned == []
    assert right.agreement_z > 20


def test_agreement_in_standard_deviations_is_that_of_permutations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 6))
    x, y = ((z - z.mean(axis=0)) / z.std(axis=0) for z in (x, y + 0.3 * x))
    sums = [(x * y[rng.permutation(40)]).sum() for _ in range(4000)]
    expected = ((x * y).sum() - np.mean(sums)) / np.std(sums)
    assert _link_report._agreement_z(x, y) == pytest.approx(expected, rel=0.05)
    wide = np.hstack([x] * 8), np.hstack([y] * 8)
    assert _link_report._agreement_z(*wide) == pytest.approx(expected, rel=0.05)


# values


@pytest.mark.parametrize("fmt", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.array])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64"])
@pytest.mark.parametrize("transforms", ["auto", "clr"])
def test_counts_of_any_dtype(fmt, dtype, transforms):
    mdata, wide = populations(12), populations(12)
    for name in ("rna", "adt"):
        counts = np.minimum(values(mdata, name), 100).astype(dtype)
        mdata[name].X = fmt(counts)
        wide[name].X = counts.astype(np.float64)
    options = {"transforms": transforms, "smooth": {"rna": True}}
    for data in (mdata, wide):
        told(lambda data=data: pp.link_features(data, "rna", "adt", **options))
    for array, expected in zip(matrices(mdata), matrices(wide), strict=True):
        np.testing.assert_allclose(array, expected, atol=2e-4)


@pytest.mark.parametrize(("n_links", "transform"), [(3, "clr"), (11, "clr"), (12, "log1p")])
def test_counts_of_few_proteins_are_not_scaled_to_their_sum(n_links, transform):
    mdata = populations(12)
    links = pd.DataFrame({"source": [f"F{j}" for j in range(n_links)]})
    links["target"] = links["source"]
    report, warned = told(lambda: pp.link_features(mdata, "rna", "adt", links))
    assert report.transforms["adt"] == transform
    assert len(warned) == (n_links < 10)
    if warned:
        assert f"only {n_links} link(s)" in warned[0]
    assert report.transforms["rna"] == "log1p" or mdata["rna"].n_vars <= 300


def test_three_proteins_tell_cells_apart():
    """The sum of three proteins is no depth: what it is made of is lost when it is scaled away."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 400)
    high = np.array([[9, 9, 9], [9, 1, 1], [1, 9, 9], [1, 1, 1]])[group]
    parts = {}
    for name, scale in (("rna", 2.0), ("adt", 20.0)):
        rate = np.hstack([scale * high, scale * rng.gamma(2, 1, (400, 30))])
        parts[name] = AnnData(rng.poisson(rate).astype(np.float32))
        parts[name].obs_names = [f"{name}{i}" for i in range(400)]
        parts[name].var_names = ["CD4", "CD19", "CD14", *(f"{name}_{i}" for i in range(30))]
    mdata = mosaic(parts)
    scores = {}
    for transforms in ("auto", "log1p"):
        told(lambda t=transforms: pp.link_features(mdata, "rna", "adt", transforms=t))
        x = mdata["adt"].obsm["X_linked_rna"]
        centres = np.stack([x[group == g].mean(axis=0) for g in range(4)])
        nearest = ((x[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        scores[transforms] = (nearest == group).mean()
    assert scores["auto"] > 0.95
    assert scores["log1p"] < 0.8


def test_corrected_counts_count_as_counts():
    mdata, whole = populations(), populations()
    x = values(whole, "rna")
    assert x.max() > 50
    mdata["rna"].X = sparse.csr_matrix(np.where(x > 0, x * 0.999, 0))
    report, warned = told(lambda: pp.link_features(mdata, "rna", "adt"))
    assert report.transforms["rna"] == "log1p"
    assert len(warned) == 1
    assert "'rna' are no counts" in warned[0]
    assert "corrected counts ('log1p')" in warned[0]
    told(lambda: pp.link_features(whole, "rna", "adt"))
    np.testing.assert_allclose(matrices(mdata)[0], matrices(whole)[0], atol=1e-2)
    # negative intensities are left as they are, logarithms without a word
    mdata["rna"].X = x - 3
    report, warned = told(lambda: pp.link_features(mdata, "rna", "adt"))
    assert report.transforms["rna"] == "none"
    assert "taken as they are" in warned[0]
    mdata["rna"].X = np.log1p(x)
    report, warned = told(lambda: pp.link_features(mdata, "rna", "adt"))
    assert report.transforms["rna"] == "none"
    assert warned == []
