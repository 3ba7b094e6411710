"""The objective beside the paper's equations, and every option of the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mosaics import counts_mosaic
from scipy import sparse
from scvi.distributions import NegativeBinomial

import cantata
from cantata import CLUE
from cantata.model.clue import CLUEModule, LossWeights
from cantata.model.clue._plan import CLUETrainingPlan
from cantata.nn import LIKELIHOODS, Covariates

SMALL = {"n_latent": 4, "n_hidden_encoder": 16, "n_hidden_decoder": 8, "n_hidden_discriminator": 8}
FEATURES = {"rna": 6, "adt": 4}


def minibatch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Six cells: two with RNA only, one with protein only, three with both."""
    torch.manual_seed(seed)
    rows = {"rna": [0, 1, 3, 4, 5], "adt": [2, 3, 4, 5]}
    tensors = {"cell": torch.arange(6), "batch": torch.tensor([0, 1, 0, 1, 0, 1])}
    for name, r in rows.items():
        tensors[f"{name}_rows"] = torch.tensor(r)
        tensors[name] = torch.poisson(torch.rand(len(r), FEATURES[name]) * 4) + 1
    return tensors


def module(**options) -> CLUEModule:
    torch.manual_seed(0)
    return CLUEModule(
        FEATURES,
        {},
        {"rna": "nb", "adt": "nb"},
        n_batch=2,
        dropout_rate=0.0,
        **(SMALL | {"n_components": None} | options),
    ).eval()


def loop_nll(net: CLUEModule, name: str, z, counts, batch, library) -> float:
    """Negative log-likelihood of one cell and feature, by scvi-tools' distribution."""
    location = net.decode(name, z[None], Covariates(torch.tensor([[batch]]), None))
    mu = torch.softmax(location, 1) * library
    theta = net.heads[name].log_theta[batch].exp()
    return float(
        -NegativeBinomial(mu=mu, theta=theta, validate_args=False).log_prob(counts).mean().detach()
    )


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm()


@pytest.mark.parametrize("fusion", ["mean", "poe"])
@pytest.mark.parametrize(("alignment", "residual"), [("cosine", 0.0), ("mse", 0.6)])
def test_objective_is_the_sum_over_cells_and_modalities(
    fusion: str, alignment: str, residual: float
) -> None:
    net = module(fusion=fusion, alignment=alignment)
    tensors = minibatch()
    weights = LossWeights(
        lambda_self=1.1,
        lambda_kl=0.7,
        lambda_cross=1.3,
        lambda_mse=0.9,
        lambda_d=0.4,
        lambda_contrastive=0.0,
        lambda_residual=residual,
    )
    with torch.no_grad():
        inferred = net.inference(tensors, sample=False)
        out = net.loss(tensors, inferred, net.generative(tensors, inferred), weights)
        own = {"rna": {}, "adt": {}}
        for m in own:
            for i, cell in enumerate(tensors[f"{m}_rows"].tolist()):
                own[m][cell] = (inferred.loc[m][i], inferred.scale[m][i], tensors[m][i])
        nll, cross, kl, close, logits = ({m: [] for m in own} for _ in range(5))
        fused_kl = {m: [] for m in own}
        cell_close = []
        for cell in range(6):
            has = [m for m in own if cell in own[m]]
            if fusion == "poe":
                precision = sum(own[m][cell][1] ** -2 for m in has)
                mean = sum(own[m][cell][0] * own[m][cell][1] ** -2 for m in has) / precision
                std = precision**-0.5
                fused = unit(mean)
                for k, m in enumerate(own):
                    part = slice(4 * k, 4 * k + 4)
                    terms = 0.5 * (mean[part] ** 2 + std[part] ** 2 - 1 - 2 * std[part].log())
                    fused_kl[m].append(float(terms.sum()) / FEATURES[m])
            else:
                fused = unit(sum(unit(own[m][cell][0]) for m in has) / len(has))
            average = sum(unit(own[m][cell][0]) for m in has) / len(has)
            distances = []
            for k, m in enumerate(own):
                if m not in has:
                    continue
                loc, scale, counts = own[m][cell]
                z, total = unit(loc), counts.sum()
                batch = int(tensors["batch"][cell])
                nll[m].append(loop_nll(net, m, z, counts, batch, total))
                source = fused if len(has) > 1 else z
                cross[m].append(loop_nll(net, m, source, counts, batch, total))
                part = slice(4 * k, 4 * k + 4) if fusion == "poe" else slice(None)
                terms = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log())[part]
                kl[m].append(float(terms.sum()) / FEATURES[m])
                close[m].append(float(1 - z @ unit(average)))
                distances.append(float(((z - average) ** 2).sum()))
                score = net.discriminator(loc[None])[0]
                logits[m].append(float(score.logsumexp(0) - score[k]))
            cell_close.append(np.mean(distances))
    mean_of = {
        key: sum(np.mean(v) for v in value.values())
        for key, value in {"nll": nll, "cross": cross, "kl": kl, "close": close}.items()
    }
    closeness = mean_of["close"] if alignment == "cosine" else np.mean(cell_close)
    of_fused = sum(np.mean(v) for v in fused_kl.values()) if fusion == "poe" else 0.0
    expected = (
        1.1 * (mean_of["nll"] + 0.7 * mean_of["kl"])
        + 1.3 * (mean_of["cross"] + 0.7 * of_fused)
        + 0.9 * closeness
        - 0.4 * np.mean([np.mean(v) for v in logits.values()])
    )
    # without a linear map networks add all there is to means
    for name, loc in inferred.loc.items():
        lengths = [float((row**2).sum()) for row in loc]
        assert len(lengths) == len(tensors[f"{name}_rows"])
        expected += residual * np.mean(lengths)
    assert float(out.loss) == pytest.approx(expected, abs=1e-4)


