"""From setup to results, saved models and queries."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from linked_mosaics import (
    QUIET,
    SMALL,
    THREE,
    assert_unchanged,
    chain,
    link,
    linked_mosaic,
    partial_member,
    snapshot,
    unpaired_member,
)
from mosaics import counts_mosaic, mosaic

import cantata
from cantata import SCMODAL
from cantata.data import StepSampler
from cantata.model.scmodal import SCMODALModule
from cantata.model.scmodal._model import _planned_steps
from cantata.nn import Covariates


def trained(mdata, steps: int = 2, setup: dict | None = None, train: dict | None = None, **model):
    SCMODAL.setup_mudata(mdata, **({"batch_key": "batch"} if setup is None else setup))
    scmodal = SCMODAL(mdata, **(SMALL | model))
    scmodal.train(max_steps=steps, **QUIET | (train or {}))
    return scmodal


@pytest.fixture
def mdata() -> mudata.MuData:
    return linked_mosaic()


@pytest.fixture(scope="module")
def scmodal() -> SCMODAL:
    """A trained model that no test may change."""
    scvi.settings.seed = 0
    return trained(linked_mosaic(), steps=5, n_components=5)


def states(model: SCMODAL) -> list[torch.Tensor]:
    return list(model.module.state_dict().values())


def read_by_encoders(model: SCMODAL) -> dict[str, torch.Tensor]:
    """State of what encoders read; what makes the way back unbiased follows the weights."""
    state = model.module.inputs.state_dict()
    return {key: value.clone() for key, value in state.items() if not key.endswith("factor")}


# Embeddings -------------------------------------------------------------------------------------


def test_embeddings_follow_the_order_of_the_data(scmodal) -> None:
    data = scmodal.adata
    joint = scmodal.get_latent_representation()
    assert joint.shape == (60, 4)
    assert joint.dtype == np.float32
    total, n = np.zeros((60, 4)), np.zeros((60, 1))
    for name in data.mod:
        own = scmodal.get_latent_representation(modality=name)
        assert own.shape == (data[name].n_obs, 4)
        assert own.dtype == np.float32
        rows = data.obs_names.get_indexer(data[name].obs_names)
        total[rows] += own
        n[rows] += 1
    assert (np.diff(rows) < 0).any()  # the second modality has an order of its own
    assert set(n.ravel()) == {1, 2}
    np.testing.assert_allclose(joint, total / n, atol=1e-5)


@torch.inference_mode()
def test_a_modality_speaks_for_itself(scmodal) -> None:
    """Its embedding is its encoder's, whatever else its cells have."""
    for name in scmodal.modalities:
        part = scmodal.adata[name]
        codes = [[scmodal.batch_categories.index(b)] for b in part.obs["batch"]]
        codes = torch.tensor(codes)
        x = scmodal.module.input(name)(torch.from_numpy(part.X.toarray()), codes[:, 0])
        expected = scmodal.module.encoders[name](x, Covariates(codes, None))
        own = scmodal.get_latent_representation(modality=name)
        np.testing.assert_allclose(own, expected.numpy(), atol=1e-5)
        joint = scmodal.get_latent_representation()
        rows = scmodal.adata.obs_names.get_indexer(part.obs_names)
        assert np.abs(joint[rows] - own).max() > 1e-2


def test_no_cell_has_two_modalities() -> None:
    data = linked_mosaic(member=unpaired_member(60, 2))
    model = trained(data)
    joint = model.get_latent_representation()
    for name in data.mod:
        rows = data.obs_names.get_indexer(data[name].obs_names)
        np.testing.assert_allclose(
            joint[rows], model.get_latent_representation(modality=name), atol=1e-6
        )


