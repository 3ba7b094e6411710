"""What the base class gives every model: one suite over CLUE, SCMODAL, APOLLO and the docs' own.

What only one model does is tested in the file of that model.
"""

from __future__ import annotations

import warnings
from typing import Any

import mudata
import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from linked_mosaics import assert_unchanged, linked_mosaic, snapshot
from model_cases import QUIET, Case, close, new_batch
from mosaics import counts_mosaic, mosaic
from scipy import sparse
from second_device import DEVICE, MPS, second_device

from cantata import APOLLO, SCMODAL
from cantata.data import BATCH
from cantata.data._preload import Preloader
from cantata.nn import LikelihoodHead

# Embeddings -------------------------------------------------------------------------------------


def test_embeddings_follow_the_order_of_the_data(model) -> None:
    """Cells of one modality are where that modality alone puts them."""
    data = model.adata
    joint = model.get_latent_representation()
    assert joint.shape[0] == data.n_obs
    assert joint.dtype == np.float32
    assert np.isfinite(joint).all()
    for name, other in (("rna", "adt"), ("adt", "rna")):
        alone = model.get_latent_representation(modality=name)
        assert alone.shape == (data[name].n_obs, joint.shape[1])
        rows = data.obs_names.get_indexer(data[name].obs_names)
        single = ~data[name].obs_names.isin(data[other].obs_names)
        if model.method == "jointvae":  # its prior is one more expert
            continue
        close(alone[single], joint[rows[single]])


def test_indices_and_batch_size_change_nothing(model) -> None:
    joint = model.get_latent_representation()
    some = np.array([7, 2, 55])
    close(model.get_latent_representation(indices=some), joint[some])
    close(model.get_latent_representation(batch_size=7), joint)
    rna = model.get_latent_representation(modality="rna")
    close(model.get_latent_representation(modality="rna", indices=[3, 1]), rna[[3, 1]])
    assert model.get_latent_representation(indices=[]).shape == (0, joint.shape[1])
    with pytest.raises(KeyError, match=r"modality='atac' is not one of \['rna', 'adt'\]"):
        model.get_latent_representation(modality="atac")


# Imputation -------------------------------------------------------------------------------------


def test_imputed_cells_and_features(model) -> None:
    data = model.adata
    whole = model.impute("adt", source="rna")
    assert set(whole.obs_names) == set(data["rna"].obs_names)
    assert list(whole.var_names) == list(data["adt"].var_names)
    assert whole.X.dtype == np.float32
    assert np.isfinite(whole.X).all()
    assert model.impute("adt").shape == (data.n_obs, data["adt"].n_vars)
    names = ["adt_4", "adt_1"]
    close(model.impute("adt", source="rna", features=names).X, whole[:, names].X)
    chosen = data.obs_names.get_indexer(data["rna"].obs_names[[5, 2, 9]])
    some = model.impute("adt", source="rna", indices=chosen, batch_size=2)
    assert list(some.obs_names) == list(data.obs_names[chosen])
    close(some.X, whole[some.obs_names].X)
    assert model.impute("adt", indices=[]).shape == (0, data["adt"].n_vars)


def test_imputation_in_other_batches(model) -> None:
    one, two = (model.impute("adt", transform_batch=batch).X for batch in ("b0", "b1"))
    assert not np.allclose(one, two, rtol=1e-3)
    both = model.impute("adt", transform_batch=["b0", "b1"]).X
    twice = model.impute("adt", transform_batch=["b0", "b0", "b1"]).X
    np.testing.assert_array_equal(twice, both)
    close(both, (one + two) / 2, 1e-4)
    default = model.impute("adt")
    for batch, values in (("b0", one), ("b1", two)):
        rows = (default.obs_names.str[1:].astype(int) % 2) == int(batch[1])
        close(default.X[rows], values[rows], 1e-4)


def test_imputation_of_modalities_that_a_batch_lacks(case) -> None:
    """Cells of a batch without proteins are given the mean over the batches that have some."""
    data = case.data(n_batches=3)
    parts = {name: data[name].copy() for name in data.mod}
    parts["adt"] = parts["adt"][parts["adt"].obs["batch"] != "b2"].copy()
    model = case.fit(mosaic(parts))
    imputed = model.impute("adt")
    batch = model.adata["rna"].obs["batch"].reindex(imputed.obs_names)
    rows = (batch == "b2").to_numpy()
    assert rows.any()
    mean = model.impute("adt", transform_batch=["b0", "b1"]).X
    close(imputed.X[rows], mean[rows], 1e-4)


