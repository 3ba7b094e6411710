from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from cantata import pl
from cantata.datasets import simulate_disentangled
from cantata.tl import estimate_dimensions


@pytest.fixture(scope="module")
def result():
    return estimate_dimensions(simulate_disentangled(1, n_cells=500, noise=0.1))


def dots(ax, name):
    """Places and fill of the dots of a modality, in the order of their drawing."""
    drawn = [c for c in ax.collections if len(c.get_offsets())]
    return drawn[["x", "y"].index(name)]


def test_bars_are_the_correlations(result):
    left, _ = pl.dimensions(result)
    table = result.correlations
    assert len(left.patches) >= 12
    bars = [p for p in left.patches if hasattr(p, "get_width")]
    assert [bar.get_height() for bar in bars] == table["correlation"].iloc[: len(bars)].tolist()
    solid = [bar.get_facecolor()[3] == 1 for bar in bars]
    assert solid == table["shared"].iloc[: len(bars)].tolist()
    assert sum(solid) == result.n_shared == 2
    assert left.get_title() == "2 shared dimensions"
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["chance", "least that counts (0.1)"]


def test_dots_are_the_variances(result):
    _, right = pl.dimensions(result)
    for name in ("x", "y"):
        table = result.variances[result.variances["modality"] == name].iloc[:12]
        drawn = dots(right, name)
        np.testing.assert_allclose(drawn.get_offsets()[:, 0], table["component"])
        np.testing.assert_allclose(drawn.get_offsets()[:, 1], 100 * table["variance"])
        filled = [tuple(face) != to_rgba("white") for face in drawn.get_facecolors()]
        assert filled == table["specific"].tolist()
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels == ["x: 2", "y: 1", "chance"]
    assert right.get_yscale() == "log"


def test_chance_is_drawn_where_it_was_compared(result):
    left, right = pl.dimensions(result, show=4)
    (steps,) = [p for p in left.patches if hasattr(p, "get_data")]
    np.testing.assert_allclose(steps.get_data().values, result.correlations["null"].iloc[:4])
    drawn = [p.get_data().values for p in right.patches]
    for name, values in zip(("x", "y"), drawn, strict=True):
        null = result.variances.loc[result.variances["modality"] == name, "null"].iloc[:4]
        np.testing.assert_allclose(values, 100 * null)


def test_given_axes(result):
    _, axes = plt.subplots(1, 2)
    drawn = pl.dimensions(result, axes=axes)
    assert drawn == list(axes)
    with pytest.raises(ValueError, match="1 axes were given for 2 panels"):
        pl.dimensions(result, axes=plt.subplots()[1])


def test_exact_simulations_have_no_noise_to_draw():
    found = estimate_dimensions(simulate_disentangled(3, n_cells=300, seed=1))
    left, right = pl.dimensions(found)
    assert left.get_xlim()[1] >= 6  # room for the legend
    assert len(dots(right, "y").get_offsets()) == 1


def test_nothing_shared(result):
    mdata = simulate_disentangled(1, n_cells=300, noise=0.1)
    mdata["y"].X = np.random.default_rng(0).permutation(mdata["y"].X)
    left, _ = pl.dimensions(estimate_dimensions(mdata))
    assert left.get_title() == "0 shared dimensions"


def test_errors(result):
    with pytest.raises(TypeError, match="result is a dict; give what"):
        pl.dimensions({})
    with pytest.raises(ValueError, match="show=0"):
        pl.dimensions(result, show=0)
