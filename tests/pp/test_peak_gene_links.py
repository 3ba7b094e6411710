from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from mosaics import mosaic
from scipy import sparse

from cantata import pp

CHROMOSOMES = ["chr1", "chr2", "chr3"]


def build(peaks: list[str], genes: list[str], n: int = 3):
    """MuData with one count per cell and feature."""
    parts = {}
    for name, features in (("rna", genes), ("atac", peaks)):
        parts[name] = AnnData(sparse.csr_matrix(np.ones((n, len(features)), np.float32)))
        parts[name].var_names = features
        parts[name].obs_names = [f"c{i}" for i in range(n)]
    return mosaic(parts)


def annotate(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["gene", "chrom", "start", "end", "strand"])


def pairs(links: pd.DataFrame) -> dict[tuple[str, str], tuple[float, int]]:
    return {(r.source, r.target): (r.weight, r.distance) for r in links.itertuples()}


def naive(peaks, genes, upstream, gene_body, max_distance):
    """Distance of every linked pair, base by base in spirit: a loop over genes and peaks."""
    found = {}
    for gene, chrom, start, end, strand in genes.itertuples(index=False):
        if strand == "-":
            low, high = (start if gene_body else end - 1), end + upstream
        else:
            low, high = max(start - upstream, 0), (end if gene_body else start + 1)
        for peak, (c, s, e) in peaks.items():
            if c != chrom:
                continue
            if s < high and low < e:
                distance = 0
            else:
                distance = min(abs(a - b) for a in (s, e - 1) for b in (low, high - 1))
            if distance <= max_distance:
                found[gene, peak] = min(distance, found.get((gene, peak), distance))
    return found


@st.composite
def genomes(draw):
    interval = st.tuples(
        st.sampled_from(CHROMOSOMES), st.integers(0, 300), st.integers(1, 60)
    ).map(lambda t: (t[0], t[1], t[1] + t[2]))
    peaks = draw(st.lists(interval, min_size=1, max_size=25, unique=True))
    body = st.tuples(
        st.sampled_from(["g0", "g1", "g2", "g3", "g4"]), interval, st.sampled_from("+-")
    )
    genes = draw(st.lists(body, min_size=1, max_size=10))
    return peaks, annotate(*[(g, *i, s) for g, i, s in genes])


@settings(max_examples=25, deadline=None)
@given(genomes(), st.integers(0, 40), st.booleans(), st.integers(0, 50))
def test_equals_a_loop_over_genes_and_peaks(genome, upstream, gene_body, max_distance):
    regions, genes = genome
    peaks = {f"{c}:{s}-{e}": (c, s, e) for c, s, e in regions}
    order = list(pd.unique(genes["gene"]))
    mdata = build(list(peaks), order)
    expected = naive(peaks, genes, upstream, gene_body, max_distance)
    options = {"upstream": upstream, "gene_body": gene_body, "max_distance": max_distance}
    if not expected:
        with pytest.raises(ValueError, match=r"No peak|no chromosome in common"):
            pp.peak_gene_links(mdata, annotation=genes, **options)
        return
    links = pp.peak_gene_links(mdata, annotation=genes, **options)
    assert pairs(links) == {pair: (1.0, d) for pair, d in expected.items()}
    places = [(order.index(g), list(peaks).index(p)) for g, p in pairs(links)]
    assert places == sorted(places)


STRANDS = annotate(("fwd", "chr1", 10_000, 12_000, "+"), ("rev", "chr1", 11_000, 13_000, "-"))


def test_promoter_is_on_the_side_of_the_strand():
    names = ["chr1:8100-8200", "chr1:14800-14900", "chr1:15001-15100", "chr1:7900-8000"]
    links = pp.peak_gene_links(build(names, ["fwd", "rev"]), annotation=STRANDS)
    assert list(pairs(links)) == [("fwd", names[0]), ("rev", names[1])]
    bodies = pp.peak_gene_links(
        build([*names, "chr1:11500-11600"], ["fwd", "rev"]), annotation=STRANDS, upstream=0
    )
    assert list(pairs(bodies)) == [("fwd", "chr1:11500-11600"), ("rev", "chr1:11500-11600")]


