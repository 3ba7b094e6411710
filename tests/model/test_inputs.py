"""Standardisation and components beside numpy, scanpy and muon, and the way back."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from linked_mosaics import linked_mosaic
from mosaics import counts_mosaic
from scipy import sparse

import cantata
from cantata import APOLLO, CLUE, SCMODAL
from cantata.model._inputs import fit_batches, fit_input, training_reader
from cantata.nn import EncoderInput

if TYPE_CHECKING:
    import mudata

EXACT = ["log1p", "clr", "arcsinh", "identity"]


def counts(n: int = 80, p: int = 12, seed: int = 0) -> np.ndarray:
    """Counts of groups that differ, no cell empty, the last feature constant."""
    rng = np.random.default_rng(seed)
    rate = np.exp(rng.normal(0, 1, (3, p)))[rng.integers(0, 3, n)] + 0.2
    x = rng.poisson(rate).astype(np.float32)
    x[:, 0] += 1
    x[:, -1] = 2
    return x


def fitted(transform: str, x, n_components: int | None = None, **options) -> EncoderInput:
    layer = EncoderInput(x.shape[1], transform, n_components)
    fit_input("m", layer, x, x.shape[0], **options)
    return layer


def transformed(transform: str, x: np.ndarray) -> np.ndarray:
    """What scanpy, muon and numpy make of values."""
    if transform == "log1p":
        adata = AnnData(x.copy())
        sc.pp.normalize_total(adata, target_sum=float(np.median(x.sum(axis=1))))
        return sc.pp.log1p(adata, copy=True).X
    if transform == "clr":  # of cells that are scaled
        ratios = x / np.exp(np.log1p(x).mean(axis=0))
        precision = x.mean(axis=0) ** 2 / np.maximum(x.var(axis=0), x.mean(axis=0))
        depth = (ratios * precision).sum(axis=1, keepdims=True)
        return np.log1p(ratios / depth * np.median(depth))
    return np.arcsinh(x / 5) if transform == "arcsinh" else x


def at_median_total(x: np.ndarray) -> np.ndarray:
    totals = x.sum(axis=1, keepdims=True)
    return x / totals * np.median(totals)


def z_scores(x: np.ndarray) -> np.ndarray:
    sd = x.std(axis=0, dtype=np.float64)
    varies = sd > 1e-6
    return np.where(varies, (x - x.mean(axis=0)) / np.where(varies, sd, 1), 0)


@pytest.mark.parametrize("transform", EXACT)
def test_forward_is_the_standardised_transform(transform: str) -> None:
    x = counts()
    x[0, 3] = 4000  # beyond ten standard deviations
    layer = fitted(transform, x)
    expected = z_scores(transformed(transform, x))
    if transform in ("identity", "arcsinh"):
        assert expected.max() > 8
    np.testing.assert_allclose(
        layer(torch.from_numpy(x)).numpy(), np.minimum(expected, 10), atol=2e-4
    )


def test_values_are_clipped_above_only() -> None:
    x = np.zeros((400, 2), np.float32)
    x[:, 1] = np.random.default_rng(0).normal(size=400)
    x[0, 0] = 1
    x[1, 1] = -1000
    out = fitted("identity", x)(torch.from_numpy(x)).numpy()
    assert out.max() == 10
    assert out.min() < -10


@pytest.mark.parametrize("transform", EXACT)
def test_the_way_back_is_exact_without_rotation(transform: str) -> None:
    x = counts()
    layer = fitted(transform, x)
    back = layer.inverse(layer(torch.from_numpy(x))).numpy()
    expected = at_median_total(x) if layer.scales_cells else x
    np.testing.assert_allclose(back, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("transform", ["log1p", "clr"])
def test_values_of_counts_are_not_negative(transform: str) -> None:
    layer = fitted(transform, counts())
    assert layer.inverse(torch.full((2, 12), -50.0)).min() >= 0


@pytest.mark.parametrize("transform", ["log1p", "clr", "tfidf"])
@pytest.mark.parametrize("n_components", [None, 9])
def test_rows_sum_to_the_library_size(transform: str, n_components: int | None) -> None:
    if transform == "tfidf" and n_components is None:
        pytest.skip("chromatin is read as components")
    x = torch.from_numpy(counts())
    layer = fitted(transform, x.numpy(), n_components)
    decoded = layer(x) + 0.5 * torch.randn(len(x), layer.n_out)
    layer.factor[:] = torch.linspace(0.5, 2, 12)
    median = float(np.median(x.sum(dim=1)))
    assert float(layer.library) == pytest.approx(median)
    torch.testing.assert_close(layer.inverse(decoded).sum(dim=1), torch.full((80,), median))
    library = torch.linspace(5, 60, len(x))
    scaled = layer.inverse(decoded, library)
    torch.testing.assert_close(scaled.sum(dim=1), library)
    torch.testing.assert_close(scaled, layer.inverse(decoded) * (library / median)[:, None])
    assert [fitted(t, x.numpy()).scales_cells for t in EXACT] == [True, True, False, False]


@pytest.mark.parametrize("transform", ["log1p", "clr"])
def test_the_way_back_gives_the_counts_at_their_own_totals(transform: str) -> None:
    x = torch.from_numpy(counts())
    layer = fitted(transform, x.numpy())
    own = layer.inverse(layer(x), x.sum(dim=1))
    torch.testing.assert_close(own, x, rtol=1e-3, atol=1e-3)


def test_depth_of_panels_is_taken_out() -> None:
    """Two cells that differ in depth alone are one; components of preprocess are not scaled."""
    x = counts()
    layer = fitted("clr", x)
    values = torch.from_numpy(x)
    torch.testing.assert_close(layer(values), layer(values * 4), rtol=1e-4, atol=1e-4)
    unscaled = fitted("clr", x, 4, as_preprocess=True)
    assert not unscaled.scales_cells
    assert not torch.allclose(unscaled(values), unscaled(values * 4), atol=0.1)


def test_depth_is_read_off_what_all_cells_have() -> None:
    """Markers of half of the cells, nine in ten of their counts, are hardly depth."""
    rng = np.random.default_rng(0)
    depth = rng.lognormal(0, 0.5, (400, 1))
    rate = np.full((400, 20), 20.0)
    rate[:200, :5] = 600
    x = rng.poisson(depth * rate).astype(np.float32)
    layer = fitted("clr", x)
    found = np.log(x @ layer.depth_weight.numpy())
    assert np.std(found - np.log(depth[:, 0])) < 0.25  # by a sum of ratios .50


@pytest.mark.parametrize("transform", [*EXACT, "tfidf"])
@pytest.mark.parametrize("k", [None, 5])
def test_the_way_back_stays_within_what_was_measured(transform: str, k: int | None) -> None:
    if transform == "tfidf" and k is None:
        pytest.skip("chromatin is read as components")
    x = counts() * np.exp(np.random.default_rng(1).normal(0, 3, (80, 12))).astype(np.float32)
    layer = fitted(transform, x, k)
    far = layer.inverse(200 * torch.randn(300, layer.n_out)).numpy()
    assert np.isfinite(far).all()
    if not layer.scales_cells:
        assert (far >= x.min(axis=0) * (1 - 1e-4) - 1e-3).all()
        assert (far <= x.max(axis=0) * (1 + 1e-4) + 1e-3).all()
        assert far.max() == pytest.approx(x.max(), rel=1e-3)
    assert far.min() >= 0


@pytest.mark.parametrize("transform", ["arcsinh", "identity"])
def test_library_size_is_not_used_where_cells_are_not_scaled(transform: str) -> None:
    x = torch.from_numpy(counts())
    layer = fitted(transform, x.numpy())
    library = torch.full((len(x),), 7.0)
    assert torch.equal(layer.inverse(layer(x), library), layer.inverse(layer(x)))


@pytest.mark.parametrize("transform", EXACT)
@pytest.mark.parametrize("n_components", [None, 5])
def test_constant_features_say_nothing_and_come_back(transform: str, n_components) -> None:
    x = counts()
    x[:, 5] = 0
    if transform in ("log1p", "clr"):  # scaling cells makes the last feature vary
        x[:, -1] = 0
    layer = fitted(transform, x, n_components)
    changed = x.copy()
    changed[:, [5, -1]] = 0 if layer.scales_cells else 9
    one, two = (layer(torch.from_numpy(v)) for v in (x, changed))
    torch.testing.assert_close(one, two)
    assert torch.isfinite(one).all()
    assert int(layer.n_used) == 10
    back = layer.inverse(one).numpy()
    np.testing.assert_allclose(back[:, [5, -1]], x[:, [5, -1]], atol=1e-4)


@pytest.mark.parametrize("transform", EXACT)
def test_components_are_principal_and_keep_distances(transform: str) -> None:
    x = counts()[:, :-1]
    z = z_scores(transformed(transform, x))
    layer = fitted(transform, x, 10)
    out = layer(torch.from_numpy(x)).numpy()
    assert int(layer.n_used) == 11
    _, singular, axes = np.linalg.svd(z, full_matrices=False)
    for j in range(3):
        r = np.corrcoef(out[:, j], z @ axes[j])[0, 1]
        assert abs(r) > 0.999
    np.testing.assert_allclose(np.linalg.norm(out[:, :3], axis=0), singular[:3], rtol=1e-3)
    np.testing.assert_allclose((out**2).sum(), (singular[:10] ** 2).sum(), rtol=1e-3)
    near = ((out[0] - out) ** 2).sum(axis=1), ((z[0] - z) ** 2).sum(axis=1)
    np.testing.assert_allclose(*near, atol=(2 * z @ axes[10]).max() ** 2 + 1e-3)


@pytest.mark.parametrize("transform", EXACT)
def test_the_way_back_from_components_is_the_best_linear_one(transform: str) -> None:
    x = counts(p=20)
    layer = fitted(transform, x, 6)
    out = layer(torch.from_numpy(x))
    values = transformed(transform, x)
    design = np.column_stack([np.ones(len(x)), out.numpy()])
    expected = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    back = layer.inverse(out).numpy()
    expected = np.clip(expected, values.min(axis=0), values.max(axis=0))
    undo = {
        "log1p": np.expm1,
        "clr": lambda v: np.expm1(v) * np.exp(np.log1p(x).mean(axis=0)),
        "arcsinh": lambda v: 5 * np.sinh(v),
        "identity": lambda v: v,
    }
    expected = undo[transform](expected)
    if layer.scales_cells:
        expected *= np.median(x.sum(axis=1)) / expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(back, expected, rtol=1e-2, atol=1e-2)


def test_all_components_give_the_values_back() -> None:
    x = counts()[:, :-1]
    layer = fitted("clr", x, 10)
    back = layer.inverse(layer(torch.from_numpy(x))).numpy()
    x = at_median_total(x)
    r = [np.corrcoef(back[:, j], x[:, j])[0, 1] for j in range(11)]
    assert min(r) > 0.8
    assert np.mean(r) > 0.97


@pytest.mark.parametrize(
    ("name", "transform"), [("rna", "log1p"), ("adt", "clr"), ("atac", "tfidf")]
)
def test_the_components_of_preprocess(
    name: str, transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cantata.nn._inputs.MAX_DENSITY", 2.0)
    mdata = counts_mosaic({"rna": 20, "adt": 15, "atac": 30}, np.ones((60, 3), dtype=bool))
    values = mdata[name].X.copy()
    cantata.pp.preprocess(mdata, n_components=5)
    expected = mdata[name].obsm["X_cantata_lsi" if transform == "tfidf" else "X_cantata_pca"]
    layer = fitted(transform, values, 5, as_preprocess=True)
    dense = torch.from_numpy(values.toarray())
    for x in (dense, dense.to_sparse_csr()):
        np.testing.assert_allclose(layer(x).numpy(), expected, atol=1e-4)
    if transform == "tfidf":
        np.testing.assert_allclose(fitted(transform, values, 5)(dense), expected, atol=1e-4)


def test_components_of_preprocess_are_scaled_ones() -> None:
    x = counts()
    plain, scaled = (fitted("identity", x, 4, as_preprocess=both) for both in (False, True))
    one, two = (layer(torch.from_numpy(x)) for layer in (plain, scaled))
    assert float(two[:, 0].std()) == pytest.approx(3, rel=0.01)
    torch.testing.assert_close(two, one * (two[0, 0] / one[0, 0]), rtol=1e-3, atol=1e-4)


def test_without_a_way_back() -> None:
    layer = EncoderInput(12, "tfidf", 4, invertible=False)
    fit_input("m", layer, counts(), 80)
    assert not {"coefficients", "intercept"} & set(layer.state_dict())
    with pytest.raises(AttributeError, match="coefficients"):
        layer.inverse(torch.zeros(1, 4))


def test_chromatin_there_and_back() -> None:
    x = counts(60, 30)
    x[:, 7] = 0
    layer = fitted("tfidf", x, 8)
    out = layer(torch.from_numpy(x))
    np.testing.assert_allclose(out.square().mean(dim=1), 1, rtol=1e-5)
    assert layer.scales_cells
    assert float(layer.total) == 10 * np.median(x.sum(axis=1))
    back = layer.inverse(out).numpy()
    assert back.min() >= 0
    np.testing.assert_array_equal(back[:, 7], 0)
    scaled = at_median_total(x)
    used = np.arange(30) != 7
    r = [np.corrcoef(back[:, j], scaled[:, j])[0, 1] for j in np.flatnonzero(used)[:-1]]
    assert np.mean(r) > 0.5
    np.testing.assert_allclose(back.mean(axis=0), scaled.mean(axis=0), rtol=0.2)
    halved = layer.inverse(out, torch.full((60,), float(layer.library) / 2)).numpy()
    np.testing.assert_allclose(halved, back / 2, rtol=1e-5)


def test_fewer_cells_than_components() -> None:
    """The components that there are keep their scale, the others are zero."""
    x = counts(9, 30)
    for as_preprocess in (False, True):
        chromatin = fitted("tfidf", x, 20, as_preprocess=as_preprocess)
        out = chromatin(torch.from_numpy(x))
        assert out.shape == (9, 20)
        assert (out[:, 8:] == 0).all()
        np.testing.assert_allclose(out[:, :8].square().mean(dim=1), 1, rtol=1e-5)
        assert int(chromatin.n_used) == 8
    genes = fitted("clr", x, 20)
    out = genes(torch.from_numpy(x))
    assert (out[:, 8:] == 0).all()
    np.testing.assert_allclose(genes.inverse(out), at_median_total(x), rtol=0.05, atol=0.1)


# Batches ----------------------------------------------------------------------------------------


def of_batches(transform: str, k: int | None, x: np.ndarray, codes: np.ndarray) -> EncoderInput:
    layer = EncoderInput(x.shape[1], transform, k, n_batch=int(codes.max()) + 1)
    fit_input("m", layer, x, len(x))
    fit_batches(layer, x, codes, 0)
    return layer


@pytest.mark.parametrize("k", [None, 5])
@pytest.mark.parametrize("transform", [*EXACT, "tfidf"])
def test_batches_get_one_mean(transform: str, k: int | None) -> None:
    if transform == "tfidf" and k is None:
        pytest.skip("chromatin is read as components")
    x, codes = counts(240), np.arange(240) % 3
    x[codes == 1] *= np.linspace(1, 9, 12, dtype=np.float32)
    layer = of_batches(transform, k, x, codes)
    values, batch = torch.from_numpy(x), torch.from_numpy(codes)
    before, after = layer(values), layer(values, batch)
    spread = after.std(dim=0).clamp(min=0.1)

    def apart(z: torch.Tensor) -> float:
        means = torch.stack([z[codes == b].mean(dim=0) for b in range(3)])
        return float(((means - means.mean(dim=0)) / spread).square().mean().sqrt())

    assert apart(after) < 0.35
    assert apart(before) > 1.4 * apart(after)
    if k is None and layer.is_invertible:
        varies = after.std(dim=0) > 0
        torch.testing.assert_close(
            after[:, varies].std(dim=0, correction=0), torch.ones(int(varies.sum()))
        )
    # the way back is that of the batch
    plain, back = layer.inverse(before), layer.inverse(after, batch=batch)
    torch.testing.assert_close(back, plain, rtol=1e-3, atol=1e-3)
    # an unknown one is the mean of the others
    unknown = layer(values[:1], torch.tensor([-1]))
    ratio, shift = layer.batch_ratio.mean(dim=0), layer.batch_shift.mean(dim=0)
    torch.testing.assert_close(unknown[0], before[0] * ratio + shift)


def test_new_batches_leave_known_ones_alone() -> None:
    x, codes = counts(240), np.arange(240) % 3
    x[codes == 2] *= np.linspace(1, 5, 12, dtype=np.float32)
    old = codes < 2
    layer = EncoderInput(12, "log1p", n_batch=3)
    fit_input("m", layer, x[old], 160)
    fit_batches(layer, x[old], codes[old], 0)
    known = {
        key: value.clone() for key, value in layer.state_dict().items() if key != "_extra_state"
    }
    fit_batches(layer, x[codes == 2], codes[codes == 2], 2)
    for key, value in known.items():
        now = layer.state_dict()[key]
        assert (
            torch.equal(now[:2], value[:2]) if key.startswith("batch") else torch.equal(now, value)
        )
    means = [
        layer(torch.from_numpy(x[codes == b]), torch.full((80,), b)).mean(dim=0) for b in (0, 2)
    ]
    np.testing.assert_allclose(means[0], means[1], atol=0.3)


def test_small_batches_and_inputs_constant_in_a_batch() -> None:
    x, codes = counts(100), np.r_[np.zeros(50), np.ones(45), np.full(5, 2)].astype(int)
    x[codes == 1, 3] = 0  # a protein that batch 1 never measured
    layer = of_batches("arcsinh", None, x, codes)
    out = layer(torch.from_numpy(x), torch.from_numpy(codes))
    assert torch.isfinite(out).all()
    assert float(out[codes == 1, 3].std()) == pytest.approx(0, abs=1e-5)
    assert abs(float(out[codes == 1, 3].mean() - out[codes == 0, 3].mean())) < 0.2
    assert float((layer.batch_ratio[2] - layer.batch_ratio[0]).abs().max()) > 0
    raw, small = layer(torch.from_numpy(x[codes == 2])), out[codes == 2]
    used = layer.inverse_sd > 0
    r = [
        np.corrcoef(raw[:, j], small[:, j])[0, 1] for j in np.flatnonzero(used & (raw.std(0) > 0))
    ]
    assert min(r) > 0.999  # as all cells were


def test_long_tails_are_warned_of() -> None:
    x = np.exp(np.random.default_rng(0).normal(0, 3, (300, 12))).astype(np.float32)
    with pytest.warns(UserWarning, match=r"'m' is taken as it is, though \d+ of 12.*arcsinh"):
        fitted("identity", x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted("arcsinh", x)
        fitted("identity", 5 * np.random.default_rng(0).normal(size=(300, 12)))
        z = z_scores(x)  # standardised before
        fitted("identity", np.minimum(z, 60).astype(np.float32))


def test_an_empty_cell_is_finite() -> None:
    x = counts(60, 30)
    x[4] = 0
    for transform, k in (("log1p", None), ("log1p", 5), ("tfidf", 5)):
        layer = fitted(transform, x, k)
        assert torch.isfinite(layer(torch.from_numpy(x))).all()


@pytest.mark.parametrize(("transform", "k"), [("identity", 4), ("arcsinh", 4), ("identity", None)])
def test_integers_are_as_good_as_floats(transform: str, k: int | None) -> None:
    x = counts() * 3
    layers = [fitted(transform, values, k) for values in (x, x.astype(np.int64))]
    outs = [layer(torch.from_numpy(x)).abs() for layer in layers]
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("transform", "k"),
    [(t, k) for t in EXACT for k in (None, 4)] + [("tfidf", 4)],
)
def test_storage_does_not_matter(tmp_path, transform: str, k: int | None) -> None:
    """Sparse, dense, on disk and lazy matrices give one fit."""
    x = counts()
    forms = {
        "dense": x,
        "csr": sparse.csr_matrix(x),
        "csc": sparse.csc_matrix(x),
        "csr_array": sparse.csr_array(x),
    }
    for form in ("csr", "dense"):
        AnnData(forms[form]).write_h5ad(tmp_path / f"{form}.h5ad")
    backed = {f: anndata.read_h5ad(tmp_path / f"{f}.h5ad", backed="r") for f in ("csr", "dense")}
    forms |= {f"backed {f}": adata.X for f, adata in backed.items()}
    try:
        import dask.array
    except ImportError:
        warnings.warn("dask is not installed", stacklevel=1)
    else:
        forms["dask"] = dask.array.from_array(x, chunks=(7, -1))
    expected = fitted(transform, x, k)
    for matrix in forms.values():
        layer = fitted(transform, matrix, k)
        for name, value in expected.state_dict().items():
            own = layer.state_dict()[name]
            if name in ("loadings", "coefficients"):  # the sign of a component is arbitrary
                own, value = own.abs(), value.abs()
            if name != "offset":
                torch.testing.assert_close(own, value, rtol=1e-3, atol=1e-3)
        out = training_reader(layer, matrix, len(x))(np.array([5, 0, 5]))
        mine = expected(torch.from_numpy(x[[5, 0, 5]])).numpy()
        np.testing.assert_allclose(np.abs(out), np.abs(mine), atol=2e-3)
    for adata in backed.values():
        adata.file.close()


@pytest.mark.parametrize("transform", ["log1p", "tfidf", "clr", "identity"])
@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize("max_density", [0.0, 2.0])
def test_sparse_values_are_read_as_dense_ones(
    transform: str, k: int | None, max_density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are few enough for a sparse product or not."""
    monkeypatch.setattr("cantata.nn._inputs.MAX_DENSITY", max_density)
    if transform == "tfidf" and k is None:
        pytest.skip("chromatin is read as components")
    x = counts(60, 14)
    x[3] = 0
    layer = fitted(transform, x, k)
    layer.ceiling.fill_(1.0)
    values = torch.from_numpy(x.astype(np.float32))
    assert torch.allclose(layer(values.to_sparse_csr()), layer(values), atol=1e-5)


