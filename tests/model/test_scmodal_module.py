"""The objective and the steps beside equation 7 of Wang et al. 2025, and every option."""

from __future__ import annotations

import copy
import inspect
import warnings

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from linked_mosaics import QUIET, SMALL, chain, linked_mosaic
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import cantata
from cantata import SCMODAL
from cantata._numeric.neighbors import nearest_neighbors
from cantata.data import UnpairedDataset
from cantata.metrics import foscttm, label_transfer_accuracy, silhouette
from cantata.model.scmodal import LossWeights, SCMODALModule, SCMODALTrainingPlan
from cantata.model.scmodal._module import link_consistency
from cantata.model.scmodal._training import draw_weights, known_pairs, readers_of
from cantata.nn import CovariateEffects, Covariates

FEATURES = {"adt": 4, "rna": 7, "atac": 5}
PAIRS = [("adt", "rna"), ("rna", "atac")]
WEIGHTS = LossWeights(
    lambda_gan=0.7,
    lambda_ae=1.3,
    lambda_cycle=0.9,
    lambda_anchor=1.7,
    lambda_geo=2.1,
    lambda_paired=0.6,
    lambda_linked=0.8,
)


def module(**options) -> SCMODALModule:
    torch.manual_seed(0)
    transforms = dict.fromkeys(FEATURES, "identity")
    covariates = {"n_categories": [2, 3], "n_continuous": 1, "has_batch": True}
    return SCMODALModule(FEATURES, transforms, PAIRS, **(SMALL | covariates | options))


def minibatch(sizes: tuple[int, ...] = (6, 5, 7), seed: int = 0) -> dict[str, Tensor]:
    """Rows of three modalities with links, covariates and two pairs of known cells."""
    torch.manual_seed(seed)
    batch: dict[str, Tensor] = {}
    for (name, p), n in zip(FEATURES.items(), sizes, strict=True):
        batch[name] = torch.randn(n, p)
        codes = torch.stack([torch.randint(0, 2, (n,)), torch.randint(0, 3, (n,))], dim=1)
        batch[f"{name}_categorical_covariates"] = codes
        batch[f"{name}_continuous_covariates"] = torch.randn(n, 1)
    for width, (a, b) in zip((3, 6), PAIRS, strict=True):
        batch[f"{a}_linked_{b}"] = torch.randn(len(batch[a]), width)
        batch[f"{b}_linked_{a}"] = torch.randn(len(batch[b]), width)
        batch[f"{a}_{b}_paired"] = torch.tensor([[0, 1], [2, 0]])
    return batch


def objective(net: SCMODALModule, batch: dict[str, Tensor], weights: LossWeights, k: int, **given):
    z = net.inference(batch)
    return net.loss(batch, z, net.generative(batch, z), weights, n_neighbors=k, **given)


def by_hand(net: nn.Module, x: Tensor, codes: Tensor, values: Tensor) -> Tensor:
    """A perceptron of one hidden layer, one row."""
    h = net.hidden[0].weight @ x + net.hidden[0].bias + values @ net.covariates[0].continuous
    for table, code in zip(net.covariates[0].categorical, codes.tolist(), strict=True):
        h = h + table[code]
    return net.output.weight @ torch.relu(h) + net.output.bias


def kernels(x: Tensor, p: int) -> Tensor:
    return torch.stack(
        [torch.stack([(-(a - b).square().sum() / (2 * p)).exp() for b in x]) for a in x]
    )


def mutual(a: Tensor, b: Tensor, k: int) -> list[tuple[int, int]]:
    cosine = torch.stack([torch.stack([u @ v / u.norm() / v.norm() for v in b]) for u in a])
    near = [set(row.argsort(descending=True)[:k].tolist()) for row in cosine]
    back = [set(row.argsort(descending=True)[:k].tolist()) for row in cosine.T]
    return [(i, j) for i in range(len(a)) for j in range(len(b)) if j in near[i] and i in back[j]]


def read_off(z: list[Tensor], links: list[Tensor]) -> float:
    """Mean squared error of one ridge regression from embeddings to directions of links."""
    directions = torch.stack([v / v.norm() * len(v) ** 0.5 for v in links]).double()
    fit = KernelRidge(alpha=0.1 * len(z), kernel=lambda u, v: u @ v + 1)
    embeddings = torch.stack(z).double().numpy()
    fitted = fit.fit(embeddings, directions.numpy()).predict(embeddings)
    return float(np.square(fitted - directions.numpy()).mean())


