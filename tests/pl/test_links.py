from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.colors import Normalize, to_rgba
from mosaics import mosaic

from cantata import pl
from cantata.pl._links_heatmap import strongest
from cantata.pl._order import block_order

GENES, PROTEINS = [f"g{i}" for i in range(6)], [f"p{i}" for i in range(5)]


@pytest.fixture
def blocks():
    """Two blocks of genes and proteins, shuffled; links of g5 are weak and not significant."""
    rng = np.random.default_rng(0)
    gene, protein = (np.array(x) for x in ([0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1]))
    r = np.where(gene[:, None] == protein, 0.8, -0.3) + rng.uniform(-0.05, 0.05, (6, 5))
    r[5] /= 20
    return pd.DataFrame(
        {
            "source": np.repeat(GENES, 5),
            "target": np.tile(PROTEINS, 6),
            "correlation": r.ravel(),
            "q": np.repeat([0.01] * 5 + [0.5], 5),
        }
    )


@pytest.fixture
def cells(blocks):
    """RNA and proteins of different cells."""
    parts = {"rna": AnnData(np.ones((4, 6))), "adt": AnnData(np.ones((3, 5)))}
    parts["rna"].var_names, parts["adt"].var_names = GENES, PROTEINS
    parts["rna"].obs_names = [f"r{i}" for i in range(4)]
    parts["adt"].obs_names = [f"a{i}" for i in range(3)]
    mdata = mosaic(parts)
    mdata.uns["scmodal_links"] = blocks
    return mdata


def _matrix(ax):
    """What is drawn, by its labels."""
    rows, columns = (
        [t.get_text() for t in side] for side in (ax.get_yticklabels(), ax.get_xticklabels())
    )
    return pd.DataFrame(ax.images[0].get_array().filled(np.nan), rows, columns)


def test_matrix_holds_the_correlations_of_links_that_count(cells, blocks):
    ax = pl.links(cells, target="adt")
    drawn = _matrix(ax)
    assert drawn.shape == (5, 5)
    assert "g5" not in drawn.index
    for row in blocks[blocks["q"] < 0.05].itertuples():
        assert drawn.loc[row.source, row.target] == row.correlation
    assert ax.get_ylabel() == "rna"
    assert ax.child_axes[0].get_ylabel() == "correlation (q ≤ 0.05)"
    everything = _matrix(pl.links(cells, target="adt", max_q=1))
    assert everything.shape == (6, 5)
    strong = _matrix(pl.links(cells, target="adt", min_correlation=0.5))
    assert np.nanmin(strong.to_numpy()) > 0.7
    assert strong.isna().to_numpy().sum() == 25 - 2 * 3 - 3 * 2


def test_blocks_are_contiguous_and_on_the_diagonal(cells):
    drawn = _matrix(pl.links(cells, target="adt")).to_numpy()
    high = drawn > 0
    assert (np.diff(high.astype(int), axis=0) != 0).any(axis=1).sum() == 1
    assert (np.diff(high.astype(int), axis=1) != 0).any(axis=0).sum() == 1
    assert high[0, 0]
    assert high[-1, -1]


def test_colours_are_symmetric_around_zero(cells):
    image = pl.links(cells, target="adt").images[0]
    low, high = image.get_clim()
    assert low == -high
    assert high == np.abs(image.get_array()).max()
    red, blue = (image.to_rgba(v) for v in (0.9 * high, 0.9 * low))
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_block_order_of_disjoint_blocks():
    rng = np.random.default_rng(1)
    rows, columns = (
        rng.permutation(np.repeat(np.arange(4), 5)),
        rng.permutation(np.repeat(np.arange(4), 3)),
    )
    values = np.where(rows[:, None] == columns, rng.uniform(0.5, 0.9, (20, 12)), 0.0)
    i, j = block_order(values)
    assert sorted(i) == list(range(20))
    assert sorted(j) == list(range(12))
    order = list(dict.fromkeys(rows[i]))
    np.testing.assert_array_equal(rows[i], np.repeat(order, 5))
    np.testing.assert_array_equal(columns[j], np.repeat(order, 3))


def test_room_is_shared_between_targets():
    table = pd.DataFrame(
        {
            "source": ["a", "b", "c", "d", "a"],
            "target": ["x", "x", "x", "y", "y"],
            "correlation": [0.9, -0.8, 0.7, 0.3, 0.1],
        }
    )
    matrix = strongest(table, 2)
    assert set(matrix.index) == {"a", "d"}
    assert matrix.loc["a", "y"] == 0.1
    assert np.isnan(matrix.loc["d", "x"])
    for n_top in (1, 2, 3, 9):
        matrix = strongest(table, n_top)
        assert max(matrix.shape) <= n_top
        assert matrix.notna().any(axis=0).all()
        assert matrix.notna().any(axis=1).all()
    assert strongest(table, 9).notna().to_numpy().sum() == 5


def test_chosen_genes_and_number_shown(cells):
    assert set(_matrix(pl.links(cells, ["g0", "g3"], target="adt")).index) == {"g0", "g3"}
    assert set(_matrix(pl.links(cells, "g1", target="adt")).index) == {"g1"}
    ax = pl.links(cells, target="adt", n_top=2)
    assert _matrix(ax).shape == (2, 2)
    assert ax.get_ylabel() == "rna (2 of 5)"
    assert ax.get_xlabel() == "adt (2 of 5)"