@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize("transform", [*EXACT, "tfidf"])
def test_the_state_is_the_whole_map(transform: str, k: int | None) -> None:
    if transform == "tfidf" and k is None:
        k = 3
    x = torch.from_numpy(counts())
    layer = fitted(transform, x.numpy(), k)
    again = EncoderInput(12, "identity", k)
    again.load_state_dict(layer.state_dict())
    assert again.transform == transform
    assert torch.equal(again(x), layer(x))
    assert torch.equal(again.inverse(again(x)), layer.inverse(layer(x)))
    assert not list(layer.parameters())


def test_nothing_that_varies_is_an_error() -> None:
    with pytest.raises(ValueError, match="Modality 'm' has no feature that varies"):
        fitted("identity", np.ones((5, 3), np.float32))
    with pytest.raises(ValueError, match="Modality 'm': 1 cells"):
        fitted("tfidf", counts()[:1], 4)


@pytest.mark.parametrize("k", [None, 300])
def test_reading_for_training_does_not_follow_the_model(monkeypatch, k: int | None) -> None:
    """The model may be on an accelerator; what is read is standardised on the processor."""
    if k is None:
        monkeypatch.setattr("cantata.model._inputs.MAX_CACHED", 5)
    x = counts(p=12) if k is None else counts(400, 320)
    layer = fitted("identity", x, k)
    expected = layer(torch.from_numpy(x[:3])).numpy()
    read = training_reader(layer, x, len(x))
    layer.to("meta")
    np.testing.assert_array_equal(read(np.arange(3)), expected)