def test_imputation_to_disk(model, tmp_path) -> None:
    import anndata

    path = str(tmp_path / "adt.zarr")
    on_disk = model.impute("adt", out=path, batch_size=17)
    expected = model.impute("adt").X
    close(np.asarray(on_disk.X[:]), expected)
    again = anndata.read_zarr(path)
    close(np.asarray(again.X), expected)
    assert list(again.obs_names) == list(model.adata.obs_names)
    with pytest.raises(ValueError, match=r"must end in '\.zarr'"):
        model.impute("adt", out=str(tmp_path / "adt.h5ad"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"modality": "atac"}, KeyError, "modality='atac' is not one of"),
        ({"modality": "adt", "source": "atac"}, KeyError, "source='atac' is not one of"),
        ({"modality": "adt", "features": ["CD4"]}, KeyError, "1 features are not in.*'CD4'"),
        ({"modality": "adt", "transform_batch": "b9"}, KeyError, "'b9'.*batches"),
        ({"modality": "adt", "transform_batch": []}, KeyError, "is not one of the batches"),
        ({"modality": "adt", "source": "rna", "indices": "lacking"}, ValueError, "have no 'rna'"),
    ],
)
def test_imputation_refuses(model, arguments: dict, error, message: str) -> None:
    if arguments.get("indices") == "lacking":
        lacking = ~model.adata.obs_names.isin(model.adata["rna"].obs_names)
        arguments = arguments | {"indices": np.flatnonzero(lacking)[:2]}
    with pytest.raises(error, match=message):
        model.impute(**arguments)


# Training ---------------------------------------------------------------------------------------


