"""Training beside a plain loop of the paper, and its settings beside typed tables."""

from __future__ import annotations

import copy
import inspect
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from mosaics import counts_mosaic
from torch.nn.functional import cross_entropy, one_hot

from cantata import CLUE, pp
from cantata.metrics import foscttm
from cantata.model._plan import BestWeights, rmsprop
from cantata.model.clue import CLUEModule, CLUETrainingPlan, LossWeights
from cantata.model.clue._plan import DEFAULT_SHARE
from cantata.nn import Covariates

SMALL = {"n_latent": 4, "n_hidden_encoder": 16, "n_hidden_decoder": 8, "n_hidden_discriminator": 8}
QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu", "batch_size": 16}


class Minibatches(Callback):
    """Keeps what every step sees, and seeds it by its number."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        torch.manual_seed(100 + len(self.seen))
        self.seen.append({key: value.clone() for key, value in batch.items()})


def plain_loop(net, batches: list[dict], weights: LossWeights, options: dict[str, Any]) -> None:
    """Alternating steps of Tu et al. 2022, eq. 15, on three epochs of three minibatches.

    Where encoders start from canonical variates, what they add counts by a share that is drawn for
    each cell, and in the last epoch decoders alone learn, from encoders as they are in evaluation
    and as they are there themselves, dispersions faster, and more from the other modality.
    """
    # rounded alike: Adam makes much of the gradient of a bias before batch normalisation, a 0
    adam = partial(torch.optim.Adam, fused=True)
    make = {"rmsprop": rmsprop, "adam": adam}[options["optimizer"]]
    theirs = list(net.discriminator.parameters())
    named = [part for part in net.named_parameters() if not part[0].startswith("discriminator")]
    # dispersions last: the order decides how the norm of a gradient is rounded
    ours = [p for _, p in sorted(named, key=lambda part: part[0].endswith("log_theta"))]
    adversary, generator = make(theirs, lr=2e-3), make(ours, lr=2e-3)
    net.train()
    for step, batch in enumerate(batches):
        torch.manual_seed(100 + step)
        # noise falls from 1 to 0 over the first 60 % of three epochs
        noise = [1.0, 1 - 1 / 1.8, 0.0][step // 3] if options["noise"] else 0.0
        done = step / 9
        if options["canonical"]:
            done = step / 6 if step < 6 else (step - 6) / 3
        rate = 2e-3 * (0.5 * (1 + np.cos(np.pi * done)) if options["cosine"] else 1.0)
        for group in adversary.param_groups + generator.param_groups:
            group["lr"] = rate
        if options["canonical"] and step >= 6:
            net.eval()
            with torch.no_grad():
                inferred = net.inference(batch, sample=False)
            of_others = replace(weights, lambda_real_cross=4 * weights.lambda_real_cross)
            once = of_others if options["once"] else None
            nll = net.generative(batch, inferred, real_cross=True, once=once)
            terms = [weights.lambda_self * sum(value.mean() for value in nll["self"].values())]
            terms += [weights.lambda_cross * value.mean() for value in nll["cross"].values()]
            terms += [
                4 * weights.lambda_real_cross * value.mean()
                for value in nll["real_cross"].values()
                if len(value)
            ]
            dispersions = [head.log_theta for head in net.heads.values()]
            before = [p.detach().clone() for p in dispersions]
            generator.zero_grad()
            sum(terms).backward()
            generator.step()
            with torch.no_grad():
                for p, start in zip(dispersions, before, strict=True):
                    p.copy_(start + 10 * (p - start))
            continue
        share = None
        if options["canonical"]:
            drawn, coin = torch.rand(2, len(batch["cell"]), 1)
            counts = [1.0 if c < 0.5 else float(a) for a, c in zip(drawn, coin, strict=True)]
            share = torch.tensor(counts).unsqueeze(1)
        inferred = net.inference(batch, share=share)
        # 1. the discriminator minimises its cross-entropy on what does not move
        if weights.lambda_d:
            terms = []
            for k, name in enumerate(net.modalities):
                seen = inferred.loc[name].detach()
                if options["sample"]:
                    seen = inferred.samples[name].detach()
                elif noise:
                    seen = seen + noise * torch.randn_like(seen)
                if net.discriminator_batch:
                    batch_codes = batch["batch"][batch[f"{name}_rows"]]
                    seen = torch.cat([seen, one_hot(batch_codes, net.n_batch).float()], dim=1)
                terms.append((seen, k))
            # one pass over both, whose dropout is drawn at once
            logits = net.discriminator(torch.cat([seen for seen, _ in terms]))
            parts = logits.split([len(seen) for seen, _ in terms])
            losses = [
                cross_entropy(part, torch.full((len(part),), k))
                for part, (_, k) in zip(parts, terms, strict=True)
                if len(part)
            ]
            adversary.zero_grad()
            torch.stack(losses).mean().backward()
            adversary.step()
        # 2. encoders and decoders minimise theirs, minus it
        real_cross = weights.lambda_real_cross > 0
        once = weights if options["once"] else None
        nll = net.generative(batch, inferred, weights.lambda_cross > 0, real_cross, once)
        loss = net.loss(batch, inferred, nll, weights, noise).loss
        generator.zero_grad()
        loss.backward()
        if options["clip"]:
            torch.nn.utils.clip_grad_norm_(ours, options["clip"])
        generator.step()


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        ({}, {}),
        ({"discriminator_batch": True}, {"noise_epochs": 0.0, "lr_schedule": "constant"}),
        ({"discriminator_input": "sample"}, {"optimizer": "adam", "gradient_clip": 0.5}),
        ({"fusion": "poe", "alignment": "mse"}, {"lambda_d": 0.0, "lambda_cross": 0.0}),
        ({"start": "canonical"}, {}),
        ({"start": "canonical"}, {"lambda_residual": 0.5}),
        ({"start": "canonical"}, {"decode_once": True}),
        ({}, {"decode_once": True}),
    ],
)
def test_training_is_the_loop_of_the_paper(model: dict, plan: dict) -> None:
    mdata = counts_mosaic(n_cells=48)
    CLUE.setup_mudata(mdata, batch_key="batch")
    clue = CLUE(mdata, **SMALL | {"start": "random"} | model)
    canonical = clue.module.start == "canonical"
    start = copy.deepcopy(clue.module)
    callback = Minibatches()
    given = {"noise_epochs": 0.6, "decoder_epochs": 0.34 if canonical else 0.0} | plan
    clue.train(3, train_size=1.0, callbacks=[callback], plan_kwargs=given, **QUIET)
    assert len(callback.seen) == 9
    for name in clue.modalities:
        start.input(name).load_state_dict(clue.module.input(name).state_dict())
        encoder = clue.module.encoders[name]
        assert clue.module.has_variates == canonical
        if canonical:
            start.encoders[name].set_linear(encoder.slope, encoder.offset)
            start.share.fill_(DEFAULT_SHARE)
    given = {} if canonical else {"lambda_residual": 0.0}
    given |= {k: v for k, v in plan.items() if k.startswith("lambda")}
    weights = LossWeights(**given)
    options = {
        "optimizer": plan.get("optimizer", "rmsprop"),
        "noise": "noise_epochs" not in plan,
        "cosine": "lr_schedule" not in plan,
        "sample": "discriminator_input" in model,
        "clip": plan.get("gradient_clip"),
        "canonical": canonical,
        "once": plan.get("decode_once", False),
    }
    plain_loop(start, callback.seen, weights, options)
    trained = clue.module.state_dict()
    for name, value in start.state_dict().items():
        if isinstance(value, torch.Tensor) and not name.startswith("library_"):
            torch.testing.assert_close(trained[name], value, msg=lambda m, n=name: f"{n}: {m}")


def test_noise_is_added_and_has_its_size() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    net = clue.module
    loc = {"rna": torch.zeros(4000, 8), "adt": torch.ones(10, 8)}
    inferred = net.inference(clue.adata_manager.create_torch_dataset()[[0, 1, 2]])
    inferred.loc = loc
    noisy = net.noisy_means(inferred, 0.5)
    assert float(noisy["rna"].std()) == pytest.approx(0.5, rel=0.02)
    assert torch.equal(net.noisy_means(inferred, 0.0)["adt"], loc["adt"])


def test_every_hidden_layer_drops_units() -> None:
    """With a rate near 1 nothing but offsets is left in training, and everything in evaluation."""
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    net = CLUE(mdata, **SMALL | {"dropout_rate": 0.9}).module
    covariates = Covariates(torch.zeros(200, 1, dtype=torch.long), None)
    parts = {
        "encoder": lambda: net.encoders["rna"](torch.ones(200, net.input("rna").n_out))[0],
        "decoder": lambda: net.decoders["rna"](torch.ones(200, 4), covariates),
        "discriminator": lambda: net.discriminator(torch.ones(200, 8)),
    }
    for name, run in parts.items():
        net.eval()
        assert torch.equal(run()[0], run()[1]), name
        net.train()
        assert len(torch.unique(run().round(decimals=6), dim=0)) > 1, name


# Schedule, monitor and best epoch ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_cells", "batch_size", "epochs"),
    [(3920, 128, 18), (1600, 128, 44), (3920, 32, 6), (100, 128, 60), (10**6, 128, 6)],
)
def test_planned_epochs_are_500_steps(n_cells: int, batch_size: int, epochs: int) -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    assert CLUE(mdata, **SMALL)._planned_epochs(n_cells, batch_size) == epochs


def test_history_has_the_foscttm_of_held_out_means() -> None:
    """Of cells by name, over several minibatches, and it is what training stops by."""
    mdata = counts_mosaic(n_cells=200)
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    clue.train(2, train_size=0.5, early_stopping=False, **QUIET)
    held = mdata.obs_names[clue.validation_indices]
    both = [c for c in held if all(c in adata.obs_names for adata in mdata.mod.values())]
    assert len(both) > 20
    x, y = (
        clue.get_latent_representation(modality=m, indices=mdata[m].obs_names.get_indexer(both))
        for m in mdata.mod
    )
    logged = float(clue.history["foscttm_validation"].iloc[-1, 0])
    assert logged == pytest.approx(foscttm(x, y), abs=1e-6)


@pytest.mark.parametrize(("n_paired", "scored"), [(8, False), (25, True)])
def test_one_held_out_pair_has_no_foscttm(n_paired: int, scored: bool) -> None:
    member = np.ones((90, 2), dtype=bool)
    member[n_paired:60, 0] = False
    member[60:, 1] = False
    mdata = counts_mosaic(member=member, n_cells=90)
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    clue.train(1, train_size=0.9, **QUIET)
    assert ("foscttm_validation" in clue.history) == scored


def test_held_out_cells_are_judged_at_posterior_means_without_noise() -> None:
    """All terms of the history are those of two minibatches, by their numbers of cells."""
    mdata = counts_mosaic(n_cells=50)
    CLUE.setup_mudata(mdata, batch_key="batch")
    clue = CLUE(mdata, **SMALL)
    clue.train(1, train_size=0.5, early_stopping=False, plan_kwargs={"lambda_d": 1.5}, **QUIET)
    net, held = clue.module.eval(), np.asarray(clue.validation_indices)
    assert 16 < len(held) < 32
    totals: dict[str, float] = {}
    with torch.no_grad():
        for cells in (held[:16], held[16:]):
            batch = clue.adata_manager.create_torch_dataset()[cells]
            inferred = net.inference(batch, sample=False)
            nll = net.generative(batch, inferred, real_cross=True)
            out = net.loss(batch, inferred, nll, LossWeights(lambda_residual=0.0))
            for name, value in out.extra_metrics.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(cells) / len(held)
    logged = {
        name.removesuffix("_validation"): float(column.iloc[-1, 0])
        for name, column in clue.history.items()
        if name.endswith("_validation") and name != "foscttm_validation"
    }
    assert logged == pytest.approx(totals, rel=1e-4)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_what_training_stops_by(early_stopping: bool) -> None:
    mdata = counts_mosaic(n_cells=100)
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    clue.train(1, early_stopping=early_stopping, **QUIET)
    monitors = [c.monitor for c in clue.trainer.callbacks if isinstance(c, BestWeights)]
    assert monitors == (["objective_validation"] if early_stopping else [])


class States(Callback):
    """Keeps the weights of every epoch."""

    def __init__(self) -> None:
        self.kept: list[dict[str, torch.Tensor]] = []

    def on_validation_end(self, trainer, module) -> None:
        self.kept.append({k: v.clone() for k, v in module.module.state_dict().items()})


def test_an_epoch_that_is_not_the_last_is_restored() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    states = States()
    clue.train(
        5,
        train_size=0.5,
        early_stopping=True,
        early_stopping_monitor="kl_rna_validation",
        callbacks=[states],
        plan_kwargs={"lambda_kl": 0.0, "lr": 1e-2, "lr_schedule": "constant"},
        **QUIET,
    )
    best = int(clue.history["kl_rna_validation"].to_numpy(dtype=float).argmin())
    assert best < len(states.kept) - 1
    end = clue.module.state_dict()
    weights = [n for n, _ in clue.module.named_parameters() if n.startswith("encoders.rna")]
    assert all(torch.equal(end[n], states.kept[best][n]) for n in weights)
    assert not all(torch.equal(end[n], states.kept[-1][n]) for n in weights)


def test_of_epochs_that_are_alike_the_first_is_kept() -> None:
    network, callback = torch.nn.Linear(1, 1), BestWeights("score")
    for epoch, score in enumerate([3.0, 2.0, 2.0, 4.0]):
        torch.nn.init.constant_(network.weight, float(epoch))
        trainer = SimpleNamespace(
            callback_metrics={"score": torch.tensor(score)},
            current_epoch=epoch,
            max_epochs=4,
            progress_bar_callback=None,
            early_stopping_callbacks=[],
        )
        callback.on_validation_end(trainer, network)
    callback.on_fit_end(trainer, network)
    assert (callback.best_epoch, callback.best_score) == (1, 2.0)
    assert float(network.weight) == 1


@pytest.mark.parametrize(
    ("plan", "n_values", "rows"),
    [
        ({}, 2**21, {"rna": 12, "adt": 12}),
        ({}, 8 * 300, {"rna": 4, "adt": 12}),
        ({"decode_once": False}, 1, {"rna": 12, "adt": 12}),
        ({"decode_once": True}, 2**21, {"rna": 4, "adt": 4}),
        ({"decode_once": True, "lambda_self": 0.0}, 1, {"rna": 12, "adt": 12}),
    ],
)
def test_cells_are_decoded_once_where_it_pays(
    plan: dict, n_values: int, rows: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four paired cells, 300 genes and 20 proteins: two decodings less save 8 x 300 values."""
    monkeypatch.setattr("cantata.model.clue._plan.MIN_SAVED", n_values)
    torch.manual_seed(0)
    likelihoods = {"rna": "nb", "adt": "nb"}
    net = CLUEModule({"rna": 300, "adt": 20}, {}, likelihoods, **SMALL | {"n_components": None})
    batch = {"cell": torch.arange(4), "batch": torch.zeros(4, dtype=torch.long)}
    for name, p in net.n_features.items():
        batch |= {name: torch.ones(4, p), f"{name}_rows": torch.arange(4)}
    decoded = dict.fromkeys(rows, 0)
    for name, head in net.heads.items():
        plain = head.log_prob_of_hidden

        def counted(hidden, *given, name=name, plain=plain):
            decoded[name] += len(hidden)
            return plain(hidden, *given)

        monkeypatch.setattr(head, "log_prob_of_hidden", counted)
    step = CLUETrainingPlan(net, **plan)
    monkeypatch.setattr(step, "_step", lambda *_: None)
    monkeypatch.setattr(step, "_optimizers", lambda: [None])
    step._generator_step(batch, net.inference(batch), step.weights, 0.0)
    assert decoded == rows
    step._decoded(batch, net.inference(batch))  # held-out cells, from each
    assert decoded == {name: n + 12 for name, n in rows.items()}


