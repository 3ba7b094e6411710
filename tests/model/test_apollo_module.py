"""The objectives beside equation 1 of Zhang et al. 2026, the tables, and known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from apollo_models import QUIET, counts_mosaic, explained, trained
from mosaics import mosaic

import cantata
from cantata import APOLLO
from cantata.losses import dependence, maximum_mean_discrepancy
from cantata.model.apollo import APOLLOModule, EncoderPlan, LatentPlan, LossWeights
from cantata.model.apollo._module import LatentTable
from cantata.model.apollo._training import is_better_than_linear
from cantata.nn import Covariates

FEATURES = {"rna": 7, "adt": 5}
PAPER = LossWeights(lambda_shared_latents=1.0, lambda_independence=0.0, lambda_mmd=0.0)


def module(losses: str = "bce", **options) -> APOLLOModule:
    torch.manual_seed(0)
    built = APOLLOModule(
        FEATURES,
        dict.fromkeys(FEATURES, "identity"),
        dict.fromkeys(FEATURES, losses),
        n_shared=3,
        n_specific={"rna": 2, "adt": 1},
        n_components=None,
        n_hidden=6,
        dropout_rate=0.0,
        **options,
    )
    rng = np.random.default_rng(0)
    for name, (n, width) in {"shared": (9, 3), "rna": (6, 2), "adt": (8, 1)}.items():
        built.table(name).set(rng.normal(size=(n, width)))
    return built.eval()


def objective(net: APOLLOModule, tensors: dict, table_rows: dict, weights: LossWeights):
    latents, noise_sd = net.inference(tensors, table_rows)
    decoded = net.generative(tensors, latents, noise_sd, weights)
    return net.loss(tensors, latents, noise_sd, decoded, weights)


def minibatch() -> tuple[dict, dict]:
    """Five of nine cells; the second and fourth lack RNA, the first lacks proteins."""
    rng = np.random.default_rng(1)
    tensors = {
        "cell": torch.tensor([4, 0, 7, 2, 8]),
        "rna": torch.from_numpy(rng.poisson(1.0, (3, 7)).astype(np.float32)),
        "rna_rows": torch.tensor([0, 2, 4]),
        "adt": torch.from_numpy(rng.poisson(3.0, (4, 5)).astype(np.float32)),
        "adt_rows": torch.tensor([1, 2, 3, 4]),
    }
    table_rows = {
        "shared": torch.arange(9),
        "rna": torch.tensor([-2, 0, -2, 1, 2, 3, -2, 4, 5]),
        "adt": torch.tensor([0, 1, 2, 3, -2, 4, 5, 6, 7]),
    }
    return tensors, table_rows


def naive_bce(logits: torch.Tensor, counts: torch.Tensor) -> float:
    total = 0.0
    for row, cell in zip(logits.tolist(), counts.tolist(), strict=True):
        t = [math.log(x + 0.5) for x in cell]
        low, high = min(t), max(t)
        for logit, x in zip(row, t, strict=True):
            y, p = (x - low) / (high - low), 1 / (1 + math.exp(-logit))
            total -= y * math.log(p) + (1 - y) * math.log(1 - p)
    return total / logits.numel()


def naive_squares(values: torch.Tensor, counts: torch.Tensor) -> float:
    pairs = zip(values.flatten().tolist(), counts.flatten().tolist(), strict=True)
    return sum((a - b) ** 2 for a, b in pairs) / values.numel()


def naive_norm(z: torch.Tensor) -> float:
    return sum(math.sqrt(sum(x * x for x in row)) for row in z.tolist()) / len(z) / z.shape[1]


# First stage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("losses", "naive"), [("bce", naive_bce), ("mse", naive_squares)])
def test_first_stage_equals_equation_1(losses, naive):
    """Cell by cell and feature by feature, without noise."""
    net = module(losses, noise=0.0)
    tensors, table_rows = minibatch()
    found = objective(net, tensors, table_rows, PAPER)
    shared = net.table("shared").weight.detach()[tensors["cell"]]
    expected = 1e-3 * naive_norm(shared)
    for name in FEATURES:
        rows = tensors[f"{name}_rows"]
        own = net.table(name).weight.detach()[table_rows[name][tensors["cell"][rows]]]
        covariates = Covariates(torch.zeros(len(rows), 1, dtype=torch.long), None)
        full = torch.cat([shared[rows], own], dim=1)
        outputs = [
            net.decoder(name).location(full, covariates),
            net.decoder(name, shared_only=True).location(shared[rows], covariates),
        ]
        expected += sum(naive(out.detach(), tensors[name]) for out in outputs)
        expected += 1e-3 * naive_norm(own)
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_counts_are_divided_by_features():
    net = module("poisson", noise=0.0)
    tensors, table_rows = minibatch()
    terms = objective(net, tensors, table_rows, PAPER).extra_metrics
    rows = tensors["rna_rows"]
    shared = net.table("shared").weight[tensors["cell"][rows]]
    covariates = Covariates(torch.zeros(3, 1, dtype=torch.long), None)
    library = tensors["rna"].sum(dim=1)
    location = net.decoder("rna", shared_only=True).location(shared, covariates)
    mean = location.softmax(dim=1) * library[:, None]
    nll = -torch.distributions.Poisson(mean).log_prob(tensors["rna"]).mean()
    assert float(terms["shared_rna"].detach()) == pytest.approx(float(nll.detach()), rel=1e-4)


def test_terms_beyond_the_paper():
    net = module(noise=0.0)
    tensors, table_rows = minibatch()
    n = 40
    rng = np.random.default_rng(0)
    net.table("shared").set(rng.normal(size=(n, 3)))
    net.table("rna").set(rng.normal(size=(n // 2, 2)))
    net.table("adt").set(rng.normal(size=(n // 2, 1)))
    first, second = torch.arange(n // 2), torch.arange(n // 2, n)
    absent = torch.full((n // 2,), -2)
    tensors = {
        "cell": torch.arange(n),
        "rna": torch.ones(n // 2, 7) + torch.arange(7),
        "rna_rows": first,
        "adt": torch.ones(n // 2, 5) + torch.arange(5),
        "adt_rows": second,
    }
    table_rows = {
        "shared": torch.arange(n),
        "rna": torch.cat([first, absent]),
        "adt": torch.cat([absent, first]),
    }
    terms = objective(net, tensors, table_rows, LossWeights()).extra_metrics
    shared = net.table("shared").weight
    expected = maximum_mean_discrepancy(shared[: n // 2], shared[n // 2 :])
    assert torch.allclose(terms["mmd_rna_adt"], expected)
    expected = dependence(net.table("rna").weight, shared[: n // 2])
    assert torch.allclose(terms["dependence_rna"], expected)


def test_independence_does_not_move_shared_latents():
    net = module(noise=0.0)
    for name in net.tables:
        net.table(name).sparse = False
    rng = np.random.default_rng(0)
    for name, width in {"shared": 3, "rna": 2, "adt": 1}.items():
        net.table(name).set(rng.normal(size=(20, width)))
    cells = torch.arange(20)
    tensors = {"cell": cells, "rna_rows": cells, "adt_rows": cells}
    tensors |= {n: torch.ones(20, p) + torch.arange(p) for n, p in FEATURES.items()}
    table_rows = dict.fromkeys(["shared", "rna", "adt"], cells)
    gradients = []
    for weight in (0.0, 5.0):
        net.zero_grad()
        weights = LossWeights(lambda_independence=weight)
        objective(net, tensors, table_rows, weights).loss.backward()
        gradients.append([net.table(n).weight.grad.clone() for n in ("shared", "rna")])
    assert torch.allclose(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("moved", [0.0, 1.0])
def test_shared_decoders_move_latents_only_if_asked(moved):
    """What they cost reaches the shared table with the paper's weight of 1, not with 0."""
    net = module(noise=0.0)
    net.table("shared").sparse = False
    tensors, table_rows = minibatch()
    gradients = []
    for weight in (1.0, 4.0):
        net.zero_grad()
        weights = LossWeights(lambda_shared=weight, lambda_shared_latents=moved)
        objective(net, tensors, table_rows, weights).loss.backward()
        gradients.append(net.table("shared").weight.grad.clone())
    assert torch.allclose(*gradients) == (moved == 0)