class Modes(Callback):
    """Which parts of the module were in training mode, at every step."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.seen = module, set()

    def on_train_batch_start(self, *_: Any) -> None:
        self.seen.add(tuple(name for name, part in self.module.named_modules() if part.training))


def test_training_again_is_in_the_mode_of_the_first_time(case) -> None:
    """Inference leaves a module in evaluation mode, in which lightning would train it."""
    scvi.settings.seed = 0
    data = case.data()
    case.cls.setup_mudata(data, batch_key="batch")
    model = case.cls(data, **case.model)
    modes = []
    for _ in range(3):
        callback = Modes(model.module)
        model.train(**case.train | QUIET, callbacks=[callback])
        modes.append(callback.seen)
        assert not model.module.training
        model.get_latent_representation()
    assert modes[0] == modes[1] == modes[2]
    trained = set().union(*modes[0])
    assert {"", *(name for name, _ in model.module.named_modules())} == trained


def test_training_goes_on_and_so_does_its_history(case) -> None:
    model = case.fit(case.data())
    before = {key: len(table) for key, table in model.history.items()}
    weights = [p.detach().clone() for p in model.module.parameters()]
    model.train(**case.train | QUIET)
    assert any(len(model.history[key]) == 2 * n for key, n in before.items())
    assert all(len(model.history[key]) >= n for key, n in before.items())
    assert any(
        a.shape != b.shape or not torch.equal(a, b)
        for a, b in zip(weights, model.module.parameters(), strict=True)
    )


def test_same_seed_same_bits(case) -> None:
    results = []
    for seed in (5, 5, 6):
        data = case.data()
        case.cls.setup_mudata(data, batch_key="batch")
        scvi.settings.seed = seed
        model = case.cls(data, **case.model)
        model.train(**case.train | QUIET)
        results.append(model.get_latent_representation())
    np.testing.assert_array_equal(*results[:2])
    assert not np.array_equal(results[0], results[2])


def test_num_workers_change_nothing(case, monkeypatch) -> None:
    results = []
    for workers in (0, 2):
        monkeypatch.setattr(scvi.settings, "dl_num_workers", workers)
        results.append(case.fit(case.data()).get_latent_representation())
    np.testing.assert_array_equal(*results)


def test_all_cells_may_be_trained_on(case) -> None:
    if case.cls is SCMODAL:
        pytest.skip("SCMODAL trains on all cells")
    model = case.fit(case.data(), train_size=1.0)
    assert len(model.train_indices) == model.adata.n_obs
    assert not any(key.endswith("validation") for key in model.history)
    assert np.isfinite(model.get_latent_representation()).all()


@pytest.mark.parametrize("form", ["backed", "dense", "integer", "csc"])
def test_storage_changes_nothing(case, tmp_path, form: str) -> None:
    expected = case.fit(case.data()).get_latent_representation()
    data = case.data()
    if form == "backed":
        data.write_h5mu(tmp_path / "x.h5mu")
        data = mudata.read_h5mu(tmp_path / "x.h5mu", backed="r")
        assert data["rna"].isbacked
    else:
        for name in data.mod:
            x = data[name].X
            make = {"dense": x.toarray, "integer": lambda x=x: x.astype(np.int64), "csc": x.tocsc}
            data[name].X = make[form]()
    model = case.fit(data)
    close(model.get_latent_representation(), expected, 2e-3)
    if form == "backed":
        model.save(str(tmp_path / "m"))
        data.file.close()


# Save and load ----------------------------------------------------------------------------------


def test_save_load_encode_is_exact(case, model, tmp_path) -> None:
    model.save(str(tmp_path / "m"))
    again = case.cls.load(str(tmp_path / "m"), model.adata)
    for modality in (None, "rna", "adt"):
        one, two = (m.get_latent_representation(modality=modality) for m in (model, again))
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(model.impute("adt").X, again.impute("adt").X)
    assert again.history.keys() == model.history.keys()
    assert again.has_inputs_
    again.train(**case.train | QUIET)


def test_save_with_data_and_load_without(case, model, tmp_path) -> None:
    model.save(str(tmp_path / "m"), save_anndata=True)
    again = case.cls.load(str(tmp_path / "m"))
    position = model.adata.obs_names.get_indexer(again.adata.obs_names)
    np.testing.assert_array_equal(
        model.get_latent_representation()[position], again.get_latent_representation()
    )


def test_load_with_fewer_cells_in_another_order(case, model, tmp_path) -> None:
    model.save(str(tmp_path / "m"))
    part = permuted(model.adata, features=False, share=0.5)
    again = case.cls.load(str(tmp_path / "m"), part)
    for name in part.mod:
        rows = model.adata[name].obs_names.get_indexer(part[name].obs_names)
        own = model.get_latent_representation(modality=name)
        close(again.get_latent_representation(modality=name), own[rows])


# Results ----------------------------------------------------------------------------------------


def test_results_are_written_read_and_the_model_loaded(case, tmp_path) -> None:
    data = case.data()
    model = case.fit(data)
    before = snapshot(data)
    model.write_results(denoised=True, imputed=["adt"])
    method = case.cls.method
    assert set(data.obsm) - before["obsm"] == {case.key, f"{method}_imputed_adt"}
    np.testing.assert_array_equal(data.obsm[case.key], model.get_latent_representation())
    assert data.obsm[f"{method}_imputed_adt"].dtype == np.float32
    np.testing.assert_array_equal(data.obsm[f"{method}_imputed_adt"], model.impute("adt").X)
    record = data.uns["cantata"][method]
    assert list(record["imputed_features"]["adt"]) == list(data["adt"].var_names)
    for name, (x, *_, obsm, _uns) in before["parts"].items():
        added = {f"{case.key}{ending}" for ending in case.embedding}
        assert set(data[name].obsm) == set(obsm) | added
        assert data[name].layers[f"{method}_denoised"].shape == data[name].shape
        assert (x != data[name].X).nnz == 0
    model.save(str(tmp_path / "m"))
    data.write_h5mu(tmp_path / "x.h5mu")
    again = mudata.read_h5mu(tmp_path / "x.h5mu")
    np.testing.assert_array_equal(again.obsm[case.key], data.obsm[case.key])
    width = next(iter(case.model))
    assert again.uns["cantata"][method]["parameters"][width] == case.model[width]
    loaded = case.cls.load(str(tmp_path / "m"), again)
    rows = again.obs_names.get_indexer(data.obs_names)
    close(loaded.get_latent_representation()[rows], data.obsm[case.key])


def test_results_are_written_to_a_query_only(case, model) -> None:
    query = case.data(seed=3)
    before = set(model.adata.obsm)
    model.write_results(query)
    assert query.obsm[case.key].shape[0] == query.n_obs
    assert set(model.adata.obsm) == before
    with pytest.raises(KeyError, match="imputed names modalities"):
        model.write_results(query, imputed=["atac"])


# New data ---------------------------------------------------------------------------------------


def permuted(data: mudata.MuData, *, features: bool = True, share: float = 1.0) -> mudata.MuData:
    """The same data with modalities, cells and features in another order."""
    rng = np.random.default_rng(0)
    parts = {}
    for name in list(data.mod)[::-1] if features else list(data.mod):
        adata = data[name]
        rows = rng.permutation(adata.n_obs)[: int(share * adata.n_obs)]
        columns = rng.permutation(adata.n_vars) if features else np.arange(adata.n_vars)
        parts[name] = adata[rows, columns].copy()
    return mosaic(parts)


def test_order_of_new_data_changes_nothing(model) -> None:
    data, query = model.adata, permuted(model.adata)
    rows = data.obs_names.get_indexer(query.obs_names)
    joint = model.get_latent_representation()
    close(model.get_latent_representation(query), joint[rows])
    rows = data["rna"].obs_names.get_indexer(query["rna"].obs_names)
    rna = model.get_latent_representation(modality="rna")
    close(model.get_latent_representation(query, modality="rna"), rna[rows])
    proteins = model.impute("adt", query).to_df()
    close(proteins, model.impute("adt").to_df().loc[proteins.index], 1e-4)


def test_view_keeps_its_own_order(model) -> None:
    view = model.adata[np.random.default_rng(1).permutation(60)[:40]]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        joint = model.get_latent_representation(view)
    rows = model.adata.obs_names.get_indexer(view.obs_names)
    close(joint, model.get_latent_representation()[rows])
    assert view.is_view


def test_input_is_not_modified(case, tmp_path) -> None:
    data = case.data()
    before = snapshot(data)
    model = case.fit(data)
    model.impute("adt")
    model.save(str(tmp_path / "m"))
    assert_unchanged(data, before)
    query = new_batch(case)
    query.update()
    before = snapshot(query)
    model.get_latent_representation(query)
    model.impute("rna", query, transform_batch="b0")
    case.cls.load_query_data(query, model).train(**case.train | QUIET)
    assert_unchanged(query, before)
    assert set(query.uns) == before["uns"]


def test_new_data_with_one_modality_and_without_batch(model) -> None:
    alone = mosaic({"adt": counts_mosaic(seed=2)["adt"].copy()})
    del alone["adt"].obs["batch"]
    joint = model.get_latent_representation(alone)
    assert np.isfinite(joint).all()
    with pytest.raises(ValueError, match="transform_batch"):
        model.impute("rna", alone)
    assert model.impute("rna", alone, transform_batch="b0").shape == (alone.n_obs, 12)
    with pytest.raises(KeyError, match="rna"):
        model.get_latent_representation(alone, modality="rna")
    with pytest.raises(KeyError, match="rna"):
        model.impute("adt", alone, source="rna", transform_batch="b0")


def test_new_data_that_lacks_features(model) -> None:
    rna, adt = model.adata["rna"], model.adata["adt"]
    few = mosaic({"rna": rna[:, :11].copy(), "adt": adt.copy()})
    with pytest.warns(UserWarning, match=r"'rna' lacks 1 of the model's 12 features.*'rna_11'"):
        assert np.isfinite(model.get_latent_representation(few)).all()
    fewer = mosaic({"rna": rna[:, :5].copy(), "adt": adt.copy()})
    with pytest.raises(ValueError, match=r"'rna' lacks 7 of the model's 12 features"):
        model.get_latent_representation(fewer)
    with pytest.raises(KeyError, match="atac"):
        model.get_latent_representation(mosaic({"atac": rna.copy()}))


# Queries ----------------------------------------------------------------------------------------


def test_a_frozen_query_moves_nothing_of_the_reference(case, model) -> None:
    """To the bit, though nothing has put the new module into evaluation mode before."""
    mapped = case.cls.load_query_data(new_batch(case), model)
    assert mapped.is_frozen_
    reference = {
        modality: model.get_latent_representation(modality=modality)
        for modality in (None, "rna", "adt")
    }
    buffers = {name: value.clone() for name, value in model.module.named_buffers()}
    held = {n: p.detach().clone() for n, p in mapped.module.named_parameters()}
    can_learn = {n for n, p in mapped.module.named_parameters() if p.requires_grad}
    mapped.train(**case.train | QUIET)
    for modality, before in reference.items():
        after = mapped.get_latent_representation(model.adata, modality=modality)
        np.testing.assert_array_equal(after, before)
    if case.cls is not APOLLO:  # its tables get rows
        now = dict(mapped.module.named_buffers())
        for name, value in buffers.items():  # a new batch may get a row of its own
            same = now[name] if now[name].shape == value.shape else now[name][: len(value)]
            assert torch.equal(same, value), name
    moved = {
        name
        for name, value in mapped.module.named_parameters()
        if value.shape != held[name].shape or not torch.equal(value, held[name])
    }
    assert moved
    assert moved <= can_learn | {f"tables.{name}.weight" for name in ("shared", "rna", "adt")}
    close(mapped.impute("rna", model.adata).X, model.impute("rna").X, 1e-4)


def test_a_frozen_query_stays_frozen_when_it_is_loaded(case, model, tmp_path) -> None:
    mapped = case.cls.load_query_data(new_batch(case), model)
    mapped.save(str(tmp_path / "m"))
    again = case.cls.load(str(tmp_path / "m"), mapped.adata)
    before = model.get_latent_representation()
    again.train(**case.train | QUIET)
    np.testing.assert_array_equal(again.get_latent_representation(model.adata), before)


def test_a_query_that_is_not_frozen_moves(case, model) -> None:
    mapped = case.cls.load_query_data(new_batch(case), model, freeze=False)
    mapped.train(**case.train | QUIET)
    before = model.get_latent_representation()
    assert np.abs(mapped.get_latent_representation(model.adata) - before).max() > 1e-4


def test_a_new_batch_adapts(case, model) -> None:
    query = new_batch(case)
    with pytest.raises(ValueError, match="batch that the model does not know"):
        model.impute("rna", query)
    mapped = case.cls.load_query_data(query, model)
    assert mapped.batch_categories == ["b0", "b1", "new"]
    position = mapped.adata.obs_names.get_indexer(query.obs_names)
    close(mapped.get_latent_representation()[position], model.get_latent_representation(query))
    before = mapped.impute("rna").X
    mapped.train(**case.train | QUIET)
    assert not np.array_equal(mapped.impute("rna").X, before)
    assert case.key not in query.obsm


@pytest.mark.parametrize("freeze", [False, True])
def test_a_query_of_one_modality_from_a_folder(case, model, tmp_path, freeze: bool) -> None:
    model.save(str(tmp_path / "m"), save_anndata=True)
    query = mosaic({"adt": new_batch(case, seed=2)["adt"].copy()})
    mapped = case.cls.load_query_data(query, tmp_path / "m", freeze=freeze)
    mapped.train(**case.train | QUIET)
    assert np.isfinite(mapped.get_latent_representation()).all()
    assert mapped.impute("rna", transform_batch="b0").shape == (query.n_obs, 12)
    prepared = case.cls.prepare_query_mudata(query, model)
    assert prepared["rna"].shape == (0, 12)


def test_further_covariates(case) -> None:
    """Categories that a query adds, and continuous covariates."""
    data = case.data()
    for name in data.mod:
        data[name].obs["depth"] = np.linspace(0, 1, data[name].n_obs)
    data.obs["depth"] = np.linspace(0, 1, data.n_obs)
    for name in data.mod:
        del data[name].obs["depth"]
    setup = {
        "batch_key": "batch",
        "categorical_covariate_keys": ["group"],
        "continuous_covariate_keys": ["depth"],
    }
    model = case.fit(data, setup)
    query = new_batch(case)
    query.obs["depth"] = 0.5
    for name in query.mod:
        query[name].obs["group"] = "another"
    mapped = case.cls.load_query_data(query, model)
    mapped.train(**case.train | QUIET)
    assert np.isfinite(mapped.impute("rna").X).all()
    np.testing.assert_array_equal(
        mapped.get_latent_representation(data), model.get_latent_representation()
    )


# Names ------------------------------------------------------------------------------------------


def test_summary_and_other_set_ups(case, model) -> None:
    name = case.cls.__name__
    assert model.summary().startswith(f"{name} of 60 cells; features: rna 12, adt 6;")
    assert "trained" in model.summary()
    with pytest.raises(NotImplementedError, match="setup_mudata"):
        case.cls.setup_anndata(model.adata["rna"])
    with pytest.raises(NotImplementedError, match="setup_mudata"):
        case.cls.setup_annbatch(None)


def test_subset_of_the_modalities(case) -> None:
    data = linked_mosaic(
        {"rna": 8, "adt": 5, "other": 9},
        [("rna", "adt"), ("rna", "other")],
        member=np.ones((60, 3), dtype=bool),
    )
    model = case.fit(data, {"modalities": ["rna", "other"]})
    assert model.modalities == ["rna", "other"]
    assert np.isfinite(model.get_latent_representation()).all()


def test_names_of_features_in_several_modalities(case) -> None:
    """CD4 the gene and CD4 the protein are told apart."""
    plain = case.fit(case.data()).get_latent_representation()
    data = case.data()
    parts = {name: data[name].copy() for name in data.mod}
    for adata in parts.values():
        adata.var_names = [f"CD{j}" for j in range(adata.n_vars)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = mosaic(parts)
    np.testing.assert_array_equal(case.fit(twin).get_latent_representation(), plain)


def test_minibatches_start_with_the_cells(model) -> None:
    """Lightning takes the length of the first tensor for the size of the minibatch."""
    minibatch = model.adata_manager.create_torch_dataset()[[3, 1]]
    assert next(iter(minibatch)) == "cell"
    assert BATCH in minibatch
    assert not sparse.issparse(minibatch["rna"])


# Batches that differ in what they measured ------------------------------------------------------


def test_new_batches_start_at_those_that_measured_the_modality(case) -> None:
    """What a batch without proteins happens to hold for proteins plays no part."""
    data = case.data(n_batches=7)
    parts = {name: data[name].copy() for name in data.mod}
    parts["adt"] = parts["adt"][parts["adt"].obs["batch"] != "b6"].copy()
    model = case.fit(mosaic(parts))
    query, imputed = new_batch(case), []
    for _ in range(2):
        mapped = case.cls.load_query_data(query, model)
        imputed.append(mapped.impute("adt", transform_batch="new").X)
        with torch.no_grad():
            rows = [
                p
                for name, p in model.module.named_parameters()
                if "adt" in name.split(".") and p.shape[0] == 7
            ]
            assert rows
            for parameter in rows:
                parameter[6] = 30.0
    close(*imputed)


def panels(case: Case, value: float) -> mudata.MuData:
    """Batch b1 did not measure proteins 1 and 4, which others have in all cells."""
    data = case.data(n_cells=150, member=np.ones((150, 2), dtype=bool))
    adt = data["adt"]
    x = adt.X.toarray() + 3
    lacking = (adt.obs["batch"] == "b1").to_numpy()
    x[:, [1, 4]] = np.where(lacking[:, None], value, x[:, [1, 4]])
    adt.X = x
    return data


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_features_that_a_batch_did_not_measure_are_imputed_from_others(case, value) -> None:
    data = panels(case, value)
    case.cls.setup_mudata(data, batch_key="batch")
    message = r"'adt': 2 of 6 features were not measured in batch 'b1', e.g. 'adt_1'"
    with pytest.warns(UserWarning, match=message):
        model = case.cls(data, **case.model)
    model.train(**case.train | QUIET)
    heads = [part for part in model.module.modules() if isinstance(part, LikelihoodHead)]
    assert sum(head.measured is not None for head in heads) == len(heads) / 2
    imputed = model.impute("adt", source="rna")
    b1 = np.asarray([int(name[1:]) % 2 == 1 for name in imputed.obs_names])
    of_others = model.impute("adt", source="rna", transform_batch="b0").X
    close(imputed.X[:, [1, 4]], of_others[:, [1, 4]], 1e-4)
    own = model.impute("adt", source="rna", transform_batch="b1").X
    close(imputed.X[b1], own[b1], 1e-4)
    assert not np.allclose(own[:, [0, 2, 3, 5]], of_others[:, [0, 2, 3, 5]], rtol=1e-3)
    assert np.isfinite(model.get_latent_representation()).all()


def test_panels_are_saved_and_those_of_new_batches_found(case, tmp_path) -> None:
    data = panels(case, 0.0)
    model = case.fit(data)
    model.save(str(tmp_path / "m"))
    again = case.cls.load(str(tmp_path / "m"), data)
    close(again.impute("adt").X, model.impute("adt").X)
    query = new_batch(case, n_cells=60, member=np.ones((60, 2), dtype=bool))
    x = query["adt"].X.toarray() + 1
    x[:, 0] = 0
    query["adt"].X = x
    with pytest.warns(UserWarning, match=r"1 of 6 features were not measured in batch 'new'"):
        mapped = case.cls.load_query_data(query, model)
    mapped.train(**case.train | QUIET)
    imputed = mapped.impute("adt", source="rna").X
    others = mapped.impute("adt", source="rna", transform_batch=["b0", "b1"]).X
    close(imputed[:, 0], others[:, 0], 1e-4)
    np.testing.assert_array_equal(mapped.panels_["adt"]["measured"].sum(axis=1), [6, 4, 5])


def test_nan_that_is_no_panel_is_refused(case) -> None:
    data = panels(case, np.nan)
    x = data["adt"].X
    x[0, 0] = np.nan
    data["adt"].X = x
    with pytest.raises(ValueError, match=r"'adt' has \d+ NaN or infinite values"):
        case.cls.setup_mudata(data, batch_key="batch")
    with pytest.raises(ValueError, match=r"'adt' has \d+ NaN or infinite values"):
        case.cls.setup_mudata(panels(case, np.nan))


def test_weights_of_losses_are_not_negative(case) -> None:
    names = {"CLUE": "lambda_mse", "SCMODAL": "lambda_ae", "APOLLO": "lambda_norm"}
    if case.cls.__name__ not in names:
        pytest.skip("the plan is scvi-tools' own")
    name = names[case.cls.__name__]
    with pytest.raises(ValueError, match=f"{name}=-0.5 must be at least 0"):
        case.fit(case.data(), plan_kwargs={name: -0.5})


# Devices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [DEVICE, MPS], ids=str)
def test_training_and_results_on_a_second_device(case, monkeypatch, tmp_path, device) -> None:
    """Without a GPU: on a stand-in whose operators refuse to mix tensors of two devices."""
    expected = case.fit(case.data())
    n_free = 10**8 if device == DEVICE else 0  # matrices are preloaded
    monkeypatch.setattr(Preloader, "on", lambda device: Preloader(device, n_free))
    with second_device(monkeypatch, device):
        model = case.fit(case.data())
        assert model.device == device
        embedding = model.get_latent_representation()
        imputed = model.impute("adt", source="rna").X
        model.differential_expression("adt", "batch", n_samples=20, silent=True)
        model.write_results(denoised=True, imputed=["rna"])
        model.save(str(tmp_path / "model"))
        query = case.cls.load_query_data(case.data(seed=3, n_cells=40), model)
        query.train(**case.train | QUIET)
        assert np.isfinite(query.get_latent_representation()).all()
    close(embedding, expected.get_latent_representation(), 1e-3)
    close(imputed, expected.impute("adt", source="rna").X, 1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_training_and_results_on_a_gpu(case, tmp_path, kind) -> None:
    if not getattr(torch, kind).is_available():
        pytest.skip(f"no device of kind {kind!r}")
    accelerator = {"cuda": "gpu", "mps": "mps"}[kind]
    model = case.fit(case.data(), accelerator=accelerator)
    assert model.device.type == kind
    model.write_results(denoised=True, imputed=["rna"])
    assert np.isfinite(model.adata.obsm[case.key]).all()
    model.save(str(tmp_path / "model"))
    loaded = case.cls.load(str(tmp_path / "model"), model.adata)
    close(loaded.get_latent_representation(), model.get_latent_representation(), 1e-4)
    query = case.cls.load_query_data(case.data(seed=3, n_cells=40), model)
    query.train(**case.train | QUIET | {"accelerator": accelerator})
    assert np.isfinite(query.get_latent_representation()).all()