def test_labels_are_legible_and_do_not_overlap():
    rng = np.random.default_rng(2)
    table = pd.DataFrame(
        {
            "source": np.repeat([f"gene{i}" for i in range(40)], 40),
            "target": np.tile([f"chr1_{i}00000_{i}00200" for i in range(40)], 40),
            "correlation": rng.uniform(-1, 1, 1600),
        }
    )
    mdata = mosaic({"rna": AnnData(np.ones((2, 2)))})
    with plt.rc_context({"font.size": 12}):
        ax = pl.links(mdata, links=table)
        ax.figure.canvas.draw()
        assert max(ax.figure.get_size_inches()) < 10
        labels = [*ax.get_yticklabels(), *ax.get_xticklabels()]
        assert len(labels) == 50
        assert min(label.get_fontsize() for label in labels) >= 10
        y = sorted(label.get_window_extent().y0 for label in ax.get_yticklabels())
        assert min(np.diff(y)) >= ax.get_yticklabels()[0].get_window_extent().height * 0.8
        box = ax.figure.get_tightbbox()
        assert min(box.x0, box.y0) >= 0
        assert (np.array([box.x1, box.y1]) <= ax.figure.get_size_inches()).all()


def test_labels_without_room_are_left_out():
    table = pd.DataFrame(
        {"source": [f"g{i}" for i in range(90)], "target": "x", "correlation": 0.5}
    )
    mdata = mosaic({"rna": AnnData(np.ones((2, 2)))})
    _, ax = plt.subplots(figsize=(2, 2))
    assert pl.links(mdata, links=table, n_top=90, ax=ax) is ax
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x"]
    assert len(ax.get_yticks()) == 0
    assert ax.get_ylabel() == "rna"


def test_categories_and_missing_values_as_read_from_a_file(cells, blocks):
    table = blocks.astype({"source": "category", "target": "category"})
    table.loc[3, "correlation"] = np.nan
    table.loc[4, "q"] = np.nan
    drawn = _matrix(pl.links(cells, links=table, target="adt"))
    assert np.isnan(drawn.loc["g0", "p3"])
    assert drawn.loc["g0", "p4"] == table["correlation"][4]


def test_other_methods(cells, blocks):
    cells.uns["clue_links"] = blocks.iloc[:5]
    assert _matrix(pl.links(cells, target="adt", method="clue")).shape == (1, 5)


@pytest.mark.parametrize(
    ("change", "arguments", "error", "message"),
    [
        (None, {"method": "clue"}, KeyError, "clue_links.*infer_links"),
        (lambda t: t.to_dict(), {}, TypeError, "dict; a DataFrame"),
        (lambda t: t.drop(columns="target"), {}, KeyError, "no column 'target'"),
        (lambda t: pd.concat([t, t[:2]]), {}, ValueError, "2 links occur more than once.*'g0'"),
        (lambda t: t.assign(correlation=3.0), {}, ValueError, "30 correlations.*-1 to 1, e.g. 3"),
        (lambda t: t.assign(correlation=np.nan), {}, ValueError, "no link with a correlation"),
        (lambda t: t.assign(q=0.3), {}, ValueError, "None of the 30 links has q ≤ 0.05"),
        (None, {"column": "within_correlation"}, KeyError, "no column 'within_correlation'"),
        (None, {"gene": "g9"}, KeyError, "'g9' is no feature of 'rna' and not in"),
        (None, {"kind": "circle"}, ValueError, "auto, locus, heatmap"),
        (None, {"kind": "locus"}, ValueError, "shows one gene"),
        (None, {"kind": "locus", "gene": "g1"}, ValueError, "'adt'.*no valid coordinates"),
        (None, {"max_q": 5}, ValueError, "max_q=5"),
        (None, {"n_top": 0}, ValueError, "n_top=0"),
        (None, {"other": pd.DataFrame()}, ValueError, "kind='locus'"),
    ],
)
def test_errors(cells, blocks, change, arguments, error, message):
    links = None if change is None else change(blocks)
    with pytest.raises(error, match=message):
        pl.links(cells, **{"links": links, "target": "adt"} | arguments)


def test_gene_without_links_is_told_which_have_some(cells, blocks):
    few = blocks[blocks["source"].isin(["g1", "g2"])].iloc[:-1]
    with pytest.raises(
        ValueError, match=re.escape("2 features of 'rna' have, most of them 'g1', 'g2'")
    ):
        pl.links(cells, "g4", links=few, target="adt")


def test_nothing_is_modified(cells, blocks):
    before = blocks.copy()
    uns = set(cells.uns)
    pl.links(cells, target="adt")
    pd.testing.assert_frame_equal(cells.uns["scmodal_links"], before)
    assert set(cells.uns) == uns
    assert list(cells["rna"].var.columns) == []


def test_missing_links_are_grey(cells, blocks):
    ax = pl.links(cells, links=blocks.iloc[[0, 6]], target="adt")
    image = ax.images[0]
    grey = image.cmap(Normalize(0, 1)(np.ma.masked_all(1)))[0]
    assert tuple(grey) == pytest.approx(to_rgba("#e4e4e4"), abs=0.01)
    assert image.get_array().mask.sum() == 2
