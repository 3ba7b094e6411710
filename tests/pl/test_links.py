from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize, to_rgba
from mosaics import mosaic

from cantata import pl
from cantata.pl._genome import find_gene
from cantata.pl._heatmap import block_order
from cantata.pl._links import strongest

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
        (None, {"n_top": 0}, ValueError, "n_top must be at least 1, got 0"),
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


# One gene on the genome

PEAKS = {
    "a": ("chr2", 1_000_000, 1_000_400),
    "b": ("chr2", 1_040_000, 1_040_100),
    "c": ("chr2", 1_060_000, 1_061_000),
    "d": ("chr2", 1_200_000, 1_200_300),
    "far": ("chr2", 9_000_000, 9_000_300),
    "elsewhere": ("chr5", 1_040_000, 1_040_100),
}
GENE = {"gene": "Reln", "chrom": "chr2", "start": 1_020_000, "end": 1_050_000, "strand": "-"}


@pytest.fixture
def mdata():
    """RNA and ATAC of different cells; peaks in an order of their own."""
    rna, atac = AnnData(np.ones((3, 3))), AnnData(np.ones((2, len(PEAKS))))
    rna.obs_names, atac.obs_names = ["r0", "r1", "r2"], ["a0", "a1"]
    rna.var_names = ["Gad1", "Reln", "Sox2"]
    names = ["d", "elsewhere", "b", "a", "far", "c"]
    columns = ["chrom", "chromStart", "chromEnd"]
    atac.var = pd.DataFrame([PEAKS[name] for name in names], names, columns)
    out = mosaic({"rna": rna, "atac": atac})
    out.uns["scmodal_links"] = pd.DataFrame(
        {
            "source": ["Reln"] * 4 + ["Gad1"],
            "target": ["a", "b", "c", "d", "a"],
            "correlation": [0.5, -0.3, 0.1, 0.2, 0.4],
            "q": [0.001, 0.01, 0.6, 0.02, 0.01],
        }
    )
    return out


@pytest.fixture
def annotation():
    return pd.DataFrame([GENE, {**GENE, "gene": "Sox2", "chrom": "chr8"}])


def _arcs(ax):
    """Arcs by the place where they end: apex, correlation (NaN: grey), colour and width."""
    found = {}
    for lines in (c for c in ax.collections if isinstance(c, LineCollection)):
        lines.update_scalarmappable()
        segments = lines.get_segments()
        values = lines.get_array()
        for k, segment in enumerate(segments):
            y = segment[:, 1]
            apex = y[np.argmax(np.abs(y - y[0]))]
            value = np.nan if values is None else values[k]
            color = lines.get_colors()[k % len(lines.get_colors())]
            width = lines.get_linewidths()[k % len(lines.get_linewidths())]
            found[segment[-1, 0], y[0]] = (segment[0, 0], apex, value, tuple(color), width)
    return found


def _middle(peak):
    return sum(PEAKS[peak][1:]) / 2


def _boxes(ax):
    return [
        (poly.vertices[:, 0].min(), poly.vertices[:, 0].max())
        for c in ax.collections
        if isinstance(c, PolyCollection)
        for poly in c.get_paths()
    ]


def test_arcs_go_from_the_start_site_to_the_middles_of_peaks(mdata, annotation):
    ax = pl.links(mdata, "Reln", annotation=annotation)
    arcs = _arcs(ax)
    assert {end for end, _ in arcs} == {_middle(peak) for peak in "abcd"}
    for start, *_ in arcs.values():
        assert start == GENE["end"]
    for peak, r in zip("abd", [0.5, -0.3, 0.2], strict=True):
        _, apex, value, *_ = arcs[_middle(peak), 0.0]
        assert value == r
        assert apex == pytest.approx(abs(r), rel=1e-3)