# Which transform --------------------------------------------------------------------------------


def soupx(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x * 7.3 - 0.4, 0)


def alevin(x: np.ndarray) -> np.ndarray:
    return x + 0.37 * (np.arange(x.size).reshape(x.shape) % 5 == 0) * (x > 0)


def logs(x: np.ndarray) -> np.ndarray:
    return np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)


def intensities(x: np.ndarray) -> np.ndarray:
    return x * 9.7 + 0.1


VALUES = {
    "soupx": ("rna", soupx, "log1p", "taken as corrected counts"),
    "alevin": ("rna", alevin, "log1p", "taken as corrected counts"),
    "soupx of proteins": ("adt", soupx, "clr", "taken as corrected counts"),
    "logarithms": ("rna", logs, "identity", None),
    "z-scores": ("rna", lambda x: x - x.mean(axis=0), "identity", None),
    "cytometry": ("cytof", intensities, "arcsinh", "intensities of cytometry"),
    "cytometry below 0": ("CyTOF_1", lambda x: intensities(x) - 2, "arcsinh", "intensities of"),
    "cytometry as counts": ("facs", lambda x: x * 40, "arcsinh", "intensities of cytometry"),
    "cytometry by isotopes": ("panel", intensities, "arcsinh", "intensities of cytometry"),
    "cytometry that was transformed": (
        "cytof",
        lambda x: np.arcsinh(intensities(x) / 5),
        "identity",
        None,
    ),
}


