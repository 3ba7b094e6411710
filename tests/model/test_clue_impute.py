"""Imputation: units, library sizes, batches, uncertainty, files."""

from __future__ import annotations

import copy

import anndata
import mudata
import numpy as np
import pytest
import scvi
import torch
from mosaics import counts_mosaic
from scipy.optimize import minimize_scalar
from scipy.stats import nbinom

from cantata import CLUE
from cantata.model.clue import _library

SMALL = {"n_latent": 4, "n_hidden_encoder": 16, "n_hidden_decoder": 8, "n_hidden_discriminator": 8}


@pytest.fixture(scope="module")
def clue() -> CLUE:
    scvi.settings.seed = 0
    mdata = counts_mosaic(n_cells=120)
    CLUE.setup_mudata(mdata, batch_key="batch")
    model = CLUE(mdata, **SMALL)
    model.train(8, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    return model


def test_every_cell_in_the_order_of_the_data(clue) -> None:
    proteins = clue.impute("adt")
    assert list(proteins.obs_names) == list(clue.adata.obs_names)
    assert list(proteins.var_names) == list(clue.adata["adt"].var_names)
    assert proteins.X.dtype == np.float32
    np.testing.assert_allclose(proteins.X.sum(1), proteins.obs["library_size"], rtol=1e-4)


def test_auto_library_is_observed_where_it_can_be(clue) -> None:
    proteins = clue.impute("adt")
    adt = clue.adata["adt"]
    total = np.asarray(adt.X.sum(1)).ravel()
    np.testing.assert_allclose(proteins[adt.obs_names].obs["library_size"], total, rtol=1e-5)
    from_rna = clue.impute("adt", source="rna")
    shared = adt.obs_names.intersection(from_rna.obs_names)
    differs = from_rna[shared].obs["library_size"].to_numpy() - total[adt.obs_names.isin(shared)]
    assert np.abs(differs).max() > 0.1


def test_predicted_library_beats_the_mean_on_new_cells() -> None:
    member = np.ones((500, 2), dtype=bool)
    mdata = counts_mosaic({"rna": 40, "adt": 12}, member, n_cells=500)
    seen = np.isin(np.arange(500), np.arange(400))
    train, test = mdata[seen].copy(), mdata[~seen].copy()
    CLUE.setup_mudata(train)
    model = CLUE(train, **SMALL)
    model.train(10, batch_size=32, enable_progress_bar=False, accelerator="cpu")
    predicted = model.impute("adt", test, source="rna").obs["library_size"]
    total = np.log(test["adt"].to_df().sum(axis=1).loc[predicted.index])
    error = np.mean((np.log(predicted) - total) ** 2)
    assert error < 0.8 * np.var(total)


def test_library_sizes_are_those_that_fit_best_what_is_decoded() -> None:
    """What is regressed, beside a search for each cell."""
    scvi.settings.seed = 0
    mdata = counts_mosaic({"rna": 40, "adt": 12}, np.ones((150, 2), dtype=bool), n_cells=150)
    CLUE.setup_mudata(mdata)
    model = CLUE(mdata, **SMALL)
    model.train(2, train_size=1.0, batch_size=32, enable_progress_bar=False, accelerator="cpu")
    imputed = model.impute("adt", source="rna")
    shares = imputed.X / imputed.X.sum(axis=1, keepdims=True)
    theta = model.module.head("adt").log_theta[0].exp().detach().numpy()
    counts = mdata["adt"][imputed.obs_names].X.toarray()

    def loss(log_size: float, cell: int) -> float:
        mean = np.exp(log_size) * shares[cell]
        return -nbinom.logpmf(counts[cell], theta, theta / (theta + mean)).sum()

    best = [minimize_scalar(loss, (2, 6), args=(cell,)).x for cell in range(150)]
    seen = []

    def keep(predictors, cells_x, log_total, cells_y, log_size, predicted, known):
        seen.append((cells_y, log_size, log_total))
        return known

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_library, "_regress", keep)
        _library.fit_library_weights(model, model.module)
    cells, log_size, log_total = seen[0]  # of proteins from RNA
    np.testing.assert_allclose(log_size, np.array(best)[cells], atol=0.02)
    assert np.abs(log_size - log_total).max() > 0.05


