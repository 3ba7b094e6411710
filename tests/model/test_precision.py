"""Half precision on a processor: a warning where it is slower, before the first epoch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from model_cases import CASES

from cantata import _compat
from cantata.model._plan import kept_random_state, random_state, set_random_state

SLOW = "several times slower here.*no arithmetic of bfloat16.*Leave precision out"


class Stop(Callback):
    """End training before its first step."""

    def on_train_start(self, *_: Any) -> None:
        raise InterruptedError


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_without_its_arithmetic_warns_first(case, monkeypatch, precision) -> None:
    monkeypatch.setattr(_compat, "computes_in_bf16", lambda: False)
    with pytest.warns(UserWarning, match=SLOW), pytest.raises(InterruptedError):
        case.fit(case.data(), precision=precision, callbacks=[Stop()])


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_what_is_not_slower_does_not_warn(monkeypatch, has: bool, precision: str) -> None:
    monkeypatch.setattr(_compat, "computes_in_bf16", lambda: has)
    case = CASES["CLUE"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=SLOW)
        model = case.fit(case.data(), precision=precision)
    assert np.isfinite(model.get_latent_representation()).all()


def test_what_the_processor_says_of_itself() -> None:
    told = Path("/proc/cpuinfo")
    found = _compat.computes_in_bf16()
    assert isinstance(found, bool)
    if told.exists() and "flags" in told.read_text():
        flags = told.read_text()
        assert found == ("avx512_bf16" in flags or "amx_tile" in flags)


def test_random_state_goes_on_where_it_was() -> None:
    state = random_state()
    first = torch.rand(3)
    with kept_random_state():
        torch.manual_seed(7)
        torch.rand(5)
    second = torch.rand(3)
    set_random_state(state | {"cuda": [], "mps": torch.zeros(1)})  # of a machine with more devices
    assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.rand(3), second)
