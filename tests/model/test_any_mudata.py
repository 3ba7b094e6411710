"""Whatever a MuData holds: models take it, or say why not.

Ragged data with odd names, types and storage are set up, trained on, queried and written to. No
error may come from anywhere but cantata.
"""

from __future__ import annotations

import itertools
import os
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from model_cases import CASES, QUIET, Case, close
from mosaics import mosaic
from scipy import sparse

import cantata

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = str(Path(cantata.__file__).parent)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=6
)
"""Of cells and features: any script, spaces, slashes, "nan", "1.0"."""
STORAGE: dict[str, Callable[[np.ndarray], Any]] = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "unsorted": lambda x: sparse.csr_matrix(x)[:, ::-1][:, ::-1],
}
DTYPES = ["float32", "float64", "int64", "int32", "uint16", "uint8", "int8"]
MODALITIES = ["rna", "adt", "ATAC-seq", "prot ein", "m-1", "蛋白", "a.b", "a/b", "type", "batch"]
COLUMNS: dict[str, Callable[[np.ndarray], Any]] = {
    "strings": lambda codes: [f"b{c}" for c in codes],
    "integers": lambda codes: codes,
    "floats": lambda codes: codes.astype(float),
    "floats with a gap": lambda codes: np.where(np.arange(len(codes)) == 1, np.nan, codes),
    "categories": lambda codes: pd.Categorical([f"b{c}" for c in codes]),
    "categories of numbers": lambda codes: pd.Categorical(codes),
    "flags": lambda codes: codes > 0,
    "objects": lambda codes: pd.Series([int(c) if c else "0" for c in codes], dtype=object).array,
    "constant": lambda codes: ["one"] * len(codes),
}
ALIKE = [
    ["strings", "categories"],
    ["integers", "floats", "categories of numbers"],
    ["integers", "objects"],
    ["constant"],
    ["flags"],
]
"""Columns whose values are the same, however they are stored."""
FAULTS = ["nan", "negative", "halves", "empty cell", "duplicate cell", "duplicate feature", "view"]


