"""Read the genes of a GTF file."""

from __future__ import annotations

import csv
import gzip
import io
import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import bioframe
import pandas as pd
import rich.progress

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ["chrom", "start", "end", "strand", "gene", "gene_id", "biotype"]
"""Columns of an annotation; ``biotype`` only where the file has it."""

PROGRESS_BYTES = 20_000_000
"""Files of at least so many bytes are read with a progress bar."""

CHUNK_ROWS = 200_000
"""Rows that are parsed at a time."""

_VALUE = r'\s+(?:"\s*([^"]+?)\s*"|([^\s";]+))'
_ID = re.compile(rf"(?:^|;)\s*gene_id{_VALUE}".encode())
_NAMES = ("gene_name", "gene", "gene_id")
_BIOTYPES = ("gene_type", "gene_biotype")


def read_annotation(path: str | Path) -> pd.DataFrame:
    r"""Read the genes of a GTF file.

    Files of GENCODE, Ensembl, NCBI RefSeq and UCSC are understood, plain or gzipped. A gene
    without a row of its own (UCSC files, transgenes added by hand) spans its transcripts and exons
    on one chromosome and strand.

    Parameters
    ----------
    path
        GTF file.

    Returns
    -------
    One row per gene in the order of the file, with columns

    - ``chrom``: chromosome as named in the file,
    - ``start``, ``end``: in base pairs, 0-based and half-open (a GTF is 1-based and closed),
    - ``strand``: ``"+"``, ``"-"`` or ``"."``,
    - ``gene``: ``gene_name``, else ``gene``, else ``gene_id``,
    - ``gene_id``: with its version, if any,
    - ``biotype``: ``gene_type`` or ``gene_biotype``; only if the file has either.

    Names may repeat, as do those of genes on both X and Y.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds no gene, is a GFF3, or a gene has no valid coordinates.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import cantata
    >>> row = 'chr1\tHAVANA\tgene\t11\t20\t.\t+\t.\tgene_id "G1"; gene_name "Reln";'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "genes.gtf"
    ...     _ = path.write_text(row)
    ...     cantata.pp.read_annotation(path)
      chrom  start  end strand  gene gene_id
    0  chr1     10   20      +  Reln      G1
    """
    path = Path(path)
    genes: list[pd.DataFrame] = []
    spans: list[pd.DataFrame] = []
    lines = _GeneLines()
    for rows in _read_chunks(path, lines):
        is_gene = rows["feature"] == "gene"
        genes.append(_parse(rows[is_gene]))
        spans.append(_merge(_parse(rows[~is_gene])))
    if not genes:
        raise ValueError(_no_gene(path, lines.first_attributes))
    return _assemble(genes, spans)


@dataclass
class _GeneLines:
    """Picks the lines that say where genes are, and remembers which genes it has seen."""

    known: set[bytes] = field(default_factory=set)
    first_attributes: bytes = b""

    def picks(self, line: bytes) -> bool:
        """Whether it is a gene, or a part of a gene that had no line of its own so far."""
        fields = line.split(b"\t", 8)
        if len(fields) < 9 or line.startswith(b"#"):
            return False
        self.first_attributes = self.first_attributes or fields[8]
        gene_id = _ID.search(fields[8])
        if gene_id is None or (fields[2] != b"gene" and gene_id[0] in self.known):
            return False
        if fields[2] == b"gene":
            self.known.add(gene_id[0])
        return True


def _read_chunks(path: Path, lines: _GeneLines) -> Iterator[pd.DataFrame]:
    """The picked rows of the file as text, indexed in their order, a chunk at a time."""
    n_rows = 0
    with ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(
            rich.progress.open(
                path,
                "rb",
                description="Reading genes",
                disable=path.stat().st_size < PROGRESS_BYTES,
            )
        )
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file: Any = stack.enter_context(gzip.open(raw)) if zipped else raw
        picked = filter(lines.picks, file)
        while part := list(islice(picked, CHUNK_ROWS)):
            rows = bioframe.read_table(
                io.BytesIO(b"".join(part)), schema="gtf", dtype=str, quoting=csv.QUOTE_NONE
            )
            rows.index += n_rows
            n_rows += len(rows)
            yield rows.assign(gene_id=_attribute(rows["attributes"], "gene_id"))


def _attribute(attributes: pd.Series, *keys: str) -> pd.Series:
    """Value of the first of these attributes that a row has, quoted or not; None without any."""
    patterns = [re.compile(rf"(?:^|;)\s*{re.escape(key)}{_VALUE}") for key in keys]
    values = []
    for text in attributes:
        match = next((match for p in patterns if (match := p.search(text))), None)
        values.append(match and (match[1] or match[2]))
    return pd.Series(values, index=attributes.index, dtype=object)


def _parse(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the file with numbers, name and biotype in place of text."""
    numbers = rows[["start", "end"]].apply(pd.to_numeric, errors="coerce")
    bad = numbers.isna().any(axis=1) | (numbers["start"] > numbers["end"])
    if bad.any():
        row = rows[bad].iloc[0]
        raise ValueError(
            f"{bad.sum()} rows of the GTF have no valid coordinates, e.g. gene "
            f"{row['gene_id']!r} at {row['chrom']}:{row['start']}-{row['end']}."
        )
    return pd.DataFrame(
        {
            "line": rows.index,
            "chrom": rows["chrom"],
            "start": numbers["start"].astype("int64") - 1,
            "end": numbers["end"].astype("int64"),
            "strand": rows["strand"].where(rows["strand"].isin(["+", "-"]), "."),
            "gene": _attribute(rows["attributes"], *_NAMES),
            "gene_id": rows["gene_id"],
            "biotype": _attribute(rows["attributes"], *_BIOTYPES),
        }
    )


def _merge(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per gene, chromosome and strand: from the first to the last of its bases."""
    how = {"line": "min", "start": "min", "end": "max", "gene": "first", "biotype": "first"}
    return rows.groupby(["gene_id", "chrom", "strand"], sort=False).agg(how).reset_index()


def _assemble(genes: list[pd.DataFrame], spans: list[pd.DataFrame]) -> pd.DataFrame:
    """Genes with a row of their own, and the other ones' spans, in the order of the file."""
    table = pd.concat(genes, ignore_index=True)
    rest = _merge(pd.concat(spans, ignore_index=True))
    rest = rest[~rest["gene_id"].isin(table["gene_id"])]
    table = pd.concat([t for t in (table, rest) if len(t)], ignore_index=True)
    table = table.sort_values("line", kind="stable").reset_index(drop=True)
    return table[COLUMNS if table["biotype"].notna().any() else COLUMNS[:-1]]


def _no_gene(path: Path, attributes: bytes) -> str:
    """What to say of a file without genes."""
    if not attributes:
        return f"{path.name} has no row with the nine columns of a GTF."
    text = attributes.decode(errors="replace").strip()[:80]
    hint = " It looks like a GFF3: get the GTF of the same release." if "=" in text else ""
    return (
        f"{path.name} names no gene: the ninth column should read 'gene_id \"...\";' and reads "
        f"{text!r}.{hint}"
    )
