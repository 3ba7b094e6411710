"""Files of public data: found in a directory or downloaded, and checked."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import pooch

logger = logging.getLogger(__name__)

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
        url=(
            "https://raw.githubusercontent.com/labomics/midas/f10c652368a3702b915d7406fa6fda2e624b8791/src/scmidas/data/quickstart_pbmc_mosaic.h5mu"
        ),
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


def sha256_of(path: Path) -> str:
    """Checksum of a file's bytes, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _directories(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    if data_dir is not None:
        return [Path(data_dir)]
    return [Path(os.environ[name]) for name in DIRECTORY_VARIABLES if os.environ.get(name)]


def find(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """A file of the registry in a directory, without any download.

    Parameters
    ----------
    name
        Entry of the registry.
    data_dir
        Directory to look in; by default those that the environment variables ``CANTATA_DATA_DIR``
        and ``CANTATA_TEST_DATA`` name, in this order.

    Returns
    -------
    Path of the first such file, or None.

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
        if entry.sha256 is not None and (found := sha256_of(path)) != entry.sha256:
            raise ValueError(
                f"{path} is not the file that {name!r} stands for: its SHA-256 is {found}, "
                f"expected {entry.sha256}. Replace or remove it."
            )
        return path
    return None


def fetch(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """A file of the registry: from a directory, else from the cache, else downloaded once.

    Parameters
    ----------
    name
        Entry of the registry.
    data_dir
        As in :func:`find`.

    Returns
    -------
    Path of the file. Downloads are kept in the user's cache directory (``pooch.os_cache``).

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
    places = [str(place) for place in _directories(data_dir)]
    where = " or ".join(places) if places else f"a directory ({DIRECTORY_VARIABLES[0]} names none)"
    if entry.url is None:
        remedy = f"{entry.origin} With a copy of it, save"
    else:
        remedy = f"{entry.origin} It could not be downloaded; get {entry.url} and save"
    return (
        f"{entry.filename} is not in {where}. {remedy} it as {entry.filename} in a directory, and "
        f"name that directory in {DIRECTORY_VARIABLES[0]} or data_dir=."
    )