def test_objective_eq_7_of_a_chain_of_three() -> None:
    """Each modality counts once in reconstruction and geometry, each pair in the other terms."""
    net, batch, k = module(), minibatch(), 2
    with torch.no_grad():
        z = net.inference(batch)
        out = objective(net, batch, WEIGHTS, k)
        codes = {m: batch[f"{m}_categorical_covariates"] for m in FEATURES}
        values = {m: batch[f"{m}_continuous_covariates"] for m in FEATURES}
        expected, mine = 0.0, {}
        for m, p in FEATURES.items():
            rows = range(len(batch[m]))
            arguments = [(codes[m][i], values[m][i]) for i in rows]
            mine[m] = [by_hand(net.encoders[m], batch[m][i], *arguments[i]) for i in rows]
            decoded = [by_hand(net.decoders[m], mine[m][i], *arguments[i]) for i in rows]
            errors = [(batch[m][i] - decoded[i]).square().sum() / p for i in rows]
            expected += 1.3 * np.mean(errors)
            one, two = kernels(batch[m], p), kernels(torch.stack(mine[m]), 4)
            cosines = [float(u @ v / u.norm() / v.norm()) for u, v in zip(one, two, strict=True)]
            expected -= 2.1 * np.mean([min(c, 0.975) for c in cosines])
            torch.testing.assert_close(z[m], torch.stack(mine[m]))
        for a, b in PAIRS:
            for s, t in ((a, b), (b, a)):
                errors = []
                for i, own in enumerate(mine[s]):
                    covariates = codes[s][i], values[s][i]
                    other = by_hand(net.decoders[t], own, *covariates)
                    cycled = by_hand(net.encoders[t], other, *covariates)
                    errors.append((own - cycled).square().sum() / 4)
                expected += 0.9 * np.mean(errors)
            anchors = mutual(batch[f"{a}_linked_{b}"], batch[f"{b}_linked_{a}"], k)
            apart = [(mine[a][i] - mine[b][j]).square().sum() / 4 for i, j in anchors]
            expected += 1.7 * np.mean(apart)
            known = [(mine[a][i] - mine[b][j]).square().sum() / 4 for i, j in ((0, 2), (1, 0))]
            expected += 0.6 * np.mean(known)
            links = [*batch[f"{a}_linked_{b}"], *batch[f"{b}_linked_{a}"]]
            expected += 0.8 * read_off(mine[a] + mine[b], links)
            scores = {}
            for m, other in ((a, b), (b, a)):
                # told the batch where both modalities have cells of it
                own, theirs = (codes[name][:, 0].tolist() for name in (m, other))
                known = torch.tensor([[c if c in theirs else -1] for c in own])
                discriminate = net.discriminators[f"{a}_{b}"]
                scores[m] = discriminate(torch.stack(mine[m]), Covariates(known, None))[:, 0]
            log_a = -torch.log(torch.sigmoid(scores[a])).mean()
            log_b = -torch.log(1 - torch.sigmoid(scores[b])).mean()
            expected -= 0.7 * (log_a + log_b)
    assert float(out.loss) == pytest.approx(float(expected), rel=1e-5, abs=1e-5)
    assert float(out.extra_metrics["n_anchors_adt_rna"]) == len(
        mutual(batch["adt_linked_rna"], batch["rna_linked_adt"], k)
    )


def test_anchors_of_joint_components_weigh_ten_times_as_much() -> None:
    net, batch = module(), minibatch()
    plain = objective(net, batch, WEIGHTS, 2)
    more = objective(net, batch, WEIGHTS, 2, anchor_factors={("adt", "rna"): 10.0})
    anchors = float(plain.extra_metrics["anchor_adt_rna"])
    assert anchors > 0.01
    difference = float(more.loss - plain.loss)
    assert difference == pytest.approx(9 * WEIGHTS.lambda_anchor * anchors, rel=1e-4)


TERMS = {
    "lambda_gan": "discriminator_adt_rna",
    "lambda_cycle": "cycle_adt_rna",
    "lambda_anchor": "anchor_adt_rna",
    "lambda_geo": "geometry_adt",
    "lambda_paired": "paired_adt_rna",
    "lambda_linked": "linked_adt_rna",
}