def test_shared_decoders_move_latents_in_part() -> None:
    """What they see is the same for any share, and the gradient in proportion to it."""
    tensors, table_rows = minibatch()
    losses, gradients = [], []
    for moved in (0.0, 0.25, 1.0):
        net = module(noise=0.0)
        weights = LossWeights(
            lambda_shared_latents=moved, lambda_norm=0.0, lambda_independence=0.0, lambda_mmd=0.0
        )
        found = objective(net, tensors, table_rows, weights)
        losses.append(float(found.loss.detach()))
        found.loss.backward()
        gradients.append(net.table("shared").weight.grad.to_dense().clone())
    assert losses == pytest.approx([losses[0]] * 3)
    none, part, whole = gradients
    torch.testing.assert_close(part - none, 0.25 * (whole - none), rtol=1e-4, atol=1e-7)
    assert (whole - none).abs().max() > 1e-3


def test_tables_start_empty_and_networks_are_normalised() -> None:
    net = module()
    assert LatentTable(3).weight.shape == (0, 3)
    for part in (*net.full.values(), *net.shared_only.values(), *net.encoders.values()):
        assert any("BatchNorm" in type(layer).__name__ for layer in part.modules())


@pytest.mark.parametrize("row_updates", ["lazy", "dense"])
def test_latents_outside_the_minibatch(row_updates):
    """Lazy steps leave them where they are; dense ones move them by momentum, as documented."""
    net = module()
    tensors, table_rows = minibatch()
    plan = LatentPlan(net, table_rows, row_updates=row_updates)
    _, latents = plan.configure_optimizers()
    other = {k: v.clone() for k, v in tensors.items()}
    other["cell"] = torch.tensor([5, 6, 7, 2, 8])
    other["rna"], other["rna_rows"] = tensors["rna"], torch.tensor([0, 2, 4])
    before = None
    for batch in (tensors, other):
        before = net.table("shared").weight.detach().clone()
        latents.zero_grad()
        objective(net, batch, table_rows, PAPER).loss.backward()
        latents.step()
    moved = (net.table("shared").weight.detach() - before).abs().sum(dim=1) > 0
    inside = torch.zeros(9, dtype=torch.bool)
    inside[other["cell"]] = True
    assert moved[inside].all()
    assert not moved[[1, 3]].any()  # in neither minibatch
    assert bool(moved[[0, 4]].all()) == (row_updates == "dense")