@pytest.mark.parametrize("likelihood", ["nb", "topics"])
def test_library_sizes_are_fitted_to_few_cells_at_a_time(likelihood: str, monkeypatch) -> None:
    """And to none where totals are the likeliest; all at once gives the same."""
    mdata = counts_mosaic({"rna": 40, "adt": 12}, np.ones((150, 2), dtype=bool), n_cells=150)
    CLUE.setup_mudata(mdata)
    model = CLUE(mdata, likelihoods=dict.fromkeys(("rna", "adt"), likelihood), **SMALL)
    model.train(1, train_size=1.0, batch_size=50, enable_progress_bar=False, accelerator="cpu")
    whole = model.module.library_weights("rna", "adt").clone()
    decode, sizes = model.module.decode, []

    def noted(target, unit, covariates):
        sizes.append(len(unit))
        return decode(target, unit, covariates)

    monkeypatch.setattr(model.module, "decode", noted)
    monkeypatch.setattr("cantata.losses._sparse_values.BLOCK_ENTRIES", {"cpu": 1})
    model.module.library_weights("rna", "adt").zero_()
    _library.fit_library_weights(model, copy.deepcopy(model.module))
    torch.testing.assert_close(
        model.module.library_weights("rna", "adt"), whole, rtol=1e-3, atol=1e-4
    )
    # minibatches of 128 and 22 cells
    assert set(sizes) == (set() if likelihood == "topics" else {16, 6})


def test_given_library_sizes(clue) -> None:
    np.testing.assert_allclose(clue.impute("rna", library_size=50.0).X.sum(1), 50, rtol=1e-4)
    sizes = np.linspace(10, 20, clue.adata.n_obs)
    np.testing.assert_allclose(clue.impute("rna", library_size=sizes).X.sum(1), sizes, rtol=1e-4)
    for wrong in (0.0, np.ones(3), "median"):
        with pytest.raises(ValueError, match="library_size"):
            clue.impute("rna", library_size=wrong)
    with pytest.raises(ValueError, match="have no 'adt'"):
        clue.impute("adt", library_size="observed")


def test_source_uses_that_modality_alone(clue) -> None:
    mdata = clue.adata.copy()
    before = clue.impute("adt", mdata, source="rna").to_df()
    mdata["adt"].X = mdata["adt"].X * 7
    np.testing.assert_allclose(clue.impute("adt", mdata, source="rna").to_df(), before, rtol=1e-5)
    assert list(before.index) == [
        c for c in clue.adata.obs_names if c in clue.adata["rna"].obs_names
    ]
    lacking = np.flatnonzero(~clue.adata.obs_names.isin(clue.adata["rna"].obs_names))
    with pytest.raises(ValueError, match="1 of the chosen cells have no 'rna'"):
        clue.impute("adt", source="rna", indices=[0, lacking[0]] if lacking[0] else [lacking[0]])


def test_features_and_indices(clue) -> None:
    whole = clue.impute("rna").to_df()
    part = clue.impute("rna", features=["rna_5", "rna_2"], indices=[9, 4], batch_size=1)
    expected = whole.iloc[[9, 4]][["rna_5", "rna_2"]]
    np.testing.assert_allclose(part.to_df(), expected, rtol=1e-4)
    with pytest.raises(KeyError, match=r"1 features are not in modality 'rna', e.g. 'CD4'"):
        clue.impute("rna", features=["CD4"])
    with pytest.raises(KeyError, match="modality='atac'"):
        clue.impute("atac")


def test_transform_batch(clue) -> None:
    zero, one = (clue.impute("rna", transform_batch=b).X for b in ("b0", "b1"))
    own = clue.impute("rna")
    is_zero = np.array([int(name[1:]) % 2 == 0 for name in own.obs_names])
    np.testing.assert_allclose(own.X, np.where(is_zero[:, None], zero, one), rtol=1e-4)
    both = clue.impute("rna", transform_batch=["b0", "b1"]).X
    np.testing.assert_allclose(both, (zero + one) / 2, rtol=1e-4)
    with pytest.raises(KeyError, match="transform_batch"):
        clue.impute("rna", transform_batch="b9")