@pytest.mark.parametrize("weight", TERMS)
def test_a_weight_of_zero_leaves_the_term_out(weight: str) -> None:
    net, batch = module(), minibatch()
    full = objective(net, batch, WEIGHTS, 2)
    assert TERMS[weight] in full.extra_metrics
    without = LossWeights(**{**vars(WEIGHTS), weight: 0.0})
    part = objective(net, batch, without, 2)
    assert TERMS[weight] not in part.extra_metrics
    names = {t for t in full.extra_metrics if t.startswith(TERMS[weight].split("_")[0])}
    difference = sum(float(full.extra_metrics[t]) for t in names) * vars(WEIGHTS)[weight]
    sign = -1 if weight == "lambda_gan" else 1
    assert float(full.loss - part.loss) == pytest.approx(sign * difference, abs=1e-4)


def test_minibatches_without_anchors_or_pairs_have_a_finite_gradient() -> None:
    net, batch = module(), minibatch()
    for key in list(batch):
        if "linked" in key:
            batch[key] = torch.zeros_like(batch[key])
        if "paired" in key:
            batch[key] = torch.zeros(2, 0, dtype=torch.long)
    out = objective(net, batch, WEIGHTS, 30)
    for term in ("anchor", "n_anchors", "paired"):
        assert float(out.extra_metrics[f"{term}_rna_atac"]) == 0
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.encoders.parameters())


def test_minibatches_of_one_row() -> None:
    net, batch = module(), minibatch((1, 1, 1))
    for a, b in PAIRS:
        batch[f"{a}_{b}_paired"] = torch.zeros(2, 1, dtype=torch.long)
    out = objective(net, batch, WEIGHTS, 30)
    assert torch.isfinite(out.loss)
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_modality_that_is_absent_takes_its_pairs_away() -> None:
    net = module()
    batch = {key: value for key, value in minibatch().items() if "atac" not in key}
    out = objective(net, batch, WEIGHTS, 2)
    assert "anchor_adt_rna" in out.extra_metrics
    assert not any("atac" in term for term in out.extra_metrics)


def test_no_tensor_of_a_step_has_cells_times_cells_times_features() -> None:
    n, p, hidden = 64, 1500, 16
    torch.manual_seed(0)
    pair = ("rna", "adt")
    net = SCMODALModule(
        {"rna": p, "adt": 40}, dict.fromkeys(pair, "identity"), [pair], 20, None, hidden, 8
    )
    batch = {"rna": torch.randn(n, p), "adt": torch.randn(n, 40)}
    batch |= {f"{a}_linked_{b}": torch.randn(n, 30) for a, b in (pair, pair[::-1])}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        objective(net, batch, LossWeights(), 30).loss.backward()
    events = profiler.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert max(sizes) >= 4 * n * p  # what is decoded
    assert max(sizes) <= 4 * max(2 * n * n, n * p)


# Batches and covariates -------------------------------------------------------------------------


def test_an_unknown_batch_is_the_mean_of_the_known_ones() -> None:
    net, batch = module(), minibatch()
    key = "rna_categorical_covariates"
    encoder = net.encoders["rna"]
    (covariates,) = encoder.covariates
    assert isinstance(covariates, CovariateEffects)
    batch[key][:, 0] = -1
    unknown = net.inference(batch)["rna"]
    beyond = net.inference({**batch, key: torch.where(batch[key] < 0, 2, batch[key])})["rna"]
    with torch.no_grad():
        covariates.categorical[0][:] = covariates.categorical[0].mean(dim=0)
    known = net.inference({**batch, key: batch[key].clamp(min=0)})["rna"]
    torch.testing.assert_close(unknown, known)
    torch.testing.assert_close(unknown, beyond)