def of_values(name: str, values: np.ndarray, other: str = "other") -> mudata.MuData:
    """A linked MuData with some values in one modality, every cell in both."""
    mdata = linked_mosaic({name: 12, other: 8}, member=np.ones((60, 2), dtype=bool))
    mdata[name].X = values.astype(np.float32)
    if name == "panel":
        mdata.mod[name].var_names = [f"{140 + j}Nd_CD{j}" for j in range(12)]
        mdata.update()
    return mdata


@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize("cls", [SCMODAL, APOLLO])
def test_transforms_follow_the_values(cls: Any, case: str, caplog) -> None:
    name, function, expected, told = VALUES[case]
    mdata = of_values(name, function(counts(60)))
    cls.setup_mudata(mdata)
    with caplog.at_level("INFO", logger="cantata"):
        model = cls(mdata)
    assert model.module.input(name).transform == expected
    lines = [r.getMessage() for r in caplog.records if repr(name) in r.getMessage()]
    assert any(told in line for line in lines) if told else not lines


def test_clue_refuses_corrected_counts() -> None:
    mdata = of_values("rna", soupx(counts(60)))
    CLUE.setup_mudata(mdata)
    with pytest.raises(ValueError, match=r"'rna' has \d+ values that are no integers"):
        CLUE(mdata)


