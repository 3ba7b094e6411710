"""New data are lined up with what a model was set up with."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse

from cantata._mudata.values import layer_names
from cantata.data import align_query, without_cells

GENES = {"rna": np.array([f"g{i}" for i in range(6)])}


def stored(values: np.ndarray, fmt: str, folder: Any) -> Any:
    """Values in a format of AnnData."""
    if fmt == "dask":
        return pytest.importorskip("dask.array").from_array(values, chunks=(2, -1))
    if fmt == "zarr":
        import zarr

        return zarr.open_group(str(folder / "x.zarr"), mode="w").create_array("x", data=values)
    return {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[fmt](values)


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("fmt", ["dense", "csr", "csc", "dask", "zarr"])
@pytest.mark.parametrize("absent", [[], [2]])
def test_features_are_found_by_name(absent: list[int], fmt: str, layer: str, tmp_path) -> None:
    values = np.random.default_rng(0).poisson(2.0, (4, 7)).astype(np.float32)
    # the last is unknown to the model
    order = [j for j in (3, 6, 1, 0, 5, 4, 2) if j not in absent]
    x, var = stored(values[:, order], fmt, tmp_path), pd.DataFrame(index=[f"g{j}" for j in order])
    mdata = mosaic({"rna": AnnData(var=var, layers={layer: x}) if layer else AnnData(x, var=var)})
    with pytest.warns(UserWarning, match="1 of the model's 6") if absent else nullcontext():
        aligned = align_query(mdata, GENES, {"rna": layer}, {})["rna"]
    found = aligned.layers[layer] if layer else aligned.X
    assert aligned.var_names.tolist() == GENES["rna"].tolist()
    assert sparse.issparse(found) == (fmt in ("csr", "csc"))
    values[:, absent] = 0
    np.testing.assert_array_equal(
        found.toarray() if sparse.issparse(found) else found, values[:, :6]
    )


def test_representations_are_dense_and_of_the_width_of_the_model() -> None:
    values = np.random.default_rng(0).poisson(1.0, (4, 6)).astype(np.float64)
    adata = AnnData(values, var=pd.DataFrame(index=GENES["rna"]))
    adata.obsm["X_pca"] = sparse.csr_matrix(values[:, :3])
    mdata = mosaic({"rna": adata})
    found = align_query(mdata, GENES, {}, {"rna": ("X_pca", 3)})["rna"].obsm["X_pca"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values[:, :3])
    with pytest.raises(ValueError, match="has 3 columns, the model's 4"):
        align_query(mdata, GENES, {}, {"rna": ("X_pca", 4)})
    with pytest.raises(KeyError, match=r"lacks \.obsm\['X_lsi'\]"):
        align_query(mdata, GENES, {}, {"rna": ("X_lsi", 3)})


def test_modalities_that_a_query_lacks_are_there_without_a_cell() -> None:
    mdata = mosaic({"rna": AnnData(np.ones((4, 6)), var=pd.DataFrame(index=GENES["rna"]))})
    names = GENES | {"adt": np.array(["p0", "p1"])}
    aligned = align_query(mdata, names, {}, {"adt": ("X_pca", 2)})
    assert aligned["adt"].shape == (0, 2)
    assert aligned["adt"].obsm["X_pca"].shape == (0, 2)
    assert aligned.obs_names.equals(mdata.obs_names)
    empty = without_cells(names, {"adt": "counts"}, {}, ["batch"])
    assert [(empty[m].shape, layer_names(empty[m])) for m in names] == [
        ((0, 6), []),
        ((0, 2), ["counts"]),
    ]
    assert list(empty.obs) == ["batch"]
    with pytest.raises(KeyError, match=r"holds the modalities \['rna'\]"):
        align_query(mdata, {"adt": names["adt"]}, {}, {})