def test_real_cross_decodes_from_the_other_modality_alone() -> None:
    net, tensors = module(), minibatch()
    with torch.no_grad():
        inferred = net.inference(tensors, sample=False)
        values = net.generative(tensors, inferred, real_cross=True)["real_cross"]
    for m, source in (("rna", "adt"), ("adt", "rna")):
        rows = tensors[f"{m}_rows"].tolist()
        for got, cell in zip(values[m].tolist(), [3, 4, 5], strict=True):
            z = inferred.samples[source][tensors[f"{source}_rows"].tolist().index(cell)]
            counts = tensors[m][rows.index(cell)]
            batch = int(tensors["batch"][cell])
            assert got == pytest.approx(loop_nll(net, m, z, counts, batch, counts.sum()), abs=1e-4)


@pytest.mark.parametrize("library", ["observed", "learned"])
@pytest.mark.parametrize("likelihood", list(LIKELIHOODS))
def test_sparse_minibatches_are_as_dense_ones(likelihood: str, library: str) -> None:
    """All terms and their gradients, of components of sparse values and of dense ones."""
    features = {"rna": 60, "adt": 40}
    torch.manual_seed(0)
    net = CLUEModule(
        features,
        {},
        dict.fromkeys(features, likelihood),
        n_batch=2,
        n_categories=[2],
        dropout_rate=0.0,
        library=library,
        **SMALL | {"n_components": 5},
    )
    tensors = minibatch()
    tensors["categorical_covariates"] = torch.tensor([[0], [1], [1], [0], [-1], [0]])
    for name, p in features.items():
        layer = net.input(name)
        layer.set({"loadings": np.random.default_rng(0).normal(size=(p, 5))})
        counts = torch.poisson(torch.full((len(tensors[f"{name}_rows"]), p), 0.15))
        counts[:, 0] += 1
        tensors[name] = counts
    as_csr = tensors | {name: tensors[name].to_sparse_csr() for name in features}
    results = []
    for batch in (tensors, as_csr):
        net.zero_grad()
        inferred = net.inference(batch, sample=False)
        assert net.input("rna")(batch["rna"]).shape == (5, 5)
        out = net.loss(batch, inferred, net.generative(batch, inferred, real_cross=True))
        out.loss.backward()
        results.append([out.loss.detach(), *(p.grad for p in net.parameters())])
    for dense, own in zip(*results, strict=True):
        assert (dense is None) == (own is None)
        if dense is not None:
            torch.testing.assert_close(own, dense, rtol=1e-4, atol=1e-5)