def test_batch_in_which_the_modality_was_not_measured_takes_the_mean_of_others() -> None:
    member = np.ones((90, 2), dtype=bool)
    batch_two = np.arange(90) % 3 == 2
    member[batch_two, 1] = False
    mdata = counts_mosaic(member=member, n_cells=90, n_batches=3)
    CLUE.setup_mudata(mdata, batch_key="batch")
    clue = CLUE(mdata, **SMALL)
    clue.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    default = clue.impute("adt").to_df()
    mean = clue.impute("adt", transform_batch=["b0", "b1"]).to_df()
    unmeasured = [c for c in default.index if int(c[1:]) % 3 == 2]
    np.testing.assert_allclose(default.loc[unmeasured], mean.loc[unmeasured], rtol=1e-4)


def test_posterior_samples_give_uncertainty(clue) -> None:
    torch.manual_seed(0)
    sampled = clue.impute("rna", n_samples=30)
    point = clue.impute("rna")
    assert (sampled.layers["std"] >= 0).all()
    assert sampled.layers["std"].mean() > 0
    assert np.corrcoef(sampled.X.ravel(), point.X.ravel())[0, 1] > 0.95


def test_written_in_blocks(clue, tmp_path) -> None:
    path = str(tmp_path / "adt.zarr")
    imputed = clue.impute("adt", out=path, batch_size=17, n_samples=2)
    assert not isinstance(imputed.X, np.ndarray)
    again = anndata.read_zarr(path)
    assert again.shape == (120, 6)
    np.testing.assert_allclose(again.X.sum(1), again.obs["library_size"], rtol=1e-3)
    assert again.layers["std"].shape == again.shape
    with pytest.raises(ValueError, match="zarr"):
        clue.impute("adt", out=str(tmp_path / "adt.h5ad"))


def test_spatial_coordinates_are_kept(clue) -> None:
    mdata = clue.adata.copy()
    mdata.obsm["spatial"] = np.arange(2 * mdata.n_obs).reshape(-1, 2)
    picked = clue.impute("adt", mdata, indices=[3, 1])
    np.testing.assert_array_equal(picked.obsm["spatial"], mdata.obsm["spatial"][[3, 1]])


@pytest.mark.parametrize("likelihood", ["zinb", "poisson", "bernoulli", "normal"])
def test_units_of_every_likelihood(likelihood: str) -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, likelihoods={"adt": likelihood}, **SMALL)
    clue.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    values = clue.impute("adt", source="rna").X
    assert np.isfinite(values).all()
    if likelihood == "bernoulli":
        assert values.min() >= 0
        assert values.max() <= 1
    has_library = "library_size" in clue.impute("adt").obs
    assert has_library == (likelihood in ("zinb", "poisson"))


def test_learned_library() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, library="learned", **SMALL)
    clue.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    assert np.isfinite(clue.impute("adt", source="rna").X).all()


def test_variance_of_the_joint_posterior_is_that_of_a_mean() -> None:
    mdata = counts_mosaic(member=np.ones((60, 2), dtype=bool))
    CLUE.setup_mudata(mdata)
    model = CLUE(mdata, **SMALL)
    model.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    _, joint = model.get_latent_representation(return_dist=True)
    parts = []
    for name in mdata.mod:
        rows = mdata[name].obs_names.get_indexer(mdata.obs_names)
        parts.append(model.get_latent_representation(modality=name, return_dist=True)[1][rows])
    np.testing.assert_allclose(joint, (parts[0] + parts[1]) / 4, rtol=1e-4)


def test_mean_and_deviation_of_two_samples(clue, monkeypatch) -> None:
    """Draws of +1 and -1 standard deviations: half their sum and half their difference."""
    draws: list[float] = []
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.full_like(x, draws[0]))
    ends = []
    for draw in (1.0, -1.0):
        draws[:] = [draw]
        ends.append(clue.impute("rna", source="rna", n_samples=1).X)
    order = iter([1.0, -1.0] * 1000)
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.full_like(x, next(order)))
    both = clue.impute("rna", source="rna", n_samples=2)
    np.testing.assert_allclose(both.X, (ends[0] + ends[1]) / 2, rtol=1e-4)
    expected = np.abs(ends[0] - ends[1]) / 2
    np.testing.assert_allclose(both.layers["std"], expected, rtol=1e-2, atol=2e-3)


