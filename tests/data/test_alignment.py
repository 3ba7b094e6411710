"""Minibatches line up: each cell's own id is written into the data of every modality."""

from __future__ import annotations

from typing import Any

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mosaics import counts_mosaic, mosaic
from scipy import sparse
from scvi.data.fields import MuDataLayerField

from cantata import CLUE
from cantata.data import MosaicCategoricalField, MosaicDataset, MosaicLoader, MosaicManager
from cantata.data._loader import EpochBatchSampler


def id_mosaic(member: np.ndarray, seed: int, formats: list[str]) -> mudata.MuData:
    """Modality k holds ``cell id * 10 + k`` in every feature, rows in an order of their own."""
    rng = np.random.default_rng(seed)
    parts = {}
    for k, fmt in enumerate(formats):
        rows = rng.permutation(np.flatnonzero(member[:, k]))
        values = np.repeat((rows * 10.0 + k + 1)[:, None], k + 2, axis=1)
        x = {
            "csr": sparse.csr_matrix,
            "csc": sparse.csc_matrix,
            "csr_array": sparse.csr_array,
            "dense": np.asarray,
            "integer": lambda v: sparse.csr_matrix(v.astype(np.int64)),
        }[fmt](values)
        parts[f"m{k}"] = AnnData(x, obs=pd.DataFrame(index=[f"cell{i}" for i in rows]))
        parts[f"m{k}"].obs["batch"] = [f"b{i % 3}" for i in rows]
        parts[f"m{k}"].var_names = [f"feature{j}" for j in range(k + 2)]
    return mosaic(parts)


def registered(mdata: mudata.MuData) -> MosaicManager:
    fields = [
        MuDataLayerField(m, None, mod_key=m, is_count_data=False, correct_data_format=False)
        for m in mdata.mod
    ]
    fields.append(MosaicCategoricalField("batch", "batch", list(mdata.mod), "batch_key"))
    manager = MosaicManager(fields)
    manager.register_fields(mdata)
    return manager


def assert_lined_up(mdata: mudata.MuData, minibatch: dict) -> None:
    ids = np.array([int(name[4:]) for name in mdata.obs_names])[minibatch["cell"].numpy()]
    assert (minibatch["batch"].numpy() == ids % 3).all()
    for k, name in enumerate(mdata.mod):
        rows = minibatch[f"{name}_rows"].numpy()
        has = np.isin(mdata.obs_names[minibatch["cell"].numpy()], mdata[name].obs_names)
        assert rows.tolist() == np.flatnonzero(has).tolist()
        expected = np.repeat((ids[rows] * 10.0 + k + 1)[:, None], k + 2, axis=1)
        np.testing.assert_array_equal(minibatch[name].numpy(), expected)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_mosaics_line_up(data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 5), label="modalities")
    n = data.draw(st.integers(3, 40), label="cells")
    seed = data.draw(st.integers(0, 10_000), label="seed")
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, 2**k, n)
    codes[:k] = 1 << np.arange(k)[: min(k, n)] if n >= k else codes[:k]
    member = (codes[:, None] >> np.arange(k) & 1).astype(bool)
    member[0, ~member.any(axis=0)] = True
    choices = ["csr", "csc", "csr_array", "dense", "integer"]
    formats = [data.draw(st.sampled_from(choices), label="format") for _ in range(k)]
    mdata = id_mosaic(member, seed, formats)
    batch_size = data.draw(st.integers(1, n + 3), label="batch size")
    seen = []
    for minibatch in MosaicLoader(
        registered(mdata), batch_size=batch_size, shuffle=True, seed=seed
    ):
        assert_lined_up(mdata, minibatch)
        seen += minibatch["cell"].tolist()
    assert sorted(seen) == list(range(mdata.n_obs))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_every_pattern_of_up_to_five_modalities(k: int) -> None:
    codes = np.repeat(np.arange(1, 2**k), 2)
    member = (codes[:, None] >> np.arange(k) & 1).astype(bool)
    mdata = id_mosaic(member, 1, ["csr"] * k)
    dataset = registered(mdata).create_torch_dataset()
    assert_lined_up(mdata, dataset[np.arange(len(dataset))])
    assert_lined_up(mdata, dataset[::-1])
    assert_lined_up(mdata, dataset[0])


@pytest.mark.parametrize("fmt", ["csr", "csc", "dense"])
def test_backed_file_lines_up(tmp_path, fmt: str) -> None:
    member = np.ones((30, 2), dtype=bool)
    member[:10, 0] = False
    member[20:, 1] = False
    mdata = id_mosaic(member, 3, [fmt, "csr"])
    mdata.write_h5mu(tmp_path / "x.h5mu")
    backed = mudata.read_h5mu(tmp_path / "x.h5mu", backed="r")
    assert backed["m0"].isbacked
    rng = np.random.default_rng(0)
    dataset = registered(backed).create_torch_dataset()
    for _ in range(5):
        assert_lined_up(backed, dataset[rng.permutation(30)[:13]])
    backed.file.close()


def test_dask_and_zarr_line_up(tmp_path) -> None:
    dask_array = pytest.importorskip("dask.array")
    member = np.ones((20, 2), dtype=bool)
    member[:5, 0] = False
    mdata = id_mosaic(member, 4, ["dense", "dense"])
    import zarr

    store = zarr.open_group(str(tmp_path / "x.zarr"), mode="w")
    store.create_array("x", data=np.asarray(mdata["m1"].X))
    parts = {name: mdata[name].copy() for name in mdata.mod}
    parts["m0"].X = dask_array.from_array(np.asarray(mdata["m0"].X), chunks=(4, -1))
    parts["m1"] = AnnData(store["x"], obs=mdata["m1"].obs, var=mdata["m1"].var)
    lazy = mosaic(parts)
    dataset = registered(lazy).create_torch_dataset()
    assert_lined_up(lazy, dataset[np.random.default_rng(0).permutation(20)])


