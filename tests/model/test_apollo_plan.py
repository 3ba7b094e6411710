"""Training beside plain loops of the paper, and its settings beside typed tables."""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from apollo_models import QUIET, SMALL, counts_mosaic, trained
from lightning.pytorch.callbacks import Callback
from mosaics import mosaic

from cantata import APOLLO
from cantata.losses import dependence, maximum_mean_discrepancy
from cantata.model.apollo import APOLLOModule, EncoderPlan, LatentPlan, LossWeights, _training
from cantata.model.apollo._impute import Calibration
from cantata.model.apollo._plan import fit_linear_encoders
from cantata.nn import Covariates


class Stages(Callback):
    """What each stage started from, its minibatches with the random state, and where it ended."""

    def __init__(self) -> None:
        self.starts: list[Any] = []
        self.ends: list[dict[str, torch.Tensor]] = []
        self.seen: list[list[tuple[dict, torch.Tensor]]] = []

    def on_train_start(self, trainer, plan) -> None:
        self.starts.append((copy.deepcopy(plan.module), plan.table_rows))
        self.seen.append([])

    def on_train_batch_start(self, trainer, plan, batch, batch_idx) -> None:
        tensors = {k: v.to_dense().clone() for k, v in batch.items()}
        self.seen[-1].append((tensors, torch.get_rng_state()))

    def on_train_end(self, trainer, plan) -> None:
        state = plan.module.state_dict()
        self.ends.append({k: v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)})


def share_of_rate(step: int, n_steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / n_steps))


