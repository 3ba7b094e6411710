from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse

from cantata._numeric.feature_statistics import FeatureMatrix
from cantata.tl import group_features
from cantata.tl._links._group_features import correlated_groups

pytestmark = pytest.mark.filterwarnings("ignore:.*var_names are not unique")


@pytest.fixture(scope="module")
def values():
    """Features of three factors with noise, one of them turned, one constant."""
    rng = np.random.default_rng(0)
    factor = rng.integers(0, 3, 25)
    x = rng.normal(size=(150, 3))[:, factor] + rng.uniform(0.1, 1.2, 25) * rng.normal(
        size=(150, 25)
    )
    x[:, 3] *= -1
    x[:, 7] = 4.0
    return x + 3


@pytest.fixture
def mdata(values):
    image = AnnData(values.copy())
    image.var_names = [f"f{j}" for j in range(values.shape[1])]
    return mosaic({"image": image, "other": AnnData(np.ones((3, 25)), var=image.var.copy())})


def naive(values, threshold):
    """Groups as sets of features, degrees, and representatives, by a search of the graph."""
    with np.errstate(invalid="ignore", divide="ignore"):
        linked = np.nan_to_num(np.corrcoef(values.T)) > threshold
    np.fill_diagonal(linked, False)
    degree, seen, groups = linked.sum(axis=0), set(), []
    for start in range(len(linked)):
        group, to_do = set(), [start]
        while to_do:
            j = to_do.pop()
            if j not in seen:
                seen.add(j)
                group.add(j)
                to_do += np.flatnonzero(linked[j]).tolist()
        if group:
            groups.append(sorted(group))
    best = [max(group, key=lambda j: (degree[j], -j)) for group in groups]
    return groups, degree, best


@pytest.mark.parametrize("threshold", [0.4, 0.7, 0.95])
def test_equals_a_search_of_the_graph(mdata, values, threshold):
    table = group_features(mdata, "image", threshold=threshold)
    groups, degree, best = naive(values, threshold)
    assert 1 < len(groups) < 26
    assert table["feature"].tolist() == list(mdata["image"].var_names)
    assert table["degree"].tolist() == degree.tolist()
    order = sorted(range(len(groups)), key=lambda k: (-len(groups[k]), groups[k][0]))
    for name, k in enumerate(order):
        part = table[table["group"] == str(name)]
        assert part.index.tolist() == groups[k]
        assert set(part["representative"]) == {f"f{best[k]}"}
    assert list(table["group"].cat.categories) == [str(k) for k in range(len(groups))]


@pytest.mark.parametrize("width", [1, 4, 9])
@pytest.mark.parametrize("stored", ["dense", "sparse"])
def test_blocks_change_nothing(values, width, stored, monkeypatch):
    monkeypatch.setattr("cantata._numeric.feature_statistics.BLOCK_ENTRIES", 150 * width)
    monkeypatch.setattr("cantata.tl._links._correlation._block_width", lambda *_: width)
    matrix = np.maximum(values, 0)
    held = sparse.csr_matrix(matrix) if stored == "sparse" else matrix
    columns = FeatureMatrix(held, np.arange(150), np.arange(25), names=range(25), where="x")
    degree, labels = correlated_groups(columns, 0.6)
    groups, expected, _ = naive(matrix, 0.6)
    assert degree.tolist() == expected.tolist()
    found = pd.Series(range(25)).groupby(labels).apply(list)
    assert sorted(found) == sorted(groups)


def test_counts_are_normalised():
    """Sizes of cells alone would make all features correlate."""
    rng = np.random.default_rng(1)
    size = 20 + rng.gamma(2, 50, 300)[:, None]
    counts = rng.poisson(np.repeat(size, 8, axis=1)).astype(np.float32)
    rna = AnnData(sparse.csr_matrix(counts))
    rna.layers["log"] = sparse.csr_matrix(np.log1p(counts))
    mdata = mosaic({"rna": rna})
    assert group_features(mdata, "rna")["group"].nunique() == 8
    assert group_features(mdata, "rna", layer="log")["group"].nunique() == 1


def test_chosen_features_in_their_order(mdata):
    names = ["f9", "f2", "f7"]
    table = group_features(mdata, "image", names)
    assert table["feature"].tolist() == names
    whole = mdata["image"].to_df()
    expected = np.corrcoef(whole["f9"], whole["f2"])[0, 1] > 0.7
    assert (table["degree"] == [int(expected), int(expected), 0]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"modality": "rna"}, KeyError, "modality='rna' is no modality"),
        ({"modality": "other", "layer": "x"}, KeyError, "layer='x'"),
        ({"threshold": 1.5}, ValueError, "threshold=1.5 must be within"),
        ({"features": 1}, TypeError, "features=1: give a list of names"),
        ({"features": []}, ValueError, "features is empty; name at least one"),
        ({"features": ["f1", "f2", "f1"]}, ValueError, "'f1' occurs twice"),
        ({"features": ["f1", "CD4"]}, KeyError, "1 of 2 are no features of 'image', e.g. 'CD4'"),
    ],
)
def test_bad_input_is_named(mdata, arguments, error, message):
    with pytest.raises(error, match=message):
        group_features(mdata, **{"modality": "image", **arguments})


def test_values_that_are_missing(mdata):
    mdata["image"].X[4, 6] = np.nan
    with pytest.raises(ValueError, match=r"in 1 of 25 features, e\.g\. 'f6'"):
        group_features(mdata, "image")