def own_share(z: np.ndarray, batch: np.ndarray, k: int = 15) -> float:
    """Share of near cells that are of the cell's own batch; .5 where two are mixed."""
    near = nearest_neighbors(z.astype(np.float64), z.astype(np.float64), k + 1)[0][:, 1:]
    return float((batch[near] == batch[:, None]).mean())


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_registered_batches_are_mixed(batch_key: str | None) -> None:
    """One factor per protein on half of the cells."""
    mdata = cantata.datasets.simulate_mosaic(
        300, n_features={"rna": 100, "adt": 20}, pairing="none", n_batches=1
    )
    adt = mdata["adt"]
    codes = np.arange(adt.n_obs) % 2
    del mdata.obs["batch"]
    x = adt.X.toarray() if hasattr(adt.X, "toarray") else adt.X.copy()
    x[codes == 1] *= np.exp(np.random.default_rng(0).normal(0, 2, 20))
    adt.X = np.round(x).astype(np.float32) + (np.arange(20) == 0)
    for name in mdata.mod:
        mdata[name].obs["batch"] = [f"b{i % 2}" for i in range(mdata[name].n_obs)]
    cantata.pp.link_features(mdata, "rna", "adt")
    scvi.settings.seed = 0
    model = small(mdata, {"batch_key": batch_key}, n_latent=10, n_hidden=64)
    model.train(max_steps=100, **QUIET | {"batch_size": 100})
    share = own_share(model.get_latent_representation(modality="adt"), codes)
    assert share > 0.7 if batch_key is None else share < 0.6


def test_discriminators_are_told_batches_that_both_modalities_have() -> None:
    """A batch of one modality would tell it away."""
    net, batch = module(), minibatch()
    z = net.inference(batch)
    pair = ("adt", "rna")
    key = "adt_categorical_covariates"
    batch["rna_categorical_covariates"][:, 0] = 0
    batch[key][:, 0] = 0
    shared = net.discriminator_loss(batch, z, pair)
    (effects,) = net.discriminators["adt_rna"].covariates
    with torch.no_grad():
        effects.categorical[0][0] += 1
    assert not torch.isclose(net.discriminator_loss(batch, z, pair), shared)
    batch[key][:, 0] = 1
    alone = net.discriminator_loss(batch, z, pair)
    with torch.no_grad():
        effects.categorical[0][:] += torch.tensor([[2.0], [-2.0]])
    torch.testing.assert_close(net.discriminator_loss(batch, z, pair), alone)


def test_continuous_covariates_alone_enter_encoders_and_decoders() -> None:
    net = module(n_categories=[], has_batch=False)
    tensors = {"cell": torch.arange(4), "continuous_covariates": torch.zeros(4, 1)}
    tensors |= {name: torch.randn(4, p) for name, p in FEATURES.items()}
    tensors |= {f"{name}_rows": torch.arange(4) for name in FEATURES}
    zero = net.encode(tensors)[0]
    one = net.encode({**tensors, "continuous_covariates": torch.ones(4, 1)})[0]
    for name in FEATURES:
        assert not torch.allclose(zero[name], one[name])


def test_freezing_leaves_covariates_and_discriminators() -> None:
    model = small(setup={"batch_key": "batch"})
    model._freeze()
    free = {name for name, p in model.module.named_parameters() if p.requires_grad}
    assert free == {
        name
        for name, _ in model.module.named_parameters()
        if ".covariates." in name or name.startswith("discriminators.")
    }
    assert any(".covariates." in name for name in free)