def test_colour_and_width_follow_the_correlation(mdata, annotation):
    arcs = _arcs(pl.links(mdata, "Reln", annotation=annotation))
    colors, widths = ({p: arcs[_middle(p), 0.0][k] for p in "abcd"} for k in (3, 4))
    assert colors["a"][0] > colors["a"][2]
    assert colors["d"][0] > colors["d"][2]
    assert colors["b"][2] > colors["b"][0]
    assert len({round(v, 6) for v in colors["c"][:3]}) == 1
    assert widths["a"] > widths["b"] > widths["d"] > widths["c"]
    assert np.isnan(arcs[_middle("c"), 0.0][2])


def test_weak_links_are_grey(mdata, annotation):
    arcs = _arcs(pl.links(mdata, "Reln", annotation=annotation, min_correlation=0.25, max_q=1))
    grey = {end for (end, _), arc in arcs.items() if np.isnan(arc[2])}
    assert grey == {_middle("c"), _middle("d")}


def test_colour_bar_and_captions(mdata, annotation):
    ax = pl.links(mdata, "Reln", annotation=annotation)
    (bar,) = ax.child_axes
    assert bar.get_ylabel() == "correlation"
    assert bar.get_ylim() == (-0.5, 0.5)
    assert ax.get_xlabel() == "chr2 (Mb)"
    assert {t.get_text() for t in ax.texts} == {"scmodal: 3 of 4 links with q ≤ 0.05", "← Reln"}


def test_other_columns(mdata, annotation):
    mdata.uns["scmodal_links"]["within_correlation"] = [0.05, 0.04, -0.03, 0.02, 0.01]
    ax = pl.links(mdata, "Reln", annotation=annotation, column="within_correlation")
    assert _arcs(ax)[_middle("b"), 0.0][2] == 0.04
    assert ax.get_ylabel() == "|within correlation|"
    assert ax.child_axes[0].get_ylabel() == "within correlation"


def test_boxes_are_the_peaks_in_view(mdata, annotation):
    ax = pl.links(mdata, "Reln", annotation=annotation)
    assert sorted(_boxes(ax)) == [PEAKS[peak][1:] for peak in "abcd"]
    low, high = ax.get_xlim()
    assert low < 1_000_000
    assert 1_200_300 < high < 1_300_000


def test_unlinked_peaks_are_pale(mdata, annotation):
    table = mdata.uns["scmodal_links"].iloc[[0, 3]]
    ax = pl.links(mdata, "Reln", annotation=annotation, links=table)
    shade = {
        round(path.vertices[:, 0].min()): c.get_facecolor()[0][0]
        for c in ax.collections
        if isinstance(c, PolyCollection)
        for path in c.get_paths()
    }
    assert shade[1_000_000] == shade[1_200_000] < shade[1_040_000] == shade[1_060_000]


@pytest.mark.parametrize(("strand", "tss", "head"), [("+", 1_020_000, -1), ("-", 1_050_000, 1)])
def test_gene_body_points_along_its_strand(mdata, annotation, strand, tss, head):
    annotation["strand"] = strand
    ax = pl.links(mdata, "Reln", annotation=annotation)
    (body,) = ax.patches
    x, y = body.get_xy().T
    assert (x.min(), x.max()) == (1_020_000, 1_050_000)
    point = x.max() if head < 0 else x.min()
    assert len(np.unique(y[x == point])) == 1
    assert {arc[0] for arc in _arcs(ax).values()} == {tss}
    assert ("→" if strand == "+" else "←") in ax.texts[-1].get_text()


def test_gene_of_unknown_strand_has_no_start_site(mdata, annotation):
    ax = pl.links(mdata, "Reln", annotation=annotation.assign(strand="."))
    assert {arc[0] for arc in _arcs(ax).values()} == {1_035_000}
    assert len(np.unique(ax.patches[0].get_xy()[:, 0])) == 2


def test_unknown_position_is_said(mdata):
    ax = pl.links(mdata, "Reln")
    middle = (1_000_000 + 1_200_300) / 2
    assert {arc[0] for arc in _arcs(ax).values()} == {middle}
    assert "Reln (position unknown)" in {t.get_text() for t in ax.texts}
    assert not ax.patches
    lines = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert all(style[1] is not None for c in lines for style in c.get_linestyles())
    known = pl.links(mdata, "Reln", annotation=pd.DataFrame([GENE]))
    lines = [c for c in known.collections if isinstance(c, LineCollection)]
    assert all(style[1] is None for c in lines for style in c.get_linestyles())


