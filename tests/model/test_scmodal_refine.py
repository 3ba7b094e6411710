"""Linked features refined by what the embeddings match: against loops, and on known answers."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from linked_mosaics import QUIET, SMALL, chain, link, linked_mosaic
from mosaics import counts_mosaic
from scipy import linalg

import cantata
from cantata import SCMODAL
from cantata.metrics import foscttm, label_transfer_accuracy
from cantata.model.scmodal import _model
from cantata.model.scmodal._module import Variates
from cantata.model.scmodal._refine import matched_variates, refined_variates, refinement_steps


def model_of(mdata=None, **model) -> SCMODAL:
    mdata = linked_mosaic() if mdata is None else mdata
    SCMODAL.setup_mudata(mdata)
    return SCMODAL(mdata, **SMALL | model)


def variates_of(model: SCMODAL) -> dict:
    return model.trainer.lightning_module.variates


def factors(n: int = 300, n_factors: int = 3, seed: int = 0):
    """Two modalities that read the same factors, and embeddings that are these factors."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, n_factors))
    a = z @ rng.normal(size=(n_factors, 8)) + 0.3 * rng.normal(size=(n, 8))
    b = z @ rng.normal(size=(n_factors, 5)) + 0.3 * rng.normal(size=(n, 5))
    return z, a, b


def test_steps_lie_in_the_last_third() -> None:
    assert refinement_steps(600, 2, continued=False) == {400, 500}
    assert refinement_steps(600, 0, continued=True) == frozenset()
    assert refinement_steps(600, 1, continued=True) == {0, 400}
    assert max(refinement_steps(5, 4, continued=False)) < 5
    with pytest.raises(ValueError, match="n_refinements must be at least 0, got -1"):
        refinement_steps(600, -1, continued=False)


def naive_variates(a, z_a, b, z_b, k, ridge=1e-3):
    """Loops over cells, then the generalised eigenvalue problem of correlated means."""

    def mean_of_nearest(z, reference, values):
        rows = []
        for cell in z:
            lengths = [sum((cell - other) ** 2) for other in reference]
            rows.append(np.mean([values[i] for i in np.argsort(lengths)[:k]], axis=0))
        return np.array(rows)

    x = np.concatenate([a, mean_of_nearest(z_b, z_a, a)])
    y = np.concatenate([mean_of_nearest(z_a, z_b, b), b])
    mean = x.mean(axis=0)
    x, y = x - mean, y - y.mean(axis=0)
    n = len(x)
    xx, yy, xy = x.T @ x / n, y.T @ y / n, x.T @ y / n
    xx = xx + ridge * np.trace(xx) / len(xx) * np.eye(len(xx))
    yy = yy + ridge * np.trace(yy) / len(yy) * np.eye(len(yy))
    _, vectors = linalg.eigh(xy @ np.linalg.solve(yy, xy.T), xx)
    _, other = linalg.eigh(xy.T @ np.linalg.solve(xx, xy), yy)
    columns = []
    for j in range(1, min(a.shape[1], b.shape[1]) + 1):
        own, theirs = x @ vectors[:, -j], y @ other[:, -j]
        correlation = abs(np.corrcoef(own, theirs)[0, 1])
        columns.append((a - mean) @ vectors[:, -j] / own.std() * correlation)
    return np.stack(columns, axis=1)


def test_variates_equal_a_loop() -> None:
    z, a, b = factors(60)
    rng = np.random.default_rng(1)
    z_a, z_b = z[:40], z[20:] + 0.1 * rng.normal(size=(40, 3))
    a, b = a[:40, :5], b[20:, :4]
    weights, offset = matched_variates(a, z_a, b, z_b)[0]
    ours = a @ weights.numpy() + offset.numpy()
    theirs = naive_variates(a, z_a, b, z_b, k=20)
    for j in range(4):
        sign = np.sign(ours[:, j] @ theirs[:, j])
        np.testing.assert_allclose(ours[:, j], sign * theirs[:, j], rtol=1e-3, atol=1e-4)


def test_variates_find_what_modalities_share() -> None:
    """Matched cells are near in the variates; what is not shared hardly counts."""
    z, a, b = factors()
    (w, c), (v, d) = matched_variates(a, z, b, z)
    x, y = a @ w.numpy() + c.numpy(), b @ v.numpy() + d.numpy()
    assert x.shape == y.shape == (300, 5)
    assert foscttm(x[:, :3], y[:, :3]) < 0.1
    spread = x.std(axis=0)
    assert (spread[:3] > 0.7).all()
    assert (spread[3:] < 0.5).all()