@pytest.mark.parametrize(
    ("pairs", "given"),
    [
        ([("adt", "rna"), ("rna", "atac")], None),
        ([("rna", "adt"), ("rna", "atac")], [("rna", "adt"), ("rna", "atac")]),
        ([("adt", "rna"), ("adt", "atac"), ("rna", "atac")], [("atac", "adt"), ("adt", "rna")]),
    ],
)
@pytest.mark.parametrize("member", [partial_member, unpaired_member])
def test_chains_and_trees_of_three(pairs, given, member) -> None:
    data = linked_mosaic(THREE, pairs, member=member(90, 3), n_cells=90)
    paired = member is partial_member
    setup = {"batch_key": "batch", "pairs": given}
    model = trained(data, setup=setup, train={"use_paired": paired}, n_components=5)
    expected = given or pairs
    assert model.module.pairs == expected
    assert list(model.module.discriminators) == ["_".join(pair) for pair in expected]
    assert model.get_latent_representation().shape == (90, 4)
    for source in THREE:
        for target in THREE:
            imputed = model.impute(target, source=source)
            assert imputed.shape == (data[source].n_obs, THREE[target])
            assert np.isfinite(imputed.X).all()
    terms = {f"anchor_{'_'.join(pair)}_train" for pair in expected}
    assert {key for key in model.history if key.startswith("anchor")} == terms
    assert any(key.startswith("paired_") for key in model.history) == paired


def test_links_that_are_there_are_the_default(mdata) -> None:
    SCMODAL.setup_mudata(mdata)
    assert SCMODAL(mdata, **SMALL).setup_args["pairs"] == [("rna", "adt")]


def test_links_of_the_package_train_from_layers_and_genes() -> None:
    data = cantata.datasets.simulate_mosaic(150, n_features={"rna": 60, "adt": 12}, pairing="none")
    cantata.pp.preprocess(data, n_components=5)
    cantata.pp.link_features(data, "rna", "adt")
    layers = {"rna": "counts", "adt": "counts"}
    model = trained(data, setup={"layers": layers, "reps": {}}, n_components=10)
    assert [model.module.input(m).transform for m in ("rna", "adt")] == ["log1p", "clr"]
    assert np.isfinite(model.get_latent_representation()).all()


# Training ---------------------------------------------------------------------------------------


def test_number_of_steps() -> None:
    assert _planned_steps(None, None) == 600
    assert _planned_steps(3, None) == 300
    assert _planned_steps(None, 250) == 250


def test_history_holds_every_term(mdata) -> None:
    history = trained(mdata, train={"use_paired": True}).history
    terms = {f"{term}_{m}" for term in ("reconstruction", "geometry") for m in mdata.mod}
    pair = ("discriminator", "cycle", "anchor", "n_anchors", "linked", "paired", "consistency")
    terms |= {f"{term}_rna_adt" for term in pair} | {"objective"}
    assert {f"{term}_train" for term in terms} | {"train_loss"} == set(history)
    for values in history.values():
        assert len(values) == 1
        assert np.isfinite(values.to_numpy(dtype=float)).all()
    assert history["n_anchors_rna_adt_train"].iloc[0, 0] > 1
    assert -0.976 < history["geometry_rna_train"].iloc[0, 0] < 0


def test_training_lowers_the_objective() -> None:
    data = linked_mosaic(n_cells=120)
    SCMODAL.setup_mudata(data)
    model = SCMODAL(data, **SMALL)
    plan = {"lr": 5e-3, "lambda_gan": 0.0}
    means = []
    for _ in range(2):
        model.train(max_steps=30, plan_kwargs=plan, **QUIET)
        means.append(float(model.history["objective_train"].iloc[-1, 0]))
    assert means[1] < 0.8 * means[0]


def test_same_seed_same_bits(mdata) -> None:
    results = []
    for seed in (5, 5, 6):
        scvi.settings.seed = seed
        model = trained(mdata.copy(), train={"use_paired": True})
        results.append([model.get_latent_representation(), *states(model)])
    assert all(np.array_equal(a, b) for a, b in zip(*results[:2], strict=True))
    assert not np.array_equal(results[0][0], results[2][0])