def test_position_from_the_modality(mdata):
    mdata["rna"].var[["chrom", "start", "end", "strand"]] = [
        ["chr1", 5, 9, "+"],
        list(GENE.values())[1:],
        [None, np.nan, np.nan, None],
    ]
    ax = pl.links(mdata, "Reln")
    assert {arc[0] for arc in _arcs(ax).values()} == {GENE["end"]}
    assert find_gene("Sox2", None, mdata, "rna") is None


def test_one_gene_in_several_places(mdata, annotation):
    both = pd.concat([pd.DataFrame([{**GENE, "chrom": "chrX", "start": 5}]), annotation])
    ax = pl.links(mdata, "Reln", annotation=both)
    assert ax.get_xlabel() == "chr2 (Mb)"


def test_chromosomes_with_and_without_prefix(mdata, annotation):
    ax = pl.links(mdata, "Reln", annotation=annotation.assign(chrom="2"))
    assert len(_arcs(ax)) == 4
    assert ax.get_xlabel() == "chr2 (Mb)"


def test_window_hides_and_counts_what_is_outside(mdata, annotation):
    ax = pl.links(mdata, "Reln", annotation=annotation, window=20_000)
    assert ax.get_xlim() == (1_030_000, 1_070_000)
    assert {end for end, _ in _arcs(ax)} == {_middle("b"), _middle("c")}
    assert "scmodal: 1 of 2 links with q ≤ 0.05 (2 more outside)" in {
        t.get_text() for t in ax.texts
    }
    outline = ax.patches[0].get_xy()[:, 0]
    assert outline.min() == 1_030_000
    with pytest.raises(ValueError, match="No linked peak lies within 10 bp of 'Reln'"):
        pl.links(mdata, "Reln", annotation=annotation, window=10)


def test_links_on_other_chromosomes_are_counted(mdata, annotation):
    table = mdata.uns["scmodal_links"].iloc[:1]
    table = pd.concat([table, table.assign(target="elsewhere")])
    ax = pl.links(mdata, "Reln", links=table, annotation=annotation)
    assert "scmodal: 1 of 1 link with q ≤ 0.05 (1 more outside)" in {
        t.get_text() for t in ax.texts
    }
    with pytest.raises(ValueError, match="'Sox2' lies on chr8 and its 1 linked peaks lie on chr2"):
        pl.links(mdata, "Sox2", links=table[:1].assign(source="Sox2"), annotation=annotation)


def test_other_links_are_mirrored_on_the_same_scale(mdata, annotation):
    other = pd.DataFrame(
        {
            "source": ["Reln", "Reln", "Sox2"],
            "target": ["a", "c", "b"],
            "correlation": [0.25, -0.1, 1],
        }
    )
    names = ("unpaired", "paired cells")
    ax = pl.links(mdata, "Reln", annotation=annotation, other=other, names=names)
    arcs = _arcs(ax)
    (base,) = {y for _, y in arcs if y < 0}
    assert {end for end, y in arcs if y < 0} == {_middle("a"), _middle("c")}
    for peak, r in (("a", 0.25), ("c", -0.1)):
        _, apex, value, *_ = arcs[_middle(peak), base]
        assert value == r
        assert apex == pytest.approx(base - abs(r), rel=1e-3)
    assert arcs[_middle("a"), 0.0][1] == pytest.approx(0.5, rel=1e-3)
    below = [
        (tick, label)
        for tick, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
        if tick <= base
    ]
    assert all(float(label.get_text()) == pytest.approx(base - tick) for tick, label in below)
    captions = {t.get_text() for t in ax.texts}
    assert {"unpaired: 3 of 4 links with q ≤ 0.05", "paired cells: 2 links"} <= captions
    assert sorted(_boxes(ax)) == sorted(2 * [PEAKS[peak][1:] for peak in "abcd"])


