"""Scores that scib-metrics has as well: ours, by exact neighbours in double precision, and its."""

from __future__ import annotations

import numpy as np
import pytest

from cantata.metrics import kbet, silhouette, silhouette_batch

scib_metrics = pytest.importorskip(
    "scib_metrics", reason="scib-metrics is not installed (pip install 'cantata[bench]')"
)


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    labels, batch = rng.choice(["B", "NK", "T"], 300), rng.choice(["a", "b"], 300)
    shift = 2.0 * (labels == "B") + 1.0 * (batch == "a") * (labels == "T")
    return rng.normal(size=(300, 5)) + shift[:, None], labels, batch


def test_silhouettes(cells):
    x, labels, batch = cells
    expected = scib_metrics.silhouette_label(x, labels)
    assert silhouette(x, labels, rescale=True) == pytest.approx(expected, abs=1e-5)
    expected = scib_metrics.silhouette_batch(x, labels, batch)
    assert silhouette_batch(x, batch, labels) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("k", [10, 30])
def test_kbet(cells, k):
    results = pytest.importorskip("scib_metrics.nearest_neighbors").NeighborsResults
    x, _, batch = cells
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    order = np.argsort(distances, axis=1)[:, :k]
    near = results(order, np.take_along_axis(distances, order, axis=1))
    expected, _, _ = scib_metrics.kbet(near, batch)
    assert 0 < expected < 1
    assert kbet(x, batch, k=k, n_samples=300) == pytest.approx(float(expected), abs=1e-6)
