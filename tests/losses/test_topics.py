"""The likelihood of topics beside loops and numeric derivatives, and what it costs."""

from __future__ import annotations

import pytest
import torch

from cantata.losses import SparseValues, topic_log_prob

N, P, K = 5, 7, 3
MEASURED = torch.tensor([[True] * P, [True] * 4 + [False] * 3])


def inputs(n_batch: int) -> list[torch.Tensor]:
    """Mixtures, logs of topics and factors, library sizes: double, with gradients."""
    torch.manual_seed(0)
    mixture = torch.rand(N, K, dtype=torch.double) + 0.1
    log_topics = (torch.rand(P, K, dtype=torch.double) + 0.1).log()
    log_factor = torch.randn(n_batch, P, dtype=torch.double)
    library = 20 * torch.rand(N, dtype=torch.double) + 5
    return [x.requires_grad_() for x in (mixture, log_topics, log_factor, library)]


def some_counts() -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.poisson(torch.full((N, P), 0.8, dtype=torch.double))
    x[1] = 0
    return x


def loop(x, batch, measured, counted, mixture, log_topics, log_factor, library) -> torch.Tensor:
    """Cell by cell and feature by feature."""
    topics = log_topics.exp()
    rows = []
    for i in range(N):
        b = int(batch[i])
        seen = [j for j in range(P) if measured is None or measured[b, j]]
        share = {
            j: log_factor[b, j].exp() * sum(mixture[i, k] * topics[j, k] for k in range(K))
            for j in seen
        }
        total = sum(share[j] for j in seen if counted is None or counted[j])
        mu = {j: library[i] * share[j] / total for j in seen}
        rows.append(sum(x[i, j] * mu[j].log() - mu[j] for j in seen))
    return torch.stack(rows)


@pytest.mark.parametrize("chunk", [1, 10**6])
@pytest.mark.parametrize("panel", [False, True])
@pytest.mark.parametrize("n_batch", [1, 2])
def test_beside_loops_and_numeric_derivatives(
    n_batch: int, panel: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cantata.losses._topics.block_entries", lambda _: chunk)
    tensors = inputs(n_batch)
    batch = torch.arange(N) % n_batch
    measured = MEASURED[-n_batch:] if panel else None
    counted = measured.all(dim=0) if measured is not None else None
    x = some_counts()
    if measured is not None:
        x = x * measured[batch]

    def found(mixture, log_topics, log_factor, library) -> torch.Tensor:
        if measured is not None:
            log_factor = log_factor.masked_fill(~measured, -1e4)
        counts = SparseValues.of(x)
        return topic_log_prob(mixture, log_topics, log_factor, batch, library, counts, counted)

    expected = loop(x, batch, measured, counted, *tensors)
    torch.testing.assert_close(found(*tensors), expected)
    weight = torch.linspace(-1, 2, N, dtype=torch.double)
    ours, theirs = (
        torch.autograd.grad(value, tensors, weight) for value in (found(*tensors), expected)
    )
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)
    assert torch.autograd.gradcheck(found, tensors)


def test_no_array_of_cells_times_features_is_made() -> None:
    """By the largest tensor that any operation returns, forward and backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    n, p = 64, 20_000
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (out,) if isinstance(t, torch.Tensor))
            return out

    torch.manual_seed(0)
    counts = SparseValues.of(torch.poisson(torch.full((n, p), 0.01)))
    mixture, topics = torch.rand(n, 4).requires_grad_(), torch.rand(p, 4).requires_grad_()
    factor = torch.zeros(1, p, requires_grad=True)
    batch, library = torch.zeros(n, dtype=torch.long), torch.ones(n)
    with Sizes():
        topic_log_prob(mixture, topics, factor, batch, library, counts).sum().backward()
    assert max(sizes) <= 4 * p


def test_half_precision_does_not_reach_it() -> None:
    tensors = [x.detach().float().requires_grad_() for x in inputs(2)]
    batch, counts = torch.arange(N) % 2, SparseValues.of(some_counts().float())
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            mixture, log_topics, log_factor, library = tensors
            value = topic_log_prob(mixture, log_topics, log_factor, batch, library, counts)
        found.append([value, *torch.autograd.grad(value.sum(), tensors)])
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