def test_distance_counts_bases_from_the_nearest_ones():
    """The start site of rev is base 12,999; the peak that begins at 13,000 is next to it."""
    names = ["chr1:12999-13050", "chr1:13000-13050", "chr1:12900-12990"]
    links = pp.peak_gene_links(
        build(names, ["rev"]), annotation=STRANDS, upstream=0, gene_body=False, max_distance=10
    )
    assert list(links["distance"]) == [0, 1, 10]


@pytest.mark.parametrize(
    ("decay", "formula"),
    [
        (None, lambda d: 1.0),
        ("power", lambda d: ((d + 1000) / 1000) ** -0.75),
        ("exponential", lambda d: 2 ** (-d / 10_000)),
        (lambda d: np.exp(-d / 5000), lambda d: np.exp(-d / 5000)),
    ],
)
def test_weights_follow_the_formula(decay, formula):
    starts = [10_000, 12_500, 40_000, 150_000]
    mdata = build([f"chr1:{s}-{s + 100}" for s in starts], ["fwd", "rev"])
    options = {"annotation": STRANDS, "max_distance": 150_000, "decay": decay}
    links = pp.peak_gene_links(mdata, **options)
    assert len(links) == 8
    np.testing.assert_allclose(links["weight"], [formula(d) for d in links["distance"]])
    kept = pp.peak_gene_links(mdata, min_weight=0.5, **options)
    pd.testing.assert_frame_equal(kept, links[links["weight"] >= 0.5].reset_index(drop=True))


@pytest.mark.parametrize(
    "columns",
    [
        ("chrom", "chromStart", "chromEnd"),
        ("chrom", "start", "end"),
        ("seqnames", "start", "end"),
        "interval",
        "chr1:{}-{}",
        "chr1-{}-{}",
        "chr1_{}_{}",
    ],
)
def test_coordinates_of_peaks_from_columns_and_names(columns):
    starts = [10_100, 20_000, 900]
    mdata = build(["a", "b", "c"], ["fwd", "rev"])
    atac = mdata["atac"]
    if isinstance(columns, tuple):
        atac.var[columns[0]] = pd.Categorical(["chr1"] * 3)
        atac.var[columns[1]] = starts
        atac.var[columns[2]] = [float(s + 50) for s in starts]
    elif columns == "interval":
        atac.var["interval"] = [f"chr1:{s}-{s + 50}" for s in starts]
    else:
        mdata = build([columns.format(s, s + 50) for s in starts], ["fwd", "rev"])
    links = pp.peak_gene_links(mdata, annotation=STRANDS)
    assert list(links["target"]) == [mdata["atac"].var_names[0]]


def test_names_of_scaffolds_may_hold_separators():
    genes = annotate(
        ("g", "chr1_KI270706v1_random", 0, 100, "+"), ("h", "GL000194.1", 0, 100, "+")
    )
    mdata = build(["chr1_KI270706v1_random_10_20", "GL000194.1-10-20"], ["g", "h"])
    assert len(pp.peak_gene_links(mdata, annotation=genes)) == 2


def test_genes_by_columns_of_var():
    mdata = build(["chr1:8100-8200", "chr1:14800-14900"], ["fwd", "rev", "unknown"])
    var = STRANDS.set_index("gene").reindex(mdata["rna"].var_names)
    for column in var:
        mdata["rna"].var[column] = var[column]
    expected = pp.peak_gene_links(mdata, annotation=STRANDS)
    pd.testing.assert_frame_equal(pp.peak_gene_links(mdata), expected)