class LazyAdam:
    """Adam by hand over the rows of a table that are in a minibatch."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.step = weight, 0
        self.first, self.second = torch.zeros_like(weight), torch.zeros_like(weight)

    def move(self, gradient: torch.Tensor, rows: torch.Tensor, rate: float) -> None:
        self.step += 1
        g = gradient[rows]
        self.first[rows] = 0.9 * self.first[rows] + 0.1 * g
        self.second[rows] = 0.999 * self.second[rows] + 0.001 * g**2
        size = rate * math.sqrt(1 - 0.999**self.step) / (1 - 0.9**self.step)
        self.weight[rows] -= size * self.first[rows] / (self.second[rows].sqrt() + 1e-8)


def plain_loss(net: APOLLOModule, name: str, logits: torch.Tensor, x: torch.Tensor):
    if net.losses[name] == "mse":
        return ((logits - net.input(name).standardized(x)) ** 2).mean()
    t = torch.log(x + 0.5)
    low, high = t.min(dim=1, keepdim=True).values, t.max(dim=1, keepdim=True).values
    y, p = (t - low) / (high - low), torch.sigmoid(logits)
    weight = net.head(name).pos_weight
    return -(weight * y * p.log() + (1 - y) * (1 - p).log()).mean()


def plain_latents(net: APOLLOModule, table_rows: dict, seen: list) -> None:
    """Equation 1, with what the docs say is added, over minibatches in the order seen."""
    names = ["shared", *net.modalities]
    tables = {n: net.table(n).weight.detach().clone() for n in names}
    lazy = {n: LazyAdam(table) for n, table in tables.items()}
    told, untold = [], []
    for name in net.modalities:
        for shared_only in (False, True):
            decoder = net.decoder(name, shared_only=shared_only)
            own = {id(p) for p in decoder.covariate_parameters()}
            for p in decoder.parameters():
                (told if id(p) in own else untold).append(p)
    assert told
    optimizers = [torch.optim.Adam(untold, lr=5e-3), torch.optim.Adam(told, lr=1e-1)]
    for step, (batch, rng) in enumerate(seen):
        torch.set_rng_state(rng)
        share = share_of_rate(step, len(seen))
        cell, all_covariates = batch["cell"], Covariates.of(batch)
        rows = {"shared": table_rows["shared"][cell]}
        for name in net.modalities:
            rows[name] = table_rows[name][cell[batch[f"{name}_rows"]]]
        leaves = {n: table.clone().requires_grad_() for n, table in tables.items()}
        z = {n: leaves[n][rows[n]] for n in names}
        noisy_shared = z["shared"] + torch.randn_like(z["shared"])
        loss = sum(1e-3 * part.norm(dim=1).mean() / part.shape[1] for part in z.values())
        present = torch.zeros(len(cell), 2, dtype=torch.bool)
        for k, name in enumerate(net.modalities):
            at = batch[f"{name}_rows"]
            present[at, k] = True
            covariates = all_covariates.rows(at)
            noisy = z[name] + torch.randn_like(z[name])
            full = torch.cat([noisy_shared[at], noisy], dim=1)
            location = net.decoder(name).location(full, covariates)
            loss = loss + plain_loss(net, name, location, batch[name])
            decoder = net.decoder(name, shared_only=True)
            location = decoder.location(noisy_shared[at].detach(), covariates)
            loss = loss + plain_loss(net, name, location, batch[name])
            loss = loss + dependence(z[name], z["shared"][at].detach())
        first, second = (present[:, k] & ~present[:, 1 - k] for k in (0, 1))
        assert min(first.sum(), second.sum()) >= 8
        loss = loss + maximum_mean_discrepancy(z["shared"][first], z["shared"][second])
        for optimizer, rate in zip(optimizers, (5e-3, 1e-1), strict=True):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = rate * share
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        for n in names:
            lazy[n].move(leaves[n].grad, rows[n], 3e-2 * share)
    for n in names:
        net.table(n).weight.data.copy_(tables[n])


def plain_encoders(net: APOLLOModule, table_rows: dict, seen: list) -> None:
    """The second step of the paper."""
    optimizer = torch.optim.Adam(net.encoders.parameters(), lr=1e-3)
    for step, (batch, _) in enumerate(seen):
        optimizer.param_groups[0]["lr"] = 1e-3 * share_of_rate(step, len(seen))
        cell, loss = batch["cell"], torch.zeros(())
        for name in net.modalities:
            at = batch[f"{name}_rows"]
            shared, specific = net.encode(name, batch[name], Covariates.of(batch).rows(at))
            targets = (
                net.table("shared").weight[table_rows["shared"][cell[at]]],
                net.table(name).weight[table_rows[name][cell[at]]],
            )
            for found, target in zip((shared, specific), targets, strict=True):
                loss = loss + ((found - target.detach()) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_both_stages_are_the_loops_of_the_paper() -> None:
    """Three minibatches an epoch, two epochs: all parameters of both, rates and noise."""
    data = counts_mosaic(n_cells=180)
    for adata in data.mod.values():
        x = adata.X.toarray()
        x[:, 1:] = np.clip(x[:, 1:] - 2, 0, None)
        adata.X = x
    callback = Stages()
    setup = {"categorical_covariate_keys": ["group"]}
    model = {"dropout_rate": 0.0, "losses": {"rna": "bce", "adt": "mse"}}
    train = {"batch_size": 60, "train_size": 1.0, "callbacks": [callback]}
    trained(data, setup, train, **model)
    assert [len(seen) for seen in callback.seen] == [6, 6]
    for plain, (net, rows), seen, end in zip(
        (plain_latents, plain_encoders), callback.starts, callback.seen, callback.ends, strict=True
    ):
        before = {k: v.clone() for k, v in net.state_dict().items() if k in end}
        if plain is plain_encoders:
            assert callback.ends[0].keys() == before.keys()
            net.full.eval()
            net.shared_only.eval()
        plain(net, rows, seen)
        after = net.state_dict()
        for key, value in end.items():
            torch.testing.assert_close(value, after[key], rtol=1e-3, atol=2e-4, msg=key)
        moved = {key.split(".")[0] for key, value in end.items() if not value.equal(before[key])}
        parts = {"full", "shared_only", "tables"} if plain is plain_latents else {"encoders"}
        assert moved == parts


def test_cells_of_both_modalities_take_no_part_in_the_discrepancy() -> None:
    """The positive weight is that of both decoders, and not 1, in the test above."""
    model = trained(counts_mosaic(n_cells=180), {}, {"batch_size": 60})
    terms = model.history["mmd_rna_adt_train"].to_numpy(dtype=float)
    assert np.isfinite(terms).all()
    assert (
        "mmd_rna_adt_train"
        not in trained(counts_mosaic(member=np.ones((60, 2), dtype=bool)), {}).history
    )


def test_linear_encoders_are_a_ridge_regression() -> None:
    """Of latents on centred inputs, with a penalty of 1e-3 of their mean sum of squares."""
    model = trained(counts_mosaic(), {}, {"early_stopping": False})
    net, rng = model.module, np.random.default_rng(0)
    data = model.adata
    n_rows = {name: data[name].n_obs for name in data.mod}
    inputs = {n: rng.normal(size=(k, net.input(n).n_out)) + 3 for n, k in n_rows.items()}
    table_rows = _training.table_rows_of(model, np.asarray(model.train_indices))
    tensors = {n: torch.from_numpy(x.astype(np.float32)) for n, x in inputs.items()}
    fit_linear_encoders(net, tensors, table_rows)
    for name, x in inputs.items():
        has = table_rows[name].numpy() > -2
        own, shared = table_rows[name].numpy()[has], table_rows["shared"].numpy()[has]
        x = x.astype(np.float32)[own >= 0].astype(np.float64)
        tables = [net.table(n).weight.detach().numpy() for n in ("shared", name)]
        z = np.hstack([tables[0][shared[own >= 0]], tables[1][own[own >= 0]]]).astype(np.float64)
        centred = x - x.mean(axis=0)
        gram = centred.T @ centred
        penalty = 1e-3 * np.trace(gram) / len(gram)
        slope = np.linalg.solve(gram + penalty * np.eye(len(gram)), centred.T @ (z - z.mean(0)))
        encoder = net.encoder(name)
        np.testing.assert_allclose(encoder.slope.numpy(), slope, rtol=1e-4, atol=1e-5)
        offset = z.mean(axis=0) - x.mean(axis=0) @ slope
        np.testing.assert_allclose(encoder.offset.numpy(), offset, rtol=1e-4, atol=1e-5)


class Epochs(Callback):
    """Weights of every epoch of each stage, and their score; later ones are spoilt."""

    def on_train_epoch_start(self, trainer, plan) -> None:
        if trainer.current_epoch >= 3:
            with torch.no_grad():
                for parameter in plan.module.parameters():
                    parameter += torch.randn_like(parameter)

    def __init__(self) -> None:
        self.kept: list[list[tuple[float, dict[str, torch.Tensor]]]] = []

    def on_train_start(self, trainer, plan) -> None:
        self.kept.append([])

    def on_validation_end(self, trainer, plan) -> None:
        state = {k: v.clone() for k, v in plan.module.named_parameters()}
        self.kept[-1].append((float(trainer.callback_metrics[plan.monitor]), state))


def test_the_best_epoch_of_each_stage_is_restored(monkeypatch) -> None:
    monkeypatch.setattr(_training, "MIN_ENCODER_GAIN", -math.inf)
    epochs = Epochs()
    train = {"max_epochs": 5, "encoder_epochs": 5, "callbacks": [epochs]}
    model = trained(counts_mosaic(), {}, train)
    final = dict(model.module.named_parameters())
    for kept, part in zip(epochs.kept, ("tables.", "encoders."), strict=True):
        scores = [score for score, _ in kept]
        best = int(np.argmin(scores))
        assert best < len(scores) - 2
        for key, value in kept[best][1].items():
            if key.startswith(part):
                torch.testing.assert_close(final[key], value, rtol=0, atol=0, msg=key)


def test_specific_latents_are_at_their_mean_without_shared_decoders() -> None:
    model = trained(counts_mosaic(), {}, shared_decoders=False)
    net = model.module
    z = torch.from_numpy(model.get_latent_representation(modality="rna"))
    net.table("adt").weight.data += 3  # a mean that is not 0
    covariates = Covariates(torch.zeros(len(z), 1, dtype=torch.long), None)
    found = net.decode("adt", z, covariates, None, shared_only=True)
    mean = net.table("adt").weight.mean(dim=0).expand(len(z), 3)
    expected = net.decoder("adt").expected(torch.cat([z, mean], dim=1), covariates, None)
    torch.testing.assert_close(found, expected)


def test_calibration_by_hand() -> None:
    """Floor and range are medians over cells of the logarithms; factors make means agree."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.uniform(2, 30, 5), size=(40, 5)).astype(np.float32) + 2
    scaled = torch.from_numpy(rng.uniform(size=(40, 5)).astype(np.float32))
    halves = [counts[:25], counts[25:]], list(scaled.split(15))
    found = Calibration.fit(*halves, takes_log=True)
    logs = np.log(counts + 0.5)
    floor = np.median(logs.min(axis=1))
    assert floor > 0.5
    assert found.floor == pytest.approx(floor, rel=1e-5)
    assert found.range == pytest.approx(np.median(logs.max(axis=1)) - floor, rel=1e-5)
    plain = np.clip(np.exp(floor + scaled.numpy() * found.range) - 0.5, 0, None)
    expected = plain * counts.mean(axis=0) / plain.mean(axis=0)
    np.testing.assert_allclose(found.values(scaled).numpy(), expected, rtol=1e-4)
    # features that were not measured in some cells are NaN there
    lacking = np.zeros((40, 5), dtype=np.float32)
    lacking[:20, 2] = np.nan
    found = Calibration.fit([counts + lacking], [scaled + torch.from_numpy(lacking)], True)
    expected = counts[20:, 2].mean()
    assert found.values(scaled[20:])[:, 2].mean() == pytest.approx(expected, rel=1e-4)
    # values that are no counts are shifted
    found = Calibration.fit([counts - 9], [scaled], takes_log=False)
    assert found.floor == pytest.approx(np.median((counts - 9).min(axis=1)))
    means = found.values(scaled).mean(dim=0).numpy()
    np.testing.assert_allclose(means, counts.mean(axis=0) - 9, rtol=1e-4, atol=1e-4)