def test_minibatch_without_rows_of_a_modality() -> None:
    member = np.ones((8, 2), dtype=bool)
    member[:4, 1] = False
    mdata = id_mosaic(member, 0, ["csr", "csr"])
    dataset = registered(mdata).create_torch_dataset()
    without = np.flatnonzero(~np.isin(mdata.obs_names, mdata["m1"].obs_names))
    minibatch = dataset[without]
    assert minibatch["m1"].shape == (0, 3)
    assert minibatch["m1_rows"].shape == (0,)
    assert_lined_up(mdata, minibatch)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_sparse_minibatches_line_up(num_workers: int) -> None:
    formats = ["csr", "csc", "csr_array", "dense", "integer"]
    member = np.random.default_rng(0).random((60, 5)) < 0.7
    member[:, 0] = True
    mdata = id_mosaic(member, 0, formats)
    manager = registered(mdata)
    options = {"batch_size": 7, "shuffle": True, "seed": 3, "num_workers": num_workers}
    for minibatch in MosaicLoader(manager, load_sparse_tensor=True, **options):
        for k, fmt in enumerate(formats):
            is_sparse = minibatch[f"m{k}"].layout == torch.sparse_csr
            assert is_sparse == (fmt != "dense")
        assert_lined_up(mdata, {key: x.to_dense() for key, x in minibatch.items()})


def test_num_workers_change_nothing() -> None:
    member = np.ones((40, 2), dtype=bool)
    member[:15, 1] = False
    manager = registered(id_mosaic(member, 0, ["csr", "dense"]))
    batches = [
        list(MosaicLoader(manager, batch_size=7, shuffle=True, seed=3, num_workers=workers))
        for workers in (0, 2)
    ]
    for one, two in zip(*batches, strict=True):
        for key in one:
            assert one[key].equal(two[key])


def test_epochs_differ_and_repeat() -> None:
    manager = registered(id_mosaic(np.ones((40, 1), dtype=bool), 0, ["csr"]))
    loader = MosaicLoader(manager, batch_size=40, shuffle=True, seed=3)
    sampler: Any = loader.sampler
    orders = {}
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        order = next(iter(loader))["cell"].tolist()
        assert orders.setdefault(epoch, order) == order
    assert orders[0] != orders[1]


def test_input_is_not_modified() -> None:
    member = np.ones((20, 2), dtype=bool)
    member[:5, 0] = False
    mdata = id_mosaic(member, 0, ["csc", "csr"])
    before = {m: mdata[m].copy() for m in mdata.mod}
    columns = list(mdata.obs.columns)
    dataset = registered(mdata).create_torch_dataset()
    _ = dataset[[0, 1]]
    assert list(mdata.obs.columns) == columns
    for name, adata in before.items():
        assert list(mdata[name].obs.columns) == list(adata.obs.columns)
        assert type(mdata[name].X) is type(adata.X)
        assert (mdata[name].X != adata.X).nnz == 0
    assert isinstance(before["m0"], anndata.AnnData)


def test_a_loader_has_the_order_of_the_data_unless_it_shuffles() -> None:
    scvi.settings.seed = 0
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    manager = CLUE(mdata).adata_manager

    def order(loader: MosaicLoader) -> list[int]:
        return torch.cat([minibatch["cell"] for minibatch in loader]).tolist()

    plain = MosaicLoader(manager, [5, 3, 8])
    assert isinstance(plain.sampler, EpochBatchSampler)
    plain.sampler.set_epoch(1)
    assert order(plain) == [5, 3, 8]
    shuffled = MosaicLoader(manager, shuffle=True)
    assert order(shuffled) == np.random.default_rng((0, 0)).permutation(60).tolist()
    assert isinstance(shuffled.sampler, EpochBatchSampler)
    shuffled.sampler.set_epoch(1)
    assert order(shuffled) == np.random.default_rng((0, 1)).permutation(60).tolist()
    shuffled.sampler.is_fixed = True
    shuffled.sampler.set_epoch(2)
    assert order(shuffled) == np.random.default_rng((0, 1)).permutation(60).tolist()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        MosaicLoader(manager, batch_size=0)
    with pytest.raises(TypeError, match=r"batch_size must be an integer, got 2\.5"):
        MosaicLoader(manager, batch_size=2.5)
    assert len(MosaicLoader(manager, batch_size=1)) == 60
    assert len(MosaicLoader(manager, batch_size=50)) == 2
    masked = manager.create_torch_dataset(np.arange(60) % 20 == 7)
    assert [int(masked[i]["cell"]) for i in range(len(masked))] == [7, 27, 47]


def test_modalities_that_are_left_out_are_absent() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    manager = CLUE(mdata).adata_manager
    whole, part = MosaicDataset(manager), MosaicDataset(manager)
    part.leave_out(["adt"])
    cells = np.arange(mdata.n_obs)[::-1]
    expected, found = whole[cells], part[cells]
    assert list(found) == list(expected)
    assert found["adt"].shape == (0, mdata["adt"].n_vars)
    assert len(found["adt_rows"]) == 0
    for key in ("rna", "rna_rows", "cell"):
        assert torch.equal(found[key], expected[key])
