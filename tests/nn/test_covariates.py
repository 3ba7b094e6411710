"""Covariates of a minibatch, and their effects beside a one-hot product."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cantata._keys import BATCH, CATEGORICAL, CELL, CONTINUOUS
from cantata.nn import CovariateEffects, Covariates

TENSORS = {
    CELL: torch.tensor([5, 2, 9]),
    BATCH: torch.tensor([1, 0, 1]),
    CATEGORICAL: torch.tensor([[2], [0], [-1]]),
    CONTINUOUS: torch.tensor([[0.5], [1.5], [2.5]]),
}


def test_the_batch_is_the_first_column() -> None:
    covariates = Covariates.of(TENSORS)
    assert covariates.codes.tolist() == [[1, 2], [0, 0], [1, -1]]
    assert torch.equal(covariates.values, TENSORS[CONTINUOUS])
    assert covariates.batch.tolist() == [1, 0, 1]
    assert covariates.without_batch().codes.tolist() == [[2], [0], [-1]]
    assert covariates.zeros().codes.tolist() == [[0, 0]] * 3
    assert covariates.zeros().values.tolist() == [[0.0]] * 3


def test_without_registered_batches() -> None:
    bare = {CELL: TENSORS[CELL]}
    assert Covariates.of(bare).codes.tolist() == [[0], [0], [0]]
    assert Covariates.of(bare).codes.dtype == torch.long
    assert Covariates.of(bare).values is None
    nothing = Covariates.of(bare, default_batch=False)
    assert nothing.codes is None
    assert nothing.rows(slice(2)).codes is None
    with pytest.raises(ValueError, match="no column for the batch"):
        nothing.with_batch(0)
    others = {key: value for key, value in TENSORS.items() if key != BATCH}
    assert Covariates.of(others, default_batch=False).codes.tolist() == [[2], [0], [-1]]


def test_rows_and_another_batch() -> None:
    covariates = Covariates.of(TENSORS)
    some = covariates.rows(torch.tensor([2, 0]))
    assert some.codes.tolist() == [[1, -1], [1, 2]]
    assert some.values.tolist() == [[2.5], [0.5]]
    assert covariates.with_batch(3).codes.tolist() == [[3, 2], [3, 0], [3, -1]]
    assert covariates.with_batch(torch.tensor([4, 5, 6])).batch.tolist() == [4, 5, 6]
    assert covariates.batch.tolist() == [1, 0, 1]


def test_effects_are_a_one_hot_product() -> None:
    layer = CovariateEffects([3, 2], 1, 4, fan_in=5)
    codes, values = torch.tensor([[0, 1], [2, 0]]), torch.randn(2, 1)
    one_hot = torch.cat(
        [nn.functional.one_hot(codes[:, 0], 3), nn.functional.one_hot(codes[:, 1], 2)], dim=1
    ).float()
    weight = torch.cat(list(layer.categorical))
    expected = one_hot @ weight + values @ layer.continuous
    assert torch.allclose(layer(Covariates(codes, values)), expected, atol=1e-6)
    assert CovariateEffects([], 0, 4, fan_in=5)(Covariates(None, None)) == 0.0


@pytest.mark.parametrize("code", [-1, 3, 7])
def test_unknown_categories_are_the_mean_of_the_known(code: int) -> None:
    layer = CovariateEffects([3], 0, 4, fan_in=2)
    effect = layer(Covariates(torch.tensor([[code]]), None))[0]
    torch.testing.assert_close(effect, layer.categorical[0].mean(dim=0))


def test_a_category_teaches_the_others_nothing() -> None:
    layer = CovariateEffects([3], 0, 4, fan_in=2)
    layer(Covariates(torch.tensor([[0], [0]]), None)).sum().backward()
    assert (layer.categorical[0].grad[0] == 2).all()
    assert (layer.categorical[0].grad[1:] == 0).all()
