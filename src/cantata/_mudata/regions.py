"""Where peaks and genes lie: coordinates from columns, from names, or from an annotation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cantata._mudata.annotation import read_annotation
from cantata._mudata.checks import warn_user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

logger = logging.getLogger(__name__)

COORDINATES = (
    ("chrom", "chromStart", "chromEnd"),
    ("chrom", "start", "end"),
    ("chromosome", "start", "end"),
    ("chr", "start", "end"),
    ("seqnames", "start", "end"),
    ("Chromosome", "Start", "End"),
)
"""Names of columns that hold coordinates; the first that a table has count."""

INTERVAL = "interval"
"""Column of 10x pipelines and muon that holds regions such as ``chr1:100-200``."""

IDS = ("gene_ids", "gene_id")
"""Columns of ``.var`` that may hold gene identifiers beside names."""

MAX_UNKNOWN = 0.5
"""Larger shares of genes that are not annotated, or lie where no peak is, are warned of."""

_REGION = r"^(.+)[:_-](\d[\d,]*)[_-](\d[\d,]*)$"
_VERSION = r"\.\d+"


def peak_regions(name: str, adata: AnnData) -> pd.DataFrame:
    """Coordinates of every feature of a chromatin modality: ``chrom``, ``start``, ``end``.

    They are in columns of ``.var`` (:data:`COORDINATES`, :data:`INTERVAL`) or parsed from names
    such as ``chr1:100-200``, ``chr1-100-200`` and ``chr1_100_200``. A feature without valid ones
    is a ``ValueError``.
    """
    regions = _from_columns(adata.var)
    where = "columns of .var"
    if regions is None:
        regions, where = _parse(adata.var_names.to_series()), "names"
    bad = ~_valid(regions)
    if bad.any():
        raise ValueError(
            f"Modality {name!r}: {bad.sum()} of {adata.n_vars} features have no valid "
            f"coordinates in their {where}, e.g. {adata.var_names[bad][0]!r}. Give .var the "
            "columns chrom, start, end (0-based, half-open), or names such as chr1:100-200; leave "
            "out features that are no peaks."
        )
    return _typed(regions)


def gene_regions(
    name: str | None,
    adata: AnnData | None,
    annotation: pd.DataFrame | str | Path | None,
    aliases: Sequence[Sequence[Sequence[str]]] = (),
) -> pd.DataFrame:
    """Coordinates of genes.

    Parameters
    ----------
    name, adata
        The modality whose genes are looked up; None: every gene of the annotation.
    annotation
        Table as from :func:`cantata.pp.read_annotation`, or path of a GTF; None: columns of
        ``.var``.
    aliases
        Other names of each feature, one list after the other: features that are not found as they
        are named are looked up by these, in any case.

    Returns
    -------
    Columns ``gene`` (name of the feature), ``chrom``, ``start``, ``end``, ``strand``; a gene that
    is annotated in several places has several rows, one that is not annotated has none.

    Raises
    ------
    TypeError
        If `annotation` is neither a table nor a path.
    ValueError
        If coordinates are missing or wrong, or no gene is annotated.
    """
    if annotation is None:
        return _genes_of_var(name, adata)
    table = _check_annotation(annotation)
    if adata is None:
        return table[["gene", "chrom", "start", "end", "strand"]]
    rows = _look_up(adata.var, table, aliases)
    annotated = np.unique(rows["feature"])
    if not annotated.size:
        raise ValueError(
            f"None of the {adata.n_vars} features of modality {name!r} (e.g. "
            f"{adata.var_names[0]!r}) is in the annotation (e.g. {table['gene'].iloc[0]!r}). "
            "Is it the same species, and are both names or both identifiers?"
        )
    if annotated.size < adata.n_vars:
        absent = np.setdiff1d(np.arange(adata.n_vars), annotated)
        text = (
            f"{absent.size} of {adata.n_vars} features of modality {name!r} are not in the "
            f"annotation (e.g. {adata.var_names[absent[0]]!r})."
        )
        if absent.size > MAX_UNKNOWN * adata.n_vars:
            warn_user(f"{text} Is it the same species, and are both names or both identifiers?")
        else:
            logger.info("%s", text)
    result = table.iloc[rows["row"]].reset_index(drop=True)
    result["gene"] = adata.var_names.to_numpy()[rows["feature"]]
    return result[["gene", "chrom", "start", "end", "strand"]]


def check_chromosomes(peaks: pd.DataFrame, genes: pd.DataFrame, name: str) -> None:
    """Refuse peaks and genes whose chromosomes are named differently.

    That is so if they have none in common, or if more genes lie on chromosomes of peaks once
    ``"chr"`` is put in front of those of the genes, or taken away. Where most genes and most peaks
    lie on chromosomes that the other has not, there is a warning.
    """
    of_peaks, of_genes = pd.unique(peaks["chrom"]), genes["chrom"].astype(str)
    forms = {
        "annotation['chrom']": of_genes,
        "'chr' + annotation['chrom']": "chr" + of_genes,
        "annotation['chrom'].str.removeprefix('chr')": of_genes.str.removeprefix("chr"),
    }
    n_on = {form: int(chrom.isin(of_peaks).sum()) for form, chrom in forms.items()}
    n_now, (best, n_best) = next(iter(n_on.values())), max(n_on.items(), key=lambda item: item[1])
    share = max(n_now / len(genes), peaks["chrom"].isin(of_genes).mean())
    if n_now == n_best and share >= 1 - MAX_UNKNOWN:
        return
    elsewhere = of_genes[~of_genes.isin(of_peaks)]
    common = f"only {n_now} of {len(genes)} genes on a chromosome" if n_now else "no chromosome"
    text = (
        f"Peaks of modality {name!r} and genes have {common} in common: peaks lie on e.g. "
        f"{of_peaks[0]!r}, genes on e.g. {elsewhere.iloc[0]!r}."
    )
    if n_best > n_now:
        raise ValueError(f"{text} Rename them: annotation['chrom'] = {best}.")
    remedy = "Rename those of the annotation, or take one of the same assembly and provider."
    if not n_now:
        raise ValueError(f"{text} {remedy}")
    warn_user(f"{text} {remedy}")


def _from_columns(var: pd.DataFrame) -> pd.DataFrame | None:
    """Chromosome, start and end as they are in the table, or None."""
    for columns in COORDINATES:
        if set(columns) <= set(var.columns):
            return var[list(columns)].set_axis(["chrom", "start", "end"], axis=1)
    if INTERVAL in var:
        return _parse(var[INTERVAL])
    return None


def _parse(names: pd.Series) -> pd.DataFrame:
    """Regions written as text; rows that are no region are missing."""
    parts = names.astype(str).str.extract(_REGION)
    parts.columns = ["chrom", "start", "end"]
    for column in ("start", "end"):
        parts[column] = pd.to_numeric(parts[column].str.replace(",", ""), errors="coerce")
    return parts


def _valid(regions: pd.DataFrame) -> np.ndarray:
    """Rows with a chromosome and 0 <= start < end."""
    start, end = (pd.to_numeric(regions[c], errors="coerce") for c in ("start", "end"))
    chrom = regions["chrom"]
    return np.asarray(chrom.notna() & (chrom.astype(str) != "") & (start >= 0) & (start < end))


def _typed(regions: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "chrom": regions["chrom"].astype(str).to_numpy(dtype=object),
            "start": pd.to_numeric(regions["start"]).to_numpy(dtype=np.int64),
            "end": pd.to_numeric(regions["end"]).to_numpy(dtype=np.int64),
        }
    )


def _genes_of_var(name: str | None, adata: AnnData | None) -> pd.DataFrame:
    if adata is None:
        raise ValueError(
            "annotation=None: give annotation=... (a GTF or a table of genes), or genes=... (a "
            "modality whose .var holds coordinates)."
        )
    regions = _from_columns(adata.var)
    known = np.zeros(adata.n_vars, dtype=bool) if regions is None else _valid(regions)
    if regions is None or not known.any():
        raise ValueError(
            f"Modality {name!r} has no coordinates of genes in .var. Give annotation=... (a GTF "
            "or a table from cantata.pp.read_annotation), or the columns chrom, start, end, "
            "strand."
        )
    if not known.all():
        logger.info(
            "%d of %d features of modality %r have no coordinates (e.g. %r).",
            (~known).sum(),
            known.size,
            name,
            adata.var_names[~known][0],
        )
    table = _typed(regions[known])
    table.insert(0, "gene", adata.var_names[known].to_numpy())
    strand = adata.var["strand"] if "strand" in adata.var else pd.Series(".", adata.var_names)
    table["strand"] = strand[known].astype(str).to_numpy(dtype=object)
    return table


def _check_annotation(annotation: pd.DataFrame | str | Path) -> pd.DataFrame:
    """Table with valid coordinates."""
    if isinstance(annotation, str | Path):
        return read_annotation(annotation)
    if not isinstance(annotation, pd.DataFrame):
        raise TypeError(
            f"annotation is a {type(annotation).__name__}; give a table with columns gene, chrom, "
            "start, end, strand, or the path of a GTF."
        )
    absent = {"gene", "strand"} - set(annotation.columns)
    regions = _from_columns(annotation)
    if absent or regions is None or annotation.empty:
        raise ValueError(
            f"annotation has {len(annotation)} rows and the columns {list(annotation.columns)}; "
            "needed are gene, chrom, start, end (0-based, half-open) and strand."
        )
    bad = ~_valid(regions) | annotation["gene"].isna().to_numpy()
    if bad.any():
        raise ValueError(
            f"annotation: {bad.sum()} of {bad.size} genes have no name or no valid coordinates, "
            f"e.g. {annotation['gene'][bad].iloc[0]!r}. Leave them out."
        )
    table = _typed(regions)
    for column in {"gene", "gene_id", "strand"} & set(annotation.columns):
        table[column] = annotation[column].astype(str).to_numpy(dtype=object)
    return table


def _look_up(
    var: pd.DataFrame, table: pd.DataFrame, aliases: Sequence[Sequence[Sequence[str]]]
) -> pd.DataFrame:
    """Pairs of feature and row of the annotation, by position.

    A feature is looked up by its identifier, then by its name, then by its name taken as an
    identifier, then by its aliases; the first that is annotated counts. Versions of identifiers
    are ignored.
    """
    names = var.index.to_series().astype(str).reset_index(drop=True)
    keys = [(names, table["gene"])]
    if "gene_id" in table:
        ids = _unversioned(table["gene_id"])
        keys.append((_unversioned(names), ids))
        columns = [column for column in IDS if column in var]
        keys[:0] = [(_unversioned(var[column].reset_index(drop=True)), ids) for column in columns]
    folded = [table["gene"].str.casefold(), *([ids.str.casefold()] if "gene_id" in table else [])]
    for names_of_features in aliases:
        series = pd.Series(
            [[name.casefold() for name in names] for names in names_of_features], dtype=object
        ).explode()
        keys += [(series.dropna(), of_row) for of_row in folded]
    pending = names.index
    matches = []
    for of_feature, of_row in keys:
        of_feature = of_feature[of_feature.index.isin(pending)].astype(object)
        left = pd.DataFrame({"feature": of_feature.index, "key": of_feature.to_numpy()})
        right = pd.DataFrame({"row": np.arange(len(table)), "key": of_row.astype(object)})
        pairs = left.merge(right, on="key")
        matches.append(pairs[["feature", "row"]])
        pending = pending.difference(pairs["feature"])
    found = pd.concat(matches, ignore_index=True).drop_duplicates()
    return found.sort_values(["feature", "row"])


def _unversioned(ids: pd.Series) -> pd.Series:
    """Ensembl identifiers without their version; others as they are."""
    text = ids.astype(str).astype(object)
    return text.where(~text.str.startswith("ENS"), text.str.replace(_VERSION, "", n=1, regex=True))