def test_what_has_no_weight_is_not_decoded() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    for weights, terms in (
        ({}, {"cross", "real_cross"}),
        ({"lambda_cross": 0.0}, {"real_cross"}),
        ({"lambda_real_cross": 0.0}, {"cross"}),
    ):
        clue = CLUE(mdata, **SMALL)
        clue.train(1, train_size=0.5, plan_kwargs=weights, **QUIET)
        for part in ("train", "validation"):
            found = {t for t in ("cross", "real_cross") if f"{t}_{part}" in clue.history}
            assert found == terms


# Bad values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({"optimizer": "sgd"}, ValueError, r"optimizer='sgd' is not one of \['rmsprop', 'adam'"),
        ({"lr_schedule": "plateau"}, ValueError, "lr_schedule='plateau' is neither"),
        ({"lambda_mse": -1.0}, ValueError, r"lambda_mse=-1.0 must be at least 0"),
        ({"lambda_d": np.nan}, ValueError, "lambda_d=nan must be"),
        ({"lambda_d": np.inf}, ValueError, "lambda_d=inf must be .* finite"),
        ({"temperature": 0.0}, ValueError, "temperature=0.0 is not positive"),
        ({"decoder_epochs": 1.0}, ValueError, r"decoder_epochs=1.0 is not in \[0, 1\)"),
    ],
)
def test_bad_plans_are_refused(plan: dict, error: type[Exception], message: str) -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    with pytest.raises(error, match=message):
        clue.train(1, plan_kwargs=plan, **QUIET)
    assert not clue.is_trained