def test_num_workers_change_nothing(mdata, monkeypatch) -> None:
    results = []
    for workers in (0, 2):
        monkeypatch.setattr(scvi.settings, "dl_num_workers", workers)
        monkeypatch.setattr("cantata.model._inputs.MAX_CACHED", 7)
        scvi.settings.seed = 5
        results.append(states(trained(mdata, steps=4)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.fixture
def _short_epochs(monkeypatch) -> None:
    """Epochs of five steps in place of a hundred."""
    for module in ("_model", "_plan"):
        monkeypatch.setattr(f"cantata.model.scmodal.{module}.STEPS_PER_EPOCH", 5)
    monkeypatch.setattr(StepSampler.__init__, "__defaults__", (5,))


@pytest.mark.usefixtures("_short_epochs")
@pytest.mark.parametrize(("schedule", "after"), [("constant", 1), ("cosine", 1), ("constant", 2)])
def test_resumed_training_equals_uninterrupted(
    mdata, tmp_path, monkeypatch, schedule: str, after: int
) -> None:
    """Before the first of the refinements of linked features, and between them."""
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path / "log")

    def fresh() -> SCMODAL:
        scvi.settings.seed = 3
        SCMODAL.setup_mudata(mdata, batch_key="batch")
        return SCMODAL(mdata, **SMALL)

    options = {"max_steps": 17, "plan_kwargs": {"lr_schedule": schedule}, **QUIET}
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1)
    whole = fresh()
    whole.train(callbacks=[keep], enable_checkpointing=True, **options)
    resumed = fresh()
    torch.manual_seed(99)
    resumed.train(ckpt_path=str(tmp_path / f"epoch={after}.ckpt"), **options)
    assert whole.trainer.current_epoch == resumed.trainer.current_epoch == 4
    assert all(torch.equal(a, b) for a, b in zip(states(whole), states(resumed), strict=True))
    for term, values in resumed.history.items():
        tail = whole.history[term].to_numpy().ravel()[after + 1 :]
        np.testing.assert_array_equal(tail, values.to_numpy().ravel())


def test_consistency_is_looked_at_every_tenth_step(mdata, monkeypatch) -> None:
    looked, whole = [], SCMODALModule.consistency

    def look(*given):
        looked.append(1)
        return whole(*given)

    monkeypatch.setattr(SCMODALModule, "consistency", look)
    model = trained(mdata, steps=21)
    assert len(looked) == 3
    assert np.isfinite(model.history["consistency_rna_adt_train"].to_numpy(dtype=float)).all()


def test_training_goes_on(mdata) -> None:
    model = trained(mdata)
    before = model.get_latent_representation()
    inputs = read_by_encoders(model)
    model.train(max_steps=2, **QUIET)
    assert not np.allclose(model.get_latent_representation(), before)
    for key, value in read_by_encoders(model).items():
        assert torch.equal(value, inputs[key])
    assert len(model.history["objective_train"]) == 2


def test_measured_pairs_draw_their_embeddings_together() -> None:
    apart = []
    for use_paired in (False, True):
        scvi.settings.seed = 0
        model = trained(
            linked_mosaic(member=np.ones((60, 2), dtype=bool)),
            steps=30,
            train={"use_paired": use_paired, "plan_kwargs": {"lr": 5e-3, "lambda_anchor": 0.0}},
        )
        data = model.adata
        rna, adt = (
            model.get_latent_representation(modality=m)[
                data[m].obs_names.get_indexer(data.obs_names)
            ]
            for m in ("rna", "adt")
        )
        apart.append(np.square(rna - adt).sum() / np.square(rna - adt[::-1]).sum())
    assert apart[1] < 0.8 * apart[0]


# Results ----------------------------------------------------------------------------------------