@pytest.mark.parametrize("cls", [SCMODAL, APOLLO])
@pytest.mark.parametrize("transforms", ["auto", None, {"rna": "log1p"}])
def test_cells_without_counts_are_refused(cls: Any, transforms) -> None:
    x = counts(60)
    x[[3, 7]] = 0
    mdata = of_values("rna", x)
    example = mdata["rna"].obs_names[3]
    cls.setup_mudata(mdata)
    with pytest.raises(
        ValueError, match=rf"'rna' has 2 cells without counts, e.g. '{example}'.*pp.drop_empty"
    ):
        cls(mdata, transforms=transforms)
    smaller = cantata.pp.drop_empty(mdata)
    cls.setup_mudata(smaller)
    cls(smaller, transforms=transforms)


# CLUE -------------------------------------------------------------------------------------------

SMALL = {"n_latent": 4, "n_hidden_encoder": 16, "n_hidden_decoder": 8}


def test_values_that_are_no_counts() -> None:
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    layer = fitted("identity", x, 3, as_preprocess=True)
    z = (x - x.mean(0)) / x.std(0)
    _, _, axes = np.linalg.svd(z, full_matrices=False)
    scores = z @ axes[:3].T
    own = layer(torch.from_numpy(x)).numpy()
    for j in range(3):
        assert abs(np.corrcoef(own[:, j], scores[:, j])[0, 1]) > 1 - 1e-4