def test_noise_is_what_decoders_see():
    net = module()
    tensors, table_rows = minibatch()
    losses = {float(objective(net, tensors, table_rows, PAPER).loss.detach()) for _ in range(3)}
    assert len(losses) == 3
    net.noise = 0.0
    losses = {float(objective(net, tensors, table_rows, PAPER).loss.detach()) for _ in range(3)}
    assert len(losses) == 1


def test_learned_noise_and_its_divergence():
    net = module(learn_noise=True)
    tensors, table_rows = minibatch()
    terms = objective(net, tensors, table_rows, LossWeights()).extra_metrics
    z = net.table("adt").weight[table_rows["adt"][tensors["cell"][tensors["adt_rows"]]]]
    prior = torch.distributions.Normal(torch.zeros(()), 3.0)
    own = torch.distributions.Normal(z, torch.ones_like(z))
    expected = torch.distributions.kl_divergence(own, prior).sum(dim=1).mean()
    assert torch.allclose(terms["divergence_adt"], expected, rtol=1e-5)


# Second stage -----------------------------------------------------------------------------------


def test_second_stage_equals_loops():
    net = module()
    tensors, table_rows = minibatch()
    inputs = {name: net.read(name, tensors[name]) for name in FEATURES}
    found = net.encoder_loss(inputs, tensors, table_rows)
    expected = 0.0
    for name in FEATURES:
        rows = tensors[f"{name}_rows"].tolist()
        shared, specific = (z.detach() for z in net.encoder(name)(inputs[name]))
        for part, table, numbers in (
            (shared, "shared", [int(tensors["cell"][r]) for r in rows]),
            (specific, name, [int(table_rows[name][tensors["cell"][r]]) for r in rows]),
        ):
            target = net.table(table).weight.detach()[numbers]
            expected += naive_squares(part, target)
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_second_stage_moves_encoders_alone():
    mdata = counts_mosaic(member=np.ones((60, 2), dtype=bool))
    model = trained(mdata, train={"encoder_epochs": 1})
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    still = {"plan_kwargs": {"lr": 1e-12, "lr_latents": 1e-12, "lr_covariates": 1e-12}}
    model.train(**(QUIET | still))
    after = model.module.state_dict()
    changed = {
        k
        for k, v in after.items()
        if v.is_floating_point() and not torch.allclose(v, before[k], atol=1e-7)
    }
    weights = {k for k in changed if "running" not in k}
    assert any(k.startswith("encoders.rna.trunk") for k in weights)
    assert all(k.startswith("encoders.") for k in weights)


# Tables and encoders ----------------------------------------------------------------------------


def test_table_is_loaded_with_the_rows_that_were_saved():
    table = LatentTable(2)
    table.set(np.arange(6).reshape(3, 2))
    other = LatentTable(2)
    other.load_state_dict(table.state_dict())
    assert torch.equal(other.weight, table.weight)


def test_only_rows_that_were_used_have_a_gradient():
    table = LatentTable(2)
    table.set(np.ones((1000, 2)))
    table(torch.tensor([3, 5])).sum().backward()
    assert table.weight.grad.is_sparse
    assert table.weight.grad.coalesce().indices().tolist() == [[3, 5]]


