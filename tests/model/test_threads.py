"""How many threads models take, and that they give back what they changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from model_cases import CASES

from cantata.model import _threads
from cantata.model._threads import WORK_PER_THREAD, n_threads, step_work, threads_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def machine(monkeypatch) -> Iterator[Any]:
    """Function that sets the cores of the machine, its logical ones and the threads of torch."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    def of(cores: int, logical: int | None = None, threads: int | None = None) -> None:
        logical = logical or cores
        monkeypatch.setattr(
            _threads,
            "cpu_count",
            lambda only_physical_cores=False: (logical, cores)[only_physical_cores],
        )
        monkeypatch.setattr("os.cpu_count", lambda: logical)
        torch.set_num_threads(threads or cores)

    yield of
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "work", "expected"),
    [
        (1, 100, 1),
        (2, 100, 1),
        (8, 0.1, 1),
        (8, 1.9, 1),
        (8, 2, 2),
        (8, 3.5, 3),
        (8, 100, 4),
        (64, 5, 5),
        (64, 1000, 32),
    ],
)
def test_rule(machine, cores: int, work: float, expected: int) -> None:
    machine(cores)
    assert n_threads(work * WORK_PER_THREAD) == expected
    machine(cores, logical=2 * cores, threads=2 * cores)
    assert n_threads(work * WORK_PER_THREAD) == expected


def test_threads_of_a_container_are_not_those_of_its_host(machine, monkeypatch) -> None:
    machine(2)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    torch.set_num_threads(64)
    assert n_threads(100 * WORK_PER_THREAD) == 1


@pytest.mark.parametrize("work", [0, 100 * WORK_PER_THREAD])
def test_what_a_user_sets_holds(machine, monkeypatch, work: float) -> None:
    machine(8)
    torch.set_num_threads(6)
    assert n_threads(work) == 6
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        machine(8)
        monkeypatch.setenv(name, "8")
        assert n_threads(work) == 8
        monkeypatch.delenv(name)
    # numba and Leiden are known to set threads anew
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert n_threads(work) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(scvi.settings, "_num_threads", 8)  # the setter does not take None back
    assert n_threads(work) == 8


def test_work_of_a_step() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(10, 4), torch.nn.Linear(4, 3))
    assert step_work(network.parameters(), 5) == 5 * (40 + 12)
    assert step_work(torch.nn.Conv2d(2, 4, 3).parameters(), 5, side=8) == 5 * 72 * 64


def test_wide_networks_and_large_minibatches_are_more_work(model) -> None:
    work = model._step_work(10)
    assert model._step_work(20) == 2 * work
    weights = sum(p.numel() for p in model.module.parameters() if p.ndim > 1)
    of_cells = sum(t.weight.numel() for t in getattr(model.module, "tables", {}).values())
    assert work == 10 * (weights - of_cells)


class Look(Callback):
    """Note the threads of every step, and fail on request."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.error, self.seen = error, set[int]()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.add(torch.get_num_threads())
        if self.error is not None:
            raise self.error


def test_models_give_threads_back(case, machine) -> None:
    machine(2)
    look = Look()
    model = case.fit(case.data(), callbacks=[look])
    assert look.seen == {1}
    assert torch.get_num_threads() == 2
    seen = []
    decode = model._decode

    def looked(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return decode(*args, **kwargs)

    model._decode = looked
    model.impute("adt", source="rna")
    assert set(seen) == {1}
    model.get_latent_representation()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_threads_are_given_back_after_an_error(machine, error: type[BaseException]) -> None:
    machine(2)
    case, look = CASES["CLUE"], Look(error)
    with pytest.raises((error, SystemExit)):
        case.fit(case.data(), callbacks=[look])
    assert look.seen == {1}
    assert torch.get_num_threads() == 2


def test_threads_that_a_user_set_are_those_of_training(machine) -> None:
    machine(8)
    torch.set_num_threads(2)
    case, look = CASES["CLUE"], Look()
    case.fit(case.data(), callbacks=[look])
    assert look.seen == {2}
    assert torch.get_num_threads() == 2


def test_nothing_stays_changed(machine) -> None:
    machine(2)
    with threads_for(0):
        assert torch.get_num_threads() == 1
        with threads_for(100 * WORK_PER_THREAD):  # one method in another
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