def test_minibatches_of_sparse_matrices_stay_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training and afterwards; dense matrices stay dense."""
    mdata = counts_mosaic()
    mdata["rna"].X = sparse.csc_matrix(mdata["rna"].X)
    mdata["adt"].X = mdata["adt"].X.toarray()
    layouts = {"rna": set(), "adt": set()}
    read = CLUEModule.encoder_input

    def spy(self, tensors, modality):
        layouts[modality].add(tensors[modality].layout)
        return read(self, tensors, modality)

    monkeypatch.setattr(CLUEModule, "encoder_input", spy)
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    clue.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    clue.get_latent_representation()
    clue.impute("adt", source="rna")
    assert layouts == {"rna": {torch.sparse_csr}, "adt": {torch.strided}}


def test_steps_of_the_two_players_leave_the_other_alone() -> None:
    """The discriminator's step moves only the discriminator, the generator's only the rest."""
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    plan = CLUETrainingPlan(clue.module)
    generator, adversary = plan.configure_optimizers()
    ours = {id(p) for g in adversary.param_groups for p in g["params"]}
    theirs = {id(p) for g in generator.param_groups for p in g["params"]}
    assert ours == {id(p) for p in clue.module.discriminator.parameters()}
    assert not ours & theirs
    assert ours | theirs == {id(p) for p in clue.module.parameters()}


@pytest.mark.parametrize("present", ["none", "one"])
@pytest.mark.parametrize("options", [{}, {"fusion": "poe"}, {"alignment": "mse"}])
def test_minibatches_with_no_row_or_one_row_of_a_modality(present: str, options: dict) -> None:
    tensors = minibatch()
    keep = 0 if present == "none" else 1
    tensors["adt"], tensors["adt_rows"] = tensors["adt"][:keep], tensors["adt_rows"][:keep]
    if present == "none":
        cells = [0, 1, 3, 4, 5]
        tensors = {
            "cell": torch.arange(5),
            "batch": tensors["batch"][cells],
            "rna": tensors["rna"],
            "rna_rows": torch.arange(5),
            "adt": tensors["adt"],
            "adt_rows": tensors["adt_rows"],
        }
    net = module(**options).train()
    inferred = net.inference(tensors)
    out = net.loss(tensors, inferred, net.generative(tensors, inferred, real_cross=True))
    assert torch.isfinite(out.loss)
    out.loss.backward()
    for parameter in net.encoders["rna"].parameters():
        assert torch.isfinite(parameter.grad).all()


OPTIONS = {
    "product of experts": ({"fusion": "poe"}, {}),
    "squared distance": ({"alignment": "mse"}, {}),
    "not normalised": ({"normalize_latent": False}, {}),
    "shared first layer": ({"shared_first_layer": True}, {}),
    "learned library": ({"library": "learned"}, {}),
    "discriminator knows the batch": ({"discriminator_batch": True}, {}),
    "real cross": ({}, {"lambda_real_cross": 0.5}),
    "no adversary": ({}, {"lambda_d": 0.0}),
    "adam, clipped, constant": (
        {},
        {"optimizer": "adam", "gradient_clip": 1.0, "lr_schedule": "constant"},
    ),
    "no hidden noise": ({}, {"noise_epochs": 0.0}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_train(case: str, accelerator: str) -> None:
    options, plan = OPTIONS[case]
    mdata = counts_mosaic()
    mdata.obs["age"] = np.arange(60) / 10
    CLUE.setup_mudata(
        mdata,
        batch_key="batch",
        labels_key="group",
        categorical_covariate_keys=["group"],
        continuous_covariate_keys=["age"],
    )
    clue = CLUE(mdata, **SMALL, **options)
    clue.train(
        2, batch_size=16, plan_kwargs=plan, enable_progress_bar=False, accelerator=accelerator
    )
    assert np.isfinite(clue.get_latent_representation()).all()
    assert np.isfinite(clue.impute("adt").X).all()
    assert "label_train" in clue.history


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_two_epochs_on_a_gpu(precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata, batch_key="batch")
    clue = CLUE(mdata, **SMALL)
    clue.train(2, batch_size=16, precision=precision, accelerator="gpu", enable_progress_bar=False)
    assert np.isfinite(clue.get_latent_representation()).all()


def test_bf16_on_the_processor() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata, batch_key="batch")
    clue = CLUE(mdata, **SMALL)
    clue.train(
        2, batch_size=16, precision="bf16-mixed", accelerator="cpu", enable_progress_bar=False
    )
    assert np.isfinite(clue.get_latent_representation()).all()


def test_three_modalities_no_cell_with_all() -> None:
    member = np.ones((90, 3), dtype=bool)
    member[:45, 2] = False
    member[45:, 0] = False
    mdata = counts_mosaic({"rna": 9, "adt": 5, "atac": 14}, member, n_cells=90)
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, likelihoods={"atac": "poisson"}, **SMALL)
    clue.train(2, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    assert clue.get_latent_representation().shape == (90, 12)
    assert np.isfinite(clue.impute("atac", source="rna").X).all()


def test_one_modality_is_an_autoencoder() -> None:
    mdata = counts_mosaic({"rna": 9}, np.ones((60, 1), dtype=bool))
    with pytest.warns(UserWarning, match=r"CLUE aligns modalities; \['rna'\] is only one"):
        CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    clue.train(2, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    assert clue.get_latent_representation().shape == (60, 4)


def test_presets_are_accepted() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata, batch_key="batch")
    for preset in CLUE.presets.values():
        clue = CLUE(mdata, **preset["model"])
        clue.train(
            1, batch_size=16, enable_progress_bar=False, accelerator="cpu", **preset["train"]
        )


def test_nan_ends_training_with_advice() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    with torch.no_grad():
        clue.module.encoders["rna"].first.bias.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=r"became NaN.*learning rate"):
        clue.train(2, batch_size=16, enable_progress_bar=False, accelerator="cpu")


@pytest.mark.slow
def test_known_answer_on_a_simulated_mosaic() -> None:
    """Held-out cells find their other half, types transfer, hidden counts are predicted."""
    full = cantata.datasets.simulate_mosaic(1200, pairing="full")
    held = np.arange(full.n_obs) >= 1000
    train, test = full[~held].copy(), full[held].copy()
    CLUE.setup_mudata(train, batch_key="batch")
    clue = CLUE(train)
    clue.train(enable_progress_bar=False, accelerator="cpu")
    rows = {m: test[m].obs_names.get_indexer(test.obs_names) for m in test.mod}
    own = {m: clue.get_latent_representation(test, modality=m)[rows[m]] for m in test.mod}
    assert cantata.metrics.foscttm(own["rna"], own["adt"]) < 0.12
    types = test.obs["cell_type"].to_numpy().astype(str)
    accuracy = cantata.metrics.label_transfer_accuracy(own["rna"], types, own["adt"], types)
    assert accuracy > 0.75
    imputed = clue.impute("adt", test, source="rna").to_df()
    hidden = test["adt"].to_df().loc[imputed.index]
    r = [np.corrcoef(np.log1p(imputed[c]), np.log1p(hidden[c]))[0, 1] for c in hidden]
    shuffled = hidden.sample(frac=1, random_state=0)
    chance = [np.corrcoef(np.log1p(imputed[c]), np.log1p(shuffled[c]))[0, 1] for c in hidden]
    assert np.mean(r) > 0.3
    assert abs(np.mean(chance)) < 0.05


def test_rows_of_labels_and_of_the_batch_that_the_discriminator_sees() -> None:
    """Cell by cell; a label of -1 is unknown."""
    net, tensors = module(n_labels=3, discriminator_batch=True), minibatch()
    tensors["labels"] = torch.tensor([0, -1, 2, 1, -1, 0])
    with torch.no_grad():
        inferred = net.inference(tensors, sample=False)
        out = net.loss(tensors, inferred, net.generative(tensors, inferred))
        label_terms, adversary = [], {"rna": [], "adt": []}
        for k, m in enumerate(adversary):
            for i, cell in enumerate(tensors[f"{m}_rows"].tolist()):
                loc = inferred.loc[m][i]
                label = int(tensors["labels"][cell])
                if label >= 0:
                    score = net.classifier(loc)
                    label_terms.append(float(score.logsumexp(0) - score[label]))
                batch = [1.0, 0.0] if int(tensors["batch"][cell]) == 0 else [0.0, 1.0]
                score = net.discriminator(torch.cat([loc, torch.tensor(batch)])[None])[0]
                adversary[m].append(float(score.logsumexp(0) - score[k]))
    assert float(out.extra_metrics["label"]) == pytest.approx(np.mean(label_terms), abs=1e-5)
    expected = np.mean([np.mean(terms) for terms in adversary.values()])
    assert float(out.extra_metrics["discriminator"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seen", ["mean", "sample"])
def test_what_the_discriminator_sees(seen: str) -> None:
    net, tensors = module(discriminator_input=seen), minibatch()
    with torch.no_grad():
        inferred = net.inference(tensors)
        loss = net.discriminator_loss(tensors, inferred, 0.0, detach=True)
        z = inferred.loc if seen == "mean" else inferred.samples
        logits = {m: net.discriminator(z[m]) for m in z}
        scores = [float((v.logsumexp(1) - v[:, k]).mean()) for k, v in enumerate(logits.values())]
    assert float(loss) == pytest.approx(np.mean(scores), abs=1e-5)


def test_closeness_with_a_product_of_experts_is_to_the_mean_of_samples() -> None:
    """Eq. 9 to 11: a cell of one modality is where its sample is."""
    net = module(fusion="poe", alignment="mse", normalize_latent=False)
    tensors = minibatch()
    with torch.no_grad():
        inferred = net.inference(tensors)
        out = net.loss(tensors, inferred, net.generative(tensors, inferred))
    terms = []
    for cell in range(6):
        z = [
            inferred.samples[m][tensors[f"{m}_rows"].tolist().index(cell)]
            for m in FEATURES
            if cell in tensors[f"{m}_rows"]
        ]
        terms.append(np.mean([float((s - sum(z) / len(z)).square().sum()) for s in z]))
    assert terms[:3] == [0, 0, 0]
    assert float(out.extra_metrics["alignment"]) == pytest.approx(np.mean(terms), abs=1e-5)


@pytest.mark.parametrize("library", ["observed", "learned"])
@pytest.mark.parametrize(("cross", "real_cross"), [(2.0, 0.5), (2.0, 0.0), (0.0, 0.5), (0.0, 0.0)])
def test_decoded_once_is_the_objective_on_average(
    cross: float, real_cross: float, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draws of each row, weighted by their chances, are what all of them say together."""
    net, tensors = module(library=library), minibatch()
    weights = LossWeights(lambda_self=0.7, lambda_cross=cross, lambda_real_cross=real_cross)
    asked = {"cross": cross > 0, "real_cross": real_cross > 0}
    inferred = net.inference(tensors, sample=False)
    everything = net.generative(tensors, inferred, **asked)
    # 1. chances of each row: shares of its terms in the objective, whose terms are means
    rows = {m: tensors[f"{m}_rows"].tolist() for m in FEATURES}
    both = set(rows["rna"]) & set(rows["adt"])
    chances = {}
    for m, cells in rows.items():
        of_pair = [0.7] + [cross] * asked["cross"]
        of_pair += [real_cross * len(cells) / len(both)] * asked["real_cross"]
        alone = [1.0] + [0.0] * (len(of_pair) - 1)
        of_rows = [of_pair if cell in both else alone for cell in cells]
        chances[m] = torch.tensor([[x / sum(row) for x in row] for row in of_rows])
    # 2. each draw in turn, for the rows that have it
    average: dict[tuple[str, str], Any] = {}
    for k in range(1 + sum(asked.values())):
        given: list[torch.Tensor] = []

        def drawn(chance: torch.Tensor, n: int, k: int = k, given: list = given) -> torch.Tensor:
            given.append(chance)
            return torch.where(chance[:, [k]] > 0, k, 0)

        monkeypatch.setattr("torch.multinomial", drawn)
        values = net.generative(tensors, inferred, **asked, once=weights)
        for chance, (m, expected) in zip(given, chances.items(), strict=True):
            torch.testing.assert_close(chance, expected)
            for term in values:
                if m in values[term]:
                    part = expected[:, k]
                    if term == "real_cross":
                        part = part[[cell in both for cell in rows[m]]]
                    average[term, m] = average.get((term, m), 0) + part * values[term][m]
    # 3. values and gradients
    of_all = {(term, m): value for term, of in everything.items() for m, value in of.items()}
    torch.testing.assert_close(average, of_all)
    parameters = [p for p in net.decoders.parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad(sum(x.mean() for x in terms.values()), parameters, retain_graph=True)
        for terms in (average, of_all)
    ]
    torch.testing.assert_close(*gradients)


