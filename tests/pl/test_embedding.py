from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgba

from cantata import pl
from cantata.pl._axes import MISSING_COLOR, cell_values, level_colors, palette


def _points(ax):
    """Colour of every drawn cell, by its number (the first coordinate)."""
    found = {}
    for c in ax.collections:
        c.update_scalarmappable()
        offsets, colors = c.get_offsets(), c.get_facecolors()
        for k, xy in enumerate(offsets):
            found[int(xy[0])] = to_hex(colors[k if len(colors) > 1 else 0])
    return found


def _legend(ax):
    legend = ax.get_legend()
    handles = [to_hex(h.get_facecolors()[0]) for h in legend.legend_handles]
    return dict(zip([t.get_text() for t in legend.get_texts()], handles, strict=True))


def test_pairing_is_the_default_colour(mdata):
    (ax,) = pl.embedding(mdata)
    legend, points = _legend(ax), _points(ax)
    assert list(legend) == ["rna + adt", "rna only", "adt only"]
    assert len(points) == 90
    for cell, color in points.items():
        expected = "rna only" if cell < 30 else "rna + adt" if cell < 60 else "adt only"
        assert color == legend[expected]


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("batch", lambda i: f"b{i % 12}"),
        ("level", lambda i: "low" if i % 2 else "high"),
        ("adt:own", lambda i: f"adt{i % 2}" if i >= 30 else "(missing)"),
    ],
)
def test_categories_of_either_level(mdata, key, label):
    (ax,) = pl.embedding(mdata, "umap", key)
    legend, points = _legend(ax), _points(ax)
    assert {i: legend[label(i)] for i in range(90)} == points
    assert len(set(legend.values())) == len(legend)


def test_levels_keep_their_order(mdata):
    assert list(cell_values(mdata, "level").cat.categories) == ["low", "high"]
    assert list(cell_values(mdata, "batch").cat.categories) == [f"b{i}" for i in range(12)]


def test_numbers_get_a_colour_bar_and_missing_cells_are_grey(mdata):
    (ax,) = pl.embedding(mdata, color="rna_total")
    points = _points(ax)
    assert ax.get_legend() is None
    assert len(ax.child_axes) == 1
    assert all((points[i] == MISSING_COLOR) == (i >= 60) for i in points)
    assert len({points[i] for i in range(60)}) > 30
    np.testing.assert_array_equal(cell_values(mdata, "score"), mdata.obs["score"])


def test_values_are_not_mixed_up_between_rows(mdata):
    values = cell_values(mdata, "rna:rna_total")
    for name, value in values.items():
        number = int(name[4:])
        assert value == number if number < 60 else np.isnan(value)


def test_drawing_order_is_shuffled_but_fixed(mdata):
    first, again = (pl.embedding(mdata)[0] for _ in range(2))
    drawn = [np.asarray(ax.collections[1].get_offsets())[:, 0] for ax in (first, again)]
    np.testing.assert_array_equal(*drawn)
    assert np.any(np.diff(drawn[0]) < 0)
    assert np.any(np.diff(drawn[0]) > 0)


def test_cells_without_coordinates_are_left_out(mdata):
    mdata.obsm["X_umap"][:7] = np.nan
    (ax,) = pl.embedding(mdata)
    assert len(_points(ax)) == 83


def test_panels_and_given_axes(mdata):
    axes = pl.embedding(mdata, color=["pairing", "batch", "score", "level"], ncols=3)
    assert [ax.get_title() for ax in axes] == ["pairing", "batch", "score", "level"]
    assert len({ax.figure for ax in axes}) == 1
    assert len(axes[0].figure.axes) == 4
    _, given = plt.subplots(1, 2)
    assert pl.embedding(mdata, color=["pairing", "batch"], axes=given) == list(given)
    assert pl.embedding(mdata, axes=given[0]) == [given[0]]
    with pytest.raises(ValueError, match="2 axes were given for 1 panels"):
        pl.embedding(mdata, axes=given)


def test_legends_do_not_overlap_panels(mdata):
    axes = pl.embedding(mdata, color=["pairing", "batch", "level"])
    axes[0].figure.canvas.draw()
    for left, right in itertools.pairwise(axes):
        assert left.get_legend().get_window_extent().x1 <= right.get_window_extent().x0
        assert left.get_legend().get_window_extent().x0 >= left.get_window_extent().x1


def test_colours_stored_by_scanpy_are_used(mdata):
    mdata.uns["level_colors"] = ["#112233", "#445566"]
    (ax,) = pl.embedding(mdata, color="level")
    assert _legend(ax) == {"low": "#112233", "high": "#445566"}
    mdata.uns["level_colors"] = ["#112233"]
    assert len(level_colors(mdata, "level", ["low", "high"])) == 2


@pytest.mark.parametrize("n", [1, 10, 11, 25, 60, 150])
def test_palettes_are_long_enough_and_distinct(n):
    colors = palette(n)[:n]
    assert len(set(colors)) == n
    assert all(to_rgba(color) for color in colors)


def test_errors_and_nothing_is_modified(mdata):
    columns, uns = list(mdata.obs.columns), dict(mdata.uns)
    with pytest.raises(KeyError, match="X_umap"):
        pl.embedding(mdata, "X_pca")
    with pytest.raises(KeyError, match="donor"):
        pl.embedding(mdata, color="donor")
    mdata.obsm["X_one"] = np.zeros((90, 1))
    with pytest.raises(ValueError, match="two columns"):
        pl.embedding(mdata, "one")
    with pytest.raises(ValueError, match="contradicts"):
        pl.embedding(mdata, color="own")
    assert list(mdata.obs.columns) == columns
    assert dict(mdata.uns) == uns
