"""Blockwise likelihoods of counts beside loops, distributions and numeric derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softplus

from cantata.losses import (
    OutputLayer,
    SparseValues,
    _sparse_values,
    bernoulli_terms,
    linear_log_prob,
    negative_binomial_terms,
    poisson_terms,
    zero_inflated_terms,
)

N, P, D = 5, 7, 3
TERMS = {
    "poisson": (poisson_terms, 0),
    "nb": (negative_binomial_terms, 1),
    "zinb": (zero_inflated_terms, 2),
    "bernoulli": (bernoulli_terms, 0),
}
MEASURED = torch.tensor([[True] * P, [True] * 4 + [False] * 3, [False] + [True] * (P - 1)])


@pytest.fixture(params=[3, 10**6], ids=["blocks", "one block"])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Columns of a block."""

    def blocks(self: SparseValues):
        for start in range(0, P, request.param):
            stop = min(start + request.param, P)
            inside = (self.column >= start) & (self.column < stop)
            row, column, value = (x[inside] for x in self[:3])
            column = column - start
            index = row * (stop - start) + column
            yield _sparse_values.Block(slice(start, stop), index, row, column, value)

    monkeypatch.setattr(SparseValues, "blocks", blocks)
    return request.param


def inputs(n_batch: int, n_tables: int) -> list[torch.Tensor]:
    """Hidden layer, weight, bias, scale, shift, library, tables: double, with gradients."""
    torch.manual_seed(0)
    shapes = [(N, D), (P, D), (P,), (n_batch, P), (n_batch, P), (N,)]
    tensors = [torch.randn(shape, dtype=torch.double) for shape in shapes]
    tensors[3], tensors[5] = softplus(tensors[3]), 20 * tensors[5].abs() + 5
    tensors += [torch.randn(n_batch, P, dtype=torch.double) for _ in range(n_tables)]
    return [x.requires_grad_() for x in tensors]


def some_counts(batch: torch.Tensor, measured: torch.Tensor | None) -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.poisson(torch.full((N, P), 0.8, dtype=torch.double))
    x[1] = 0
    return x if measured is None else x * measured[batch]


def loop(name: str, x, batch, measured, counted, tensors) -> torch.Tensor:
    """Log-probabilities cell by cell and feature by feature, without lgamma."""
    hidden, weight, bias, scale, shift, library, *tables = tensors
    rows = []
    for i in range(N):
        b = int(batch[i])
        seen = [j for j in range(P) if measured is None or measured[b, j]]
        y = {j: scale[b, j] * (weight[j] @ hidden[i] + bias[j]) + shift[b, j] for j in seen}
        if name == "bernoulli":
            rows.append(sum(-softplus(-y[j]) if x[i, j] > 0 else -softplus(y[j]) for j in seen))
            continue
        total = sum(y[j].exp() for j in seen if counted is None or counted[j])
        terms = []
        for j in seen:
            mu, k = library[i] * y[j].exp() / total, x[i, j]
            if name == "poisson":
                terms.append(k * mu.log() - mu)
                continue
            theta = tables[0][b, j].exp()
            own = theta * torch.log(theta / (theta + mu)) + k * torch.log(mu / (theta + mu))
            own = own + k * tables[0][b, j]
            if name == "zinb":
                lost = torch.sigmoid(tables[1][b, j])
                kept = torch.log(1 - lost) + own
                own = torch.log(lost + kept.exp()) if k == 0 else kept
            terms.append(own)
        rows.append(sum(terms))
    return torch.stack(rows)


@pytest.mark.parametrize("panel", [False, True], ids=["all", "panel"])
@pytest.mark.parametrize("n_batch", [1, 3])
@pytest.mark.parametrize("name", TERMS)
def test_beside_loops_and_numeric_derivatives(
    name: str, n_batch: int, panel: bool, width: int
) -> None:
    terms, n_tables = TERMS[name]
    tensors = inputs(n_batch, n_tables)
    batch = torch.arange(N) % n_batch
    measured = MEASURED[-n_batch:] if panel else None
    counted = measured.all(dim=0) if measured is not None else None
    x = some_counts(batch, measured)

    def found(*tensors: torch.Tensor) -> torch.Tensor:
        hidden, weight, bias, scale, shift, library, *tables = tensors
        layer = OutputLayer(weight, bias, scale, shift, measured, counted)
        sizes = None if name == "bernoulli" else library
        return linear_log_prob(terms, hidden, layer, batch, sizes, SparseValues.of(x), *tables)

    used = tensors if name != "bernoulli" else tensors[:5]
    expected = loop(name, x, batch, measured, counted, tensors)
    torch.testing.assert_close(found(*tensors), expected)
    with torch.no_grad():
        torch.testing.assert_close(found(*tensors), expected)
    weight = torch.linspace(-1, 2, N, dtype=torch.double)
    ours, theirs = (
        torch.autograd.grad(value, used, weight, materialize_grads=True)
        for value in (found(*tensors), expected)
    )
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)
    if name == "bernoulli":
        tensors[5].requires_grad_(False)
    assert torch.autograd.gradcheck(found, tensors)


