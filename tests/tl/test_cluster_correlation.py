from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse, stats

from cantata.tl import cluster_correlation

if TYPE_CHECKING:
    from mudata import MuData

pytestmark = pytest.mark.filterwarnings("ignore:.*var_names are (not unique|intersecting)")


@pytest.fixture
def mdata() -> MuData:
    """Four clusters in cells of two modalities, in other orders; one occurs in RNA alone."""
    rng = np.random.default_rng(0)
    profile = rng.normal(size=(4, 6))
    cells = pd.Index([f"cell{i}" for i in range(80)])
    cluster = rng.integers(0, 4, 80)
    mods = {}
    for name, other in (("rna", "adt"), ("adt", "rna")):
        rows = rng.permutation(80)[:60]
        if name == "adt":
            rows = rows[cluster[rows] != 3]
        noisy = profile[cluster[rows]] + 0.3 * rng.normal(size=(len(rows), 6))
        counts = sparse.csr_matrix(rng.poisson(np.exp(noisy)).astype(np.float32))
        mods[name] = AnnData(counts, obsm={"X_scmodal": noisy, f"X_linked_{other}": 5 * noisy + 1})
        mods[name].obs_names = cells[rows]
        mods[name].var_names = [f"g{i}" for i in rng.permutation(8)[:6]]
        mods[name].layers["log1p"] = counts.log1p()
        mods[name].obs["leiden"] = np.array(["1", "2", "0", "10"])[cluster[rows]]
    return mosaic(mods)


def naive(mdata, matrices, *, standardize, function) -> dict[tuple[str, str], float]:
    means: dict = {}
    for name, matrix in matrices.items():
        values = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
        labels = mdata[name].obs["leiden"].to_numpy()
        cells = {c: values[labels == c].astype(float) for c in set(labels)}
        means[name] = {c: x.mean(axis=0) for c, x in cells.items()}
        if standardize:
            common = set(mdata["rna"].obs["leiden"]) & set(mdata["adt"].obs["leiden"])
            center = np.mean([means[name][c] for c in common], axis=0)
            spread = [((cells[c] - center) ** 2).mean(axis=0) for c in common]
            scale = np.sqrt(np.mean(spread, axis=0))
            means[name] = {c: (x - center) / scale for c, x in means[name].items()}
    return {
        (row, column): function(x, y).statistic
        for row, x in means["rna"].items()
        for column, y in means["adt"].items()
    }