def test_genes_by_path(tmp_path):
    path = tmp_path / "g.gtf"
    path.write_text('chr1\tx\tgene\t10001\t12000\t.\t+\t.\tgene_id "fwd";\n')
    mdata = build(["chr1:8100-8200"], ["fwd"])
    assert list(pp.peak_gene_links(mdata, annotation=path)["source"]) == ["fwd"]


def test_genes_by_identifier_and_version():
    genes = annotate(("A", "chr1", 0, 100, "+"), ("A", "chr2", 0, 100, "+"))
    genes["gene_id"] = ["ENSG01.3", "ENSG02.7"]
    peaks = ["chr1:10-20", "chr2:10-20"]
    mdata = build(peaks, ["A", "A-1"])
    assert list(pairs(pp.peak_gene_links(mdata, annotation=genes))) == [("A", p) for p in peaks]
    mdata["rna"].var["gene_ids"] = ["ENSG01", "ENSG02.1"]
    links = pp.peak_gene_links(mdata, annotation=genes)
    assert list(pairs(links)) == [("A", peaks[0]), ("A-1", peaks[1])]
    links = pp.peak_gene_links(build(peaks, ["ENSG02", "other"]), annotation=genes)
    assert list(pairs(links)) == [("ENSG02", peaks[1])]


def test_all_genes_of_an_annotation(caplog):
    mdata = build(["chr1:8100-8200", "chr1:14800-14900"], ["fwd"])
    with caplog.at_level(logging.INFO, logger="cantata"):
        links = pp.peak_gene_links(mdata, genes=None, annotation=STRANDS)
    assert list(links["source"]) == ["fwd", "rev"]
    assert "2 links: 2 of 2 genes, 2 of 2 peaks of modality 'atac'" in caplog.text


@pytest.mark.parametrize(
    ("peak", "chrom", "remedy"),
    [
        ("chr1:1-9", "1", r"'chr1', genes on e.g. '1'.*'chr' \+ annotation"),
        ("1:1-9", "chr1", r"'1', genes on e.g. 'chr1'.*removeprefix"),
        ("chr1:1-9", "NC_000001.11", "'chr1', genes on e.g. 'NC_000001.11'"),
        ("2:1-9", "1", "same assembly"),
    ],
)
def test_chromosomes_named_differently(peak, chrom, remedy):
    with pytest.raises(ValueError, match=remedy):
        pp.peak_gene_links(build([peak], ["g"]), annotation=annotate(("g", chrom, 0, 9, "+")))


def test_scaffolds_in_common_do_not_hide_chromosomes_named_differently():
    genes = [("s0", "GL1", 0, 900, "+"), ("s1", "GL1", 0, 900, "+")]
    genes += [(f"g{i}", "1", 1000 * i, 1000 * i + 900, "+") for i in range(200)]
    peaks = ["GL1:10-20", *(f"chr1:{1000 * i}-{1000 * i + 50}" for i in range(200))]
    mdata = build(peaks, [g[0] for g in genes])
    with pytest.raises(ValueError, match=r"only 2 of 202 genes .*'chr' \+ annotation\['chrom'\]"):
        pp.peak_gene_links(mdata, annotation=annotate(*genes))
    renamed = annotate(*genes)
    renamed.loc[2:, "chrom"] = "chr" + renamed.loc[2:, "chrom"]
    assert pp.peak_gene_links(mdata, annotation=renamed)["source"].nunique() == 202


def here(call, match):
    """Result of a call that warns once, at this file."""
    with pytest.warns(UserWarning, match=match) as caught:
        result = call()
    own = [w for w in caught if "var_names" not in str(w.message)]
    assert [w.filename for w in own if w.category is UserWarning] == [__file__]
    return result