def test_a_panel_has_no_say_in_the_units_of_what_it_lacks() -> None:
    """Proteins that one batch did not measure: means of the others are met."""
    data = counts_mosaic(n_cells=160, member=np.ones((160, 2), dtype=bool))
    adt = data["adt"]
    x, lacks = adt.X.toarray() + 3, (adt.obs["batch"] == "b1").to_numpy()
    x[lacks, 1] = 0
    adt.X = x
    with pytest.warns(UserWarning, match="1 of 6 features were not measured"):
        model = trained(data)
    table = model.get_latent_table("adt").index
    cells = table[~adt.obs["batch"][table].eq("b1")]
    back = model.get_reconstruction(
        "adt", space="shared", indices=data.obs_names.get_indexer(cells)
    )
    measured = x[adt.obs_names.get_indexer(cells), 1].mean()
    assert back.X[:, 1].mean() == pytest.approx(measured, rel=0.02)


# Typed tables -----------------------------------------------------------------------------------

WEIGHTS = {
    "lambda_norm": 1e-3,
    "lambda_shared": 1.0,
    "lambda_shared_latents": 0.0,
    "lambda_independence": 1.0,
    "lambda_mmd": 1.0,
    "lambda_noise": 1e-3,
}
MODEL = {
    "n_shared": None,  # 50, and 16 of images
    "n_specific": None,  # 20, and 8 of images
    "losses": "bce",
    "transforms": "auto",
    "n_components": 100,
    "n_hidden": 128,
    "n_layers": 1,
    "n_hidden_encoder": 128,
    "n_layers_encoder": 2,
    "dropout_rate": 0.01,
    "shared_decoders": True,
    "noise": 1.0,
    "learn_noise": False,
    "start": "canonical",
    "image_widths": (16, 32, 64, 96),
    "networks": None,
}
LATENT = {
    "inputs": None,
    "lr": None,  # 5e-3, which the plain loop has
    "lr_latents": 3e-2,
    "lr_covariates": 1e-1,
    "lr_schedule": "cosine",
    "row_updates": "lazy",
    "batch": None,
}
TRAIN = {
    "max_epochs": None,
    "encoder_epochs": None,
    "batch_size": None,
    "train_size": None,
    "validation_size": None,
    "group_key": None,
    "early_stopping": True,
    "shuffle": True,
    "linear_encoders": True,
}
SHARE, CITE, SIMULATIONS = range(3)
PUBLISHED: dict[tuple[str, ...], tuple[Any, Any, Any]] = {
    ("model", "n_shared"): (50, 50, 2),
    ("model", "n_specific"): (20, 30, 2),
    ("model", "losses"): ("bce", "bce", "mse"),
    ("model", "n_components"): (None, None, None),
    ("model", "n_hidden"): (1024, 1024, 20),
    ("model", "n_layers"): (3, 3, 3),
    ("model", "n_hidden_encoder"): (1024, 1024, 20),
    ("model", "n_layers_encoder"): (2, 2, 2),
    ("model", "hidden_heads"): (True, True, True),
    ("model", "dropout_rate"): (0.01, 0.01, 0.01),
    ("model", "start"): ("normal", "normal", "normal"),
    ("train", "max_epochs"): (5000, 5000, 3000),
    ("train", "encoder_epochs"): (10_000, 10_000, 3000),
    ("train", "batch_size"): (512, 512, 256),
    ("train", "train_size"): (0.85, 0.85, 0.85),
    ("train", "validation_size"): (0.05, 0.05, 0.05),
    ("train", "early_stopping"): (False, False, False),
    ("train", "shuffle"): (False, False, False),
    ("train", "linear_encoders"): (False, False, False),
    ("train", "plan_kwargs", "lr"): (1e-4, 1e-4, 1e-4),
    ("train", "plan_kwargs", "lr_latents"): (1e-3, 1e-3, 1e-3),
    ("train", "plan_kwargs", "lr_covariates"): (1e-4, 1e-4, 1e-4),
    ("train", "plan_kwargs", "lr_schedule"): ("constant", "constant", "constant"),
    ("train", "plan_kwargs", "row_updates"): ("dense", "dense", "dense"),
    ("train", "plan_kwargs", "lambda_norm"): (1e-3, 1e-3, 1e-3),
    ("train", "plan_kwargs", "lambda_shared"): (1.0, 1.0, 1.0),
    ("train", "plan_kwargs", "lambda_shared_latents"): (1.0, 1.0, 1.0),
    ("train", "plan_kwargs", "lambda_independence"): (0.0, 0.0, 0.0),
    ("train", "plan_kwargs", "lambda_mmd"): (0.0, 0.0, 0.0),
    ("train", "encoder_plan_kwargs", "lr"): (1e-4, 1e-4, 1e-4),
    ("train", "encoder_plan_kwargs", "lr_schedule"): ("constant", "constant", "constant"),
}


