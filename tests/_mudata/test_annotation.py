from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from cantata import pp

if TYPE_CHECKING:
    from pathlib import Path


def gtf(*rows: tuple[str, str, int, int, str, str], source: str = "x") -> str:
    """Lines of a GTF from chromosome, feature, start, end, strand and attributes."""
    return "".join(
        f"{chrom}\t{source}\t{feature}\t{start}\t{end}\t.\t{strand}\t.\t{attributes}\n"
        for chrom, feature, start, end, strand, attributes in rows
    )


SOX2 = 'gene_id "ENSG01.4"; {} gene_type "protein_coding"; gene_name "SOX2"; level 2;'
SOX2_OT = 'gene_id "ENSG02.1"; gene_type "lncRNA"; gene_name "SOX2-OT"; tag "a"; tag "b";'
GENCODE = '##description: two genes; "quoted" comment\n##provider: GENCODE\n' + gtf(
    ("chr1", "gene", 101, 500, "+", SOX2.format("")),
    ("chr1", "transcript", 101, 500, "+", SOX2.format('transcript_id "T1";')),
    ("chr1", "exon", 101, 200, "+", SOX2.format('transcript_id "T1"; exon_number 1;')),
    ("chr1", "gene", 400, 900, "-", SOX2_OT),
    source="HAVANA",
)
NAMED = 'gene_id "ENSG01"; gene_version "4"; gene_name "A#;B"; gene_biotype "miRNA";'
UNNAMED = 'gene_id "ENSG02"; gene_version "1"; gene_biotype "lncRNA";'
ENSEMBL = "#!genome-build GRCh38.p14\n" + gtf(
    ("1", "gene", 11, 20, "-", NAMED), ("1", "gene", 31, 40, "+", UNNAMED)
)
DDX = 'gene_id "DDX11L1"; transcript_id "{}"; description "# sign, gene_biotype"; gene "DDX11L1"; '
WASH = 'gene_id "WASH7P_1"; transcript_id ""; gene "WASH7P"; gene_biotype "pseudogene"; '
REFSEQ = (
    "#gtf-version 2.2\n"
    + gtf(
        ("NC_000001.11", "gene", 11, 20, "+", DDX.format("") + 'gene_biotype "lncRNA"; '),
        ("NC_000001.11", "transcript", 11, 20, "+", DDX.format("NR_1")),
        ("NC_000001.11", "gene", 51, 60, "-", WASH),
    )
    + "###\n"
)
PART = 'gene_id "{0}"; transcript_id "{1}"; gene_name "{0}";'
UCSC = gtf(
    ("chr2", "exon", 301, 400, "-", PART.format("Reln", "N1")),
    ("chr2", "transcript", 101, 400, "-", PART.format("Reln", "N1")),
    ("chr2", "exon", 51, 120, "-", PART.format("Reln", "N2")),
    ("chrX", "exon", 11, 20, "+", PART.format("Par", "N3")),
    ("chrY", "exon", 31, 40, "+", PART.format("Par", "N4")),
)


def _read(tmp_path: Path, text: str) -> pd.DataFrame:
    path = tmp_path / "genes.gtf"
    path.write_text(text)
    return pp.read_annotation(path)


def _rows(table: pd.DataFrame) -> list[tuple]:
    return list(table.itertuples(index=False, name=None))


def test_gencode(tmp_path):
    table = _read(tmp_path, GENCODE)
    assert list(table.columns) == ["chrom", "start", "end", "strand", "gene", "gene_id", "biotype"]
    assert _rows(table) == [
        ("chr1", 100, 500, "+", "SOX2", "ENSG01.4", "protein_coding"),
        ("chr1", 399, 900, "-", "SOX2-OT", "ENSG02.1", "lncRNA"),
    ]


def test_ensembl_gene_without_a_name_goes_by_its_identifier(tmp_path):
    assert _rows(_read(tmp_path, ENSEMBL)) == [
        ("1", 10, 20, "-", "A#;B", "ENSG01", "miRNA"),
        ("1", 30, 40, "+", "ENSG02", "ENSG02", "lncRNA"),
    ]


def test_refseq(tmp_path):
    assert _rows(_read(tmp_path, REFSEQ)) == [
        ("NC_000001.11", 10, 20, "+", "DDX11L1", "DDX11L1", "lncRNA"),
        ("NC_000001.11", 50, 60, "-", "WASH7P", "WASH7P_1", "pseudogene"),
    ]


def test_genes_without_rows_of_their_own_span_their_transcripts(tmp_path):
    table = _read(tmp_path, UCSC)
    assert "biotype" not in table
    assert _rows(table) == [
        ("chr2", 50, 400, "-", "Reln", "Reln"),
        ("chrX", 10, 20, "+", "Par", "Par"),
        ("chrY", 30, 40, "+", "Par", "Par"),
    ]


def test_a_transgene_given_by_an_exon_is_added_to_the_genes(tmp_path):
    exon = gtf(("GFP", "exon", 1, 720, "+", 'gene_id "GFP"; transcript_id "GFP";'))
    table = _read(tmp_path, GENCODE + exon)
    assert list(table["gene"]) == ["SOX2", "SOX2-OT", "GFP"]
    assert _rows(table)[2][:6] == ("GFP", 0, 720, "+", "GFP", "GFP")
    assert pd.isna(table["biotype"][2])


def test_parts_before_their_gene_do_not_make_a_second_one(tmp_path):
    lines = GENCODE.splitlines(keepends=True)
    moved = "".join([*lines[:2], lines[3], lines[4], lines[2], lines[5]])
    pd.testing.assert_frame_equal(_read(tmp_path, moved), _read(tmp_path, GENCODE))


@pytest.mark.parametrize("text", [GENCODE, UCSC])
def test_size_of_a_part_and_compression_change_nothing(tmp_path, monkeypatch, text):
    expected = _read(tmp_path, text)
    monkeypatch.setattr("cantata._mudata.annotation.CHUNK_ROWS", 1)
    pd.testing.assert_frame_equal(_read(tmp_path, text), expected)
    path = tmp_path / "without_the_usual_ending"
    path.write_bytes(gzip.compress(text.encode()))
    pd.testing.assert_frame_equal(pp.read_annotation(str(path)), expected)


@pytest.mark.parametrize(
    "attributes",
    ['gene_id "G"; gene_name "A";', "gene_id G; gene_name A", 'gene_name "A";gene_id "G"'],
)
def test_quotes_and_order_of_attributes_do_not_matter(tmp_path, attributes):
    row = f"chr1\tx\tgene\t1\t2\t.\t+\t.\t{attributes}\r\n"
    assert _rows(_read(tmp_path, row)) == [("chr1", 0, 2, "+", "A", "G")]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no row with the nine columns"),
        ("# only\n# comments\n", "no row with the nine columns"),
        ("chr1\t1\t2\n", "no row with the nine columns"),
        ("chr1\tx\tgene\t1\t2\t.\t+\t.\tID=gene:1;Name=A\n", "'ID=gene:1;Name=A'.*GFF3"),
        ('chr1\tx\tgene\t9\t2\t.\t+\t.\tgene_id "G";\n', "1 rows .*'G' at chr1:9-2"),
        ('chr1\tx\tgene\ta\t2\t.\t+\t.\tgene_id "G";\n', "no valid coordinates"),
    ],
)
def test_errors(tmp_path, text, match):
    with pytest.raises(ValueError, match=match):
        _read(tmp_path, text)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        pp.read_annotation(tmp_path / "no.gtf")