# Links ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", [True, False])
def test_consistency_of_links_equals_a_loop(linked: bool) -> None:
    """Links that agree with nothing within a modality are judged as if they did by 0.01."""
    torch.manual_seed(0)
    z_a, z_b = torch.randn(60, 3), torch.randn(75, 3)
    a, b = z_a @ torch.randn(3, 5), z_b @ torch.randn(3, 5)
    if not linked:
        a, b = torch.randn(60, 5), torch.randn(75, 5)

    def agreement(z, other, own, linked):
        cosines = []
        for i, cell in enumerate(z):
            lengths = [float((cell - o).square().sum()) for o in other]
            if other is z:
                lengths[i] = np.inf
            near = np.argsort(lengths)[: int(0.04 * len(other))]
            mean = torch.stack([linked[j] for j in near]).mean(dim=0)
            cosines.append(float(own[i] @ mean / own[i].norm() / mean.norm()))
        return cosines

    across = agreement(z_a, z_b, a, b) + agreement(z_b, z_a, b, a)
    within = agreement(z_a, z_a, a, a) + agreement(z_b, z_b, b, b)
    assert (np.mean(within) > 0.01) == linked
    expected = np.mean(across) / max(np.mean(within), 0.01)
    assert float(link_consistency(z_a, z_b, a, b)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("right", [True, False])
def test_wrong_links_are_warned_of(right: bool, monkeypatch) -> None:
    """Links of shuffled proteins: cells are aligned, and the warning says how badly."""
    mdata = cantata.datasets.simulate_mosaic(
        400, n_features={"rna": 150, "adt": 30}, pairing="none", seed=1
    )
    links = cantata.pp.link_features(mdata, "rna", "adt").links[["source", "target"]]
    if not right:
        links["target"] = np.roll(links["target"].to_numpy(), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cantata.pp.link_features(mdata, "rna", "adt", links)
    # few cells and steps, of which .68 and .59 are to be expected
    for name, value in {"STEPS": 150, "CELLS": 200}.items():
        monkeypatch.setattr(f"cantata.model.scmodal._model.MIN_JUDGED_{name}", value)
    monkeypatch.setattr("cantata.model.scmodal._model.MIN_CONSISTENCY", 0.63)
    scvi.settings.seed = 0
    model = small(mdata, n_latent=10, n_hidden=64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.train(max_steps=150, **QUIET | {"batch_size": 200})
    told = [str(w.message) for w in caught if "linked features only" in str(w.message)]
    score = float(model.history["consistency_rna_adt_train"].iloc[-1, 0])
    assert len(told) == (0 if right else 1)
    assert (score >= 0.63) == right
    if told:
        assert "'rna' and 'adt'" in told[0]
        assert f"only {score:.2f} times" in told[0]


# Steps ------------------------------------------------------------------------------------------


def small(mdata=None, setup: dict | None = None, **options) -> SCMODAL:
    mdata = linked_mosaic() if mdata is None else mdata
    SCMODAL.setup_mudata(mdata, **(setup or {}))
    return SCMODAL(mdata, **(SMALL | options))


class Watched(SCMODALTrainingPlan):
    """Notes what each part of a step changes."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[set[str]] = []

    def _state(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}

    def _changed(self, before: dict[str, Tensor]) -> set[str]:
        now = self._state()
        return {name.split(".")[0] for name in now if not torch.equal(now[name], before[name])}

    def _step_discriminators(self, batch, z, optimizer) -> None:
        others = [p for m in (self.module.encoders, self.module.decoders) for p in m.parameters()]
        before = self._state(), [None if p.grad is None else p.grad.clone() for p in others]
        super()._step_discriminators(batch, z, optimizer)
        for parameter, gradient in zip(others, before[1], strict=True):
            assert (parameter.grad is None) == (gradient is None)
            assert gradient is None or torch.equal(parameter.grad, gradient)
        self.seen.append(self._changed(before[0]))
        self._after = (
            self._state(),
            [p.grad.clone() for p in self.module.discriminators.parameters()],
        )

    def training_step(self, batch, batch_idx):
        result = super().training_step(batch, batch_idx)
        state, gradients = self._after
        self.seen.append(self._changed(state))
        own = self.module.discriminators.parameters()
        assert all(torch.equal(p.grad, g) for p, g in zip(own, gradients, strict=True))
        assert all(p.requires_grad for p in self.module.parameters())
        return result


def test_steps_of_the_two_players_leave_the_other_alone(monkeypatch) -> None:
    plans = []

    class Kept(Watched):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            plans.append(self)

    monkeypatch.setattr(SCMODAL, "_training_plan_cls", Kept)
    model = small()
    model.train(max_steps=3, plan_kwargs={"n_discriminator_steps": 4}, **QUIET)
    assert plans[0].seen == [{"discriminators"}, {"encoders", "decoders"}] * 3
    adversary = plans[0].trainer.optimizers[1]
    assert {int(state["step"]) for state in adversary.state.values()} == {12}


@pytest.mark.parametrize(
    "plan",
    [{}, {"gradient_clip": None, "lr_schedule": "cosine", "lambda_anchor": 1.0, "n_neighbors": 3}],
)
def test_training_is_the_loop_of_the_paper(plan: dict) -> None:
    """Two steps beside plain torch: five Adam steps of the discriminators, one of the others."""
    mdata = chain()
    # one pair has joint components of many links, the other single ones
    records = {"rna|adt": {"n_components": 4}, "rna|atac": {"n_components": 0}}
    mdata.uns["cantata"] = {"links": records}
    factors = None if "lambda_anchor" in plan else {("adt", "rna"): 10.0, ("rna", "atac"): 1.0}
    model = small(mdata, {"batch_key": "batch"}, n_components=5)
    start = copy.deepcopy(model.module)
    scvi.settings.seed = 4
    options = {"n_discriminator_steps": 5, "lambda_geo": 3.0, "lambda_linked": 2.0, **plan}
    model.train(max_steps=2, use_paired=True, n_refinements=0, plan_kwargs=options, **QUIET)
    names = model.modalities
    readers = {m: readers_of(model, m, names) for m in names}
    n_obs = {m: model.adata[m].n_obs for m in names}
    dataset = UnpairedDataset(
        readers,
        {m: np.arange(n) for m, n in n_obs.items()},
        paired=known_pairs(model),
        # populations are drawn in like shares, but not by joint components
        weights=draw_weights([("rna", "atac")], readers, n_obs),
        batch_size=16,
        seed=4,
    )
    for name in names:
        start.input(name).load_state_dict(model.module.input(name).state_dict())
    adversary = torch.optim.Adam(start.discriminators.parameters(), 1e-3, weight_decay=1e-3)
    rest = [(n, p) for n, p in start.named_parameters() if not n.startswith("discriminators")]
    groups = [
        {"params": [p for n, p in rest if "covariates" not in n], "weight_decay": 1e-3},
        {"params": [p for n, p in rest if "covariates" in n]},
    ]
    generator = torch.optim.Adam(groups, 1e-3)
    weights = LossWeights(
        lambda_geo=3.0,
        lambda_paired=5.0,
        lambda_linked=2.0,
        lambda_anchor=plan.get("lambda_anchor", 5.0),
    )
    for step in range(2):
        if "lr_schedule" in plan:
            for group in adversary.param_groups + generator.param_groups:
                group["lr"] = 1e-3 * (1 + np.cos(np.pi * step / 2)) / 2
        batch = dataset[step]
        z = start.inference(batch)
        for _ in range(5):
            fixed = {m: v.detach() for m, v in z.items()}
            adversary.zero_grad()
            losses = [start.discriminator_loss(batch, fixed, pair) for pair in start.pairs]
            sum(losses).backward()
            adversary.step()
        generator.zero_grad()
        start.loss(
            batch,
            z,
            start.generative(batch, z),
            weights,
            n_neighbors=plan.get("n_neighbors", 15),
            anchor_factors=factors,
        ).loss.backward()
        if not plan:
            nn.utils.clip_grad_norm_([p for _, p in rest], 5.0)
        generator.step()
    for (name, one), two in zip(model.module.named_parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(one.cpu(), two, msg=lambda m, name=name: f"{name}: {m}")


class Rates(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer, *_) -> None:
        rates = {g["lr"] for o in trainer.optimizers for g in o.param_groups}
        assert len(rates) == 1
        self.rates += rates


@pytest.mark.parametrize(
    ("n_latent", "plan", "taken"),
    [(3, {}, True), (40, {}, False), (40, {"lambda_linked": 1.0}, True)],
)
def test_a_few_links_are_not_read_off(n_latent: int, plan: dict, taken: bool) -> None:
    """Fewer linked columns than latents: unless the weight is given."""
    model = small(n_latent=n_latent)
    assert model.adata["rna"].obsm["X_linked_adt"].shape[1] in range(3, 40)
    model.train(max_steps=1, plan_kwargs=plan, **QUIET)
    assert ("linked_rna_adt_train" in model.history) == taken


@pytest.mark.parametrize(("schedule", "n"), [("constant", 3), ("cosine", 102)])
def test_learning_rate_and_number_of_steps(schedule: str, n: int) -> None:
    """The last epoch of the history may be shorter than 100 steps."""
    model, callback = small(), Rates()
    plan = {"lr": 2e-3, "lr_schedule": schedule}
    model.train(max_steps=n, plan_kwargs=plan, callbacks=[callback], **QUIET | {"batch_size": 4})
    assert len(callback.rates) == n
    assert len(model.history["objective_train"]) == -(-n // 100)
    share = (1 + np.cos(np.pi * np.arange(n) / n)) / 2
    np.testing.assert_allclose(callback.rates, 2e-3 * (share if schedule == "cosine" else 1.0))


OPTIONS = {
    "no rotation": ({"n_components": None}, {}),
    "rotation": ({"n_components": 5}, {}),
    "weights of the reference": ({"weight_init": "normal"}, {}),
    "deep discriminator": ({"n_layers_discriminator": 3}, {}),
    "no adversary": ({}, {"lambda_gan": 0.0}),
    "no anchors": ({}, {"lambda_anchor": 0.0}),
    "no limit, cosine": ({}, {"gradient_clip": None, "lr_schedule": "cosine"}),
    "one discriminator step": ({}, {"n_discriminator_steps": 1, "weight_decay": 0.0}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_train(case: str, accelerator: str) -> None:
    options, plan = OPTIONS[case]
    mdata = linked_mosaic()
    mdata.obs["age"] = np.arange(60) / 10
    covariates = {
        "batch_key": "batch",
        "categorical_covariate_keys": ["group"],
        "continuous_covariate_keys": ["age"],
    }
    model = small(mdata, covariates, **options)
    model.train(max_steps=2, plan_kwargs=plan, **QUIET | {"accelerator": accelerator})
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.impute("adt").X).all()
    assert ("discriminator_rna_adt_train" in model.history) == ("lambda_gan" not in plan)


def test_defaults() -> None:
    """The table of docs/models/scmodal_defaults, typed again."""
    model = small(**dict.fromkeys(SMALL, None) | DEFAULT_MODEL)
    defaults = {k: model._init_arguments[k] for k in DEFAULT_MODEL}
    assert defaults == DEFAULT_MODEL
    parameters = inspect.signature(SCMODAL.__init__).parameters
    assert {k: parameters[k].default for k in DEFAULT_MODEL} == DEFAULT_MODEL
    assert LossWeights() == LossWeights(1.0, 10.0, 10.0, 5.0, 5.0, 10.0, 0.0)
    module = inspect.signature(SCMODALModule.__init__).parameters
    assert {k: module[k].default for k in DEFAULT_MODEL} == DEFAULT_MODEL
    plan = inspect.signature(SCMODALTrainingPlan.__init__).parameters
    assert {k: plan[k].default for k in DEFAULT_PLAN} == DEFAULT_PLAN
    train = inspect.signature(SCMODAL.train).parameters
    assert {k: train[k].default for k in DEFAULT_TRAIN} == DEFAULT_TRAIN


DEFAULT_MODEL = {
    "n_latent": 20,
    "n_components": 100,
    "n_hidden": 512,
    "n_hidden_discriminator": 128,
    "n_layers_discriminator": 2,
}
DEFAULT_PLAN = {
    "lr": 1e-3,
    "lr_schedule": "constant",
    "weight_decay": 1e-3,
    "n_discriminator_steps": 2,
    "n_neighbors": 15,
    "gradient_clip": 5.0,
}
DEFAULT_TRAIN = {
    "max_steps": None,
    "batch_size": 500,
    "use_paired": False,
    "n_refinements": 4,
    "balance": True,
}


def test_published_settings() -> None:
    """What the paper and its reference state, word for word."""
    preset = SCMODAL.presets["published"]
    mdata = cantata.datasets.simulate_mosaic(60, n_features={"rna": 40, "adt": 12}, pairing="none")
    cantata.pp.link_features(mdata, "rna", "adt", **preset["links"])
    model = small(mdata, **preset["model"])
    model.train(**preset["train"] | {"max_steps": 2} | QUIET)
    net = model.module
    assert net.n_latent == 20
    assert [net.encoders["rna"].hidden[0].out_features, len(net.encoders["rna"].hidden)] == [
        512,
        1,
    ]
    shapes = [layer.out_features for layer in net.discriminators["rna_adt"].hidden]
    assert shapes == [512, 512]
    assert not net.input("rna").is_rotated
    assert preset["train"]["max_steps"] == 10_000
    assert preset["train"]["batch_size"] == 500
    assert preset["train"]["balance"] is False
    plan = SCMODALTrainingPlan(net, **preset["train"]["plan_kwargs"])
    assert plan.weights == LossWeights(1.0, 10.0, 10.0, 1.0, 0.0, 10.0, 0.0)
    assert {net.input(m).transform for m in ("rna", "adt")} == {"log1p"}
    links = preset["links"]
    assert links == {"transforms": "log1p", "smooth": False, "center": False, "shared": False}
    assert (plan.lr, plan.weight_decay, plan.n_neighbors) == (1e-3, 1e-3, 30)
    assert (plan.n_discriminator_steps, plan.gradient_clip) == (5, 5.0)
    assert np.isfinite(model.get_latent_representation()).all()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("n_components", [100, None])
def test_steps_on_a_gpu(monkeypatch, precision: str, n_components: int | None) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr("cantata.model._inputs.MAX_CACHED", 8)
    model = small(setup={"batch_key": "batch"}, n_components=n_components)
    for _ in range(2):
        model.train(max_steps=3, **QUIET | {"accelerator": "gpu"}, precision=precision)
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.impute("adt", source="rna", n_anchors=2).X).all()


@pytest.mark.parametrize("case", [{}, {"lambda_gan": 0.0, "lambda_paired": 1.0}])
def test_bf16_on_the_processor(case: dict) -> None:
    model = small(setup={"batch_key": "batch"})
    model.train(
        max_steps=3,
        use_paired="lambda_paired" in case,
        plan_kwargs=case,
        precision="bf16-mixed",
        **QUIET,
    )
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.history["objective_train"].to_numpy(dtype=float)).all()


def test_bf16_is_close_to_single_precision() -> None:
    values = []
    for precision in ("32-true", "bf16-mixed"):
        scvi.settings.seed = 2
        model = small()
        model.train(max_steps=5, precision=precision, **QUIET)
        values.append(float(model.history["objective_train"].iloc[0, 0]))
    assert values[0] != values[1]
    assert values[1] == pytest.approx(values[0], rel=0.02)


def test_nan_ends_training_with_advice() -> None:
    model = small()
    with torch.no_grad():
        model.module.encoders["rna"].output.bias.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=r"became NaN.*learning rate"):
        model.train(max_steps=2, **QUIET)


# Known answers ----------------------------------------------------------------------------------


def simulated(**arguments):
    """Cells that have both modalities, which the model is not told."""
    return cantata.datasets.simulate_mosaic(
        800, n_features={"rna": 300, "adt": 60}, pairing="full", **arguments
    )


def train_long(mdata, **setup) -> dict[str, np.ndarray]:
    """Embedding of each modality in the order of the whole data."""
    scvi.settings.seed = 0
    SCMODAL.setup_mudata(mdata, **setup)
    model = SCMODAL(mdata)
    model.train(max_steps=200, batch_size=200, enable_progress_bar=False, accelerator="cpu")
    return {
        m: model.get_latent_representation(modality=m)[
            mdata[m].obs_names.get_indexer(mdata.obs_names)
        ]
        for m in mdata.mod
    }


@pytest.mark.slow
def test_known_answer_without_known_pairs() -> None:
    """Linked features alone bring the two halves of cells together."""
    mdata = simulated(n_batches=1)
    cantata.pp.link_features(mdata, "rna", "adt")
    z = train_long(mdata)
    types = mdata.obs["cell_type"].to_numpy().astype(str)
    order = np.random.default_rng(0).permutation(mdata.n_obs)
    assert foscttm(z["rna"], z["adt"]) < 0.22
    assert foscttm(z["rna"], z["adt"][order]) > 0.45
    for one, two in (("rna", "adt"), ("adt", "rna")):
        assert label_transfer_accuracy(z[one], types, z[two], types) > 0.75
        assert label_transfer_accuracy(z[one], types, z[two], types[order]) < 0.3


@pytest.mark.slow
def test_a_batch_effect_is_removed_by_the_batch_covariate() -> None:
    """The genes of one batch are shifted; how well cells of RNA tell their batch."""
    mdata = simulated(n_batches=2, batch_effect=0.1)
    rna = mdata["rna"]
    second = (rna.obs["batch"] == "batch 2").to_numpy()
    shift = np.exp(np.random.default_rng(0).normal(0, 0.7, rna.n_vars))
    x = rna.X.toarray()
    x[second] = np.random.default_rng(1).poisson(x[second] * shift)
    x[:, 0] += 1
    rna.X = x.astype(np.float32)
    cantata.pp.link_features(mdata, "rna", "adt")
    batch = mdata.obs["batch"].to_numpy().astype(str)
    known = np.arange(mdata.n_obs) % 2 == 0
    told, width = {}, {}
    for key in (None, "batch"):
        z = train_long(mdata, batch_key=key)["rna"]
        told[key] = label_transfer_accuracy(z[known], batch[known], z[~known], batch[~known])
        width[key] = silhouette(z, batch)
    assert told[None] > 0.72  # chance is a half
    assert told["batch"] < 0.68
    assert width["batch"] < 0.5 * width[None]