def test_low_coverage_is_warned_of():
    genes = [(f"g{i}", "chr1", 1000 * i, 1000 * i + 900, "+") for i in range(40)]
    peaks = [f"chr1:{1000 * i}-{1000 * i + 50}" for i in range(40)]
    mdata = build(peaks, [g[0] for g in genes])
    # most genes are not annotated
    call = lambda: pp.peak_gene_links(mdata, annotation=annotate(*genes[:19]))  # noqa: E731
    here(call, "21 of 40 features of modality 'rna' are not in the annotation")
    # most lie where no peak is, and most peaks where no gene is
    elsewhere = annotate(*genes).assign(chrom=["chr1"] * 10 + ["NC_1"] * 30)
    mixed = build(
        [*peaks[:10], *(f"chr2:{i}00-{i}50" for i in range(1, 31))], list(mdata["rna"].var_names)
    )
    call = lambda: pp.peak_gene_links(mixed, annotation=elsewhere)  # noqa: E731
    here(call, "only 10 of 40 genes on a chromosome in common.*'NC_1'")
    # assemblies that differ
    far = annotate(*genes).assign(
        start=lambda t: t["start"] + 10**6, end=lambda t: t["end"] + 10**6
    )
    far.loc[0, ["start", "end"]] = [0, 900]
    call = lambda: pp.peak_gene_links(mdata, annotation=far)  # noqa: E731
    here(call, "Only 1 links: 1 of 40 genes, 1 of 40 peaks .*one assembly")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pp.peak_gene_links(mdata, annotation=annotate(*genes))


@pytest.mark.parametrize("annotated", ["CD3E", "Cd3e"])
def test_proteins_are_looked_up_by_aliases_and_the_gene_column(annotated):
    mdata = build(["chr1:0-10", "chr1:5000-5010", "chr1:9000-9010"], ["x"])
    adt = AnnData(np.ones((3, 4), np.float32), obs=mdata["rna"].obs.copy())
    adt.var_names = ["CD3", "CD45RA", "CD4", "isotype"]
    adt.var["gene"] = ["", "PTPRC", "", ""]
    mdata = mosaic({"adt": adt, "atac": mdata["atac"]})
    genes = annotate(
        (annotated, "chr1", 0, 100, "+"),
        ("PTPRC", "chr1", 5000, 5100, "+"),
        ("CD4", "chr1", 9000, 9100, "+"),
    )
    links = pp.peak_gene_links(mdata, genes="adt", annotation=genes)
    assert list(pairs(links)) == [
        ("CD3", "chr1:0-10"),
        ("CD45RA", "chr1:5000-5010"),
        ("CD4", "chr1:9000-9010"),
    ]
    activity = pp.gene_activity(mdata, genes="adt", annotation=genes, key_added=None)
    assert list(activity.var_names) == ["CD3", "CD45RA", "CD4"]


def test_genes_with_a_prefix_are_annotated():
    mdata = build(["chr1:8100-8200"], ["rna:fwd", "rna:rev"])
    links = pp.peak_gene_links(mdata, annotation=STRANDS, max_distance=50_000)
    assert set(links["source"]) == {"rna:fwd", "rna:rev"}


GENES = annotate(("fwd", "chr1", 10_000, 12_000, "+"))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"annotation": GENES, "peaks": "chromatin"}, KeyError, "peaks='chromatin'"),
        ({"annotation": GENES, "genes": "gex"}, KeyError, "genes='gex'.*genes=None"),
        ({"annotation": GENES, "genes": "atac"}, ValueError, "both 'atac'"),
        ({"annotation": GENES, "upstream": -1}, ValueError, "upstream=-1"),
        ({"annotation": GENES, "decay": "linear"}, ValueError, "decay='linear'"),
        ({"annotation": GENES, "decay": lambda d: -d - 1}, ValueError, "decay must return"),
        ({"annotation": GENES, "upstream": 0}, ValueError, "No peak of modality 'atac'"),
        ({"annotation": GENES, "links": GENES}, ValueError, "both given"),
        ({"annotation": 3}, TypeError, "annotation is a int"),
        ({"annotation": GENES.drop(columns="strand")}, ValueError, "needed are gene"),
        ({"annotation": GENES.assign(strand=".")}, ValueError, "1 of 1 genes have no strand"),
        ({"annotation": GENES.assign(strand="1")}, ValueError, "'fwd' is '1'"),
        ({"annotation": GENES.assign(end=1)}, ValueError, "1 of 1 genes .*'fwd'"),
        ({"annotation": GENES.assign(gene="FWD")}, ValueError, "None of the 1 features .*'FWD'"),
        ({}, ValueError, "'rna' has no coordinates of genes"),
        ({"genes": None}, ValueError, "annotation=None"),
    ],
)
def test_errors(options, error, match):
    with pytest.raises(error, match=match):
        pp.peak_gene_links(build(["chr1:8100-8200"], ["fwd"]), **options)