def as_dict(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    return {
        (row, column): table.loc[row, column]
        for row in table.index
        for column in table.columns
        if not np.isnan(table.loc[row, column])
    }


@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("use", ["linked", "X_scmodal", "X", "log1p"])
def test_equals_a_loop(mdata, use, standardize, statistic):
    if use == "linked":
        matrices = {m: mdata[m].obsm[f"X_linked_{n}"] for m, n in (("rna", "adt"), ("adt", "rna"))}
    elif use == "X_scmodal":
        matrices = {m: mdata[m].obsm[use] for m in ("rna", "adt")}
    else:
        shared = [g for g in mdata["rna"].var_names if g in mdata["adt"].var_names]
        matrices = {m: mdata[m][:, shared] for m in ("rna", "adt")}
        matrices = {m: a.X if use == "X" else a.layers[use] for m, a in matrices.items()}
    options = {"use": use, "standardize": standardize, "statistic": statistic}
    table = cluster_correlation(mdata, "leiden", "rna", "adt", **options)
    function = stats.pearsonr if statistic == "pearson" else stats.spearmanr
    expected = naive(mdata, matrices, standardize=standardize, function=function)
    assert as_dict(table) == pytest.approx(expected)
    assert (table.index.name, table.columns.name) == ("rna", "adt")
    assert list(table.index) == list(table.columns) == ["0", "1", "2", "10"]
    assert table["10"].isna().all()
    transposed = cluster_correlation(mdata, "leiden", "adt", "rna", **options)
    pd.testing.assert_frame_equal(transposed, table.T)


def test_matched_clusters_stand_out(mdata):
    table = cluster_correlation(mdata, "leiden", "rna", "adt", use="X_scmodal")
    for cluster in ("0", "1", "2"):
        assert table.loc[cluster].idxmax() == cluster
        assert table.loc[cluster, cluster] > 0.8


def test_proportions_of_cells_do_not_matter(mdata):
    expected = cluster_correlation(mdata, "leiden", "rna", "adt")
    extra = mdata["rna"][mdata["rna"].obs["leiden"] == "0"].copy()
    copies = [mdata["rna"], *(extra.copy() for _ in range(4))]
    for k, part in enumerate(copies[1:]):
        part.obs_names = [f"copy{k}-{name}" for name in part.obs_names]
    more = mosaic({"rna": ad.concat(copies), "adt": mdata["adt"].copy()})
    table = cluster_correlation(more, "leiden", "rna", "adt")
    pd.testing.assert_frame_equal(table, expected)


def test_clusters_of_the_mudata_and_missing_ones(mdata):
    expected = cluster_correlation(mdata, "leiden", "rna", "adt")
    column = pd.Series(np.nan, index=mdata.obs_names, dtype=object)
    for name in ("rna", "adt"):
        column[mdata[name].obs_names] = mdata[name].obs["leiden"].to_numpy()
        del mdata[name].obs["leiden"]
    names = {"0": "B cell", "1": "NK", "2": "T", "10": None}
    mdata.obs["type"] = column.map(names)
    table = cluster_correlation(mdata, "type", "rna", "adt", standardize=False)
    assert list(table.index) == ["B cell", "NK", "T"]
    with pytest.raises(KeyError, match="key='leiden'"):
        cluster_correlation(mdata, "leiden", "rna", "adt")
    mdata.obs["leiden"] = column
    pd.testing.assert_frame_equal(cluster_correlation(mdata, "leiden", "rna", "adt"), expected)


def test_constant_features_take_no_part(mdata):
    expected = cluster_correlation(mdata, "leiden", "rna", "adt")
    for m, n in (("rna", "adt"), ("adt", "rna")):
        linked = mdata[m].obsm[f"X_linked_{n}"]
        more = np.full((len(linked), 1), 7.0) if m == "rna" else np.arange(len(linked))[:, None]
        mdata[m].obsm[f"X_linked_{n}"] = np.hstack([linked, more])
    pd.testing.assert_frame_equal(cluster_correlation(mdata, "leiden", "rna", "adt"), expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": "atac"}, KeyError, "a='atac' is no modality"),
        ({"b": "rna"}, ValueError, "a and b are both 'rna'"),
        ({"key": "louvain"}, KeyError, "key='louvain'"),
        ({"key": "empty"}, ValueError, "No cell of 'rna' has a cluster in key='empty'"),
        ({"use": "X_clue"}, KeyError, "use='X_clue' does not exist in both"),
        ({"use": "X_wide"}, ValueError, "has 6 columns and .* 5"),
        ({"use": "X_nan"}, ValueError, r"obsm\['X_nan'\] holds NaN"),
        ({"use": "X_two"}, ValueError, "2 of 2 features of use='X_two' vary"),
        ({"key": "apart"}, ValueError, "'rna' and 'adt' share 1 of 2 clusters of key='apart'"),
        ({"statistic": "tau"}, ValueError, "statistic='tau' is unknown"),
    ],
)
def test_bad_input_is_named(mdata, change, error, message):
    mdata["rna"].obs["empty"] = None
    for name in ("rna", "adt"):
        mdata[name].obs["apart"] = "both"
    alone = ~mdata["rna"].obs_names.isin(mdata["adt"].obs_names)
    mdata["rna"].obs.loc[alone, "apart"] = "rna"
    for name, width in (("rna", 6), ("adt", 5)):
        embedding = mdata[name].obsm["X_scmodal"]
        mdata[name].obsm["X_wide"] = embedding[:, :width]
        mdata[name].obsm["X_two"] = embedding[:, :2]
        mdata[name].obsm["X_nan"] = np.where(embedding > 1, np.nan, embedding)
    options = {"key": "leiden", "a": "rna", "b": "adt", **change}
    with pytest.raises(error, match=message):
        cluster_correlation(mdata, **options)


def test_links_are_needed(mdata):
    del mdata["rna"].obsm["X_linked_adt"]
    with pytest.raises(KeyError, match=r"Call cantata\.pp\.link_features first"):
        cluster_correlation(mdata, "leiden", "rna", "adt")