def flat(nested: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    out: dict[tuple[str, ...], Any] = {}
    for key, value in nested.items():
        out |= flat(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return out


def defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_defaults_are_those_of_the_docs() -> None:
    assert asdict(LossWeights()) == WEIGHTS
    assert defaults(APOLLO.__init__) == MODEL
    module = defaults(APOLLOModule.__init__)
    assert {k: MODEL[k] for k in MODEL.keys() & module.keys()}.items() <= module.items()
    assert module["hidden_heads"] is False
    assert defaults(LatentPlan.__init__) == LATENT
    encoder = {"lr": None, "lr_schedule": "cosine", "weight_decay": 0.0}
    images = {"lambda_decoded": None, "lambda_independence": None, "views": True, "augment": None}
    assert defaults(EncoderPlan.__init__) == encoder | images | {"cached": ()}
    assert TRAIN.items() <= defaults(APOLLO.train).items()


@pytest.mark.parametrize(
    ("column", "name"), [(SHARE, "published"), (CITE, "cite"), (SIMULATIONS, "simulations")]
)
def test_presets_are_what_was_published(column: int, name: str) -> None:
    typed = {k: v[column] for k, v in PUBLISHED.items()}
    if column != SHARE:
        typed["model", "shared_decoders"] = False
    assert flat(APOLLO.presets[name]) == typed


def test_preset_of_images_is_what_was_published() -> None:
    images = flat(APOLLO.presets["images"])
    typed = {
        ("model", "n_shared"): 1024,
        ("model", "n_specific"): 200,
        ("model", "image_widths"): (64, 128, 256, 256, 96),
        ("model", "n_common_layers"): 5,
        ("model", "start"): "normal",
        ("model", "shared_decoders"): False,
        ("model", "losses"): "bce",
        ("train", "max_epochs"): 5001,
        ("train", "batch_size"): 256,
        ("train", "encoder_plan_kwargs", "lr"): 1e-3,
        ("train", "encoder_plan_kwargs", "lambda_decoded"): 0.0,
        ("train", "encoder_plan_kwargs", "lambda_independence"): 0.0,
        ("train", "encoder_plan_kwargs", "views"): False,
    }
    assert typed.items() <= images.items()


def test_heads_of_the_presets_have_a_hidden_layer() -> None:
    """As wide as their output, in the paper's encoders."""
    data = counts_mosaic(member=np.ones((60, 2), dtype=bool))
    APOLLO.setup_mudata(data)
    narrow = {"n_hidden": 8, "n_hidden_encoder": 8, "n_shared": 4, "n_specific": 2}
    for name, preset in APOLLO.presets.items():
        if name == "images":  # one layer, as the reference has it
            assert "hidden_heads" not in preset["model"]
            continue
        model = APOLLO(data, **(preset["model"] | narrow))
        for head, size in zip(model.module.encoder("rna").heads.children(), (4, 2), strict=True):
            linear = [part for part in head.children() if isinstance(part, torch.nn.Linear)]
            assert [(p.in_features, p.out_features) for p in linear] == [(8, size), (size, size)]


@pytest.mark.parametrize(
    ("n_cells", "batch_size", "epochs"), [(3528, 256, 29), (100, 256, 60), (10**5, 256, 15)]
)
def test_planned_epochs_are_400_steps(n_cells: int, batch_size: int, epochs: int) -> None:
    data = counts_mosaic()
    APOLLO.setup_mudata(data)
    assert APOLLO(data, **SMALL)._planned_epochs(n_cells, batch_size) == epochs


def test_one_input_column() -> None:
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(80, 1))
    parts = {}
    for name, p in (("one", 1), ("more", 6)):
        x = factor @ rng.normal(size=(1, p)) + 0.3 * rng.normal(size=(80, p))
        parts[name] = AnnData(x.astype(np.float32))
        parts[name].obs_names = [f"c{i}" for i in range(80)]
    for losses in ("bce", "mse"):
        scvi.settings.seed = 0
        model = trained(mosaic(parts), {}, losses="mse" if losses == "mse" else {"one": "mse"})
        z = model.get_latent_representation()
        assert np.isfinite(z).all()
        assert np.isfinite(model.impute("one", source="more").X).all()
    assert QUIET["max_epochs"] == len(model.history["objective_train"])