def test_write_results_writes_the_documented_keys(mdata, tmp_path) -> None:
    model = trained(mdata, transforms={"rna": "log1p", "adt": None})
    before = snapshot(mdata)
    model.write_results(denoised=True, imputed=["adt"])
    assert set(mdata.obsm) - before["obsm"] == {"X_scmodal", "scmodal_imputed_adt"}
    np.testing.assert_array_equal(mdata.obsm["X_scmodal"], model.get_latent_representation())
    assert mdata.obsm["scmodal_imputed_adt"].shape == (60, 6)
    assert mdata.obsm["scmodal_imputed_adt"].dtype == np.float32
    record = mdata.uns["cantata"]["scmodal"]
    assert list(record["imputed_features"]["adt"]) == list(mdata["adt"].var_names)
    for name, (x, *_, obsm, _uns) in before["parts"].items():
        np.testing.assert_array_equal(
            mdata[name].obsm["X_scmodal"], model.get_latent_representation(modality=name)
        )
        assert set(mdata[name].obsm) == set(obsm) | {"X_scmodal"}
        assert mdata[name].layers["scmodal_denoised"].shape == mdata[name].shape
        assert (x != mdata[name].X).nnz == 0
    denoised = mdata["adt"].to_df("scmodal_denoised")
    imputed = model.impute("adt").to_df().loc[denoised.index]
    np.testing.assert_allclose(denoised, imputed, rtol=1e-4)
    mdata.write_h5mu(tmp_path / "x.h5mu")
    again = mudata.read_h5mu(tmp_path / "x.h5mu")
    np.testing.assert_array_equal(again.obsm["X_scmodal"], mdata.obsm["X_scmodal"])
    parameters = again.uns["cantata"]["scmodal"]["parameters"]
    assert parameters["n_latent"] == 4
    assert dict(parameters["transforms"]) == {"rna": "log1p", "adt": None}


def test_save_load_encode_is_exact(tmp_path) -> None:
    data = chain()
    model = trained(data, n_components=5)
    model.save(str(tmp_path / "m"))
    again = SCMODAL.load(str(tmp_path / "m"), data)
    for modality in (None, *THREE):
        one, two = (m.get_latent_representation(modality=modality) for m in (model, again))
        np.testing.assert_array_equal(one, two)
    for target in THREE:
        np.testing.assert_array_equal(model.impute(target).X, again.impute(target).X)
    assert again.history.keys() == model.history.keys()
    assert again.has_inputs_
    for one, two in zip(states(model), states(again), strict=True):
        assert torch.equal(one, two)
    again.train(max_steps=1, **QUIET)
    for key, value in read_by_encoders(model).items():
        assert torch.equal(read_by_encoders(again)[key], value)


def test_load_onto_data_without_linked_features(scmodal, tmp_path) -> None:
    scmodal.save(str(tmp_path / "m"))
    new = counts_mosaic(seed=3)
    assert not new["rna"].obsm
    again = SCMODAL.load(str(tmp_path / "m"), new)
    np.testing.assert_allclose(
        again.get_latent_representation(), scmodal.get_latent_representation(new), atol=1e-6
    )
    with pytest.raises(KeyError, match=r"X_linked_adt.*link_features"):
        again.train(max_steps=1, **QUIET)


def test_transforms_are_those_of_the_reference(tmp_path) -> None:
    """A query of proteins may look like another kind."""
    model = trained(linked_mosaic(), setup={})
    model.save(str(tmp_path / "m"))
    new = counts_mosaic(seed=3)
    new["adt"].var["feature_types"] = "Gene Expression"
    again = SCMODAL.load(str(tmp_path / "m"), new)
    assert again.module.input("adt").transform == model.module.input("adt").transform == "clr"


# Queries ----------------------------------------------------------------------------------------


