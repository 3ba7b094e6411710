"""APOLLO on images: both stages beside plain loops, what a user does, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from image_mosaics import KEY, blobs, image_mosaic, of_images
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from model_cases import close
from scipy import sparse
from torch import nn
from torch.nn import functional

import cantata
from cantata import APOLLO, CLUE
from cantata.losses import dependence
from cantata.model.apollo._checkpoint import StageCheckpoint
from cantata.model.apollo._training import image_components
from cantata.nn import Covariates, turned

SMALL = {"n_shared": 6, "n_specific": 4, "image_widths": (4, 6, 8, 8)}
QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu", "batch_size": 16}
SHORT = QUIET | {"max_epochs": 2, "encoder_epochs": 2}


def trained(mdata: mudata.MuData, model: dict | None = None, setup: dict | None = None, **train):
    scvi.settings.seed = 0
    APOLLO.setup_mudata(mdata, **(setup or {}))
    apollo = APOLLO(mdata, **SMALL | (model or {}))
    apollo.train(**SHORT | train)
    return apollo


@pytest.fixture(scope="module")
def apollo() -> APOLLO:
    return trained(image_mosaic())


def pictures(adata: AnnData) -> np.ndarray:
    return np.asarray(adata.obsm[KEY])


# The second stage beside a loop -----------------------------------------------------------------


class Second(Callback):
    """What the second stage started from, its minibatches with the random state, its end."""

    start: Any = None

    def on_train_start(self, trainer, plan) -> None:
        if hasattr(plan, "lambda_decoded"):
            self.start = copy.deepcopy(plan.module), plan.table_rows
            self.seen: list[Any] = []

    def on_train_batch_start(self, trainer, plan, batch, batch_idx) -> None:
        if self.start is not None:
            self.seen.append(({k: v.clone() for k, v in batch.items()}, torch.get_rng_state()))

    def on_train_end(self, trainer, plan) -> None:
        self.end = {k: v.clone() for k, v in plan.module.state_dict().items()}


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_second_stage_is_a_plain_loop(loss: str) -> None:
    """Regression of plain images, decoding of turned ones, by one Adam over three minibatches."""
    stage = Second()
    trained(
        image_mosaic(50),
        {"losses": loss},
        callbacks=[stage],
        encoder_epochs=1,
        early_stopping=False,
        train_size=1.0,
    )
    net, table_rows = stage.start
    parts = net.encoders, net.shared_only, net.full
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], lr=2e-3)
    net.train()
    for step, (batch, rng) in enumerate(stage.seen):
        torch.set_rng_state(rng)
        view = torch.randint(8, batch["cell"].shape)
        total: Any = 0.0
        z, images, cells = {}, {}, {}
        for name in ("dna", "protein"):
            cells[name] = batch[f"{name}_rows"].tolist()
            images[name] = torch.stack(
                [
                    turned(batch[name][i : i + 1], int(view[c]))[0]
                    for i, c in enumerate(cells[name])
                ]
            )
            codes = Covariates.of(batch).rows(batch[f"{name}_rows"])
            z[name] = net.encode(name, images[name], codes)
            plain = [i for i, c in enumerate(cells[name]) if view[c] == 0]
            own = {"shared": 0, name: 1}
            for table, part in own.items():
                target = torch.stack(
                    [
                        net.table(table).weight.detach()[table_rows[table][batch["cell"][c]]]
                        for c in cells[name]
                    ]
                )
                if plain:
                    total = total + (z[name][part][plain] - target[plain]).square().mean()
            if len(cells[name]) >= 8:
                total = total + 5 * dependence(z[name][1], z[name][0])

        def decoded(logits: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            if loss == "mse":
                return (logits - image).square().mean()
            p = logits.sigmoid()
            return -(image * p.log() + (1 - image) * (1 - p).log()).mean()

        for target, source in (("dna", "protein"), ("protein", "dna")):
            none = Covariates.of(batch).rows(batch[f"{target}_rows"])
            shared, specific = z[target]
            both_parts = torch.cat([shared.detach(), specific], dim=1)
            every_second = torch.arange(0, len(shared), 2)
            full = net.decoder(target).location(both_parts[every_second], none.rows(every_second))
            both = [c for c in cells[target] if c in cells[source]]
            at = [cells[source].index(c) for c in both]
            own_rows = [cells[target].index(c) for c in both]
            decoder = net.decoder(target, shared_only=True)
            predicted = decoder.location(z[source][0][at], none.rows(torch.tensor(own_rows)))
            if len(both) >= 8:
                told = z[source][0][at].detach()
                total = total + 5 * dependence(specific[own_rows], told)
            total = total + 100 * decoded(full, images[target][::2])
            total = total + 100 * decoded(predicted, images[target][own_rows])
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + np.cos(np.pi * step / len(stage.seen)))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, stage.end[key], atol=2e-4, rtol=2e-3, msg=key)


def test_rows_of_other_modalities_are_regressed_whatever_the_view() -> None:
    mdata = with_counts()
    stage = Second()
    trained(mdata, callbacks=[stage], early_stopping=False, train_size=1.0)
    net, table_rows = stage.start
    # linear maps of counts are kept, those of pixels are not
    assert net.encoder("rna").slope.abs().sum() > 0
    assert not net.encoder("dna").slope.any()
    # encoders whose heads are at 0 say the same of everything
    for head in net.encoder("dna").heads:
        head.reset_parameters()
    net.eval()
    batch = stage.seen[0][0]
    inputs = {m: net.read(m, batch[m].to_dense()) for m in net.modalities}
    view = torch.arange(len(batch["cell"])) % 8
    found = net.encoder_loss(inputs, batch, table_rows, view=view).extra_metrics
    plain = net.encoder_loss(inputs, batch, table_rows).extra_metrics
    assert found["encoded_shared_rna"] == plain["encoded_shared_rna"]
    assert found["encoded_shared_dna"] != plain["encoded_shared_dna"]
    everything = net.encoder_loss(inputs, batch, table_rows, view=view * 0, lambda_decoded=1.0)
    assert "predicted_rna_from_dna" in everything.extra_metrics
    none = net.encoder_loss(inputs, batch, table_rows, view=view * 0 + 1, lambda_decoded=1.0)
    assert "predicted_rna_from_dna" not in none.extra_metrics
    assert "encoded_shared_dna" not in none.extra_metrics


def test_what_a_stain_has_for_itself_moves_its_specific_latents_alone() -> None:
    """Decoding a stain from all its latents gives its shared ones no gradient."""
    stage = Second()
    trained(image_mosaic(), callbacks=[stage], early_stopping=False, train_size=1.0)
    net, batch = stage.start[0], stage.seen[0][0]
    encoded: tuple[dict, dict] = ({}, {})
    for name in net.modalities:
        both = net.encode(name, batch[name], Covariates.of(batch).rows(batch[f"{name}_rows"]))
        for part, z in zip(encoded, both, strict=True):
            part[name] = z.detach().requires_grad_()
    is_plain = torch.ones_like(batch["cell"], dtype=torch.bool)
    terms = net._decoded_terms(batch, *encoded, is_plain)
    shared, specific = (part["dna"] for part in encoded)
    of_all = torch.autograd.grad(terms["decoded_full_dna"], [shared, specific], allow_unused=True)
    assert [gradient is None for gradient in of_all] == [True, False]
    predicted = terms["predicted_protein_from_dna"]
    of_other = torch.autograd.grad(predicted, [shared, specific], allow_unused=True)
    assert [gradient is None for gradient in of_other] == [False, True]


@pytest.mark.parametrize("weight", [0.0, 100.0])
def test_decoders_are_trained_along_where_they_decode(weight: float) -> None:
    stage = Second()
    options = {"encoder_plan_kwargs": {"lambda_decoded": weight}, "early_stopping": False}
    model = trained(image_mosaic(), callbacks=[stage], **options)
    for name in ("full", "shared_only"):
        before, after = (getattr(net, name).state_dict() for net in (stage.start[0], model.module))
        assert {torch.equal(before[k], after[k]) for k in before if "weight" in k} == {not weight}


def test_minibatches_of_turned_images_alone_teach_nothing() -> None:
    """Without decoding, regression needs images that are as they were."""
    options = {"encoder_plan_kwargs": {"lambda_decoded": 0.0, "lambda_independence": 0.0}}
    model = trained(image_mosaic(40), batch_size=4, early_stopping=False, **options)
    assert np.isfinite(model.get_latent_representation()).all()


def test_dependence_is_on_what_every_modality_of_a_cell_says_is_shared() -> None:
    """And what another one says does not move by it."""
    stage = Second()
    trained(image_mosaic(), callbacks=[stage], early_stopping=False, train_size=1.0)
    net, table_rows = stage.start
    batch = stage.seen[0][0]
    heads = {m: net.encoder(m).heads for m in ("dna", "protein")}
    for head in [*heads["dna"], *heads["protein"]]:
        head.reset_parameters()
    inputs = {m: net.read(m, batch[m]) for m in net.modalities}
    terms = net.encoder_loss(inputs, batch, table_rows, lambda_independence=1.0).extra_metrics
    encoded = {
        m: net.encode(m, inputs[m], Covariates.of(batch).rows(batch[f"{m}_rows"])) for m in heads
    }
    cells = {m: batch[f"{m}_rows"].tolist() for m in heads}
    for source in ("dna", "protein"):
        both = [c for c in cells["dna"] if c in cells[source]]
        z = encoded["dna"][1][[cells["dna"].index(c) for c in both]]
        told = encoded[source][0][[cells[source].index(c) for c in both]]
        found = terms[f"encoded_dependence_dna_on_{source}"]
        torch.testing.assert_close(found, dependence(z, told))
        weights = [head.weight for m in heads for head in heads[m]]
        moves = torch.autograd.grad(found, weights, allow_unused=True, retain_graph=True)
        # shared and specific of chromatin, then of the protein
        moved = [gradient is not None and bool(gradient.any()) for gradient in moves]
        assert moved == [source == "dna", True, False, False]
    none = net.encoder_loss(inputs, batch, table_rows).extra_metrics
    assert not any("dependence" in name for name in none)


def test_widths_of_latents_unless_given() -> None:
    """Images have fewer, beside counts as well; a modality that a mapping leaves out has them."""
    mdata = image_mosaic()
    APOLLO.setup_mudata(mdata)
    module = APOLLO(mdata, n_specific={"dna": 3}).module
    assert module.n_shared == 16
    assert module.n_specific == {"dna": 3, "protein": 8}
    assert APOLLO(mdata).module.n_specific == {"dna": 8, "protein": 8}


# What a user does -------------------------------------------------------------------------------


def test_embeddings_of_cells_with_either_stain(apollo: APOLLO) -> None:
    joint = apollo.get_latent_representation()
    assert joint.shape == (60, 6)
    assert np.isfinite(joint).all()
    alone = apollo.get_latent_representation(modality="protein", space="specific")
    assert alone.shape == (54, 4)
    assert apollo.get_latent_table().shape == (53, 6)


def test_imputed_images_are_in_the_layout_of_images(apollo: APOLLO) -> None:
    imputed = apollo.impute("protein", source="dna")
    assert pictures(imputed).shape == (54, 1, 32, 32)
    assert pictures(imputed).dtype == np.float32
    assert 0 <= pictures(imputed).min() <= pictures(imputed).max() <= 1
    np.testing.assert_allclose(imputed.X, pictures(imputed).mean(axis=(2, 3)), atol=1e-6)
    assert list(imputed.var["channels"]) == ["actin"]
    assert imputed.uns["cantata"]["units"] == "intensities in [0, 1]"
    chosen = apollo.impute("protein", source="dna", indices=[5, 3])
    close(pictures(chosen), pictures(imputed)[[5, 3]])
    full = apollo.get_reconstruction("dna")
    assert not np.allclose(
        pictures(full), pictures(apollo.get_reconstruction("dna", space="shared"))
    )


def test_decoding_of_given_latents(apollo: APOLLO) -> None:
    z = apollo.get_latent_representation(modality="dna")
    own = apollo.get_latent_representation(modality="dna", space="specific")
    decoded = apollo.decode_latents("protein", z)
    close(pictures(decoded), pictures(apollo.impute("protein", source="dna")))
    named = pd.DataFrame(z[:9], index=range(-4, 5))
    whole = apollo.decode_latents("dna", named, own[:9], batch_size=4)
    assert list(whole.obs_names) == [str(k) for k in range(-4, 5)]
    close(pictures(whole), pictures(apollo.get_reconstruction("dna"))[:9])
    assert apollo.decode_latents("dna", z[:0]).shape == (0, 1)
    with pytest.raises(ValueError, match=r"shapes \[\(54, 4\)\] in place of \[\(54, 6\)\]"):
        apollo.decode_latents("dna", own)
    with pytest.raises(ValueError, match=r"shapes .* in place of \[\(54, 6\), \(54, 4\)\]"):
        apollo.decode_latents("dna", z, own[:3])
    with pytest.raises(ValueError, match="NaN or infinity"):
        apollo.decode_latents("dna", z * np.nan)
    with pytest.raises(KeyError, match="'lamin'"):
        apollo.decode_latents("lamin", z)


def test_imputed_images_on_disk(apollo: APOLLO, tmp_path) -> None:
    path = tmp_path / "protein.zarr"
    apollo.impute("protein", out=path, batch_size=7)
    again = cantata_read(path)
    close(pictures(again), pictures(apollo.impute("protein")))


def cantata_read(path: Any) -> AnnData:
    import anndata

    return anndata.read_zarr(path)


def test_written_results(apollo: APOLLO) -> None:
    apollo.write_results(denoised=True, imputed=["protein"])
    mdata = apollo.adata
    assert mdata.obsm["X_apollo"].shape == (60, 6)
    assert mdata.obsm["apollo_imputed_protein"].shape == (60, 1, 32, 32)
    assert mdata["dna"].obsm["apollo_denoised"].shape == (54, 1, 32, 32)


def test_a_saved_model_takes_its_cells_in_any_order(apollo: APOLLO, tmp_path) -> None:
    apollo.save(tmp_path / "model", save_anndata=True)
    loaded = APOLLO.load(tmp_path / "model")
    close(loaded.get_latent_representation(), apollo.get_latent_representation())
    order = np.random.default_rng(0).permutation(60)
    moved = mudata.MuData({m: apollo.adata[m][::-1].copy() for m in ("protein", "dna")})
    moved = moved[moved.obs_names[order]].copy()
    again = APOLLO.load(tmp_path / "model", moved)
    rows = apollo.adata.obs_names.get_indexer(moved.obs_names)
    close(again.get_latent_representation(), apollo.get_latent_representation()[rows])


def test_a_query_finds_its_stains_by_name(apollo: APOLLO) -> None:
    first, second, _ = blobs(10, seed=3)
    mask = np.ones_like(first)
    channels = np.concatenate([mask, second, first], axis=1)
    query = of_images(channels, ["nucleus", "actin", "DAPI"])
    query.var["channel_mapping"] = ["mask", "image_channel", "image_channel"]
    adata = query[:, ["DAPI"]].copy()
    adata.uns[KEY] = {"channel_names": list(query.var_names)}
    plain = mudata.MuData({"dna": of_images(first, ["DAPI"])})
    expected = apollo.impute("protein", plain)
    close(pictures(apollo.impute("protein", mudata.MuData({"dna": adata}))), pictures(expected))
    mapped = APOLLO.load_query_data(mudata.MuData({"dna": query}), apollo)
    close(pictures(mapped.impute("protein")), pictures(expected))


def test_components_of_several_views_are_those_of_turned_images(apollo: APOLLO) -> None:
    layer, images = apollo.module.components("dna"), apollo.registered_values("dna")
    found = image_components(layer, images, (0, 3, 6))
    for components, view in zip(found, (0, 3, 6), strict=True):
        whole = turned(torch.from_numpy(images[np.arange(len(images))]), view)
        close(components, layer(whole).numpy(), 1e-5)


def test_images_on_disk_are_read_as_they_are_needed(tmp_path) -> None:
    mdata = image_mosaic(40)
    expected = trained(image_mosaic(40)).get_latent_representation()
    file = h5py.File(tmp_path / "images.h5", "w")
    for name in mdata.mod:
        mdata[name].obsm[KEY] = file.create_dataset(name, data=mdata[name].obsm[KEY])
    close(trained(mdata).get_latent_representation(), expected)


def test_camera_integers_become_intensities(tmp_path) -> None:
    mdata = image_mosaic(40)
    for name in mdata.mod:
        mdata[name].obsm[KEY] = (1000 + 3000 * mdata[name].obsm[KEY]).astype(np.uint16)
    model = trained(mdata)
    images = model.registered_values("dna")[:]
    assert images.min() == 0
    assert images.max() == 1
    model.save(tmp_path / "model")
    loaded = APOLLO.load(tmp_path / "model", mdata)
    close(loaded.get_latent_representation(), model.get_latent_representation())
    floats = image_mosaic(40)
    with pytest.raises(ValueError, match="are float32, and the model was set up with integers"):
        model.get_latent_representation(floats)


def test_dim_cells_are_no_empty_ones() -> None:
    mdata = image_mosaic(40)
    mdata["dna"].obsm[KEY] = (1000 + 3000 * mdata["dna"].obsm[KEY]).astype(np.uint16)
    mdata["dna"].obsm[KEY][2] = 3
    APOLLO.setup_mudata(mdata)
    assert APOLLO(mdata, **SMALL).registered_values("dna")[np.array([2])].max() == 0
    mdata["dna"].obsm[KEY][2] = 0
    with pytest.raises(ValueError, match="1 cells have a stain that is 0"):
        APOLLO.setup_mudata(mdata)


def test_same_seed_same_bits() -> None:
    one, two = (trained(image_mosaic(40)).get_latent_representation() for _ in range(2))
    assert np.array_equal(one, two)


def test_resumed_training_of_encoders_equals_uninterrupted(tmp_path, monkeypatch) -> None:
    """Views are drawn anew each step, so that the random state has to come back."""
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path / "log")
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = trained(
        image_mosaic(40), callbacks=[keep], enable_checkpointing=True, encoder_epochs=3
    )
    files = [StageCheckpoint.read(path, "APOLLO") for path in sorted(tmp_path.glob("*.ckpt"))]
    middle = next(f for f in files if f.stage == "encoder" and f.n_epochs == 2)
    again = trained(image_mosaic(40), ckpt_path=middle.path, encoder_epochs=3)
    for key, value in whole.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[key], value), key


@pytest.mark.parametrize("freeze", [True, False])
def test_queries_of_images_are_trained(freeze: bool) -> None:
    mdata, query = image_mosaic(40), image_mosaic(30, seed=5)
    for data, batch in ((mdata, "b"), (query, "new")):
        for name in data.mod:
            codes = data[name].obs_names.str[1:].astype(int) % 2
            data[name].obs["batch"] = [f"{batch}{code}" for code in codes]
    model = trained(mdata, setup={"batch_key": "batch"})
    mapped = APOLLO.load_query_data(query, model, freeze=freeze)
    before = copy.deepcopy(mapped.module.state_dict())
    mapped.train(**SHORT)
    moved = {k for k, v in mapped.module.state_dict().items() if not torch.equal(v, before[k])}
    assert "encoders.dna.trunk.layers.0.weight" not in moved or not freeze
    assert any("covariates" in key for key in moved)
    assert np.isfinite(mapped.get_latent_representation()).all()


def with_counts(n: int = 60) -> mudata.MuData:
    """Images and counts of the same cells."""
    first, _, sizes = blobs(n)
    means = np.exp(sizes @ np.random.default_rng(1).normal(size=(2, 20)) + 1)
    counts = np.random.default_rng(2).poisson(means).astype(np.float32)
    rna = AnnData(counts)
    rna.obs_names = [f"c{i}" for i in range(n)]
    return mudata.MuData({"dna": of_images(first, ["DAPI"]), "rna": rna})


@pytest.mark.parametrize("loss", ["bce", "mse", "nb"])
def test_images_beside_sparse_counts_are_as_beside_dense_ones(loss: str) -> None:
    latents = []
    for store in (np.asarray, sparse.csr_matrix):
        mdata = with_counts()
        mdata["rna"].X = store(mdata["rna"].X)
        model = trained(mdata, {"losses": {"dna": "bce", "rna": loss}})
        latents.append(model.get_latent_representation())
    np.testing.assert_allclose(*latents, atol=1e-2)  # training magnifies how sums are rounded


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"lamda_decoded": 1.0}, TypeError, "'lamda_decoded'. Did you mean lambda_decoded"),
        ({"cached": ()}, TypeError, "encoder_plan_kwargs has no argument 'cached'"),
        ({"lambda_independence": -1.0}, ValueError, "lambda_independence=-1.0 must be at least"),
        ({"augment": "blur"}, TypeError, "augment='blur' is not a function"),
    ],
)
def test_settings_of_the_second_stage_are_checked_before_the_first(given, error, message) -> None:
    mdata = image_mosaic()
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata, **SMALL)
    with pytest.raises(error, match=message):
        model.train(**SHORT, encoder_plan_kwargs=given)
    assert not model.is_trained_
    assert model.history is None


def test_networks_and_widths_are_checked() -> None:
    mdata = image_mosaic()
    APOLLO.setup_mudata(mdata)
    with pytest.raises(KeyError, match=r"networks.*'DNA'"):
        APOLLO(mdata, networks={"DNA": nn.Flatten()})
    for widths in ((), 8):
        with pytest.raises(ValueError, match=r"image_widths=.*channels of each convolution"):
            APOLLO(mdata, image_widths=widths)
    for widths in ((4.5, 8), (4, 0)):
        with pytest.raises((TypeError, ValueError), match="image_widths must be"):
            APOLLO(mdata, image_widths=widths)


def test_views_of_images_are_no_pairs() -> None:
    mdata = image_mosaic(12)
    APOLLO.setup_mudata(mdata)
    with pytest.raises(ValueError, match=r"[0-9] of 1[01] training cells have all.*need 10"):
        APOLLO(mdata, **SMALL).train(**SHORT)


def test_integers_of_another_range_are_a_warning() -> None:
    mdata = image_mosaic()
    for adata in mdata.mod.values():
        adata.obsm[KEY] = (pictures(adata) * 200).astype(np.uint8)
    model = trained(mdata)
    query = mudata.MuData({m: a.copy() for m, a in mdata.mod.items()})
    for adata in query.mod.values():
        adata.obsm[KEY] = pictures(adata).astype(np.uint16) * 300
    with pytest.warns(UserWarning, match=r"reach .*in the data of the model"):
        APOLLO.load_query_data(query, model)


def test_channels_that_are_last_are_named_so() -> None:
    mdata = image_mosaic()
    mdata["dna"].obsm[KEY] = np.moveaxis(pictures(mdata["dna"]), 1, -1)
    with pytest.raises(ValueError, match=r"Channels seem to be last.*moveaxis"):
        APOLLO.setup_mudata(mdata)


def test_images_are_no_table_of_another_model() -> None:
    mdata = image_mosaic()
    for adata in mdata.mod.values():
        del adata.X
    with pytest.raises(KeyError, match="has images and no table of values"):
        CLUE.setup_mudata(mdata)


def test_images_without_channels_are_no_table() -> None:
    mdata = image_mosaic()
    for adata in mdata.mod.values():
        adata.obsm[KEY] = pictures(adata)[:, 0]
    with pytest.raises(ValueError, match="needs a channel"):
        APOLLO.setup_mudata(mdata)


def test_images_beside_counts() -> None:
    mdata = with_counts()
    model = trained(mdata, {"losses": {"dna": "bce", "rna": "nb"}})
    assert model.impute("rna", source="dna").X.shape == (60, 20)
    assert pictures(model.impute("dna", source="rna")).shape == (60, 1, 32, 32)


def test_several_stains_in_one_modality() -> None:
    first, second, _ = blobs(40)
    both = of_images(np.concatenate([first, second], axis=1), ["DAPI", "actin"])
    rna = with_counts(40)["rna"]
    model = trained(mudata.MuData({"img": both, "rna": rna}))
    imputed = model.impute("img", source="rna")
    assert pictures(imputed).shape == (40, 2, 32, 32)
    one = model.impute("img", source="rna", features="actin")
    close(pictures(one), pictures(imputed)[:, 1:])


def test_batches_of_images() -> None:
    mdata = image_mosaic()
    for name in mdata.mod:
        number = mdata[name].obs_names.str[1:].astype(int)
        mdata[name].obs["batch"] = [f"b{k % 2}" for k in number]
    model = trained(mdata, setup={"batch_key": "batch"})
    one, two = (model.impute("protein", source="dna", transform_batch=b) for b in ("b0", "b1"))
    assert not np.allclose(pictures(one), pictures(two), atol=1e-5)
    both = model.impute("protein", source="dna", transform_batch=["b0", "b1"])
    close(pictures(both), (pictures(one) + pictures(two)) / 2, 1e-5)
    z = model.get_latent_representation(modality="dna")
    for batch, expected in (("b1", two), (None, both)):
        decoded = model.decode_latents("protein", z, transform_batch=batch)
        close(pictures(decoded), pictures(expected), 1e-5)


def test_groups_are_held_out_whole() -> None:
    mdata = image_mosaic()
    for name in mdata.mod:
        mdata[name].obs["well"] = [f"w{int(c[1:]) % 5}" for c in mdata[name].obs_names]
    model = trained(mdata, group_key="well", train_size=0.8)
    held = mdata.obs_names.difference(model.get_latent_table().index)
    assert {int(cell[1:]) % 5 for cell in held} == {int(held[0][1:]) % 5}
    assert len(held) == 12
    with pytest.raises(KeyError, match="group_key='plate'"):
        model.train(group_key="plate", **SHORT)


def test_a_network_of_ones_own_encodes(tmp_path) -> None:
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU()).requires_grad_(False)
    before = copy.deepcopy(frozen.state_dict())
    model = trained(image_mosaic(), {"networks": {"dna": frozen}})
    after = model.module.encoders["dna"].trunk.network.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    model.save(tmp_path / "model", save_anndata=True)
    loaded = APOLLO.load(tmp_path / "model")
    close(loaded.get_latent_representation(), model.get_latent_representation())


def test_further_changes_of_images_are_what_encoders_see() -> None:
    seen = []

    def darker(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.shape[1:])
        return images * 0.5

    trained(image_mosaic(40), encoder_plan_kwargs={"augment": darker})
    assert set(seen) == {(1, 32, 32)}


# A known answer ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_prediction_of_a_stain_that_shares_its_size() -> None:
    """Held-out rings are predicted from discs of the same size, far better than their mean."""
    scvi.settings.seed = 0
    first, second, sizes = blobs(600)
    train, test = slice(0, 500), slice(500, 600)
    mdata, query = (
        mudata.MuData(
            {
                "dna": of_images(first[part], ["DAPI"]),
                "protein": of_images(second[part], ["actin"]),
            }
        )
        for part in (train, test)
    )
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata, n_shared=8, n_specific=4)
    model.train(enable_progress_bar=False)
    predicted = pictures(model.impute("protein", query, source="dna"))
    error = np.abs(predicted - second[test]).mean()
    baseline = np.abs(second[train].mean(axis=0) - second[test]).mean()
    assert error < 0.35 * baseline
    shared = model.get_latent_representation(query, modality="dna")
    known = model.get_latent_representation(mdata, modality="dna")
    design = np.c_[known, known**2, np.ones(500)]
    weights = np.linalg.lstsq(design, sizes[train], rcond=None)[0]
    residual = sizes[test] - np.c_[shared, shared**2, np.ones(100)] @ weights
    assert (1 - residual.var(axis=0) / sizes[test].var(axis=0) > 0.9).all()


# What is refused --------------------------------------------------------------------------------


def test_models_without_images_say_so() -> None:
    with pytest.raises(ValueError, match="CLUE has no use for images"):
        CLUE.setup_mudata(image_mosaic(), images={"dna": KEY})


@pytest.mark.parametrize(
    ("change", "arguments", "error", "message"),
    [
        (lambda m: None, {"images": {"rna": KEY}}, KeyError, "images names modalities.*rna"),
        (lambda m: None, {"images": {"dna": "pictures"}}, KeyError, "'pictures'.*single_cell"),
        (lambda m: None, {"mask_background": True}, ValueError, "'dna' has no mask"),
        (lambda m: m["dna"].obsm[KEY].__setitem__(3, 0), {}, ValueError, "1 cells have a stain"),
        (lambda m: m["dna"].obsm[KEY].__setitem__(3, 2.0), {}, ValueError, "outside.*'c3'"),
    ],
)
def test_images_that_cannot_be_used(
    change: Any, arguments: dict, error: Any, message: str
) -> None:
    mdata = image_mosaic()
    change(mdata)
    with pytest.raises(error, match=message):
        APOLLO.setup_mudata(mdata, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": "nb"}, r"images have one of \['bce', 'mse'\]"),
        ({"image_widths": (4,) * 6}, "cannot be halved 6 times"),
    ],
)
def test_models_that_images_cannot_have(arguments: dict, message: str) -> None:
    mdata = image_mosaic()
    APOLLO.setup_mudata(mdata)
    with pytest.raises(ValueError, match=message):
        APOLLO(mdata, **arguments)


def test_a_single_modality_of_images_is_told_to_split() -> None:
    first, second, _ = blobs(20)
    both = of_images(np.concatenate([first, second], axis=1), ["DAPI", "actin"])
    with pytest.raises(ValueError, match=r"split_stains"):
        APOLLO.setup_mudata(mudata.MuData({"img": both}))


def test_images_that_change_after_set_up_are_noticed() -> None:
    mdata = image_mosaic(40)
    model = trained(mdata)
    mdata["dna"].obsm[KEY][5] = 1 - mdata["dna"].obsm[KEY][5]
    with pytest.raises(ValueError, match="changed after set-up in 1 of"):
        model.get_latent_representation()


def test_the_loss_of_images_is_that_of_torch() -> None:
    mdata = image_mosaic(20)
    APOLLO.setup_mudata(mdata)
    decoder = APOLLO(mdata, **SMALL).module.decoder("dna").eval()
    z, target = torch.randn(5, 10), torch.rand(5, 1, 32, 32)
    codes = Covariates.of({"cell": torch.arange(5)})
    expected = functional.binary_cross_entropy(decoder.location(z, codes).sigmoid(), target)
    assert torch.allclose(decoder.loss(z, codes, None, target), expected, atol=1e-6)
    assert decoder.expected(z, codes, None).shape == (5, 1024)
    assert cantata.APOLLO is APOLLO