@pytest.mark.parametrize(("full", "better"), [(0.995, False), (0.98, True), (1.1, False)])
def test_encoders_have_to_earn_what_is_not_linear(full, better):
    named = {"linear_decoded_validation": 1.0, "decoded_validation": full}
    assert is_better_than_linear(named) == better


# Known answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [1, 4])
def test_recovers_the_factors_of_a_simulation(setting):
    """Latents of training cells, and encoders on cells that no stage has seen."""
    mdata = cantata.datasets.simulate_disentangled(setting, n_cells=1200, seed=1)
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata, n_shared=2, n_specific=2, losses="mse")
    model.train(train_size=0.8, enable_progress_bar=False, accelerator="cpu")
    held_out = np.asarray(model.validation_indices)
    table = {"shared": model.get_latent_table().to_numpy()}
    table |= {name: model.get_latent_table(name).to_numpy() for name in ("x", "y")}
    encoded = {"shared": model.get_latent_representation(indices=held_out)}
    for name in ("x", "y"):
        encoded[name] = model.get_latent_representation(
            modality=name, space="specific", indices=held_out
        )
    cells = {"table": mdata.obs.loc[model.get_latent_table().index]}
    cells["encoded"] = mdata.obs.iloc[held_out]
    own = {"Z1": "shared", "Z2": "shared", "Z3": "x", "r4": "x", "r5": "y"}
    for where, blocks, bound in (("table", table, 0.05), ("encoded", encoded, 0.10)):
        for factor, block in own.items():
            values = cells[where][[factor]].to_numpy(dtype=float)
            assert explained(blocks[block], values) > 0.95, (where, factor)
            if block != "shared":
                assert explained(blocks["shared"], values) < bound, (where, factor)


def test_unpaired_cells_join_the_shared_space():
    """Half of the cells have one modality; their shared latents still tell the factor."""
    mdata = cantata.datasets.simulate_disentangled(1, n_cells=800)
    parts = {"x": mdata["x"][:600].copy(), "y": mdata["y"][200:].copy()}
    ragged = mosaic(parts)
    APOLLO.setup_mudata(ragged)
    model = APOLLO(ragged, n_shared=2, n_specific=2, losses="mse")
    model.train(max_epochs=20, encoder_epochs=5, enable_progress_bar=False, accelerator="cpu")
    assert "mmd_x_y_train" in model.history
    latents = model.get_latent_table()
    factor = mdata.obs["Z1"].loc[latents.index].to_numpy(dtype=float)
    alone = ~latents.index.isin(parts["x"].obs_names) | ~latents.index.isin(parts["y"].obs_names)
    design = latents.to_numpy()
    weights = np.linalg.lstsq(
        np.hstack([design[~alone], np.ones((int((~alone).sum()), 1))]), factor[~alone], rcond=None
    )[0]
    predicted = np.hstack([design[alone], np.ones((int(alone.sum()), 1))]) @ weights
    assert np.corrcoef(predicted, factor[alone])[0, 1] > 0.9


def test_published_settings_train():
    mdata = counts_mosaic(member=np.ones((60, 2), dtype=bool))
    APOLLO.setup_mudata(mdata)
    preset = APOLLO.presets["published"]
    narrow = {"n_hidden": 8, "n_hidden_encoder": 8, "n_shared": 4, "n_specific": 2}
    model = APOLLO(mdata, **(preset["model"] | narrow))
    model.train(**(preset["train"] | QUIET))
    assert "encoder_objective_train" in model.history
    assert "decoded_validation" not in model.history
    assert torch.equal(model.module.encoder("rna").slope, torch.zeros(12, 6))


@pytest.mark.parametrize("shuffle", [True, False])
def test_minibatches_of_the_published_settings_do_not_change(monkeypatch, shuffle):
    """In both stages, as the trainer reads them."""
    assert APOLLO.presets["published"]["train"]["shuffle"] is False
    seen: dict[str, list[tuple[int, list[int]]]] = {"latent": [], "encoder": []}

    def spied(stage: str, step):
        def spy(self, batch, batch_idx):
            seen[stage].append((self.current_epoch, batch["cell"].tolist()))
            return step(self, batch, batch_idx)

        return spy

    for stage, plan in (("latent", LatentPlan), ("encoder", EncoderPlan)):
        monkeypatch.setattr(plan, "training_step", spied(stage, plan.training_step))
    trained(counts_mosaic(), train={"shuffle": shuffle})
    for steps in seen.values():
        first, second = ([cells for e, cells in steps if e == epoch] for epoch in (0, 1))
        assert len(first) > 1
        assert (first == second) != shuffle