@st.composite
def some_mudata(draw: st.DrawFn) -> mudata.MuData:
    """Two or three modalities of counts, of cells and features with any names."""
    names = draw(st.lists(st.sampled_from(MODALITIES[:6]), min_size=2, max_size=3, unique=True))
    if draw(st.integers(0, 19)) == 7:  # in the middle, since ends are drawn more often
        names[0] = draw(st.sampled_from(MODALITIES[6:]))
    cells = draw(st.lists(NAMES, min_size=12, max_size=24, unique=True))
    features = draw(st.lists(NAMES, min_size=8, max_size=14, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    member = rng.random((len(cells), len(names))) < draw(st.sampled_from([0.6, 0.9, 1.0]))
    member[~member.any(axis=1), 0] = True
    member[:6] = True
    codes = rng.integers(0, 2, len(cells))
    fault = draw(st.sampled_from([*[None] * 15, *FAULTS]))
    event(f"fault: {fault}")
    kinds = draw(st.sampled_from([*ALIKE * 2, sorted(COLUMNS)]))
    parts = {}
    for k, name in enumerate(names):
        rows = rng.permutation(np.flatnonzero(member[:, k]))
        width = draw(st.integers(6, len(features)))
        x = rng.poisson(rng.gamma(2, 1, width) * (1 + codes[rows])[:, None]).astype(np.float64)
        x[:, 0] += 1
        if k == 0 and fault in ("nan", "negative", "halves"):
            x[2, 1] = {"nan": np.nan, "negative": -1.0, "halves": 0.5}[fault]
            dtype = "float32"
        else:
            dtype = draw(st.sampled_from(DTYPES))
        if k == 0 and fault == "empty cell":
            x[2] = 0
        values = STORAGE[draw(st.sampled_from(sorted(STORAGE)))](x.astype(dtype))
        adata = AnnData(values)
        own = [cells[i] for i in rows]
        adata.obs_names = own if fault != "duplicate cell" or k else [own[1], *own[1:]]
        columns = list(rng.permutation(features)[:width])
        if k == 0 and fault == "duplicate feature":
            columns[0] = columns[1]
        adata.var_names = columns
        adata.obs["site"] = COLUMNS[draw(st.sampled_from(kinds))](codes[rows])
        adata.obs["kind"] = pd.Categorical(np.where(codes[rows] > 0, "x", "y"))
        if draw(st.integers(0, 9)) != 7:
            adata.layers["raw"] = adata.X.copy()
        logs = np.log1p(np.abs(np.nan_to_num(x[:, :4])))
        for other in names:
            adata.obsm[f"X_linked_{other}"] = logs - logs.mean(axis=0)
        parts[name] = adata[:-1] if fault == "view" and k == 0 else adata
    data = mosaic(parts)
    if draw(st.booleans()):
        data.obs["depth"] = rng.normal(size=data.n_obs)
        data.obs["site"] = pd.Series(
            COLUMNS[draw(st.sampled_from(kinds))](codes), index=cells
        ).reindex(data.obs_names)
    return data


@st.composite
def some_setup(draw: st.DrawFn, data: mudata.MuData, case: Case) -> dict[str, Any]:
    """Arguments of set-up that may or may not fit."""
    setup: dict[str, Any] = {}
    if case.cls is cantata.SCMODAL and draw(st.integers(0, 9)) != 7:
        setup["pairs"] = list(itertools.pairwise(data.mod))
    if draw(st.booleans()):
        setup["batch_key"] = "site"
    if draw(st.booleans()):
        setup["categorical_covariate_keys"] = draw(st.sampled_from(["kind", ["kind"], ["site"]]))
    if "depth" in data.obs and draw(st.booleans()):
        setup["continuous_covariate_keys"] = ["depth"]
    if draw(st.integers(0, 3)) == 0:
        setup["layers"] = draw(st.sampled_from(["raw", {next(iter(data.mod)): "raw"}]))
    return setup


def query_of(data: mudata.MuData, rng: np.random.Generator, drop: bool) -> mudata.MuData:
    """Other cells with features in another order, up to a fifth of them absent."""
    parts = {}
    for name in list(data.mod)[: 1 if drop else None]:
        adata = data[name]
        n_absent = rng.integers(0, adata.n_vars // 5 + 1)
        columns = rng.permutation(adata.n_vars)[n_absent:]
        part = adata[rng.permutation(adata.n_obs)[: adata.n_obs // 2 + 1], columns].copy()
        part.obs_names = [f"q {cell}" for cell in part.obs_names]
        parts[name] = part
    query = mosaic(parts)
    for key in ("depth", "site"):
        if key in data.obs:
            column = data.obs[key].astype(object)
            column.index = [f"q {cell}" for cell in column.index]
            query.obs[key] = column.reindex(query.obs_names).infer_objects()
    return query


def can_be_written(data: mudata.MuData) -> bool:
    """Whether a file can hold them: no slash in keys, which names a group, and no mixed types."""
    columns = [part.obs["site"] for part in (data, *data.mod.values()) if "site" in part.obs]
    mixed = any(pd.api.types.infer_dtype(c, skipna=False).startswith("mixed") for c in columns)
    return "/" not in "".join([*data.mod, *data.obsm]) and not mixed


def run(case: Case, data: mudata.MuData, setup: dict, seed: int, drop: bool, folder: Path) -> None:
    scvi.settings.seed = 0
    case.cls.setup_mudata(data, **setup)
    model = case.cls(data, **case.model)
    short = {"max_steps": 1} if "max_steps" in case.train else dict.fromkeys(case.train, 1)
    model.train(**short | QUIET)
    target = next(iter(data.mod))
    before = set(data.obsm)
    model.write_results(denoised=True, imputed=target)
    assert set(data.obsm) == before | {case.key, f"{case.cls.method}_imputed_{target}"}
    joint = data.obsm[case.key]
    assert np.isfinite(joint).all()
    # 1. written and read, the data give the loaded model the same embedding
    model.save(folder / "m", overwrite=True)
    path = folder / "x.h5mu"
    if can_be_written(data):
        data.write_h5mu(path)
        again = mudata.read_h5mu(path)
        loaded = case.cls.load(folder / "m", again)
        rows = loaded.adata.obs_names.get_indexer(data.obs_names)
        close(loaded.get_latent_representation()[rows], joint, 1e-4)
        os.remove(path)
    # 2. a query in any order gives the same as one in the model's own
    query = query_of(data, np.random.default_rng(seed), drop)
    embedded = model.get_latent_representation(query)
    prepared = case.cls.prepare_query_mudata(query, folder / "m")
    rows = prepared.obs_names.get_indexer(query.obs_names)
    close(model.get_latent_representation(prepared)[rows], embedded)
    mapped = case.cls.load_query_data(query, model)
    close(mapped.get_latent_representation()[rows], embedded)
    mapped.write_results(query)
    close(query.obsm[case.key], embedded)
    event("ran to the end")


def check(case: Case, data: st.DataObject, folder: Path) -> None:
    mdata = data.draw(some_mudata())
    setup = data.draw(some_setup(mdata, case))
    seed, drop = data.draw(st.integers(0, 2**16)), data.draw(st.booleans())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(case, mdata, setup, seed, drop, folder)
    except (ValueError, TypeError, KeyError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if not frame.filename.startswith(SOURCE):
            raise
        event(f"refused by {Path(frame.filename).name}: {frame.name}")


OPTIONS: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.reuse, Phase.generate],  # to shrink an example takes minutes
}


@settings(max_examples=12, derandomize=True, **OPTIONS)
@given(data=st.data())
def test_any_mudata(case: Case, tmp_path_factory, data: st.DataObject) -> None:
    check(case, data, tmp_path_factory.mktemp("any"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=500, **OPTIONS)
@given(data=st.data())
def test_any_mudata_500_times(name: str, tmp_path_factory, data: st.DataObject) -> None:
    check(CASES[name], data, tmp_path_factory.mktemp("any"))