def test_components_are_kept_by_queries_and_saved_models(tmp_path) -> None:
    mdata = counts_mosaic({"rna": 20, "adt": 15})
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, **SMALL)
    clue.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    layers = clue.module.inputs
    assert {name: layer.transform for name, layer in layers.items()} == {
        "rna": "log1p",
        "adt": "clr",
    }
    loadings = layers["adt"].loadings.clone()
    assert loadings.abs().sum() > 0
    clue.save(str(tmp_path / "m"))
    again = CLUE.load(str(tmp_path / "m"), mdata)
    query = counts_mosaic({"rna": 20, "adt": 15}, seed=3, n_cells=30)
    mapped = CLUE.load_query_data(query, clue, freeze=False)
    mapped.train(1, batch_size=16, enable_progress_bar=False, accelerator="cpu")
    for model in (again, mapped):
        assert torch.equal(model.module.inputs["adt"].loadings, loadings)
        assert model.module.inputs["adt"].transform == "clr"


def test_log_counts_on_request() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, n_components=None, **SMALL)
    assert not any(layer.is_rotated for layer in clue.module.inputs.values())
    x = torch.from_numpy(mdata["rna"].X[:3].toarray())
    x[1] = 0
    expected = torch.log1p(x / x.sum(1, keepdim=True).clamp(min=1) * 1e4)
    assert torch.allclose(clue.module.encoder_input({"rna": x}, "rna"), expected, atol=1e-5)


def test_plain_values_on_request() -> None:
    mdata = counts_mosaic()
    CLUE.setup_mudata(mdata)
    clue = CLUE(mdata, likelihoods="normal", n_components=None, **SMALL)
    x = torch.randn(3, mdata["rna"].n_vars)
    assert torch.equal(clue.module.encoder_input({"rna": x}, "rna"), x)