@pytest.mark.parametrize("name", TERMS)
def test_single_precision_is_within_1e_5(name: str) -> None:
    """Of a wide layer, with many blocks, beside double precision."""
    terms, n_tables = TERMS[name]
    torch.manual_seed(0)
    n, p = 64, 20_000
    x = torch.poisson(torch.rand(n, p) * 0.05)
    tensors = [torch.randn(n, 8), torch.randn(p, 8) / 4, torch.randn(p)]
    tensors += [torch.rand(1, p) + 0.5, torch.randn(1, p)]
    tensors += [torch.randn(1, p) for _ in range(n_tables)]
    results = []
    for dtype in (torch.float32, torch.double):
        hidden, weight, bias, scale, shift, *tables = own = [
            v.to(dtype).requires_grad_() for v in tensors
        ]
        library = None if name == "bernoulli" else x.sum(dim=1).to(dtype)
        value = linear_log_prob(
            terms,
            hidden,
            OutputLayer(weight, bias, scale, shift),
            torch.zeros(n, dtype=torch.long),
            library,
            SparseValues.of(x.to(dtype)),
            *tables,
        )
        results.append([value.detach(), *torch.autograd.grad(value.sum(), own)])
    assert len(list(SparseValues.of(x).blocks())) > 2
    for single, double in zip(*results, strict=True):
        assert single.dtype == torch.float32
        assert float((single - double).norm() / double.norm()) < 1e-5


def test_a_feature_that_library_sizes_barely_count() -> None:
    """Where almost nothing is counted, sizes are not scaled up without bounds."""
    zeros = torch.zeros(2, dtype=torch.double)
    bias = torch.tensor([-40.0, 0.0], dtype=torch.double, requires_grad=True)
    layer = OutputLayer(
        zeros.unsqueeze(1),
        bias,
        torch.ones(1, 2, dtype=torch.double),
        zeros.unsqueeze(0),
        counted=torch.tensor([True, False]),
    )
    counts = SparseValues.of(zeros.unsqueeze(0))
    hidden, batch = zeros[:1].unsqueeze(1), torch.tensor([0])

    def minus_total(bias: torch.Tensor) -> torch.Tensor:
        own = OutputLayer(layer.weight, bias, layer.scale, layer.shift, None, layer.counted)
        return linear_log_prob(poisson_terms, hidden, own, batch, zeros[:1] + 3, counts)

    # the share that is counted is taken for a millionth
    assert float(minus_total(bias).detach()) == pytest.approx(-3e6, rel=1e-9)
    assert torch.autograd.gradcheck(minus_total, bias)


def test_rows_of_sparse_values_may_repeat() -> None:
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(6, 9))
    for values in (x, x.to_sparse_csr()):
        sparse = SparseValues.of(values)
        rows = torch.tensor([4, 0, 0, 5, 4, 1])
        taken = sparse.taken(rows)
        assert torch.equal(taken.dense(), x[rows])
        assert bool((taken.column.diff() >= 0).all())
        assert torch.equal(sparse.sum_rows(sparse.value), x.sum(dim=1))
    assert sparse.taken(rows[:0]).dense().shape == (0, 9)


def test_blocks_hold_all_values_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_sparse_values.BLOCK_ENTRIES, "cpu", 1)
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(4, 50))
    whole = torch.zeros_like(x)
    for columns, index, row, column, value in SparseValues.of(x).blocks():
        block = torch.zeros_like(x[:, columns])
        block.view(-1)[index] = value
        assert torch.equal(block[row, column], value)
        whole[:, columns] += block
    assert torch.equal(whole, x)
    assert math.ceil(50 / 16) == len(list(SparseValues.of(x).blocks()))