def test_input_is_not_modified(mdata, tmp_path) -> None:
    before = snapshot(mdata)
    model = trained(mdata, train={"use_paired": True})
    model.get_latent_representation()
    model.impute("adt", n_anchors=2)
    model.save(str(tmp_path / "m"))
    assert_unchanged(mdata, before)
    query = linked_mosaic(seed=3)
    query.update()
    before = snapshot(query)
    model.get_latent_representation(query)
    model.impute("rna", query, source="adt")
    SCMODAL.load_query_data(query, model).train(max_steps=1, **QUIET)
    assert_unchanged(query, before)
    assert set(query.uns) == before["uns"]


def test_a_new_batch_is_the_mean_of_the_known_ones(scmodal) -> None:
    query = counts_mosaic(seed=3)
    for name in query.mod:
        query[name].obs["batch"] = "new"
    found = scmodal.get_latent_representation(query, modality="rna")
    net = scmodal.module.encoders["rna"]
    with torch.inference_mode():
        unknown = torch.full((query["rna"].n_obs,), -1)
        x = scmodal.module.input("rna")(torch.from_numpy(query["rna"].X.toarray()), unknown)
        hidden = net.hidden[0](x) + net.covariates[0].categorical[0].mean(dim=0)
        expected = net.output(torch.relu(hidden)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def new_batch(seed: int = 4) -> mudata.MuData:
    query = linked_mosaic(seed=seed, n_cells=40)
    for name in query.mod:
        query[name].obs["batch"] = "new"
    return query


def test_a_frozen_model_without_covariates_has_nothing_to_train() -> None:
    model = trained(linked_mosaic(), setup={})
    mapped = SCMODAL.load_query_data(linked_mosaic(seed=4), model)
    with pytest.raises(ValueError, match=r"frozen.*freeze=False"):
        mapped.train(max_steps=1, **QUIET)
    free = SCMODAL.load_query_data(linked_mosaic(seed=4), model, freeze=False)
    before = free.get_latent_representation()
    free.train(max_steps=2, **QUIET)
    assert not np.allclose(free.get_latent_representation(), before)


@pytest.mark.parametrize("freeze", [False, True])
def test_load_query_data_of_one_modality_from_a_folder(scmodal, tmp_path, freeze: bool) -> None:
    scmodal.save(str(tmp_path / "m"), save_anndata=True)
    query = mosaic({"adt": new_batch(2)["adt"].copy()})
    mapped = SCMODAL.load_query_data(query, str(tmp_path / "m"), freeze=freeze)
    mapped.train(max_steps=2, **QUIET)
    assert np.isfinite(mapped.get_latent_representation()).all()
    assert not any("anchor" in term for term in mapped.trainer.logger.history)
    prepared = SCMODAL.prepare_query_mudata(query, scmodal)
    assert prepared["rna"].shape == (0, 12)
    imputed = mapped.impute("rna", transform_batch="b0")
    assert imputed.shape == (query.n_obs, 12)


@pytest.mark.parametrize("use_paired", [False, True])
def test_a_query_that_lacks_a_modality_of_three_trains(use_paired: bool) -> None:
    model = trained(chain(), n_components=5)
    query = chain(seed=5)
    del query.mod["atac"]
    mapped = SCMODAL.load_query_data(query, model, freeze=False)
    mapped.train(max_steps=2, use_paired=use_paired, **QUIET)
    terms = set(mapped.trainer.logger.history)
    assert "anchor_adt_rna_train" in terms
    assert ("paired_adt_rna_train" in terms) == use_paired
    assert not any("rna_atac" in term for term in terms)
    assert np.isfinite(mapped.get_latent_representation()).all()


def test_a_query_without_linked_features_is_told_so(scmodal) -> None:
    query = new_batch()
    for name in query.mod:
        query[name].obsm.clear()
    mapped = SCMODAL.load_query_data(query, scmodal)
    assert np.isfinite(mapped.get_latent_representation()).all()
    with pytest.raises(KeyError, match=r"X_linked_adt.*link_features"):
        mapped.train(max_steps=1, **QUIET)
    link(mapped.adata, "rna", "adt")
    mapped.train(max_steps=1, **QUIET)