def test_features_that_are_no_peaks():
    with pytest.raises(ValueError, match=r"'atac': 1 of 2 features .* names, e.g. 'depth'"):
        pp.peak_gene_links(build(["chr1:8100-8200", "depth"], ["fwd"]), annotation=GENES)


TABLE = pd.DataFrame({"gene": ["b", "a", "a"], "peak": ["p1", "p1", "p0"]})


@pytest.mark.parametrize(
    "links",
    [
        TABLE,
        TABLE.set_axis(["source", "target"], axis=1),
        TABLE.set_axis(["target", "source"], axis=1),
        "table",
    ],
)
def test_links_of_a_table(links):
    mdata = build(["p0", "p1"], ["a", "b"])
    mdata.uns["table"] = TABLE
    found = pp.peak_gene_links(mdata, links=links)
    assert list(found.columns) == ["source", "target", "weight", "distance"]
    assert list(zip(found.source, found.target, strict=True)) == [
        ("a", "p0"),
        ("a", "p1"),
        ("b", "p1"),
    ]
    assert (found["weight"] == 1).all()


def test_result_can_be_given_back_as_links():
    mdata = build([f"chr1:{s}-{s + 9}" for s in (9000, 30_000)], ["fwd", "rev"])
    links = pp.peak_gene_links(mdata, annotation=STRANDS, max_distance=50_000, decay="power")
    again = pp.peak_gene_links(mdata, links=links)
    pd.testing.assert_frame_equal(again, links)


def test_repeated_links_keep_the_largest_weight_and_absent_ones_are_said():
    mdata = build(["p0", "p1"], ["a", "b"])
    table = pd.DataFrame(
        {"gene": ["a", "a", "c"], "peak": ["p0", "p0", "p1"], "weight": [0.2, 0.7, 1.0]}
    )
    said = "1 of 3 links .*'c' with 'p1'"
    found = here(lambda: pp.peak_gene_links(mdata, links=table), said)
    here(lambda: pp.gene_activity(mdata, links=table, key_added=None), said)
    ((link, (weight, distance)),) = pairs(found).items()
    assert (link, weight) == (("a", "p0"), 0.7)
    assert np.isnan(distance)
    everywhere = pp.peak_gene_links(mdata, genes=None, links=table)
    assert list(everywhere["source"]) == ["a", "c"]


@pytest.mark.parametrize(
    ("links", "error", "match"),
    [
        ("none", KeyError, "'none' is not in mdata.uns"),
        ([("a", "p0")], TypeError, "links is a list"),
        (TABLE.rename(columns={"peak": "region"}), ValueError, r"\['gene', 'region'\]"),
        (TABLE.iloc[:0], ValueError, "0 rows"),
        (TABLE.assign(weight=[1, -1, 1]), ValueError, "1 of 3 weights .*'a' with 'p1'"),
        (TABLE.assign(weight=np.nan), ValueError, "3 of 3 weights"),
        (TABLE.assign(peak="chr1"), ValueError, "3 of 3 links .*'b' with 'chr1'.*'p0'"),
    ],
)
def test_bad_tables(links, error, match):
    with pytest.raises(error, match=match):
        pp.peak_gene_links(build(["p0", "p1"], ["a", "b"]), links=links)
