"""Loaders of public data: their files, and what they make of them."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import threading
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
import pooch
import pytest
from scipy import sparse

from cantata.datasets import _public, pbmc5k_citeseq, pbmc_mosaic, snareseq_cortex
from cantata.datasets._assemble import expected_warnings
from cantata.datasets._public import REGISTRY, RemoteFile, fetch, find, sha256_of

REAL = Path(os.environ.get("CANTATA_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
COLUMNS = ("batch", "celltype")
UPSTREAM = "quickstart_pbmc_mosaic.h5mu"


def _real(filename):
    if not (REAL / filename).is_file():
        pytest.skip(f"{REAL / filename} not found, real-data test skipped")
    return REAL


def _modality(batches, n_vars, prefix, *, dtype=np.float32, lowest=0):
    rng = np.random.default_rng(len(batches) + n_vars)
    cells = [f"{batch}_{i}" for batch in batches for i in range(6)]
    counts = rng.poisson(1.0, size=(len(cells), n_vars)) + lowest
    adata = anndata.AnnData(sparse.csr_matrix(counts.astype(dtype)))
    adata.obs_names = cells
    adata.var_names = [f"{prefix}{j}" for j in range(n_vars)]
    adata.obs["batch"] = [cell[:4] for cell in cells]
    adata.obs["celltype"] = [["Mono", "B", "NK"][int(cell[5:]) % 3] for cell in cells]
    return adata


def _write(path, modalities):
    """A file as the source writes it: labels as text columns at both levels."""
    with expected_warnings():
        mdata = mudata.MuData(modalities)
        for key in COLUMNS:
            values = {}
            for adata in modalities.values():
                values |= dict(zip(adata.obs_names, adata.obs[key], strict=True))
            mdata.obs[key] = pd.Series(values)
        mdata.write_h5mu(path)


@pytest.fixture
def modalities():
    return {
        "rna": _modality(["p1_0", "p3_0", "p4_0"], 12, "GENE"),
        "adt": _modality(["p2_0", "p3_0", "p4_0"], 5, "cd"),
    }


def test_a_file_of_the_upstream_layout(tmp_path, modalities):
    _write(tmp_path / UPSTREAM, modalities)
    with pytest.warns(UserWarning, match="expect other figures"):
        mdata = pbmc_mosaic(data_dir=tmp_path)
    assert mdata.n_obs == 24
    assert mdata.obs.columns.tolist() == list(COLUMNS)
    assert mdata.var.columns.tolist() == []
    for name, source in modalities.items():
        assert mdata[name].obs_names.tolist() == source.obs_names.tolist()
        assert (mdata[name].X != source.X).nnz == 0
        assert mdata[name].X.dtype == np.float32
        for key in COLUMNS:
            assert isinstance(mdata[name].obs[key].dtype, pd.CategoricalDtype)
            assert mdata[name].obs[key].astype(str).tolist() == source.obs[key].tolist()
            top = mdata.obs[key].astype(str).loc[source.obs_names]
            assert top.tolist() == source.obs[key].tolist()


def test_downloaded_when_no_directory_has_it(tmp_path, monkeypatch, modalities):
    _write(tmp_path / "elsewhere.h5mu", modalities)
    asked = []

    def retrieve(url, *, known_hash, fname, path):
        asked.append((url.rsplit("/", 1)[1], known_hash, fname))
        return str(tmp_path / "elsewhere.h5mu")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.warns(UserWarning, match="expect other figures"):
        assert pbmc_mosaic(data_dir=tmp_path).n_obs == 24
    assert asked == [(UPSTREAM, None, UPSTREAM)]


def test_known_content_gives_no_warning(tmp_path, monkeypatch, modalities):
    _write(tmp_path / UPSTREAM, modalities)
    known = _digest(modalities)
    monkeypatch.setattr(_public, "PBMC_MOSAIC_CONTENT", known)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert pbmc_mosaic(data_dir=tmp_path).n_obs == 24


def test_a_prepared_file_with_another_checksum_is_refused(tmp_path, modalities):
    _write(tmp_path / "pbmc_mosaic_midas.h5mu", modalities)
    with pytest.raises(ValueError, match="SHA-256"):
        pbmc_mosaic(data_dir=tmp_path)


@pytest.mark.parametrize(("shift", "wrong"), [(0.5, "60"), (-9, "")])
def test_values_that_are_no_counts_are_refused(tmp_path, modalities, shift, wrong):
    modalities["adt"] = _modality(["p2_0", "p3_0"], 5, "cd", lowest=shift)
    _write(tmp_path / UPSTREAM, modalities)
    with pytest.raises(ValueError, match=f"{wrong} values of modality 'adt' are no counts"):
        pbmc_mosaic(data_dir=tmp_path)


def test_a_file_without_a_modality_is_refused(tmp_path, modalities):
    _write(tmp_path / UPSTREAM, {"rna": modalities["rna"], "protein": modalities["adt"]})
    with pytest.raises(ValueError, match="no modality 'adt'"):
        pbmc_mosaic(data_dir=tmp_path)


@pytest.mark.parametrize("loader", [pbmc5k_citeseq, snareseq_cortex])
def test_loaders_without_address_say_what_to_do(tmp_path, loader):
    with pytest.raises(FileNotFoundError, match="CANTATA_DATA_DIR"):
        loader(data_dir=tmp_path)


def _digest(modalities):
    with expected_warnings():
        return _public.content_digest(mudata.MuData(modalities), COLUMNS)


def test_digest_ignores_order_and_storage_but_nothing_else(modalities):
    reference = _digest(modalities)
    rng = np.random.default_rng(0)
    stored = {}
    for name, adata in modalities.items():
        turned = adata[rng.permutation(adata.n_obs)][:, rng.permutation(adata.n_vars)].copy()
        turned.X = sparse.csc_matrix(turned.X, dtype=np.int64)
        stored[name] = turned
    assert _digest(stored) == reference
    changes = {
        "count": lambda a: a.X.data.__setitem__(0, a.X.data[0] + 1),
        "label": lambda a: setattr(a, "obs", a.obs.assign(celltype="NK")),
        "cell": lambda a: setattr(a, "obs_names", ["x", *a.obs_names[1:]]),
        "gene": lambda a: setattr(a, "var_names", ["x", *a.var_names[1:]]),
    }
    for what, change in changes.items():
        other = {name: adata.copy() for name, adata in modalities.items()}
        change(other["rna"])
        assert _digest(other) != reference, what


def test_real_mosaic(tmp_path):
    directory = _real("pbmc_mosaic_midas.h5mu")
    mdata = pbmc_mosaic(data_dir=directory)
    assert mdata["rna"].shape == (1200, 500)
    assert mdata["adt"].shape == (1200, 224)
    assert mdata.n_obs == 1600
    assert mdata.obs.columns.tolist() == list(COLUMNS)
    assert mdata.obs["celltype"].value_counts()["CD4 T"] == 506
    assert mdata.obs.notna().all().all()
    shutil.copy(directory / "pbmc_mosaic_midas.h5mu", tmp_path / UPSTREAM)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = pbmc_mosaic(data_dir=tmp_path)
    assert (mdata["adt"].X != again["adt"].X).nnz == 0


def test_real_citeseq():
    mdata = pbmc5k_citeseq(data_dir=_real("pbmc5k_citeseq.h5mu"))
    assert mdata["rna"].shape == (3920, 4000)
    assert mdata["adt"].var["gene"].ne("").all()
    assert mdata.obs["cell_type"].nunique() == 7


def test_real_snareseq():
    mdata = snareseq_cortex(data_dir=_real("snareseq_mouse_cortex_open.h5mu"))
    assert mdata["atac"].shape == (6836, 25734)
    assert len(mdata.uns["gene_peak_links"]) == 25734
    assert mdata.obs["cell_type"].nunique() == 15


# Files of the registry: found, checked, downloaded once, or a clear error

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
    monkeypatch.setattr(_public, "REGISTRY", entries)
    for name in _public.DIRECTORY_VARIABLES:
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
@pytest.mark.parametrize("variable", _public.DIRECTORY_VARIABLES)
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
    for variable, folder in zip(_public.DIRECTORY_VARIABLES, ("one", "two"), strict=True):
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
