"""Files of the registry: found, checked, downloaded once, or a clear error."""

from __future__ import annotations

import functools
import hashlib
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from cantata.datasets import _remote
from cantata.datasets._remote import REGISTRY, RemoteFile, fetch, find, sha256_of

CONTENT = b"not really data"
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def registry(monkeypatch):
    entries = {
        "local": RemoteFile("local.h5mu", origin="It was made here.", sha256=CHECKSUM),
        "public": RemoteFile(
            "public.h5mu",
            origin="It is public.",
            sha256=CHECKSUM,
            url="https://example.org/public.h5mu",
        ),
    }
    monkeypatch.setattr(_remote, "REGISTRY", entries)
    for name in _remote.DIRECTORY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return entries


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """Stands in for the network; holds the calls."""
    calls = []

    def retrieve(url, *, known_hash, fname, path):
        calls.append((url, known_hash))
        target = tmp_path / "cache" / fname
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(CONTENT)
        return str(target)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return calls


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("variable", _remote.DIRECTORY_VARIABLES)
def test_found_in_the_directory_of_either_variable(monkeypatch, tmp_path, downloads, variable):
    (tmp_path / "public.h5mu").write_bytes(CONTENT)
    monkeypatch.setenv(variable, str(tmp_path))
    assert fetch("public") == tmp_path / "public.h5mu"
    assert downloads == []


@pytest.mark.usefixtures("registry")
def test_the_first_variable_wins_and_an_argument_overrides_both(monkeypatch, tmp_path):
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "local.h5mu").write_bytes(CONTENT)
    for variable, folder in zip(_remote.DIRECTORY_VARIABLES, ("one", "two"), strict=True):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    assert fetch("local") == tmp_path / "one" / "local.h5mu"
    assert fetch("local", tmp_path / "three") == tmp_path / "three" / "local.h5mu"
    (tmp_path / "one" / "local.h5mu").unlink()
    assert fetch("local") == tmp_path / "two" / "local.h5mu"


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["local", "public"])
def test_another_content_is_an_error_and_never_replaced(tmp_path, downloads, name):
    path = tmp_path / f"{name}.h5mu"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"expected {CHECKSUM}"):
        fetch(name, tmp_path)
    assert path.read_bytes() == b"something else"
    assert downloads == []


@pytest.mark.usefixtures("registry")
def test_downloaded_with_the_checksum(tmp_path, downloads):
    assert find("public", tmp_path) is None
    assert fetch("public", tmp_path).read_bytes() == CONTENT
    assert downloads == [("https://example.org/public.h5mu", f"sha256:{CHECKSUM}")]


@pytest.mark.usefixtures("registry")
def test_without_address_the_error_says_what_to_do(tmp_path, downloads):
    with pytest.raises(FileNotFoundError) as caught:
        fetch("local", tmp_path)
    message = str(caught.value)
    for part in (
        "local.h5mu",
        str(tmp_path),
        "It was made here.",
        "CANTATA_DATA_DIR",
        "data_dir=",
    ):
        assert part in message
    with pytest.raises(FileNotFoundError, match="CANTATA_DATA_DIR names none"):
        fetch("local")
    assert downloads == []


@pytest.mark.usefixtures("registry")
def test_without_network_the_error_names_the_address(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(
        FileNotFoundError, match=re.escape("https://example.org/public.h5mu")
    ) as caught:
        fetch("public", tmp_path)
    assert isinstance(caught.value.__cause__, ConnectionError)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine with one file, and an empty cache."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "public.h5mu").write_bytes(CONTENT)
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")
    handler = functools.partial(QuietHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Keep the test's output clean."""


def _served(registry, address, filename="public.h5mu", sha256=CHECKSUM):
    entry = RemoteFile(filename, "It is served.", sha256=sha256, url=f"{address}/{filename}")
    registry["served"] = entry


@pytest.mark.parametrize("sha256", [CHECKSUM, None])
def test_a_download_is_kept_in_the_cache(registry, server, tmp_path, sha256):
    _served(registry, server, sha256=sha256)
    path = fetch("served", tmp_path)
    assert path == tmp_path / "cache" / "public.h5mu"
    assert path.read_bytes() == CONTENT
    (tmp_path / "served" / "public.h5mu").unlink()
    assert fetch("served", tmp_path) == path, "the second time from the cache"


def test_a_download_with_another_content_is_refused(registry, server, tmp_path):
    _served(registry, server, sha256="0" * 64)
    with pytest.raises(ValueError, match="hash"):
        fetch("served", tmp_path)
    assert not (tmp_path / "cache" / "public.h5mu").exists()


def test_an_address_that_is_gone_is_named(registry, server, tmp_path):
    _served(registry, server, filename="gone.h5mu")
    with pytest.raises(FileNotFoundError, match=re.escape(f"{server}/gone.h5mu")):
        fetch("served", tmp_path)


def test_unknown_names():
    with pytest.raises(KeyError, match="pbmc_mosaic"):
        fetch("pbmc_mosiac")


def test_the_registry_is_well_formed():
    for name, entry in REGISTRY.items():
        assert Path(entry.filename).name == entry.filename, name
        assert entry.url is None or entry.url.startswith("https://"), name
        assert entry.url is not None or entry.sha256 is not None, name
        if entry.sha256 is not None:
            assert re.fullmatch("[0-9a-f]{64}", entry.sha256), name
        if entry.url is not None and entry.sha256 is None:
            assert re.search("/[0-9a-f]{40}/", entry.url), "an unchecked address must be pinned"


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    assert sha256_of(tmp_path / "file") == CHECKSUM
