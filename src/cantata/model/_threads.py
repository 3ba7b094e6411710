"""How many threads a step of a model profits from."""

from __future__ import annotations

import inspect
import os
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from joblib import cpu_count
from scvi import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Method = TypeVar("Method", bound="Callable[..., Any]")
WORK_PER_THREAD = 2e8
"""Multiplications of a forward pass that are worth a thread: about 20 ms of a training step."""


def step_work(parameters: Iterable[torch.Tensor], n_cells: int, side: int = 1) -> int:
    """Multiplications of a forward pass of a minibatch, in which each weight meets each cell.

    Those of convolutions meet every pixel of images of `side` pixels.

    Examples
    --------
    >>> step_work(torch.nn.Linear(1_000, 50).parameters(), 128)
    6400000
    """
    weights = [p for p in parameters if p.ndim > 1]
    return n_cells * sum(p.numel() * (side**2 if p.ndim == 4 else 1) for p in weights)


def n_threads(work: float) -> int:
    """Threads for steps of so many multiplications, of those that torch has.

    Threads that wait for each other spin: on a quiet machine a second one gains a quarter, where
    another process takes its core it costs a multiple. So half of the cores are left alone, and
    small steps get one thread. The rule knows sizes and cores but neither time nor load, and
    results can be reproduced. What a user has set holds: ``scvi.settings.num_threads``,
    :func:`torch.set_num_threads`, ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS``.
    """
    threads = torch.get_num_threads()
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if limit.isdigit() and int(limit):
        return min(threads, int(limit))  # numba and Leiden are known to undo it
    cores = cpu_count(only_physical_cores=True)
    is_default = threads in (cores, cpu_count(), os.cpu_count())
    if not is_default or settings.num_threads is not None or os.environ.get("MKL_NUM_THREADS"):
        return threads
    return max(1, min(threads, cores // 2, int(work // WORK_PER_THREAD)))


@contextmanager
def threads_for(work: float) -> Iterator[None]:
    """Inside, torch has the threads of :func:`n_threads`; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads(work))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_threads_for_steps(method: Method) -> Method:
    """Decorator of methods of a model: torch has the threads that its minibatches profit from."""
    signature = inspect.signature(method)

    @wraps(method)
    def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        n_cells = given.arguments.get("batch_size")
        with threads_for(self._step_work(n_cells or settings.batch_size)):
            return method(self, *args, **kwargs)

    return limited  # type: ignore[return-value]
