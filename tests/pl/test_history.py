from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from cantata import pl
from cantata.pl._history import group_terms


def _frame(name, values):
    index = pd.RangeIndex(len(values), name="epoch")
    return pd.DataFrame({name: values}, index=index)


@pytest.fixture
def record():
    values = {
        "train_loss_step": [9.0],
        "train_loss_epoch": [3.0, 2.0, 1.0],
        "validation_loss": [3.5, 2.5, 1.5],
        "elbo_train": [5.0, 4.0, 3.0],
        "elbo_validation": [6.0, 5.0, 4.0],
        "kl_weight": [0.0, 0.5, 1.0],
        "empty_train": [np.nan] * 3,
    }
    return {name: _frame(name, v).astype(object) for name, v in values.items()}


def test_terms_and_parts(record):
    found = group_terms(record)
    assert {term: list(parts) for term, parts in found.items()} == {
        "loss": ["train", "validation"],
        "elbo": ["train", "validation"],
        "kl_weight": [""],
    }
    assert found["loss"]["validation"].tolist() == [3.5, 2.5, 1.5]


@pytest.mark.parametrize("of_model", [True, False])
def test_one_panel_per_term(record, of_model):
    axes = pl.history(SimpleNamespace(history=record) if of_model else record)
    assert [ax.get_title() for ax in axes] == ["loss", "elbo", "kl_weight"]
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes[1].get_lines()}
    assert lines == {"train": [5.0, 4.0, 3.0], "validation": [6.0, 5.0, 4.0]}
    assert sum(ax.get_legend() is not None for ax in axes) == 1


def test_chosen_terms_and_given_axes(record):
    _, given = plt.subplots(1, 2)
    axes = pl.history(record, ["elbo", "loss"], axes=given)
    assert axes == list(given)
    assert [ax.get_title() for ax in axes] == ["elbo", "loss"]


def test_first_epochs_do_not_flatten_the_rest():
    values = np.concatenate([[1e6, 1e5], np.linspace(2, 1, 48)])
    (ax,) = pl.history({"loss_train": _frame("loss_train", values)})
    low, high = ax.get_ylim()
    assert high < 3
    assert low < 1
    (ax,) = pl.history({"loss_train": _frame("loss_train", np.linspace(2, 1, 50))})
    assert ax.get_ylim()[1] >= 2


def test_validation_at_other_epochs():
    sparse = pd.DataFrame({"loss": [2.0, 1.0]}, index=[4, 9])
    (ax,) = pl.history({"loss_train": _frame("loss", np.ones(10)), "loss_validation": sparse})
    assert [line.get_xdata().tolist() for line in ax.get_lines()][1] == [4, 9]


def test_errors(record):
    with pytest.raises(TypeError, match="has not been trained"):
        pl.history(SimpleNamespace(history=None))
    with pytest.raises(TypeError, match="has no history"):
        pl.history(3)
    with pytest.raises(ValueError, match="train_loss_step"):
        pl.history({"train_loss_step": record["train_loss_step"]})
    with pytest.raises(KeyError, match="accuracy"):
        pl.history(record, ["accuracy"])