# Tables -----------------------------------------------------------------------------------------

WEIGHTS = {
    "lambda_self": 1.0,
    "lambda_kl": 1.0,
    "lambda_cross": 2.0,
    "lambda_real_cross": 1.0,
    "lambda_mse": 1.0,
    "lambda_d": 2.0,
    "lambda_contrastive": 1.0,
    "lambda_residual": 0.003,
    "lambda_label": 0.02,
}
MODEL = {
    "n_latent": 20,
    "likelihoods": "nb",
    "n_components": 50,
    "n_hidden_encoder": 256,
    "n_layers_encoder": 2,
    "n_hidden_decoder": 128,
    "n_layers_decoder": 1,
    "n_hidden_discriminator": 128,
    "n_layers_discriminator": 2,
    "dropout_rate": 0.2,
    "fusion": "mean",
    "alignment": "cosine",
    "normalize_latent": True,
    "shared_first_layer": False,
    "start": "canonical",
}
PLAN = {
    "lr": 2e-3,
    "optimizer": "rmsprop",
    "lr_schedule": "cosine",
    "noise_epochs": 0.3,
    "decoder_epochs": 0.25,
    "temperature": 0.1,
    "weight_decay": 0.0,
    "gradient_clip": None,
    "decode_once": None,
}
# settings of the competition entry, CITE-seq and multiome
PUBLISHED = {
    ("seed",): (5, 2),
    ("preprocess", "n_top_genes"): (5000, 10_000),
    ("preprocess", "n_components"): (100, 100),
    ("n_top_peaks",): (None, 30_000),
    ("model", "likelihoods"): ("nb", "nb"),
    ("model", "n_components"): (100, 100),
    ("model", "n_latent"): (20, 50),
    ("model", "n_layers_encoder"): (2, 2),
    ("model", "n_hidden_encoder"): (512, 512),
    ("model", "n_layers_decoder"): (1, 1),
    ("model", "n_hidden_decoder"): (128, 256),
    ("model", "n_layers_discriminator"): (2, 1),
    ("model", "n_hidden_discriminator"): (128, 256),
    ("model", "dropout_rate"): (0.2, 0.2),
    ("model", "fusion"): ("mean", "mean"),
    ("model", "alignment"): ("cosine", "cosine"),
    ("model", "normalize_latent"): (True, True),
    ("model", "library"): ("learned", "learned"),
    ("model", "discriminator_batch"): (True, True),
    ("model", "start"): ("random", "random"),
    ("train", "plan_kwargs", "lr"): (2e-3, 2e-3),
    ("train", "plan_kwargs", "optimizer"): ("rmsprop", "rmsprop"),
    ("train", "plan_kwargs", "lr_schedule"): ("constant", "constant"),
    ("train", "plan_kwargs", "noise_epochs"): (1 / 6, 1 / 6),
    ("train", "plan_kwargs", "decoder_epochs"): (0.0, 0.0),
    ("train", "plan_kwargs", "decode_once"): (False, False),
    ("train", "plan_kwargs", "lambda_self"): (1.0, 1.0),
    ("train", "plan_kwargs", "lambda_kl"): (1.0, 0.3),
    ("train", "plan_kwargs", "lambda_d"): (2.0, 0.02),
    ("train", "plan_kwargs", "lambda_cross"): (2.0, 1.0),
    ("train", "plan_kwargs", "lambda_real_cross"): (0.0, 0.0),
    ("train", "plan_kwargs", "lambda_mse"): (1.0, 0.02),
    ("train", "plan_kwargs", "lambda_contrastive"): (0.0, 0.0),
    ("finetune", "max_epochs"): (50, 50),
    ("finetune", "plan_kwargs", "lr"): (1e-3, 1e-3),
    ("finetune", "plan_kwargs", "noise_epochs"): (0.0, 0.0),
    ("finetune", "plan_kwargs", "optimizer"): ("rmsprop", "rmsprop"),
    ("finetune", "plan_kwargs", "lr_schedule"): ("constant", "constant"),
    ("finetune", "plan_kwargs", "decoder_epochs"): (0.0, 0.0),
    ("finetune", "plan_kwargs", "decode_once"): (False, False),
    ("finetune", "plan_kwargs", "lambda_self"): (1.0, 1.0),
    ("finetune", "plan_kwargs", "lambda_kl"): (1.0, 0.3),
    ("finetune", "plan_kwargs", "lambda_d"): (2.0, 0.02),
    ("finetune", "plan_kwargs", "lambda_cross"): (2.0, 1.0),
    ("finetune", "plan_kwargs", "lambda_real_cross"): (0.0, 0.0),
    ("finetune", "plan_kwargs", "lambda_mse"): (1.0, 0.02),
    ("finetune", "plan_kwargs", "lambda_contrastive"): (0.0, 0.0),
}


def defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_defaults_are_those_of_the_docs() -> None:
    assert asdict(LossWeights()) == WEIGHTS
    assert defaults(CLUE.__init__) == MODEL
    assert defaults(CLUETrainingPlan.__init__) == PLAN
    module = defaults(CLUE._module_cls.__init__)
    assert {
        k: v for k, v in MODEL.items() if k not in ("likelihoods", "start")
    }.items() <= module.items()
    assert (module["library"], module["discriminator_batch"]) == ("observed", False)
    assert module["discriminator_input"] == "mean"
    train = defaults(CLUE.train)
    assert (train["batch_size"], train["early_stopping"], train["train_size"]) == (
        128,
        False,
        None,
    )


def flat(nested: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    out: dict[tuple[str, ...], Any] = {}
    for key, value in nested.items():
        out |= flat(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return out


@pytest.mark.parametrize(("column", "name"), [(0, "cite"), (1, "multiome")])
def test_presets_are_what_was_published(column: int, name: str) -> None:
    typed = {k: v[column] for k, v in PUBLISHED.items() if v[column] is not None}
    assert flat(CLUE.presets[name]) == typed


def test_presets_fit_the_functions_that_take_them() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata, batch_key="batch")
    for preset in CLUE.presets.values():
        scvi.settings.seed = preset["seed"]
        inspect.signature(pp.preprocess).bind(mdata, **preset["preprocess"])
        clue = CLUE(mdata, **preset["model"])
        clue.train(1, enable_progress_bar=False, accelerator="cpu", **preset["train"])
        query = counts_mosaic(seed=3, n_cells=40)
        for adata in query.mod.values():
            adata.obs_names = "q" + adata.obs_names
        query.update()
        short = preset["finetune"] | {"max_epochs": 1}
        tuned = clue.finetune(query, enable_progress_bar=False, accelerator="cpu", **short)
        assert tuned.adata.n_obs == 100


def test_the_objective_is_one_in_both_phases():
    mdata = counts_mosaic(n_cells=120)
    scvi.settings.seed = 0
    CLUE.setup_mudata(mdata, batch_key="batch")
    model = CLUE(mdata, n_latent=4, n_components=5)
    options = {"enable_progress_bar": False, "accelerator": "cpu", "batch_size": 32}
    model.train(max_epochs=8, plan_kwargs={"decoder_epochs": 0.5}, **options)
    train, held_out = (
        model.history[f"objective_{part}"].to_numpy() for part in ("train", "validation")
    )
    # decoding from another modality alone weighs more in the second half, which no curve shows
    assert (train[4:] < train[3] + np.ptp(held_out) + 1).all()
    real = model.history["real_cross_train"].to_numpy()
    assert real.min() > 1  # so that three times more would show


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rmsprop_in_one_pass_is_that_of_torch(weight_decay: float) -> None:
    torch.manual_seed(0)
    shapes = [(5, 3), (4,)]
    starts = [torch.randn(shape, dtype=torch.double) for shape in shapes]
    both = []
    for make in (torch.optim.RMSprop, rmsprop):
        weights = [start.clone().requires_grad_() for start in starts]
        optimizer = make(weights, lr=0.01, weight_decay=weight_decay)
        random = torch.Generator().manual_seed(1)
        for step in range(30):
            for k, weight in enumerate(weights):
                gradient = torch.randn(weight.shape, dtype=weight.dtype, generator=random)
                weight.grad = None if k and step % 3 else gradient  # not every step has all
            optimizer.step()
        both.append(weights)
    for expected, found in zip(*both, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
