from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from cantata import pl
from cantata.pl._heatmap import matched_order


def _drawn(ax):
    rows, columns = (
        [t.get_text() for t in side] for side in (ax.get_yticklabels(), ax.get_xticklabels())
    )
    return pd.DataFrame(ax.images[0].get_array().filled(np.nan), rows, columns)


@pytest.fixture
def matrix():
    """Every cluster resembles the cluster of the same name most; both sides are shuffled."""
    rng = np.random.default_rng(0)
    names = [f"cluster {i}" for i in range(8)]
    r = pd.DataFrame(rng.uniform(-0.5, 0.5, (8, 8)) + 0.5 * np.eye(8), names, names)
    r = r.iloc[rng.permutation(8), rng.permutation(8)]
    return r.rename_axis(index="rna", columns="atac")


def test_counterparts_lie_on_the_diagonal(matrix):
    ax = pl.cluster_correlation(matrix)
    drawn = _drawn(ax)
    assert list(drawn.index) == list(drawn.columns)
    for row in matrix.index:
        for column in matrix.columns:
            assert drawn.loc[row, column] == matrix.loc[row, column]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("rna", "atac")
    assert ax.child_axes[0].get_ylabel() == "correlation"


@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (6, 4), (1, 3), (3, 1), (2, 2)])
def test_best_match_by_trying_all(shape):
    values = np.random.default_rng(shape[0]).normal(size=shape)
    rows, columns = matched_order(values)
    assert sorted(rows) == list(range(shape[0]))
    assert sorted(columns) == list(range(shape[1]))
    short, long = sorted(shape)
    wide = values if shape[0] <= shape[1] else values.T
    best = max(sum(wide[range(short), list(p)]) for p in permutations(range(long), short))
    i, j = (rows, columns) if shape[0] <= shape[1] else (columns, rows)
    # the best match is kept by partners that never step back: they lie along the diagonal
    ordered = wide[np.ix_(i, j)]
    monotone = max(
        sum(ordered[range(short), list(p)])
        for p in permutations(range(long), short)
        if list(p) == sorted(p)
    )
    assert monotone == pytest.approx(best)


def test_left_over_clusters_follow_what_they_resemble():
    matrix = pd.DataFrame(np.eye(3)[[0, 1, 1, 2]] * 0.8 - 0.1, list("abxc"), list("ABC"))
    matrix.loc["x"] -= 0.01
    drawn = _drawn(pl.cluster_correlation(matrix))
    rows = list(drawn.index)
    assert rows.index("x") == rows.index("b") + 1
    assert [name.lower() for name in drawn.columns] == [name for name in rows if name != "x"]


def test_order_can_be_kept(matrix):
    drawn = _drawn(pl.cluster_correlation(matrix, order=False))
    np.testing.assert_array_equal(drawn, matrix)
    assert list(drawn.index) == list(matrix.index)


def test_values_are_written_into_few_cells(matrix):
    ax = pl.cluster_correlation(matrix)
    drawn = _drawn(ax)
    texts = {
        t.get_position(): float(t.get_text().replace("\N{MINUS SIGN}", "-")) for t in ax.texts
    }
    assert len(texts) == 64
    for (column, row), value in texts.items():
        assert value == pytest.approx(drawn.iloc[row, column], abs=0.00501)
    assert not pl.cluster_correlation(matrix, annotate=False).texts
    rng = np.random.default_rng(1)
    assert not pl.cluster_correlation(pd.DataFrame(rng.uniform(size=(13, 5)))).texts


def test_written_values_fit_their_cells(matrix):
    with plt.rc_context({"font.size": 12}):
        ax = pl.cluster_correlation(matrix)
        ax.figure.canvas.draw()
        for text in ax.texts:
            assert text.get_window_extent().width < ax.bbox.width / 8


def test_colours_are_around_zero_if_there_are_negative_values(matrix):
    image = pl.cluster_correlation(matrix).images[0]
    assert image.get_clim() == (-matrix.abs().to_numpy().max(), matrix.abs().to_numpy().max())
    positive = pl.cluster_correlation(matrix.abs()).images[0]
    assert positive.get_clim() == (matrix.abs().to_numpy().min(), matrix.abs().to_numpy().max())


def test_missing_values_and_given_axes(matrix):
    matrix.iloc[0, 0] = np.nan
    _, ax = plt.subplots()
    assert pl.cluster_correlation(matrix, ax=ax) is ax
    assert np.isnan(_drawn(ax).loc[matrix.index[0], matrix.columns[0]])
    assert len(ax.texts) == 63


def test_input_is_not_modified(matrix):
    before = matrix.copy()
    pl.cluster_correlation(matrix)
    pd.testing.assert_frame_equal(matrix, before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.to_numpy(), TypeError, "ndarray; give a DataFrame"),
        (lambda m: m.iloc[:0], ValueError, r"shape \(0, 8\)"),
        (lambda m: m.set_axis(["x"] * 8, axis=1), ValueError, "7 names of columns.*'x'"),
        (lambda m: m + 2, ValueError, "64 values outside -1 to 1"),
        (lambda m: m.astype(str) + "r", TypeError, "does not hold numbers"),
        (lambda m: m * np.nan, ValueError, "only missing values"),
    ],
)
def test_errors(matrix, change, error, message):
    with pytest.raises(error, match=message):
        pl.cluster_correlation(change(matrix))