def test_kilobases_near_the_start_of_a_chromosome():
    mdata = mosaic({"atac": AnnData(np.ones((2, 2)))})
    mdata["atac"].var_names = ["2:100-300", "2:9000-9100"]
    mdata.update()
    table = pd.DataFrame({"source": "x", "target": "2:9000-9100", "correlation": [0.2]})
    ax = pl.links(mdata, "x", links=table)
    assert ax.get_xlabel() == "chromosome 2 (kb)"
    ax.figure.canvas.draw()
    for tick, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True):
        assert float(label.get_text()) == pytest.approx(tick / 1000, abs=0.05)


@pytest.mark.parametrize("other", [True, False])
@pytest.mark.parametrize("place", ["new", "grid", "free"])
def test_texts_do_not_overlap_and_nothing_is_cut_off(mdata, annotation, other, place):
    with plt.rc_context({"font.size": 12}):
        ax = None
        if place == "grid":
            ax = plt.subplots(1, 2, figsize=(14, 4.5), layout="constrained")[1][0]
        elif place == "free":
            ax = plt.figure(figsize=(9, 6)).add_axes((0.15, 0.15, 0.65, 0.7))
        links = mdata.uns["scmodal_links"] if other else None
        drawn = pl.links(mdata, "Reln", annotation=annotation, other=links, ax=ax)
        assert ax is None or drawn is ax
        drawn.figure.canvas.draw()
        extents = [text.get_window_extent() for text in drawn.texts]
        assert len(extents) == 2 + other
        for i, first in enumerate(extents):
            assert not any(first.overlaps(second) for second in extents[i + 1 :])
        box = drawn.figure.get_tightbbox()
        assert min(box.x0, box.y0) >= -0.01
        assert (np.array([box.x1, box.y1]) <= drawn.figure.get_size_inches() + 0.01).all()
        labels = [t.get_window_extent() for t in drawn.get_xticklabels() if t.get_text()]
        inside = [t for t in labels if t.x1 > drawn.bbox.x0 and t.x0 < drawn.bbox.x1]
        assert len(inside) >= 2
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(inside))


def test_one_gene_is_a_locus_by_default_and_several_a_matrix(mdata):
    assert not pl.links(mdata, ["Reln"]).images
    assert pl.links(mdata, ["Reln", "Gad1"]).images
    assert pl.links(mdata, "Reln", kind="heatmap").images
    assert pl.links(mdata).images


def test_errors_of_a_locus(mdata, annotation):
    with pytest.raises(KeyError, match=r"'Rel' is no feature of 'rna'.*did you mean 'Reln'"):
        pl.links(mdata, "Rel")
    with pytest.raises(
        ValueError, match=r"'Sox2' has no links.*2 features of 'rna' have.*'Reln', 'Gad1'"
    ):
        pl.links(mdata, "Sox2")
    with pytest.raises(ValueError, match="'Gad1' has no links in other"):
        pl.links(mdata, "Gad1", other=mdata.uns["scmodal_links"][:1])
    with pytest.raises(KeyError, match="no modality 'peaks'"):
        pl.links(mdata, "Reln", target="peaks", kind="locus")
    with pytest.raises(KeyError, match=r"1 of the 1 features linked to 'Reln'.*'zz'"):
        pl.links(mdata, "Reln", links=mdata.uns["scmodal_links"][:1].assign(target="zz"))
    with pytest.raises(ValueError, match="annotation has 2 rows and the columns"):
        pl.links(mdata, "Reln", annotation=annotation.drop(columns="start"))
    with pytest.raises(ValueError, match="window=0"):
        pl.links(mdata, "Reln", window=0)


def test_a_locus_modifies_nothing(mdata, annotation):
    table, var = mdata.uns["scmodal_links"].copy(), mdata["atac"].var.copy()
    genes = annotation.copy()
    pl.links(mdata, "Reln", annotation=annotation, other=table)
    pd.testing.assert_frame_equal(mdata.uns["scmodal_links"], table)
    pd.testing.assert_frame_equal(mdata["atac"].var, var)
    pd.testing.assert_frame_equal(annotation, genes)
