"""Loaders of public data: files that are found in a directory or downloaded, and checked."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mudata
import numpy as np
import pandas as pd
import pooch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from cantata._mudata.obs import coalesce_obs
from cantata.datasets._assemble import assemble, expected_warnings

if TYPE_CHECKING:
    from collections.abc import Sequence

PBMC_MOSAIC_CONTENT = "6b3322264fafc9b87e90d5cc860c67d9a08e0a57811dc0e9a987a4e271e4b021"
"""`content_digest` of ``pbmc_mosaic_midas.h5mu`` with its batches and labels."""

DIRECTORY_VARIABLES = ("CANTATA_DATA_DIR", "CANTATA_TEST_DATA")


@dataclass(frozen=True)
class RemoteFile:
    """A file that a loader needs."""

    filename: str
    origin: str
    """Where the content comes from, a sentence for error messages."""
    sha256: str | None = None
    """Checksum of the bytes; None where none is known."""
    url: str | None = None
    """Public address of exactly this file; None where there is none."""


REGISTRY: dict[str, RemoteFile] = {
    "pbmc_mosaic": RemoteFile(
        "pbmc_mosaic_midas.h5mu",
        origin="It is a compressed copy of the file of the entry 'pbmc_mosaic_upstream'.",
        sha256="1b262cfc39bece265c3c261212e4055b2b991d3f689df0bc21f720a2d4c82835",
    ),
    "pbmc_mosaic_upstream": RemoteFile(
        "quickstart_pbmc_mosaic.h5mu",
        origin="It is the quick-start data of MIDAS (github.com/labomics/midas, since its 0.2.0).",
        url="https://raw.githubusercontent.com/labomics/midas/f10c652368a3702b915d7406fa6fda2e624b8791/src/scmidas/data/quickstart_pbmc_mosaic.h5mu",
    ),
    "pbmc5k_citeseq": RemoteFile(
        "pbmc5k_citeseq.h5mu",
        origin=(
            "It joins, by barcode, the RNA in github.com/YosefLab/totalVI_reproducibility with "
            "the proteins and labels in github.com/shuxiaoc/mario-py; no address holds the "
            "joined file."
        ),
        sha256="9f3789fd3d3b56a182f0452b237dca362543838a83460e20bd802043e889690a",
    ),
    "snareseq_cortex": RemoteFile(
        "snareseq_mouse_cortex_open.h5mu",
        origin=(
            "It holds the matrices and labels of SNARE-seq (GSE126074) as distributed in "
            "github.com/PeterZZQ/scMoMaT; no address holds this file."
        ),
        sha256="15dd2d79ad9e75cc5f17e7be8ef9c1124318b4969a315ab84f0697a1413e3826",
    ),
}


def pbmc_mosaic(*, data_dir: str | os.PathLike[str] | None = None) -> MuData:
    """A real mosaic: 1,600 PBMCs, of which 400 have RNA only, 400 proteins only and 800 both.

    RNA has 500 genes, proteins 224, both are counts. The rows of the two modalities differ in
    number and order.

    Parameters
    ----------
    data_dir
        Directory with ``pbmc_mosaic_midas.h5mu`` or ``quickstart_pbmc_mosaic.h5mu``. By default
        those that the environment variables ``CANTATA_DATA_DIR`` and ``CANTATA_TEST_DATA`` name.

    Returns
    -------
    MuData with modalities ``"rna"`` (1200 x 500) and ``"adt"`` (1200 x 224), counts in ``X`` as
    CSR float32, and at both levels ``obs["batch"]`` (p1_0 RNA only, p2_0 proteins only, p3_0 and
    p4_0 both) and ``obs["celltype"]`` (8 coarse classes).

    Raises
    ------
    FileNotFoundError
        If no directory has the file and it cannot be downloaded.
    ValueError
        If a file is found that is not this data.

    Warns
    -----
    UserWarning
        If the file is the upstream one and its names, counts or labels differ from those that the
        figures in cantata's documentation were made with.

    Notes
    -----
    The data are the quick-start file of MIDAS [1]_ (MIT licence), a subset of the CITE-seq study
    of Hao et al. [2]_ (GSE164378). Without a local file it is downloaded once, from the commit of
    the MIDAS repository that holds it. We know no checksum of that file, so what comes is compared
    with our copy by content (a digest of names, counts and labels). The copy, smaller because
    compressed, is checked by SHA-256.

    References
    ----------
    .. [1] He et al. (2024), Mosaic integration and knowledge transfer of single-cell multimodal
       data with MIDAS, Nature Biotechnology.
    .. [2] Hao et al. (2021), Integrated analysis of multimodal single-cell data, Cell.

    Examples
    --------
    >>> mdata = cantata.datasets.pbmc_mosaic()  # doctest: +SKIP
    >>> mdata["rna"].shape, mdata["adt"].shape  # doctest: +SKIP
    ((1200, 500), (1200, 224))
    """
    columns = ("batch", "celltype")
    path = find("pbmc_mosaic", data_dir)
    if path is not None:
        return _read(path, ("rna", "adt"), columns)
    path = fetch("pbmc_mosaic_upstream", data_dir)
    mdata = _read(path, ("rna", "adt"), columns)
    if content_digest(mdata, columns) != PBMC_MOSAIC_CONTENT:
        warnings.warn(
            f"{path} is readable but its names, counts or labels are not those that the figures "
            "in cantata's documentation were made with; expect other figures.",
            UserWarning,
            stacklevel=2,
        )
    return mdata


def pbmc5k_citeseq(*, data_dir: str | os.PathLike[str] | None = None) -> MuData:
    """3,920 PBMCs with RNA (4,000 genes) and 29 proteins in every cell.

    Parameters
    ----------
    data_dir
        Directory with ``pbmc5k_citeseq.h5mu``. By default those that the environment variables
        ``CANTATA_DATA_DIR`` and ``CANTATA_TEST_DATA`` name.

    Returns
    -------
    MuData with modalities ``"rna"`` and ``"adt"``, counts in ``X`` as CSR float32, at both levels
    ``obs["batch"]`` (one) and ``obs["cell_type"]`` (7 classes), and ``mdata["adt"].var["gene"]``,
    the gene of each protein. Nine names (CD4, CD14 and others) occur in both modalities.

    Raises
    ------
    FileNotFoundError
        If no directory has the file. It joins, by barcode, the RNA of the totalVI study [1]_ with
        the proteins and labels of MARIO [2]_; no public address holds the joined file, so it is
        never downloaded.
    ValueError
        If the file's SHA-256 is another.

    References
    ----------
    .. [1] Gayoso et al. (2021), Joint probabilistic modeling of single-cell multi-omic data with
       totalVI, Nature Methods. The cells are 10x Genomics' 5k PBMCs (v3).
    .. [2] Zhu et al. (2023), Robust single-cell matching and multimodal analysis using shared and
       distinct features, Nature Methods.

    Examples
    --------
    >>> cantata.datasets.pbmc5k_citeseq(data_dir="data")["adt"].shape  # doctest: +SKIP
    (3920, 29)
    """
    path = fetch("pbmc5k_citeseq", data_dir)
    return _read(path, ("rna", "adt"), ("batch", "cell_type"))


def snareseq_cortex(*, data_dir: str | os.PathLike[str] | None = None) -> MuData:
    """6,836 nuclei of adult mouse cortex with RNA (1,677 genes) and 25,734 chromatin peaks.

    Parameters
    ----------
    data_dir
        Directory with ``snareseq_mouse_cortex_open.h5mu``. By default those that the environment
        variables ``CANTATA_DATA_DIR`` and ``CANTATA_TEST_DATA`` name.

    Returns
    -------
    MuData with modalities ``"rna"`` and ``"atac"``, counts in ``X`` as CSR float32, at both levels
    ``obs["batch"]`` (8), ``obs["cell_type"]`` (14 classes and ``"Mis"``, unassigned: leave these
    cells out of scores) and ``obs["cell_type_fine"]``; intervals of the peaks in
    ``mdata["atac"].var``, and ``uns["gene_peak_links"]``, a table (gene, peak). 1,623 peaks have
    no count.

    Raises
    ------
    FileNotFoundError
        If no directory has the file. It holds the matrices of SNARE-seq [1]_ (GSE126074) as
        distributed with scMoMaT (MIT licence); no public address holds it in this form, so it is
        never downloaded.
    ValueError
        If the file's SHA-256 is another.

    References
    ----------
    .. [1] Chen et al. (2019), High-throughput sequencing of the transcriptome and chromatin
       accessibility in the same cell, Nature Biotechnology.

    Examples
    --------
    >>> cantata.datasets.snareseq_cortex(data_dir="data")["atac"].shape  # doctest: +SKIP
    (6836, 25734)
    """
    path = fetch("snareseq_cortex", data_dir)
    return _read(path, ("rna", "atac"), ("batch", "cell_type", "cell_type_fine"))


# Files -------------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Checksum of a file's bytes, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _directories(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    if data_dir is not None:
        return [Path(data_dir)]
    return [Path(os.environ[name]) for name in DIRECTORY_VARIABLES if os.environ.get(name)]


def find(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """A file of the registry in a directory, by default those of the environment, or None.

    Raises
    ------
    ValueError
        If the file is there but its checksum is another.
    """
    entry = REGISTRY[name]
    for directory in _directories(data_dir):
        path = directory / entry.filename
        if not path.is_file():
            continue
        if entry.sha256 is not None and (checksum := sha256_of(path)) != entry.sha256:
            raise ValueError(
                f"{path} is not the file that {name!r} stands for: its SHA-256 is {checksum}, "
                f"expected {entry.sha256}. Replace or remove it."
            )
        return path
    return None


def fetch(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """A file of the registry: from a directory, else from the cache, else downloaded once.

    Raises
    ------
    KeyError
        If the registry has no such entry.
    ValueError
        If a file with another checksum stands in its place.
    FileNotFoundError
        If the file is in no directory and cannot be downloaded.
    """
    if name not in REGISTRY:
        raise KeyError(f"No data set is called {name!r}; known: {sorted(REGISTRY)}.")
    entry = REGISTRY[name]
    path = find(name, data_dir)
    if path is not None:
        return path
    if entry.url is None:
        raise FileNotFoundError(_how_to_get(entry, data_dir))
    known = None if entry.sha256 is None else f"sha256:{entry.sha256}"
    cache = pooch.os_cache("cantata")
    try:
        return Path(pooch.retrieve(entry.url, known_hash=known, fname=entry.filename, path=cache))
    except OSError as error:
        raise FileNotFoundError(_how_to_get(entry, data_dir)) from error


def _how_to_get(entry: RemoteFile, data_dir: str | os.PathLike[str] | None) -> str:
    directories = [str(directory) for directory in _directories(data_dir)]
    where = " or ".join(directories) or f"a directory ({DIRECTORY_VARIABLES[0]} names none)"
    if entry.url is None:
        remedy = f"{entry.origin} With a copy of it, save"
    else:
        remedy = f"{entry.origin} It could not be downloaded; get {entry.url} and save"
    return (
        f"{entry.filename} is not in {where}. {remedy} it as {entry.filename} in a directory, and "
        f"name that directory in {DIRECTORY_VARIABLES[0]} or data_dir=."
    )


# Contents ----------------------------------------------------------------------------------------


def _clean_modality(adata: AnnData, name: str, path: Path) -> AnnData:
    """Counts as CSR float32 with the feature table, and nothing else."""
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    if counts.data.size and (counts.data.min() < 0 or np.any(counts.data % 1)):
        wrong = int(np.sum((counts.data < 0) | (counts.data % 1 != 0)))
        raise ValueError(
            f"{path}: {wrong} values of modality {name!r} are no counts; the file is not the one "
            "expected. Remove it and load again."
        )
    return AnnData(counts, obs=pd.DataFrame(index=adata.obs_names), var=adata.var.copy())


def _read(path: Path, modalities: Sequence[str], columns: Sequence[str]) -> MuData:
    """The counts and the `columns` of a file, with the columns at both levels."""
    with expected_warnings():
        raw = mudata.read_h5mu(path)
    missing = [name for name in modalities if name not in raw.mod]
    if missing:
        raise ValueError(
            f"{path} has no modality {missing[0]!r} but {list(raw.mod)}; the file is not the one "
            "expected. Remove it and load again."
        )
    names = list(modalities)
    obs = {
        key: pd.Categorical(coalesce_obs(raw, key, names, argument="column")) for key in columns
    }
    clean = {name: _clean_modality(raw[name], name, path) for name in names}
    mdata = assemble(clean, pd.DataFrame(obs, index=raw.obs_names))
    mdata.uns.update(raw.uns)
    return mdata


def content_digest(mdata: MuData, columns: Sequence[str]) -> str:
    """SHA-256 of names, counts and labels, whatever the order of rows and the way of storage."""
    digest = hashlib.sha256()
    for name in sorted(mdata.mod):
        adata = mdata[name]
        cells, genes = (axis.to_numpy(dtype=object) for axis in (adata.obs_names, adata.var_names))
        rows, features = np.argsort(cells), np.argsort(genes)
        counts = sparse.csr_matrix(adata.X)[rows][:, features]
        counts.sum_duplicates()
        counts.eliminate_zeros()
        words = [name, *cells[rows], *genes[features]]
        for key in columns:
            words.extend(adata.obs[key].astype(str).to_numpy()[rows])
        digest.update("\n".join(words).encode())
        for part in (counts.indptr, counts.indices, counts.data):
            digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()
