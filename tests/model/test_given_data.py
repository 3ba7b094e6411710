"""What models are given: own data that change, new data, arguments. One suite over all models."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import joblib
import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
from linked_mosaics import linked_mosaic
from model_cases import QUIET, Case, close, new_batch
from mosaics import counts_mosaic, mosaic
from scipy import sparse

import cantata
from cantata import APOLLO, CLUE, SCMODAL
from cantata._mudata.parts import no_pull
from cantata.data import MosaicCategoricalField, UnpairedDataset

if TYPE_CHECKING:
    from anndata import AnnData


def edited(data: mudata.MuData, name: str, change: Any) -> mudata.MuData:
    """The same data with one modality changed by a function."""
    parts = {m: data[m].copy() for m in data.mod}
    result = change(parts[name])
    parts[name] = parts[name] if result is None else result
    return mosaic(parts)


def set_value(value: float) -> Any:
    def change(adata: AnnData) -> None:
        x = adata.X.toarray()
        x[3, 2] = value
        adata.X = sparse.csr_matrix(x)

    return change


def log_values(adata: AnnData) -> None:
    adata.X = adata.X.log1p()


def repeat_a_cell(adata: AnnData) -> None:
    names = list(adata.obs_names)
    names[1] = names[0]
    adata.obs_names = names


def empty_a_cell(adata: AnnData) -> None:
    x = adata.X.toarray()
    x[5] = 0
    adata.X = sparse.csr_matrix(x)


# Loading ----------------------------------------------------------------------------------------


def test_load_matches_features_by_name(case: Case, model, tmp_path) -> None:
    model.save(tmp_path / "m")
    turned = mosaic({m: model.adata[m][:, ::-1].copy() for m in model.adata.mod})
    again = case.cls.load(tmp_path / "m", turned)
    rows = again.adata.obs_names.get_indexer(model.adata.obs_names)
    close(again.get_latent_representation()[rows], model.get_latent_representation())
    again.write_results(turned)
    rows = turned.obs_names.get_indexer(model.adata.obs_names)
    close(turned.obsm[case.key][rows], model.get_latent_representation())
    again.train(**case.train | QUIET)

    def other(adata: AnnData) -> None:
        adata.var_names = [f"other_{j}" for j in range(adata.n_vars)]

    with pytest.raises(ValueError, match=r"'rna' lacks 12 of the model's 12 features"):
        case.cls.load(tmp_path / "m", edited(model.adata, "rna", other))
    with pytest.warns(UserWarning, match=r"'rna' lacks 1 of the model's 12 features"):
        case.cls.load(tmp_path / "m", edited(model.adata, "rna", lambda a: a[:, :11].copy()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (log_values, r"'rna' has \d+ values that are no integers.*set up with counts"),
        (set_value(-1.0), r"'rna' has 1 negative values.*set up with counts"),
        (set_value(np.nan), r"'rna' has 1 NaN or infinite values"),
        (repeat_a_cell, r"'rna' has 1 duplicate cell names"),
        (empty_a_cell, r"'rna' has 1 cells without counts.*drop_empty"),
    ],
)
def test_new_data_are_checked_as_at_set_up(case: Case, model, tmp_path, change, message) -> None:
    query = new_batch(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bad = edited(query, "rna", change)
    model.save(tmp_path / "m")
    for run in (
        model.get_latent_representation,
        lambda data: model.impute("adt", data, transform_batch="b0"),
        model.write_results,
        lambda data: case.cls.load_query_data(data, model),
        lambda data: case.cls.load(tmp_path / "m", data),
    ):
        with pytest.raises(ValueError, match=message):
            run(bad)
    assert case.key not in bad.obsm


def test_load_without_data(case: Case, model, tmp_path) -> None:
    """Neither a warning nor data: the model takes new ones."""
    model.save(tmp_path / "m")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = case.cls.load(tmp_path / "m")
    query = new_batch(case)
    close(again.get_latent_representation(query), model.get_latent_representation(query))
    close(again.impute("adt", query, transform_batch="b0").X,
          model.impute("adt", query, transform_batch="b0").X)  # fmt: skip
    for run in (again.get_latent_representation, again.train, again.write_results):
        with pytest.raises(ValueError, match=r"loaded without data.*load\(folder, mdata\)"):
            run()
    again.save(tmp_path / "again")
    last = case.cls.load(tmp_path / "again", model.adata)
    np.testing.assert_array_equal(
        last.get_latent_representation(), model.get_latent_representation()
    )
    for data in (model.adata["rna"], "file.h5mu"):
        with pytest.raises(TypeError, match="Expected a MuData, got"):
            case.cls.load(tmp_path / "m", data)
    other = SCMODAL if case.cls is CLUE else CLUE
    with pytest.raises(ValueError, match=rf"saved {case.cls.__name__}; load it with"):
        other.load(tmp_path / "m")


@pytest.mark.parametrize("make", [str, lambda path: path], ids=["str", "path"])
def test_a_query_of_a_directory_without_data(case: Case, model, tmp_path, make) -> None:
    model.save(make(tmp_path / "m"))
    query = new_batch(case)
    mapped = case.cls.load_query_data(query, make(tmp_path / "m"))
    assert mapped.batch_categories == ["b0", "b1", "new"]
    rows = mapped.adata.obs_names.get_indexer(query.obs_names)
    close(mapped.get_latent_representation()[rows], model.get_latent_representation(query))
    mapped.train(**case.train | QUIET)
    prepared = case.cls.prepare_query_mudata(query, make(tmp_path / "m"))
    assert list(prepared["rna"].var_names) == list(model.adata["rna"].var_names)
    imputed = mapped.impute("adt", out=make(tmp_path / "adt.zarr"))
    assert imputed.shape == (40, 6)


def test_a_query_without_a_modality_is_loaded_with_its_own_data(case: Case, model, tmp_path):
    query = mosaic({"adt": new_batch(case)["adt"].copy()})
    mapped = case.cls.load_query_data(query, model)
    mapped.save(tmp_path / "m")
    for data in (query, mapped.adata):
        again = case.cls.load(tmp_path / "m", data)
        close(again.get_latent_representation(), mapped.get_latent_representation())


def test_saved_history_holds_no_string_type_of_pandas(case: Case, model) -> None:
    """Which pandas 2 cannot read where pandas 3 wrote it."""
    table = pd.DataFrame([[1.0]], columns=pd.Index(["loss"], dtype="str"))
    attributes = dict(copy.copy(model)._get_user_attributes())
    kept, model.history_ = model.history_, {"loss": table}
    try:
        with pd.option_context("future.infer_string", True):
            model.history_["strings"] = pd.DataFrame({"loss": [1.0]})
        attributes = dict(model._get_user_attributes())
    finally:
        model.history_ = kept

    class Names(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            assert "string" not in module, (module, name)
            return super().find_class(module, name)

    for saved in attributes["history_"].values():
        assert saved.columns.dtype == object
        Names(io.BytesIO(pickle.dumps(saved))).load()


# The model's own data ---------------------------------------------------------------------------


def test_own_values_that_change_are_an_error(case: Case) -> None:
    model = case.fit(case.data())
    before = model.get_latent_representation()
    x = model.adata["rna"].X
    kept = x.data.copy()
    x.data[:] = np.log1p(x.data)
    for run in (
        model.get_latent_representation,
        lambda: model.impute("adt"),
        model.write_results,
        lambda: model.train(**case.train | QUIET),
    ):
        with pytest.raises(
            ValueError, match=r"modality 'rna' changed after set-up in 45 of 45 cells"
        ):
            run()
    x.data[:] = kept
    x.data[7] += 1
    with pytest.raises(ValueError, match=r"in 1 of 45 cells, e\.g\. 'c\d+'.*setup_mudata"):
        model.get_latent_representation()
    # what is stored in another way is the same
    x.data[7] -= 1
    for change in (sparse.csc_matrix, lambda m: m.toarray(), lambda m: m.astype(np.float64)):
        model.adata["rna"].X = change(x)
        close(model.get_latent_representation(), before)


def test_own_features_and_cells_that_move(case: Case) -> None:
    model = case.fit(case.data())
    before = pd.DataFrame(model.get_latent_representation(), index=model.adata.obs_names)
    rna = model.adata["rna"]
    model.adata.mod["rna"] = rna[:, ::-1].copy()
    close(model.get_latent_representation(), before.to_numpy())
    with pytest.raises(
        ValueError, match="Features of modality 'rna' were added, moved or removed"
    ):
        model.train(**case.train | QUIET)
    model.adata.mod["rna"] = rna[:, :11].copy()
    with pytest.warns(UserWarning, match="'rna' lacks 1 of the model's 12 features"):
        model.get_latent_representation()
    model.adata.mod["rna"] = rna[:, :5].copy()
    with pytest.raises(ValueError, match="'rna' lacks 7 of the model's 12 features"):
        model.get_latent_representation()
    model.adata.mod["rna"] = rna[::-1].copy()
    with pytest.raises(ValueError, match=r"The rows of modality 'rna' changed.*update\(\)"):
        model.get_latent_representation()
    with no_pull():
        model.adata.update()
    close(model.get_latent_representation(), before.loc[model.adata.obs_names].to_numpy())
    model.adata.mod["rna"] = rna[:20].copy()
    with pytest.raises(ValueError, match=r"The rows of modality 'rna' changed.*update\(\)"):
        model.get_latent_representation()
    with no_pull():
        model.adata.update()
    assert len(model.get_latent_representation()) == model.adata.n_obs


def test_the_check_of_own_values_is_cheap() -> None:
    from time import perf_counter

    from cantata._mudata.checks import row_fingerprints

    x = sparse.random(50_000, 2_000, density=0.1, format="csr", dtype=np.float32, rng=0)
    start = perf_counter()
    first = row_fingerprints(x)
    assert perf_counter() - start < 1
    x.data = x.data[:]
    x.data[-1] += 1
    assert (row_fingerprints(x) != first).sum() == 1


# What preprocess recorded -----------------------------------------------------------------------


@pytest.fixture
def preprocessed() -> mudata.MuData:
    data = cantata.datasets.simulate_mosaic(n_cells=120, n_features={"rna": 60, "adt": 12})
    cantata.pp.preprocess(data, n_components=8)
    return data


def clue(data: mudata.MuData) -> CLUE:
    CLUE.setup_mudata(data, layers={"rna": "counts", "adt": "counts"})
    model = CLUE(data, n_latent=4)
    model.train(1, enable_progress_bar=False, accelerator="cpu")
    return model


def test_pca_of_scanpy_changes_nothing(preprocessed, tmp_path) -> None:
    import scanpy as sc

    later = preprocessed.copy()
    model = clue(preprocessed)
    before = model.get_latent_representation()
    model.save(tmp_path / "m")
    query = cantata.datasets.simulate_mosaic(n_cells=30, n_features={"rna": 60, "adt": 12}, seed=1)
    other = query.copy()
    cantata.pp.preprocess(query, reference=later)
    for data in (preprocessed, later):
        for adata in data.mod.values():
            sc.pp.pca(adata, n_comps=5)
    np.testing.assert_array_equal(model.get_latent_representation(), before)
    loaded = CLUE.load(tmp_path / "m", later)
    assert loaded.setup_args["reps"] == {"rna": "X_cantata_pca", "adt": "X_cantata_pca"}
    close(loaded.get_latent_representation(), before)
    cantata.pp.preprocess(other, reference=later)
    for name in query.mod:
        close(other[name].obsm["X_cantata_pca"], query[name].obsm["X_cantata_pca"])


def test_representations_of_another_run_of_preprocess(preprocessed, tmp_path) -> None:
    model = clue(preprocessed)
    model.save(tmp_path / "m")
    query = cantata.datasets.simulate_mosaic(n_cells=30, n_features={"rna": 60, "adt": 12}, seed=1)
    projected = query.copy()
    cantata.pp.preprocess(projected, reference=preprocessed)
    # of the same width, but of its own components
    cantata.pp.preprocess(query, n_components=8)
    assert np.isfinite(model.get_latent_representation(projected)).all()
    for run in (
        model.get_latent_representation,
        lambda data: CLUE.load_query_data(data, model),
        lambda data: CLUE.load(tmp_path / "m", data),
    ):
        with pytest.raises(
            ValueError, match=r"another run of preprocess.*preprocess\(query, reference=mdata\)"
        ):
            run(query)
    # the model's own
    cantata.pp.preprocess(preprocessed, n_components=8, n_top_genes=20)
    with pytest.raises(ValueError, match=r"obsm\['X_cantata_pca'\] changed after set-up"):
        model.get_latent_representation()
    preprocessed["rna"].varm["cantata_pca"] = -preprocessed["rna"].varm["cantata_pca"]
    with pytest.raises(ValueError, match=r"other loadings or moments in \.varm than"):
        cantata.pp.preprocess(
            cantata.datasets.simulate_mosaic(n_cells=30, n_features={"rna": 60, "adt": 12}),
            reference=preprocessed,
        )


def test_sparse_and_tabular_representations() -> None:
    rng = np.random.default_rng(0)
    results = []
    values = {m: rng.normal(size=(45, 3)).astype(np.float32) for m in ("rna", "adt")}
    for make in (np.asarray, sparse.csr_matrix, pd.DataFrame):
        data = counts_mosaic()
        for name, adata in data.mod.items():
            table = make(values[name])
            if isinstance(table, pd.DataFrame):
                table.index = adata.obs_names
                table.columns = ["x", "y", "z"]
            adata.obsm["X_rep"] = table
        scvi.settings.seed = 0
        CLUE.setup_mudata(data, reps="X_rep")
        model = CLUE(data, n_latent=3)
        model.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
        results += [
            model.get_latent_representation(),
            model.get_latent_representation(data.copy()),
        ]
    for other in results[1:]:
        close(other, results[0])


# Scale and names --------------------------------------------------------------------------------


def test_values_of_another_scale_are_a_warning(case: Case) -> None:
    if case.cls.__module__ == "own_model":
        pytest.skip("it models counts, and refuses others")
    data = case.data()
    for adata in data.mod.values():
        adata.X = adata.X.log1p()
    options = {"CLUE": {"likelihoods": "normal"}, "APOLLO": {"transforms": None}}
    case.cls.setup_mudata(data, batch_key="batch")
    model = case.cls(data, **case.model | options.get(case.cls.__name__, {}))
    model.train(**case.train | QUIET)
    query = new_batch(case)
    for adata in query.mod.values():
        adata.X = adata.X.log1p()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.get_latent_representation(query)
    twice = edited(query, "adt", lambda adata: setattr(adata, "X", (adata.X / 5).log1p()))
    raw = edited(query, "adt", lambda adata: setattr(adata, "X", adata.X.expm1() * 10))
    for bad in (twice, raw):
        message = "Values of modality 'adt' are on average .* times as large"
        with pytest.warns(UserWarning, match=message):
            model.get_latent_representation(bad)
        with pytest.warns(UserWarning, match=message):
            case.cls.load_query_data(bad, model)


def test_names_of_another_case_are_a_hint(case: Case, model) -> None:
    def shout(adata: AnnData) -> None:
        adata.var_names = [name.upper() for name in adata.var_names]

    message = r"12 of them are there in another case, 'RNA_0' for 'rna_0'"
    with pytest.raises(ValueError, match=message):
        model.get_latent_representation(edited(model.adata, "rna", shout))


# Columns of cells -------------------------------------------------------------------------------


def numbered(case: Case, key: str, *values: Any) -> mudata.MuData:
    """Data whose column says 0 or 1 in the types that are given, one for each modality."""
    data = case.data()
    for name, kinds in zip(data.mod, values, strict=True):
        column = [kinds[int(cell[1:]) % 2] for cell in data[name].obs_names]
        data[name].obs[key] = pd.Series(column, index=data[name].obs_names, dtype=object)
    return data


@pytest.mark.parametrize(
    "values",
    [
        ([0, 1], [0.0, 1.0]),
        ([0, 1], ["0", "1"]),
        ([np.int8(0), np.int64(1)], [np.float32(0), np.float64(1)]),
        ([0.0, 1.0], ["0", "1"]),
    ],
)
def test_numbers_are_the_same_batch_whatever_their_type(case: Case, model, values) -> None:
    data = numbered(case, "batch", *values)
    again = case.fit(data)
    assert again.batch_categories == ["0", "1"]
    close(again.get_latent_representation(), model.get_latent_representation())
    expected = again.impute("adt", transform_batch="1").X
    for batch in (1, 1.0, np.int64(1), [1]):
        np.testing.assert_array_equal(again.impute("adt", transform_batch=batch).X, expected)
    both = again.impute("adt", transform_batch=[0, "1"]).X
    np.testing.assert_array_equal(both, again.impute("adt", transform_batch=["0", "1"]).X)
    with pytest.raises(KeyError, match=r"\['2'\] is not one of the batches"):
        again.impute("adt", transform_batch=2)


def test_numbers_survive_a_file(case: Case, tmp_path) -> None:
    """Columns of floats, of which one is missing in one modality, of integers and of strings."""
    data = numbered(case, "batch", [0.0, 1.0], [0.0, 1.0])
    for name in data.mod:
        adata = data[name]
        adata.obs["batch"] = adata.obs["batch"].astype(float)
        adata.obs["group"] = adata.obs["group"].astype(int)
    cell = data["rna"].obs_names.intersection(data["adt"].obs_names)[0]
    data["rna"].obs.loc[cell, "batch"] = np.nan
    setup = {"batch_key": "batch", "categorical_covariate_keys": ["group"]}
    model = case.fit(data, setup)
    model.save(tmp_path / "m")
    data.write_h5mu(tmp_path / "x.h5mu")
    read = mudata.read_h5mu(tmp_path / "x.h5mu")
    expected = model.get_latent_representation()
    for change in (lambda column: column, lambda column: column.astype(object)):
        for name in read.mod:
            read[name].obs["batch"] = change(read[name].obs["batch"])
            read[name].obs["group"] = change(read[name].obs["group"].astype(float))
        again = case.cls.load(tmp_path / "m", read)
        assert again.batch_categories == ["0", "1"]
        rows = again.adata.obs_names.get_indexer(model.adata.obs_names)
        close(again.get_latent_representation()[rows], expected)
        close(again.impute("adt").X[rows], model.impute("adt").X, 1e-4)


@pytest.mark.parametrize("argument", ["categorical_covariate_keys", "continuous_covariate_keys"])
def test_a_query_without_a_covariate_is_an_error(case: Case, argument: str, tmp_path) -> None:
    data = case.data()
    data.obs["age"] = np.arange(data.n_obs) % 3
    model = case.fit(data, {"batch_key": "batch", argument: "age"})
    model.save(tmp_path / "m")
    query = case.data(seed=3)
    for run in (
        model.get_latent_representation,
        lambda data: model.impute("adt", data),
        lambda data: case.cls.load_query_data(data, model),
        lambda data: case.cls.prepare_query_mudata(data, tmp_path / "m"),
        lambda data: case.cls.load(tmp_path / "m", data),
    ):
        with pytest.raises(KeyError, match=f"{argument}='age' is neither"):
            run(query)
    query.obs["age"] = 7
    assert np.isfinite(model.impute("adt", query).X).all()
    assert np.isfinite(model.get_latent_representation(query)).all()
    model.write_results(query, denoised=True, imputed=["rna"])
    mapped = case.cls.load_query_data(query, model)
    assert np.isfinite(mapped.impute("adt").X).all()
    if argument.startswith("categorical"):
        with pytest.raises(ValueError, match=r"'age' holds 1 categories.*e\.g\. '7'.*load_query"):
            case.cls.load(tmp_path / "m", query)


def test_labels_that_are_hidden_stay_hidden() -> None:
    data = counts_mosaic()
    hidden = data.obs_names[:40]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data.obs["group"] = (
            pd.concat([data[m].obs["group"] for m in data.mod]).groupby(level=0).first()
        )
        CLUE.setup_mudata(data, labels_key="group")
    data.obs.loc[hidden, "group"] = np.nan
    with pytest.warns(
        UserWarning, match=r"labels_key='group': 40 cells have no value.*but one in"
    ):
        CLUE.setup_mudata(data, labels_key="group")
    model = CLUE(data, n_latent=3)
    with pytest.warns(UserWarning, match="taken as unknown"):
        codes = model.adata_manager.get_from_registry("labels")
    np.testing.assert_array_equal(codes < 0, data.obs_names.isin(hidden))
    del data.obs["group"]
    field = MosaicCategoricalField(
        "labels", "group", list(data.mod), "labels_key", allow_missing=True
    )
    assert (field.read(data, field.register_field(data)) >= 0).all()


def test_labels_that_are_hidden_are_transferred() -> None:
    data = counts_mosaic()
    data.obsm["X_z"] = np.random.default_rng(0).normal(size=(60, 2))
    data.obs["group"] = (
        pd.concat([data[m].obs["group"] for m in data.mod]).groupby(level=0).first()
    )
    data.obs.loc[data.obs_names[:40], "group"] = np.nan
    with pytest.warns(UserWarning, match="taken as unknown"):
        table = cantata.tl.transfer_labels(data, "group", use_rep="X_z", k=3)
    assert list(table.index) == list(data.obs_names[:40])


# Set-up -----------------------------------------------------------------------------------------


def test_cells_without_a_modality_that_is_used(case: Case) -> None:
    member = np.ones((60, 3), dtype=bool)
    member[:10, :2] = False
    member[10:20, 2] = False
    sizes, links = {"rna": 8, "adt": 5, "other": 9}, [("rna", "adt"), ("rna", "other")]
    data = linked_mosaic(sizes, links, member=member)
    with pytest.raises(ValueError, match=r"10 of 60 cells have none of the modalities.*'c\d'"):
        case.cls.setup_mudata(data, modalities=["rna", "adt"])
    used = cantata.data.membership(data, ["rna", "adt"]).any(axis=1)
    kept = data[used].copy()
    model = case.fit(kept, {"modalities": ["rna", "adt"]})
    with pytest.raises(ValueError, match="10 cells of the query have none of the modalities"):
        model.get_latent_representation(data)


def test_modalities_that_are_views(case: Case) -> None:
    data = case.data()
    views = mosaic({"adt": data["adt"].copy(), "rna": data["rna"][:40]})
    with pytest.raises(ValueError, match=r"Modality 'rna' is a view.*adata\.copy\(\)"):
        case.cls.setup_mudata(views)


@pytest.mark.parametrize(
    "name", ["a.b", "a/b", "type", "train", "keys", "forward", "shared", "batch"]
)
def test_names_of_modalities_that_cannot_be(case: Case, name: str) -> None:
    data = linked_mosaic({name: 8, "adt": 5})
    with pytest.raises(ValueError, match=rf"Modality '{name}' has a name that .*[Rr]ename it"):
        case.cls.setup_mudata(data)


def nameless(data: mudata.MuData) -> mudata.MuData:
    parts = {m: data[m].copy() for m in data.mod}
    names = list(parts["rna"].obs_names)
    names[3] = np.nan
    parts["rna"].obs.index = pd.Index(names, dtype=object)
    return mosaic(parts)


def of_objects(data: mudata.MuData) -> mudata.MuData:
    data["rna"].X = data["rna"].X.toarray().astype(object)
    return data


@pytest.mark.parametrize(
    ("change", "setup", "error", "message"),
    [
        (None, {"layer": "counts"}, TypeError, r"no argument 'layer'\. Did you mean layers"),
        (None, {"size_factor_key": "n"}, TypeError, "no argument 'size_factor_key'"),
        (
            None,
            {"batch_key": ["batch"]},
            TypeError,
            r"batch_key=\['batch'\]: give the name of one",
        ),
        (None, {"modalities": ["rna", "rna"]}, ValueError, "names a modality twice"),
        (None, {"modalities": 3}, TypeError, "modalities=3: give a list of names"),
        (None, {"layers": "raw"}, KeyError, r"layers=\{'rna': 'raw'\}: modality 'rna' has the"),
        (lambda data: data["rna"], {}, TypeError, "Expected a MuData, got AnnData"),
        (nameless, {}, ValueError, r"'rna' has 1 cells without a name \(NaN\).*at position 3"),
        (
            of_objects,
            {},
            TypeError,
            r"'rna': \.X holds values of dtype object.*astype\('float32'\)",
        ),
    ],
)
def test_setup_refuses(case: Case, change, setup: dict, error, message: str) -> None:
    data = case.data()
    if change is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = change(data)
    with pytest.raises(error, match=message):
        case.cls.setup_mudata(data, **setup)
    assert not set(data.uns)


def test_one_name_is_a_list_of_one(case: Case) -> None:
    data = case.data()
    for adata in data.mod.values():
        adata.layers["raw"] = adata.X.copy()
    setup = {"batch_key": "batch", "layers": "raw", "categorical_covariate_keys": "group"}
    model = case.fit(data, setup)
    assert model.setup_args["layers"] == {"rna": "raw", "adt": "raw"}
    assert model.setup_args["categorical_covariate_keys"] == ["group"]
    assert list(model.impute("adt", features="adt_3").var_names) == ["adt_3"]
    model.write_results(imputed="adt")
    assert data.obsm[f"{case.cls.method}_imputed_adt"].shape == (60, 6)


def test_two_names_are_a_pair() -> None:
    data = linked_mosaic()
    SCMODAL.setup_mudata(data, pairs=("rna", "adt"))
    assert SCMODAL(data).setup_args["pairs"] == [("rna", "adt")]
    for pairs in (["rna"], [("rna", "adt", "x")], "rna"):
        with pytest.raises(TypeError, match=r"give a list of pairs, e\.g\."):
            SCMODAL.setup_mudata(data, pairs=pairs)


def test_a_model_of_data_that_were_not_set_up(case: Case) -> None:
    data = case.data()
    name = case.cls.__name__
    with pytest.raises(ValueError, match=rf"not set up for {name}.*{name}\.setup_mudata\(mdata"):
        case.cls(data)
    with pytest.raises(TypeError, match="Expected a MuData, got AnnData"):
        case.cls(data["rna"])
    case.cls.setup_mudata(data)
    with pytest.raises(ValueError, match="or it is a copy of one that was"):
        case.cls(data.copy())


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_widths_and_lengths_that_cannot_be(case: Case, value: float) -> None:
    data = case.data()
    case.cls.setup_mudata(data)
    error = TypeError if value == 2.5 else ValueError
    width = next(iter(case.model))
    with pytest.raises(error, match=width):
        case.cls(data, **case.model | {width: value})
    model = case.cls(data, **case.model)
    weights = {k: v.clone() for k, v in model.module.state_dict().items()}
    for argument in (
        "batch_size",
        "max_epochs",
        *(["encoder_epochs"] if case.cls is APOLLO else []),
    ):
        if argument == "max_epochs" and case.cls is SCMODAL:
            continue
        with pytest.raises(error, match=f"{argument} must be (an integer|at least 1)"):
            model.train(**case.train | QUIET | {argument: value})
    assert not model.is_trained_
    changed = [k for k, v in model.module.state_dict().items() if not v.equal(weights[k])]
    assert not [k for k in changed if "input" not in k]
    with pytest.raises(error, match="batch_size"):
        model.get_latent_representation(batch_size=value)


def test_numbers_of_numpy(case: Case, model) -> None:
    scvi.settings.seed = 0
    data = case.data()
    case.cls.setup_mudata(data, batch_key="batch")
    again = case.cls(data, **{key: np.int64(n) for key, n in case.model.items()})
    train = {k: v for k, v in (case.train | QUIET).items() if isinstance(v, int)}
    again.train(
        **case.train | QUIET | {k: np.int32(v) for k, v in train.items() if v is not False}
    )
    np.testing.assert_array_equal(
        again.get_latent_representation(), model.get_latent_representation()
    )
    again.write_results()
    assert type(data.uns["cantata"][case.cls.method]["parameters"][next(iter(case.model))]) is int


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        (slice(3, 9, 2), [3, 5, 7]),
        (4, [4]),
        (np.int64(4), [4]),
        (-1, [-1]),
        ([-1, 2], [-1, 2]),
        (range(2, 5), [2, 3, 4]),
        (pd.Series([5, 1]), [5, 1]),
        (slice(0, 0), []),
        ((), []),
        (np.array([], dtype=bool)[:0], []),
    ],
)
def test_indices_of_any_type(model, indices, expected: list[int]) -> None:
    expected = np.array(expected, dtype=int)
    joint, imputed = model.get_latent_representation(), model.impute("adt").X
    close(model.get_latent_representation(indices=indices), joint[expected])
    close(model.impute("adt", indices=indices).X, imputed[expected], 1e-4)


def test_indices_by_name_and_mask(model) -> None:
    data = model.adata
    for modality, names in ((None, data.obs_names), ("rna", data["rna"].obs_names)):
        whole = model.get_latent_representation(modality=modality)
        mask = np.arange(len(names)) % 3 == 0
        for indices in (mask, list(mask), names[mask], list(names[mask]), pd.Series(mask)):
            some = model.get_latent_representation(modality=modality, indices=indices)
            close(some, whole[mask])
        close(model.get_latent_representation(modality=modality, indices=names[7]), whole[[7]])
    for indices, error, message in (
        ([60], IndexError, "1 positions that do not exist, e.g. 60; there are 60 cells"),
        ([True, False], IndexError, "mask of 2 cells; there are 60"),
        (["c1", "x"], KeyError, "1 cells that do not exist, e.g. 'x'"),
        ([0.5], TypeError, r"indices holds 0\.5"),
        ([[0, 1]], TypeError, "2 dimensions"),
    ):
        with pytest.raises(error, match=message):
            model.get_latent_representation(indices=indices)
        with pytest.raises(error, match=message):
            model.impute("adt", indices=indices)


# Results ----------------------------------------------------------------------------------------


def test_coordinates_of_the_cells_of_a_modality_are_kept(case: Case) -> None:
    data = case.data()
    rng = np.random.default_rng(0)
    places = {m: rng.normal(size=(data[m].n_obs, 2)) for m in data.mod}
    data["adt"].obsm["spatial"] = places["adt"]
    model = case.fit(data)
    whole = model.impute("rna")
    assert whole.obsm["spatial"].shape == (60, 2)
    rows = data.obs_names.get_indexer(data["adt"].obs_names)
    np.testing.assert_array_equal(whole.obsm["spatial"][rows], places["adt"])
    others = ~data.obs_names.isin(data["adt"].obs_names)
    assert np.isnan(whole.obsm["spatial"][others]).all()
    own = model.impute("rna", source="adt")
    expected = pd.DataFrame(places["adt"], index=data["adt"].obs_names).loc[own.obs_names]
    np.testing.assert_array_equal(own.obsm["spatial"], expected)
    data["rna"].obsm["spatial"] = places["rna"]
    both = model.impute("adt").obsm["spatial"]
    rows = data.obs_names.get_indexer(data["rna"].obs_names)
    np.testing.assert_array_equal(both[rows], places["rna"])
    assert np.isfinite(both).all()
    data.obsm["spatial"] = np.zeros((60, 2))
    assert not model.impute("adt").obsm["spatial"].any()


def test_an_existing_store_is_not_overwritten(model, tmp_path) -> None:
    model.impute("adt", out=tmp_path / "adt.zarr", indices=[0, 1])
    with pytest.raises(FileExistsError, match=r"adt\.zarr' exists"):
        model.impute("adt", out=tmp_path / "adt.zarr")


def test_what_a_model_says_of_itself(case: Case, model) -> None:
    assert repr(model) == model.summary()
    assert repr(model).endswith("; trained")
    data = case.data()
    case.cls.setup_mudata(data)
    assert repr(case.cls(data, **case.model)).endswith("; not trained")


def test_advice_on_batches_is_one_that_can_be_taken(case: Case, model) -> None:
    query = new_batch(case)
    with pytest.raises(ValueError, match=r"load_query_data.*impute\(\.\.\., transform_batch="):
        model.write_results(query, imputed=["adt"])
    assert case.key not in query.obsm


# Copies and workers -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pickle", "joblib", "deepcopy"])
def test_models_can_be_copied(case: Case, model, tmp_path, how: str) -> None:
    if case.cls.__module__ == "own_model" and how != "deepcopy":
        pytest.skip("a class that no module holds is not pickled")
    data = model.adata
    data.uns["note"] = "kept"
    try:
        if how == "pickle":
            again = pickle.loads(pickle.dumps(model))
        elif how == "joblib":
            joblib.dump(model, tmp_path / "m.joblib")
            again = joblib.load(tmp_path / "m.joblib")
        else:
            again = copy.deepcopy(model)
    finally:
        del data.uns["note"]
    assert again.adata is not data
    assert again.adata.uns["note"] == "kept"
    assert list(again.adata.obs_names) == list(data.obs_names)
    assert again.history.keys() == model.history.keys()
    np.testing.assert_array_equal(
        again.get_latent_representation(), model.get_latent_representation()
    )
    weights = {k: v.clone() for k, v in model.module.state_dict().items()}
    again.train(**case.train | QUIET)
    assert all(v.equal(weights[k]) for k, v in model.module.state_dict().items())


def test_a_frozen_query_is_copied_frozen(case: Case, model) -> None:
    mapped = copy.deepcopy(case.cls.load_query_data(new_batch(case), model))
    assert mapped.is_frozen_
    assert mapped.batch_categories == ["b0", "b1", "new"]
    mapped.train(**case.train | QUIET)
    np.testing.assert_array_equal(
        mapped.get_latent_representation(model.adata), model.get_latent_representation()
    )


def test_what_workers_are_sent_can_be_pickled(case: Case, monkeypatch) -> None:
    """As spawn and forkserver do, which start a new interpreter for every worker."""
    seen: list[Any] = []
    init = cantata.data.MosaicLoader.__base__.__init__

    def record(self: Any, dataset: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(dataset)
        init(self, dataset, *args, **kwargs)

    monkeypatch.setattr(cantata.data.MosaicLoader.__base__, "__init__", record)
    data = case.data()
    data.obs["depth"] = np.linspace(0, 1, 60)
    setup = {
        "batch_key": "batch",
        "categorical_covariate_keys": ["group"],
        "continuous_covariate_keys": ["depth"],
    }
    case.fit(data, setup)
    assert seen
    for dataset in seen:
        again = pickle.loads(pickle.dumps(dataset))
        index = 0 if isinstance(dataset, UnpairedDataset) else [0, 1]
        one, two = dataset[index], again[index]
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[k].to_dense(), two[k].to_dense()) for k in one)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_that_are_started_anew(case: Case, model, monkeypatch, start: str) -> None:
    monkeypatch.setattr(scvi.settings, "dl_num_workers", 2)
    from torch import multiprocessing

    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(start, force=True)
    try:
        again = case.fit(case.data())
    finally:
        multiprocessing.set_start_method(before, force=True)
    np.testing.assert_array_equal(
        again.get_latent_representation(), model.get_latent_representation()
    )


# What a run prints ------------------------------------------------------------------------------


def test_output_of_training(case: Case, capfd, caplog) -> None:
    with caplog.at_level(logging.INFO):
        data = case.data()
        case.cls.setup_mudata(data, batch_key="batch")
        model = case.cls(data, **case.model)
        model.train(**case.train | QUIET | {"enable_progress_bar": True})
    out, err = capfd.readouterr()
    text = out + err + caplog.text
    for noise in ("GPU", "TPU", "Tip", "litlogger", "v_num"):
        assert noise not in text
    if case.cls not in (CLUE, SCMODAL):  # which keep the last step
        assert "epochs, from 0 on; the weights of epoch" in out
        assert "Signaling Trainer to stop" not in out
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    assert logger.getEffectiveLevel() < logging.WARNING


def test_the_epoch_that_is_kept_is_named(capsys) -> None:
    data = counts_mosaic()
    CLUE.setup_mudata(data)
    model = CLUE(data, n_latent=3)
    # nothing counts as a gain, so that training stops early on any machine
    stop = {"early_stopping_patience": 2, "early_stopping_min_delta": 1e12, "early_stopping": True}
    model.train(30, batch_size=16, accelerator="cpu", plan_kwargs={"lr": 0.1}, **stop)
    (monitor,) = (c.monitor for c in model.trainer.early_stopping_callbacks)
    scores = model.history[monitor].to_numpy(dtype=float).ravel()
    assert len(scores) < 30
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("Trained"))
    best = f"the weights of epoch {scores.argmin()} are kept ({monitor} {scores.min():.4g})"
    assert line == f"Trained {len(scores)} of 30 epochs, from 0 on; {best}."
    model.train(2, **QUIET)
    assert not capsys.readouterr().out


# What a first user meets -------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["batch_key", "categorical_covariate_keys"])
def test_numbers_that_group_no_cells(case: Case, argument: str) -> None:
    data = case.data()
    data.obs["age"] = np.linspace(20, 80, data.n_obs)
    with pytest.raises(ValueError, match=rf"{argument}='age' has {data.n_obs} values in"):
        case.cls.setup_mudata(data, **{argument: "age"})
    with pytest.raises(ValueError, match="batch_key='age' has"):
        cantata.pp.pairing_report(data, batch_key="age")


def test_arguments_that_no_model_has(case: Case, model) -> None:
    name = case.cls.__name__
    if case.cls.__module__ != "own_model":  # which passes none on
        data = case.data()
        case.cls.setup_mudata(data)
        with pytest.raises(TypeError, match=f"{name} has no argument 'n_hiden'. (Did|It t)"):
            case.cls(data, **{"n_hiden": 3})
    for given, hint in (({"epochs": 5}, "Did you mean max_epochs"), ({"use_gpu": 1}, "It takes")):
        with pytest.raises(TypeError, match=f"{name}.train has no argument '.*'. {hint}"):
            model.train(**given)


def test_a_folder_without_a_model(case: Case, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"There is no saved model in '{tmp_path}'"):
        case.cls.load(tmp_path)


@pytest.mark.parametrize(
    ("cls", "remedy"), [(CLUE, "likelihoods.*normal"), (APOLLO, "losses.*mse")]
)
def test_advice_names_what_the_model_takes(cls: Any, remedy: str) -> None:
    data = edited(counts_mosaic(), "rna", log_values)
    cls.setup_mudata(data)
    with pytest.raises(ValueError, match=f"or pass {remedy}"):
        cls(data, **{"losses": "nb"} if cls is APOLLO else {})


def test_a_list_where_one_value_is_meant() -> None:
    data = counts_mosaic()
    CLUE.setup_mudata(data)
    with pytest.raises(TypeError, match=r"likelihoods=\['nb'\]: give one value"):
        CLUE(data, likelihoods=["nb"])


def test_a_query_whose_modality_has_another_name(case: Case, model) -> None:
    query = new_batch(case, n_cells=60, member=np.ones((60, 2), dtype=bool))
    renamed = mosaic({"rna": query["rna"], "prot": query["adt"]})
    message = "does not know 'prot' of the query, and it lacks 'adt'"
    with pytest.warns(UserWarning, match=message):
        model.get_latent_representation(renamed)
    with pytest.warns(UserWarning, match=message):
        case.cls.load_query_data(renamed, model)


def test_columns_that_mudata_copied_are_not_compared(case: Case) -> None:
    data = case.data()
    for name in data.mod:
        data.obs[f"{name}:batch"] = "old"
    case.cls.setup_mudata(data, batch_key="batch")
    assert "old" not in case.cls(data, **case.model).batch_categories


def test_what_is_said_once(case: Case, model, tmp_path, caplog) -> None:
    def empty_a_feature(adata: AnnData) -> None:
        adata.X = adata.X.multiply(np.arange(adata.n_vars) > 0).tocsr()

    data = edited(model.adata, "adt", empty_a_feature)
    model.save(tmp_path / "m")
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no count in any cell")
        case.cls.load(tmp_path / "m", data)
    assert not [r for r in caplog.records if "already downloaded" in r.message]