def test_library_sizes_are_fitted_on_training_cells() -> None:
    """Held-out cells with a hundred times the proteins change no prediction."""
    mdata = counts_mosaic(member=np.ones((200, 2), dtype=bool), n_cells=200)
    CLUE.setup_mudata(mdata)
    held = CLUE(mdata, **SMALL)
    held.train(1, train_size=0.5, enable_progress_bar=False, accelerator="cpu")
    cells = mdata.obs_names[held.validation_indices]
    results = []
    for factor in (1, 100):
        part = mdata.copy()
        rows = part["adt"].obs_names.isin(cells)
        x = part["adt"].X.toarray()
        x[rows] *= factor
        part["adt"].X = x
        scvi.settings.seed = 0
        CLUE.setup_mudata(part, reps={})
        model = CLUE(part, n_components=None, **SMALL)
        model.train(
            1, train_size=0.5, early_stopping=False, enable_progress_bar=False, accelerator="cpu"
        )
        assert set(model.adata.obs_names[model.validation_indices]) == set(cells)
        results.append(model.impute("adt", source="rna").obs["library_size"])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-3)


def test_foreground_is_what_marked_cells_have() -> None:
    """Half of the cells have two proteins beside an ambient background, which all have."""
    rng = np.random.default_rng(0)
    n, ambient = 400, 8.0
    marked = rng.random(n) < 0.5
    rna = rng.poisson(np.exp(rng.normal(0, 0.5, 30) + np.outer(marked, rng.normal(0, 1, 30))))
    own = np.full((n, 6), ambient)
    own[:, :2] += 120.0 * marked[:, None]
    own[:, 2:4] += 90.0 * ~marked[:, None]
    counts = {"rna": rna, "adt": rng.negative_binomial(8, 8 / (8 + own))}
    parts = {m: anndata.AnnData(x.astype(np.float32)) for m, x in counts.items()}
    mdata = mudata.MuData(parts)
    CLUE.setup_mudata(mdata)
    scvi.settings.seed = 0
    model = CLUE(mdata, likelihoods={"adt": "nb_mixture"}, **SMALL)
    model.train(60, batch_size=64, enable_progress_bar=False, accelerator="cpu")
    with_background = model.impute("adt", source="rna").to_df().to_numpy()
    imputed = model.impute("adt", source="rna", background=False)
    assert imputed.uns["cantata"]["units"].startswith("expected foreground counts")
    foreground = imputed.to_df().to_numpy()
    assert (foreground <= with_background).all()
    for protein, has in ((0, marked), (2, ~marked)):
        left_out = (with_background - foreground)[:, protein]
        assert np.median(left_out[~has]) == pytest.approx(ambient, rel=0.2)
        assert np.median(foreground[has, protein]) > 0.8 * own[has, protein].mean()
    with pytest.raises(ValueError, match=r"interval=0\.9 is of what is measured"):
        model.impute("adt", source="rna", background=False, interval=0.9)


@pytest.mark.parametrize("n_samples", [-1, 1.5, True])
def test_number_of_samples_is_checked(clue, n_samples) -> None:
    with pytest.raises((TypeError, ValueError), match="n_samples must be"):
        clue.impute("adt", n_samples=n_samples)


def test_library_size_needs_a_likelihood_that_has_one() -> None:
    mdata = counts_mosaic(n_cells=60)
    CLUE.setup_mudata(mdata)
    model = CLUE(mdata, likelihoods={"adt": "bernoulli"}, **SMALL)
    model.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    for size in ("observed", 1e4):
        with pytest.raises(ValueError, match="'bernoulli' of 'adt' has no library sizes"):
            model.impute("adt", library_size=size)


def test_an_error_leaves_no_store(clue, tmp_path) -> None:
    out = tmp_path / "adt.zarr"
    with pytest.raises(ValueError, match="library_size='observed'"):
        clue.impute("adt", library_size="observed", out=out)
    assert not out.exists()
    assert clue.impute("adt", out=out).n_obs == clue.adata.n_obs


def test_a_modality_that_is_the_same_in_all_cells() -> None:
    mdata = counts_mosaic(n_cells=60)
    mdata.mod["adt"] = mdata["adt"][:, :1].copy()
    CLUE.setup_mudata(mdata)
    with pytest.raises(ValueError, match=r"modality 'adt' reads is the same.*start='random'"):
        CLUE(mdata, **SMALL).train(1, enable_progress_bar=False, accelerator="cpu")


def test_background_needs_a_likelihood_that_has_one(clue) -> None:
    with pytest.raises(ValueError, match="likelihood 'nb' of 'adt' has no background"):
        clue.impute("adt", background=False)