def test_learned_library_is_of_the_source_and_for_the_target() -> None:
    net, tensors = module(library="learned"), minibatch()
    with torch.no_grad():
        for encoder in net.library_encoders.values():
            encoder.weight.copy_(torch.rand(encoder.weight.shape))
            encoder.bias.copy_(torch.tensor([1.0, 5.0]))
        inferred = net.inference(tensors, sample=False)
        nll = net.generative(tensors, inferred, real_cross=True)
        rows = {m: tensors[f"{m}_rows"].tolist() for m in FEATURES}
        for column, m in enumerate(FEATURES):
            other = "adt" if m == "rna" else "rna"
            real_cross = nll["real_cross"][m].tolist()
            for i, cell in enumerate(rows[m]):
                batch = int(tensors["batch"][cell])
                ways = [("self", nll["self"][m][i], m, inferred.samples[m][i])]
                if cell in rows[other]:
                    ways.append(("cross", nll["cross"][m][i], m, inferred.fused[cell]))
                    z = inferred.samples[other][rows[other].index(cell)]
                    ways.append(("real_cross", real_cross.pop(0), other, z))
                for way, got, source, z in ways:
                    counts = tensors[source][rows[source].index(cell)]
                    weight, bias = net.library_encoders[source].parameters()
                    library = torch.relu(weight[column] @ counts + bias[column])
                    expected = loop_nll(net, m, z, tensors[m][i], batch, library)
                    assert float(got) == pytest.approx(expected, abs=1e-4), (way, m)