def test_wide_inputs_and_few_cells_enter_by_components() -> None:
    """A column for every ten cells, so that cells do not outvote each other by chance."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(100, 2))
    a, b = rng.normal(size=(100, 150)), rng.normal(size=(100, 50))
    a[:, :2], b[:, :2] = 5 * z, 5 * z
    (w, _), (v, _) = matched_variates(a, z, b, z)
    assert w.shape == (150, 20)
    assert v.shape == (50, 20)
    loud = np.abs(w.numpy()).max(axis=1)
    assert loud[:2].min() > 3 * np.median(loud[2:])


@pytest.mark.parametrize("least", [3, 4])
def test_linked_features_stay_beside_variates_unless_few(least: int) -> None:
    x, linked = torch.randn(6, 5), torch.randn(6, 3)
    weights, offset = torch.randn(5, 2), torch.randn(2)
    found = Variates(weights, offset, least)(x, linked)
    own = x @ weights + offset
    if least == 4:
        torch.testing.assert_close(found, own)
        return
    for cell in range(6):
        joined = torch.cat([own[cell] / own[cell].norm(), linked[cell] / linked[cell].norm()])
        torch.testing.assert_close(found[cell], joined)


def test_training_refines_when_planned(monkeypatch) -> None:
    steps: list[int] = []

    def counted(*arguments) -> dict:
        steps.append(1)
        return refined_variates(*arguments)

    monkeypatch.setattr(_model, "refined_variates", counted)
    model = model_of()
    model.train(max_steps=12, **QUIET)
    assert len(steps) == 4
    assert set(variates_of(model)) == {("rna", "adt"), ("adt", "rna")}
    weights = variates_of(model)["rna", "adt"].weights
    assert torch.isfinite(weights).all()
    assert weights.abs().max() > 0
    model.train(max_steps=12, **QUIET)
    assert len(steps) == 9  # once more at the start
    model.train(max_steps=12, n_refinements=0, **QUIET)
    assert len(steps) == 9
    assert not variates_of(model)


def test_without_refinements_links_are_taken_as_they_are() -> None:
    histories = []
    for n_refinements in (0, 1):
        scvi.settings.seed = 0
        model = model_of()
        model.train(max_steps=6, n_refinements=n_refinements, **QUIET)
        histories.append(float(model.history["anchor_rna_adt_train"].to_numpy()[0, 0]))
    assert histories[0] != pytest.approx(histories[1])


def test_every_pair_of_a_chain_is_refined() -> None:
    model = model_of(chain(), n_components=5)
    model.train(max_steps=6, n_refinements=1, **QUIET)
    pairs = [("adt", "rna"), ("rna", "atac")]
    assert set(variates_of(model)) == {way for p in pairs for way in (p, p[::-1])}


def test_published_settings_do_not_refine() -> None:
    assert SCMODAL.presets["published"]["train"]["n_refinements"] == 0


def test_diverged_embeddings_are_left_to_the_advice_at_the_end_of_the_epoch() -> None:
    model = model_of()
    model.train(max_steps=1, n_refinements=0, **QUIET)
    torch.nn.init.constant_(next(model.module.encoders["rna"].parameters()), float("nan"))
    values = {
        name: {
            name: lambda rows, name=name: np.ones(
                (len(rows), model.module.input(name).n_out), dtype=np.float32
            )
        }
        for name in ("rna", "adt")
    }
    assert not refined_variates(model.module, values, {"rna": 30, "adt": 30})


def test_a_frozen_query_keeps_its_links(monkeypatch) -> None:
    monkeypatch.setattr(_model, "refined_variates", lambda *_: pytest.fail("refined"))
    reference = linked_mosaic()
    SCMODAL.setup_mudata(reference, batch_key="batch")
    model = SCMODAL(reference, **SMALL)
    model.train(max_steps=1, n_refinements=0, **QUIET)
    query = counts_mosaic(seed=1)
    link(query, "rna", "adt")
    adapted = SCMODAL.load_query_data(query, model)
    adapted.train(max_steps=3, **QUIET)
    assert adapted.n_steps_ >= 3


@pytest.mark.slow
def test_known_answer_with_few_links() -> None:
    """Ten links of simulated cells; FOSCTTM .22 to .18 and label transfer .80 to .93."""
    mdata = cantata.datasets.simulate_mosaic(
        800, n_features={"rna": 300, "adt": 60}, pairing="full", n_batches=1
    )
    links = cantata.pp.link_features(mdata, "rna", "adt").links
    cantata.pp.link_features(mdata, "rna", "adt", links=links.head(10))
    SCMODAL.setup_mudata(mdata)
    types = mdata.obs["cell_type"].to_numpy().astype(str)
    found = []
    for n_refinements in (0, 4):
        scvi.settings.seed = 0
        model = SCMODAL(mdata)
        model.train(max_steps=300, n_refinements=n_refinements, **QUIET | {"batch_size": 200})
        x, y = (
            model.get_latent_representation(modality=m)[
                mdata[m].obs_names.get_indexer(mdata.obs_names)
            ]
            for m in ("rna", "adt")
        )
        found.append((foscttm(x, y), label_transfer_accuracy(x, types, y, types)))
    assert found[1][0] < 0.8 * found[0][0]
    assert found[1][1] > found[0][1] + 0.05
