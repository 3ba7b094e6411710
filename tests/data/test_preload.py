"""Minibatches from the memory of a device are those from the memory of the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scvi
import torch
from model_cases import CASES
from mosaics import counts_mosaic
from scipy import sparse
from second_device import DEVICE, second_device

from cantata import CLUE, datasets
from cantata._mudata.values import MatrixReader
from cantata.data import MosaicLoader, as_tensor
from cantata.data._preload import PreloadedMatrix, Preloader

CPU = torch.device("cpu")
read = PreloadedMatrix.__call__
ROWS = np.array([4, 0, 0, 3, 1])


def matrices() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.7, (5, 7))
    dense[3] = 0  # a row without values
    row, column = dense.nonzero()
    twice = np.concatenate([row, row]), np.concatenate([column, column])
    halves = np.tile(dense[row, column] / 2, 2)
    starts = np.searchsorted(np.sort(twice[0]), np.arange(6))
    order = np.argsort(twice[0], kind="stable")
    return {
        "csr": sparse.csr_matrix(dense),
        "csr_array": sparse.csr_array(dense.astype(np.float32)),
        "duplicates": sparse.csr_matrix((halves[order], twice[1][order], starts), (5, 7)),
        "dense": dense,
        "empty": sparse.csr_matrix((5, 7)),
    }


@pytest.mark.parametrize("keep_sparse", [True, False])
@pytest.mark.parametrize("kind", list(matrices()))
def test_rows_are_those_of_the_host(kind, keep_sparse) -> None:
    matrix = matrices()[kind]
    before = matrix.copy()
    read = MatrixReader(matrix, keep_sparse=keep_sparse)
    rows = PreloadedMatrix(read.in_memory, CPU, keep_sparse)
    for chosen in (ROWS, ROWS[:0]):
        expected, found = as_tensor(read(chosen)), rows(chosen)
        assert (found.layout, found.dtype) == (expected.layout, torch.float32)
        assert found.shape == expected.shape == (len(chosen), 7)
        if found.layout == torch.sparse_csr:
            assert torch.equal(found.col_indices(), expected.col_indices())
            assert torch.equal(found.crow_indices(), expected.crow_indices())
            found, expected = found.to_dense(), expected.to_dense()
        assert torch.equal(found, expected)
    if sparse.issparse(matrix):  # the user's matrix is as it was
        assert np.array_equal(matrix.indices, before.indices)


def test_what_does_not_fit_stays_where_it_is() -> None:
    small, large = MatrixReader(np.ones((4, 2))), MatrixReader(np.ones((4, 5)))
    preloader = Preloader(CPU, n_bytes=64)
    assert preloader.reader(large) is large
    moved = preloader.reader(small)
    assert isinstance(moved, PreloadedMatrix)
    assert preloader.reader(MatrixReader(small.in_memory)) is moved  # each matrix once
    assert preloader.reader(large) is large
    again = MatrixReader(np.ones((4, 2)))
    assert isinstance(preloader.reader(again), PreloadedMatrix)  # 64 bytes in all
    third = MatrixReader(np.ones((4, 2)))
    assert preloader.reader(third) is third
    preloader.release()
    assert preloader.reader(small) is small


def test_nothing_is_moved_off_a_processor() -> None:
    read = MatrixReader(np.ones((4, 2)))
    assert Preloader.on(CPU).reader(read) is read
    assert Preloader.on(torch.device("mps")).reader(read) is read
    absent = MatrixReader(sparse.csr_matrix((0, 3)), keep_sparse=True)  # of a query without it
    assert Preloader.on(torch.device("mps")).reader(absent) is absent
    partly = MatrixReader(np.ones((4, 2)), columns=slice(1))
    assert Preloader(CPU, n_bytes=10**6).reader(partly) is partly


def test_minibatches_are_the_same() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    manager = CLUE(mdata).adata_manager
    expected = MosaicLoader(manager, batch_size=32, load_sparse_tensor=True)
    found = MosaicLoader(manager, np.arange(mdata.n_obs), batch_size=32, load_sparse_tensor=True)
    found.mosaic.preloader = Preloader(CPU, n_bytes=10**8)
    for one, other in zip(expected, found, strict=True):
        assert list(one) == list(other)
        for key, values in one.items():
            assert torch.equal(values.to_dense(), other[key].to_dense())


@pytest.mark.parametrize("n_workers", [0, 1])
def test_training_reads_from_the_device(monkeypatch, n_workers) -> None:
    """On a stand-in for a GPU, whose operators refuse tensors of the host; workers read there."""
    devices = []

    def noted(self: PreloadedMatrix, rows: np.ndarray) -> torch.Tensor:
        found = read(self, rows)
        devices.append(found.device)
        return found

    monkeypatch.setattr(PreloadedMatrix, "__call__", noted)
    monkeypatch.setattr(Preloader, "on", lambda device: Preloader(device, n_bytes=10**8))
    monkeypatch.setattr(scvi.settings, "dl_num_workers", n_workers)
    mdata = datasets.simulate_mosaic(n_cells=200)
    CLUE.setup_mudata(mdata)
    model = CLUE(mdata)
    with second_device(monkeypatch):
        model.train(2, enable_progress_bar=False)
    assert set(devices) == (set() if n_workers else {DEVICE})


@pytest.mark.parametrize("name", ["CLUE", "SCMODAL", "APOLLO"])
def test_nothing_stays_on_the_device(monkeypatch, name) -> None:
    made: list[Preloader] = []

    def on(device: torch.device) -> Preloader:
        made.append(Preloader(device, n_bytes=10**8))
        return made[-1]

    monkeypatch.setattr(Preloader, "on", on)
    moved = []

    def noted(self: PreloadedMatrix, rows: np.ndarray) -> torch.Tensor:
        moved.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(PreloadedMatrix, "__call__", noted)
    case = CASES[name]
    case.fit(case.data())
    assert moved
    assert made
    assert not any(preloader._found for preloader in made)
