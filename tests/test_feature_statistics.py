from __future__ import annotations

from itertools import product

import h5py
import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse, stats

from cantata._numeric.feature_statistics import FeatureMatrix, group_moments, q_values


def columns(values, statistic="pearson", name="values") -> FeatureMatrix:
    n_cells, n_features = values.shape
    names = [f"f{i}" for i in range(n_features)]
    options = {"names": names, "where": name, "statistic": statistic}
    return FeatureMatrix(values, np.arange(n_cells), np.arange(n_features), **options)


def data(n_cells=60, seed=0):
    """Counts with many zeros, two features constant, and groups."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(n_cells) % 3)
    values = rng.poisson(0.3 + 0.4 * codes[:, None], size=(n_cells, 7)).astype(np.float64)
    values[:, 5], values[:, 6] = 0, 2
    return values, codes


FORMATS = {"dense": lambda a: a, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_ranks_of_values_on_both_sides_of_zero(kind):
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(40, 6)) * 2)
    values[:, 4] = np.abs(values[:, 4]) + 1  # no zero
    values[:, 5] = 0
    ranks = columns(FORMATS[kind](values), "spearman").dense(slice(0, 6))
    expected = stats.rankdata(values, axis=0)
    np.testing.assert_allclose(
        ranks - ranks.mean(axis=0), expected - expected.mean(axis=0), atol=1e-12
    )


def test_ranks_of_a_sparse_matrix_are_as_sparse_and_leave_it_alone():
    y, _ = data()
    matrix = sparse.csr_matrix(y)
    matrix.data[:3] = 0  # stored zeros are zeros
    before = matrix.copy()
    ranked = columns(matrix, "spearman")
    assert ranked.is_sparse
    assert ranked.block(slice(0, 7)).nnz == matrix.count_nonzero()
    assert (matrix != before).nnz == 0
    assert matrix.nnz == before.nnz


def stored(kind, values, folder):
    """The values in a file, or in chunks."""
    if kind == "dask":
        da = pytest.importorskip("dask.array")
        return da.from_array(values, chunks=(7, values.shape[1]))
    if kind == "hdf5":
        with h5py.File(folder / "x.h5", "w") as file:
            file["x"] = values
        return h5py.File(folder / "x.h5")["x"]
    AnnData(sparse.csr_matrix(values)).write_h5ad(folder / "x.h5ad")
    return read_h5ad(folder / "x.h5ad", backed="r").X


@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
@pytest.mark.parametrize("kind", ["dask", "hdf5", "backed"])
def test_chosen_rows_and_columns_of_any_matrix(kind, statistic, tmp_path, monkeypatch):
    monkeypatch.setattr("cantata._mudata.values.iter_blocks.__defaults__", (11,))
    y, _ = data()
    rng = np.random.default_rng(1)
    rows, chosen = rng.permutation(60)[:40], np.array([3, 0, 6])
    options = {"names": list("abc"), "where": "x", "statistic": statistic}
    expected = FeatureMatrix(y, rows, chosen, **options).dense(slice(0, 3))
    for matrix in (stored(kind, y, tmp_path), sparse.csr_matrix(y), sparse.csc_matrix(y)):
        found = FeatureMatrix(matrix, rows, chosen, **options).dense(slice(0, 3))
        shift = found - expected
        np.testing.assert_allclose(shift, np.broadcast_to(shift[:1], shift.shape), atol=1e-6)
        if statistic == "pearson":
            np.testing.assert_array_equal(found, y[np.ix_(rows, chosen)])


@pytest.mark.parametrize("kind", ["dense", "csc"])
def test_moments_equal_a_loop(kind):
    y, codes = data()
    moments = group_moments(columns(FORMATS[kind](y)), codes)
    for code, j in product(range(3), range(7)):
        values = y[codes == code, j]
        assert moments.sizes[code] == len(values)
        assert moments.means[code, j] == pytest.approx(values.mean())
        centred = values - values.mean()
        assert moments.squares[code, j] == pytest.approx((centred**2).sum(), abs=1e-12)
        assert moments.cubes[code, j] == pytest.approx((centred**3).sum(), abs=1e-11)
    np.testing.assert_allclose(moments.mean, y.mean(axis=0))
    np.testing.assert_allclose(moments.variation, y.var(axis=0) * len(y), atol=1e-12)


@pytest.mark.parametrize("kind", ["dense", "csc"])
def test_constant_features_do_not_vary(kind):
    values = np.repeat([[0.1, 1e8 / 3, 0.0, 1 / 3]], 70, axis=0)
    values[:35, 3] *= 2  # constant within the groups
    moments = group_moments(columns(FORMATS[kind](values)), np.repeat([0, 1], 35))
    np.testing.assert_array_equal(moments.variation > 0, [False, False, False, True])
    np.testing.assert_array_equal(moments.squares, 0)
    np.testing.assert_array_equal(moments.cubes, 0)


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_bad_values_are_named(kind):
    y, codes = data()
    y[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"mdata\['atac'\].X holds NaN or infinity.*'f2'"):
        group_moments(columns(FORMATS[kind](y), name="mdata['atac'].X"), codes)


def test_q_values():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.9])
    q = q_values(p)
    known = [0, 2, 3, 4]
    np.testing.assert_allclose(q[known], stats.false_discovery_control(p[known]))
    assert np.isnan(q[1])
    # the same as among all, where the others had a p value of 1
    padded = stats.false_discovery_control(np.append(p[known], np.ones(6)))
    np.testing.assert_allclose(q_values(p, 10)[known], padded[:4])
    assert np.isnan(q_values(np.array([np.nan]))).all()
