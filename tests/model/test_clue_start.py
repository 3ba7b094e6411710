"""Where CLUE's encoders start from, and how much of their networks counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mosaics import counts_mosaic

import cantata
from cantata import CLUE
from cantata._mudata.pairing import row_table
from cantata._numeric.canonical import chosen_variates
from cantata.model.clue._plan import DEFAULT_SHARE, SHARES, _best_share

SMALL = {"n_latent": 4, "n_hidden_encoder": 16, "n_hidden_decoder": 8, "n_hidden_discriminator": 8}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu", "batch_size": 32}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def trained(mdata, epochs: int = 1, model: dict | None = None, **options) -> CLUE:
    CLUE.setup_mudata(mdata, batch_key="batch")
    clue = CLUE(mdata, **SMALL | (model or {}))
    clue.train(epochs, **QUIET | options)
    return clue


def test_without_networks_embeddings_are_canonical_variates_of_training_cells() -> None:
    mdata = counts_mosaic(n_cells=150)
    clue = trained(mdata)
    clue.module.share.fill_(0.0)
    train = np.asarray(clue.train_indices)
    table = row_table(mdata)
    blocks = []
    for name in mdata.mod:
        values = torch.from_numpy(mdata[name].X.toarray())
        blocks.append(clue.module.input(name)(values).double().numpy())
    batch = np.array([int(name[1:]) % 2 for name in mdata.obs_names], dtype=float)
    rows = [table[name][train] for name in mdata.mod]
    variates, weights = chosen_variates(blocks, 4, rows, covariates=batch[train, None])
    for k, name in enumerate(mdata.mod):
        expected = variates.transform(k, blocks[k]) * weights
        found = clue.get_latent_representation(modality=name, normalize=False)
        # every subspace holds the same
        np.testing.assert_allclose(found[:, :4], expected, atol=1e-4)
        np.testing.assert_allclose(found[:, 4:], expected, atol=1e-4)


def test_with_networks_training_moves_embeddings_and_not_the_variates() -> None:
    clue = trained(counts_mosaic(n_cells=150), epochs=2)
    encoder = clue.module.encoders["rna"]
    before = encoder.slope.clone(), clue.get_latent_representation()
    clue.module.share.fill_(0.0)
    assert np.abs(clue.get_latent_representation() - before[1]).max() > 0.01
    clue.train(1, **QUIET)
    assert torch.equal(encoder.slope, before[0])


CASES = ["few pairs", "few pairs of a third", "wide input", "one modality", "random"]


@pytest.mark.parametrize("case", CASES)
def test_where_there_is_no_start_networks_count_fully(case: str) -> None:
    member = np.ones((80, 2), dtype=bool)
    sizes: dict[str, int] | None = None
    model: dict[str, str | None] = {}
    if case == "few pairs":
        member[15:50, 0] = member[50:, 1] = False
    elif case == "few pairs of a third":
        sizes, member = {"rna": 12, "adt": 6, "atac": 9}, np.ones((80, 3), dtype=bool)
        member[15:60, 2] = member[60:, :2] = False
    elif case == "wide input":
        sizes, model = {"rna": 600, "adt": 6}, {"n_components": None}
    elif case == "one modality":
        sizes, member = {"rna": 12}, member[:, :1]
    else:
        model = {"start": "random"}
    mdata = counts_mosaic(sizes, member, n_cells=80)
    clue = trained(mdata, model=model)
    assert not clue.module.has_variates
    assert float(clue.module.share) == 1
    assert "residual_train" not in clue.history
    assert "share" not in clue.history


def test_share_is_saved_and_kept_by_frozen_queries(tmp_path) -> None:
    clue = trained(counts_mosaic(n_cells=150), train_size=0.6)
    clue.module.share.fill_(0.75)
    clue.save(tmp_path / "model")
    again = CLUE.load(tmp_path / "model", clue.adata)
    assert float(again.module.share) == 0.75
    np.testing.assert_array_equal(
        again.get_latent_representation(), clue.get_latent_representation()
    )
    query = counts_mosaic(n_cells=60, seed=1)
    for adata in query.mod.values():
        adata.obs_names = "q" + adata.obs_names
        adata.obs["batch"] = "new"
    query.update()
    CLUE.prepare_query_mudata(query, clue)
    mapped = CLUE.load_query_data(query, clue)
    mapped.train(2, **QUIET)
    assert float(mapped.module.share) == 0.75


def test_share_is_chosen_by_held_out_pairs() -> None:
    """The default, unless another share is better by more than its standard error."""
    rng = np.random.default_rng(0)
    n = 60
    common, x_own, y_own = rng.normal(size=(3, n, 5))
    partner = rng.permutation(n)[:40]
    pairs = [(("x", "y"), [np.arange(40), partner])]
    y_common = np.empty_like(common)
    y_common[partner] = common[:40]
    y_common[np.setdiff1d(np.arange(n), partner)] = rng.normal(size=(n - 40, 5))

    def chosen(straight: float, added: float | np.ndarray) -> tuple[float, list[float]]:
        def embedding(name: str, share: float) -> torch.Tensor:
            own, shared = (x_own, common) if name == "x" else (y_own, y_common)
            return torch.from_numpy(unit(own + (straight + added * share) * shared))

        means = []
        for share in SHARES:
            x, y = embedding("x", share).numpy(), embedding("y", share).numpy()
            losses = []
            for a, b in zip(range(40), partner, strict=True):
                near = np.exp(x[a] @ y[b] / 0.2)
                losses.append(-np.log(near / sum(np.exp(x[a] @ other / 0.2) for other in y)))
                losses.append(-np.log(near / sum(np.exp(other @ y[b] / 0.2) for other in x)))
            means.append(float(np.mean(losses)))
        return _best_share(pairs, embedding, 0.2), means

    share, means = chosen(0.0, 2.0)
    assert share == SHARES[int(np.argmin(means))] == 1.0
    share, means = chosen(2.0, -2.0)
    assert share == SHARES[int(np.argmin(means))] == 0.0
    # what helps one cell and harms the next is no evidence
    share, means = chosen(2.0, np.resize([0.1, -0.2], (n, 1)))
    assert SHARES[int(np.argmin(means))] != DEFAULT_SHARE
    assert share == DEFAULT_SHARE


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_pairs_are_no_further_apart_than_in_closed_form(seed: int) -> None:
    full = cantata.datasets.simulate_mosaic(1600, pairing="full", seed=seed)
    held = np.arange(full.n_obs) >= 900
    train, test = full[~held].copy(), full[held].copy()
    CLUE.setup_mudata(train, batch_key="batch")
    clue = CLUE(train)
    clue.train(enable_progress_bar=False, accelerator="cpu")

    def score() -> float:
        x, y = (clue.get_latent_representation(test, modality=m) for m in ("rna", "adt"))
        return cantata.metrics.foscttm(x, y)

    trained_score = score()
    clue.module.share.fill_(0.0)
    assert trained_score < score() + 0.002
